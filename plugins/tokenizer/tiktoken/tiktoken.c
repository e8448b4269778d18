/* SPDX-License-Identifier: Apache-2.0
 *
 * tiktoken.c - unit "tokenizer/tiktoken": byte-level BPE from a rank file, id for id what the
 * library `tiktoken` gives. The pattern that cuts text is not in the file: it is chosen by name,
 * or written out. Special tokens are those of the tokenizer_config.json beside it.
 */
#include "ranks.h"
#include <jansson.h>
#include <stdlib.h>

#define UNIT "tokenizer/tiktoken"
enum {
    KIMI_RESERVED = 256, /* ids that Kimi's tokenizer keeps for special tokens */
    MAX_BEYOND = 1 << 16 /* ids behind the ranks */
};

/* Letters in runs that start anew at a capital, with what may stand before and behind them. */
#define WORDS(not_han)                                                                             \
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}" not_han "]*"                       \
    "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}" not_han "]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"                      \
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}" not_han "]+"                       \
    "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}" not_han "]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
#define DIGITS "\\p{N}{1,3}|"
#define SPACES "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
static const struct {
    const char *name, *pattern;
} patterns[] = {
    { "kimi",
      "[\\p{Han}]+|" WORDS("&&[^\\p{Han}]") DIGITS " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*" SPACES },
    { "llama4", WORDS("") DIGITS " ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*" SPACES },
    { "llama3", "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" DIGITS
                " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*" SPACES },
    { "gpt2",
      "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+" },
};
enum { N_PATTERNS = sizeof patterns / sizeof *patterns };

typedef struct config {
    const char *dir, *file, *pattern;
    bp_special_options names;
    int64_t reserved;
    int32_t special;
} config;

static const mr_opt options[] = {
    MR_OPT(config, MR_T_PATH, dir, "dir", NULL, "a folder with tiktoken.model or tokenizer.model"),
    MR_OPT(config, MR_T_PATH, file, "file", NULL, "a rank file by its own name"),
    MR_OPT(
        config, MR_T_STR, pattern, "pattern", NULL,
        "kimi, llama4, llama3, gpt2, or a regular expression that cuts text into pieces (default: "
        "kimi, where tokenizer_config.json is Kimi's)"),
    MR_OPT_RANGE(
        config, MR_T_INT, reserved, "reserved", "-1", -1, MAX_BEYOND,
        "ids behind the ranks that are special even without a name in tokenizer_config.json "
        "(-1: as many as the family keeps)"),
    MR_OPT(config, MR_T_BOOL, special, "special", "true",
           "the words of a special token in a text are that token"),
    MR_OPT(config, MR_T_STR, names.bos, "bos", NULL,
           "token that begins a text, or none (default: as the files say)"),
    MR_OPT(config, MR_T_STR, names.eos, "eos", NULL, "token that ends a reply, or none"),
    MR_OPT(config, MR_T_STR, names.pad, "pad", NULL, "token that fills up, or none"),
    MR_OPT(config, MR_T_STR, names.eod, "eod", NULL,
           "token that ends a document in a data set, or none (default: eos)"),
};

static mr_status find_file(const config *c, char **path, mr_err *err)
{
    static const char *const names[] = { "tiktoken.model", "tokenizer.model" };
    if (!c->dir == !c->file) {
        mr_fail(err, MR_E_PROFILE_MISSING, MR_BLAME_USER, UNIT ": give %s",
                c->dir ? "`dir` or `file`, not both" : "`dir` or `file`");
        mr_hint(err, "[tokenizer.tiktoken] dir = FOLDER, where FOLDER holds tiktoken.model");
        return MR_E_PROFILE_MISSING;
    }
    size_t n = strlen(c->dir ? c->dir : c->file) + 32;
    *path = malloc(n);
    if (!*path)
        return bp_nomem(err, "a path", n);
    snprintf(*path, n, "%s", c->file ? c->file : "");
    for (size_t i = 0; c->dir && i < 2 && (!i || !bp_exists(*path)); i++)
        snprintf(*path, n, "%s/%s", c->dir, names[i]);
    return MR_OK;
}

/* ---- the pattern ----------------------------------------------------------------------------- */

static bool is_kimi(const json_t *names)
{
    const char *class = json_string_value(json_object_get(names, "tokenizer_class"));
    return class && !strcmp(class, "TikTokenTokenizer");
}

static mr_status read_pattern(bp_tok *t, const config *c, const json_t *names, mr_err *err)
{
    const char *pattern = c->pattern ? c->pattern : is_kimi(names) ? "kimi" : NULL;
    if (!pattern || !*pattern) {
        mr_fail(err, MR_E_PROFILE_MISSING, MR_BLAME_USER,
                UNIT
                ": no pattern is given, and no tokenizer_config.json says whose ranks these are");
        mr_hint(err, "[tokenizer.tiktoken] pattern = kimi, llama4, llama3, gpt2, or an expression");
        return MR_E_PROFILE_MISSING;
    }
    for (size_t i = 0; i < N_PATTERNS; i++)
        if (!strcmp(pattern, patterns[i].name))
            pattern = patterns[i].pattern;
    mr_status st = bp_stage_init(&t->stage[0], pattern, BP_RUST, UNIT ": pattern", err);
    t->n_stages = !st;
    return st;
}

/* ---- ids
 * ------------------------------------------------------------------------------------------ */

static mr_status bad_special(mr_err *err, const char *path, const char *key, const char *why)
{
    mr_fail(err, MR_E_STORE_FORMAT, MR_BLAME_USER, UNIT ": added_tokens_decoder: \"%.60s\" %s", key,
            why);
    mr_detail(err,
              "in tokenizer_config.json beside %s; ids are behind the ranks, or take one that "
              "no rank has, and at most %d behind the last",
              path, MAX_BEYOND);
    mr_hint(err, "fetch the file again from where it came");
    return MR_E_STORE_FORMAT;
}

static mr_status id_of(const char *key, int64_t limit, int64_t *id, mr_err *err, const char *path)
{
    char *end;
    *id = *key >= '0' && *key <= '9' ? strtoll(key, &end, 10) : -1;
    return *id < 0 || *end || *id >= limit
               ? bad_special(err, path, key, "is no id that it may have")
               : MR_OK;
}

/* Ids in all. Reserved ones count from the first id behind the ranks. */
static mr_status measure(const ranks *r, const json_t *specials, int64_t reserved, const char *path,
                         int64_t *n, mr_err *err)
{
    const char *key;
    json_t *v;
    int64_t id;
    *n = r->end + reserved;
    if ((uint64_t)r->end > r->n + json_object_size(specials)) {
        mr_fail(err, MR_E_STORE_FORMAT, MR_BLAME_USER,
                UNIT ": the rank file reaches rank %lld with %llu tokens: some ranks are missing",
                (long long)r->end - 1, (unsigned long long)r->n);
        mr_detail(err, "in %s", path);
        mr_hint(err, "fetch the file again; each rank from 0 on needs a line");
        return MR_E_STORE_FORMAT;
    }
    json_object_foreach((json_t *)specials, key, v)
    {
        const json_t *content = json_object_get(v, "content");
        mr_status st = id_of(key, r->end + MAX_BEYOND, &id, err, path);
        if (st)
            return st;
        if (!json_is_string(content) || !json_string_length(content) ||
            json_string_length(content) > BP_MAX_TOKEN)
            return bad_special(err, path, key, "has no \"content\" that is a text");
        *n = id >= *n ? id + 1 : *n;
    }
    return MR_OK;
}

static mr_status set_ranks(bp_tok *t, const ranks *r, const char *path, mr_err *err)
{
    bp_vocab *v = &t->model.vocab;
    for (uint64_t i = 0; i < r->n; i++) {
        const rank_line *l = &r->v[i];
        if (v->v[l->id].flags) {
            mr_fail(err, MR_E_STORE_FORMAT, MR_BLAME_USER,
                    UNIT ": two tokens of the rank file have the rank %u", l->id);
            mr_detail(err, "token %llu of %llu in %s", (unsigned long long)i + 1,
                      (unsigned long long)r->n, path);
            mr_hint(err, "fetch the file again");
            return MR_E_STORE_FORMAT;
        }
        mr_status st = bp_vocab_set(v, l->id, r->bytes + l->at, l->n, BP_PIECE, err);
        if (st)
            return st;
    }
    return bp_vocab_index(v, err);
}

static mr_status set_special(bp_tok *t, int64_t id, const char *text, size_t n, mr_err *err)
{
    bp_added a = { text, n, (int32_t)id, true, false, false };
    mr_status st = bp_vocab_set(&t->model.vocab, id, text, n, BP_SPECIAL, err);
    return st ? st : bp_set_add(&t->raw, &a, err);
}

static mr_status set_specials(bp_tok *t, const ranks *r, const json_t *specials, int64_t reserved,
                              const char *path, mr_err *err)
{
    const bp_vocab *v = &t->model.vocab;
    const char *key;
    json_t *one;
    int64_t id;
    mr_status st = MR_OK;
    json_object_foreach((json_t *)specials, key, one)
    {
        const json_t *content = json_object_get(one, "content");
        MR_TRY(id_of(key, v->n, &id, err, path));
        if (v->v[id].flags)
            return bad_special(err, path, key, "is the id of another token");
        MR_TRY(set_special(t, id, json_string_value(content), json_string_length(content), err));
    }
    for (id = r->end; id < r->end + reserved; id++) {
        char name[64];
        int n = snprintf(name, sizeof name, "<|reserved_token_%lld|>", (long long)id);
        if (!v->v[id].flags)
            MR_TRY(set_special(t, id, name, (size_t)n, err));
    }
    for (id = 0; id < r->end; id++)
        if (!v->v[id].flags) {
            mr_fail(err, MR_E_STORE_FORMAT, MR_BLAME_USER, UNIT ": no token has the rank %lld",
                    (long long)id);
            mr_detail(err, "%s reaches rank %lld", path, (long long)r->end - 1);
            mr_hint(err, "fetch the file again; each rank from 0 on needs a line");
            return MR_E_STORE_FORMAT;
        }
out:
    return st;
}

/* Without a rank for each byte there are texts that no ids stand for. */
static mr_status check_bytes(const bp_tok *t, const char *path, mr_err *err)
{
    for (int b = 0; b < 256; b++) {
        char byte = (char)b;
        if (bp_vocab_find(&t->model.vocab, &byte, 1) != BP_NONE)
            continue;
        mr_fail(err, MR_E_STORE_FORMAT, MR_BLAME_USER, UNIT ": the byte 0x%02x has no rank", b);
        mr_detail(err, "in %s; each of the 256 bytes needs one", path);
        mr_hint(err, "a rank file of another kind of model cannot be used here");
        return MR_E_STORE_FORMAT;
    }
    return MR_OK;
}

/* ---- the unit
 * ---------------------------------------------------------------------------------------- */

static mr_status create(const mr_host *host, const void *config_, void **tok, mr_err *err)
{
    (void)host;
    const config *c = config_;
    char *path = NULL, *beside = NULL;
    json_t *names = NULL;
    ranks r = { 0 };
    int64_t n;
    bp_tok *t = NULL;
    mr_status st = find_file(c, &path, err);
    if (st)
        return st;
    t = bp_new(UNIT);
    beside = bp_beside(path, "tokenizer_config.json");
    if (!t || !beside) {
        st = bp_nomem(err, "a tokenizer", sizeof *t);
        goto out;
    }
    if (bp_exists(beside))
        MR_TRY(bp_json_read(UNIT, beside, &names, err));
    const json_t *specials = json_object_get(names, "added_tokens_decoder");
    int64_t reserved = c->reserved >= 0 ? c->reserved : is_kimi(names) ? KIMI_RESERVED : 0;
    MR_TRY(ranks_read(UNIT, path, &r, err));
    MR_TRY(measure(&r, specials, reserved, path, &n, err));
    MR_TRY(bp_vocab_init(&t->model.vocab, n, err));
    MR_TRY(set_ranks(t, &r, path, err));
    MR_TRY(set_specials(t, &r, specials, reserved, path, err));
    MR_TRY(check_bytes(t, path, err));
    MR_TRY(ranks_merges(&t->model, err));
    MR_TRY(read_pattern(t, c, names, err));
    MR_TRY(bp_seal(t, err));
    t->model.whole_first = true;
    t->special = c->special;
    MR_TRY(bp_name_specials(t, &c->names, names, BP_NONE, err));
    *tok = t;
    t = NULL;
out:
    bp_destroy(t);
    ranks_free(&r);
    json_decref(names);
    free(path);
    free(beside);
    return st;
}

static const mr_tokenizer_ops ops = {
    .size = sizeof ops,
    .create = create,
    .destroy = bp_destroy,
    .info = bp_info,
    .encode = bp_encode,
    .decode = bp_decode,
    .encode_as = bp_encode_as,
    .decode_as = bp_decode_as,
};

static const mr_unit units[] = { {
    .size = sizeof(mr_unit),
    .kind = "tokenizer",
    .name = "tiktoken",
    .doc = "byte-level BPE from a tiktoken rank file",
    .opts = options,
    .n_opts = sizeof options / sizeof *options,
    .config_size = sizeof(config),
    .table = &ops,
} };

MR_PLUGIN_NOTE("org.mrun.tokenizer.tiktoken", "0.1.0",
               "tokenizer/tiktoken@tiktoken.model");

MR_EXPORT const mr_plugin MR_PLUGIN_SYMBOL = {
    MR_PLUGIN_HEADER,
    .id = "org.mrun.tokenizer.tiktoken",
    .version = "0.1.0",
    .license = "Apache-2.0",
    .doc = "rank files as Kimi and Llama ship them",
    .units = units,
    .n_units = 1,
};
