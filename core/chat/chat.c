/* SPDX-License-Identifier: Apache-2.0
 * chat.c - see chat.h. */
#include "chat.h"
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_JSON = 64 << 20, MAX_TEMPLATE = 4 << 20 };

struct mri_chat {
    mri_template *plain, *tool_use; /* tool_use NULL: the same */
    json_t *tokens;                 /* bos_token and its like */
};

/* ---- special tokens ----------------------------------------------------------------- */
/* "<s>", or an object whose content is it */
static const char *token_text(const json_t *v)
{
    return json_string_value(json_is_object(v) ? json_object_get(v, "content") : v);
}

static void take_tokens(json_t *into, const json_t *from)
{
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)from, key, v) {
        size_t n = strlen(key);
        const char *text = token_text(v);
        if (text && n > 6 && !strcmp(key + n - 6, "_token") && !json_object_get(into, key))
            json_object_set_new(into, key, json_string(text));
    }
}

/* ---- where the template is ---------------------------------------------------------- */
static char *there(const char *dir, const char *name)
{
    char *path = mri_format("%s/%s", dir, name);
    if (!access(path, R_OK))
        return path;
    free(path);
    return NULL;
}

static mr_status read_json(const char *dir, const char *name, mri_json **out, mr_err *err)
{
    char *path = there(dir, name);
    mr_status st = 0;
    *out = NULL;
    if (path)
        st = mri_json_read(path, MAX_JSON, out, err);
    free(path);
    return st;
}

static mr_status parse_file(const char *path, mri_template **out, mr_err *err)
{
    char *text = NULL;
    size_t n = 0;
    mr_status st = mri_read_file(path, MAX_TEMPLATE, &text, &n, err);
    if (!st)
        st = mri_template_parse(text, n, path, out, err);
    free(text);
    return st;
}

static mr_status parse_string(const json_t *text, const char *name, mri_template **out, mr_err *err)
{
    return mri_template_parse(json_string_value(text), json_string_length(text), name, out, err);
}

/* The member chat_template: a text, or a list of { name, template }. */
static mr_status parse_member(mri_chat *c, const json_t *v, const char *file, mr_err *err)
{
    const json_t *entry;
    size_t i;
    mr_status st = 0;
    if (json_is_string(v))
        return parse_string(v, file, &c->plain, err);
    json_array_foreach(v, i, entry) {
        const char *name = json_string_value(json_object_get(entry, "name"));
        const json_t *text = json_object_get(entry, "template");
        bool tools = name && !strcmp(name, "tool_use");
        mri_template **to = tools ? &c->tool_use : &c->plain;
        if (!name || !json_is_string(text) || *to || (!tools && strcmp(name, "default")))
            continue;
        char *full = mri_format("%s[%s]", file, name);
        st = parse_string(text, full, to, err);
        free(full);
        if (st)
            break;
    }
    return st;
}

static mr_status find_template(mri_chat *c, const char *dir, const mri_json *config, mr_err *err)
{
    char *file = there(dir, "chat_template.jinja");
    char *tools = there(dir, "additional_chat_templates/tool_use.jinja");
    mri_json *apart = NULL;
    mr_status st = 0;
    if (file)
        MR_TRY(parse_file(file, &c->plain, err));
    if (tools)
        MR_TRY(parse_file(tools, &c->tool_use, err));
    if (!c->plain)
        MR_TRY(parse_member(c, json_object_get(config, "chat_template"), "tokenizer_config.json",
                            err));
    MR_TRY(read_json(dir, "chat_template.json", &apart, err));
    if (!c->plain)
        MR_TRY(parse_member(c, json_object_get(apart, "chat_template"), "chat_template.json", err));
    if (!c->plain) {
        st = mr_fail(err, MR_E_STORE_MISSING, MR_BLAME_USER, "%s has no chat template", dir);
        mr_hint(err, "it would be chat_template.jinja, or chat_template in tokenizer_config.json; "
                     "a base model has none: leave --chat out, or give --chat-template FILE");
    }
out:
    free(file);
    free(tools);
    mri_json_free(apart);
    return st;
}

mr_status mri_chat_open(const char *dir, const char *file, mri_chat **out, mr_err *err)
{
    mri_chat *c = mri_alloc(sizeof *c);
    mri_json *config = NULL, *map = NULL;
    mr_status st = 0;
    c->tokens = json_object();
    *out = NULL;
    if (dir) {
        MR_TRY(read_json(dir, "tokenizer_config.json", &config, err));
        MR_TRY(read_json(dir, "special_tokens_map.json", &map, err));
        take_tokens(c->tokens, config);
        take_tokens(c->tokens, map);
    }
    if (file)
        MR_TRY(parse_file(file, &c->plain, err));
    else
        MR_TRY(find_template(c, dir, config, err));
    *out = c;
    c = NULL;
out:
    mri_chat_free(c);
    mri_json_free(config);
    mri_json_free(map);
    return st;
}

void mri_chat_free(mri_chat *c)
{
    if (!c)
        return;
    mri_template_free(c->plain);
    mri_template_free(c->tool_use);
    json_decref(c->tokens);
    free(c);
}

/* ---- what the template sees --------------------------------------------------------- */
/* A message without its null members (templates take a missing one better), and with what it has
 * of reasoning under both names that templates read. */
static json_t *shown_message(const json_t *m)
{
    static const char *const names[] = { "reasoning_content", "thinking", "reasoning" };
    json_t *out = json_object(), *v, *reasoning = NULL;
    const char *key;
    for (size_t i = 0; i < sizeof names / sizeof *names && !reasoning; i++) {
        v = json_object_get(m, names[i]);
        reasoning = v && !json_is_null(v) ? v : NULL;
    }
    if (reasoning)
        json_object_set(out, "thinking", reasoning);
    json_object_foreach((json_t *)(uintptr_t)m, key, v)
        if (!json_is_null(v))
            json_object_set(out, key, v);
    if (reasoning)
        json_object_set(out, "reasoning_content", reasoning);
    return out;
}

static mr_status check_objects(const json_t *list, const char *what, mr_err *err)
{
    const json_t *v;
    size_t i;
    if (!json_is_array(list) || !json_array_size(list)) {
        mr_fail(err, MR_E_TEMPLATE, MR_BLAME_USER, "the %s must be a JSON array with one object or "
                "more", what);
        mr_hint(err, "[{\"role\": \"user\", \"content\": \"Hello\"}]");
        return MR_E_TEMPLATE;
    }
    json_array_foreach(list, i, v)
        if (!json_is_object(v))
            return mr_fail(err, MR_E_TEMPLATE, MR_BLAME_USER, "%s[%zu] is no JSON object", what, i);
    return 0;
}

mr_status mri_chat_text(const mri_chat *c, const mri_chat_request *q, mri_str *out, mr_err *err)
{
    json_t *vars, *messages, *v;
    size_t i;
    mr_status st = check_objects(q->messages, "messages", err);
    if (!st && q->tools)
        st = check_objects(q->tools, "tools", err);
    if (st)
        return st;
    vars = json_deep_copy(c->tokens);
    messages = json_array();
    json_array_foreach(q->messages, i, v)
        json_array_append_new(messages, shown_message(v));
    json_object_set_new(vars, "messages", messages);
    if (q->tools)
        json_object_set(vars, "tools", (json_t *)(uintptr_t)q->tools);
    else
        json_object_set_new(vars, "tools", json_null());
    json_object_set_new(vars, "documents", json_null());
    json_object_set_new(vars, "add_generation_prompt", json_boolean(q->answer));
    if (q->more)
        json_object_update(vars, (json_t *)(uintptr_t)q->more);
    st = mri_template_render(q->tools && c->tool_use ? c->tool_use : c->plain, vars, q->now, out,
                             err);
    json_decref(vars);
    return st;
}
