/* SPDX-License-Identifier: Apache-2.0
 *
 * paged.c - attention of new tokens over a cache in pages. All rows are written first. Then rows
 * of one slot that stand together are tiles like any attention's, whose keys are read page by
 * page: a page is a run of keys as long as it is, or a tile of keys, whichever is shorter.
 */
#include "attn.h"

#define SELF const struct attn *k = (const struct attn *)base

enum { Q, K, V, POS, SLOT, PAGES, K_CACHE, V_CACHE };

static void write_row(arr cache, int64_t row, arr x, int64_t t, int64_t n)
{
    for (int64_t i = 0; i < n; i += W) {
        int l = LANES(i, n);
        st(cache, row * n + i, l, ld(x, t * n + i, l));
    }
}

/* workspace: lo [T], hi [T], tile starts [T+1], then a room a thread */
static mr_status paged_run(const struct kernel *base, const mr_buf *in, const mr_buf *out,
                           void *ws, mr_err *err)
{
    SELF;
    const int32_t *pos = in[POS].data, *slot = in[SLOT].data, *table = in[PAGES].data;
    int32_t *lo = ws, *hi = lo + k->tokens, *start = hi + k->tokens;
    char *rooms = (char *)ws + cpu_round((uint64_t)(3 * k->tokens + 1) * 4);
    arr kc = in_arr(base, in, K_CACHE), vc = in_arr(base, in, V_CACHE), o = out_arr(base, out, 0);
    int64_t kw = k->kv * k->c, vw = k->kv * k->cv;
    mr_status st = attn_pages_check(k, "attention.paged", pos, slot, table, err);
    if (st)
        return st;
    for (int64_t t = 0; t < k->tokens; t++) {
        if (slot[t] < 0)
            continue;
        int64_t row = attn_row(k, table, slot[t], pos[t]);
        write_row(kc, row, in_arr(base, in, K), t, kw);
        write_row(vc, row, in_arr(base, in, V), t, vw);
    }
    int64_t tiles = attn_tiles(k, pos, slot, lo, hi, start);

#pragma omp parallel for schedule(dynamic, 1) if (tiles * k->kv > 1)
    for (int64_t i = 0; i < tiles * k->kv; i++) {
        int64_t g = i % k->kv, t0 = start[i / k->kv], n = start[i / k->kv + 1] - t0;
        int64_t h = g * k->group;
        if (slot[t0] < 0) {
            for (int64_t t = t0; t < t0 + n; t++)
                zero(o, (t * k->heads + h) * k->cv, k->group * k->cv);
            continue;
        }
        struct attn_tile t = {
            .n = n,
            .q = arr_at(in_arr(base, in, Q), (t0 * k->heads + h) * k->c),
            .k = arr_at(kc, g * k->c),
            .v = arr_at(vc, g * k->cv),
            .o = arr_at(o, (t0 * k->heads + h) * k->cv),
            .pages = table + slot[t0] * k->of_slot,
            .lo = lo + t0,
            .hi = hi + t0,
        };
        attn_tile_run(k, &t, cpu_room(rooms, k->room));
    }
    return MR_OK;
}

static mr_status paged_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct attn *k = (struct attn *)base;
    mr_status st = attn_shape(k, c, c->in[Q], c->in[K], c->in[V], err);
    if (st)
        return st;
    attn_pages_shape(k, c->in[PAGES], c->in[K_CACHE]);
    k->room = attn_tile_room(k);
    base->workspace = cpu_round((uint64_t)(3 * k->tokens + 1) * 4) +
                      k->room * (uint64_t)base->threads;
    base->run = paged_run;
    return MR_OK;
}

const struct op_row ISA_NAME(paged_rows)[] = {
    { "attention.paged", "xxxiiixx>x", sizeof(struct attn), paged_prepare },
    { 0 },
};
