/* SPDX-License-Identifier: Apache-2.0
 *
 * lion.c - the Lion optimizer (Chen et al. 2023, "Symbolic Discovery of Optimization
 * Algorithms"): the update is the sign of an interpolated momentum,
 *   c = beta1 m + (1 - beta1) g;  w -= lr (sign(c) + weight_decay w);  m = beta2 m + (1 - beta2) g
 * so it keeps one state a weight where Adam keeps two. The plugin brings its own op: with the
 * plain loops below it runs on every backend; a backend may know a faster kernel for its id.
 *
 * Two units: optimizer/lion describes the update, op/lion defines what it computes.
 */
#include <stdlib.h>
#include <mrun/op.h>
#include <mrun/optimizer.h>

#define LION "org.example.lion/1"

/* ---- the op: operands in the order of its signature ---------------------------------------- */
enum { MASTER, MOMENTUM, GRAD, LR, DECAY, GRAD_SCALE, GOOD, N_OPERANDS };

static mr_status shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    double b1 = mr_attr_f(c, "beta1", 0.9), b2 = mr_attr_f(c, "beta2", 0.99);
    (void)out; /* it has no outputs: it writes its states */
    if (c->n_in != N_OPERANDS)
        return mr_fail(err, MR_E_OP_SHAPE, MR_BLAME_USER, LION ": %u operands, it takes %d",
                       c->n_in, N_OPERANDS);
    for (int i = 0; i < N_OPERANDS; i++) {
        int64_t want = i <= GRAD ? mr_numel(c->in[MASTER]) : 1;
        if (!mr_is(c->in[i], "f32") || mr_numel(c->in[i]) != want)
            return mr_fail(err, MR_E_OP_SHAPE, MR_BLAME_USER,
                           LION ": operand %d is not f32 of %lld elements", i, (long long)want);
    }
    if (!(b1 >= 0 && b1 < 1 && b2 >= 0 && b2 < 1))
        return mr_fail(err, MR_E_OP_SHAPE, MR_BLAME_USER,
                       LION ": beta1 = %g and beta2 = %g must be in [0, 1)", b1, b2);
    return 0;
}

static float scalar(const mr_buf *in, int i)
{
    return *(const float *)in[i].data;
}

static mr_status ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    float *w = in[MASTER].data, *m = in[MOMENTUM].data;
    const float *grad = in[GRAD].data;
    float lr = scalar(in, LR), decay = scalar(in, DECAY), scale = scalar(in, GRAD_SCALE);
    double beta1 = mr_attr_f(c, "beta1", 0.9), beta2 = mr_attr_f(c, "beta2", 0.99);
    float b1 = (float)beta1, a1 = (float)(1 - beta1), b2 = (float)beta2, a2 = (float)(1 - beta2);
    (void)out, (void)err;
    if (scalar(in, GOOD) == 0) /* a bad step changes nothing */
        return 0;
    for (int64_t i = 0, n = mr_numel(c->in[MASTER]); i < n; i++) {
        float g = grad[i] * scale;
        float u = b1 * m[i] + a1 * g;
        float sign = (float)((u > 0) - (u < 0));
        w[i] = w[i] - lr * (sign + decay * w[i]);
        m[i] = b2 * m[i] + a2 * g;
    }
    return 0;
}

static void cost(const mr_call *c, mr_cost *out)
{
    double n = (double)mr_numel(c->in[MASTER]);
    out->flops = 10 * n;
    out->bytes = 4 * (5 * n + 4); /* weights and momentum read and written, the gradient read */
}

#define SAMPLE(ok) \
    "master=f32[23] momentum=f32[23] grad=f32[23] lr=f32[1]pos weight_decay=f32[1]pos " \
    "grad_scale=f32[1]pos ok=f32[1]" ok
static const char *const cases[] = { SAMPLE("pos"), SAMPLE("zero"),
                                     SAMPLE("pos") " @beta1=0.5 @beta2=0.8", NULL };

static const mr_op_def op = {
    .size = sizeof op,
    .flags = MR_OP_NO_VJP, /* nothing differentiates an update */
    .id = LION,
    .doc = "g = grad grad_scale; w -= lr (sign(b1 m + (1-b1) g) + weight_decay w); "
           "m = b2 m + (1-b2) g; ok = 0 changes nothing; Chen et al. 2023",
    .sig = "master! momentum! grad lr weight_decay grad_scale ok ->",
    .attrs = "beta1:f=0.9 beta2:f=0.99",
    .shape = shape,
    .ref = ref,
    .cost = cost,
    .shard = "N, N, N, ., ., ., . -> | N:map", /* each element alone */
    .cases = cases,
};

/* ---- the optimizer -------------------------------------------------------------------------- */
typedef struct lion {
    double beta1, beta2;
} lion;

static const mr_opt options[] = { /* [optimizer.lion]; learning rate and decay are core's */
    MR_OPT_RANGE(lion, MR_T_FLOAT, beta1, "beta1", "0.9", 0, 0.999999,
                 "share of the momentum in the update's sign"),
    MR_OPT_RANGE(lion, MR_T_FLOAT, beta2, "beta2", "0.99", 0, 0.999999,
                 "decay of the momentum"),
};

static mr_status create(const mr_host *host, const void *config, void **optimizer, mr_err *err)
{
    (void)host;
    lion *o = malloc(sizeof *o);
    if (!o)
        return mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "lion: no memory");
    *o = *(const lion *)config;
    *optimizer = o;
    return 0;
}

static mr_status build(void *optimizer, const mr_type *param, const mr_builder *b, mr_prog *p,
                       mr_err *err)
{
    const lion *o = optimizer;
    mr_type t = *param;
    (void)err; /* the builder keeps the first error */
    t.dtype = "f32";
    mr_val master = b->state(p, "master", &t, MR_STATE_CHECKPOINT);
    mr_val momentum = b->state(p, "momentum", &t, MR_STATE_CHECKPOINT);
    MR_OPN(((mr_net){ b, p }), LION, NULL, 0,
           MR_IN(master, momentum, b->input(p, "grad", &t), b->scalar(p, "lr"),
                 b->scalar(p, "weight_decay"), b->scalar(p, "grad_scale"), b->scalar(p, "ok")),
           MR_AT(mr_af("beta1", o->beta1), mr_af("beta2", o->beta2)));
    return 0;
}

static const mr_optimizer_ops table = { sizeof table, MR_OPTIM_FLAT, create, free, build };

static const mr_unit units[] = {
    { sizeof(mr_unit), 0, "optimizer", "lion", "Lion (Chen et al. 2023)", options,
      sizeof options / sizeof *options, sizeof(lion), &table, NULL },
    { sizeof(mr_unit), 0, "op", "lion", "Lion's update", NULL, 0, 0, &op, NULL },
};

MR_PLUGIN_NOTE("org.example.lion", "1.0.0", "optimizer/lion op/lion");
MR_EXPORT const mr_plugin mrun_plugin_v1 = {
    MR_PLUGIN_HEADER, "org.example.lion", "1.0.0", "Apache-2.0", "the Lion optimizer",
    units, 2, 0, NULL, NULL,
};
