/* SPDX-License-Identifier: Apache-2.0
 * schedule.c - see schedule.h. */
#include "schedule.h"
#include <stdlib.h>
#include <string.h>

static void add(mri_schedule *s, uint8_t kind, uint32_t instance, uint32_t mb)
{
    mri_item it = { .instance = instance, .micro_batch = mb, .kind = kind };
    MRI_PUSH(&s->items, it);
}

void mri_schedule_single(mri_schedule *s, uint32_t instances, uint32_t micro_batches, bool split_w)
{
    memset(s, 0, sizeof *s);
    s->instances = instances;
    s->micro_batches = micro_batches;
    s->chunks = 1;
    s->split_w = split_w;
    add(s, MRI_ITEM_ZERO, 0, 0);
    for (uint32_t m = 0; m < micro_batches; m++) {
        add(s, MRI_ITEM_LOAD, 0, m);
        for (uint32_t i = 0; i < instances; i++)
            add(s, MRI_ITEM_F, i, m);
        for (uint32_t i = instances; i-- > 0;)
            add(s, MRI_ITEM_B, i, m);
        for (uint32_t i = instances; split_w && i-- > 0;)
            add(s, MRI_ITEM_W, i, m);
        add(s, MRI_ITEM_LOSS, 0, m);
    }
    add(s, MRI_ITEM_UPDATE, 0, 0);
}

/* ---- a stage ------------------------------------------------------------------------------- */

typedef struct stage_of {
    mri_schedule *s;
    const mri_task *t;
} stage_of;

static void put(const stage_of *x, uint8_t kind, uint32_t instance)
{
    mri_item it = { .instance = instance, .micro_batch = x->t->micro, .slot = x->t->slot,
                    .chunk = x->t->chunk, .kind = kind };
    MRI_PUSH(&x->s->items, it);
}

/* F waits for what it reads, and for what the slot's last micro-batch, maybe of another chunk,
 * still sends; B for the gradients that it reads. */
static void put_waits(const stage_of *x)
{
    uint8_t task = x->t->kind;
    for (uint32_t i = 0; i < x->s->instances; i++) {
        const mri_block *b = &x->s->blocks.v[i];
        bool gradient = task == MRI_TASK_B && b->border == MRI_BORDER_OUT &&
                        b->chunk == x->t->chunk;
        if (b->border && (task == MRI_TASK_F || gradient))
            put(x, MRI_ITEM_WAIT, i);
    }
    if (task != MRI_TASK_W)
        put(x, task == MRI_TASK_F ? MRI_ITEM_LOAD : MRI_ITEM_SEED, 0);
}

static void put_task(const stage_of *x)
{
    static const uint8_t kind[] = { MRI_ITEM_F, MRI_ITEM_B, MRI_ITEM_W };
    uint8_t task = x->t->kind;
    uint32_t n = x->s->instances;
    put_waits(x);
    for (uint32_t k = 0; k < n; k++) {
        uint32_t i = task == MRI_TASK_F ? k : n - 1 - k;
        if (x->s->blocks.v[i].chunk == x->t->chunk && !x->s->blocks.v[i].border)
            put(x, kind[task], i);
    }
    if (task == MRI_TASK_F)
        put(x, MRI_ITEM_LOSS, 0);
}

/* A forward and the backward behind it. */
static void put_pair(mri_schedule *s, const mri_task *t)
{
    const stage_of f = { s, t }, b = { s, t + 1 };
    mri_item x = { .micro_batch = t[0].micro, .slot = t[0].slot, .chunk = t[0].chunk };
    mri_item y = { .micro_batch = t[1].micro, .slot = t[1].slot, .chunk = t[1].chunk };
    put_waits(&f);
    put_waits(&b);
    mri_schedule_zip(s, &x, &y);
    put(&f, MRI_ITEM_LOSS, 0);
}

/* The border of the message, in its micro-batch's slot. */
static void put_message(mri_schedule *s, const mri_pipeline *p, uint32_t stage,
                        const mri_message *g)
{
    bool sends = g->from == stage;
    uint8_t border = sends == !g->back ? MRI_BORDER_OUT : MRI_BORDER_IN;
    stage_of x = { s, &p->stage[stage].v[sends ? g->after : g->before] };
    for (uint32_t i = 0; i < s->instances; i++)
        if (s->blocks.v[i].border == border && s->blocks.v[i].link == g->link)
            put(&x, sends ? MRI_ITEM_SEND : MRI_ITEM_RECEIVE, i);
}

void mri_schedule_stage(mri_schedule *s, const mri_pipeline *p, uint32_t stage,
                        const mri_block *blocks, const mri_seams *seams, uint32_t instances,
                        bool ties)
{
    size_t m = 0;
    memset(s, 0, sizeof *s);
    s->instances = instances;
    s->micro_batches = p->o.micros;
    s->chunks = p->o.chunks;
    s->split_w = p->o.split_w;
    for (uint32_t i = 0; i < instances; i++)
        MRI_PUSH(&s->blocks, blocks[i]);
    for (uint32_t i = 0; seams && i < instances; i++)
        MRI_PUSH(&s->seams, seams[i]);
    add(s, MRI_ITEM_ZERO, 0, 0);
    for (uint32_t i = 0; i <= p->stage[stage].n; i++) {
        const mri_task *t = i < p->stage[stage].n ? &p->stage[stage].v[i] : NULL;
        for (; m < p->messages.n; m++) {
            const mri_message *g = &p->messages.v[m];
            uint32_t place = g->from == stage ? g->sent : g->posted;
            if (g->from != stage && g->to != stage)
                continue;
            if (place > i)
                break;
            put_message(s, p, stage, g);
        }
        if (t && t->pair)
            put_pair(s, t);
        else if (t)
            put_task(&(stage_of){ s, t });
        i += t && t->pair; /* both were put */
    }
    if (ties)
        add(s, MRI_ITEM_TIES, 0, 0);
    add(s, MRI_ITEM_UPDATE, 0, 0);
}

void mri_schedule_free(mri_schedule *s)
{
    free(s->items.v);
    free(s->blocks.v);
    free(s->seams.v);
    memset(s, 0, sizeof *s);
}

/* ---- verifying ----------------------------------------------------------------------------- */

/* progress of one (micro-batch, instance): bits of kinds already seen */
enum { SEEN_F = 2, SEEN_B = 4, SEEN_W = 8 };

typedef struct checker {
    const mri_schedule *s;
    uint8_t *seen, *loaded; /* [micro-batch][instance]; [micro-batch][chunk], slots beside it */
    uint32_t *slot;
    size_t n[3]; /* F, B, W */
    mri_item open[2]; /* the block of F, of B that is cut open; pieces 0: none */
} checker;

static mri_block block_at(const mri_schedule *s, uint32_t i)
{
    return s->blocks.n ? s->blocks.v[i] : (mri_block){ 0 };
}

/* The next instance of i's chunk that has work, towards `step`; -1: none. */
static int64_t neighbour(const mri_schedule *s, uint32_t i, int step)
{
    for (int64_t k = (int64_t)i + step; k >= 0 && k < s->instances; k += step)
        if (!block_at(s, (uint32_t)k).border)
            return block_at(s, (uint32_t)k).chunk == block_at(s, i).chunk ? k : -1;
    return -1;
}

/* A piece of a block: the first finds none open, each later one the one before it; *done: the block
 * is whole. */
static bool piece_good(checker *c, const mri_item *it, bool *done)
{
    mri_item *open = &c->open[it->kind == MRI_ITEM_B];
    bool first = !it->pieces || !it->piece;
    bool good = first ? !open->pieces
                      : open->pieces == it->pieces && open->piece + 1 == it->piece &&
                            open->instance == it->instance &&
                            open->micro_batch == it->micro_batch;
    *done = !it->pieces || it->piece + 1 == it->pieces;
    *open = *it;
    open->pieces = *done ? 0 : it->pieces;
    return good && (!it->pieces || it->piece < it->pieces);
}

static bool block_good(checker *c, const mri_item *it)
{
    const mri_schedule *s = c->s;
    bool done = true;
    if (it->kind != MRI_ITEM_W && !piece_good(c, it, &done))
        return false;
    uint8_t *at = c->seen + (size_t)it->micro_batch * s->instances;
    uint32_t i = it->instance;
    size_t cell = (size_t)it->micro_batch * s->chunks + it->chunk;
    int64_t before = neighbour(s, i, -1), after = neighbour(s, i, 1);
    uint8_t old = at[i];
    if (block_at(s, i).border || block_at(s, i).chunk != it->chunk || !c->loaded[cell] ||
        c->slot[cell] != it->slot)
        return false;
    switch (it->kind) {
    case MRI_ITEM_F:
        at[i] |= done ? SEEN_F : 0;
        c->n[0] += done;
        return !old && (before < 0 || at[before] & SEEN_F);
    case MRI_ITEM_B:
        at[i] |= done ? SEEN_B : 0;
        c->n[1] += done;
        return old == SEEN_F && (after < 0 || at[after] & SEEN_B);
    }
    at[i] |= SEEN_W;
    c->n[2]++;
    return old == (SEEN_F | SEEN_B) && s->split_w;
}

static bool item_good(checker *c, size_t k)
{
    const mri_schedule *s = c->s;
    const mri_item *it = &s->items.v[k];
    if (it->micro_batch >= s->micro_batches || it->instance >= s->instances ||
        it->chunk >= s->chunks)
        return false;
    size_t cell = (size_t)it->micro_batch * s->chunks + it->chunk;
    switch (it->kind) {
    case MRI_ITEM_LOAD:
        c->loaded[cell]++;
        c->slot[cell] = it->slot;
        return c->loaded[cell] == 1;
    case MRI_ITEM_F:
    case MRI_ITEM_B:
    case MRI_ITEM_W: return block_good(c, it);
    case MRI_ITEM_SEED:
    case MRI_ITEM_LOSS: return c->loaded[cell] == 1;
    case MRI_ITEM_SEND:
    case MRI_ITEM_RECEIVE:
    case MRI_ITEM_WAIT: return block_at(s, it->instance).border != MRI_BORDER_NONE;
    case MRI_ITEM_ZERO: return k == 0;
    case MRI_ITEM_TIES: return k + 2 == s->items.n;
    case MRI_ITEM_UPDATE: return k + 1 == s->items.n;
    }
    return false;
}

mr_status mri_schedule_verify(const mri_schedule *s, mr_err *err)
{
    checker c = { .s = s };
    uint32_t working = 0;
    mr_status st = 0;
    for (uint32_t i = 0; i < s->instances; i++)
        working += !block_at(s, i).border;
    size_t cells = (size_t)working * s->micro_batches, pairs = (size_t)s->chunks * s->micro_batches;
    c.seen = mri_alloc((size_t)s->instances * s->micro_batches + 1);
    c.loaded = mri_alloc(pairs + 1);
    c.slot = mri_alloc((pairs + 1) * sizeof *c.slot);
    for (size_t k = 0; k < s->items.n && !st; k++) {
        const mri_item *it = &s->items.v[k];
        if (!item_good(&c, k))
            st = mr_fail(err, MR_E_PLAN_VERIFY, MR_BLAME_HOST,
                         "schedule: item %zu (kind %u, instance %u, micro-batch %u) is out of order",
                         k, it->kind, it->instance, it->micro_batch);
    }
    if (!st && (c.n[0] != cells || c.n[1] != cells || c.n[2] != (s->split_w ? cells : 0)))
        st = mr_fail(err, MR_E_PLAN_VERIFY, MR_BLAME_HOST,
                     "schedule: %zu F, %zu B and %zu W items for %zu blocks", c.n[0], c.n[1],
                     c.n[2], cells);
    free(c.seen);
    free(c.loaded);
    free(c.slot);
    return st;
}

void mri_schedule_print(const mri_schedule *s, const char *const *labels, mri_str *out)
{
    enum { COLUMNS = 96 };
    static const char letter[MRI_ITEM_SEED + 1] = { [MRI_ITEM_F] = 'F', [MRI_ITEM_B] = 'B',
                                                    [MRI_ITEM_W] = 'W' };
    size_t n = 0, k = 0;
    for (size_t i = 0; i < s->items.n; i++)
        n += letter[s->items.v[i].kind] != 0;
    size_t shown = n < COLUMNS ? n : COLUMNS;
    char *row = mri_alloc(s->instances * (shown + 1));
    memset(row, '.', s->instances * (shown + 1));
    for (size_t i = 0; i < s->items.n && k < shown; i++)
        if (letter[s->items.v[i].kind])
            row[s->items.v[i].instance * (shown + 1) + k++] = letter[s->items.v[i].kind];
    for (uint32_t i = 0; i < s->instances; i++)
        mri_str_fmt(out, "  %-24s %.*s\n", labels[i], (int)shown, row + i * (shown + 1));
    if (shown < n)
        mri_str_fmt(out, "  (%zu of %zu items shown)\n", shown, n);
    free(row);
}
