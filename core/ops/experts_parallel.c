/* SPDX-License-Identifier: Apache-2.0
 *
 * experts_parallel.c - routed rows on their way to the ranks that have their experts, and back.
 * N ranks hold E experts, rank n the E/N from n E/N on. Each has R rows sorted by expert, and so
 * by rank; no rank knows more than its own offsets at first (GShard, Lepikhin et al. 2020):
 *
 *   ep_counts   all[n] = offsets of rank n                        (an all-gather)
 *   ep_send     y = rows for this rank's experts, by sending rank  (an all-to-all)
 *   take_rows   y[i] = index[i] < 0 ? 0 : x[index[i]]              (from that order to experts')
 *   ep_return   x = what became of the rows that were sent         (the all-to-all back)
 *   ep_plan     this rank's offsets by expert, and the two orders that take_rows goes between
 *   ep_window   of offsets over the rows of all ranks, those of this rank's experts
 *
 * ep_send and ep_return are each other's gradient, and so is take_rows with its inverse. How many
 * rows come is known on the device only; `bound` says how many there is room for, what lies behind
 * those that came is zeros. The reference loops of the three that talk are those of one rank.
 */
#include "core/ops/experts_parallel.h"
#include "core/ops/common.h"

#define EXCHANGE_ATTRS "ranks:i=1 index:i=0 "

bool mri_exchange_is(const mr_op_def *def, const mr_call *c)
{
    static const char *const talk[] = { "ep_counts", "ep_send", "ep_return" };
    for (size_t i = 0; i < sizeof talk / sizeof *talk; i++)
        if (!strcmp(def->id, talk[i]))
            return mr_attr_i(c, "ranks", 1) > 1;
    return false;
}

mr_status mri_exchange_check(const mri_exchange *x, mr_err *err)
{
    for (int64_t n = 0; n < x->ranks; n++) {
        const int32_t *own = x->all + n * (x->experts + 1);
        for (int64_t e = 0; e <= x->experts; e++)
            if (own[e] < (e ? own[e - 1] : 0) || (!e && own[0]))
                return mr_fail(err, MR_E_ARG, MR_BLAME_PLUGIN,
                               "offsets of rank %lld: [%lld] is %d, must ascend from 0",
                               (long long)n, (long long)e, own[e]);
    }
    for (int64_t to = 0; to < x->ranks; to++) {
        int64_t rows = 0;
        for (int64_t from = 0; from < x->ranks; from++)
            rows += mri_exchange_rows(x, from, to);
        if (rows <= x->bound)
            continue;
        mr_fail(err, MR_E_EXPERT_ROOM, MR_BLAME_USER,
                "the experts of rank %lld of %lld are sent %lld rows, there is room for %lld",
                (long long)to, (long long)x->ranks, (long long)rows, (long long)x->bound);
        mr_hint(err, "raise [mesh] dispatch_bound; 0 has room for all rows on one rank");
        return MR_E_EXPERT_ROOM;
    }
    return MR_OK;
}

static mr_status check_ranks(const mr_call *c, const char *op, int64_t width, mr_err *err)
{
    int64_t N = mr_attr_i(c, "ranks", 1), n = mr_attr_i(c, "index", 0);
    if (N < 1 || n < 0 || n >= N)
        return mri_op_fail(err, op, "index is %lld of %lld ranks", (long long)n, (long long)N);
    if (width && (width - 1) % N)
        return mri_op_fail(err, op, "%lld ranks must divide the %lld experts", (long long)N,
                           (long long)(width - 1));
    return MR_OK;
}

static mr_status check_rows(const mr_call *c, const char *op, const char *key, mr_err *err)
{
    int64_t n = mr_attr_i(c, key, 0);
    if (n >= 1 && n <= INT32_MAX)
        return MR_OK;
    return mri_op_fail(err, op, "%s is %lld, must be a number of rows", key, (long long)n);
}

static int64_t width_of(const mr_type *all) /* E+1, 0 before it is checked */
{
    return all && all->rank == 2 ? all->dim[1] : 0;
}

/* the loops of an op that talks: of one rank alone */
static mr_status alone(const mr_call *c, const char *op, mr_err *err)
{
    if (mr_attr_i(c, "ranks", 1) == 1)
        return MR_OK;
    return mr_fail(err, MR_E_COMM, MR_BLAME_HOST, "%s over %lld ranks runs in a world of them", op,
                   (long long)mr_attr_i(c, "ranks", 1));
}

static void moved_cost(const mr_call *c, mr_cost *cost)
{
    mri_cost(c, cost, 0, 0);
}

/* ---- ep_counts ---------------------------------------------------------------------------- */
static mr_status counts_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    const mr_type *t = mri_in(c, 0);
    mr_status st = check_ranks(c, "ep_counts", t && t->rank == 1 ? t->dim[0] : 0, err);
    return st ? st
              : mri_infer(c, out, err, "ep_counts", "offsets:i32[W] -> all:i32[N,W]",
                          MRI_GIVEN({ "N", mr_attr_i(c, "ranks", 1) }));
}

static mr_status counts_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    mr_status st = alone(c, "ep_counts", err);
    if (!st)
        memcpy(out[0].data, in[0].data, mr_bytes(c->in[0]));
    return st;
}

/* ---- ep_plan ------------------------------------------------------------------------------ */
static mr_status plan_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    int64_t width = width_of(mri_in(c, 0)), N = mr_attr_i(c, "ranks", 1);
    mr_status st = check_ranks(c, "ep_plan", width, err);
    if (!st)
        st = check_rows(c, "ep_plan", "bound", err);
    return st ? st
              : mri_infer(c, out, err, "ep_plan",
                          "all:i32[N,W] -> offsets:i32[L+1] order:i32[B] back:i32[B]",
                          MRI_GIVEN({ "N", N }, { "B", mr_attr_i(c, "bound", 0) },
                                    { "L", width ? (width - 1) / N : 0 }));
}

/* Received rows lie by rank, then by expert: expert e's are a piece of every rank's part. */
static mr_status plan_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    mri_exchange x = { in[0].data, c->in[0]->dim[0], mr_attr_i(c, "index", 0),
                       c->in[0]->dim[1] - 1, mr_attr_i(c, "bound", 0) };
    int32_t *offsets = out[0].data, *order = out[1].data, *back = out[2].data, sorted = 0;
    int64_t each = x.experts / x.ranks, first = x.index * each;
    mr_status st = mri_exchange_check(&x, err);
    if (st)
        return st;
    for (int64_t e = first; e < first + each; e++) {
        int32_t part = 0; /* where the rank's rows begin among those received */
        offsets[e - first] = sorted;
        for (int64_t n = 0; n < x.ranks; n++) {
            const int32_t *own = x.all + n * (x.experts + 1);
            for (int32_t r = own[e]; r < own[e + 1]; r++) {
                order[sorted] = part + r - own[first];
                back[order[sorted]] = sorted;
                sorted++;
            }
            part += own[first + each] - own[first];
        }
    }
    offsets[each] = sorted;
    for (int64_t i = sorted; i < x.bound; i++)
        order[i] = back[i] = -1;
    return MR_OK;
}

/* ---- ep_window ---------------------------------------------------------------------------- */
static mr_status window_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    const mr_type *t = mri_in(c, 0);
    int64_t width = t->rank == 1 ? t->dim[0] : 0, N = mr_attr_i(c, "ranks", 1);
    mr_status st = check_ranks(c, "ep_window", width, err);
    return st ? st
              : mri_infer(c, out, err, "ep_window", "offsets:i32[W] -> own:i32[L+1]",
                          MRI_GIVEN({ "L", width ? (width - 1) / N : 0 }));
}

static mr_status window_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    int64_t own = c->out[0]->dim[0] - 1;
    (void)err;
    memcpy(out[0].data, (const int32_t *)in[0].data + own * mr_attr_i(c, "index", 0),
           mr_bytes(c->out[0]));
    return MR_OK;
}

/* ---- ep_send, ep_return --------------------------------------------------------------------- */
/* rows of any shape: x's type, of `rows` rows */
static mr_status rows_shape(const mr_call *c, mr_type *const *out, const char *op, const char *key,
                            mr_err *err)
{
    const mr_type *x = mri_in(c, 0), *all = mri_in(c, 1);
    mr_status st = check_ranks(c, op, width_of(all), err);
    if (!st)
        st = check_rows(c, op, key, err);
    if (st)
        return st;
    if (!x->rank || !mr_is(all, "i32") || all->rank != 2 ||
        all->dim[0] != mr_attr_i(c, "ranks", 1))
        return mri_op_fail(err, op, "all must be i32 [ranks, experts + 1], and x have rows");
    *out[0] = *x;
    out[0]->dtype = mri_dtype_name(x->dtype);
    out[0]->dim[0] = mr_attr_i(c, key, 0);
    return MR_OK;
}

static mr_status send_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    return rows_shape(c, out, "ep_send", "bound", err);
}

static mr_status return_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    return rows_shape(c, out, "ep_return", "rows", err);
}

static mr_status rows_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, const char *op,
                          mr_err *err)
{
    mr_status st = alone(c, op, err);
    int64_t rows = c->in[0]->dim[0], room = c->out[0]->dim[0], width = c->in[1]->dim[1];
    mri_exchange x = { in[1].data, 1, 0, width - 1, rows > room ? room : rows };
    if (!st)
        st = mri_exchange_check(&x, err);
    if (st)
        return st;
    size_t n = (size_t)x.all[width - 1] * (mr_bytes(c->in[0]) / (size_t)rows);
    memcpy(out[0].data, in[0].data, n);
    memset((char *)out[0].data + n, 0, mr_bytes(c->out[0]) - n);
    return MR_OK;
}

static mr_status send_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    return rows_ref(c, in, out, "ep_send", err);
}

static mr_status return_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    return rows_ref(c, in, out, "ep_return", err);
}

static mr_status exchange_vjp(const mr_vjp *v, const char *back, const char *key)
{
    if (v->dout[0] && mri_need(v, 0))
        v->din[0] = mri_emit(v, back, MR_IN(v->dout[0], v->in[1]),
                             MR_AT(mr_ai("ranks", mr_attr_i(v->call, "ranks", 1)),
                                   mr_ai("index", mr_attr_i(v->call, "index", 0)),
                                   mr_ai(key, v->call->in[0]->dim[0])));
    return MR_OK;
}

static mr_status send_vjp(const mr_vjp *v, mr_err *err)
{
    (void)err;
    return exchange_vjp(v, "ep_return", "rows");
}

static mr_status return_vjp(const mr_vjp *v, mr_err *err)
{
    (void)err;
    return exchange_vjp(v, "ep_send", "bound");
}

/* ---- take_rows ------------------------------------------------------------------------------ */
static mr_status take_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    const mr_type *x = mri_in(c, 0), *index = mri_in(c, 1), *inverse = mri_in(c, 2);
    if (!x->rank || index->rank != 1 || inverse->rank != 1 || !mr_is(index, "i32") ||
        !mr_is(inverse, "i32") || inverse->dim[0] != x->dim[0])
        return mri_op_fail(err, "take_rows", "index must be i32 [rows of y], inverse i32 [rows of "
                           "x]");
    *out[0] = *x;
    out[0]->dtype = mri_dtype_name(x->dtype);
    out[0]->dim[0] = index->dim[0];
    return MR_OK;
}

static mr_status take_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    int64_t M = c->in[0]->dim[0];
    size_t row = mr_bytes(c->in[0]) / (size_t)M;
    const int32_t *index = in[1].data;
    for (int64_t i = 0; i < c->out[0]->dim[0]; i++) {
        char *y = (char *)out[0].data + (size_t)i * row;
        if (index[i] >= M)
            return mri_op_fail(err, "take_rows", "index[%lld] is %d, x has %lld rows", (long long)i,
                               index[i], (long long)M);
        if (index[i] < 0)
            memset(y, 0, row);
        else
            memcpy(y, (const char *)in[0].data + (size_t)index[i] * row, row);
    }
    return MR_OK;
}

static mr_status take_vjp(const mr_vjp *v, mr_err *err)
{
    (void)err;
    if (v->dout[0] && mri_need(v, 0))
        v->din[0] = mri_emit(v, "take_rows", MR_IN(v->dout[0], v->in[2], v->in[1]), MR_NOAT);
    return MR_OK;
}

static void take_cost(const mr_call *c, mr_cost *cost) /* what y needs of x, not all of x */
{
    cost->flops = 0;
    cost->bytes = 2 * (double)mr_bytes(c->out[0]) + (double)mr_bytes(c->in[1]);
}

const mr_op_def mri_ops_experts_parallel[] = {
    { MRI_OP, .id = "ep_counts", .flags = MR_OP_NO_VJP,
      .doc = "all[n] = offsets of rank n: how the rows of every rank lie by expert",
      .sig = "offsets -> all", .attrs = EXCHANGE_ATTRS, .shape = counts_shape, .ref = counts_ref,
      .cost = moved_cost, .cases = MRI_CASES("offsets=i32[4]part:9") },
    { MRI_OP, .id = "ep_plan", .flags = MR_OP_NO_VJP,
      .doc = "where the rows that a rank's experts receive begin by expert, and the orders between "
             "that of the senders and that of the experts",
      .sig = "all -> offsets order back", .attrs = EXCHANGE_ATTRS "bound:i", .shape = plan_shape,
      .ref = plan_ref, .cost = moved_cost,
      .cases = MRI_CASES("all=i32[1,4]{0,4,4,9} @bound=9",
                         "all=i32[2,5]{0,2,3,5,6,0,1,1,4,7} @ranks=2 @index=1 @bound=13",
                         "all=i32[2,3]{0,0,3,0,0,4} @ranks=2 @index=0 @bound=7") },
    { MRI_OP, .id = "ep_window", .flags = MR_OP_NO_VJP,
      .doc = "own[i] = offsets[index E/ranks + i]: where the rows of this rank's experts lie",
      .sig = "offsets -> own", .attrs = EXCHANGE_ATTRS, .shape = window_shape, .ref = window_ref,
      .cost = moved_cost,
      .cases = MRI_CASES("offsets=i32[7]part:9 @ranks=3 @index=1", "offsets=i32[4]part:9") },
    { MRI_OP, .id = "ep_send",
      .doc = "y = the rows of every rank that are for this rank's experts, by rank; then zeros",
      .sig = "x all -> y", .attrs = EXCHANGE_ATTRS "bound:i", .shape = send_shape, .vjp = send_vjp,
      .ref = send_ref, .cost = moved_cost,
      .cases = MRI_CASES("x=F[7,3] all=i32[1,4]{0,4,4,7} @bound=9",
                         "x=F[5] all=i32[1,3]{0,0,5} @bound=5") },
    { MRI_OP, .id = "ep_return",
      .doc = "x = the rows that this rank sent, from where they were sent to; then zeros",
      .sig = "y all -> x", .attrs = EXCHANGE_ATTRS "rows:i", .shape = return_shape,
      .vjp = return_vjp, .ref = return_ref, .cost = moved_cost,
      .cases = MRI_CASES("y=F[9,3] all=i32[1,4]{0,4,4,7} @rows=7") },
    { MRI_OP, .id = "take_rows",
      .doc = "y[i] = index[i] < 0 ? 0 : x[index[i]]; no row is taken twice; inverse is index's",
      .sig = "x index inverse -> y", .shape = take_shape, .vjp = take_vjp, .ref = take_ref,
      .cost = take_cost,
      .cases = MRI_CASES("x=F[4,3] index=i32[3]{3,-1,0} inverse=i32[4]{2,-1,-1,0}",
                         "x=F[7,33] index=i32[7]perm inverse=i32[7]inv:index",
                         "x=F[3] index=i32[5]{-1,2,-1,0,1} inverse=i32[3]{3,4,1}") },
    MRI_OPS_END
};
