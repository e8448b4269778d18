/* SPDX-License-Identifier: Apache-2.0
 *
 * router_bias.c - balance of experts without a loss (Wang et al. 2024; DeepSeek-V3; Megatron-LM's
 * expert bias): a router chooses by score + bias, and once a step the bias of an expert that had
 * less than the mean goes up by the rate, that of one that had more goes down.
 *
 *   route_load     load[e] += pairs (token, choice) of expert e, those that were dropped left out;
 *                  none where seed is 0: a blank micro-batch counts nothing
 *   balance_bias   bias[e] += rate sign(mean of load - load[e]), unless ok is 0
 *
 * Loads are whole numbers, exact in f32 up to 2^24 a step and expert, so their sums over
 * micro-batches and ranks depend on no order.
 */
#include "core/ops/common.h"

/* ---- route_load ----------------------------------------------------------------------------- */
static mr_status load_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    if (!mri_in(c, 1) != !mri_in(c, 2))
        return mri_op_fail(err, "route_load", "slots and offsets say together which pairs were "
                           "dropped: give both or none");
    return mri_infer(c, out, err, "route_load",
                     "index:i32[T,K] slots:i32[T*K] offsets:i32[W] seed:f32[1] load:f32[E] ->",
                     NULL);
}

static mr_status load_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    const int32_t *index = in[0].data, *slots = mri_in(c, 1) ? in[1].data : NULL;
    int32_t kept = slots ? ((const int32_t *)in[2].data)[c->in[2]->dim[0] - 1] : 0;
    int64_t E = c->in[4]->dim[0];
    float *load = in[4].data;
    (void)out;
    if (*(const float *)in[3].data == 0)
        return MR_OK;
    for (int64_t i = 0; i < mr_numel(c->in[0]); i++) {
        if (index[i] < 0 || index[i] >= E)
            return mri_op_fail(err, "route_load", "pair %lld has expert %d of %lld", (long long)i,
                               index[i], (long long)E);
        if (!slots || slots[i] < kept)
            load[index[i]] += 1;
    }
    return MR_OK;
}

static void load_cost(const mr_call *c, mr_cost *cost)
{
    mri_cost(c, cost, (double)mr_numel(c->in[0]), 1u << 4);
}

/* ---- balance_bias --------------------------------------------------------------------------- */
static mr_status bias_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    const mr_type *t = mri_in(c, 0);
    int64_t E = mr_attr_i(c, "experts", 0), S = t->rank == 2 ? t->dim[1] : 0;
    if (E < 1 || E > S)
        return mri_op_fail(err, "balance_bias", "experts is %lld, rows have %lld values",
                           (long long)E, (long long)S);
    return mri_infer(c, out, err, "balance_bias", "bias:f32[L,S] load:f32[L,S] ok:f32[1] ->", NULL);
}

static mr_status bias_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    int64_t L = c->in[0]->dim[0], S = c->in[0]->dim[1], E = mr_attr_i(c, "experts", 0);
    float rate = (float)mr_attr_f(c, "rate", 0);
    (void)out, (void)err;
    if (*(const float *)in[2].data == 0)
        return MR_OK;
    for (int64_t l = 0; l < L; l++) {
        float *bias = (float *)in[0].data + l * S;
        const float *load = (const float *)in[1].data + l * S;
        double sum = 0;
        for (int64_t e = 0; e < E; e++)
            sum += load[e];
        for (int64_t e = 0; e < E; e++) {
            double less = sum - (double)load[e] * (double)E; /* whole numbers: an exact sign */
            bias[e] += less > 0 ? rate : less < 0 ? -rate : 0;
        }
    }
    return MR_OK;
}

static void bias_cost(const mr_call *c, mr_cost *cost)
{
    mri_cost(c, cost, 4 * (double)mr_numel(c->in[0]), 1u << 0);
}

const mr_op_def mri_ops_router_bias[] = {
    { MRI_OP, .id = "route_load", .flags = MR_OP_NO_VJP,
      .doc = "load[e] += how many choices expert e took, unless seed is 0",
      .sig = "index slots? offsets? seed load! ->", .shape = load_shape, .ref = load_ref,
      .cost = load_cost,
      .cases = MRI_CASES("index=i32[5,2]<4 slots=- offsets=- seed=f32[1]{0.5} load=f32[4]{1,0,3,2}",
                         "index=i32[4,2]{0,2,1,2,2,0,2,1} slots=i32[8]{0,3,2,4,6,1,7,5} "
                         "offsets=i32[4]{0,2,3,6} seed=f32[1]{1} load=f32[3]zero",
                         "index=i32[33,3]<7 slots=- offsets=- seed=f32[1]zero load=f32[7]{1,2,3,4,"
                         "5,6,7}") },
    { MRI_OP, .id = "balance_bias", .flags = MR_OP_NO_VJP,
      .doc = "the first `experts` of each row: bias += rate sign(mean of load - load), unless ok is 0",
      .sig = "bias! load ok ->", .attrs = "experts:i rate:f", .shape = bias_shape,
      .ref = bias_ref, .cost = bias_cost,
      .cases = MRI_CASES("bias=f32[2,4] load=f32[2,4]{3,1,2,9,0,6,3,9} ok=f32[1]{1} @experts=3 "
                         "@rate=0.001",
                         "bias=f32[1,32] load=f32[1,32]ramp ok=f32[1]zero @experts=32 @rate=1") },
    MRI_OPS_END
};
