/* SPDX-License-Identifier: Apache-2.0
 *
 * bind.c - where everything of an exec lies: the layout of its one block of memory, and the
 * addresses that each frame gets in it; see exec.h for the order of the parts.
 */
#include "bind.h"
#include <stdlib.h>
#include <string.h>

/* ---- layout ------------------------------------------------------------------------------- */

/* as in mri_batch */
static const char *const fields[MRI_BATCH_FIELDS] = { "tokens",  "positions",   "seq_start",
                                                      "targets", "loss_weight", "slot",
                                                      "image_rows", "pixels" };

static uint64_t align(uint64_t n)
{
    return (n + MRI_ALIGN - 1) / MRI_ALIGN * MRI_ALIGN;
}

static uint64_t align_arena(uint64_t n)
{
    return (n + MRI_ARENA_ALIGN - 1) / MRI_ARENA_ALIGN * MRI_ARENA_ALIGN;
}

uint64_t mri_exec_field_bytes(const mri_exec_options *o, uint32_t k)
{
    if (k == MRI_FIELD_PIXELS)
        return (uint64_t)(o->images * o->tile_values) * sizeof(float);
    return k == MRI_FIELD_IMAGE_ROWS && !o->images ? 0 : (uint64_t)o->tokens * 4;
}

uint64_t mri_exec_fields_bytes(const mri_exec_options *o)
{
    uint64_t n = 0;
    for (uint32_t k = 0; k < MRI_BATCH_FIELDS; k++)
        n += align(mri_exec_field_bytes(o, k));
    return n;
}

/* Pixels come last, so all others are as far apart. */
static uint64_t field_step(const mri_exec_options *o)
{
    return align(mri_exec_field_bytes(o, 0));
}

char *mri_exec_field(const mri_exec *e, uint32_t k)
{
    return e->base + e->at_fields + k * field_step(&e->opt);
}

static int64_t table_entries(const mri_exec *e)
{
    const mri_exec_options *o = &e->opt;
    return o->page ? o->slots * ((o->max_seq + o->page - 1) / o->page) : 0;
}

uint64_t mri_exec_fed_at(const mri_exec *e, const char *name)
{
    for (uint32_t k = 0; k < MRI_BATCH_FIELDS; k++)
        if (!strcmp(fields[k], name))
            return k * field_step(&e->opt);
    return !strcmp(name, "pages")        ? e->at_table - e->at_fields
           : !strcmp(name, "logit_rows") ? e->at_rows - e->at_fields
                                         : UINT64_MAX;
}

bool mri_is_loss(const mr_prog *p, const char *output)
{
    return mri_port_find(&p->losses, output) != 0;
}

/* "d:x" outputs are gradient edges; everything else that is no loss is an edge of F. */
bool mri_is_grad_edge(const char *name)
{
    return name[0] == 'd' && name[1] == ':';
}

static uint64_t forward_edge_bytes(const mri_plan *pl)
{
    uint64_t b = 0;
    for (size_t i = 0; i < pl->outputs.n; i++)
        if (!mri_is_grad_edge(pl->outputs.v[i].name) &&
            !mri_is_loss(pl->prog, pl->outputs.v[i].name))
            b += align(mr_bytes(&pl->outputs.v[i].type));
    return b;
}

static uint64_t grad_edge_bytes(const mri_plan *pl)
{
    uint64_t b = 0;
    for (size_t i = 0; i < pl->outputs.n; i++)
        if (mri_is_grad_edge(pl->outputs.v[i].name))
            b += align(mr_bytes(&pl->outputs.v[i].type));
    return b;
}

const mri_plan *mri_exec_plan(const mri_exec *e, uint32_t i)
{
    return e->plans.v[e->assembly->instances.v[i].kind];
}

/* Is everything that instance i makes read by i + 1 alone (made = true), or all that it reads made
 * by i - 1? Explicit edges are those that may lead elsewhere. */
static bool beside(const mri_exec *e, uint32_t i, bool made)
{
    const mri_assembly *a = e->assembly;
    for (uint32_t to = 0; to < a->instances.n; to++)
        for (size_t k = 0; k < a->instances.v[to].edges.n; k++) {
            uint32_t from = (uint32_t)a->instances.v[to].edges.v[k].from;
            if ((made ? from : to) == i && from + 1 != to)
                return false;
        }
    return true;
}

/* Without gradients an edge is dead once its consumers ran: where that is the next instance, two
 * buffers alternate. */
static bool edges_alternate(const mri_exec *e, uint32_t i)
{
    return !e->opt.plan.train && beside(e, i, true);
}

/* A gradient edge is read by the instance before; a split W reads it later still. */
static bool grads_alternate(const mri_exec *e, uint32_t i)
{
    return !e->opt.plan.split_w && beside(e, i, false);
}

/* Main gradients, where they may lie over saved values: see gradients.c. Returns the bytes of
 * both from at_saved on. */
static uint64_t lay_gradients(mri_exec *e, const uint64_t *reach)
{
    uint64_t saved = e->edge_bytes + e->saved_bytes, from = mri_gradients_over(e, reach);
    e->main_bytes = e->params->trainable * mr_dtype_bytes(e->params->acc_dtype);
    e->at_main = e->at_saved + from;
    e->main_clear = saved > from ? saved - from : 0;
    return from + e->main_bytes > saved ? from + e->main_bytes : saved;
}

/* Sizes of a chunk's slot; reach[i]: the end of what B of instance i reads of its saved values. */
static void lay_chunk(mri_exec *e, mri_chunk *c, uint64_t *reach)
{
    uint64_t at = e->fed_bytes + align((c->n_losses ? c->n_losses : 1) * sizeof(float) *
                                       MRI_SCALAR_STRIDE);
    for (uint32_t i = c->first; i < c->first + c->n; i++) {
        const mri_plan *pl = mri_exec_plan(e, i);
        uint64_t edge = forward_edge_bytes(pl), g = grad_edge_bytes(pl);
        if (edges_alternate(e, i))
            c->edge_pair = edge > c->edge_pair ? edge : c->edge_pair;
        c->saved_bytes += align(pl->saved_bytes);
        reach[i] = c->saved_bytes + c->edge_bytes + (i + 1 == c->first + c->n ? edge : 0);
        c->edge_bytes += edges_alternate(e, i) ? 0 : edge;
        c->keep_bytes += align(pl->keep_bytes);
        if (grads_alternate(e, i))
            c->grad_pair = g > c->grad_pair ? g : c->grad_pair;
        else
            c->grad_bytes += g;
        if (pl->scratch_bytes > e->scratch_bytes)
            e->scratch_bytes = align(pl->scratch_bytes);
        if (e->opt.zipped && pl->forward_scratch_bytes > e->forward_scratch_bytes)
            e->forward_scratch_bytes = align(pl->forward_scratch_bytes);
    }
    c->edge_bytes += 2 * c->edge_pair;
    c->grad_bytes += 2 * c->grad_pair;
    c->keep = at;
    c->grads = at + c->keep_bytes;
    c->saved = align_arena(c->grads + c->grad_bytes);
    c->bytes = align_arena(c->saved + c->edge_bytes + c->saved_bytes);
}

/* Slots of chunks one after the other, or over each other, each as large as the largest. */
static void place_chunks(mri_exec *e)
{
    uint64_t largest = 0;
    for (size_t k = 0; k < e->chunks.n; k++)
        largest = e->chunks.v[k].bytes > largest ? e->chunks.v[k].bytes : largest;
    e->bytes = align_arena(e->scratch_bytes);
    for (size_t k = 0, counted = 0; k < e->chunks.n; k++) {
        mri_chunk *c = &e->chunks.v[k];
        bool takes = !e->opt.share_slots || (!counted && c->bytes == largest);
        c->at = e->opt.share_slots ? align_arena(e->scratch_bytes) : e->bytes;
        c->bytes = e->opt.share_slots ? largest : c->bytes;
        if (!takes)
            continue;
        counted = 1;
        e->bytes += c->slots * c->bytes;
        e->saved_bytes += c->slots * c->saved_bytes;
        e->edge_bytes += c->slots * c->edge_bytes;
        e->keep_bytes += c->slots * c->keep_bytes;
        e->grad_bytes += c->slots * c->grad_bytes;
    }
}

void mri_exec_lay_out(mri_exec *e)
{
    uint64_t *reach = mri_alloc((mri_exec_instances(e) + 1) * sizeof *reach);
    uint64_t fed = mri_exec_fields_bytes(&e->opt), table = align((uint64_t)table_entries(e) * 4);
    bool one = e->chunks.n == 1 && e->chunks.v[0].slots == 1;
    e->fed_bytes = fed + table + align((uint64_t)e->opt.logit_rows * 4);
    for (size_t k = 0; k < e->chunks.n; k++)
        lay_chunk(e, &e->chunks.v[k], reach);
    e->at_forward_scratch = e->opt.zipped ? align_arena(e->scratch_bytes) : e->at_scratch;
    if (e->opt.zipped)
        e->scratch_bytes = e->at_forward_scratch + e->forward_scratch_bytes;
    place_chunks(e);
    e->at_fields = e->chunks.v[0].at;
    e->at_table = e->at_fields + fed;
    e->at_rows = e->at_table + table;
    e->at_losses = e->at_fields + e->fed_bytes;
    e->at_saved = e->at_fields + e->chunks.v[0].saved;
    if (e->opt.one_micro_batch && one && !e->opt.plan.split_w && !e->opt.plan.stress)
        e->bytes = e->at_saved + lay_gradients(e, reach);
    free(reach);
    if (e->opt.plan.train)
        mri_gradients_plan(e);
}

int32_t mri_output_index(const mri_plan *pl, const char *name)
{
    return mri_plan_port_find(pl->outputs.v, pl->outputs.n, name);
}

/* ---- addresses ---------------------------------------------------------------------------- */

static const mri_tensor_slot *slot_named(const mri_exec *e, uint32_t instance, const char *local)
{
    char *name = mri_assembly_full_name(e->assembly, instance, local);
    int64_t s = mri_params_find(e->params, name);
    free(name);
    MRI_ASSERT(s >= 0);
    return &e->params->slots.v[s];
}

const mri_tensor_slot *mri_exec_slot(const mri_exec *e, uint32_t instance, size_t param, uint32_t k)
{
    const char *names = mri_exec_plan(e, instance)->params.v[param].name;
    while (k-- && names)
        names = (names = strchr(names, '|')) ? names + 1 : NULL;
    if (!names)
        return NULL;
    char *local = mri_format("%.*s", (int)strcspn(names, "|"), names);
    const mri_tensor_slot *s = slot_named(e, instance, local);
    free(local);
    return s;
}

bool mri_exec_beside(const void *exec, const char *kind, const char *a, const char *b)
{
    const mri_exec *e = exec;
    bool used = false;
    for (uint32_t i = 0; i < e->assembly->instances.n; i++) {
        if (strcmp(e->assembly->kinds.v[e->assembly->instances.v[i].kind].name, kind))
            continue;
        const mri_tensor_slot *x = slot_named(e, i, a), *y = slot_named(e, i, b);
        if (x->group != y->group || x->f32 != y->f32 || x->at + x->n != y->at)
            return false;
        used = true;
    }
    return used;
}

/* Gradients of a frozen parameter have no memory and no step that writes them. */
static void bind_params(mri_exec *e, uint32_t instance)
{
    const mri_frame *f = mri_exec_frame(e, 0, instance);
    for (size_t j = 0; j < f->plan->params.n; j++) {
        const mri_tensor_slot *s = mri_exec_slot(e, instance, j, 0);
        f->param[j] = mri_params_weight(e->params, s);
        f->grad[j] = mri_params_grad(e->params, s);
    }
}

static void *state_data(const mri_exec *e, const char *name)
{
    for (size_t i = 0; i < e->states.n; i++)
        if (!strcmp(e->states.v[i].name, name))
            return e->states.v[i].data;
    return NULL;
}

static mr_status bind_states(mri_exec *e, mr_err *err)
{
    size_t at = 0;
    for (uint32_t i = 0; i < mri_exec_instances(e); i++)
        for (size_t j = 0; j < mri_exec_plan(e, i)->states.n; j++) {
            mri_state *s = &e->states.v[at++];
            mr_status st = 0;
            if (s->borrowed && e->opt.states_of)
                s->data = state_data(e->opt.states_of, s->name);
            else if (!s->data)
                st = e->device->ops->alloc(e->device->dev, mr_bytes(&s->type), MR_MEM_ARENA,
                                           &s->data, err);
            if (st)
                return st;
            MRI_ASSERT(s->data); /* its own, that exec's, or set by whoever lends it */
            mri_exec_frame(e, 0, i)->state[j] = s->data;
        }
    return 0;
}

static void *output_address(const mri_exec *e, uint32_t slot, uint32_t instance, const char *name)
{
    int32_t o = mri_output_index(mri_exec_plan(e, instance), name);
    return o < 0 ? NULL : mri_exec_frame(e, slot, instance)->output[o];
}

/* The gradient of output `name` of instance i: the "d:input" of whoever consumes it. */
static void *gradient_address(const mri_exec *e, uint32_t slot, uint32_t i, const char *name)
{
    void *found = NULL;
    for (uint32_t to = i + 1; to < e->assembly->instances.n; to++)
        for (size_t x = 0; x < mri_exec_plan(e, to)->inputs.n; x++) {
            const char *in = mri_exec_plan(e, to)->inputs.v[x].name;
            char d[128];
            mri_edge edge;
            if (mri_is_batch_input(in) || mri_is_grad_edge(in) ||
                !mri_assembly_source(e->assembly, to, in, &edge) || edge.from != (int32_t)i ||
                strcmp(edge.out, name))
                continue;
            snprintf(d, sizeof d, "d:%s", in);
            void *at = output_address(e, slot, to, d);
            found = at ? at : found;
        }
    return found;
}

static void *input_address(const mri_exec *e, uint32_t slot, uint32_t i, const char *name)
{
    mri_edge edge;
    uint64_t fed = mri_exec_fed_at(e, name);
    if (fed != UINT64_MAX)
        return e->base + mri_exec_slot_at(e, mri_exec_chunk_of(e, i), slot) + fed;
    if (!strcmp(name, "features"))
        return e->features;
    if (mri_is_grad_edge(name))
        return gradient_address(e, slot, i, name + 2);
    MRI_ASSERT(mri_assembly_source(e->assembly, i, name, &edge));
    return output_address(e, slot, (uint32_t)edge.from, edge.out);
}

/* Where a slot's frames have their saved values and outputs. */
static void bind_slot(mri_exec *e, const mri_chunk *c, uint32_t slot)
{
    char *base = e->base + c->at + slot * c->bytes;
    uint64_t saved = c->saved, keep = c->keep, grads = c->grads, loss = e->fed_bytes;
    const uint64_t edges[2] = { saved, saved + c->edge_pair };
    const uint64_t pairs[2] = { grads, grads + c->grad_pair };
    saved += 2 * c->edge_pair; /* those that alternate come first */
    grads += 2 * c->grad_pair;
    for (uint32_t i = c->first; i < c->first + c->n; i++) {
        mri_frame *f = mri_exec_frame(e, slot, i);
        const mri_plan *pl = f->plan;
        f->saved = base + saved;
        saved += align(pl->saved_bytes);
        f->keep = base + keep;
        keep += align(pl->keep_bytes);
        f->scratch = e->base + e->at_scratch;
        bool two = edges_alternate(e, i), two_grads = grads_alternate(e, i);
        uint64_t edge = two ? edges[i % 2] : saved, grad = two_grads ? pairs[i % 2] : grads;
        for (size_t o = 0; o < pl->outputs.n; o++) {
            const mri_plan_port *port = &pl->outputs.v[o];
            uint64_t *at = mri_is_loss(pl->prog, port->name) ? &loss
                         : mri_is_grad_edge(port->name)      ? &grad
                                                         : &edge;
            f->output[o] = base + *at;
            *at += at == &loss ? MRI_SCALAR_STRIDE * sizeof(float) : align(mr_bytes(&port->type));
        }
        if (!two)
            saved = edge;
        if (!two_grads)
            grads = grad;
    }
}

mr_status mri_exec_bind(mri_exec *e, char *base, mr_err *err)
{
    mr_status st = bind_states(e, err);
    if (st)
        return st;
    e->base = base;
    for (uint32_t i = 0; i < mri_exec_instances(e); i++)
        bind_params(e, i);
    for (size_t k = 0; k < e->chunks.n; k++) /* outputs first: inputs point at them */
        for (uint32_t slot = 0; slot < e->chunks.v[k].slots; slot++)
            bind_slot(e, &e->chunks.v[k], slot);
    for (uint32_t i = 0; i < mri_exec_instances(e); i++)
        for (uint32_t slot = 0; slot < e->chunks.v[mri_exec_chunk_of(e, i)].slots; slot++) {
            mri_frame *f = mri_exec_frame(e, slot, i);
            for (size_t j = 0; j < f->plan->inputs.n; j++)
                f->input[j] = input_address(e, slot, i, f->plan->inputs.v[j].name);
        }
    return 0;
}
