/* SPDX-License-Identifier: Apache-2.0
 *
 * linear.c - linear and its two gradients, by the library or by this plugin's own kernel,
 * which converts bf16 while it packs. Weight gradients add to their f32 accumulator in place.
 */
#include "gemm.h"
#include "mm.h"

enum { K_BLOCK = 1024 }; /* rows of a weight gradient that are summed at a time */

struct linear {
    struct kernel base;
    int64_t rows, in, out; /* T, I, O */
    int has_bias;
    enum { OWN, SGEMM, PLAN, EXACT } by;
    struct cpu_matmul *plan;
    uint64_t room; /* of a thread, OWN */
};

#define SELF const struct linear *k = (const struct linear *)base
#define NO_BIAS ((arr){ 0 })

/* C[M,N] over the threads: by columns if there are enough of them, else by rows. */
static void product(const struct linear *k, int64_t M, int64_t N, int64_t K, struct mat A,
                    struct mat B, arr C, int acc, arr bias, void *ws)
{
    int parts = cpu_parts(&k->base, M * N * K, 32768);
    int by_columns = M <= THIN || N >= (int64_t)parts * 4 * W;
#pragma omp parallel for schedule(static, 1) if (parts > 1)
    for (int p = 0; p < parts; p++) {
        void *room = (char *)ws + (uint64_t)p * k->room;
        int64_t lo, hi;
        cpu_range(by_columns ? N : M, by_columns ? 2 * W : 1, p, parts, &lo, &hi);
        if (lo == hi)
            continue;
        if (k->by == EXACT && by_columns)
            mm_exact(M, hi - lo, K, A, mat_at(B, 0, lo), arr_at(C, lo), N, acc,
                     bias.p ? arr_at(bias, lo) : bias);
        else if (k->by == EXACT)
            mm_exact(hi - lo, N, K, mat_at(A, lo, 0), B, arr_at(C, lo * N), N, acc, bias);
        else if (by_columns)
            mm_packed(M, hi - lo, K, A, mat_at(B, 0, lo), arr_at(C, lo), N, acc,
                      bias.p ? arr_at(bias, lo) : bias, room);
        else
            mm_packed(hi - lo, N, K, mat_at(A, lo, 0), B, arr_at(C, lo * N), N, acc, bias, room);
    }
}

static void fill_bias(const struct linear *k, float *y, arr bias)
{
    int parts = cpu_parts(&k->base, k->rows * k->out, 32768);
#pragma omp parallel for schedule(static, 1) if (parts > 1)
    for (int p = 0; p < parts; p++) {
        int64_t lo, hi;
        cpu_range(k->rows, 1, p, parts, &lo, &hi);
        for (int64_t t = lo; t < hi; t++)
            to_f32(y + t * k->out, bias, 0, k->out, k->out);
    }
}

static mr_status linear_run(const struct kernel *base, const mr_buf *in, const mr_buf *out,
                            void *ws, mr_err *err)
{
    SELF;
    arr x = in_arr(base, in, 0), w = in_arr(base, in, 1), y = out_arr(base, out, 0);
    arr bias = k->has_bias ? in_arr(base, in, 2) : NO_BIAS;
    if (k->by == PLAN)
        return cpu_matmul_run(k->plan, x.p, w.p, bias.p, y.p, ws, err);
    if (k->by == SGEMM) {
        if (k->has_bias)
            fill_bias(k, y.p, bias);
        return cpu_sgemm(0, 1, k->rows, k->out, k->in, x.p, k->in, w.p, k->in,
                         k->has_bias ? 1.0f : 0.0f, y.p, k->out, err);
    }
    product(k, k->rows, k->out, k->in, (struct mat){ x, k->in, 1 }, (struct mat){ w, 1, k->in }, y,
            0, bias, ws);
    return MR_OK;
}

static mr_status dgrad_run(const struct kernel *base, const mr_buf *in, const mr_buf *out, void *ws,
                           mr_err *err)
{
    SELF;
    arr dy = in_arr(base, in, 0), w = in_arr(base, in, 1), dx = out_arr(base, out, 0);
    if (k->by == PLAN)
        return cpu_matmul_run(k->plan, dy.p, w.p, NULL, dx.p, ws, err);
    if (k->by == SGEMM)
        return cpu_sgemm(0, 0, k->rows, k->in, k->out, dy.p, k->out, w.p, k->in, 0, dx.p, k->in,
                         err);
    product(k, k->rows, k->in, k->out, (struct mat){ dy, k->out, 1 }, (struct mat){ w, k->in, 1 },
            dx, 0, NO_BIAS, ws);
    return MR_OK;
}

static mr_status wgrad_run(const struct kernel *base, const mr_buf *in, const mr_buf *out, void *ws,
                           mr_err *err)
{
    SELF;
    arr dy = in_arr(base, in, 0), x = in_arr(base, in, 1), dw = in_arr(base, in, 2);
    (void)out;
    if (k->by == PLAN)
        return cpu_matmul_run(k->plan, dy.p, x.p, NULL, dw.p, ws, err);
    if (k->by == SGEMM)
        return cpu_sgemm(1, 0, k->out, k->in, k->rows, dy.p, k->out, x.p, k->in, 1, dw.p, k->in,
                         err);
    for (int64_t t = 0; t < k->rows; t += K_BLOCK)
        product(k, k->out, k->in, k->rows - t < K_BLOCK ? k->rows - t : K_BLOCK,
                (struct mat){ arr_at(dy, t * k->out), 1, k->out },
                (struct mat){ arr_at(x, t * k->in), k->in, 1 }, dw, 1, NO_BIAS, ws);
    return MR_OK;
}

/* ---- from types to kernels ---------------------------------------------------------------- */
static void linear_release(struct kernel *base)
{
    cpu_matmul_free(((struct linear *)base)->plan);
}

/* Some hundred rows of f32 on AVX2: sgemm is slowed by a weight that it reads transposed, and by
 * one whose rows lie a multiple of 4 KiB apart, until more rows share that effort; we pack it.
 * Where threads must share columns, each would pack all of it: then the library's is better. */
static int faster_than_sgemm(const struct linear *k, const struct cpu_product *p)
{
    int shape = p->m >= 128 && p->m < 1024 && p->k >= 512 && p->n >= 512;
    int slowed = p->b_rs == 1 || p->n % 1024 == 0;
    return W == 8 && shape && slowed && !p->add && p->n >= (int64_t)k->base.threads * 4 * W;
}

/* Who computes product p, whose operands are f32 or bf16:
 *   sums in double   small ones of f32: exact.c
 *   our own kernel   a few rows (they are bound by reading w), but f32 gradients; where it is
 *                    faster than sgemm; bf16 without native bf16; mixtures
 *   dnnl_sgemm       f32
 *   a oneDNN plan    bf16 with native bf16; everything it can, with matmul = onednn */
static mr_status choose(struct linear *k, const struct cpu_product *p, int a_bf, int b_bf)
{
    struct kernel *base = &k->base;
    int how = base->dev->matmul, f32 = !a_bf && !b_bf && !p->c_bf;
    /* rows of f32 that are added up by a few factors are read faster by the library */
    int thin = p->m <= THIN && (p->b_rs == 1 || !f32) && !p->add && how != CPU_MATMUL_ONEDNN;
    int depth = p->add && p->k > K_BLOCK ? K_BLOCK : (int)p->k;
    base->release = linear_release;
    k->by = OWN;
    if (f32 && how == CPU_MATMUL_AUTO && exact_pays(k->rows, k->in, k->out, p->k)) {
        k->by = EXACT;
        base->impl = "f64 sums";
        return MR_OK;
    }
    int ours = thin || how == CPU_MATMUL_OWN ||
               (f32 && how == CPU_MATMUL_AUTO && faster_than_sgemm(k, p));
    if (!ours && a_bf == b_bf && p->m && p->n && p->k) {
        if (how == CPU_MATMUL_ONEDNN || (a_bf && base->dev->bf16_dot))
            k->plan = cpu_matmul_make(base->dev->library, p, &base->workspace);
        k->by = k->plan ? PLAN : f32 ? SGEMM : OWN;
    }
    if (k->by != OWN) {
        base->impl = k->by == PLAN ? "onednn matmul" : "onednn sgemm";
        return MR_OK;
    }
    k->room = mm_room(depth);
    base->workspace = k->room * (uint64_t)base->threads;
    return MR_OK;
}

static mr_status linear_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct linear *k = (struct linear *)base;
    k->rows = mr_rows(c->in[0]);
    k->in = mr_last(c->in[0]);
    k->out = c->in[1]->dim[0];
    k->has_bias = c->n_in > 2 && c->in[2];
    base->run = linear_run;
    (void)err;
    struct cpu_product p = {
        .m = k->rows, .n = k->out, .k = k->in, .a_rs = k->in, .a_cs = 1, .b_rs = 1, .b_cs = k->in,
        .in_bf = base->in_bf[0], .c_bf = base->out_bf[0],
        .has_bias = k->has_bias, .bias_bf = base->in_bf[2],
    };
    return choose(k, &p, base->in_bf[0], base->in_bf[1]);
}

static mr_status dgrad_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct linear *k = (struct linear *)base;
    k->rows = mr_rows(c->in[0]);
    k->out = mr_last(c->in[0]);
    k->in = mr_last(c->in[1]);
    base->run = dgrad_run;
    (void)err;
    struct cpu_product p = {
        .m = k->rows, .n = k->in, .k = k->out, .a_rs = k->out, .a_cs = 1, .b_rs = k->in, .b_cs = 1,
        .in_bf = base->in_bf[0], .c_bf = base->out_bf[0],
    };
    return choose(k, &p, base->in_bf[0], base->in_bf[1]);
}

static mr_status wgrad_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct linear *k = (struct linear *)base;
    k->rows = mr_rows(c->in[0]);
    k->out = mr_last(c->in[0]);
    k->in = mr_last(c->in[1]);
    base->run = wgrad_run;
    (void)err;
    struct cpu_product p = {
        .m = k->out, .n = k->in, .k = k->rows, .a_rs = 1, .a_cs = k->out, .b_rs = k->in, .b_cs = 1,
        .in_bf = base->in_bf[0], .add = 1,
    };
    return choose(k, &p, base->in_bf[0], base->in_bf[1]);
}

const struct op_row ISA_NAME(linear_rows)[] = {
    { "linear", "xxX>x", sizeof(struct linear), linear_prepare },
    { "linear.dgrad", "xx>x", sizeof(struct linear), dgrad_prepare },
    { "linear.wgrad", "xxf>", sizeof(struct linear), wgrad_prepare },
    { 0 },
};
