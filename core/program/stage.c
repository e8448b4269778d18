/* SPDX-License-Identifier: Apache-2.0
 * stage.c - see stage.h. */
#include "stage.h"
#include <stdlib.h>
#include <string.h>

typedef struct cutter {
    mri_assembly *whole;  /* what is cut; its instances and kinds become those of the stage */
    const uint32_t *of;   /* virtual stage of each of its instances */
    mri_stage *out;
    int32_t *local;       /* index of each instance in the stage; -1: it lies elsewhere */
    MRI_VEC(mri_instance) instances;
    mr_err *err;
} cutter;

/* ---- values that lead from stage to stage ---------------------------------------------------- */

/* A value that a later virtual stage reads, once however many of its instances do. */
typedef struct crossing {
    uint32_t from, to_stage; /* the instance that makes it */
    const char *out;
} crossing;

typedef MRI_VEC(crossing) crossings;

static int64_t find_crossing(const crossings *all, uint32_t from, const char *out, uint32_t to)
{
    for (size_t i = 0; i < all->n; i++)
        if (all->v[i].from == from && all->v[i].to_stage == to && !strcmp(all->v[i].out, out))
            return (int64_t)i;
    return -1;
}

static const mr_prog *prog_of(const mri_assembly *a, uint32_t i)
{
    return a->kinds.v[a->instances.v[i].kind].prog;
}

static const mr_type *type_of(const mri_assembly *a, uint32_t i, const char *out)
{
    const mr_prog *p = prog_of(a, i);
    return &mri_val(p, mri_port_find(&p->outputs, out))->type;
}

static crossings find_crossings(cutter *c)
{
    crossings all = { 0 };
    for (uint32_t i = 0; i < c->whole->instances.n; i++) {
        const mr_prog *p = prog_of(c->whole, i);
        for (size_t v = 0; v < p->values.n; v++) {
            mri_edge e;
            if (p->values.v[v].kind != MRI_INPUT || mri_is_batch_input(p->values.v[v].name) ||
                !mri_assembly_source(c->whole, i, p->values.v[v].name, &e))
                continue;
            uint32_t from = (uint32_t)e.from;
            if (c->of[from] == c->of[i] || find_crossing(&all, from, e.out, c->of[i]) >= 0)
                continue;
            MRI_PUSH(&all, ((crossing){ from, c->of[i], e.out }));
            MRI_PUSH(&c->out->links, ((mri_link){ c->of[from], c->of[i] }));
            MRI_PUSH(&c->out->bytes, mr_bytes(type_of(c->whole, from, e.out)));
        }
    }
    return all;
}

/* ---- instances of the stage ------------------------------------------------------------------ */

static const char *keep_string(cutter *c, char *s)
{
    MRI_PUSH(&c->whole->strings, s);
    return s;
}

/* A kind of its own: its one value, read (out) or given (in). */
static uint32_t border_kind(cutter *c, uint8_t border, uint32_t link, const mr_type *type)
{
    bool in = border == MRI_BORDER_IN;
    const char *model = c->whole->kinds.v[0].prog->model_dtype;
    const char *name = keep_string(c, mri_format("%s.%u", in ? "receive" : "send", link));
    mr_prog *p = mri_prog_new(name, model);
    mr_val v = mri_prog_value(p, in ? MRI_TEMP : MRI_INPUT, in ? NULL : "x", type);
    p->border = border;
    p->sharded = true; /* of types that the blocks have already */
    if (in)
        MRI_PUSH(&p->outputs, ((mri_port){ mri_prog_string(p, "y"), v }));
    mri_kind_prog kind = { name, p };
    MRI_PUSH(&c->whole->kinds, kind);
    return (uint32_t)c->whole->kinds.n - 1;
}

static uint32_t add_border(cutter *c, const crossings *all, uint32_t link, uint8_t border,
                           uint32_t chunk)
{
    const crossing *x = &all->v[link];
    mri_instance inst = { .prefix = "" };
    inst.kind = border_kind(c, border, link, type_of(c->whole, x->from, x->out));
    if (border == MRI_BORDER_OUT)
        MRI_PUSH(&inst.edges, ((mri_edge){ "x", x->out, c->local[x->from] }));
    MRI_PUSH(&c->instances, inst);
    MRI_PUSH(&c->out->blocks, ((mri_block){ chunk, link, border }));
    return (uint32_t)c->instances.n - 1;
}

/* Every input of an instance gets its edge: to an instance here, or to a border. */
static void add_instance(cutter *c, const crossings *all, const uint32_t *border, uint32_t i,
                         uint32_t chunk)
{
    const mri_instance *old = &c->whole->instances.v[i];
    mri_instance inst = { .kind = old->kind, .prefix = old->prefix, .bindings.v = NULL };
    const mr_prog *p = prog_of(c->whole, i);
    for (size_t k = 0; k < old->bindings.n; k++)
        MRI_PUSH(&inst.bindings, old->bindings.v[k]);
    for (size_t v = 0; v < p->values.n; v++) {
        const char *name = p->values.v[v].name;
        mri_edge e;
        if (p->values.v[v].kind != MRI_INPUT || mri_is_batch_input(name) ||
            !mri_assembly_source(c->whole, i, name, &e))
            continue;
        int64_t link = find_crossing(all, (uint32_t)e.from, e.out, c->of[i]);
        e.in = keep_string(c, mri_strdup(name));
        e.out = link < 0 ? keep_string(c, mri_strdup(e.out)) : "y";
        e.from = link < 0 ? c->local[e.from] : (int32_t)border[link];
        MRI_PUSH(&inst.edges, e);
    }
    c->local[i] = (int32_t)c->instances.n;
    MRI_PUSH(&c->instances, inst);
    MRI_PUSH(&c->out->blocks, ((mri_block){ .chunk = chunk }));
}

static void add_chunk(cutter *c, const crossings *all, uint32_t chunk)
{
    uint32_t virtual = chunk * c->out->stages + c->out->index;
    uint32_t *border = mri_alloc((all->n + 1) * sizeof *border);
    mri_stage_part part = { (uint32_t)c->instances.n, 0 };
    for (uint32_t l = 0; l < all->n; l++)
        if (all->v[l].to_stage == virtual)
            border[l] = add_border(c, all, l, MRI_BORDER_IN, chunk);
    for (uint32_t i = 0; i < c->whole->instances.n; i++)
        if (c->of[i] == virtual)
            add_instance(c, all, border, i, chunk);
    for (uint32_t l = 0; l < all->n; l++)
        if (c->of[all->v[l].from] == virtual)
            add_border(c, all, l, MRI_BORDER_OUT, chunk);
    part.n = (uint32_t)c->instances.n - part.first;
    MRI_PUSH(&c->out->parts, part);
    free(border);
}

/* ---- what stages share ----------------------------------------------------------------------- */

static void list_losses(const mri_assembly *a, mri_stage *out)
{
    for (uint32_t i = 0; i < a->instances.n; i++)
        for (size_t l = 0; l < prog_of(a, i)->losses.n; l++) {
            const char *name = prog_of(a, i)->losses.v[l].name;
            size_t k = 0;
            while (k < out->losses.n && strcmp(out->losses.v[k].name, name))
                k++;
            if (k == out->losses.n)
                MRI_PUSH(&out->losses, ((mri_stage_loss){ mri_strdup(name), 0 }));
            out->losses.v[k].instances++;
        }
}

typedef struct holder { /* a parameter by its full name, and a stage that binds it */
    char *name;
    uint32_t stage;
} holder;

static int by_name(const void *a, const void *b)
{
    const holder *x = a, *y = b;
    int order = strcmp(x->name, y->name);
    return order ? order : x->stage < y->stage ? -1 : x->stage > y->stage;
}

/* Parameters of this stage that another has too. Gradients are summed over first and last stage:
 * nothing else is tied by any model. */
static mr_status find_ties(cutter *c)
{
    MRI_VEC(holder) all = { 0 };
    mr_status st = 0;
    for (uint32_t i = 0; i < c->whole->instances.n; i++) {
        const mr_prog *p = prog_of(c->whole, i);
        for (size_t v = 0; v < p->values.n; v++)
            if (p->values.v[v].kind == MRI_PARAM)
                MRI_PUSH(&all, ((holder){ mri_assembly_full_name(c->whole, i, p->values.v[v].name),
                                          c->of[i] % c->out->stages }));
    }
    if (all.n)
        qsort(all.v, all.n, sizeof *all.v, by_name);
    for (size_t i = 0; i < all.n && !st; i++) {
        size_t end = i;
        bool mine = false, other = false, inner = false;
        for (; end < all.n && !strcmp(all.v[end].name, all.v[i].name); end++) {
            mine |= all.v[end].stage == c->out->index;
            other |= all.v[end].stage != all.v[i].stage;
            inner |= all.v[end].stage && all.v[end].stage + 1 != c->out->stages;
        }
        if (other && inner) {
            st = mr_fail(c->err, MR_E_UNSUPPORTED, MR_BLAME_USER, "parameter %s is bound on a stage "
                         "that is neither first nor last, and on another", all.v[i].name);
            mr_hint(c->err, "choose [mesh] layout so that its blocks share a stage, or are ends");
        } else if (other && mine) {
            MRI_PUSH(&c->out->tied, keep_string(c, mri_strdup(all.v[i].name)));
        }
        i = end - 1;
    }
    for (size_t i = 0; i < all.n; i++)
        free(all.v[i].name);
    free(all.v);
    return st;
}

/* ---- the cut --------------------------------------------------------------------------------- */

/* The stage's instances take the place of the whole's, and kinds that none is of go. */
static void replace(cutter *c)
{
    mri_assembly *a = c->whole;
    size_t kept = 0;
    for (size_t i = 0; i < a->instances.n; i++) {
        free(a->instances.v[i].edges.v);
        free(a->instances.v[i].bindings.v);
    }
    free(a->instances.v);
    memcpy(&a->instances, &c->instances, sizeof a->instances);
    for (uint32_t k = 0; k < a->kinds.n; k++) {
        bool used = false;
        for (size_t i = 0; i < a->instances.n; i++)
            used |= a->instances.v[i].kind == k;
        if (!used) {
            mri_prog_free(a->kinds.v[k].prog);
            continue;
        }
        for (size_t i = 0; i < a->instances.n; i++)
            if (a->instances.v[i].kind == k)
                a->instances.v[i].kind = (uint32_t)kept;
        a->kinds.v[kept++] = a->kinds.v[k];
    }
    a->kinds.n = kept;
}

mr_status mri_stage_cut(mri_assembly *a, const mri_cfg_mesh *cfg, uint32_t index, mri_stage *out,
                        mr_err *err)
{
    cutter c = { .whole = a, .out = out, .err = err };
    crossings all = { 0 };
    char *letters = mri_stage_letters(a);
    uint32_t stages = 0;
    mr_status st = 0;
    memset(out, 0, sizeof *out);
    out->stages = (uint32_t)cfg->pp;
    out->index = index;
    MR_TRY(mri_stage_assign(letters, cfg, &out->of, &stages, err));
    out->chunks = stages / out->stages;
    c.of = out->of;
    list_losses(a, out);
    if (out->stages == 1) {
        MRI_PUSH(&out->parts, ((mri_stage_part){ 0, (uint32_t)a->instances.n }));
        goto out;
    }
    MR_TRY(find_ties(&c));
    all = find_crossings(&c);
    c.local = mri_alloc((a->instances.n + 1) * sizeof *c.local);
    for (uint32_t k = 0; k < out->chunks; k++)
        add_chunk(&c, &all, k);
    replace(&c);
out:
    free(all.v);
    free(c.local);
    free(letters);
    if (st)
        mri_stage_free(out);
    return st;
}

void mri_stage_free(mri_stage *s)
{
    for (size_t i = 0; i < s->losses.n; i++)
        free(s->losses.v[i].name);
    free(s->parts.v);
    free(s->blocks.v);
    free(s->links.v);
    free(s->bytes.v);
    free(s->tied.v);
    free(s->losses.v);
    free(s->of);
    memset(s, 0, sizeof *s);
}
