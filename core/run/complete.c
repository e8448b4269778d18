/* SPDX-License-Identifier: Apache-2.0
 * complete.c - see complete.h. */
#include "complete.h"
#include <stdlib.h>
#include <string.h>

typedef struct writer { /* one answer on its way */
    mri_text_stream text;
    mri_stop_stream words;
    mri_answer *to;
} writer;

typedef struct desk {
    const mri_completing *c;
    mri_engine *engine;
    writer *w;       /* one a prompt */
    int64_t *handle; /* of each that this rank answers */
    size_t *prompt;  /* which those are */
    size_t n;
} desk;

void mri_answer_free(mri_answer *a)
{
    free(a->ids.v);
    free(a->logprobs.v);
    free(a->top.v);
    mri_str_free(&a->text);
    memset(a, 0, sizeof *a);
}

static void write_text(desk *d, size_t i, mri_str *sure)
{
    if (sure->n) {
        mri_str_addn(&d->w[i].to->text, sure->s, sure->n);
        if (d->c->show)
            d->c->show(d->c->user, i, sure->s, sure->n);
    }
    mri_str_free(sure);
}

/* Text of an id, through the two streams that hold back what is not sure. */
static mr_status take_text(desk *d, size_t i, int32_t id, mr_err *err)
{
    writer *w = &d->w[i];
    mri_str whole = { 0 }, sure = { 0 };
    mr_status st = mri_text_next(&w->text, &id, 1, &whole, err);
    if (!st && whole.n && (int64_t)w->to->ids.n < d->c->min_tokens)
        mri_str_addn(&sure, whole.s, whole.n);
    else if (!st && whole.n)
        mri_stop_next(&w->words, whole.s, whole.n, &sure);
    mri_str_free(&whole);
    write_text(d, i, &sure);
    return st;
}

static void finish(desk *d, size_t i, enum mri_reason reason)
{
    writer *w = &d->w[i];
    mri_str rest = { 0 }, sure = { 0 };
    w->to->reason = reason;
    w->to->word = w->words.hit;
    w->to->done = true;
    mri_text_end(&w->text, &rest); /* bytes that were no character after all */
    if (rest.n)
        mri_stop_next(&w->words, rest.s, rest.n, &sure);
    mri_stop_end(&w->words, &sure);
    mri_str_free(&rest);
    write_text(d, i, &sure);
}

static size_t whose(const desk *d, int64_t handle) /* handles rise */
{
    size_t lo = 0, hi = d->n;
    while (hi - lo > 1) {
        size_t mid = lo + (hi - lo) / 2;
        if (d->handle[mid] <= handle)
            lo = mid;
        else
            hi = mid;
    }
    return d->prompt[lo];
}

static mr_status take(desk *d, const mri_token *t, mr_err *err)
{
    size_t i = whose(d, t->request);
    mri_answer *a = d->w[i].to;
    mr_status st = 0;
    MRI_PUSH(&a->ids, t->id);
    if (d->c->top >= 0)
        MRI_PUSH(&a->logprobs, t->logprob);
    a->n_top = t->n_top;
    for (int64_t k = 0; k < t->n_top; k++)
        MRI_PUSH(&a->top, t->top[k]);
    if (t->finish != MRI_STOPPED && d->w[i].text.ops)
        st = take_text(d, i, t->id, err); /* what an id that ends it reads as is not shown */
    if (!st && d->w[i].words.hit) {
        mri_engine_cancel(d->engine, t->request);
        finish(d, i, MRI_BY_WORD);
    } else if (!st && t->finish) {
        finish(d, i, t->finish == MRI_STOPPED ? MRI_BY_ID : MRI_BY_LENGTH);
    }
    return st;
}

static mr_status add(desk *d, const mri_wish *wish, int64_t *handle, mr_err *err)
{
    const mri_completing *c = d->c;
    mri_request r = { .prompt = wish->ids, .n_prompt = wish->n, .max_tokens = c->max_tokens,
                      .how = c->how, .stop = c->stop_ids, .n_stop = c->n_stop_ids, .top = c->top,
                      .min_tokens = c->min_tokens, .image_rows = wish->image_rows };
    r.how.seed = wish->seed;
    if (wish->max_tokens > 0)
        r.max_tokens = wish->max_tokens;
    return mri_engine_add(d->engine, &r, handle, err);
}

/* Until all ranks are idle, or any is told to stop. */
static mr_status goes_on(mri_session *s, const desk *d, bool *on, mr_err *err)
{
    bool busy = !mri_engine_idle(d->engine), stop = d->c->stop && d->c->stop(d->c->user);
    mr_status st = mri_world_any(s->world, &busy, err);
    st = st ? st : mri_world_any(s->world, &stop, err);
    *on = busy && !stop;
    return st;
}

mr_status mri_complete(mri_session *s, const mr_tokenizer_ops *ops, void *tok,
                       const mri_completing *c, const mri_wish *wishes, size_t n, mri_answer *out,
                       mr_err *err)
{
    desk d = { .c = c, .engine = mri_engine_create(s) };
    size_t replicas = s->world ? s->world->mesh.dp : 1, own = s->world ? s->world->mesh.i_dp : 0;
    mr_status st = 0;
    bool on;
    d.w = mri_alloc(n * sizeof *d.w + 1);
    d.handle = mri_alloc(n * sizeof *d.handle + 1);
    d.prompt = mri_alloc(n * sizeof *d.prompt + 1);
    for (size_t i = own; i < n; i += replicas) {
        d.w[i] = (writer){ { ops, tok, "", 0 }, { c->stop_words, c->n_stop_words, { 0 }, NULL },
                           &out[i] };
        d.prompt[d.n] = i;
        MR_TRY(add(&d, &wishes[i], &d.handle[d.n++], err));
    }
    for (;;) {
        const mri_token *t;
        size_t got;
        MR_TRY(goes_on(s, &d, &on, err));
        if (!on)
            break;
        MR_TRY(mri_engine_step(d.engine, &t, &got, err));
        for (size_t k = 0; k < got; k++)
            MR_TRY(take(&d, &t[k], err));
    }
    for (size_t i = own; i < n; i += replicas)
        if (!out[i].done)
            finish(&d, i, MRI_BY_CALLER);
    MR_TRY(mri_answers_gather(s->world, c, out, n, err));
out:
    for (size_t i = 0; i < n; i++)
        mri_stop_free(&d.w[i].words);
    mri_engine_free(d.engine);
    free(d.w);
    free(d.handle);
    free(d.prompt);
    return st;
}
