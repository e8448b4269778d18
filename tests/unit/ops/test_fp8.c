/* SPDX-License-Identifier: Apache-2.0
 * The two 8-bit floats: every code comes back, rounding is to nearest with ties to even, what is
 * too large saturates; and a quantised product is the product of what the codes stand for. */
#include "core/ops/f8.h"
#include "op_run.h"

typedef struct format {
    uint8_t (*to)(float);
    float (*from)(uint8_t);
    float most;
} format;

static const format formats[] = { { mri_f32_to_e4m3, mri_e4m3_to_f32, MRI_E4M3_MAX },
                                  { mri_f32_to_e5m2, mri_e5m2_to_f32, MRI_E5M2_MAX } };

Test(fp8, every_number_of_a_format_comes_back)
{
    for (int k = 0; k < 2; k++)
        for (int c = 0; c < 256; c++) {
            float x = formats[k].from((uint8_t)c);
            if (isfinite(x))
                cr_assert_eq(formats[k].to(x), c, "code %d of format %d is %g", c, k, (double)x);
        }
}

Test(fp8, rounding_is_to_the_nearest_and_ties_to_even)
{
    for (int k = 0; k < 2; k++)
        for (int c = 0; c < 0x7b; c++) { /* between two neighbours, both finite */
            float a = formats[k].from((uint8_t)c), b = formats[k].from((uint8_t)(c + 1));
            float middle = (a + b) / 2;
            cr_assert_eq(formats[k].to(middle), c + (c & 1), "%g between %g and %g",
                         (double)middle, (double)a, (double)b);
            cr_assert_eq(formats[k].to(nextafterf(middle, a)), c);
            cr_assert_eq(formats[k].to(nextafterf(middle, b)), c + 1);
            cr_assert_eq(formats[k].to(-nextafterf(middle, b)), (c + 1) | 0x80);
        }
}

Test(fp8, what_is_too_large_saturates_and_nan_stays)
{
    for (int k = 0; k < 2; k++) {
        cr_assert_eq(formats[k].from(formats[k].to(1e30f)), formats[k].most);
        cr_assert_eq(formats[k].from(formats[k].to(-INFINITY)), -formats[k].most);
        cr_assert(isnan(formats[k].from(formats[k].to(NAN))));
        cr_assert_eq(formats[k].to(0.0f), 0);
        cr_assert_eq(formats[k].to(-0.0f), 0x80);
    }
}

Test(fp8, quantize_uses_the_whole_range)
{
    mri_case *c = run("quantize", "x=F[2,2]{3,-6,0.01,0} amax=f32[1]{6}");
    mri_view q = mri_at(c->call.out[0], &c->out[0]), s = mri_at(c->call.out[1], &c->out[1]);
    cr_assert_eq(mri_get(q, 1), -448);
    cr_assert_float_eq(mri_get(s, 0), 6.0 / 448, 1e-9);
    cr_assert_eq(mri_get(q, 3), 0);
    drop(c);
    c = run("quantize", "x=F[1,2]zero amax=f32[1]{0}");
    s = mri_at(c->call.out[1], &c->out[1]);
    cr_assert_eq(mri_get(s, 0), 1, "zeros have scale 1");
    drop(c);
}

Test(fp8, a_product_is_that_of_the_numbers_times_both_scales)
{
    mri_case *c = run("linear.fp8", "x=f8e4m3[1,2]{2,3} xscale=f32[1]{0.5} w=f8e4m3[1,2]{4,-1} "
                                    "wscale=f32[1]{0.25} @out_dtype=f32");
    mri_view y = mri_at(c->call.out[0], &c->out[0]);
    cr_assert_eq(mri_get(y, 0), (2 * 4 - 3) * 0.125);
    drop(c);
    c = run("linear.fp8.wgrad", "dyt=f8e5m2[1,2]{2,-1} dyscale=f32[1]{2} xt=f8e4m3[1,2]{3,5} "
                                "xscale=f32[1]{1} dw=f32[1,1]{100}");
    mri_view dw = mri_at(c->call.in[4], &c->in[4]);
    cr_assert_eq(mri_get(dw, 0), 100 + 2 * (2 * 3 - 5));
    drop(c);
}
