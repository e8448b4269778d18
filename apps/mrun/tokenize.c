/* SPDX-License-Identifier: Apache-2.0
 *
 * tokenize.c - `mrun tokenize` and job `tokenize`: lines of text on stdin to lines of ids on
 * stdout, or back with --decode. A line's ids are those that `score --text` feeds the model: the
 * id that begins a text is in front, if the tokenizer has one, unless --no-special; --decode takes
 * it off again, so that one undoes the other. With --json a line is an array, or a string. With
 * --chat a line of stdin is a chat in JSON, whose ids are those that `generate --messages` goes on
 * from.
 */
#include "core/run/source.h"
#include "core/run/text.h"
#include "app.h"
#include "generate_input.h"
#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

typedef struct tokenizer {
    const mr_tokenizer_ops *ops;
    void *tok;
    int32_t bos; /* -1: none, or not wanted */
    bool json;
    mri_chat *chat; /* lines are chats; NULL: they are texts */
} tokenizer;

static void add_id(mri_str *out, int32_t id)
{
    char digits[16];
    size_t n = sizeof digits;
    uint32_t v = (uint32_t)id;
    do
        digits[--n] = (char)('0' + v % 10);
    while (v /= 10);
    mri_str_addn(out, digits + n, sizeof digits - n);
}

/* quoted and escaped; a text may hold NULs */
static void add_json(mri_str *out, const char *text, uint64_t n)
{
    mri_str_add(out, "\"");
    for (uint64_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c < 0x20)
            mri_str_fmt(out, "\\u%04x", c);
        else if (c == '"' || c == '\\')
            mri_str_fmt(out, "\\%c", c);
        else
            mri_str_addn(out, text + i, 1);
    }
    mri_str_add(out, "\"");
}

/* An array of messages, or an object with "messages" and "tools". */
static mr_status chat_ids(const tokenizer *t, const char *line, size_t n, int32_t **ids,
                          uint64_t *k, mr_err *err)
{
    mri_json *j = NULL;
    mri_str text = { 0 };
    mr_status st = mri_json_parse(line, n, "a chat", &j, err);
    if (st)
        return st;
    const json_t *tools = json_is_object(j) ? json_object_get(j, "tools") : NULL;
    mri_chat_request q = { json_is_object(j) ? json_object_get(j, "messages") : j,
                           json_is_null(tools) ? NULL : tools, NULL, true, -1 };
    st = mri_chat_text(t->chat, &q, &text, err);
    if (!st)
        st = mri_text_ids_as(t->ops, t->tok, 0, text.s ? text.s : "", text.n, ids, k, err);
    mri_str_free(&text);
    mri_json_free(j);
    return st;
}

static mr_status encode_line(const tokenizer *t, const char *line, size_t n, mri_str *out,
                             mr_err *err)
{
    int32_t *ids = NULL;
    uint64_t k = 0;
    mr_status st = t->chat ? chat_ids(t, line, n, &ids, &k, err)
                           : mri_text_ids(t->ops, t->tok, line, n, t->bos >= 0, &ids, &k, err);
    mri_str_add(out, t->json ? "[" : "");
    for (uint64_t i = 0; i < k && !st; i++) {
        mri_str_add(out, !i ? "" : t->json ? "," : " ");
        add_id(out, ids[i]);
    }
    mri_str_add(out, t->json ? "]" : "");
    free(ids);
    return st;
}

/* Ids with blanks or commas between them; brackets of a JSON array may stand around. */
static mr_status decode_line(const tokenizer *t, const char *line, mri_str *out, mr_err *err)
{
    MRI_VEC(int32_t) ids = { 0 };
    uint64_t n = 0, skip;
    mr_status st = 0;
    char *text = NULL;
    for (const char *p = line; *(p += strspn(p, " \t\r,[]"));) {
        char *end;
        errno = 0;
        long v = strtol(p, &end, 10);
        if (end == p || errno || v < 0 || v > INT32_MAX) {
            st = mr_fail(err, MR_E_ARG, MR_BLAME_USER, "'%.20s' is no token id", p);
            mr_hint(err, "ids are whole numbers from 0 on, with blanks between them");
            goto out;
        }
        MRI_PUSH(&ids, (int32_t)v);
        p = end;
    }
    skip = ids.n && t->bos >= 0 && ids.v[0] == t->bos;
    ids.n -= skip;
    MR_TRY(t->ops->decode(t->tok, ids.v + skip, ids.n, NULL, 0, &n, err));
    text = mri_alloc(n + 1);
    MR_TRY(t->ops->decode(t->tok, ids.v + skip, ids.n, text, n, &n, err));
    if (t->json)
        add_json(out, text, n);
    else
        mri_str_addn(out, text, n);
out:
    free(text);
    free(ids.v);
    return st;
}

static mr_status run_lines(const tokenizer *t, bool decode, mr_err *err)
{
    char *line = NULL;
    size_t room = 0;
    ssize_t n;
    mri_str out = { 0 };
    mr_status st = 0;
    for (long long number = 1; !st && (n = getline(&line, &room, stdin)) >= 0; number++) {
        if (n && line[n - 1] == '\n')
            line[--n] = 0;
        out.n = 0;
        st = decode ? decode_line(t, line, &out, err) : encode_line(t, line, (size_t)n, &out, err);
        if (st) {
            char *what = mri_format("line %lld of stdin: %s", number, err->what);
            snprintf(err->what, sizeof err->what, "%s", what);
            free(what);
            break;
        }
        fwrite(out.s ? out.s : "", 1, out.n, stdout);
        putchar('\n');
    }
    if (!st && ferror(stdin))
        st = mr_fail(err, MR_E_STORE_IO, MR_BLAME_ENV, "cannot read stdin: %s", strerror(errno));
    free(line);
    mri_str_free(&out);
    return st;
}

static int tokenize(app *a, const mri_config *c, bool decode, bool special, bool chat)
{
    mr_err err = MR_ERR_INIT;
    const mri_choice *choice = mri_config_choice(c, "tokenizer", 0);
    tokenizer t = { .ops = choice->unit->table, .json = a->json };
    mr_tokenizer_info info = { .size = sizeof info };
    mr_status st = t.ops->create(mri_registry_host(a->registry), choice->config, &t.tok, &err);
    if (st)
        return app_fail(a, &err);
    MR_TRY(t.ops->info(t.tok, &info, &err));
    t.bos = special ? info.bos : -1;
    if (chat)
        MR_TRY(prompts_open_chat(c, &t.chat, &err));
    st = run_lines(&t, decode, &err);
out:
    mri_chat_free(t.chat);
    t.ops->destroy(t.tok);
    return st ? app_fail(a, &err) : EXIT_OK;
}

int job_tokenize(app *a, mri_config *c)
{
    return tokenize(a, c, false, true, false);
}

/* A folder's tokenizer needs none of its other files. */
static mr_status folder_config(app *a, const app_args *args, const char *dir, mri_config **out,
                               mr_err *err)
{
    char *found[2];
    MRI_VEC(const char *) sets = { 0 };
    mr_status st;
    if (!mri_source_tokenizer(a->registry, dir, found)) {
        mr_fail(err, MR_E_STORE_MISSING, MR_BLAME_USER,
                "%s holds neither tokenizer.json nor tiktoken.model", dir);
        mr_hint(err, "name another file: --set tokenizer.plugin=tiktoken --set "
                     "tokenizer.tiktoken.file=FILE --set tokenizer.tiktoken.pattern=llama4");
        return MR_E_STORE_MISSING;
    }
    MRI_PUSH(&sets, "job.run=tokenize");
    MRI_PUSH(&sets, found[0]);
    MRI_PUSH(&sets, found[1]);
    for (size_t i = 0; i < args->sets.n; i++)
        MRI_PUSH(&sets, args->sets.v[i]);
    st = mri_config_load(a->registry, NULL, sets.v, sets.n, out, err);
    free(sets.v);
    free(found[0]);
    free(found[1]);
    return st;
}

static mr_status profile_config(app *a, const app_args *args, mri_config **out, mr_err *err)
{
    MRI_VEC(const char *) sets = { 0 };
    const char *path = args->positional.n ? args->positional.v[0] : NULL;
    mr_status st;
    MRI_PUSH(&sets, "job.run=tokenize");
    for (size_t i = 0; i < args->sets.n; i++)
        MRI_PUSH(&sets, args->sets.v[i]);
    st = path ? mri_source_config(a->registry, path, NULL, sets.v, sets.n, out, err)
              : mri_config_load(a->registry, NULL, sets.v, sets.n, out, err);
    free(sets.v);
    return st;
}

int cmd_tokenize(app *a, int argc, char **argv)
{
    static const char *const takes[] = { "--hf", "--chat-template", NULL };
    static const char *const flags[] = { "--decode", "--no-special", "--chat", NULL };
    app_args args = { 0 };
    mr_err err = MR_ERR_INIT;
    mri_config *c = NULL;
    int code = app_args_parse(a, argc, argv, takes, flags, &args);
    const char *hf = app_arg(&args, "--hf"), *template = app_arg(&args, "--chat-template");
    char *set = template ? mri_format("generate.chat_template=%s", template) : NULL;
    if (set)
        MRI_PUSH(&args.sets, set);
    if (!code && !hf && !args.positional.n && args.sets.n == (set != NULL))
        code = app_usage(a, "tokenize needs --hf DIR, a profile or a run folder");
    if (!code && (hf ? folder_config(a, &args, hf, &c, &err) : profile_config(a, &args, &c, &err)))
        code = app_fail(a, &err);
    if (!code)
        code = tokenize(a, c, app_arg(&args, "--decode"), !app_arg(&args, "--no-special"),
                        app_arg(&args, "--chat") != NULL);
    mri_config_free(c);
    app_args_free(&args);
    free(set);
    return code;
}
