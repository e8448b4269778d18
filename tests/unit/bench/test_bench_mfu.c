/* SPDX-License-Identifier: Apache-2.0
 * The flops of a token by the formula, for a model whose numbers can be counted by hand: the
 * bench profile's, planned without taking memory. */
#include "apps/mrun/bench_mfu.h"
#include "tests/kit.h"

static bench_work work_of(const char *const *sets)
{
    char *path = mri_format("%s/profiles/bench-llama4.ini", getenv("MRUN_SOURCE"));
    kit k = kit_open(path, sets, (mri_session_options){ .needs = MRI_NEED_TRAIN, .dry = true });
    bench_work w = bench_work_of(k.session->train, k.session->config->train.seq);
    kit_close(&k);
    free(path);
    return w;
}

/* a layer without its experts: q and o 2 D², k and v D², shared 3 D F, router E D, two norms */
static const double D = 2048, F = 4096, V = 32768, E = 16, L = 8;

static double expected(double experts_met)
{
    double layer = 3 * D * D + 3 * D * F + E * D + 2 * D;
    return L * (layer + experts_met * 3 * D * F) + D + V * D;
}

Test(mfu, counts_what_a_token_meets)
{
    static const char *const top1[] = { "backend.plugin=ref", NULL };
    static const char *const top2[] = { "backend.plugin=ref", "model.llama4.experts_per_token=2",
                                        "model.llama4.attention_chunk=1024", NULL };
    bench_work one = work_of(top1), two = work_of(top2);
    cr_assert_float_eq(one.active, expected(1), 0.5, "%.1f", one.active);
    cr_assert_float_eq(two.active, expected(2), 0.5, "%.1f", two.active);
    cr_assert_float_eq(one.attention, 3 * L * 16 * 4096 * 256, 0.5, "%.1f", one.attention);
    cr_assert_float_eq(two.attention, one.attention / 4, 0.5, "%.1f", two.attention);
    cr_assert_float_eq(one.flops, 6 * one.active + one.attention, 0.5);
}

Test(mfu, does_not_count_a_table_twice)
{
    static const char *const tied[] = { "backend.plugin=ref", "model.llama4.tie=true", NULL };
    bench_work w = work_of(tied);
    cr_assert_float_eq(w.active, expected(1), 0.5, "%.1f", w.active);
}

Test(mfu, knows_some_makers_figures)
{
    cr_assert_eq(bench_stated_peak("an unknown device"), 0);
    cr_assert_eq(bench_stated_peak(NULL), 0);
    cr_assert_gt(bench_stated_peak("NVIDIA H200, 132 SMs"), bench_stated_peak("NVIDIA A100-SXM4"));
}
