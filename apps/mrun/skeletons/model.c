/*
 * skeleton - a model family for mrun: a language model of two matrices, which predicts the
 * next token from the last one alone (a bigram model, factored through D numbers).
 *
 *     embed   x = W[tokens]            tokens [T], W [V,D], x [T,D]
 *     head    logits = x Oᵀ            O [V,D], logits [T,V]; in training their cross-entropy
 *
 * A family only describes: which blocks there are (assemble) and what each computes (build).
 * It never sees a device, a rank or a gradient.
 */
#include "mrun/model.h"
#include <stdlib.h>

typedef struct family {
    int64_t vocab, hidden, max_positions;
    double init_std;
} family;

static mr_status create(const mr_host *host, const mr_model_env *env, const void *config,
                        void **model, mr_err *err)
{
    const mr_model_sizes *s = env->sizes;
    (void)host;
    (void)config;
    if (s->vocab < 1)
        return mr_fail(err, MR_E_MODEL_CONFIG, MR_BLAME_USER,
                       "[model] vocab = %lld, must be above 0", (long long)s->vocab);
    family *m = malloc(sizeof *m);
    if (!m)
        return mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "no memory for model/skeleton");
    m->vocab = s->vocab;
    m->hidden = s->hidden > 0 ? s->hidden : 64;
    m->max_positions = s->max_positions > 0 ? s->max_positions : 1 << 20; /* knows no positions */
    m->init_std = s->init_std > 0 ? s->init_std : 0.02;
    *model = m;
    return MR_OK;
}

static mr_status info(void *model, mr_model_info *out, mr_err *err)
{
    const family *m = model;
    (void)err;
    out->vocab = m->vocab;
    out->layers = 2;
    out->hidden = m->hidden;
    out->max_positions = m->max_positions;
    return MR_OK;
}

/* "x" of the head is "y" of the embedding, because it is the instance before it. */
static mr_status assemble(void *model, const mr_assembler *a, mr_asm *m, mr_err *err)
{
    (void)model;
    (void)err;
    a->instance(m, "embed", "model.embed.");
    a->instance(m, "head", "model.head.");
    return MR_OK;
}

static mr_val matrix(const family *m, mr_net net)
{
    mr_param p = {
        .size = sizeof p,
        .type = mr_type2("model", m->vocab, m->hidden),
        .placement = "tp:0 fsdp:1",
        .init = "normal",
        .scale = m->init_std,
    };
    return net.b->param(net.p, "weight", &p);
}

static void build_embed(const family *m, const mr_block_env *env, mr_net net)
{
    mr_type tokens = mr_type1("i32", env->tokens);
    mr_val y = MR_OP(net, "embedding",
                     MR_IN(net.b->input(net.p, "tokens", &tokens), matrix(m, net)), MR_NOAT);
    net.b->output(net.p, "y", y);
}

static void build_head(const family *m, const mr_block_env *env, mr_net net)
{
    mr_type x = mr_type2("model", env->tokens, m->hidden);
    mr_val logits =
        MR_OP(net, "linear", MR_IN(net.b->input(net.p, "x", &x), matrix(m, net)), MR_NOAT);
    if (strcmp(env->mode, "train")) {
        net.b->output(net.p, "logits", logits);
        return;
    }
    mr_type targets = mr_type1("i32", env->tokens), weight = mr_type1("f32", env->tokens);
    mr_val out[3]; /* loss, the tokens' own losses, log-sum-exp */
    MR_OPN(net, "cross_entropy", out, 3,
           MR_IN(logits, net.b->input(net.p, "targets", &targets),
                 net.b->input(net.p, "loss_weight", &weight)),
           MR_NOAT);
    net.b->loss(net.p, "lm", out[0]);
}

static mr_status build(void *model, const char *kind, const mr_block_env *env, const mr_builder *b,
                       mr_prog *p, mr_err *err)
{
    mr_net net = { b, p };
    (void)err; /* the builder keeps the first error; the host reports it */
    if (!strcmp(kind, "embed"))
        build_embed(model, env, net);
    else
        build_head(model, env, net);
    return MR_OK;
}

static const mr_model_ops table = {
    .size = sizeof table,
    .create = create,
    .destroy = free,
    .info = info,
    .assemble = assemble,
    .build = build,
};

static const mr_unit unit = {
    .size = sizeof unit,
    .kind = "model",
    .name = "skeleton",
    .doc = "a language model of two matrices",
    .table = &table,
};

MR_PLUGIN_NOTE("org.example.skeleton", "0.1.0", "model/skeleton");

MR_EXPORT const mr_plugin MR_PLUGIN_SYMBOL = {
    MR_PLUGIN_HEADER,
    .id = "org.example.skeleton",
    .version = "0.1.0",
    .license = "Apache-2.0",
    .doc = "a model family",
    .units = &unit,
    .n_units = 1,
};
