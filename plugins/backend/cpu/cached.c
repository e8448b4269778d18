/* SPDX-License-Identifier: Apache-2.0
 *
 * cached.c - attention of new tokens over a cache. All rows are written first. Then rows of
 * one slot that stand together (a prompt being read) are tiles like any attention's.
 */
#include "attn.h"

#define SELF const struct attn *k = (const struct attn *)base

/* rows t0 .. t0+n form tile i; n = 0: no more tiles */
static int64_t next_tile(const struct attn *k, const int32_t *slot, int64_t t0)
{
    int64_t n = 0;
    while (t0 + n < k->tokens && n < k->queries && slot[t0 + n] == slot[t0])
        n++;
    return n;
}

static mr_status check_rows(const struct attn *k, const int32_t *pos, const int32_t *slot,
                            mr_err *err)
{
    for (int64_t t = 0; t < k->tokens; t++)
        if (slot[t] != -1 && (slot[t] < 0 || slot[t] >= k->slots || pos[t] < 0 ||
                              pos[t] >= k->positions))
            return mr_fail(err, MR_E_ARG, MR_BLAME_USER,
                           "attention.cached: row %lld is (slot %d, position %d), the cache has "
                           "%lld slots of %lld", (long long)t, slot[t], pos[t],
                           (long long)k->slots, (long long)k->positions);
    return MR_OK;
}

static void write_row(arr cache, int64_t row, arr x, int64_t t, int64_t n)
{
    for (int64_t i = 0; i < n; i += W) {
        int l = LANES(i, n);
        st(cache, row * n + i, l, ld(x, t * n + i, l));
    }
}

/* workspace: lo [T], hi [T], tile starts [T+1], then a room a thread */
static mr_status cached_run(const struct kernel *base, const mr_buf *in, const mr_buf *out,
                            void *ws, mr_err *err)
{
    SELF;
    const int32_t *pos = in[3].data, *slot = in[4].data;
    int32_t *lo = ws, *hi = lo + k->tokens, *start = hi + k->tokens;
    char *rooms = (char *)ws + cpu_round((uint64_t)(3 * k->tokens + 1) * 4);
    arr kc = in_arr(base, in, 5), vc = in_arr(base, in, 6), o = out_arr(base, out, 0);
    int64_t kw = k->kv * k->c, vw = k->kv * k->cv, tiles = 0;
    if (check_rows(k, pos, slot, err))
        return MR_E_ARG;
    for (int64_t t = 0; t < k->tokens; t++) {
        if (slot[t] < 0)
            continue;
        write_row(kc, slot[t] * k->positions + pos[t], in_arr(base, in, 1), t, kw);
        write_row(vc, slot[t] * k->positions + pos[t], in_arr(base, in, 2), t, vw);
        lo[t] = attn_first(k, 0, pos[t]);
        hi[t] = pos[t] + 1;
    }
    for (int64_t t = 0; t < k->tokens; t += next_tile(k, slot, t))
        start[tiles++] = (int32_t)t;
    start[tiles] = (int32_t)k->tokens;

#pragma omp parallel for schedule(dynamic, 1) if (tiles * k->kv > 1)
    for (int64_t i = 0; i < tiles * k->kv; i++) {
        int64_t g = i % k->kv, t0 = start[i / k->kv], n = start[i / k->kv + 1] - t0;
        int64_t h = g * k->group, row0 = slot[t0] * k->positions;
        if (slot[t0] < 0) {
            for (int64_t t = t0; t < t0 + n; t++)
                zero(o, (t * k->heads + h) * k->cv, k->group * k->cv);
            continue;
        }
        struct attn_tile t = {
            .n = n,
            .q = arr_at(in_arr(base, in, 0), (t0 * k->heads + h) * k->c),
            .k = arr_at(kc, row0 * kw + g * k->c),
            .v = arr_at(vc, row0 * vw + g * k->cv),
            .o = arr_at(o, (t0 * k->heads + h) * k->cv),
            .lo = lo + t0,
            .hi = hi + t0,
        };
        attn_tile_run(k, &t, cpu_room(rooms, k->room));
    }
    return MR_OK;
}

static mr_status cached_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct attn *k = (struct attn *)base;
    mr_status st = attn_shape(k, c, c->in[0], c->in[1], c->in[2], err);
    if (st)
        return st;
    k->slots = c->in[5]->dim[0];
    k->positions = c->in[5]->dim[1];
    k->room = attn_tile_room(k);
    base->workspace = cpu_round((uint64_t)(3 * k->tokens + 1) * 4) +
                      k->room * (uint64_t)base->threads;
    base->run = cached_run;
    return MR_OK;
}

const struct op_row ISA_NAME(cached_rows)[] = {
    { "attention.cached", "xxxiixx>x", sizeof(struct attn), cached_prepare },
    { 0 },
};
