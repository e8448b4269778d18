/* SPDX-License-Identifier: Apache-2.0
 *
 * Fused ops change no gradient beyond rounding, with or without recomputation and split weight
 * gradients; only a backend that answers for an op gets it; and no value that somebody else
 * still reads is lost.
 */
#include "tiny.h"
#include <criterion/parameterized.h>

/* ---- the whole model ------------------------------------------------------------------------ */

static const char *const fused_ops[] = { "add_rmsnorm.bwd", "rope_norm",        "rope_norm.bwd",
                                         "linear_add",      "linear_add.dgrad", "unpermute_add",
                                         "permute.bwd" };
enum { FUSED = sizeof fused_ops / sizeof *fused_ops };

static int count(const mr_prog *p, const char *op)
{
    int n = 0;
    for (size_t i = 0; i < p->nodes.n; i++)
        n += !strcmp(p->nodes.v[i].def->id, op);
    return n;
}

static int count_all(const tiny *t, const char *op)
{
    int n = 0;
    for (size_t k = 0; k < t->s->train->plans.n; k++)
        n += count(t->s->train->plans.v[k]->prog, op);
    return n;
}

typedef struct variant {
    char set[64];
} variant;

ParameterizedTestParameters(fuse, changes_gradients_by_rounding_only)
{
    static variant all[] = { { "train.recompute=none" },
                             { "train.recompute=layernorm" },
                             { "train.recompute=layernorm,moe_act,core_attn" },
                             { "train.recompute=full" },
                             { "train.split_weight_gradient=true" },
                             { "model.llama4.experts_per_token=1" },
                             { "model.llama4.shared_expert=false" } };
    return cr_make_param_array(variant, all, sizeof all / sizeof *all);
}

ParameterizedTest(variant *v, fuse, changes_gradients_by_rounding_only)
{
    size_t n, m;
    /* of two groups, so that no products are joined: what that changes is test_join's */
    static const char parted[] = "optimizer.groups=*.gate_proj.weight:lr_mult=0.5";
    const char *const with[] = { v->set, parted, NULL };
    const char *const without[] = { v->set, parted, "train.fuse=false", NULL };
    tiny a = tiny_open("ref", (mri_session_options){ 0 }, without);
    tiny b = tiny_open("ref", (mri_session_options){ 0 }, with);
    float *x = (float *)tiny_gradients(&a, 5, &n), *y = (float *)tiny_gradients(&b, 5, &m);
    cr_assert_eq(n, m);
    for (size_t k = 0; k < FUSED; k++) {
        cr_assert_eq(count_all(&a, fused_ops[k]), 0, "%s without fusion", fused_ops[k]);
        cr_assert_gt(count_all(&b, fused_ops[k]), 0, "%s: no %s", v->set, fused_ops[k]);
    }
    cr_assert_eq(count_all(&b, "rope"), 0);
    for (size_t i = 0; i < a.s->params.slots.n; i++) {
        const mri_tensor_slot *s = &a.s->params.slots.v[i];
        double scale = 0, off = 0;
        for (uint64_t k = 0; k < s->n; k++) {
            scale = fmax(scale, fabs(x[s->at + k]));
            off = fmax(off, fabs((double)x[s->at + k] - y[s->at + k]));
        }
        cr_assert(scale > 0 && off <= 2e-6 * scale, "%s: %s is off by %g of %g", v->set, s->name,
                  off, scale);
    }
    cr_assert_leq(tiny_saved(&b), tiny_saved(&a));
    free(x);
    free(y);
    tiny_close(&a);
    tiny_close(&b);
}

/* The same batch, the same loss, to the last digit that f32 has. */
Test(fuse, keeps_the_losses)
{
    double loss[2];
    for (int i = 0; i < 2; i++) {
        const char *const off[] = { "train.fuse=false", NULL };
        tiny t = tiny_open("ref", (mri_session_options){ 0 }, i ? off : NULL);
        mri_batch b = kit_batch(TINY_ROWS, TINY_SEQ, TINY_VOCAB, 3);
        mri_step_result r;
        mr_err err = MR_ERR_INIT;
        kit_ok(mri_session_gradients_of(t.s, &b, &r, &err), &err, "gradients");
        loss[i] = r.loss;
        kit_batch_free(&b);
        tiny_close(&t);
    }
    cr_assert_float_eq(loss[0], loss[1], 1e-6 * fabs(loss[1]));
}

/* ---- hand-made blocks ----------------------------------------------------------------------- */

static const char *refuses; /* an op that the stand-in for a backend lacks; NULL: none */

static mr_status answer(void *dev, const char *op, const mr_call *c, uint32_t flags, void **kernel,
                        mr_kernel_info *info, mr_err *err)
{
    (void)c, (void)flags, (void)info;
    *kernel = dev;
    return refuses && !strcmp(op, refuses)
               ? mr_fail(err, MR_E_UNSUPPORTED, MR_BLAME_USER, "no %s", op)
               : MR_OK;
}

static void release(void *dev, void *kernel)
{
    cr_assert_eq(dev, kernel);
}

static const mr_backend_ops yes = { .size = sizeof yes, .query = answer, .release = release };

static mri_plan *fuse(mr_net n, const char *lacks)
{
    mr_err err = MR_ERR_INIT;
    mri_plan *pl;
    mri_plan_options o = { .fuse = true, .stop_after = "fuse" };
    refuses = lacks;
    kit_ok(mri_plan_compile(n.p, &o, &yes, &err, &pl, &err), &err, "fuse");
    return pl;
}

typedef struct block {
    mr_net n;
    mr_val x, a, w, g;
} block;

static block open_block(void)
{
    block b;
    mr_type t = tiny_type(3), w = mr_type2("f32", 4, 4), g = mr_type1("f32", 4);
    mr_param pw = tiny_param(w), pg = tiny_param(g);
    b.n = tiny_prog("b", &b.x);
    b.a = b.n.b->input(b.n.p, "a", &t);
    b.w = b.n.b->param(b.n.p, "w", &pw);
    b.g = b.n.b->param(b.n.p, "g", &pg);
    return b;
}

static mr_val norm(block b, mr_val x)
{
    mr_val out[2];
    MR_OPN(b.n, "rmsnorm", out, 2, MR_IN(x, b.g), MR_NOAT);
    return out[0];
}

static void output(block b, const char *name, mr_val v)
{
    b.n.b->output(b.n.p, name, v);
}

Test(fuse, takes_what_the_backend_has)
{
    static const struct {
        const char *lacks;
        int linear_add, add_rmsnorm;
    } row[] = { { NULL, 1, 0 }, { "linear_add", 0, 1 }, { "add_rmsnorm", 1, 0 } };
    for (int i = 0; i < 3; i++) {
        block b = open_block();
        mr_val h = MR_OP(b.n, "add", MR_IN(b.x, MR_OP(b.n, "linear", MR_IN(b.a, b.w), MR_NOAT)),
                         MR_NOAT);
        output(b, "y", norm(b, h));
        mri_plan *pl = fuse(b.n, row[i].lacks);
        cr_assert_eq(count(pl->prog, "linear_add"), row[i].linear_add);
        cr_assert_eq(count(pl->prog, "add_rmsnorm"), row[i].add_rmsnorm);
        cr_assert_eq(pl->prog->nodes.n, 2);
        mri_plan_free(pl);
    }
}

/* GPT-2's: the sum before a layer norm, and in the backward the sum behind its gradient. */
Test(fuse, takes_layer_norms)
{
    block b = open_block();
    const char *const read[] = { "y", "h" };
    mr_list consumed = { read, 2 };
    mri_plan_options o = { .fuse = true, .train = true, .consumed = &consumed,
                           .stop_after = "fuse" };
    mr_val h = MR_OP(b.n, "add", MR_IN(b.x, b.a), MR_NOAT), out[3];
    mr_err err = MR_ERR_INIT;
    mri_plan *pl;
    refuses = NULL;
    MR_OPN(b.n, "layernorm", out, 3, MR_IN(h, b.g, 0), MR_AT(mr_af("eps", 1e-6)));
    output(b, "y", out[0]);
    output(b, "h", h);
    kit_ok(mri_plan_compile(b.n.p, &o, &yes, &err, &pl, &err), &err, "fuse");
    cr_assert_eq(count(pl->prog, "add_layernorm"), 1);
    cr_assert_eq(count(pl->prog, "add_layernorm.bwd"), 1);
    cr_assert_eq(count(pl->prog, "add"), 0);
    mri_plan_free(pl);
}

/* gelu's input is a value of its own only where the backward reads it */
Test(fuse, takes_gelu_into_the_products)
{
    for (int train = 0; train < 2; train++) {
        block b = open_block();
        const char *const read[] = { "y" };
        mr_list consumed = { read, 1 };
        mri_plan_options o = { .fuse = true, .train = train, .consumed = &consumed,
                               .stop_after = "fuse" };
        mr_attr tanh_form = mr_as("approx", "tanh");
        mr_err err = MR_ERR_INIT;
        mri_plan *pl;
        refuses = NULL;
        mr_val h = MR_OP(b.n, "linear", MR_IN(b.x, b.w, b.g), MR_NOAT);
        h = MR_OP(b.n, "gelu", MR_IN(h), MR_AT(tanh_form));
        output(b, "y", MR_OP(b.n, "linear", MR_IN(h, b.w), MR_NOAT));
        kit_ok(mri_plan_compile(b.n.p, &o, &yes, &err, &pl, &err), &err, "fuse");
        cr_assert_eq(count(pl->prog, "linear_gelu"), 1);
        cr_assert_eq(pl->prog->nodes.v[0].n_out, train ? 2 : 1);
        cr_assert_eq(count(pl->prog, "linear_gelu.dgrad"), train);
        cr_assert_eq(count(pl->prog, "gelu.bwd") + count(pl->prog, "gelu"), 0);
        mri_plan_free(pl);
    }
}

Test(fuse, keeps_values_that_others_read)
{
    block b = open_block(); /* h is the stream: it goes on behind the norm, and out of the block */
    mr_val h = MR_OP(b.n, "add", MR_IN(b.x, b.a), MR_NOAT);
    output(b, "y", norm(b, h));
    output(b, "h", h);
    output(b, "twice", MR_OP(b.n, "add", MR_IN(h, h), MR_NOAT));
    mri_plan *pl = fuse(b.n, NULL);
    cr_assert_eq(count(pl->prog, "add_rmsnorm"), 1);
    cr_assert_eq(pl->prog->nodes.v[0].out[1], mri_port_find(&pl->prog->outputs, "h"));
    cr_assert_eq(pl->prog->nodes.n, 2);
    mri_plan_free(pl);
}

Test(fuse, leaves_a_product_that_others_read)
{
    for (int i = 0; i < 3; i++) { /* an output, a second reader, both summands */
        block b = open_block();
        mr_val p = MR_OP(b.n, "linear", MR_IN(b.a, b.w), MR_NOAT);
        output(b, "y", MR_OP(b.n, "add", MR_IN(i == 2 ? p : b.x, p), MR_NOAT));
        if (i == 0)
            output(b, "p", p);
        if (i == 1)
            output(b, "n", norm(b, p));
        mri_plan *pl = fuse(b.n, NULL);
        cr_assert_eq(count(pl->prog, "linear_add"), 0, "%d", i);
        cr_assert_eq(count(pl->prog, "linear"), 1, "%d", i);
        mri_plan_free(pl);
    }
}

Test(fuse, leaves_a_sum_whose_reader_comes_before)
{
    block b = open_block(); /* h is read between the sum and its norm, by what the norm waits for */
    mr_val h = MR_OP(b.n, "add", MR_IN(b.x, b.a), MR_NOAT);
    mr_val z = MR_OP(b.n, "add", MR_IN(h, b.a), MR_NOAT);
    output(b, "z", MR_OP(b.n, "add", MR_IN(z, norm(b, h)), MR_NOAT));
    mri_plan *pl = fuse(b.n, NULL);
    cr_assert_eq(count(pl->prog, "add_rmsnorm"), 0);
    cr_assert_eq(count(pl->prog, "add"), 3);
    mri_plan_free(pl);
}

Test(fuse, leaves_rotated_values_that_others_read)
{
    static const double freq[] = { 1, 0.1 };
    for (int i = 0; i < 2; i++) {
        block b = open_block();
        mr_type t = mr_type1("i32", 3);
        mr_val pos = b.n.b->input(b.n.p, "positions", &t), out[2];
        mr_val r = MR_OP(b.n, "rope", MR_IN(b.x, pos),
                         MR_AT(mr_ai("head_dim", 4), mr_afs("inv_freq", freq, 2)));
        MR_OPN(b.n, "rmsnorm", out, 2, MR_IN(r, 0), MR_AT(mr_ai("group", 4)));
        output(b, "y", out[0]);
        if (i)
            output(b, "z", MR_OP(b.n, "add", MR_IN(r, b.a), MR_NOAT));
        mri_plan *pl = fuse(b.n, NULL);
        cr_assert_eq(count(pl->prog, "rope_norm"), !i);
        cr_assert_eq(count(pl->prog, "rope"), i);
        mri_plan_free(pl);
    }
}

Test(fuse, is_off_unless_asked_for)
{
    block b = open_block();
    mr_err err = MR_ERR_INIT;
    mri_plan *pl;
    mri_plan_options o = { .stop_after = "fuse" };
    refuses = NULL;
    output(b, "y", norm(b, MR_OP(b.n, "add", MR_IN(b.x, b.a), MR_NOAT)));
    kit_ok(mri_plan_compile(b.n.p, &o, &yes, &err, &pl, &err), &err, "plain");
    cr_assert_eq(pl->prog->nodes.n, 2);
    mri_plan_free(pl);
}
