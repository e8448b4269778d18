/* SPDX-License-Identifier: Apache-2.0
 * Recipe fp8-tensor: the products of layers compute in 8-bit floats, an operand is quantised once
 * for all that read it, and what is left alone is left alone to the bit. */
#include "tiny.h"

#define SIZES \
    "model.hidden=32", "model.ffn_hidden=48", "model.head_dim=16", "model.llama4.experts=4", \
        "model.llama4.expert_hidden=16", "train.micro_batch=4"

static tiny open_recipe(const char *recipe, const char *more)
{
    char *precision = mri_format("precision.recipe=%s", recipe);
    mri_session_options o = { 0 };
    const char *sets[] = { SIZES, precision, more, NULL };
    tiny t = tiny_open("cpu", o, sets);
    free(precision);
    return t;
}

/* Gradients after one batch, as f32 */
static float *gradients(const char *recipe, const char *more, size_t *n)
{
    tiny t = open_recipe(recipe, more);
    float *g = (float *)tiny_gradients(&t, 7, n);
    *n /= sizeof(float);
    tiny_close(&t);
    return g;
}

static uint32_t count(const mr_prog *p, const char *id)
{
    uint32_t n = 0;
    for (size_t i = 0; i < p->nodes.n; i++)
        n += !strcmp(p->nodes.v[i].def->id, id);
    return n;
}

static const mri_plan *plan_of(const tiny *t, const char *kind)
{
    for (size_t k = 0; k < t->s->train->plans.n; k++)
        if (!strcmp(t->s->train->plans.v[k]->name, kind))
            return t->s->train->plans.v[k];
    cr_assert_fail("no block %s", kind);
    return NULL;
}

Test(precision, rewrites_the_three_uses_of_a_layers_products)
{
    tiny t = open_recipe("fp8-tensor", NULL), b = open_recipe("bf16", NULL);
    const mri_plan *fp8 = plan_of(&t, "layer.dense.rope"), *bf16 = plan_of(&b, "layer.dense.rope");
    uint32_t linears = count(bf16->prog, "linear");
    cr_assert_gt(linears, 0);
    cr_assert_eq(count(fp8->prog, "linear"), 0);
    cr_assert_eq(count(fp8->prog, "linear.dgrad"), 0);
    cr_assert_eq(count(fp8->prog, "linear.wgrad"), 0);
    cr_assert_eq(count(fp8->prog, "linear.fp8"), 2 * linears); /* forward and data gradient */
    cr_assert_eq(count(fp8->prog, "linear.fp8.wgrad"), linears);
    /* weights twice, gradients once, and of x: q, k and v read one, gate and up another */
    cr_assert_leq(count(fp8->prog, "quantize"), 4 * linears);
    cr_assert_eq(count(fp8->prog, "quantize"), count(fp8->prog, "amax"));
    cr_assert_lt(fp8->saved_bytes, bf16->saved_bytes, "%llu and %llu",
                 (unsigned long long)fp8->saved_bytes, (unsigned long long)bf16->saved_bytes);
    const mri_plan *head = plan_of(&t, "head"), *moe = plan_of(&t, "layer.moe.nope");
    cr_assert_eq(count(head->prog, "linear.fp8"), 0, "the head keeps bf16");
    cr_assert_eq(count(moe->prog, "linear"), 1, "the router keeps bf16, %u products do",
                 count(moe->prog, "linear"));
    tiny_close(&t);
    tiny_close(&b);
}

/* Each product reads operands with 3 bits of mantissa (gradients: 2), about 4 % of noise a product;
 * through four layers, two of them with a router, the direction stays. */
Test(precision, gradients_point_where_bf16s_do)
{
    size_t n, m;
    float *a = gradients("bf16", NULL, &n), *b = gradients("fp8-tensor", NULL, &m);
    double ab = 0, aa = 0, bb = 0;
    cr_assert_eq(n, m);
    for (size_t i = 0; i < n; i++) {
        cr_assert(isfinite(b[i]), "element %zu is %g", i, (double)b[i]);
        ab += (double)a[i] * b[i];
        aa += (double)a[i] * a[i];
        bb += (double)b[i] * b[i];
    }
    double cosine = ab / sqrt(aa * bb);
    cr_assert_gt(cosine, 0.95, "cosine %.4f", cosine);
    cr_assert_lt(cosine, 0.999999, "nothing was rounded");
    free(a);
    free(b);
}

Test(precision, layers_named_in_bf16_are_bf16s_to_the_bit)
{
    size_t n, m;
    float *a = gradients("bf16", NULL, &n);
    float *b = gradients("fp8-tensor", "precision.num_layers_at_start_in_bf16=4", &m);
    cr_assert(n == m && !memcmp(a, b, n * sizeof *a), "other bits with every layer in bf16");
    free(b);
    b = gradients("fp8-tensor", "precision.num_layers_at_end_in_bf16=2", &m);
    cr_assert(n == m && memcmp(a, b, n * sizeof *a), "the first layers are in bf16 too (%zu, %zu)",
              n, m);
    tiny t = open_recipe("fp8-tensor", "precision.num_layers_at_end_in_bf16=1");
    uint32_t with = 0, without = 0;
    for (uint32_t i = 0; i < t.s->train->frames.n; i++) {
        const mr_prog *p = t.s->train->frames.v[i].plan->prog;
        with += count(p, "linear.fp8") > 0;
        without += count(p, "linear.wgrad") > 1;
    }
    cr_assert_eq(with, 3);
    cr_assert_eq(without, 1, "%u layers in bf16", without);
    tiny_close(&t);
    free(a);
    free(b);
}

Test(precision, recompute_and_delayed_weight_gradients_give_the_same)
{
    size_t n, m;
    float *a = gradients("fp8-tensor", NULL, &n);
    float *b = gradients("fp8-tensor", "train.recompute=full", &m);
    cr_assert(n == m && !memcmp(a, b, n * sizeof *a), "recompute changes bits");
    free(b);
    b = gradients("fp8-tensor", "train.split_weight_gradient=true", &m);
    cr_assert(n == m && !memcmp(a, b, n * sizeof *a), "a delayed weight gradient changes bits");
    free(a);
    free(b);
}
