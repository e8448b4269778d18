/* SPDX-License-Identifier: Apache-2.0
 *
 * optimizer/adamw - Adam with decoupled weight decay (Loshchilov and Hutter 2019).
 *
 * An optimizer only describes its update: build() declares the states that it keeps and ends
 * in one op. Core feeds the gradient and the scalars, a backend runs the op, checkpoints carry
 * the states. Learning rate, weight decay and clipping are core's: [optimizer].
 */
#include "mrun/optimizer.h"
#include <stdlib.h>

typedef struct adamw {
    double beta1, beta2, eps;
} adamw;

/* [optimizer.adamw]. A beta of 1 would never leave 0; an eps of 0 would divide by it. */
static const mr_opt opts[] = {
    MR_OPT_RANGE(adamw, MR_T_FLOAT, beta1, "beta1", "0.9", 0, 0.999999,
                 "decay of the gradient's running mean"),
    MR_OPT_RANGE(adamw, MR_T_FLOAT, beta2, "beta2", "0.95", 0, 0.999999,
                 "decay of the squared gradient's running mean"),
    MR_OPT_RANGE(adamw, MR_T_FLOAT, eps, "eps", "1e-8", 1e-20, 1,
                 "added to the root of the squared gradient's mean"),
};

static mr_status create(const mr_host *host, const void *config, void **optimizer, mr_err *err)
{
    (void)host;
    adamw *o = malloc(sizeof *o);
    if (!o)
        return mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "no memory for optimizer/adamw");
    *o = *(const adamw *)config; /* the profile may go before the optimizer does */
    *optimizer = o;
    return MR_OK;
}

static mr_status build(void *optimizer, const mr_type *param, const mr_builder *b, mr_prog *p,
                       mr_err *err)
{
    (void)err; /* the builder keeps the first error; core reports it */
    const adamw *o = optimizer;
    mr_net net = { b, p };
    mr_type type = *param;
    type.dtype = "f32"; /* masters and moments, whatever the weights are kept in */

    mr_val master = b->state(p, "master", &type, MR_STATE_CHECKPOINT);
    mr_val exp_avg = b->state(p, "exp_avg", &type, MR_STATE_CHECKPOINT);
    mr_val exp_avg_sq = b->state(p, "exp_avg_sq", &type, MR_STATE_CHECKPOINT);

    MR_OPN(net, "adamw", NULL, 0,
           MR_IN(master, exp_avg, exp_avg_sq, b->input(p, "grad", &type), b->scalar(p, "lr"),
                 b->scalar(p, "weight_decay"), b->scalar(p, "step"), b->scalar(p, "grad_scale"),
                 b->scalar(p, "ok")),
           MR_AT(mr_af("beta1", o->beta1), mr_af("beta2", o->beta2), mr_af("eps", o->eps)));
    return MR_OK;
}

static const mr_optimizer_ops table = {
    .size = sizeof table,
    .flags = MR_OPTIM_FLAT, /* every element alone: one launch a parameter group */
    .create = create,
    .destroy = free,
    .build = build,
};

static const mr_unit unit = {
    .size = sizeof unit,
    .kind = "optimizer",
    .name = "adamw",
    .doc = "Adam with decoupled weight decay",
    .opts = opts,
    .n_opts = sizeof opts / sizeof *opts,
    .config_size = sizeof(adamw),
    .table = &table,
};

MR_PLUGIN_NOTE("org.mrun.adamw", "0.1.0", "optimizer/adamw");

MR_EXPORT extern const mr_plugin MR_PLUGIN_SYMBOL;
const mr_plugin MR_PLUGIN_SYMBOL = {
    MR_PLUGIN_HEADER,
    .id = "org.mrun.adamw",
    .version = "0.1.0",
    .license = "Apache-2.0",
    .doc = "the AdamW optimizer",
    .units = &unit,
    .n_units = 1,
};
