/* SPDX-License-Identifier: Apache-2.0
 *
 * Two products of one x that meet in a SwiGLU become one where their matrices lie side by side:
 * the gradients of both parameters stay what they were, under their names and in their places.
 * Where something lies between them, or an optimizer group parts them, nothing is joined.
 */
#include "tiny.h"

static uint32_t products(const tiny *t)
{
    uint32_t n = 0;
    for (size_t k = 0; k < t->s->train->plans.n; k++) {
        const mr_prog *p = t->s->train->plans.v[k]->prog;
        for (size_t i = 0; i < p->nodes.n; i++)
            n += p->nodes.v[i].phase == MRI_F && (!strcmp(p->nodes.v[i].def->id, "linear") ||
                                                  !strcmp(p->nodes.v[i].def->id, "linear_add"));
    }
    return n;
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
