/* SPDX-License-Identifier: Apache-2.0
 *
 * Ten steps with experts over ep and sequences over cp, alone, together, and beside dp and tensor
 * parallelism: losses, norms, validation, weights and optimizer states of one rank that runs the
 * same micro-batches.
 */
#include "steps.h"

static const char *const llama4[] = { STEPS_MODEL, "model.llama4.experts_per_token=2",
                                      "train.micro_batch=2", "train.global_batch=8", NULL };
static const char *const kimi[] = { STEPS_MODEL, "model.plugin=kimi_k2",
                                    "model.kimi_k2.expert_hidden=12", "train.micro_batch=2",
                                    "train.global_batch=8", NULL };

#define MESH(...) (const char *const[]){ __VA_ARGS__, NULL }

static void same(const char *const *model, uint32_t ranks, const char *what,
                 const char *const *mesh)
{
    steps a = steps_run(1, model, NULL), b = steps_run(ranks, model, mesh);
    steps_same(&a, &b, 1e-5, what);
    steps_free(&a);
    steps_free(&b);
}

Test(moe_steps, experts_over_ranks)
{
    same(llama4, 2, "llama4 ep 2", MESH("mesh.ep=2"));
    same(kimi, 4, "kimi ep 4", MESH("mesh.ep=4"));
}

Test(moe_steps, experts_over_ranks_in_blocks_of_equal_size)
{
    same(llama4, 2, "llama4 ep 2 in blocks", MESH("mesh.ep=2", "mesh.dispatcher=alltoall_padded"));
    same(kimi, 4, "kimi cp 2, ep 4 in bounded blocks",
         MESH("mesh.cp=2", "mesh.ep=4", "mesh.dispatcher=alltoall_padded",
              "mesh.dispatch_bound=3.5"));
    same(kimi, 4, "kimi pp 2, tp 2, ep 2 in blocks",
         MESH("mesh.pp=2", "mesh.tp=2", "mesh.ep=2", "mesh.dispatcher=alltoall_padded"));
}

/* Blocks travel beside another micro-batch as exact rows do. */
Test(moe_steps, blocks_of_equal_size_while_micro_batches_take_turns)
{
    same(kimi, 2, "kimi ep 2 in blocks, in turn",
         MESH("mesh.ep=2", "mesh.dispatcher=alltoall_padded",
              "mesh.overlap_moe_expert_parallel_comm=true"));
}

Test(moe_steps, experts_over_half_of_the_ranks)
{
    same(kimi, 4, "kimi ep 2, edp 2", MESH("mesh.ep=2"));
    same(llama4, 4, "llama4 ep 2 by gathered tokens",
         MESH("mesh.ep=2", "mesh.dispatcher=allgather"));
}

Test(moe_steps, sequences_over_ranks)
{
    same(llama4, 2, "llama4 cp 2", MESH("mesh.cp=2"));
    same(kimi, 4, "kimi cp 2, dp 2, ep 4", MESH("mesh.cp=2", "mesh.ep=4"));
}

Test(moe_steps, experts_under_tensor_parallelism)
{
    same(llama4, 2, "llama4 tp 2, ep 2", MESH("mesh.tp=2", "mesh.ep=2"));
    same(kimi, 4, "kimi tp 2, ep 4", MESH("mesh.tp=2", "mesh.ep=4"));
}

/* Every rank has all tokens, and its experts take a part of them. */
Test(moe_steps, experts_under_tensor_parallelism_of_whole_sequences)
{
    same(llama4, 2, "llama4 tp 2, no sp", MESH("mesh.tp=2", "mesh.sequence_parallel=false"));
    same(kimi, 4, "kimi tp 2, dp 2, no sp, distopt",
         MESH("mesh.tp=2", "mesh.sequence_parallel=false", "shard.plugin=distopt"));
}

/* Which tokens are dropped hangs on the tokens of a rank alone. */
Test(moe_steps, tokens_dropped_by_capacity)
{
    const char *const drop[] = { STEPS_MODEL, "model.llama4.experts_per_token=2",
                                 "train.micro_batch=2", "train.global_batch=8",
                                 "mesh.capacity_factor=0.8", NULL };
    same(drop, 4, "llama4 ep 2 with capacities", MESH("mesh.ep=2"));
    same(drop, 4, "llama4 ep 2 with rows up to capacities",
         MESH("mesh.ep=2", "mesh.pad_to_capacity=true", "mesh.dispatcher=alltoall_padded"));
}
