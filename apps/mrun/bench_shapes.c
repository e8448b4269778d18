/* SPDX-License-Identifier: Apache-2.0
 *
 * bench_shapes.c - the shapes that `mrun bench op` measures, in the language of mrun/op.h. The
 * backward ops are not listed: they come from each op's vjp at the same shape.
 *
 * Products: squares, a 124M GPT-2's at 256 tokens, a wide batch, few rows against a large
 * weight (decoding). Attention: sequences of 1024 and 2048, heads as in small models, grouped
 * key-value heads, chunks. Experts: few with many rows each, and many with few.
 */
#include "bench.h"

/* 32 frequencies: heads of 64 */
#define FREQ8 "1,.75,.5,.4,.3,.2,.15,.1"
#define FREQ32 FREQ8 "," FREQ8 "," FREQ8 "," FREQ8
/* T tokens in sequences of S, H heads, G of keys and values, HC = H C, GC = G C */
#define ATTN(T, S, H, G, C, HC, GC) \
    "q=F[" #T "," #HC "] k=F[" #T "," #GC "] v=F[" #T "," #GC "] seq_start=i32[" #T "]start:" #S \
    " @heads=" #H " @kv_heads=" #G " @head_dim=" #C " @seq=" #S " @packed=0"

const bench_shape bench_shapes[] = {
    { "linear", "x=F[256,256] w=F[256,256]", true },
    { "linear", "x=F[512,512] w=F[512,512]", true },
    { "linear", "x=F[1024,1024] w=F[1024,1024]", false },
    { "linear", "x=F[2048,2048] w=F[2048,2048]", false },
    { "linear", "x=F[256,768] w=F[768,768] bias=F[768]", true },
    { "linear", "x=F[256,768] w=F[3072,768]", true },
    { "linear", "x=F[256,3072] w=F[768,3072]", false },
    { "linear", "x=F[256,768] w=F[50304,768]", false },
    { "linear", "x=F[4096,1024] w=F[1024,1024]", false },
    { "linear", "x=F[8,4096] w=F[4096,4096]", true },
    { "linear", "x=F[1,4096] w=F[4096,4096]", true },
    { "attention", ATTN(256, 64, 12, 12, 64, 768, 768), true },
    { "attention", ATTN(1024, 1024, 12, 12, 64, 768, 768), true },
    { "attention", ATTN(2048, 2048, 12, 12, 64, 768, 768), false },
    { "attention", ATTN(2048, 2048, 16, 4, 128, 2048, 512), false },
    { "attention", ATTN(2048, 2048, 16, 4, 128, 2048, 512) " @chunk=512", false },
    { "attention.paged",
      "q=F[1,2048] k=F[1,512] v=F[1,512] positions=i32[1]{2047} slot=i32[1]{0} "
      "pages=i32[1,32]perm k_cache=F[32,64,512] v_cache=F[32,64,512] @heads=16 @kv_heads=4 @head_dim=128", true },
    { "rope_attention.paged",
      "q=F[1,2048] k=F[1,512] v=F[1,512] positions=i32[1]{2047} slot=i32[1]{0} "
      "pages=i32[1,32]perm k_cache=F[32,64,512] v_cache=F[32,64,512] @heads=32 @kv_heads=8 "
      "@head_dim=64 @qk_norm=1 @inv_freq=" FREQ32, true },
    { "grouped_linear", "x=F[4096,768] w=F[4,768,1536] offsets=i32[5]part:4096", false },
    { "grouped_linear", "x=F[1024,512] w=F[8,512,1024] offsets=i32[9]part:1024", true },
    { "grouped_linear", "x=F[512,512] w=F[64,512,512] offsets=i32[65]part:512", true },
    { "grouped_linear", "x=F[8,512] w=F[64,512,512] offsets=i32[65]part:8", false },
    { "rmsnorm", "x=F[4096,1024] w=F[1024]", true },
    { "layernorm", "x=F[256,768] w=F[768] bias=F[768]", true },
    { "layernorm", "x=F[4096,1024] w=F[1024] bias=F[1024]", false },
    { "rope", "x=F[4096,1024] positions=i32[4096]ramp @head_dim=64 @inv_freq=" FREQ32, true },
    { "amax", "x=F[4096,1024]", false },
    { "quantize", "x=F[4096,1024] amax=f32[1]{4}", false },
    { "linear.fp8", "x=f8e4m3[256,256] xscale=f32[1]{1} w=f8e4m3[256,256] wscale=f32[1]{1}", false },
    { "linear.fp8.wgrad", "dyt=f8e5m2[256,256] dyscale=f32[1]{1} xt=f8e4m3[256,256] "
                          "xscale=f32[1]{1} dw=f32[256,256]", false },
    { "linear.fp8.wgrad.first", "dyt=f8e5m2[256,256] dyscale=f32[1]{1} xt=f8e4m3[256,256] "
                                "xscale=f32[1]{1}", false },
    { "qkv_attention", "qkv=F[256,2304] seq_start=i32[256]start:64 @heads=12 @kv_heads=12 "
                       "@head_dim=64 @seq=64", false },
    { "take_rows", "x=F[4096,512] index=i32[4096]perm inverse=i32[4096]inv:index", false },
    { "comm.pack", "x=F[4096,1024] @ranks=4", false },
    { "embedding.part", "ids=i32[4096]<32000 table=F[8000,512] @first=8000 @vocab=32000", false },
    { "cross_entropy.part",
      "logits=F[256,12576] targets=i32[256]<50304 @first=12576 @vocab=50304", false },
    { "cross_entropy.merge",
      "stats=S[1024,2] targets=i32[256]<50304 weight=S[256]pos @ranks=4 @vocab=50304", false },
    { "attn_temperature",
      "x=F[4096,1024] positions=i32[4096]ramp @floor_scale=8192 @attn_scale=0.1", true },
    { "swiglu", "gate=F[4096,2048] up=F[4096,2048]", true },
    { "gelu", "x=F[256,3072] @approx=tanh", true },
    { "gelu", "x=F[4096,2048] @approx=tanh", false },
    { "add", "a=F[4096,1024] b=F[4096,1024]", true },
    { "cast", "x=f32[4096,1024] @dtype=bf16", true },
    { "store", "x=f32[4096,1024] dst=bf16[4096,1024]", true },
    { "accumulate", "x=F[4096,1024] dst=S[4096,1024]", true },
    { "sum_rows", "x=F[4096,1024] acc=S[1024]", true },
    { "embedding", "ids=i32[4096]<32000 table=F[32000,512]", true },
    { "embedding", "ids=i32[256]<50304 table=F[50304,768]", false },
    { "cross_entropy", "logits=F[256,50304] targets=i32[256]<50304 weight=S[256]pos", true },
    { "ahead", "x=S[4096]pos seq_start=i32[4096]start:1024 @keep=0.1", false },
    { "route_topk", "logits=F[4096,128] bias=- @k=1", true },
    { "route_topk", "logits=F[4096,384] bias=S[384] @k=8 @norm=1 @scale=2.5", false },
    { "route_plan", "index=i32[4096,8]<128 @experts=128", true },
    { "permute", "x=F[4096,512] rows=i32[8192]perm slots=i32[8192]inv:rows probs=S[4096,2]", true },
    { "unpermute", "y=F[8192,512] rows=i32[8192]perm slots=i32[8192]inv:rows probs=S[4096,2] @k=2",
      true },
    { "moe_aux_loss", "logits=F[4096,128] seq_start=i32[4096]start:1024 @k=2 @coeff=0.01", true },
    { "router_z_loss", "logits=F[4096,128] @coeff=0.001", true },
    { "add_rmsnorm", "a=F[4096,1024] b=F[4096,1024] w=F[1024]", true },
    { "add_rmsnorm.bwd", "dh=F[4096,1024] dy=F[4096,1024] x=F[4096,1024] w=F[1024] "
                         "rstd=S[4096,1]pos dw=S[1024]", true },
    { "add_layernorm", "a=F[4096,1024] b=F[4096,1024] w=F[1024] bias=F[1024]", false },
    { "add_layernorm.bwd", "dh=F[4096,1024] dy=F[4096,1024] x=F[4096,1024] w=F[1024] mean=S[4096] "
                           "rstd=S[4096]pos dw=S[1024] dbias=S[1024]", false },
    { "rope_norm", "x=F[4096,1024] positions=i32[4096]ramp @head_dim=64 @inv_freq=" FREQ32, true },
    { "linear_add", "a=F[4096,1024] x=F[4096,1024] w=F[1024,1024]", false },
    { "linear_add.dgrad", "a=F[4096,1024] dy=F[4096,1024] w=F[1024,1024]", false },
    { "linear_add.dgrad", "a=F[4096,1024] dy=f32[4096,16] w=F[16,1024]", true },
    { "linear_gelu", "x=F[4096,1024] w=F[4096,1024] bias=F[4096] @approx=tanh", false },
    { "linears", "x=F[1,2048] nw=F[2048] w=F[2048,2048] w1=F[1024,2048] w2=F[1024,2048] @normed=1",
      true },
    { "linear_swiglu", "x=F[1,2048] nw=F[2048] gate=F[4096,2048] up=F[4096,2048] @normed=1", true },
    { "experts_swiglu", "x=F[4,1024] nw=F[1024] probs=S[4,2] rows=i32[8]perm w=F[16,1024,2048] "
                        "offsets=i32[17]part:8 @normed=1", true },
    { "experts_add", "a=F[8,1024] b=F[8,1024] y=F[8,1024] rows=i32[8]perm w=F[16,1024,1024] "
                     "offsets=i32[17]part:8", true },
    { "router", "x=F[4,2048] nw=F[2048] w=F[128,2048] bias=- @k=1 @normed=1", true },
    { "argmax", "logits=F[8,32768]", true },
    { "linear_gelu.dgrad", "dy=F[4096,1024] w=F[1024,4096] pre=F[4096,4096] @approx=tanh", false },
    { "unpermute_add", "a=F[4096,512] b=F[4096,512] y=F[8192,512] rows=i32[8192]perm "
                       "slots=i32[8192]inv:rows probs=- @k=2", true },
    { "permute.bwd", "a=F[4096,512] dy=F[8192,512] x=F[4096,512] rows=i32[8192]perm "
                     "slots=i32[8192]inv:rows probs=S[4096,2]", true },
    { "linear.wgrad.first", "dy=F[4096,1024] x=F[4096,1024]", false },
    { "grouped_linear.wgrad.first", "x=F[4096,768] dy=F[4096,1536] offsets=i32[5]part:4096", false },
    { "weighted_swiglu", "gate=F[4096,2048] probs=S[4096]pos", true },
    { "weighted_srelu", "x=F[4096,2048] probs=S[4096]pos", false },
    { "rope_tail", "x=F[1024,3072] positions=i32[1024]ramp @head_dim=192 @inv_freq=" FREQ32, true },
    { "mla_kv", "kv=F[1024,4096] kr=F[1024,64] positions=i32[1024]ramp @heads=16 @nope_dim=128 "
                "@inv_freq=" FREQ32, true },
    { "mla_attention.paged",
      "q=F[1,3072] c=F[1,512] kr=F[1,64] w=F[4096,512] positions=i32[1]{2047} slot=i32[1]{0} "
      "pages=i32[1,32]perm cache=F[32,64,576] @heads=16 @nope_dim=128 @inv_freq=" FREQ32, true },
    { "split", "x=F[4096,576] @first=512", true },
    { "attention", "q=F[1154,1408] k=F[1154,1408] v=F[1154,1408] seq_start=- @heads=16 "
                   "@kv_heads=16 @head_dim=88 @seq=577 @packed=0 @causal=0", false },
    { "patchify", "pixels=f32[2,3,336,336] @patch=14", true },
    { "patch_positions", "x=F[1152,1408] pos=F[577,1408] cls=F[1408] @class=last", true },
    { "shuffle_patches", "x=F[1154,1408] @grid=24 @ratio=2 @class=last", true },
    { "rope_2d", "x=F[1154,1408] @head_dim=88 @grid=24 @class=last @inv_freq=" FREQ8 "," FREQ8
                 ",0.1,0.09,0.08,0.07,0.06,0.05", true },
    { "merge_rows", "x=F[1024,2048] features=F[288,2048] rows=i32[1024]<288", true },
    { "sumsq", "x=f32[10000000] acc=f32[1]zero", true },
    { "clip_scale",
      "sumsq=f32[1]pos grad_scale=f32[1]zero norm=f32[1]zero ok=f32[1]zero @max_norm=1", true },
    { "adamw", "master=f32[10000000] exp_avg=f32[10000000] exp_avg_sq=f32[10000000]pos "
               "grad=f32[10000000] lr=f32[1]{1e-4} weight_decay=f32[1]{0.1} step=f32[1]{3} "
               "grad_scale=f32[1]{1} ok=f32[1]{1}", true },
    { "adamw", "master=f32[10000000] exp_avg=f32[10000000] exp_avg_sq=f32[10000000]pos "
               "grad=f32[10000000] lr=f32[1]{1e-4} weight_decay=f32[1]{0.1} step=f32[1]{3} "
               "grad_scale=f32[1]{1} ok=f32[1]{1} weights=bf16[10000000]", true },
    { "adamw", "master=i16[10000000]<30000 exp_avg=f32[10000000] exp_avg_sq=f32[10000000]pos "
               "grad=f32[10000000] lr=f32[1]{1e-4} weight_decay=f32[1]{0.1} step=f32[1]{3} "
               "grad_scale=f32[1]{1} ok=f32[1]{1} weights=bf16[10000000]", true },
    { "sgd", "master=f32[10000000] momentum=f32[10000000] grad=f32[10000000] lr=f32[1]{1e-4} "
             "weight_decay=f32[1]{0.1} grad_scale=f32[1]{1} ok=f32[1]{1} @momentum=0.9", true },
    { "draw", "master=f32[1000000] weights=bf16[1000000] @seed=1 @stream=2 @scale=0.02", true },
    { NULL, NULL, false },
};
