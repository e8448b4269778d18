/* SPDX-License-Identifier: Apache-2.0
 *
 * bench_large.c - the shapes that `mrun bench op` measures on a device of its own memory, in the
 * language of mrun/op.h: those of whole steps that fill a large GPU.
 *
 *   llama4    profiles/bench-llama4.ini: 4 x 4096 tokens, 2048 wide, 16 heads on 8 of 128, 16
 *             experts of 4096, vocabulary 32768
 *   gpt2      64 x 1024 tokens 768 wide (124M), 8 x 1024 tokens 1600 wide (1558M); the head of the
 *             first over a quarter of its tokens
 *   others    grouped products over more and smaller experts, attention over 8192 tokens and with
 *             192/128 wide heads, 64 rows decoding; Llama 4's tower over 64 tiles (attention: 16)
 * Ops of little work stand at the shape at which such a step has them.
 */
#include "bench.h"

#define FREQ8 "1,.75,.5,.4,.3,.2,.15,.1"
#define FREQ64 FREQ8 "," FREQ8 "," FREQ8 "," FREQ8 "," FREQ8 "," FREQ8 "," FREQ8 "," FREQ8
/* T tokens in sequences of S, H heads on G, QC = H C, KC = G C, VC = G Cv */
#define ATTN(T, S, H, G, C, QC, KC, VC) \
    "q=F[" #T "," #QC "] k=F[" #T "," #KC "] v=F[" #T "," #VC "] seq_start=i32[" #T "]start:" #S \
    " @heads=" #H " @kv_heads=" #G " @head_dim=" #C " @seq=" #S
/* R rows over E experts */
#define GROUPED(R, E, I, O, OFFSETS) \
    "x=F[" #R "," #I "] w=F[" #E "," #I "," #O "] offsets=i32[" #OFFSETS "]part:" #R

const bench_shape bench_large_shapes[] = {
    /* llama4 */
    { "linear", "x=F[16384,2048] w=F[2048,2048]", true },
    { "linear", "x=F[16384,2048] w=F[1024,2048]", false },
    { "linear", "x=F[16384,2048] w=F[4096,2048]", false },
    { "linear", "x=F[16384,4096] w=F[2048,4096]", false },
    { "linear", "x=F[16384,2048] w=F[16,2048] @out_dtype=f32", false },
    { "linear", "x=F[16384,2048] w=F[32768,2048]", false },
    { "attention", ATTN(16384, 4096, 16, 8, 128, 2048, 1024, 1024), true },
    { "grouped_linear", GROUPED(16384, 16, 2048, 8192, 17), false },
    { "grouped_linear", GROUPED(16384, 16, 4096, 2048, 17), true },
    { "linear.wgrad.first", "dy=F[16384,4096] x=F[16384,2048]", false },
    { "grouped_linear.wgrad.first", "x=F[16384,2048] dy=F[16384,8192] offsets=i32[17]part:16384",
      false },
    { "rmsnorm", "x=F[16384,2048] w=F[2048]", true },
    { "rmsnorm", "x=F[16384,2048] w=- @group=128", false },
    { "rope", "x=F[16384,2048] positions=i32[16384]ramp @head_dim=128 @inv_freq=" FREQ64, true },
    { "swiglu", "gate=F[16384,8192] up=-", true },
    { "swiglu", "gate=F[16384,4096] up=F[16384,4096]", false },
    { "add", "a=F[16384,2048] b=F[16384,2048]", true },
    { "embedding", "ids=i32[16384]<32768 table=F[32768,2048]", true },
    { "cross_entropy", "logits=F[16384,32768] targets=i32[16384]<32768 weight=S[16384]pos", false },
    { "route_topk", "logits=f32[16384,16] bias=- @k=1", true },
    { "route_plan", "index=i32[16384,1]<16 @experts=16", true },
    { "permute", "x=F[16384,2048] rows=i32[16384]perm slots=i32[16384]inv:rows probs=S[16384,1]",
      true },
    { "unpermute", "y=F[16384,2048] rows=i32[16384]perm slots=i32[16384]inv:rows probs=- @k=1",
      true },
    { "sumsq", "x=f32[67108864] acc=f32[1]zero", true },
    { "clip_scale",
      "sumsq=f32[1]pos grad_scale=f32[1]zero norm=f32[1]zero ok=f32[1]zero @max_norm=1", true },
    { "adamw", "master=f32[67108864] exp_avg=f32[67108864] exp_avg_sq=f32[67108864]pos "
               "grad=f32[67108864] lr=f32[1]{1e-4} weight_decay=f32[1]{0.1} step=f32[1]{3} "
               "grad_scale=f32[1]{1} ok=f32[1]{1}", true },
    { "store", "x=f32[67108864] dst=bf16[67108864]", true },
    /* gpt2 */
    { "linear", "x=F[65536,768] w=F[768,768] bias=F[768]", true },
    { "linear", "x=F[65536,768] w=F[3072,768] bias=F[3072]", false },
    { "linear", "x=F[65536,3072] w=F[768,3072] bias=F[768]", false },
    { "linear", "x=F[16384,768] w=F[50304,768]", false },
    { "linear", "x=F[8192,1600] w=F[1600,1600] bias=F[1600]", false },
    { "linear", "x=F[8192,1600] w=F[6400,1600] bias=F[6400]", false },
    { "linear", "x=F[8192,6400] w=F[1600,6400] bias=F[1600]", false },
    { "attention", ATTN(65536, 1024, 12, 12, 64, 768, 768, 768), false },
    { "layernorm", "x=F[65536,768] w=F[768] bias=F[768]", true },
    { "gelu", "x=F[65536,3072] @approx=tanh", true },
    { "cross_entropy", "logits=F[16384,50304] targets=i32[16384]<50304 weight=S[16384]pos", false },
    /* others */
    { "linear", "x=F[8192,8192] w=F[8192,8192]", false },
    { "grouped_linear", GROUPED(32768, 64, 2048, 1408, 65), false },
    { "grouped_linear", GROUPED(65536, 128, 2048, 768, 129), false },
    { "attention", ATTN(16384, 8192, 32, 8, 128, 4096, 1024, 1024), false },
    { "attention", ATTN(16384, 4096, 16, 16, 192, 3072, 3072, 2048), false },
    { "attention.paged",
      "q=F[64,2048] k=F[64,1024] v=F[64,1024] positions=i32[64]<4096 slot=i32[64]ramp "
      "pages=i32[64,64]perm k_cache=F[4096,64,1024] v_cache=F[4096,64,1024] @heads=16 "
      "@kv_heads=8 @head_dim=128", false },
    { "route_topk", "logits=f32[16384,64] bias=f32[64] @k=8 @norm=1 @scale=2.5", false },
    { "permute", "x=F[16384,2048] rows=i32[131072]perm slots=i32[131072]inv:rows probs=-", false },
    { "unpermute",
      "y=F[131072,2048] rows=i32[131072]perm slots=i32[131072]inv:rows probs=S[16384,8] @k=8",
      false },
    { "moe_aux_loss", "logits=f32[16384,64] seq_start=i32[16384]start:4096 @k=8 @coeff=0.01",
      true },
    { "router_z_loss", "logits=f32[16384,64] @coeff=0.001", true },
    { "attn_temperature",
      "x=F[16384,2048] positions=i32[16384]ramp @floor_scale=8192 @attn_scale=0.1", true },
    { "attention", "q=F[9232,1408] k=F[9232,1408] v=F[9232,1408] seq_start=- @heads=16 "
                   "@kv_heads=16 @head_dim=88 @seq=577 @packed=0 @causal=0", false },
    { "patchify", "pixels=f32[64,3,336,336] @patch=14", true },
    { "patch_positions", "x=F[36864,1408] pos=F[577,1408] cls=F[1408] @class=last", true },
    { "shuffle_patches", "x=F[36928,1408] @grid=24 @ratio=2 @class=last", true },
    { "rope_2d", "x=F[36928,1408] @head_dim=88 @grid=24 @class=last @inv_freq=" FREQ8 "," FREQ8
                 ",0.1,0.09,0.08,0.07,0.06,0.05", true },
    { "merge_rows", "x=F[16384,5120] features=F[16384,5120] rows=i32[16384]perm", true },
    { "cast", "x=f32[67108864] @dtype=bf16", true },
    { "accumulate", "x=F[33554432] dst=S[33554432]", true },
    { "sum_rows", "x=F[16384,2048] acc=S[2048]", true },
    { "sgd", "master=f32[67108864] momentum=f32[67108864] grad=f32[67108864] lr=f32[1]{1e-4} "
             "weight_decay=f32[1]{0.1} grad_scale=f32[1]{1} ok=f32[1]{1} @momentum=0.9", true },
    { NULL, NULL, false },
};
