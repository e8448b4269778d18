/* SPDX-License-Identifier: Apache-2.0
 *
 * rope_attention.c - attention over a paged cache with what Llama-like models do to queries and
 * keys right before it: rotary positions, and if qk_norm the RMS norm of each head without a
 * weight. Rotated queries are written by nobody but the kernel, rotated keys only to the cache.
 *
 *   rope_attention.paged    attention.paged(turn(q), turn(k), v), turn = rope or rope_norm
 */
#include "core/ops/catalogue.h"
#include "core/ops/heads.h"

static mr_status roped_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    const mr_attr *freq = mr_attr_find(c, "inv_freq");
    mr_status st = mri_heads_infer(c, out, err, "rope_attention.paged", 2,
                                   "q:F[T,H*C] k:F[T,G*C] v:F[T,G*V] positions:i32[T] slot:i32[T] "
                                   "pages:i32[B,M] k_cache:G[N,P,G*C] v_cache:G[N,P,G*V] -> "
                                   "o:F[T,H*V]");
    int64_t C = mr_attr_i(c, "head_dim", 0);
    if (!st && 2 * (int64_t)freq->n > C)
        st = mri_op_fail(err, "rope_attention.paged",
                         "inv_freq has %u values, a head of %lld has only %lld pairs", freq->n,
                         (long long)C, (long long)(C / 2));
    return st;
}

/* x turned, in double, into y of the same shape; room: a value a head for rope_norm's rstd */
static mr_status turned(const mr_call *c, const mr_buf *in, uint32_t x, double *y, double *room,
                        mr_err *err)
{
    bool norm = mr_attr_i(c, "qk_norm", 0);
    mr_type wide = *c->in[x], rstd = mr_type2("f64", wide.dim[0], 1);
    wide.dtype = "f64";
    const mr_type *types[] = { c->in[x], c->in[3] }, *outs[] = { &wide, &rstd };
    mr_buf from[] = { in[x], in[3] }, to[] = { { y, NULL }, { room, NULL } };
    mr_attr at[] = { *mr_attr_find(c, "head_dim"), *mr_attr_find(c, "inv_freq"),
                     mr_ai("interleaved", mr_attr_i(c, "interleaved", 1)),
                     mr_af("factor", mr_attr_f(c, "factor", 1)),
                     mr_af("eps", mr_attr_f(c, "eps", 1e-5)) };
    mr_call call = { sizeof call, 2, norm ? 2 : 1, norm ? 5 : 4, types, outs, at };
    return mri_op_find(norm ? "rope_norm" : "rope")->ref(&call, from, to, err);
}

static mr_status roped_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    size_t nq = (size_t)mr_numel(c->in[0]), nk = (size_t)mr_numel(c->in[1]);
    double *q = mri_alloc((2 * nq + nk) * sizeof *q), *k = q + nq, *room = k + nk;
    mr_type wide[2] = { *c->in[0], *c->in[1] };
    const mr_type *types[8];
    mr_buf bufs[8];
    mr_call call = { sizeof call, 8, 1, c->n_attr, types, c->out, c->attr };
    mr_status st = 0;
    MR_TRY(turned(c, in, 0, q, room, err));
    MR_TRY(turned(c, in, 1, k, room, err));
    for (uint32_t i = 0; i < 8; i++) {
        types[i] = i < 2 ? &wide[i] : c->in[i];
        bufs[i] = i == 0 ? (mr_buf){ q, NULL } : i == 1 ? (mr_buf){ k, NULL } : in[i];
    }
    wide[0].dtype = wide[1].dtype = "f64";
    MR_TRY(mri_op_find("attention.paged")->ref(&call, bufs, out, err));
out:
    free(q);
    return st;
}

static void roped_cost(const mr_call *c, mr_cost *cost)
{
    mri_op_find("attention.paged")->cost(c, cost);
    cost->flops += 7.0 * (double)(mr_numel(c->in[0]) + mr_numel(c->in[1]));
}

#define FREQ8 "1,0.5,0.3,0.2,0.1,0.05,0.03,0.02"

const mr_op_def mri_ops_rope_attention[] = {
    { MRI_OP, .flags = MR_OP_NO_VJP, .id = "rope_attention.paged",
      .doc = "attention.paged of rope(q), rope(k), v; with qk_norm of rope_norm(q), rope_norm(k)",
      .sig = "q k v positions slot pages k_cache! v_cache! -> o",
      .attrs = MRI_HEADS_ATTRS " inv_freq:fs interleaved:i=1 factor:f=1 qk_norm:i=0 eps:f=1e-5",
      .shape = roped_shape, .ref = roped_ref, .cost = roped_cost,
      .shard = "T H, T H, T H, T, T, B M, N P H, N P H -> T H | H:map:heads,kv_heads",
      .cases = MRI_CASES(
          "q=F[4,16] k=F[4,8] v=F[4,8] positions=i32[4]ramp slot=i32[4]zero pages=i32[1,1]zero "
          "k_cache=F[1,9,8] v_cache=F[1,9,8] @heads=4 @kv_heads=2 @head_dim=4 @inv_freq=1,0.1",
          "q=F[1,6] k=F[1,6] v=F[1,5] positions=i32[1]{6} slot=i32[1]{1} "
          "pages=i32[2,3]{-9,99,7,3,0,2} k_cache=F[4,3,6] v_cache=F[4,3,5] @heads=1 @kv_heads=1 "
          "@head_dim=6 @scale=0.7 @inv_freq=1,0.3 @interleaved=0 @qk_norm=1 @eps=1e-6",
          "q=F[5,128] k=F[5,64] v=F[5,64] positions=i32[5]{3,7,0,4,66} slot=i32[5]{2,-1,0,2,1} "
          "pages=i32[3,5]perm k_cache=F[15,16,64] v_cache=F[15,16,64] @heads=4 @kv_heads=2 "
          "@head_dim=32 @chunk=16 @factor=1.25 @qk_norm=1 @inv_freq=" FREQ8) },
    MRI_OPS_END
};
