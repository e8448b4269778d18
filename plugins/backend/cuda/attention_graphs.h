/* SPDX-License-Identifier: Apache-2.0
 *
 * attention_graphs.h - between attention_cudnn.c, which decides what cuDNN is asked for, and
 * attention_graphs.c, which says it in cuDNN's terms: the shape of an attention and the memory that
 * its graphs are given.
 */
#ifndef MRUN_CUDA_ATTENTION_GRAPHS_H
#define MRUN_CUDA_ATTENTION_GRAPHS_H
#include "cudnn.h"

/* `heads` query heads, c wide, on `kv` key heads, values v wide; from a token's row to the next
 * row_q, row_k and row_v values, and row_heads heads of o. The key of a plan: no holes. */
struct sdpa {
    int64_t batch, seq, heads, kv, c, v, row_q, row_k, row_v, row_heads;
    int64_t backward, deterministic, full; /* full: no mask */
};

/* memory that the graphs are given, in their order */
enum { END_Q, END_K, END_V, END_O, END_LSE, END_SCALE, END_HIDDEN, FORWARD_ENDS,
       END_DO = FORWARD_ENDS, END_DQ, END_DK, END_DV, END_ONE, END_DELTA, END_DQ_SUM, ENDS };

/* n heads of a token, `width` wide, and from its row to the next */
typedef struct heads_of {
    int64_t n, row, width;
} heads_of;

static inline heads_of queries(const struct sdpa *s)
{
    return (heads_of){ s->heads, s->row_q, s->c };
}

static inline heads_of keys(const struct sdpa *s)
{
    return (heads_of){ s->kv, s->row_k, s->c };
}

static inline heads_of values(const struct sdpa *s)
{
    return (heads_of){ s->kv, s->row_v, s->v };
}

static inline heads_of results(const struct sdpa *s, int64_t width)
{
    return (heads_of){ s->heads, s->row_heads * width, width };
}

/* Adds the attention that `sdpa` describes to a graph, forward or backward. */
void cuda_attention_graph(struct dnn_graph *g, const void *sdpa);

#endif
