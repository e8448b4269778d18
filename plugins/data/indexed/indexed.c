/* SPDX-License-Identifier: Apache-2.0
 *
 * indexed.c - unit "data/indexed": Megatron's .bin/.idx data sets in Megatron's order. Equal
 * seed, sequence length and number of samples give equal samples.
 *
 * This file owns the options and what a sample looks like: S + 1 tokens of the documents that
 * meet in it, padding, weights and document borders. Nothing is written after create().
 */
#include "set.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct config {
    mr_list path, weights, valid;
    const char *split, *cache, *loss_mask;
    int32_t reset_positions, reset_attention, eod_mask_loss, pad;
    double surplus;
} config;

#define REQUIRED_LIST(field, key, doc)                                                             \
    {                                                                                              \
        sizeof(mr_opt), MR_T_LIST, MR_OPT_REQUIRED, offsetof(config, field), key, 0, doc, 0, 0, 0, \
            0                                                                                      \
    }

static const mr_opt options[] = {
    REQUIRED_LIST(path, "path", "data sets, each a path without .bin and .idx"),
    MR_OPT(config, MR_T_LIST, weights, "weights", NULL,
           "share of each path in the samples; unset: as large as each is"),
    MR_OPT(config, MR_T_STR, split, "split", NULL,
           "shares of train, validation, test in each path's documents (969,30,1; 1 with valid)"),
    MR_OPT(config, MR_T_LIST, valid, "valid", NULL,
           "further validation sets, NAME=PATH, each whole and reported as valid.NAME"),
    MR_OPT(config, MR_T_BOOL, reset_positions, "reset_positions", "false",
           "positions restart with each document of a sample"),
    MR_OPT(config, MR_T_BOOL, reset_attention, "reset_attention", "false",
           "attention stays inside a document"),
    MR_OPT(config, MR_T_BOOL, eod_mask_loss, "eod_mask_loss", "false",
           "what follows an end of document is not learnt"),
    MR_OPT(config, MR_T_STR, loss_mask, "loss_mask", NULL,
           "suffix: PATH + suffix is a parallel data set of u8 weights, one a token as a target"),
    MR_OPT_RANGE(config, MR_T_FLOAT, surplus, "surplus", "0.005", 0, 100,
                 "further share of samples built for each path of a weighted blend"),
    MR_OPT(config, MR_T_PATH, cache, "cache", NULL,
           "folder that keeps the sample indices between runs; unset: built at each start"),
};

typedef struct indexed {
    int64_t seq, vocab;
    int32_t eod, pad; /* -1: none */
    int32_t reset_positions, reset_attention, eod_mask_loss;
    uint32_t n_corpora, n_sets;
    corpus *corpora;         /* the paths, then the further validation sets */
    char **weights_prefixes; /* that the corpora borrow */
    data_set *sets;
} indexed;

static void destroy(void *data)
{
    indexed *x = data;
    if (!x)
        return;
    for (uint32_t i = 0; x->sets && i < x->n_sets; i++)
        set_free(&x->sets[i]);
    for (uint32_t i = 0; x->corpora && i < x->n_corpora; i++)
        corpus_close(&x->corpora[i]);
    for (uint32_t i = 0; x->weights_prefixes && i < x->n_corpora; i++)
        free(x->weights_prefixes[i]);
    free(x->sets);
    free(x->corpora);
    free(x->weights_prefixes);
    free(x);
}

static mr_status parse_weights(const config *c, double *weights, mr_err *err)
{
    uint64_t n = c->path.n;
    if (c->weights.n != n) {
        mr_fail(err, MR_E_PROFILE_CONFLICT, MR_BLAME_USER,
                "data.indexed: %llu weights for %llu paths", (unsigned long long)c->weights.n,
                (unsigned long long)n);
        return MR_E_PROFILE_CONFLICT;
    }
    for (uint64_t i = 0; i < n; i++) {
        char *end;
        weights[i] = strtod(c->weights.v[i], &end);
        if (*end || end == c->weights.v[i] || !isfinite(weights[i]) || weights[i] <= 0)
            return mr_fail(err, MR_E_PROFILE_VALUE, MR_BLAME_USER,
                           "data.indexed.weights: %s is no weight above 0", c->weights.v[i]);
    }
    double sum = blend_sum(weights, n);
    for (uint64_t i = 0; i < n; i++)
        weights[i] /= sum;
    return MR_OK;
}

/* "NAME=PATH" -> "valid.NAME" (the caller frees) and PATH */
static mr_status parse_valid(const char *text, char **name, const char **path, mr_err *err)
{
    const char *eq = strchr(text, '=');
    if (!eq || eq == text || !eq[1]) {
        mr_fail(err, MR_E_PROFILE_VALUE, MR_BLAME_USER, "data.indexed.valid: %s is not NAME=PATH",
                text);
        return MR_E_PROFILE_VALUE;
    }
    *path = eq + 1;
    size_t n = (size_t)(eq - text);
    *name = malloc(n + 7);
    if (!*name)
        return mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "data/indexed: out of memory");
    snprintf(*name, n + 7, "valid.%.*s", (int)n, text);
    return MR_OK;
}

static mr_status add_set(indexed *x, const set_request *q, mr_err *err)
{
    for (uint32_t i = 0; i < x->n_sets; i++)
        if (!strcmp(x->sets[i].name, q->name))
            return mr_fail(err, MR_E_PROFILE_CONFLICT, MR_BLAME_USER,
                           "data.indexed: two sets named %s", q->name);
    data_set *s = &x->sets[x->n_sets++]; /* counted first, so that destroy() sees it */
    mr_status st = set_build(s, q, err);
    if (!st && MR_CAN(q->host, log)) {
        char msg[400];
        snprintf(msg, sizeof msg, "%.100s: %lld samples over %u path%s", q->name,
                 (long long)s->size, s->n_parts, s->n_parts > 1 ? "s" : "");
        q->host->log(q->host->self, MR_LOG_INFO, "data/indexed", msg);
    }
    return st;
}

static mr_status check_env(const mr_data_env *env, const config *c, mr_err *err)
{
    if (c->path.n < 1 || c->path.n + c->valid.n > BLEND_MAX)
        return mr_fail(err, MR_E_PROFILE_VALUE, MR_BLAME_USER,
                       "data.indexed.path: %llu data sets; 1 to %d",
                       (unsigned long long)(c->path.n + c->valid.n), BLEND_MAX);
    if (env->seq < 1 || env->seq >= INT32_MAX || env->train_samples < 0 || env->valid_samples < 0)
        return mr_fail(err, MR_E_ARG, MR_BLAME_HOST, "data/indexed: %lld samples of %lld tokens",
                       (long long)env->train_samples, (long long)env->seq);
    if (env->seed < 0 || env->seed > UINT32_MAX) {
        mr_fail(err, MR_E_PROFILE_VALUE, MR_BLAME_USER,
                "run.seed = %lld: data/indexed takes numpy's seeds", (long long)env->seed);
        mr_hint(err, "choose a seed of 0 to 4294967295");
        return MR_E_PROFILE_VALUE;
    }
    return MR_OK;
}

static mr_status read_tokenizer(indexed *x, const mr_data_env *env, const config *c, mr_err *err)
{
    mr_tokenizer_info info = { .size = sizeof info };
    mr_status st = env->tokenizer->info(env->tok, &info, err);
    if (st)
        return st;
    x->vocab = info.vocab;
    x->eod = info.eod;
    /* A pad id that means something else as well cannot tell padding from text. */
    x->pad = info.pad >= 0 && info.pad != info.eod && info.pad != info.eos ? info.pad : -1;
    if (c->eod_mask_loss && x->eod < 0) {
        mr_fail(err, MR_E_PROFILE_CONFLICT, MR_BLAME_USER,
                "data.indexed.eod_mask_loss: the tokenizer has no end-of-document id");
        mr_hint(err, "with tokenizer/bytes set tokenizer.bytes.eod = true");
        return MR_E_PROFILE_CONFLICT;
    }
    return MR_OK;
}

static mr_status create(const mr_host *host, const mr_data_env *env, const void *config_,
                        void **data, mr_err *err)
{
    const config *c = config_;
    mr_status st = MR_OK;
    char *name = NULL;
    double *weights = NULL;
    uint32_t n_paths = (uint32_t)c->path.n;
    indexed *x = calloc(1, sizeof *x);
    if (!x)
        goto nomem;
    MR_TRY(check_env(env, c, err));
    MR_TRY(read_tokenizer(x, env, c, err));
    x->seq = env->seq;
    x->reset_positions = c->reset_positions;
    x->reset_attention = c->reset_attention;
    x->eod_mask_loss = c->eod_mask_loss;
    x->n_corpora = (uint32_t)(c->path.n + c->valid.n);
    x->corpora = calloc(x->n_corpora, sizeof *x->corpora);
    x->weights_prefixes = calloc(x->n_corpora, sizeof *x->weights_prefixes);
    x->sets = calloc(2 + c->valid.n, sizeof *x->sets);
    if (!x->corpora || !x->weights_prefixes || !x->sets)
        goto nomem;
    if (c->weights.n) {
        weights = calloc(n_paths, sizeof *weights);
        if (!weights)
            goto nomem;
        MR_TRY(parse_weights(c, weights, err));
    }
    for (uint32_t i = 0; i < n_paths; i++)
        MR_TRY(corpus_open(&x->corpora[i], c->path.v[i], c->loss_mask, &x->weights_prefixes[i],
                           err));

    const char *split = c->split;
    if (!split)
        split = c->valid.n ? "1" : "969,30,1";
    set_request q = {
        .name = "train",
        .corpora = x->corpora,
        .n_corpora = n_paths,
        .weights = weights,
        .split = split,
        .train = 1,
        .samples = env->train_samples,
        .seq = env->seq,
        .seed = (uint32_t)env->seed,
        .surplus = c->surplus,
        .cache = c->cache,
        .host = host,
    };
    int64_t shares[SPLITS + 1]; /* of so many documents that no share vanishes */
    MR_TRY(blend_split(q.split, (int64_t)1 << 50, shares, err));
    MR_TRY(add_set(x, &q, err));
    q.train = 0;
    q.samples = env->valid_samples;
    if (shares[2] > shares[1]) {
        q.name = "valid";
        q.split_index = 1;
        MR_TRY(add_set(x, &q, err));
    }
    for (uint32_t i = 0; i < c->valid.n; i++) {
        const char *path;
        corpus *own = &x->corpora[n_paths + i];
        MR_TRY(parse_valid(c->valid.v[i], &name, &path, err));
        MR_TRY(corpus_open(own, path, c->loss_mask, &x->weights_prefixes[n_paths + i], err));
        q.name = name;
        q.corpora = own;
        q.n_corpora = 1;
        q.weights = NULL;
        q.split = NULL;
        MR_TRY(add_set(x, &q, err));
        free(name);
        name = NULL;
    }
    *data = x;
    x = NULL;
    goto out;
nomem:
    st = mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "data/indexed: out of memory");
out:
    free(name);
    free(weights);
    destroy(x);
    return st;
}

static mr_status get_set(void *data, uint32_t i, mr_data_set *out, mr_err *err)
{
    const indexed *x = data;
    if (i >= x->n_sets)
        return mr_fail(err, MR_E_ARG, MR_BLAME_HOST, "data/indexed: set %u of %u", i, x->n_sets);
    const mr_data_set *info = &x->sets[i].info;
    uint32_t size = out->size; /* the caller's, who may know fewer fields, or more */
    memcpy(out, info, size < info->size ? size : info->size);
    out->size = size;
    return MR_OK;
}

/* What a sample's tokens are written through, one by one, k of [0, S]. */
typedef struct writer {
    const indexed *x;
    mr_sample *out;
    int64_t k;
    int32_t document; /* the first token of the document that token k belongs to */
    int32_t after_eod;
} writer;

static void put(writer *w, int32_t token, float weight, int border)
{
    const indexed *x = w->x;
    mr_sample *out = w->out;
    int64_t k = w->k++;
    int real = x->pad < 0 || token != x->pad; /* a pad id among the data is padding too */
    if (k > 0 && (border || w->after_eod))
        w->document = (int32_t)k;
    w->after_eod = x->eod >= 0 && token == x->eod;
    if (k < x->seq) {
        out->tokens[k] = real ? token : 0;
        out->positions[k] = (int32_t)k - (x->reset_positions ? w->document : 0);
        out->seq_start[k] = x->reset_attention ? w->document : 0;
        out->loss_weight[k] = !(x->eod_mask_loss && w->after_eod);
    }
    if (k > 0) {
        out->targets[k - 1] = real ? token : 0;
        out->loss_weight[k - 1] *= real ? weight : 0;
    }
}

static mr_status put_piece(writer *w, const corpus *c, int64_t document, int64_t from, int64_t to,
                           mr_err *err)
{
    for (int64_t i = from; i < to; i++) {
        int64_t token = token_file_get(&c->tokens, document, i);
        if (token < 0 || token >= w->x->vocab) {
            mr_fail(err, MR_E_DATA_FORMAT, MR_BLAME_USER,
                    "%s.bin: %lld is not a token id of the tokenizer", c->tokens.prefix,
                    (long long)token);
            mr_detail(err, "token %lld of sequence %lld; ids are in [0, %lld)", (long long)i,
                      (long long)document, (long long)w->x->vocab);
            mr_hint(err, "use the tokenizer that the data set was made with");
            return MR_E_DATA_FORMAT;
        }
        float weight = c->weights.dtype ? (float)token_file_get(&c->weights, document, i) : 1;
        put(w, (int32_t)token, weight, i == from);
    }
    return MR_OK;
}

static mr_status read_sample(void *data, uint32_t set, int64_t sample, mr_sample *out, mr_err *err)
{
    const indexed *x = data;
    writer w = { x, out, 0, 0, 0 };
    if (set >= x->n_sets || sample < 0)
        return mr_fail(err, MR_E_ARG, MR_BLAME_HOST, "data/indexed: sample %lld of set %u",
                       (long long)sample, set);
    const data_set *s = &x->sets[set];
    if (s->train || sample < s->size) {
        int64_t j;
        const set_part *p = set_find(s, sample % s->size, &j);
        sampling_start a = p->s.starts[j], b = p->s.starts[j + 1];
        for (uint32_t place = a.place; place <= b.place; place++) {
            int64_t document = p->s.documents[place];
            int64_t from = place == a.place ? a.token : 0;
            int64_t to =
                place == b.place ? b.token + 1 : token_file_length(&p->from->tokens, document);
            mr_status st = put_piece(&w, p->from, document, from, to, err);
            if (st)
                return st;
        }
    }
    w.after_eod = 0;
    while (w.k <= x->seq) /* a partial last sample, or one past the end of a validation set */
        put(&w, 0, 0, 0);
    return MR_OK;
}

static uint32_t promises(const void *config_)
{
    const config *c = config_;
    return c->reset_attention ? 0 : MR_DATA_WHOLE;
}

static const mr_data_ops ops = {
    .size = sizeof ops,
    .create = create,
    .destroy = destroy,
    .set = get_set,
    .read = read_sample,
    .promises = promises,
};

static const mr_unit units[] = { {
    .size = sizeof(mr_unit),
    .kind = "data",
    .name = "indexed",
    .doc = "Megatron's .bin/.idx data sets, in Megatron's order",
    .opts = options,
    .n_opts = sizeof options / sizeof *options,
    .config_size = sizeof(config),
    .table = &ops,
} };

MR_PLUGIN_NOTE("org.mrun.indexed", "0.1.0", "data/indexed");

MR_EXPORT const mr_plugin MR_PLUGIN_SYMBOL = {
    MR_PLUGIN_HEADER,
    .id = "org.mrun.indexed",
    .version = "0.1.0",
    .license = "Apache-2.0",
    .doc = "samples from indexed token files",
    .units = units,
    .n_units = 1,
};
