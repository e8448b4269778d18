/* SPDX-License-Identifier: Apache-2.0
 *
 * tokenizer.h - unit kind "tokenizer": text to ids and back. decode(encode(s)) == s for
 * every byte string of a byte-level tokenizer. What a list of ids decodes to is what its ids
 * decode to, one after the other: text can be shown while it is made (a character may be spread
 * over several ids).
 */
#ifndef MRUN_TOKENIZER_H
#define MRUN_TOKENIZER_H
#include "plugin.h"
#ifdef __cplusplus
extern "C" {
#endif

typedef struct mr_tokenizer_info {
    uint32_t size, flags;
    int64_t vocab;              /* ids are in [0, vocab)                        */
    int32_t bos, eos, pad, eod; /* -1: none; eod ends a document in a data set  */
} mr_tokenizer_info;

/* How encode_as() and decode_as() take special tokens. */
enum { MR_TOK_PLAIN = 1 };

typedef struct mr_tokenizer_ops {
    uint32_t size, flags;
    mr_status (*create)(const mr_host *, const void *config, void **tok, mr_err *);      /* [main] */
    void (*destroy)(void *tok);                                                          /* [main] */
    mr_status (*info)(void *tok, mr_tokenizer_info *, mr_err *);                   /* [any-thread] */
    /* *n_ids is what the text needs; only min(cap, *n_ids) are written: cap 0 asks the size. */
    mr_status (*encode)(void *tok, const char *text, uint64_t n, int32_t *ids, uint64_t cap,
                        uint64_t *n_ids, mr_err *);                                /* [any-thread] */
    mr_status (*decode)(void *tok, const int32_t *ids, uint64_t n, char *text, uint64_t cap,
                        uint64_t *n_text, mr_err *);                               /* [any-thread] */
    /* As the two above, for flags 0. With MR_TOK_PLAIN the words of a special token are words
     * like any other, so that what a stranger wrote makes no special id; and special ids decode
     * to nothing, which is what a reader is shown. May be NULL: there are no special tokens. */
    mr_status (*encode_as)(void *tok, uint32_t flags, const char *text, uint64_t n, int32_t *ids,
                           uint64_t cap, uint64_t *n_ids, mr_err *);               /* [any-thread] */
    mr_status (*decode_as)(void *tok, uint32_t flags, const int32_t *ids, uint64_t n, char *text,
                           uint64_t cap, uint64_t *n_text, mr_err *);              /* [any-thread] */
} mr_tokenizer_ops;

#ifdef __cplusplus
}
#endif
#endif
