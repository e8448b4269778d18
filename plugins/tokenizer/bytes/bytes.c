/* SPDX-License-Identifier: Apache-2.0
 *
 * bytes.c - unit "tokenizer/bytes": a token is a byte, its id the byte's value. On request
 * two ids that no text can hold follow: bos, then eod.
 *
 * Invariant: decode(encode(s)) == s for every byte string s; the special ids are never made
 * by encode() and decode to nothing.
 */
#include "mrun/tokenizer.h"
#include <stdlib.h>
#include <string.h>

enum { BYTES = 256 };

typedef struct config {
    int32_t bos, eod;
} config;

static const mr_opt options[] = {
    MR_OPT(config, MR_T_BOOL, bos, "bos", "false", "add an id that begins a text"),
    MR_OPT(config, MR_T_BOOL, eod, "eod", "false", "add an id that ends a document (and a reply)"),
};

static mr_status create(const mr_host *host, const void *config_, void **tok, mr_err *err)
{
    (void)host;
    const config *c = config_;
    mr_tokenizer_info *info = malloc(sizeof *info);
    if (!info)
        return mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "tokenizer/bytes: out of memory");
    *info = (mr_tokenizer_info) { sizeof *info, 0, BYTES, -1, -1, -1, -1 };
    if (c->bos)
        info->bos = (int32_t)info->vocab++;
    if (c->eod)
        info->eod = info->eos = (int32_t)info->vocab++;
    *tok = info;
    return MR_OK;
}

static void destroy(void *tok)
{
    free(tok);
}

static mr_status get_info(void *tok, mr_tokenizer_info *out, mr_err *err)
{
    (void)err;
    const mr_tokenizer_info *info = tok;
    uint32_t size = out->size; /* the caller's, who may know fewer fields, or more */
    memcpy(out, info, size < info->size ? size : info->size);
    out->size = size;
    return MR_OK;
}

static mr_status encode(void *tok, const char *text, uint64_t n, int32_t *ids, uint64_t cap,
                        uint64_t *n_ids, mr_err *err)
{
    (void)tok;
    (void)err;
    for (uint64_t i = 0; i < n && i < cap; i++)
        ids[i] = (unsigned char)text[i];
    *n_ids = n;
    return MR_OK;
}

static mr_status decode(void *tok, const int32_t *ids, uint64_t n, char *text, uint64_t cap,
                        uint64_t *n_text, mr_err *err)
{
    const mr_tokenizer_info *info = tok;
    uint64_t out = 0;
    for (uint64_t i = 0; i < n; i++) {
        if (ids[i] < 0 || ids[i] >= info->vocab) {
            mr_fail(err, MR_E_TOKENIZER, MR_BLAME_USER, "tokenizer/bytes: %d is not a token id",
                    ids[i]);
            mr_detail(err, "token %llu of %llu; ids are in [0, %lld)", (unsigned long long)i,
                      (unsigned long long)n, (long long)info->vocab);
            return MR_E_TOKENIZER;
        }
        if (ids[i] >= BYTES) /* bos, eod */
            continue;
        if (out < cap)
            text[out] = (char)ids[i];
        out++;
    }
    *n_text = out;
    return MR_OK;
}

static const mr_tokenizer_ops ops = {
    .size = sizeof ops,
    .create = create,
    .destroy = destroy,
    .info = get_info,
    .encode = encode,
    .decode = decode,
};

static const mr_unit units[] = { {
    .size = sizeof(mr_unit),
    .kind = "tokenizer",
    .name = "bytes",
    .doc = "a token is a byte; any text round-trips exactly",
    .opts = options,
    .n_opts = sizeof options / sizeof *options,
    .config_size = sizeof(config),
    .table = &ops,
} };

MR_PLUGIN_NOTE("org.mrun.bytes", "0.1.0", "tokenizer/bytes");

MR_EXPORT const mr_plugin MR_PLUGIN_SYMBOL = {
    MR_PLUGIN_HEADER,
    .id = "org.mrun.bytes",
    .version = "0.1.0",
    .license = "Apache-2.0",
    .doc = "byte-level tokenizer",
    .units = units,
    .n_units = 1,
};
