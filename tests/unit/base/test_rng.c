/* SPDX-License-Identifier: Apache-2.0
 * Random numbers are Philox's, and element i does not depend on how it is reached. */
#include "core/base/rng.h"
#include "core/run/init.h"
#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

/* the known answers that the authors publish with Random123 */
Test(rng, philox_gives_the_published_answers)
{
    static const struct {
        uint32_t counter[4], key[2], out[4];
    } kat[] = {
        { { 0, 0, 0, 0 }, { 0, 0 }, { 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8 } },
        { { ~0u, ~0u, ~0u, ~0u }, { ~0u, ~0u },
          { 0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd } },
        { { 0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344 }, { 0xa4093822, 0x299f31d0 },
          { 0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1 } },
    };
    for (size_t i = 0; i < sizeof kat / sizeof *kat; i++) {
        uint32_t out[4];
        mri_philox4x32(kat[i].counter, kat[i].key, out);
        cr_assert_arr_eq(out, kat[i].out, sizeof out, "vector %zu", i);
    }
}

Test(rng, element_does_not_depend_on_order_or_slice)
{
    enum { N = 257 };
    mri_rng r = mri_rng_named(7, "model.layers.0.w");
    float whole[N], part[N];

    mri_rng_normals(r, 0, N, 0.02, whole);
    for (int i = N - 1; i >= 0; i--)
        cr_assert_eq((float)(0.02 * mri_rng_normal(r, (uint64_t)i)), whole[i], "element %d", i);
    for (uint64_t first = 0; first < N; first += 7) /* odd and even starts */
        mri_rng_normals(r, first, N - first < 7 ? N - first : 7, 0.02, part + first);
    cr_assert_arr_eq(part, whole, sizeof whole);
}

Test(rng, seed_and_name_give_other_numbers)
{
    mri_rng a = mri_rng_named(1, "a"), b = mri_rng_named(1, "b"), c = mri_rng_named(2, "a");
    for (uint64_t i = 0; i < 64; i++) {
        cr_assert_neq(mri_rng_bits(a, i), mri_rng_bits(b, i));
        cr_assert_neq(mri_rng_bits(a, i), mri_rng_bits(c, i));
        cr_assert_neq(mri_rng_bits(a, i), mri_rng_bits(a, i + 1));
    }
    /* both halves of the seed and of the index count */
    cr_assert_neq(mri_rng_bits((mri_rng){ 1, 5 }, 0),
                  mri_rng_bits((mri_rng){ 1 + (1ull << 32), 5 }, 0));
    cr_assert_neq(mri_rng_bits(a, 0), mri_rng_bits(a, 1ull << 33));
}

Test(rng, normal_is_box_muller_of_the_uniforms)
{
    mri_rng r = mri_rng_named(3, "w");
    for (uint64_t b = 0; b < 20000; b++) {
        double u = mri_rng_uniform(r, 2 * b) + 0x1p-53, v = mri_rng_uniform(r, 2 * b + 1);
        double radius = sqrt(-2 * log(u));
        cr_assert_float_eq(mri_rng_normal(r, 2 * b), radius * cos(2 * M_PI * v), 1e-14);
        cr_assert_float_eq(mri_rng_normal(r, 2 * b + 1), radius * sin(2 * M_PI * v), 1e-14);
    }
}

Test(rng, moments_are_those_of_the_distributions)
{
    enum { N = 100000 };
    mri_rng r = mri_rng_named(11, "moments");
    double u1 = 0, u2 = 0, z1 = 0, z2 = 0, z4 = 0, cross = 0, last = 0;

    for (uint64_t i = 0; i < N; i++) {
        double u = mri_rng_uniform(r, i), z = mri_rng_normal(r, i);
        cr_assert(u >= 0 && u < 1);
        u1 += u, u2 += u * u, z1 += z, z2 += z * z, z4 += z * z * z * z;
        cross += z * last;
        last = z;
    }
    /* five standard deviations of each estimate */
    cr_assert_float_eq(u1 / N, 0.5, 5 * 0.2887 / sqrt(N));
    cr_assert_float_eq(u2 / N, 1.0 / 3, 5 * 0.2981 / sqrt(N));
    cr_assert_float_eq(z1 / N, 0, 5 / sqrt(N));
    cr_assert_float_eq(z2 / N, 1, 5 * sqrt(2) / sqrt(N));
    cr_assert_float_eq(z4 / N, 3, 5 * sqrt(96) / sqrt(N));
    cr_assert_float_eq(cross / N, 0, 5 / sqrt(N));
}

static const mri_place all = { 0 };

static mr_param param(const char *init, double scale)
{
    return (mr_param){ .size = sizeof(mr_param),
                       .type = mr_type2("bf16", 6, 5),
                       .placement = "-",
                       .init = init,
                       .scale = scale };
}

Test(init, slices_of_a_parameter_are_the_whole)
{
    static const char *const inits[] = { "normal", "uniform", "constant" };
    for (int k = 0; k < 3; k++) {
        mr_param p = param(inits[k], 0.5);
        mr_err err = MR_ERR_INIT;
        float whole[30], part[30];
        cr_assert_eq(mri_init_fill(&p, &all, "layers.0.w", 1, 0, 30, whole, &err), 0);
        cr_assert_eq(mri_init_fill(&p, &all, "layers.0.w", 1, 0, 13, part, &err), 0);
        cr_assert_eq(mri_init_fill(&p, &all, "layers.0.w", 1, 13, 17, part + 13, &err), 0);
        cr_assert_arr_eq(part, whole, sizeof whole);
        for (uint64_t i = 0; i < 30; i++) {
            double normal = 0.5 * mri_rng_normal(mri_rng_named(1, "layers.0.w"), i);
            cr_assert(k == 0   ? whole[i] == (float)normal
                      : k == 1 ? fabsf(whole[i]) <= 0.5f
                               : whole[i] == 0.5f);
        }
        if (k < 2) {
            cr_assert_eq(mri_init_fill(&p, &all, "layers.1.w", 1, 0, 30, part, &err), 0);
            cr_assert_arr_neq(part, whole, sizeof whole, "another name, other numbers");
            cr_assert_eq(mri_init_fill(&p, &all, "layers.0.w", 2, 0, 30, part, &err), 0);
            cr_assert_arr_neq(part, whole, sizeof whole, "another seed, other numbers");
        }
    }
}

/* A box in a box of [4, 6, 5]: cut in no dim, in one, in all three. */
Test(init, a_box_of_a_parameter_is_its_part_of_the_whole)
{
    static const int64_t boxes[][6] = { /* dims, then where it begins */
        { 4, 6, 5, 0, 0, 0 }, { 2, 6, 5, 2, 0, 0 }, { 4, 3, 5, 0, 3, 0 },
        { 4, 6, 2, 0, 0, 1 }, { 1, 2, 5, 3, 4, 0 }, { 2, 2, 3, 1, 4, 2 },
    };
    mr_param p = param("normal", 0.5);
    mr_err err = MR_ERR_INIT;
    float whole[120];
    p.type = mr_type3("f32", 4, 6, 5);
    cr_assert_eq(mri_init_fill(&p, &all, "w", 1, 0, 120, whole, &err), 0);
    for (size_t k = 0; k < sizeof boxes / sizeof *boxes; k++) {
        const int64_t *d = boxes[k], *at = d + 3;
        mri_place box = { .rank = 3, .full = { 4, 6, 5 }, .at = { at[0], at[1], at[2] } };
        int64_t n = d[0] * d[1] * d[2];
        float part[120];
        p.type = mr_type3("f32", d[0], d[1], d[2]);
        cr_assert_eq(mri_init_fill(&p, &box, "w", 1, 0, n / 2, part, &err), 0);
        cr_assert_eq(mri_init_fill(&p, &box, "w", 1, n / 2, n - n / 2, part + n / 2, &err), 0);
        for (int64_t i = 0; i < n; i++) {
            int64_t x = i / (d[1] * d[2]), y = i / d[2] % d[1], z = i % d[2];
            cr_assert_eq(part[i], whole[((x + at[0]) * 6 + y + at[1]) * 5 + z + at[2]],
                         "box %zu, element %d", k, (int)i);
        }
    }
}

Test(init, refuses_what_it_cannot_mean)
{
    mr_param normal = param("normal", 1), odd = param("xavier", 1), inf = param("normal", INFINITY);
    mr_err err = MR_ERR_INIT;
    float out[30];

    cr_assert_eq(mri_init_fill(&odd, &all, "layers.0.w", 1, 0, 30, out, &err), MR_E_PROGRAM);
    cr_assert(strstr(err.what, "layers.0.w") && strstr(err.what, "xavier"));
    cr_assert_eq(mri_init_fill(&inf, &all, "w", 1, 0, 30, out, &err), MR_E_PROGRAM);
    cr_assert_eq(mri_init_fill(&normal, &all, "w", 1, 1, 30, out, &err), MR_E_INTERNAL);
    cr_assert_eq(mri_init_fill(&normal, &all, "w", 1, INT64_MAX, 2, out, &err), MR_E_INTERNAL);
    cr_assert_eq(mri_init_fill(&normal, &all, "w", 1, 30, 0, out, &err), 0, "an empty slice is fine");
}
