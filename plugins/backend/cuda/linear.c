/* SPDX-License-Identifier: Apache-2.0
 *
 * linear.c - linear, linear.dgrad, linear.wgrad: through cuBLASLt where the library has a way,
 * else through our own kernel, which takes any mix of f32 and bf16 (a router's logits are f32
 * products of bf16). Floors: 2 T I O flops at 990 TFLOP/s bf16, 67 fp32; wgrad reads and writes
 * 4 O I bytes of main gradient besides.
 */
#include "lt.h"
#include "mm.h"

struct linear {
    struct kernel base;
    struct cuda_mm mm; /* operands' memory is filled in by run() */
    struct cuda_lt_product lt;
    int with_lt, has_bias;
};

#define SELF const struct linear *k = (const struct linear *)base

static mr_status linear_run(const struct kernel *base, const mr_buf *in, const mr_buf *out,
                            void *ws, cudaStream_t stream, mr_err *err)
{
    SELF;
    struct cuda_mm mm = k->mm;
    void *c = mm.add ? in[2].data : out[0].data, *bias = k->has_bias ? in[2].data : NULL;
    if (k->with_lt)
        return cuda_lt_run(base->dev->lt, &k->lt, in[0].data, in[1].data, c, bias, ws, stream, err);
    mm.a.data = in[0].data;
    mm.b.data = in[1].data;
    mm.c.data = c;
    mm.bias = bias;
    cudaError_t e = cuda_mm_run(&mm, stream);
    return e ? cuda_fail(err, e, base->op) : MR_OK;
}

/* c [m, n] = a b, with the strides that make a and b of the operands; asks cuBLASLt first */
static mr_status plan(struct linear *k, int64_t m, int64_t n, int64_t inner, int ta, int tb)
{
    struct kernel *b = &k->base;
    int kind_c = k->mm.add ? CUDA_F32 : b->out_kind[0];
    k->mm.m = m;
    k->mm.n = n;
    k->mm.k = inner;
    k->mm.a = (struct cuda_mat){ NULL, ta ? 1 : inner, ta ? m : 1, 0, b->in_kind[0], 0 };
    k->mm.b = (struct cuda_mat){ NULL, tb ? 1 : n, tb ? inner : 1, 0, b->in_kind[1], 0 };
    k->mm.c = (struct cuda_mat){ NULL, n, 1, 0, kind_c, 0 };
    if (k->has_bias)
        k->mm.bias_kind = b->in_kind[2];
    b->run = linear_run;
    b->impl = cuda_mm_name(b->in_kind[0], b->in_kind[1]);
    b->est_us = 2e6 * (double)m * (double)n * (double)inner /
                (b->in_kind[0] == CUDA_BF16 ? 990e12 : 67e12);
    if (!b->dev->lt || b->in_kind[0] != b->in_kind[1] ||
        (b->in_kind[0] == CUDA_F32 && kind_c != CUDA_F32) ||
        (k->has_bias && b->in_kind[2] != kind_c))
        return MR_OK;
    struct cuda_lt_shape s = { m, n, inner, ta, tb, b->in_kind[0], kind_c, k->has_bias,
                               b->dev->tf32, k->mm.add ? 1.0f : 0.0f,
                               (b->asked & MR_QUERY_DETERMINISTIC) != 0 };
    if (cuda_lt_plan(b->dev->lt, &s, &k->lt, NULL) == MR_OK) {
        k->with_lt = 1;
        b->workspace = k->lt.workspace;
        b->est_us = k->lt.us > 0 ? k->lt.us : b->est_us;
        b->impl = b->in_kind[0] == CUDA_BF16 ? "cublaslt bf16" : s.tf32 ? "cublaslt tf32"
                                                                        : "cublaslt fp32";
    }
    return MR_OK;
}

static mr_status linear_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct linear *k = (struct linear *)base;
    (void)err;
    k->has_bias = c->n_in > 2 && c->in[2];
    return plan(k, mr_rows(c->in[0]), c->in[1]->dim[0], mr_last(c->in[0]), 0, 1);
}

static mr_status dgrad_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    (void)err;
    return plan((struct linear *)base, mr_rows(c->in[0]), c->in[1]->dim[1], c->in[1]->dim[0], 0, 0);
}

static mr_status wgrad_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct linear *k = (struct linear *)base;
    (void)err;
    k->mm.add = 1;
    return plan(k, mr_last(c->in[0]), mr_last(c->in[1]), mr_rows(c->in[0]), 1, 0);
}

static mr_status wgrad_first_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    if (base->in_kind[0] != base->in_kind[1])
        return cuda_refuse(base, err, "mixed dtypes are only added");
    return plan((struct linear *)base, mr_last(c->in[0]), mr_last(c->in[1]), mr_rows(c->in[0]), 1,
                0);
}

const struct op_row cuda_linear_rows[] = {
    { "linear", "xxX>x", sizeof(struct linear), linear_prepare, 0, 0 },
    { "linear.dgrad", "xx>x", sizeof(struct linear), dgrad_prepare, 0, 0 },
    { "linear.wgrad", "xxf>", sizeof(struct linear), wgrad_prepare, 0, 0 },
    { "linear.wgrad.first", "xx>f", sizeof(struct linear), wgrad_first_prepare, 0, 0 },
    { 0 },
};
