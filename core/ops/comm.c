/* SPDX-License-Identifier: Apache-2.0
 *
 * comm.c - collectives as ops of a program, over one group of ranks, along the first dim:
 *     comm.copy            y = x; the gradient is summed over the ranks
 *     comm.reduce          y = sum of every rank's x; the gradient passes
 *     comm.gather          y = every rank's x, in order, end to end
 *     comm.reduce_scatter  y = this rank's part of the sum of every rank's x
 *     comm.slice           y = this rank's part of x, which all ranks have; nothing is sent
 *     comm.shift           y = x of the rank `by` before this one; point to point, round a ring
 *     comm.exchange        y = block n from rank n, x being a block for every rank; its own gradient
 * and, for what is cut along its last dim, comm.pack [A, n*C] -> [n*A, C], comm.unpack back.
 *
 * Invariant: gradients of values that all ranks have alike are alike too. So the gradient of a
 * gathered value is either the same on every rank (grad = slice: each takes its part) or a
 * partial sum (grad = sum: reduce_scatter).
 *
 * What one rank can do alone its reference loops do; the others are copies with ranks = 1, and
 * an error otherwise: the world runs them (core/run/launch.c).
 */
#include "core/ops/common.h"

#define GROUP_ATTRS "group:s ranks:i index:i"

static int64_t ranks_of(const mr_call *c)
{
    return mr_attr_i(c, "ranks", 1);
}

/* x with its first dim times `mul` and by `div` */
static mr_status scaled(const mr_call *c, const char *op, int64_t mul, int64_t div,
                        mr_type *const *out, mr_err *err)
{
    int64_t n = ranks_of(c), index = mr_attr_i(c, "index", 0);
    const mr_type *x = c->in[0];
    if (n < 1 || index < 0 || index >= n)
        return mri_op_fail(err, op, "index is %lld of ranks %lld, must be below it",
                           (long long)index, (long long)n);
    if (!x->rank || x->dim[0] % div)
        return mri_op_fail(err, op, "x has %lld rows, ranks = %lld must divide them",
                           (long long)(x->rank ? x->dim[0] : 1), (long long)div);
    if (c->n_out) {
        *out[0] = *x;
        out[0]->size = sizeof *out[0];
        out[0]->dtype = mri_dtype_name(x->dtype);
        out[0]->dim[0] = x->dim[0] / div * mul;
    }
    return 0;
}

static mr_status alike_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    return scaled(c, "comm", 1, 1, out, err);
}

static mr_status shift_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    int64_t by = mr_attr_i(c, "by", 1);
    if (by < 0 || by > ranks_of(c))
        return mri_op_fail(err, "comm.shift", "by is %lld of ranks %lld, must not be more",
                           (long long)by, (long long)ranks_of(c));
    return scaled(c, "comm.shift", 1, 1, out, err);
}

static mr_status gather_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    return scaled(c, "comm.gather", ranks_of(c), 1, out, err);
}

static mr_status exchange_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    return scaled(c, "comm.exchange", ranks_of(c), ranks_of(c), out, err);
}

static mr_status scatter_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    return scaled(c, "comm.reduce_scatter or comm.slice", 1, ranks_of(c), out, err);
}

/* ---- gradients ---------------------------------------------------------------------------- */

static mr_val backward(const mr_vjp *v, const char *id, const char *grad)
{
    mr_attr at[4];
    uint32_t n = 0;
    static const char *const keys[] = { "group", "ranks", "index" };
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        at[n++] = *mr_attr_find(v->call, keys[i]);
    if (grad)
        at[n++] = mr_as("grad", grad);
    return mri_emit(v, id, MR_IN(v->dout[0]), at, n);
}

static mr_status copy_vjp(const mr_vjp *v, mr_err *err)
{
    (void)err;
    if (v->dout[0] && mri_need(v, 0))
        v->din[0] = backward(v, "comm.reduce", NULL);
    return 0;
}

static mr_status reduce_vjp(const mr_vjp *v, mr_err *err)
{
    (void)err;
    if (mri_need(v, 0))
        v->din[0] = v->dout[0];
    return 0;
}

static mr_status gather_vjp(const mr_vjp *v, mr_err *err)
{
    bool sum = !strcmp(mr_attr_s(v->call, "grad", "sum"), "sum");
    (void)err;
    if (v->dout[0] && mri_need(v, 0))
        v->din[0] = backward(v, sum ? "comm.reduce_scatter" : "comm.slice", NULL);
    return 0;
}

static mr_status scatter_vjp(const mr_vjp *v, mr_err *err)
{
    (void)err;
    if (v->dout[0] && mri_need(v, 0))
        v->din[0] = backward(v, "comm.gather", "slice");
    return 0;
}

static mr_status shift_vjp(const mr_vjp *v, mr_err *err)
{
    int64_t n = ranks_of(v->call), by = mr_attr_i(v->call, "by", 1);
    (void)err;
    if (v->dout[0] && mri_need(v, 0))
        v->din[0] = mri_emit(v, "comm.shift", MR_IN(v->dout[0]),
                             MR_AT(*mr_attr_find(v->call, "group"), mr_ai("ranks", n),
                                   *mr_attr_find(v->call, "index"), mr_ai("by", (n - by) % n)));
    return 0;
}

static mr_status exchange_vjp(const mr_vjp *v, mr_err *err)
{
    (void)err;
    if (v->dout[0] && mri_need(v, 0))
        v->din[0] = backward(v, "comm.exchange", NULL);
    return 0;
}

/* ---- reference loops ---------------------------------------------------------------------- */

static mr_status alone(const mr_call *c, mr_err *err)
{
    if (ranks_of(c) == 1)
        return 0;
    return mr_fail(err, MR_E_COMM, MR_BLAME_HOST,
                   "a collective over %lld ranks has no reference loop: the world runs it",
                   (long long)ranks_of(c));
}

static mr_status copy_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    (void)err;
    memcpy(out[0].data, in[0].data, mr_bytes(c->in[0]));
    return 0;
}

static mr_status world_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    mr_status st = alone(c, err);
    return st ? st : copy_ref(c, in, out, err);
}

static mr_status slice_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    size_t part = mr_bytes(c->out[0]);
    (void)err;
    memcpy(out[0].data, (char *)in[0].data + (size_t)mr_attr_i(c, "index", 0) * part, part);
    return 0;
}

static void comm_cost(const mr_call *c, mr_cost *cost)
{
    mri_cost(c, cost, 0, 0);
}

static void slice_cost(const mr_call *c, mr_cost *cost)
{
    cost->flops = 0;
    cost->bytes = 2 * (double)mr_bytes(c->out[0]);
}

/* ---- pack, unpack -------------------------------------------------------------------------- */

static mr_status pack_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    int64_t n = ranks_of(c), C = n > 0 ? mr_last(c->in[0]) / n : 0;
    if (n < 1 || mr_last(c->in[0]) % n)
        return mri_op_fail(err, "comm.pack", "ranks is %lld, must divide the width of x, %lld",
                           (long long)n, (long long)mr_last(c->in[0]));
    return mri_infer(c, out, err, "comm.pack", "x:F[A,W] -> y:F[N*A,C]",
                     MRI_GIVEN({ "N", n }, { "C", C }));
}

static mr_status unpack_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    int64_t n = ranks_of(c), rows = c->in[0]->rank ? c->in[0]->dim[0] : 0;
    if (n < 1 || rows % n)
        return mri_op_fail(err, "comm.unpack", "ranks is %lld, must divide the %lld rows of x",
                           (long long)n, (long long)rows);
    return mri_infer(c, out, err, "comm.unpack", "x:F[R,C] -> y:F[A,N*C]",
                     MRI_GIVEN({ "N", n }, { "A", rows / n }));
}

static mr_status pack_vjp(const mr_vjp *v, mr_err *err)
{
    (void)err;
    if (v->dout[0] && mri_need(v, 0))
        v->din[0] = mri_emit(v, "comm.unpack", MR_IN(v->dout[0]), MR_AT(v->call->attr[0]));
    return 0;
}

static mr_status unpack_vjp(const mr_vjp *v, mr_err *err)
{
    (void)err;
    if (v->dout[0] && mri_need(v, 0))
        v->din[0] = mri_emit(v, "comm.pack", MR_IN(v->dout[0]), MR_AT(v->call->attr[0]));
    return 0;
}

/* rows of `wide` [A, n*C] in pieces of C, and of `tall` [n*A, C] */
static void exchange(const mr_type *tall, char *t, char *w, int64_t n, bool to_tall)
{
    int64_t A = tall->dim[0] / n;
    size_t piece = (size_t)tall->dim[1] * mr_dtype_bytes(tall->dtype);
    for (int64_t r = 0; r < n; r++)
        for (int64_t a = 0; a < A; a++) {
            char *in_tall = t + (size_t)(r * A + a) * piece, *in_wide = w + (size_t)(a * n + r) * piece;
            memcpy(to_tall ? in_tall : in_wide, to_tall ? in_wide : in_tall, piece);
        }
}

static mr_status pack_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    (void)err;
    exchange(c->out[0], out[0].data, in[0].data, ranks_of(c), true);
    return 0;
}

static mr_status unpack_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    (void)err;
    exchange(c->in[0], in[0].data, out[0].data, ranks_of(c), false);
    return 0;
}

#define ALONE "@group=tp @ranks=1 @index=0"
const mr_op_def mri_ops_comm[] = {
    { MRI_OP, .id = "comm.copy", .doc = "y = x; backward: the gradients of all ranks, summed",
      .sig = "x -> y", .attrs = GROUP_ATTRS, .shape = alike_shape, .vjp = copy_vjp,
      .ref = copy_ref, .cost = comm_cost,
      .cases = MRI_CASES("x=F[7,5] " ALONE, "x=F[4] " ALONE) },
    { MRI_OP, .id = "comm.reduce", .doc = "y = the sum of every rank's x (all-reduce)",
      .sig = "x -> y", .attrs = GROUP_ATTRS, .shape = alike_shape, .vjp = reduce_vjp,
      .ref = world_ref, .cost = comm_cost, .cases = MRI_CASES("x=F[7,5] " ALONE) },
    { MRI_OP, .id = "comm.gather", .doc = "y = every rank's x, end to end (all-gather)",
      .sig = "x -> y", .attrs = GROUP_ATTRS " grad:s=sum|slice", .shape = gather_shape,
      .vjp = gather_vjp, .ref = world_ref, .cost = comm_cost,
      .cases = MRI_CASES("x=F[7,5] " ALONE, "x=F[7,5] @grad=slice " ALONE) },
    { MRI_OP, .id = "comm.reduce_scatter", .doc = "y = this rank's part of the sum of every rank's x",
      .sig = "x -> y", .attrs = GROUP_ATTRS, .shape = scatter_shape, .vjp = scatter_vjp,
      .ref = world_ref, .cost = comm_cost, .cases = MRI_CASES("x=F[7,5] " ALONE) },
    { MRI_OP, .id = "comm.slice", .doc = "y = this rank's part of x, which is the same on all",
      .sig = "x -> y", .attrs = GROUP_ATTRS, .shape = scatter_shape, .vjp = scatter_vjp,
      .ref = slice_ref, .cost = slice_cost,
      .cases = MRI_CASES("x=F[7,5] " ALONE) },
    { MRI_OP, .id = "comm.exchange",
      .doc = "y = the block that every rank has for this one, in order (all-to-all)",
      .sig = "x -> y", .attrs = GROUP_ATTRS, .shape = exchange_shape, .vjp = exchange_vjp,
      .ref = world_ref, .cost = comm_cost, .cases = MRI_CASES("x=F[7,5] " ALONE) },
    { MRI_OP, .id = "comm.shift", .doc = "y = x of the rank `by` before this one, in a ring",
      .sig = "x -> y", .attrs = GROUP_ATTRS " by:i=1", .shape = shift_shape, .vjp = shift_vjp,
      .ref = world_ref, .cost = comm_cost, .cases = MRI_CASES("x=F[7,5] " ALONE) },
    { MRI_OP, .id = "comm.pack", .doc = "the n parts of every row, as n blocks of rows",
      .sig = "x -> y", .attrs = "ranks:i", .shape = pack_shape, .vjp = pack_vjp, .ref = pack_ref,
      .cost = comm_cost, .cases = MRI_CASES("x=F[7,6] @ranks=3", "x=F[33,130] @ranks=2") },
    { MRI_OP, .id = "comm.unpack", .doc = "n blocks of rows, end to end in every row",
      .sig = "x -> y", .attrs = "ranks:i", .shape = unpack_shape, .vjp = unpack_vjp,
      .ref = unpack_ref, .cost = comm_cost,
      .cases = MRI_CASES("x=F[6,5] @ranks=3", "x=F[66,65] @ranks=2") },
    MRI_OPS_END
};
