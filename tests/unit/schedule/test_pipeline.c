/* SPDX-License-Identifier: Apache-2.0
 *
 * test_pipeline.c - orders of pipelines: their bubbles are the textbook's, slots are as few as the
 * order needs, and the verifier finds what is wrong.
 */
#include "core/schedule/pipeline.h"
#include <criterion/criterion.h>
#include <math.h>

static mri_pipeline make(mri_pipeline_options o)
{
    mri_pipeline p;
    mr_err err = MR_ERR_INIT;
    cr_assert_eq(mri_pipeline_make(&o, &p, &err), 0, "%u stages, %u chunks, %u micro-batches: %s",
                 o.stages, o.chunks, o.micros, err.what);
    return p;
}

static double bubble_of(mri_pipeline_options o)
{
    mri_pipeline p = make(o);
    double b = mri_pipeline_bubble(&p);
    mri_pipeline_free(&p);
    return b;
}

Test(pipeline, bubbles)
{
    for (uint32_t s = 1; s <= 8; s++)
        for (uint32_t m = s; m <= 3 * s; m += s)
            for (uint32_t c = 1; c <= 4; c++) {
                mri_pipeline_options o = { .stages = s, .chunks = c, .micros = m,
                                           .kind = MRI_PIPELINE_INTERLEAVED };
                double want = (s - 1) / (double)(m * c);
                cr_assert_lt(fabs(bubble_of(o) - want), 1e-12, "%u x %u, %u: interleaved", s, c, m);
                if (c > 1)
                    continue;
                o.kind = MRI_PIPELINE_1F1B;
                cr_assert_lt(fabs(bubble_of(o) - want), 1e-12, "%u, %u: 1F1B", s, m);
                o.kind = MRI_PIPELINE_ZERO_BUBBLE; /* (S - 1) (F + B - W) of M (F + B + W) */
                if (m > s || s < 3)
                    cr_assert_lt(fabs(bubble_of(o) - want / 3), 1e-12, "%u, %u: zero bubble", s, m);
            }
}

/* Numbers without a rule of their own: every one of them must end, by both ways of receiving. */
Test(pipeline, all_end)
{
    for (uint32_t kind = 0; kind <= MRI_PIPELINE_ZERO_BUBBLE; kind++)
        for (uint32_t s = 1; s <= 6; s++)
            for (uint32_t m = 1; m <= 13; m++)
                for (int early = 0; early < 2; early++) {
                    bool groups = kind == MRI_PIPELINE_INTERLEAVED;
                    mri_pipeline_options o = { .kind = kind, .stages = s, .micros = m,
                                               .chunks = groups ? 3 : 1, .early = early };
                    mri_pipeline p;
                    mr_err err = MR_ERR_INIT;
                    mr_status st = mri_pipeline_make(&o, &p, &err);
                    bool legal = !groups || (m >= s && m % s == 0);
                    cr_assert_eq(!st, legal, "kind %u, %u stages, %u: %s", kind, s, m, err.what);
                    if (!st)
                        mri_pipeline_free(&p);
                }
    mri_pipeline_options larger = { .kind = MRI_PIPELINE_INTERLEAVED, .stages = 3, .chunks = 2,
                                    .micros = 13, .group = 5 };
    mri_pipeline p = make(larger); /* groups of 5, 5 and 3 */
    mri_pipeline_free(&p);
}

/* Megatron-LM's factor for interleaved orders: 1 + (S - 1) / (S C) of the model's layers, which are
 * S C chunks, where S - s are what 1F1B has on stage s. */
Test(pipeline, first_stage_has_the_textbook_number_in_flight)
{
    for (uint32_t s = 2; s <= 8; s++)
        for (uint32_t c = 2; c <= 4; c++) {
            mri_pipeline_options o = { .stages = s, .chunks = c, .micros = 4 * s,
                                       .kind = MRI_PIPELINE_INTERLEAVED };
            mri_pipeline p = make(o);
            double layers = 1 + (s - 1) / (double)(s * c);
            cr_assert_lt(fabs(p.slots[0] - s * c * layers), 1e-9, "%u x %u: %u", s, c, p.slots[0]);
            mri_pipeline_free(&p);
        }
}

Test(pipeline, slots)
{
    mri_pipeline_options o = { .stages = 4, .chunks = 1, .micros = 9 };
    mri_pipeline p = make(o);
    for (uint32_t s = 0; s < 4; s++)
        cr_assert_eq(p.slots[s], 4 - s, "1F1B, stage %u: %u", s, p.slots[s]);
    mri_pipeline_free(&p);
    o.kind = MRI_PIPELINE_ZERO_BUBBLE;
    p = make(o);
    for (uint32_t s = 0; s < 4; s++)
        cr_assert_eq(p.slots[s], 4, "zero bubble, stage %u: %u", s, p.slots[s]);
    mri_pipeline_free(&p);
    o = (mri_pipeline_options){ .stages = 2, .chunks = 2, .micros = 8,
                                .kind = MRI_PIPELINE_INTERLEAVED };
    p = make(o);
    /* stage 0: F of (chunk, micro-batch) 00 01 10 11, then F 02, B 10, F 03, B 11, F 12, B 00 */
    cr_assert_eq(p.slots[0], 5, "%u", p.slots[0]);
    /* stage 1: F 00 01, then F 10, B 10, F 11, B 11, F 02, B 00 */
    cr_assert_eq(p.slots[1], 3, "%u", p.slots[1]);
    mri_pipeline_free(&p);
}

Test(pipeline, a_value_that_skips_stages)
{
    const mri_link links[] = { { 0, 1 }, { 1, 2 }, { 2, 3 }, { 0, 3 } };
    mri_pipeline_options o = { .stages = 4, .chunks = 1, .micros = 6, .links = links,
                               .n_links = 4, .early = true };
    mri_pipeline p = make(o);
    cr_assert_eq(p.messages.n, 4 * 6 * 2);
    mri_pipeline_free(&p);
    const mri_link home = { 0, 4 };
    o.chunks = 2;
    o.kind = MRI_PIPELINE_INTERLEAVED;
    o.micros = 8;
    o.links = &home;
    o.n_links = 1;
    mr_err err = MR_ERR_INIT;
    cr_assert_eq(mri_pipeline_make(&o, &p, &err), MR_E_PROFILE_CONFLICT);
    cr_assert(strstr(err.what, "of the same"), "%s", err.what);
}

Test(pipeline, verify_finds_faults)
{
    mri_pipeline_options o = { .stages = 3, .chunks = 1, .micros = 5 };
    mr_err err = MR_ERR_INIT;
    mri_pipeline p = make(o);
    mri_task *t = p.stage[1].v;
    mri_task kept = t[0];
    t[0] = t[2]; /* a backward before its forward */
    t[2] = kept;
    cr_assert_eq(mri_pipeline_verify(&p, &err), MR_E_PLAN_VERIFY);
    cr_assert(strstr(err.what, "out of order"), "%s", err.what);
    t[2] = t[0];
    t[0] = kept;
    cr_assert_eq(mri_pipeline_verify(&p, &err), 0, "%s", err.what);

    t[1].slot = t[0].slot; /* two micro-batches in one slot */
    cr_assert_eq(mri_pipeline_verify(&p, &err), MR_E_PLAN_VERIFY);
    mri_pipeline_free(&p);

    p = make(o);
    for (size_t i = 0; i < p.messages.n; i++) /* gradients received before anything is sent */
        if (p.messages.v[i].back) {
            mri_message first = p.messages.v[i];
            memmove(p.messages.v + 1, p.messages.v, i * sizeof first);
            p.messages.v[0] = first;
            break;
        }
    cr_assert_eq(mri_pipeline_verify(&p, &err), MR_E_PLAN_VERIFY);
    cr_assert(strstr(err.what, "waits for ever"), "%s", err.what);
    mri_pipeline_free(&p);
}

Test(pipeline, costs_fill_in_times)
{
    const double cost[2][3] = { { 1, 1, 1 }, { 2, 2, 2 } };
    mri_pipeline_options o = { .stages = 2, .chunks = 1, .micros = 4, .cost = cost,
                               .latency = 0.5 };
    mri_pipeline p = make(o); /* F of stage 0, a message, 4 x 6 on stage 1, a message, B */
    cr_assert_lt(fabs(p.time - (1 + 0.5 + 24 + 0.5 + 2)), 1e-12, "%g", p.time);
    cr_assert_lt(fabs(p.ideal - 24), 1e-12, "%g", p.ideal);
    mri_str s = { 0 };
    mri_pipeline_print(&p, 28, &s);
    cr_assert_str_eq(s.s, "  stage   0 01......aa2...bb3...cc....dd\n"
                          "  stage   1 .00aaaa11bbbb22cccc33dddd...\n");
    mri_str_free(&s);
    mri_pipeline_free(&p);
}
