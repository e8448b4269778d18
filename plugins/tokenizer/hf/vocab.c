/* SPDX-License-Identifier: Apache-2.0
 *
 * vocab.c - the ids of a tokenizer.json: model.vocab and added_tokens, which together must give
 * each id below the largest one token; and model.merges, by rank.
 *
 * Nothing is allocated by an id that the file claims before it is known that the file lists as
 * many tokens.
 */
#include "hf.h"
#include <stdlib.h>

/* The byte alphabet: printable Latin-1 stands for itself, the other 68 bytes, in order, for the
 * characters from U+0100 on. */
static int32_t byte_of(uint32_t c)
{
    static const uint8_t others[68] = {
        0,   1,   2,   3,   4,   5,   6,   7,   8,   9,   10,  11,  12,  13,  14,  15,  16,
        17,  18,  19,  20,  21,  22,  23,  24,  25,  26,  27,  28,  29,  30,  31,  32,  127,
        128, 129, 130, 131, 132, 133, 134, 135, 136, 137, 138, 139, 140, 141, 142, 143, 144,
        145, 146, 147, 148, 149, 150, 151, 152, 153, 154, 155, 156, 157, 158, 159, 160, 173,
    };
    if ((c >= 0x21 && c <= 0x7e) || (c >= 0xa1 && c <= 0xff && c != 0xad))
        return (int32_t)c;
    return c >= 0x100 && c < 0x100 + sizeof others ? others[c - 0x100] : -1;
}

int64_t hf_to_bytes(const char *text, uint64_t n, char *out)
{
    int64_t m = 0;
    uint32_t len;
    for (uint64_t i = 0; i < n; i += len) {
        int32_t b = byte_of(bp_utf8_get(text + i, &len));
        if (b < 0)
            return -1;
        out[m++] = (char)b;
    }
    return m;
}

static mr_status check_id(const hf_reader *r, const char *key, const char *token, const json_t *v)
{
    json_int_t id = json_integer_value(v);
    char *text;
    if (json_is_integer(v) && id >= 0 && id < BP_MAX_IDS)
        return MR_OK;
    text = json_dumps(v, JSON_ENCODE_ANY);
    mr_status st = hf_bad(r, NULL, key,
                          "gives the token \"%.60s\" the id %.20s; ids are whole "
                          "numbers below %d",
                          token, text ? text : "?", BP_MAX_IDS);
    free(text);
    return st;
}

static mr_status check_length(const hf_reader *r, const char *key, const char *token, size_t n)
{
    if (n && n <= BP_MAX_TOKEN)
        return MR_OK;
    return hf_bad(r, NULL, key, "has a token of %zu bytes (%.40s); the limits are 1 and %d", n,
                  token, BP_MAX_TOKEN);
}

/* ---- ids ------------------------------------------------------------------------------------- */

typedef struct listed { /* what is known before anything is allocated */
    json_t *vocab, *added;
    int64_t n; /* ids are in [0, n) */
} listed;

/* The largest id of both lists, each id checked by itself. */
static mr_status measure(const hf_reader *r, const json_t *model, listed *l)
{
    const char *token;
    json_t *v;
    size_t i;
    mr_status st;
    l->vocab = json_object_get(model, "vocab");
    l->added = json_object_get(r->root, "added_tokens");
    l->n = 0;
    if (!json_is_object(l->vocab) || !json_object_size(l->vocab))
        return hf_bad(r, NULL, "model.vocab",
                      l->vocab ? "is no object with tokens in it" : "is missing");
    if (l->added && !json_is_array(l->added) && !json_is_null(l->added))
        return hf_bad(r, NULL, "added_tokens", "is no array");
    json_object_foreach(l->vocab, token, v)
    {
        if ((st = check_id(r, "model.vocab", token, v)) ||
            (st = check_length(r, "model.vocab", token, strlen(token))))
            return st;
        l->n = json_integer_value(v) >= l->n ? json_integer_value(v) + 1 : l->n;
    }
    json_array_foreach(l->added, i, v)
    {
        const json_t *content = json_object_get(v, "content");
        if (!json_is_string(content))
            return hf_bad(r, NULL, "added_tokens", "[%zu] has no text \"content\"", i);
        token = json_string_value(content);
        if ((st = check_length(r, "added_tokens", token, json_string_length(content))) ||
            (st = check_id(r, "added_tokens", token, json_object_get(v, "id"))))
            return st;
        int64_t id = json_integer_value(json_object_get(v, "id"));
        l->n = id >= l->n ? id + 1 : l->n;
    }
    uint64_t most = json_object_size(l->vocab) + json_array_size(l->added);
    if ((uint64_t)l->n > most)
        return hf_bad(r,
                      "number the tokens without gaps: `tokenizers` would give other ids to those "
                      "behind a gap",
                      "model.vocab",
                      "and added_tokens reach id %lld with %llu "
                      "tokens: some ids have none",
                      (long long)l->n - 1, (unsigned long long)most);
    return MR_OK;
}

static mr_status taken(const hf_reader *r, const char *key, int64_t id, const char *token)
{
    const bp_entry *e = &r->t->model.vocab.v[id];
    return hf_bad(r, NULL, key, "gives the id %lld to \"%.40s\"; \"%.*s\" has it already",
                  (long long)id, token, e->n < 40 ? (int)e->n : 40, r->t->model.vocab.pool + e->at);
}

static mr_status read_vocab(hf_reader *r, const listed *l)
{
    bp_vocab *v = &r->t->model.vocab;
    const char *token;
    json_t *id;
    mr_status st = MR_OK;
    char *bytes = malloc(BP_MAX_TOKEN);
    if (!bytes)
        return bp_nomem(r->err, "a token", BP_MAX_TOKEN);
    json_object_foreach(l->vocab, token, id)
    {
        size_t n = strlen(token);
        int64_t at = json_integer_value(id), m = hf_to_bytes(token, n, bytes);
        if (v->v[at].flags) {
            st = taken(r, "model.vocab", at, token);
            goto out;
        }
        MR_TRY(m < 0 ? bp_vocab_set(v, at, token, n, 0, r->err)
                     : bp_vocab_set(v, at, bytes, (uint64_t)m, BP_PIECE, r->err));
    }
out:
    free(bytes);
    return st;
}

/* An added token is its own text, even where the alphabet would read it as other bytes. */
static mr_status read_added_ids(hf_reader *r, const listed *l)
{
    bp_vocab *v = &r->t->model.vocab;
    const json_t *a;
    size_t i;
    json_array_foreach(l->added, i, a)
    {
        const json_t *content = json_object_get(a, "content");
        const char *token = json_string_value(content);
        size_t n = json_string_length(content);
        int64_t id = json_integer_value(json_object_get(a, "id"));
        const json_t *same = json_object_get(l->vocab, token);
        uint32_t flags = json_is_true(json_object_get(a, "special")) ? BP_SPECIAL : 0;
        if (same && json_integer_value(same) != id)
            return hf_bad(r, NULL, "added_tokens", "gives \"%.40s\" the id %lld, model.vocab %lld",
                          token, (long long)id, (long long)json_integer_value(same));
        if (!same && v->v[id].flags)
            return taken(r, "added_tokens", id, token);
        const bp_entry *e = &v->v[id];
        if (same && (e->flags & BP_PIECE) && e->n == n && !memcmp(v->pool + e->at, token, n))
            flags |= BP_PIECE;
        mr_status st = bp_vocab_set(v, id, token, n, flags, r->err);
        if (st)
            return st;
    }
    for (int64_t id = 0; id < l->n; id++)
        if (!v->v[id].flags)
            return hf_bad(r,
                          "number the tokens without gaps: `tokenizers` would give other ids to "
                          "those behind a gap",
                          "model.vocab",
                          "and added_tokens give no token the "
                          "id %lld, and reach %lld",
                          (long long)id, (long long)l->n - 1);
    return MR_OK;
}

/* ---- merges ---------------------------------------------------------------------------------- */

/* The two tokens of merges[i]: "a b", or ["a", "b"]. */
static mr_status pair_of(const hf_reader *r, size_t i, const json_t *m, const char **a, size_t *n,
                         const char **b, size_t *k)
{
    if (json_is_string(m)) {
        const char *space = strchr(json_string_value(m), ' ');
        if (space && !strchr(space + 1, ' ')) {
            *a = json_string_value(m);
            *n = (size_t)(space - *a);
            *b = space + 1;
            *k = strlen(*b);
            return MR_OK;
        }
    } else if (json_array_size(m) == 2 && json_is_string(json_array_get(m, 0)) &&
               json_is_string(json_array_get(m, 1))) {
        *a = json_string_value(json_array_get(m, 0));
        *b = json_string_value(json_array_get(m, 1));
        *n = strlen(*a);
        *k = strlen(*b);
        return MR_OK;
    }
    return hf_bad(r, NULL, "model.merges", "[%zu] is neither \"A B\" nor [\"A\", \"B\"]: %.60s", i,
                  json_is_string(m) ? json_string_value(m) : "no text");
}

static mr_status read_merges(hf_reader *r, const json_t *model, const listed *l)
{
    const json_t *merges = json_object_get(model, "merges"), *m;
    size_t i, n = 0, k = 0;
    const char *a = NULL, *b = NULL;
    mr_status st = MR_OK;
    char *both = NULL;
    if (!json_is_array(merges))
        return hf_bad(r, NULL, "model.merges", merges ? "is no array" : "is missing");
    both = malloc(2 * BP_MAX_TOKEN + 2);
    if (!both)
        return bp_nomem(r->err, "a token", 2 * BP_MAX_TOKEN);
    MR_TRY(bp_merges_init(&r->t->model.merges, json_array_size(merges), r->err));
    json_array_foreach(merges, i, m)
    {
        MR_TRY(pair_of(r, i, m, &a, &n, &b, &k));
        if (n > BP_MAX_TOKEN || k > BP_MAX_TOKEN) {
            st = hf_bad(r, NULL, "model.merges",
                        "[%zu] has %zu bytes; the limit is %d for each of "
                        "two tokens",
                        i, n + k, BP_MAX_TOKEN);
            goto out;
        }
        memcpy(both, a, n);
        both[n] = 0;
        const json_t *left = json_object_get(l->vocab, both), *right = json_object_get(l->vocab, b);
        memcpy(both + n, b, k + 1);
        const json_t *whole = json_object_get(l->vocab, both);
        if (!left || !right || !whole) {
            st = hf_bad(r, NULL, "model.merges",
                        "[%zu] makes \"%.60s\" of \"%.*s\" and \"%.40s\"; "
                        "%s is no token of model.vocab",
                        i, both, n < 40 ? (int)n : 40, a, b,
                        !left    ? "the first"
                        : !right ? "the second"
                                 : "the whole");
            goto out;
        }
        bp_merges_put(&r->t->model.merges,
                      (bp_merge) { (uint32_t)json_integer_value(left),
                                   (uint32_t)json_integer_value(right), (uint32_t)i,
                                   (uint32_t)json_integer_value(whole) });
    }
out:
    free(both);
    return st;
}

/* ---- the model ------------------------------------------------------------------------------- */

static bool absent(const json_t *v)
{
    return !v || json_is_null(v);
}

/* What other models have and this one has not, by name. */
static mr_status check_kind(const hf_reader *r, const json_t *model)
{
    static const char bpe[] =
        "the plugin reads byte-level BPE, as Llama 3 and 4, DeepSeek, Qwen and "
        "GPT-2 have it";
    const json_t *type = json_object_get(model, "type");
    if (!json_is_object(model))
        return hf_bad(r, NULL, "model", model ? "is no object" : "is missing");
    if (!absent(type) && (!json_is_string(type) || strcmp(json_string_value(type), "BPE")))
        return hf_bad(r, bpe, "model.type", "is %.40s, not BPE",
                      json_is_string(type) ? json_string_value(type) : "no text");
    if (json_is_true(json_object_get(model, "byte_fallback")))
        return hf_bad(r, bpe, "model.byte_fallback", "= true is not supported");
    const json_t *dropout = json_object_get(model, "dropout");
    if (!absent(dropout) && !(json_is_number(dropout) && json_number_value(dropout) == 0))
        return hf_bad(r, "set it to null: it makes ids random", "model.dropout",
                      "is not null or 0");
    static const char *const affixes[] = { "continuing_subword_prefix", "end_of_word_suffix" };
    for (size_t i = 0; i < 2; i++) {
        const json_t *v = json_object_get(model, affixes[i]);
        char key[64];
        snprintf(key, sizeof key, "model.%s", affixes[i]);
        if (!absent(v) && !(json_is_string(v) && !json_string_length(v)))
            return hf_bad(r, bpe, key, "is \"%.20s\", and only null or \"\" is supported",
                          json_is_string(v) ? json_string_value(v) : "no text");
    }
    return MR_OK;
}

static mr_status read_unk(hf_reader *r, const json_t *model, const listed *l)
{
    const json_t *unk = json_object_get(model, "unk_token");
    r->t->model.fuse_unk = json_is_true(json_object_get(model, "fuse_unk"));
    r->t->model.whole_first = json_is_true(json_object_get(model, "ignore_merges"));
    if (absent(unk))
        return MR_OK;
    const json_t *id =
        json_is_string(unk) ? json_object_get(l->vocab, json_string_value(unk)) : NULL;
    if (!id)
        return hf_bad(r, NULL, "model.unk_token", "\"%.60s\" is no token of model.vocab",
                      json_is_string(unk) ? json_string_value(unk) : "(no text)");
    r->t->model.unk = (int32_t)json_integer_value(id);
    return MR_OK;
}

mr_status hf_read_model(hf_reader *r)
{
    const json_t *model = json_object_get(r->root, "model");
    listed l;
    mr_status st;
    MR_TRY(check_kind(r, model));
    MR_TRY(measure(r, model, &l));
    MR_TRY(bp_vocab_init(&r->t->model.vocab, l.n, r->err));
    MR_TRY(read_vocab(r, &l));
    MR_TRY(read_added_ids(r, &l));
    MR_TRY(bp_vocab_index(&r->t->model.vocab, r->err));
    MR_TRY(read_merges(r, model, &l));
    MR_TRY(read_unk(r, model, &l));
out:
    return st;
}
