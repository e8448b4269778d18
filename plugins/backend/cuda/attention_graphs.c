/* SPDX-License-Identifier: Apache-2.0
 *
 * attention_graphs.c - attention and its gradient as cuDNN's graphs, those that it knows as
 * attention: products, a mask made of two indices, a softmax of max, difference, exponential and
 * sum; its flash kernels take them whole.
 *
 * Forward: z = scale q kᵀ, hidden above the diagonal, lse = max + ln sum, o = softmax(z) v.
 * Backward: p = e^(z - lse), delta = <do, o>, ds = scale p (do vᵀ - delta), dv = pᵀ do,
 * dk = dsᵀ q, dq = ds k.
 */
#include "attention_graphs.h"

#define DIMS(...) (const int64_t[]){ __VA_ARGS__ }

/* ---- tensors ---------------------------------------------------------------------------- */
/* [T, row] seen as batch, n, seq, width */
static dnn_tensor rows(struct dnn_graph *g, int end, const struct sdpa *s, heads_of h)
{
    return dnn_end(g, end + 1, DNN_DATA_BFLOAT16, 16, DIMS(s->batch, h.n, s->seq, h.width),
                   DIMS(s->seq * h.row, h.width, h.row, 1));
}

/* the same, the last two turned */
static dnn_tensor columns(struct dnn_graph *g, int end, const struct sdpa *s, heads_of h)
{
    return dnn_end(g, end + 1, DNN_DATA_BFLOAT16, 16, DIMS(s->batch, h.n, h.width, s->seq),
                   DIMS(s->seq * h.row, h.width, 1, h.row));
}

/* f32 [T, H] */
static dnn_tensor a_row(struct dnn_graph *g, int end, const struct sdpa *s)
{
    return dnn_end(g, end + 1, DNN_DATA_FLOAT, 4, DIMS(s->batch, s->heads, s->seq, 1),
                   DIMS(s->seq * s->row_heads, 1, s->row_heads, 1));
}

/* batch, heads, seq, `width`, dense and never in memory */
static dnn_tensor dense(struct dnn_graph *g, int type, const struct sdpa *s, int64_t width)
{
    return dnn_between(g, type, DIMS(s->batch, s->heads, s->seq, width),
                       DIMS(s->heads * s->seq * width, s->seq * width, width, 1));
}

static dnn_tensor scores(struct dnn_graph *g, int type, const struct sdpa *s)
{
    return dense(g, type, s, s->seq);
}

static dnn_tensor scores_turned(struct dnn_graph *g, const struct sdpa *s)
{
    return dnn_between(g, DNN_DATA_BFLOAT16, DIMS(s->batch, s->heads, s->seq, s->seq),
                       DIMS(s->heads * s->seq * s->seq, s->seq * s->seq, 1, s->seq));
}

/* y = mode(x, b), both scores */
static dnn_tensor each(struct dnn_graph *g, const struct sdpa *s, int mode, dnn_tensor x,
                       dnn_tensor b)
{
    dnn_tensor y = scores(g, DNN_DATA_FLOAT, s);
    dnn_pointwise(g, mode, DNN_DATA_FLOAT, x, b, NULL, y);
    return y;
}

/* what lies above the diagonal becomes `hidden` */
static dnn_tensor causal(struct dnn_graph *g, const struct sdpa *s, dnn_tensor x, dnn_tensor hidden)
{
    dnn_tensor query = scores(g, DNN_DATA_INT32, s), key = scores(g, DNN_DATA_INT32, s);
    dnn_tensor seen = scores(g, DNN_DATA_BOOLEAN, s), y = scores(g, DNN_DATA_FLOAT, s);
    dnn_index(g, 2, x, query);
    dnn_index(g, 3, x, key);
    dnn_pointwise(g, DNN_POINTWISE_CMP_GE, DNN_DATA_BOOLEAN, query, key, NULL, seen);
    dnn_pointwise(g, DNN_POINTWISE_BINARY_SELECT, DNN_DATA_FLOAT, x, hidden, seen, y);
    return y;
}

/* ---- graphs ----------------------------------------------------------------------------- */
static void forward(struct dnn_graph *g, const struct sdpa *s)
{
    dnn_tensor q = rows(g, END_Q, s, queries(s)), k = columns(g, END_K, s, keys(s));
    dnn_tensor v = rows(g, END_V, s, values(s)), o = rows(g, END_O, s, results(s, s->v));
    dnn_tensor lse = a_row(g, END_LSE, s);
    dnn_tensor scale = dnn_scalar(g, END_SCALE + 1);
    dnn_tensor z = scores(g, DNN_DATA_FLOAT, s), p = scores(g, DNN_DATA_BFLOAT16, s);
    dnn_tensor max = dense(g, DNN_DATA_FLOAT, s, 1), sum = dense(g, DNN_DATA_FLOAT, s, 1);
    dnn_tensor ln = dense(g, DNN_DATA_FLOAT, s, 1);

    dnn_matmul(g, q, k, z);
    z = each(g, s, DNN_POINTWISE_MUL, z, scale);
    if (!s->full) /* the last end: without it the others stay where they are */
        z = causal(g, s, z, dnn_scalar(g, END_HIDDEN + 1));
    dnn_reduce(g, DNN_REDUCE_TENSOR_MAX, z, max);
    z = each(g, s, DNN_POINTWISE_EXP, each(g, s, DNN_POINTWISE_SUB, z, max), NULL);
    dnn_reduce(g, DNN_REDUCE_TENSOR_ADD, z, sum);
    dnn_pointwise(g, DNN_POINTWISE_LOG, DNN_DATA_FLOAT, sum, NULL, NULL, ln);
    dnn_pointwise(g, DNN_POINTWISE_ADD, DNN_DATA_FLOAT, max, ln, NULL, lse);
    dnn_pointwise(g, DNN_POINTWISE_DIV, DNN_DATA_FLOAT, z, sum, NULL, p);
    dnn_matmul(g, p, v, o);
}

/* d [batch, kv, seq, width] = a b, summed over the heads that share a key head */
static void product_of_keys(struct dnn_graph *g, const struct sdpa *s, dnn_tensor a, dnn_tensor b,
                            dnn_tensor d, int64_t width)
{
    dnn_tensor all = d;
    if (s->heads != s->kv)
        all = dense(g, DNN_DATA_BFLOAT16, s, width);
    dnn_matmul(g, a, b, all);
    if (s->heads != s->kv)
        dnn_reduce(g, DNN_REDUCE_TENSOR_ADD, all, d);
}

static void backward(struct dnn_graph *g, const struct sdpa *s)
{
    dnn_tensor q = rows(g, END_Q, s, queries(s)), k = columns(g, END_K, s, keys(s));
    dnn_tensor v = columns(g, END_V, s, values(s)), o = rows(g, END_O, s, results(s, s->v));
    dnn_tensor lse = a_row(g, END_LSE, s);
    dnn_tensor scale = dnn_scalar(g, END_SCALE + 1), hidden = dnn_scalar(g, END_HIDDEN + 1);
    dnn_tensor dy = rows(g, END_DO, s, results(s, s->v)), dq = rows(g, END_DQ, s, queries(s));
    dnn_tensor dk = rows(g, END_DK, s, keys(s)), dv = rows(g, END_DV, s, values(s));
    dnn_tensor one = dnn_scalar(g, END_ONE + 1);
    dnn_tensor delta = dnn_end(g, END_DELTA + 1, DNN_DATA_FLOAT, 16,
                               DIMS(s->batch, s->heads, s->seq, 1),
                               DIMS(s->heads * s->seq, s->seq, 1, 1));
    dnn_tensor both = dense(g, DNN_DATA_FLOAT, s, s->v), sum = dense(g, DNN_DATA_FLOAT, s, 1);
    dnn_tensor z = scores(g, DNN_DATA_FLOAT, s), dp = scores(g, DNN_DATA_FLOAT, s), p, ds;
    dnn_tensor turned = scores_turned(g, s), turned_ds = scores_turned(g, s);
    dnn_tensor k_rows = dnn_between(g, DNN_DATA_BFLOAT16, DIMS(s->batch, s->kv, s->seq, s->c),
                                    DIMS(s->seq * s->row_k, s->c, s->row_k, 1));

    dnn_pointwise(g, DNN_POINTWISE_MUL, DNN_DATA_FLOAT, dy, o, NULL, both);
    dnn_reduce(g, DNN_REDUCE_TENSOR_ADD, both, sum);
    dnn_pointwise(g, DNN_POINTWISE_MUL, DNN_DATA_FLOAT, sum, one, NULL, delta);

    dnn_matmul(g, q, k, z);
    z = each(g, s, DNN_POINTWISE_SUB, each(g, s, DNN_POINTWISE_MUL, z, scale), lse);
    p = each(g, s, DNN_POINTWISE_EXP, causal(g, s, z, hidden), NULL);
    dnn_reshape(g, p, turned);
    product_of_keys(g, s, turned, dy, dv, s->v);

    dnn_matmul(g, dy, v, dp);
    ds = each(g, s, DNN_POINTWISE_MUL, each(g, s, DNN_POINTWISE_SUB, dp, delta), p);
    ds = each(g, s, DNN_POINTWISE_MUL, ds, scale);
    dnn_reshape(g, ds, turned_ds);
    product_of_keys(g, s, turned_ds, q, dk, s->c);

    dnn_reshape(g, k, k_rows);
    if (s->deterministic) {
        dnn_matmul(g, ds, k_rows, dq);
        return;
    }
    dnn_tensor dq_sum = dnn_end(g, END_DQ_SUM + 1, DNN_DATA_FLOAT, 16,
                                DIMS(s->batch, s->heads, s->seq, s->c),
                                DIMS(s->heads * s->seq * s->c, s->seq * s->c, s->c, 1));
    dnn_matmul(g, ds, k_rows, dq_sum);
    dnn_pointwise(g, DNN_POINTWISE_IDENTITY, DNN_DATA_FLOAT, dq_sum, NULL, NULL, dq);
}

void cuda_attention_graph(struct dnn_graph *g, const void *key)
{
    const struct sdpa *s = key;
    (s->backward ? backward : forward)(g, s);
}
