// SPDX-License-Identifier: Apache-2.0
//
// merge_rows.cu - features in the place of a text's rows, and both gradients, packs of 16 bytes. A
// feature's gradient is the sum of its tokens' rows: its first and last token are found first, by
// one reading of `rows`; nearly always they are one, else those between are asked in order.
// Bytes: 2 T D, and for the gradient by the features as many as they have; floor: bytes / the copy
// bandwidth (16384 tokens 5120 wide, 9216 features, bf16: 336 and 430 MB, 79 and 101 us at 4.27
// TB/s). A feature outside its operand makes its token NaN: the run's checks find it.

#include "pack.cuh"

struct merge {
    struct kernel base;
    int64_t rows, d, features;
};

#define SELF const struct merge *k = (const struct merge *)base
#define KERNEL __global__ void __launch_bounds__(THREADS)

// Without features: the gradient by x, zeros where a feature stood.
template <typename F, int V, int U>
KERNEL merge_fwd(const F *x, const F *f, const int32_t *rows, F *y, int64_t tokens, int64_t features,
             uint32_t packs)
{
    row_packs<U> mine(packs);
    pack<F, V> p[U];
#pragma unroll
    for (int u = 0; u < U; u++)
        if (spot s = mine.at(u); s.row < tokens) {
            int64_t m = rows[s.row];
            if (m < 0) {
                p[u].load(x, (s.row * packs + s.col) * V);
            } else if (f && m < features) {
                p[u].load(f, (m * packs + s.col) * V);
            } else {
                float v[V];
#pragma unroll
                for (int j = 0; j < V; j++)
                    v[j] = m < features ? 0 : nanf("");
                p[u].narrow(v);
            }
        }
#pragma unroll
    for (int u = 0; u < U; u++)
        if (spot s = mine.at(u); s.row < tokens)
            p[u].store(y, (s.row * packs + s.col) * V);
}

// The first and the last token of each feature; none: INT32_MAX and -1. Least and greatest do not
// depend on the order in which they are found.
KERNEL merge_none(int2 *span, int64_t features)
{
    GRID_LOOP(m, features)
        span[m] = int2{ INT32_MAX, -1 };
}

KERNEL merge_spans(const int32_t *rows, int2 *span, int64_t tokens, int64_t features)
{
    GRID_LOOP(t, tokens)
        if (int m = rows[t]; m >= 0 && m < features) {
            atomicMin(&span[m].x, (int)t);
            atomicMax(&span[m].y, (int)t);
        }
}

// Nearly always a feature has one token; of several, those between are asked in order.
template <typename F, int V, int U>
KERNEL merge_dfeatures(const F *dy, const int32_t *rows, const int2 *span, F *df, int64_t features,
                       uint32_t packs)
{
    row_packs<U> mine(packs);
    pack<F, V> p[U];
    int2 own[U];
#pragma unroll
    for (int u = 0; u < U; u++)
        if (spot s = mine.at(u); s.row < features) {
            own[u] = span[s.row];
            if (own[u].y >= 0)
                p[u].load(dy, ((int64_t)own[u].x * packs + s.col) * V);
        }
#pragma unroll
    for (int u = 0; u < U; u++)
        if (spot s = mine.at(u); s.row < features) {
            float sum[V] = {}, v[V];
            if (own[u].y >= 0)
                p[u].widen(sum);
            for (int t = own[u].x + 1; own[u].y >= 0 && t <= own[u].y; t++)
                if (rows[t] == (int)s.row) {
                    p[u].load(dy, ((int64_t)t * packs + s.col) * V);
                    p[u].widen(v);
#pragma unroll
                    for (int j = 0; j < V; j++)
                        sum[j] += v[j];
                }
            p[u].narrow(sum);
            p[u].store(df, (s.row * packs + s.col) * V);
        }
}

static mr_status merge_run(RUN_ARGS)
{
    SELF;
    (void)ws;
    bool whole = k->d % WIDE_V == 0 && aligned16(in[0].data, in[1].data, out[0].data);
    if (k->rows && k->d)
        WITH_PACK(base->in_kind[0], whole, (
            merge_fwd<F, V, 4><<<pack_grid<4>(k->rows * (k->d / V)), THREADS, 0, stream>>>(
                (const F *)in[0].data, (const F *)in[1].data, (const int32_t *)in[2].data,
                (F *)out[0].data, k->rows, k->features, (uint32_t)(k->d / V))));
    return cuda_launched(base, err);
}

static mr_status merge_bwd_run(RUN_ARGS)
{
    SELF;
    const int32_t *rows = (const int32_t *)in[1].data;
    int2 *span = (int2 *)ws;
    bool whole = k->d % WIDE_V == 0 && aligned16(in[0].data, out[0].data, out[1].data);
    if (k->features) {
        merge_none<<<grid_for(k->features), THREADS, 0, stream>>>(span, k->features);
        merge_spans<<<grid_for(k->rows), THREADS, 0, stream>>>(rows, span, k->rows, k->features);
    }
    if (k->d)
        WITH_PACK(base->in_kind[0], whole, {
            if (k->rows)
                merge_fwd<F, V, 4><<<pack_grid<4>(k->rows * (k->d / V)), THREADS, 0, stream>>>(
                    (const F *)in[0].data, (const F *)nullptr, rows, (F *)out[0].data, k->rows,
                    k->features, (uint32_t)(k->d / V));
            if (k->features)
                merge_dfeatures<F, V, 4><<<pack_grid<4>(k->features * (k->d / V)), THREADS, 0,
                                           stream>>>(
                    (const F *)in[0].data, rows, span, (F *)out[1].data, k->features,
                    (uint32_t)(k->d / V));
        });
    return cuda_launched(base, err);
}

static mr_status merge_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct merge *k = (struct merge *)base;
    int bwd = c->n_in == 2;
    k->rows = mr_rows(c->in[0]);
    k->d = mr_last(c->in[0]);
    k->features = bwd ? mr_attr_i(c, "features", 0) : mr_rows(c->in[1]);
    base->run = bwd ? merge_bwd_run : merge_run;
    if (bwd)
        base->workspace = (uint64_t)k->features * sizeof(int2);
    mr_status bad = same_kinds(base, bwd ? 1 : 3, err);
    if (!bad && (k->rows > INT32_MAX || k->features > INT32_MAX))
        bad = cuda_refuse(base, err, "more rows than a 32-bit index names");
    bad = bad ? bad : packs_fit(base, k->features * k->d, k->d, err);
    return bad ? bad : packs_fit(base, k->rows * k->d, k->d, err);
}

const struct op_row cuda_merge_rows[] = {
    { "merge_rows", "xxi>x", sizeof(struct merge), merge_prepare, 0, 0 },
    { "merge_rows.bwd", "xi>xx", sizeof(struct merge), merge_prepare, 0, 0 },
    {},
};
