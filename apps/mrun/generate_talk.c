/* SPDX-License-Identifier: Apache-2.0
 *
 * generate_talk.c - `mrun generate --interactive`: a chat on the terminal. A line is what the user
 * says; the answer appears while it is made; the whole chat goes through the template each time.
 * The end of stdin ends it, Ctrl-C an answer.
 */
#include "generate_run.h"
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct talk {
    app *a;
    const mri_config *c;
    mri_session *s;
    mri_chat *chat;
    gen_how how;
    json_t *messages, *tools;
    int64_t positions;
} talk;

enum { POSITIONS = 4096 }; /* of the chat, where nobody says how many, and the model has so many */

static void show(MR_UNUSED void *user, MR_UNUSED size_t i, const char *text, size_t n)
{
    fwrite(text, 1, n, stdout);
    fflush(stdout);
}

static bool stop(MR_UNUSED void *user)
{
    return generate_interrupted();
}

static mr_status answer(talk *t, mr_err *err)
{
    mri_chat_request q = { t->messages, t->tools, NULL, true, -1 };
    mri_str text = { 0 };
    mri_answer a = { 0 };
    mri_wish w = { .seed = t->how.c.how.seed++ };
    int32_t *ids = NULL;
    uint64_t n = 0;
    mr_status st = 0;
    MR_TRY(mri_chat_text(t->chat, &q, &text, err));
    MR_TRY(mri_text_ids_as(t->s->tok_ops, t->s->tok, 0, text.s ? text.s : "", text.n, &ids, &n,
                           err));
    w.ids = ids;
    w.n = (int64_t)n;
    MR_TRY(generate_room(t->c, &t->how.c, t->positions, "the chat", w.n, &w.max_tokens, err));
    generate_catch_signals();
    MR_TRY(mri_complete(t->s, t->s->tok_ops, t->s->tok, &t->how.c, &w, 1, &a, err));
    putchar('\n');
    json_t *content = json_stringn(a.text.s ? a.text.s : "", a.text.n);
    if (!content) /* an answer that is no UTF-8 */
        content = json_string("");
    json_array_append_new(t->messages,
                          json_pack("{s:s,s:o}", "role", "assistant", "content", content));
out:
    mri_answer_free(&a);
    mri_str_free(&text);
    free(ids);
    return st;
}

static mr_status open_talk(talk *t, gen_words words, mr_err *err)
{
    const mri_cfg_generate *d = &t->c->generate;
    mri_session_options o = { .needs = MRI_NEED_TOKENIZER };
    mri_json *tools = NULL;
    mr_status st = 0;
    MR_TRY(prompts_open_chat(t->c, &t->chat, err));
    if (d->tools)
        MR_TRY(mri_json_read(d->tools, (size_t)1 << 28, &tools, err));
    t->tools = tools;
    if (d->messages)
        MR_TRY(mri_json_read(d->messages, (size_t)1 << 28, &t->messages, err));
    if (!t->messages)
        t->messages = json_array();
    if (d->system)
        json_array_insert_new(t->messages, 0,
                              json_pack("{s:s,s:s}", "role", "system", "content", d->system));
    MR_TRY(mri_session_open(t->a->registry, t->c, &o, &t->s, err));
    t->positions = d->max_seq > 0 ? d->max_seq : POSITIONS;
    if (t->positions > t->s->info.max_positions)
        t->positions = t->s->info.max_positions;
    mri_session_close(t->s);
    t->s = NULL;
    MR_TRY(generate_open(t->a, t->c, 1, t->positions, t->positions, 0, true, &t->s, err));
    MR_TRY(how_read(&t->how, t->s, words.v, words.n, err));
    t->how.c.show = show;
    t->how.c.stop = stop;
out:
    return st;
}

int generate_talk(app *a, const mri_config *c, gen_words words)
{
    mr_err err = MR_ERR_INIT;
    talk t = { .a = a, .c = c };
    char *line = NULL;
    size_t room = 0;
    ssize_t n;
    bool prompt = isatty(STDIN_FILENO) != 0;
    mr_status st = open_talk(&t, words, &err);
    while (!st) {
        if (prompt)
            fputs("> ", stderr);
        n = getline(&line, &room, stdin);
        if (n < 0)
            break;
        if (n && line[n - 1] == '\n')
            line[--n] = 0;
        json_t *m = n ? json_pack("{s:s,s:s}", "role", "user", "content", line) : NULL;
        if (n && !m)
            st = mr_fail(&err, MR_E_ARG, MR_BLAME_USER, "that line is not valid UTF-8");
        if (!m)
            continue;
        json_array_append_new(t.messages, m);
        st = answer(&t, &err);
    }
    free(line);
    how_free(&t.how);
    mri_chat_free(t.chat);
    json_decref(t.messages);
    json_decref(t.tools);
    mri_session_close(t.s);
    return st ? app_fail(a, &err) : EXIT_OK;
}
