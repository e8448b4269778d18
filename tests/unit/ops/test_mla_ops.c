/* SPDX-License-Identifier: Apache-2.0
 * Latent attention's ops: by hand, gradients as exact transposes of linear maps, and the absorbed
 * form over a cache against the expanded form, however the tokens come. */
#include "op_run.h"
#include <math.h>
#include <string.h>

static double *doubles(mri_case *c, uint32_t in)
{
    return c->in[in].data;
}

Test(mla, rope_tail_turns_the_last_pair_of_each_head)
{
    mri_case *c = run("rope_tail", "x=F[1,6]{7,1,2,8,3,4} positions=i32[1]{3} @head_dim=3 "
                                   "@inv_freq=0.1 @factor=2");
    EXPECT_OUT(c, 0, 7, 2 * (cos(0.3) - 2 * sin(0.3)), 2 * (sin(0.3) + 2 * cos(0.3)), 8,
               2 * (3 * cos(0.3) - 4 * sin(0.3)), 2 * (3 * sin(0.3) + 4 * cos(0.3)));
    drop(c);
}

Test(mla, keys_of_all_heads_share_the_turned_part)
{
    mri_case *c = run("mla_kv", "kv=F[1,6]{1,2,3,4,5,6} kr=F[1,2]{1,0} positions=i32[1]{2} "
                                "@heads=2 @nope_dim=1 @inv_freq=0.5");
    EXPECT_OUT(c, 0, 1, cos(1), sin(1), 4, cos(1), sin(1));
    EXPECT_OUT(c, 1, 2, 3, 5, 6);
    drop(c);
}

/* <dk, k> + <dv, v> = <dkv, kv> + <dkr, kr> for any values: the map is linear */
Test(mla, gradient_of_keys_and_values_is_the_transpose)
{
#define MLA_ATTRS "@heads=3 @nope_dim=4 @inv_freq=1,0.3 @factor=1.3"
    mri_case *f = run("mla_kv", "kv=F[5,21] kr=F[5,4] positions=i32[5]{0,1,7,300,12} " MLA_ATTRS);
    mri_case *b = make_case("mla_kv.bwd", "dk=F[5,24] dv=F[5,9] positions=i32[5]{0,1,7,300,12} "
                                          MLA_ATTRS " @value_dim=3", "f64");
    mr_err err = MR_ERR_INIT;
    double out = 0, in = 0;
    for (int64_t i = 0; i < 5 * 24; i++)
        doubles(b, 0)[i] = sin(0.7 * (double)i);
    for (int64_t i = 0; i < 5 * 9; i++)
        doubles(b, 1)[i] = cos(1.3 * (double)i);
    cr_assert_eq(run_case(b, "mla_kv.bwd", &err), 0, "%s", err.what);
    for (int64_t i = 0; i < 5 * 24; i++)
        out += in_at(b, 0, i) * out_at(f, 0, i);
    for (int64_t i = 0; i < 5 * 9; i++)
        out += in_at(b, 1, i) * out_at(f, 1, i);
    for (int64_t i = 0; i < 5 * 21; i++)
        in += out_at(b, 0, i) * in_at(f, 0, i);
    for (int64_t i = 0; i < 5 * 4; i++)
        in += out_at(b, 1, i) * in_at(f, 1, i);
    cr_assert_float_eq(out, in, 1e-12);
    drop(f), drop(b);
}

Test(mla, rows_are_cut_and_laid_end_to_end)
{
    mri_case *c = run("split", "x=F[2,3]{1,2,3,4,5,6} @first=2");
    EXPECT_OUT(c, 0, 1, 2, 4, 5);
    EXPECT_OUT(c, 1, 3, 6);
    drop(c);
    c = run("concat", "a=F[2,2]{1,2,4,5} b=F[2,1]{3,6} @first=2 @second=1");
    EXPECT_OUT(c, 0, 1, 2, 3, 4, 5, 6);
    drop(c);
    c = run("concat", "a=- b=F[2,1]{3,6} @first=2 @second=1");
    EXPECT_OUT(c, 0, 0, 0, 3, 0, 0, 6);
    drop(c);
}

/* ---- the absorbed form ---------------------------------------------------------------------- */
enum { T = 11, H = 3, N = 4, P = 4, V = 5, L = 6, PAGES = 6, PAGE = 3, C = N + P,
       D = N + V };
#define GEOMETRY "@heads=3 @nope_dim=4 @inv_freq=1,0.2 @factor=1.1"

typedef struct whole { /* one sequence, and the expanded form's result */
    mri_case *q, *up, *kv, *attention;
    double *w, c[T * L], kr[T * P];
} whole;

/* inputs by the random values that cases have; the expansion w is up's second operand */
static whole expanded(void)
{
    whole x;
    mr_err err = MR_ERR_INIT;
    x.q = run("rope_tail", "x=F[11,24] positions=i32[11]ramp @head_dim=8 @inv_freq=1,0.2 "
                           "@factor=1.1");
    x.up = run("linear", "x=F[11,6] w=F[27,6] bias=-");
    x.kv = make_case("mla_kv", "kv=F[11,27] kr=F[11,4] positions=i32[11]ramp " GEOMETRY, "f64");
    memcpy(doubles(x.kv, 0), x.up->out[0].data, sizeof(double[T * H * D]));
    cr_assert_eq(run_case(x.kv, "mla_kv", &err), 0);
    x.attention = make_case("attention", "q=F[11,24] k=F[11,24] v=F[11,15] seq_start=i32[11]zero "
                                         "@heads=3 @kv_heads=3 @head_dim=8 @scale=0.4", "f64");
    memcpy(doubles(x.attention, 0), x.q->out[0].data, sizeof(double[T * H * C]));
    memcpy(doubles(x.attention, 1), x.kv->out[0].data, sizeof(double[T * H * C]));
    memcpy(doubles(x.attention, 2), x.kv->out[1].data, sizeof(double[T * H * V]));
    cr_assert_eq(run_case(x.attention, "attention", &err), 0);
    x.w = doubles(x.up, 1);
    memcpy(x.c, doubles(x.up, 0), sizeof x.c);
    memcpy(x.kr, doubles(x.kv, 1), sizeof x.kr);
    return x;
}

static void absorbed_equals(const whole *x, const int *pieces, int n_pieces)
{
    static const int32_t table[2][4] = { { -1, 99, -1, 99 }, { 4, 0, 5, 2 } };
    double cache[PAGES * PAGE * (L + P)];
    for (int i = 0; i < PAGES * PAGE * (L + P); i++)
        cache[i] = 1e3; /* what nobody wrote must not be seen */
    for (int p = 0, first = 0; p < n_pieces; first += pieces[p++]) {
        int n = pieces[p];
        char text[300];
        mr_err err = MR_ERR_INIT;
        snprintf(text, sizeof text, "q=F[%d,24] c=F[%d,6] kr=F[%d,4] w=F[27,6] positions=i32[%d] "
                 "slot=i32[%d] pages=i32[2,4] cache=F[6,3,10] " GEOMETRY " @scale=0.4", n, n, n, n,
                 n);
        mri_case *a = make_case("mla_attention.paged", text, "f64");
        memcpy(doubles(a, 0), doubles(x->q, 0) + first * H * C,
               sizeof(double) * (size_t)(n * H * C));
        memcpy(doubles(a, 1), x->c + first * L, sizeof(double) * (size_t)(n * L));
        memcpy(doubles(a, 2), x->kr + first * P, sizeof(double) * (size_t)(n * P));
        memcpy(doubles(a, 3), x->w, sizeof(double[H * D * L]));
        for (int i = 0; i < n; i++) {
            ((int32_t *)a->in[4].data)[i] = first + i;
            ((int32_t *)a->in[5].data)[i] = 1;
        }
        memcpy(a->in[6].data, table, sizeof table);
        memcpy(doubles(a, 7), cache, sizeof cache);
        cr_assert_eq(run_case(a, "mla_attention.paged", &err), 0, "%s", err.what);
        memcpy(cache, doubles(a, 7), sizeof cache);
        for (int64_t i = 0; i < n * H * V; i++)
            cr_assert_float_eq(out_at(a, 0, i), out_at(x->attention, 0, first * H * V + i), 1e-12);
        drop(a);
    }
    for (int i = 0; i < PAGE * (L + P); i++) /* pages 1 and 3 are nobody's */
        cr_assert(cache[PAGE * (L + P) + i] == 1e3 && cache[3 * PAGE * (L + P) + i] == 1e3);
}

Test(mla, absorbed_attention_over_latents_equals_the_expanded_form)
{
    static const int one_by_one[] = { 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1 };
    static const int prompt_then[] = { 6, 1, 4 };
    whole x = expanded();
    absorbed_equals(&x, one_by_one, 11);
    absorbed_equals(&x, prompt_then, 3);
    drop(x.q), drop(x.up), drop(x.kv), drop(x.attention);
}

Test(mla, misfits_are_refused_by_what_does_not_fit)
{
    refused("rope_tail", "x=F[2,9] positions=i32[2] @head_dim=4 @inv_freq=1", "head_dim is 4");
    refused("rope_tail", "x=F[2,8] positions=i32[2] @head_dim=4 @inv_freq=1,2,3", "2 pairs");
    refused("mla_kv", "kv=F[2,8] kr=F[2,2] positions=i32[2] @heads=2 @nope_dim=4 @inv_freq=1",
            "leave 0 for the value");
    refused("mla_kv", "kv=F[2,8] kr=F[2,4] positions=i32[2] @heads=2 @nope_dim=2 @inv_freq=1",
            "kr");
    refused("mla_kv.bwd", "dk=- dv=- positions=i32[2] @heads=2 @nope_dim=2 @inv_freq=1 "
                          "@value_dim=2", "absent");
    refused("mla_attention.paged",
            "q=F[1,3] c=F[1,1] kr=F[1,2] w=F[2,1] positions=i32[1] slot=i32[1] "
            "pages=i32[1,1] cache=F[2,7,4] "
            "@heads=1 @nope_dim=1 @inv_freq=1", "cache");
    refused("split", "x=F[2,3] @first=3", "first is 3");
    refused("concat", "a=- b=- @first=1 @second=1", "absent");
}

Test(mla, a_row_outside_the_cache_is_refused)
{
    static const char *const places[] = { "positions=i32[1]{14} slot=i32[1]{0}",
                                          "positions=i32[1]{-1} slot=i32[1]{0}",
                                          "positions=i32[1]{0} slot=i32[1]{2}" };
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        char text[200];
        mr_err err = MR_ERR_INIT;
        snprintf(text, sizeof text, "q=F[1,3] c=F[1,1] kr=F[1,2] w=F[2,1] %s "
                 "pages=i32[2,2]zero cache=F[1,7,3] @heads=1 @nope_dim=1 @inv_freq=1", places[i]);
        mri_case *c = make_case("mla_attention.paged", text, "f64");
        cr_assert_eq(run_case(c, "mla_attention.paged", &err), MR_E_ARG, "%s", places[i]);
        cr_assert(strstr(err.what, "2 slots of 2 pages of 7"), "%s", err.what);
        drop(c);
    }
}
