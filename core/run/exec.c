/* SPDX-License-Identifier: Apache-2.0
 * exec.c - see exec.h. */
#include "exec.h"
#include <stdlib.h>
#include <string.h>

/* ---- scalars ------------------------------------------------------------------------------ */

mr_status mri_scalars_create(mri_scalars *s, mri_device *d, mr_err *err)
{
    memset(s, 0, sizeof *s);
    return d->ops->alloc(d->dev, MRI_MAX_SCALARS * MRI_SCALAR_STRIDE * sizeof(float),
                         MR_MEM_WEIGHTS, (void **)&s->data, err);
}

void mri_scalars_free(mri_scalars *s, mri_device *d)
{
    if (s->data)
        d->ops->free(d->dev, s->data, MRI_MAX_SCALARS * MRI_SCALAR_STRIDE * sizeof(float));
    for (size_t i = 0; i < s->names.n; i++)
        free((char *)s->names.v[i]);
    free(s->names.v);
    memset(s, 0, sizeof *s);
}

void *mri_scalar(mri_scalars *s, const char *name)
{
    size_t i = 0;
    while (i < s->names.n && strcmp(s->names.v[i], name))
        i++;
    if (i == s->names.n) {
        MRI_ASSERT(i < MRI_MAX_SCALARS);
        MRI_PUSH(&s->names, mri_strdup(name));
    }
    return s->data + i * MRI_SCALAR_STRIDE;
}

mr_status mri_scalar_set(mri_scalars *s, mri_device *d, const char *name, double v, mr_err *err)
{
    float f = (float)v;
    return mri_device_write(d, mri_scalar(s, name), &f, sizeof f, err);
}

mr_status mri_scalar_get(mri_scalars *s, mri_device *d, const char *name, double *v, mr_err *err)
{
    float f = 0;
    mr_status st = mri_device_read(d, &f, mri_scalar(s, name), sizeof f, err);
    *v = f;
    return st;
}

/* ---- layout ------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    bool decode_only;
} fields[] = { { "tokens", 0 },  { "positions", 0 },   { "seq_start", 0 },
               { "targets", 0 }, { "loss_weight", 0 }, { "slot", 1 } };
enum { N_FIELDS = sizeof fields / sizeof *fields };

static uint64_t align(uint64_t n)
{
    return (n + MRI_ALIGN - 1) / MRI_ALIGN * MRI_ALIGN;
}

static uint64_t field_bytes(const mri_exec *e)
{
    return align((uint64_t)e->opt.tokens * 4);
}

static bool is_loss(const mr_prog *p, const char *output)
{
    return mri_port_find(&p->losses, output) != 0;
}

/* "d:x" outputs are gradient edges; everything else that is no loss is an edge of F. */
static bool is_grad_edge(const char *name)
{
    return name[0] == 'd' && name[1] == ':';
}

static uint64_t forward_edge_bytes(const mri_plan *pl)
{
    uint64_t b = 0;
    for (size_t i = 0; i < pl->outputs.n; i++)
        if (!is_grad_edge(pl->outputs.v[i].name) && !is_loss(pl->prog, pl->outputs.v[i].name))
            b += align(mr_bytes(&pl->outputs.v[i].type));
    return b;
}

static uint64_t grad_edge_bytes(const mri_plan *pl)
{
    uint64_t b = 0;
    for (size_t i = 0; i < pl->outputs.n; i++)
        if (is_grad_edge(pl->outputs.v[i].name))
            b += align(mr_bytes(&pl->outputs.v[i].type));
    return b;
}

static const mri_plan *plan_of(const mri_exec *e, uint32_t i)
{
    return e->plans.v[e->assembly->instances.v[i].kind];
}

/* Without gradients an edge is dead once its consumers ran. Only chains in which every edge
 * goes to the next instance alternate between two buffers; others keep all. */
static bool is_chain(const mri_exec *e)
{
    for (uint32_t i = 0; i < e->assembly->instances.n; i++)
        if (e->assembly->instances.v[i].edges.n)
            return false;
    return true;
}

static bool edges_alternate(const mri_exec *e)
{
    return !e->opt.plan.train && is_chain(e);
}

/* A gradient edge is read by the instance before; a split W reads it later still. */
static bool grads_alternate(const mri_exec *e)
{
    return !e->opt.plan.split_w && is_chain(e);
}

static void lay_out(mri_exec *e)
{
    uint64_t at = 0, widest = 0, grad = 0;
    uint32_t n = (uint32_t)e->assembly->instances.n;
    e->at_fields = at;
    at += N_FIELDS * field_bytes(e);
    e->at_losses = at;
    at += align((e->losses.n ? e->losses.n : 1) * sizeof(float) * MRI_SCALAR_STRIDE);
    e->at_saved = at;
    for (uint32_t i = 0; i < n; i++) {
        const mri_plan *pl = plan_of(e, i);
        uint64_t edge = forward_edge_bytes(pl);
        widest = edge > widest ? edge : widest;
        e->edge_bytes += edge;
        e->saved_bytes += align(pl->saved_bytes);
        e->keep_bytes += align(pl->keep_bytes);
        uint64_t g = grad_edge_bytes(pl);
        grad = !grads_alternate(e) ? grad + g : g > grad ? g : grad;
        if (pl->scratch_bytes > e->scratch_bytes)
            e->scratch_bytes = align(pl->scratch_bytes);
    }
    if (edges_alternate(e))
        e->edge_bytes = 2 * widest;
    at += e->edge_bytes + e->saved_bytes;
    e->at_keep = at;
    at += e->keep_bytes;
    e->at_grads = at;
    e->grad_bytes = grads_alternate(e) ? 2 * grad : grad;
    at += e->grad_bytes;
    e->at_scratch = at;
    e->bytes = at + e->scratch_bytes;
}

/* ---- frames ------------------------------------------------------------------------------- */

static int32_t output_index(const mri_plan *pl, const char *name)
{
    return mri_plan_port_find(pl->outputs.v, pl->outputs.n, name);
}

/* Gradients of a frozen parameter have no memory and no step that writes them. */
static void bind_params(mri_exec *e, uint32_t instance)
{
    const mri_frame *f = &e->frames.v[instance];
    for (size_t j = 0; j < f->plan->params.n; j++) {
        char *name = mri_assembly_full_name(e->assembly, instance, f->plan->params.v[j].name);
        int64_t s = mri_params_find(e->params, name);
        free(name);
        MRI_ASSERT(s >= 0);
        f->param[j] = mri_params_weight(e->params, &e->params->slots.v[s]);
        f->grad[j] = mri_params_grad(e->params, &e->params->slots.v[s]);
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
    for (uint32_t i = 0; i < e->frames.n; i++)
        for (size_t j = 0; j < e->frames.v[i].plan->states.n; j++) {
            mri_state *s = &e->states.v[at++];
            mr_status st = 0;
            if (s->borrowed)
                s->data = state_data(e->opt.states_of, s->name);
            else if (!s->data)
                st = e->device->ops->alloc(e->device->dev, mr_bytes(&s->type), MR_MEM_ARENA,
                                           &s->data, err);
            if (st)
                return st;
            MRI_ASSERT(s->data);
            e->frames.v[i].state[j] = s->data;
        }
    return 0;
}

mr_status mri_exec_bind(mri_exec *e, char *base, mr_err *err)
{
    uint32_t n = (uint32_t)e->assembly->instances.n;
    uint64_t saved = e->at_saved, keep = e->at_keep, grads = e->at_grads, loss = e->at_losses;
    uint64_t half = e->grad_bytes / 2;
    bool alternate = edges_alternate(e);
    uint64_t edges[2] = { e->at_saved, e->at_saved + e->edge_bytes / 2 };
    mr_status st = bind_states(e, err);
    if (st)
        return st;
    e->base = base;
    if (alternate)
        saved += e->edge_bytes;
    for (uint32_t i = 0; i < n; i++) { /* outputs first: inputs point at them */
        mri_frame *f = &e->frames.v[i];
        const mri_plan *pl = f->plan;
        bind_params(e, i);
        f->saved = base + saved;
        saved += align(pl->saved_bytes);
        f->keep = base + keep;
        keep += align(pl->keep_bytes);
        f->scratch = base + e->at_scratch;
        uint64_t edge = alternate ? edges[i % 2] : saved;
        uint64_t grad = grads_alternate(e) ? e->at_grads + (i % 2) * half : grads;
        for (size_t o = 0; o < pl->outputs.n; o++) {
            const mri_plan_port *port = &pl->outputs.v[o];
            uint64_t *at = is_loss(pl->prog, port->name) ? &loss
                         : is_grad_edge(port->name)      ? &grad
                                                         : &edge;
            f->output[o] = base + *at;
            *at += at == &loss ? MRI_SCALAR_STRIDE * sizeof(float) : align(mr_bytes(&port->type));
        }
        if (!alternate)
            saved = edge;
        if (!grads_alternate(e))
            grads = grad;
    }
    for (uint32_t i = 0; i < n; i++) {
        mri_frame *f = &e->frames.v[i];
        const mri_plan *pl = f->plan;
        for (size_t j = 0; j < pl->inputs.n; j++) {
            const char *name = pl->inputs.v[j].name;
            mri_edge edge;
            for (uint32_t k = 0; k < N_FIELDS; k++)
                if (!strcmp(fields[k].name, name))
                    f->input[j] = base + e->at_fields + k * field_bytes(e);
            if (mri_is_batch_input(name))
                continue;
            if (!is_grad_edge(name)) {
                MRI_ASSERT(mri_assembly_source(e->assembly, i, name, &edge));
                f->input[j] = e->frames.v[edge.from].output[output_index(plan_of(e, edge.from),
                                                                         edge.out)];
                continue;
            }
            /* the gradient of my output: the "d:input" of whoever consumes it */
            f->input[j] = NULL;
            for (uint32_t to = i + 1; to < n; to++)
                for (size_t x = 0; x < plan_of(e, to)->inputs.n; x++) {
                    const char *in = plan_of(e, to)->inputs.v[x].name;
                    if (mri_is_batch_input(in) || is_grad_edge(in) ||
                        !mri_assembly_source(e->assembly, to, in, &edge) || edge.from != (int32_t)i ||
                        strcmp(edge.out, name + 2))
                        continue;
                    char d[128];
                    snprintf(d, sizeof d, "d:%s", in);
                    int32_t o = output_index(plan_of(e, to), d);
                    if (o >= 0)
                        f->input[j] = e->frames.v[to].output[o];
                }
        }
    }
    return 0;
}

/* A gradient that several instances feed would need a sum across blocks, and one that nobody
 * feeds would be read uninitialised: both are refused while compiling. */
static mr_status check_gradients(const mri_exec *e, mr_err *err)
{
    uint32_t n = (uint32_t)e->assembly->instances.n;
    for (uint32_t i = 0; i < n && e->opt.plan.train; i++) {
        const mri_plan *pl = plan_of(e, i);
        for (size_t j = 0; j < pl->inputs.n; j++) {
            const char *name = pl->inputs.v[j].name;
            uint32_t feeders = 0;
            mri_edge edge;
            if (!is_grad_edge(name))
                continue;
            for (uint32_t to = i + 1; to < n; to++)
                for (size_t x = 0; x < plan_of(e, to)->inputs.n; x++) {
                    const char *in = plan_of(e, to)->inputs.v[x].name;
                    feeders += !mri_is_batch_input(in) && !is_grad_edge(in) &&
                               mri_assembly_source(e->assembly, to, in, &edge) &&
                               edge.from == (int32_t)i && !strcmp(edge.out, name + 2);
                }
            if (feeders != 1)
                return mr_fail(err, MR_E_NO_GRADIENT, MR_BLAME_PLUGIN,
                               "output %s of block %s (instance %u) is read by %u later blocks; "
                               "training needs exactly one", name + 2, pl->name, i, feeders);
        }
    }
    return 0;
}

static void **table(size_t n)
{
    return mri_alloc((n ? n : 1) * sizeof(void *));
}

static void make_frame(mri_exec *e, uint32_t i, mri_scalars *scalars)
{
    const mri_plan *pl = plan_of(e, i);
    mri_frame f = { .plan = pl, .label = e->assembly->instances.v[i].prefix, .instance = i };
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
    for (size_t j = 0; j < pl->outputs.n; j++)
        if (is_loss(pl->prog, pl->outputs.v[j].name)) {
            mri_loss l = { pl->outputs.v[j].name, i };
            MRI_PUSH(&e->losses, l);
        }
    MRI_PUSH(&e->frames, f);
}

/* Which outputs are read is a question about all kinds, so it is asked before any compiles. */
static mr_status compile_kinds(mri_exec *e, mr_err *err)
{
    mri_assembly *a = e->assembly;
    mr_list *consumed = mri_alloc(a->kinds.n * sizeof *consumed);
    mr_status st = 0;
    for (uint32_t k = 0; k < a->kinds.n; k++)
        consumed[k] = mri_assembly_consumed(a, k);
    for (size_t k = 0; k < a->kinds.n && !st; k++) {
        mri_plan *pl = NULL;
        mri_plan_options opt = e->opt.plan;
        mr_prog *prog = a->kinds.v[k].prog;
        opt.consumed = &consumed[k];
        a->kinds.v[k].prog = NULL;
        st = mri_plan_compile(prog, &opt, e->device->ops, e->device->dev, &pl, err);
        if (!st) {
            a->kinds.v[k].prog = pl->prog; /* shared view; the plan owns it */
            MRI_PUSH(&e->plans, pl);
        }
    }
    for (uint32_t k = 0; k < a->kinds.n; k++)
        free((void *)(uintptr_t)consumed[k].v);
    free(consumed);
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
    for (uint32_t i = 0; i < a->instances.n; i++)
        make_frame(e, i, scalars);
    MR_TRY(check_gradients(e, err));
    lay_out(e);
out:
    if (st) {
        mri_exec_free(e);
        e = NULL;
    }
    *out = e;
    return st;
}

void mri_exec_free(mri_exec *e)
{
    if (!e)
        return;
    for (size_t i = 0; i < e->frames.n; i++) {
        mri_frame *f = &e->frames.v[i];
        free(f->param);
        free(f->grad);
        free(f->state);
        free(f->scalar);
        free(f->input);
        free(f->output);
    }
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
    mri_assembly_free(e->assembly);
    free(e->frames.v);
    free(e->states.v);
    free(e->plans.v);
    free(e->losses.v);
    free(e);
}

/* ---- running ------------------------------------------------------------------------------ */

mr_status mri_exec_upload(mri_exec *e, const mri_batch *b, mr_err *err)
{
    const void *host[N_FIELDS] = { b->tokens,  b->positions,   b->seq_start,
                                   b->targets, b->loss_weight, b->slot };
    mr_status st = 0;
    for (uint32_t k = 0; k < N_FIELDS && !st; k++)
        if (host[k])
            st = e->device->ops->copy(e->device->dev, e->device->stream,
                                      e->base + e->at_fields + k * field_bytes(e), host[k],
                                      (uint64_t)e->opt.tokens * 4, err);
    return st ? st : mri_device_sync(e->device, err);
}

mr_status mri_exec_run(mri_exec *e, uint32_t instance, uint8_t phase, mr_err *err)
{
    return mri_launch(e->device, &e->frames.v[instance], phase, e->trace, err);
}

mr_status mri_exec_forward(mri_exec *e, mr_err *err)
{
    mr_status st = 0;
    for (uint32_t i = 0; i < e->frames.n && !st; i++)
        st = mri_exec_run(e, i, MRI_F, err);
    return st;
}

mr_status mri_exec_backward(mri_exec *e, mr_err *err)
{
    mr_status st = 0;
    for (uint32_t i = (uint32_t)e->frames.n; i-- > 0 && !st;)
        st = mri_exec_run(e, i, MRI_B, err);
    for (uint32_t i = (uint32_t)e->frames.n; e->opt.plan.split_w && i-- > 0 && !st;)
        st = mri_exec_run(e, i, MRI_W, err);
    return st;
}

mr_status mri_exec_losses(mri_exec *e, float *out, mr_err *err)
{
    size_t n = e->losses.n * MRI_SCALAR_STRIDE;
    float *all = mri_alloc(n * sizeof *all + 1);
    mr_status st = n ? mri_device_read(e->device, all, e->base + e->at_losses, n * sizeof *all, err)
                     : 0;
    bool f64 = false;
    for (size_t i = 0; i < e->losses.n; i++) { /* f64 programs have f64 losses */
        const mri_plan *pl = plan_of(e, e->losses.v[i].instance);
        f64 = mr_is(&pl->outputs.v[output_index(pl, e->losses.v[i].name)].type, "f64");
        out[i] = f64 ? (float)*(double *)(all + i * MRI_SCALAR_STRIDE) : all[i * MRI_SCALAR_STRIDE];
    }
    free(all);
    return st;
}

const void *mri_exec_output(const mri_exec *e, const char *name, const mr_type **type)
{
    for (uint32_t i = (uint32_t)e->frames.n; i-- > 0;) {
        int32_t o = output_index(plan_of(e, i), name);
        if (o >= 0) {
            *type = &plan_of(e, i)->outputs.v[o].type;
            return e->frames.v[i].output[o];
        }
    }
    return NULL;
}

double mri_exec_flops(const mri_exec *e, uint8_t phase)
{
    double f = 0;
    for (uint32_t i = 0; i < e->frames.n; i++)
        f += plan_of(e, i)->flops[phase];
    return f;
}

double mri_exec_model_flops(const mri_exec *e)
{
    double f = 0;
    for (uint32_t i = 0; i < e->frames.n; i++) {
        const mri_plan *pl = plan_of(e, i);
        f += pl->flops[MRI_F] + pl->flops[MRI_B] + pl->flops[MRI_W] - pl->recompute_flops;
    }
    return f;
}
