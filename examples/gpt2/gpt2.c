/* SPDX-License-Identifier: Apache-2.0
 *
 * gpt2.c - a whole model family in one file: GPT-2 (Radford et al. 2019). It says which blocks
 * there are (assemble) and what each computes (build); mrun derives the gradients, the memory
 * plan and the kernels. docs/model-plugins.md walks through this file.
 *
 * Shapes: T tokens, D width, H heads, C = D / H, F = 4 D, V vocabulary, P positions.
 */
#include <math.h>
#include <stdlib.h>
#include <mrun/model.h>

typedef struct gpt2 {
    int64_t layers, hidden, heads, ffn, vocab, positions;
    double eps, std;
} gpt2;

/* ---- what the model is: from the profile or from config.json --------------------------- */
static mr_status read_config_json(gpt2 *m, const mr_host *host, const void *json, mr_err *err)
{
    const mr_json_service *js = host->ext(host->self, MR_EXT_JSON);
    const struct {
        const char *key;
        int64_t *to;
    } sizes[] = {
        { "n_layer", &m->layers }, { "n_embd", &m->hidden },    { "n_head", &m->heads },
        { "n_inner", &m->ffn },    { "vocab_size", &m->vocab }, { "n_positions", &m->positions },
    };
    double v;
    const char *act;
    if (!js)
        return mr_fail(err, MR_E_UNSUPPORTED, MR_BLAME_HOST, "gpt2: this host cannot read JSON");
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        if (js->number(json, sizes[i].key, &v) && v >= 1 && v <= 1e9)
            *sizes[i].to = (int64_t)v;
    if (js->number(json, "layer_norm_epsilon", &v))
        m->eps = v;
    if (js->string(json, "activation_function", &act) && strcmp(act, "gelu_new"))
        return mr_fail(err, MR_E_MODEL_CONFIG, MR_BLAME_USER,
                       "gpt2: activation_function \"%s\" in config.json is not gelu_new", act);
    return 0;
}

static mr_status create(const mr_host *host, const mr_model_env *env, const void *config,
                        void **model, mr_err *err)
{
    const mr_model_sizes *s = env->sizes;
    mr_status st = 0;
    (void)config; /* the family has no options of its own */
    gpt2 *m = calloc(1, sizeof *m);
    if (!m)
        return mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "gpt2: no memory");
    m->layers = s->layers ? s->layers : 12; /* a profile without sizes means the 124M model */
    m->hidden = s->hidden ? s->hidden : 768;
    m->heads = s->heads ? s->heads : 12;
    m->vocab = s->vocab ? s->vocab : 50257;
    m->positions = s->max_positions ? s->max_positions : 1024;
    m->ffn = s->ffn_hidden;
    m->eps = s->norm_eps > 0 ? s->norm_eps : 1e-5;
    m->std = s->init_std > 0 ? s->init_std : 0.02;
    if (env->hf_config)
        MR_TRY(read_config_json(m, host, env->hf_config, err));
    m->ffn = m->ffn ? m->ffn : 4 * m->hidden;
    if (m->hidden % m->heads || (s->kv_heads && s->kv_heads != m->heads)) {
        st = mr_fail(err, MR_E_MODEL_CONFIG, MR_BLAME_USER,
                     "gpt2: hidden = %lld, heads = %lld, kv_heads = %lld do not fit",
                     (long long)m->hidden, (long long)m->heads, (long long)s->kv_heads);
        mr_hint(err, "heads must divide hidden, and kv_heads be heads or left out");
        goto out;
    }
    *model = m;
    return 0;
out:
    free(m);
    return st;
}

static mr_status info(void *model, mr_model_info *out, mr_err *err)
{
    const gpt2 *m = model;
    (void)err;
    out->vocab = m->vocab;
    out->layers = m->layers;
    out->hidden = m->hidden;
    out->max_positions = m->positions;
    return 0;
}

/* ---- parameters ------------------------------------------------------------------------- */
static mr_val matrix(mr_net n, const char *name, int64_t rows, int64_t cols,
                     const char *placement, double std)
{
    mr_param p = { .size = sizeof p, .type = mr_type2("model", rows, cols),
                   .placement = placement, .init = "normal", .scale = std };
    return n.b->param(n.p, name, &p);
}

static mr_val vector(mr_net n, const char *name, int64_t d, const char *placement, double value)
{
    mr_param p = { .size = sizeof p, .flags = MR_PARAM_NO_DECAY, .type = mr_type1("model", d),
                   .placement = placement, .init = "constant", .scale = value };
    return n.b->param(n.p, name, &p);
}

/* ---- pieces ------------------------------------------------------------------------------- */
static mr_val product(mr_net n, const char *name, mr_val x, int64_t out, const char *placement,
                      double std)
{
    char weight[64], bias[64];
    snprintf(weight, sizeof weight, "%s.weight", name);
    snprintf(bias, sizeof bias, "%s.bias", name);
    mr_val w = matrix(n, weight, out, mr_last(n.b->type(n.p, x)), placement, std);
    mr_val b = vector(n, bias, out, strstr(placement, "tp:0") ? "tp:0" : "-", 0);
    return MR_OP(n, "linear", MR_IN(x, w, b), MR_NOAT);
}

static mr_val norm(const gpt2 *m, mr_net n, const char *name, mr_val x)
{
    char weight[64], bias[64];
    mr_val out[3] = { 0 }; /* y, mean, rstd */
    snprintf(weight, sizeof weight, "%s.weight", name);
    snprintf(bias, sizeof bias, "%s.bias", name);
    n.b->region(n.p, "layernorm");
    MR_OPN(n, "layernorm", out, 3, MR_IN(x, vector(n, weight, m->hidden, "-", 1),
                                         vector(n, bias, m->hidden, "-", 0)),
           MR_AT(mr_af("eps", m->eps)));
    n.b->end(n.p);
    return out[0];
}

static mr_val fed(mr_net n, const mr_block_env *env, const char *name, const char *dtype)
{
    mr_type t = mr_type1(dtype, env->tokens);
    return n.b->input(n.p, name, &t);
}

static mr_val attention(const gpt2 *m, mr_net n, const mr_block_env *env, mr_val x)
{
    int64_t D = m->hidden, C = D / m->heads;
    const mr_attr at[] = { mr_ai("heads", m->heads), mr_ai("kv_heads", m->heads),
                           mr_ai("head_dim", C), mr_af("scale", 1 / sqrt((double)C)),
                           mr_ai("seq", MR_HAS(env, seq) ? env->seq : 0),
                           mr_ai("packed", !(MR_HAS(env, whole) && env->whole)) };
    mr_val out[2] = { 0 }; /* o, lse */
    mr_val q = product(n, "attn.q_proj", x, D, "tp:0 fsdp:1", m->std);
    mr_val k = product(n, "attn.k_proj", x, D, "tp:0 fsdp:1", m->std);
    mr_val v = product(n, "attn.v_proj", x, D, "tp:0 fsdp:1", m->std);
    n.b->region(n.p, "core_attn");
    MR_OPN(n, "attention", out, 2, MR_IN(q, k, v, fed(n, env, "seq_start", "i32")), at, 6);
    n.b->end(n.p);
    double std = m->std / sqrt(2.0 * (double)m->layers); /* writes to the residual stream */
    return product(n, "attn.c_proj", out[0], D, "tp:1 fsdp:0", std);
}

/* ---- blocks -------------------------------------------------------------------------------- */
static void embed(const gpt2 *m, mr_net n, const mr_block_env *env)
{
    mr_val wte = matrix(n, "wte.weight", m->vocab, m->hidden, "tp:0 fsdp:1", m->std);
    mr_val wpe = matrix(n, "wpe.weight", m->positions, m->hidden, "fsdp:1", m->std);
    mr_val token = MR_OP(n, "embedding", MR_IN(fed(n, env, "tokens", "i32"), wte), MR_NOAT);
    mr_val place = MR_OP(n, "embedding", MR_IN(fed(n, env, "positions", "i32"), wpe), MR_NOAT);
    n.b->output(n.p, "y", MR_OP(n, "add", MR_IN(token, place), MR_NOAT));
}

static void layer(const gpt2 *m, mr_net n, const mr_block_env *env)
{
    mr_type t = mr_type2("model", env->tokens, m->hidden);
    mr_val x = n.b->input(n.p, "x", &t);
    mr_val a = norm(m, n, "ln_1", x);
    n.b->region(n.p, "attn");
    a = attention(m, n, env, a);
    n.b->end(n.p);
    x = MR_OP(n, "add", MR_IN(x, a), MR_NOAT);

    mr_val f = norm(m, n, "ln_2", x);
    n.b->region(n.p, "mlp");
    f = product(n, "mlp.c_fc", f, m->ffn, "tp:0 fsdp:1", m->std);
    f = MR_OP(n, "gelu", MR_IN(f), MR_AT(mr_as("approx", "tanh")));
    f = product(n, "mlp.c_proj", f, m->hidden, "tp:1 fsdp:0",
                m->std / sqrt(2.0 * (double)m->layers));
    n.b->end(n.p);
    n.b->output(n.p, "y", MR_OP(n, "add", MR_IN(x, f), MR_NOAT));
}

static void head(const gpt2 *m, mr_net n, const mr_block_env *env)
{
    mr_type t = mr_type2("model", env->tokens, m->hidden);
    mr_val ce[3] = { 0 }; /* loss [1], nll [T], lse [T] */
    mr_val x = mr_logit_rows(n, env, n.b->input(n.p, "x", &t));
    x = norm(m, n, "ln_f", x);
    mr_val w = matrix(n, "lm_head.weight", m->vocab, m->hidden, "tp:0 fsdp:1", m->std);
    mr_val logits = MR_OP(n, "linear", MR_IN(x, w, 0), MR_NOAT);
    if (strcmp(env->mode, "train"))
        n.b->output(n.p, "logits", logits);
    if (!strcmp(env->mode, "decode"))
        return;
    MR_OPN(n, "cross_entropy", ce, 3, MR_IN(logits, fed(n, env, "targets", "i32"),
                                            fed(n, env, "loss_weight", "f32")), MR_NOAT);
    n.b->output(n.p, "nll", ce[1]);
    if (!strcmp(env->mode, "train"))
        n.b->loss(n.p, "lm_loss", ce[0]);
}

static mr_status assemble(void *model, const mr_assembler *a, mr_asm *as, mr_err *err)
{
    const gpt2 *m = model;
    char prefix[48];
    int32_t at = a->instance(as, "embed", "transformer.");
    for (int64_t i = 0; i < m->layers && at >= 0; i++) {
        snprintf(prefix, sizeof prefix, "transformer.h.%lld.", (long long)i);
        at = a->instance(as, "layer", prefix);
    }
    if (at >= 0)
        at = a->instance(as, "head", "transformer.");
    if (at < 0)
        return mr_fail(err, MR_E_PROGRAM, MR_BLAME_HOST, "gpt2: the host refused a block");
    a->bind(as, at, "lm_head.weight", "transformer.wte.weight"); /* the tied head */
    return 0;
}

static mr_status build(void *model, const char *kind, const mr_block_env *env,
                       const mr_builder *b, mr_prog *p, mr_err *err)
{
    const struct {
        const char *kind;
        void (*build)(const gpt2 *, mr_net, const mr_block_env *);
    } blocks[] = { { "embed", embed }, { "layer", layer }, { "head", head } };
    for (size_t i = 0; i < 3; i++)
        if (!strcmp(kind, blocks[i].kind))
            return blocks[i].build(model, (mr_net){ b, p }, env), 0;
    return mr_fail(err, MR_E_PROGRAM, MR_BLAME_HOST, "gpt2 has no block \"%s\"", kind);
}

static const mr_model_ops table = { sizeof table, 0, create, free, info, assemble, build, NULL };
static const mr_unit unit = { sizeof unit, 0, "model", "gpt2", "GPT-2 (Radford et al. 2019)",
                              NULL, 0, 0, &table, NULL };

MR_PLUGIN_NOTE("org.example.gpt2", "1.0.0", "model/gpt2");
MR_EXPORT const mr_plugin mrun_plugin_v1 = {
    MR_PLUGIN_HEADER, "org.example.gpt2", "1.0.0", "Apache-2.0", "the GPT-2 family",
    &unit, 1, 0, NULL, NULL,
};
