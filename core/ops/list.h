/* SPDX-License-Identifier: Apache-2.0
 *
 * list.h - the op families, one a file. Define MRI_OP_FAMILY(name) and include this:
 * core/ops/NAME.c defines `const mr_op_def mri_ops_NAME[]`, ended by MRI_OPS_END.
 * No include guard: it is included once a use. */
MRI_OP_FAMILY(linear)           /* linear, .dgrad, .wgrad, sum_rows, accumulate */
MRI_OP_FAMILY(fp8)              /* amax, quantize, linear.fp8, .wgrad              */
MRI_OP_FAMILY(embedding)        /* embedding, .bwd                              */
MRI_OP_FAMILY(rmsnorm)          /* rmsnorm, .bwd                                */
MRI_OP_FAMILY(layernorm)        /* layernorm, .bwd                              */
MRI_OP_FAMILY(rope)             /* rope                                         */
MRI_OP_FAMILY(attn_temperature) /* attn_temperature                             */
MRI_OP_FAMILY(attention)        /* attention, .bwd, qkv_attention, .bwd         */
MRI_OP_FAMILY(attention_cp)     /* zigzag, attention.cp, .part, .bwd of each    */
MRI_OP_FAMILY(attention_ring)   /* attention.merge, attention.ring              */
MRI_OP_FAMILY(attention_paged)  /* attention.paged                              */
MRI_OP_FAMILY(mla)              /* rope_tail, mla_kv, .bwd                      */
MRI_OP_FAMILY(mla_ring)         /* mla_attention.ring                           */
MRI_OP_FAMILY(mla_paged)        /* mla_attention.paged                          */
MRI_OP_FAMILY(split)            /* split, concat                                */
MRI_OP_FAMILY(swiglu)           /* swiglu, .bwd                                 */
MRI_OP_FAMILY(gelu)             /* gelu, .bwd                                   */
MRI_OP_FAMILY(weighted_act)     /* weighted_swiglu, weighted_srelu, .bwd        */
MRI_OP_FAMILY(elementwise)      /* add, cast, store                             */
MRI_OP_FAMILY(ahead)            /* ahead                                        */
MRI_OP_FAMILY(cross_entropy)    /* cross_entropy, .bwd                          */
MRI_OP_FAMILY(route)            /* route_topk, .bwd, route_plan                 */
MRI_OP_FAMILY(permute)          /* permute, unpermute, permute.dprobs           */
MRI_OP_FAMILY(grouped_linear)   /* grouped_linear, .dgrad, .wgrad               */
MRI_OP_FAMILY(moe_losses)       /* moe_aux_loss, router_z_loss, .bwd            */
MRI_OP_FAMILY(moe_balance)      /* moe_counts, moe_balance_loss, .bwd            */
MRI_OP_FAMILY(route_drop)       /* route_drop, .bwd, route_pad                  */
MRI_OP_FAMILY(router_bias)      /* route_load, balance_bias                     */
MRI_OP_FAMILY(experts_parallel) /* ep_counts, _plan, _window, _send, _return, take_rows */
MRI_OP_FAMILY(experts_blocks)   /* ep_blocks, ep_room                           */
MRI_OP_FAMILY(add_rmsnorm)      /* add_rmsnorm, .bwd: fused, as the next five are */
MRI_OP_FAMILY(add_layernorm)    /* add_layernorm, .bwd                          */
MRI_OP_FAMILY(rope_norm)        /* rope_norm, .bwd                              */
MRI_OP_FAMILY(linear_add)       /* linear_add, .dgrad                           */
MRI_OP_FAMILY(linear_gelu)      /* linear_gelu, .dgrad                          */
MRI_OP_FAMILY(permute_add)      /* unpermute_add, permute.bwd                   */
MRI_OP_FAMILY(patches)          /* patchify, patch_positions, .wgrad            */
MRI_OP_FAMILY(shuffle_patches)  /* shuffle_patches                              */
MRI_OP_FAMILY(rope_2d)          /* rope_2d                                      */
MRI_OP_FAMILY(merge_rows)       /* merge_rows, .bwd                             */
MRI_OP_FAMILY(linears)          /* linears, linear_swiglu                       */
MRI_OP_FAMILY(experts)          /* experts_swiglu, experts_add                  */
MRI_OP_FAMILY(router)           /* router                                       */
MRI_OP_FAMILY(rope_attention)  /* rope_attention.paged                         */
MRI_OP_FAMILY(argmax)           /* argmax                                       */
MRI_OP_FAMILY(comm)             /* comm.copy, .reduce, .gather, .reduce_scatter, .slice, .exchange, .pack, .unpack */
MRI_OP_FAMILY(vocab_parts)      /* embedding.part, cross_entropy.part, .merge, .bwd */
MRI_OP_FAMILY(optimizer_ops)    /* sumsq, clip_scale, adamw, sgd                */
MRI_OP_FAMILY(draw)             /* draw                                         */
