/* SPDX-License-Identifier: Apache-2.0
 *
 * Shapes that cross every border inside backend/cpu: tiles, strips, blocks, chunks, parts,
 * thin and thick products, empty and partial experts, several sequences in a row.
 */
#include "backend_rig.h"

static const struct {
    const char *op, *text;
} cases[] = {
    { "linear", "x=F[130,100] w=F[70,100] bias=F[70]" },
    { "linear", "x=F[9,1030] w=F[33,1030]" },
    { "linear", "x=F[8,70] w=F[129,70] bias=F[129]" },
    { "linear", "x=F[3,1030] w=F[37,1030]" },
    { "linear", "x=F[1,40] w=F[1100,40]" },
    { "linear", "x=F[20,24] w=F[600,24]" },
    { "linear", "x=F[1100,5] w=F[3,5]" },
    { "linear", "x=F[64,64] w=F[4,64]" },
    { "linear", "x=F[130,513] w=F[530,513] bias=F[530]" }, /* ours where sgemm is slow */
    { "sum_rows", "x=F[300,130] acc=S[130]" },
    { "grouped_linear", "x=F[70,40] w=F[5,40,600] offsets=i32[6]{0,0,65,65,70,70}" },
    { "grouped_linear", "x=F[70,40] w=F[5,72,40] offsets=i32[6]{0,9,17,17,18,70} @layout=oi" },
    { "grouped_linear", "x=F[40,33] w=F[4,33,35] offsets=i32[5]{2,3,3,21,30}" },
    { "grouped_linear", "x=F[40,33] w=F[4,35,33] offsets=i32[5]{0,0,0,0,0} @layout=oi" },
    { "grouped_linear", "x=F[1050,6] w=F[2,6,10] offsets=i32[3]{0,1040,1050}" },
    { "rmsnorm", "x=F[300,96] w=F[24] @group=24" },
    { "rmsnorm", "x=F[200,130] w=F[130] @eps=1e-6" },
    { "layernorm", "x=F[200,130] w=F[130] bias=F[130]" },
    { "rope", "x=F[150,120] positions=i32[150]<100000 @head_dim=40 @inv_freq=1,0.3,0.1,0.03,"
              "0.01,0.001,0.0001,0.7,0.2,0.05" },
    { "rope", "x=F[150,120] positions=i32[150]<100000 @head_dim=40 @interleaved=0 @factor=1.3 "
              "@inv_freq=1,0.3,0.1,0.03,0.01,0.001,0.0001,0.7,0.2,0.05" },
    { "rope", "x=F[40,64] positions=i32[40]ramp @head_dim=32 @inverse=1 "
              "@inv_freq=1,0.9,0.8,0.7,0.6,0.5,0.4,0.3,0.2,0.1,0.09,0.08,0.07,0.06,0.05,0.04" },
    { "swiglu", "gate=F[150,301] up=F[150,301]" },
    { "swiglu", "gate=F[150,202]" },
    { "weighted_swiglu", "gate=F[150,301] probs=S[150]pos up=F[150,301]" },
    { "weighted_swiglu", "gate=F[150,202] probs=S[150]" },
    { "weighted_srelu", "x=F[150,301] probs=S[150]" },
    { "gelu", "x=F[150,301]" },
    { "gelu", "x=F[150,301] @approx=tanh" },
    { "gelu", "x=F[150,301] @approx=quick" },
    { "attention", "q=F[260,176] k=F[260,176] v=F[260,176] seq_start=- @heads=2 @kv_heads=2 "
                   "@head_dim=88 @seq=130 @packed=0 @causal=0" },
    { "attention", "q=F[300,64] k=F[300,32] v=F[300,16] seq_start=- @heads=4 @kv_heads=2 "
                   "@head_dim=16 @seq=20 @packed=0 @causal=0" },
    { "patchify", "pixels=F[2,3,56,56] @patch=14" },
    { "patch_positions", "x=F[150,130] pos=F[51,130] cls=F[130] @class=last" },
    { "patch_positions", "x=F[600,301] pos=F[101,301] cls=F[301] @class=first" },
    { "shuffle_patches", "x=F[290,130] @grid=12 @ratio=2 @class=last" },
    { "rope_2d", "x=F[130,176] @head_dim=88 @grid=8 @class=last @inv_freq=1,0.9,0.8,0.7,0.6,0.5,"
                 "0.4,0.3,0.2,0.1,0.09,0.08,0.07,0.06,0.05,0.04,0.03,0.02,0.01,0.009,0.008,0.007" },
    { "merge_rows", "x=F[300,150] features=F[40,150] rows=i32[300]<40" },
    { "cast", "x=F[90,301] @dtype=bf16" },
    { "embedding", "ids=i32[300]<40 table=F[40,150]" },
    { "cross_entropy", "logits=F[9,5003] targets=i32[9]<5003 weight=S[9]pos" },
    { "cross_entropy", "logits=F[70,2048] targets=i32[70]<3000 weight=S[70]pos" },
    { "sumsq", "x=f32[70001] acc=f32[1]pos" },
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
    { "route_topk", "logits=F[300,40] @k=3 @score=softmax" },
    { "route_topk", "logits=F[300,40] @k=3 @score=softmax @pre_softmax=1" },
    { "route_plan", "index=i32[9001,4]<61 @experts=64" },
    { "permute", "x=F[150,240] rows=i32[300]perm slots=i32[300]inv:rows probs=S[150,2]" },
    { "unpermute", "y=F[300,240] rows=i32[300]perm slots=i32[300]inv:rows probs=S[100,3] @k=3" },
    { "moe_aux_loss", "logits=F[300,40] seq_start=i32[300]start:70 @k=3 @coeff=0.5" },
    { "moe_aux_loss", "logits=F[300,40] seq_start=i32[300]start:70 @k=3 @coeff=0.5 "
                      "@type=seq_aux @score=softmax" },
    { "router_z_loss", "logits=F[300,40] @coeff=0.01" },
    { "attention", "q=F[200,48] k=F[200,16] v=F[200,16] seq_start=i32[200]start:200 @heads=3 "
                   "@kv_heads=1 @head_dim=16" },
    { "attention", "q=F[131,64] k=F[131,64] v=F[131,80] seq_start=i32[131]start:50 @heads=2 "
                   "@kv_heads=2 @head_dim=32" },
    { "attention", "q=F[150,128] k=F[150,64] v=F[150,64] seq_start=i32[150]start:100 @heads=2 "
                   "@kv_heads=1 @head_dim=64 @chunk=24" },
    { "attention", "q=F[129,256] k=F[129,128] v=F[129,128] seq_start=i32[129]start:129 @heads=2 "
                   "@kv_heads=1 @head_dim=128 @scale=0.05" },
    { "attention", "q=F[70,70] k=F[70,14] v=F[70,6] seq_start=i32[70]start:9 @heads=10 "
                   "@kv_heads=2 @head_dim=7" },
    { "attention", "q=F[100,40] k=F[100,40] v=F[100,40] seq_start=i32[100]start:80 @heads=2 "
                   "@kv_heads=2 @head_dim=20 @chunk=7" },
    { "attention", "q=F[4,64] k=F[4,32] v=F[4,32] seq_start=i32[4]{0,0,2,2} @heads=2 "
                   "@kv_heads=1 @head_dim=32" },
    { "attention.part", "q=F[260,64] k=F[260,32] v=F[260,16] seq_start=i32[260]zero @heads=2 "
                        "@kv_heads=1 @head_dim=32 @seq=520 @ranks=2 @index=0 @from=1" },
    { "attention.part", "q=F[260,64] k=F[260,32] v=F[260,16] seq_start=i32[260]zero @heads=2 "
                        "@kv_heads=1 @head_dim=32 @seq=520 @ranks=2 @index=1 @chunk=90" },
    { "attention.part", "q=F[96,32] k=F[96,32] v=F[96,32] seq_start=i32[96]zero @heads=2 "
                        "@kv_heads=2 @head_dim=16 @seq=288 @ranks=3 @index=1 @from=1" },
    { "attention.part.bwd", "do=F[260,32] q=F[260,64] k=F[260,32] v=F[260,16] o=F[260,32] "
                            "lse=S[260,2]pos seq_start=i32[260]zero @heads=2 @kv_heads=1 "
                            "@head_dim=32 @seq=520 @ranks=2 @index=0 @from=1 @scale=0.01" },
    { "attention.part.bwd", "do=F[96,32] q=F[96,32] k=F[96,32] v=F[96,32] o=F[96,32] "
                            "lse=S[96,2]pos seq_start=i32[96]zero @heads=2 @kv_heads=2 "
                            "@head_dim=16 @seq=288 @ranks=3 @index=1 @from=1 @scale=0.01" },
    { "attention.merge", "oa=S[130,96] la=S[130,3] ob=S[130,96] lb=S[130,3]" },
    { "attention.ring", "q=F[90,64] k=F[90,32] v=F[90,32] seq_start=i32[90]zero acc=S[90,64] "
                        "lse=S[90,2] @heads=2 @kv_heads=1 @head_dim=32 @seq=90" },
    { "rope_tail", "x=F[33,96] positions=i32[33]<90000 @head_dim=24 @inv_freq=1,0.3,0.1,0.01" },
    { "rope_tail", "x=F[5,21] positions=i32[5]<90 @head_dim=7 @inv_freq=1,0.3 @factor=1.5" },
    { "mla_kv", "kv=F[70,192] kr=F[70,8] positions=i32[70]<90000 @heads=4 @nope_dim=32 "
                "@inv_freq=1,0.3,0.1,0.01" },
    { "mla_kv", "kv=F[9,195] kr=F[9,6] positions=i32[9]<900 @heads=13 @nope_dim=8 "
                "@inv_freq=1,0.3,0.1" },
    { "split", "x=F[130,576] @first=512" },
    { "split", "x=F[3,5,77] @first=12" },
    { "concat", "a=F[1100,24] b=F[1100,8] @first=24 @second=8" },
    { "attention.paged", "q=F[90,64] k=F[90,32] v=F[90,32] positions=i32[90]ramp "
                         "slot=i32[90]zero pages=i32[1,7]perm k_cache=F[7,16,32] "
                         "v_cache=F[7,16,32] @heads=4 @kv_heads=2 @head_dim=16" },
    { "attention.paged", "q=F[90,64] k=F[90,32] v=F[90,32] positions=i32[90]ramp "
                         "slot=i32[90]zero pages=i32[1,13]perm k_cache=F[13,7,32] "
                         "v_cache=F[13,7,32] @heads=4 @kv_heads=2 @head_dim=16" },
    { "attention.paged", "q=F[3,66] k=F[3,33] v=F[3,33] positions=i32[3]{150,0,64} "
                         "slot=i32[3]{1,-1,0} pages=i32[2,3]perm k_cache=F[6,64,33] "
                         "v_cache=F[6,64,33] @heads=2 @kv_heads=1 @head_dim=33" },
    { "attention.paged", "q=F[2,128] k=F[2,64] v=F[2,48] positions=i32[2]{150,64} "
                         "slot=i32[2]{1,0} pages=i32[2,7]perm k_cache=F[14,24,64] "
                         "v_cache=F[14,24,48] @heads=4 @kv_heads=2 @head_dim=32 @chunk=40" },
    { "attention.paged", "q=F[12,32] k=F[12,16] v=F[12,16] positions="
                         "i32[12]{0,1,2,3,4,5,9,10,11,0,1,7} "
                         "slot=i32[12]{0,0,0,0,0,0,1,1,1,-1,-1,2} pages=i32[3,12]perm "
                         "k_cache=F[36,1,16] v_cache=F[36,1,16] @heads=2 @kv_heads=1 "
                         "@head_dim=16" },
    { "mla_attention.paged", "q=F[90,96] c=F[90,40] kr=F[90,8] w=F[160,40] positions=i32[90]ramp "
                             "slot=i32[90]zero pages=i32[1,5]perm cache=F[5,20,48] @heads=4 "
                             "@nope_dim=16 @inv_freq=1,0.3,0.1,0.01" },
    { "mla_attention.paged", "q=F[3,231] c=F[3,33] kr=F[3,6] w=F[231,33] "
                             "positions=i32[3]{150,0,64} slot=i32[3]{1,-1,0} pages=i32[2,3]perm "
                             "cache=F[6,64,39] @heads=11 @nope_dim=15 @inv_freq=1,0.3,0.1 "
                             "@factor=1.1" },
    { "mla_attention.paged", "q=F[2,768] c=F[2,512] kr=F[2,64] w=F[1024,512] "
                             "positions=i32[2]{700,64} slot=i32[2]{1,0} pages=i32[2,11]perm "
                             "cache=F[22,64,576] @heads=4 @nope_dim=128 "
                             "@inv_freq=1,0.9,0.8,0.7,0.6,0.5,0.4,0.3,0.2,"
                             "0.1,0.09,0.08,0.07,0.06,0.05,0.04,0.03,0.02,0.01,0.009,0.008,"
                             "0.007,0.006,0.005,0.004,0.003,0.002,0.001,9e-4,8e-4,7e-4,6e-4 "
                             "@scale=0.01" },
    { "mla_attention.paged", "q=F[12,24] c=F[12,16] kr=F[12,4] w=F[32,16] positions="
                             "i32[12]{0,1,2,3,4,5,9,10,11,0,1,7} "
                             "slot=i32[12]{0,0,0,0,0,0,1,1,1,-1,-1,2} pages=i32[3,3]perm "
                             "cache=F[9,5,20] @heads=2 @nope_dim=8 @inv_freq=1,0.3" },
};

static void every_shape(rig_cpu config)
{
    rig r;
    rig_open(&r, "cpu", &config);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        rig_case(&r, cases[i].op, cases[i].text, "f32");
        rig_case(&r, cases[i].op, cases[i].text, "bf16");
    }
    rig_close(&r);
}

Test(cpu_shapes, as_it_chooses)
{
    every_shape((rig_cpu){ .threads = 2 });
}

Test(cpu_shapes, with_its_own_products_on_three_threads)
{
    every_shape((rig_cpu){ .threads = 3, .matmul = "own" });
}

Test(cpu_shapes, with_the_librarys_plans)
{
    every_shape((rig_cpu){ .threads = 2, .matmul = "onednn" });
}

Test(cpu_shapes, with_the_base_instruction_set)
{
    every_shape((rig_cpu){ .threads = 1, .isa = "x86-64-v2", .matmul = "own" });
}

Test(cpu_shapes, with_avx512)
{
    if (!__builtin_cpu_supports("x86-64-v4"))
        cr_skip_test("this CPU has no AVX-512");
    every_shape((rig_cpu){ .threads = 2, .isa = "avx512", .matmul = "own" });
}
