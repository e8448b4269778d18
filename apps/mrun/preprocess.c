/* SPDX-License-Identifier: Apache-2.0
 *
 * preprocess.c - the job "preprocess": section [preprocess] names a file of JSON lines, the
 * profile's tokenizer turns it into PREFIX.bin and PREFIX.idx for data/indexed. Progress goes
 * to stderr: one line that rewrites itself on a terminal, else a line every ten seconds.
 */
#include "app.h"
#include "core/store/preprocess.h"
#include "mrun/tokenizer.h"
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

typedef struct preprocess_options {
    const char *input, *output_prefix, *json_key, *chat, *learn;
    int64_t workers;
    int32_t append_eod, pad;
} preprocess_options;

#define REQUIRED_PATH(field, key, doc)                                                             \
    {                                                                                              \
        sizeof(mr_opt), MR_T_PATH, MR_OPT_REQUIRED, offsetof(preprocess_options, field), key, 0,   \
            doc, 0, 0, 0, 0                                                                        \
    }

const mr_opt job_preprocess_opts[] = {
    REQUIRED_PATH(input, "input", "a file of JSON lines, one document a line"),
    REQUIRED_PATH(output_prefix, "output_prefix",
                  "path of the .bin and .idx without their endings"),
    MR_OPT(preprocess_options, MR_T_STR, json_key, "json_key", "text", "key of a line's text"),
    MR_OPT(preprocess_options, MR_T_BOOL, append_eod, "append_eod", "true",
           "end each document with the tokenizer's end-of-document id"),
    MR_OPT_RANGE(preprocess_options, MR_T_INT, workers, "workers", "0", 0, 64,
                 "threads that tokenise (0: one a processor)"),
    MR_OPT(
        preprocess_options, MR_T_STR, chat, "chat", NULL,
        "lines hold messages: how one reads, as in {role}: {content}\\n; PREFIX_loss gets weights"),
    MR_OPT(preprocess_options, MR_T_STR, learn, "learn", "assistant",
           "role whose messages are learnt, with chat"),
};
const uint32_t job_preprocess_n_opts = sizeof job_preprocess_opts / sizeof *job_preprocess_opts;
const uint32_t job_preprocess_opts_size = sizeof(preprocess_options);

typedef struct reporter {
    const app *a;
    const mr_host *host;
    bool terminal;
    double start, last; /* seconds */
} reporter;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void show(void *arg, const mri_preprocess_count *c)
{
    reporter *r = arg;
    double t = now();
    if (r->a->quiet || t - r->last < (r->terminal ? 0.1 : 10))
        return;
    r->last = t;
    double done = c->bytes_in_all > 0 ? (double)c->bytes_read / (double)c->bytes_in_all : 1;
    fprintf(stderr, "%spreprocess: %3.0f%%  %lld documents  %lld tokens  %.1f MB/s%s",
            r->terminal ? "\r" : "", 100 * (done < 1 ? done : 1), (long long)c->documents,
            (long long)c->tokens, (double)c->bytes_read / 1e6 / (t - r->start),
            r->terminal ? "\033[K" : "\n");
}

static int32_t stop(void *arg)
{
    const reporter *r = arg;
    return MR_CAN(r->host, cancelled) ? r->host->cancelled(r->host->self) : 0;
}

/* \n and \t in a profile's one-line text; the caller frees. */
static char *unescape(const char *text)
{
    mri_str out = { 0 };
    for (; *text; text++) {
        bool pair = *text == '\\' && (text[1] == 'n' || text[1] == 't' || text[1] == '\\');
        char c = !pair ? *text : text[1] == 'n' ? '\n' : text[1] == 't' ? '\t' : '\\';
        mri_str_addn(&out, &c, 1);
        text += pair;
    }
    return mri_str_take(&out);
}

int job_preprocess(app *a, mri_config *c)
{
    mr_err err = MR_ERR_INIT;
    mr_status st = MR_OK;
    preprocess_options o;
    mri_preprocess_count count = { 0 };
    char *chat = NULL;
    void *tok = NULL;
    const mr_tokenizer_ops *ops = NULL;
    const mr_host *host = mri_registry_host(a->registry);
    const mri_choice *tokenizer = mri_config_choice(c, "tokenizer", 0);
    reporter r = { .a = a, .host = host, .terminal = isatty(STDERR_FILENO), .start = now() };

    MR_TRY(mri_profile_fill(c->profile, "preprocess", job_preprocess_opts, job_preprocess_n_opts,
                            &o, sizeof o, &err));
    if (!tokenizer) {
        st = mr_fail(&err, MR_E_PROFILE_MISSING, MR_BLAME_USER,
                     "the job preprocess needs a tokenizer");
        mr_hint(&err, "add a section [tokenizer] with plugin = bytes");
        goto out;
    }
    ops = tokenizer->unit->table;
    MR_TRY(ops->create(host, tokenizer->config, &tok, &err));
    chat = o.chat && *o.chat ? unescape(o.chat) : NULL;
    mri_preprocess job = {
        .input = o.input,
        .prefix = o.output_prefix,
        .key = o.json_key,
        .chat = chat,
        .learn = o.learn,
        .append_eod = o.append_eod,
        .workers = o.workers,
        .tokenizer = ops,
        .tok = tok,
        .progress = show,
        .cancelled = stop,
        .arg = &r,
    };
    st = mri_preprocess_run(&job, &count, &err);
    if (r.terminal && r.last > 0)
        fputc('\n', stderr);
    if (!st && !a->quiet)
        fprintf(stderr, "preprocess: %s.bin and .idx: %lld documents, %lld tokens (%.1f s)\n",
                o.output_prefix, (long long)count.documents, (long long)count.tokens,
                now() - r.start);
out:
    free(chat);
    if (ops && tok)
        ops->destroy(tok);
    return st ? app_fail(a, &err) : EXIT_OK;
}
