/* SPDX-License-Identifier: Apache-2.0
 *
 * plan.c - `mrun plan PROFILE.ini [--print PASS | --ranks N --rank R]`: what the run would do,
 * before it does it; plan_ranks.c has one rank of many.
 * Memory, flops and the schedule on stdout; --print shows every block after one pass (types,
 * join, vjp, recompute, fuse, lower, streams, arena).
 */
#include "app.h"
#include "core/run/session.h"
#include "core/schedule/schedule.h"
#include "core/schedule/lr.h"
#include "plan_ranks.h"
#include "train.h"
#include <stdlib.h>
#include <string.h>

static void row(mri_str *o, const char *what, double bytes)
{
    char *t = mri_bytes_text(bytes);
    mri_str_fmt(o, "  %-38s %14.0f  %s\n", what, bytes, t);
    free(t);
}

void plan_memory(const mri_session *s, mri_str *o)
{
    mri_memory m;
    mri_session_memory(s, &m);
    mri_str_add(o, "memory (bytes)\n");
    row(o, "weights, masters, main gradients", (double)m.parameters);
    row(o, "optimizer states", (double)m.optimizer);
    row(o, "arena", (double)m.arena);
    row(o, "  saved for backward", (double)m.saved);
    row(o, "  edges between blocks", (double)m.edges);
    if (m.shared)
        row(o, "  of these two, over the gradients", (double)m.shared);
    row(o, "  scratch", (double)m.scratch);
    row(o, "model states", (double)m.states);
    row(o, "predicted peak", (double)(m.parameters + m.optimizer + m.arena + m.states));
    if (m.device && m.device != UINT64_MAX)
        row(o, "device", (double)m.device);
}

static void print_blocks(const mri_exec *e, mri_str *o)
{
    mri_str_fmt(o, "blocks\n  %-22s %5s %9s %12s %12s %10s %10s %10s  %s\n", "kind", "count",
                "steps F/B", "saved", "scratch", "Mflop F", "Mflop B+W", "recompute", "plan");
    for (size_t k = 0; k < e->plans.n; k++) {
        const mri_plan *p = e->plans.v[k];
        uint32_t count = 0;
        for (size_t i = 0; i < e->assembly->instances.n; i++)
            count += e->assembly->instances.v[i].kind == k;
        mri_str_fmt(o, "  %-22s %5u %4zu/%-4zu %12llu %12llu %10.2f %10.2f %10.2f  %016llx\n",
                    p->name, count, p->steps[MRI_F].n, p->steps[MRI_B].n + p->steps[MRI_W].n,
                    (unsigned long long)p->saved_bytes, (unsigned long long)p->scratch_bytes,
                    p->flops[MRI_F] / 1e6,
                    (p->flops[MRI_B] + p->flops[MRI_W] - p->recompute_flops) / 1e6,
                    p->recompute_flops / 1e6, (unsigned long long)p->id);
    }
}

static void print_schedule(const mri_session *s, mri_str *o)
{
    const mri_exec *e = s->train;
    int64_t rows = mri_global_batch(&s->config->train, 0), mb = s->config->train.micro_batch;
    uint32_t n = (uint32_t)((rows + mb - 1) / mb);
    mri_schedule sc;
    uint32_t instances = mri_exec_instances(e);
    const char **labels = mri_alloc((instances + 1) * sizeof *labels);
    for (uint32_t i = 0; i < instances; i++) {
        const mri_frame *f = mri_exec_frame(e, 0, i);
        labels[i] = *f->label ? f->label : f->plan->name;
    }
    mri_schedule_single(&sc, instances, n, e->opt.plan.split_w);
    mri_str_fmt(o, "schedule (%u micro-batches of %lld x %lld tokens a step)\n", n, (long long)mb,
                (long long)s->config->train.seq);
    mri_schedule_print(&sc, labels, o);
    mri_schedule_free(&sc);
    free(labels);
}

/* Compiles each block kind up to one pass and prints it. */
static mr_status print_pass(const mri_session *s, const char *pass, mri_str *o, mr_err *err)
{
    mri_assembly *a = NULL;
    mr_list consumed[64] = { 0 }, constant[64] = { 0 };
    mr_block_env env = { sizeof env, 0, "train",
                         s->config->train.micro_batch * s->config->train.seq, 0, 0,
                         s->config->train.seq, s->whole, 0,
                         s->train ? s->train->opt.images : 0, 0, 0, 0 };
    mri_plan_options po = s->train->opt.plan;
    po.stop_after = pass;
    po.host_fallback = true;
    po.beside = mri_exec_beside;
    po.beside_ctx = s->train;
    mr_status st = mri_assemble(s->model_ops, s->model, &env, s->model_dtype, &a, err);
    if (!st)
        st = mri_session_cut(s, a, &env, err);
    if (!st)
        st = mri_assembly_freeze(a, s->model_ops, s->model, &env, s->model_dtype, mri_params_frozen,
                                 &s->params, err);
    if (!st)
        st = mri_session_cut(s, a, &env, err);
    if (!st && a->kinds.n > 64)
        st = mr_fail(err, MR_E_UNSUPPORTED, MR_BLAME_USER, "the model has over 64 block kinds");
    bool steps = !strcmp(pass, "lower") || !strcmp(pass, "streams") || !strcmp(pass, "arena");
    for (uint32_t k = 0; !st && k < a->kinds.n; k++) {
        consumed[k] = mri_assembly_consumed(a, k, NULL);
        constant[k] = mri_assembly_constant(a, k);
    }
    for (size_t k = 0; !st && k < a->kinds.n; k++) {
        mri_plan *p = NULL;
        po.consumed = &consumed[k];
        po.constant = &constant[k];
        mr_prog *prog = a->kinds.v[k].prog;
        a->kinds.v[k].prog = NULL;
        st = mri_plan_compile(prog, &po, s->device.ops, s->device.dev, &p, err);
        if (!st && steps && strcmp(pass, "arena")) /* no ports yet: show the steps' kernels */
            mri_prog_print(p->prog, o);
        else if (!st && steps)
            mri_plan_print(p, o);
        else if (!st)
            mri_prog_print(p->prog, o);
        mri_plan_free(p);
    }
    for (size_t k = 0; k < 64; k++) {
        free((void *)(uintptr_t)consumed[k].v);
        free((void *)(uintptr_t)constant[k].v);
    }
    mri_assembly_free(a);
    return st;
}

/* --ranks N --rank R --machine M */
static int plan_of_many(app *a, app_args *args)
{
    const char *n = app_arg(args, "--ranks"), *r = app_arg(args, "--rank");
    const char *machine = app_arg(args, "--machine");
    const plan_machine *m = plan_machine_find(machine ? machine : "h100");
    long long ranks = atoll(n), rank = r ? atoll(r) : 0;
    mr_err err = MR_ERR_INIT;
    mri_config *c = NULL;
    mri_str o = { 0 };
    mr_status st = 0;
    if (ranks < 1 || ranks > 1 << 20 || rank < 0 || rank >= ranks)
        return app_usage(a, "--ranks %s --rank %s: a number from 1 on, and one below it", n,
                         r ? r : "0");
    if (!m) {
        plan_machines(&o);
        int code = app_usage(a, "no machine '%s': %s", machine, o.s);
        mri_str_free(&o);
        return code;
    }
    MRI_PUSH(&args->sets, "comm.plugin=fake");
    MR_TRY(mri_config_load(a->registry, args->positional.v[0], args->sets.v, args->sets.n, &c,
                           &err));
    MR_TRY(plan_ranks(a, c, (uint32_t)ranks, (uint32_t)rank, m, &o, &err));
    fputs(o.s ? o.s : "", stdout);
out:
    mri_str_free(&o);
    mri_config_free(c);
    return st ? app_fail(a, &err) : EXIT_OK;
}

int cmd_plan(app *a, int argc, char **argv)
{
    static const char *const takes[] = { "--print", "--ranks", "--rank", "--machine", NULL };
    static const char *const passes[] = { "types", "join",  "vjp",     "precision", "recompute",
                                          "fuse",  "lower", "streams", "arena" };
    app_args args = { 0 };
    mr_err err = MR_ERR_INIT;
    mri_config *c = NULL;
    mri_session *s = NULL;
    mri_str o = { 0 };
    int code = app_args_parse(a, argc, argv, takes, NULL, &args);
    const char *pass = app_arg(&args, "--print");
    bool known = !pass;
    for (size_t i = 0; pass && i < sizeof passes / sizeof *passes; i++)
        known |= !strcmp(pass, passes[i]);
    if (!code && args.positional.n != 1)
        code = app_usage(a, "plan needs one profile: mrun plan PROFILE.ini");
    if (!code && !known)
        code = app_usage(a, "no pass '%s': types, join, vjp, precision, recompute, fuse, lower, "
                         "streams or arena", pass);
    if (!code && pass && app_arg(&args, "--ranks"))
        code = app_usage(a, "--print shows the blocks of one rank alone, not those of --ranks %s",
                         app_arg(&args, "--ranks"));
    mr_status st = 0;
    if (!code && app_arg(&args, "--ranks")) {
        code = plan_of_many(a, &args);
        goto done;
    }
    if (code)
        goto done;
    MR_TRY(mri_config_load(a->registry, args.positional.v[0], args.sets.v, args.sets.n, &c, &err));
    mri_session_options so = app_train_options(c);
    so.needs &= ~(uint32_t)(MRI_NEED_DATA | MRI_NEED_TOKENIZER); /* planning needs no text */
    so.dry = true;
    MR_TRY(mri_session_open(a->registry, c, &so, &s, &err));
    if (pass) {
        MR_TRY(print_pass(s, pass, &o, &err));
    } else {
        mri_str_fmt(&o, "%llu parameters, %zu tensors, %zu groups; %s on %s\n",
                    (unsigned long long)s->params.count, s->params.slots.n, s->params.groups.n,
                    s->model_dtype, s->device.info.name);
        plan_memory(s, &o);
        print_blocks(s->train, &o);
        mri_str_fmt(&o, "model flops: %.4g a token (forward and backward, no recomputation)\n",
                    mri_exec_model_flops(s->train) / (double)s->train->opt.tokens);
        print_schedule(s, &o);
    }
    fputs(o.s ? o.s : "", stdout);
out:
    code = st ? app_fail(a, &err) : EXIT_OK;
done:
    mri_str_free(&o);
    mri_session_close(s);
    mri_config_free(c);
    app_args_free(&args);
    return code;
}
