/*
 * skeleton - an optimizer for mrun: plain gradient descent with weight decay,
 *
 *     w -= rate * lr * (grad_scale * grad + weight_decay * w)        unless ok is 0
 *
 * An optimizer only describes its update as a program of ops. This one brings its own op with
 * reference loops, so it runs on every backend; a backend may offer a faster kernel for it.
 */
#include "mrun/op.h"
#include "mrun/optimizer.h"
#include <stdlib.h>

/* ---- the op: operands in the order of `sig` below ------------------------------------------ */

enum { MASTER, GRAD, LR, DECAY, SCALE, OK, N_IN };

static mr_status update_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    (void)out; /* no outputs: the weights are written in place */
    for (uint32_t i = 0; i < N_IN; i++)
        if (i >= c->n_in || !mr_is(c->in[i], "f32"))
            return mr_fail(err, MR_E_OP_SHAPE, MR_BLAME_USER,
                           "skeleton.update: operand %u must be f32", i);
    if (mr_numel(c->in[MASTER]) != mr_numel(c->in[GRAD]))
        return mr_fail(err, MR_E_OP_SHAPE, MR_BLAME_USER,
                       "skeleton.update: %lld weights and %lld gradients",
                       (long long)mr_numel(c->in[MASTER]), (long long)mr_numel(c->in[GRAD]));
    return MR_OK;
}

static mr_status update_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    float *w = in[MASTER].data;
    const float *g = in[GRAD].data;
    double lr = *(const float *)in[LR].data, decay = *(const float *)in[DECAY].data;
    double scale = *(const float *)in[SCALE].data, rate = mr_attr_f(c, "rate", 1);
    (void)out;
    (void)err;
    if (*(const float *)in[OK].data == 0)
        return MR_OK; /* a bad step changes nothing */
    for (int64_t i = 0; i < mr_numel(c->in[MASTER]); i++)
        w[i] = (float)(w[i] - rate * lr * (scale * g[i] + decay * w[i]));
    return MR_OK;
}

static const char *const update_cases[] = {
    "master=f32[37] grad=f32[37] lr=f32[1]pos weight_decay=f32[1]pos grad_scale=f32[1]pos "
    "ok=f32[1]pos @rate=2",
    "master=f32[4,5] grad=f32[4,5] lr=f32[1]pos weight_decay=f32[1]pos grad_scale=f32[1]pos "
    "ok=f32[1]zero @rate=0.5",
    NULL
};

static const mr_op_def update = {
    .size = sizeof update,
    .flags = MR_OP_NO_VJP,
    .id = "skeleton.update",
    .doc = "w -= rate lr (grad_scale grad + weight_decay w)",
    .sig = "master! grad lr weight_decay grad_scale ok ->",
    .attrs = "rate:f=1",
    .shape = update_shape,
    .ref = update_ref,
    .cases = update_cases,
};

/* ---- the optimizer ------------------------------------------------------------------------- */

/* section [optimizer.skeleton] of a profile fills this struct, by the rows below */
typedef struct config {
    double rate;
} config;

static const mr_opt opts[] = {
    MR_OPT_RANGE(config, MR_T_FLOAT, rate, "rate", "1", 0, 1000,
                 "multiplies the learning rate"),
};

static mr_status create(const mr_host *host, const void *cfg, void **optimizer, mr_err *err)
{
    config *o = malloc(sizeof *o);
    (void)host;
    if (!o)
        return mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "no memory for optimizer/skeleton");
    *o = *(const config *)cfg;
    *optimizer = o;
    return MR_OK;
}

/* "master", "grad" and the scalars exist already: asking for one by name gives it */
static mr_status build(void *optimizer, const mr_type *param, const mr_builder *b, mr_prog *p,
                       mr_err *err)
{
    mr_net net = { b, p };
    mr_type type = *param;
    const config *o = optimizer;
    (void)err; /* the builder keeps the first error; the host reports it */
    type.dtype = "f32";
    mr_val master = b->state(p, "master", &type, MR_STATE_CHECKPOINT);
    MR_OPN(net, "skeleton.update", NULL, 0,
           MR_IN(master, b->input(p, "grad", &type), b->scalar(p, "lr"),
                 b->scalar(p, "weight_decay"), b->scalar(p, "grad_scale"), b->scalar(p, "ok")),
           MR_AT(mr_af("rate", o->rate)));
    return MR_OK;
}

static const mr_optimizer_ops table = {
    .size = sizeof table,
    .flags = MR_OPTIM_FLAT, /* elements do not depend on each other */
    .create = create,
    .destroy = free,
    .build = build,
};

static const mr_unit units[] = {
    { .size = sizeof(mr_unit), .kind = "optimizer", .name = "skeleton",
      .doc = "plain gradient descent with weight decay", .opts = opts,
      .n_opts = sizeof opts / sizeof *opts, .config_size = sizeof(config), .table = &table },
    { .size = sizeof(mr_unit), .kind = "op", .name = "skeleton.update",
      .doc = "the update of optimizer/skeleton", .table = &update },
};

MR_PLUGIN_NOTE("org.example.skeleton", "0.1.0", "optimizer/skeleton op/skeleton.update");

MR_EXPORT const mr_plugin MR_PLUGIN_SYMBOL = {
    MR_PLUGIN_HEADER,
    .id = "org.example.skeleton",
    .version = "0.1.0",
    .license = "Apache-2.0",
    .doc = "an optimizer",
    .units = units,
    .n_units = sizeof units / sizeof *units,
};
