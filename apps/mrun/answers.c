/* SPDX-License-Identifier: Apache-2.0
 * answers.c - `mrun answers`, and the answers that training counts; see answers.h. */
#include "answers.h"
#include "core/run/micro.h"
#include "core/run/text.h"
#include "model_args.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

void answers_free(answers *a)
{
    for (int64_t c = 0; a->name && c < a->info.choices; c++)
        free(a->name[c]);
    free(a->name);
    free(a->pick);
    *a = (answers){ 0 };
}

mr_status answers_choose(mri_session *s, uint32_t set, int64_t n, answers *out, mr_err *err)
{
    mr_status st = 0;
    *out = (answers){ .set = set, .info = { .size = sizeof out->info } };
    MR_TRY(s->data_ops->set(s->data, set, &out->info, err));
    out->n = n > 0 && n < out->info.samples ? n : out->info.samples;
    out->pick = mri_alloc((size_t)out->n * sizeof *out->pick);
    MR_TRY(mri_session_choose(s, set, 0, out->n, out->pick, err));
    for (int64_t i = 0; i < out->n; i++)
        out->right += out->pick[i].choice == out->pick[i].answer;
    out->accuracy = out->n ? (double)out->right / (double)out->n : 0;
out:
    if (st)
        answers_free(out);
    return st;
}

/* What a choice is called: the words that it puts in an answer's place. */
static mr_status name_choice(mri_session *s, mri_micro *m, answers *a, int64_t c, mr_err *err)
{
    mri_text_stream words = { s->tok_ops, s->tok, "", 0 };
    mri_str name = { 0 };
    int64_t answer;
    mr_status st = mri_micro_read_row(s, m, 0, a->set, 0, c + 1, &answer, err);
    for (int64_t t = 0; !st && t < s->config->train.seq; t++)
        if (m->weight[t] > 0)
            st = mri_text_next(&words, &m->targets[t], 1, &name, err);
    mri_text_end(&words, &name);
    a->name[c] = mri_str_take(&name);
    return st;
}

static mr_status name_choices(mri_session *s, answers *a, mr_err *err)
{
    mri_micro m = mri_micro_of(s->eval);
    mr_status st = 0;
    a->name = mri_alloc((size_t)a->info.choices * sizeof *a->name);
    for (int64_t c = 0; c < a->info.choices && !st; c++)
        st = name_choice(s, &m, a, c, err);
    mri_micro_free(&m);
    return st;
}

mr_status answers_find(mri_session *s, int64_t n, answers *out, mr_err *err)
{
    *out = (answers){ 0 };
    for (uint32_t i = 0;; i++) {
        mr_data_set info = { .size = sizeof info };
        if (s->data_ops->set(s->data, i, &info, NULL))
            return 0;
        if (strncmp(info.name, "valid", 5) || info.choices < 2)
            continue;
        mr_status st = answers_choose(s, i, n, out, err);
        if (!st)
            st = name_choices(s, out, err);
        if (st)
            answers_free(out);
        return st;
    }
}

/* ---- the command --------------------------------------------------------------------------- */

static mr_status number_of(const char *text, int64_t *out, mr_err *err)
{
    char *end = NULL;
    errno = 0;
    long long v = text ? strtoll(text, &end, 10) : 0;
    if (text && (end == text || *end || errno || v < 1))
        return mr_fail(err, MR_E_USAGE, MR_BLAME_USER, "--samples '%.30s' is no number from 1 on",
                       text);
    *out = v;
    return 0;
}

static void print_answers(const answers *a)
{
    printf("{\"set\":\"%s\",\"samples\":%lld,\"right\":%lld,\"accuracy\":%.6g,\"choices\":%lld}\n",
           a->info.name, (long long)a->n, (long long)a->right, a->accuracy,
           (long long)a->info.choices);
}

static mr_status run(app *a, const mri_config *c, int64_t samples, const char *page, mr_err *err)
{
    mri_session_options o = { .needs = MRI_NEED_EVAL | MRI_NEED_DATA | MRI_NEED_TOKENIZER };
    mri_session *s = NULL;
    mri_str html = { 0 };
    answers x = { 0 };
    mr_status st = 0;
    MR_TRY(mri_session_open(a->registry, c, &o, &s, err));
    MR_TRY(app_model_weights(s, err));
    MR_TRY(answers_find(s, samples, &x, err));
    if (!x.n) {
        st = mr_fail(err, MR_E_ARG, MR_BLAME_USER, "no validation set of this run has choices");
        mr_hint(err, "data/captions has them: set data.captions.classes");
        goto out;
    }
    print_answers(&x);
    if (page) {
        MR_TRY(answers_page(s, &x, &html, err));
        MR_TRY(mri_write_file_atomic(page, html.s, html.n, err));
    }
out:
    answers_free(&x);
    mri_str_free(&html);
    mri_session_close(s);
    return st;
}

int cmd_answers(app *a, int argc, char **argv)
{
    static const char *const takes[] = { "--hf", "-o", "--samples", NULL };
    app_args args = { 0 };
    mr_err err = MR_ERR_INIT;
    mri_config *c = NULL;
    int64_t samples = 0;
    int code = app_args_parse(a, argc, argv, takes, NULL, &args);
    if (!code && (number_of(app_arg(&args, "--samples"), &samples, &err) ||
                  app_model_config(a, &args, NULL, 0, &c, &err) ||
                  run(a, c, samples, app_arg(&args, "-o"), &err)))
        code = app_fail(a, &err);
    mri_config_free(c);
    app_args_free(&args);
    return code;
}
