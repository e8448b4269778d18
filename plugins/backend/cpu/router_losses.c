/* SPDX-License-Identifier: Apache-2.0
 *
 * router_losses.c - moe_aux_loss (Fedus et al. 2021), router_z_loss (Zoph et al. 2022) and
 * their gradients. A segment's tokens are cut into parts; each part sums scores and counts
 * in its own room, and the parts are added in their order.
 */
#include "route.h"

struct router_loss {
    struct kernel base;
    int64_t tokens, experts, k;
    int by_sequence, sigmoid;
    double coeff;
    uint64_t stride; /* bytes of a part's room */
};

#define SELF const struct router_loss *k = (const struct router_loss *)base

struct room {
    double *sum;          /* [E] of scores         */
    float *score, *sigma; /* [E] of one token      */
    int32_t *count, *index; /* [E]                 */
    uint8_t *taken;       /* [E]                   */
};

static struct room room_of(const struct router_loss *k, void *ws, int p)
{
    int64_t e = (int64_t)cpu_round((uint64_t)k->experts * 8) / 8;
    double *d = (double *)((char *)ws + (uint64_t)p * k->stride);
    float *f = (float *)(d + e);
    int32_t *i = (int32_t *)(f + 2 * e);
    return (struct room){ d, f, f + e, i, i + e, (uint8_t *)(i + 2 * e) };
}

/* one past the last token of the segment that begins at s */
static int64_t segment_end(const struct router_loss *k, const int32_t *start, int64_t s)
{
    int64_t t = s + 1;
    if (!k->by_sequence)
        return k->tokens;
    while (t < k->tokens && start[t] == start[s])
        t++;
    return t;
}

/* fills score (and sigma); returns the sum of the sigmoids + 1e-20 */
static float scores(const struct router_loss *k, struct room m, arr logits, int64_t t)
{
    float norm = 1e-20f;
    to_f32(m.score, logits, t * k->experts, k->experts, k->experts);
    if (!k->sigmoid) {
        softmax_row(m.score, k->experts, m.score);
        return 1;
    }
    sigmoid_row(m.score, k->experts, m.sigma);
    for (int64_t e = 0; e < k->experts; e++)
        norm += m.sigma[e];
    for (int64_t e = 0; e < k->experts; e++)
        m.score[e] = m.sigma[e] / norm;
    return norm;
}

static mr_status aux_run(const struct kernel *base, const mr_buf *in, const mr_buf *out, void *ws,
                         mr_err *err)
{
    SELF;
    arr logits = in_arr(base, in, 0);
    float *counts = out[1].data;
    double total = 0;
    memset(counts, 0, (size_t)(k->tokens * k->experts) * 4);
    for (int64_t s = 0, end; s < k->tokens; s = end) {
        end = segment_end(k, in[1].data, s);
        int parts = cpu_parts(base, (end - s) * k->experts, 4096);
#pragma omp parallel for schedule(static, 1) if (parts > 1)
        for (int p = 0; p < parts; p++) {
            struct room m = room_of(k, ws, p);
            int64_t lo, hi;
            cpu_range(end - s, 1, p, parts, &lo, &hi);
            memset(m.sum, 0, (size_t)k->experts * 8);
            memset(m.count, 0, (size_t)k->experts * 4);
            for (int64_t t = s + lo; t < s + hi; t++) {
                scores(k, m, logits, t);
                memset(m.taken, 0, (size_t)k->experts);
                top_k(m.score, k->experts, k->k, m.taken, m.index);
                for (int64_t j = 0; j < k->k; j++)
                    m.count[m.index[j]]++;
                for (int64_t e = 0; e < k->experts; e++)
                    m.sum[e] += (double)m.score[e];
            }
        }
        double sum = 0;
        for (int64_t e = 0; e < k->experts; e++) {
            double score = 0, count = 0;
            for (int p = 0; p < parts; p++) {
                struct room m = room_of(k, ws, p);
                score += m.sum[e];
                count += m.count[e];
            }
            sum += score * count;
            counts[s * k->experts + e] = (float)count;
        }
        total += (double)k->experts / ((double)k->k * (double)(end - s)) * sum;
    }
    *(float *)out[0].data = (float)(k->coeff * total);
    (void)err;
    return MR_OK;
}

static mr_status aux_bwd_run(const struct kernel *base, const mr_buf *in, const mr_buf *out,
                             void *ws, mr_err *err)
{
    SELF;
    arr logits = in_arr(base, in, 1), counts = in_arr(base, in, 3), dlogits = out_arr(base, out, 0);
    double dloss = get(in_arr(base, in, 0), 0);
    for (int64_t s = 0, end; s < k->tokens; s = end) {
        end = segment_end(k, in[2].data, s);
        float unit = (float)(dloss * k->coeff * (double)k->experts /
                             ((double)k->k * (double)(end - s)));
        arr f = arr_at(counts, s * k->experts);
        int parts = cpu_parts(base, (end - s) * k->experts, 4096);
#pragma omp parallel for schedule(static, 1) if (parts > 1)
        for (int p = 0; p < parts; p++) {
            struct room m = room_of(k, ws, p);
            int64_t lo, hi;
            cpu_range(end - s, 1, p, parts, &lo, &hi);
            for (int64_t t = s + lo; t < s + hi; t++) {
                float norm = scores(k, m, logits, t), dot = 0;
                for (int64_t e = 0; e < k->experts; e++)
                    dot += unit * get(f, e) * m.score[e];
                for (int64_t e = 0; e < k->experts; e++) {
                    float d = unit * get(f, e) - dot;
                    m.score[e] = k->sigmoid ? d / norm * m.sigma[e] * (1 - m.sigma[e])
                                            : d * m.score[e];
                }
                from_f32(dlogits, t * k->experts, m.score, k->experts);
            }
        }
    }
    (void)err;
    return MR_OK;
}

static mr_status z_run(const struct kernel *base, const mr_buf *in, const mr_buf *out, void *ws,
                       mr_err *err)
{
    SELF;
    float *lse = out[1].data;
    int parts = cpu_parts(base, k->tokens * k->experts, 4096);
#pragma omp parallel for schedule(static, 1) if (parts > 1)
    for (int p = 0; p < parts; p++) {
        struct room m = room_of(k, ws, p);
        int64_t lo, hi;
        cpu_range(k->tokens, 1, p, parts, &lo, &hi);
        for (int64_t t = lo; t < hi; t++) {
            to_f32(m.score, in_arr(base, in, 0), t * k->experts, k->experts, k->experts);
            lse[t] = softmax_row(m.score, k->experts, m.score);
        }
    }
    double sum = 0;
    for (int64_t t = 0; t < k->tokens; t++)
        sum += (double)lse[t] * lse[t];
    *(float *)out[0].data = (float)(k->coeff * sum);
    (void)err;
    return MR_OK;
}

static mr_status z_bwd_run(const struct kernel *base, const mr_buf *in, const mr_buf *out, void *ws,
                           mr_err *err)
{
    SELF;
    arr x = in_arr(base, in, 1), dx = out_arr(base, out, 0);
    const float *lse = in[2].data;
    float unit = (float)(2 * k->coeff * get(in_arr(base, in, 0), 0));
    int parts = cpu_parts(base, k->tokens * k->experts, 4096);
#pragma omp parallel for schedule(static, 1) if (parts > 1)
    for (int p = 0; p < parts; p++) {
        int64_t lo, hi, n = k->experts;
        cpu_range(k->tokens, 1, p, parts, &lo, &hi);
        for (int64_t t = lo; t < hi; t++)
            for (int64_t e = 0; e < n; e += W) {
                int l = LANES(e, n);
                st(dx, t * n + e, l, unit * lse[t] * vexp(ld(x, t * n + e, l) - lse[t]));
            }
    }
    (void)ws, (void)err;
    return MR_OK;
}

/* ---- from types to kernels ---------------------------------------------------------------- */
static mr_status prepare(struct kernel *base, const mr_call *c, const mr_type *logits,
                         kernel_run *run, mr_err *err)
{
    struct router_loss *k = (struct router_loss *)base;
    k->tokens = mr_rows(logits);
    k->experts = mr_last(logits);
    k->k = mr_attr_i(c, "k", 1);
    k->by_sequence = !strcmp(mr_attr_s(c, "type", "aux"), "seq_aux");
    k->sigmoid = !strcmp(mr_attr_s(c, "score", "sigmoid"), "sigmoid");
    k->coeff = mr_attr_f(c, "coeff", 0);
    if (k->k < 1 || k->k > k->experts)
        return mr_fail(err, MR_E_OP_SHAPE, MR_BLAME_USER, "k is %lld of %lld experts",
                       (long long)k->k, (long long)k->experts);
    k->stride = cpu_round(cpu_round((uint64_t)k->experts * 8) / 8 * (8 + 4 * 4 + 1));
    base->workspace = k->stride * (uint64_t)base->threads;
    base->run = run;
    return MR_OK;
}

static mr_status aux_prepare(struct kernel *k, const mr_call *c, mr_err *err)
{
    return prepare(k, c, c->in[0], aux_run, err);
}

static mr_status aux_bwd_prepare(struct kernel *k, const mr_call *c, mr_err *err)
{
    return prepare(k, c, c->in[1], aux_bwd_run, err);
}

static mr_status z_prepare(struct kernel *k, const mr_call *c, mr_err *err)
{
    return prepare(k, c, c->in[0], z_run, err);
}

static mr_status z_bwd_prepare(struct kernel *k, const mr_call *c, mr_err *err)
{
    return prepare(k, c, c->in[1], z_bwd_run, err);
}

const struct op_row ISA_NAME(router_loss_rows)[] = {
    { "moe_aux_loss", "xi>ff", sizeof(struct router_loss), aux_prepare },
    { "moe_aux_loss.bwd", "fxif>x", sizeof(struct router_loss), aux_bwd_prepare },
    { "router_z_loss", "x>ff", sizeof(struct router_loss), z_prepare },
    { "router_z_loss.bwd", "fxf>x", sizeof(struct router_loss), z_bwd_prepare },
    { 0 },
};
