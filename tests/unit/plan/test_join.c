/* SPDX-License-Identifier: Apache-2.0
 *
 * Products of one x that meet in a SwiGLU, or as q, k and v in an attention, become one where
 * their matrices (and biases) lie side by side: the gradients of all parameters stay what they
 * were, under their names and in their places. Where something lies between them, an optimizer
 * group parts them, or a backend has no such attention, nothing is joined.
 */
#include "tiny.h"

static uint32_t nodes_of(const mri_session *s, const char *op)
{
    uint32_t n = 0;
    for (size_t k = 0; k < s->train->plans.n; k++) {
        const mr_prog *p = s->train->plans.v[k]->prog;
        for (size_t i = 0; i < p->nodes.n; i++)
            n += p->nodes.v[i].phase == MRI_F && !strcmp(p->nodes.v[i].def->id, op);
    }
    return n;
}

static uint32_t products(const tiny *t)
{
    return nodes_of(t->s, "linear") + nodes_of(t->s, "linear_add");
}

static void expect_close(const tiny *a, const float *x, const tiny *b, const float *y)
{
    for (size_t i = 0; i < a->s->params.slots.n; i++) {
        const mri_tensor_slot *s = &a->s->params.slots.v[i], *t = &b->s->params.slots.v[i];
        double scale = 0, off = 0;
        cr_assert_eq(s->at, t->at);
        for (uint64_t k = 0; k < s->n; k++) {
            scale = fmax(scale, fabs(x[s->at + k]));
            off = fmax(off, fabs((double)x[s->at + k] - y[t->at + k]));
        }
        cr_assert(scale > 0 && off <= 1e-5 * scale, "%s: off by %g of %g", s->name, off, scale);
    }
}

Test(join, leaves_gradients_as_they_were)
{
    static const char *const backends[] = { "ref", "cpu" };
    const char *const apart[] = { "train.fuse=false", NULL };
    for (int b = 0; b < 2; b++) {
        tiny one = tiny_open(backends[b], (mri_session_options){ 0 }, NULL);
        tiny two = tiny_open(backends[b], (mri_session_options){ 0 }, apart);
        size_t n = 0, m = 0;
        char *x = tiny_gradients(&one, 5, &n), *y = tiny_gradients(&two, 5, &m);
        cr_assert_lt(products(&one), products(&two), "nothing was joined");
        cr_assert_eq(n, m);
        expect_close(&one, (const float *)x, &two, (const float *)y);
        free(x);
        free(y);
        tiny_close(&one);
        tiny_close(&two);
    }
}

static uint32_t products_with(const char *set)
{
    const char *const sets[] = { set, NULL };
    tiny t = tiny_open("ref", (mri_session_options){ 0 }, sets);
    uint32_t n = products(&t);
    tiny_close(&t);
    return n;
}

Test(join, needs_matrices_side_by_side_in_one_group)
{
    uint32_t joined = products_with("run.seed=1");
    cr_assert_gt(products_with("model.ffn_hidden=21"), joined, "a gap lies between them");
    cr_assert_gt(products_with("optimizer.groups=*.gate_proj.weight:lr_mult=0.5"), joined,
                 "their groups differ");
    cr_assert_gt(products_with("optimizer.groups=*.up_proj.weight:frozen"), joined,
                 "one of them is frozen");
}

/* ---- q, k and v of the outside family, with biases ------------------------------------------- */
static kit open_gpt2(const char *backend, const char *more)
{
    char *model = mri_format("model.plugin=%s/tests/unit/model/gpt2.so", getenv("MRUN_BUILD"));
    char *plugin = mri_format("backend.plugin=%s", backend);
    const char *const sets[] = { model, plugin, "model.layers=2", "model.hidden=64",
                                 "model.heads=4", "model.vocab=23", "model.max_positions=64",
                                 "model.init_std=0.2", "train.steps=1", "train.seq=12",
                                 "train.micro_batch=2", "data.text.path=unused", more, NULL };
    mr_err err = MR_ERR_INIT;
    kit k = kit_open(NULL, sets, (mri_session_options){ .needs = MRI_NEED_TRAIN });
    kit_ok(mri_session_init_weights(k.session, &err), &err, "weights");
    free(model);
    free(plugin);
    return k;
}

static void gradients(mri_session *s)
{
    mr_err err = MR_ERR_INIT;
    mri_step_result r;
    mri_batch b = kit_batch(2, TINY_SEQ, TINY_VOCAB, 3);
    kit_ok(mri_session_gradients_of(s, &b, &r, &err), &err, "gradients");
    kit_batch_free(&b);
}

Test(join, q_k_and_v_with_their_biases)
{
    kit one = open_gpt2("ref", NULL), two = open_gpt2("ref", "train.fuse=false");
    mri_session *a = one.session, *b = two.session;
    cr_assert_eq(nodes_of(a, "qkv_attention"), 1, "of the one kind of block that has attention");
    cr_assert_eq(nodes_of(b, "qkv_attention"), 0);
    gradients(a);
    gradients(b);
    for (size_t i = 0; i < a->params.slots.n; i++) {
        const mri_tensor_slot *s = &a->params.slots.v[i];
        double *x = kit_grad(a, s), *y = kit_grad(b, &b->params.slots.v[i]), scale = 0, off = 0;
        for (uint64_t k = 0; k < s->n; k++) {
            scale = fmax(scale, fabs(y[k]));
            off = fmax(off, fabs(x[k] - y[k]));
        }
        /* a key's bias moves all scores of a row alike: its gradient is rounding alone */
        cr_assert(off <= 1e-5 * scale || (strstr(s->name, "k_proj.bias") && off < 1e-6),
                  "%s: off by %g of %g", s->name, off, scale);
        free(x);
        free(y);
    }
    kit_close(&one);
    kit_close(&two);
}

Test(join, q_k_and_v_only_where_the_backend_takes_them_and_nothing_lies_between)
{
    const struct {
        const char *backend, *more;
    } apart[] = { { "cpu", NULL }, { "ref", "optimizer.groups=*.v_proj.bias:lr_mult=0.5" },
                  { "ref", "optimizer.groups=*.k_proj.weight:frozen" },
                  { "ref", "model.hidden=60" } };
    for (size_t i = 0; i < sizeof apart / sizeof *apart; i++) {
        kit k = open_gpt2(apart[i].backend, apart[i].more);
        cr_assert_eq(nodes_of(k.session, "qkv_attention"), 0, "case %zu", i);
        cr_assert_eq(nodes_of(k.session, "attention"), 1);
        kit_close(&k);
    }
}
