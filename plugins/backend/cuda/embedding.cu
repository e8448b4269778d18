// SPDX-License-Identifier: Apache-2.0
//
// embedding.cu - rows of a table, and their gradient. The gradient needs no sort and no atomics:
// of all tokens with the same id the first one's blocks add all their rows, t ascending. To find
// out who is first costs T^2 / 2 comparisons of ids that lie in cache (16384 tokens: 0.1 ms); an
// id that fills a whole batch is summed by one block a column strip, which is the slow case.
// Bytes: T D read and written twice; floor: bytes / 3.35 TB/s.
//
// An id outside the table gives a row of NaN, which the run's checks find; it adds nothing.

#include "dev.cuh"

struct embedding {
    struct kernel base;
    int64_t tokens, vocab, width;
};

#define SELF const struct embedding *k = (const struct embedding *)base

template <typename F>
__global__ void embed(const int32_t *ids, const F *table, F *y, int64_t vocab, int64_t width)
{
    int64_t t = blockIdx.x, id = ids[t];
    bool known = id >= 0 && id < vocab;
    for (int64_t d = threadIdx.x; d < width; d += blockDim.x)
        st(y, t * width + d, known ? ld(table, id * width + d) : nanf(""));
}

static mr_status embedding_run(RUN_ARGS)
{
    SELF;
    (void)ws;
    if (k->tokens)
        WITH_TYPE(base->in_kind[1], (embed<F><<<(unsigned)k->tokens, THREADS, 0, stream>>>(
            (const int32_t *)in[0].data, (const F *)in[1].data, (F *)out[0].data, k->vocab,
            k->width)));
    return cuda_launched(base, err);
}

enum { STRIP = 4 * THREADS };

template <typename F>
__global__ void __launch_bounds__(THREADS)
    embed_bwd(const F *dy, const int32_t *ids, float *dtable, int64_t tokens, int64_t vocab,
              int64_t width)
{
    __shared__ int list[THREADS], before[THREADS / 32];
    int64_t first = blockIdx.x, col0 = blockIdx.y * (int64_t)STRIP + threadIdx.x;
    int id = ids[first], warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    float sum[4] = {};
    if (id < 0 || id >= vocab)
        return;
    for (int64_t t0 = 0; t0 < first; t0 += THREADS) {
        int64_t t = t0 + threadIdx.x;
        if (__syncthreads_or(t < first && ids[t] == id))
            return; // an earlier token does it
    }
    for (int64_t t0 = first; t0 < tokens; t0 += THREADS) {
        int64_t t = t0 + threadIdx.x;
        unsigned mine = __ballot_sync(~0u, t < tokens && ids[t] == id);
        if (!lane)
            before[warp] = __popc(mine);
        __syncthreads();
        int at = __popc(mine & ((1u << lane) - 1)), n = 0;
        for (int w = 0; w < THREADS / 32; w++) {
            at += w < warp ? before[w] : 0;
            n += before[w];
        }
        if (mine >> lane & 1)
            list[at] = (int)threadIdx.x;
        __syncthreads();
        for (int i = 0; i < n; i++)
#pragma unroll
            for (int c = 0; c < 4; c++)
                if (col0 + c * THREADS < width)
                    sum[c] += ld(dy, (t0 + list[i]) * width + col0 + c * THREADS);
        __syncthreads();
    }
#pragma unroll
    for (int c = 0; c < 4; c++)
        if (col0 + c * THREADS < width)
            dtable[id * width + col0 + c * THREADS] += sum[c];
}

static mr_status embedding_bwd_run(RUN_ARGS)
{
    SELF;
    dim3 grid((unsigned)k->tokens, (unsigned)cuda_ceil(k->width, STRIP));
    (void)out, (void)ws;
    if (k->tokens && k->width)
        WITH_TYPE(base->in_kind[0], (embed_bwd<F><<<grid, THREADS, 0, stream>>>(
            (const F *)in[0].data, (const int32_t *)in[1].data, (float *)in[2].data, k->tokens,
            k->vocab, k->width)));
    return cuda_launched(base, err);
}

static mr_status embedding_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct embedding *k = (struct embedding *)base;
    (void)err;
    k->tokens = c->in[0]->dim[0];
    k->vocab = c->in[1]->dim[0];
    k->width = c->in[1]->dim[1];
    base->run = embedding_run;
    return MR_OK;
}

static mr_status embedding_bwd_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct embedding *k = (struct embedding *)base;
    (void)err;
    k->tokens = c->in[0]->dim[0];
    k->vocab = c->in[2]->dim[0];
    k->width = c->in[2]->dim[1];
    base->run = embedding_bwd_run;
    return MR_OK;
}

const struct op_row cuda_embedding_rows[] = {
    { "embedding", "ix>x", sizeof(struct embedding), embedding_prepare, 0, 0 },
    { "embedding.bwd", "xif>", sizeof(struct embedding), embedding_bwd_prepare, 0, 0 },
    {},
};
