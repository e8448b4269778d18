/* SPDX-License-Identifier: Apache-2.0
 *
 * mla_paged.c - latent attention of new tokens over a cache of latents, absorbed. Three steps:
 * a head's queries go through its part of the expansion, then the heads attend, in as many groups
 * as there are threads, over one key a token (a latent of L values and P rotated ones, whose
 * first L are the value), and the sums go through the other part. The middle is
 * attention.paged's tiles with the value lying inside the key. The expansion's bytes are read
 * once a call, the cache's once a group and tile of queries.
 */
#include "attn.h"
#include "turn.h"
#include <stdlib.h>

struct mla_paged {
    struct attn attn; /* first: a kernel begins with its base */
    int64_t nope, rope, value, latent;
    float factor;
    double *freq;
    uint64_t absorbed, summed, rooms, room; /* offsets in the workspace; bytes of a thread's room */
};

#define SELF \
    const struct mla_paged *k = (const struct mla_paged *)base; \
    const struct attn *a = &k->attn

enum { Q, C, KR, WUKV, POS, SLOT, PAGES, CACHE };

/* writes token t's latent, and turns the rotated part of its queries into their absorbed rows */
static void place(const struct kernel *base, const mr_buf *in, int64_t t, float *absorbed,
                  float *room)
{
    SELF;
    arr cache = in_arr(base, in, CACHE), q = in_arr(base, in, Q);
    const int32_t *pos = in[POS].data, *slot = in[SLOT].data;
    int64_t L = k->latent, D = L + k->rope, head = k->nope + k->rope;
    float *c = room, *s = c + k->rope;
    turn_angles(k->freq, k->rope / 2, pos[t], k->factor, 1, 1, c, s);
    for (int64_t h = 0; h < a->heads; h++) {
        arr to = { absorbed + (t * a->heads + h) * D + L, 0 };
        turn_pairs(arr_at(q, (t * a->heads + h) * head + k->nope), to, k->rope, c, s);
    }
    arr row = arr_at(cache, attn_row(a, in[PAGES].data, slot[t], pos[t]) * D);
    arr from = in_arr(base, in, C);
    for (int64_t i = 0; i < L; i += W) {
        int l = LANES(i, L);
        st(row, i, l, ld(from, t * L + i, l));
    }
    turn_pairs(arr_at(in_arr(base, in, KR), t * k->rope), arr_at(row, L), k->rope, c, s);
}

/* absorbed[t][h][0..L) = W_ukᵀ q of one head, all tokens */
static void absorb(const struct kernel *base, const mr_buf *in, int64_t h, float *absorbed,
                   void *room)
{
    SELF;
    int64_t L = k->latent, D = L + k->rope, head = k->nope + k->rope, T = a->tokens;
    arr w = arr_at(in_arr(base, in, WUKV), h * (k->nope + k->value) * L);
    arr q = arr_at(in_arr(base, in, Q), h * head), to = { absorbed + h * D, 0 };
    if (T > THIN) {
        mm_packed(T, L, k->nope, (struct mat){ q, a->heads * head, 1 }, (struct mat){ w, L, 1 }, to,
                  a->heads * D, 0, (arr){ 0 }, room);
        return;
    }
    float *rows = room;
    for (int64_t t = 0; t < T; t++)
        to_f32(rows + t * k->nope, q, t * a->heads * head, k->nope, k->nope);
    mm_thin_sums(T, L, k->nope, rows, k->nope, w, L, to, a->heads * D, 0, (arr){ 0 },
                 rows + THIN * k->nope);
}

/* o[t][h] = W_uv summed[t][h] of one head, all tokens */
static void expand(const struct kernel *base, const mr_buf *in, const mr_buf *out, int64_t h,
                   float *summed, void *room)
{
    SELF;
    int64_t L = k->latent, V = k->value, T = a->tokens;
    arr w = arr_at(in_arr(base, in, WUKV), (h * (k->nope + V) + k->nope) * L);
    arr o = arr_at(out_arr(base, out, 0), h * V);
    float *from = summed + h * L;
    if (T > THIN) {
        mm_packed(T, V, L, (struct mat){ { from, 0 }, a->heads * L, 1 }, (struct mat){ w, 1, L }, o,
                  a->heads * V, 0, (arr){ 0 }, room);
        return;
    }
    for (int64_t t = 0; w.bf && t < T; t++)
        mm_apart(from + t * a->heads * L, L);
    mm_thin_dots(T, V, L, from, a->heads * L, w, L, o, a->heads * V, (arr){ 0 });
}

/* n rows from t0 on, the heads of one group from h on */
static void attend(const struct kernel *base, const mr_buf *in, int64_t t0, int64_t n, int64_t h,
                   const int32_t *lo, const int32_t *hi, float *absorbed, float *summed,
                   void *room)
{
    SELF;
    const int32_t *slot = in[SLOT].data, *table = in[PAGES].data;
    int64_t L = k->latent, D = L + k->rope;
    float *sums = summed + (t0 * a->heads + h) * L;
    for (int64_t t = 0; slot[t0] < 0 && t < n; t++)
        memset(sums + t * a->heads * L, 0, (size_t)(a->group * L) * 4);
    if (slot[t0] < 0)
        return;
    arr keys = in_arr(base, in, CACHE);
    struct attn_tile tile = { .n = n, .q = { absorbed + (t0 * a->heads + h) * D, 0 }, .k = keys,
                              .v = keys, .o = { sums, 0 }, .lo = lo + t0, .hi = hi + t0,
                              .pages = table + slot[t0] * a->of_slot };
    attn_tile_run(a, &tile, room);
}

/* workspace: lo [T], hi [T], tile starts [T+1]; absorbed queries, sums; a room a thread */
static mr_status paged_run(const struct kernel *base, const mr_buf *in, const mr_buf *out,
                            void *ws, mr_err *err)
{
    SELF;
    const int32_t *pos = in[POS].data, *slot = in[SLOT].data;
    int32_t *lo = ws, *hi = lo + a->tokens, *start = hi + a->tokens;
    float *absorbed = (float *)((char *)ws + k->absorbed);
    float *summed = (float *)((char *)ws + k->summed);
    char *rooms = (char *)ws + k->rooms;
    mr_status st = attn_pages_check(a, "mla_attention.paged", pos, slot, in[PAGES].data, err);
    if (st)
        return st;
    for (int64_t t = 0; t < a->tokens; t++)
        if (slot[t] >= 0)
            place(base, in, t, absorbed, (float *)rooms);
    int64_t tiles = attn_tiles(a, pos, slot, lo, hi, start);

#pragma omp parallel for schedule(dynamic, 1) if (a->heads > 1)
    for (int64_t h = 0; h < a->heads; h++)
        absorb(base, in, h, absorbed, cpu_room(rooms, k->room));
#pragma omp parallel for schedule(dynamic, 1) if (tiles * a->kv > 1)
    for (int64_t i = 0; i < tiles * a->kv; i++) {
        const int32_t *s = start + i / a->kv;
        attend(base, in, s[0], s[1] - s[0], i % a->kv * a->group, lo, hi, absorbed, summed,
               cpu_room(rooms, k->room));
    }
#pragma omp parallel for schedule(dynamic, 1) if (a->heads > 1)
    for (int64_t h = 0; h < a->heads; h++)
        expand(base, in, out, h, summed, cpu_room(rooms, k->room));
    for (int64_t t = 0; t < a->tokens; t++)
        if (slot[t] < 0)
            zero(out_arr(base, out, 0), t * a->heads * k->value, a->heads * k->value);
    return MR_OK;
}

static void paged_release(struct kernel *base)
{
    free(((struct mla_paged *)base)->freq);
}

static uint64_t largest(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

static mr_status paged_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct mla_paged *k = (struct mla_paged *)base;
    struct attn *a = &k->attn;
    const mr_attr *f = mr_attr_find(c, "inv_freq");
    int64_t H = mr_attr_i(c, "heads", 0), T = mr_rows(c->in[Q]);
    k->rope = f && f->type == MR_A_F64S ? 2 * (int64_t)f->n : 0;
    k->nope = mr_attr_i(c, "nope_dim", 0);
    k->latent = mr_last(c->in[C]);
    k->value = H > 0 ? c->in[WUKV]->dim[0] / H - k->nope : 0;
    k->factor = (float)mr_attr_f(c, "factor", 1);
    if (H < 1 || !k->rope || k->value < 1 || mr_last(c->in[Q]) != H * (k->nope + k->rope) ||
        mr_last(c->in[CACHE]) != k->latent + k->rope)
        return mr_fail(err, MR_E_OP_SHAPE, MR_BLAME_USER,
                       "mla_attention.paged: %lld heads of %lld and %lld values do not fit rows "
                       "of %lld and a cache of %lld", (long long)H, (long long)k->nope,
                       (long long)k->rope, (long long)mr_last(c->in[Q]),
                       (long long)mr_last(c->in[CACHE]));
    int64_t groups = base->threads < H ? base->threads : H;
    while (H % groups)
        groups++;
    attn_geometry(a, T, H, groups, k->latent + k->rope, k->latent);
    a->key_step = a->value_step = k->latent + k->rope;
    a->scale = (float)mr_attr_f(c, "scale", 1 / sqrt((double)(k->nope + k->rope)));
    attn_pages_shape(a, c->in[PAGES], c->in[CACHE]);
    k->freq = malloc(f->n * sizeof(double));
    if (!k->freq)
        return mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "no memory for %u frequencies", f->n);
    memcpy(k->freq, f->u.fs, f->n * sizeof(double));
    base->release = paged_release;
    k->absorbed = cpu_round((uint64_t)(3 * T + 1) * 4);
    k->summed = k->absorbed + cpu_round((uint64_t)(T * H * (k->latent + k->rope)) * 4);
    k->rooms = k->summed + cpu_round((uint64_t)(T * H * k->latent) * 4);
    uint64_t thin = (uint64_t)(THIN * (k->nope + 512 + W) + 2 * k->rope) * 4;
    k->room = largest(attn_tile_room(a), largest(thin, largest(mm_room(k->nope),
                                                               mm_room(k->latent))));
    k->room = cpu_round(k->room);
    base->workspace = k->rooms + k->room * (uint64_t)base->threads;
    base->run = paged_run;
    return MR_OK;
}

const struct op_row ISA_NAME(mla_paged_rows)[] = {
    { "mla_attention.paged", "xxxxiiix>x", sizeof(struct mla_paged), paged_prepare },
    { 0 },
};
