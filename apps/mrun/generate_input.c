/* SPDX-License-Identifier: Apache-2.0
 * generate_input.c - see generate_input.h. */
#include "generate_input.h"
#include "core/run/text.h"
#include <ctype.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_JSON = 256 << 20 };

/* ---- chats ----------------------------------------------------------------------------------- */
mr_status prompts_open_chat(const mri_config *c, mri_chat **out, mr_err *err)
{
    const char *file = c->generate.chat_template, *dir = c->model.hf;
    static const char *const sections[] = { "tokenizer.hf", "tokenizer.tiktoken" };
    for (size_t i = 0; i < 2 && !dir; i++) { /* a run has the folder of its tokenizer */
        const mri_entry *e = mri_profile_get(c->profile, sections[i], "dir");
        dir = e && *e->value ? e->value : NULL;
    }
    if (!dir && !file) {
        mr_fail(err, MR_E_STORE_MISSING, MR_BLAME_USER, "there is no folder to take a chat "
                                                        "template from");
        mr_hint(err, "give --hf DIR, or a template of your own with --chat-template FILE");
        return MR_E_STORE_MISSING;
    }
    return mri_chat_open(dir, file, out, err);
}

mri_json *prompts_messages(const char *system, const char *user, size_t pictures)
{
    json_t *all = json_array(), *content = pictures ? json_array() : json_string(user);
    if (system)
        json_array_append_new(all, json_pack("{s:s,s:s}", "role", "system", "content", system));
    for (size_t i = 0; i < pictures; i++)
        json_array_append_new(content, json_pack("{s:s}", "type", "image"));
    if (pictures)
        json_array_append_new(content, json_pack("{s:s,s:s}", "type", "text", "text", user));
    json_array_append_new(all, json_pack("{s:s,s:o}", "role", "user", "content", content));
    return all;
}

/* ---- pictures -------------------------------------------------------------------------------- */

/* Those of a line, {"images": [FILE ...]}, become the last prompt's. */
static mr_status add_images(gen_prompts *p, const char *where, const json_t *images, mr_err *err)
{
    const char *wrong = "";
    if (images && !json_is_array(images))
        wrong = "\"images\" is no array";
    for (size_t i = 0; i < json_array_size(images); i++) {
        const char *file = json_string_value(json_array_get(images, i));
        if (file)
            app_pictures_add(&p->all.v[p->all.n - 1].pictures, file);
        else
            wrong = "\"images\" holds something else than names of files";
    }
    return *wrong ? mr_fail(err, MR_E_DATA_FORMAT, MR_BLAME_USER, "%s: %s", where, wrong) : 0;
}

/* A message's content may name the file of its picture: {"type": "image", "path": FILE}. */
static void add_images_of_messages(gen_prompts *p, const json_t *messages)
{
    static const char *const keys[] = { "path", "image", "url" };
    for (size_t i = 0; i < json_array_size(messages); i++) {
        const json_t *content = json_object_get(json_array_get(messages, i), "content");
        for (size_t k = 0; k < json_array_size(content); k++) {
            const json_t *item = json_array_get(content, k);
            const char *type = json_string_value(json_object_get(item, "type")), *file = NULL;
            for (size_t j = 0; j < sizeof keys / sizeof *keys && !file; j++)
                file = json_string_value(json_object_get(item, keys[j]));
            if (type && !strcmp(type, "image") && file)
                app_pictures_add(&p->all.v[p->all.n - 1].pictures, file);
        }
    }
}

static mr_status add_chat(gen_prompts *p, const mri_config *c, const char *where,
                          const json_t *messages, const json_t *tools, mr_err *err)
{
    mri_str text = { 0 };
    mri_chat_request q = { messages, tools, NULL, true, -1 };
    mr_status st = p->chat ? 0 : prompts_open_chat(c, &p->chat, err);
    if (!st)
        st = mri_chat_text(p->chat, &q, &text, err);
    if (st) {
        mri_str_free(&text);
        return st;
    }
    size_t n = text.n;
    gen_prompt g = { .where = mri_strdup(where), .text = mri_str_take(&text), .text_n = n,
                     .rendered = true };
    MRI_PUSH(&p->all, g);
    return 0;
}

/* ---- one prompt ------------------------------------------------------------------------------ */
static mr_status add_text(gen_prompts *p, const mri_config *c, const char *where, const char *text,
                          size_t n, const json_t *tools, size_t pictures, mr_err *err)
{
    if (!c->generate.chat) {
        gen_prompt g = { .where = mri_strdup(where), .text = mri_strndup(text, n), .text_n = n };
        MRI_PUSH(&p->all, g);
        return 0;
    }
    if (strlen(text) != n)
        return mr_fail(err, MR_E_ARG, MR_BLAME_USER, "%s: a chat's text cannot hold NUL", where);
    mri_json *messages = prompts_messages(c->generate.system, text, pictures);
    if (!messages || !json_array_size(messages) || !json_array_get(messages, 0)) {
        mri_json_free(messages);
        return mr_fail(err, MR_E_ARG, MR_BLAME_USER, "%s is not valid UTF-8", where);
    }
    mr_status st = add_chat(p, c, where, messages, tools, err);
    mri_json_free(messages);
    return st;
}

static mr_status add_ids(gen_prompts *p, const char *text, mr_err *err)
{
    MRI_VEC(int32_t) ids = { 0 };
    for (const char *s = text;;) {
        char *end;
        while (isspace((unsigned char)*s) || *s == ',')
            s++;
        if (!*s)
            break;
        long long v = strtoll(s, &end, 10);
        if (end == s || v < 0 || v > INT32_MAX) {
            free(ids.v);
            mr_fail(err, MR_E_ARG, MR_BLAME_USER, "--ids: '%.20s' is no id", s);
            mr_hint(err, "ids are whole numbers from 0 on, with blanks or commas between them");
            return MR_E_ARG;
        }
        MRI_PUSH(&ids, (int32_t)v);
        s = end;
    }
    gen_prompt g = { .where = mri_strdup("--ids"), .ids = ids.v, .n = ids.n };
    MRI_PUSH(&p->all, g);
    return 0;
}

static mr_status add_id_array(gen_prompts *p, const char *where, const json_t *ids, mr_err *err)
{
    size_t n = json_array_size(ids);
    gen_prompt g = { .where = mri_strdup(where), .ids = mri_alloc((n + 1) * sizeof(int32_t)),
                     .n = n };
    MRI_PUSH(&p->all, g);
    for (size_t i = 0; i < n; i++) {
        const json_t *id = json_array_get(ids, i);
        json_int_t v = json_integer_value(id);
        if (!json_is_integer(id) || v < 0 || v > INT32_MAX)
            return mr_fail(err, MR_E_DATA_FORMAT, MR_BLAME_USER, "%s: ids[%zu] is no id", where, i);
        g.ids[i] = (int32_t)v;
    }
    return 0;
}

/* ---- files ----------------------------------------------------------------------------------- */
static mr_status add_line(gen_prompts *p, const mri_config *c, const char *where, const json_t *j,
                          const json_t *tools, mr_err *err)
{
    const json_t *text = json_object_get(j, "prompt"), *ids = json_object_get(j, "ids");
    const json_t *messages = json_object_get(j, "messages"), *own = json_object_get(j, "tools");
    if ((json_is_string(text) != 0) + json_is_array(ids) + json_is_array(messages) != 1) {
        mr_fail(err, MR_E_DATA_FORMAT, MR_BLAME_USER,
                "%s: the object must have one of \"prompt\" (a string), \"ids\" and \"messages\" "
                "(arrays)", where);
        return MR_E_DATA_FORMAT;
    }
    tools = own && !json_is_null(own) ? own : tools;
    const json_t *images = json_object_get(j, "images");
    mr_status st = messages ? add_chat(p, c, where, messages, tools, err)
                   : text   ? add_text(p, c, where, json_string_value(text),
                                       json_string_length(text), tools, json_array_size(images),
                                       err)
                            : add_id_array(p, where, ids, err);
    if (!st)
        add_images_of_messages(p, messages);
    return st ? st : add_images(p, where, images, err);
}

static mr_status add_lines(gen_prompts *p, const mri_config *c, const char *path,
                           const json_t *tools, mr_err *err)
{
    char *text;
    size_t n;
    int line = 1;
    mr_status st = mri_read_file(path, MAX_JSON, &text, &n, err);
    if (st)
        return st;
    for (char *at = text, *end; at < text + n && !st; at = end + 1, line++) {
        end = memchr(at, '\n', (size_t)(text + n - at));
        if (!end)
            end = text + n;
        if (strspn(at, " \t\r\n") >= (size_t)(end - at))
            continue;
        char *where = mri_format("%s:%d", path, line);
        json_error_t e;
        json_t *j = json_loadb(at, (size_t)(end - at), JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &e);
        st = j ? add_line(p, c, where, j, tools, err)
               : mr_fail(err, MR_E_DATA_FORMAT, MR_BLAME_USER, "%s: %s", where, e.text);
        json_decref(j);
        free(where);
    }
    free(text);
    return st;
}

/* An array of messages, or an object with "messages" and "tools". */
static mr_status add_messages(gen_prompts *p, const mri_config *c, const json_t *tools, mr_err *err)
{
    const char *path = c->generate.messages;
    mri_json *j = NULL;
    mr_status st = mri_json_read(path, MAX_JSON, &j, err);
    if (st)
        return st;
    const json_t *own = json_is_object(j) ? json_object_get(j, "tools") : NULL;
    const json_t *messages = json_is_object(j) ? json_object_get(j, "messages") : j;
    st = add_chat(p, c, path, messages, own && !json_is_null(own) ? own : tools, err);
    if (!st)
        add_images_of_messages(p, messages);
    mri_json_free(j);
    return st;
}

static mr_status add_pictures(gen_prompts *p, const mri_config *c, gen_pictures x, mr_err *err)
{
    if ((x.n || x.values) && c->generate.jsonl)
        return mr_fail(err, MR_E_USAGE, MR_BLAME_USER, "--image and --pixel-values are of one "
                       "prompt; the lines of %s name their own \"images\"", c->generate.jsonl);
    if (x.n && x.values)
        return mr_fail(err, MR_E_USAGE, MR_BLAME_USER, "--image and --pixel-values both give "
                       "pictures; one of them will do");
    for (size_t i = 0; i < x.n; i++)
        app_pictures_add(&p->all.v[0].pictures, x.files[i]);
    if (x.values)
        p->all.v[0].pictures.values = mri_strdup(x.values);
    return 0;
}

mr_status prompts_gather(gen_prompts *p, const mri_config *c, gen_pictures pictures, mr_err *err)
{
    const mri_cfg_generate *d = &c->generate;
    mri_json *tools = NULL;
    mr_status st = 0;
    int sources = (d->prompt != NULL) + (d->ids != NULL) + (d->jsonl != NULL) +
                  (d->messages != NULL);
    if (sources > 1) {
        mr_fail(err, MR_E_USAGE, MR_BLAME_USER, "more than one of prompt, ids, messages and jsonl "
                                                "is given");
        mr_hint(err, "a file of several prompts of any kind is given with --jsonl FILE");
        return MR_E_USAGE;
    }
    if (d->tools)
        MR_TRY(mri_json_read(d->tools, MAX_JSON, &tools, err));
    if (d->ids)
        MR_TRY(add_ids(p, d->ids, err));
    else if (d->jsonl)
        MR_TRY(add_lines(p, c, d->jsonl, tools, err));
    else if (d->messages)
        MR_TRY(add_messages(p, c, tools, err));
    else
        MR_TRY(add_text(p, c, "--prompt", d->prompt ? d->prompt : "",
                        d->prompt ? strlen(d->prompt) : 0, tools, pictures.n, err));
    if (p->all.n)
        MR_TRY(add_pictures(p, c, pictures, err));
    else
        st = mr_fail(err, MR_E_DATA_FORMAT, MR_BLAME_USER, "%s holds no prompt", d->jsonl);
out:
    mri_json_free(tools);
    return st;
}

bool prompts_have_text(const gen_prompts *p)
{
    for (size_t i = 0; i < p->all.n; i++)
        if (p->all.v[i].text)
            return true;
    return false;
}

/* ---- to ids ---------------------------------------------------------------------------------- */
static mr_status check(const gen_prompt *g, const mri_session *s, mr_err *err)
{
    int64_t vocab = s->info.vocab, context = s->info.max_positions;
    if (!g->n) {
        mr_fail(err, MR_E_ARG, MR_BLAME_USER, "%s: the prompt is empty, and nothing begins it",
                g->where);
        mr_hint(err, "the tokenizer has no beginning-of-text id, or --no-special left it out");
        return MR_E_ARG;
    }
    for (uint64_t i = 0; i < g->n; i++)
        if (g->ids[i] < 0 || g->ids[i] >= vocab)
            return mr_fail(err, MR_E_ARG, MR_BLAME_USER,
                           "%s: '%d' is no id below the vocabulary's %lld", g->where, g->ids[i],
                           (long long)vocab);
    if ((int64_t)g->n < context)
        return 0;
    mr_fail(err, MR_E_ARG, MR_BLAME_USER, "%s: the prompt has %llu tokens, the model's context is "
            "%lld", g->where, (unsigned long long)g->n, (long long)context);
    mr_hint(err, "shorten it to %lld at most: one has to be left to write",
            (long long)context - 1);
    return MR_E_ARG;
}

mr_status prompts_resolve(gen_prompts *p, mri_session *s, const mri_config *c, mr_err *err)
{
    mr_status st = 0;
    int64_t first = 0; /* row of the features of all pictures */
    for (size_t i = 0; i < p->all.n && !st; i++) {
        gen_prompt *g = &p->all.v[i];
        MR_TRY(app_pictures_read(&g->pictures, s, err));
        if (g->text && app_pictures_any(&g->pictures))
            st = app_pictures_ids(&g->pictures, s, g->text, g->text_n,
                                  !g->rendered && c->generate.special != 0, &g->ids, &g->n, err);
        else if (g->text && g->rendered)
            st = mri_text_ids_as(s->tok_ops, s->tok, 0, g->text, g->text_n, &g->ids, &g->n, err);
        else if (g->text)
            st = mri_text_ids(s->tok_ops, s->tok, g->text, g->text_n, c->generate.special != 0,
                              &g->ids, &g->n, err);
        if (!st)
            st = check(g, s, err);
        if (!st && g->pictures.tiles) {
            int64_t features = g->pictures.tiles * s->info.image_tokens;
            g->image_rows = mri_alloc(g->n * sizeof *g->image_rows);
            MR_TRY(mri_image_rows(g->ids, (int64_t)g->n, s->info.image_token, features,
                                  g->image_rows, err));
            for (uint64_t k = 0; k < g->n; k++)
                g->image_rows[k] += g->image_rows[k] < 0 ? 0 : (int32_t)first;
            first += features;
        }
    }
out:
    return st;
}

float *prompts_pixels(const gen_prompts *p, int64_t side, int64_t *tiles)
{
    size_t tile = (size_t)(3 * side * side);
    float *out = NULL;
    *tiles = 0;
    for (size_t i = 0; i < p->all.n; i++) {
        const app_pictures *x = &p->all.v[i].pictures;
        if (!x->tiles)
            continue;
        out = mri_grow(out, (size_t)(*tiles + x->tiles) * tile * sizeof *out);
        memcpy(out + (size_t)*tiles * tile, x->pixels, (size_t)x->tiles * tile * sizeof *out);
        *tiles += x->tiles;
    }
    return out;
}

void prompts_free(gen_prompts *p)
{
    for (size_t i = 0; i < p->all.n; i++) {
        free(p->all.v[i].where);
        free(p->all.v[i].text);
        free(p->all.v[i].ids);
        free(p->all.v[i].image_rows);
        app_pictures_free(&p->all.v[i].pictures);
    }
    free(p->all.v);
    mri_chat_free(p->chat);
    memset(p, 0, sizeof *p);
}
