/* SPDX-License-Identifier: Apache-2.0
 * Schedules at their corners: 0, W, W+1, the middle, N, N+1. */
#include "core/schedule/lr.h"
#include <criterion/criterion.h>
#include <math.h>

enum { W = 10, N = 110 };

static mri_cfg_optimizer schedule(const char *name)
{
    return (mri_cfg_optimizer){ .lr = 1, .min_lr = 0.1, .init_lr = 0.5, .schedule = name,
                                .warmup = W };
}

#define EXPECT_LR(o, step, want) \
    cr_assert_float_eq(mri_lr(o, step, N), want, 1e-12, "%s at %d is %.15g, expected %.15g", \
                       (o)->schedule, (int)(step), mri_lr(o, step, N), (double)(want))

Test(schedule, warm_up_rises_from_init_lr_in_a_line)
{
    static const char *const all[] = { "constant", "linear", "cosine", "inverse-square-root" };
    for (int i = 0; i < 4; i++) {
        mri_cfg_optimizer o = schedule(all[i]);
        EXPECT_LR(&o, 0, 0.5);
        EXPECT_LR(&o, W / 2, 0.75);
        EXPECT_LR(&o, W, 1);
    }
}

Test(schedule, without_warm_up_starts_at_lr)
{
    static const char *const all[] = { "constant", "linear", "cosine", "inverse-square-root" };
    for (int i = 0; i < 4; i++) {
        mri_cfg_optimizer o = schedule(all[i]);
        o.warmup = 0;
        EXPECT_LR(&o, 0, 1);
    }
}

Test(schedule, constant_never_falls)
{
    mri_cfg_optimizer o = schedule("constant");
    EXPECT_LR(&o, W + 1, 1);
    EXPECT_LR(&o, N, 1);
    EXPECT_LR(&o, N + 1, 1);
}

Test(schedule, linear_falls_in_a_line)
{
    mri_cfg_optimizer o = schedule("linear");
    EXPECT_LR(&o, W + 1, 0.1 + 0.9 * 0.99);
    EXPECT_LR(&o, (W + N) / 2, 0.55);
    EXPECT_LR(&o, N, 0.1);
    EXPECT_LR(&o, N + 1, 0.1);
}

Test(schedule, cosine_falls_as_half_a_wave)
{
    mri_cfg_optimizer o = schedule("cosine");
    EXPECT_LR(&o, W + 1, 0.1 + 0.9 * 0.5 * (1 + cos(M_PI * 0.01)));
    EXPECT_LR(&o, (W + N) / 2, 0.55);
    EXPECT_LR(&o, W + 25, 0.1 + 0.9 * 0.5 * (1 + sqrt(0.5)));
    EXPECT_LR(&o, N, 0.1);
    EXPECT_LR(&o, N + 1, 0.1);
}

Test(schedule, inverse_square_root_stops_at_min_lr)
{
    mri_cfg_optimizer o = schedule("inverse-square-root");
    EXPECT_LR(&o, W + 1, sqrt(10.0 / 11));
    EXPECT_LR(&o, 4 * W, 0.5);
    EXPECT_LR(&o, N, sqrt(10.0 / 110));
    EXPECT_LR(&o, N + 1, 0.1);
    o.min_lr = 0.4;
    EXPECT_LR(&o, N, 0.4);
    o.warmup = 0;
    EXPECT_LR(&o, 4, 0.5);
}

Test(schedule, wsd_is_stable_then_anneals)
{
    static const struct {
        const char *shape;
        double half, quarter; /* what is left in the middle, and after a quarter */
    } shapes[] = { { "linear", 0.5, 0.75 },
                   { "cosine", 0.5, 0.5 * (1 + M_SQRT1_2) },
                   { "exponential", 2 * M_SQRT1_2 - 1, 0.6817928305074292 },
                   { "minus_sqrt", 1 - M_SQRT1_2, 0.5 } };
    for (int i = 0; i < 4; i++) {
        mri_cfg_optimizer o = schedule("wsd");
        o.wsd_steps = 20;
        o.wsd_decay = shapes[i].shape;
        EXPECT_LR(&o, 0, 0.5);
        EXPECT_LR(&o, W, 1);
        EXPECT_LR(&o, W + 1, 1);
        EXPECT_LR(&o, N - 20, 1);
        EXPECT_LR(&o, N - 15, 0.1 + 0.9 * shapes[i].quarter);
        EXPECT_LR(&o, N - 10, 0.1 + 0.9 * shapes[i].half);
        EXPECT_LR(&o, N, 0.1);
        EXPECT_LR(&o, N + 1, 0.1);
    }
}

Test(schedule, decay_steps_replace_the_length_of_the_run)
{
    mri_cfg_optimizer o = schedule("linear");
    o.decay_steps = 60;
    EXPECT_LR(&o, 35, 0.55);
    EXPECT_LR(&o, 60, 0.1);
    EXPECT_LR(&o, 61, 0.1);
}

Test(schedule, weight_decay_goes_from_start_to_end)
{
    cr_assert_eq(mri_weight_decay("constant", 0.1, 0.1, 100, 0), 0.1);
    cr_assert_float_eq(mri_weight_decay("linear", 0.1, 0.5, 100, 0), 0.1, 1e-15);
    cr_assert_float_eq(mri_weight_decay("linear", 0.1, 0.5, 100, 25), 0.2, 1e-15);
    cr_assert_float_eq(mri_weight_decay("cosine", 0.1, 0.5, 100, 25),
                       0.1 + 0.4 * 0.5 * (cos(M_PI * 0.75) + 1), 1e-15);
    cr_assert_float_eq(mri_weight_decay("cosine", 0.1, 0.5, 100, 50), 0.3, 1e-15);
    cr_assert_eq(mri_weight_decay("cosine", 0.1, 0.5, 100, 100), 0.5);
    cr_assert_eq(mri_weight_decay("linear", 0.1, 0.5, 100, 101), 0.5);
    cr_assert_eq(mri_weight_decay("linear", 0.1, 0.5, 0, 0), 0.5);
}

Test(schedule, batch_grows_in_equal_shares_of_the_ramp)
{
    /* 16 to 64 by 16: three increments, one every 100 of 300 samples */
    mri_cfg_train t = { .global_batch = 64, .rampup_start = 16, .rampup_increment = 16,
                        .rampup_samples = 300 };
    cr_assert_eq(mri_global_batch(&t, 0), 16);
    cr_assert_eq(mri_global_batch(&t, 99), 16);
    cr_assert_eq(mri_global_batch(&t, 100), 32);
    cr_assert_eq(mri_global_batch(&t, 199), 32);
    cr_assert_eq(mri_global_batch(&t, 200), 48);
    cr_assert_eq(mri_global_batch(&t, 299), 48);
    cr_assert_eq(mri_global_batch(&t, 300), 64);
    cr_assert_eq(mri_global_batch(&t, INT64_MAX), 64);
    t.rampup_start = 0;
    cr_assert_eq(mri_global_batch(&t, 0), 64, "no ramp");
    t = (mri_cfg_train){ .global_batch = 64, .rampup_start = 1, .rampup_increment = 1,
                         .rampup_samples = INT64_MAX };
    cr_assert_eq(mri_global_batch(&t, INT64_MAX - 1), 63, "no overflow");
}
