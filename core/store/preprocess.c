/* SPDX-License-Identifier: Apache-2.0
 *
 * preprocess.c - read a batch of lines, let the workers turn each into tokens, write them in
 * order, and again: memory is one batch, however large the file.
 */
#include "preprocess.h"
#include "indexed_write.h"
#include <errno.h>
#include <jansson.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { BATCH_LINES = 512, BATCH_BYTES = 8 << 20 };

typedef struct document {
    char *line; /* getline's */
    size_t cap;
    ssize_t n;
    int64_t number; /* of the line, from 1 */
    MRI_VEC(int32_t) ids, weights;
    mr_status st;
    mr_err err;
} document;

typedef struct batch {
    const mri_preprocess *p;
    int32_t eod;
    size_t n;
    size_t next; /* document that no worker has taken yet; atomic */
    document documents[BATCH_LINES];
} batch;

static void reserve(document *d, size_t n)
{
    if (d->ids.cap < n) {
        d->ids.cap = d->weights.cap = n + n / 2;
        d->ids.v = mri_grow(d->ids.v, d->ids.cap * sizeof *d->ids.v);
        d->weights.v = mri_grow(d->weights.v, d->weights.cap * sizeof *d->weights.v);
    }
}

static mr_status encode(const mri_preprocess *p, document *d, const char *text, size_t n,
                        int32_t weight)
{
    uint64_t got = 0;
    for (uint64_t want = n + 4;; want = got) { /* a token is a byte or more, but for specials */
        reserve(d, d->ids.n + want);
        mr_status st = p->tokenizer->encode(p->tok, text, n, d->ids.v + d->ids.n,
                                            d->ids.cap - d->ids.n, &got, &d->err);
        if (st)
            return st;
        if (got <= d->ids.cap - d->ids.n)
            break;
    }
    for (uint64_t i = 0; i < got; i++)
        d->weights.v[d->ids.n + i] = weight;
    d->ids.n += got;
    return MR_OK;
}

MR_PRINTF(3, 4)
static mr_status bad_line(const mri_preprocess *p, document *d, const char *fmt, ...)
{
    char why[160];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(why, sizeof why, fmt, ap);
    va_end(ap);
    return mr_fail(&d->err, MR_E_DATA_FORMAT, MR_BLAME_USER, "%s:%lld: %s", p->input,
                   (long long)d->number, why);
}

/* One message through the template. What stands before {content} is the frame that leads to
 * the words: never learnt. The words, and what ends them, are, if their role is the learnt one. */
static mr_status encode_message(const mri_preprocess *p, document *d, const char *role,
                                const char *content, size_t n)
{
    int32_t weight = 0;
    mr_status st = MR_OK;
    for (const char *at = p->chat; *at && !st;) {
        if (!strncmp(at, "{role}", 6)) {
            st = encode(p, d, role, strlen(role), weight);
            at += 6;
        } else if (!strncmp(at, "{content}", 9)) {
            weight = !strcmp(role, p->learn);
            st = encode(p, d, content, n, weight);
            at += 9;
        } else {
            size_t plain = 1 + strcspn(at + 1, "{");
            st = encode(p, d, at, plain, weight);
            at += plain;
        }
    }
    return st;
}

static mr_status encode_chat(const batch *b, document *d, const json_t *messages)
{
    const mri_preprocess *p = b->p;
    int32_t weight = 0;
    if (!json_is_array(messages))
        return bad_line(p, d, "\"%s\" is not an array of messages", p->key);
    for (size_t i = 0; i < json_array_size(messages); i++) {
        const json_t *m = json_array_get(messages, i), *content = json_object_get(m, "content");
        const char *role = json_string_value(json_object_get(m, "role"));
        if (!role || !json_is_string(content))
            return bad_line(p, d, "message %zu of \"%s\" lacks a text \"role\" or \"content\"",
                            i + 1, p->key);
        weight = !strcmp(role, p->learn);
        mr_status st =
            encode_message(p, d, role, json_string_value(content), json_string_length(content));
        if (st)
            return st;
    }
    if (p->append_eod && d->ids.n > 0) {
        reserve(d, d->ids.n + 1);
        d->weights.v[d->ids.n] = weight;
        d->ids.v[d->ids.n++] = b->eod;
    }
    return MR_OK;
}

static mr_status encode_text(const batch *b, document *d, const json_t *text)
{
    if (!json_is_string(text))
        return bad_line(b->p, d, "\"%s\" is not a text", b->p->key);
    mr_status st = encode(b->p, d, json_string_value(text), json_string_length(text), 1);
    if (!st && b->p->append_eod && d->ids.n > 0) { /* an empty document stays empty, as upstream */
        reserve(d, d->ids.n + 1);
        d->weights.v[d->ids.n] = 1;
        d->ids.v[d->ids.n++] = b->eod;
    }
    return st;
}

static void encode_line(const batch *b, document *d)
{
    json_error_t why;
    d->ids.n = 0;
    d->err = (mr_err)MR_ERR_INIT;
    json_t *root = json_loadb(d->line, (size_t)d->n, JSON_ALLOW_NUL, &why);
    if (!root) {
        d->st = bad_line(b->p, d, "not JSON");
        mr_detail(&d->err, "column %d: %s", why.column, why.text);
        return;
    }
    const json_t *value = json_object_get(root, b->p->key);
    if (!json_is_object(root)) {
        d->st = bad_line(b->p, d, "not a JSON object");
    } else if (!value) {
        d->st = bad_line(b->p, d, "no key \"%s\"", b->p->key);
        mr_hint(&d->err, "the key of the text is preprocess.json_key");
    } else {
        d->st = b->p->chat ? encode_chat(b, d, value) : encode_text(b, d, value);
    }
    json_decref(root);
}

static void *work(void *arg)
{
    batch *b = arg;
    for (size_t i; (i = __atomic_fetch_add(&b->next, 1, __ATOMIC_RELAXED)) < b->n;)
        encode_line(b, &b->documents[i]);
    return NULL;
}

/* The caller works too; threads that cannot be started are done without. */
static void run_workers(batch *b, int64_t workers)
{
    pthread_t threads[64];
    int64_t n = 0, want = workers < 64 ? workers : 64;
    b->next = 0;
    while (n + 1 < want && n + 1 < (int64_t)b->n && !pthread_create(&threads[n], NULL, work, b))
        n++;
    work(b);
    while (n > 0)
        pthread_join(threads[--n], NULL);
}

static bool is_blank(const char *s, ssize_t n)
{
    return strspn(s, " \t\r\n") == (size_t)n;
}

/* Up to BATCH_LINES lines that are not blank; none at the end of the file. */
static mr_status read_batch(batch *b, FILE *f, int64_t *line, mri_preprocess_count *count,
                            mr_err *err)
{
    int64_t bytes = 0;
    b->n = 0;
    while (b->n < BATCH_LINES && bytes < BATCH_BYTES) {
        document *d = &b->documents[b->n];
        d->n = getline(&d->line, &d->cap, f);
        if (d->n < 0)
            break;
        d->number = ++*line;
        bytes += d->n;
        b->n += !is_blank(d->line, d->n);
    }
    count->bytes_read += bytes;
    if (!ferror(f))
        return MR_OK;
    mr_fail(err, MR_E_DATA_OPEN, MR_BLAME_ENV, "%s:%lld: cannot read on", b->p->input,
            (long long)*line);
    mr_detail(err, "%s", strerror(errno));
    return MR_E_DATA_OPEN;
}

static mr_status write_batch(const batch *b, mri_indexed_writer *tokens,
                             mri_indexed_writer *weights, mri_preprocess_count *count, mr_err *err)
{
    mr_status st = MR_OK;
    for (size_t i = 0; i < b->n && !st; i++) {
        const document *d = &b->documents[i];
        if (d->st) { /* the first in the order of the file, whoever met it first */
            if (err)
                *err = d->err;
            return d->st;
        }
        if (d->ids.n > 0)
            st = mri_indexed_sequence(tokens, d->ids.v, d->ids.n, err);
        if (!st && weights && d->ids.n > 0)
            st = mri_indexed_sequence(weights, d->weights.v, d->ids.n, err);
        mri_indexed_end_document(tokens);
        if (weights)
            mri_indexed_end_document(weights);
        count->documents++;
        count->tokens += (int64_t)d->ids.n;
        for (size_t k = 0; k < d->ids.n; k++)
            count->learnt += d->weights.v[k];
    }
    return st;
}

static mr_status check(const mri_preprocess *p, const mr_tokenizer_info *info, mr_err *err)
{
    if (p->append_eod && info->eod < 0) {
        mr_fail(err, MR_E_PROFILE_CONFLICT, MR_BLAME_USER,
                "preprocess.append_eod: the tokenizer has no end-of-document id");
        mr_hint(err, "with tokenizer/bytes set tokenizer.bytes.eod = true");
        return MR_E_PROFILE_CONFLICT;
    }
    if (p->chat && !strstr(p->chat, "{content}"))
        return mr_fail(err, MR_E_PROFILE_VALUE, MR_BLAME_USER,
                       "preprocess.chat = %.100s: has no {content}", p->chat);
    return MR_OK;
}

mr_status mri_preprocess_run(const mri_preprocess *p, mri_preprocess_count *count, mr_err *err)
{
    mr_status st = MR_OK;
    mri_indexed_writer *tokens = NULL, *weights = NULL;
    char *loss_prefix = mri_format("%s" MRI_LOSS_SUFFIX, p->prefix);
    batch *b = mri_alloc(sizeof *b);
    int64_t line = 0, workers = p->workers > 0 ? p->workers : sysconf(_SC_NPROCESSORS_ONLN);
    struct stat file;
    mr_tokenizer_info info = { .size = sizeof info };
    *count = (mri_preprocess_count) { 0 };

    FILE *f = fopen(p->input, "rbe");
    if (!f || fstat(fileno(f), &file) != 0 || S_ISDIR(file.st_mode)) {
        int e = f && S_ISDIR(file.st_mode) ? EISDIR : errno;
        st = mr_fail(err, MR_E_DATA_OPEN, MR_BLAME_USER, "cannot open %s", p->input);
        mr_detail(err, "%s", strerror(e));
        goto out;
    }
    count->bytes_in_all = file.st_size;
    MR_TRY(p->tokenizer->info(p->tok, &info, err));
    MR_TRY(check(p, &info, err));
    MR_TRY(mri_indexed_create(p->prefix, mri_indexed_dtype_for(info.vocab), &tokens, err));
    if (p->chat)
        MR_TRY(mri_indexed_create(loss_prefix, MRI_INDEXED_U8, &weights, err));
    b->p = p;
    b->eod = info.eod;
    for (;;) {
        MR_TRY(read_batch(b, f, &line, count, err));
        if (b->n == 0)
            break;
        run_workers(b, workers);
        MR_TRY(write_batch(b, tokens, weights, count, err));
        if (p->progress)
            p->progress(p->arg, count);
        if (p->cancelled && p->cancelled(p->arg))
            MR_TRY(mr_fail(err, MR_E_CANCELLED, MR_BLAME_USER, "stopped after %s:%lld", p->input,
                           (long long)line));
    }
    if (count->tokens == 0)
        MR_TRY(mr_fail(err, MR_E_DATA_SHORT, MR_BLAME_USER, "%s holds no text", p->input));
    /* the weights first: tokens that stand without them would be trusted */
    st = mri_indexed_finish(weights, err);
    weights = NULL;
    if (!st) {
        st = mri_indexed_finish(tokens, err);
        tokens = NULL;
    }
out:
    mri_indexed_abandon(weights);
    mri_indexed_abandon(tokens);
    for (size_t i = 0; i < BATCH_LINES; i++) {
        free(b->documents[i].line);
        free(b->documents[i].ids.v);
        free(b->documents[i].weights.v);
    }
    free(b);
    free(loss_prefix);
    if (f)
        fclose(f);
    return st;
}
