/* SPDX-License-Identifier: Apache-2.0
 *
 * attention_cudnn.c - attention and its gradient through cuDNN, for bf16 calls that promise
 * packed = 0: T tokens are sequences of `seq`, which with chunks that divide them are as many
 * shorter ones. The graphs are those that cuDNN knows as attention: products, a mask made of two
 * indices, a softmax of max, difference, exponential and sum; its flash kernels take them whole.
 * Tensors keep our layout, token after token, by their strides.
 *
 * Forward: z = scale q kᵀ, hidden above the diagonal, lse = max + ln sum, o = softmax(z) v.
 * Backward: p = e^(z - lse), delta = <do, o>, ds = scale p (do vᵀ - delta), dv = pᵀ do,
 * dk = dsᵀ q, dq = ds k. Flops 2 pairs H (C + V) and 2 pairs H (3 C + 2 V); floor that over
 * 990e12 s. dq is summed over blocks of keys in f32 in whatever order they end, unless the query
 * asks for a deterministic kernel: that one keeps ds in memory, 2 batch H seq² bytes, so it takes
 * as many sequences and key heads at a time as fit a bounded room.
 */
#include "cudnn.h"
#include <float.h>
#include <math.h>
#include <stdlib.h>

/* `heads` query heads, c wide, on `kv` key heads, values v wide; of each token's row_heads and
 * row_kv. The key of a plan: no holes. */
struct sdpa {
    int64_t batch, seq, heads, kv, c, v, row_heads, row_kv;
    int64_t backward, deterministic, full; /* full: no mask */
};

struct attention {
    struct kernel base;
    struct sdpa s;
    int64_t batches, groups; /* calls that make the whole: slices of sequences, of heads */
    const struct dnn_plan *plan;
    float scale, hidden; /* hidden: the score of a key that is not seen */
};

/* Bytes of ds that a deterministic gradient keeps at a time, and the share of the GPU's memory that
 * this may be: smaller slices leave multiprocessors idle at their ends. */
#define SLICE_ROOM 0x1p32
enum { SLICE_SHARE = 32, LARGEST_SHARE = 8 };

/* memory that the graphs are given, in their order */
enum { END_Q, END_K, END_V, END_O, END_LSE, END_SCALE, END_HIDDEN, FORWARD_ENDS,
       END_DO = FORWARD_ENDS, END_DQ, END_DK, END_DV, END_ONE, END_DELTA, END_DQ_SUM, ENDS };

#define DIMS(...) (const int64_t[]){ __VA_ARGS__ }
#define SELF const struct attention *k = (const struct attention *)base

/* ---- tensors ---------------------------------------------------------------------------- */
/* heads of all the heads of a token, `width` wide */
typedef struct heads_of {
    int64_t n, all, width;
} heads_of;

static heads_of queries(const struct sdpa *s, int64_t width)
{
    return (heads_of){ s->heads, s->row_heads, width };
}

static heads_of keys(const struct sdpa *s, int64_t width)
{
    return (heads_of){ s->kv, s->row_kv, width };
}

/* [T, all * width] seen as batch, n, seq, width */
static dnn_tensor rows(struct dnn_graph *g, int end, const struct sdpa *s, heads_of h)
{
    return dnn_end(g, end + 1, DNN_DATA_BFLOAT16, 16, DIMS(s->batch, h.n, s->seq, h.width),
                   DIMS(s->seq * h.all * h.width, h.width, h.all * h.width, 1));
}

/* the same, the last two turned */
static dnn_tensor columns(struct dnn_graph *g, int end, const struct sdpa *s, heads_of h)
{
    return dnn_end(g, end + 1, DNN_DATA_BFLOAT16, 16, DIMS(s->batch, h.n, h.width, s->seq),
                   DIMS(s->seq * h.all * h.width, h.width, 1, h.all * h.width));
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
    dnn_tensor q = rows(g, END_Q, s, queries(s, s->c)), k = columns(g, END_K, s, keys(s, s->c));
    dnn_tensor v = rows(g, END_V, s, keys(s, s->v)), o = rows(g, END_O, s, queries(s, s->v));
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
    dnn_tensor q = rows(g, END_Q, s, queries(s, s->c)), k = columns(g, END_K, s, keys(s, s->c));
    dnn_tensor v = columns(g, END_V, s, keys(s, s->v)), o = rows(g, END_O, s, queries(s, s->v));
    dnn_tensor lse = a_row(g, END_LSE, s);
    dnn_tensor scale = dnn_scalar(g, END_SCALE + 1), hidden = dnn_scalar(g, END_HIDDEN + 1);
    dnn_tensor dy = rows(g, END_DO, s, queries(s, s->v)), dq = rows(g, END_DQ, s, queries(s, s->c));
    dnn_tensor dk = rows(g, END_DK, s, keys(s, s->c)), dv = rows(g, END_DV, s, keys(s, s->v));
    dnn_tensor one = dnn_scalar(g, END_ONE + 1);
    dnn_tensor delta = dnn_end(g, END_DELTA + 1, DNN_DATA_FLOAT, 16,
                               DIMS(s->batch, s->heads, s->seq, 1),
                               DIMS(s->heads * s->seq, s->seq, 1, 1));
    dnn_tensor both = dense(g, DNN_DATA_FLOAT, s, s->v), sum = dense(g, DNN_DATA_FLOAT, s, 1);
    dnn_tensor z = scores(g, DNN_DATA_FLOAT, s), dp = scores(g, DNN_DATA_FLOAT, s), p, ds;
    dnn_tensor turned = scores_turned(g, s), turned_ds = scores_turned(g, s);
    dnn_tensor k_rows = dnn_between(g, DNN_DATA_BFLOAT16, DIMS(s->batch, s->kv, s->seq, s->c),
                                    DIMS(s->seq * s->row_kv * s->c, s->c, s->row_kv * s->c, 1));

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

static void build(struct dnn_graph *g, const void *key)
{
    const struct sdpa *s = key;
    (s->backward ? backward : forward)(g, s);
}

/* ---- rows ------------------------------------------------------------------------------- */
static uint64_t delta_room(const struct sdpa *s)
{
    return cuda_round((uint64_t)s->batch * (uint64_t)s->heads * (uint64_t)s->seq * sizeof(float));
}

static uint64_t dq_room(const struct sdpa *s)
{
    return s->deterministic ? 0 : delta_room(s) * (uint64_t)s->c;
}

static mr_status forward_run(const struct kernel *base, const mr_buf *in, const mr_buf *out,
                             void *ws, cudaStream_t stream, mr_err *err)
{
    SELF;
    float scale = k->scale, hidden = k->hidden;
    void *data[FORWARD_ENDS] = { in[0].data, in[1].data, in[2].data, out[0].data, out[1].data,
                                 &scale, &hidden };
    return cuda_dnn_run(base->dev->dnn, k->plan, data, ws, stream, err);
}

/* an operand from the sequence and the head on with which slice (b, g) begins */
static void *slice(const mr_buf *buf, const struct sdpa *s, heads_of h, int64_t b, int64_t g,
                   size_t bytes)
{
    return (char *)buf->data + (size_t)(b * s->batch * s->seq * h.all + g * h.n) *
                                   (size_t)h.width * bytes;
}

static mr_status backward_run(const struct kernel *base, const mr_buf *in, const mr_buf *out,
                              void *ws, cudaStream_t stream, mr_err *err)
{
    SELF;
    const struct sdpa *s = &k->s;
    const heads_of q = queries(s, s->c), o = queries(s, s->v), key = keys(s, s->c);
    const heads_of value = keys(s, s->v), row = queries(s, 1);
    float scale = k->scale, hidden = k->hidden, one = 1;
    char *delta = ws, *dq_sum = delta + delta_room(s), *rest = dq_sum + dq_room(s);
    mr_status st = MR_OK;
    for (int64_t i = 0; i < k->batches * k->groups && !st; i++) {
        int64_t b = i / k->groups, g = i % k->groups;
        void *data[ENDS] = {
            slice(&in[1], s, q, b, g, 2), slice(&in[2], s, key, b, g, 2),
            slice(&in[3], s, value, b, g, 2), slice(&in[4], s, o, b, g, 2),
            slice(&in[5], s, row, b, g, 4), &scale, &hidden, slice(&in[0], s, o, b, g, 2),
            slice(&out[0], s, q, b, g, 2), slice(&out[1], s, key, b, g, 2),
            slice(&out[2], s, value, b, g, 2), &one, delta, dq_sum,
        };
        st = cuda_dnn_run(base->dev->dnn, k->plan, data, rest, stream, err);
    }
    return st;
}

/* The shape, with chunks as sequences of their own, or why it is not for these graphs. */
static mr_status shape(struct attention *k, const mr_call *c, const mr_type *q, const mr_type *v,
                       mr_err *err)
{
    struct sdpa *s = &k->s;
    int64_t tokens = q->dim[0], chunk = mr_attr_i(c, "chunk", 0);
    s->seq = mr_attr_i(c, "seq", 0);
    if (!s->seq || s->seq > tokens)
        s->seq = tokens;
    if (mr_attr_i(c, "packed", 1))
        return cuda_refuse(&k->base, err, "cuDNN is given whole sequences only, packed = 0");
    if (chunk > 0 && chunk < s->seq) {
        if (s->seq % chunk)
            return cuda_refuse(&k->base, err, "chunks do not divide the sequences");
        s->seq = chunk;
    }
    if (s->seq < 1 || tokens % s->seq)
        return cuda_refuse(&k->base, err, "the tokens are not a whole number of sequences");
    s->full = !mr_attr_i(c, "causal", 1);
    s->heads = s->row_heads = mr_attr_i(c, "heads", 1);
    s->kv = s->row_kv = mr_attr_i(c, "kv_heads", s->heads);
    s->batch = tokens / s->seq;
    s->c = mr_last(q) / s->heads;
    s->v = mr_last(v) / s->kv;
    if (s->c % 8 || s->v % 8 || s->c > 256 || s->v > 256)
        return cuda_refuse(&k->base, err, "head widths must be multiples of 8, at most 256");
    k->scale = (float)mr_attr_f(c, "scale", 1 / sqrt((double)s->c));
    return MR_OK;
}

static int64_t largest_divisor(int64_t n, double at_most)
{
    int64_t d = n;
    while (d > 1 && (n % d || (double)d > at_most))
        d--;
    return d;
}

/* Cuts the deterministic gradient into slices whose ds fits, whole groups of heads each. */
static mr_status cut(struct attention *k, mr_err *err)
{
    struct sdpa *s = &k->s;
    double head = 2.0 * (double)s->seq * (double)s->seq, total = (double)k->base.dev->total;
    double room = fmin(SLICE_ROOM, total / SLICE_SHARE);
    k->batches = k->groups = 1;
    if (!s->deterministic)
        return MR_OK;
    int64_t batch = largest_divisor(s->batch, room / (head * (double)s->heads));
    int64_t kv = largest_divisor(s->kv, room / (head * (double)(s->heads / s->kv)));
    k->batches = s->batch / batch;
    s->batch = batch;
    if (batch == 1) {
        k->groups = s->kv / kv;
        s->heads = s->heads / s->kv * kv;
        s->kv = kv;
    }
    if (head * (double)s->heads > total / LARGEST_SHARE)
        return cuda_refuse(&k->base, err, "a deterministic gradient over such long sequences takes "
                                          "cuDNN over an eighth of the GPU's memory");
    return MR_OK;
}

/* What is known to go wrong in the gradient, by cuDNN's own notes. */
static mr_status trusted(const struct attention *k, size_t version, mr_err *err)
{
    if (k->s.full)
        return cuda_refuse(&k->base, err, "cuDNN is given gradients of causal attention only");
    if (k->s.seq < 2)
        return cuda_refuse(&k->base, err, "cuDNN has no gradient of sequences of one token");
    if (version == 91000 || version == 91001)
        return cuda_refuse(&k->base, err, "cuDNN 9.10.0 and 9.10.1 have a wrong gradient");
    if (version <= 91500 && k->s.seq % 128)
        return cuda_refuse(&k->base, err, "the gradient takes sequences of multiples of 128 up to "
                                          "cuDNN 9.15.0");
    return MR_OK;
}

static mr_status prepare(struct attention *k, const mr_call *c, const mr_type *q, const mr_type *v,
                         int n_bf16, mr_err *err)
{
    struct cuda_dnn *dnn = k->base.dev->dnn;
    size_t version = 0;
    mr_status st = MR_OK;
    for (int i = 0; i < n_bf16; i++)
        if (k->base.in_kind[i] != CUDA_BF16)
            return cuda_refuse(&k->base, err, "cuDNN's attention takes bf16 only");
    if (!dnn)
        return cuda_refuse(&k->base, err, "[backend.cuda] attention = own");
    MR_TRY(shape(k, c, q, v, err));
    MR_TRY(cuda_dnn_ready(dnn, &version, err));
    if (k->s.backward) {
        MR_TRY(trusted(k, version, err));
        MR_TRY(cut(k, err));
    }
    k->hidden = version < 91000 ? -FLT_MAX : -INFINITY; /* what its engines know as a mask */
    MR_TRY(cuda_dnn_plan(dnn, &k->s, sizeof k->s, build, &k->plan, err));
    k->base.workspace = k->plan->workspace;
out:
    return st;
}

static mr_status forward_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    base->run = forward_run;
    base->impl = "cudnn flash bf16";
    return prepare((struct attention *)base, c, c->in[0], c->in[2], 3, err);
}

static mr_status backward_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct attention *k = (struct attention *)base;
    base->run = backward_run;
    base->impl = "cudnn flash bf16";
    k->s.backward = 1;
    k->s.deterministic = base->asked & MR_QUERY_DETERMINISTIC ? 1 : 0;
    if (!k->s.deterministic)
        base->flags &= ~(uint32_t)MR_K_DETERMINISTIC;
    mr_status st = prepare(k, c, c->in[1], c->in[3], 5, err);
    if (!st)
        base->workspace += delta_room(&k->s) + dq_room(&k->s);
    return st;
}

const struct op_row cuda_cudnn_rows[] = {
    { "attention", "xxxI>xf", sizeof(struct attention), forward_prepare, 0, 0 },
    { "attention.bwd", "xxxxxfI>xxx", sizeof(struct attention), backward_prepare, 0, 0 },
    { 0 },
};
