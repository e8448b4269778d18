/* SPDX-License-Identifier: Apache-2.0
 *
 * optimizer.h - unit kind "optimizer": an update is a program, so every backend runs it.
 * build() gets a program in which these exist:
 *   state  "master"  f32, the weights in full precision (written)
 *   input  "grad"    f32, the summed gradient
 *   scalars "lr", "weight_decay" (of the group), "step" (1, 2, ...), "grad_scale" (what the
 *   gradient is multiplied with: clipping), "ok" (0: change nothing)
 * It declares the further states that it keeps (exp_avg ...) and ends in an op that writes
 * them. Where the op has the optional operand "weights!?", the plugin leaves it out: core may
 * give it the bf16 weights to write, and keep masters as i16 beside them (op adamw has both);
 * else core derives weights from masters itself. With MR_OPTIM_FLAT the program is built once per parameter group over one flat
 * vector [N] (N includes alignment gaps, whose gradient is 0); without, once per shape.
 */
#ifndef MRUN_OPTIMIZER_H
#define MRUN_OPTIMIZER_H
#include "program.h"
#ifdef __cplusplus
extern "C" {
#endif

enum { MR_OPTIM_FLAT = 1 };

typedef struct mr_optimizer_ops {
    uint32_t size, flags;
    mr_status (*create)(const mr_host *, const void *config, void **optimizer, mr_err *); /* [main] */
    void (*destroy)(void *optimizer);                                                    /* [main] */
    mr_status (*build)(void *optimizer, const mr_type *param, const mr_builder *, mr_prog *,
                       mr_err *);                                                    /* [instance] */
} mr_optimizer_ops;

#ifdef __cplusplus
}
#endif
#endif
