// SPDX-License-Identifier: Apache-2.0
//
// permute.cu - tokens to rows grouped by expert, back, and the probability's gradient. All three
// go token by token, so that a token's row and each of its K rows move once: permute reads a token
// and writes its rows where `slots` says; unpermute reads the rows of a token and writes it;
// dprobs first makes the slots from the rows. `slots` is a permutation: no two tokens write one
// row. With one row a token both ways are a gather. Bytes: (R + T) D; floor: bytes / the copy
// bandwidth (16384 tokens, 8 rows each, 2048 wide in bf16: 604 MB, 141 us at 4.27 TB/s). A row
// whose index is out of range becomes NaN: the run's checks find it.

#include "pack.cuh"

struct permute {
    struct kernel base;
    int64_t rows, tokens, width, per_token;
};

#define SELF const struct permute *k = (const struct permute *)base
#define KERNEL __global__ void __launch_bounds__(THREADS)

struct permute_args { // by value in a launch
    int64_t rows, tokens, width;
    uint32_t packs; // of a row
    int per_token;
};

template <int V> static permute_args args_of(const struct permute *k)
{
    return permute_args{ k->rows, k->tokens, k->width, (uint32_t)(k->width / V),
                         (int)k->per_token };
}

// V values times p; times 1 changes no bit
template <typename F, int V> DEV pack<F, V> times(const pack<F, V> &a, float p)
{
    float v[V];
    pack<F, V> b;
    a.widen(v);
#pragma unroll
    for (int j = 0; j < V; j++)
        v[j] *= p;
    b.narrow(v);
    return b;
}

template <typename F, int V> DEV pack<F, V> nan_pack()
{
    float v[V];
    pack<F, V> p;
#pragma unroll
    for (int j = 0; j < V; j++)
        v[j] = nanf("");
    p.narrow(v);
    return p;
}

// ---- one row a token ------------------------------------------------------------------------
// to[r] = from[index[r]] times the probability of its token: that row if `by_index`, else r
template <typename F, int V, int U>
KERNEL gather(const F *from, const int32_t *index, arr probs, bool by_index, F *to,
              const permute_args a)
{
    row_packs<U> mine(a.packs);
    pack<F, V> p[U];
    float by[U];
#pragma unroll
    for (int u = 0; u < U; u++)
        if (spot s = mine.at(u); s.row < a.rows) {
            int64_t i = index[s.row];
            bool known = i >= 0 && i < a.rows;
            if (known)
                p[u].load(from, i * a.width + s.col * V);
            else
                p[u] = nan_pack<F, V>();
            by[u] = probs.p && known ? get(probs, by_index ? i : s.row) : 1;
        }
#pragma unroll
    for (int u = 0; u < U; u++)
        if (spot s = mine.at(u); s.row < a.rows)
            (probs.p ? times<F, V>(p[u], by[u]) : p[u]).store(to, s.row * a.width + s.col * V);
}

// ---- permute ------------------------------------------------------------------------------
enum { AT_ONCE = 4 }; // rows of a token

// A thread has a pack of a token and writes it to the token's rows. The row that stands at tK + k
// in order is looked at too: if its own index is no row's, no token writes it.
template <typename F, int V>
KERNEL permute(const F *x, const int32_t *rows, const int32_t *slots, arr probs, F *y,
               const permute_args a)
{
    spot s = row_packs<1>(a.packs).at(0);
    if (s.row >= a.tokens)
        return;
    pack<F, V> p;
    p.load(x, s.row * a.width + s.col * V);
    for (int j0 = 0; j0 < a.per_token; j0 += AT_ONCE) {
        int r[AT_ONCE], back[AT_ONCE];
        float by[AT_ONCE];
        int64_t i0 = s.row * a.per_token + j0;
#pragma unroll
        for (int j = 0; j < AT_ONCE; j++) {
            bool in = j0 + j < a.per_token;
            r[j] = in ? slots[i0 + j] : -1;
            back[j] = in ? rows[i0 + j] : 0;
            by[j] = in && probs.p ? get(probs, i0 + j) : 1;
        }
#pragma unroll
        for (int j = 0; j < AT_ONCE; j++) {
            if (r[j] >= 0 && r[j] < a.rows)
                (probs.p ? times<F, V>(p, by[j]) : p).store(y, r[j] * a.width + s.col * V);
            if (back[j] < 0 || back[j] >= a.rows)
                nan_pack<F, V>().store(y, (i0 + j) * a.width + s.col * V);
        }
    }
}

// ---- unpermute ----------------------------------------------------------------------------
// A thread has a pack of a token and reads ROWS of the token's rows at once.
template <typename F, int V, int ROWS>
KERNEL unpermute(const F *y, const int32_t *slots, arr probs, F *x, const permute_args a)
{
    spot s = row_packs<1>(a.packs).at(0);
    float sum[V] = {};
    if (s.row >= a.tokens)
        return;
    for (int j0 = 0; j0 < a.per_token; j0 += ROWS) {
        pack<F, V> p[ROWS];
        float by[ROWS];
#pragma unroll
        for (int j = 0; j < ROWS; j++) {
            if (j0 + j >= a.per_token)
                continue;
            int64_t i = s.row * a.per_token + j0 + j, r = slots[i];
            bool known = r >= 0 && r < a.rows;
            by[j] = !known ? nanf("") : probs.p ? get(probs, i) : 1;
            p[j].load(y, (known ? r : 0) * a.width + s.col * V);
        }
#pragma unroll
        for (int j = 0; j < ROWS; j++) {
            if (j0 + j >= a.per_token)
                continue;
            float v[V];
            p[j].widen(v);
#pragma unroll
            for (int e = 0; e < V; e++)
                sum[e] += v[e] * by[j];
        }
    }
    pack<F, V> to;
    to.narrow(sum);
    to.store(x, s.row * a.width + s.col * V);
}

// ---- permute.dprobs -----------------------------------------------------------------------
// slots[rows[r]] = r; what no row names keeps whatever the workspace held
__global__ void invert(const int32_t *rows, int32_t *slots, int64_t n)
{
    GRID_LOOP(r, n) {
        int64_t i = rows[r];
        if (i >= 0 && i < n)
            slots[i] = (int32_t)r;
    }
}

// A warp a token: ROWS products with its row of b at once. A slot counts if its row names it.
template <typename F, int V, int ROWS>
KERNEL dprobs(const F *x, const F *b, const int32_t *rows, const int32_t *slots, float *d,
              const permute_args a)
{
    int64_t t = blockIdx.x * (int64_t)(THREADS / 32) + threadIdx.x / 32;
    int lane = threadIdx.x % 32;
    if (t >= a.tokens)
        return;
    for (int j0 = 0; j0 < a.per_token; j0 += ROWS) {
        int64_t at[ROWS];
        float sum[ROWS] = {};
#pragma unroll
        for (int j = 0; j < ROWS; j++) {
            int64_t i = t * a.per_token + j0 + j, r = j0 + j < a.per_token ? slots[i] : -1;
            at[j] = r >= 0 && r < a.rows && rows[r] == i ? r : -1;
        }
        for (uint32_t c = lane; c < a.packs; c += 32) {
            pack<F, V> p[ROWS], q;
            float w[V];
            q.load(b, t * a.width + c * V);
#pragma unroll
            for (int j = 0; j < ROWS; j++)
                if (at[j] >= 0)
                    p[j].load(x, at[j] * a.width + c * V);
            q.widen(w);
#pragma unroll
            for (int j = 0; j < ROWS; j++)
                if (at[j] >= 0) {
                    float v[V];
                    p[j].widen(v);
#pragma unroll
                    for (int e = 0; e < V; e++)
                        sum[j] += v[e] * w[e];
                }
        }
#pragma unroll
        for (int j = 0; j < ROWS; j++) {
            float s = warp_sum(sum[j]);
            if (!lane && at[j] >= 0)
                d[t * a.per_token + j0 + j] = s;
        }
    }
}

// ---- from types to kernels ------------------------------------------------------------------
template <typename F, int V>
static void gather_launch(const struct permute *k, const mr_buf *in, const mr_buf *out,
                          uint32_t index, cudaStream_t stream)
{
    gather<F, V, 4><<<pack_grid<4>(k->rows * (k->width / V)), THREADS, 0, stream>>>(
        (const F *)in[0].data, (const int32_t *)in[index].data, in_arr(&k->base, in, 3), index == 1,
        (F *)out[0].data, args_of<V>(k));
}

static mr_status permute_run(RUN_ARGS)
{
    SELF;
    const int32_t *rows = (const int32_t *)in[1].data, *slots = (const int32_t *)in[2].data;
    (void)ws;
    if (k->rows && k->width)
        WITH_PACK(base->in_kind[0], k->width % WIDE_V == 0 && aligned16(in[0].data, out[0].data), {
            if (k->per_token == 1)
                gather_launch<F, V>(k, in, out, 1, stream);
            else
                permute<F, V><<<pack_grid<1>(k->tokens * (k->width / V)), THREADS, 0, stream>>>(
                    (const F *)in[0].data, rows, slots, in_arr(base, in, 3), (F *)out[0].data,
                    args_of<V>(k));
        });
    return cuda_launched(base, err);
}

template <typename F, int V, int ROWS>
static void unpermute_launch(const struct permute *k, const mr_buf *in, const mr_buf *out,
                             cudaStream_t stream)
{
    unpermute<F, V, ROWS><<<pack_grid<1>(k->tokens * (k->width / V)), THREADS, 0, stream>>>(
        (const F *)in[0].data, (const int32_t *)in[2].data, in_arr(&k->base, in, 3),
        (F *)out[0].data, args_of<V>(k));
}

static mr_status unpermute_run(RUN_ARGS)
{
    SELF;
    (void)ws;
    if (k->tokens && k->width)
        WITH_PACK(base->in_kind[0], k->width % WIDE_V == 0 && aligned16(in[0].data, out[0].data), {
            if (k->per_token == 1)
                gather_launch<F, V>(k, in, out, 2, stream);
            else if (k->per_token == 2)
                unpermute_launch<F, V, 2>(k, in, out, stream);
            else
                unpermute_launch<F, V, 4>(k, in, out, stream);
        });
    return cuda_launched(base, err);
}

template <typename F, int V, int ROWS>
static void dprobs_launch(const struct permute *k, const mr_buf *in, const mr_buf *out,
                          int32_t *slots, cudaStream_t stream)
{
    dprobs<F, V, ROWS><<<(unsigned)cuda_ceil(k->tokens, THREADS / 32), THREADS, 0, stream>>>(
        (const F *)in[0].data, (const F *)in[1].data, (const int32_t *)in[2].data, slots,
        (float *)out[0].data, args_of<V>(k));
}

static mr_status dprobs_run(RUN_ARGS)
{
    SELF;
    int32_t *slots = (int32_t *)ws;
    if (!k->rows)
        return MR_OK;
    invert<<<grid_for(k->rows), THREADS, 0, stream>>>((const int32_t *)in[2].data, slots, k->rows);
    WITH_PACK(base->in_kind[0], k->width % WIDE_V == 0 && aligned16(in[0].data, in[1].data), {
        if (k->per_token == 1)
            dprobs_launch<F, V, 1>(k, in, out, slots, stream);
        else if (k->per_token <= 4)
            dprobs_launch<F, V, 4>(k, in, out, slots, stream);
        else
            dprobs_launch<F, V, 8>(k, in, out, slots, stream);
    });
    return cuda_launched(base, err);
}

static mr_status shape(struct permute *k, int64_t rows, int64_t tokens, int64_t width,
                       mr_err *err)
{
    k->rows = rows;
    k->tokens = tokens;
    k->width = width;
    k->per_token = tokens ? rows / tokens : 1;
    if (rows > INT32_MAX)
        return cuda_refuse(&k->base, err, "more rows than a 32-bit index names");
    return packs_fit(&k->base, tokens * width, width, err);
}

static mr_status permute_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    base->run = permute_run;
    return shape((struct permute *)base, c->in[1]->dim[0], c->in[0]->dim[0], c->in[0]->dim[1],
                 err);
}

static mr_status unpermute_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    base->run = unpermute_run;
    return shape((struct permute *)base, c->in[0]->dim[0],
                 c->in[0]->dim[0] / mr_attr_i(c, "k", 1), c->in[0]->dim[1], err);
}

static mr_status dprobs_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    base->run = dprobs_run;
    base->workspace = (uint64_t)c->in[0]->dim[0] * sizeof(int32_t);
    mr_status bad = same_kinds(base, 3, err);
    return bad ? bad
               : shape((struct permute *)base, c->in[0]->dim[0], c->in[1]->dim[0],
                       c->in[0]->dim[1], err);
}

const struct op_row cuda_permute_rows[] = {
    { "permute", "xiiX>x", sizeof(struct permute), permute_prepare, 0, 0 },
    { "unpermute", "xiiX>x", sizeof(struct permute), unpermute_prepare, 0, 0 },
    { "permute.dprobs", "xxi>f", sizeof(struct permute), dprobs_prepare, 0, 0 },
    {},
};
