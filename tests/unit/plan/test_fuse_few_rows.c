/* SPDX-License-Identifier: Apache-2.0
 *
 * A decoding step's fused ops are found in a real model, where the backend answers for them, and
 * change no logit beyond rounding; a backend that has none of them keeps the plain ops.
 */
#include "tiny.h"

static const char *const fused_ops[] = { "linears", "linear_swiglu", "experts_swiglu",
                                         "experts_add", "router", "rope_attention.paged" };
static const char *const plain_ops[] = { "swiglu", "grouped_linear", "permute", "route_topk",
                                         "route_plan", "rmsnorm", "rope", "rope_norm" };
enum { FUSED = sizeof fused_ops / sizeof *fused_ops, PLAIN = sizeof plain_ops / sizeof *plain_ops };

static int count(const tiny *t, const char *op)
{
    int n = 0;
    for (size_t k = 0; k < t->s->decode->plans.n; k++) {
        const mr_prog *p = t->s->decode->plans.v[k]->prog;
        for (size_t i = 0; i < p->nodes.n; i++)
            n += !strcmp(p->nodes.v[i].def->id, op);
    }
    return n;
}

static tiny open_decode(const char *backend, const char *fuse)
{
    const char *const more[] = { "model.llama4.experts_per_token=1", fuse, NULL };
    return tiny_open(backend, (mri_session_options){ .needs = MRI_NEED_DECODE, .slots = 1,
                                                     .max_seq = 16 }, more);
}

/* logits after each of 9 tokens, fed one by one */
static void logits_of(tiny *t, float out[9][TINY_VOCAB])
{
    mr_err err = MR_ERR_INIT;
    for (int32_t i = 0; i < 9; i++) {
        int32_t id = (7 * i + 3) % TINY_VOCAB;
        kit_ok(mri_session_decode(t->s, &id, 1, i, out[i], &err), &err, "decode");
    }
}

Test(fuse_few_rows, changes_logits_by_rounding_only)
{
    float with[9][TINY_VOCAB], without[9][TINY_VOCAB], scale = 0, off = 0;
    tiny a = open_decode("ref", "train.fuse=false"), b = open_decode("ref", "train.fuse=true");
    for (int k = 0; k < FUSED; k++) {
        cr_expect_eq(count(&a, fused_ops[k]), 0, "%s without fusion", fused_ops[k]);
        cr_expect_gt(count(&b, fused_ops[k]), 0, "no %s", fused_ops[k]);
    }
    for (int k = 0; k < PLAIN; k++)
        cr_expect_eq(count(&b, plain_ops[k]), 0, "%s is left", plain_ops[k]);
    logits_of(&a, without);
    logits_of(&b, with);
    for (int i = 0; i < 9; i++)
        for (int v = 0; v < TINY_VOCAB; v++) {
            scale = fmaxf(scale, fabsf(without[i][v]));
            off = fmaxf(off, fabsf(with[i][v] - without[i][v]));
        }
    cr_expect(scale > 0 && off <= 2e-6f * scale, "off by %g of %g", off, scale);
    tiny_close(&a);
    tiny_close(&b);
}

Test(fuse_few_rows, are_for_who_answers_only)
{
    tiny t = open_decode("cpu", "train.fuse=true");
    for (int k = 0; k < FUSED; k++)
        cr_expect_eq(count(&t, fused_ops[k]), 0, "%s on a backend without it", fused_ops[k]);
    tiny_close(&t);
}
