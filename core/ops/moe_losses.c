/* SPDX-License-Identifier: Apache-2.0
 *
 * moe_losses.c - the router's auxiliary losses, as sums over tokens: core divides the summed
 * gradient by the number of tokens, which gives Megatron-LM's means.
 *
 * moe_aux_loss keeps the experts' load even (Switch Transformer, Fedus et al. 2021). Over a
 * segment s of T_s tokens, with P_i the sum of expert i's scores and f_i how many tokens have
 * it among their K best:
 *
 *   loss = coeff * sum over segments of T_s * E / (K T_s^2) * sum_i P_i f_i
 *
 * The scores are softmax(logits), or sigmoid(logits) over their sum + 1e-20; they and the K
 * best know nothing of bias, groups, scale or dropping, and f is constant for the gradient.
 * type aux: one segment of all tokens. type seq_aux: tokens of equal seq_start that stand
 * together are a segment. counts[s0, :] holds f for the segment whose first token is s0, other
 * rows are 0: the size stays static however many sequences are packed.
 *
 * router_z_loss keeps the logits small (ST-MoE, Zoph et al. 2022): coeff * sum_t lse_t^2.
 */
#include "core/ops/common.h"
#include "core/ops/route.h"
#include <stdlib.h>

#define AUX_ATTRS "k:i type:s=aux|seq_aux score:s=sigmoid|softmax coeff:f"

typedef struct aux { /* one use: sizes, attributes, room for one token */
    int64_t T, E, K;
    bool by_sequence, sigmoid;
    double coeff;
    mri_view logits, seq_start;
    double *score, *sigma; /* [E] */
    double norm;           /* of the sigmoids: their sum + 1e-20 */
} aux;

static mr_status aux_check(const mr_call *c, const char *op, const mr_type *logits, mr_err *err)
{
    int64_t E = logits && logits->rank == 2 ? logits->dim[1] : 0, k = mr_attr_i(c, "k", 1);
    if (k >= 1 && k <= E)
        return MR_OK;
    return mri_op_fail(err, op, "k is %lld, must be in 1..%lld, the experts", (long long)k,
                       (long long)E);
}

static aux aux_open(const mr_call *c, const mr_buf *in, uint32_t logits)
{
    const mr_type *t = c->in[logits];
    double *room = mri_alloc(2 * (size_t)t->dim[1] * sizeof *room);
    return (aux){
        .T = t->dim[0],
        .E = t->dim[1],
        .K = mr_attr_i(c, "k", 1),
        .by_sequence = !strcmp(mr_attr_s(c, "type", "aux"), "seq_aux"),
        .sigmoid = !strcmp(mr_attr_s(c, "score", "sigmoid"), "sigmoid"),
        .coeff = mr_attr_f(c, "coeff", 0),
        .logits = mri_in_view(c, in, logits),
        .seq_start = mri_in_view(c, in, logits + 1),
        .score = room,
        .sigma = room + t->dim[1],
    };
}

/* one past the last token of the segment that begins at s */
static int64_t segment_end(const aux *a, int64_t s)
{
    int64_t t = s + 1;
    if (!a->by_sequence)
        return a->T;
    while (t < a->T && mri_get_i(a->seq_start, t) == mri_get_i(a->seq_start, s))
        t++;
    return t;
}

/* fills score (and sigma, norm) for token t */
static void scores(aux *a, int64_t t)
{
    for (int64_t e = 0; e < a->E; e++)
        a->score[e] = mri_get(a->logits, t * a->E + e);
    if (!a->sigmoid) {
        mri_softmax(a->score, a->E, a->score);
        return;
    }
    a->norm = 1e-20;
    for (int64_t e = 0; e < a->E; e++)
        a->norm += a->sigma[e] = mri_sigmoid(a->score[e]);
    for (int64_t e = 0; e < a->E; e++)
        a->score[e] = a->sigma[e] / a->norm;
}

static mr_status aux_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    mr_status st;
    MR_TRY(aux_check(c, "moe_aux_loss", mri_in(c, 0), err));
    MR_TRY(mri_infer(c, out, err, "moe_aux_loss",
                     "logits:F[T,E] seq_start:i32[T] -> loss:S[1] counts:S[T,E]", NULL));
out:
    return st;
}

static mr_status aux_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    (void)err;
    aux a = aux_open(c, in, 0);
    mri_view loss = mri_out_view(c, out, 0), counts = mri_out_view(c, out, 1);
    double *P = mri_alloc((size_t)a.E * sizeof *P), total = 0;
    int64_t *f = mri_alloc((size_t)a.E * sizeof *f), *best = mri_alloc((size_t)a.K * sizeof *best);
    uint8_t *taken = mri_alloc((size_t)a.E);

    for (int64_t i = 0; i < a.T * a.E; i++)
        mri_put(counts, i, 0);
    for (int64_t s = 0, end; s < a.T; s = end) {
        end = segment_end(&a, s);
        memset(P, 0, (size_t)a.E * sizeof *P);
        memset(f, 0, (size_t)a.E * sizeof *f);
        for (int64_t t = s; t < end; t++) {
            scores(&a, t);
            memset(taken, 0, (size_t)a.E);
            mri_topk(a.score, a.E, a.K, taken, best);
            for (int64_t j = 0; j < a.K; j++)
                f[best[j]]++;
            for (int64_t e = 0; e < a.E; e++)
                P[e] += a.score[e];
        }
        double sum = 0;
        for (int64_t e = 0; e < a.E; e++) {
            sum += P[e] * (double)f[e];
            mri_put(counts, s * a.E + e, (double)f[e]);
        }
        total += (double)a.E / ((double)a.K * (double)(end - s)) * sum;
    }
    mri_put(loss, 0, a.coeff * total);
    free(taken);
    free(best);
    free(f);
    free(P);
    free(a.score);
    return MR_OK;
}

static mr_status aux_vjp(const mr_vjp *v, mr_err *err)
{
    (void)err;
    if (v->dout[0] && mri_need(v, 0))
        v->din[0] = mri_emit(v, "moe_aux_loss.bwd",
                             MR_IN(v->dout[0], v->in[0], v->in[1], v->out[1]), v->call->attr,
                             v->call->n_attr);
    return MR_OK;
}

static void aux_cost(const mr_call *c, mr_cost *cost)
{
    mri_cost(c, cost, (double)mr_numel(c->in[0]) * (6 + (double)mr_attr_i(c, "k", 1)), 0);
}

static mr_status aux_bwd_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    mr_status st;
    MR_TRY(aux_check(c, "moe_aux_loss.bwd", mri_in(c, 1), err));
    MR_TRY(mri_infer(c, out, err, "moe_aux_loss.bwd",
                     "dloss:G[1] logits:F[T,E] seq_start:i32[T] counts:S[T,E] -> dlogits:F[T,E]",
                     NULL));
out:
    return st;
}

static mr_status aux_bwd_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    (void)err;
    aux a = aux_open(c, in, 1);
    mri_view counts = mri_in_view(c, in, 3), dlogits = mri_out_view(c, out, 0);
    double dloss = mri_get(mri_in_view(c, in, 0), 0);

    for (int64_t s = 0, end; s < a.T; s = end) {
        end = segment_end(&a, s);
        double unit = dloss * a.coeff * (double)a.E / ((double)a.K * (double)(end - s));
        for (int64_t t = s; t < end; t++) {
            double dot = 0; /* both scores sum to 1: the gradient is taken off its mean */
            scores(&a, t);
            for (int64_t e = 0; e < a.E; e++)
                dot += unit * mri_get(counts, s * a.E + e) * a.score[e];
            for (int64_t e = 0; e < a.E; e++) {
                double d = unit * mri_get(counts, s * a.E + e) - dot;
                mri_put(dlogits, t * a.E + e,
                        a.sigmoid ? d / a.norm * a.sigma[e] * (1 - a.sigma[e]) : d * a.score[e]);
            }
        }
    }
    free(a.score);
    return MR_OK;
}

/* of the counts a row a segment, which is one at least */
static void aux_bwd_cost(const mr_call *c, mr_cost *cost)
{
    const mr_type *counts = c->in[3];
    mri_cost(c, cost, 10 * (double)mr_numel(c->in[1]), 0);
    cost->bytes -= (double)(mr_numel(counts) - mr_last(counts)) *
                   (double)mr_dtype_bytes(counts->dtype);
}

/* ---- router_z_loss ------------------------------------------------------------------------ */
static mr_status z_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    return mri_infer(c, out, err, "router_z_loss", "logits:F[T,E] -> loss:S[1] lse:S[T]", NULL);
}

static mr_status z_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    (void)err;
    mri_view x = mri_in_view(c, in, 0), lse = mri_out_view(c, out, 1);
    int64_t T = c->in[0]->dim[0], E = c->in[0]->dim[1];
    double total = 0;

    for (int64_t t = 0; t < T; t++) {
        double max = mri_get(x, t * E), sum = 0;
        for (int64_t e = 1; e < E; e++)
            max = fmax(max, mri_get(x, t * E + e));
        for (int64_t e = 0; e < E; e++)
            sum += exp(mri_get(x, t * E + e) - max);
        double l = max + log(sum);
        total += l * l;
        mri_put(lse, t, l);
    }
    mri_put(mri_out_view(c, out, 0), 0, mr_attr_f(c, "coeff", 0) * total);
    return MR_OK;
}

static mr_status z_vjp(const mr_vjp *v, mr_err *err)
{
    (void)err;
    if (v->dout[0] && mri_need(v, 0))
        v->din[0] = mri_emit(v, "router_z_loss.bwd", MR_IN(v->dout[0], v->in[0], v->out[1]),
                             v->call->attr, v->call->n_attr);
    return MR_OK;
}

static void z_cost(const mr_call *c, mr_cost *cost)
{
    mri_cost(c, cost, 4 * (double)mr_numel(c->in[0]), 0);
}

static mr_status z_bwd_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    return mri_infer(c, out, err, "router_z_loss.bwd",
                     "dloss:G[1] logits:F[T,E] lse:S[T] -> dlogits:F[T,E]", NULL);
}

static mr_status z_bwd_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    (void)err;
    mri_view x = mri_in_view(c, in, 1), lse = mri_in_view(c, in, 2), dx = mri_out_view(c, out, 0);
    int64_t T = c->in[1]->dim[0], E = c->in[1]->dim[1];
    double unit = 2 * mr_attr_f(c, "coeff", 0) * mri_get(mri_in_view(c, in, 0), 0);

    for (int64_t t = 0; t < T; t++) {
        double l = mri_get(lse, t);
        for (int64_t e = 0; e < E; e++)
            mri_put(dx, t * E + e, unit * l * exp(mri_get(x, t * E + e) - l));
    }
    return MR_OK;
}

static void z_bwd_cost(const mr_call *c, mr_cost *cost)
{
    mri_cost(c, cost, 4 * (double)mr_numel(c->in[1]), 0);
}

/* moe_aux_loss has no sharding rule: a part of the tokens does not know the counts of all */
const mr_op_def mri_ops_moe_losses[] = {
    { MRI_OP, .id = "moe_aux_loss",
      .doc = "coeff * sum over segments of E / (K T_s) * sum_i P_i f_i: even load; Fedus et al. "
             "2021, Megatron-LM's aux_loss and seq_aux_loss times the tokens",
      .sig = "logits seq_start -> loss counts", .attrs = AUX_ATTRS, .shape = aux_shape,
      .vjp = aux_vjp, .ref = aux_ref, .cost = aux_cost,
      .cases = MRI_CASES("logits=F[6,5] seq_start=i32[6]start:3 @k=1 @coeff=0.5",
                         "logits=F[6,5] seq_start=i32[6]start:6 @k=2 @coeff=1 @score=softmax",
                         "logits=F[6,5] seq_start=i32[6]start:2 @k=2 @coeff=1 @type=seq_aux",
                         "logits=F[7,4] seq_start=i32[7]start:3 @k=1 @coeff=1 @type=seq_aux "
                         "@score=softmax") },
    { MRI_OP, .id = "moe_aux_loss.bwd", .flags = MR_OP_NO_VJP,
      .doc = "gradient of moe_aux_loss by the logits, the counts being constant",
      .sig = "dloss logits seq_start counts -> dlogits", .attrs = AUX_ATTRS,
      .shape = aux_bwd_shape, .ref = aux_bwd_ref, .cost = aux_bwd_cost,
      .cases = MRI_CASES(
          "dloss=S[1] logits=F[6,5] seq_start=i32[6]start:3 counts=S[6,5]pos @k=1 @coeff=0.5",
          "dloss=S[1] logits=F[7,4] seq_start=i32[7]start:3 counts=S[7,4]pos @k=2 @coeff=1 "
          "@type=seq_aux @score=softmax") },
    { MRI_OP, .id = "router_z_loss",
      .doc = "coeff * sum_t (log sum_e exp logits[t, e])^2: small logits; Zoph et al. 2022",
      .sig = "logits -> loss lse", .attrs = "coeff:f", .shape = z_shape, .vjp = z_vjp,
      .ref = z_ref, .cost = z_cost, .shard = "T E -> ., T | T:sum",
      .cases = MRI_CASES("logits=F[6,5] @coeff=0.5") },
    { MRI_OP, .id = "router_z_loss.bwd", .flags = MR_OP_NO_VJP,
      .doc = "gradient of router_z_loss by the logits: 2 coeff lse softmax(logits)",
      .sig = "dloss logits lse -> dlogits", .attrs = "coeff:f", .shape = z_bwd_shape,
      .ref = z_bwd_ref, .cost = z_bwd_cost, .shard = "., T E, T -> T E | T:map",
      .cases = MRI_CASES("dloss=S[1] logits=F[6,5] lse=S[6]pos @coeff=0.5") },
    MRI_OPS_END
};
