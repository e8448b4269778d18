/* SPDX-License-Identifier: Apache-2.0
 *
 * zoo.c - one good tokenizer plugin, and by -DZOO_... every way to break it. Each creature is
 * this file compiled with one thing wrong; meson.build lists them. What the loader must say
 * about each stands in ../test_zoo.c.
 */
#include "mrun/tokenizer.h"
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#ifndef ZOO_SYMBOL
#define ZOO_SYMBOL mrun_plugin_v1
#endif
#ifndef ZOO_MAGIC
#define ZOO_MAGIC MR_PLUGIN_MAGIC
#endif
#ifndef ZOO_SIZE
#define ZOO_SIZE sizeof(mr_plugin)
#endif
#ifndef ZOO_MAJOR
#define ZOO_MAJOR MR_ABI_MAJOR
#endif
#ifndef ZOO_BUILT
#define ZOO_BUILT MR_ABI_MINOR
#endif
#ifndef ZOO_NEEDED
#define ZOO_NEEDED MR_ABI_TARGET
#endif
#ifndef ZOO_UNIT_SIZE
#define ZOO_UNIT_SIZE sizeof(mr_unit)
#endif
#ifndef ZOO_UNIT_NAME
#define ZOO_UNIT_NAME ZOO_NAME
#endif
#ifndef ZOO_TABLE
#define ZOO_TABLE &ops
#endif
#ifndef ZOO_TABLE_SIZE
#define ZOO_TABLE_SIZE sizeof(mr_tokenizer_ops)
#endif
#ifndef ZOO_ENCODE
#define ZOO_ENCODE encode
#endif
#ifndef ZOO_NOTE_UNITS
#define ZOO_NOTE_UNITS "tokenizer/" ZOO_NAME
#endif
#ifndef ZOO_UNITS
#define ZOO_UNITS 1
#endif
#ifndef ZOO_DEFAULT
#define ZOO_DEFAULT "1"
#endif
#ifndef ZOO_OFFSET
#define ZOO_OFFSET 0
#endif
#ifndef ZOO_OPEN
#define ZOO_OPEN NULL
#endif

typedef struct config {
    int64_t level;
} config;

static mr_status create(const mr_host *host, const void *cfg, void **tok, mr_err *err)
{
    (void)host;
    (void)cfg;
    (void)err;
    *tok = NULL;
    return 0;
}

static void destroy(void *tok)
{
    (void)tok;
}

static mr_status info(void *tok, mr_tokenizer_info *out, mr_err *err)
{
    (void)tok;
    (void)err;
    out->vocab = 256;
    out->bos = out->eos = out->pad = out->eod = -1;
    return 0;
}

MR_UNUSED static mr_status encode(void *tok, const char *text, uint64_t n, int32_t *ids,
                                  uint64_t cap, uint64_t *n_ids, mr_err *err)
{
    (void)tok;
    (void)err;
    for (uint64_t i = 0; i < n && i < cap; i++)
        ids[i] = (unsigned char)text[i];
    *n_ids = n;
    return 0;
}

static mr_status decode(void *tok, const int32_t *ids, uint64_t n, char *text, uint64_t cap,
                        uint64_t *n_text, mr_err *err)
{
    (void)tok;
    (void)err;
    for (uint64_t i = 0; i < n && i < cap; i++)
        text[i] = (char)ids[i];
    *n_text = n;
    return 0;
}

MR_UNUSED static const mr_tokenizer_ops ops = { ZOO_TABLE_SIZE, 0,    create, destroy,
                                                info,           ZOO_ENCODE, decode };

static const mr_opt opts[] = {
    { sizeof(mr_opt), MR_T_INT, 0, ZOO_OFFSET, "level", ZOO_DEFAULT, "how much", NULL, 0, 5, NULL },
};

#ifdef ZOO_NEEDS
static const char *const needs[] = { ZOO_NEEDS, NULL };
#else
#define needs NULL
#endif

#define UNIT(name) \
    { ZOO_UNIT_SIZE, 0, "tokenizer", name, "one of the zoo", opts, 1, sizeof(config), \
      ZOO_TABLE, needs }
static const mr_unit units[] = { UNIT(ZOO_UNIT_NAME), UNIT(ZOO_UNIT_NAME) };

#ifdef ZOO_CONSTRUCTOR
__attribute__((constructor)) static void at_load(void)
{
    ZOO_CONSTRUCTOR;
}
#endif

MR_UNUSED static mr_status open_hangs(const mr_host *host, mr_err *err)
{
    (void)host;
    (void)err;
    while (pause())
        ;
    return 0;
}

MR_UNUSED static mr_status open_aborts(const mr_host *host, mr_err *err)
{
    (void)host;
    (void)err;
    abort();
}

MR_UNUSED static mr_status open_refuses(const mr_host *host, mr_err *err)
{
    (void)host;
    mr_fail(err, MR_E_DEVICE, MR_BLAME_ENV, "no abacus is plugged in");
    mr_hint(err, "plug one in");
    return MR_E_DEVICE;
}

#ifdef ZOO_LIBRARY
extern int mrun_zoo_absent(void);
MR_UNUSED static mr_status open_calls_library(const mr_host *host, mr_err *err)
{
    (void)host;
    (void)err;
    return mrun_zoo_absent();
}
#endif

#ifndef ZOO_NO_NOTE
MR_PLUGIN_NOTE("org.example.zoo", "1.2.3", ZOO_NOTE_UNITS);
#endif

MR_EXPORT const mr_plugin ZOO_SYMBOL = {
    ZOO_MAGIC, ZOO_SIZE, ZOO_MAJOR, ZOO_BUILT, ZOO_NEEDED, "org.example.zoo", "1.2.3",
    "Apache-2.0", "one of the zoo", units, ZOO_UNITS, 0, ZOO_OPEN, NULL,
};
