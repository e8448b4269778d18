/*
 * skeleton - a tokenizer for mrun: every byte is a token, and one more id ends a document.
 */
#include "mrun/tokenizer.h"
#include <stdlib.h>

enum { EOD = 256, VOCAB = 257 };

static mr_status create(const mr_host *host, const void *config, void **tok, mr_err *err)
{
    (void)host;
    (void)config;
    (void)err;
    *tok = NULL; /* nothing to keep; a real one would malloc its tables here */
    return MR_OK;
}

static void destroy(void *tok)
{
    free(tok);
}

static mr_status info(void *tok, mr_tokenizer_info *out, mr_err *err)
{
    (void)tok;
    (void)err;
    out->flags = 0;
    out->vocab = VOCAB;
    out->bos = out->eos = out->pad = -1;
    out->eod = EOD;
    return MR_OK;
}

/* *n_ids is what the text needs, however small `cap` is */
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
    uint64_t m = 0;
    (void)tok;
    for (uint64_t i = 0; i < n; i++) {
        if (ids[i] < 0 || ids[i] >= VOCAB)
            return mr_fail(err, MR_E_TOKENIZER, MR_BLAME_USER, "id %d is outside [0,%d)", ids[i],
                           VOCAB);
        if (ids[i] == EOD)
            continue; /* stands for no text */
        if (m < cap)
            text[m] = (char)ids[i];
        m++;
    }
    *n_text = m;
    return MR_OK;
}

static const mr_tokenizer_ops table = {
    .size = sizeof table,
    .create = create,
    .destroy = destroy,
    .info = info,
    .encode = encode,
    .decode = decode,
};

static const mr_unit unit = {
    .size = sizeof unit,
    .kind = "tokenizer",
    .name = "skeleton",
    .doc = "bytes as tokens",
    .table = &table,
};

MR_PLUGIN_NOTE("org.example.skeleton", "0.1.0", "tokenizer/skeleton");

MR_EXPORT const mr_plugin MR_PLUGIN_SYMBOL = {
    MR_PLUGIN_HEADER,
    .id = "org.example.skeleton",
    .version = "0.1.0",
    .license = "Apache-2.0",
    .doc = "a tokenizer",
    .units = &unit,
    .n_units = 1,
};
