/* SPDX-License-Identifier: Apache-2.0
 *
 * score.c - `mrun score` and job `score`: one JSON line a sequence,
 * {"ids":[...],"logprobs":[...],"sum":x} with logprobs[i] = log p(ids[i+1] | ids[..i]).
 * --logits writes the last sequence's logits, f32 [tokens, vocab].
 */
#include "core/base/json.h"
#include "model_args.h"
#include <ctype.h>
#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

typedef struct sequence {
    int32_t *ids;
    int64_t n;
} sequence;

typedef MRI_VEC(sequence) sequences;

static mr_status add_text(mri_session *s, const char *text, size_t len, sequences *out, mr_err *err)
{
    uint64_t need = 0, bos = s->tok_info.bos >= 0;
    mr_status st = s->tok_ops->encode(s->tok, text, len, NULL, 0, &need, err);
    if (st)
        return st;
    sequence q = { mri_alloc((need + bos + 1) * 4), (int64_t)(need + bos) };
    if (bos)
        q.ids[0] = s->tok_info.bos;
    st = s->tok_ops->encode(s->tok, text, len, q.ids + bos, need, &need, err);
    MRI_PUSH(out, q);
    return st;
}

static mr_status add_ids(mri_session *s, const char *text, sequences *out, mr_err *err)
{
    MRI_VEC(int32_t) ids = { 0 };
    const char *p = text;
    for (;;) {
        while (isspace((unsigned char)*p) || *p == ',')
            p++;
        if (!*p)
            break;
        char *end;
        long long v = strtoll(p, &end, 10);
        if (end == p || v < 0 || v >= s->info.vocab) {
            free(ids.v);
            mr_fail(err, MR_E_ARG, MR_BLAME_USER, "--ids: '%.20s' is no id below the vocabulary's "
                    "%lld", p, (long long)s->info.vocab);
            return MR_E_ARG;
        }
        MRI_PUSH(&ids, (int32_t)v);
        p = end;
    }
    sequence q = { ids.v, (int64_t)ids.n };
    MRI_PUSH(out, q);
    return 0;
}

/* A JSON Lines file: objects with "ids" or "text". */
static mr_status add_jsonl(mri_session *s, const char *path, sequences *out, mr_err *err)
{
    char *text;
    size_t n;
    mr_status st = mri_read_file(path, (size_t)1 << 32, &text, &n, err);
    if (st)
        return st;
    int line = 1;
    for (char *p = text, *end; p < text + n && !st; p = end + 1, line++) {
        end = memchr(p, '\n', (size_t)(text + n - p));
        if (!end)
            end = text + n;
        json_error_t je;
        json_t *j = end > p ? json_loadb(p, (size_t)(end - p), JSON_REJECT_DUPLICATES, &je) : NULL;
        const json_t *ids = json_object_get(j, "ids"), *str = json_object_get(j, "text");
        if (end > p && !j) {
            st = mr_fail(err, MR_E_DATA_FORMAT, MR_BLAME_USER, "%s:%d: %s", path, line, je.text);
        } else if (json_is_array(ids)) {
            sequence q = { mri_alloc((json_array_size(ids) + 1) * 4),
                           (int64_t)json_array_size(ids) };
            for (size_t i = 0; i < json_array_size(ids); i++) {
                const json_t *id = json_array_get(ids, i);
                json_int_t v = json_integer_value(id);
                if (!json_is_integer(id))
                    st = mr_fail(err, MR_E_DATA_FORMAT, MR_BLAME_USER,
                                 "%s:%d: ids[%zu] is no integer", path, line, i);
                else if (v < 0 || v >= s->info.vocab)
                    st = mr_fail(err, MR_E_DATA_FORMAT, MR_BLAME_USER,
                                 "%s:%d: id %lld, the vocabulary is %lld", path, line, (long long)v,
                                 (long long)s->info.vocab);
                q.ids[i] = (int32_t)v;
            }
            MRI_PUSH(out, q);
        } else if (json_is_string(str)) {
            st = add_text(s, json_string_value(str), json_string_length(str), out, err);
        } else if (end > p) {
            st = mr_fail(err, MR_E_DATA_FORMAT, MR_BLAME_USER,
                         "%s:%d: the object has neither \"ids\" nor \"text\"", path, line);
        }
        json_decref(j);
    }
    free(text);
    return st;
}

static void print_score(const sequence *q, const float *nll)
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

typedef struct request {
    const char *ids, *text, *file, *logits;
} request;

/* The tokenizer is needed for text only, so that bare ids work with any folder. The longest
 * sequence sizes the plan; it is known after tokenizing, so the session opens twice when text
 * is given: once for the tokenizer alone, once with the exec. */
static int score(app *a, const mri_config *c, const request *q)
{
    mr_err err = MR_ERR_INIT;
    mri_session *s = NULL;
    sequences all = { 0 };
    float *nll = NULL, *logits = NULL;
    int64_t longest = 1;
    mr_status st = 0;
    mri_session_options o = { .needs = q->ids ? 0 : MRI_NEED_TOKENIZER };
    MR_TRY(mri_session_open(a->registry, c, &o, &s, &err));
    if (q->ids)
        MR_TRY(add_ids(s, q->ids, &all, &err));
    if (q->text)
        MR_TRY(add_text(s, q->text, strlen(q->text), &all, &err));
    if (q->file)
        MR_TRY(add_jsonl(s, q->file, &all, &err));
    for (size_t i = 0; i < all.n; i++) {
        longest = all.v[i].n > longest ? all.v[i].n : longest;
        if (!all.v[i].n) {
            st = mr_fail(&err, MR_E_ARG, MR_BLAME_USER, "sequence %zu of %zu is empty", i + 1,
                         all.n);
            goto out;
        }
    }
    mri_session_close(s);
    s = NULL;
    o = (mri_session_options){ .needs = MRI_NEED_EVAL, .eval_tokens = longest };
    MR_TRY(mri_session_open(a->registry, c, &o, &s, &err));
    MR_TRY(app_model_weights(s, &err));
    nll = mri_alloc((size_t)longest * sizeof *nll);
    if (q->logits)
        logits = mri_alloc((size_t)(longest * s->info.vocab) * sizeof *logits);
    for (size_t i = 0; i < all.n; i++) {
        MR_TRY(mri_session_score(s, all.v[i].ids, all.v[i].n, nll, logits, &err));
        print_score(&all.v[i], nll);
    }
    if (logits && all.n) {
        mri_tensor t = { "logits", mr_type2("f32", all.v[all.n - 1].n, s->info.vocab), logits };
        MR_TRY(mri_safetensors_write(q->logits, &t, 1, NULL, &err));
    }
out:
    for (size_t i = 0; i < all.n; i++)
        free(all.v[i].ids);
    free(all.v);
    free(nll);
    free(logits);
    mri_session_close(s);
    return st ? app_fail(a, &err) : EXIT_OK;
}

int job_score(app *a, mri_config *c)
{
    request q = { NULL, c->score.text, c->score.file, NULL };
    if (!q.text && !q.file)
        return app_usage(a, "job score needs [score] text or file");
    return score(a, c, &q);
}

int cmd_score(app *a, int argc, char **argv)
{
    static const char *const takes[] = { "--hf", "--ids", "--text", "--jsonl", "--logits", NULL };
    static const char *const job[] = { "job.run=score" };
    app_args args = { 0 };
    mr_err err = MR_ERR_INIT;
    mri_config *c = NULL;
    int code = app_args_parse(a, argc, argv, takes, NULL, &args);
    request q = { app_arg(&args, "--ids"), app_arg(&args, "--text"), app_arg(&args, "--jsonl"),
                  app_arg(&args, "--logits") };
    if (!code && !q.ids && !q.text && !q.file)
        code = app_usage(a, "score needs --ids \"1 2 3\", --text TEXT or --jsonl FILE");
    if (!code && app_model_config(a, &args, job, 1, &c, &err))
        code = app_fail(a, &err);
    if (!code)
        code = score(a, c, &q);
    mri_config_free(c);
    app_args_free(&args);
    return code;
}
