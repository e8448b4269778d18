/* SPDX-License-Identifier: Apache-2.0
 *
 * backend/cuda agrees with the catalogue's definitions: every op and case, forward and backward,
 * f32 and bf16, with cuBLASLt and cuDNN and with its own kernels instead; shapes that cross the
 * borders of its tiles; equal bits when run twice; no NaN is hidden. Skipped where there is no GPU.
 */
#include "backend_nan.h"

static void open_or_skip(rig *r, rig_cuda config)
{
    mr_err err = MR_ERR_INIT;
    if (rig_try_open(r, "cuda", &config, &err))
        cr_skip_test("no GPU");
    cr_assert_eq(r->ops->stream_create(r->dev, 0, &r->stream, &err), MR_OK);
}

static void catalogue(rig_cuda config)
{
    rig r;
    open_or_skip(&r, config);
    rig_catalogue(&r, "f32");
    rig_catalogue(&r, "bf16");
    cr_expect_gt(r.compared, 10000);
    rig_close(&r);
}

Test(cuda, equals_the_reference)
{
    catalogue((rig_cuda){ 0 });
}

Test(cuda, equals_the_reference_with_its_own_kernels)
{
    catalogue((rig_cuda){ .matmul = "own", .attention = "own" });
}

/* T tokens in sequences of S, as promised; widths of q, k and v over all heads */
#define WHOLE(T, S, Q, K, V) \
    "q=F[" #T "," #Q "] k=F[" #T "," #K "] v=F[" #T "," #V "] seq_start=i32[" #T "]start:" #S \
    " @seq=" #S " @packed=0"
/* the three side by side, W wide */
#define BESIDE(T, S, W) \
    "qkv=F[" #T "," #W "] seq_start=i32[" #T "]start:" #S " @seq=" #S " @packed=0"
#define FREQ8 "1,.75,.5,.4,.3,.2,.15,.1"
#define FREQ32 FREQ8 "," FREQ8 "," FREQ8 "," FREQ8

static const struct {
    const char *op, *text;
} shapes[] = {
    { "linear", "x=F[130,100] w=F[70,100] bias=F[70]" },
    { "linear", "x=F[129,256] w=F[136,256]" },
    { "linear", "x=F[1,1030] w=F[257,1030] bias=F[257]" },
    { "linear", "x=F[300,1] w=F[3,1]" },
    { "linear", "x=F[70,64] w=F[64,64] @out_dtype=f32" },
    { "linear", "x=F[1,2048] w=F[264,2048]" },
    { "linear", "x=F[8,520] w=F[70,520] bias=F[70] @out_dtype=f32" },
    { "linear", "x=F[13,1024] w=F[33,1024] bias=F[33]" },
    { "linear_add", "a=F[3,48] x=F[3,4104] w=F[48,4104] bias=F[48]" },
    { "linear_add", "a=F[16,300] x=F[16,136] w=F[300,136]" },
    { "linears", "x=F[1,2048] nw=F[2048] w=F[200,2048] w1=F[40,2048] w2=F[33,2048] @normed=1" },
    { "linears", "x=F[7,1032] nw=- w=F[72,1032] w1=F[16,1032] w2=- y2=- @normed=1 @eps=1e-3" },
    { "linears", "x=F[11,264] nw=F[264] w=F[72,264] w1=F[160,264] w2=F[8,264] @normed=1" },
    { "linears", "x=F[2,2048] nw=- w=F[2200,2048] w1=F[24,2048] w2=F[9,2048]" },
    { "linear_swiglu", "x=F[1,2048] nw=F[2048] gate=F[344,2048] up=F[344,2048] @normed=1" },
    { "linear_swiglu", "x=F[8,136] nw=- gate=F[2200,136] up=F[2200,136]" },
    { "linear_swiglu", "x=F[12,1024] nw=F[1024] gate=F[40,1024] up=F[40,1024] @normed=1" },
    { "experts_swiglu", "x=F[1,2048] nw=F[2048] probs=S[1,2] rows=i32[2]perm w=F[7,2048,272] "
                        "offsets=i32[8]{0,0,1,1,1,2,2,2} @normed=1" },
    { "experts_swiglu", "x=F[4,1032] nw=- probs=S[4,2] rows=i32[8]perm w=F[5,272,1032] "
                        "offsets=i32[6]{0,3,3,3,8,8} @layout=oi" },
    { "experts_swiglu", "x=F[30,136] nw=F[136] probs=S[30,2] rows=i32[60]perm w=F[8,136,144] "
                        "offsets=i32[9]{1,20,20,24,24,41,58,58,58} @normed=1" },
    { "experts_add", "a=F[1,272] b=F[1,272] y=F[1,4096] rows=i32[1]{0} w=F[3,4096,272] "
                     "offsets=i32[4]{0,0,1,1}" },
    { "experts_add", "a=F[40,136] b=- y=F[40,264] rows=i32[40]perm w=F[6,136,264] "
                     "offsets=i32[7]{0,0,19,19,21,40,40} @layout=oi" },
    { "grouped_linear", "x=F[60,264] w=F[9,264,136] offsets=i32[10]{3,3,20,20,21,21,40,57,57,57}" },
    { "grouped_linear", "x=F[8,2048] w=F[3,200,2048] offsets=i32[4]{0,2,2,8} @layout=oi" },
    { "router", "x=F[8,2048] nw=- w=F[16,2048] bias=- @k=2 @score=softmax @normed=1" },
    { "router", "x=F[5,1024] nw=- w=F[64,1024] bias=S[64] @k=8 @norm=1 @scale=2.5" },
    { "router", "x=F[2,136] nw=- w=F[128,136] bias=S[128] @k=6 @groups=8 @group_topk=4 @norm=1" },
    { "argmax", "logits=F[3,151936]" },
    { "argmax", "logits=F[65,1001]" },
    { "argmax", "logits=F[2,9000]zero" },
    { "sum_rows", "x=F[3000,130] acc=S[130]" },
    { "grouped_linear", "x=F[300,40] w=F[5,40,136] offsets=i32[6]{0,0,165,165,297,300}" },
    { "grouped_linear", "x=F[300,40] w=F[5,136,40] offsets=i32[6]{0,9,137,137,138,300} @layout=oi" },
    { "grouped_linear", "x=F[140,33] w=F[4,33,35] offsets=i32[5]{2,3,3,121,130}" },
    { "grouped_linear", "x=F[140,33] w=F[4,35,33] offsets=i32[5]{0,0,0,0,0} @layout=oi" },
    { "grouped_linear", "x=F[400,64] w=F[3,64,128] offsets=i32[4]{0,0,400,400}" },
    { "grouped_linear", "x=F[400,64] w=F[2,64,72] offsets=i32[3]{131,140,260}" },
    { "grouped_linear", "x=F[270,24] w=F[3,24,264] offsets=i32[4]{0,260,260,269}" },
    { "grouped_linear", "x=F[200,72] w=F[2,264,72] offsets=i32[3]{0,200,200} @layout=oi" },
    { "grouped_linear", "x=F[40,328] w=F[2,328,136] offsets=i32[3]{5,5,37}" },
    { "grouped_linear", "x=F[140,8] w=F[40,8,8] offsets=i32[41]part:140" },
    { "grouped_linear", "x=F[140,16] w=F[40,8,16] offsets=i32[41]part:130 @layout=oi" },
    { "rmsnorm", "x=F[300,96] w=F[24] @group=24" },
    { "rmsnorm", "x=F[60,1300] w=F[1300] @eps=1e-6" },
    { "layernorm", "x=F[60,1300] w=F[1300] bias=F[1300]" },
    { "rmsnorm", "x=F[700,128] w=F[128]" },
    { "rmsnorm", "x=F[300,64] w=F[64]" },
    { "rmsnorm", "x=F[300,96] w=F[96]" },
    { "rmsnorm", "x=F[90,520] w=F[520]" },
    { "rmsnorm", "x=F[600,2048] w=F[2048]" },
    { "rmsnorm", "x=F[40,4104] w=F[4104]" },
    { "rmsnorm", "x=F[3,9000] w=F[9000]" },
    { "rmsnorm", "x=F[70,999] w=F[999]" },
    { "layernorm", "x=F[200,2000] w=F[2000] bias=F[2000]" },
    { "layernorm", "x=F[300,768] w=F[768]" },
    { "layernorm", "x=F[30,8192] w=F[8192] bias=F[8192]" },
    { "layernorm", "x=F[400,200] w=F[200] bias=F[200]" },
    { "add_rmsnorm", "a=F[600,2048] b=F[600,2048] w=F[2048]" },
    { "add_rmsnorm", "a=F[30,7168] b=F[30,7168] w=F[7168]" },
    { "add_rmsnorm", "a=F[333,250] b=F[333,250]" },
    { "add_rmsnorm.bwd", "dh=F[600,2048] dy=F[600,2048] x=F[600,2048] w=F[2048] "
                         "rstd=S[600,1]pos dw=S[2048]" },
    { "add_rmsnorm.bwd", "dh=F[20,7168] dy=F[20,7168] x=F[20,7168] w=F[7168] rstd=S[20,1]pos "
                         "dw=S[7168]" },
    { "add_rmsnorm.bwd", "dh=F[500,77] dy=F[500,77] x=F[500,77] w=F[77] rstd=S[500,1]pos "
                         "dw=S[77]" },
    { "rope", "x=F[150,120] positions=i32[150]<1000000 @head_dim=40 @inv_freq=1,0.3,0.1,0.03,"
              "0.01,0.001,0.0001,0.7,0.2,0.05" },
    { "add_layernorm", "a=F[300,768] b=F[300,768] w=F[768] bias=F[768]" },
    { "add_layernorm", "a=F[70,999] b=F[70,999] w=F[999]" },
    { "add_layernorm.bwd", "dh=F[300,768] dy=F[300,768] x=F[300,768] w=F[768] mean=S[300] "
                           "rstd=S[300]pos dw=S[768] dbias=S[768]" },
    { "linear.wgrad", "dy=f32[3000,16] x=F[3000,200] dw=S[16,200]" },
    { "linear.wgrad.first", "dy=F[300,136] x=F[300,264]" },
    { "grouped_linear.wgrad.first", "x=F[300,136] dy=F[300,264] offsets=i32[6]{0,0,97,97,250,300}" },
    { "grouped_linear.wgrad.first",
      "x=F[300,136] dy=F[300,264] offsets=i32[6]{0,0,97,97,250,280} @layout=oi" },
    { "grouped_linear.wgrad.first", "x=F[64,64] dy=F[64,128] offsets=i32[4]{0,0,0,0}" },
    { "grouped_linear.wgrad.first", "x=F[64,64] dy=F[64,128] offsets=i32[4]{0,0,0,0} sumsq=S[1]" },
    { "grouped_linear.wgrad.first",
      "x=F[300,136] dy=F[300,264] offsets=i32[6]{0,0,97,97,250,300} sumsq=S[1]pos" },
    { "linear.wgrad", "dy=f32[70,37] x=F[70,1032] dw=S[37,1032]" },
    { "linear.dgrad", "dy=f32[130,50] w=F[50,2064] @out_dtype=bf16" },
    { "rope", "x=F[77,192] positions=i32[77]<200000 @head_dim=64 @inv_freq=" FREQ32 },
    { "rope", "x=F[33,384] positions=i32[33]<900 @head_dim=128 @interleaved=0 @factor=0.8 "
              "@inv_freq=" FREQ32 "," FREQ32 },
    { "rope_norm", "x=F[77,192] positions=i32[77]<200000 @head_dim=64 @inv_freq=" FREQ32 },
    { "rope_norm", "x=F[70,2048] positions=i32[70]<5000 @head_dim=128 @eps=1e-6 @inv_freq=" FREQ32
                   "," FREQ32 },
    { "rope_norm", "x=F[33,384] positions=i32[33]<900 @head_dim=128 @interleaved=0 @factor=0.8 "
                   "@inv_freq=" FREQ32 "," FREQ32 },
    { "rope_norm", "x=F[9,512] positions=i32[9]<900 @head_dim=256 @inv_freq=" FREQ32 "," FREQ32 ","
                   FREQ32 "," FREQ32 },
    { "rope_norm", "x=F[40,120] positions=i32[40]<900 @head_dim=40 @interleaved=0 @factor=1.5 "
                   "@inv_freq=" FREQ8 },
    { "linear_add", "a=F[129,136] x=F[129,256] w=F[136,256] bias=F[136]" },
    { "linear_add", "a=F[300,64] x=F[300,70] w=F[64,70]" },
    { "linear_add.dgrad", "a=F[130,100] dy=F[130,72] w=F[72,100]" },
    { "linear_add.dgrad", "a=F[130,200] dy=f32[130,16] w=F[16,200]" },
    { "linear_add.dgrad", "a=F[600,2048] dy=f32[600,8] w=F[8,2048]" },
    { "linear_gelu", "x=F[200,136] w=F[264,136] bias=F[264] @approx=tanh" },
    { "linear_gelu", "x=F[200,64] w=F[128,64] @approx=tanh" },
    { "linear_gelu.dgrad", "dy=F[200,136] w=F[136,264] pre=F[200,264] @approx=tanh" },
    { "unpermute_add", "a=F[100,240] b=F[100,240] y=F[300,240] rows=i32[300]perm "
                       "slots=i32[300]inv:rows probs=S[100,3] @k=3" },
    { "unpermute_add", "a=F[60,2048] b=- y=F[60,2048] rows=i32[60]perm slots=i32[60]inv:rows "
                       "probs=- @k=1" },
    { "permute.bwd", "a=F[60,2048] dy=F[120,2048] x=F[60,2048] rows=i32[120]perm "
                     "slots=i32[120]inv:rows probs=S[60,2]" },
    { "permute.bwd", "a=F[700,1032] dy=F[700,1032] x=F[700,1032] rows=i32[700]perm "
                     "slots=i32[700]inv:rows probs=S[700,1]" },
    { "permute.bwd", "a=- dy=F[61,2048] x=F[61,2048] rows=i32[61]perm slots=i32[61]inv:rows "
                     "probs=S[61,1]" },
    { "permute.bwd", "a=- dy=F[200,136] x=F[50,136] rows=i32[200]perm slots=i32[200]inv:rows "
                     "probs=S[50,4]" },
    { "rope", "x=F[20,63] positions=i32[20]<100 @head_dim=7 @inv_freq=1,0.3 @interleaved=0" },
    { "swiglu", "gate=F[150,301] up=F[150,301]" },
    { "swiglu", "gate=F[150,202]" },
    { "swiglu", "gate=F[530,48]" },
    { "swiglu", "gate=F[40,2064]" },
    { "weighted_swiglu", "gate=F[150,301] probs=S[150] up=F[150,301]" },
    { "weighted_swiglu", "gate=F[530,48] probs=S[530]" },
    { "weighted_swiglu", "gate=F[9,2064] probs=S[9]" },
    { "weighted_srelu", "x=F[150,301] probs=S[150]" },
    { "weighted_srelu", "x=F[30,1040] probs=S[30]" },
    { "gelu", "x=F[1500,301]" },
    { "gelu", "x=F[150,304] @approx=tanh" },
    { "gelu", "x=F[150,304] @approx=quick" },
    { "gelu", "x=F[150,301] @approx=quick" },
    { "patchify", "pixels=F[2,3,56,56] @patch=14" },
    { "patch_positions", "x=F[150,136] pos=F[51,136] cls=F[136] @class=last" },
    { "patch_positions", "x=F[600,301] pos=F[101,301] cls=F[301] @class=first" },
    { "patch_positions", "x=F[300,264] pos=F[100,264]" },
    { "shuffle_patches", "x=F[290,136] @grid=12 @ratio=2 @class=last" },
    { "shuffle_patches", "x=F[290,131] @grid=12 @ratio=3 @class=first" },
    { "rope_2d", "x=F[130,176] @head_dim=88 @grid=8 @class=last @inv_freq=1,0.9,0.8,0.7,0.6,0.5,"
                 "0.4,0.3,0.2,0.1,0.09,0.08,0.07,0.06,0.05,0.04,0.03,0.02,0.01,0.009,0.008,0.007" },
    { "merge_rows", "x=F[700,152] features=F[40,152] rows=i32[700]<40" },
    { "merge_rows", "x=F[300,1301] features=F[5,1301] rows=i32[300]<5" },
    { "add", "a=F[150,301] b=F[150,301]" },
    { "add", "a=F[150,304] b=F[150,304]" },
    { "cast", "x=F[900,301] @dtype=bf16" },
    { "embedding", "ids=i32[1300]<40 table=F[40,150]" },
    { "embedding", "ids=i32[700]zero table=F[2,1100]" },
    { "embedding", "ids=i32[700]zero table=F[2,1104]" },
    { "embedding", "ids=i32[9001]<30000 table=F[30000,8]" },
    { "embedding", "ids=i32[17000]<130 table=F[130,8]" },
    { "embedding", "ids=i32[32]zero table=F[600000,8]" },
    { "cross_entropy", "logits=F[9,5003] targets=i32[9]<5003 weight=S[9]pos" },
    { "cross_entropy", "logits=F[20,10000] targets=i32[20]<10100 weight=S[20]pos" },
    { "cross_entropy", "logits=F[2070,204] targets=i32[2070]<300 weight=S[2070]pos" },
    { "sumsq", "x=f32[700001] acc=f32[1]pos" },
    { "adamw", "master=f32[40003] exp_avg=f32[40003] exp_avg_sq=f32[40003]pos grad=f32[40003] "
               "lr=f32[1]pos weight_decay=f32[1]pos step=f32[1]{3} grad_scale=f32[1]pos "
               "ok=f32[1]pos" },
    { "adamw", "master=f32[40003] exp_avg=f32[40003] exp_avg_sq=f32[40003]pos grad=f32[40003] "
               "lr=f32[1]pos weight_decay=f32[1]pos step=f32[1]{3} grad_scale=f32[1]pos "
               "ok=f32[1]pos weights=bf16[40003]" },
    { "adamw", "master=i16[40003]<30000 exp_avg=f32[40003] exp_avg_sq=f32[40003]pos "
               "grad=f32[40003] lr=f32[1]pos weight_decay=f32[1]pos step=f32[1]{3} "
               "grad_scale=f32[1]pos ok=f32[1]pos weights=bf16[40003]" },
    { "adamw", "master=f32[9] exp_avg=f32[9]{0,0,0,1e-40,1e-3,0,-1e-44,1,1e-39} "
               "exp_avg_sq=f32[9]{0,1e-45,3e-39,0,1e-33,6e-33,1e-20,0,1e-37} grad=f32[9]zero "
               "lr=f32[1]pos weight_decay=f32[1]zero step=f32[1]{3} grad_scale=f32[1]pos "
               "ok=f32[1]pos" },
    { "route_topk", "logits=F[300,64] bias=S[64] @k=6 @norm=1 @groups=8 @group_topk=3" },
    { "route_topk", "logits=F[300,140] @k=3 @score=softmax" },
    { "route_topk", "logits=F[30,1024] @k=8 @score=softmax @pre_softmax=1" },
    { "route_topk", "logits=F[301,16] @k=1" },
    { "route_topk", "logits=F[301,16] @k=16 @norm=1" },
    { "route_topk", "logits=F[300,70] @k=32 @norm=1" },
    { "route_topk", "logits=F[90,384] bias=S[384] @k=8 @norm=1 @scale=2.5" },
    { "route_topk", "logits=F[70,200]zero @k=5 @norm=1" },
    { "route_plan", "index=i32[9001,4]<61 @experts=64" },
    { "route_plan", "index=i32[5000,8]<1000 @experts=1023" },
    { "route_plan", "index=i32[5000,1]zero @experts=300" },
    { "permute", "x=F[150,240] rows=i32[300]perm slots=i32[300]inv:rows probs=S[150,2]" },
    { "permute", "x=F[150,1] rows=i32[150]perm slots=i32[150]inv:rows probs=-" },
    { "permute", "x=F[50,241] rows=i32[400]perm slots=i32[400]inv:rows probs=S[50,8]" },
    { "unpermute", "y=F[300,240] rows=i32[300]perm slots=i32[300]inv:rows probs=S[100,3] @k=3" },
    { "unpermute", "y=F[301,248] rows=i32[301]perm slots=i32[301]inv:rows probs=- @k=1" },
    { "unpermute", "y=F[302,2048] rows=i32[302]perm slots=i32[302]inv:rows probs=- @k=2" },
    { "unpermute", "y=F[450,248] rows=i32[450]perm slots=i32[450]inv:rows probs=S[50,9] @k=9" },
    { "moe_aux_loss", "logits=F[3000,40] seq_start=i32[3000]start:700 @k=3 @coeff=0.5" },
    { "moe_aux_loss", "logits=F[3000,40] seq_start=i32[3000]start:700 @k=3 @coeff=0.5 "
                      "@type=seq_aux @score=softmax" },
    { "moe_aux_loss", "logits=F[300,384] seq_start=i32[300]start:10 @k=8 @coeff=0.5 "
                      "@type=seq_aux" },
    { "moe_aux_loss", "logits=F[300,64] seq_start=i32[300]start:64 @k=8 @coeff=0.5 "
                      "@type=seq_aux" },
    { "moe_aux_loss", "logits=F[300,16] seq_start=i32[300]start:65 @k=1 @coeff=0.5 "
                      "@type=seq_aux" },
    { "moe_aux_loss", "logits=F[3000,100] seq_start=i32[3000]start:2900 @k=40 @coeff=0.5 "
                      "@type=seq_aux" },
    { "moe_aux_loss", "logits=F[70,70]zero seq_start=i32[70]start:1 @k=5 @coeff=0.5" },
    { "router_z_loss", "logits=F[3000,40] @coeff=0.01" },
    { "router_z_loss", "logits=F[30,1000] @coeff=0.01" },
    { "attention", "q=F[200,48] k=F[200,16] v=F[200,16] seq_start=i32[200]start:200 @heads=3 "
                   "@kv_heads=1 @head_dim=16" },
    { "attention", "q=F[131,64] k=F[131,64] v=F[131,80] seq_start=i32[131]start:50 @heads=2 "
                   "@kv_heads=2 @head_dim=32" },
    { "attention", "q=F[150,128] k=F[150,64] v=F[150,64] seq_start=i32[150]start:100 @heads=2 "
                   "@kv_heads=1 @head_dim=64 @chunk=24" },
    { "attention", "q=F[129,256] k=F[129,128] v=F[129,128] seq_start=i32[129]start:129 @heads=2 "
                   "@kv_heads=1 @head_dim=128 @scale=0.05" },
    { "attention", "q=F[70,512] k=F[70,256] v=F[70,256] seq_start=i32[70]start:70 @heads=2 "
                   "@kv_heads=1 @head_dim=256" },
    { "attention", "q=F[90,384] k=F[90,384] v=F[90,256] seq_start=i32[90]start:64 @heads=2 "
                   "@kv_heads=2 @head_dim=192" },
    { "attention", "q=F[70,70] k=F[70,14] v=F[70,6] seq_start=i32[70]start:9 @heads=10 "
                   "@kv_heads=2 @head_dim=7" },
    { "attention", "q=F[4,64] k=F[4,32] v=F[4,32] seq_start=i32[4]{0,0,2,2} @heads=2 "
                   "@kv_heads=1 @head_dim=32" },
    { "attention", "q=F[260,64] k=F[260,64] v=F[260,64] seq_start=i32[260]start:130 @heads=1 "
                   "@kv_heads=1 @head_dim=64 @chunk=65" },
    { "attention", WHOLE(256, 128, 256, 128, 128) " @heads=2 @kv_heads=1 @head_dim=128" },
    { "qkv_attention", BESIDE(256, 128, 256) " @heads=2 @kv_heads=1 @head_dim=64" },
    { "qkv_attention", BESIDE(512, 256, 576) " @heads=3 @kv_heads=3 @head_dim=64 @scale=0.2" },
    { "qkv_attention", BESIDE(512, 256, 384) " @heads=4 @kv_heads=1 @head_dim=64 @chunk=128" },
    { "qkv_attention", BESIDE(128, 128, 576) " @heads=2 @kv_heads=2 @head_dim=96" },
    { "attention", WHOLE(256, 256, 384, 384, 256) " @heads=2 @kv_heads=2 @head_dim=192" },
    { "attention", WHOLE(512, 256, 256, 64, 64) " @heads=4 @kv_heads=1 @head_dim=64 @chunk=128" },
    { "attention", WHOLE(384, 384, 192, 96, 96) " @heads=2 @kv_heads=1 @head_dim=96 @scale=0.2" },
    { "attention", WHOLE(300, 100, 128, 128, 128) " @heads=2 @kv_heads=2 @head_dim=64" },
    { "attention", WHOLE(300, 100, 128, 128, 128) " @heads=2 @kv_heads=2 @head_dim=64 @chunk=33" },
    { "attention", "q=F[290,176] k=F[290,176] v=F[290,176] seq_start=- @heads=2 @kv_heads=2 "
                   "@head_dim=88 @seq=145 @packed=0 @causal=0" },
    { "attention", "q=F[300,128] k=F[300,64] v=F[300,32] seq_start=- @heads=4 @kv_heads=2 "
                   "@head_dim=32 @seq=20 @packed=0 @causal=0" },
    { "attention", "q=F[192,256] k=F[192,128] v=F[192,128] seq_start=- @heads=2 @kv_heads=1 "
                   "@head_dim=128 @seq=64 @packed=0 @causal=0" },
    { "attention", "q=F[70,130] k=F[70,130] v=F[70,130] seq_start=- @heads=2 @kv_heads=2 "
                   "@head_dim=65 @seq=35 @packed=0 @causal=0" },
    { "rope_tail", "x=F[33,96] positions=i32[33]<90000 @head_dim=24 @inv_freq=1,0.3,0.1,0.01" },
    { "rope_tail", "x=F[5,21] positions=i32[5]<90 @head_dim=7 @inv_freq=1,0.3 @factor=1.5" },
    { "mla_kv", "kv=F[70,192] kr=F[70,8] positions=i32[70]<90000 @heads=4 @nope_dim=32 "
                "@inv_freq=1,0.3,0.1,0.01" },
    { "mla_kv", "kv=F[9,195] kr=F[9,6] positions=i32[9]<900 @heads=13 @nope_dim=8 "
                "@inv_freq=1,0.3,0.1" },
    { "split", "x=F[130,576] @first=512" },
    { "split", "x=F[3,5,77] @first=12" },
    { "concat", "a=F[1100,24] b=F[1100,8] @first=24 @second=8" },
    { "attention.part", "q=F[260,64] k=F[260,32] v=F[260,16] seq_start=i32[260]zero @heads=2 "
                        "@kv_heads=1 @head_dim=32 @seq=520 @ranks=2 @index=0 @from=1" },
    { "attention.part", "q=F[260,128] k=F[260,64] v=F[260,64] seq_start=i32[260]zero @heads=2 "
                        "@kv_heads=1 @head_dim=64 @seq=520 @ranks=2 @index=1 @chunk=90" },
    { "attention.part", "q=F[192,384] k=F[192,384] v=F[192,256] seq_start=i32[192]zero @heads=2 "
                        "@kv_heads=2 @head_dim=192 @seq=576 @ranks=3 @index=1 @from=1" },
    { "attention.part.bwd", "do=F[260,64] q=F[260,128] k=F[260,64] v=F[260,32] o=F[260,64] "
                            "lse=S[260,2]pos seq_start=i32[260]zero @heads=2 @kv_heads=1 "
                            "@head_dim=64 @seq=520 @ranks=2 @index=0 @from=1 @scale=0.01" },
    { "attention.part.bwd", "do=F[192,256] q=F[192,384] k=F[192,384] v=F[192,256] o=F[192,256] "
                            "lse=S[192,2]pos seq_start=i32[192]zero @heads=2 @kv_heads=2 "
                            "@head_dim=192 @seq=576 @ranks=3 @index=1 @from=1 @scale=0.01" },
    { "attention.merge", "oa=S[130,96] la=S[130,3] ob=S[130,96] lb=S[130,3]" },
    { "attention.ring", "q=F[90,64] k=F[90,32] v=F[90,32] seq_start=i32[90]zero acc=S[90,64] "
                        "lse=S[90,2] @heads=2 @kv_heads=1 @head_dim=32 @seq=90" },
    { "mla_attention.paged", "q=F[90,96] c=F[90,40] kr=F[90,8] w=F[160,40] "
                             "positions=i32[90]ramp slot=i32[90]zero pages=i32[1,7]perm "
                             "cache=F[7,16,48] @heads=4 @nope_dim=16 @inv_freq=1,0.3,0.1,0.01" },
    { "mla_attention.paged", "q=F[3,231] c=F[3,33] kr=F[3,6] w=F[231,33] "
                             "positions=i32[3]{150,0,64} slot=i32[3]{1,-1,0} "
                             "pages=i32[2,22]perm cache=F[44,7,39] @heads=11 @nope_dim=15 "
                             "@inv_freq=1,0.3,0.1 @factor=1.1" },
    { "mla_attention.paged", "q=F[2,768] c=F[2,512] kr=F[2,64] w=F[1024,512] "
                             "positions=i32[2]{700,64} slot=i32[2]{1,0} pages=i32[2,11]perm "
                             "cache=F[22,64,576] @heads=4 @nope_dim=128 "
                             "@inv_freq=1,0.9,0.8,0.7,0.6,0.5,0.4,0.3,0.2,0.1,0.09,0.08,0.07,"
                             "0.06,0.05,0.04,0.03,0.02,0.01,0.009,0.008,0.007,0.006,0.005,"
                             "0.004,0.003,0.002,0.001,9e-4,8e-4,7e-4,6e-4 @scale=0.01" },
    { "mla_attention.paged", "q=F[3,4752] c=F[3,512] kr=F[3,64] w=F[1056,512] "
                             "positions=i32[3]{127,3,64} slot=i32[3]{0,-1,1} pages=i32[2,7]perm "
                             "cache=F[14,32,576] @heads=66 @nope_dim=8 @scale=0.02 "
                             "@inv_freq=1,0.9,0.8,0.7,0.6,0.5,0.4,0.3,0.2,0.1,0.09,0.08,0.07,"
                             "0.06,0.05,0.04,0.03,0.02,0.01,0.009,0.008,0.007,0.006,0.005,"
                             "0.004,0.003,0.002,0.001,9e-4,8e-4,7e-4,6e-4" },
    { "mla_attention.paged", "q=F[12,24] c=F[12,16] kr=F[12,4] w=F[32,16] "
                             "positions=i32[12]{0,1,2,3,4,5,9,10,11,0,1,7} "
                             "slot=i32[12]{0,0,0,0,0,0,1,1,1,-1,-1,2} pages=i32[3,1]perm "
                             "cache=F[3,16,20] @heads=2 @nope_dim=8 @inv_freq=1,0.3" },
    { "rope_attention.paged", "q=F[1,256] k=F[1,128] v=F[1,128] positions=i32[1]{700} "
                              "slot=i32[1]{0} pages=i32[1,11]perm k_cache=F[11,64,128] "
                              "v_cache=F[11,64,128] @heads=4 @kv_heads=2 @head_dim=64 @qk_norm=1 "
                              "@inv_freq=" FREQ32 },
    { "rope_attention.paged", "q=F[5,512] k=F[5,128] v=F[5,128] "
                              "positions=i32[5]{3,130,0,4,66} slot=i32[5]{2,0,-1,2,1} "
                              "pages=i32[3,6]perm k_cache=F[18,24,128] v_cache=F[18,24,128] "
                              "@heads=4 @kv_heads=1 @head_dim=128 @factor=0.9 @interleaved=0 "
                              "@inv_freq=" FREQ32 "," FREQ32 },
    { "rope_attention.paged", "q=F[2,512] k=F[2,256] v=F[2,256] positions=i32[2]{90,64} "
                              "slot=i32[2]{1,0} pages=i32[2,6]perm k_cache=F[12,16,256] "
                              "v_cache=F[12,16,256] @heads=2 @kv_heads=1 @head_dim=256 @chunk=40 "
                              "@inv_freq=" FREQ8 },
    { "attention.paged", "q=F[90,64] k=F[90,32] v=F[90,32] positions=i32[90]ramp "
                         "slot=i32[90]zero pages=i32[1,5]perm k_cache=F[5,24,32] "
                         "v_cache=F[5,24,32] @heads=4 @kv_heads=2 @head_dim=16" },
    { "attention.paged", "q=F[3,66] k=F[3,33] v=F[3,33] positions=i32[3]{150,0,64} "
                         "slot=i32[3]{1,-1,0} pages=i32[2,31]perm k_cache=F[62,5,33] "
                         "v_cache=F[62,5,33] @heads=2 @kv_heads=1 @head_dim=33" },
    { "attention.paged", "q=F[2,512] k=F[2,256] v=F[2,512] positions=i32[2]{450,64} "
                         "slot=i32[2]{1,0} pages=i32[2,29]perm k_cache=F[58,16,256] "
                         "v_cache=F[58,16,512] @heads=4 @kv_heads=2 @head_dim=128 @chunk=400" },
    { "attention.paged", "q=F[3,640] k=F[3,128] v=F[3,128] positions=i32[3]{1450,64,1300} "
                         "slot=i32[3]{1,0,-1} pages=i32[2,91]perm k_cache=F[182,16,128] "
                         "v_cache=F[182,16,128] @heads=5 @kv_heads=1 @head_dim=128" },
    { "attention.paged", "q=F[3,2048] k=F[3,256] v=F[3,128] positions=i32[3]{450,64,300} "
                         "slot=i32[3]{1,0,1} pages=i32[2,8]perm k_cache=F[16,64,256] "
                         "v_cache=F[16,64,128] @heads=8 @kv_heads=1 @head_dim=256" },
    { "attention.paged", "q=F[1,768] k=F[1,768] v=F[1,512] positions=i32[1]{700} slot=i32[1]{0} "
                         "pages=i32[1,6]perm k_cache=F[6,128,768] v_cache=F[6,128,512] @heads=4 "
                         "@kv_heads=4 @head_dim=192" },
    { "attention.paged", "q=F[40,640] k=F[40,64] v=F[40,64] positions=i32[40]ramp "
                         "slot=i32[40]zero pages=i32[1,1]perm k_cache=F[1,64,64] "
                         "v_cache=F[1,64,64] @heads=10 @kv_heads=1 @head_dim=64" },
};

static void every_shape(rig_cuda config)
{
    rig r;
    open_or_skip(&r, config);
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        rig_case(&r, shapes[i].op, shapes[i].text, "f32");
        rig_case(&r, shapes[i].op, shapes[i].text, "bf16");
    }
    rig_close(&r);
}

Test(cuda_shapes, as_it_chooses)
{
    every_shape((rig_cuda){ 0 });
}

Test(cuda_shapes, with_its_own_kernels)
{
    every_shape((rig_cuda){ .matmul = "own", .attention = "own" });
}

/* ---- cuDNN ------------------------------------------------------------------------------ */
static int warnings;

static void count_warnings(void *self, uint32_t level, const char *who, const char *text)
{
    (void)self, (void)who;
    warnings += level == MR_LOG_WARN && strstr(text, "cuDNN") != NULL;
}

/* which kernel serves a call of op `id` */
static const char *served_by(rig *r, const char *id, const char *text, uint32_t flags)
{
    mr_kernel_info info = { .size = sizeof info };
    mr_err err = MR_ERR_INIT;
    mri_case c;
    void *kernel = NULL;
    cr_assert_eq(mri_case_make(mri_op_find(id), text, "bf16", 7, &c, &err), MR_OK, "%s", err.what);
    cr_assert_eq(r->ops->query(r->dev, id, &c.call, flags, &kernel, &info, &err), MR_OK, "%s",
                 err.what);
    r->ops->release(r->dev, kernel);
    mri_case_free(&c);
    return info.impl;
}

/* the shapes of few rows are worth their kernels only if those serve them */
Test(cuda_few_rows, have_kernels_of_their_own)
{
    static const struct {
        const char *op, *text;
    } served[] = {
        { "linear", "x=F[1,2048] w=F[264,2048]" },
        { "linear_add", "a=F[3,48] x=F[3,4104] w=F[48,4104]" },
        { "linears", "x=F[8,2048] nw=F[2048] w=F[200,2048] w1=F[40,2048] w2=- y2=- @normed=1" },
        { "linear_swiglu", "x=F[1,2048] nw=F[2048] gate=F[344,2048] up=F[344,2048] @normed=1" },
        { "grouped_linear", "x=F[60,264] w=F[9,264,136] offsets=i32[10]part:60" },
        { "experts_swiglu", "x=F[1,64] nw=F[64] probs=S[1,2] rows=i32[2]perm w=F[7,64,128] "
                            "offsets=i32[8]part:2 @normed=1" },
        { "experts_add", "a=F[64,64] b=- y=F[64,64] rows=i32[64]perm w=F[16,64,64] "
                         "offsets=i32[17]part:64" },
        { "router", "x=F[8,2048] nw=- w=F[16,2048] bias=- @k=1" },
    };
    rig r;
    open_or_skip(&r, (rig_cuda){ 0 });
    for (size_t i = 0; i < sizeof served / sizeof *served; i++)
        cr_expect(strstr(served_by(&r, served[i].op, served[i].text, 0), "few"), "%s",
                  served[i].op);
    rig_close(&r);
}

static const char whole[] = WHOLE(256, 128, 128, 64, 64) " @heads=2 @kv_heads=1 @head_dim=64";
static const char beside[] = BESIDE(256, 128, 256) " @heads=2 @kv_heads=1 @head_dim=64";

Test(cuda_cudnn, serves_whole_sequences_where_it_is)
{
    rig r;
    mr_err err = MR_ERR_INIT;
    if (rig_try_open(&r, "cuda", &(rig_cuda){ .attention = "cudnn" }, &err))
        cr_skip_test("no GPU, or no cuDNN: %s", err.what);
    cr_expect(!strncmp(served_by(&r, "attention", whole, 0), "cudnn", 5));
    cr_expect(!strncmp(served_by(&r, "attention", whole, MR_QUERY_DETERMINISTIC), "cudnn", 5));
    cr_expect(!strncmp(served_by(&r, "qkv_attention", beside, 0), "cudnn", 5));
    cr_assert_eq(r.ops->stream_create(r.dev, 0, &r.stream, &err), MR_OK);
    cr_expect_gt(nan_case(&r, mri_op_find("attention"), whole, "bf16"), 1000);
    rig_close(&r);
}

Test(cuda_cudnn, without_it_own_kernels_serve_and_one_warning_says_so)
{
    rig r;
    mr_err err = MR_ERR_INIT;
    rig_cuda config = { .cudnn = "/no/such/libcudnn.so.9" };
    open_or_skip(&r, config);
    r.host.log = count_warnings;
    for (int i = 0; i < 3; i++)
        cr_expect(!strncmp(served_by(&r, "attention", whole, 0), "own", 3));
    cr_expect_eq(warnings, 1);
    rig_close(&r);
    config.attention = "cudnn";
    cr_expect_eq(rig_try_open(&r, "cuda", &config, &err), MR_E_UNSUPPORTED);
    cr_expect(strstr(err.what, "cuDNN") && strstr(err.detail, "/no/such"), "%s", err.what);
}

Test(cuda_nan, is_never_lost)
{
    rig r;
    open_or_skip(&r, (rig_cuda){ 0 });
    nan_every_op(&r, "f32");
    nan_every_op(&r, "bf16");
    rig_close(&r);
}

Test(cuda_device, memory_streams_and_errors)
{
    rig r;
    mr_err err = MR_ERR_INIT;
    mr_device_info info = { .size = sizeof info };
    void *p = NULL, *pinned = NULL, *event = NULL, *second = NULL;
    char text[70000] = "at the end", back[70000] = "";
    open_or_skip(&r, (rig_cuda){ 0 });
    cr_assert_eq(r.ops->info(r.dev, &info, &err), MR_OK);
    cr_expect(info.memory_bytes > 1u << 30 && strstr(info.name, "sm_"));
    cr_assert_eq(r.ops->alloc(r.dev, sizeof text, MR_MEM_ARENA, &p, &err), MR_OK);
    cr_assert_eq(r.ops->alloc(r.dev, sizeof text, MR_MEM_PINNED, &pinned, &err), MR_OK);
    cr_expect(!memcmp(pinned, back, sizeof back), "pinned memory is not zeroed");
    cr_assert_eq(r.ops->copy(r.dev, r.stream, pinned, p, sizeof text, &err), MR_OK);
    cr_assert_eq(r.ops->sync(r.dev, r.stream, &err), MR_OK);
    cr_expect(!memcmp(pinned, back, sizeof back), "device memory is not zeroed");

    /* two streams, in the order that an event gives */
    cr_assert_eq(r.ops->stream_create(r.dev, 1, &second, &err), MR_OK);
    cr_assert_eq(r.ops->copy(r.dev, r.stream, p, text, sizeof text, &err), MR_OK);
    cr_assert_eq(r.ops->record(r.dev, r.stream, &event, &err), MR_OK);
    cr_assert_eq(r.ops->wait(r.dev, second, event, &err), MR_OK);
    cr_assert_eq(r.ops->fill(r.dev, second, (char *)p + 3, 'x', 3, &err), MR_OK);
    cr_assert_eq(r.ops->copy(r.dev, second, back, p, sizeof back, &err), MR_OK);
    cr_assert_eq(r.ops->sync(r.dev, second, &err), MR_OK);
    cr_expect_str_eq(back, "at xxx end");
    r.ops->event_destroy(r.dev, event);
    r.ops->stream_destroy(r.dev, second);
    r.ops->free(r.dev, p, sizeof text);
    r.ops->free(r.dev, pinned, sizeof text);

    cr_expect_eq(r.ops->alloc(r.dev, 1ull << 45, MR_MEM_ARENA, &p, &err), MR_E_NOMEM);
    cr_expect(strstr(err.detail, "GiB are free") && err.hint[0]);
    cr_expect(r.ops->ext(r.dev, "mrun.native_stream/1") && !r.ops->ext(r.dev, "no.such/1"));
    rig_close(&r);
}
