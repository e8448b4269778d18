/* SPDX-License-Identifier: Apache-2.0
 * shard.c - drives the shard pass: named values first, then op by op, then ports; see shard.h. */
#include "shard_experts.h"
#include "shard_state.h"
#include <stdlib.h>
#include <string.h>

mr_status mri_shard_fail(mri_sharding *s, const char *fmt, ...)
{
    char why[240];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(why, sizeof why, fmt, ap);
    va_end(ap);
    mr_fail(s->err, MR_E_PROFILE_CONFLICT, MR_BLAME_USER, "block %s cannot be cut over tp = %lld: %s",
            s->old->name, (long long)s->n, why);
    mr_hint(s->err, "[mesh] tp must divide heads, kv_heads, the vocabulary and the widths of the "
                    "products that are split");
    return MR_E_PROFILE_CONFLICT;
}

/* "tp:0 fsdp:1" -> the dim of an axis, -1: none */
static int32_t placed(const char *placement, const char *axis)
{
    size_t n = strlen(axis);
    for (const char *w = placement; w && *w; w += strcspn(w, " "), w += *w == ' ')
        if (!strncmp(w, axis, n) && w[n] == ':')
            return atoi(w + n + 1);
    return -1;
}

static void copy_param(mr_prog *p, mri_value *to, const mri_value *from)
{
    to->param = from->param;
    to->param.init = mri_prog_string(p, from->param.init);
    to->param.placement = mri_prog_string(p, from->param.placement);
    to->param.tensors = mri_prog_string(p, from->param.tensors);
    to->place = from->place;
}

/* Parameters, inputs, states and scalars keep their order. */
static mr_status copy_named(mri_sharding *s)
{
    mr_status st = 0;
    for (size_t i = 0; i < s->old->values.n; i++) {
        const mri_value *v = &s->old->values.v[i];
        mr_type t = v->type;
        s->at[i] = MRI_WHOLE;
        if (v->kind == MRI_TEMP)
            continue;
        if (v->kind == MRI_INPUT && !mri_is_batch_input(v->name) && mri_shard_streams(s, &t)) {
            t.dim[0] /= s->n;
            s->at[i] = 0;
        }
        mr_val made = s->to[i] = mri_prog_value(s->p, v->kind, v->name, &t);
        mri_val(s->p, made)->flags = v->flags;
        if (v->kind != MRI_PARAM)
            continue;
        copy_param(s->p, mri_val(s->p, made), v);
        int32_t d = placed(v->param.placement, "tp");
        if (d >= (int32_t)v->type.rank)
            return mri_shard_fail(s, "parameter %s of %u dims is placed tp:%d", v->name,
                                  v->type.rank, d);
        if (d >= 0)
            MR_TRY(mri_shard_cut_named(s, (mr_val)(i + 1), (uint32_t)d));
    }
out:
    return st;
}

static bool listed(const mr_list *l, const char *name)
{
    for (uint64_t i = 0; l && i < l->n; i++)
        if (!strcmp(l->v[i], name))
            return true;
    return false;
}

static mr_status copy_outputs(mri_sharding *s, const mr_list *streams)
{
    mr_status st = 0;
    for (size_t i = 0; i < s->old->outputs.n; i++) {
        const mri_port *o = &s->old->outputs.v[i];
        bool cut = listed(streams, o->name) &&
                   mri_shard_streams(s, &mri_val(s->old, o->value)->type);
        mri_port port = { mri_prog_string(s->p, o->name), 0 };
        MR_TRY(mri_shard_move(s, o->value, cut ? 0 : MRI_WHOLE, MRI_FOR_ALL, &port.value));
        MRI_PUSH(&s->p->outputs, port);
        if (mri_port_find(&s->old->losses, o->name))
            MRI_PUSH(&s->p->losses, port);
    }
out:
    return st;
}

/* which gradients are sums over tp */
static void mark_partial(mri_sharding *s)
{
    for (size_t i = 0; i < s->old->values.n; i++)
        if (s->old->values.v[i].kind == MRI_PARAM && (s->used[i] & MRI_USED_PARTIAL) &&
            !mri_val(s->p, s->to[i])->place.expert)
            mri_val(s->p, s->to[i])->place.partial |= MRI_AXIS_TP;
}

static void copy_regions(mri_sharding *s)
{
    for (size_t i = 1; i < s->old->regions.n; i++) {
        const mri_region *r = &s->old->regions.v[i];
        mri_region c = { mri_prog_string(s->p, r->name), mri_prog_string(s->p, r->path), r->parent };
        MRI_PUSH(&s->p->regions, c);
    }
}

mr_status mri_shard_program(mr_prog **prog, const mri_mesh *mesh, const mr_list *streams,
                            mr_err *err)
{
    mr_status st = 0;
    mr_prog *old = *prog;
    size_t n = old->values.n + 1;
    mri_sharding s = { .old = old, .p = mri_prog_new(old->name, old->model_dtype), .mesh = mesh,
                       .n = mesh->tp, .index = mesh->i_tp, .to = mri_alloc(n * sizeof *s.to),
                       .at = mri_alloc(n * sizeof *s.at), .used = mri_alloc(n), .err = err };
    s.p->caches = old->caches;
    s.p->exact = old->exact;
    copy_regions(&s);
    MR_TRY(copy_named(&s));
    for (size_t i = 0; i < old->nodes.n; i++)
        MR_TRY(mri_shard_node(&s, &old->nodes.v[i]));
    MR_TRY(copy_outputs(&s, streams));
    mark_partial(&s);
    s.p->sharded = true;
    MR_TRY(mri_prog_verify(s.p, "shard", err));
    *prog = s.p;
    s.p = old;
out:
    mri_prog_free(s.p);
    free(s.to);
    free(s.at);
    free(s.used);
    free(s.moved.v);
    return st;
}

/* Experts lie on a grid of their own where ranks have other tokens each. */
static void mark_experts(mr_prog *p, const mri_mesh *m)
{
    bool grid = m->ep > 1 || (m->tp > 1 && m->sequence);
    for (size_t i = 0; i < p->values.n; i++) {
        mri_value *v = &p->values.v[i];
        if (v->kind == MRI_PARAM)
            v->place.expert = grid && placed(v->param.placement, "ep") >= 0;
    }
}

mr_status mri_shard_assembly(mri_assembly *a, const mri_mesh *mesh, const mr_block_env *env,
                             mr_err *err)
{
    mri_mesh m = *mesh;
    mr_status st = 0;
    bool divides = env->tokens % m.tp == 0;
    /* a block of one token is none to run: it tells its parameters */
    bool sequences = env->tokens > 1 &&
                     (!strcmp(env->mode, "train") || !strcmp(env->mode, "infer"));
    if (m.sequence && !divides && !strcmp(env->mode, "train")) {
        st = mr_fail(err, MR_E_PROFILE_CONFLICT, MR_BLAME_USER,
                     "[mesh] tp = %u does not divide the %lld tokens of a micro-batch", m.tp,
                     (long long)env->tokens);
        mr_hint(err, "under sequence parallelism tp divides [train] micro_batch x seq; or set "
                     "sequence_parallel = false");
        return st;
    }
    m.sequence = m.sequence && divides && strcmp(env->mode, "decode");
    if (!strcmp(env->mode, "decode")) { /* of a few tokens at a time: none is dropped */
        m.capacity_factor = 0;
        m.dispatch_bound = m.equal_blocks ? 0 : m.dispatch_bound;
    }
    mr_list *streams = mri_alloc((a->kinds.n + 1) * sizeof *streams);
    for (uint32_t k = 0; k < a->kinds.n; k++) /* of whole programs: before any is cut */
        streams[k] = mri_assembly_consumed(a, k, NULL);
    for (uint32_t k = 0; k < a->kinds.n && !st; k++) {
        mr_prog **p = &a->kinds.v[k].prog;
        if ((*p)->sharded)
            continue;
        mark_experts(*p, &m);
        if (m.tp > 1)
            st = mri_shard_program(p, &m, &streams[k], err);
        if (!st && sequences)
            st = mri_shard_context(p, &m, err);
        if (!st && sequences)
            st = mri_share_experts(p, &m, err);
        if (!st)
            st = mri_shard_capacity(p, &m, err);
        if (!st)
            st = mri_shard_experts(p, &m, err);
        (*p)->sharded = !st;
    }
    for (uint32_t k = 0; k < a->kinds.n; k++)
        free((void *)streams[k].v);
    free(streams);
    return st;
}
