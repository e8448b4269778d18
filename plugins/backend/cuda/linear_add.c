/* SPDX-License-Identifier: Apache-2.0
 *
 * linear_add.c - linear_add and linear_add.dgrad: a + x wᵀ + bias and a + dy w, by cuBLASLt with
 * beta = 1, which reads a while it stores the result: [T,O] once instead of the three times of a
 * sum of its own. Where the library has no way (mixed dtypes, or no library) a is copied into the
 * result and our own kernel adds to it. Products with few inner values, a router's, are thin.cu's.
 * Not in place: cuBLASLt's result then differs in its last bits, and is no faster.
 */
#include "lt.h"
#include "mm.h"

struct linear_add {
    struct kernel base;
    struct cuda_mm mm; /* operands' memory is filled in by run() */
    struct cuda_lt_product lt;
    uint64_t bytes; /* of a */
    int with_lt, has_bias;
};

static mr_status run(const struct kernel *base, const mr_buf *in, const mr_buf *out, void *ws,
                     cudaStream_t stream, mr_err *err)
{
    const struct linear_add *k = (const struct linear_add *)base;
    const void *a = in[0].data, *bias = k->has_bias ? in[3].data : NULL;
    void *y = out[0].data;
    if (k->with_lt)
        return cuda_lt_run_from(base->dev->lt, &k->lt, in[1].data, in[2].data, a, y, bias, ws,
                                stream, err);
    struct cuda_mm mm = k->mm;
    cudaError_t e = cudaMemcpyAsync(y, a, k->bytes, cudaMemcpyDeviceToDevice, stream);
    mm.a.data = in[1].data;
    mm.b.data = in[2].data;
    mm.c.data = y;
    mm.bias = in[3].data;
    e = e ? e : cuda_mm_run(&mm, stream);
    return e ? cuda_fail(err, e, base->op) : MR_OK;
}

/* out [m, n] = a + x b, b being w or (tb) its transpose */
static mr_status plan(struct kernel *b, const mr_call *c, int64_t m, int64_t n, int64_t inner,
                      int tb)
{
    struct linear_add *k = (struct linear_add *)b;
    k->bytes = mr_bytes(c->in[0]);
    k->has_bias = c->n_in > 3 && c->in[3];
    k->mm = (struct cuda_mm){ .m = m, .n = n, .k = inner, .add = 1 };
    k->mm.a = (struct cuda_mat){ NULL, inner, 1, 0, b->in_kind[1], 0 };
    k->mm.b = (struct cuda_mat){ NULL, tb ? 1 : n, tb ? inner : 1, 0, b->in_kind[2], 0 };
    k->mm.c = (struct cuda_mat){ NULL, n, 1, 0, b->out_kind[0], 0 };
    if (k->has_bias)
        k->mm.bias_kind = b->in_kind[3];
    b->run = run;
    b->impl = cuda_mm_name(b->in_kind[1], b->in_kind[2]);
    b->est_us = 2e6 * (double)m * (double)n * (double)inner /
                (b->in_kind[1] == CUDA_BF16 ? 990e12 : 67e12);
    if (!b->dev->lt || b->in_kind[1] != b->in_kind[2] ||
        (b->in_kind[1] == CUDA_F32 && b->out_kind[0] != CUDA_F32) ||
        (k->has_bias && b->in_kind[3] != b->out_kind[0]))
        return MR_OK;
    struct cuda_lt_shape s = { m, n, inner, 0, tb, b->in_kind[1], b->out_kind[0], k->has_bias,
                               b->dev->tf32, 1.0f,
                               (b->asked & MR_QUERY_DETERMINISTIC) != 0 };
    if (cuda_lt_plan(b->dev->lt, &s, &k->lt, NULL) == MR_OK) {
        k->with_lt = 1;
        b->workspace = k->lt.workspace;
        b->impl = b->in_kind[1] == CUDA_BF16 ? "cublaslt bf16, beta 1" : "cublaslt f32, beta 1";
    }
    return MR_OK;
}

static mr_status linear_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    (void)err;
    return plan(base, c, mr_rows(c->in[1]), c->in[2]->dim[0], mr_last(c->in[1]), 1);
}

static mr_status dgrad_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    (void)err;
    return plan(base, c, mr_rows(c->in[1]), c->in[2]->dim[1], c->in[2]->dim[0], 0);
}

const struct op_row cuda_linear_add_rows[] = {
    { "linear_add", "xxxX>x", sizeof(struct linear_add), linear_prepare, 0, 0 },
    { "linear_add.dgrad", "xxx>x", sizeof(struct linear_add), dgrad_prepare, 0, 0 },
    { 0 },
};
