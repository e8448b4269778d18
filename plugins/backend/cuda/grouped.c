/* SPDX-License-Identifier: Apache-2.0
 *
 * grouped.c - the experts' products: which strides of our own kernel make each of them. The
 * offsets are read on the device alone; empty experts, one expert with all rows, and rows past
 * the last expert are the kernel's affair (mm.cu). Floors as linear's, with R rows.
 */
#include "mm.h"

struct grouped {
    struct kernel base;
    struct cuda_mm mm;
};

#define SELF const struct grouped *k = (const struct grouped *)base

static mr_status grouped_run(const struct kernel *base, const mr_buf *in, const mr_buf *out,
                             void *ws, cudaStream_t stream, mr_err *err)
{
    SELF;
    struct cuda_mm mm = k->mm;
    (void)ws;
    mm.a.data = in[0].data;
    mm.b.data = in[1].data;
    mm.offsets = in[2].data;
    mm.c.data = mm.add ? in[3].data : out[0].data;
    cudaError_t e = cuda_mm_run(&mm, stream);
    return e ? cuda_fail(err, e, base->op) : MR_OK;
}

static int is_io(const mr_call *c)
{
    return !strcmp(mr_attr_s(c, "layout", "io"), "io");
}

static mr_status prepare(struct grouped *k, int64_t m, int64_t n, int64_t inner, int64_t experts,
                         int mode)
{
    struct kernel *b = &k->base;
    k->mm.m = m;
    k->mm.n = n;
    k->mm.k = inner;
    k->mm.experts = experts;
    k->mm.mode = mode;
    k->mm.a.kind = b->in_kind[0];
    k->mm.b.kind = b->in_kind[1];
    k->mm.c.kind = k->mm.add ? CUDA_F32 : b->out_kind[0];
    b->run = grouped_run;
    b->impl = cuda_mm_name(b->in_kind[0], b->in_kind[1]);
    b->est_us = 2e6 * (double)m * (double)n * (double)inner /
                (b->in_kind[0] == CUDA_BF16 ? 990e12 : 67e12);
    return MR_OK;
}

static mr_status forward_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct grouped *k = (struct grouped *)base;
    int io = is_io(c);
    int64_t R = c->in[0]->dim[0], I = c->in[0]->dim[1], O = c->in[1]->dim[io ? 2 : 1];
    (void)err;
    k->mm.a = (struct cuda_mat){ NULL, I, 1, 0, 0, 0 };
    k->mm.b = (struct cuda_mat){ NULL, io ? O : 1, io ? 1 : I, I * O, 0, 0 };
    k->mm.c = (struct cuda_mat){ NULL, O, 1, 0, 0, 0 };
    return prepare(k, R, O, I, c->in[1]->dim[0], CUDA_MM_ROWS);
}

static mr_status dgrad_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct grouped *k = (struct grouped *)base;
    int io = is_io(c);
    int64_t R = c->in[0]->dim[0], O = c->in[0]->dim[1], I = c->in[1]->dim[io ? 1 : 2];
    (void)err;
    k->mm.a = (struct cuda_mat){ NULL, O, 1, 0, 0, 0 };
    k->mm.b = (struct cuda_mat){ NULL, io ? 1 : I, io ? O : 1, I * O, 0, 0 };
    k->mm.c = (struct cuda_mat){ NULL, I, 1, 0, 0, 0 };
    return prepare(k, R, I, O, c->in[1]->dim[0], CUDA_MM_ROWS);
}

/* dW_e = x^T dy, or its transpose dy^T x where the weight is [O, I]: c is dense either way */
static mr_status wgrad_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct grouped *k = (struct grouped *)base;
    int io = is_io(c);
    int64_t R = c->in[0]->dim[0], I = c->in[0]->dim[1], O = c->in[1]->dim[1];
    (void)err;
    k->mm.add = 1;
    k->mm.a = (struct cuda_mat){ NULL, 1, I, 0, 0, 0 };
    k->mm.b = (struct cuda_mat){ NULL, O, 1, 0, 0, 0 };
    k->mm.c = (struct cuda_mat){ NULL, io ? O : 1, io ? 1 : I, I * O, 0, 0 };
    return prepare(k, I, O, R, c->in[3]->dim[0], CUDA_MM_INNER);
}

const struct op_row cuda_grouped_rows[] = {
    { "grouped_linear", "xxi>x", sizeof(struct grouped), forward_prepare, 0, 0 },
    { "grouped_linear.dgrad", "xxi>x", sizeof(struct grouped), dgrad_prepare, 0, 0 },
    { "grouped_linear.wgrad", "xxif>", sizeof(struct grouped), wgrad_prepare, 0, 0 },
    { 0 },
};
