/* SPDX-License-Identifier: Apache-2.0
 *
 * route_drop.c - route_plan where an expert takes at most `capacity` tokens (GShard, Lepikhin et
 * al. 2020). Of those that chose it an expert keeps, by policy, the ones with the largest
 * probabilities (ties to the earlier token), or the earliest. A pair that is dropped counts for
 * nothing: its probability is 0 and no expert has its row, which lies behind all others, in the
 * order of pairs. So rows and slots stay permutations, and what is of a dropped row is zeros.
 *
 *   route_drop      kept = probs of the kept pairs, else 0; rows, slots, offsets as of route_plan
 *   route_drop.bwd  dprobs = dkept of the kept pairs, else 0
 *   route_pad       orders between rows as offsets say and experts with exactly capacity rows each
 */
#include "core/ops/common.h"

static mr_status drop_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    const mr_type *index = mri_in(c, 1);
    int64_t E = mr_attr_i(c, "experts", 0), C = mr_attr_i(c, "capacity", 0), R;
    if (E < 1 || E > INT32_MAX - 1 || C < 1)
        return mri_op_fail(err, "route_drop", "experts is %lld, capacity %lld, must be 1 or more",
                           (long long)E, (long long)C);
    R = index->rank == 2 ? mr_numel(index) : 0;
    if (R > INT32_MAX)
        return mri_op_fail(err, "route_drop", "%lld routed rows exceed the 2^31 - 1 that an index "
                           "reaches", (long long)R);
    return mri_infer(c, out, err, "route_drop",
                     "probs:F[T,K] index:i32[T,K] -> kept:F[T,K] rows:i32[R] slots:i32[R] "
                     "offsets:i32[X+1]", MRI_GIVEN({ "R", R }, { "X", E }));
}

typedef struct candidate {
    double prob;
    int32_t pair;
} candidate;

static int stronger(const void *a, const void *b)
{
    const candidate *x = a, *y = b;
    if (x->prob != y->prob)
        return x->prob > y->prob ? -1 : 1;
    return (x->pair > y->pair) - (x->pair < y->pair);
}

/* keep[i] for the pairs of expert e; room: of as many candidates as there are pairs */
static void choose(const mr_call *c, mri_view probs, const int32_t *index, int32_t e, uint8_t *keep,
                   candidate *room)
{
    int64_t R = mr_numel(c->in[1]), C = mr_attr_i(c, "capacity", 0), n = 0;
    for (int32_t i = 0; i < R; i++)
        if (index[i] == e)
            room[n++] = (candidate){ mri_get(probs, i), i };
    if (n > C && !strcmp(mr_attr_s(c, "policy", "probs"), "probs"))
        qsort(room, (size_t)n, sizeof *room, stronger);
    for (int64_t j = 0; j < n && j < C; j++)
        keep[room[j].pair] = 1;
}

static mr_status drop_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    int64_t R = mr_numel(c->in[1]), E = mr_attr_i(c, "experts", 0);
    mri_view probs = mri_in_view(c, in, 0), kept = mri_out_view(c, out, 0);
    const int32_t *index = in[1].data;
    int32_t *rows = out[1].data, *slots = out[2].data, *offsets = out[3].data, at = 0;
    uint8_t *keep = mri_alloc((size_t)R + 1);
    candidate *room = mri_alloc(((size_t)R + 1) * sizeof *room);
    mr_status st = MR_OK;
    for (int64_t i = 0; i < R; i++)
        if (index[i] < 0 || index[i] >= E) {
            st = mri_op_fail(err, "route_drop", "routed row %lld has expert %d of %lld",
                             (long long)i, index[i], (long long)E);
            goto out;
        }
    for (int32_t e = 0; e <= E; e++) { /* the last: those that no expert keeps */
        offsets[e] = at;
        if (e < E)
            choose(c, probs, index, e, keep, room);
        for (int32_t i = 0; i < R; i++)
            if (e < E ? index[i] == e && keep[i] : !keep[i]) {
                rows[at] = i;
                slots[i] = at++;
            }
    }
    for (int64_t i = 0; i < R; i++)
        mri_put(kept, i, keep[i] ? mri_get(probs, i) : 0);
out:
    free(keep);
    free(room);
    return st;
}

static mr_status drop_vjp(const mr_vjp *v, mr_err *err)
{
    (void)err;
    if (v->dout[0] && mri_need(v, 0))
        v->din[0] = mri_emit(v, "route_drop.bwd", MR_IN(v->dout[0], v->out[2], v->out[3]), MR_NOAT);
    return MR_OK;
}

static mr_status bwd_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    return mri_infer(c, out, err, "route_drop.bwd",
                     "dkept:F[T,K] slots:i32[T*K] offsets:i32[N] -> dprobs:F[T,K]", NULL);
}

static mr_status bwd_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    mri_view d = mri_in_view(c, in, 0), dprobs = mri_out_view(c, out, 0);
    const int32_t *slots = in[1].data, *offsets = in[2].data;
    int32_t kept = offsets[c->in[2]->dim[0] - 1];
    (void)err;
    for (int64_t i = 0; i < mr_numel(c->in[0]); i++)
        mri_put(dprobs, i, slots[i] < kept ? mri_get(d, i) : 0);
    return MR_OK;
}

/* ---- route_pad ------------------------------------------------------------------------------ */
static mr_status pad_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    const mr_type *t = mri_in(c, 0);
    int64_t C = mr_attr_i(c, "capacity", 0), R = mr_attr_i(c, "rows", 0);
    int64_t E = t->rank == 1 ? t->dim[0] - 1 : 0;
    if (E < 1 || C < 1 || C > INT32_MAX / E || R < 1 || R > INT32_MAX)
        return mri_op_fail(err, "route_pad", "%lld experts of capacity %lld and %lld rows: each is "
                           "1 or more, and an index reaches them", (long long)E, (long long)C,
                           (long long)R);
    return mri_infer(c, out, err, "route_pad",
                     "offsets:i32[X+1] -> padded:i32[X+1] index:i32[P] inverse:i32[R]",
                     MRI_GIVEN({ "X", E }, { "P", E * C }, { "R", R }));
}

static mr_status pad_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    int64_t E = c->in[0]->dim[0] - 1, C = mr_attr_i(c, "capacity", 0), R = mr_attr_i(c, "rows", 0);
    const int32_t *offsets = in[0].data;
    int32_t *padded = out[0].data, *index = out[1].data, *inverse = out[2].data;
    for (int64_t r = 0; r < R; r++)
        inverse[r] = -1;
    for (int64_t e = 0; e < E; e++) {
        if (offsets[e + 1] - offsets[e] > C || offsets[e] < 0 || offsets[e + 1] > R)
            return mri_op_fail(err, "route_pad", "expert %lld has rows %d..%d of %lld, capacity "
                               "%lld", (long long)e, offsets[e], offsets[e + 1], (long long)R,
                               (long long)C);
        padded[e] = (int32_t)(e * C);
        for (int64_t i = 0; i < C; i++) {
            bool there = i < offsets[e + 1] - offsets[e];
            index[e * C + i] = there ? offsets[e] + (int32_t)i : -1;
            if (there)
                inverse[offsets[e] + i] = (int32_t)(e * C + i);
        }
    }
    padded[E] = (int32_t)(E * C);
    return MR_OK;
}

static void drop_cost(const mr_call *c, mr_cost *cost)
{
    mri_cost(c, cost, 0, 0);
}

const mr_op_def mri_ops_route_drop[] = {
    { MRI_OP, .id = "route_drop",
      .doc = "the order of routed rows by expert, each of which takes at most capacity of them; "
             "kept = probs, 0 where dropped",
      .sig = "probs index -> kept rows slots offsets",
      .attrs = "experts:i capacity:i policy:s=probs|position", .shape = drop_shape,
      .vjp = drop_vjp, .ref = drop_ref, .cost = drop_cost,
      .cases = MRI_CASES("probs=F[5,2]pos index=i32[5,2]{0,1,0,2,0,1,1,2,0,2} @experts=4 "
                         "@capacity=2",
                         "probs=F[6,1]pos index=i32[6,1]{2,2,2,0,2,0} @experts=3 @capacity=3 "
                         "@policy=position",
                         "probs=F[150,2]pos index=i32[150,2]<5 @experts=5 @capacity=41") },
    { MRI_OP, .id = "route_drop.bwd", .flags = MR_OP_NO_VJP,
      .doc = "dprobs = dkept of the pairs that were kept, else 0",
      .sig = "dkept slots offsets -> dprobs", .shape = bwd_shape, .ref = bwd_ref,
      .cost = drop_cost,
      .cases = MRI_CASES("dkept=F[4,2] slots=i32[8]perm offsets=i32[4]{0,2,2,5}") },
    { MRI_OP, .id = "route_pad", .flags = MR_OP_NO_VJP,
      .doc = "orders by which take_rows gives every expert exactly capacity rows, zeros behind its "
             "own, and takes them off again",
      .sig = "offsets -> padded index inverse", .attrs = "capacity:i rows:i", .shape = pad_shape,
      .ref = pad_ref, .cost = drop_cost,
      .cases = MRI_CASES("offsets=i32[4]{0,2,2,5} @capacity=3 @rows=7",
                         "offsets=i32[6]part:9 @capacity=9 @rows=9") },
    MRI_OPS_END
};
