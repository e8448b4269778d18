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
#include <unistd.h>

typedef struct reporter {
    const app *a;
    const mr_host *host;
    bool terminal;
    bool shown;
    double start, last; /* seconds */
} reporter;

static void show(void *arg, const mri_preprocess_count *c)
{
    reporter *r = arg;
    double t = app_now();
    if (r->a->quiet || t - r->last < (r->terminal ? 0.1 : 10))
        return;
    r->last = t;
    r->shown = true;
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
    const mri_cfg_preprocess o = c->preprocess;
    mri_preprocess_count count = { 0 };
    char *chat = NULL;
    void *tok = NULL;
    const mr_tokenizer_ops *ops = NULL;
    const mr_host *host = mri_registry_host(a->registry);
    const mri_choice *tokenizer = mri_config_choice(c, "tokenizer", 0);
    reporter r = { .a = a, .host = host, .terminal = isatty(STDERR_FILENO) };

    r.start = r.last = app_now();
    if (!o.output_prefix) {
        st = mr_fail(&err, MR_E_PROFILE_MISSING, MR_BLAME_USER,
                     "the job preprocess needs [preprocess] output_prefix");
        goto out;
    }
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
    if (r.terminal && r.shown)
        fputc('\n', stderr);
    if (!st && !a->quiet)
        fprintf(stderr, "preprocess: %s.bin and .idx: %lld documents, %lld tokens (%.1f s)\n",
                o.output_prefix, (long long)count.documents, (long long)count.tokens,
                app_now() - r.start);
out:
    free(chat);
    if (ops && tok)
        ops->destroy(tok);
    return st ? app_fail(a, &err) : EXIT_OK;
}
