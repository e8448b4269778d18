// SPDX-License-Identifier: Apache-2.0
//
// merge_rows.cu - features in the place of a text's rows, and both gradients, packs of 16 bytes. A
// feature's gradient is the sum of its tokens' rows: its first and last token are found first, by
// one reading of `rows`; nearly always they are one, else a block asks those between, in order.
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

// Nearly always a feature has one token, or none.
template <typename F, int V, int U>
KERNEL merge_single(const F *dy, const int2 *span, F *df, int64_t features, uint32_t packs)
{
    row_packs<U> mine(packs);
    pack<F, V> p[U];
    bool several[U];
#pragma unroll
    for (int u = 0; u < U; u++)
        if (spot s = mine.at(u); s.row < features) {
            int2 own = span[s.row];
            several[u] = own.y > own.x;
            if (own.y == own.x)
                p[u].load(dy, ((int64_t)own.x * packs + s.col) * V);
            else {
                float zero[V] = {};
                p[u].narrow(zero);
            }
        }
#pragma unroll
    for (int u = 0; u < U; u++)
        if (spot s = mine.at(u); s.row < features && !several[u])
            p[u].store(df, (s.row * packs + s.col) * V);
}

// A block a feature and THREADS packs of columns; of several tokens, finds them in order, a turn of
// THREADS after the other, and adds them up.
template <typename F, int V>
KERNEL merge_several(const F *dy, const int32_t *rows, const int2 *span, F *df, int64_t width)
{
    __shared__ int hits[THREADS], warps[THREADS / 32];
    int m = (int)blockIdx.x, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int64_t col = (blockIdx.y * (int64_t)THREADS + threadIdx.x) * V;
    int2 own = span[m];
    float sum[V] = {};
    if (own.y <= own.x)
        return;
    for (int t0 = own.x; t0 <= own.y; t0 += THREADS) {
        int t = t0 + (int)threadIdx.x, n = 0, before = 0;
        bool hit = t <= own.y && rows[t] == m;
        if (!__syncthreads_or(hit))
            continue;
        unsigned mine = __ballot_sync(~0u, hit);
        if (!lane)
            warps[warp] = __popc(mine);
        __syncthreads();
        for (int w = 0; w < THREADS / 32; w++) {
            before += w < warp ? warps[w] : 0;
            n += warps[w];
        }
        if (hit)
            hits[before + __popc(mine & ((1u << lane) - 1))] = t;
        __syncthreads();
        for (int i = 0; i < n && col < width; i++) {
            pack<F, V> p;
            float v[V];
            p.load(dy, hits[i] * width + col);
            p.widen(v);
#pragma unroll
            for (int j = 0; j < V; j++)
                sum[j] += v[j];
        }
    }
    if (col < width) {
        pack<F, V> p;
        p.narrow(sum);
        p.store(df, m * width + col);
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
            if (k->features) {
                dim3 grid((unsigned)k->features, (unsigned)cuda_ceil(k->d, THREADS * V));
                merge_single<F, V, 4><<<pack_grid<4>(k->features * (k->d / V)), THREADS, 0,
                                        stream>>>((const F *)in[0].data, span, (F *)out[1].data,
                                                  k->features, (uint32_t)(k->d / V));
                merge_several<F, V><<<grid, THREADS, 0, stream>>>(
                    (const F *)in[0].data, rows, span, (F *)out[1].data, k->d);
            }
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
    if (!bad && (k->rows > INT32_MAX - THREADS || k->features > INT32_MAX ||
                 cuda_ceil(k->d, THREADS) > 65535))
        bad = cuda_refuse(base, err, "more rows or columns than the launch grid counts");
    bad = bad ? bad : packs_fit(base, k->features * k->d, k->d, err);
    return bad ? bad : packs_fit(base, k->rows * k->d, k->d, err);
}

const struct op_row cuda_merge_rows[] = {
    { "merge_rows", "xxi>x", sizeof(struct merge), merge_prepare, 0, 0 },
    { "merge_rows.bwd", "xi>xx", sizeof(struct merge), merge_prepare, 0, 0 },
    {},
};
