// SPDX-License-Identifier: Apache-2.0
//
// attention_ring.cu - the parts of an attention whose keys pass round the ranks of a sequence,
// joined by log-sum-exp in f32, and the whole rounded. Bytes: 12 a value of o to join two parts
// (two read, one written), 4 and the result's to round; a few flops a value. Floor: bytes / the
// memory's rate.

#include "dev.cuh"

#define KERNEL __global__ void __launch_bounds__(THREADS)

struct ring {
    struct kernel base;
    int64_t rows; // of heads
    int cv;       // values of a head
    int64_t n;    // values in all
};

#define SELF const struct ring *k = (const struct ring *)base

// o over oa is allowed: a value is read and written by one thread. Who saw no key has lse -inf.
KERNEL merge(const float *oa, const float *la, const float *ob, const float *lb, float *o,
             float *lse, int64_t n, int cv)
{
    GRID_LOOP(i, n) {
        int64_t r = i / cv;
        float a = la[r], b = lb[r], top = fmaxf(a, b), wa = 0, wb = 0;
        bool none = a == -INFINITY && b == -INFINITY;
        if (!none) {
            wa = expf(a - top);
            wb = expf(b - top);
        }
        float sum = wa + wb;
        o[i] = none ? 0 : (wa * oa[i] + wb * ob[i]) / sum;
        if (i % cv == 0)
            lse[r] = none ? a : top + logf(sum);
    }
}

template <typename F> KERNEL round_all(const float *x, F *y, int64_t n)
{
    GRID_LOOP(i, n)
        st(y, i, x[i]);
}

static mr_status merge_run(RUN_ARGS)
{
    SELF;
    (void)ws;
    if (k->n)
        merge<<<grid_for(k->n), THREADS, 0, stream>>>(
            (const float *)in[0].data, (const float *)in[1].data, (const float *)in[2].data,
            (const float *)in[3].data, (float *)out[0].data, (float *)out[1].data, k->n, k->cv);
    return cuda_launched(base, err);
}

static mr_status ring_run(RUN_ARGS)
{
    SELF;
    (void)ws;
    if (k->n)
        WITH_TYPE(base->out_kind[0], round_all<F><<<grid_for(k->n), THREADS, 0, stream>>>(
            (const float *)in[base->n_in - 2].data, (F *)out[0].data, k->n));
    return cuda_launched(base, err);
}

static mr_status merge_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct ring *k = (struct ring *)base;
    k->rows = mr_numel(c->in[1]);
    k->n = mr_numel(c->in[0]);
    k->cv = k->rows ? (int)(k->n / k->rows) : 1;
    base->flags |= MR_K_INPLACE0;
    base->run = merge_run;
    (void)err;
    return MR_OK;
}

static mr_status ring_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    ((struct ring *)base)->n = mr_numel(c->out[0]);
    base->run = ring_run;
    (void)err;
    return MR_OK;
}

const struct op_row cuda_attention_ring_rows[] = {
    { "attention.merge", "ffff>ff", sizeof(struct ring), merge_prepare, 0, 0 },
    { "attention.ring", "xxxiff>x", sizeof(struct ring), ring_prepare, 0, 0 },
    { "mla_attention.ring", "xxxxiiff>x", sizeof(struct ring), ring_prepare, 0, 0 },
    {},
};
