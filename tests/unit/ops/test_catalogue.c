/* SPDX-License-Identifier: Apache-2.0
 * The catalogue finds its ops and takes a plugin's; the languages of op definitions are read
 * as documented, and malformed texts are refused by a message that names the fault. */
#include "core/ops/catalogue.h"
#include "core/ops/common.h"
#include <criterion/criterion.h>
#include <string.h>

Test(catalogue, holds_every_documented_dense_op_once)
{
    static const char *const ids[] = {
        "linear", "linear.dgrad", "linear.wgrad", "sum_rows", "accumulate", "add", "cast", "store",
        "embedding", "embedding.bwd", "rmsnorm", "rmsnorm.bwd", "layernorm", "layernorm.bwd",
        "rope", "attn_temperature", "attention", "attention.bwd", "attention.paged", "swiglu",
        "swiglu.bwd", "gelu", "gelu.bwd", "weighted_swiglu", "weighted_swiglu.bwd",
        "weighted_srelu", "weighted_srelu.bwd", "cross_entropy", "cross_entropy.bwd", "rope_tail",
        "mla_kv", "mla_kv.bwd", "mla_attention.paged", "split", "concat",
        "linears", "linear_swiglu", "experts_swiglu", "experts_add", "router", "argmax",
        "comm.copy", "comm.reduce", "comm.gather", "comm.reduce_scatter", "comm.slice",
        "embedding.part", "cross_entropy.part", "cross_entropy.merge",
        "ahead",
        "qkv_attention", "qkv_attention.bwd",
    };
    const mr_op_def *def;
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++)
        cr_assert(mri_op_find(ids[i]), "%s is missing", ids[i]);
    for (uint32_t i = 0; (def = mri_op_at(i)); i++)
        cr_assert_eq(mri_op_find(def->id), def, "%s is there twice", def->id);
    cr_assert_null(mri_op_find("liner"));
    cr_assert_str_eq(mri_op_nearest("liner"), "linear");
    cr_assert_null(mri_op_nearest("something_else"));
    cr_assert_eq(mri_ref_service.find("rope"), mri_op_find("rope"));
    cr_assert_eq(mri_ref_service.at(3), mri_op_at(3));
}

Test(catalogue, definitions_are_well_formed_and_complete)
{
    const mr_op_def *def;
    for (uint32_t i = 0; (def = mri_op_at(i)); i++) {
        mr_err err = MR_ERR_INIT;
        cr_assert_eq(mri_op_check_def(def, &err), 0, "%s (%s)", err.what, err.detail);
        cr_assert(def->cost, "%s", def->id);
    }
}

Test(catalogue, every_case_runs_in_every_dtype)
{
    static const char *const dtypes[] = { "f32", "bf16", "f64" };
    const mr_op_def *def;
    for (uint32_t i = 0; (def = mri_op_at(i)); i++)
        for (const char *const *text = def->cases; text && *text; text++)
            for (int d = 0; d < 3; d++) {
                mr_err err = MR_ERR_INIT;
                mr_cost cost = { sizeof cost, 0, -1, -1 };
                mri_case c;
                cr_assert_eq(mri_case_make(def, *text, dtypes[d], 2, &c, &err), 0, "%s (%s)",
                             err.what, err.detail);
                cr_assert_eq(def->ref(&c.call, c.in, c.out, &err), 0, "%s", err.what);
                for (uint32_t o = 0; o < c.call.n_out; o++)
                    for (int64_t k = 0; k < mr_numel(&c.out_type[o]); k++)
                        cr_assert(isfinite(mri_get(mri_at(&c.out_type[o], &c.out[o]), k)),
                                  "%s \"%s\"", def->id, *text);
                def->cost(&c.call, &cost);
                cr_assert(cost.flops >= 0 && cost.bytes > 0, "%s", def->id);
                mri_case_free(&c);
            }
}

Test(catalogue, costs_are_of_the_right_size)
{
    static const struct {
        const char *op, *text;
        double flops, bytes;
    } rows[] = {
        { "linear", "x=F[8,16] w=F[6,16]", 2 * 8 * 16 * 6, 4 * (8 * 16 + 6 * 16 + 8 * 6) },
        { "linear.wgrad", "dy=F[8,6] x=F[8,16] dw=S[6,16]", 2 * 8 * 16 * 6,
          4 * (8 * 6 + 8 * 16 + 2 * 6 * 16) },
        { "embedding", "ids=i32[4]<9 table=F[9,3]", 0, 4 * 4 + 2 * 4 * 4 * 3 },
        /* 8 tokens: 36 pairs; in chunks of 3: 6 + 6 + 3 */
        { "attention",
          "q=F[8,8] k=F[8,4] v=F[8,4] seq_start=i32[8]zero @heads=2 @kv_heads=1 @head_dim=4",
          2 * 36 * 2 * 8, 4 * (64 + 32 + 32 + 8 + 64 + 16) },
        { "attention",
          "q=F[8,8] k=F[8,4] v=F[8,4] seq_start=i32[8]zero @heads=2 @kv_heads=1 @head_dim=4 "
          "@chunk=3",
          2 * 15 * 2 * 8, 4 * (64 + 32 + 32 + 8 + 64 + 16) },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        mr_err err = MR_ERR_INIT;
        mr_cost cost = { sizeof cost, 0, 0, 0 };
        mri_case c;
        const mr_op_def *def = mri_op_find(rows[i].op);
        cr_assert_eq(mri_case_make(def, rows[i].text, NULL, 1, &c, &err), 0, "%s", err.what);
        def->cost(&c.call, &cost);
        cr_assert_eq(cost.flops, rows[i].flops, "%s: %g flops", rows[i].op, cost.flops);
        cr_assert_eq(cost.bytes, rows[i].bytes, "%s: %g bytes", rows[i].op, cost.bytes);
        mri_case_free(&c);
    }
}

/* ---- signatures -------------------------------------------------------------------------- */
Test(sig, reads_operands_and_marks)
{
    mri_sig s;
    mr_err err = MR_ERR_INIT;
    cr_assert_eq(mri_sig_parse("dy x w? rstd dw!? -> dx aux?", &s, &err), 0);
    cr_assert_eq(s.n_in, 5);
    cr_assert_eq(s.n_out, 2);
    cr_assert_str_eq(s.in[4].name, "dw");
    cr_assert(s.in[4].optional && s.in[4].mutated);
    cr_assert(s.in[2].optional && !s.in[2].mutated);
    cr_assert(!s.out[0].optional && s.out[1].optional);
    cr_assert_eq(mri_sig_parse("x dst! ->", &s, &err), 0);
    cr_assert_eq(s.n_out, 0);
}

Test(sig, refuses_malformed_ones)
{
    static const struct {
        const char *sig, *says;
    } rows[] = {
        { NULL, "there is none" },
        { "", "no \"->\"" },
        { "x w", "no \"->\"" },
        { "-> y", "no inputs" },
        { "x -> y -> z", "second" },
        { "x x -> y", "x is named twice" },
        { "x -> x", "x is named twice" },
        { "x* -> y", "suffix" },
        { "x -> y!", "only inputs" },
        { "9x -> y", "no operand name" },
        { "a_name_of_more_than_23_letters -> y", "no operand name" },
        { "a b c d e f g h i j k l m n o p q -> y", "more than 16" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        mri_sig s;
        mr_err err = MR_ERR_INIT;
        cr_assert_eq(mri_sig_parse(rows[i].sig, &s, &err), MR_E_ARG, "%s", rows[i].sig);
        cr_assert(strstr(err.what, rows[i].says), "%s", err.what);
    }
}

Test(attrs, reads_types_defaults_and_choices)
{
    mri_attr_list l;
    mr_err err = MR_ERR_INIT;
    cr_assert_eq(mri_attrs_parse("heads:i eps:f=1e-5 scale:f? score:s=sigmoid|softmax freq:fs", &l,
                                 &err), 0);
    cr_assert_eq(l.n, 5);
    cr_assert(l.at[0].required && !l.at[1].required && !l.at[2].required && l.at[4].required);
    cr_assert_eq(mri_attrs_find(&l, "freq")->type, MR_A_F64S);
    cr_assert_str_eq(mri_attrs_find(&l, "score")->def, "sigmoid|softmax");
    cr_assert_null(mri_attrs_find(&l, "head"));
    cr_assert_eq(mri_attrs_parse(NULL, &l, &err), 0);
    cr_assert_eq(l.n, 0);
}

Test(attrs, refuses_malformed_ones)
{
    static const char *const rows[] = { "heads", "heads:q", "eps:f=tiny", "k:i=1.5", "k:i=",
                                        "k:i k:i", "k:i?2", "fs:fs=1,2", ":i" };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        mri_attr_list l;
        mr_err err = MR_ERR_INIT;
        cr_assert_eq(mri_attrs_parse(rows[i], &l, &err), MR_E_ARG, "%s", rows[i]);
        cr_assert(strstr(err.what, "malformed attribute list"));
    }
}

/* ---- sharding rules ------------------------------------------------------------------------ */
Test(shard, reads_axes_operands_and_conditions)
{
    mri_shard s;
    mr_err err = MR_ERR_INIT;
    cr_assert_eq(mri_shard_parse("T I, O I, . -> T O, . D | O:map I:sum:-bias H:map:heads,kv,+up",
                                 &s, &err), MR_E_ARG); /* H is in no operand */
    cr_assert(strstr(err.what, "axis H is in no operand"), "%s", err.what);
    cr_assert_eq(mri_shard_parse("T I, O I, . -> T O, . D | O:map I:sum:heads,-bias,+up", &s, &err),
                 0, "%s", err.what);
    cr_assert_eq(s.n_in, 3);
    cr_assert_eq(s.n_out, 2);
    cr_assert_eq(s.n_axes, 2);
    cr_assert_eq(s.n_named, 4);
    cr_assert_str_eq(s.axis[0].name, "O");
    cr_assert_eq(s.axis[0].mode, 'm');
    cr_assert_eq(s.axis[1].mode, 's');
    cr_assert_str_eq(s.axis[1].attrs[0], "heads");
    cr_assert_eq(s.axis[1].n_attrs, 1);
    cr_assert_str_eq(s.axis[1].absent, "bias");
    cr_assert_str_eq(s.axis[1].present, "up");
    cr_assert_eq(s.in[1][0], 0);
    cr_assert_eq(s.in[1][1], 1);
    cr_assert_eq(s.in[2][0], -1);
    cr_assert_eq(s.out[1][0], -1);
    cr_assert_eq(mri_shard_parse(NULL, &s, &err), 0);
    cr_assert_eq(s.n_axes, 0);
}

Test(shard, aligns_to_operands_of_other_ranks)
{
    mri_shard s;
    mr_err err = MR_ERR_INIT;
    cr_assert_eq(mri_shard_parse("T D, T -> T D | T:map D:map", &s, &err), 0);
    cr_assert_eq(mri_shard_at(&s, false, 0, 0, 3), 0); /* [B,S,D] */
    cr_assert_eq(mri_shard_at(&s, false, 0, 1, 3), -1);
    cr_assert_eq(mri_shard_at(&s, false, 0, 2, 3), 1);
    cr_assert_eq(mri_shard_at(&s, false, 1, 0, 2), 0); /* [B,S] */
    cr_assert_eq(mri_shard_at(&s, false, 1, 1, 2), -1);
    cr_assert_eq(mri_shard_at(&s, true, 0, 0, 1), 1); /* [D] */
    cr_assert_eq(mri_shard_at(&s, true, 1, 0, 1), -1);
}

Test(shard, refuses_malformed_ones)
{
    static const struct {
        const char *rule, *says;
    } rows[] = {
        { "", "no \"->\"" },
        { "T D | T:map", "no \"->\"" },
        { "T D -> T D", "no \"|\"" },
        { "-> T D | T:map", "no operands" },
        { "T D, -> T D | T:map", "without dims" },
        { "T T -> T | T:map", "twice in one operand" },
        { "T -> T | T:map T:map", "declared twice" },
        { "T -> T | T", "form AXIS:map" },
        { "T -> T | T:mul", "neither map nor sum" },
        { "T -> T | T:mapp", "neither map nor sum" },
        { "T -> T | T:map:", "one name too many, or none" },
        { "T -> T | T:map:-a,-b", "one name too many" },
        { "T -> T | D:map", "in no operand" },
        { "a b c d e f g -> a | a:map", "more than 6 dims" },
        { "a b, c d, e f, g h, i -> a | a:map", "more than 8 axes" },
        { "T* -> T | T:map", "no axis name" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        mri_shard s;
        mr_err err = MR_ERR_INIT;
        cr_assert_eq(mri_shard_parse(rows[i].rule, &s, &err), MR_E_ARG, "%s", rows[i].rule);
        cr_assert(strstr(err.what, rows[i].says), "\"%s\": %s", rows[i].rule, err.what);
    }
}

/* ---- cases --------------------------------------------------------------------------------- */
static mr_status any_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    (void)c, (void)err;
    *out[0] = mr_type1("f32", 1);
    return 0;
}

static mr_status no_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    (void)c, (void)in, (void)out, (void)err;
    return 0;
}

static const mr_op_def loose = {
    MRI_OP, .id = "test.loose", .doc = "takes anything", .sig = "a? b? c? d? -> y",
    .attrs = "n:i=0 f:f=0 w:s=x|y fs:fs?", .shape = any_shape, .ref = no_ref,
};

Test(cases, fill_as_told)
{
    mr_err err = MR_ERR_INIT;
    mri_case c;
    cr_assert_eq(mri_case_make(&loose, "a=i32[9]perm b=i32[9]inv:a c=i32[5]part:40 d=i32[7]start:3 "
                                       "@n=3 @f=0.5 @w=y @fs=1,0.5,2", NULL, 1, &c, &err), 0, "%s",
                 err.what);
    const int32_t *a = c.in[0].data, *b = c.in[1].data, *o = c.in[2].data, *s = c.in[3].data;
    int moved = 0;
    for (int i = 0; i < 9; i++) {
        cr_assert_eq(b[a[i]], i);
        moved += a[i] != i;
    }
    cr_assert_gt(moved, 0);
    cr_assert(o[0] == 0 && o[4] == 40);
    for (int i = 0; i < 4; i++)
        cr_assert_leq(o[i], o[i + 1]);
    for (int i = 0; i < 7; i++)
        cr_assert_eq(s[i], i / 3 * 3);
    cr_assert_eq(mr_attr_i(&c.call, "n", 0), 3);
    cr_assert_eq(mr_attr_f(&c.call, "f", 0), 0.5);
    cr_assert_str_eq(mr_attr_s(&c.call, "w", ""), "y");
    const mr_attr *fs = mr_attr_find(&c.call, "fs");
    cr_assert(fs->n == 3 && fs->u.fs[1] == 0.5 && fs->u.fs[2] == 2);
    mri_case_free(&c);

    cr_assert_eq(mri_case_make(&loose, "a=F[1000] b=S[500]pos c=i32[3]{-1,7,0} d=i32[99]<4", NULL,
                               1, &c, &err), 0, "%s", err.what);
    const float *n = c.in[0].data, *p = c.in[1].data;
    const int32_t *list = c.in[2].data, *d = c.in[3].data;
    double mean = 0, var = 0;
    for (int i = 0; i < 1000; i++) {
        mean += n[i] / 1000.0;
        var += n[i] * n[i] / 1000.0;
    }
    cr_assert(fabs(mean) < 0.1 && fabs(var - 1) < 0.15, "mean %g variance %g", mean, var);
    for (int i = 0; i < 500; i++)
        cr_assert(p[i] > 0.1 && p[i] < 1);
    cr_assert(list[0] == -1 && list[1] == 7 && list[2] == 0);
    for (int i = 0; i < 99; i++)
        cr_assert(d[i] >= 0 && d[i] < 4);
    mri_case_free(&c);
}

Test(cases, take_dtypes_and_absent_operands)
{
    mr_err err = MR_ERR_INIT;
    mri_case c;
    cr_assert_eq(mri_case_make(&loose, "a=F[2] b=- d=S[3]zero", "bf16", 1, &c, &err), 0);
    cr_assert(mr_is(c.in_ptr[0], "bf16") && !c.in_ptr[1] && !c.in[1].data && !c.in_ptr[2]);
    cr_assert(mr_is(c.in_ptr[3], "f32"));
    cr_assert_eq(c.call.n_in, 4);
    mri_case_free(&c);
    cr_assert_eq(mri_case_make(&loose, "a=F[2] b=S[3] c=f32[1]", "f64", 1, &c, &err), 0);
    cr_assert(mr_is(c.in_ptr[0], "f64") && mr_is(c.in_ptr[1], "f64") && mr_is(c.in_ptr[2], "f32"));
    mri_case_free(&c);
}

Test(cases, depend_on_the_seed_alone)
{
    const mr_op_def *def = mri_op_find("linear");
    mr_err err = MR_ERR_INIT;
    mri_case a, b, other;
    cr_assert_eq(mri_case_make(def, def->cases[1], NULL, 5, &a, &err), 0);
    cr_assert_eq(mri_case_make(def, def->cases[1], NULL, 5, &b, &err), 0);
    cr_assert_eq(mri_case_make(def, def->cases[1], NULL, 6, &other, &err), 0);
    for (uint32_t i = 0; i < a.call.n_in; i++) {
        cr_assert_eq(memcmp(a.in[i].data, b.in[i].data, mr_bytes(&a.in_type[i])), 0);
        cr_assert_neq(memcmp(a.in[i].data, other.in[i].data, mr_bytes(&a.in_type[i])), 0);
    }
    mri_case_free(&a);
    mri_case_free(&b);
    mri_case_free(&other);
}

Test(cases, refuse_malformed_ones)
{
    static const struct {
        const char *text, *says;
    } rows[] = {
        { "a", "not of the form name=type" },
        { "z=F[2]", "no operand \"z\"" },
        { "a=F[2] a=F[2]", "given twice" },
        { "a=F", "dtype[dims]" },
        { "a=F[]", "dtype[dims]" },
        { "a=F[0]", "dtype[dims]" },
        { "a=F[-3]", "dtype[dims]" },
        { "a=F[2", "dtype[dims]" },
        { "a=f33[2]", "dtype[dims]" },
        { "a=F[99999999999]", "dtype[dims]" },
        { "a=F[100000,100000]", "dtype[dims]" },
        { "a=F[1,1,1,1,1,1,1]", "dtype[dims]" },
        { "a=F[2]random", "cannot be filled" },
        { "a=i32[2]<", "cannot be filled" },
        { "a=i32[2]<0", "cannot be filled" },
        { "a=i32[2]{1}", "cannot be filled" },
        { "a=i32[2]{1,2,3}", "cannot be filled" },
        { "a=i32[2]{1,2", "cannot be filled" },
        { "b=i32[2]inv:a", "cannot be filled" },
        { "a=i32[3]perm b=i32[2]inv:a", "cannot be filled" },
        { "a=i32[1]part:3", "cannot be filled" },
        { "@n", "@key=value" },
        { "@m=3", "no attribute \"m\"" },
        { "@n=1.5", "no value of its type" },
        { "@fs=1,,2", "no value of its type" },
        { "@w=z", "must be one of x|y" },
        { "@n=1 @n=2", "given twice" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        mri_case c;
        mr_err err = MR_ERR_INIT;
        cr_assert_neq(mri_case_make(&loose, rows[i].text, NULL, 1, &c, &err), 0, "%s",
                      rows[i].text);
        cr_assert(strstr(err.what, rows[i].says), "\"%s\": %s", rows[i].text, err.what);
    }
    mri_case c;
    mr_err err = MR_ERR_INIT;
    cr_assert_eq(mri_case_make(&loose, "a=F[2]", "f16", 1, &c, &err), MR_E_ARG);
}

/* ---- one use of an op ---------------------------------------------------------------------- */
static mr_status check(const char *op, const mr_type *const *in, uint32_t n_in,
                       const mr_attr *attr, uint32_t n_attr, uint32_t n_out, mr_err *err)
{
    mr_type made[MRI_MAX_OPERANDS], *out[MRI_MAX_OPERANDS];
    for (int i = 0; i < MRI_MAX_OPERANDS; i++)
        out[i] = &made[i];
    mr_call c = { sizeof c, n_in, n_out, n_attr, in, NULL, attr };
    *err = (mr_err)MR_ERR_INIT;
    return mri_op_check_call(mri_op_find(op), &c, out, err);
}

Test(call, says_what_is_wrong_with_operands)
{
    mr_err err;
    mr_type x = mr_type2("f32", 7, 16), w = mr_type2("f32", 5, 17), i = mr_type2("i32", 7, 16);
    mr_type huge = mr_type2("f32", INT64_C(1) << 40, INT64_C(1) << 40), none = mr_type1("f32", 0);
    cr_assert_eq(check("linear", (const mr_type *[]){ &x }, 1, NULL, 0, 1, &err), MR_E_PROGRAM);
    cr_assert_str_eq(err.what, "linear: operand w is missing (number 1)");
    cr_assert(strstr(err.detail, "x w bias? -> y"));
    cr_assert_eq(check("linear", (const mr_type *[]){ &x, &w, NULL, &x }, 4, NULL, 0, 1, &err),
                 MR_E_PROGRAM);
    cr_assert_eq(check("linear", (const mr_type *[]){ &x, &w }, 2, NULL, 0, 2, &err), MR_E_PROGRAM);
    cr_assert_eq(check("linear", (const mr_type *[]){ &x, &w }, 2, NULL, 0, 0, &err), MR_E_PROGRAM);
    cr_assert_eq(check("linear", (const mr_type *[]){ &x, &w }, 2, NULL, 0, 1, &err),
                 MR_E_OP_SHAPE);
    cr_assert_str_eq(err.what, "linear: w is f32 [5,17], expected f32, bf16 or f64 [O,I=16]");
    cr_assert_str_eq(err.detail, "I=16 from x");
    cr_assert_eq(check("gelu", (const mr_type *[]){ &i }, 1, NULL, 0, 1, &err), MR_E_OP_SHAPE);
    cr_assert_str_eq(err.what, "gelu: x is i32 [7,16], expected f32, bf16 or f64 [..]");
    cr_assert_eq(check("gelu", (const mr_type *[]){ &huge }, 1, NULL, 0, 1, &err), MR_E_OP_SHAPE);
    cr_assert_eq(check("gelu", (const mr_type *[]){ &none }, 1, NULL, 0, 1, &err), MR_E_OP_SHAPE);
    mr_type b = mr_type2("bf16", 7, 16);
    cr_assert_eq(check("add", (const mr_type *[]){ &x, &b }, 2, NULL, 0, 1, &err), MR_E_OP_SHAPE);
    cr_assert_str_eq(err.what, "add: b is bf16 [7,16], expected f32 [7,16]");
}

Test(call, says_what_is_wrong_with_attributes)
{
    mr_err err;
    mr_type x = mr_type2("f32", 7, 16);
    const mr_type *const in[] = { &x };
    mr_type pos = mr_type1("i32", 7);
    const mr_type *const rope_in[] = { &x, &pos };
    double freq[] = { 1, 0.5, 0.25 };
    cr_assert_eq(check("rmsnorm", in, 1, MR_AT(mr_af("esp", 1e-5)), 2, &err), MR_E_PROGRAM);
    cr_assert_str_eq(err.what, "rmsnorm: no attribute \"esp\"");
    cr_assert_str_eq(err.hint, "did you mean \"eps\"?");
    cr_assert_eq(check("rmsnorm", in, 1, MR_AT(mr_as("eps", "1e-5")), 2, &err), MR_E_PROGRAM);
    cr_assert_str_eq(err.what, "rmsnorm: attribute eps is a string, must be a number");
    cr_assert_eq(check("rmsnorm", in, 1, MR_AT(mr_af("group", 4)), 2, &err), MR_E_PROGRAM);
    cr_assert_eq(check("rmsnorm", in, 1, MR_AT(mr_ai("eps", 1)), 2, &err), 0);
    cr_assert_eq(check("rmsnorm", in, 1, MR_AT(mr_af("eps", NAN)), 2, &err), MR_E_PROGRAM);
    cr_assert_eq(check("rmsnorm", in, 1, MR_AT(mr_ai("group", 5)), 2, &err), MR_E_OP_SHAPE);
    cr_assert_str_eq(err.what, "rmsnorm: group is 5, must divide the width of x, 16");
    cr_assert_eq(check("gelu", in, 1, MR_AT(mr_as("approx", "tan")), 1, &err), MR_E_PROGRAM);
    cr_assert_str_eq(err.what, "gelu: attribute approx is \"tan\", must be one of none|tanh|quick");
    cr_assert_eq(check("gelu", in, 1, MR_AT(mr_as("approx", "")), 1, &err), MR_E_PROGRAM);
    cr_assert_eq(check("gelu", in, 1, MR_AT(mr_as("approx", "tanh")), 1, &err), 0);
    cr_assert_eq(check("rope", rope_in, 2, MR_AT(mr_ai("head_dim", 4)), 1, &err), MR_E_PROGRAM);
    cr_assert_str_eq(err.what, "rope: attribute inv_freq must be given (a list of numbers)");
    cr_assert_eq(check("rope", rope_in, 2, MR_AT(mr_ai("head_dim", 4), mr_afs("inv_freq", freq, 3)),
                       1, &err), MR_E_OP_SHAPE);
    cr_assert_eq(check("rope", rope_in, 2, MR_AT(mr_ai("head_dim", 4), mr_afs("inv_freq", freq, 2)),
                       1, &err), 0);
    cr_assert_eq(check("cast", in, 1, MR_AT(mr_as("dtype", "f33")), 1, &err), MR_E_OP_SHAPE);
}

Test(call, heads_must_fit)
{
    mr_err err;
    mr_type q = mr_type2("f32", 4, 12), k = mr_type2("f32", 4, 8), s = mr_type1("i32", 4);
    const mr_type *const in[] = { &q, &k, &k, &s };
    cr_assert_eq(check("attention", in, 4, MR_AT(mr_ai("heads", 3), mr_ai("kv_heads", 2),
                                                 mr_ai("head_dim", 4)), 2, &err), MR_E_OP_SHAPE);
    cr_assert_str_eq(err.what, "attention: kv_heads is 2, must divide heads, 3");
    cr_assert_eq(check("attention", in, 4, MR_AT(mr_ai("heads", 2), mr_ai("kv_heads", 2),
                                                 mr_ai("head_dim", 4)), 2, &err), MR_E_OP_SHAPE);
    cr_assert_str_eq(err.what, "attention: q is f32 [4,12], expected f32, bf16 or f64 [T,H*C=8]");
    cr_assert_eq(check("attention", in, 4, MR_AT(mr_ai("heads", 0), mr_ai("kv_heads", 0),
                                                 mr_ai("head_dim", 4)), 2, &err), MR_E_OP_SHAPE);
    cr_assert_eq(check("attention", in, 4, MR_AT(mr_ai("heads", 6), mr_ai("kv_heads", 4),
                                                 mr_ai("head_dim", 2)), 2, &err), MR_E_OP_SHAPE);
}

/* ---- a plugin's op -------------------------------------------------------------------------- */
static mr_status twice_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    (void)err;
    *out[0] = *c->in[0];
    return 0;
}

static mr_status twice_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    (void)err;
    for (int64_t i = 0; i < mr_numel(c->in[0]); i++)
        ((float *)out[0].data)[i] = 2 * ((const float *)in[0].data)[i];
    return 0;
}

static const char *const twice_cases[] = { "x=f32[3,2]", NULL };
static const mr_op_def twice = {
    sizeof(mr_op_def), 0, "acme.twice", "y = 2 x", "x -> y", NULL, twice_shape, NULL, twice_ref,
    NULL, "T D -> T D | T:map D:map", twice_cases,
};

Test(catalogue, takes_a_plugin_op_once)
{
    mr_err err = MR_ERR_INIT;
    uint32_t n = 0;
    while (mri_op_at(n))
        n++;
    cr_assert_eq(mri_op_register(&twice, &err), 0, "%s", err.what);
    cr_assert_eq(mri_op_find("acme.twice"), &twice);
    cr_assert_eq(mri_op_at(n), &twice);
    cr_assert_null(mri_op_at(n + 1));
    cr_assert_eq(mri_op_register(&twice, &err), MR_E_ARG);
    cr_assert(strstr(err.what, "exists already"));
}

Test(catalogue, refuses_malformed_plugin_ops)
{
    static const char *const bad_case[] = { "y=f32[3,2]", NULL };
    mr_op_def d[10];
    const char *says[10] = { "too small", "no op id", "exists already", "lacks shape()",
                             "lacks reference loops", "signature", "attribute list",
                             "2 operands", "no integer attribute", "malformed case" };
    for (int i = 0; i < 10; i++)
        d[i] = twice;
    d[0].size = 16;
    d[1].id = "Twice!";
    d[2].id = "linear";
    d[3].shape = NULL;
    d[4].ref = NULL;
    d[5].sig = "x";
    d[6].attrs = "k";
    d[7].shard = "T D, T -> T D | T:map";
    d[8].shard = "T D -> T D | D:map:heads";
    d[9].cases = bad_case;
    for (int i = 0; i < 10; i++) {
        mr_err err = MR_ERR_INIT;
        cr_assert_eq(mri_op_register(&d[i], &err), MR_E_ARG, "row %d", i);
        cr_assert(strstr(err.what, says[i]), "row %d: %s", i, err.what);
        if (i > 2)
            cr_assert(strstr(err.what, "acme.twice"), "row %d: %s", i, err.what);
    }
    cr_assert_null(mri_op_find("acme.twice"));
}
