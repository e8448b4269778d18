/* SPDX-License-Identifier: Apache-2.0
 *
 * attn.h - one tile of attention: some query rows of all heads that share a kv head, against
 * the keys that they see. `attention` and `attention.paged` differ only in where keys lie.
 */
#ifndef MRUN_CPU_ATTN_H
#define MRUN_CPU_ATTN_H
#include "mm.h"

enum { KEYS = 64 }; /* keys of a tile: a multiple of every W */

struct attn {
    struct kernel base;
    int64_t tokens, heads, kv, group; /* T queries, H, G, H/G */
    int64_t keys;                     /* that lie in k and v: T, or of all `ranks` */
    int64_t c, cv, cp, cvp;           /* widths of q and k, of v; rounded up to W */
    int64_t key_step, value_step;     /* from one key to the next, from one value */
    int64_t queries;                  /* query rows of a tile */
    int64_t chunk;
    int64_t slots, of_slot, pages, page; /* of a paged cache: B, M, N and P */
    int64_t whole;                    /* tokens of each sequence, seen as a whole; 0: causal */
    int64_t ranks, index, seq;        /* attention.cp: whose queries lie zig-zag; else 1, 0, 0 */
    int64_t from;                     /* attention.part: whose keys alone are here; else -1 */
    float scale;
    double exact_scale;
    uint64_t room;                    /* bytes of a part's scratch */
};

/* What a tile reads and writes; all at the kv head in question. */
struct attn_tile {
    int64_t n;            /* query rows, at most `queries` */
    arr q, o;             /* first row, first head of the group; rows are H c and H cv apart */
    arr k, v;             /* key 0; keys are key_step and value_step apart */
    const int32_t *pages; /* key j lies in row j % P of page pages[j / P]; NULL: at j */
    const int32_t *lo, *hi; /* row i sees keys lo[i] <= j < hi[i] */
    float *lse;           /* first row, first head; H apart; or NULL */
};

#define attn_tile_run ISA_NAME(cpu_attn_tile_run)
void attn_tile_run(const struct attn *k, const struct attn_tile *t, void *room);
#define attn_tile_room ISA_NAME(cpu_attn_tile_room)
uint64_t attn_tile_room(const struct attn *k);
#define attn_geometry ISA_NAME(cpu_attn_geometry)
/* tokens, heads, kv heads, widths of keys and values, which lie side by side */
void attn_geometry(struct attn *k, int64_t T, int64_t H, int64_t G, int64_t c, int64_t cv);
#define attn_shape ISA_NAME(cpu_attn_shape)
/* reads heads, kv_heads, head_dim, scale, chunk; q, k and v are the operands' types */
mr_status attn_shape(struct attn *k, const mr_call *c, const mr_type *q, const mr_type *kt,
                     const mr_type *vt, mr_err *err);

#define attn_pages_shape ISA_NAME(cpu_attn_pages_shape)
/* of a page table and a cache */
void attn_pages_shape(struct attn *k, const mr_type *table, const mr_type *cache);
#define attn_pages_check ISA_NAME(cpu_attn_pages_check)
/* Are the rows' places in the table, and the pages that they see in the cache? */
mr_status attn_pages_check(const struct attn *k, const char *op, const int32_t *pos,
                           const int32_t *slot, const int32_t *table, mr_err *err);
#define attn_tiles ISA_NAME(cpu_attn_tiles)
/* Rows of one slot that stand together (a prompt being read) are tiles like any attention's:
 * start[0..n] of the n tiles, and what each row sees. Returns n. */
int64_t attn_tiles(const struct attn *k, const int32_t *pos, const int32_t *slot, int32_t *lo,
                   int32_t *hi, int32_t *start);

/* the row of the cache that position p of slot b has */
INLINE int64_t attn_row(const struct attn *k, const int32_t *table, int64_t b, int64_t p)
{
    return (int64_t)table[b * k->of_slot + p / k->page] * k->page + p % k->page;
}

#define attn_seen_keys ISA_NAME(cpu_attn_seen_keys)
/* query t sees keys lo[t] <= j < hi[t], of a part maybe none; seq_start is checked */
mr_status attn_seen_keys(const struct attn *k, const int32_t *start, int32_t *lo, int32_t *hi,
                         mr_err *err);

#define attn_seen_zigzag ISA_NAME(cpu_attn_seen_zigzag)
/* the same of sequences that ranks share (attention_ranks.c) */
mr_status attn_seen_zigzag(const struct attn *k, const int32_t *start, int32_t *lo, int32_t *hi,
                           mr_err *err);

#define attn_prepare ISA_NAME(cpu_attn_prepare)
/* operands q k v seq_start -> o lse */
mr_status attn_prepare(struct kernel *base, const mr_call *c, mr_err *err);
#define attn_bwd_prepare ISA_NAME(cpu_attn_bwd_prepare)
/* operands do q k v o lse seq_start -> dq dk dv */
mr_status attn_bwd_prepare(struct kernel *base, const mr_call *c, mr_err *err);

/* attention_exact.c: small ones in double; rooms of a thread, and the kernels' run() */
#define attn_exact_room ISA_NAME(cpu_attn_exact_room)
uint64_t attn_exact_room(const struct attn *k, int backward);
#define attn_exact_run ISA_NAME(cpu_attn_exact_run)
mr_status attn_exact_run(const struct kernel *base, const mr_buf *in, const mr_buf *out, void *ws,
                         mr_err *err);
#define attn_exact_bwd_run ISA_NAME(cpu_attn_exact_bwd_run)
mr_status attn_exact_bwd_run(const struct kernel *base, const mr_buf *in, const mr_buf *out,
                             void *ws, mr_err *err);

/* the first key that token t may see, s being the first of its sequence */
INLINE int32_t attn_first(const struct attn *k, int32_t s, int32_t t)
{
    return k->chunk > 0 ? (int32_t)(s + (t - s) / k->chunk * k->chunk) : s;
}

#endif
