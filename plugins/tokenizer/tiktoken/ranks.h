/* SPDX-License-Identifier: Apache-2.0
 *
 * ranks.h - a rank file: a line a token, its bytes in base64 and its rank, which is its id.
 */
#ifndef TOKENIZER_RANKS_H
#define TOKENIZER_RANKS_H
#include "../bpe/bpe.h"

typedef struct rank_line {
    uint64_t at; /* of the bytes in ranks.bytes */
    uint32_t n, id;
} rank_line;

typedef struct ranks {
    rank_line *v;
    uint64_t n;
    int64_t end; /* the largest rank + 1 */
    char *bytes;
} ranks;

/* Lines checked one by one; not that ranks differ or leave none out. */
mr_status ranks_read(const char *unit, const char *path, ranks *out, mr_err *err);
void ranks_free(ranks *r);
/* Every two tokens that make a third merge into it, at its rank. */
mr_status ranks_merges(bp_model *m, mr_err *err);
#endif
