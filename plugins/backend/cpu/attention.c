/* SPDX-License-Identifier: Apache-2.0
 *
 * attention.c - attention inside documents and chunks, causal or not, and its gradient. Forward:
 * tiles of query rows by kv heads, each independent. Backward makes P again from lse:
 *
 *   P = exp(S - lse)   dV = P' dO   dP = dO V'   dS = P (dP - rowsum(dO O))
 *   dQ = scale dS K    dK = scale dS' Q
 *
 * One thread owns a kv head in a stretch of tokens that nothing outside it attends to (a
 * document, a chunk, a sequence of the batch), so every sum has one order.
 */
#include "attn.h"

#define SELF const struct attn *k = (const struct attn *)base

mr_status attn_seen_keys(const struct attn *k, const int32_t *start, int32_t *lo, int32_t *hi,
                         mr_err *err)
{
    if (k->seq)
        return attn_seen_zigzag(k, start, lo, hi, err);
    for (int64_t t = 0; t < k->tokens; t++) {
        if (k->whole) {
            lo[t] = (int32_t)(t - t % k->whole);
            hi[t] = (int32_t)(lo[t] + k->whole);
            continue;
        }
        if (start[t] < 0 || start[t] > t)
            return mr_fail(err, MR_E_ARG, MR_BLAME_USER,
                           "attention: seq_start[%lld] is %d, must be in 0..%lld", (long long)t,
                           start[t], (long long)t);
        lo[t] = attn_first(k, start[t], (int32_t)t);
        hi[t] = (int32_t)t + 1;
    }
    return MR_OK;
}

/* workspace: lo [T], hi [T], then a room a thread */
static mr_status attention_run(const struct kernel *base, const mr_buf *in, const mr_buf *out,
                               void *ws, mr_err *err)
{
    SELF;
    int32_t *lo = ws, *hi = lo + k->tokens;
    char *rooms = (char *)ws + cpu_round((uint64_t)k->tokens * 8);
    int64_t tiles = (k->tokens + k->queries - 1) / k->queries, items = tiles * k->kv;
    if (attn_seen_keys(k, in[3].data, lo, hi, err))
        return MR_E_ARG;
    /* a head's tiles run together, so that its keys stay in the cache; the longest first */
#pragma omp parallel for schedule(dynamic, 1) if (items > 1)
    for (int64_t i = 0; i < items; i++) {
        int64_t g = i / tiles, t0 = (tiles - 1 - i % tiles) * k->queries, h = g * k->group;
        struct attn_tile t = {
            .n = k->tokens - t0 < k->queries ? k->tokens - t0 : k->queries,
            .q = arr_at(in_arr(base, in, 0), (t0 * k->heads + h) * k->c),
            .k = arr_at(in_arr(base, in, 1), g * k->c),
            .v = arr_at(in_arr(base, in, 2), g * k->cv),
            .o = arr_at(out_arr(base, out, 0), (t0 * k->heads + h) * k->cv),
            .lo = lo + t0,
            .hi = hi + t0,
            .lse = (float *)out[1].data + t0 * k->heads + h,
        };
        attn_tile_run(k, &t, cpu_room(rooms, k->room));
    }
    return MR_OK;
}

/* ---- backward ------------------------------------------------------------------------------ */
struct bwd { /* what all parts share */
    const struct attn *k;
    arr d_o, q, key, v, dk, dv;
    const float *lse;
    float *delta, *dq; /* [T,H], [T,H c] */
    const int32_t *lo, *hi;
};

struct bwd_room {
    float *q, *d_o, *s, *dp, *dq;     /* [m,cp] [m,cvp] [m,KEYS] [m,KEYS] [m,cp] */
    float *kt, *kn, *vt, *dk, *dv;    /* [c,KEYS] [KEYS,cp] [cv,KEYS] [KEYS,cp] [KEYS,cvp] */
};

static uint64_t bwd_room_bytes(const struct attn *k)
{
    int64_t m = k->queries * k->group;
    return cpu_round((uint64_t)(m * (2 * k->cp + k->cvp + 2 * KEYS) +
                                KEYS * (3 * k->cp + 2 * k->cvp)) * 4);
}

static struct bwd_room bwd_room_of(const struct attn *k, void *p)
{
    int64_t m = k->queries * k->group;
    struct bwd_room r;
    r.q = p;
    r.d_o = r.q + m * k->cp;
    r.s = r.d_o + m * k->cvp;
    r.dp = r.s + m * KEYS;
    r.dq = r.dp + m * KEYS;
    r.kt = r.dq + m * k->cp;
    r.kn = r.kt + KEYS * k->cp;
    r.vt = r.kn + KEYS * k->cp;
    r.dk = r.vt + KEYS * k->cvp;
    r.dv = r.dk + KEYS * k->cp;
    return r;
}

/* scores to P and dS, in place in s and dp, for query rows t0 .. t0+n */
static void probabilities(const struct bwd *b, struct bwd_room r, int64_t g, int64_t t0, int64_t n,
                          int64_t j0)
{
    const struct attn *k = b->k;
    const vi lane = viota();
    for (int64_t m = 0; m < n * k->group; m++) {
        int64_t t = t0 + m % n, h = g * k->group + m / n;
        float lse = b->lse[t * k->heads + h], delta = b->delta[t * k->heads + h];
        int whole = b->lo[t] <= j0 && b->hi[t] >= j0 + KEYS;
        for (int64_t j = 0; j < KEYS; j += W) {
            vf p = vexp_neg(vload(r.s + m * KEYS + j) - lse);
            if (!whole) {
                vi at = lane + (int32_t)(j0 + j);
                p = vsel((vi)(at >= b->lo[t]) & (vi)(at < b->hi[t]), p, (vf){ 0 });
            }
            vstore(r.s + m * KEYS + j, p);
            vstore(r.dp + m * KEYS + j, p * (vload(r.dp + m * KEYS + j) - delta));
        }
    }
}

/* the keys j0 .. j0+n of kv head g against all queries of the stretch that see them */
static void key_tile(const struct bwd *b, struct bwd_room r, int64_t g, int64_t j0, int64_t n,
                     int64_t start, int64_t end)
{
    const struct attn *k = b->k;
    int64_t kc = k->kv * k->c, vc = k->kv * k->cv;
    if (n < KEYS) {
        memset(r.kt, 0, (size_t)(k->c * KEYS) * 4);
        memset(r.vt, 0, (size_t)(k->cv * KEYS) * 4);
    }
    mm_transpose(r.kt, KEYS, arr_at(b->key, j0 * kc + g * k->c), kc, n, k->c);
    mm_transpose(r.vt, KEYS, arr_at(b->v, j0 * vc + g * k->cv), vc, n, k->cv);
    for (int64_t j = 0; j < n; j++)
        to_f32(r.kn + j * k->cp, b->key, (j0 + j) * kc + g * k->c, k->c, k->cp);
    memset(r.dk, 0, (size_t)(KEYS * k->cp) * 4);
    memset(r.dv, 0, (size_t)(KEYS * k->cvp) * 4);

    for (int64_t t0 = k->whole || k->seq ? start : j0; t0 < end; t0 += k->queries) {
        int64_t rows = end - t0 < k->queries ? end - t0 : k->queries, m = rows * k->group;
        int32_t first = INT32_MAX, last = 0; /* keys that a row sees */
        for (int64_t t = t0; t < t0 + rows; t++) {
            first = b->lo[t] < first ? b->lo[t] : first;
            last = b->hi[t] > last ? b->hi[t] : last;
        }
        if (first >= j0 + n || last <= j0)
            continue;
        for (int64_t i = 0; i < m; i++) {
            int64_t t = t0 + i % rows, h = g * k->group + i / rows;
            to_f32(r.q + i * k->cp, b->q, (t * k->heads + h) * k->c, k->c, k->cp);
            to_f32(r.d_o + i * k->cvp, b->d_o, (t * k->heads + h) * k->cv, k->cv, k->cvp);
            for (int64_t j = 0; j < k->cp; j += W)
                vstore(r.q + i * k->cp + j, vload(r.q + i * k->cp + j) * k->scale);
        }
        mm(m, KEYS, k->c, r.q, k->cp, 1, r.kt, KEYS, r.s, KEYS, 0);
        mm(m, KEYS, k->cv, r.d_o, k->cvp, 1, r.vt, KEYS, r.dp, KEYS, 0);
        probabilities(b, r, g, t0, rows, j0);
        mm(n, k->cvp, m, r.s, 1, KEYS, r.d_o, k->cvp, r.dv, k->cvp, 1);
        mm(n, k->cp, m, r.dp, 1, KEYS, r.q, k->cp, r.dk, k->cp, 1);
        mm(m, k->cp, n, r.dp, KEYS, 1, r.kn, k->cp, r.dq, k->cp, 0);
        for (int64_t i = 0; i < m; i++) {
            int64_t t = t0 + i % rows, h = g * k->group + i / rows;
            arr dq = { b->dq + (t * k->heads + h) * k->c, 0 }, src = { r.dq + i * k->cp, 0 };
            for (int64_t j = 0; j < k->c; j += W) {
                int l = LANES(j, k->c);
                st(dq, j, l, ld(dq, j, l) + ld(src, j, l) * k->scale);
            }
        }
    }
    for (int64_t j = 0; j < n; j++) {
        from_f32(b->dk, (j0 + j) * kc + g * k->c, r.dk + j * k->cp, k->c);
        from_f32(b->dv, (j0 + j) * vc + g * k->cv, r.dv + j * k->cvp, k->cv);
    }
}

/* cut[0..n]: borders of the stretches: t is one if no token from t on sees a key before t */
static int64_t stretches(const struct attn *k, const int32_t *lo, int32_t *cut)
{
    int64_t n = 0;
    int32_t least = INT32_MAX;
    if (k->seq) { /* sequences, by their queries */
        for (int64_t t = 0; t <= k->tokens; t += k->seq / k->ranks)
            cut[n++] = (int32_t)t;
        return n - 1;
    }
    cut[k->tokens] = 0;
    for (int64_t t = k->tokens - 1; t >= 0; t--) { /* marks from the back, then gathers */
        least = lo[t] < least ? lo[t] : least;
        cut[t] = least >= t;
    }
    for (int64_t t = 0; t < k->tokens; t++)
        if (cut[t])
            cut[n++] = (int32_t)t;
    cut[n] = (int32_t)k->tokens;
    return n;
}

static void all_rows(const struct attn *k, const mr_buf *in, arr dq_out, float *delta, float *dq,
                     int last)
{
    int parts = cpu_parts(&k->base, k->tokens, 16);
#pragma omp parallel for schedule(static, 1) if (parts > 1)
    for (int p = 0; p < parts; p++) {
        int64_t lo, hi, width = k->heads * k->c;
        cpu_range(k->tokens, 1, p, parts, &lo, &hi);
        if (last) {
            from_f32(dq_out, lo * width, dq + lo * width, (hi - lo) * width);
            continue;
        }
        memset(dq + lo * width, 0, (size_t)((hi - lo) * width) * 4);
        for (int64_t i = lo * k->heads; i < hi * k->heads; i++) {
            arr d = arr_at(in_arr(&k->base, in, 0), i * k->cv);
            arr o = arr_at(in_arr(&k->base, in, 4), i * k->cv);
            vf sum = { 0 };
            for (int64_t j = 0; j < k->cv; j += W)
                sum = vfma(ld(d, j, LANES(j, k->cv)), ld(o, j, LANES(j, k->cv)), sum);
            delta[i] = vsum(sum);
        }
    }
}

/* workspace: lo [T], hi [T], cut [T+1], delta [T,H], dq f32 if the output is bf16, the parts' rooms */
static mr_status attention_bwd_run(const struct kernel *base, const mr_buf *in, const mr_buf *out,
                                   void *ws, mr_err *err)
{
    SELF;
    int32_t *lo = ws, *hi = lo + k->tokens, *cut = hi + k->tokens;
    char *at = (char *)ws + cpu_round((uint64_t)(3 * k->tokens + 1) * 4);
    struct bwd b = {
        .k = k,
        .d_o = in_arr(base, in, 0),
        .q = in_arr(base, in, 1),
        .key = in_arr(base, in, 2),
        .v = in_arr(base, in, 3),
        .dk = out_arr(base, out, 1),
        .dv = out_arr(base, out, 2),
        .lse = in[5].data,
        .delta = (float *)at,
        .lo = lo,
        .hi = hi,
    };
    at += cpu_round((uint64_t)(k->tokens * k->heads) * 4);
    b.dq = base->out_bf[0] ? (float *)at : out[0].data;
    if (base->out_bf[0])
        at += cpu_round((uint64_t)(k->tokens * k->heads * k->c) * 4);
    if (attn_seen_keys(k, in[6].data, lo, hi, err))
        return MR_E_ARG;
    all_rows(k, in, out_arr(base, out, 0), b.delta, b.dq, 0);

    int64_t items = stretches(k, lo, cut) * k->kv;
#pragma omp parallel for schedule(dynamic, 1) if (items > 1)
    for (int64_t i = 0; i < items; i++) {
        struct bwd_room r = bwd_room_of(k, cpu_room(at, k->room));
        int64_t start = cut[i / k->kv], end = cut[i / k->kv + 1];
        int64_t each = k->from < 0 ? k->ranks : 1, keys = end * each;
        for (int64_t j0 = start * each; j0 < keys; j0 += KEYS)
            key_tile(&b, r, i % k->kv, j0, keys - j0 < KEYS ? keys - j0 : KEYS, start, end);
    }
    if (base->out_bf[0])
        all_rows(k, in, out_arr(base, out, 0), b.delta, b.dq, 1);
    return MR_OK;
}

/* ---- from types to kernels ---------------------------------------------------------------- */
/* All operands f32, and few enough scores: then in double. */
static int exactly(struct attn *k, int n_in, int n_out, int backward)
{
    const struct kernel *b = &k->base;
    int64_t T = k->tokens, most = EXACT_SIZE / (k->heads * (k->c + k->cv));
    int bf = 0;
    for (int i = 0; i < n_in; i++)
        bf |= b->in_bf[i];
    for (int i = 0; i < n_out; i++)
        bf |= b->out_bf[i];
    if (bf || b->dev->matmul != CPU_MATMUL_AUTO || (T && k->keys > most / T))
        return 0;
    k->room = attn_exact_room(k, backward);
    k->base.workspace = cpu_round((uint64_t)T * 8) + k->room * (uint64_t)b->threads;
    k->base.run = backward ? attn_exact_bwd_run : attn_exact_run;
    k->base.impl = "f64 sums";
    return 1;
}

mr_status attn_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct attn *k = (struct attn *)base;
    mr_status st = attn_shape(k, c, c->in[0], c->in[1], c->in[2], err);
    if (st || exactly(k, 3, 1, 0))
        return st;
    k->room = attn_tile_room(k);
    base->workspace = cpu_round((uint64_t)k->tokens * 8) + k->room * (uint64_t)base->threads;
    base->run = attention_run;
    return MR_OK;
}

mr_status attn_bwd_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct attn *k = (struct attn *)base;
    mr_status st = attn_shape(k, c, c->in[1], c->in[2], c->in[3], err);
    if (st || exactly(k, 5, 3, 1))
        return st;
    /* as many query rows as keys, or the diagonal's tiles would be mostly masked */
    k->queries = k->group == 1 ? KEYS : 2 * KEYS / k->group > 8 ? 2 * KEYS / k->group : 8;
    k->room = bwd_room_bytes(k);
    base->workspace = cpu_round((uint64_t)(3 * k->tokens + 1) * 4) +
                      cpu_round((uint64_t)(k->tokens * k->heads) * 4) +
                      k->room * (uint64_t)base->threads;
    if (base->out_bf[0])
        base->workspace += cpu_round((uint64_t)(k->tokens * k->heads * k->c) * 4);
    base->run = attention_bwd_run;
    return MR_OK;
}

const struct op_row ISA_NAME(attention_rows)[] = {
    { "attention", "xxxI>xf", sizeof(struct attn), attn_prepare },
    { "attention.bwd", "xxxxxfI>xxx", sizeof(struct attn), attn_bwd_prepare },
    { 0 },
};
