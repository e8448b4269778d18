/* SPDX-License-Identifier: Apache-2.0
 *
 * convert_config.c - the small files of a model folder. config.json begins with that of the
 * source where there is one, so that keys that mrun does not know survive; the family writes it
 * otherwise. It is copied byte for byte unless something in it must change.
 *
 * Invariant: what is written opens in transformers 4.x and 5.x alike: the rotary positions and the
 * dtype are spelled both ways.
 */
#include "convert.h"
#include "core/base/json.h"
#include <dirent.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { CONFIG_MAX = 16 << 20, WRITTEN_MAX = 4 << 20 };

/* ---- config.json --------------------------------------------------------------------------- */

static const char *torch_name(const char *dtype)
{
    static const char *const names[][2] = { { "f32", "float32" }, { "bf16", "bfloat16" },
                                            { "f16", "float16" }, { "f64", "float64" } };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!strcmp(names[i][0], dtype))
            return names[i][1];
    return dtype;
}

/* sets a text unless it is there already; was anything changed? */
static bool set_text(json_t *o, const char *key, const char *text)
{
    const char *now = json_string_value(json_object_get(o, key));
    return (!now || strcmp(now, text)) && !json_object_set_new(o, key, json_string(text));
}

/* 5.x says "dtype", older versions "torch_dtype"; each reads its own or falls back to fp32. */
static bool set_dtype(json_t *o, const char *dtype, bool top)
{
    const char *text = torch_name(dtype);
    bool changed = false;
    if (top || json_object_get(o, "dtype"))
        changed |= set_text(o, "dtype", text);
    if (top || json_object_get(o, "torch_dtype"))
        changed |= set_text(o, "torch_dtype", text);
    return changed;
}

/* Where 5.x alone has spelled the rotary positions (rope_parameters), 4.x's keys are added. */
static bool spell_rope(json_t *o)
{
    json_t *all = json_object_get(o, "rope_parameters");
    const json_t *theta = json_object_get(all, "rope_theta");
    const char *type = json_string_value(json_object_get(all, "rope_type"));
    bool changed = false;
    if (theta && !json_object_get(o, "rope_theta"))
        changed |= !json_object_set(o, "rope_theta", (json_t *)(uintptr_t)theta);
    if (type && strcmp(type, "default") && !json_object_get(o, "rope_scaling")) {
        json_t *scaling = json_copy(all);
        json_object_del(scaling, "rope_theta");
        changed |= !json_object_set_new(o, "rope_scaling", scaling);
    }
    return changed;
}

static bool set_integer(json_t *o, const char *key, int64_t v)
{
    const json_t *now = json_object_get(o, key);
    return !(json_is_integer(now) && json_integer_value(now) == v) &&
           !json_object_set_new(o, key, json_integer(v));
}

/* Of a family's own config.json: ids of the tokenizer, null where it has none; transformers'
 * classes have defaults that mean other tokens. */
static void set_ids(json_t *o, const mr_tokenizer_info *t)
{
    const struct {
        const char *key;
        int32_t id;
    } ids[] = { { "bos_token_id", t->bos },
                { "eos_token_id", t->eos },
                { "pad_token_id", t->pad } };
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++)
        json_object_set_new(o, ids[i].key, ids[i].id >= 0 ? json_integer(ids[i].id) : json_null());
}

static bool edit(const convert_source *s, json_t *doc, const char *dtype)
{
    static const char *const schemes[] = { "quantization_config", "compression_config" };
    json_t *text = json_object_get(doc, "text_config");
    json_t *sizes = json_is_object(text) ? text : doc;
    bool changed = spell_rope(sizes);
    if (dtype) {
        changed |= set_dtype(doc, dtype, true);
        if (sizes != doc)
            changed |= set_dtype(sizes, dtype, false);
    }
    if (s->checkpoint) /* a profile may set the length of the context */
        changed |= set_integer(sizes, "max_position_embeddings", s->model->info.max_positions);
    for (size_t i = 0; i < 2 && s->plain; i++) {
        changed |= !json_object_del(doc, schemes[i]);
        changed |= !json_object_del(sizes, schemes[i]);
    }
    return changed;
}

/* With as few digits as give the same numbers back: 0.1 stays 0.1. */
static char *shortest(const json_t *doc)
{
    char *text = json_dumps(doc, JSON_INDENT(2) | JSON_REAL_PRECISION(15));
    json_t *again = text ? json_loads(text, 0, NULL) : NULL;
    if (!json_equal(doc, again)) {
        free(text);
        text = json_dumps(doc, JSON_INDENT(2));
    }
    json_decref(again);
    return text;
}

static mr_status write_json(const mri_new_folder *f, const char *name, const json_t *doc,
                            mr_err *err)
{
    char *text = shortest(doc);
    char *line = mri_format("%s\n", text ? text : "");
    mr_status st = mri_new_folder_text(f, name, line, err);
    free(line);
    free(text);
    return st;
}

/* The family's own, with what it does not know of. */
static mr_status config_of_family(const convert_source *s, const char *dtype,
                                  const mri_new_folder *f, mr_err *err)
{
    const mri_session *m = s->model;
    char *text = mri_alloc(WRITTEN_MAX);
    json_t *doc = NULL, *ids = json_object();
    mr_status st = 0;
    if (!MR_CAN(m->model_ops, hf_config)) {
        st = mr_fail(err, MR_E_UNSUPPORTED, MR_BLAME_USER,
                     "the model family writes no config.json");
        mr_hint(err, "a family exports with mr_model_ops.hf_config: docs/model-plugins.md");
        goto out;
    }
    MR_TRY(m->model_ops->hf_config(m->model, text, WRITTEN_MAX, err));
    MR_TRY(mri_json_parse(text, strlen(text), "config.json", &doc, err));
    edit(s, doc, dtype);
    if (m->tok) {
        set_ids(doc, &m->tok_info);
        set_ids(ids, &m->tok_info);
        MR_TRY(write_json(f, "generation_config.json", ids, err));
    }
    MR_TRY(write_json(f, "config.json", doc, err));
out:
    json_decref(ids);
    mri_json_free(doc);
    free(text);
    return st;
}

static mr_status config_of_folder(const convert_source *s, const char *dtype,
                                  const mri_new_folder *f, mr_err *err)
{
    char *path = mri_format("%s/config.json", s->dir);
    json_t *doc = NULL;
    mr_status st = 0;
    MR_TRY(mri_json_read(path, CONFIG_MAX, &doc, err));
    MR_TRY(edit(s, doc, dtype) ? write_json(f, "config.json", doc, err)
                               : mri_new_folder_copy(f, path, "config.json", err));
out:
    mri_json_free(doc);
    free(path);
    return st;
}

/* ---- the other files ----------------------------------------------------------------------- */

static bool ends_with(const char *name, const char *end)
{
    size_t n = strlen(name), k = strlen(end);
    return n >= k && !strcmp(name + n - k, end);
}

/* Weights, in whatever format, and what is written anew. */
static bool left_behind(const convert_source *s, const char *name, bool config)
{
    static const char *const ends[] = { ".safetensors", ".index.json", ".bin", ".pt", ".pth",
                                        ".gguf", ".h5", ".msgpack", ".onnx", ".ckpt" };
    static const char *const mruns[] = { "profile.resolved.ini", "manifest.json", "log.jsonl" };
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++)
        if (ends_with(name, ends[i]))
            return true;
    for (size_t i = 0; i < sizeof mruns / sizeof *mruns; i++)
        if (!strcmp(name, mruns[i]))
            return true;
    if (s->plain && !strcmp(name, "hf_quant_config.json"))
        return true;
    return *name == '.' || (!config && !strcmp(name, "config.json"));
}

/* What reads or writes text, in a folder that need not be a model's. */
static bool of_tokenizer(const char *name)
{
    static const char *const names[] = { "tokenizer.json", "tokenizer_config.json",
                                         "special_tokens_map.json", "added_tokens.json",
                                         "vocab.json", "merges.txt", "tokenizer.model",
                                         "tiktoken.model", "chat_template.jinja",
                                         "chat_template.json" };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!strcmp(name, names[i]))
            return true;
    return !strncmp(name, "tokenization_", 13) && ends_with(name, ".py");
}

static mr_status copy_files(const convert_source *s, const mri_new_folder *f, const char *dir,
                            bool tokenizer_only, bool config, mr_err *err)
{
    struct dirent *e;
    struct stat sb;
    mr_status st = 0;
    DIR *d = opendir(dir);
    while (d && !st && (e = readdir(d))) {
        if (tokenizer_only ? !of_tokenizer(e->d_name) : left_behind(s, e->d_name, config))
            continue;
        char *path = mri_format("%s/%s", dir, e->d_name);
        if (!stat(path, &sb) && S_ISREG(sb.st_mode))
            st = mri_new_folder_copy(f, path, e->d_name, err);
        free(path);
    }
    if (d)
        closedir(d);
    return st;
}

mr_status convert_copy_files(const convert_source *s, const mri_new_folder *f, bool config,
                             mr_err *err)
{
    const mri_choice *tokenizer = mri_config_choice(s->model->config, "tokenizer", 0);
    const mri_profile *p = s->model->config->profile;
    mr_status st = 0;
    if (s->dir)
        return copy_files(s, f, s->dir, false, config, err);
    if (tokenizer) {
        char *section = mri_format("tokenizer.%s", tokenizer->unit->name);
        const mri_entry *e = mri_profile_get(p, section, "dir");
        if (e && e->used && *e->value)
            st = copy_files(s, f, e->value, true, config, err);
        free(section);
    }
    return st;
}

mr_status convert_config(const convert_source *s, const mri_new_folder *f, const char *dtype,
                         mr_err *err)
{
    mr_status st = s->dir ? config_of_folder(s, dtype, f, err) : config_of_family(s, dtype, f, err);
    return st ? st : convert_copy_files(s, f, false, err);
}
