/* SPDX-License-Identifier: Apache-2.0
 *
 * attention_cudnn.c - attention and its gradient through cuDNN, for bf16 calls that promise
 * packed = 0: T tokens are sequences of `seq`, which with chunks that divide them are as many
 * shorter ones. Tensors keep our layout, token after token, by their strides; so q, k and v may as
 * well be the parts of one operand's rows (qkv_attention), and their gradients another's.
 *
 * Flops 2 pairs H (C + V) and 2 pairs H (3 C + 2 V); floor that over 990e12 s. dq is summed over
 * blocks of keys in f32 in whatever order they end, unless the query asks for a deterministic
 * kernel: that one keeps ds in memory, 2 batch H seq^2 bytes, so it takes as many sequences and key
 * heads at a time as fit a bounded room.
 */
#include "attention_graphs.h"
#include <float.h>
#include <math.h>
#include <stdlib.h>

struct attention {
    struct kernel base;
    struct sdpa s;
    int64_t batches, groups; /* calls that make the whole: slices of sequences, of heads */
    const struct dnn_plan *plan;
    float scale, hidden; /* hidden: the score of a key that is not seen */
    int64_t at_k, at_v;  /* where q, k and v lie side by side: values before k and v, else 0 */
};

/* Bytes of ds that a deterministic gradient keeps at a time, and the share of the GPU's memory that
 * this may be: smaller slices leave multiprocessors idle at their ends. */
#define SLICE_ROOM 0x1p32
enum { SLICE_SHARE = 32, LARGEST_SHARE = 8 };

#define SELF const struct attention *k = (const struct attention *)base

/* ---- rows ------------------------------------------------------------------------------- */
static uint64_t delta_room(const struct sdpa *s)
{
    return cuda_round((uint64_t)s->batch * (uint64_t)s->heads * (uint64_t)s->seq * sizeof(float));
}

static uint64_t dq_room(const struct sdpa *s)
{
    return s->deterministic ? 0 : delta_room(s) * (uint64_t)s->c;
}

/* The operands apart, or as parts of one operand's rows. */
static void spread(const struct attention *k, const mr_buf *buf, mr_buf part[3])
{
    for (int i = 0; i < 3; i++)
        part[i] = buf[k->at_k ? 0 : i];
    part[1].data = (char *)part[1].data + 2 * k->at_k;
    part[2].data = (char *)part[2].data + 2 * k->at_v;
}

static mr_status forward_run(const struct kernel *base, const mr_buf *in, const mr_buf *out,
                             void *ws, cudaStream_t stream, mr_err *err)
{
    SELF;
    float scale = k->scale, hidden = k->hidden;
    mr_buf x[3];
    spread(k, in, x);
    void *data[FORWARD_ENDS] = { x[0].data, x[1].data, x[2].data, out[0].data, out[1].data,
                                 &scale, &hidden };
    return cuda_dnn_run(base->dev->dnn, k->plan, data, ws, stream, err);
}

/* an operand from the sequence and the head on with which slice (b, g) begins */
static void *slice(const mr_buf *buf, const struct sdpa *s, heads_of h, int64_t b, int64_t g,
                   size_t bytes)
{
    return (char *)buf->data + (size_t)(b * s->batch * s->seq * h.row + g * h.n * h.width) * bytes;
}

static mr_status backward_run(const struct kernel *base, const mr_buf *in, const mr_buf *out,
                              void *ws, cudaStream_t stream, mr_err *err)
{
    SELF;
    const struct sdpa *s = &k->s;
    const heads_of q = queries(s), key = keys(s), value = values(s);
    const heads_of o = results(s, s->v), row = results(s, 1);
    const mr_buf *made = in + (k->at_k ? 2 : 4); /* o and lse */
    float scale = k->scale, hidden = k->hidden, one = 1;
    char *delta = ws, *dq_sum = delta + delta_room(s), *rest = dq_sum + dq_room(s);
    mr_buf x[3], d[3];
    mr_status st = MR_OK;
    spread(k, in + 1, x);
    spread(k, out, d);
    for (int64_t i = 0; i < k->batches * k->groups && !st; i++) {
        int64_t b = i / k->groups, g = i % k->groups;
        void *data[ENDS] = {
            slice(&x[0], s, q, b, g, 2), slice(&x[1], s, key, b, g, 2),
            slice(&x[2], s, value, b, g, 2), slice(&made[0], s, o, b, g, 2),
            slice(&made[1], s, row, b, g, 4), &scale, &hidden, slice(&in[0], s, o, b, g, 2),
            slice(&d[0], s, q, b, g, 2), slice(&d[1], s, key, b, g, 2),
            slice(&d[2], s, value, b, g, 2), &one, delta, dq_sum,
        };
        st = cuda_dnn_run(base->dev->dnn, k->plan, data, rest, stream, err);
    }
    return st;
}

/* How a token's heads lie: in q and v (and k), or, with v NULL, in q side by side. */
static void lie(struct attention *k, const mr_call *c, const mr_type *q, const mr_type *v)
{
    struct sdpa *s = &k->s;
    s->heads = s->row_heads = mr_attr_i(c, "heads", 1);
    s->kv = mr_attr_i(c, "kv_heads", s->heads);
    s->c = v ? mr_last(q) / s->heads : mr_attr_i(c, "head_dim", 0);
    k->at_k = v ? 0 : s->heads * s->c;
    k->at_v = v ? 0 : k->at_k + s->kv * s->c;
    s->v = (v ? mr_last(v) : mr_last(q) - k->at_v) / s->kv;
    s->row_q = mr_last(q);
    s->row_k = v ? s->kv * s->c : s->row_q;
    s->row_v = v ? s->kv * s->v : s->row_q;
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
    s->batch = tokens / s->seq;
    lie(k, c, q, v);
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
    MR_TRY(cuda_dnn_plan(dnn, &k->s, sizeof k->s, cuda_attention_graph, &k->plan, err));
    k->base.workspace = k->plan->workspace;
out:
    return st;
}

/* beside: q, k and v are one operand */
static mr_status forward_as(struct kernel *base, const mr_call *c, int beside, mr_err *err)
{
    base->run = forward_run;
    base->impl = "cudnn flash bf16";
    return prepare((struct attention *)base, c, c->in[0], beside ? NULL : c->in[2],
                   beside ? 1 : 3, err);
}

static mr_status backward_as(struct kernel *base, const mr_call *c, int beside, mr_err *err)
{
    struct attention *k = (struct attention *)base;
    base->run = backward_run;
    base->impl = "cudnn flash bf16";
    k->s.backward = 1;
    k->s.deterministic = base->asked & MR_QUERY_DETERMINISTIC ? 1 : 0;
    if (!k->s.deterministic)
        base->flags &= ~(uint32_t)MR_K_DETERMINISTIC;
    mr_status st = prepare(k, c, c->in[1], beside ? NULL : c->in[3], beside ? 3 : 5, err);
    if (!st)
        base->workspace += delta_room(&k->s) + dq_room(&k->s);
    return st;
}

static mr_status forward_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    return forward_as(base, c, 0, err);
}

static mr_status backward_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    return backward_as(base, c, 0, err);
}

static mr_status beside_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    return forward_as(base, c, 1, err);
}

static mr_status beside_bwd_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    return backward_as(base, c, 1, err);
}

const struct op_row cuda_cudnn_rows[] = {
    { "attention", "xxxI>xf", sizeof(struct attention), forward_prepare, 0, 0 },
    { "attention.bwd", "xxxxxfI>xxx", sizeof(struct attention), backward_prepare, 0, 0 },
    { "qkv_attention", "xI>xf", sizeof(struct attention), beside_prepare, 0, 0 },
    { "qkv_attention.bwd", "xxxfI>x", sizeof(struct attention), beside_bwd_prepare, 0, 0 },
    { 0 },
};
