/* SPDX-License-Identifier: Apache-2.0
 *
 * linear_fp8.c - products of 8-bit floats through cuBLASLt, which on Hopper takes both operands
 * along the summed dim and dims that are multiples of 16; others go to the plain kernel of
 * fp8.cu. Sums of forward products are kept in the tensor core's own accumulators; those of
 * gradients (an operand in e5m2, or a main gradient) are added up in f32 every few steps, as
 * Transformer Engine does. Floor: 2 T I O flops at 1979 TFLOP/s (about 1330 reached by the library
 * at 8192 cubed, at the chip's power limit).
 */
#include "fp8.h"
#include "lt.h"

struct linear_fp8 {
    struct kernel base;
    struct cuda_fp8_product p; /* operands' memory is filled in by run() */
    struct cuda_lt_product lt;
    int with_lt, to_input;     /* to_input: c is operand 4, a main gradient */
};

static mr_status run(const struct kernel *base, const mr_buf *in, const mr_buf *out, void *ws,
                     cudaStream_t stream, mr_err *err)
{
    const struct linear_fp8 *k = (const struct linear_fp8 *)base;
    struct cuda_fp8_product p = k->p;
    p.a = in[0].data;
    p.a_scale = in[1].data;
    p.b = in[2].data;
    p.b_scale = in[3].data;
    p.c = k->to_input ? in[4].data : out[0].data;
    p.bias = k->to_input || base->n_in < 5 ? NULL : in[4].data;
    if (k->with_lt)
        return cuda_lt_run_scaled(base->dev->lt, &k->lt, p.a, p.a_scale, p.b, p.b_scale, p.c,
                                  p.bias, ws, stream, err);
    cudaError_t e = cuda_fp8_plain(&p, stream);
    return e ? cuda_fail(err, e, base->op) : MR_OK;
}

static mr_status prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct linear_fp8 *k = (struct linear_fp8 *)base;
    struct cuda_fp8_product *p = &k->p;
    const mr_type *a = c->in[0], *b = c->in[2];
    (void)err;
    k->to_input = c->n_out == 0;
    p->rows = mr_rows(a);
    p->inner = mr_last(a);
    p->cols = b->dim[0];
    p->a_e5m2 = mr_is(a, "f8e5m2");
    p->b_e5m2 = mr_is(b, "f8e5m2");
    p->add = k->to_input;
    p->c_kind = k->to_input ? CUDA_F32 : base->out_kind[0];
    int bias = !k->to_input && base->n_in > 4 && (base->present >> 4 & 1);
    p->bias_kind = bias ? base->in_kind[4] : CUDA_F32;
    base->run = run;
    base->impl = "plain fp8";
    base->est_us = 2e6 * (double)p->rows * (double)p->cols * (double)p->inner / 1979e12;
    if (!base->dev->lt || base->dev->cc < 89 || (p->rows | p->cols | p->inner) % 16 ||
        (p->a_e5m2 && p->b_e5m2) || (bias && p->bias_kind != CUDA_BF16))
        return MR_OK;
    struct cuda_lt_shape s = {
        .rows = p->rows, .cols = p->cols, .inner = p->inner, .tb = 1,
        .kind = p->a_e5m2 ? CUDA_E5M2 : CUDA_E4M3, .kind_b = p->b_e5m2 ? CUDA_E5M2 : CUDA_E4M3,
        .kind_c = p->c_kind, .bias = bias, .beta = p->add ? 1.0f : 0.0f,
        .deterministic = (base->asked & MR_QUERY_DETERMINISTIC) != 0,
        .fast = !p->a_e5m2 && !p->b_e5m2 && p->c_kind == CUDA_BF16,
    };
    if (cuda_lt_plan(base->dev->lt, &s, &k->lt, NULL) == MR_OK) {
        k->with_lt = 1;
        base->workspace = k->lt.workspace;
        base->est_us = k->lt.us > 0 ? k->lt.us : base->est_us;
        base->impl = "cublaslt fp8";
    }
    return MR_OK;
}

const struct op_row cuda_linear_fp8_rows[] = {
    { "linear.fp8", "qfqfX>x", sizeof(struct linear_fp8), prepare, 0, 0 },
    { "linear.fp8.wgrad", "qfqff>", sizeof(struct linear_fp8), prepare, 0, 0 },
    { "linear.fp8.wgrad.first", "qfqf>f", sizeof(struct linear_fp8), prepare, 0, 0 },
    { 0 },
};
