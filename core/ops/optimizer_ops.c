/* SPDX-License-Identifier: Apache-2.0
 *
 * optimizer_ops.c - what a step does to the weights: the gradient's norm, clipping, updates.
 * An update writes states only, and only where ok is not 0: a bad step changes no bit.
 *
 * Unlike the other reference loops these compute in f32, rounding after every operation in the
 * order written here: it is part of the definition, so that backends can agree on every bit of
 * a checkpoint. Constants of a step (1 - beta, bias corrections) are made in double and rounded
 * once. A backend may work on elements in any order.
 *
 * What is updated are the masters. An update also writes the weights that the model reads, if it
 * is given them, so that nothing passes over the parameters a second time (masters.h).
 */
#include "core/ops/masters.h"

/* ---- sumsq -------------------------------------------------------------------------------- */
static mr_status sumsq_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    return mri_infer(c, out, err, "sumsq", "x:f32[N] acc:f32[1] ->", NULL);
}

static mr_status sumsq_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    (void)out, (void)err;
    const float *x = in[0].data;
    double sum = 0;
    for (int64_t i = 0, n = c->in[0]->dim[0]; i < n; i++)
        sum += (double)x[i] * x[i];
    mri_acc(mri_in_view(c, in, 1), 0, sum);
    return MR_OK;
}

static void sumsq_cost(const mr_call *c, mr_cost *cost)
{
    mri_cost(c, cost, 2 * (double)mr_numel(c->in[0]), 1u << 1);
}

/* ---- clip_scale: Megatron-LM's global-norm clipping, and the step's verdict ----------------
 * ok stays 0 once it is: a step that is already queued behind a bad one changes nothing either,
 * until the host has seen it and sets ok to 1 again. */
static mr_status clip_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    double max = mr_attr_f(c, "max_norm", 0);
    if (!(max >= 0))
        return mri_op_fail(err, "clip_scale", "max_norm is %g, must be 0 (none) or more", max);
    return mri_infer(c, out, err, "clip_scale",
                     "sumsq:f32[1] grad_scale:f32[1] norm:f32[1] ok:f32[1] ->", NULL);
}

static mr_status clip_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    (void)out, (void)err;
    float norm = sqrtf(*(const float *)in[0].data);
    float max = (float)mr_attr_f(c, "max_norm", 0);
    float scale = max > 0 ? fminf(1, max / (norm + 1e-6f)) : 1;
    bool ok = isfinite(norm) && *(const float *)in[3].data != 0;

    *(float *)in[1].data = ok ? scale : 0; /* no NaN on its way, even where ok is not read */
    *(float *)in[2].data = norm;
    *(float *)in[3].data = ok;
    return MR_OK;
}

static void clip_cost(const mr_call *c, mr_cost *cost)
{
    mri_cost(c, cost, 4, 0);
}

/* ---- updates --------------------------------------------------------------------------------- */
/* Weights beside f32 masters are written only: they count once. */
static void update_cost(const mr_call *c, mr_cost *cost, double flops, uint32_t mutated,
                        uint32_t weights)
{
    mri_cost(c, cost, flops * (double)mr_numel(c->in[0]),
             mutated | (mr_is(c->in[0], "i16") ? 1u << weights : 0));
}

/* ---- adamw -------------------------------------------------------------------------------- */
enum { ADAMW_WEIGHTS = 9 };

static mr_status adamw_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    double beta1 = mr_attr_f(c, "beta1", 0.9), beta2 = mr_attr_f(c, "beta2", 0.95);
    if (!(beta1 >= 0 && beta1 < 1 && beta2 >= 0 && beta2 < 1))
        return mri_op_fail(err, "adamw", "beta1 is %g and beta2 is %g, must be in [0,1)", beta1,
                           beta2);
    return mri_masters_infer(c, out, err, "adamw",
                             "exp_avg:f32[N] exp_avg_sq:f32[N] grad:f32[N] lr:f32[1] "
                             "weight_decay:f32[1] step:f32[1] grad_scale:f32[1] ok:f32[1]",
                             ADAMW_WEIGHTS);
}

static mr_status adamw_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    (void)out, (void)err;
    const mri_masters_view master = mri_masters_at(c, in, ADAMW_WEIGHTS);
    float *exp_avg = in[1].data, *exp_avg_sq = in[2].data;
    const float *grad = in[3].data;
    float lr = *(const float *)in[4].data, wd = *(const float *)in[5].data;
    float step = *(const float *)in[6].data, scale = *(const float *)in[7].data;
    double beta1 = mr_attr_f(c, "beta1", 0.9), beta2 = mr_attr_f(c, "beta2", 0.95);
    float b1 = (float)beta1, a1 = (float)(1 - beta1), c1 = (float)(1 - pow(beta1, step));
    float b2 = (float)beta2, a2 = (float)(1 - beta2), c2 = (float)(1 - pow(beta2, step));
    float eps = (float)mr_attr_f(c, "eps", 1e-8);

    if (*(const float *)in[8].data == 0)
        return MR_OK;
    for (int64_t i = 0, n = c->in[0]->dim[0]; i < n; i++) {
        float g = grad[i] * scale, w = mri_master_get(&master, i);
        float m = exp_avg[i] = b1 * exp_avg[i] + a1 * g;
        float v = exp_avg_sq[i] = b2 * exp_avg_sq[i] + a2 * g * g;
        float update = (m / c1) / (sqrtf(v / c2) + eps) + wd * w;
        mri_master_put(&master, i, w - lr * update);
    }
    return MR_OK;
}

static void adamw_cost(const mr_call *c, mr_cost *cost)
{
    update_cost(c, cost, 16, 1u << 0 | 1u << 1 | 1u << 2, ADAMW_WEIGHTS);
}

/* ---- sgd ---------------------------------------------------------------------------------- */
enum { SGD_WEIGHTS = 7 };

static mr_status sgd_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    bool momentum = mr_attr_f(c, "momentum", 0) != 0;
    if (momentum != (mri_in(c, 1) != NULL))
        return mri_op_fail(err, "sgd", "momentum is %g and its state is %s: give both or none",
                           mr_attr_f(c, "momentum", 0), momentum ? "absent" : "given");
    if (mr_attr_i(c, "nesterov", 0) && !momentum)
        return mri_op_fail(err, "sgd", "nesterov needs momentum, which is 0");
    return mri_masters_infer(c, out, err, "sgd",
                             "momentum:f32[N] grad:f32[N] lr:f32[1] weight_decay:f32[1] "
                             "grad_scale:f32[1] ok:f32[1]",
                             SGD_WEIGHTS);
}

static mr_status sgd_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    (void)out, (void)err;
    const mri_masters_view master = mri_masters_at(c, in, SGD_WEIGHTS);
    float *buf = mri_in(c, 1) ? in[1].data : NULL;
    const float *grad = in[2].data;
    float lr = *(const float *)in[3].data, wd = *(const float *)in[4].data;
    float scale = *(const float *)in[5].data, mu = (float)mr_attr_f(c, "momentum", 0);
    bool nesterov = mr_attr_i(c, "nesterov", 0) != 0;

    if (*(const float *)in[6].data == 0)
        return MR_OK;
    for (int64_t i = 0, n = c->in[0]->dim[0]; i < n; i++) {
        float w = mri_master_get(&master, i), g = grad[i] * scale + wd * w;
        if (buf) {
            float b = buf[i] = mu * buf[i] + g;
            g = nesterov ? g + mu * b : b;
        }
        mri_master_put(&master, i, w - lr * g);
    }
    return MR_OK;
}

static void sgd_cost(const mr_call *c, mr_cost *cost)
{
    update_cost(c, cost, mri_in(c, 1) ? 9 : 5, 1u << 0 | 1u << 1, SGD_WEIGHTS);
}

const mr_op_def mri_ops_optimizer_ops[] = {
    { MRI_OP, .id = "sumsq", .flags = MR_OP_NO_VJP,
      .doc = "acc += sum of x^2, summed in double", .sig = "x acc! ->", .shape = sumsq_shape,
      .ref = sumsq_ref, .cost = sumsq_cost, .shard = "N, . -> | N:sum",
      .cases = MRI_CASES("x=f32[23] acc=f32[1]pos") },
    { MRI_OP, .id = "clip_scale", .flags = MR_OP_NO_VJP,
      .doc = "norm = sqrt(sumsq), ok = ok and finite(norm), grad_scale = min(1, max_norm / (norm "
             "+ 1e-6)), or 1 without max_norm, or 0 if not ok; Pascanu et al. 2013",
      .sig = "sumsq grad_scale! norm! ok! ->", .attrs = "max_norm:f=0", .shape = clip_shape,
      .ref = clip_ref, .cost = clip_cost,
      .cases = MRI_CASES("sumsq=f32[1]pos grad_scale=f32[1]zero norm=f32[1]zero ok=f32[1]{1}",
                         "sumsq=f32[1]pos grad_scale=f32[1]zero norm=f32[1]zero ok=f32[1]{1} "
                         "@max_norm=0.1",
                         "sumsq=f32[1]pos grad_scale=f32[1]pos norm=f32[1]zero ok=f32[1]zero "
                         "@max_norm=0.1") },
    { MRI_OP, .id = "adamw", .flags = MR_OP_NO_VJP,
      .doc = "g = grad grad_scale; m = b1 m + (1-b1) g; v = b2 v + (1-b2) g^2; w -= lr (m/(1-b1^"
             "step) / (sqrt(v/(1-b2^step)) + eps) + weight_decay w); weights = w in bf16; ok = 0 "
             "changes nothing; Loshchilov & Hutter 2019",
      .sig = "master! exp_avg! exp_avg_sq! grad lr weight_decay step grad_scale ok weights!? ->",
      .attrs = "beta1:f=0.9 beta2:f=0.95 eps:f=1e-8", .shape = adamw_shape, .ref = adamw_ref,
      .cost = adamw_cost, .shard = "N, N, N, N, ., ., ., ., ., N -> | N:map",
      .cases = MRI_CASES(
          "master=f32[23] exp_avg=f32[23] exp_avg_sq=f32[23]pos grad=f32[23] lr=f32[1]pos "
          "weight_decay=f32[1]pos step=f32[1]{3} grad_scale=f32[1]pos ok=f32[1]pos",
          "master=f32[23] exp_avg=f32[23] exp_avg_sq=f32[23]pos grad=f32[23] lr=f32[1]pos "
          "weight_decay=f32[1]pos step=f32[1]{3} grad_scale=f32[1]pos ok=f32[1]pos "
          "weights=bf16[23]",
          "master=i16[23]<32768 exp_avg=f32[23] exp_avg_sq=f32[23]pos grad=f32[23] lr=f32[1]pos "
          "weight_decay=f32[1]pos step=f32[1]{3} grad_scale=f32[1]pos ok=f32[1]pos "
          "weights=bf16[23]",
          "master=f32[23] exp_avg=f32[23] exp_avg_sq=f32[23]pos grad=f32[23] lr=f32[1]pos "
          "weight_decay=f32[1]pos step=f32[1]{3} grad_scale=f32[1]pos ok=f32[1]zero "
          "weights=bf16[23]") },
    { MRI_OP, .id = "sgd", .flags = MR_OP_NO_VJP,
      .doc = "g = grad grad_scale + weight_decay w; b = momentum b + g; w -= lr b, or with "
             "nesterov w -= lr (g + momentum b); PyTorch's form; weights = w in bf16; ok = 0 "
             "changes nothing",
      .sig = "master! momentum!? grad lr weight_decay grad_scale ok weights!? ->",
      .attrs = "momentum:f=0 nesterov:i=0", .shape = sgd_shape, .ref = sgd_ref, .cost = sgd_cost,
      .shard = "N, N, N, ., ., ., ., N -> | N:map",
      .cases = MRI_CASES(
          "master=f32[23] momentum=- grad=f32[23] lr=f32[1]pos weight_decay=f32[1]pos "
          "grad_scale=f32[1]pos ok=f32[1]pos",
          "master=f32[23] momentum=f32[23] grad=f32[23] lr=f32[1]pos weight_decay=f32[1]pos "
          "grad_scale=f32[1]pos ok=f32[1]pos @momentum=0.9",
          "master=f32[23] momentum=f32[23] grad=f32[23] lr=f32[1]pos weight_decay=f32[1]pos "
          "grad_scale=f32[1]pos ok=f32[1]pos @momentum=0.9 @nesterov=1",
          "master=f32[23] momentum=- grad=f32[23] lr=f32[1]pos weight_decay=f32[1]pos "
          "grad_scale=f32[1]pos ok=f32[1]pos weights=bf16[23]",
          "master=i16[23]<32768 momentum=f32[23] grad=f32[23] lr=f32[1]pos weight_decay=f32[1]pos "
          "grad_scale=f32[1]pos ok=f32[1]pos weights=bf16[23] @momentum=0.9",
          "master=f32[23] momentum=f32[23] grad=f32[23] lr=f32[1]pos weight_decay=f32[1]pos "
          "grad_scale=f32[1]pos ok=f32[1]zero @momentum=0.9") },
    MRI_OPS_END
};
