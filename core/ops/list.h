/* SPDX-License-Identifier: Apache-2.0
 *
 * list.h - the op families, one a file. Define MRI_OP_FAMILY(name) and include this:
 * core/ops/NAME.c defines `const mr_op_def mri_ops_NAME[]`, ended by MRI_OPS_END.
 * No include guard: it is included once a use. */
MRI_OP_FAMILY(linear)           /* linear, .dgrad, .wgrad, sum_rows, accumulate */
MRI_OP_FAMILY(embedding)        /* embedding, .bwd                              */
MRI_OP_FAMILY(rmsnorm)          /* rmsnorm, .bwd                                */
MRI_OP_FAMILY(layernorm)        /* layernorm, .bwd                              */
MRI_OP_FAMILY(rope)             /* rope                                         */
MRI_OP_FAMILY(attn_temperature) /* attn_temperature                             */
MRI_OP_FAMILY(attention)        /* attention, .bwd                              */
MRI_OP_FAMILY(attention_cached) /* attention.cached                             */
MRI_OP_FAMILY(swiglu)           /* swiglu, .bwd                                 */
MRI_OP_FAMILY(gelu)             /* gelu, .bwd                                   */
MRI_OP_FAMILY(elementwise)      /* add, cast, store                             */
MRI_OP_FAMILY(cross_entropy)    /* cross_entropy, .bwd                          */
/* uncomment when route.c permute.c grouped_linear.c moe_losses.c optimizer_ops.c are in the tree:
MRI_OP_FAMILY(route)
MRI_OP_FAMILY(permute)
MRI_OP_FAMILY(grouped_linear)
MRI_OP_FAMILY(moe_losses)
MRI_OP_FAMILY(optimizer_ops)
*/
