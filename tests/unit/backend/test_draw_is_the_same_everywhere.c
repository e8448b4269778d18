/* SPDX-License-Identifier: Apache-2.0
 *
 * First values of parameters have the same bits on every backend, instruction set and thread
 * count, from any element on, in whatever form they are kept.
 */
#include "backend_rig.h"
#include <unistd.h>

static void same_bits(rig *r, const char *text)
{
    const mr_op_def *def = mri_op_find("draw");
    mr_err err = MR_ERR_INIT;
    mri_case c;
    cr_assert_eq(mri_case_make(def, text, "f32", 7, &c, &err), MR_OK, "%s: %s", text, err.what);
    rig_bufs want = rig_copy(&c.call, c.in), got = rig_copy(&c.call, c.in);
    cr_assert_eq(def->ref(&c.call, want.in, want.out, &err), MR_OK);
    rig_run(r, text, def, &c.call, &got);
    for (uint32_t i = 0; i < c.call.n_in; i++)
        cr_assert(!c.in_ptr[i] ||
                      !memcmp(got.in[i].data, want.in[i].data, mr_bytes(c.in_ptr[i])),
                  "%s: operand %u has other bits", text, i);
    rig_free(&want);
    rig_free(&got);
    mri_case_free(&c);
}

static void draws(rig *r)
{
    static const char *const forms[] = { "master=f32[70001]", "master=f32[70001] weights=bf16[70001]",
                                         "master=i16[70001] weights=bf16[70001]",
                                         "weights=bf16[70001]" };
    static const char *const from[] = { "", "@first=1", "@first=8589934591" };
    static const char *const kinds[] = { "normal", "uniform", "constant" };
    char text[200];
    for (int f = 0; f < 4; f++)
        for (int o = 0; o < 3; o++)
            for (int k = 0; k < 3; k++) {
                snprintf(text, sizeof text, "%s %s @kind=%s @scale=0.37 @seed=9007199254740991 "
                         "@stream=-%d123456789012345678", forms[f], from[o], kinds[k], k + 1);
                same_bits(r, text);
            }
    same_bits(r, "master=f32[1] @seed=1 @stream=2 @first=3");
}

Test(draw, on_every_instruction_set)
{
    static const char *const isas[] = { "x86-64-v2", "avx2", "avx512" };
    int opened = 0;
    for (int i = 0; i < 3; i++) {
        rig r;
        mr_err err = MR_ERR_INIT;
        if (rig_try_open(&r, "cpu", &(rig_cpu){ .threads = 1 + i, .isa = isas[i] }, &err))
            continue;
        cr_assert_eq(r.ops->stream_create(r.dev, 0, &r.stream, &err), MR_OK);
        draws(&r);
        rig_close(&r);
        opened++;
    }
    cr_assert_geq(opened, 1);
}

Test(draw, on_a_gpu)
{
    rig r;
    mr_err err = MR_ERR_INIT;
    char *path = mri_format("%s/plugins/backend/cuda/cuda.so", getenv("MRUN_BUILD"));
    int built = !access(path, R_OK);
    free(path);
    if (!built || rig_try_open(&r, "cuda", &(rig_cuda){ 0 }, &err))
        cr_skip_test("no GPU");
    cr_assert_eq(r.ops->stream_create(r.dev, 0, &r.stream, &err), MR_OK);
    draws(&r);
    rig_close(&r);
}
