/* SPDX-License-Identifier: Apache-2.0
 *
 * attend.c - see attend.h. Per query and head, over the keys j that it sees, z_j = scale <q, k_j>:
 *     lse = ln Σ_j e^z_j,  p_j = e^(z_j - lse),  o = Σ_j p_j v_j.
 * Backward from o and lse alone (Dao et al. 2022): with dp_j = <do, v_j>, δ = <do, o>,
 *     ds_j = p_j (dp_j - δ),  dv_j += p_j do,  dq += scale ds_j k_j,  dk_j += scale ds_j q.
 * o and lse may be of more keys than are here: then these are the terms of those that are.
 */
#include "core/ops/attend.h"

static int64_t place(const mri_heads_in *o, int64_t t, int64_t value)
{
    return o->at + t * o->row + value;
}

static double dot(mri_view a, int64_t ia, mri_view b, int64_t ib, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += mri_get(a, ia + i) * mri_get(b, ib + i);
    return sum;
}

mr_status mri_attend_vjp(const mr_vjp *v, const char *id)
{
    mr_val d[3] = { 0 };
    if (!v->dout[0] || (!mri_need(v, 0) && !mri_need(v, 1) && !mri_need(v, 2)))
        return 0;
    mri_emit_n(v, d, 3, id,
               MR_IN(v->dout[0], v->in[0], v->in[1], v->in[2], v->out[0], v->out[1], v->in[3]),
               v->call->attr, v->call->n_attr);
    for (uint32_t i = 0; i < 3; i++)
        if (mri_need(v, i))
            v->din[i] = d[i];
    return 0;
}

mr_status mri_attend_forward(const mri_attend *a, mri_view o, mri_view lse, mr_err *err)
{
    const mri_heads *n = &a->n;
    const mri_qkv *x = &a->x;
    double *z = mri_alloc((size_t)a->keys * sizeof *z);
    mr_status st = 0;
    for (int64_t t = 0; t < a->queries; t++) {
        int64_t first, last;
        MR_TRY(a->seen(a, t, &first, &last, err));
        for (int64_t h = 0; h < n->H; h++) {
            int64_t g = h / (n->H / n->G), iq = place(&x->q, t, h * n->C);
            double max = -INFINITY, sum = 0;
            for (int64_t j = first; j <= last; j++) {
                z[j] = n->scale * dot(x->q.x, iq, x->k.x, place(&x->k, j, g * n->C), n->C);
                max = fmax(max, z[j]);
            }
            for (int64_t j = first; j <= last; j++)
                sum += z[j] = exp(z[j] - max);
            mri_put(lse, t * n->H + h, max + log(sum));
            for (int64_t i = 0; i < n->Cv; i++) {
                double y = 0;
                for (int64_t j = first; j <= last; j++)
                    y += z[j] * mri_get(x->v.x, place(&x->v, j, g * n->Cv + i));
                mri_put(o, (t * n->H + h) * n->Cv + i, last < first ? 0 : y / sum);
            }
        }
    }
out:
    free(z);
    return st;
}

mr_status mri_attend_backward(const mri_attend *a, mri_view dy, mri_view o, mri_view lse,
                              const mri_qkv *d, mr_err *err)
{
    const mri_heads *n = &a->n;
    const mri_qkv *x = &a->x;
    int64_t nk = a->keys * n->G * n->C, nv = a->keys * n->G * n->Cv;
    /* keys and values gather from many queries: sums in double, stored once at the end */
    double *sk = mri_alloc((size_t)(nk + nv + n->C) * sizeof *sk), *sv = sk + nk, *sq = sv + nv;
    mr_status st = 0;
    for (int64_t t = 0; t < a->queries; t++) {
        int64_t first, last;
        MR_TRY(a->seen(a, t, &first, &last, err));
        for (int64_t h = 0; h < n->H; h++) {
            int64_t g = h / (n->H / n->G), io = (t * n->H + h) * n->Cv;
            int64_t iq = place(&x->q, t, h * n->C);
            double delta = dot(dy, io, o, io, n->Cv);
            for (int64_t i = 0; i < n->C; i++)
                sq[i] = 0;
            for (int64_t j = first; j <= last; j++) {
                int64_t ik = place(&x->k, j, g * n->C), iv = place(&x->v, j, g * n->Cv);
                double p = exp(n->scale * dot(x->q.x, iq, x->k.x, ik, n->C) -
                               mri_get(lse, t * n->H + h));
                double ds = n->scale * p * (dot(dy, io, x->v.x, iv, n->Cv) - delta);
                for (int64_t i = 0; i < n->C; i++) {
                    sq[i] += ds * mri_get(x->k.x, ik + i);
                    sk[(j * n->G + g) * n->C + i] += ds * mri_get(x->q.x, iq + i);
                }
                for (int64_t i = 0; i < n->Cv; i++)
                    sv[(j * n->G + g) * n->Cv + i] += p * mri_get(dy, io + i);
            }
            for (int64_t i = 0; i < n->C; i++)
                mri_put(d->q.x, place(&d->q, t, h * n->C + i), sq[i]);
        }
    }
    for (int64_t i = 0; i < nk; i++)
        mri_put(d->k.x, place(&d->k, i / (n->G * n->C), i % (n->G * n->C)), sk[i]);
    for (int64_t i = 0; i < nv; i++)
        mri_put(d->v.x, place(&d->v, i / (n->G * n->Cv), i % (n->G * n->Cv)), sv[i]);
out:
    free(sk);
    return st;
}
