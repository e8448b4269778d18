/* SPDX-License-Identifier: Apache-2.0
 *
 * permute.c - rows of tokens to rows of experts and back, and the gradients of the weights
 * that go along. Every row is moved once; an output row is made by one thread. Indices come
 * from route_plan; one outside its range makes a row of zeros.
 */
#include "vec.h"

struct permute {
    struct kernel base;
    int64_t tokens, rows, k, d;
    int has_probs, parts;
};

#define SELF const struct permute *k = (const struct permute *)base

static mr_status permute_run(const struct kernel *base, const mr_buf *in, const mr_buf *out,
                             void *ws, mr_err *err)
{
    SELF;
    const int32_t *rows = in[1].data;
    arr probs = k->has_probs ? in_arr(base, in, 3) : (arr){ 0 };
#pragma omp parallel for schedule(static, 1) if (k->parts > 1)
    for (int p = 0; p < k->parts; p++) {
        int64_t lo, hi;
        cpu_range(k->rows, 1, p, k->parts, &lo, &hi);
        for (int64_t r = lo; r < hi; r++) {
            arr y = arr_at(out_arr(base, out, 0), r * k->d);
            if (rows[r] < 0 || rows[r] >= k->rows) {
                zero(y, 0, k->d);
                continue;
            }
            arr x = arr_at(in_arr(base, in, 0), rows[r] / k->k * k->d);
            float s = k->has_probs ? get(probs, rows[r]) : 1.0f;
            for (int64_t i = 0; i < k->d; i += W) {
                int l = LANES(i, k->d);
                st(y, i, l, k->has_probs ? ld(x, i, l) * s : ld(x, i, l));
            }
        }
    }
    (void)ws, (void)err;
    return MR_OK;
}

static mr_status unpermute_run(const struct kernel *base, const mr_buf *in, const mr_buf *out,
                               void *ws, mr_err *err)
{
    SELF;
    const int32_t *slots = in[2].data;
    arr y = in_arr(base, in, 0), probs = k->has_probs ? in_arr(base, in, 3) : (arr){ 0 };
#pragma omp parallel for schedule(static, 1) if (k->parts > 1)
    for (int p = 0; p < k->parts; p++) {
        int64_t lo, hi;
        cpu_range(k->tokens, 1, p, k->parts, &lo, &hi);
        for (int64_t t = lo; t < hi; t++) {
            arr x = arr_at(out_arr(base, out, 0), t * k->d);
            for (int64_t i = 0; i < k->d; i += W) {
                int l = LANES(i, k->d);
                vf sum = { 0 };
                for (int64_t j = 0; j < k->k; j++) {
                    int32_t r = slots[t * k->k + j];
                    if (r < 0 || r >= k->rows)
                        continue;
                    vf v = ld(y, r * k->d + i, l);
                    sum = k->has_probs ? vfma(v, vset(get(probs, t * k->k + j)), sum) : sum + v;
                }
                st(x, i, l, sum);
            }
        }
    }
    (void)ws, (void)err;
    return MR_OK;
}

static mr_status dprobs_run(const struct kernel *base, const mr_buf *in, const mr_buf *out,
                            void *ws, mr_err *err)
{
    SELF;
    const int32_t *rows = in[2].data;
    float *d = out[0].data;
    memset(d, 0, (size_t)k->rows * 4);
#pragma omp parallel for schedule(static, 1) if (k->parts > 1)
    for (int p = 0; p < k->parts; p++) {
        int64_t lo, hi;
        cpu_range(k->rows, 1, p, k->parts, &lo, &hi);
        for (int64_t r = lo; r < hi; r++) {
            if (rows[r] < 0 || rows[r] >= k->rows)
                continue;
            arr a = arr_at(in_arr(base, in, 0), r * k->d);
            arr b = arr_at(in_arr(base, in, 1), rows[r] / k->k * k->d);
            vf sum = { 0 };
            for (int64_t i = 0; i < k->d; i += W)
                sum = vfma(ld(a, i, LANES(i, k->d)), ld(b, i, LANES(i, k->d)), sum);
            d[rows[r]] = vsum(sum);
        }
    }
    (void)ws, (void)err;
    return MR_OK;
}

/* ---- from types to kernels ---------------------------------------------------------------- */
static mr_status finish(struct permute *k, mr_err *err)
{
    k->k = k->tokens > 0 ? k->rows / k->tokens : 1;
    if (k->k < 1 || k->k * k->tokens != k->rows)
        return mr_fail(err, MR_E_OP_SHAPE, MR_BLAME_USER,
                       "%lld routed rows are not a multiple of %lld tokens", (long long)k->rows,
                       (long long)k->tokens);
    k->parts = cpu_parts(&k->base, k->rows * k->d, 16384);
    return MR_OK;
}

static mr_status permute_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct permute *k = (struct permute *)base;
    k->tokens = mr_rows(c->in[0]);
    k->d = mr_last(c->in[0]);
    k->rows = mr_numel(c->in[1]);
    k->has_probs = c->n_in > 3 && c->in[3];
    base->run = permute_run;
    return finish(k, err);
}

static mr_status unpermute_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct permute *k = (struct permute *)base;
    k->tokens = mr_rows(c->out[0]);
    k->d = mr_last(c->in[0]);
    k->rows = mr_numel(c->in[2]);
    k->has_probs = c->n_in > 3 && c->in[3];
    base->run = unpermute_run;
    return finish(k, err);
}

static mr_status dprobs_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct permute *k = (struct permute *)base;
    k->tokens = mr_rows(c->in[1]);
    k->d = mr_last(c->in[1]);
    k->rows = mr_numel(c->in[2]);
    base->run = dprobs_run;
    return finish(k, err);
}

const struct op_row ISA_NAME(permute_rows)[] = {
    { "permute", "xiiX>x", sizeof(struct permute), permute_prepare },
    { "unpermute", "xiiX>x", sizeof(struct permute), unpermute_prepare },
    { "permute.dprobs", "xxi>f", sizeof(struct permute), dprobs_prepare },
    { 0 },
};
