/* SPDX-License-Identifier: Apache-2.0
 *
 * fuse.c - neighbouring ops become one that reads and writes less memory, where the backend has
 * a kernel for it; else the program stays as it is. Each row of fuse_patterns.c proposes; this
 * file decides and rewrites.
 *
 * A proposal is taken only if nothing can tell the difference: the ops are of one phase, every
 * value that somebody else reads (or that is an output of the block) is still made, and moving
 * the work to the place of the last of them changes no order that matters - nobody reads a result
 * before, and nothing but main gradients is written, or by the last of them, which does not move.
 * Values keep their ids.
 */
#include "fuse.h"
#include <string.h>

const mri_node *mri_fuse_maker(const mr_prog *p, mr_val v)
{
    return v && mri_val(p, v)->kind == MRI_TEMP ? &p->nodes.v[mri_val(p, v)->node] : NULL;
}

uint32_t mri_fuse_readers(const mr_prog *p, mr_val v, uint32_t *nodes, uint32_t cap)
{
    uint32_t n = 0;
    for (size_t i = 0; i < p->nodes.n; i++)
        for (uint32_t j = 0; j < p->nodes.v[i].n_in; j++)
            if (p->nodes.v[i].in[j] == v) {
                if (n < cap)
                    nodes[n] = (uint32_t)i;
                n++;
            }
    return n;
}

bool mri_fuse_is_output(const mr_prog *p, mr_val v)
{
    for (size_t i = 0; i < p->outputs.n; i++)
        if (p->outputs.v[i].value == v)
            return true;
    return false;
}

static bool dropped(const mri_fusion *f, size_t node)
{
    for (uint32_t i = 0; i < f->n_drop; i++)
        if (f->drop[i] == node)
            return true;
    return false;
}

static bool made(const mri_fusion *f, mr_val v)
{
    for (uint32_t i = 0; i < f->n_out; i++)
        if (f->out[i] == v)
            return true;
    return false;
}

/* Does anything outside the fusion see that it happened? `at`: where the new node will stand. */
static bool unseen(const mr_prog *p, const mri_fusion *f, uint32_t at)
{
    const mri_node *chief = &p->nodes.v[f->drop[0]];
    for (uint32_t i = 0; i < f->n_drop; i++) {
        const mri_node *n = &p->nodes.v[f->drop[i]];
        if (n->phase != chief->phase || n->recomputed != chief->recomputed)
            return false;
        for (uint32_t j = 0; j < n->n_in; j++)
            if ((n->written >> j & 1) && mri_val(p, n->in[j])->kind != MRI_GRAD &&
                f->drop[i] != at) /* which stays where it is */
                return false;
        for (uint32_t j = 0; j < n->n_out; j++) {
            mr_val v = n->out[j];
            bool kept = v && made(f, v);
            if (!v)
                continue;
            if (!kept && mri_fuse_is_output(p, v))
                return false;
            for (size_t k = 0; k < p->nodes.n; k++)
                for (uint32_t l = 0; l < p->nodes.v[k].n_in; l++)
                    if (p->nodes.v[k].in[l] == v && !dropped(f, k) && (!kept || k < at))
                        return false;
        }
    }
    return true;
}

/* Makes the fused node at the end of the program, to see its types, and takes it off again. */
static bool make(mr_prog *p, const mri_fusion *f, mri_node *out)
{
    const mri_node *chief = &p->nodes.v[f->drop[0]];
    size_t values = p->values.n;
    mr_val fresh[MRI_MAX_OPERANDS] = { 0 };
    uint32_t region = chief->region;
    uint8_t recomputed = chief->recomputed;
    bool same = true;
    p->phase = chief->phase;
    mr_status st = mri_prog_node(p, f->op, f->in, f->n_in, f->attr, f->n_attr, fresh, f->n_out,
                                 chief->file, chief->line);
    p->phase = MRI_F;
    if (st) { /* the op does not take these shapes: no fusion, and no error */
        p->failed = 0;
        return false;
    }
    *out = p->nodes.v[--p->nodes.n];
    out->region = region;
    out->recomputed = recomputed;
    same = out->n_out == f->n_out;
    for (uint32_t j = 0; j < out->n_out && same; j++) {
        same = f->out[j] && mr_same_type(&mri_val(p, f->out[j])->type,
                                         &mri_val(p, out->out[j])->type);
        out->out[j] = f->out[j];
    }
    p->values.n = values;
    if (!same)
        free(out->attr);
    return same;
}

static bool answered(mri_plan *plan, const mri_plan_options *opt, const mri_node *n)
{
    const mr_type *types[2 * MRI_MAX_OPERANDS];
    mr_call call = mri_node_call(plan->prog, n, types);
    mr_kernel_info info = { .size = sizeof info };
    mr_err why = MR_ERR_INIT;
    void *kernel = NULL;
    if (plan->backend->query(plan->dev, n->def->id, &call,
                             opt->deterministic ? MR_QUERY_DETERMINISTIC : 0, &kernel, &info, &why))
        return false;
    plan->backend->release(plan->dev, kernel);
    return true;
}

/* The nodes without those marked; every value learns its maker's new place. */
static void renumber(mr_prog *p, const bool *gone)
{
    size_t n = 0;
    for (size_t i = 0; i < p->nodes.n; i++) {
        if (gone[i]) { /* a rerun's arrays may lie in this block: it lives as long as the program */
            char *attr = (char *)p->nodes.v[i].attr;
            MRI_PUSH(&p->strings, attr);
            continue;
        }
        p->nodes.v[n] = p->nodes.v[i];
        for (uint32_t j = 0; j < p->nodes.v[n].n_out; j++)
            if (p->nodes.v[n].out[j]) {
                mri_val(p, p->nodes.v[n].out[j])->node = (uint32_t)n;
                mri_val(p, p->nodes.v[n].out[j])->slot = j;
            }
        n++;
    }
    p->nodes.n = n;
}

/* Nodes that only the fused ones read are gone with them. */
static void sweep(mr_prog *p, const mri_fusion *f, const mri_node *fused, uint32_t at)
{
    bool *gone = mri_alloc(p->nodes.n * sizeof *gone);
    for (uint32_t i = 0; i < f->n_drop; i++)
        gone[f->drop[i]] = f->drop[i] != at;
    mri_node old = p->nodes.v[at];
    mr_val read[4 * MRI_MAX_OPERANDS];
    uint32_t n_read = 0;
    for (uint32_t i = 0; i < f->n_drop; i++)
        for (uint32_t j = 0; j < p->nodes.v[f->drop[i]].n_in && n_read < 4 * MRI_MAX_OPERANDS; j++)
            read[n_read++] = p->nodes.v[f->drop[i]].in[j];
    p->nodes.v[at] = *fused;
    char *attr = (char *)old.attr;
    MRI_PUSH(&p->strings, attr);
    for (uint32_t i = 0; i < f->n_drop; i++)
        if (gone[f->drop[i]])
            p->nodes.v[f->drop[i]].n_in = 0;
    for (uint32_t i = 0; i < n_read; i++) {
        const mri_node *m = mri_fuse_maker(p, read[i]);
        bool idle = m && !m->written && !gone[m - p->nodes.v] && m != &p->nodes.v[at];
        for (uint32_t j = 0; idle && j < m->n_out; j++)
            idle = !m->out[j] || (!mri_fuse_readers(p, m->out[j], NULL, 0) &&
                                  !mri_fuse_is_output(p, m->out[j]));
        if (idle)
            gone[m - p->nodes.v] = true;
    }
    renumber(p, gone);
    free(gone);
}

static bool take(mri_plan *plan, const mri_plan_options *opt, const mri_fusion *f)
{
    uint32_t at = f->drop[0];
    mri_node fused;
    for (uint32_t i = 1; i < f->n_drop; i++)
        at = f->drop[i] > at ? f->drop[i] : at;
    if (!unseen(plan->prog, f, at) || !make(plan->prog, f, &fused))
        return false;
    if (!answered(plan, opt, &fused)) {
        free(fused.attr);
        return false;
    }
    sweep(plan->prog, f, &fused, at);
    return true;
}

/* One pattern over the whole program, readers before makers; whether it was found. */
static bool search(mri_plan *plan, const mri_plan_options *opt, const mri_fuse_pattern *pattern)
{
    const mr_prog *p = plan->prog;
    bool found = false;
    for (size_t i = p->nodes.n; i-- > 0;) {
        mri_fusion f = { 0 };
        if (i < p->nodes.n && !strcmp(p->nodes.v[i].def->id, pattern->last) &&
            pattern->match(p, (uint32_t)i, &f))
            found |= take(plan, opt, &f);
    }
    return found;
}

mr_status mri_pass_fuse(mri_plan *plan, const mri_plan_options *opt, mr_err *err)
{
    bool again = opt->fuse && plan->backend;
    (void)err;
    while (again) { /* ends: each fusion takes an op away or replaces it by one never taken apart */
        again = false;
        for (const mri_fuse_pattern *k = mri_fuse_patterns; k->last; k++)
            again |= search(plan, opt, k);
        for (const mri_fuse_pattern *k = mri_fuse_few_rows; k->last && !opt->train; k++)
            again |= search(plan, opt, k);
    }
    return 0;
}
