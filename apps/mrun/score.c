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
#include "core/run/pictures.h"
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
    mri_session_options o = { .needs = score_has_text(l) ? MRI_NEED_TOKENIZER : 0 };
    MR_TRY(mri_session_open(a->registry, c, &o, &s, err));
    MR_TRY(score_resolve(l, s, q->special, err));
out:
    mri_session_close(s);
    return st;
}

/* Prints the scores; the logits of all sequences into one file. */
static mr_status score(mri_session *s, const score_list *l, const char *logits_file, mr_err *err)
{
    float *nll = mri_alloc((size_t)score_longest(l) * sizeof *nll);
    mri_tensor *t = mri_alloc((l->n + 1) * sizeof *t);
    mr_status st = 0;
    for (size_t i = 0; i < l->n && !st; i++) {
        const score_sequence *q = &l->v[i];
        float *logits = NULL;
        if (logits_file) {
            logits = mri_alloc((size_t)(q->n * s->info.vocab) * sizeof *logits);
            t[i] = (mri_tensor){ l->n > 1 ? mri_format("logits.%zu", i) : mri_strdup("logits"),
                                 mr_type2("f32", q->n, s->info.vocab), logits };
        }
        st = mri_session_pictures(s, q->pictures.pixels, q->pictures.tiles, err);
        if (!st)
            st = mri_session_score(s, q->ids, q->n, nll, logits, err);
        if (!st)
            print_score(q, nll);
    }
    if (logits_file && !st)
        st = mri_safetensors_write(logits_file, t, l->n, NULL, err);
    for (size_t i = 0; i < l->n; i++) {
        free((char *)t[i].name);
        free((void *)t[i].data);
    }
    free(t);
    free(nll);
    return st;
}

/* Gradients of the mean over all sequences into the main gradients. */
static mr_status differentiate(mri_session *s, const score_list *l, mr_err *err)
{
    mri_micro m = mri_micro_of(s->train);
    double loss;
    int64_t predicted = 0;
    mr_status st = 0;
    for (size_t i = 0; i < l->n; i++)
        predicted += l->v[i].n - 1;
    if (!predicted) {
        st = mr_fail(err, MR_E_ARG, MR_BLAME_USER,
                     "--grad: sequences of one token predict nothing, there is no loss");
        goto out;
    }
    MR_TRY(mri_session_gradients_begin(s, (double)predicted, err));
    for (size_t i = 0; i < l->n; i++) {
        mri_micro_sequence(&m, l->v[i].ids, l->v[i].n, 1);
        MR_TRY(mri_session_pictures(s, l->v[i].pictures.pixels, l->v[i].pictures.tiles, err));
        MR_TRY(mri_pictures_place(s, &m, l->v[i].n, err));
        mri_batch b = mri_micro_batch(&m, false);
        MR_TRY(mri_session_gradients_add(s, &b, &loss, err));
    }
out:
    mri_micro_free(&m);
    return st;
}

/* f32 copies of the main gradients; NULL for a parameter that has none. The caller frees. */
static mr_status read_gradients(mri_session *s, float ***out, mr_err *err)
{
    const mri_params *p = &s->params;
    float **g = *out = mri_alloc((p->slots.n + 1) * sizeof *g);
    mr_status st = 0;
    for (size_t i = 0; i < p->slots.n && !st; i++) {
        const mri_tensor_slot *slot = &p->slots.v[i];
        const void *grad = mri_params_grad(p, slot);
        if (!grad)
            continue;
        g[i] = mri_alloc(slot->n * sizeof **g);
        size_t bytes = slot->n * mr_dtype_bytes(p->acc_dtype);
        void *raw = mri_alloc(bytes);
        st = mri_device_read(&s->device, raw, grad, bytes, err);
        if (!st)
            st = mri_convert(g[i], "f32", raw, p->acc_dtype, slot->n, err);
        free(raw);
    }
    return st;
}

static mr_status write_gradients(mri_session *s, const char *path, mr_err *err)
{
    mri_safetensors *like = NULL;
    mri_quant *quant = NULL;
    mri_exports e = { 0 };
    MRI_VEC(mri_tensor) t = { 0 };
    MRI_VEC(float *) turned = { 0 };
    float **g = NULL;
    mr_status st = 0;
    if (s->config->model.hf && mri_safetensors_open_folder(s->config->model.hf, &like, NULL))
        like = NULL; /* config.json alone: the names that the family gives */
    if (like)
        MR_TRY(mri_quant_open(s->config->model.hf, &quant, err));
    MR_TRY(mri_export_all(&s->params, like, quant, false, &e, err));
    MR_TRY(read_gradients(s, &g, err));
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
    MR_TRY(mri_safetensors_write(path, t.v, t.n, NULL, err));
out:
    for (size_t i = 0; g && i < s->params.slots.n; i++)
        free(g[i]);
    free(g);
    for (size_t i = 0; i < turned.n; i++)
        free(turned.v[i]);
    free(turned.v);
    free(t.v);
    mri_quant_free(quant);
    mri_exports_free(&e);
    mri_safetensors_close(like);
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
    MR_TRY(mri_session_open(a->registry, c, &o, &s, &err));
    MR_TRY(app_model_weights(s, &err));
    MR_TRY(score(s, &all, q->logits, &err));
    if (q->grad) {
        MR_TRY(differentiate(s, &all, &err));
        MR_TRY(write_gradients(s, q->grad, &err));
    }
out:
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

int cmd_score(app *a, int argc, char **argv)
{
    static const char *const takes[] = { "--hf", "--ids", "--text", "--jsonl", "--logits", "--grad",
                                         "--image", "--pixel-values", NULL };
    static const char *const flags[] = { "--no-special", NULL };
    /* what a run froze has a gradient here, too */
    static const char *const job[] = { "job.run=score", "optimizer.groups=" };
    app_args args = { 0 };
    mr_err err = MR_ERR_INIT;
    mri_config *c = NULL;
    int code = app_args_parse(a, argc, argv, takes, flags, &args);
    request q = { app_arg(&args, "--ids"),    app_arg(&args, "--text"), app_arg(&args, "--jsonl"),
                  app_arg(&args, "--logits"), app_arg(&args, "--grad"),
                  !app_arg(&args, "--no-special") };
    if (!code && !q.ids && !q.text && !q.file)
        code = app_usage(a, "score needs --ids \"1 2 3\", --text TEXT or --jsonl FILE");
    if (!code && (app_pictures_args(&q.pictures, &args, &err) ||
                  app_model_config(a, &args, job, 2, &c, &err)))
        code = app_fail(a, &err);
    if (!code)
        code = run(a, c, &q);
    app_pictures_free(&q.pictures);
    mri_config_free(c);
    app_args_free(&args);
    return code;
}
