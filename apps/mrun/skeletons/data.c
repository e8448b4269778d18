/*
 * skeleton - a data set for mrun: counting. Token t of sample i is (i * stride + t) modulo
 * `period`, so a model can learn it to the last digit. A sample is a pure function of the
 * configuration and its number: resuming needs that number only, and any thread may read.
 */
#include "mrun/data.h"
#include <stdlib.h>

/* section [data.skeleton] of a profile fills this struct, by the rows below */
typedef struct config {
    int64_t period, stride, samples;
} config;

static const mr_opt opts[] = {
    MR_OPT_RANGE(config, MR_T_INT, period, "period", "10", 2, 1000000,
                 "after which it starts again"),
    MR_OPT_RANGE(config, MR_T_INT, stride, "stride", "3", 1, 1000000,
                 "from the start of a sample to that of the next (tokens)"),
    MR_OPT_RANGE(config, MR_T_INT, samples, "samples", "1000", 1, 1000000000, "of an epoch"),
};

typedef struct counting {
    config cfg;
    int64_t seq;
} counting;

static mr_status create(const mr_host *host, const mr_data_env *env, const void *cfg, void **data,
                        mr_err *err)
{
    const config *c = cfg;
    mr_tokenizer_info tok = { .size = sizeof tok };
    mr_status st;
    (void)host;
    MR_TRY(env->tokenizer->info(env->tok, &tok, err));
    if (c->period > tok.vocab) {
        st = mr_fail(err, MR_E_PROFILE_CONFLICT, MR_BLAME_USER,
                     "[data.skeleton] period = %lld needs as many tokens, the tokenizer has %lld",
                     (long long)c->period, (long long)tok.vocab);
        mr_hint(err, "set a smaller period, or another [tokenizer] plugin");
        goto out;
    }
    counting *d = malloc(sizeof *d);
    if (!d) {
        st = mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "no memory for data/skeleton");
        goto out;
    }
    d->cfg = *c;
    d->seq = env->seq;
    *data = d;
out:
    return st;
}

static mr_status set(void *data, uint32_t i, mr_data_set *out, mr_err *err)
{
    static const char *const names[] = { "train", "valid" };
    const counting *d = data;
    if (i >= sizeof names / sizeof *names)
        return mr_fail(err, MR_E_ARG, MR_BLAME_HOST, "data/skeleton has 2 sets, not %u", i + 1);
    out->flags = 0;
    out->name = names[i];
    out->samples = i ? 16 : d->cfg.samples;
    out->tokens = out->samples * d->seq;
    out->bytes_per_token = 0; /* there is no text */
    return MR_OK;
}

static mr_status read(void *data, uint32_t which, int64_t sample, mr_sample *out, mr_err *err)
{
    const counting *d = data;
    int64_t period = d->cfg.period;
    /* far away from the training samples, and modulo before the product can overflow */
    int64_t start = (sample % period + (which ? period / 2 : 0)) * (d->cfg.stride % period);
    (void)err;
    for (int64_t t = 0; t < d->seq; t++) {
        out->tokens[t] = (int32_t)((start + t) % period);
        out->targets[t] = (int32_t)((start + t + 1) % period);
        out->positions[t] = (int32_t)t;
        out->seq_start[t] = 0; /* the whole sample is one document */
        out->loss_weight[t] = 1;
    }
    return MR_OK;
}

static const mr_data_ops table = {
    .size = sizeof table,
    .create = create,
    .destroy = free,
    .set = set,
    .read = read,
};

static const mr_unit unit = {
    .size = sizeof unit,
    .kind = "data",
    .name = "skeleton",
    .doc = "counting, modulo a period",
    .opts = opts,
    .n_opts = sizeof opts / sizeof *opts,
    .config_size = sizeof(config),
    .table = &table,
};

MR_PLUGIN_NOTE("org.example.skeleton", "0.1.0", "data/skeleton");

MR_EXPORT const mr_plugin MR_PLUGIN_SYMBOL = {
    MR_PLUGIN_HEADER,
    .id = "org.example.skeleton",
    .version = "0.1.0",
    .license = "Apache-2.0",
    .doc = "a data set",
    .units = &unit,
    .n_units = 1,
};
