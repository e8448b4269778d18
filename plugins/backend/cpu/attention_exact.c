/* SPDX-License-Identifier: Apache-2.0
 *
 * attention_exact.c - attention of a few dozen tokens in double, as exact.c has products: scores
 * of some tens lose in f32 what their exponentials show. The backward makes the softmax's sums
 * again, since a stored lse is rounded like the scores, and dO O as the sum over P dP; that of a
 * part cannot, as its keys are not all: it takes both as they are stored.
 *
 * One thread owns a kv head, so every sum has one order; each query row sees keys one by one.
 */
#include "attn.h"

#define SELF const struct attn *k = (const struct attn *)base

static double dot(const float *a, const float *b, int64_t n)
{
    double s = 0;
#pragma omp simd reduction(+ : s)
    for (int64_t i = 0; i < n; i++)
        s += (double)a[i] * (double)b[i];
    return s;
}

/* p[j] = exp(scale q.k_j - max) for j in [lo, hi); returns their sum. NaN passes through exp. */
static double soften(const struct attn *k, const float *q, const float *key, int64_t lo, int64_t hi,
                     double *p, double *max)
{
    double m = -INFINITY, sum = 0;
    for (int64_t j = lo; j < hi; j++) {
        p[j] = k->exact_scale * dot(q, key + j * k->key_step, k->c);
        m = p[j] > m ? p[j] : m;
    }
    for (int64_t j = lo; j < hi; j++)
        sum += p[j] = exp(p[j] - m);
    *max = m;
    return sum;
}

uint64_t attn_exact_room(const struct attn *k, int backward)
{
    int64_t n = backward ? k->keys * (2 + k->c + k->cv) + k->c : k->keys + k->cv;
    return cpu_round((uint64_t)n * 8);
}

/* workspace: lo and hi [T], then a room a thread: P [keys], o [cv] */
mr_status attn_exact_run(const struct kernel *base, const mr_buf *in, const mr_buf *out, void *ws,
                         mr_err *err)
{
    SELF;
    int32_t *lo = ws, *hi = lo + k->tokens;
    char *rooms = (char *)ws + cpu_round((uint64_t)k->tokens * 8);
    if (attn_seen_keys(k, in[3].data, lo, hi, err))
        return MR_E_ARG;
#pragma omp parallel for schedule(dynamic, 1) if (k->heads > 1)
    for (int64_t h = 0; h < k->heads; h++) {
        int64_t g = h / k->group;
        const float *key = (const float *)in[1].data + g * k->c;
        const float *v = (const float *)in[2].data + g * k->cv;
        double *p = cpu_room(rooms, k->room), *o = p + k->keys, max;
        for (int64_t t = 0; t < k->tokens; t++) {
            int64_t at = t * k->heads + h;
            double sum = soften(k, (const float *)in[0].data + at * k->c, key, lo[t], hi[t], p,
                                &max);
            double divide = hi[t] > lo[t] ? sum : 1;
            memset(o, 0, (size_t)k->cv * sizeof *o);
            for (int64_t j = lo[t]; j < hi[t]; j++)
                for (int64_t i = 0; i < k->cv; i++)
                    o[i] += p[j] * (double)v[j * k->value_step + i];
            for (int64_t i = 0; i < k->cv; i++)
                ((float *)out[0].data)[at * k->cv + i] = (float)(o[i] / divide);
            ((float *)out[1].data)[at] = (float)(max + log(sum));
        }
    }
    return MR_OK;
}

struct row { /* one query row of a head, and what it sees */
    const float *q, *d_o, *o, *key, *v;
    float *dq, lse; /* o and lse: of a part, else made again */
    int64_t lo, hi;
};

/* p and dp of the keys in [lo, hi); returns dO O */
static double weights(const struct attn *k, const struct row *r, double *p, double *dp)
{
    double max = 0, sum = 1, delta = 0;
    if (k->from < 0)
        sum = soften(k, r->q, r->key, r->lo, r->hi, p, &max);
    for (int64_t j = r->lo; j < r->hi; j++) {
        const float *key = r->key + j * k->key_step;
        p[j] = k->from < 0 ? p[j] / sum : exp(k->exact_scale * dot(r->q, key, k->c) - r->lse);
        dp[j] = dot(r->d_o, r->v + j * k->value_step, k->cv);
        delta += p[j] * dp[j];
    }
    return k->from < 0 ? delta : dot(r->d_o, r->o, k->cv);
}

/* p, dp [keys]; dk [keys,c] and dv [keys,cv] are added to; dq [c] */
static void row_bwd(const struct attn *k, const struct row *r, double *p, double *dp, double *dk,
                    double *dv, double *dq)
{
    double delta = weights(k, r, p, dp);
    memset(dq, 0, (size_t)k->c * sizeof *dq);
    for (int64_t j = r->lo; j < r->hi; j++) {
        double ds = p[j] * (dp[j] - delta) * k->exact_scale;
        for (int64_t i = 0; i < k->c; i++) {
            dq[i] += ds * (double)r->key[j * k->key_step + i];
            dk[j * k->c + i] += ds * (double)r->q[i];
        }
        for (int64_t i = 0; i < k->cv; i++)
            dv[j * k->cv + i] += p[j] * (double)r->d_o[i];
    }
    for (int64_t i = 0; i < k->c; i++)
        r->dq[i] = (float)dq[i];
}

/* workspace: lo and hi [T], then a room a thread: P, dP, dk, dv of all keys, dq [c] */
mr_status attn_exact_bwd_run(const struct kernel *base, const mr_buf *in, const mr_buf *out,
                             void *ws, mr_err *err)
{
    SELF;
    int32_t *lo = ws, *hi = lo + k->tokens;
    char *rooms = (char *)ws + cpu_round((uint64_t)k->tokens * 8);
    if (attn_seen_keys(k, in[6].data, lo, hi, err))
        return MR_E_ARG;
#pragma omp parallel for schedule(dynamic, 1) if (k->kv > 1)
    for (int64_t g = 0; g < k->kv; g++) {
        double *p = cpu_room(rooms, k->room), *dp = p + k->keys, *dk = dp + k->keys;
        double *dv = dk + k->keys * k->c, *dq = dv + k->keys * k->cv;
        memset(dk, 0, (size_t)(k->keys * (k->c + k->cv)) * sizeof *dk);
        for (int64_t t = 0; t < k->tokens; t++)
            for (int64_t h = g * k->group; h < (g + 1) * k->group; h++) {
                int64_t at = t * k->heads + h;
                struct row r = { .q = (const float *)in[1].data + at * k->c,
                                 .d_o = (const float *)in[0].data + at * k->cv,
                                 .o = (const float *)in[4].data + at * k->cv,
                                 .key = (const float *)in[2].data + g * k->c,
                                 .v = (const float *)in[3].data + g * k->cv,
                                 .dq = (float *)out[0].data + at * k->c,
                                 .lse = ((const float *)in[5].data)[at],
                                 .lo = lo[t], .hi = hi[t] };
                row_bwd(k, &r, p, dp, dk, dv, dq);
            }
        for (int64_t t = 0; t < k->keys; t++) {
            float *to = (float *)out[1].data + t * k->key_step + g * k->c;
            for (int64_t i = 0; i < k->c; i++)
                to[i] = (float)dk[t * k->c + i];
            to = (float *)out[2].data + t * k->value_step + g * k->cv;
            for (int64_t i = 0; i < k->cv; i++)
                to[i] = (float)dv[t * k->cv + i];
        }
    }
    return MR_OK;
}
