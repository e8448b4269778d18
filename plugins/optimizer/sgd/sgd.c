/* SPDX-License-Identifier: Apache-2.0
 *
 * optimizer/sgd - stochastic gradient descent with momentum (Sutskever et al. 2013), in
 * PyTorch's form: the weight decay is added to the gradient, the learning rate multiplies last.
 *
 * An optimizer only describes its update: build() declares the states that it keeps and ends
 * in one op. Without momentum it keeps none besides the weights.
 */
#include "mrun/optimizer.h"
#include <stdlib.h>

typedef struct sgd {
    double momentum;
    int32_t nesterov, pad;
} sgd;

/* [optimizer.sgd] */
static const mr_opt opts[] = {
    MR_OPT_RANGE(sgd, MR_T_FLOAT, momentum, "momentum", "0", 0, 1,
                 "how much of the last update the next one keeps"),
    MR_OPT(sgd, MR_T_BOOL, nesterov, "nesterov", "false",
           "look ahead by one step of the momentum"),
};

static mr_status create(const mr_host *host, const void *config, void **optimizer, mr_err *err)
{
    (void)host;
    const sgd *c = config;
    if (c->nesterov && c->momentum == 0) {
        mr_fail(err, MR_E_PROFILE_CONFLICT, MR_BLAME_USER,
                "[optimizer.sgd] nesterov = true needs momentum, which is 0");
        mr_hint(err, "set [optimizer.sgd] momentum = 0.9, or nesterov = false");
        return MR_E_PROFILE_CONFLICT;
    }
    sgd *o = malloc(sizeof *o);
    if (!o)
        return mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "no memory for optimizer/sgd");
    *o = *c; /* the profile may go before the optimizer does */
    *optimizer = o;
    return MR_OK;
}

static mr_status build(void *optimizer, const mr_type *param, const mr_builder *b, mr_prog *p,
                       mr_err *err)
{
    (void)err; /* the builder keeps the first error; core reports it */
    const sgd *o = optimizer;
    mr_net net = { b, p };
    mr_type type = *param;
    type.dtype = "f32"; /* masters, whatever the weights are kept in */

    mr_val master = b->state(p, "master", &type, MR_STATE_CHECKPOINT);
    mr_val momentum = o->momentum > 0 ? b->state(p, "momentum", &type, MR_STATE_CHECKPOINT) : 0;

    MR_OPN(net, "sgd", NULL, 0,
           MR_IN(master, momentum, b->input(p, "grad", &type), b->scalar(p, "lr"),
                 b->scalar(p, "weight_decay"), b->scalar(p, "grad_scale"), b->scalar(p, "ok")),
           MR_AT(mr_af("momentum", o->momentum), mr_ai("nesterov", o->nesterov)));
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
    .name = "sgd",
    .doc = "stochastic gradient descent, with momentum if asked",
    .opts = opts,
    .n_opts = sizeof opts / sizeof *opts,
    .config_size = sizeof(sgd),
    .table = &table,
};

MR_PLUGIN_NOTE("org.mrun.sgd", "0.1.0", "optimizer/sgd");

MR_EXPORT extern const mr_plugin MR_PLUGIN_SYMBOL;
const mr_plugin MR_PLUGIN_SYMBOL = {
    MR_PLUGIN_HEADER,
    .id = "org.mrun.sgd",
    .version = "0.1.0",
    .license = "Apache-2.0",
    .doc = "the SGD optimizer",
    .units = &unit,
    .n_units = 1,
};
