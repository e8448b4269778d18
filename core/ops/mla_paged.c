/* SPDX-License-Identifier: Apache-2.0
 *
 * mla_paged.c - multi-head latent attention of new tokens over a cache of latents, absorbed
 * (DeepSeek-V2, 2024). A token's latent is its normed c of L values and its rotated kr of P,
 * shared by all heads. The expansion w of a head, [ W_uk: N rows | W_uv: V rows ] of L, goes
 * to the query's and to the output's side, so that no key or value is ever formed:
 *     a = W_ukᵀ q_nope,   z_j = scale (<a, c_j> + <R q_rope, R kr_j>),   p = softmax z
 *     o = W_uv Σ_j p_j c_j
 * which is the expanded form's result. Slots, positions, pages and unused rows as attention.paged
 * has them.
 */
#include "core/ops/heads.h"
#include "core/ops/mla.h"

enum { Q, C, KR, WUKV, POS, SLOT, PAGES, CACHE };

static double scale_of(const mr_call *c, const mri_mla *m)
{
    return mr_attr_f(c, "scale", 1 / sqrt((double)(m->N + m->P)));
}

static mr_status paged_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    mri_mla m = mri_mla_of(c, mri_in(c, WUKV) ? c->in[WUKV]->dim[0] : 0);
    mr_status st;
    MR_TRY(mri_mla_check(&m, true, "mla_attention.paged", err));
    MR_TRY(mri_infer(c, out, err, "mla_attention.paged",
                     "q:F[T,H*C] c:F[T,L] kr:F[T,R] w:G[H*D,L] positions:i32[T] slot:i32[T] "
                     "pages:i32[B,M] cache:H[N,P,L+R] -> o:F[T,H*V]",
                     MRI_GIVEN({ "H", m.H }, { "D", m.N + m.V }, { "C", m.N + m.P }, { "V", m.V },
                               { "R", m.P })));
out:
    return st;
}

/* writes [ c | R kr ] of token t */
static void write_latent(const mr_call *c, const mr_buf *in, const mri_mla *m, int64_t t,
                         int64_t row)
{
    mri_view lat = mri_in_view(c, in, C), kr = mri_in_view(c, in, KR);
    mri_view cache = mri_in_view(c, in, CACHE);
    int64_t L = mr_last(c->in[C]), at = row * (L + m->P);
    double pos = mri_get(mri_in_view(c, in, POS), t);
    for (int64_t i = 0; i < L; i++)
        mri_put(cache, at + i, mri_get(lat, t * L + i));
    for (int64_t i = 0; i < m->P / 2; i++) {
        double a = mri_get(kr, t * m->P + 2 * i), b = mri_get(kr, t * m->P + 2 * i + 1);
        mri_mla_turn(m, pos, i, 1, &a, &b);
        mri_put(cache, at + L + 2 * i, a);
        mri_put(cache, at + L + 2 * i + 1, b);
    }
}

/* one head of one token over rows row[0..p] of the cache; room: [2 (L + R) + S] */
static void attend(const mr_call *c, const mr_buf *in, const mr_buf *out, const mri_mla *m,
                   int64_t t, int64_t h, const int64_t *row, int64_t p, double *room)
{
    mri_view q = mri_in_view(c, in, Q), w = mri_in_view(c, in, WUKV);
    mri_view cache = mri_in_view(c, in, CACHE), o = mri_out_view(c, out, 0);
    int64_t L = mr_last(c->in[C]), D = L + m->P, iq = (t * m->H + h) * (m->N + m->P);
    int64_t iw = h * (m->N + m->V) * L;
    double *a = room, *u = a + D, *z = u + D, max = -INFINITY, sum = 0, scale = scale_of(c, m);
    for (int64_t l = 0; l < L; l++) {
        a[l] = 0;
        for (int64_t i = 0; i < m->N; i++)
            a[l] += mri_get(w, iw + i * L + l) * mri_get(q, iq + i);
    }
    for (int64_t i = 0; i < m->P / 2; i++) {
        double *pair = a + L + 2 * i;
        pair[0] = mri_get(q, iq + m->N + 2 * i);
        pair[1] = mri_get(q, iq + m->N + 2 * i + 1);
        mri_mla_turn(m, (double)p, i, 1, &pair[0], &pair[1]);
    }
    for (int64_t j = 0; j <= p; j++) {
        z[j] = 0;
        for (int64_t l = 0; l < D; l++)
            z[j] += a[l] * mri_get(cache, row[j] * D + l);
        z[j] *= scale;
        max = fmax(max, z[j]);
    }
    for (int64_t j = 0; j <= p; j++)
        sum += z[j] = exp(z[j] - max);
    for (int64_t l = 0; l < L; l++) {
        u[l] = 0;
        for (int64_t j = 0; j <= p; j++)
            u[l] += z[j] * mri_get(cache, row[j] * D + l);
        u[l] /= sum;
    }
    for (int64_t i = 0; i < m->V; i++) {
        double y = 0;
        for (int64_t l = 0; l < L; l++)
            y += mri_get(w, iw + (m->N + i) * L + l) * u[l];
        mri_put(o, (t * m->H + h) * m->V + i, y);
    }
}

static mr_status paged_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    mri_mla m = mri_mla_of(c, c->in[WUKV]->dim[0]);
    mri_view o = mri_out_view(c, out, 0);
    mri_paged g = mri_paged_of("mla_attention.paged", c, in, POS, c->in[CACHE]);
    int64_t T = c->in[Q]->dim[0], S = g.M * g.P, D = mr_last(c->in[CACHE]), b, p;
    int64_t *row = mri_alloc((size_t)S * sizeof *row);
    double *room = mri_alloc((size_t)(2 * D + S) * sizeof *room);
    mr_status st = 0;
    for (int64_t t = 0; t < T; t++) {
        MR_TRY(mri_paged_place(&g, t, &b, &p, err));
        if (b < 0)
            continue;
        MR_TRY(mri_paged_rows(&g, b, p, p + 1, row, err));
        write_latent(c, in, &m, t, row[p]);
    }
    for (int64_t t = 0; t < T; t++) {
        MR_TRY(mri_paged_place(&g, t, &b, &p, err));
        for (int64_t i = 0; b < 0 && i < m.H * m.V; i++)
            mri_put(o, t * m.H * m.V + i, 0);
        if (b < 0)
            continue;
        MR_TRY(mri_paged_rows(&g, b, 0, p + 1, row, err));
        for (int64_t h = 0; h < m.H; h++)
            attend(c, in, out, &m, t, h, row, p, room);
    }
out:
    free(row);
    free(room);
    return st;
}

/* an upper bound, as positions are data: every row sees its whole slot */
static void paged_cost(const mr_call *c, mr_cost *cost)
{
    mri_mla m = mri_mla_of(c, c->in[WUKV]->dim[0]);
    double T = (double)c->in[Q]->dim[0], B = (double)c->in[PAGES]->dim[0];
    double S = (double)c->in[PAGES]->dim[1] * (double)c->in[CACHE]->dim[1];
    double L = (double)mr_last(c->in[C]), R = (double)m.P;
    double head = L * (double)(m.N + m.V) + S * (2 * L + R);
    double row = (L + R) * (double)mr_dtype_bytes(c->in[CACHE]->dtype);
    mri_cost(c, cost, 2 * T * (double)m.H * head, 0);
    cost->bytes += (fmin(T, B) * S + T) * row - (double)mr_bytes(c->in[CACHE]);
}

const mr_op_def mri_ops_mla_paged[] = {
    { MRI_OP, .flags = MR_OP_NO_VJP, .id = "mla_attention.paged",
      .doc = "writes the latent at (slot, position); latent attention over the slot's positions "
             "0..position, which lie in pages, absorbed; DeepSeek-V2, 2024",
      .sig = "q c kr w positions slot pages cache! -> o", .attrs = MRI_MLA_ATTRS " scale:f?",
      .shape = paged_shape, .ref = paged_ref, .cost = paged_cost,
      .shard = "T H, T L, T R, H L, T, T, B M, N P . -> T H | H:map:heads",
      .cases = MRI_CASES(
          "q=F[4,20] c=F[4,5] kr=F[4,4] w=F[18,5] positions=i32[4]ramp slot=i32[4]zero "
          "pages=i32[1,1]zero cache=F[1,9,9] @heads=2 @nope_dim=6 @inv_freq=1,0.1",
          "q=F[1,3] c=F[1,1] kr=F[1,2] w=F[2,1] positions=i32[1]{6} slot=i32[1]{1} "
          "pages=i32[2,3]{-9,99,7,3,0,2} cache=F[4,3,3] @heads=1 @nope_dim=1 @inv_freq=0.3 "
          "@factor=1.25 @scale=0.7",
          "q=F[5,64] c=F[5,16] kr=F[5,8] w=F[56,16] positions=i32[5]{3,7,0,4,66} "
          "slot=i32[5]{2,-1,0,2,1} pages=i32[3,5]perm cache=F[15,16,24] @heads=4 @nope_dim=8 "
          "@inv_freq=1,0.3,0.1,0.01") },
    MRI_OPS_END
};
