/* SPDX-License-Identifier: Apache-2.0
 *
 * generate.c - text on stdout: `mrun generate`, job `generate`, and the sample at the end of
 * a training run. The prompt is fed through the cache in chunks, then token by token.
 */
#include "core/run/sample.h"
#include "core/run/text.h"
#include "images.h"
#include "model_args.h"
#include "sinks.h"
#include <stdlib.h>
#include <string.h>

typedef struct generation {
    const char *prompt;
    int64_t max_tokens;
    mri_sampling how;
    app_pictures *pictures; /* that the prompt's placeholders stand for; NULL: none */
} generation;

static mr_status encode(mri_session *s, const generation *g, int32_t **ids, uint64_t *n,
                        mr_err *err)
{
    const char *text = g->prompt;
    mr_status st = g->pictures
                       ? app_pictures_ids(g->pictures, s, text, strlen(text), true, ids, n, err)
                       : mri_text_ids(s->tok_ops, s->tok, text, strlen(text), true, ids, n, err);
    if (!st && !*n)
        st = mr_fail(err, MR_E_ARG, MR_BLAME_USER, "the prompt is empty and the tokenizer has no "
                                                   "beginning-of-text id");
    return st;
}

static void flush(mri_str *text)
{
    fwrite(text->s ? text->s : "", 1, text->n, stdout);
    fflush(stdout);
    mri_str_free(text);
}

static mr_status put_text(mri_text_stream *t, const int32_t *ids, uint64_t n, mr_err *err)
{
    mri_str text = { 0 };
    mr_status st = mri_text_next(t, ids, n, &text, err);
    flush(&text);
    return st;
}

static mr_status generate(mri_session *s, const generation *g, bool figures, mr_err *err)
{
    int32_t *ids = NULL;
    uint64_t n = 0, prompt;
    float *logits = NULL;
    mri_text_stream shown = { s->tok_ops, s->tok, "", 0 };
    mri_str rest = { 0 };
    mr_status st = encode(s, g, &ids, &n, err);
    if (st)
        goto out;
    prompt = n;
    logits = mri_alloc((size_t)s->info.vocab * sizeof *logits);
    ids = mri_grow(ids, (n + (uint64_t)g->max_tokens + 1) * sizeof *ids);
    double start = app_now(), first = 0;
    if (g->pictures) { /* shown with its placeholders: image tokens are no text */
        fputs(g->prompt, stdout);
        MR_TRY(mri_session_pictures(s, g->pictures->pixels, g->pictures->tiles, err));
    } else {
        MR_TRY(put_text(&shown, ids, n, err));
    }
    MR_TRY(mri_session_decode(s, ids, (int64_t)n, 0, logits, err));
    first = app_now();
    for (int64_t i = 0; i < g->max_tokens; i++) {
        int32_t id = mri_sample(logits, s->info.vocab, &g->how, n);
        if (id == s->tok_info.eos)
            break;
        ids[n++] = id;
        MR_TRY(put_text(&shown, &id, 1, err));
        if (i + 1 < g->max_tokens)
            MR_TRY(mri_session_decode(s, &id, 1, (int64_t)n - 1, logits, err));
    }
    mri_text_end(&shown, &rest);
    flush(&rest);
    puts("");
    if (figures && n > prompt + 1)
        fprintf(stderr, "mrun: prefill %llu tokens at %.1f tokens/s, decode %llu at %.1f tokens/s\n",
                (unsigned long long)prompt, (double)prompt / (first - start),
                (unsigned long long)(n - prompt),
                (double)(n - prompt - 1) / (app_now() - first));
out:
    free(ids);
    free(logits);
    return st;
}

mr_status app_print_sample(mri_session *s, const char *prompt, int64_t tokens, mr_err *err)
{
    const mri_cfg_generate *d = &s->config->generate;
    generation g = { prompt, tokens, { d->temperature, d->top_k, d->top_p, (uint64_t)d->seed } };
    return generate(s, &g, false, err);
}

/* How many tokens the prompt is, and its pictures' tiles: a session of its own, without execs. */
static mr_status measure(app *a, const mri_config *c, const generation *g, int64_t *tokens,
                         mr_err *err)
{
    mri_session_options o = { .needs = MRI_NEED_TOKENIZER };
    mri_session *s = NULL;
    int32_t *ids = NULL;
    uint64_t n = 0;
    mr_status st = 0;
    MR_TRY(mri_session_open(a->registry, c, &o, &s, err));
    MR_TRY(app_pictures_read(g->pictures, s, err));
    MR_TRY(encode(s, g, &ids, &n, err));
    *tokens = (int64_t)n;
out:
    free(ids);
    mri_session_close(s);
    return st;
}

static int generate_from(app *a, mri_config *c, app_pictures *pictures)
{
    const mri_cfg_generate *d = &c->generate;
    mr_err err = MR_ERR_INIT;
    mri_session *s = NULL;
    generation g = { d->prompt ? d->prompt : "", d->max_tokens,
                     { d->temperature, d->top_k, d->top_p, (uint64_t)d->seed }, pictures };
    int64_t room = (int64_t)strlen(g.prompt) + 8 + g.max_tokens; /* a token has a byte or more */
    mri_session_options o = { .needs = MRI_NEED_DECODE | MRI_NEED_TOKENIZER, .slots = 1,
                              .prefill_tokens = 64,
                              .max_seq = d->max_seq > 0 ? d->max_seq : room };
    mr_status st = 0;
    if (pictures) {
        MR_TRY(measure(a, c, &g, &room, &err));
        o.images = pictures->tiles;
        if (!d->max_seq)
            o.max_seq = room + g.max_tokens;
    }
    MR_TRY(mri_session_open(a->registry, c, &o, &s, &err));
    MR_TRY(app_model_weights(s, &err));
    MR_TRY(generate(s, &g, !a->quiet, &err));
out:
    mri_session_close(s);
    return st ? app_fail(a, &err) : EXIT_OK;
}

int job_generate(app *a, mri_config *c)
{
    return generate_from(a, c, NULL);
}

int cmd_generate(app *a, int argc, char **argv)
{
    static const struct {
        const char *option, *key;
    } map[] = { { "--prompt", "generate.prompt" },           { "--max-tokens", "generate.max_tokens" },
                { "--temperature", "generate.temperature" }, { "--top-k", "generate.top_k" },
                { "--top-p", "generate.top_p" },             { "--seed", "generate.seed" } };
    static const char *const takes[] = { "--hf", "--prompt", "--max-tokens", "--temperature",
                                         "--top-k", "--top-p", "--seed", "--image", NULL };
    app_args args = { 0 };
    mr_err err = MR_ERR_INIT;
    mri_config *c = NULL;
    char *extra[8] = { mri_strdup("job.run=generate") };
    size_t n = 1;
    app_pictures pictures = { 0 };
    int code = app_args_parse(a, argc, argv, takes, NULL, &args);
    if (!code && app_pictures_args(&pictures, &args, &err))
        code = app_fail(a, &err);
    for (size_t i = 0; i < sizeof map / sizeof *map && !code; i++)
        if (app_arg(&args, map[i].option))
            extra[n++] = mri_format("%s=%s", map[i].key, app_arg(&args, map[i].option));
    if (!code && app_model_config(a, &args, (const char *const *)extra, n, &c, &err))
        code = app_fail(a, &err);
    if (!code)
        code = generate_from(a, c, app_pictures_any(&pictures) ? &pictures : NULL);
    app_pictures_free(&pictures);
    while (n)
        free(extra[--n]);
    mri_config_free(c);
    app_args_free(&args);
    return code;
}
