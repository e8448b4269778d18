/* SPDX-License-Identifier: Apache-2.0
 * The dense ops compute what their equations say: values worked out by hand or by a direct
 * formula, the edges of their definitions, and the rounding of bf16. */
#include "core/ops/catalogue.h"
#include "core/ops/common.h"
#include <criterion/criterion.h>
#include <string.h>

/* A case of `op` in `dtype`, run by the reference loops. */
static mri_case run(const char *op, const char *dtype, const char *text)
{
    mr_err err = MR_ERR_INIT;
    mri_case c;
    const mr_op_def *def = mri_op_find(op);
    cr_assert_eq(mri_case_make(def, text, dtype, 1, &c, &err), 0, "%s: %s", err.what, err.detail);
    /* the case points into itself: run it where it lies, and hand out only its buffers */
    cr_assert_eq(def->ref(&c.call, c.in, c.out, &err), 0, "%s", err.what);
    return c;
}

static double out(const mri_case *c, uint32_t i, int64_t k)
{
    return mri_get(mri_at(&c->out_type[i], &c->out[i]), k);
}

static double in(const mri_case *c, uint32_t i, int64_t k)
{
    return mri_get(mri_at(&c->in_type[i], &c->in[i]), k);
}

static mr_status run_fails(const char *op, const char *text, mr_err *err)
{
    mri_case c;
    const mr_op_def *def = mri_op_find(op);
    *err = (mr_err)MR_ERR_INIT;
    cr_assert_eq(mri_case_make(def, text, NULL, 1, &c, err), 0, "%s", err->what);
    mr_status st = def->ref(&c.call, c.in, c.out, err);
    mri_case_free(&c);
    return st;
}

#define near(a, b) cr_assert_float_eq(a, b, 1e-12, "%s is %.15g, not %.15g", #a, a, b)

Test(dense, linear_by_hand)
{
    mri_case c = run("linear", "f64", "x=F[2,2]{1,2,3,4} w=F[1,2]{10,1} bias=F[1]{0.5}");
    near(out(&c, 0, 0), 12.5);
    near(out(&c, 0, 1), 34.5);
    mri_case_free(&c);
    c = run("linear.dgrad", "f64", "dy=F[1,2]{2,3} w=F[2,2]{1,2,3,4}");
    near(out(&c, 0, 0), 11);
    near(out(&c, 0, 1), 16);
    mri_case_free(&c);
    c = run("linear.wgrad", "f64", "dy=F[2,1]{2,3} x=F[2,2]{1,2,3,4} dw=S[1,2]{100,200}");
    near(in(&c, 2, 0), 111);
    near(in(&c, 2, 1), 216);
    mri_case_free(&c);
    c = run("sum_rows", "f64", "x=F[3,2]{1,2,3,4,5,6} acc=S[2]{10,0}");
    near(in(&c, 1, 0), 19);
    near(in(&c, 1, 1), 12);
    mri_case_free(&c);
    c = run("accumulate", "f64", "x=F[3]{1,2,3} dst=S[3]{1,1,1}");
    near(in(&c, 1, 2), 4);
    mri_case_free(&c);
}

Test(dense, linear_out_dtype_spares_a_rounding)
{
    mri_case c = run("linear", "bf16", "x=F[1,2]{1,0.00390625} w=F[1,2]{1,1} @out_dtype=f32");
    cr_assert(mr_is(&c.out_type[0], "f32"));
    near(out(&c, 0, 0), 1.00390625);
    mri_case_free(&c);
    c = run("linear", "bf16", "x=F[1,2]{1,0.00390625} w=F[1,2]{1,1}");
    cr_assert(mr_is(&c.out_type[0], "bf16"));
    near(out(&c, 0, 0), 1);
    mri_case_free(&c);
}

Test(dense, embedding_takes_rows_and_adds_repeats)
{
    mri_case c = run("embedding", "f64", "ids=i32[3]{2,0,2} table=F[3,2]ramp");
    near(out(&c, 0, 0), 4);
    near(out(&c, 0, 3), 1);
    near(out(&c, 0, 5), 5);
    mri_case_free(&c);
    c = run("embedding.bwd", "f64", "dy=F[3,1]{1,10,100} ids=i32[3]{2,0,2} dtable=S[3,1]{5,6,7}");
    near(in(&c, 2, 0), 15);
    near(in(&c, 2, 1), 6);
    near(in(&c, 2, 2), 108);
    mri_case_free(&c);
    mr_err err;
    cr_assert_eq(run_fails("embedding", "ids=i32[2]{0,3} table=F[3,2]", &err), MR_E_ARG);
    cr_assert_str_eq(err.what, "embedding: ids[1] is 3, the table has 3 rows");
    cr_assert_eq(run_fails("embedding", "ids=i32[1]{-1} table=F[3,2]", &err), MR_E_ARG);
}

Test(dense, rmsnorm_by_hand)
{
    /* mean(x²) = 12.5, +eps 0.5 = 13 */
    mri_case c = run("rmsnorm", "f64", "x=F[1,2]{3,4} w=F[2]{2,-1} @eps=0.5");
    near(out(&c, 1, 0), 1 / sqrt(13));
    near(out(&c, 0, 0), 6 / sqrt(13));
    near(out(&c, 0, 1), -4 / sqrt(13));
    mri_case_free(&c);
    /* two groups, each by itself, no weight */
    c = run("rmsnorm", "f64", "x=F[1,4]{3,4,1,1} @group=2 @eps=0");
    near(out(&c, 1, 0), 1 / sqrt(12.5));
    near(out(&c, 1, 1), 1);
    near(out(&c, 0, 1), 4 / sqrt(12.5));
    near(out(&c, 0, 3), 1);
    mri_case_free(&c);
    /* bf16: rounded to bf16 before the weight, and again after */
    c = run("rmsnorm", "bf16", "x=F[1,2]{3,4} w=F[2]{3,3} @eps=0");
    double n = mri_bf16_to_f32(mri_f32_to_bf16((float)(3 / sqrt(12.5))));
    near(out(&c, 0, 0), (double)mri_bf16_to_f32(mri_f32_to_bf16((float)(3 * n))));
    mri_case_free(&c);
}

Test(dense, layernorm_by_hand)
{
    /* mean 3, variance 8/3 */
    mri_case c = run("layernorm", "f64", "x=F[1,3]{1,3,5} w=F[3]{1,2,3} bias=F[3]{0,7,1} @eps=0");
    near(out(&c, 1, 0), 3);
    near(out(&c, 2, 0), sqrt(3.0 / 8));
    near(out(&c, 0, 0), -2 * sqrt(3.0 / 8));
    near(out(&c, 0, 1), 7);
    near(out(&c, 0, 2), 6 * sqrt(3.0 / 8) + 1);
    mri_case_free(&c);
}

Test(dense, rope_is_a_rotation_of_pairs)
{
    mri_case c = run("rope", "f64",
                     "x=F[2,5]{1,2,3,4,9,1,2,3,4,9} positions=i32[2]{0,7} @head_dim=5 "
                     "@inv_freq=1,0.1 @factor=2");
    for (int i = 0; i < 4; i++)
        near(out(&c, 0, i), 2 * (double)(1 + i)); /* position 0: the factor alone */
    near(out(&c, 0, 4), 9);                       /* beyond the pairs: as it was  */
    near(out(&c, 0, 5), 2 * (cos(7) - 2 * sin(7)));
    near(out(&c, 0, 6), 2 * (sin(7) + 2 * cos(7)));
    near(out(&c, 0, 7), 2 * (3 * cos(0.7) - 4 * sin(0.7)));
    near(out(&c, 0, 8), 2 * (3 * sin(0.7) + 4 * cos(0.7)));
    mri_case_free(&c);
    /* halves instead of neighbours: pairs (x0,x2), (x1,x3), in each of two heads */
    c = run("rope", "f64",
            "x=F[1,8]{1,2,3,4,5,6,7,8} positions=i32[1]{3} @head_dim=4 @inv_freq=1,0.1 "
            "@interleaved=0");
    near(out(&c, 0, 0), cos(3) - 3 * sin(3));
    near(out(&c, 0, 2), sin(3) + 3 * cos(3));
    near(out(&c, 0, 5), 6 * cos(0.3) - 8 * sin(0.3));
    near(out(&c, 0, 7), 6 * sin(0.3) + 8 * cos(0.3));
    mri_case_free(&c);
    c = run("rope", "f64",
            "x=F[1,2]{1,2} positions=i32[1]{3} @head_dim=2 @inv_freq=1 @inverse=1");
    near(out(&c, 0, 0), cos(3) + 2 * sin(3));
    near(out(&c, 0, 1), -sin(3) + 2 * cos(3));
    mri_case_free(&c);
}

Test(dense, attn_temperature_grows_in_steps)
{
    mri_case c = run("attn_temperature", "f64",
                     "x=F[4,1]{1,1,1,2} positions=i32[4]{0,6,7,23} @floor_scale=8 @attn_scale=0.1");
    near(out(&c, 0, 0), 1);
    near(out(&c, 0, 1), 1);
    near(out(&c, 0, 2), 1 + 0.1 * log(2));
    near(out(&c, 0, 3), 2 * (1 + 0.1 * log(4)));
    mri_case_free(&c);
    mr_err err = MR_ERR_INIT;
    cr_assert_eq(mri_case_make(mri_op_find("attn_temperature"),
                               "x=F[1,1] positions=i32[1] @floor_scale=0 @attn_scale=1", NULL, 1,
                               &c, &err), MR_E_OP_SHAPE);
}

Test(dense, attention_by_hand)
{
    /* token 0 sees itself; token 1 has z = (0, 2·½); values are 10 and 20 */
    mri_case c = run("attention", "f64",
                     "q=F[2,1]{5,2} k=F[2,1]{0,1} v=F[2,1]{10,20} seq_start=i32[2]zero @heads=1 "
                     "@kv_heads=1 @head_dim=1 @scale=0.5");
    near(out(&c, 0, 0), 10);
    near(out(&c, 0, 1), (10 + 20 * M_E) / (1 + M_E));
    near(out(&c, 1, 0), 0);
    near(out(&c, 1, 1), log(1 + M_E));
    mri_case_free(&c);
}

/* With all keys 0 a token averages the values that it sees: this shows whom it sees. */
Test(dense, attention_sees_its_sequence_chunk_and_group)
{
    mri_case c = run("attention", "f64",
                     "q=F[7,1] k=F[7,1]zero v=F[7,1]{1,2,4,8,16,32,64} "
                     "seq_start=i32[7]{0,0,0,0,0,5,5} @heads=1 @kv_heads=1 @head_dim=1 @chunk=2");
    static const double seen[] = { 1, 1.5, 4, 6, 16, 32, 48 };
    for (int i = 0; i < 7; i++)
        near(out(&c, 0, i), seen[i]);
    mri_case_free(&c);
    /* 4 query heads on 2 kv heads: heads 0 1 read the first, 2 3 the second */
    c = run("attention", "f64",
            "q=F[1,4] k=F[1,2] v=F[1,4]{1,2,3,4} seq_start=i32[1]zero @heads=4 @kv_heads=2 "
            "@head_dim=1");
    static const double want[] = { 1, 2, 1, 2, 3, 4, 3, 4 };
    for (int i = 0; i < 8; i++)
        near(out(&c, 0, i), want[i]);
    mri_case_free(&c);
    mr_err err;
    cr_assert_eq(run_fails("attention", "q=F[2,1] k=F[2,1] v=F[2,1] seq_start=i32[2]{0,2} "
                                        "@heads=1 @kv_heads=1 @head_dim=1", &err), MR_E_ARG);
    cr_assert(strstr(err.what, "seq_start[1] is 2"), "%s", err.what);
}

/* packed = 0 promises sequences of seq tokens: who breaks it is told so */
Test(attention, holds_the_call_to_its_promise)
{
    static const struct {
        const char *start, *seq, *said;
    } row[] = { /* the first two when it runs, the others when it is planned */
        { "{0,0,2,3}", " @seq=2", "seq_start[3] is 3, must be 2" },
        { "{0,0,0,0}", " @seq=2", "seq_start[2] is 0, must be 2" },
        { "{0,0,2,2}", " @seq=3", "seq 3" },
        { "{0,0,2,2}", "", "seq 0" },
    };
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        char text[300];
        mr_err err;
        snprintf(text, sizeof text, "q=F[4,1] k=F[4,1] v=F[4,1] seq_start=i32[4]%s @heads=1 "
                 "@kv_heads=1 @head_dim=1 @packed=0%s", row[i].start, row[i].seq);
        if (i < 2) {
            cr_expect_eq(run_fails("attention", text, &err), MR_E_ARG);
        } else {
            mri_case c;
            err = (mr_err)MR_ERR_INIT;
            cr_expect_neq(mri_case_make(mri_op_find("attention"), text, NULL, 1, &c, &err), MR_OK);
        }
        cr_expect(strstr(err.what, row[i].said), "%s", err.what);
    }
}

/* Feeding a sequence to a cache in pages of 3, scattered, in pieces gives attention's rows. */
static void paged_equals_whole(const char *chunk, const int *pieces, int n_pieces)
{
    enum { T = 11, HC = 6, GC = 2, GV = 3, N = 6, P = 3 };
    static const int32_t table[2][4] = { { -1, 99, -1, 99 }, { 4, 0, 5, 2 } };
    mr_err err = MR_ERR_INIT;
    mri_case whole, part;
    char text[400];
    const mr_op_def *attention = mri_op_find("attention"), *paged = mri_op_find("attention.paged");
    snprintf(text, sizeof text, "q=F[11,6] k=F[11,2] v=F[11,3] seq_start=i32[11]zero @heads=3 "
             "@kv_heads=1 @head_dim=2 %s", chunk);
    cr_assert_eq(mri_case_make(attention, text, "f64", 9, &whole, &err), 0, "%s", err.what);
    cr_assert_eq(attention->ref(&whole.call, whole.in, whole.out, &err), 0);
    double k_cache[N * P * GC], v_cache[N * P * GV];
    for (int i = 0; i < N * P * GC; i++)
        k_cache[i] = 1e3; /* what nobody wrote must not be seen */
    for (int i = 0; i < N * P * GV; i++)
        v_cache[i] = 1e3;
    for (int p = 0, first = 0; p < n_pieces; first += pieces[p++]) {
        int n = pieces[p];
        snprintf(text, sizeof text, "q=F[%d,6] k=F[%d,2] v=F[%d,3] positions=i32[%d] slot=i32[%d] "
                 "pages=i32[2,4] k_cache=F[6,3,2] v_cache=F[6,3,3] @heads=3 @kv_heads=1 "
                 "@head_dim=2 %s", n, n, n, n, n, chunk);
        cr_assert_eq(mri_case_make(paged, text, "f64", 1, &part, &err), 0, "%s", err.what);
        memcpy(part.in[0].data, (double *)whole.in[0].data + first * HC, sizeof(double[n][HC]));
        memcpy(part.in[1].data, (double *)whole.in[1].data + first * GC, sizeof(double[n][GC]));
        memcpy(part.in[2].data, (double *)whole.in[2].data + first * GV, sizeof(double[n][GV]));
        for (int i = 0; i < n; i++) {
            ((int32_t *)part.in[3].data)[i] = first + i;
            ((int32_t *)part.in[4].data)[i] = 1;
        }
        memcpy(part.in[5].data, table, sizeof table);
        memcpy(part.in[6].data, k_cache, sizeof k_cache);
        memcpy(part.in[7].data, v_cache, sizeof v_cache);
        cr_assert_eq(paged->ref(&part.call, part.in, part.out, &err), 0, "%s", err.what);
        memcpy(k_cache, part.in[6].data, sizeof k_cache);
        memcpy(v_cache, part.in[7].data, sizeof v_cache);
        for (int i = 0; i < n * 9; i++)
            near(out(&part, 0, i), out(&whole, 0, first * 9 + i));
        mri_case_free(&part);
    }
    for (int page = 0; page < N; page++) /* pages 1 and 3 are nobody's, page 2 ends after two */
        for (int i = page == 2 ? 2 * GC : 0; i < P * GC && (page < 4 && page); i++)
            cr_assert_eq(k_cache[page * P * GC + i], 1e3);
    mri_case_free(&whole);
}

Test(dense, paged_attention_equals_attention_row_by_row)
{
    static const int one_by_one[] = { 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1 }, prompt_then[] = { 6, 1, 4 };
    paged_equals_whole("", one_by_one, 11);
    paged_equals_whole("", prompt_then, 3);
    paged_equals_whole("@chunk=4", one_by_one, 11);
    paged_equals_whole("@chunk=4", prompt_then, 3);
}

Test(dense, paged_attention_skips_unused_rows_and_checks_places)
{
    const mr_op_def *def = mri_op_find("attention.paged");
    mr_err err = MR_ERR_INIT;
    mri_case c;
    cr_assert_eq(mri_case_make(def, "q=F[2,1] k=F[2,1]{5,6} v=F[2,1]{7,8} positions=i32[2]{1,2} "
                                    "slot=i32[2]{-1,0} pages=i32[1,2]{1,0} k_cache=F[2,2,1]zero "
                                    "v_cache=F[2,2,1]zero @heads=1 @kv_heads=1 @head_dim=1", "f64",
                               1, &c, &err), 0);
    ((double *)c.out[0].data)[0] = 99;
    cr_assert_eq(def->ref(&c.call, c.in, c.out, &err), 0);
    near(out(&c, 0, 0), 0);
    near(in(&c, 6, 0), 6); /* position 2 is the first row of page 0 */
    near(in(&c, 6, 3), 0);
    near(in(&c, 7, 0), 8);
    mri_case_free(&c);
    static const struct {
        const char *place, *said;
    } bad[] = { { "positions=i32[1]{4} slot=i32[1]{0}", "1 slots of 2 pages of 2 positions" },
                { "positions=i32[1]{-1} slot=i32[1]{0}", "position -1" },
                { "positions=i32[1]{0} slot=i32[1]{1}", "slot 1" },
                { "positions=i32[1]{0} slot=i32[1]{-2}", "slot -2" },
                { "positions=i32[1]{2} slot=i32[1]{0}", "page 2, the cache has 2 pages" } };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char text[300];
        snprintf(text, sizeof text, "q=F[1,1] k=F[1,1] v=F[1,1] %s pages=i32[1,2]{1,2} "
                 "k_cache=F[2,2,1] v_cache=F[2,2,1] @heads=1 @kv_heads=1 @head_dim=1",
                 bad[i].place);
        cr_assert_eq(run_fails("attention.paged", text, &err), MR_E_ARG, "%s", bad[i].place);
        cr_assert(strstr(err.what, bad[i].said), "%s", err.what);
    }
}

Test(dense, swiglu_and_gelu_by_formula)
{
    mri_case c = run("swiglu", "f64", "gate=F[1,2]{0,1} up=F[1,2]{3,5}");
    near(out(&c, 0, 0), 0);
    near(out(&c, 0, 1), 5 / (1 + exp(-1)));
    mri_case_free(&c);
    c = run("swiglu", "f64", "gate=F[2,4]{0,1,3,5,2,0,7,9}"); /* fused: gate then up */
    near(out(&c, 0, 1), 5 / (1 + exp(-1)));
    near(out(&c, 0, 2), 14 / (1 + exp(-2)));
    mri_case_free(&c);
    c = run("gelu", "f64", "x=F[4]{0,1,-1,-40}");
    near(out(&c, 0, 0), 0);
    near(out(&c, 0, 1), 0.841344746068542948585);
    near(out(&c, 0, 2), -0.158655253931457051415);
    near(out(&c, 0, 3), 0);
    mri_case_free(&c);
    c = run("gelu", "f64", "x=F[1]{1} @approx=tanh");
    near(out(&c, 0, 0), 0.5 * (1 + tanh(sqrt(2 / M_PI) * 1.044715)));
    mri_case_free(&c);
}

Test(dense, cross_entropy_by_hand)
{
    mri_case c = run("cross_entropy", "f64",
                     "logits=F[3,2]{0,0,1,0,5,6} targets=i32[3]{1,0,7} weight=S[3]{1,0.5,1}");
    double nll1 = log(1 + exp(-1));
    near(out(&c, 1, 0), log(2));
    near(out(&c, 1, 1), nll1);
    near(out(&c, 1, 2), 0); /* target 7 is padding */
    near(out(&c, 2, 1), log(exp(1) + 1));
    near(out(&c, 0, 0), log(2) + 0.5 * nll1);
    mri_case_free(&c);
    /* large logits do not overflow */
    c = run("cross_entropy", "f32", "logits=F[1,2]{1000,-1000} targets=i32[1]{1} weight=S[1]{1}");
    near(out(&c, 0, 0), 2000);
    mri_case_free(&c);
    c = run("cross_entropy.bwd", "f64",
            "logits=F[2,2]{0,0,5,6} dloss=S[1]{3} targets=i32[2]{1,-1} weight=S[2]{2,1} "
            "lse=S[2]{0.693147180559945309,7}");
    near(out(&c, 0, 0), 3);
    near(out(&c, 0, 1), -3);
    near(out(&c, 0, 2), 0);
    near(out(&c, 0, 3), 0);
    mri_case_free(&c);
}

Test(dense, cross_entropy_gradient_may_overwrite_the_logits)
{
    const mr_op_def *def = mri_op_find("cross_entropy.bwd");
    mr_err err = MR_ERR_INIT;
    mri_case c;
    cr_assert_eq(mri_case_make(def, "logits=F[5,9] dloss=S[1] targets=i32[5]<9 weight=S[5]pos "
                                    "lse=S[5]", "f32", 1, &c, &err), 0, "%s", err.what);
    cr_assert_eq(def->ref(&c.call, c.in, c.out, &err), 0);
    mr_buf over = { c.in[0].data, NULL };
    cr_assert_eq(def->ref(&c.call, c.in, &over, &err), 0);
    cr_assert_eq(memcmp(c.in[0].data, c.out[0].data, mr_bytes(&c.out_type[0])), 0);
    mri_case_free(&c);
}

/* Every op that claims it gives the same with its output over its first operand. */
Test(dense, in_place_ops_work_in_place)
{
    const mr_op_def *def;
    int tried = 0;
    for (uint32_t i = 0; (def = mri_op_at(i)); i++)
        for (const char *const *text = def->cases; text && *text; text++) {
            mr_err err = MR_ERR_INIT;
            mri_case c;
            if (!(def->flags & MR_OP_INPLACE0))
                continue;
            cr_assert_eq(mri_case_make(def, *text, NULL, 1, &c, &err), 0, "%s", err.what);
            cr_assert(mr_is(&c.in_type[0], c.out_type[0].dtype), "%s", def->id);
            cr_assert_eq(def->ref(&c.call, c.in, c.out, &err), 0);
            mr_buf over[MRI_MAX_OPERANDS];
            memcpy(over, c.out, sizeof over);
            over[0].data = c.in[0].data;
            cr_assert_eq(def->ref(&c.call, c.in, over, &err), 0);
            cr_assert_eq(memcmp(c.in[0].data, c.out[0].data, mr_bytes(&c.out_type[0])), 0, "%s",
                         def->id);
            mri_case_free(&c);
            tried++;
        }
    cr_assert_gt(tried, 8);
}

Test(dense, store_heeds_its_flag)
{
    mri_case c = run("store", "f32", "x=F[2]{1,2} dst=F[2]{8,9} ok=f32[1]{0}");
    near(in(&c, 1, 0), 8);
    mri_case_free(&c);
    c = run("store", "f32", "x=F[2]{1,2} dst=F[2]{8,9} ok=f32[1]{1}");
    near(in(&c, 1, 0), 1);
    mri_case_free(&c);
    c = run("store", "f32", "x=F[2]{1,2} dst=F[2]{8,9}");
    near(in(&c, 1, 1), 2);
    mri_case_free(&c);
}

Test(dense, bf16_rounds_to_nearest_even)
{
    /* bf16 has 8 bits: between 1 and 2 the step is 1/128 */
    mri_case c = run("cast", "f32",
                     "x=f32[7]{1.00390625,1.01171875,1.00391,-1.00390625,3e38,3.4e38,1e-40} "
                     "@dtype=bf16");
    near(out(&c, 0, 0), 1);          /* a tie, to the even 1           */
    near(out(&c, 0, 1), 1.015625);   /* a tie, to the even 1 + 2/128   */
    near(out(&c, 0, 2), 1.0078125);  /* just above the tie             */
    near(out(&c, 0, 3), -1);
    cr_assert(isfinite(out(&c, 0, 4)));
    cr_assert(isinf(out(&c, 0, 5))); /* above the largest bf16         */
    cr_assert(out(&c, 0, 6) > 0);    /* subnormal, kept                */
    mri_case_free(&c);
    cr_assert(isnan(mri_bf16_to_f32(mri_f32_to_bf16(NAN))));
    uint32_t u = 0x7f800001; /* a NaN whose set bits are all cut off stays one */
    float f;
    memcpy(&f, &u, 4);
    cr_assert(isnan(mri_bf16_to_f32(mri_f32_to_bf16(f))));
    for (uint32_t h = 0; h < 0x10000; h++) { /* every bf16 survives the way to f32 and back */
        float wide = mri_bf16_to_f32((uint16_t)h);
        cr_assert(isnan(wide) || mri_f32_to_bf16(wide) == h);
    }
}

Test(dense, add_rounds_once)
{
    mri_case c = run("add", "bf16", "a=F[2]{1,256} b=F[2]{0.00390625,1}");
    near(out(&c, 0, 0), 1);
    near(out(&c, 0, 1), 256);
    mri_case_free(&c);
    c = run("add", "f64", "a=F[2]{1,256} b=F[2]{0.00390625,1}");
    near(out(&c, 0, 1), 257);
    mri_case_free(&c);
}
