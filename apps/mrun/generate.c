/* SPDX-License-Identifier: Apache-2.0
 *
 * generate.c - `mrun generate`, job `generate`, and the sample at the end of a training run, which
 * borrows the run's own session.
 */
#include "core/run/sample.h"
#include "core/run/text.h"
#include "generate_run.h"
#include "model_args.h"
#include "sinks.h"
#include <stdlib.h>
#include <string.h>

typedef struct generation {
    const char *prompt;
    int64_t max_tokens;
    mri_sampling how;
} generation;

static mr_status encode(mri_session *s, const char *text, int32_t **ids, uint64_t *n, mr_err *err)
{
    mr_status st = mri_text_ids(s->tok_ops, s->tok, text, strlen(text), true, ids, n, err);
    if (!st && !*n)
        st = mr_fail(err, MR_E_ARG, MR_BLAME_USER, "the prompt is empty and the tokenizer has no "
                                                   "beginning-of-text id");
    return st;
}

/* Ranks of one world all draw the same text; the first prints it. */
static void flush(const mri_session *s, mri_str *text)
{
    if (mri_world_first(s->world))
        fwrite(text->s ? text->s : "", 1, text->n, stdout);
    fflush(stdout);
    mri_str_free(text);
}

static mr_status put_text(const mri_session *s, mri_text_stream *t, const int32_t *ids, uint64_t n,
                          mr_err *err)
{
    mri_str text = { 0 };
    mr_status st = mri_text_next(t, ids, n, &text, err);
    flush(s, &text);
    return st;
}

static mr_status generate(mri_session *s, const generation *g, mr_err *err)
{
    int32_t *ids = NULL;
    uint64_t n = 0;
    float *logits = NULL;
    mri_text_stream shown = { s->tok_ops, s->tok, "", 0 };
    mri_str rest = { 0 };
    mr_status st = encode(s, g->prompt, &ids, &n, err);
    if (st)
        goto out;
    logits = mri_alloc((size_t)s->info.vocab * sizeof *logits);
    ids = mri_grow(ids, (n + (uint64_t)g->max_tokens + 1) * sizeof *ids);
    MR_TRY(put_text(s, &shown, ids, n, err));
    MR_TRY(mri_session_decode(s, ids, (int64_t)n, 0, logits, err));
    for (int64_t i = 0; i < g->max_tokens; i++) {
        int32_t id = mri_sample(logits, s->info.vocab, &g->how, n);
        if (id == s->tok_info.eos)
            break;
        ids[n++] = id;
        MR_TRY(put_text(s, &shown, &id, 1, err));
        if (i + 1 < g->max_tokens)
            MR_TRY(mri_session_decode(s, &id, 1, (int64_t)n - 1, logits, err));
    }
    mri_text_end(&shown, &rest);
    mri_str_add(&rest, "\n");
    flush(s, &rest);
out:
    free(ids);
    free(logits);
    return st;
}

mr_status app_print_sample(mri_session *s, const char *prompt, int64_t tokens, mr_err *err)
{
    const mri_cfg_generate *d = &s->config->generate;
    generation g = { prompt, tokens, { d->temperature, d->top_k, d->top_p, (uint64_t)d->seed } };
    return generate(s, &g, err);
}

int job_generate(app *a, mri_config *c)
{
    return generate_run(a, c, (gen_words){ 0 });
}

/* Options that stand for keys of [generate]. */
static const struct {
    const char *option, *key;
} keys[] = {
    { "--prompt", "prompt" }, { "--ids", "ids" }, { "--jsonl", "jsonl" },
    { "--system", "system" }, { "--messages", "messages" }, { "--tools", "tools" },
    { "--chat-template", "chat_template" }, { "--max-tokens", "max_tokens" },
    { "--min-tokens", "min_tokens" }, { "--temperature", "temperature" }, { "--top-k", "top_k" },
    { "--top-p", "top_p" }, { "--min-p", "min_p" },
    { "--repetition-penalty", "repetition_penalty" },
    { "--presence-penalty", "presence_penalty" },
    { "--frequency-penalty", "frequency_penalty" }, { "--logit-bias", "logit_bias" },
    { "--seed", "seed" }, { "--n", "n" }, { "--batch", "batch" }, { "--logprobs", "logprobs" },
};

static const struct {
    const char *option, *setting;
} switches[] = {
    { "--chat", "generate.chat=true" },
    { "--no-special", "generate.special=false" },
    { "--ignore-eos", "generate.ignore_eos=true" },
};

typedef MRI_VEC(char *) strings;

/* The profile's settings of the command line; --stop-id may be given again and again. */
static void read_options(const app_args *args, strings *settings)
{
    mri_str ids = { 0 };
    MRI_PUSH(settings, mri_strdup("job.run=generate"));
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (app_arg(args, keys[i].option))
            MRI_PUSH(settings, mri_format("generate.%s=%s", keys[i].key,
                                          app_arg(args, keys[i].option)));
    for (size_t i = 0; i < sizeof switches / sizeof *switches; i++)
        if (app_arg(args, switches[i].option))
            MRI_PUSH(settings, mri_strdup(switches[i].setting));
    for (size_t i = 0; i < args->names.n; i++)
        if (!strcmp(args->names.v[i], "--stop-id"))
            mri_str_fmt(&ids, "%s%s", ids.n ? ", " : "", args->values.v[i]);
    if (ids.n)
        MRI_PUSH(settings, mri_format("generate.stop_ids=%s", ids.s));
    mri_str_free(&ids);
}

typedef struct wanted {
    gen_words words;
    bool talk;
} wanted;

/* on each rank */
static int generate_args(app *a, mri_config *c, const void *user)
{
    const wanted *w = user;
    if (w->talk && !mri_world_alone(a->world))
        return app_usage(a, "--interactive talks to one process, not to %u ranks",
                         a->world->mesh.world);
    return w->talk ? generate_talk(a, c, w->words) : generate_run(a, c, w->words);
}

int cmd_generate(app *a, int argc, char **argv)
{
    enum { KEYS = sizeof keys / sizeof *keys, SWITCHES = sizeof switches / sizeof *switches };
    const char *takes[KEYS + 6] = { "--hf", "--stop", "--stop-id", "--image", "--pixel-values" };
    const char *flags[SWITCHES + 2] = { "--interactive" };
    app_args args = { 0 };
    strings settings = { 0 };
    MRI_VEC(const char *) words = { 0 }, images = { 0 };
    for (size_t i = 0; i < KEYS; i++)
        takes[5 + i] = keys[i].option;
    for (size_t i = 0; i < SWITCHES; i++)
        flags[1 + i] = switches[i].option;
    int code = app_args_parse(a, argc, argv, takes, flags, &args);
    if (!code) {
        read_options(&args, &settings);
        for (size_t i = 0; i < args.names.n; i++) {
            if (!strcmp(args.names.v[i], "--stop"))
                MRI_PUSH(&words, args.values.v[i]);
            if (!strcmp(args.names.v[i], "--image"))
                MRI_PUSH(&images, args.values.v[i]);
        }
    }
    wanted given = { { words.v, words.n, { images.v, images.n, app_arg(&args, "--pixel-values") } },
                     app_arg(&args, "--interactive") != NULL };
    if (!code && given.talk && (images.n || given.words.pictures.values))
        code = app_usage(a, "--interactive takes no pictures");
    if (!code)
        code = app_model_run(a, &args, (const char *const *)settings.v, settings.n, generate_args,
                             &given);
    while (settings.n)
        free(settings.v[--settings.n]);
    free(settings.v);
    free(words.v);
    free(images.v);
    app_args_free(&args);
    return code;
}
