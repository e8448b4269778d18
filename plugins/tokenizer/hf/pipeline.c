/* SPDX-License-Identifier: Apache-2.0
 *
 * pipeline.c - what a tokenizer.json does around its model: normalizer, pre_tokenizer,
 * post_processor, decoder. A table names the kinds that each may have; a kind that is not in it
 * is refused, with those that are.
 */
#include "hf.h"
#include <stdlib.h>

/* What ByteLevel cuts by with use_regex: GPT-2's pattern. */
static const char gpt2[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|"
                           "\\s+(?!\\S)|\\s+";

typedef struct kind {
    const char *name;
    mr_status (*read)(hf_reader *r, const json_t *part, const char *where, int depth);
} kind;

/* One part: null is nothing; else its "type" is a row of `kinds` (ends with a row of NULLs). */
static mr_status read_part(hf_reader *r, const json_t *part, const char *where, const kind *kinds,
                           int depth)
{
    const char *type = json_string_value(json_object_get(part, "type"));
    char have[160] = "";
    size_t n = 0;
    if (!part || json_is_null(part))
        return MR_OK;
    if (!type)
        return hf_bad(r, NULL, where, "is no object with a text \"type\"");
    if (depth > 8)
        return hf_bad(r, NULL, where, "is nested deeper than 8");
    for (const kind *k = kinds; k->name; k++) {
        if (!strcmp(k->name, type))
            return k->read(r, part, where, depth);
        n += (size_t)snprintf(have + n, sizeof have - n, "%s%s", n ? ", " : "", k->name);
    }
    char hint[200];
    snprintf(hint, sizeof hint, "supported are %s", have);
    return hf_bad(r, hint, where, "is of type \"%.40s\", which is not supported", type);
}

/* part[key]: an array of parts */
static mr_status read_sequence(hf_reader *r, const json_t *part, const char *key, const char *where,
                               const kind *kinds, int depth)
{
    const json_t *list = json_object_get(part, key), *one;
    size_t i;
    char at[100];
    if (!json_is_array(list))
        return hf_bad(r, NULL, where, "is a Sequence without an array \"%s\"", key);
    json_array_foreach(list, i, one)
    {
        snprintf(at, sizeof at, "%.60s[%zu]", where, i);
        mr_status st = read_part(r, one, at, kinds, depth + 1);
        if (st)
            return st;
    }
    return MR_OK;
}

static mr_status nothing(hf_reader *r, const json_t *part, const char *where, int depth)
{
    (void)r;
    (void)part;
    (void)where;
    (void)depth;
    return MR_OK;
}

/* ---- normalizer ------------------------------------------------------------------------------ */

static mr_status use_nfc(hf_reader *r, const json_t *part, const char *where, int depth)
{
    (void)part;
    (void)where;
    (void)depth;
    r->t->nfc = true;
    return MR_OK;
}

static mr_status normalizers(hf_reader *r, const json_t *part, const char *where, int depth);
static const kind normalizer_kinds[] = {
    { "NFC", use_nfc },
    { "Sequence", normalizers },
    { NULL, NULL },
};

static mr_status normalizers(hf_reader *r, const json_t *part, const char *where, int depth)
{
    return read_sequence(r, part, "normalizers", where, normalizer_kinds, depth);
}

mr_status hf_read_normalizer(hf_reader *r)
{
    return read_part(r, json_object_get(r->root, "normalizer"), "normalizer", normalizer_kinds, 0);
}

/* ---- pre_tokenizer
 * ------------------------------------------------------------------------------- */

static mr_status next_stage(hf_reader *r, const char *where, bp_stage **out)
{
    if (r->t->n_stages == BP_MAX_STAGES)
        return hf_bad(r, NULL, where, "is cut number %d; the limit is %d", BP_MAX_STAGES + 1,
                      BP_MAX_STAGES);
    *out = &r->t->stage[r->t->n_stages];
    **out = (bp_stage) { 0 };
    return MR_OK;
}

static void place(const hf_reader *r, const char *where, char text[200])
{
    snprintf(text, 200, "%s: %.120s in %s", r->unit, where, strrchr(r->file, '/') ?: r->file);
}

static mr_status read_split(hf_reader *r, const json_t *part, const char *where, int depth)
{
    const json_t *pattern = json_object_get(part, "pattern");
    const char *regex = json_string_value(json_object_get(pattern, "Regex"));
    const char *literal = json_string_value(json_object_get(pattern, "String"));
    const char *behavior = json_string_value(json_object_get(part, "behavior"));
    bool invert = json_is_true(json_object_get(part, "invert"));
    char at[200];
    bp_stage *s = NULL;
    (void)depth;
    if (!regex == !literal)
        return hf_bad(r, NULL, where, "has no pattern.Regex or pattern.String that is a text");
    if (!behavior || (strcmp(behavior, "Isolated") && strcmp(behavior, "Removed")))
        return hf_bad(r, "supported are Isolated and Removed", where, "has the behavior \"%.40s\"",
                      behavior ? behavior : "(none)");
    mr_status st = next_stage(r, where, &s);
    if (st)
        return st;
    place(r, where, at);
    st = regex ? bp_stage_init(s, regex, BP_ONIGURUMA, at, r->err)
               : bp_stage_literal(s, literal, at, r->err);
    if (st)
        return st;
    bool removed = !strcmp(behavior, "Removed");
    s->drop_match = removed && !invert;
    s->drop_rest = removed && invert;
    r->t->n_stages++;
    return MR_OK;
}

static mr_status read_byte_level(hf_reader *r, const json_t *part, const char *where, int depth)
{
    const json_t *regex = json_object_get(part, "use_regex");
    char at[200];
    bp_stage *s = NULL;
    (void)depth;
    if (json_is_true(json_object_get(part, "add_prefix_space")))
        return hf_bad(r, "set it to false: it puts a space before each text", where,
                      "has add_prefix_space = true, which is not supported");
    r->byte_level = true;
    if (regex && !json_is_true(regex))
        return MR_OK;
    mr_status st = next_stage(r, where, &s);
    if (st)
        return st;
    place(r, where, at);
    st = bp_stage_init(s, gpt2, BP_ONIGURUMA, at, r->err);
    r->t->n_stages += !st;
    return st;
}

static mr_status read_digits(hf_reader *r, const json_t *part, const char *where, int depth)
{
    bool each = json_is_true(json_object_get(part, "individual_digits"));
    char at[200];
    bp_stage *s = NULL;
    (void)depth;
    mr_status st = next_stage(r, where, &s);
    if (st)
        return st;
    place(r, where, at);
    st = bp_stage_init(s, each ? "\\p{N}" : "\\p{N}+", BP_ONIGURUMA, at, r->err);
    r->t->n_stages += !st;
    return st;
}

static mr_status pre_tokenizers(hf_reader *r, const json_t *part, const char *where, int depth);
static const kind cut_kinds[] = {
    { "ByteLevel", read_byte_level }, { "Split", read_split }, { "Digits", read_digits },
    { "Sequence", pre_tokenizers },   { NULL, NULL },
};

static mr_status pre_tokenizers(hf_reader *r, const json_t *part, const char *where, int depth)
{
    return read_sequence(r, part, "pretokenizers", where, cut_kinds, depth);
}

mr_status hf_read_cuts(hf_reader *r)
{
    mr_status st =
        read_part(r, json_object_get(r->root, "pre_tokenizer"), "pre_tokenizer", cut_kinds, 0);
    if (!st && !r->byte_level)
        st = hf_bad(
            r, "the plugin reads byte-level BPE; a model with sentencepiece's alphabet is none",
            "pre_tokenizer", "has no ByteLevel in it");
    return st;
}

/* ---- post_processor and decoder
 * ------------------------------------------------------------------- */

/* TemplateProcessing: for one text, special tokens, then the text, and nothing behind it. */
static mr_status read_template(hf_reader *r, const json_t *part, const char *where, int depth)
{
    const json_t *single = json_object_get(part, "single"), *piece;
    const json_t *table = json_object_get(part, "special_tokens");
    bool text = false;
    size_t i;
    (void)depth;
    json_array_foreach(single, i, piece)
    {
        const json_t *special = json_object_get(piece, "SpecialToken");
        const char *name = json_string_value(json_object_get(special, "id"));
        if (!special) {
            text = true;
            continue;
        }
        const json_t *ids = json_object_get(json_object_get(table, name ? name : ""), "ids");
        const json_t *id = json_array_get(ids, 0);
        if (json_array_size(ids) != 1 || !json_is_integer(id) || json_integer_value(id) < 0 ||
            json_integer_value(id) >= r->t->model.vocab.n)
            return hf_bad(r, NULL, where,
                          "puts \"%.40s\" in, which has no id in its special_tokens",
                          name ? name : "(no name)");
        if (text || r->begins != BP_NONE)
            return hf_bad(r, "one token before the text is supported", where, "puts \"%.40s\" %s",
                          name, text ? "behind the text" : "in as a second one");
        r->begins = (int32_t)json_integer_value(id);
    }
    if (!text)
        return hf_bad(r, NULL, where, "has no array \"single\" with a Sequence in it");
    return MR_OK;
}

static mr_status post_processors(hf_reader *r, const json_t *part, const char *where, int depth);
static const kind end_kinds[] = {
    { "ByteLevel", nothing }, /* offsets only */
    { "TemplateProcessing", read_template },
    { "Sequence", post_processors },
    { NULL, NULL },
};

static mr_status post_processors(hf_reader *r, const json_t *part, const char *where, int depth)
{
    return read_sequence(r, part, "processors", where, end_kinds, depth);
}

static mr_status decoders(hf_reader *r, const json_t *part, const char *where, int depth);
static const kind decoder_kinds[] = {
    { "ByteLevel", nothing }, /* ids are bytes already */
    { "Sequence", decoders },
    { NULL, NULL },
};

static mr_status decoders(hf_reader *r, const json_t *part, const char *where, int depth)
{
    return read_sequence(r, part, "decoders", where, decoder_kinds, depth);
}

mr_status hf_read_ends(hf_reader *r)
{
    mr_status st =
        read_part(r, json_object_get(r->root, "post_processor"), "post_processor", end_kinds, 0);
    return st ? st : read_part(r, json_object_get(r->root, "decoder"), "decoder", decoder_kinds, 0);
}
