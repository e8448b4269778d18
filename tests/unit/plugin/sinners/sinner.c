/* SPDX-License-Identifier: Apache-2.0
 *
 * sinner.c - a tokenizer plugin that loads well and behaves badly, by -DSIN_...; `mrun check`
 * must find each out. meson.build lists them, test_commands.c says which test has to fail.
 */
#include "mrun/tokenizer.h"
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifndef SIN_NOTE_VERSION
#define SIN_NOTE_VERSION "1.0"
#endif
#ifndef SIN_DOC
#define SIN_DOC "looks harmless"
#endif
#ifndef SIN_NAME
#define SIN_NAME "sinner"
#endif
#ifndef SIN_ID
#define SIN_ID "org.example.sinner"
#endif

#ifdef SIN_EXPORT
MR_EXPORT int mrun_sinner_extra;
#endif

MR_UNUSED static void *sleeper(void *p)
{
    while (pause())
        ;
    return p;
}

static mr_status create(const mr_host *host, const void *cfg, void **tok, mr_err *err)
{
    (void)host;
    (void)cfg;
    (void)err;
#ifdef SIN_CREATE_FAILS
    return MR_E_TOKENIZER; /* and says nothing */
#endif
#ifdef SIN_LEAK_FD
    if (open("/dev/null", O_RDONLY) < 0)
        return MR_E_INTERNAL;
#endif
#ifdef SIN_LEAK_THREAD
    pthread_t t;
    if (pthread_create(&t, NULL, sleeper, NULL))
        return MR_E_INTERNAL;
#endif
#ifdef SIN_PRINT
    puts("hello from a tokenizer");
#endif
    *tok = malloc(1);
    return 0;
}

static void destroy(void *tok)
{
    free(tok);
#ifdef SIN_DESTROY_CRASHES
    abort();
#endif
}

static mr_status info(void *tok, mr_tokenizer_info *out, mr_err *err)
{
    (void)tok;
    (void)err;
    out->vocab = 256;
    out->bos = out->eos = out->pad = out->eod = -1;
    return 0;
}

static mr_status encode(void *tok, const char *text, uint64_t n, int32_t *ids, uint64_t cap,
                        uint64_t *n_ids, mr_err *err)
{
    (void)tok;
    (void)err;
#ifdef SIN_OVERRUN
    for (uint64_t i = 0; ids && i <= n; i++)
        ids[i] = i < n ? (unsigned char)text[i] : 0;
    (void)cap;
#else
    for (uint64_t i = 0; i < n && i < cap; i++)
        ids[i] = (unsigned char)text[i];
#endif
    *n_ids = n;
#ifdef SIN_WRONG_SIZE
    if (!cap && n > 3)
        *n_ids = n - 1;
#endif
    return 0;
}

static mr_status decode(void *tok, const int32_t *ids, uint64_t n, char *text, uint64_t cap,
                        uint64_t *n_text, mr_err *err)
{
    (void)tok;
    (void)err;
    for (uint64_t i = 0; i < n && i < cap; i++)
        text[i] = (char)ids[i];
#ifdef SIN_LOSSY
    for (uint64_t i = 0; i < n && i < cap; i++)
        text[i] = text[i] == '\t' ? ' ' : text[i];
#endif
    *n_text = n;
    return 0;
}

static const mr_tokenizer_ops table = { sizeof table, 0, create, destroy, info, encode, decode };

static const mr_unit units[] = {
    { sizeof(mr_unit), 0, "tokenizer", SIN_NAME, SIN_DOC, NULL, 0, 0, &table, NULL },
};

MR_PLUGIN_NOTE(SIN_ID, SIN_NOTE_VERSION, "tokenizer/" SIN_NAME);

MR_EXPORT const mr_plugin MR_PLUGIN_SYMBOL = {
    MR_PLUGIN_HEADER, SIN_ID, "1.0", "Apache-2.0", "a sinner", units, 1, 0, NULL, NULL,
};
