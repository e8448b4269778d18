/* SPDX-License-Identifier: Apache-2.0
 *
 * attention_paged.c - attention of new tokens over a cache of keys and values: N pages of P rows,
 * which B slots (one a running sequence) own through a table of M pages each (Kwon et al. 2023).
 * All rows are written first, then every row attends over its slot's positions 0..position (its
 * chunk's only, if chunk), so that a prompt may arrive in one call or token by token with equal
 * results. slot -1: an unused row, writes nothing, o = 0.
 */
#include "core/ops/heads.h"

static mr_status paged_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    return mri_heads_infer(c, out, err, "attention.paged", 2,
                           "q:F[T,H*C] k:F[T,G*C] v:F[T,G*V] positions:i32[T] slot:i32[T] "
                           "pages:i32[B,M] k_cache:G[N,P,G*C] v_cache:G[N,P,G*V] -> o:F[T,H*V]");
}

/* token t over rows row[first..p] of the caches */
static void attend(const mri_heads *n, mri_view q, mri_view kc, mri_view vc, mri_view o, int64_t t,
                   const int64_t *row, int64_t first, int64_t p, double *z)
{
    for (int64_t h = 0; h < n->H; h++) {
        int64_t g = h / (n->H / n->G);
        double max = -INFINITY, sum = 0;
        for (int64_t j = first; j <= p; j++) {
            z[j] = 0;
            for (int64_t i = 0; i < n->C; i++)
                z[j] += mri_get(q, (t * n->H + h) * n->C + i) *
                        mri_get(kc, (row[j] * n->G + g) * n->C + i);
            z[j] *= n->scale;
            max = fmax(max, z[j]);
        }
        for (int64_t j = first; j <= p; j++)
            sum += z[j] = exp(z[j] - max);
        for (int64_t i = 0; i < n->Cv; i++) {
            double y = 0;
            for (int64_t j = first; j <= p; j++)
                y += z[j] * mri_get(vc, (row[j] * n->G + g) * n->Cv + i);
            mri_put(o, (t * n->H + h) * n->Cv + i, y / sum);
        }
    }
}

static mr_status paged_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    mri_view q = mri_in_view(c, in, 0), k = mri_in_view(c, in, 1), v = mri_in_view(c, in, 2);
    mri_view kc = mri_in_view(c, in, 6), vc = mri_in_view(c, in, 7), o = mri_out_view(c, out, 0);
    mri_paged g = mri_paged_of("attention.paged", c, in, 3, c->in[6]);
    mri_heads n = mri_heads_of(c, 2);
    int64_t T = c->in[0]->dim[0], S = g.M * g.P, wk = n.G * n.C, wv = n.G * n.Cv, b, p;
    int64_t *row = mri_alloc((size_t)S * sizeof *row);
    double *z = mri_alloc((size_t)S * sizeof *z);
    mr_status st = 0;
    for (int64_t t = 0; t < T; t++) {
        MR_TRY(mri_paged_place(&g, t, &b, &p, err));
        if (b < 0)
            continue;
        MR_TRY(mri_paged_rows(&g, b, p, p + 1, row, err));
        for (int64_t i = 0; i < wk; i++)
            mri_put(kc, row[p] * wk + i, mri_get(k, t * wk + i));
        for (int64_t i = 0; i < wv; i++)
            mri_put(vc, row[p] * wv + i, mri_get(v, t * wv + i));
    }
    for (int64_t t = 0; t < T; t++) {
        MR_TRY(mri_paged_place(&g, t, &b, &p, err));
        for (int64_t i = 0; b < 0 && i < n.H * n.Cv; i++)
            mri_put(o, t * n.H * n.Cv + i, 0);
        if (b < 0)
            continue;
        int64_t first = mri_first_seen(&n, 0, p);
        MR_TRY(mri_paged_rows(&g, b, first, p + 1, row, err));
        attend(&n, q, kc, vc, o, t, row, first, p, z);
    }
out:
    free(row);
    free(z);
    return st;
}

/* An upper bound, as positions are data: every row sees its whole slot (or chunk), and rows share
 * no slot while there are enough. What is seen is read once, and written where rows are new. */
static void paged_cost(const mr_call *c, mr_cost *cost)
{
    mri_heads n = mri_heads_of(c, 2);
    int64_t T = c->in[0]->dim[0], B = c->in[5]->dim[0], S = c->in[5]->dim[1] * c->in[6]->dim[1];
    double seen = (double)(n.chunk && n.chunk < S ? n.chunk : S);
    double row = (double)(n.G * (n.C + n.Cv)) * (double)mr_dtype_bytes(c->in[6]->dtype);
    mri_cost(c, cost, (double)(T * n.H) * seen * 2 * (double)(n.C + n.Cv), 0);
    cost->bytes -= (double)mr_bytes(c->in[6]) + (double)mr_bytes(c->in[7]);
    cost->bytes += ((double)(T < B ? T : B) * seen + (double)T) * row;
}

const mr_op_def mri_ops_attention_paged[] = {
    { MRI_OP, .flags = MR_OP_NO_VJP, .id = "attention.paged",
      .doc = "writes k, v at (slot, position); attends over the slot's positions 0..position, "
             "which lie in pages; Kwon et al. 2023",
      .sig = "q k v positions slot pages k_cache! v_cache! -> o", .attrs = MRI_HEADS_ATTRS,
      .shape = paged_shape, .ref = paged_ref, .cost = paged_cost,
      .shard = "T H, T H, T H, T, T, B M, N P H, N P H -> T H | H:map:heads,kv_heads",
      .cases = MRI_CASES(
          "q=F[4,16] k=F[4,8] v=F[4,8] positions=i32[4]ramp slot=i32[4]zero pages=i32[1,1]zero "
          "k_cache=F[1,9,8] v_cache=F[1,9,8] @heads=4 @kv_heads=2 @head_dim=4",
          "q=F[1,3] k=F[1,3] v=F[1,5] positions=i32[1]{6} slot=i32[1]{1} "
          "pages=i32[2,3]{-9,99,7,3,0,2} k_cache=F[4,3,3] v_cache=F[4,3,5] @heads=1 @kv_heads=1 "
          "@head_dim=3 @scale=0.7",
          "q=F[5,12] k=F[5,6] v=F[5,6] positions=i32[5]{3,7,0,4,66} slot=i32[5]{2,-1,0,2,1} "
          "pages=i32[3,5]perm k_cache=F[15,16,6] v_cache=F[15,16,6] @heads=4 @kv_heads=2 "
          "@head_dim=3 @chunk=16") },
    MRI_OPS_END
};
