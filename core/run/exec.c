/* SPDX-License-Identifier: Apache-2.0
 * exec.c - see exec.h. */
#include "bind.h"
#include "dp.h"
#include <stdlib.h>
#include <string.h>

/* ---- frames ------------------------------------------------------------------------------- */

/* How many later instances pass a gradient back to output `name` of instance i. */
static uint32_t feeders(const mri_exec *e, uint32_t i, const char *name)
{
    uint32_t n = 0;
    for (uint32_t to = i + 1; to < e->assembly->instances.n; to++)
        for (size_t x = 0; x < mri_exec_plan(e, to)->inputs.n; x++) {
            const char *in = mri_exec_plan(e, to)->inputs.v[x].name;
            char d[128];
            mri_edge edge;
            snprintf(d, sizeof d, "d:%s", in);
            n += !mri_is_batch_input(in) && !mri_is_grad_edge(in) &&
                 mri_assembly_source(e->assembly, to, in, &edge) && edge.from == (int32_t)i &&
                 !strcmp(edge.out, name) && mri_output_index(mri_exec_plan(e, to), d) >= 0;
        }
    return n;
}

/* A gradient that several instances feed would need a sum across blocks, and one that nobody
 * feeds would be read uninitialised: both are refused while compiling. */
static mr_status check_gradients(const mri_exec *e, mr_err *err)
{
    for (uint32_t i = 0; i < e->assembly->instances.n && e->opt.plan.train; i++) {
        const mri_plan *pl = mri_exec_plan(e, i);
        for (size_t j = 0; j < pl->inputs.n; j++) {
            const char *name = pl->inputs.v[j].name;
            uint32_t n = mri_is_grad_edge(name) ? feeders(e, i, name + 2) : 1;
            if (n != 1)
                return mr_fail(err, MR_E_NO_GRADIENT, MR_BLAME_PLUGIN,
                               "%u blocks pass a gradient back to output %s of block %s (instance "
                               "%u); training needs exactly one", n, name + 2, pl->name, i);
        }
    }
    return 0;
}

static void **table(size_t n)
{
    return mri_alloc((n ? n : 1) * sizeof(void *));
}

static void add_losses(mri_exec *e, uint32_t i)
{
    const mri_plan *pl = mri_exec_plan(e, i);
    for (size_t j = 0; j < pl->outputs.n; j++)
        if (mri_is_loss(pl->prog, pl->outputs.v[j].name)) {
            mri_loss l = { pl->outputs.v[j].name, i };
            MRI_PUSH(&e->losses, l);
        }
}

static void make_frame(mri_exec *e, uint32_t i, mri_scalars *scalars)
{
    const mri_plan *pl = mri_exec_plan(e, i);
    mri_frame f = { .plan = pl, .label = e->assembly->instances.v[i].prefix, .instance = i };
    f.sumsq = e->opt.plan.sum_squares ? mri_scalar(scalars, "sumsq") : NULL;
    f.param = table(pl->params.n);
    f.grad = table(pl->params.n);
    f.state = table(pl->states.n);
    f.scalar = table(pl->scalars.n);
    f.input = table(pl->inputs.n);
    f.output = table(pl->outputs.n);
    for (size_t j = 0; j < pl->states.n; j++) {
        mri_state s = { mri_assembly_full_name(e->assembly, i, pl->states.v[j].name),
                        pl->states.v[j].type, 0, NULL, e->opt.states_of != NULL };
        s.flags = mri_val(pl->prog, pl->states.v[j].value)->flags;
        if (!s.borrowed)
            e->state_bytes += mr_bytes(&s.type);
        MRI_PUSH(&e->states, s);
    }
    for (size_t j = 0; j < pl->scalars.n; j++)
        f.scalar[j] = mri_scalar(scalars, pl->scalars.v[j].name);
    MRI_PUSH(&e->frames, f);
}

/* Frames of further slots share all tables but those of what lies in the slot. */
static void make_chunk(mri_exec *e, mri_chunk c, mri_scalars *scalars)
{
    c.frame = (uint32_t)e->frames.n;
    c.loss = (uint32_t)e->losses.n;
    for (uint32_t i = 0; i < c.n; i++) {
        make_frame(e, c.first + i, scalars);
        add_losses(e, c.first + i);
    }
    c.n_losses = (uint32_t)e->losses.n - c.loss;
    for (uint32_t i = 0; i < c.n * (c.slots - 1); i++) {
        mri_frame f = e->frames.v[c.frame + i % c.n];
        f.input = table(f.plan->inputs.n);
        f.output = table(f.plan->outputs.n);
        MRI_PUSH(&e->frames, f);
    }
    MRI_PUSH(&e->chunks, c);
}

static void make_chunks(mri_exec *e, mri_scalars *scalars)
{
    uint32_t all = mri_exec_instances(e), first = 0;
    if (!e->opt.chunks)
        make_chunk(e, (mri_chunk){ .n = all, .slots = 1 }, scalars);
    for (uint32_t k = 0; k < e->opt.n_chunks; k++) {
        mri_chunk c = { .first = first, .n = e->opt.chunks[k].n, .slots = e->opt.chunks[k].slots };
        MRI_ASSERT(c.slots && c.n <= all - first);
        make_chunk(e, c, scalars);
        first += c.n;
    }
    MRI_ASSERT(!e->opt.chunks || first == all);
    e->opt.chunks = NULL; /* the caller's */
}

uint32_t mri_exec_chunk_of(const mri_exec *e, uint32_t instance)
{
    uint32_t c = 0;
    while (instance >= e->chunks.v[c].first + e->chunks.v[c].n)
        c++;
    return c;
}

mri_frame *mri_exec_frame(const mri_exec *e, uint32_t slot, uint32_t instance)
{
    const mri_chunk *c = &e->chunks.v[mri_exec_chunk_of(e, instance)];
    MRI_ASSERT(slot < c->slots);
    return &e->frames.v[c->frame + slot * c->n + (instance - c->first)];
}

/* Which outputs are read is a question about all kinds, so it is asked before any compiles. */
static mr_status compile_kinds(mri_exec *e, mr_err *err)
{
    mri_assembly *a = e->assembly;
    mr_list *consumed = mri_alloc(a->kinds.n * sizeof *consumed);
    mr_list *constant = mri_alloc(a->kinds.n * sizeof *constant);
    mr_status st = 0;
    for (uint32_t k = 0; k < a->kinds.n; k++) {
        consumed[k] = mri_assembly_consumed(a, k, e->opt.plan.loss);
        constant[k] = mri_assembly_constant(a, k);
    }
    for (size_t k = 0; k < a->kinds.n && !st; k++) {
        mri_plan *pl = NULL;
        mri_plan_options opt = e->opt.plan;
        mr_prog *prog = a->kinds.v[k].prog;
        opt.consumed = &consumed[k];
        opt.constant = &constant[k];
        opt.beside = mri_exec_beside;
        opt.beside_ctx = e;
        a->kinds.v[k].prog = NULL;
        if (prog->border)
            pl = mri_plan_border(prog, &opt);
        else
            st = mri_plan_compile(prog, &opt, e->device->ops, e->device->dev, &pl, err);
        if (!st) {
            a->kinds.v[k].prog = pl->prog; /* shared view; the plan owns it */
            MRI_PUSH(&e->plans, pl);
        }
    }
    for (uint32_t k = 0; k < a->kinds.n; k++) {
        free((void *)(uintptr_t)consumed[k].v);
        free((void *)(uintptr_t)constant[k].v);
    }
    free(consumed);
    free(constant);
    return st;
}

mr_status mri_exec_create(mri_device *d, mri_assembly *a, const mri_params *params,
                          mri_scalars *scalars, const mri_exec_options *opt, mri_exec **out,
                          mr_err *err)
{
    mr_status st = 0;
    mri_exec *e = mri_alloc(sizeof *e);
    e->device = d;
    e->assembly = a;
    e->params = params;
    e->opt = *opt;
    e->opt.plan.host_fallback |= d->host_memory;
    MR_TRY(compile_kinds(e, err));
    make_chunks(e, scalars);
    MR_TRY(check_gradients(e, err));
    mri_exec_lay_out(e);
out:
    if (st) {
        mri_exec_free(e);
        e = NULL;
    }
    *out = e;
    return st;
}

static void free_frame(mri_frame *f, bool whole)
{
    free(f->input);
    free(f->output);
    if (!whole)
        return;
    free(f->param);
    free((void *)(uintptr_t)f->sole);
    free(f->grad);
    free(f->state);
    free(f->scalar);
}

void mri_exec_free(mri_exec *e)
{
    if (!e)
        return;
    for (size_t c = 0; c < e->chunks.n; c++)
        for (uint32_t i = 0; i < e->chunks.v[c].n * e->chunks.v[c].slots; i++)
            free_frame(&e->frames.v[e->chunks.v[c].frame + i], i < e->chunks.v[c].n);
    for (size_t i = 0; i < e->states.n; i++) {
        if (e->states.v[i].data && !e->states.v[i].borrowed)
            e->device->ops->free(e->device->dev, e->states.v[i].data,
                                 mr_bytes(&e->states.v[i].type));
        free(e->states.v[i].name);
    }
    for (size_t k = 0; k < e->plans.n; k++) {
        mri_plan_free(e->plans.v[k]);
        e->assembly->kinds.v[k].prog = NULL;
    }
    free(e->frames.v);
    free(e->chunks.v);
    mri_dp_detach(e);
    mri_assembly_free(e->assembly);
    free(e->states.v);
    free(e->plans.v);
    free(e->losses.v);
    free(e->zeroed.v);
    free(e->summed.v);
    free(e);
}

/* ---- running ------------------------------------------------------------------------------ */

mr_status mri_exec_upload_in(mri_exec *e, uint32_t chunk, uint32_t slot, const mri_batch *b,
                             mr_err *err)
{
    const void *host[MRI_BATCH_FIELDS] = { b->tokens,  b->positions,   b->seq_start,
                                   b->targets, b->loss_weight, b->slot, b->image_rows, b->pixels };
    const mr_backend_ops *ops = e->device->ops;
    mr_status st = 0;
    for (uint32_t k = 0; k < MRI_BATCH_FIELDS && !st; k++) {
        uint64_t n = mri_exec_field_bytes(&e->opt, k);
        char *at = mri_exec_field(e, k) + (mri_exec_slot_at(e, chunk, slot) - e->at_fields);
        if (host[k] && n)
            st = ops->copy(e->device->dev, e->device->stream, at, host[k], n, err);
        else if (k >= MRI_TEXT_FIELDS && n) /* no token is a picture's; black tiles */
            st = ops->fill(e->device->dev, e->device->stream, at,
                           k == MRI_FIELD_IMAGE_ROWS ? 0xFF : 0, n, err);
    }
    return st ? st : mri_device_sync(e->device, err);
}

mr_status mri_exec_upload(mri_exec *e, const mri_batch *b, mr_err *err)
{
    mr_status st = 0;
    for (uint32_t chunk = 0; chunk < e->chunks.n && !st; chunk++)
        st = mri_exec_upload_in(e, chunk, 0, b, err);
    return st;
}

/* f64 programs have f64 losses */
float mri_exec_loss_value(const mri_exec *e, size_t loss, const float *line)
{
    const mri_plan *pl = mri_exec_plan(e, e->losses.v[loss].instance);
    int32_t o = mri_output_index(pl, e->losses.v[loss].name);
    double wide;
    if (!mr_is(&pl->outputs.v[o].type, "f64"))
        return *line;
    memcpy(&wide, line, sizeof wide);
    return (float)wide;
}

mr_status mri_exec_losses(mri_exec *e, float *out, mr_err *err)
{
    float *all = mri_alloc(e->losses.n * MRI_SCALAR_STRIDE * sizeof *all + 1);
    mr_status st = 0;
    for (uint32_t k = 0; k < e->chunks.n && !st; k++) {
        const mri_chunk *c = &e->chunks.v[k];
        if (c->n_losses)
            st = mri_device_read(e->device, all + c->loss * MRI_SCALAR_STRIDE,
                                 mri_exec_losses_at(e, k, 0),
                                 c->n_losses * MRI_SCALAR_STRIDE * sizeof *all, err);
    }
    for (size_t i = 0; i < e->losses.n; i++)
        out[i] = mri_exec_loss_value(e, i, all + i * MRI_SCALAR_STRIDE);
    free(all);
    return st;
}

const void *mri_exec_output(const mri_exec *e, const char *name, const mr_type **type)
{
    for (uint32_t i = mri_exec_instances(e); i-- > 0;) {
        int32_t o = mri_output_index(mri_exec_plan(e, i), name);
        if (o >= 0) {
            *type = &mri_exec_plan(e, i)->outputs.v[o].type;
            return mri_exec_frame(e, 0, i)->output[o];
        }
    }
    return NULL;
}

double mri_exec_flops(const mri_exec *e, uint8_t phase)
{
    double f = 0;
    for (uint32_t i = 0; i < mri_exec_instances(e); i++)
        f += mri_exec_plan(e, i)->flops[phase];
    return f;
}

double mri_exec_model_flops(const mri_exec *e)
{
    double f = 0;
    for (uint32_t i = 0; i < mri_exec_instances(e); i++) {
        const mri_plan *pl = mri_exec_plan(e, i);
        f += pl->flops[MRI_F] + pl->flops[MRI_B] + pl->flops[MRI_W] - pl->recompute_flops;
    }
    return f;
}
