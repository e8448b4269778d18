/* SPDX-License-Identifier: Apache-2.0
 * generate_run.c - see generate_run.h. */
#include "generate_run.h"
#include "model_args.h"
#include <jansson.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

/* ---- being interrupted ----------------------------------------------------------------------- */
static volatile sig_atomic_t interrupted;

static void on_signal(int n)
{
    (void)n;
    interrupted = 1;
}

void generate_catch_signals(void)
{
    struct sigaction sa = { .sa_handler = on_signal, .sa_flags = SA_RESETHAND };
    interrupted = 0;
    sigaction(SIGINT, &sa, NULL);
}

bool generate_interrupted(void)
{
    return interrupted != 0;
}

/* ---- a session of the right size ------------------------------------------------------------- */
mr_status generate_open(app *a, const mri_config *c, int64_t slots, int64_t positions,
                        int64_t piece, int64_t tiles, bool tokenizer, mri_session **out,
                        mr_err *err)
{
    mri_session_options o = {
        .needs = MRI_NEED_DECODE | (tokenizer ? MRI_NEED_TOKENIZER : 0), .slots = slots,
        .max_seq = positions, .images = tiles, .world = a->world,
        .prefill_tokens = piece < 64 ? 64 : piece > 512 ? 512 : piece };
    mr_status st = mri_session_open(a->registry, c, &o, out, err);
    return st ? st : app_model_weights(*out, err);
}

mr_status generate_room(const mri_config *c, const mri_completing *how, int64_t context,
                        const char *where, int64_t n, int64_t *max_tokens, mr_err *err)
{
    int64_t most = c->generate.max_seq > 0 && c->generate.max_seq < context ? c->generate.max_seq
                                                                            : context;
    *max_tokens = how->max_tokens;
    if (how->max_tokens <= most - n)
        return 0;
    *max_tokens = most - n;
    if (*max_tokens > 0 && !how_was_set(c, "max_tokens"))
        return 0; /* as many as there is room for */
    mr_fail(err, MR_E_ARG, MR_BLAME_USER, "%s: a prompt of %lld tokens and %lld to write do not "
            "fit %s %lld", where, (long long)n, (long long)how->max_tokens,
            most < context ? "[generate] max_seq =" : "the model's context of", (long long)most);
    mr_hint(err, *max_tokens > 0 ? "--max-tokens %lld at most" : "a shorter prompt",
            (long long)*max_tokens);
    return MR_E_ARG;
}

/* ---- what is written ------------------------------------------------------------------------- */
typedef struct run {
    app *a;
    const mri_config *c;
    gen_prompts prompts;
    gen_how how;
    mri_session *s;
    bool text;            /* there is a tokenizer */
    bool stream, lines;   /* text as it is made; JSON lines */
    float *pixels;        /* of all prompts' pictures */
    size_t n;             /* answers: prompts times [generate] n */
    mri_wish *wishes;
    mri_answer *answers;
    double start, first;  /* first: when the first token was there; 0: not yet */
} run;

static const char *reason_text(const mri_answer *a)
{
    static const char *const words[] = { "length", "stop", "stop", "interrupted" };
    return words[a->reason];
}

static json_t *ids_json(const int32_t *ids, size_t n)
{
    json_t *out = json_array();
    for (size_t i = 0; i < n; i++)
        json_array_append_new(out, json_integer(ids[i]));
    return out;
}

static json_t *real(float x) /* JSON has no infinity: a token that could not be */
{
    return x >= -3e38f && x <= 3e38f ? json_real((double)x) : json_null();
}

static json_t *top_json(const mri_answer *a)
{
    json_t *out = json_array();
    for (size_t i = 0; i < a->ids.n; i++) {
        json_t *row = json_array();
        for (int64_t k = 0; k < a->n_top; k++) {
            const mri_scored *t = &a->top.v[i * (size_t)a->n_top + (size_t)k];
            json_array_append_new(row, json_pack("[i,o]", t->id, real(t->logprob)));
        }
        json_array_append_new(out, row);
    }
    return out;
}

/* Bytes that are no UTF-8 become U+FFFD: JSON is text. */
static json_t *text_json(const mri_str *text)
{
    mri_str b = { 0 };
    const char *s = text->s ? text->s : "";
    for (size_t i = 0; i < text->n;) {
        size_t n = 1;
        unsigned char c = (unsigned char)s[i];
        size_t want = c < 0x80 ? 1 : c < 0xc2 ? 0 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : c < 0xf5 ? 4 : 0;
        json_t *one = want && want <= text->n - i ? json_stringn(s + i, want) : NULL;
        if (one) {
            n = want;
            mri_str_addn(&b, s + i, n);
        } else {
            mri_str_add(&b, "\xef\xbf\xbd");
        }
        json_decref(one);
        i += n;
    }
    json_t *out = json_stringn(b.s ? b.s : "", b.n);
    mri_str_free(&b);
    return out;
}

static void print_line(const run *r, size_t i)
{
    const mri_answer *a = &r->answers[i];
    json_t *o = json_object();
    if (r->c->generate.n > 1) {
        json_object_set_new(o, "prompt", json_integer((json_int_t)i / r->c->generate.n));
        json_object_set_new(o, "sample", json_integer((json_int_t)i % r->c->generate.n));
    }
    json_object_set_new(o, "ids", ids_json(a->ids.v, a->ids.n));
    if (r->text)
        json_object_set_new(o, "text", text_json(&a->text));
    json_object_set_new(o, "finish_reason", json_string(reason_text(a)));
    if (a->word)
        json_object_set_new(o, "stop", json_string(a->word));
    if (r->how.c.top >= 0) {
        json_t *p = json_array();
        for (size_t k = 0; k < a->logprobs.n; k++)
            json_array_append_new(p, real(a->logprobs.v[k]));
        json_object_set_new(o, "logprobs", p);
    }
    if (r->how.c.top > 0)
        json_object_set_new(o, "top_logprobs", top_json(a));
    json_dumpf(o, stdout, JSON_COMPACT | JSON_REAL_PRECISION(9));
    putchar('\n');
    json_decref(o);
}

static void show(void *user, MR_UNUSED size_t i, const char *text, size_t n)
{
    MR_UNUSED run *r = user;
    fwrite(text, 1, n, stdout);
    fflush(stdout);
}

static bool stop(void *user)
{
    run *r = user;
    for (size_t i = 0; i < r->n && r->first == 0; i++)
        if (r->answers[i].ids.n)
            r->first = app_now();
    return interrupted != 0;
}

/* A prompt goes before its answer, as its tokens read (with placeholders where it has pictures); a
 * chat's does not, and ids stay ids. */
static mr_status echo(const run *r, size_t i, mr_err *err)
{
    const gen_prompt *g = &r->prompts.all.v[i / (size_t)r->c->generate.n];
    mri_text_stream t = { r->s->tok_ops, r->s->tok, "", 0 };
    mri_str text = { 0 };
    mr_status st = 0;
    if (g->text && !g->rendered && g->pictures.tiles) {
        fwrite(g->text, 1, g->text_n, stdout);
    } else if (g->text && !g->rendered) {
        st = mri_text_next(&t, g->ids, g->n, &text, err);
        mri_text_end(&t, &text);
        fwrite(text.s ? text.s : "", 1, text.n, stdout);
        fflush(stdout);
    }
    mri_str_free(&text);
    return st;
}

static void print_ids(const mri_answer *a)
{
    for (size_t i = 0; i < a->ids.n; i++)
        printf("%s%d", i ? " " : "", a->ids.v[i]);
    putchar('\n');
}

static mr_status print_answers(const run *r, mr_err *err)
{
    mr_status st = 0;
    for (size_t i = 0; i < r->n && !st; i++) {
        const mri_answer *a = &r->answers[i];
        if (r->lines) {
            print_line(r, i);
        } else if (!r->prompts.all.v[i / (size_t)r->c->generate.n].text) {
            print_ids(a);
        } else {
            if (!r->stream) {
                st = echo(r, i, err);
                fwrite(a->text.s ? a->text.s : "", 1, a->text.n, stdout);
            }
            putchar('\n');
        }
    }
    return st;
}

static void print_figures(const run *r)
{
    double end = app_now();
    uint64_t read = 0, wrote = 0;
    for (size_t i = 0; i < r->n; i++) {
        read += (uint64_t)r->wishes[i].n;
        wrote += r->answers[i].ids.n;
    }
    if (r->n == 1 && wrote > 1 && r->first > 0)
        fprintf(stderr,
                "mrun: prefill %llu tokens at %.1f tokens/s, decode %llu at %.1f tokens/s\n",
                (unsigned long long)read, (double)read / (r->first - r->start),
                (unsigned long long)wrote, (double)(wrote - 1) / (end - r->first));
    else if (r->n > 1)
        fprintf(stderr, "mrun: %zu answers: read %llu tokens, wrote %llu, %.1f tokens/s in all\n",
                r->n, (unsigned long long)read, (unsigned long long)wrote,
                (double)(read + wrote) / (end - r->start));
}

/* ---- the job --------------------------------------------------------------------------------- */

/* Prompts to ids with a session that has no execs, and from their lengths the one that runs. */
static mr_status prepare(run *r, gen_words words, mr_err *err)
{
    const mri_cfg_generate *d = &r->c->generate;
    mri_session_options o = { .needs = r->text ? MRI_NEED_TOKENIZER : 0, .world = r->a->world };
    int64_t longest = 0, room = 0, slots, tiles;
    mr_status st = 0;
    MR_TRY(mri_session_open(r->a->registry, r->c, &o, &r->s, err));
    MR_TRY(prompts_resolve(&r->prompts, r->s, r->c, err));
    MR_TRY(how_read(&r->how, r->s, words.v, words.n, err));
    r->n = r->prompts.all.n * (size_t)d->n;
    r->wishes = mri_alloc(r->n * sizeof *r->wishes);
    r->answers = mri_alloc(r->n * sizeof *r->answers);
    for (size_t i = 0; i < r->n; i++) {
        const gen_prompt *g = &r->prompts.all.v[i / (size_t)d->n];
        mri_wish *w = &r->wishes[i];
        *w = (mri_wish){ g->ids, (int64_t)g->n, (uint64_t)d->seed + i % (size_t)d->n, 0,
                         g->image_rows };
        MR_TRY(generate_room(r->c, &r->how.c, r->s->info.max_positions, g->where, w->n,
                             &w->max_tokens, err));
        longest = w->n > longest ? w->n : longest;
        room = w->n + w->max_tokens > room ? w->n + w->max_tokens : room;
    }
    r->pixels = prompts_pixels(&r->prompts, r->s->info.image_size, &tiles);
    mri_session_close(r->s);
    r->s = NULL;
    size_t replicas = r->a->world ? r->a->world->mesh.dp : 1;
    slots = (int64_t)((r->n + replicas - 1) / replicas); /* of this rank's answers */
    slots = slots < d->batch ? slots : d->batch;
    MR_TRY(generate_open(r->a, r->c, slots, d->max_seq > 0 ? d->max_seq : room, longest, tiles,
                         r->text, &r->s, err));
    if (tiles)
        MR_TRY(mri_session_pictures(r->s, r->pixels, tiles, err));
out:
    return st;
}

/* A folder without tokenizer files serves ids; the tokenizer of bytes is not its own. */
static bool wants_tokenizer(const mri_config *c, const gen_prompts *p, gen_words words)
{
    const mri_entry *e = mri_profile_get(c->profile, "tokenizer", "plugin");
    bool own = !c->model.hf || (e && strcmp(e->origin.how, "default"));
    return prompts_have_text(p) || words.n || c->generate.stop.n || own;
}

int generate_run(app *a, const mri_config *c, gen_words words)
{
    mr_err err = MR_ERR_INIT;
    run r = { .a = a, .c = c };
    bool first = mri_world_first(a->world), stopped = false;
    mr_status st = 0;
    MR_TRY(prompts_gather(&r.prompts, c, words.pictures, &err));
    r.text = wants_tokenizer(c, &r.prompts, words);
    r.lines = a->json || c->generate.jsonl || c->generate.logprobs >= 0;
    MR_TRY(prepare(&r, words, &err));
    r.stream = !r.lines && r.n == 1 && r.prompts.all.v[0].text && first;
    r.how.c.user = &r;
    r.how.c.show = r.stream ? show : NULL;
    r.how.c.stop = stop;
    if (first || !mri_world_threads(a->world))
        generate_catch_signals();
    if (r.stream)
        MR_TRY(echo(&r, 0, &err));
    r.start = app_now();
    MR_TRY(mri_complete(r.s, r.text ? r.s->tok_ops : NULL, r.s->tok, &r.how.c, r.wishes, r.n,
                        r.answers, &err));
    for (size_t i = 0; i < r.n; i++) /* some may have ended before */
        stopped |= r.answers[i].reason == MRI_BY_CALLER;
    if (first)
        MR_TRY(print_answers(&r, &err));
    if (first && !a->quiet)
        print_figures(&r);
out:
    st = st ? mri_world_fail(a->world, st, &err) : mri_world_agree(a->world, 0, &err);
    for (size_t i = 0; i < r.n && r.answers; i++)
        mri_answer_free(&r.answers[i]);
    free(r.answers);
    free(r.wishes);
    how_free(&r.how);
    prompts_free(&r.prompts);
    mri_session_close(r.s);
    free(r.pixels);
    return st ? app_fail(a, &err) : stopped ? EXIT_INT : EXIT_OK;
}
