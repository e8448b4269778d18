/* SPDX-License-Identifier: Apache-2.0
 *
 * engine.c - see engine.h. A step: waiting requests get slots and pages; each running one says how
 * many rows it takes; the rows are laid, run and read; ids are drawn and appended.
 */
#include "engine.h"
#include <stdlib.h>
#include <string.h>

typedef struct sequence {
    int64_t handle;
    int32_t *ids;       /* prompt, then what was drawn: n of at most `full` */
    int64_t n, full, prompt; /* prompt: how many of them it is */
    int64_t least;           /* ids of an answer before it may stop */
    int64_t cached;     /* ids whose keys and values are in the pages */
    int64_t slot;       /* -1: it waits */
    int64_t rows;       /* that it takes in this step */
    int64_t logits;     /* row of this step's logits, -1: none */
    mri_sampling how;
    int32_t *stop;
    int64_t n_stop, top;
    int32_t *image_rows; /* of the prompt, or NULL */
} sequence;

struct mri_engine {
    mri_session *s;
    MRI_VEC(sequence *) all; /* in the order in which they were added */
    bool *taken;             /* [slots] */
    int64_t handles;
    MRI_VEC(mri_token) out;  /* of the last step */
    MRI_VEC(mri_scored) top; /* theirs, one after the other */
};

mri_engine *mri_engine_create(mri_session *s)
{
    mri_engine *e = mri_alloc(sizeof *e);
    e->s = s;
    e->taken = mri_alloc((size_t)s->pages.slots * sizeof *e->taken);
    for (int64_t b = 0; b < s->pages.slots; b++)
        mri_pages_release(&s->pages, b);
    return e;
}

/* ---- requests ------------------------------------------------------------------------------- */

static void leave_slot(mri_engine *e, sequence *q)
{
    if (q->slot < 0)
        return;
    mri_pages_release(&e->s->pages, q->slot);
    e->taken[q->slot] = false;
    q->slot = -1;
    q->cached = q->rows = 0;
}

static void forget(mri_engine *e, size_t i)
{
    sequence *q = e->all.v[i];
    leave_slot(e, q);
    memmove(e->all.v + i, e->all.v + i + 1, (e->all.n - i - 1) * sizeof *e->all.v);
    e->all.n--;
    free(q->ids);
    free(q->stop);
    free(q->image_rows);
    free(q);
}

void mri_engine_free(mri_engine *e)
{
    if (!e)
        return;
    while (e->all.n)
        forget(e, e->all.n - 1);
    free(e->all.v);
    free(e->taken);
    free(e->out.v);
    free(e->top.v);
    free(e);
}

void mri_engine_cancel(mri_engine *e, int64_t handle)
{
    for (size_t i = 0; i < e->all.n; i++)
        if (e->all.v[i]->handle == handle) {
            forget(e, i);
            return;
        }
}

bool mri_engine_idle(const mri_engine *e)
{
    return !e->all.n;
}

/* The last id is never read, so it needs no position. */
static mr_status check_room(const mri_engine *e, const mri_request *r, mr_err *err)
{
    const mri_pages *g = &e->s->pages;
    int64_t most = e->s->decode->opt.max_seq;
    if (r->n_prompt < 1 || r->max_tokens < 1)
        return mr_fail(err, MR_E_ARG, MR_BLAME_USER,
                       "a request has %lld ids and asks for %lld; both must be 1 or more",
                       (long long)r->n_prompt, (long long)r->max_tokens);
    if (r->n_prompt > most || r->max_tokens - 1 > most - r->n_prompt) {
        mr_fail(err, MR_E_ARG, MR_BLAME_USER, "a prompt of %lld ids and %lld to write do not fit "
                "%lld positions", (long long)r->n_prompt, (long long)r->max_tokens,
                (long long)most);
        mr_hint(err, "a shorter prompt, fewer max_tokens, or a larger max_seq");
        return MR_E_ARG;
    }
    int64_t need = mri_pages_for(g, r->n_prompt + r->max_tokens - 1);
    if (need <= g->pages)
        return 0;
    mr_fail(err, MR_E_ARG, MR_BLAME_USER, "a prompt of %lld ids and %lld to write need %lld pages "
            "of %lld positions, the cache has %lld", (long long)r->n_prompt,
            (long long)r->max_tokens, (long long)need, (long long)g->page, (long long)g->pages);
    mr_hint(err, "a shorter prompt, fewer max_tokens, or a cache of more pages");
    return MR_E_ARG;
}

static mr_status check_rows(const mri_engine *e, const mri_request *r, mr_err *err)
{
    int64_t rows = e->s->pictures.tiles * e->s->info.image_tokens;
    for (int64_t i = 0; r->image_rows && i < r->n_prompt; i++)
        if (r->image_rows[i] < -1 || r->image_rows[i] >= rows)
            return mr_fail(err, MR_E_IMAGE_COUNT, MR_BLAME_USER, "id %lld of a prompt is row %d of "
                           "the pictures' features, which are %lld", (long long)i,
                           r->image_rows[i], (long long)rows);
    return 0;
}

mr_status mri_engine_add(mri_engine *e, const mri_request *r, int64_t *handle, mr_err *err)
{
    int64_t vocab = e->s->info.vocab;
    mr_status st = check_room(e, r, err);
    for (int64_t i = 0; i < r->n_prompt && !st; i++)
        if (r->prompt[i] < 0 || r->prompt[i] >= vocab)
            st = mr_fail(err, MR_E_ARG, MR_BLAME_USER,
                         "id %d at %lld is not below the vocabulary's %lld", r->prompt[i],
                         (long long)i, (long long)vocab);
    if (!st)
        st = check_rows(e, r, err);
    if (st)
        return st;
    sequence *q = mri_alloc(sizeof *q);
    *q = (sequence){ .handle = *handle = e->handles++, .n = r->n_prompt, .slot = -1,
                     .prompt = r->n_prompt, .full = r->n_prompt + r->max_tokens, .how = r->how,
                     .least = r->min_tokens, .n_stop = r->n_stop,
                     .top = r->top < vocab ? r->top : vocab };
    q->ids = mri_alloc((size_t)q->full * sizeof *q->ids);
    q->stop = mri_alloc((size_t)q->n_stop * sizeof *q->stop + 1);
    memcpy(q->ids, r->prompt, (size_t)q->n * sizeof *q->ids);
    if (q->n_stop)
        memcpy(q->stop, r->stop, (size_t)q->n_stop * sizeof *q->stop);
    if (r->image_rows) {
        q->image_rows = mri_alloc((size_t)q->n * sizeof *q->image_rows);
        memcpy(q->image_rows, r->image_rows, (size_t)q->n * sizeof *q->image_rows);
    }
    MRI_PUSH(&e->all, q);
    return 0;
}

/* ---- a step: who takes part ------------------------------------------------------------------ */

/* In order, and nobody overtakes: a request starts with the pages of all its ids. */
static void admit(mri_engine *e)
{
    for (size_t i = 0; i < e->all.n; i++) {
        sequence *q = e->all.v[i];
        int64_t b = 0;
        if (q->slot >= 0)
            continue;
        while (b < e->s->pages.slots && e->taken[b])
            b++;
        if (b == e->s->pages.slots || !mri_pages_reach(&e->s->pages, b, q->n))
            return;
        e->taken[b] = true;
        q->slot = b;
    }
}

/* Pages for all ids of sequence i, if need be those of the youngest; false: it was the youngest
 * itself. */
static bool make_room(mri_engine *e, size_t i)
{
    sequence *q = e->all.v[i];
    while (!mri_pages_reach(&e->s->pages, q->slot, q->n)) {
        size_t last = e->all.n - 1;
        while (e->all.v[last]->slot < 0)
            last--;
        leave_slot(e, e->all.v[last]);
        if (last == i)
            return false;
    }
    return true;
}

/* Experts whose ranks have sequences of their own want all of them in one call, of one shape. */
static bool in_step(const mri_engine *e)
{
    const mri_world *w = e->s->world;
    return !mri_world_alone(w) && w->mesh.tp * w->mesh.cp % (w->mesh.etp * w->mesh.ep);
}

/* Says how many rows each takes, and chooses the exec: writers one each, then readers in order. */
static mr_status share_rows(mri_engine *e, mri_rows **out, mr_err *err)
{
    int64_t writers = 0, readers = 0;
    for (size_t i = 0; i < e->all.n; i++) {
        sequence *q = e->all.v[i];
        if (q->slot < 0 || !make_room(e, i))
            continue;
        q->rows = q->n - q->cached;
        *(q->rows == 1 ? &writers : &readers) += 1;
    }
    bool reads = readers > 0;
    mr_status st = in_step(e) ? mri_world_any(e->s->world, &reads, err) : 0;
    mri_rows *r = *out = &e->s->rows[reads && e->s->prefill];
    int64_t left = r->room - writers;
    for (size_t i = 0; i < e->all.n; i++) {
        sequence *q = e->all.v[i];
        if (q->slot < 0 || q->rows == 1)
            continue;
        q->rows = q->rows < left ? q->rows : left;
        left -= q->rows;
    }
    return st;
}

static void lay_rows(mri_engine *e, mri_rows *r)
{
    for (size_t i = 0; i < e->all.n; i++) {
        sequence *q = e->all.v[i];
        int64_t end = q->cached + (q->slot < 0 ? 0 : q->rows);
        for (q->logits = -1; q->cached < end; q->cached++) {
            q->logits = mri_rows_add(r, q->ids[q->cached], q->cached, q->slot,
                                     q->cached == q->n - 1);
            if (q->image_rows && r->image_rows && q->cached < q->prompt)
                r->image_rows[r->n - 1] = q->image_rows[q->cached];
        }
    }
}

/* ---- a step: what comes of it ---------------------------------------------------------------- */

static void score(mri_engine *e, const sequence *q, const float *logits, mri_token *t)
{
    int64_t vocab = e->s->info.vocab;
    double lse = mri_log_sum_exp(logits, vocab);
    t->logprob = (float)((double)logits[t->id] - lse);
    t->n_top = q->top;
    for (int64_t i = 0; i < q->top; i++)
        MRI_PUSH(&e->top, ((mri_scored){ 0, 0 }));
    if (q->top)
        mri_likeliest(logits, vocab, lse, e->top.v + e->top.n - q->top, q->top);
}

/* How many of the ids that end it must not be drawn yet: all or none. */
static int64_t banned(const sequence *q)
{
    return q->n - q->prompt < q->least ? q->n_stop : 0;
}

/* Where nobody asks for more than the likeliest ids, these are all that leaves the device. */
static mr_status read_rows(mri_engine *e, mri_rows *r, bool *only_next, mr_err *err)
{
    *only_next = true;
    for (size_t i = 0; i < e->all.n; i++) {
        const sequence *q = e->all.v[i];
        *only_next &= q->logits < 0 ||
                      (mri_sampling_is_argmax(&q->how) && !banned(q) && q->top < 0);
    }
    return *only_next ? mri_rows_next(r, err) : mri_rows_read(r, err);
}

static void append(mri_engine *e, sequence *q, const mri_rows *r, bool only_next)
{
    int64_t vocab = e->s->info.vocab;
    const float *logits = r->logits + q->logits * mri_rows_vocab(r);
    mri_token t = { .request = q->handle, .position = q->n };
    mri_seen seen = { q->ids, q->prompt, q->n, q->stop, banned(q) };
    t.id = only_next ? r->next[q->logits]
                     : mri_sample_after(logits, vocab, &q->how, &seen, (uint64_t)q->n);
    if (q->top >= 0)
        score(e, q, logits, &t);
    q->ids[q->n++] = t.id;
    if (q->n == q->full)
        t.finish = MRI_FULL;
    for (int64_t i = 0; i < q->n_stop; i++)
        if (q->stop[i] == t.id)
            t.finish = MRI_STOPPED;
    MRI_PUSH(&e->out, t);
}

mr_status mri_engine_step(mri_engine *e, const mri_token **out, size_t *n, mr_err *err)
{
    mr_status st = 0;
    bool only_next = false;
    e->out.n = e->top.n = 0;
    admit(e);
    if (e->all.n || in_step(e)) {
        mri_rows *r;
        MR_TRY(share_rows(e, &r, err));
        MR_TRY(mri_rows_begin(r, err));
        lay_rows(e, r);
        MR_TRY(mri_rows_run(r, &e->s->pages, err));
        if (r->wanted)
            MR_TRY(read_rows(e, r, &only_next, err));
        for (size_t i = 0; i < e->all.n; i++)
            if (e->all.v[i]->logits >= 0)
                append(e, e->all.v[i], r, only_next);
    }
    for (size_t i = 0, at = 0; i < e->out.n; at += (size_t)e->out.v[i++].n_top) {
        e->out.v[i].top = e->top.v ? e->top.v + at : NULL;
        if (e->out.v[i].finish)
            mri_engine_cancel(e, e->out.v[i].request);
    }
out:
    for (size_t i = 0; st && i < e->all.n; i++)
        leave_slot(e, e->all.v[i]); /* what the pages hold is not known: they are read again */
    *out = e->out.v;
    *n = st ? 0 : e->out.n;
    return st;
}
