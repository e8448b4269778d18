/* SPDX-License-Identifier: Apache-2.0
 * attn.c - see attn.h. The online softmax of Milakov & Gimelshein 2018 over tiles of keys, as
 * in FlashAttention (Dao et al. 2022): S x S is never stored. The heads of a group are rows of
 * one matrix, so each tile of keys is packed once for all of them. */
#include "attn.h"

enum { ROWS = 192 }; /* of a tile's matrices, about; a tile's memory fits a second-level cache */

void attn_geometry(struct attn *k, int64_t T, int64_t H, int64_t G, int64_t c, int64_t cv)
{
    k->tokens = T;
    k->keys = T;
    k->ranks = 1;
    k->from = -1;
    k->heads = H;
    k->kv = G;
    k->group = H / G;
    k->c = c;
    k->cv = cv;
    k->cp = (c + W - 1) / W * W;
    k->cvp = (cv + W - 1) / W * W;
    k->key_step = G * c;
    k->value_step = G * cv;
    k->queries = ROWS / k->group > 8 ? ROWS / k->group : 8;
}

mr_status attn_shape(struct attn *k, const mr_call *c, const mr_type *q, const mr_type *kt,
                     const mr_type *vt, mr_err *err)
{
    k->tokens = mr_rows(q);
    k->heads = mr_attr_i(c, "heads", 1);
    k->kv = mr_attr_i(c, "kv_heads", k->heads);
    if (k->heads < 1 || k->kv < 1 || k->heads % k->kv || mr_last(q) % k->heads ||
        mr_last(vt) % k->kv || mr_last(kt) != mr_last(q) / k->heads * k->kv)
        return mr_fail(err, MR_E_OP_SHAPE, MR_BLAME_USER,
                       "attention of %lld heads on %lld kv heads does not fit rows of %lld, %lld "
                       "and %lld values", (long long)k->heads, (long long)k->kv,
                       (long long)mr_last(q), (long long)mr_last(kt), (long long)mr_last(vt));
    attn_geometry(k, k->tokens, k->heads, k->kv, mr_last(q) / k->heads, mr_last(vt) / k->kv);
    k->keys = mr_rows(kt);
    k->chunk = mr_attr_i(c, "chunk", 0);
    k->whole = mr_attr_i(c, "causal", 1) ? 0 : mr_attr_i(c, "seq", 0);
    k->exact_scale = mr_attr_f(c, "scale", 1 / sqrt((double)k->c));
    k->scale = (float)k->exact_scale;
    return MR_OK;
}

uint64_t attn_tile_room(const struct attn *k)
{
    int64_t m = k->queries * k->group;
    return cpu_round((uint64_t)(m * (k->cp + KEYS + k->cvp + 2) + KEYS * (k->cp + k->cvp)) * 4);
}

/* ---- keys in pages ------------------------------------------------------------------------- */
void attn_pages_shape(struct attn *k, const mr_type *table, const mr_type *cache)
{
    k->slots = table->dim[0];
    k->of_slot = table->dim[1];
    k->pages = cache->dim[0];
    k->page = cache->dim[1];
}

mr_status attn_pages_check(const struct attn *k, const char *op, const int32_t *pos,
                           const int32_t *slot, const int32_t *table, mr_err *err)
{
    for (int64_t t = 0; t < k->tokens; t++) {
        if (slot[t] == -1)
            continue;
        if (slot[t] < 0 || slot[t] >= k->slots || pos[t] < 0 || pos[t] / k->page >= k->of_slot)
            return mr_fail(err, MR_E_ARG, MR_BLAME_USER,
                           "%s: row %lld is (slot %d, position %d), the page table has %lld slots "
                           "of %lld pages of %lld positions", op, (long long)t, slot[t], pos[t],
                           (long long)k->slots, (long long)k->of_slot, (long long)k->page);
        const int32_t *own = table + slot[t] * k->of_slot;
        for (int64_t i = attn_first(k, 0, pos[t]) / k->page; i <= pos[t] / k->page; i++)
            if (own[i] < 0 || own[i] >= k->pages)
                return mr_fail(err, MR_E_ARG, MR_BLAME_USER,
                               "%s: page %lld of slot %d is %d, the cache has %lld pages", op,
                               (long long)i, slot[t], own[i], (long long)k->pages);
    }
    return MR_OK;
}

int64_t attn_tiles(const struct attn *k, const int32_t *pos, const int32_t *slot, int32_t *lo,
                   int32_t *hi, int32_t *start)
{
    int64_t n = 0;
    for (int64_t t = 0; t < k->tokens; t++) {
        lo[t] = attn_first(k, 0, pos[t]);
        hi[t] = pos[t] + 1;
        if (!t || slot[t] != slot[t - 1] || t - start[n - 1] == k->queries)
            start[n++] = (int32_t)t;
    }
    start[n] = (int32_t)k->tokens;
    return n;
}

/* Where key j of the tile lies, and how many of the `most` keys from it on follow it there. */
INLINE int64_t run_of_keys(const struct attn *k, const struct attn_tile *t, int64_t j, int64_t most,
                           int64_t *run)
{
    *run = most;
    if (!t->pages)
        return j;
    int64_t at = j % k->page, rest = k->page - at;
    *run = most < rest ? most : rest;
    return (int64_t)t->pages[j / k->page] * k->page + at;
}

/* ---- a tile -------------------------------------------------------------------------------- */
/* One row of scores to weights, in place; returns what the row's earlier sums are scaled by.
 * A maximum passes over NaN, the sum does not: no NaN is lost. */
INLINE float soften(float *s, int64_t j0, int64_t lo, int64_t hi, float *max, float *sum)
{
    const vi lane = viota();
    int whole = lo <= j0 && hi >= j0 + KEYS;
    vf top = vset(-INFINITY);
    if (hi <= j0 || lo >= j0 + KEYS) { /* sees nothing of this tile */
        memset(s, 0, KEYS * 4);
        return 1;
    }
    for (int64_t j = 0; j < KEYS; j += W) {
        vf v = vload(s + j);
        if (!whole) {
            vi at = lane + (int32_t)(j0 + j);
            v = vsel((vi)(at >= (int32_t)lo) & (vi)(at < (int32_t)hi), v, vset(-INFINITY));
            vstore(s + j, v);
        }
        top = vmax(v, top);
    }
    float m = vhmax(top), old = *max;
    m = m > old ? m : old;
    vf base = vset(m == -INFINITY ? 0 : m), total = { 0 };
    for (int64_t j = 0; j < KEYS; j += W) {
        vf e = vexp_neg(vload(s + j) - base);
        vstore(s + j, e);
        total += e;
    }
    float fix = old == m ? 1 : vexp_neg(vset(old - m))[0];
    *sum = *sum * fix + vsum(total);
    *max = m;
    return fix;
}

/* The rows [*from, *to) of the tile's that may see keys of [j0, j0 + KEYS): of the others, on
 * the far side of the diagonal or of a document's border, nothing is computed. */
static void rows_that_see(const struct attn_tile *t, int64_t j0, int64_t *from, int64_t *to)
{
    int64_t a = 0, b = t->n;
    while (a < b && t->hi[a] <= j0)
        a++;
    while (b > a && t->lo[b - 1] >= j0 + KEYS)
        b--;
    *from = a;
    *to = b;
}

/* Row r of the tile's matrices is head r % group of query row r / group. */
void attn_tile_run(const struct attn *k, const struct attn_tile *t, void *room)
{
    int64_t group = k->group, m = t->n * group, kc = k->key_step, vc = k->value_step;
    float *q = room, *s = q + m * k->cp, *o = s + m * KEYS, *max = o + m * k->cvp, *sum = max + m;
    float *kt = sum + m, *v = kt + KEYS * k->cp;
    int64_t first = INT64_MAX, end = 0;
    int thin = m <= THIN; /* a decoding step: keys are read once, packing them would be the work */
    for (int64_t i = 0; i < t->n; i++) {
        first = t->lo[i] < first ? t->lo[i] : first;
        end = t->hi[i] > end ? t->hi[i] : end;
    }
    for (int64_t r = 0; r < m; r++) {
        to_f32(q + r * k->cp, t->q, (r / group * k->heads + r % group) * k->c, k->c, k->cp);
        for (int64_t j = 0; j < k->cp; j += W)
            vstore(q + r * k->cp + j, vload(q + r * k->cp + j) * k->scale);
        if (thin && t->k.bf)
            mm_apart(q + r * k->cp, k->c);
        max[r] = -INFINITY;
        sum[r] = 0;
    }
    memset(o, 0, (size_t)(m * k->cvp) * 4);

    for (int64_t j0 = first; j0 < end; j0 += KEYS) {
        int64_t n = end - j0 < KEYS ? end - j0 : KEYS, i0, i1;
        rows_that_see(t, j0, &i0, &i1);
        int64_t r0 = i0 * group, rows = (i1 - i0) * group;
        float *s0 = s + r0 * KEYS, *q0 = q + r0 * k->cp, *o0 = o + r0 * k->cvp;
        if (!rows)
            continue;
        if (!thin && n < KEYS)
            memset(kt, 0, (size_t)(KEYS * k->c) * 4);
        for (int64_t j = 0, run; j < n; j += run) {
            int64_t row = run_of_keys(k, t, j0 + j, n - j, &run);
            arr key = arr_at(t->k, row * kc), value = arr_at(t->v, row * vc);
            if (thin) {
                mm_thin_dots(rows, run, k->c, q0, k->cp, key, kc, (arr){ s0 + j, 0 }, KEYS,
                             (arr){ 0 });
                continue;
            }
            mm_transpose(kt + j, KEYS, key, kc, run, k->c);
            for (int64_t i = 0; i < run; i++)
                to_f32(v + (j + i) * k->cvp, value, i * vc, k->cv, k->cvp);
        }
        if (!thin)
            mm(rows, KEYS, k->c, q0, k->cp, 1, kt, KEYS, s0, KEYS, 0);
        for (int64_t r = r0; r < r0 + rows; r++) {
            int64_t i = r / group;
            float fix = soften(s + r * KEYS, j0, t->lo[i], t->hi[i], max + r, sum + r);
            if (fix != 1)
                for (int64_t j = 0; j < k->cvp; j += W)
                    vstore(o + r * k->cvp + j, vload(o + r * k->cvp + j) * fix);
        }
        for (int64_t j = 0, run; thin && j < n; j += run) {
            int64_t row = run_of_keys(k, t, j0 + j, n - j, &run);
            mm_thin_sums(rows, k->cv, run, s0 + j, KEYS, arr_at(t->v, row * vc), vc,
                         (arr){ o0, 0 }, k->cvp, 1, (arr){ 0 }, v);
        }
        if (!thin)
            mm(rows, k->cvp, n, s0, KEYS, 1, v, k->cvp, o0, k->cvp, 1);
    }

    for (int64_t r = 0; r < m; r++) {
        int64_t at = r / group * k->heads + r % group;
        float scale = t->hi[r / group] > t->lo[r / group] ? 1 / sum[r] : 0;
        for (int64_t j = 0; j < k->cvp; j += W)
            vstore(o + r * k->cvp + j, vload(o + r * k->cvp + j) * scale);
        from_f32(t->o, at * k->cv, o + r * k->cvp, k->cv);
        if (t->lse)
            t->lse[at] = max[r] + logf(sum[r]);
    }
}
