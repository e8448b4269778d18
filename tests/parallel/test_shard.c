/* SPDX-License-Identifier: Apache-2.0
 * Data parallelism, whatever the ranks split: the training of one rank, whose micro-batches are the
 * same. A rank's memory shrinks by the strategy's formula; what overlaps changes no bit. */
#include "steps.h"

static const char *const common[] = { STEPS_MODEL, "train.micro_batch=1", "train.global_batch=8",
                                      NULL };

#define FSDP(strategy) "shard.plugin=fsdp", "shard.fsdp.strategy=" strategy

static steps one_rank(void)
{
    return steps_run(1, common, NULL);
}

static void check(uint32_t ranks, const char *const *sets, const char *what)
{
    static steps one; /* of this process: each test has one */
    steps b = steps_run(ranks, common, sets);
    if (!one.tensors.n)
        one = one_rank();
    steps_same(&one, &b, 1e-5, what);
    steps_free(&b);
}

Test(shard, sums_over_ranks_are_those_of_one)
{
    check(2, NULL, "2 ranks");
    check(4, NULL, "4 ranks");
}

Test(shard, the_distributed_optimizer_trains_the_same)
{
    check(2, (const char *[]){ "shard.plugin=distopt", NULL }, "distopt");
    check(4, (const char *[]){ "shard.plugin=distopt", "shard.distopt.bucket_size=3000", NULL },
          "distopt in small buckets");
}

Test(shard, every_strategy_trains_the_same)
{
    check(2, (const char *[]){ FSDP("no_shard"), NULL }, "no_shard");
    check(4, (const char *[]){ FSDP("optim"), NULL }, "optim");
    check(2, (const char *[]){ FSDP("optim_grads"), NULL }, "optim_grads");
    check(2, (const char *[]){ FSDP("optim_grads_params"), NULL }, "optim_grads_params");
    check(8, (const char *[]){ FSDP("optim_grads_params"), "shard.fsdp.prefetch=0", NULL },
          "optim_grads_params over 8 ranks");
}

Test(shard, copies_hold_the_same_pieces)
{
    check(4, (const char *[]){ FSDP("optim"), "mesh.copies=2", NULL }, "optim in 2 copies");
    check(4, (const char *[]){ FSDP("optim_grads_params"), "mesh.copies=2", NULL }, "2 copies");
}

/* 3, 4, ... micro-batches on two ranks: some have one more than others, and on some the last is
 * blank */
Test(shard, unequal_shares_are_right)
{
    static const char *const ramp[] = { STEPS_MODEL, "train.micro_batch=1", "train.global_batch=8",
                                        "train.rampup_start=3", "train.rampup_increment=1",
                                        "train.rampup_samples=50", NULL };
    steps a = steps_run(1, ramp, NULL), b = steps_run(2, ramp, NULL);
    cr_assert(a.tokens[0] < a.tokens[STEPS - 1]);
    steps_same(&a, &b, 1e-5, "ramp-up");
    steps c = steps_run(2, ramp, (const char *[]){ FSDP("optim_grads"), NULL });
    steps_same(&a, &c, 1e-5, "ramp-up of optim_grads");
    steps_free(&a);
    steps_free(&b);
    steps_free(&c);
}

Test(shard, a_tied_table_is_summed_once)
{
    const char *tie = "model.llama4.tie=true";
    steps a = steps_run(1, common, (const char *[]){ tie, NULL });
    steps b = steps_run(2, common, (const char *[]){ tie, FSDP("optim_grads_params"), NULL });
    steps_same(&a, &b, 1e-5, "tied");
    steps_free(&a);
    steps_free(&b);
}

/* Overlap on and off; and strategies that make one sum in one order: no_shard and optim, which sum
 * once a step, and the other two, which sum every micro-batch. Without clipping, as the norm is a
 * sum over other parts. */
static void exactly(const char *recipe, const char *masters, bool overlap)
{
    static const char *const strategy[] = {
        "shard.fsdp.strategy=no_shard", "shard.fsdp.strategy=optim",
        "shard.fsdp.strategy=optim_grads", "shard.fsdp.strategy=optim_grads_params" };
    steps last = { 0 };
    for (int k = 0; k < 4; k++) {
        const char *sets[] = { "shard.plugin=fsdp", strategy[k], "optimizer.clip_grad=0", recipe,
                               masters, NULL, NULL, NULL };
        steps a = steps_run(2, common, sets);
        if (overlap) {
            sets[5] = "shard.fsdp.overlap_grad_reduce=false";
            sets[6] = "shard.fsdp.overlap_param_gather=false";
            steps b = steps_run(2, common, sets);
            steps_same(&a, &b, 0, strategy[k]);
            steps_free(&b);
        }
        if (k % 2) {
            steps_same(&last, &a, 0, strategy[k]);
            steps_free(&last);
            steps_free(&a);
        } else {
            last = a;
        }
    }
}

Test(shard, overlap_changes_no_bit)
{
    exactly("precision.recipe=fp32", "precision.masters=f32", true);
}

Test(shard, nor_do_strategies_that_sum_alike_in_bf16)
{
    exactly("precision.recipe=bf16", "precision.masters=f32", false);
    exactly("precision.recipe=bf16", "precision.masters=remainder", false);
}

/* bf16 has 8 bits: gradients that travel in it are off by up to 1/256 each, their norm by less. */
Test(shard, gradients_may_travel_in_half)
{
    static const char *const strategy[] = {
        "shard.fsdp.strategy=no_shard", "shard.fsdp.strategy=optim",
        "shard.fsdp.strategy=optim_grads", "shard.fsdp.strategy=optim_grads_params" };
    steps a = one_rank();
    for (int k = 0; k < 4; k++) {
        steps b = steps_run(2, common, (const char *[]){ "shard.plugin=fsdp", strategy[k],
                                                         "shard.fsdp.reduce_in_bf16=true", NULL });
        cr_expect(steps_gap(a.norm[0], b.norm[0]) < 2e-3, "%s: norm %g and %g", strategy[k],
                  a.norm[0], b.norm[0]);
        cr_expect_neq(a.norm[0], b.norm[0], "%s: nothing was rounded", strategy[k]);
        for (int i = 0; i < STEPS; i++)
            cr_expect(steps_gap(a.loss[i], b.loss[i]) < 5e-3, "%s, step %d: loss %g and %g",
                      strategy[k], i + 1, a.loss[i], b.loss[i]);
        steps_free(&b);
    }
    steps_free(&a);
}

typedef struct sizes {
    uint64_t bytes[4], buffers[4], elements;
} sizes;

static mr_status measure(par_rank *r, void *ctx, mr_err *err)
{
    sizes *out = ctx;
    mri_session_options o = { .needs = MRI_NEED_TRAIN | MRI_NEED_UPDATE, .dry = true };
    mr_status st = par_session(r, &o, err);
    if (st)
        return st;
    const mri_session *s = r->session;
    out->bytes[r->rank] = mri_params_bytes(&s->params, true) + s->update->state_bytes;
    out->buffers[r->rank] = mri_dp_bytes(s->dp);
    if (!r->rank)
        out->elements = s->params.count;
    return 0;
}

/* d = 4 ranks. In f32 weights are masters: no_shard 4 + 4 + 8 bytes an element, optim 8 + 8/d,
 * optim_grads 4 + 12/d, optim_grads_params 16/d. In bf16 with f32 masters and gradients: 18,
 * 6 + 12/d, 2 + 16/d, 18/d. */
Test(shard, memory_shrinks_by_the_formula)
{
    static const struct {
        const char *strategy;
        double whole[2], split[2];
    } row[] = { { "shard.fsdp.strategy=no_shard", { 16, 18 }, { 0, 0 } },
                { "shard.fsdp.strategy=optim", { 8, 6 }, { 8, 12 } },
                { "shard.fsdp.strategy=optim_grads", { 4, 2 }, { 12, 16 } },
                { "shard.fsdp.strategy=optim_grads_params", { 0, 0 }, { 16, 18 } } };
    for (int k = 0; k < 8; k++) {
        const char *recipe = k < 4 ? "precision.recipe=fp32" : "precision.recipe=bf16";
        sizes x = { 0 };
        par_run(par_source("profiles/parity-tiny.ini"),
                (const char *[]){ "backend.plugin=ref", "train.global_batch=8",
                                  "shard.plugin=fsdp", row[k % 4].strategy, recipe, NULL },
                4, measure, &x);
        double want = (row[k % 4].whole[k / 4] + row[k % 4].split[k / 4] / 4) * (double)x.elements;
        for (int r = 0; r < 4; r++) {
            cr_expect(fabs((double)x.bytes[r] - want) < 0.03 * want, "%s, %s: rank %d has %llu "
                      "bytes, the formula gives %.0f", recipe, row[k % 4].strategy, r,
                      (unsigned long long)x.bytes[r], want);
            cr_expect_eq(x.buffers[r] != 0, k % 4 > 1, "%s: buffers of %llu bytes",
                         row[k % 4].strategy, (unsigned long long)x.buffers[r]);
        }
    }
}

/* Experts lie on ep x edp of the same ranks: their gradients are summed, and their pieces lie, over
 * those that hold the same experts. */
Test(shard, experts_are_split_over_their_own_ranks)
{
    const char *ep = "mesh.ep=2";
    check(4, (const char *[]){ ep, NULL }, "ep");
    check(4, (const char *[]){ ep, "shard.plugin=distopt", NULL }, "ep, distopt");
    check(4, (const char *[]){ ep, FSDP("optim_grads_params"), NULL }, "ep, fsdp");
}

/* Parts of matrices over tp; norms and routers, whole on each rank, see a part of the tokens. */
Test(shard, beside_tensor_parallelism)
{
    const char *tp = "mesh.tp=2";
    check(2, (const char *[]){ tp, NULL }, "tp alone");
    check(4, (const char *[]){ tp, "shard.plugin=distopt", NULL }, "tp, distopt");
    check(4, (const char *[]){ tp, FSDP("optim_grads_params"), NULL }, "tp, fsdp");
    check(4, (const char *[]){ tp, "mesh.sequence_parallel=false", FSDP("optim_grads"), NULL },
          "tp without sequence parallelism");
}
