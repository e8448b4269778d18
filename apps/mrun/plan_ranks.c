/* SPDX-License-Identifier: Apache-2.0
 *
 * plan_ranks.c - see plan_ranks.h. Each stage of the pipeline is planned as its own rank would, so
 * that the Gantt has the times and the table the memory of all.
 */
#include "plan_ranks.h"
#include "core/schedule/lr.h"
#include "train.h"
#include <stdlib.h>
#include <string.h>

typedef struct planner {
    app *a;
    mri_config *c;
    const plan_machine *m;
    double link;           /* bytes a second; 0: the machine's */
    uint32_t ranks, rank;
    uint32_t stages, chunks, micros;
    double (*cost)[3];     /* by virtual stage */
    double *memory, *optimizer_s; /* by stage: bytes; seconds of the update */
    double *saved;         /* by stage: seconds that a zipped pair saves      */
    mri_pipeline pipeline;
    double message_s;      /* of the largest value that crosses */
} planner;

static mr_status open_rank(planner *p, uint32_t rank, mri_world **w, mri_session **s, mr_err *err)
{
    mri_session_options o = app_train_options(p->c);
    mr_status st = 0;
    o.needs = MRI_NEED_TRAIN | MRI_NEED_UPDATE;
    o.dry = true;
    MR_TRY(mri_world_fake(p->c, rank, p->ranks, w, err));
    MR_TRY(mri_world_settle(*w, p->c, err));
    o.world = *w;
    MR_TRY(mri_session_open(p->a->registry, p->c, &o, s, err));
out:
    return st;
}

static void close_rank(mri_world *w, mri_session *s)
{
    mri_session_close(s);
    mri_world_close(w);
}

/* ---- what each stage costs ------------------------------------------------------------------- */

/* Reads gradients, states and masters, writes states, masters and weights. */
static double update_seconds(const mri_session *s, const plan_machine *m)
{
    mri_memory x;
    mri_session_memory(s, &x);
    return 2 * (double)(x.optimizer + x.parameters) / m->memory;
}

static bool seams_of(const mri_exec *e) /* is there anything to zip? */
{
    bool any = false;
    for (size_t k = 0; k < e->plans.n; k++)
        any |= mri_plan_pieces(e->plans.v[k], MRI_F) > 1;
    return any;
}

static void note_costs(planner *p, const mri_session *s)
{
    const mri_mesh *mesh = &s->world->mesh;
    mri_memory x;
    mri_session_memory(s, &x);
    p->memory[mesh->i_pp] = (double)(x.parameters + x.optimizer + x.arena + x.states);
    p->optimizer_s[mesh->i_pp] = update_seconds(s, p->m);
    const plan_rates r = { p->m, mesh, p->link };
    double (*cost)[3] = p->cost + mesh->i_pp;
    for (uint32_t k = 0; k < p->chunks; k++)
        for (int phase = 0; phase < MRI_PHASES; phase++)
            cost[k * p->stages][phase] = plan_chunk_seconds(s, k, phase, &r);
    for (uint32_t k = 0; k < p->chunks && seams_of(s->train); k++) { /* the mean of its chunks */
        uint32_t back = p->chunks - 1 - k;
        double apart = cost[k * p->stages][MRI_F] + cost[back * p->stages][MRI_B];
        p->saved[mesh->i_pp] +=
            (apart - plan_pair_seconds(s, k, back, &r, &(plan_lanes){ 0 })) / p->chunks;
    }
    for (size_t l = 0; l < s->relay.stage.bytes.n; l++) {
        double t = plan_link(mesh, MRI_GROUP_PP, (double)s->relay.stage.bytes.v[l], p->m, p->link);
        p->message_s = t > p->message_s ? t : p->message_s;
    }
}

/* ---- what is told ---------------------------------------------------------------------------- */

static void print_placements(const mri_session *s, mri_str *out)
{
    mri_str_fmt(out, "parameters of this rank\n  %-30s %8s %16s %16s\n", "", "tensors", "here",
                "of the whole");
    for (uint32_t g = 0; g < s->params.groups.n; g++) {
        const mri_pgroup *x = &s->params.groups.v[g];
        double here = 0, whole = 0;
        uint32_t n = 0;
        for (size_t i = 0; i < s->params.slots.n; i++) {
            const mri_tensor_slot *t = &s->params.slots.v[i];
            double all = 1;
            if (t->group != g)
                continue;
            for (uint32_t d = 0; d < t->place.rank; d++)
                all *= (double)t->place.full[d];
            here += (double)t->n;
            whole += t->place.rank ? all : (double)t->n;
            n++;
        }
        char *what = mri_format("%s%s%s%s%s", x->expert ? "experts" : "dense",
                                x->split & MRI_AXIS_TP ? ", split over tp" : "",
                                x->split & MRI_AXIS_EP ? ", split over ep" : "",
                                x->decay_mult > 0 ? "" : ", no decay", x->frozen ? ", frozen" : "");
        mri_str_fmt(out, "  %-30s %8u %16.0f %16.0f\n", what, n, here, whole);
        free(what);
    }
}

static void print_pipeline(planner *p, mri_str *out)
{
    static const char *const names[] = { "1F1B", "interleaved 1F1B", "zero bubble" };
    const mri_pipeline *x = &p->pipeline;
    mri_str_fmt(out, "pipeline: %s, %u stages of %u, %u micro-batches a rank and step\n",
                names[x->o.kind], p->stages, p->chunks, p->micros);
    mri_pipeline_print(x, 96, out);
    mri_str_fmt(out, "  %-10s %6s %12s %12s %12s %14s\n", "stage", "slots", "ms F", "ms B", "ms W",
                "memory");
    for (uint32_t s = 0; s < p->stages; s++) {
        double t[3] = { 0 };
        for (uint32_t k = 0; k < p->chunks; k++)
            for (int phase = 0; phase < 3; phase++)
                t[phase] += 1e3 * p->cost[k * p->stages + s][phase];
        char *bytes = mri_bytes_text(p->memory[s]);
        mri_str_fmt(out, "  %-10u %6u %12.3f %12.3f %12.3f %14s\n", s, x->slots[s], t[0], t[1],
                    t[2], bytes);
        free(bytes);
    }
}

/* Seconds of all micro-batches, zipped or not; below 0: that way there is none. */
static double pipeline_seconds(const planner *p, const mri_session *s, bool zipped)
{
    mri_cfg_mesh cfg = p->c->mesh;
    mri_pipeline x;
    mr_err ignored = MR_ERR_INIT;
    double seconds;
    cfg.overlap_moe_expert_parallel_comm = zipped;
    if (p->stages == 1) {
        seconds = p->micros * (p->cost[0][MRI_F] + p->cost[0][MRI_B] + p->cost[0][MRI_W]);
        return seconds - (zipped ? (p->micros - 1) * p->saved[0] : 0);
    }
    if (mri_relay_pipeline(&s->relay, &cfg, s->train->opt.plan.split_w, p->micros, &x, &ignored))
        return -1;
    x.saved = p->saved;
    mri_pipeline_simulate(&x, (const double (*)[3])p->cost, p->message_s);
    seconds = x.time;
    mri_pipeline_free(&x);
    return seconds;
}

/* A forward beside another micro-batch's backward, on this rank, and what it is worth. */
static void print_zipped(const planner *p, const mri_session *s, mri_str *out)
{
    enum { COLUMNS = 96 };
    char rows[2][COLUMNS + 1] = { { 0 } };
    const plan_rates r = { p->m, &s->world->mesh, p->link };
    plan_lanes l = { { rows[0], rows[1] }, COLUMNS, 0, { 0, 0 } };
    double apart = pipeline_seconds(p, s, false), zipped = pipeline_seconds(p, s, true);
    if (!seams_of(s->train))
        return;
    double pair = plan_pair_seconds(s, 0, p->chunks - 1, &r, &l);
    mri_str_fmt(out, "a forward zipped with another micro-batch's backward: %.3f ms, kernels %.3f, "
                "collectives %.3f\n  kernels   %s\n  links     %s\n", 1e3 * pair, 1e3 * l.busy[0],
                1e3 * l.busy[1], rows[0], rows[1]);
    if (zipped > 0)
        mri_str_fmt(out, "overlap_moe_expert_parallel_comm: %.1f ms with it, %.1f without\n",
                    1e3 * zipped, 1e3 * apart);
    else
        mri_str_add(out, "overlap_moe_expert_parallel_comm: not with this pipeline (vpp above 1)\n");
}

/* What this rank computes of one micro-batch: less than all of it where ranks share the work. */
static void print_work(const mri_exec *e, mri_str *out)
{
    double forward = 0, backward = 0, again = 0;
    for (uint32_t i = 0; i < mri_exec_instances(e); i++) {
        const mri_plan *p = mri_exec_frame(e, 0, i)->plan;
        forward += p->flops[MRI_F];
        backward += p->flops[MRI_B] + p->flops[MRI_W] - p->recompute_flops;
        again += p->recompute_flops;
    }
    mri_str_fmt(out, "a micro-batch on this rank: %.4g Gflop forward, %.4g backward, %.4g computed "
                "again\n", forward / 1e9, backward / 1e9, again / 1e9);
}

static void print_time(const planner *p, const mri_session *s, mri_str *out)
{
    double update = 0, tokens = (double)s->train->opt.tokens * p->micros * s->world->mesh.dp;
    for (uint32_t k = 0; k < p->stages; k++)
        update = p->optimizer_s[k] > update ? p->optimizer_s[k] : update;
    bool zips = mri_stages_zipped(s) && p->stages == 1;
    double all = zips ? pipeline_seconds(p, s, true) : p->pipeline.time, step = all + update;
    mri_str_fmt(out, "step on %s: %.1f ms (%.1f the pipeline, of which bubble %.1f %%; %.1f the "
                "update), %.0f tokens/s\n", p->m->name, 1e3 * step, 1e3 * all,
                100 * mri_pipeline_bubble(&p->pipeline), 1e3 * update, tokens / step);
    mri_str_add(out, "times are op costs at the machine's rates, one kernel after the other and "
                     "collectives beside them where the plan says so; the "
                     "sum of gradients over dp is not in them\n");
}

/* ---- all ------------------------------------------------------------------------------------- */

static mr_status make_pipeline(planner *p, const mri_session *s, mr_err *err)
{
    const mri_exec *e = s->train;
    mri_pipeline_options one = { .stages = 1, .chunks = 1, .micros = p->micros,
                                 .split_w = e->opt.plan.split_w };
    mr_status st = p->stages > 1 ? mri_relay_pipeline(&s->relay, &p->c->mesh, e->opt.plan.split_w,
                                                      p->micros, &p->pipeline, err)
                                 : mri_pipeline_make(&one, &p->pipeline, err);
    return st;
}

static mr_status plan_stages(planner *p, const mri_world *w, mr_err *err)
{
    uint32_t inner = w->mesh.tp * w->mesh.cp * w->mesh.dp;
    mr_status st = 0;
    for (uint32_t s = 0; s < p->stages && !st; s++) {
        mri_world *other = NULL;
        mri_session *session = NULL;
        st = open_rank(p, p->rank % inner + s * inner, &other, &session, err);
        if (!st)
            note_costs(p, session);
        close_rank(other, session);
    }
    return st;
}

mr_status plan_ranks(app *a, mri_config *c, uint32_t ranks, uint32_t rank, const plan_machine *m,
                     mri_str *out, mr_err *err)
{
    planner p = { .a = a, .c = c, .m = m, .ranks = ranks, .rank = rank,
                  .link = c->comm.link_gbytes * 1e9 };
    mri_world *w = NULL;
    mri_session *s = NULL;
    mr_status st = 0;
    MR_TRY(open_rank(&p, rank, &w, &s, err));
    p.stages = w->mesh.pp;
    p.chunks = p.stages > 1 ? s->relay.stage.chunks : 1;
    int64_t unit = c->train.micro_batch * w->mesh.dp;
    p.micros = (uint32_t)((mri_global_batch(&c->train, 0) + unit - 1) / unit);
    p.cost = mri_alloc((size_t)p.stages * p.chunks * sizeof *p.cost);
    p.memory = mri_alloc(p.stages * sizeof *p.memory);
    p.optimizer_s = mri_alloc(p.stages * sizeof *p.optimizer_s);
    p.saved = mri_alloc(p.stages * sizeof *p.saved);
    MR_TRY(make_pipeline(&p, s, err));
    MR_TRY(plan_stages(&p, w, err));
    p.pipeline.saved = p.saved;
    mri_pipeline_simulate(&p.pipeline, (const double (*)[3])p.cost, p.message_s);
    mri_mesh_print(&w->mesh, out);
    print_placements(s, out);
    plan_memory(s, out);
    print_work(s->train, out);
    plan_collectives(s->train, &w->mesh, p.micros, m, p.link, out);
    print_pipeline(&p, out);
    print_zipped(&p, s, out);
    print_time(&p, s, out);
out:
    mri_pipeline_free(&p.pipeline);
    free(p.cost);
    free(p.memory);
    free(p.saved);
    free(p.optimizer_s);
    close_rank(w, s);
    return st;
}
