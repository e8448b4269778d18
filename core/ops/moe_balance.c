/* SPDX-License-Identifier: Apache-2.0
 *
 * moe_balance.c - the load-balancing loss of moe_losses.c in two ops, for tokens that are spread
 * over ranks: how often each expert is among the K best is counted by every rank, summed over the
 * ranks, and then constant for the gradient. With P_i the sum of expert i's scores over this rank's
 * tokens of segment s, f the summed counts and T_s = sum_i f_i / K:
 *
 *   moe_counts        counts[s] = f of this rank's tokens
 *   moe_balance_loss  loss = coeff * sum over s of E / (K T_s) * sum_i P_i f_i
 *
 * The losses of all ranks add up to that of one. Segments are told apart by where they begin in
 * the whole micro-batch (type seq_aux: seq_start; aux: there is one).
 */
#include "core/ops/common.h"
#include "core/ops/route.h"

#define BALANCE_ATTRS "k:i type:s=aux|seq_aux score:s=sigmoid|softmax "

typedef struct balance {
    int64_t T, E, K, rows; /* rows of counts */
    bool by_sequence, sigmoid;
    mri_view logits, start;
    double *score, *sigma, norm; /* of one token */
} balance;

static balance balance_open(const mr_call *c, const mr_buf *in, uint32_t logits, int64_t rows)
{
    const mr_type *t = c->in[logits];
    double *room = mri_alloc(2 * (size_t)t->dim[1] * sizeof *room);
    return (balance){ .T = t->dim[0], .E = t->dim[1], .K = mr_attr_i(c, "k", 1), .rows = rows,
                      .by_sequence = !strcmp(mr_attr_s(c, "type", "aux"), "seq_aux"),
                      .sigmoid = !strcmp(mr_attr_s(c, "score", "sigmoid"), "sigmoid"),
                      .logits = mri_in_view(c, in, logits),
                      .start = mri_in_view(c, in, logits + 1),
                      .score = room, .sigma = room + t->dim[1] };
}

/* score, sigma and norm of token t, and the row of counts that is its segment's */
static mr_status token(balance *b, const char *op, int64_t t, int64_t *row, mr_err *err)
{
    *row = b->by_sequence ? mri_get_i(b->start, t) : 0;
    if (*row < 0 || *row >= b->rows)
        return mri_op_fail(err, op, "seq_start[%lld] is %lld, must be in [0,%lld)", (long long)t,
                           (long long)*row, (long long)b->rows);
    for (int64_t e = 0; e < b->E; e++)
        b->score[e] = mri_get(b->logits, t * b->E + e);
    if (!b->sigmoid) {
        mri_softmax(b->score, b->E, b->score);
        return MR_OK;
    }
    b->norm = 1e-20;
    for (int64_t e = 0; e < b->E; e++)
        b->norm += b->sigma[e] = mri_sigmoid(b->score[e]);
    for (int64_t e = 0; e < b->E; e++)
        b->score[e] = b->sigma[e] / b->norm;
    return MR_OK;
}

static mr_status check_k(const mr_call *c, const char *op, const mr_type *logits, mr_err *err)
{
    int64_t E = logits && logits->rank == 2 ? logits->dim[1] : 0, k = mr_attr_i(c, "k", 1);
    if (k >= 1 && k <= E)
        return MR_OK;
    return mri_op_fail(err, op, "k is %lld, must be in 1..%lld, the experts", (long long)k,
                       (long long)E);
}

static void balance_cost(const mr_call *c, mr_cost *cost)
{
    mri_cost(c, cost, (double)mr_numel(c->in[0]) * (4 + (double)mr_attr_i(c, "k", 1)), 0);
}

/* ---- moe_counts ----------------------------------------------------------------------------- */
static mr_status counts_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    int64_t rows = mr_attr_i(c, "rows", 1);
    mr_status st = check_k(c, "moe_counts", mri_in(c, 0), err);
    if (!st && rows < 1)
        st = mri_op_fail(err, "moe_counts", "rows is %lld, must be 1 or more", (long long)rows);
    return st ? st
              : mri_infer(c, out, err, "moe_counts",
                          "logits:F[T,E] seq_start:i32[T] -> counts:S[A,E]",
                          MRI_GIVEN({ "A", rows }));
}

static mr_status counts_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    balance b = balance_open(c, in, 0, c->out[0]->dim[0]);
    mri_view counts = mri_out_view(c, out, 0);
    int64_t *best = mri_alloc((size_t)b.K * sizeof *best), row;
    uint8_t *taken = mri_alloc((size_t)b.E);
    mr_status st = 0;
    memset(out[0].data, 0, mr_bytes(c->out[0]));
    for (int64_t t = 0; t < b.T; t++) {
        MR_TRY(token(&b, "moe_counts", t, &row, err));
        memset(taken, 0, (size_t)b.E);
        mri_topk(b.score, b.E, b.K, taken, best);
        for (int64_t j = 0; j < b.K; j++)
            mri_acc(counts, row * b.E + best[j], 1);
    }
out:
    free(taken);
    free(best);
    free(b.score);
    return st;
}

/* ---- moe_balance_loss ------------------------------------------------------------------------ */
static mr_status loss_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    mr_status st = check_k(c, "moe_balance_loss", mri_in(c, 0), err);
    return st ? st
              : mri_infer(c, out, err, "moe_balance_loss",
                          "logits:F[T,E] seq_start:i32[T] counts:S[A,E] -> loss:S[1]", NULL);
}

/* E / (K T_s) of a segment; one without a count (its tokens are other ranks') is never asked for */
static double unit(const balance *b, mri_view counts, int64_t row)
{
    double total = 0; /* K T_s */
    for (int64_t e = 0; e < b->E; e++)
        total += mri_get(counts, row * b->E + e);
    return total > 0 ? (double)b->E / total : 0;
}

static mr_status loss_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    balance b = balance_open(c, in, 0, c->in[2]->dim[0]);
    mri_view counts = mri_in_view(c, in, 2);
    double loss = 0;
    int64_t row;
    mr_status st = 0;
    for (int64_t t = 0; t < b.T; t++) {
        double sum = 0;
        MR_TRY(token(&b, "moe_balance_loss", t, &row, err));
        for (int64_t e = 0; e < b.E; e++)
            sum += b.score[e] * mri_get(counts, row * b.E + e);
        loss += unit(&b, counts, row) * sum;
    }
    mri_put(mri_out_view(c, out, 0), 0, mr_attr_f(c, "coeff", 0) * loss);
out:
    free(b.score);
    return st;
}

static mr_status loss_vjp(const mr_vjp *v, mr_err *err)
{
    (void)err;
    if (v->dout[0] && mri_need(v, 0))
        v->din[0] = mri_emit(v, "moe_balance_loss.bwd",
                             MR_IN(v->dout[0], v->in[0], v->in[1], v->in[2]), v->call->attr,
                             v->call->n_attr);
    return MR_OK;
}

static mr_status bwd_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    mr_status st = check_k(c, "moe_balance_loss.bwd", mri_in(c, 1), err);
    return st ? st
              : mri_infer(c, out, err, "moe_balance_loss.bwd",
                          "dloss:G[1] logits:F[T,E] seq_start:i32[T] counts:S[A,E] -> "
                          "dlogits:F[T,E]", NULL);
}

static mr_status bwd_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    balance b = balance_open(c, in, 1, c->in[3]->dim[0]);
    mri_view counts = mri_in_view(c, in, 3), dlogits = mri_out_view(c, out, 0);
    double scale = mr_attr_f(c, "coeff", 0) * mri_get(mri_in_view(c, in, 0), 0);
    int64_t row;
    mr_status st = 0;
    for (int64_t t = 0; t < b.T; t++) {
        double mean = 0; /* both scores sum to 1: the gradient is taken off its mean */
        MR_TRY(token(&b, "moe_balance_loss.bwd", t, &row, err));
        double u = scale * unit(&b, counts, row);
        for (int64_t e = 0; e < b.E; e++)
            mean += u * mri_get(counts, row * b.E + e) * b.score[e];
        for (int64_t e = 0; e < b.E; e++) {
            double d = u * mri_get(counts, row * b.E + e) - mean;
            mri_put(dlogits, t * b.E + e,
                    b.sigmoid ? d / b.norm * b.sigma[e] * (1 - b.sigma[e]) : d * b.score[e]);
        }
    }
out:
    free(b.score);
    return st;
}

const mr_op_def mri_ops_moe_balance[] = {
    { MRI_OP, .id = "moe_counts", .flags = MR_OP_NO_VJP,
      .doc = "counts[s] = how many tokens of segment s have each expert among their k best",
      .sig = "logits seq_start -> counts", .attrs = BALANCE_ATTRS "rows:i=1",
      .shape = counts_shape, .ref = counts_ref, .cost = balance_cost,
      .cases = MRI_CASES("logits=F[8,5] seq_start=i32[8]zero @k=2",
                         "logits=F[8,5] seq_start=i32[8]start:4 @k=2 @type=seq_aux @score=softmax "
                         "@rows=8",
                         "logits=F[130,40] seq_start=i32[130]start:50 @k=3 @type=seq_aux "
                         "@rows=130") },
    { MRI_OP, .id = "moe_balance_loss",
      .doc = "loss = coeff sum over segments of E / (K T) sum_i P_i f_i with the counts f of all "
             "ranks: the part of this rank's tokens (Fedus et al. 2021)",
      .sig = "logits seq_start counts -> loss", .attrs = BALANCE_ATTRS "coeff:f",
      .shape = loss_shape, .vjp = loss_vjp, .ref = loss_ref, .cost = balance_cost,
      .cases = MRI_CASES("logits=F[8,5] seq_start=i32[8]zero counts=S[1,5]{3,1,4,0,8} @k=2 "
                         "@coeff=0.1",
                         "logits=F[4,3] seq_start=i32[4]{0,0,2,2} counts=S[3,3]{1,2,1,0,0,0,3,0,1} "
                         "@k=1 @coeff=1 @type=seq_aux @score=softmax") },
    { MRI_OP, .id = "moe_balance_loss.bwd", .flags = MR_OP_NO_VJP,
      .doc = "gradient of moe_balance_loss by the logits, counts being constant",
      .sig = "dloss logits seq_start counts -> dlogits", .attrs = BALANCE_ATTRS "coeff:f",
      .shape = bwd_shape, .ref = bwd_ref, .cost = balance_cost,
      .cases = MRI_CASES("dloss=F[1] logits=F[8,5] seq_start=i32[8]zero counts=S[1,5]{3,1,4,0,8} "
                         "@k=2 @coeff=0.1",
                         "dloss=F[1] logits=F[70,40] seq_start=i32[70]zero counts=S[1,40]<9 @k=2 "
                         "@coeff=1 @score=softmax") },
    MRI_OPS_END
};
