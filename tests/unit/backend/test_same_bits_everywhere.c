/* SPDX-License-Identifier: Apache-2.0
 *
 * What a run keeps has the same bits on every backend, instruction set and thread count: first
 * values of parameters, from any element on, and updates of them, tiny moments and zeros
 * included, in whatever form masters are kept.
 */
#include "backend_rig.h"
#include <unistd.h>

static void same_bits(rig *r, const char *op, const char *text)
{
    const mr_op_def *def = mri_op_find(op);
    mr_err err = MR_ERR_INIT;
    mri_case c;
    cr_assert_eq(mri_case_make(def, text, "f32", 7, &c, &err), MR_OK, "%s: %s", text, err.what);
    rig_bufs want = rig_copy(&c.call, c.in), got = rig_copy(&c.call, c.in);
    cr_assert_eq(def->ref(&c.call, want.in, want.out, &err), MR_OK);
    rig_run(r, text, def, &c.call, &got);
    for (uint32_t i = 0; i < c.call.n_in; i++)
        cr_assert(!c.in_ptr[i] ||
                      !memcmp(got.in[i].data, want.in[i].data, mr_bytes(c.in_ptr[i])),
                  "%s %s: operand %u has other bits", op, text, i);
    rig_free(&want);
    rig_free(&got);
    mri_case_free(&c);
}

static void draws(rig *r)
{
    static const char *const forms[] = { "master=f32[70001]",
                                         "master=f32[70001] weights=bf16[70001]",
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
                same_bits(r, "draw", text);
            }
    same_bits(r, "draw", "master=f32[1] @seed=1 @stream=2 @first=3");
}

#define SCALARS "weight_decay=f32[1]{0.1} grad_scale=f32[1]{0.7} ok=f32[1]{1} "
/* moments of rows that were not looked up for long: 0, denormal, at the edge of eps */
#define OLD_ROWS "exp_avg=f32[12]{0,0,0,1e-40,1e-3,0,-1e-44,1,1e-39,-1e-30,1e-8,0} " \
                 "exp_avg_sq=f32[12]{0,1e-45,3e-39,0,1e-33,6e-33,1e-20,0,1e-37,1e-34,2e-33,1e-30} "

static void updates(rig *r)
{
    static const char *const forms[] = { "master=f32[%d] ", "master=f32[%d] weights=bf16[%d] ",
                                         "master=i16[%d]<32768 weights=bf16[%d] " };
    char master[80], text[400];
    for (int f = 0; f < 3; f++) {
        snprintf(master, sizeof master, forms[f], 40003, 40003);
        for (int step = 1; step < 2000; step = step * 3 + 4) {
            snprintf(text, sizeof text, "%s exp_avg=f32[40003] exp_avg_sq=f32[40003]pos "
                     "grad=f32[40003] lr=f32[1]{0.01} step=f32[1]{%d} " SCALARS, master, step);
            same_bits(r, "adamw", text);
        }
        snprintf(text, sizeof text, "%s momentum=f32[40003] grad=f32[40003] lr=f32[1]{0.01} "
                 SCALARS "@momentum=0.9 @nesterov=1", master);
        same_bits(r, "sgd", text);
        snprintf(text, sizeof text, "%s grad=f32[40003] lr=f32[1]{0.01} " SCALARS, master);
        same_bits(r, "sgd", text);
        snprintf(master, sizeof master, forms[f], 12, 12);
        for (int decay = 0; decay < 2; decay++) {
            snprintf(text, sizeof text, "%s " OLD_ROWS "grad=f32[12]zero lr=f32[1]{1} "
                     "step=f32[1]{900} weight_decay=f32[1]{%d} grad_scale=f32[1]{1} ok=f32[1]{1}",
                     master, decay);
            same_bits(r, "adamw", text);
        }
    }
}

static void on_every_instruction_set(void (*what)(rig *))
{
    static const char *const isas[] = { "x86-64-v2", "avx2", "avx512" };
    int opened = 0;
    for (int i = 0; i < 3; i++) {
        rig r;
        mr_err err = MR_ERR_INIT;
        if (rig_try_open(&r, "cpu", &(rig_cpu){ .threads = 1 + i, .isa = isas[i] }, &err))
            continue;
        cr_assert_eq(r.ops->stream_create(r.dev, 0, &r.stream, &err), MR_OK);
        what(&r);
        rig_close(&r);
        opened++;
    }
    cr_assert_geq(opened, 1);
}

static void on_a_gpu(void (*what)(rig *))
{
    rig r;
    mr_err err = MR_ERR_INIT;
    char *path = mri_format("%s/plugins/backend/cuda/cuda.so", getenv("MRUN_BUILD"));
    int built = !access(path, R_OK);
    free(path);
    if (!built || rig_try_open(&r, "cuda", &(rig_cuda){ 0 }, &err))
        cr_skip_test("no GPU");
    cr_assert_eq(r.ops->stream_create(r.dev, 0, &r.stream, &err), MR_OK);
    what(&r);
    rig_close(&r);
}

Test(draw, on_every_instruction_set)
{
    on_every_instruction_set(draws);
}

Test(draw, on_a_gpu)
{
    on_a_gpu(draws);
}

Test(update, on_every_instruction_set)
{
    on_every_instruction_set(updates);
}

Test(update, on_a_gpu)
{
    on_a_gpu(updates);
}
