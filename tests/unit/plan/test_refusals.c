/* SPDX-License-Identifier: Apache-2.0
 *
 * What builder, verifiers, assembly and vjp refuse, each with a message that names the thing
 * and, where the plugin said it, the line of its source.
 */
#include "tiny.h"

static void refused(mr_net n, int code, const char *const *says)
{
    cr_assert_eq(n.p->failed, code, "failed is %d, not %d: %s", n.p->failed, code, n.p->err.what);
    for (; *says; says++)
        cr_assert(strstr(n.p->err.what, *says) || strstr(n.p->err.detail, *says) ||
                      strstr(n.p->err.hint, *says),
                  "'%s' is not in: %s | %s | %s", *says, n.p->err.what, n.p->err.detail,
                  n.p->err.hint);
    mri_prog_free(n.p);
}
#define REFUSED(n, code, ...) refused(n, code, (const char *const[]){ __VA_ARGS__, NULL })

Test(builder, names_an_unknown_op_its_line_and_the_nearest)
{
    mr_val x;
    mr_net n = tiny_prog("b", &x);
    char line[64];
    snprintf(line, sizeof line, "test_refusals.c:%d", __LINE__ + 1);
    MR_OP(n, "atention", MR_IN(x), MR_NOAT);
    REFUSED(n, MR_E_OP_UNKNOWN, "block b", "atention", line, "did you mean 'attention'");
}

Test(builder, refuses_a_wrong_number_of_operands)
{
    mr_val x;
    mr_net n = tiny_prog("b", &x);
    char line[64];
    snprintf(line, sizeof line, "test_refusals.c:%d", __LINE__ + 1);
    MR_OP(n, "add", MR_IN(x, x, x), MR_NOAT);
    REFUSED(n, MR_E_PROGRAM, "op add", line, "3 operands");
    n = tiny_prog("b", &x);
    MR_OP(n, "add", MR_IN(x), MR_NOAT);
    REFUSED(n, MR_E_PROGRAM, "op add", "test_refusals.c:", "is missing");
    n = tiny_prog("b", &x);
    MR_OP(n, "add", MR_IN(x, 77), MR_NOAT);
    REFUSED(n, MR_E_PROGRAM, "op add", "not a value of this program");
}

Test(builder, refuses_to_write_an_ssa_value)
{
    mr_val x;
    mr_net n = tiny_prog("b", &x);
    mr_val y = MR_OP(n, "add", MR_IN(x, x), MR_NOAT);
    n.b->op(n.p, "accumulate", (const mr_val[]){ x, y }, 2, NULL, 0, NULL, 0, __FILE__, __LINE__);
    REFUSED(n, MR_E_PROGRAM, "op accumulate", "test_refusals.c:", "written in place");
}

Test(builder, refuses_shapes_that_do_not_fit)
{
    mr_val x;
    mr_net n = tiny_prog("b", &x);
    mr_type t = tiny_type(5);
    mr_val z = n.b->input(n.p, "z", &t);
    MR_OP(n, "add", MR_IN(x, z), MR_NOAT);
    REFUSED(n, MR_E_OP_SHAPE, "op add", "test_refusals.c:");
}

Test(builder, refuses_attributes_that_do_not_exist)
{
    mr_val x;
    mr_net n = tiny_prog("b", &x);
    MR_OP(n, "add", MR_IN(x, x), MR_AT(mr_ai("speed", 3)));
    cr_assert_neq(n.p->failed, 0);
    REFUSED(n, n.p->failed, "op add", "speed", "test_refusals.c:");
}

Test(builder, refuses_names_given_twice)
{
    mr_val x;
    mr_net n = tiny_prog("b", &x);
    mr_param p = tiny_param(mr_type2("model", 4, 4));
    n.b->param(n.p, "w", &p);
    n.b->param(n.p, "w", &p);
    REFUSED(n, MR_E_PROGRAM, "block b", "parameter 'w' is declared twice");
    n = tiny_prog("b", &x);
    n.b->output(n.p, "y", x);
    n.b->output(n.p, "y", x);
    REFUSED(n, MR_E_PROGRAM, "output 'y' is declared twice");
    n = tiny_prog("b", &x);
    mr_type t = tiny_type(9);
    n.b->input(n.p, "x", &t);
    REFUSED(n, MR_E_PROGRAM, "'x' is declared twice, with two types");
}

Test(builder, refuses_ports_and_types_that_are_none)
{
    mr_val x;
    mr_net n = tiny_prog("b", &x);
    n.b->output(n.p, "y", 0);
    REFUSED(n, MR_E_PROGRAM, "output 'y' has no value");
    n = tiny_prog("b", &x);
    n.b->loss(n.p, "l", x);
    REFUSED(n, MR_E_PROGRAM, "loss 'l' must have one element");
    n = tiny_prog("b", &x);
    mr_type t = mr_type1("f33", 4);
    n.b->input(n.p, "z", &t);
    REFUSED(n, MR_E_PROGRAM, "unknown dtype 'f33'");
    n = tiny_prog("b", &x);
    t = mr_type2("f32", 4, -1);
    n.b->input(n.p, "z", &t);
    REFUSED(n, MR_E_PROGRAM, "z has a dimension");
    n = tiny_prog("b", &x);
    t = mr_type2("f32", INT64_MAX, 4);
    n.b->input(n.p, "z", &t);
    REFUSED(n, MR_E_PROGRAM, "z has a dimension");
}

Test(builder, keeps_the_first_error)
{
    mr_val x;
    mr_net n = tiny_prog("b", &x);
    MR_OP(n, "no_such_op_at_all", MR_IN(x), MR_NOAT);
    n.b->output(n.p, "y", 0);
    n.b->end(n.p);
    REFUSED(n, MR_E_OP_UNKNOWN, "no_such_op_at_all");
}

Test(builder, refuses_regions_that_do_not_nest)
{
    mr_val x;
    mr_err err = MR_ERR_INIT;
    mr_net n = tiny_prog("b", &x);
    n.b->end(n.p);
    REFUSED(n, MR_E_PROGRAM, "end() without an open region");
    n = tiny_prog("b", &x);
    n.b->region(n.p, "a/b");
    REFUSED(n, MR_E_PROGRAM, "a/b");
    n = tiny_prog("b", &x);
    n.b->region(n.p, "attn");
    n.b->region(n.p, "core_attn");
    n.b->end(n.p);
    cr_assert_eq(mri_prog_verify(n.p, "build", &err), MR_E_PROGRAM);
    cr_assert_not_null(strstr(err.what, "region 'attn' is never closed"), "%s", err.what);
    mri_prog_free(n.p);
}

/* ---- verifiers ----------------------------------------------------------------------------- */

Test(verifier, catches_broken_ssa)
{
    mr_val x;
    mr_err err = MR_ERR_INIT;
    mr_net n = tiny_prog("b", &x);
    mr_val y = MR_OP(n, "add", MR_IN(x, x), MR_NOAT), z = MR_OP(n, "add", MR_IN(y, x), MR_NOAT);
    cr_assert_eq(mri_prog_verify(n.p, "test", &err), 0);
    n.p->nodes.v[0].in[1] = z; /* read before it is made */
    cr_assert_eq(mri_prog_verify(n.p, "test", &err), MR_E_PLAN_VERIFY);
    cr_assert(strstr(err.what, "after pass test of block b: node 0 (add) uses operand 1"), "%s",
              err.what);
    n.p->nodes.v[0].in[1] = 1000; /* no value at all */
    cr_assert_eq(mri_prog_verify(n.p, "test", &err), MR_E_PLAN_VERIFY);
    n.p->nodes.v[0].in[1] = x;
    n.p->nodes.v[1].out[0] = y; /* made twice */
    cr_assert_eq(mri_prog_verify(n.p, "test", &err), MR_E_PLAN_VERIFY);
    cr_assert(strstr(err.what, "output 0 of node 1 (add) has another definition"), "%s", err.what);
    n.p->nodes.v[1].out[0] = z;
    mri_val(n.p, y)->phase = MRI_B; /* forward reads a value of the backward */
    cr_assert_eq(mri_prog_verify(n.p, "test", &err), MR_E_PLAN_VERIFY);
    cr_assert(strstr(err.what, "later phase B"), "%s", err.what);
    mri_prog_free(n.p);
}

Test(verifier, catches_every_corrupted_plan)
{
    static const char *const kinds[] = { "scratch", "saved" };
    tiny t = tiny_open("ref", (mri_session_options){ 0 }, NULL);
    mri_plan *pl = t.s->train->plans.v[2];
    mr_err err = MR_ERR_INIT;
    kit_ok(mri_arena_verify(pl, &err), &err, "as compiled");
    for (int k = 0; k < 2; k++) {
        uint32_t seg = k ? MRI_SEG_SAVED : MRI_SEG_SCRATCH, tried = 0;
        for (size_t i = 0; i < pl->buffers.n; i++)
            for (size_t j = 0; j < i; j++) {
                mri_buffer *a = &pl->buffers.v[i], *b = &pl->buffers.v[j];
                bool both = a->first <= b->last && b->first <= a->last;
                if (a->seg != seg || b->seg != seg || (!k && !both))
                    continue;
                uint64_t offset = a->offset;
                a->offset = b->offset + b->bytes - 1; /* one byte shared */
                cr_assert_eq(mri_arena_verify(pl, &err), MR_E_PLAN_VERIFY, "%s %zu on %zu",
                             kinds[k], i, j);
                cr_assert(strstr(err.what, pl->name) && strstr(err.what, a->op));
                a->offset = offset;
                tried++;
            }
        cr_assert_gt(tried, 20, "%u pairs of %s buffers", tried, kinds[k]);
    }
    kit_ok(mri_arena_verify(pl, &err), &err, "mended");
    tiny_close(&t);
}

/* ---- vjp ------------------------------------------------------------------------------------- */

static mr_status same_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    (void)err;
    *out[0] = *c->in[0];
    return 0;
}

static mr_status copy_loop(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    (void)err;
    memcpy(out[0].data, in[0].data, mr_bytes(c->in[0]));
    return 0;
}

Test(vjp, refuses_an_op_that_has_none)
{
    static const mr_op_def op = { .size = sizeof op, .id = "test.opaque", .doc = "y = x",
                                  .sig = "x -> y", .shape = same_shape, .ref = copy_loop };
    mr_val x;
    mr_err err = MR_ERR_INIT;
    mri_plan *pl;
    kit_ok(mri_op_register(&op, &err), &err, "register");
    const char *const read[] = { "y" };
    mr_list consumed = { read, 1 };
    mri_plan_options o = { .train = true, .consumed = &consumed };
    mr_net n = tiny_prog("b", &x);
    n.b->output(n.p, "y", MR_OP(n, "test.opaque", MR_IN(x), MR_NOAT));
    cr_assert_eq(mri_plan_compile(n.p, &o, NULL, NULL, &pl, &err), MR_E_NO_GRADIENT);
    cr_assert_null(pl);
    cr_assert(strstr(err.what, "block b: op test.opaque has no vjp"), "%s", err.what);

    o.train = false; /* without gradients it runs */
    n = tiny_prog("b", &x);
    n.b->output(n.p, "y", MR_OP(n, "test.opaque", MR_IN(x), MR_NOAT));
    kit_ok(mri_plan_compile(n.p, &o, NULL, NULL, &pl, &err), &err, "infer");
    mri_plan_free(pl);
}

/* ---- assembly ----------------------------------------------------------------------------- */

typedef struct faulty {
    const char *fault;
} faulty;

static mr_status f_assemble(void *model, const mr_assembler *a, mr_asm *as, mr_err *err)
{
    const faulty *f = model;
    (void)err;
    int32_t first = a->instance(as, "first", "a.");
    int32_t last = a->instance(as, !strcmp(f->fault, "kindless") ? "" : "last", "b.");
    if (!strcmp(f->fault, "backwards"))
        a->edge(as, last, "y", first, "x");
    if (!strcmp(f->fault, "no output"))
        a->edge(as, first, "nothing", last, "x");
    if (!strcmp(f->fault, "twice"))
        a->edge(as, first, "y", a->instance(as, "last", "c."), "x");
    if (!strcmp(f->fault, "bind"))
        a->bind(as, 7, "w", "x.w");
    return 0;
}

static mr_status f_build(void *model, const char *kind, const mr_block_env *env,
                         const mr_builder *b, mr_prog *p, mr_err *err)
{
    const faulty *f = model;
    mr_type t = tiny_type(3);
    (void)env, (void)err;
    if (!strcmp(kind, "last") && !strcmp(f->fault, "type"))
        t.dim[1] = 5;
    if (!strcmp(kind, "first")) {
        mr_type i = mr_type1("f32", strcmp(f->fault, "fed") ? 3 : 4);
        b->input(p, "loss_weight", &i);
        mr_param w = tiny_param(t);
        b->output(p, "y", b->param(p, "w", &w));
        return 0;
    }
    mr_val x = b->input(p, !strcmp(f->fault, "missing") ? "z" : "x", &t);
    if (!strcmp(f->fault, "stopped"))
        b->op(p, "test.stop", &x, 1, NULL, 0, &x, 1, __FILE__, __LINE__);
    if (!strcmp(f->fault, "twice")) {
        mr_type ids = mr_type1("i32", 3), weights = mr_type1("f32", 3);
        mr_val ce[3], in[] = { x, b->input(p, "targets", &ids),
                               b->input(p, "loss_weight", &weights) };
        b->op(p, "cross_entropy", in, 3, NULL, 0, ce, 3, __FILE__, __LINE__);
        b->loss(p, "l", ce[0]);
    }
    b->region(p, "r");
    if (strcmp(f->fault, "region"))
        b->end(p);
    b->output(p, "y", x);
    return 0;
}

Test(assembly, refuses_what_does_not_connect)
{
    static const struct {
        const char *fault, *says;
    } row[] = {
        { "missing", "input z of block last (instance 1, 'b.') has no source" },
        { "no output", "input x of block last (instance 1, 'b.') has no source" },
        { "type", "input x of block last: output y of block first is f32[3,4] and not f32[3,5]" },
        { "fed", "input loss_weight of block first is fed as f32[3], the block takes f32[4]" },
        { "backwards", "edge 1 -> 0 of 2 instances must lead forwards" },
        { "kindless", "an instance has no block kind" },
        { "bind", "bind() on instance 7 of 2" },
        { "region", "region 'r' is never closed" },
    };
    static const mr_model_ops ops = { .size = sizeof ops, .assemble = f_assemble,
                                      .build = f_build };
    mr_block_env env = { sizeof env, 0, "train", 3, 0, 0, 3 };
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        faulty f = { row[i].fault };
        mri_assembly *a;
        mr_err err = MR_ERR_INIT;
        cr_assert_eq(mri_assemble(&ops, &f, &env, "f32", &a, &err), MR_E_PROGRAM, "%s",
                     row[i].fault);
        cr_assert_null(a);
        cr_assert(strstr(err.what, row[i].says), "%s: %s", row[i].fault, err.what);
    }
    faulty good = { "" };
    mri_assembly *a;
    mr_err err = MR_ERR_INIT;
    kit_ok(mri_assemble(&ops, &good, &env, "f32", &a, &err), &err, "without a fault");
    mri_assembly_free(a);
}

/* What a gradient has to pass back through is known once the blocks are compiled. */
Test(assembly, refuses_an_output_that_gets_no_gradient_or_two)
{
    static const mr_op_def stop = { .size = sizeof stop, .flags = MR_OP_NO_VJP, .id = "test.stop",
                                    .doc = "y = x, without a gradient", .sig = "x -> y",
                                    .shape = same_shape, .ref = copy_loop };
    static const struct {
        const char *fault, *says;
    } row[] = {
        { "stopped", "0 blocks pass a gradient back to output y of block first (instance 0)" },
        { "twice", "2 blocks pass a gradient back to output y of block first (instance 0)" },
    };
    static const mr_model_ops ops = { .size = sizeof ops, .assemble = f_assemble,
                                      .build = f_build };
    mr_block_env env = { sizeof env, 0, "train", 3, 0, 0, 3 };
    mri_exec_options o = { .mode = "train", .tokens = 3, .plan = { .train = true } };
    tiny t = tiny_open("ref", (mri_session_options){ 0 }, NULL);
    mr_err err = MR_ERR_INIT;
    kit_ok(mri_op_register(&stop, &err), &err, "register");
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        faulty f = { row[i].fault };
        mri_assembly *a;
        mri_exec *e;
        kit_ok(mri_assemble(&ops, &f, &env, "f32", &a, &err), &err, "assemble");
        cr_assert_eq(mri_exec_create(&t.s->device, a, &t.s->params, &t.s->scalars, &o, &e, &err),
                     MR_E_NO_GRADIENT, "%s", row[i].fault);
        cr_assert_null(e);
        cr_assert(strstr(err.what, row[i].says), "%s: %s", row[i].fault, err.what);
    }
    tiny_close(&t);
}
