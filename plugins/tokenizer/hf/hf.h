/* SPDX-License-Identifier: Apache-2.0
 *
 * hf.h - reading a tokenizer.json: which part is being read, and how a bad value is told.
 */
#ifndef TOKENIZER_HF_H
#define TOKENIZER_HF_H
#include "../bpe/bpe.h"
#include <jansson.h>

typedef struct hf_reader {
    const char *unit, *file;
    const json_t *root;
    bp_tok *t;
    bool byte_level; /* a ByteLevel pre-tokenizer was read */
    int32_t begins;  /* the id that the post-processor puts first; BP_NONE */
    mr_err *err;
} hf_reader;

/* "tokenizer/hf: FILE: KEY WHY"; the next step is `hint`, or to fetch the file again. */
MR_PRINTF(4, 5)
mr_status hf_bad(const hf_reader *r, const char *hint, const char *key, const char *why, ...);

mr_status hf_read_model(hf_reader *r);      /* vocab.c: model, added_tokens: ids, merges */
mr_status hf_read_added(hf_reader *r);      /* added.c: which words of a text are added tokens */
mr_status hf_read_normalizer(hf_reader *r); /* pipeline.c */
mr_status hf_read_cuts(hf_reader *r);       /* pipeline.c: pre_tokenizer */
mr_status hf_read_ends(hf_reader *r);       /* pipeline.c: post_processor, decoder */

/* A token's text with each character of the byte alphabet as its byte. Returns the bytes, or
 * -1 if a character is none of the alphabet. `out` has room for n bytes. */
int64_t hf_to_bytes(const char *text, uint64_t n, char *out);
#endif
