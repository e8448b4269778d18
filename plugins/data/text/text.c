/* SPDX-License-Identifier: Apache-2.0
 *
 * text.c - unit "data/text": samples cut from plain text, its last part held out.
 *
 * The text is split at one byte; each part is a row of tokens. Set "train" cuts an epoch's
 * windows of S tokens side by side, starting at an offset that each epoch draws anew, and
 * visits them shuffled. Set "valid" cuts its part from the first token on, in order.
 *
 * Invariants: a sample depends on configuration, seed and number alone (nothing is written
 * after create); in one epoch no token of "train" is predicted twice; "valid" predicts
 * every token of its part but the first exactly once, the rest of its last window and all
 * windows past that having weight 0.
 */
#include "order.h"
#include "sha256.h"
#include "source.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

typedef struct config {
    const char *path, *sha256;
    mr_list suffixes;
    double valid_fraction;
    int32_t shuffle, binary;
} config;

static const mr_opt options[] = {
    { sizeof(mr_opt), MR_T_PATH, MR_OPT_REQUIRED, offsetof(config, path), "path", NULL,
      "a text file, or a folder whose files are read in sorted order as one text", NULL, 0, 0,
      NULL },
    MR_OPT(config, MR_T_LIST, suffixes, "suffixes", NULL,
           "names that count in a folder (txt, md ...); unset: all"),
    MR_OPT_RANGE(config, MR_T_FLOAT, valid_fraction, "valid_fraction", "0.05", 0, 0.95,
                 "share of the text, its end, that is held out for validation"),
    MR_OPT(config, MR_T_BOOL, shuffle, "shuffle", "true",
           "visit the windows in a random order; false: as the text runs"),
    MR_OPT(config, MR_T_STR, sha256, "sha256", NULL, "checksum that the text must have"),
    MR_OPT(config, MR_T_BOOL, binary, "binary", "false", "allow zero bytes"),
};

enum { TRAIN, VALID };

typedef struct part {
    const unsigned char *bytes; /* the part of the text; the tokens themselves if ids is NULL */
    uint64_t n_bytes;
    int32_t *ids;
    int64_t tokens;  /* N */
    int64_t windows; /* of an epoch */
    int64_t offsets; /* an epoch starts at a token of [0, offsets) */
    mr_data_set set;
} part;

typedef struct text {
    text_source source;
    int64_t seq, seed;
    int32_t shuffle;
    uint32_t n_parts;
    part parts[2]; /* TRAIN, VALID */
} text;

static mr_status check_sha256(const text *t, const config *c, mr_err *err)
{
    char hex[65];
    sha256_hex(t->source.p, t->source.n, hex);
    if (!strcasecmp(hex, c->sha256))
        return MR_OK;
    mr_fail(err, MR_E_DATA_FORMAT, MR_BLAME_USER, "%s is not the text that the profile expects",
            c->path);
    mr_detail(err, "its sha256 is %s, option sha256 says %s", hex, c->sha256);
    mr_hint(err, "fetch the text again, or set data.text.sha256 to the new checksum");
    return MR_E_DATA_FORMAT;
}

/* Bytes in the UTF-8 character that starts at p, 0 if none does within n bytes. */
static uint64_t utf8_length(const unsigned char *p, uint64_t n)
{
    static const struct {
        unsigned char first, last; /* of a lead byte */
        unsigned char size;
    } leads[] = { { 0x00, 0x7f, 1 }, { 0xc2, 0xdf, 2 }, { 0xe0, 0xef, 3 }, { 0xf0, 0xf4, 4 } };
    uint64_t size = 0;
    for (int i = 0; i < 4; i++)
        if (p[0] >= leads[i].first && p[0] <= leads[i].last)
            size = leads[i].size;
    if (size > n)
        return 0;
    for (uint64_t i = 1; i < size; i++)
        if (p[i] >> 6 != 2)
            return 0;
    return size;
}

/* The byte where the held-out part starts; moved back to the start of a character. */
static uint64_t split_at(const unsigned char *p, uint64_t n, const config *c)
{
    if (c->valid_fraction <= 0)
        return n;
    uint64_t at = (uint64_t)floor((double)n * (1 - c->valid_fraction));
    if (at >= n) /* rounding, near 2^53 */
        return n;
    for (uint64_t back = 1; !c->binary && back <= 3 && back <= at; back++)
        if (utf8_length(p + at - back, n - at + back) > back)
            return at - back;
    return at;
}

/* Is every id of the tokenizer a byte of its own, or a special? Then no text is encoded any
 * other way than byte by byte, and a text is its own array of tokens, however large. */
static int is_bytes(const mr_data_env *env, const mr_tokenizer_info *info)
{
    const int32_t special[] = { info->bos, info->eos, info->pad, info->eod };
    int64_t vocab = 256;
    for (int i = 0; i < 4; i++) {
        int seen = special[i] < 256;
        for (int j = 0; j < i; j++)
            seen |= special[j] == special[i];
        vocab += !seen;
    }
    if (info->vocab != vocab)
        return 0;
    char all[256];
    int32_t ids[256];
    uint64_t n = 0;
    for (int i = 0; i < 256; i++)
        all[i] = (char)i;
    if (env->tokenizer->encode(env->tok, all, 256, ids, 256, &n, NULL) || n != 256)
        return 0;
    for (int i = 0; i < 256; i++)
        if (ids[i] != i)
            return 0;
    return 1;
}

static mr_status encode_part(part *p, const mr_data_env *env, const config *c, mr_err *err)
{
    const char *bytes = (const char *)p->bytes;
    uint64_t cap = p->n_bytes + 8, n = 0; /* a token is a byte or more, but for a few specials */
    for (;;) {
        int32_t *ids = cap < SIZE_MAX / sizeof *ids ? realloc(p->ids, cap * sizeof *ids) : NULL;
        if (!ids) {
            mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "data/text: no memory for the tokens of %s",
                    c->path);
            mr_detail(err, "%llu tokens of 4 bytes", (unsigned long long)cap);
            mr_hint(err, "run the job preprocess and train from data/indexed, which maps its file");
            return MR_E_NOMEM;
        }
        p->ids = ids;
        mr_status st = env->tokenizer->encode(env->tok, bytes, p->n_bytes, ids, cap, &n, err);
        if (st)
            return st;
        if (n <= cap)
            break;
        cap = n;
    }
    if (n > INT64_MAX / 2)
        return mr_fail(err, MR_E_TOKENIZER, MR_BLAME_PLUGIN, "the tokenizer counts %llu tokens",
                       (unsigned long long)n);
    int32_t *fit = n ? realloc(p->ids, n * sizeof *fit) : NULL;
    if (fit)
        p->ids = fit;
    p->tokens = (int64_t)n;
    return MR_OK;
}

/* Bytes that a predicted token stands for: the first token of a part is never predicted. */
static double bytes_per_token(const part *p, const mr_data_env *env)
{
    uint64_t first = 1;
    if (p->ids && env->tokenizer->decode(env->tok, p->ids, 1, NULL, 0, &first, NULL))
        return 0;
    return p->tokens > 1 && first < p->n_bytes
               ? (double)(p->n_bytes - first) / (double)(p->tokens - 1)
               : 0;
}

static mr_status fail_short(const text *t, const part *p, const config *c, int64_t need,
                            mr_err *err)
{
    double share = p == &t->parts[TRAIN] ? 1 - c->valid_fraction : c->valid_fraction;
    double per_token = p->tokens ? (double)p->n_bytes / (double)p->tokens : 1;
    mr_fail(err, MR_E_DATA_SHORT, MR_BLAME_USER, "%s is too short: its %s part is %lld tokens long",
            c->path, p->set.name, (long long)p->tokens);
    mr_detail(err,
              "%lld tokens are needed (train.seq = %lld and the one that follows), which takes "
              "%s%.0f bytes of text in all; it has %llu",
              (long long)need, (long long)t->seq, p->ids ? "about " : "",
              ceil((double)need * per_token / share), (unsigned long long)t->source.n);
    mr_hint(err, p == &t->parts[TRAIN] ? "add text, lower train.seq or data.text.valid_fraction"
                                       : "add text, or raise data.text.valid_fraction (0: none)");
    return MR_E_DATA_SHORT;
}

/* Windows of an epoch: N tokens hold (N - o) / S of them behind an offset o, one token being
 * left to predict. With N < 2 S there is one, and fewer offsets to start at. */
static mr_status cut(text *t, part *p, const config *c, mr_err *err)
{
    int64_t S = t->seq, N = p->tokens;
    if (p == &t->parts[VALID]) {
        if (N < 2)
            return fail_short(t, p, c, 2, err);
        p->windows = (N - 1 + S - 1) / S;
        p->offsets = 1;
        p->set.tokens = N - 1;
    } else {
        if (N < S + 1)
            return fail_short(t, p, c, S + 1, err);
        p->windows = t->shuffle && N >= 2 * S ? (N - S) / S : (N - 1) / S;
        p->offsets = t->shuffle ? (N - p->windows * S < S ? N - p->windows * S : S) : 1;
        p->set.tokens = p->windows * S;
    }
    p->set.samples = p->windows;
    return MR_OK;
}

static void destroy(void *data)
{
    text *t = data;
    if (!t)
        return;
    for (uint32_t i = 0; i < 2; i++)
        free(t->parts[i].ids);
    text_source_close(&t->source);
    free(t);
}

static void report(const mr_host *host, const text *t, const config *c)
{
    char msg[400];
    if (!MR_CAN(host, log))
        return;
    snprintf(msg, sizeof msg, "%.200s: %llu bytes; %lld tokens to train on, %lld held out", c->path,
             (unsigned long long)t->source.n, (long long)t->parts[TRAIN].tokens,
             (long long)t->parts[VALID].tokens);
    host->log(host->self, MR_LOG_INFO, "data/text", msg);
}

static mr_status create(const mr_host *host, const mr_data_env *env, const void *config_,
                        void **data, mr_err *err)
{
    static const char *const names[] = { "train", "valid" };
    const config *c = config_;
    mr_status st = MR_OK;
    mr_tokenizer_info info = { .size = sizeof info };
    text *t = calloc(1, sizeof *t);
    if (!t)
        return mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "data/text: out of memory");
    if (env->seq < 1 || env->seq > INT32_MAX)
        MR_TRY(mr_fail(err, MR_E_ARG, MR_BLAME_HOST, "data/text: a sequence of %lld tokens",
                       (long long)env->seq));
    t->seq = env->seq;
    t->seed = env->seed;
    t->shuffle = c->shuffle;

    MR_TRY(text_source_open(c->path, &c->suffixes, &t->source, err));
    const unsigned char *p = (const unsigned char *)t->source.p;
    uint64_t n = t->source.n;
    if (c->sha256 && c->sha256[0])
        MR_TRY(check_sha256(t, c, err));
    const unsigned char *zero = c->binary ? NULL : memchr(p, 0, n);
    if (zero) {
        st = mr_fail(err, MR_E_DATA_FORMAT, MR_BLAME_USER, "%s is not text: byte %llu is zero",
                     c->path, (unsigned long long)(zero - p));
        mr_hint(err, "set data.text.binary = true if that is meant");
        goto out;
    }

    MR_TRY(env->tokenizer->info(env->tok, &info, err));
    uint64_t at = split_at(p, n, c);
    int bytes = is_bytes(env, &info);
    t->n_parts = c->valid_fraction > 0 ? 2 : 1;
    for (uint32_t i = 0; i < t->n_parts; i++) {
        part *q = &t->parts[i];
        q->bytes = i == TRAIN ? p : p + at;
        q->n_bytes = i == TRAIN ? at : n - at;
        q->tokens = (int64_t)q->n_bytes;
        q->set = (mr_data_set) { .size = sizeof q->set, .name = names[i] };
        if (!bytes)
            MR_TRY(encode_part(q, env, c, err));
        MR_TRY(cut(t, q, c, err));
        q->set.bytes_per_token = bytes_per_token(q, env);
    }
    report(host, t, c);
    *data = t;
    t = NULL;
out:
    destroy(t);
    return st;
}

static mr_status get_set(void *data, uint32_t i, mr_data_set *out, mr_err *err)
{
    const text *t = data;
    if (i >= t->n_parts)
        return mr_fail(err, MR_E_ARG, MR_BLAME_HOST, "data/text: set %u of %u", i, t->n_parts);
    const mr_data_set *set = &t->parts[i].set;
    uint32_t size = out->size; /* the caller's, who may know fewer fields, or more */
    memcpy(out, set, size < set->size ? size : set->size);
    out->size = size;
    return MR_OK;
}

/* The first token of a sample's window. */
static int64_t window_start(const text *t, const part *p, int64_t sample)
{
    int64_t epoch = sample / p->windows, i = sample % p->windows;
    uint64_t key = order_key(t->seed, epoch);
    if (!t->shuffle)
        return i * t->seq;
    return (int64_t)(order_mix(key) % (uint64_t)p->offsets) +
           order_place(key, p->windows, i) * t->seq;
}

static int32_t token_at(const part *p, int64_t i)
{
    return p->ids ? p->ids[i] : p->bytes[i];
}

static mr_status read_sample(void *data, uint32_t set, int64_t sample, mr_sample *out, mr_err *err)
{
    const text *t = data;
    if (set >= t->n_parts || sample < 0)
        return mr_fail(err, MR_E_ARG, MR_BLAME_HOST, "data/text: sample %lld of set %u",
                       (long long)sample, set);
    const part *p = &t->parts[set];
    int64_t S = t->seq, start = 0, here = 0; /* here: targets that exist */
    if (set == TRAIN) {
        start = window_start(t, p, sample);
        here = S;
    } else if (sample < p->windows) {
        start = sample * S;
        here = p->tokens - 1 - start < S ? p->tokens - 1 - start : S;
    }
    for (int64_t j = 0; j < S; j++) {
        out->tokens[j] = j < here ? token_at(p, start + j) : 0;
        out->targets[j] = j < here ? token_at(p, start + j + 1) : 0;
        out->positions[j] = (int32_t)j;
        out->seq_start[j] = 0;
        out->loss_weight[j] = j < here;
    }
    return MR_OK;
}

static uint32_t promises(const void *settings)
{
    (void)settings;
    return MR_DATA_WHOLE;
}

static const mr_data_ops ops = {
    .size = sizeof ops,
    .create = create,
    .destroy = destroy,
    .set = get_set,
    .read = read_sample,
    .promises = promises,
};

static const mr_unit units[] = { {
    .size = sizeof(mr_unit),
    .kind = "data",
    .name = "text",
    .doc = "a text file or folder: shuffled windows, the last part held out",
    .opts = options,
    .n_opts = sizeof options / sizeof *options,
    .config_size = sizeof(config),
    .table = &ops,
} };

MR_PLUGIN_NOTE("org.mrun.text", "0.1.0", "data/text");

MR_EXPORT const mr_plugin MR_PLUGIN_SYMBOL = {
    MR_PLUGIN_HEADER,
    .id = "org.mrun.text",
    .version = "0.1.0",
    .license = "Apache-2.0",
    .doc = "samples from plain text",
    .units = units,
    .n_units = 1,
};
