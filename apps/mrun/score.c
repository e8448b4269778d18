/* SPDX-License-Identifier: Apache-2.0
 *
 * score.c - `mrun score` and job `score`: one JSON line a sequence,
 * {"ids":[...],"logprobs":[...],"sum":x} with logprobs[i] = log p(ids[i+1] | ids[..i]).
 *
 * --logits OUT: f32 [tokens, vocab], named `logits`; of several sequences `logits.0`, `logits.1`...
 * --image FILE (repeatable), --pixel-values FILE: what its image tokens stand for (images.h).
 * --grad OUT: for every trained tensor, under its name and in its layout in a Hugging Face folder,
 * the f32 gradient of the mean of -logprobs over all sequences. Without router losses.
 */
#include "core/base/json.h"
#include "core/run/export.h"
#include "core/run/score.h"
#include "model_args.h"
#include "score_input.h"
#include <stdlib.h>
#include <string.h>

typedef struct request {
    const char *ids, *text, *file, *logits, *grad;
    bool special; /* texts get the id that begins a text */
    app_pictures pictures; /* of --ids or --text; read_input() hands them on */
} request;

static void print_score(const score_sequence *q, const float *nll)
{
    double sum = 0;
    printf("{\"ids\":[");
    for (int64_t i = 0; i < q->n; i++)
        printf("%s%d", i ? "," : "", q->ids[i]);
    printf("],\"logprobs\":[");
    for (int64_t i = 0; i + 1 < q->n; i++) {
        printf("%s%.9g", i ? "," : "", -(double)nll[i]);
        sum -= nll[i];
    }
    printf("],\"sum\":%.9g}\n", sum);
}

/* The tokenizer is needed for text only, so that bare ids work with any folder. */
static mr_status read_input(app *a, const mri_config *c, request *q, score_list *l, mr_err *err)
{
    mri_session *s = NULL;
    mr_status st = 0;
    if (q->ids)
        MR_TRY(score_add_ids(l, q->ids, err));
    if (q->text)
        score_add_text(l, "--text", q->text, strlen(q->text));
    if (app_pictures_any(&q->pictures)) {
        if (l->n != 1)
            MR_TRY(mr_fail(err, MR_E_USAGE, MR_BLAME_USER, "--image and --pixel-values are of one "
                           "sequence, --ids or --text; the lines of a file name their own images"));
        l->v[0].pictures = q->pictures;
        memset(&q->pictures, 0, sizeof q->pictures);
    }
    if (q->file)
        MR_TRY(score_add_jsonl(l, q->file, err));
    mri_session_options o = { .needs = score_has_text(l) ? MRI_NEED_TOKENIZER : 0,
                              .world = a->world };
    MR_TRY(mri_session_open(a->registry, c, &o, &s, err));
    MR_TRY(score_resolve(l, s, q->special, err));
out:
    mri_session_close(s);
    return st;
}

static mri_scoring scoring_of(const score_sequence *q, float *nll, float *logits)
{
    return (mri_scoring){ q->ids, q->n, q->pictures.pixels, q->pictures.tiles, nll, logits };
}

/* Prints the scores; the logits of all sequences into one file. Rank 0 does, and all compute. */
static mr_status score(mri_session *s, const score_list *l, const char *logits_file, mr_err *err)
{
    bool first = mri_world_first(s->world);
    size_t most = (size_t)mri_scores_at_a_time(s), longest = (size_t)score_longest(l);
    float *nll = mri_alloc(most * longest * sizeof *nll);
    mri_scoring *q = mri_alloc(most * sizeof *q);
    mri_tensor *t = mri_alloc((l->n + 1) * sizeof *t);
    mr_status st = 0;
    for (size_t at = 0, n; at < l->n && !st; at += n) {
        n = l->n - at < most ? l->n - at : most;
        for (size_t i = 0; i < n; i++) {
            const score_sequence *x = &l->v[at + i];
            int64_t values = logits_file ? x->n * s->info.vocab : 0;
            float *logits = values ? mri_alloc((size_t)values * sizeof *logits) : NULL;
            q[i] = scoring_of(x, nll + i * longest, logits);
            t[at + i] = (mri_tensor){ l->n > 1 ? mri_format("logits.%zu", at + i)
                                               : mri_strdup("logits"),
                                      mr_type2("f32", x->n, s->info.vocab), logits };
        }
        st = mri_session_scores(s, q, (int64_t)n, err);
        for (size_t i = 0; i < n && !st && first; i++)
            print_score(&l->v[at + i], q[i].nll);
        for (size_t i = 0; i < n && !first; i++) { /* rank 0 keeps them */
            free((void *)t[at + i].data);
            t[at + i].data = NULL;
        }
    }
    if (logits_file && first && !st)
        st = mri_safetensors_write(logits_file, t, l->n, NULL, err);
    for (size_t i = 0; i < l->n; i++) {
        free((char *)t[i].name);
        free((void *)t[i].data);
    }
    free(t);
    free(q);
    free(nll);
    return st;
}

static mr_status differentiate(mri_session *s, const score_list *l, mr_err *err)
{
    mri_scoring *q = mri_alloc(l->n * sizeof *q);
    for (size_t i = 0; i < l->n; i++)
        q[i] = scoring_of(&l->v[i], NULL, NULL);
    mr_status st = mri_session_score_gradients(s, q, (int64_t)l->n, err);
    free(q);
    return st;
}

/* f32 copies of the gradients of all parameters of `all`; NULL for one that has none. The caller
 * frees. */
static mr_status read_gradients(mri_session *s, const mri_params *all, float ***out, mr_err *err)
{
    float **g = *out = mri_alloc((all->slots.n + 1) * sizeof *g);
    mr_status st = 0;
    for (size_t i = 0; i < all->slots.n && !st; i++) {
        bool found = false;
        g[i] = mri_alloc(all->slots.v[i].n * sizeof **g + 1);
        st = mri_session_whole_gradient(s, &all->slots.v[i], g[i], &found, err);
        if (found && mri_world_first(s->world))
            continue;
        free(g[i]);
        g[i] = NULL;
    }
    return st;
}

/* The whole model's parameters, which a rank of several has a part of: described apart. */
static mr_status describe(mri_session *s, mri_session **out, mr_err *err)
{
    mri_session_options o = { .describe = true };
    return mri_world_alone(s->world)
               ? 0
               : mri_session_open(s->registry, s->config, &o, out, err);
}

static mr_status write_gradients(mri_session *s, const char *path, mr_err *err)
{
    mri_session *whole = NULL;
    mri_safetensors *like = NULL;
    mri_quant *quant = NULL;
    mri_exports e = { 0 };
    MRI_VEC(mri_tensor) t = { 0 };
    MRI_VEC(float *) turned = { 0 };
    float **g = NULL;
    const mri_params *all = &s->params;
    mr_status st = 0;
    MR_TRY(describe(s, &whole, err));
    all = whole ? &whole->params : all;
    if (s->config->model.hf && mri_safetensors_open_folder(s->config->model.hf, &like, NULL))
        like = NULL; /* config.json alone: the names that the family gives */
    if (like)
        MR_TRY(mri_quant_open(s->config->model.hf, &quant, err));
    MR_TRY(mri_export_all(all, like, quant, false, &e, err));
    MR_TRY(read_gradients(s, all, &g, err));
    for (size_t i = 0; i < e.n; i++) {
        mri_tensor x = { e.v[i].name, e.v[i].type, NULL };
        if (!g[e.v[i].slot])
            continue;
        x.type.dtype = "f32";
        x.data = g[e.v[i].slot] + e.v[i].at;
        if (e.v[i].ld) {
            float *own = mri_alloc((size_t)mr_numel(&x.type) * sizeof *own);
            mri_turn(own, x.data, x.type.dim[0], x.type.dim[1], e.v[i].ld, sizeof *own);
            MRI_PUSH(&turned, own);
            x.data = own;
        }
        MRI_PUSH(&t, x);
    }
    if (mri_world_first(s->world))
        MR_TRY(mri_safetensors_write(path, t.v, t.n, NULL, err));
out:
    for (size_t i = 0; g && i < all->slots.n; i++)
        free(g[i]);
    free(g);
    for (size_t i = 0; i < turned.n; i++)
        free(turned.v[i]);
    free(turned.v);
    free(t.v);
    mri_quant_free(quant);
    mri_exports_free(&e);
    mri_safetensors_close(like);
    mri_session_close(whole);
    return st;
}

/* The longest sequence sizes the plans; it is known after tokenizing, so a session opens twice:
 * for the model's sizes and the tokenizer, then with the execs. */
static int run(app *a, const mri_config *c, request *q)
{
    mr_err err = MR_ERR_INIT;
    mri_session *s = NULL;
    score_list all = { 0 };
    mr_status st = 0;
    MR_TRY(read_input(a, c, q, &all, &err));
    if (!all.n) /* an empty file */
        goto out;
    mri_session_options o = { .needs = MRI_NEED_EVAL | (q->grad ? MRI_NEED_TRAIN : 0),
                              .main_loss = true };
    o.eval_tokens = o.train_tokens = score_longest(&all);
    o.images = score_most_tiles(&all);
    o.world = a->world;
    MR_TRY(mri_session_open(a->registry, c, &o, &s, &err));
    MR_TRY(app_model_weights(s, &err));
    MR_TRY(score(s, &all, q->logits, &err));
    if (q->grad) {
        MR_TRY(differentiate(s, &all, &err));
        MR_TRY(write_gradients(s, q->grad, &err));
    }
out:
    st = st ? mri_world_fail(a->world, st, &err) : mri_world_agree(a->world, 0, &err);
    score_list_free(&all);
    mri_session_close(s);
    return st ? app_fail(a, &err) : EXIT_OK;
}

int job_score(app *a, mri_config *c)
{
    const mri_cfg_score *d = &c->score;
    request q = { NULL, d->text, d->file, d->logits, d->grad, d->special };
    if (!q.text && !q.file)
        return app_usage(a, "job score needs [score] text or file");
    return run(a, c, &q);
}

/* On each rank: the request is read there, as pictures are prepared in place. */
static int score_args(app *a, mri_config *c, const void *user)
{
    const app_args *args = user;
    mr_err err = MR_ERR_INIT;
    request q = { app_arg(args, "--ids"),    app_arg(args, "--text"), app_arg(args, "--jsonl"),
                  app_arg(args, "--logits"), app_arg(args, "--grad"),
                  !app_arg(args, "--no-special") };
    int code = app_pictures_args(&q.pictures, args, &err) ? app_fail(a, &err) : run(a, c, &q);
    app_pictures_free(&q.pictures);
    return code;
}

int cmd_score(app *a, int argc, char **argv)
{
    static const char *const takes[] = { "--hf", "--ids", "--text", "--jsonl", "--logits", "--grad",
                                         "--image", "--pixel-values", NULL };
    static const char *const flags[] = { "--no-special", NULL };
    /* What a run froze has a gradient here, too; and pieces of gradients, or of weights that are
     * read once, are no use. */
    static const char *const job[] = { "job.run=score", "optimizer.groups=", "shard.plugin=none" };
    app_args args = { 0 };
    int code = app_args_parse(a, argc, argv, takes, flags, &args);
    if (!code && !app_arg(&args, "--ids") && !app_arg(&args, "--text") &&
        !app_arg(&args, "--jsonl"))
        code = app_usage(a, "score needs --ids \"1 2 3\", --text TEXT or --jsonl FILE");
    if (!code)
        code = app_model_run(a, &args, job, sizeof job / sizeof *job, score_args, &args);
    app_args_free(&args);
    return code;
}
