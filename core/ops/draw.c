/* SPDX-License-Identifier: Apache-2.0
 *
 * draw.c - first values of a parameter, made where it lives: x[j] = element first + j of the
 * stream (seed, stream) of Philox4x32-10, written as masters and weights (masters.h). A part of a
 * parameter that is cut in one dim is runs of `run` elements, `step` apart in the stream: then
 * x[j] = element first + (j / run) * step + j % run.
 *
 * The bits are the definition: core/base/rng.c makes normal deviates with + - * / and sqrt in
 * double alone, which every device rounds alike, so a model starts from the same weights
 * wherever it runs. A backend may draw in any order; each element is a function of its index.
 */
#include "core/ops/draw.h"
#include "core/ops/masters.h"

static void draw_constant(mri_rng r, uint64_t first, uint64_t n, double scale, float *out)
{
    (void)r, (void)first;
    for (uint64_t j = 0; j < n; j++)
        out[j] = (float)scale;
}

static void draw_uniform(mri_rng r, uint64_t first, uint64_t n, double scale, float *out)
{
    for (uint64_t j = 0; j < n; j++)
        out[j] = (float)(scale * (2 * mri_rng_uniform(r, first + j) - 1));
}

static const struct {
    const char *name;
    void (*draw)(mri_rng r, uint64_t first, uint64_t n, double scale, float *out);
} kinds[] = {
    { "normal", mri_rng_normals },
    { "constant", draw_constant },
    { "uniform", draw_uniform },
};

bool mri_draw(const char *kind, mri_rng r, uint64_t first, uint64_t n, double scale, float *out)
{
    for (size_t k = 0; kind && k < sizeof kinds / sizeof *kinds; k++)
        if (!strcmp(kind, kinds[k].name)) {
            kinds[k].draw(r, first, n, scale, out);
            return true;
        }
    return false;
}

/* ---- the op ---------------------------------------------------------------------------------- */
enum { WEIGHTS = 1, PART = 1024 };

static mr_status draw_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    if (!mri_in(c, 0) && !mri_in(c, WEIGHTS))
        return mri_op_fail(err, "draw", "there is neither master nor weights to write");
    if (mr_attr_i(c, "first", 0) < 0)
        return mri_op_fail(err, "draw", "first is %lld, must be 0 or more",
                           (long long)mr_attr_i(c, "first", 0));
    if (mr_attr_i(c, "run", 0) < 0 || mr_attr_i(c, "step", 0) < mr_attr_i(c, "run", 0))
        return mri_op_fail(err, "draw", "runs of %lld elements are %lld apart; the first must be 0 "
                           "(none) or more, the second not less",
                           (long long)mr_attr_i(c, "run", 0), (long long)mr_attr_i(c, "step", 0));
    return mri_masters_infer(c, out, err, "draw", "", WEIGHTS);
}

static mr_status draw_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    mri_masters_view m = mri_masters_at(c, in, WEIGHTS);
    mri_rng r = { (uint64_t)mr_attr_i(c, "seed", 0), (uint64_t)mr_attr_i(c, "stream", 0) };
    uint64_t first = (uint64_t)mr_attr_i(c, "first", 0);
    int64_t n = mr_numel(c->in[0] ? c->in[0] : c->in[WEIGHTS]), now;
    int64_t run = mr_attr_i(c, "run", 0), step = mr_attr_i(c, "step", 0);
    float x[PART];
    (void)out, (void)err;
    for (int64_t i = 0; i < n; i += now) {
        uint64_t at = first + (uint64_t)(run ? i / run * step + i % run : i);
        now = n - i < PART ? n - i : PART;
        now = run && run - i % run < now ? run - i % run : now;
        mri_draw(mr_attr_s(c, "kind", "normal"), r, at, (uint64_t)now, mr_attr_f(c, "scale", 1), x);
        for (int64_t j = 0; j < now; j++)
            mri_master_put(&m, i + j, x[j]);
    }
    return MR_OK;
}

/* about 80 operations on integers and doubles a normal deviate; every operand is written only */
static void draw_cost(const mr_call *c, mr_cost *cost)
{
    mri_cost(c, cost, 80 * (double)mr_numel(mri_in(c, 0) ? c->in[0] : c->in[WEIGHTS]), 0);
}

const mr_op_def mri_ops_draw[] = {
    { MRI_OP, .id = "draw", .flags = MR_OP_NO_VJP,
      .doc = "master, weights = elements first.. of the stream: normal (0, scale), uniform "
             "(-scale, scale) or constant; Salmon et al. 2011, Box & Muller 1958",
      .sig = "master!? weights!? ->",
      .attrs = "seed:i stream:i kind:s=normal|uniform|constant first:i=0 scale:f=1 "
               "run:i=0 step:i=0",
      .shape = draw_shape, .ref = draw_ref, .cost = draw_cost,
      .cases = MRI_CASES(
          "master=f32[23] @seed=1 @stream=77 @scale=0.02",
          "master=f32[23] weights=bf16[23] @seed=1 @stream=-1234567890123456789 @first=7",
          "master=i16[23]<9 weights=bf16[23] @seed=9007199254740992 @stream=5 @first=4294967295",
          "weights=bf16[23] @seed=0 @stream=0 @scale=0.5",
          "master=f32[23] weights=bf16[23] @seed=1 @stream=77 @first=6 @run=5 @step=9",
          "master=f32[23] @seed=1 @stream=77 @kind=uniform @first=5 @run=4 @step=7",
          "master=f32[23] @seed=3 @stream=4 @kind=uniform @first=1 @scale=0.1",
          "master=i16[23]<9 weights=bf16[23] @seed=3 @stream=4 @kind=constant @scale=0.3") },
    MRI_OPS_END
};
