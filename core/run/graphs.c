/* SPDX-License-Identifier: Apache-2.0
 * graphs.c - see graphs.h. */
#include "graphs.h"
#include "core/mesh/world.h"
#include <stdlib.h>
#include <string.h>

mr_status mri_graphs_open(mri_graphs *g, mri_device *d, const mr_graph_ops *ops,
                          const mr_host *host, const void *config, mr_err *err)
{
    memset(g, 0, sizeof *g);
    g->device = d;
    if (!ops)
        return 0;
    if (!d->capture) {
        mr_fail(err, MR_E_PROFILE_CONFLICT, MR_BLAME_USER,
                "[graph] wants device graphs, the backend records none (%s)",
                d->info.name ? d->info.name : "device");
        mr_hint(err, "set [graph] plugin = none, or choose a backend with %s", MR_EXT_CAPTURE);
        return MR_E_PROFILE_CONFLICT;
    }
    g->ops = ops;
    return ops->create(host, config, &g->plugin, err);
}

static void drop(mri_graphs *g, mri_graph_entry *e)
{
    for (size_t i = 0; i < e->graphs.n; i++)
        if (e->graphs.v[i])
            g->device->capture->destroy(g->device->dev, e->graphs.v[i]);
    free(e->graphs.v);
    free(e->pieces.v);
    free(e);
}

void mri_graphs_close(mri_graphs *g)
{
    for (size_t i = 0; i < g->entries.n; i++)
        drop(g, g->entries.v[i]);
    free(g->entries.v);
    if (g->plugin)
        g->ops->destroy(g->plugin);
    memset(g, 0, sizeof *g);
}

/* ---- cutting ------------------------------------------------------------------------------- */

char *mri_plan_obstacle(const mri_plan *plan, uint8_t phase)
{
    for (size_t i = 0; i < plan->steps[phase].n; i++) {
        const mri_step *s = &plan->steps[phase].v[i];
        if (s->ref || !(s->info.flags & MR_K_CAPTURABLE))
            return mri_format("op %s of block %s (%s) %s", plan->prog->nodes.v[s->node].def->id,
                              plan->name, s->ref ? "reference loops" : s->info.impl,
                              s->ref ? "runs on the host" : "cannot be recorded");
    }
    return NULL;
}

static const struct {
    const char *name;
    uint8_t phase;
} kinds[] = { /* by mri_item_kind */
    [MRI_ITEM_LOAD] = { "load", 0 },        [MRI_ITEM_F] = { "forward", MRI_F },
    [MRI_ITEM_B] = { "backward", MRI_B },   [MRI_ITEM_W] = { "weight gradients", MRI_W },
    [MRI_ITEM_LOSS] = { "losses", 0 },      [MRI_ITEM_ZERO] = { "zero gradients", 0 },
    [MRI_ITEM_UPDATE] = { "update", 0 },    [MRI_ITEM_SEND] = { "send", 0 },
    [MRI_ITEM_RECEIVE] = { "receive", 0 },  [MRI_ITEM_WAIT] = { "wait", 0 },
    [MRI_ITEM_TIES] = { "ties", 0 },        [MRI_ITEM_SEED] = { "seed", 0 },
};

static bool of_block(const mri_item *it)
{
    return it->kind == MRI_ITEM_F || it->kind == MRI_ITEM_B || it->kind == MRI_ITEM_W;
}

/* Micro-batches of one slot share a set of saved values: a block does the same for each of them, but
 * that the first writes weight gradients and the others add to them. Each is loaded from, and its
 * losses stored to, a place of its own. */
static uint32_t sameness(const mri_work *w, const mri_item *it)
{
    uint32_t room = w->n + (uint32_t)w->exec->frames.n, kinds_n = sizeof kinds / sizeof *kinds;
    uint32_t kind = it->kind + (of_block(it) && it->micro_batch ? kinds_n : 0);
    uint32_t at = it->micro_batch;
    if (of_block(it))
        at = (uint32_t)(mri_exec_frame(w->exec, it->slot, it->instance) - w->exec->frames.v);
    return 1 + (it->piece * 2 * kinds_n + kind) * room + at; /* pieces are few */
}

static void describe(const mri_work *w, const mri_item *it, mr_work_item *out)
{
    const mri_frame *f = of_block(it) ? mri_exec_frame(w->exec, it->slot, it->instance) : NULL;
    const char *prefix = f ? f->label : "";
    char *label = mri_format("%s%s", prefix ? prefix : "", kinds[it->kind].name), *why = NULL;
    if (f && it->pieces > 1) /* what it sends is waited for in another item */
        why = mri_format("block %s is cut where rows of experts travel", f->plan->name);
    else if (f)
        why = mri_plan_obstacle(f->plan, kinds[it->kind].phase);
    else if (it->kind == MRI_ITEM_UPDATE && w->update_obstacle)
        why = mri_strdup(w->update_obstacle);
    *out = (mr_work_item){ it->kind, it->instance, it->micro_batch, sameness(w, it), label, why };
}

static mr_status bad_cut(const mr_work_item *it, const char *what, mr_err *err)
{
    return mr_fail(err, MR_E_PROGRAM, MR_BLAME_PLUGIN, "the graph plugin's cut is wrong at %s: %s",
                   it->label, what);
}

/* Neighbours of one number become a piece; pieces of one number must do the same. */
static mr_status gather(mri_graph_entry *e, const mr_work_item *item, const uint32_t *piece,
                        uint32_t n, mr_err *err)
{
    for (uint32_t i = 0; i < n; i++) {
        if (piece[i] && item[i].obstacle)
            return bad_cut(&item[i], item[i].obstacle, err);
        if (i && piece[i] == piece[i - 1]) {
            e->pieces.v[e->pieces.n - 1].n++;
            continue;
        }
        mri_piece p = { piece[i], i, 1, 0 };
        MRI_PUSH(&e->pieces, p);
    }
    for (size_t i = 0; i < e->pieces.n; i++) {
        mri_piece *p = &e->pieces.v[i];
        size_t j = 0;
        while (j < i && (!p->id || e->pieces.v[j].id != p->id))
            j++;
        if (j == i) {
            p->graph = (uint32_t)e->graphs.n;
            if (p->id)
                MRI_PUSH(&e->graphs, NULL);
            continue;
        }
        p->graph = e->pieces.v[j].graph;
        bool same = e->pieces.v[j].n == p->n;
        for (uint32_t k = 0; same && k < p->n; k++)
            same = item[p->first + k].same == item[e->pieces.v[j].first + k].same;
        if (!same)
            return bad_cut(&item[p->first], "its number was given to other work before", err);
    }
    return 0;
}

static mr_status cut(mri_graphs *g, const mri_work *w, mri_graph_entry **out, mr_err *err)
{
    mr_work_item *item = mri_alloc((w->n + 1) * sizeof *item);
    uint32_t *piece = mri_alloc((w->n + 1) * sizeof *piece);
    mri_graph_entry *e = mri_alloc(sizeof *e);
    mr_work work = { sizeof work, w->n, w->mode, item };
    mr_status st = 0;
    e->key = w->key;
    for (uint32_t i = 0; i < w->n; i++)
        describe(w, &w->item[i], &item[i]);
    MR_TRY(g->ops->cut(g->plugin, &work, piece, err));
    MR_TRY(gather(e, item, piece, w->n, err));
out:
    for (uint32_t i = 0; i < w->n; i++) {
        free((char *)(uintptr_t)item[i].label);
        free((char *)(uintptr_t)item[i].obstacle);
    }
    free(item);
    free(piece);
    if (st)
        drop(g, e);
    else
        MRI_PUSH(&g->entries, e);
    *out = st ? NULL : e;
    return st;
}

/* ---- running ------------------------------------------------------------------------------- */

static mr_status eager(const mri_work *w, uint32_t first, uint32_t n, mr_err *err)
{
    mr_status st = 0;
    for (uint32_t i = first; i < first + n && !st; i++)
        st = w->run(w->ctx, &w->item[i], err);
    return st;
}

/* end() must follow begin() whatever happened in between; the first error is the one to tell. */
static mr_status record(mri_graphs *g, const mri_work *w, const mri_piece *p, void **graph,
                        mr_err *err)
{
    const mr_capture *c = g->device->capture;
    mr_err later = MR_ERR_INIT;
    mr_status st = c->begin(g->device->dev, g->device->stream, err), end;
    if (st)
        return st;
    st = eager(w, p->first, p->n, err);
    end = c->end(g->device->dev, g->device->stream, graph, st ? &later : err);
    if (st && !end)
        c->destroy(g->device->dev, *graph);
    return st ? st : end;
}

static mri_graph_entry *find(const mri_graphs *g, uint64_t key)
{
    for (size_t i = 0; i < g->entries.n; i++)
        if (g->entries.v[i]->key == key)
            return g->entries.v[i];
    return NULL;
}

mr_status mri_graphs_run(mri_graphs *g, const mri_work *w, mr_err *err)
{
    mri_graph_entry *e;
    mr_status st = 0;
    bool waits = !mri_world_alone(g->device->world) && mri_comm_obstacle(g->device->world);
    if (!g->ops || w->exec->trace || g->device->watch || waits)
        return eager(w, 0, w->n, err);
    e = find(g, w->key);
    if (!e)
        MR_TRY(cut(g, w, &e, err));
    if (e->runs < g->ops->warmup(g->plugin)) {
        e->runs++;
        return eager(w, 0, w->n, err);
    }
    for (size_t i = 0; i < e->pieces.n; i++) {
        const mri_piece *p = &e->pieces.v[i];
        if (!p->id) {
            MR_TRY(eager(w, p->first, p->n, err));
            continue;
        }
        if (!e->graphs.v[p->graph])
            MR_TRY(record(g, w, p, &e->graphs.v[p->graph], err));
        MR_TRY(g->device->capture->launch(g->device->dev, e->graphs.v[p->graph],
                                          g->device->stream, err));
    }
out:
    return st;
}

uint64_t mri_exec_key(const mri_exec *e)
{
    uint64_t h = mri_hash_str(0, e->opt.mode);
    for (size_t i = 0; i < e->frames.n; i++)
        h = mri_hash(h, &e->frames.v[i].plan->id, sizeof e->frames.v[i].plan->id);
    return mri_hash(h, &e->base, sizeof e->base);
}

static mr_status run_forward(void *ctx, const mri_item *item, mr_err *err)
{
    return mri_exec_run(ctx, item->instance, MRI_F, err);
}

mr_status mri_graphs_forward(mri_graphs *g, mri_exec *e, mr_err *err)
{
    uint32_t n = mri_exec_instances(e);
    mri_item *item = mri_alloc((n + 1) * sizeof *item);
    for (uint32_t i = 0; i < n; i++)
        item[i] = (mri_item){ .instance = i, .kind = MRI_ITEM_F };
    mri_work w = { e->opt.mode, mri_exec_key(e), item, n, e, NULL, run_forward, e };
    mr_status st = mri_graphs_run(g, &w, err);
    free(item);
    return st;
}
