/* SPDX-License-Identifier: Apache-2.0
 * generate_how.c - see generate_how.h. */
#include "generate_how.h"
#include "core/run/gen_config.h"
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

bool how_was_set(const mri_config *c, const char *key)
{
    const mri_entry *e = mri_profile_get(c->profile, "generate", key);
    return e && strcmp(e->origin.how, "default");
}

static mr_status read_ids(gen_how *h, const mr_list *list, mr_err *err)
{
    for (uint64_t i = 0; i < list->n; i++) {
        char *end;
        long v = strtol(list->v[i], &end, 10);
        if (end == list->v[i] || *end || v < 0 || v > INT32_MAX)
            return mr_fail(err, MR_E_ARG, MR_BLAME_USER, "stop_ids: '%.40s' is no id", list->v[i]);
        MRI_PUSH(&h->ids, (int32_t)v);
    }
    return 0;
}

static mr_status read_bias(gen_how *h, const mr_list *list, mr_err *err)
{
    for (uint64_t i = 0; i < list->n; i++) {
        char *colon, *end = NULL;
        long id = strtol(list->v[i], &colon, 10);
        double x = *colon == ':' ? strtod(colon + 1, &end) : NAN;
        if (colon == list->v[i] || !end || end == colon + 1 || *end || id < 0 || id > INT32_MAX ||
            isnan(x)) {
            mr_fail(err, MR_E_ARG, MR_BLAME_USER, "logit_bias: '%.40s' is no ID:X", list->v[i]);
            mr_hint(err, "\"17:-2.5, 42:1\" takes 2.5 off the logit of 17 and adds 1 to 42's");
            return MR_E_ARG;
        }
        MRI_PUSH(&h->bias, ((mri_bias){ (int32_t)id, (float)x }));
    }
    return 0;
}

/* A profile's lines end with the line: \n, \t and \\ are written out. */
static char *unescaped(const char *s)
{
    mri_str b = { 0 };
    for (; *s; s++) {
        char c = *s == '\\' ? s[1] : 0;
        bool known = c == 'n' || c == 't' || c == '\\';
        const char *x = c == 'n' ? "\n" : c == 't' ? "\t" : "\\";
        mri_str_addn(&b, known ? x : s, 1);
        s += known;
    }
    return mri_str_take(&b);
}

static mr_status read_words(gen_how *h, const mr_list *list, const char *const *words, size_t n,
                            mr_err *err)
{
    for (uint64_t i = 0; i < list->n; i++)
        MRI_PUSH(&h->words, unescaped(list->v[i]));
    for (size_t i = 0; i < n; i++)
        MRI_PUSH(&h->words, mri_strdup(words[i]));
    for (size_t i = 0; i < h->words.n; i++)
        if (!*h->words.v[i])
            return mr_fail(err, MR_E_ARG, MR_BLAME_USER, "a stop text is empty");
    return 0;
}

/* What the folder asks for holds where nobody said otherwise. */
static void apply_folder(mri_completing *o, const mri_gen_config *g, const mri_config *c)
{
    const struct {
        const char *key;
        bool has;
        double from;
        double *to;
    } rows[] = {
        { "temperature", g->has_temperature, g->temperature, &o->how.temperature },
        { "top_p", g->has_top_p, g->top_p, &o->how.top_p },
        { "min_p", g->has_min_p, g->min_p, &o->how.min_p },
        { "repetition_penalty", g->has_repetition, g->repetition, &o->how.repetition_penalty },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (rows[i].has && !how_was_set(c, rows[i].key))
            *rows[i].to = rows[i].from;
    if (g->has_top_k && !how_was_set(c, "top_k"))
        o->how.top_k = g->top_k;
    if (g->has_max && !how_was_set(c, "max_tokens"))
        o->max_tokens = g->max_tokens;
    if (g->has_min && !how_was_set(c, "min_tokens"))
        o->min_tokens = g->min_tokens;
}

static mr_status check_ids(const gen_how *h, int64_t vocab, mr_err *err)
{
    for (size_t i = 0; i < h->bias.n; i++)
        if (h->bias.v[i].id >= vocab)
            return mr_fail(err, MR_E_ARG, MR_BLAME_USER, "logit_bias: %d is no id below the "
                           "vocabulary's %lld", h->bias.v[i].id, (long long)vocab);
    return 0;
}

mr_status how_read(gen_how *h, const mri_session *s, const char *const *words, size_t n,
                   mr_err *err)
{
    const mri_config *c = s->config;
    const mri_cfg_generate *d = &c->generate;
    mri_gen_config g = { 0 };
    mr_status st = 0;
    memset(h, 0, sizeof *h);
    h->c = (mri_completing){
        .how = { d->temperature, d->top_k, d->top_p, (uint64_t)d->seed, d->min_p,
                 d->repetition_penalty, d->presence_penalty, d->frequency_penalty, NULL, 0 },
        .max_tokens = d->max_tokens, .min_tokens = d->min_tokens, .top = d->logprobs };
    if (c->model.hf)
        MR_TRY(mri_gen_config_read(c->model.hf, &g, err));
    apply_folder(&h->c, &g, c);
    MR_TRY(read_ids(h, &d->stop_ids, err));
    for (size_t i = 0; i < g.eos.n && !d->ignore_eos; i++)
        MRI_PUSH(&h->ids, g.eos.v[i]);
    if (!g.eos.n && s->tok && s->tok_info.eos >= 0 && !d->ignore_eos)
        MRI_PUSH(&h->ids, s->tok_info.eos);
    MR_TRY(read_bias(h, &d->logit_bias, err));
    MR_TRY(check_ids(h, s->info.vocab, err));
    MR_TRY(read_words(h, &d->stop, words, n, err));
    if (h->words.n && !s->tok) {
        st = mr_fail(err, MR_E_ARG, MR_BLAME_USER, "there are stop texts, but no tokenizer to read "
                                                   "answers with");
        goto out;
    }
    if (h->c.max_tokens < h->c.min_tokens)
        st = mr_fail(err, MR_E_ARG, MR_BLAME_USER, "max_tokens = %lld is below min_tokens = %lld",
                     (long long)h->c.max_tokens, (long long)h->c.min_tokens);
    h->c.how.bias = h->bias.v;
    h->c.how.n_bias = (int64_t)h->bias.n;
    h->c.stop_ids = h->ids.v;
    h->c.n_stop_ids = (int64_t)h->ids.n;
    h->c.stop_words = (const char *const *)h->words.v;
    h->c.n_stop_words = h->words.n;
out:
    mri_gen_config_free(&g);
    return st;
}

void how_free(gen_how *h)
{
    for (size_t i = 0; i < h->words.n; i++)
        free(h->words.v[i]);
    free(h->words.v);
    free(h->ids.v);
    free(h->bias.v);
    memset(h, 0, sizeof *h);
}
