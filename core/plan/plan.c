/* SPDX-License-Identifier: Apache-2.0
 * plan.c - drives the passes over one block kind; see plan.h. */
#include "plan.h"
#include <stdlib.h>
#include <string.h>

/* An output must be a temporary of its own: one that is an input, a parameter or a second
 * name of another output gets a copy, so that each output has one buffer and one writer. */
static mr_status own_outputs(mr_prog *p, size_t from, uint8_t phase, mr_err *err)
{
    mr_status st = 0;
    p->phase = phase;
    for (size_t i = from; i < p->outputs.n && !st; i++) {
        mr_val v = p->outputs.v[i].value;
        bool twice = false;
        for (size_t j = 0; j < i; j++)
            twice |= p->outputs.v[j].value == v;
        const mri_value *x = mri_val(p, v);
        if (x->kind == MRI_TEMP && !twice && x->phase == phase)
            continue;
        mr_attr a = mr_as("dtype", x->type.dtype);
        st = mri_prog_node(p, "cast", &v, 1, &a, 1, &v, 1, NULL, 0);
        for (size_t j = 0; j < p->losses.n && !st; j++)
            if (!strcmp(p->losses.v[j].name, p->outputs.v[i].name))
                p->losses.v[j].value = v;
        p->outputs.v[i].value = v;
    }
    p->phase = MRI_F;
    if (st)
        *err = p->err;
    return st;
}

static void add_ports(mri_plan *plan)
{
    const mr_prog *p = plan->prog;
    for (size_t i = 0; i < p->values.n; i++) {
        const mri_value *v = &p->values.v[i];
        mri_plan_port port = { v->name, (mr_val)(i + 1), v->type };
        if (v->kind == MRI_PARAM && !v->joined)
            MRI_PUSH(&plan->params, port);
        else if (v->kind == MRI_PARAM)
            continue;
        else if (v->kind == MRI_STATE)
            MRI_PUSH(&plan->states, port);
        else if (v->kind == MRI_SCALAR)
            MRI_PUSH(&plan->scalars, port);
        else if (v->kind == MRI_INPUT)
            MRI_PUSH(&plan->inputs, port);
    }
    for (size_t i = 0; i < p->outputs.n; i++) {
        mri_plan_port port = { p->outputs.v[i].name, p->outputs.v[i].value,
                               mri_val(p, p->outputs.v[i].value)->type };
        MRI_PUSH(&plan->outputs, port);
    }
}

int32_t mri_plan_port_find(const mri_plan_port *v, size_t n, const char *name)
{
    for (size_t i = 0; i < n; i++)
        if (!strcmp(v[i].name, name))
            return (int32_t)i;
    return -1;
}

/* Each pass, its name, whether this compilation runs it. */
static mr_status pass_types(mri_plan *plan, const mri_plan_options *opt, mr_err *err)
{
    (void)opt;
    return own_outputs(plan->prog, 0, MRI_F, err);
}

static mr_status pass_vjp(mri_plan *plan, const mri_plan_options *opt, mr_err *err)
{
    if (!opt->train)
        return 0;
    size_t forward = plan->prog->outputs.n;
    mr_status st = mri_pass_vjp(plan->prog, opt->consumed, opt->constant, opt->loss, err);
    return st ? st : own_outputs(plan->prog, forward, MRI_B, err);
}

static mr_status pass_recompute(mri_plan *plan, const mri_plan_options *opt, mr_err *err)
{
    return opt->train ? mri_pass_recompute(plan->prog, opt->recompute, err) : 0;
}

static mr_status pass_arena(mri_plan *plan, const mri_plan_options *opt, mr_err *err)
{
    add_ports(plan);
    return mri_pass_arena(plan, opt, err);
}

static const struct {
    const char *name;
    mr_status (*run)(mri_plan *, const mri_plan_options *, mr_err *);
} passes[] = {
    { "types", pass_types },   { "join", mri_pass_join },           { "vjp", pass_vjp },
    { "comm", mri_pass_comm }, { "precision", mri_pass_precision }, { "recompute", pass_recompute },
    { "fuse", mri_pass_fuse }, { "lower", mri_pass_lower },         { "streams", mri_pass_streams },
    { "arena", pass_arena },
};

/* The program with all that the passes decided: options, kernels, room. */
static uint64_t identify(const mri_plan *plan, const mri_plan_options *opt)
{
    uint64_t shape[] = { opt->train,  opt->split_w,      opt->deterministic,  opt->guard,
                         opt->stress, plan->saved_bytes, plan->scratch_bytes, plan->keep_bytes,
                         opt->sum_squares, opt->overlap,     opt->shared_beside };
    uint64_t id = mri_hash(mri_prog_hash(plan->prog), shape, sizeof shape);
    for (int ph = 0; ph < MRI_PHASES; ph++)
        for (size_t i = 0; i < plan->steps[ph].n; i++)
            id = mri_hash_str(id, plan->steps[ph].v[i].info.impl ? plan->steps[ph].v[i].info.impl
                                                                 : "");
    return id;
}

mr_status mri_plan_compile(mr_prog *prog, const mri_plan_options *opt,
                           const mr_backend_ops *backend, void *dev, mri_plan **out, mr_err *err)
{
    mr_status st = 0;
    mri_plan *plan = mri_alloc(sizeof *plan);
    plan->prog = prog;
    plan->name = prog->name;
    plan->backend = backend;
    plan->dev = dev;
    plan->train = opt->train;
    plan->split_w = opt->split_w;
    for (size_t i = 0; i < sizeof passes / sizeof *passes; i++) {
        MR_TRY(passes[i].run(plan, opt, err));
        MR_TRY(mri_prog_verify(prog, passes[i].name, err));
        if (opt->stop_after && !strcmp(opt->stop_after, passes[i].name))
            break;
    }
    plan->id = identify(plan, opt);
out:
    if (st) {
        mri_plan_free(plan);
        plan = NULL;
    }
    *out = plan;
    return st;
}

void mri_plan_free(mri_plan *plan)
{
    if (!plan)
        return;
    for (int ph = 0; ph < MRI_PHASES; ph++) {
        for (size_t i = 0; i < plan->steps[ph].n; i++) {
            mri_step *s = &plan->steps[ph].v[i];
            if (s->kernel)
                plan->backend->release(plan->dev, s->kernel);
            if (s->first)
                plan->backend->release(plan->dev, s->first);
            free(s->dead.v);
            free(s->dead_bytes.v);
        }
        free(plan->steps[ph].v);
    }
    free(plan->params.v);
    free(plan->states.v);
    free(plan->scalars.v);
    free(plan->inputs.v);
    free(plan->outputs.v);
    free(plan->buffers.v);
    mri_prog_free(plan->prog);
    free(plan);
}

static void print_addr(const mri_plan *p, mri_addr a, mri_str *out)
{
    static const char *const name[] = { "-",     "param", "grad",    "state", "scalar",
                                        "input", "output", "saved", "scratch", "keep" };
    const mri_plan_port *port = NULL;
    if (a.seg == MRI_SEG_PARAM || a.seg == MRI_SEG_GRAD)
        port = p->params.v;
    else if (a.seg == MRI_SEG_STATE)
        port = p->states.v;
    else if (a.seg == MRI_SEG_SCALAR)
        port = p->scalars.v;
    else if (a.seg == MRI_SEG_INPUT)
        port = p->inputs.v;
    else if (a.seg == MRI_SEG_OUTPUT)
        port = p->outputs.v;
    if (port)
        mri_str_fmt(out, "%s:%s", name[a.seg], port[a.at].name);
    else if (a.seg)
        mri_str_fmt(out, "%s+%llu", name[a.seg], (unsigned long long)a.at);
    else
        mri_str_add(out, "-");
}

void mri_plan_print(const mri_plan *p, mri_str *out)
{
    mri_str_fmt(out, "plan %016llx block %s: saved %llu B, scratch %llu B, keep %llu B\n",
                (unsigned long long)p->id, p->name, (unsigned long long)p->saved_bytes,
                (unsigned long long)p->scratch_bytes, (unsigned long long)p->keep_bytes);
    for (int ph = 0; ph < MRI_PHASES; ph++)
        for (size_t i = 0; i < p->steps[ph].n; i++) {
            const mri_step *s = &p->steps[ph].v[i];
            const mri_node *n = &p->prog->nodes.v[s->node];
            mri_str_fmt(out, "  %s%c %3zu s%u %-22s", mri_phase_name[ph], n->recomputed ? 'r' : ' ',
                        i, s->stream, n->def->id);
            for (uint32_t j = 0; j < n->n_in; j++) {
                mri_str_add(out, " ");
                print_addr(p, s->in[j], out);
            }
            mri_str_add(out, " ->");
            for (uint32_t j = 0; j < n->n_out; j++) {
                mri_str_add(out, " ");
                print_addr(p, s->out[j], out);
            }
            mri_str_fmt(out, "  %.3g Mflop %.3g MB", s->cost.flops / 1e6, s->cost.bytes / 1e6);
            if (s->info.impl)
                mri_str_fmt(out, " (%s)", s->info.impl);
            mri_step_print_comm(p, s, out);
            if (n->region)
                mri_str_fmt(out, " [%s]", p->prog->regions.v[n->region].path);
            mri_str_add(out, "\n");
        }
}
