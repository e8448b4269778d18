/* SPDX-License-Identifier: Apache-2.0
 *
 * route.c - the router: route_topk, its gradient, and route_plan, a stable counting sort of
 * the routed rows by expert. Without a bias and without groups the choice is made by the
 * logits themselves: sigmoid and softmax keep their order, and do not round it into ties.
 */
#include "route.h"

struct route {
    struct kernel base;
    int64_t tokens, experts, k, groups, group_topk, group_best;
    int sigmoid, pre, norm, has_bias;
    float scale;
    uint64_t stride; /* bytes of a part's room */
};

#define SELF const struct route *k = (const struct route *)base

/* A part's room for one token. */
struct room {
    float *logit, *score, *choice, *worth; /* [E] each */
    int32_t *index;                        /* [E] */
    uint8_t *taken;                        /* [E] */
};

static struct room room_of(const struct route *k, void *ws, int p)
{
    int64_t e = (int64_t)cpu_round((uint64_t)k->experts * 4) / 4;
    float *f = (float *)((char *)ws + (uint64_t)p * k->stride);
    return (struct room){ f, f + e, f + 2 * e, f + 3 * e, (int32_t *)(f + 4 * e),
                          (uint8_t *)(f + 5 * e) };
}

/* leaves free only the experts of the group_topk best groups (DeepSeek-V3) */
static void mask_groups(const struct route *k, struct room m)
{
    int64_t per = k->experts / k->groups, n = k->group_best;
    memset(m.taken, 0, (size_t)k->experts);
    for (int64_t g = 0; g < k->groups; g++) {
        float sum = 0;
        top_k(m.choice + g * per, per, n, m.taken + g * per, m.index);
        for (int64_t j = 0; j < n; j++)
            sum += m.choice[g * per + m.index[j]];
        m.worth[g] = sum;
    }
    memset(m.taken, 0, (size_t)k->experts);
    top_k(m.worth, k->groups, k->group_topk, m.taken, m.index);
    memset(m.taken, 1, (size_t)k->experts);
    for (int64_t j = 0; j < k->group_topk; j++)
        memset(m.taken + m.index[j] * per, 0, (size_t)per);
}

/* score[j] of the chosen index[j], before norm and scale; all = scores of all E if needed */
static void chosen(const struct route *k, const float *logit, const int32_t *index, float *all,
                   float *score)
{
    if (!k->sigmoid && k->pre)
        softmax_row(logit, k->experts, all);
    for (int64_t j = 0; j < k->k; j++)
        score[j] = k->sigmoid || !k->pre ? logit[index[j]] : all[index[j]];
    if (k->sigmoid)
        sigmoid_row(score, k->k, score);
    else if (!k->pre)
        softmax_row(score, k->k, score);
}

static float norm_of(const struct route *k, const float *score)
{
    float sum = 1e-20f;
    if (k->norm <= (k->k == 1))
        return 1;
    for (int64_t j = 0; j < k->k; j++)
        sum += score[j];
    return sum;
}

static mr_status topk_run(const struct kernel *base, const mr_buf *in, const mr_buf *out, void *ws,
                          mr_err *err)
{
    SELF;
    float *probs = out[0].data;
    int32_t *index = out[1].data;
    arr bias = k->has_bias ? in_arr(base, in, 1) : (arr){ 0 };
    int parts = cpu_parts(base, k->tokens * k->experts, 4096);
#pragma omp parallel for schedule(static, 1) if (parts > 1)
    for (int p = 0; p < parts; p++) {
        struct room m = room_of(k, ws, p);
        int64_t lo, hi;
        cpu_range(k->tokens, 1, p, parts, &lo, &hi);
        for (int64_t t = lo; t < hi; t++) {
            const float *choice = m.logit;
            to_f32(m.logit, in_arr(base, in, 0), t * k->experts, k->experts, k->experts);
            if (k->has_bias || k->groups) {
                choice = m.choice;
                if (k->sigmoid)
                    sigmoid_row(m.logit, k->experts, m.choice);
                else if (k->pre)
                    softmax_row(m.logit, k->experts, m.choice);
                else
                    memcpy(m.choice, m.logit, (size_t)k->experts * 4);
                for (int64_t e = 0; k->has_bias && e < k->experts; e++)
                    m.choice[e] += get(bias, e);
            }
            if (k->groups)
                mask_groups(k, m);
            else
                memset(m.taken, 0, (size_t)k->experts);
            top_k(choice, k->experts, k->k, m.taken, index + t * k->k);
            chosen(k, m.logit, index + t * k->k, m.worth, m.score);
            float norm = norm_of(k, m.score);
            for (int64_t j = 0; j < k->k; j++)
                probs[t * k->k + j] = k->scale * (m.score[j] / norm);
        }
    }
    (void)err;
    return MR_OK;
}

/* in place: dL/dprobs to dL/dscore */
static void norm_backward(const struct route *k, const float *score, float *d)
{
    float norm = norm_of(k, score), dot = 0;
    for (int64_t j = 0; j < k->k; j++)
        d[j] *= k->scale;
    if (k->norm <= (k->k == 1))
        return;
    for (int64_t j = 0; j < k->k; j++)
        dot += d[j] * score[j] / norm;
    for (int64_t j = 0; j < k->k; j++)
        d[j] = k->k == 1 ? 0 : (d[j] - dot) / norm; /* of one expert it is always 1 */
}

static int in_range(const int32_t *index, int64_t n, int64_t experts)
{
    int good = 1;
    for (int64_t i = 0; i < n; i++)
        good &= index[i] >= 0 && index[i] < experts;
    return good;
}

static mr_status bad_index(const struct route *k, mr_err *err)
{
    return mr_fail(err, MR_E_ARG, MR_BLAME_USER, "a routed row has an expert outside 0..%lld",
                   (long long)k->experts - 1);
}

static mr_status topk_bwd_run(const struct kernel *base, const mr_buf *in, const mr_buf *out,
                              void *ws, mr_err *err)
{
    SELF;
    arr dprobs = in_arr(base, in, 0), dlogits = out_arr(base, out, 0);
    const int32_t *index = in[3].data;
    if (!in_range(index, k->tokens * k->k, k->experts))
        return bad_index(k, err);
    int parts = cpu_parts(base, k->tokens * k->experts, 4096);
#pragma omp parallel for schedule(static, 1) if (parts > 1)
    for (int p = 0; p < parts; p++) {
        struct room m = room_of(k, ws, p);
        float *d = m.choice;
        int64_t lo, hi;
        cpu_range(k->tokens, 1, p, parts, &lo, &hi);
        for (int64_t t = lo; t < hi; t++) {
            const int32_t *idx = index + t * k->k;
            to_f32(m.logit, in_arr(base, in, 1), t * k->experts, k->experts, k->experts);
            to_f32(d, dprobs, t * k->k, k->k, k->k);
            chosen(k, m.logit, idx, m.worth, m.score);
            norm_backward(k, m.score, d);
            float dot = 0;
            for (int64_t j = 0; j < k->k; j++)
                dot += d[j] * m.score[j];
            for (int64_t e = 0; e < k->experts; e++)
                m.logit[e] = !k->sigmoid && k->pre ? -m.worth[e] * dot : 0;
            for (int64_t j = 0; j < k->k; j++) {
                float s = m.score[j];
                m.logit[idx[j]] += k->sigmoid ? d[j] * s * (1 - s) : k->pre ? d[j] * s
                                                                            : s * (d[j] - dot);
            }
            from_f32(dlogits, t * k->experts, m.logit, k->experts);
        }
    }
    return MR_OK;
}

/* Each part counts its rows by expert; the columns of counts become places; each part then
 * puts its rows there. Parts are ascending, so the sort is stable. */
static mr_status plan_run(const struct kernel *base, const mr_buf *in, const mr_buf *out, void *ws,
                          mr_err *err)
{
    SELF;
    const int32_t *index = in[0].data;
    int32_t *rows = out[0].data, *slots = out[1].data, *offsets = out[2].data, *count = ws;
    int64_t n = k->tokens * k->k, experts = k->experts;
    int parts = cpu_parts(base, n, 16384), bad = 0;
    memset(count, 0, (size_t)(parts * experts) * 4);
#pragma omp parallel for schedule(static, 1) reduction(| : bad) if (parts > 1)
    for (int p = 0; p < parts; p++) {
        int64_t lo, hi;
        cpu_range(n, CPU_ALIGN, p, parts, &lo, &hi);
        if (!in_range(index + lo, hi - lo, experts)) {
            bad |= 1;
            continue;
        }
        for (int64_t i = lo; i < hi; i++)
            count[p * experts + index[i]]++;
    }
    if (bad)
        return bad_index(k, err);
    int32_t at = 0;
    for (int64_t e = 0; e < experts; e++) {
        offsets[e] = at;
        for (int p = 0; p < parts; p++) {
            int32_t c = count[p * experts + e];
            count[p * experts + e] = at;
            at += c;
        }
    }
    offsets[experts] = at;
#pragma omp parallel for schedule(static, 1) if (parts > 1)
    for (int p = 0; p < parts; p++) {
        int64_t lo, hi;
        cpu_range(n, CPU_ALIGN, p, parts, &lo, &hi);
        for (int64_t i = lo; i < hi; i++) {
            int32_t r = count[p * experts + index[i]]++;
            rows[r] = (int32_t)i;
            slots[i] = r;
        }
    }
    return MR_OK;
}

/* ---- from types to kernels ---------------------------------------------------------------- */
static mr_status prepare(struct kernel *base, const mr_call *c, const mr_type *logits, mr_err *err)
{
    struct route *k = (struct route *)base;
    k->tokens = mr_rows(logits);
    k->experts = mr_last(logits);
    k->k = mr_attr_i(c, "k", 1);
    k->groups = mr_attr_i(c, "groups", 0);
    k->group_topk = mr_attr_i(c, "group_topk", 0);
    k->sigmoid = !strcmp(mr_attr_s(c, "score", "sigmoid"), "sigmoid");
    k->pre = mr_attr_i(c, "pre_softmax", 0) != 0;
    k->norm = (int)mr_attr_i(c, "norm", 0);
    k->scale = (float)mr_attr_f(c, "scale", 1);
    if (k->k < 1 || k->k > k->experts ||
        (k->groups && (k->experts % k->groups || k->group_topk < 1 || k->group_topk > k->groups ||
                       k->k > k->group_topk * (k->experts / k->groups))))
        return mr_fail(err, MR_E_OP_SHAPE, MR_BLAME_USER,
                       "top %lld of %lld experts in %lld groups, %lld of them chosen, cannot be",
                       (long long)k->k, (long long)k->experts, (long long)k->groups,
                       (long long)k->group_topk);
    k->group_best = mr_attr_i(c, "group_best", 0);
    if (k->groups && k->group_best < 1)
        k->group_best = k->k / k->group_topk;
    k->stride = cpu_round(6 * cpu_round((uint64_t)k->experts * 4));
    base->workspace = k->stride * (uint64_t)base->threads;
    return MR_OK;
}

static mr_status topk_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    base->run = topk_run;
    ((struct route *)base)->has_bias = c->n_in > 1 && c->in[1];
    return prepare(base, c, c->in[0], err);
}

static mr_status topk_bwd_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    base->run = topk_bwd_run;
    return prepare(base, c, c->in[1], err);
}

static mr_status plan_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct route *k = (struct route *)base;
    k->tokens = mr_rows(c->in[0]);
    k->k = mr_last(c->in[0]);
    k->experts = mr_attr_i(c, "experts", 0);
    if (k->experts < 1 || k->experts != mr_numel(c->out[2]) - 1 || k->tokens * k->k > INT32_MAX)
        return mr_fail(err, MR_E_OP_SHAPE, MR_BLAME_USER,
                       "route_plan: %lld experts and %lld rows do not fit its outputs",
                       (long long)k->experts, (long long)(k->tokens * k->k));
    base->workspace = cpu_round((uint64_t)k->experts * 4 * (uint64_t)base->threads);
    base->run = plan_run;
    return MR_OK;
}

const struct op_row ISA_NAME(route_rows)[] = {
    { "route_topk", "xX>fi", sizeof(struct route), topk_prepare },
    { "route_topk.bwd", "fxfi>x", sizeof(struct route), topk_bwd_prepare },
    { "route_plan", "i>iii", sizeof(struct route), plan_prepare },
    { 0 },
};
