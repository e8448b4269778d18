/* SPDX-License-Identifier: Apache-2.0
 *
 * fp8.c - products of 8-bit floats, as the precision pass (core/plan/precision.c) puts them in the
 * place of linear and its two gradients. A tensor is written as q * scale with one scale, so that
 * its largest magnitude is the largest number of the format ("current scaling": Transformer
 * Engine's tensorwise recipe, NVIDIA 2024; Micikevicius et al. 2022).
 *
 *     amax   = max |x|                                        (op amax; 0 of a NaN-free zero tensor)
 *     scale  = amax / largest, 1 where amax is 0 or not finite
 *     q      = saturate(round(x / scale))
 *     linear:        y  = xscale wscale (xq wqᵀ)              x e4m3, w e4m3
 *     linear.dgrad:  dx = dyscale wscale (dyq (wqᵀ)ᵀ)          dy e5m2, w's transposed copy
 *     linear.wgrad:  dw += dyscale xscale (dyqᵀ (xqᵀ)ᵀ)        both transposed copies
 *
 * Hopper's 8-bit products read both operands along the summed dim, which is why a tensor that two
 * products read is written twice, straight and transposed. A NaN stays a NaN through all of it.
 */
#include "core/ops/common.h"
#include "core/ops/f8.h"

static bool is_f8(const mr_type *t)
{
    return mr_is(t, "f8e4m3") || mr_is(t, "f8e5m2");
}

static double largest(const char *dtype)
{
    return strcmp(dtype, "f8e5m2") ? MRI_E4M3_MAX : MRI_E5M2_MAX;
}

/* ---- amax ------------------------------------------------------------------------------------ */

static mr_status amax_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    return mri_infer(c, out, err, "amax", "x:F[*] -> amax:f32[1]", NULL);
}

static mr_status amax_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    mri_view x = mri_in_view(c, in, 0), amax = mri_out_view(c, out, 0);
    double most = 0;
    (void)err;
    for (int64_t i = 0; i < mr_numel(c->in[0]); i++) {
        double a = fabs(mri_get(x, i));
        most = a > most || isnan(a) ? a : most; /* NaN, once there, stays */
    }
    mri_put(amax, 0, most);
    return 0;
}

static void amax_cost(const mr_call *c, mr_cost *cost)
{
    mri_cost(c, cost, (double)mr_numel(c->in[0]), 0);
}

/* ---- quantize -------------------------------------------------------------------------------- */

static mr_status quantize_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    const mr_type *x = c->in[0];
    const char *dtype = mri_dtype_name(mr_attr_s(c, "dtype", "f8e4m3"));
    if (!x->rank || !mr_last(x))
        return mri_op_fail(err, "quantize", "x has no rows");
    *out[0] = *x;
    out[0]->dtype = dtype;
    *out[1] = mr_type1("f32", 1);
    if (c->n_out > 2)
        *out[2] = mr_type2(dtype, mr_last(x), mr_rows(x));
    return mri_infer(c, (mr_type *const[]){ NULL }, err, "quantize", "x:F[..,D] amax:f32[1] ->",
                     NULL);
}

static mr_status quantize_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    mri_view x = mri_in_view(c, in, 0), q = mri_out_view(c, out, 0), s = mri_out_view(c, out, 1);
    mri_view qt = mri_out_view(c, out, 2);
    int64_t D = mr_last(c->in[0]), R = mr_rows(c->in[0]);
    double amax = mri_get(mri_in_view(c, in, 1), 0);
    float scale = amax > 0 && isfinite(amax)
                      ? (float)amax / (float)largest(mr_attr_s(c, "dtype", "f8e4m3")) : 1.0f;
    (void)err;
    if (scale < 1e-30f) /* 1 / scale must be a number */
        scale = 1e-30f;
    mri_put(s, 0, scale);
    for (int64_t r = 0; r < R; r++)
        for (int64_t d = 0; d < D; d++) {
            float v = (float)mri_get(x, r * D + d) * (1.0f / scale);
            mri_put(q, r * D + d, v);
            if (qt.kind)
                mri_put(qt, d * R + r, v);
        }
    return 0;
}

static void quantize_cost(const mr_call *c, mr_cost *cost)
{
    mri_cost(c, cost, 2.0 * (double)mr_numel(c->in[0]), 0);
}

/* ---- products -------------------------------------------------------------------------------- */

static mr_status check_f8(const mr_call *c, const char *op, uint32_t a, uint32_t b, mr_err *err)
{
    if (is_f8(c->in[a]) && is_f8(c->in[b]))
        return 0;
    return mri_op_fail(err, op, "operands of dtype %s and %s, must be f8e4m3 or f8e5m2",
                       c->in[a]->dtype, c->in[b]->dtype);
}

static mr_status linear_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    const char *dtype = mri_dtype_name(mr_attr_s(c, "out_dtype", "bf16"));
    mr_type x = *c->in[0];
    mr_status st = check_f8(c, "linear.fp8", 0, 2, err);
    if (!st && !dtype)
        st = mri_op_fail(err, "linear.fp8", "out_dtype is no dtype");
    if (!st)
        st = mri_infer(c, (mr_type *const[]){ NULL }, err, "linear.fp8",
                       "x:*[..,I] xscale:f32[1] w:*[O,I] wscale:f32[1] bias:F[O] ->", NULL);
    if (st)
        return st;
    x.dtype = dtype;
    x.dim[x.rank - 1] = c->in[2]->dim[0];
    *out[0] = x;
    return 0;
}

static mr_status linear_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    mri_view x = mri_in_view(c, in, 0), w = mri_in_view(c, in, 2), bias = mri_in_view(c, in, 4);
    mri_view y = mri_out_view(c, out, 0);
    int64_t T = mr_rows(c->in[0]), I = mr_last(c->in[0]), O = c->in[2]->dim[0];
    double scale = mri_get(mri_in_view(c, in, 1), 0) * mri_get(mri_in_view(c, in, 3), 0);
    (void)err;
    for (int64_t t = 0; t < T; t++)
        for (int64_t o = 0; o < O; o++) {
            double sum = 0;
            for (int64_t i = 0; i < I; i++)
                sum += mri_get(x, t * I + i) * mri_get(w, o * I + i);
            mri_put(y, t * O + o, sum * scale + (bias.kind ? mri_get(bias, o) : 0));
        }
    return 0;
}

static void linear_cost(const mr_call *c, mr_cost *cost)
{
    mri_cost(c, cost, 2.0 * (double)mr_numel(c->out[0]) * (double)mr_last(c->in[0]), 0);
}

static mr_status wgrad_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    mr_status st = check_f8(c, "linear.fp8.wgrad", 0, 2, err);
    return st ? st : mri_infer(c, out, err, "linear.fp8.wgrad",
                               "dyt:*[O,T] dyscale:f32[1] xt:*[I,T] xscale:f32[1] dw:f32[O,I] ->",
                               NULL);
}

static mr_status wgrad_first_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    mr_status st = check_f8(c, "linear.fp8.wgrad.first", 0, 2, err);
    return st ? st : mri_infer(c, out, err, "linear.fp8.wgrad.first",
                               "dyt:*[O,T] dyscale:f32[1] xt:*[I,T] xscale:f32[1] -> dw:f32[O,I]",
                               NULL);
}

static void wgrad_loops(const mr_call *c, const mr_buf *in, mri_view dw)
{
    mri_view dyt = mri_in_view(c, in, 0), xt = mri_in_view(c, in, 2);
    int64_t O = c->in[0]->dim[0], T = c->in[0]->dim[1], I = c->in[2]->dim[0];
    double scale = mri_get(mri_in_view(c, in, 1), 0) * mri_get(mri_in_view(c, in, 3), 0);
    for (int64_t o = 0; o < O; o++)
        for (int64_t i = 0; i < I; i++) {
            double sum = 0;
            for (int64_t t = 0; t < T; t++)
                sum += mri_get(dyt, o * T + t) * mri_get(xt, i * T + t);
            mri_acc(dw, o * I + i, sum * scale);
        }
}

static mr_status wgrad_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    (void)out, (void)err;
    wgrad_loops(c, in, mri_in_view(c, in, 4));
    return 0;
}

static mr_status wgrad_first_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    (void)err;
    memset(out[0].data, 0, mr_bytes(c->out[0]));
    wgrad_loops(c, in, mri_out_view(c, out, 0));
    return 0;
}

static void wgrad_cost(const mr_call *c, mr_cost *cost)
{
    double flops = 2.0 * (double)mr_numel(c->in[0]) * (double)c->in[2]->dim[0];
    mri_cost(c, cost, flops, c->n_in > 4 ? 1 << 4 : 0);
}

const mr_op_def mri_ops_fp8[] = {
    { MRI_OP, .flags = MR_OP_NO_VJP, .id = "amax", .doc = "amax = max |x|, NaN if there is one",
      .sig = "x -> amax", .shape = amax_shape, .ref = amax_ref, .cost = amax_cost,
      .cases = MRI_CASES("x=F[7,33]", "x=F[1]{-3}", "x=F[2,3]zero") },
    { MRI_OP, .flags = MR_OP_NO_VJP, .id = "quantize",
      .doc = "q = round(x / scale), scale = amax / the largest number of dtype; qt = qᵀ",
      .sig = "x amax -> q scale qt?", .attrs = "dtype:s=f8e4m3|f8e5m2", .shape = quantize_shape,
      .ref = quantize_ref, .cost = quantize_cost,
      .cases = MRI_CASES("x=F[16,32] amax=f32[1]{4.5}", "x=F[1,3] amax=f32[1]{7} @dtype=f8e5m2",
                         "x=F[48,80] amax=f32[1]{3}") },
    { MRI_OP, .flags = MR_OP_NO_VJP, .id = "linear.fp8",
      .doc = "y = xscale wscale (x wᵀ) + bias, of 8-bit floats",
      .sig = "x xscale w wscale bias? -> y", .attrs = "out_dtype:s=bf16|f32",
      .shape = linear_shape, .ref = linear_ref, .cost = linear_cost,
      .cases = MRI_CASES("x=f8e4m3[32,64] xscale=f32[1]{0.5} w=f8e4m3[48,64] wscale=f32[1]{0.25}",
                         "x=f8e5m2[16,32] xscale=f32[1]{2} w=f8e4m3[16,32] wscale=f32[1]{0.125}") },
    { MRI_OP, .flags = MR_OP_NO_VJP, .id = "linear.fp8.wgrad",
      .doc = "dw += dyscale xscale (dyt xtᵀ), of transposed copies",
      .sig = "dyt dyscale xt xscale dw! ->", .shape = wgrad_shape, .ref = wgrad_ref,
      .cost = wgrad_cost,
      .cases = MRI_CASES("dyt=f8e5m2[48,64] dyscale=f32[1]{0.5} xt=f8e4m3[32,64] "
                         "xscale=f32[1]{0.25} dw=f32[48,32]") },
    { MRI_OP, .flags = MR_OP_NO_VJP, .id = "linear.fp8.wgrad.first",
      .doc = "dw = dyscale xscale (dyt xtᵀ): the first micro-batch's",
      .sig = "dyt dyscale xt xscale -> dw", .shape = wgrad_first_shape, .ref = wgrad_first_ref,
      .cost = wgrad_cost,
      .cases = MRI_CASES("dyt=f8e5m2[48,64] dyscale=f32[1]{0.5} xt=f8e4m3[32,64] "
                         "xscale=f32[1]{0.25}") },
    MRI_OPS_END
};
