/* SPDX-License-Identifier: Apache-2.0
 * session_exec.c - see session_exec.h. */
#include "session_exec.h"
#include "core/plan/router_load.h"
#include "core/plan/shard.h"
#include "micro.h"
#include "pictures.h"
#include "stages.h"
#include "step.h"
#include <stdlib.h>
#include <string.h>

mr_status mri_session_cut(const mri_session *s, mri_assembly *a, const mr_block_env *env,
                          mr_err *err)
{
    const mri_cfg_mesh *c = &s->config->mesh;
    mri_mesh alone;
    mri_mesh_alone(&alone); /* experts have capacities there too */
    alone.capacity_factor = c->capacity_factor;
    alone.drop_by_position = c->capacity_policy && !strcmp(c->capacity_policy, "position");
    alone.pad_to_capacity = c->pad_to_capacity;
    double rate = s->config->train.moe_router_bias_update_rate;
    mr_status st = mri_shard_assembly(a, s->world ? &s->world->mesh : &alone, env, err);
    return st || !(rate > 0) || strcmp(env->mode, "train") ? st : mri_router_loads(a, err);
}

mr_status mri_session_describe(mri_session *s, const char *mode, mr_err *err)
{
    mr_block_env env = { .size = sizeof env, .mode = mode, .tokens = 1, .seq = 1,
                         .images = s->info.image_size > 0 };
    mr_status st = mri_assemble(s->model_ops, s->model, &env, s->model_dtype, &s->described, err);
    st = st ? st : mri_session_cut(s, s->described, &env, err);
    return st ? st
              : mri_params_plan(s->described, &s->config->optimizer, s->model_dtype,
                                !strcmp(s->config->precision.masters, "remainder"), &s->params,
                                err);
}

static uint32_t most_micros(const mri_session *s) /* of a step, on this rank */
{
    return mri_micros_of(s, s->config->train.global_batch);
}

/* Tokens of the caller's own, up to what can be cut over tp and, zig-zag, over cp. */
static int64_t up_to_whole_parts(const mri_session *s, int64_t tokens, int64_t cp)
{
    int64_t tp = s->world && s->world->mesh.sequence ? s->world->mesh.tp : 1;
    int64_t parts = cp > 1 ? 2 * cp * tp : tp;
    return (tokens + parts - 1) / parts * parts;
}

mr_status mri_session_make_exec(mri_session *s, const mri_session_options *o, const char *mode,
                                int64_t tokens, mri_exec **out, mr_err *err)
{
    bool train = !strcmp(mode, "train"), decode = !strcmp(mode, "decode");
    bool own = train ? o->train_tokens > 0 : o->eval_tokens > 0; /* batches are not the data's */
    int64_t size = s->info.image_size, images = mri_pictures_room(s, o, mode);
    const mri_pages *g = &s->pages;
    mri_assembly *a = NULL;
    const int64_t cp = strcmp(mode, "train") && strcmp(mode, "infer") ? 1 : mri_session_cp(s);
    if (own)
        tokens = up_to_whole_parts(s, tokens, cp);
    mr_status st = mri_micro_check_cut(own ? tokens : s->config->train.seq, cp, images, err);
    if (st)
        return st;
    tokens /= cp; /* this rank's, see mri_micro_cut() */
    mr_block_env env = { .size = sizeof env, .mode = mode, .tokens = tokens, .images = images };
    if (decode) {
        env.slots = g->slots;
        env.max_seq = o->max_seq;
        env.pages = g->pages;
        env.page = g->page;
        env.logit_rows = tokens > g->slots ? g->slots : 0;
    } else {
        env.seq = !own ? s->config->train.seq : cp > 1 ? tokens * cp : 0;
        env.whole = s->whole && cp == 1;
    }
    st = mri_assemble(s->model_ops, s->model, &env, s->model_dtype, &a, err);
    if (st)
        return st;
    const mri_cfg_precision *precision = &s->config->precision;
    const mri_recipe *recipe = decode ? NULL : mri_recipe_find(precision->recipe);
    if (!st && recipe && recipe->scaling)
        st = mri_assembly_exact(a, s->model_ops, s->model, &env, s->model_dtype,
                                precision->start_in_bf16, precision->end_in_bf16, err);
    if (!st)
        st = mri_session_cut(s, a, &env, err);
    if (!st && train && s->config->train.moe_router_bias_update_rate > 0)
        st = mri_router_biased(a, s->config->train.moe_router_bias_update_rate, err);
    if (!st && train)
        st = mri_assembly_check_regions(a, &s->config->train.recompute, err);
    if (!st)
        st = mri_stages_cut(s, mode, a, err);
    if (!st && !s->params.slots.n)
        st = mri_params_plan(a, &s->config->optimizer, s->model_dtype,
                             !strcmp(s->config->precision.masters, "remainder"), &s->params, err);
    if (!st && train && !s->dp && !mri_world_alone(s->world))
        st = mri_dp_open(s->world, &s->device, &s->params, a, most_micros(s), s->config,
                         mri_registry_host(s->registry), &s->dp, err);
    if (!st && train)
        st = mri_stages_check_zipped(s, err);
    if (!st && train)
        st = mri_relay_twins(&s->relay, &s->params, err);
    if (!st && train)
        st = mri_assembly_freeze(a, s->model_ops, s->model, &env, s->model_dtype, mri_params_frozen,
                                 &s->params, err);
    if (!st) /* kinds that were built again */
        st = mri_session_cut(s, a, &env, err);
    if (st) {
        mri_assembly_free(a);
        return st;
    }
    mri_chunk *chunks = NULL;
    st = mri_stages_chunks(s, train, (uint32_t)a->instances.n, most_micros(s), &chunks, err);
    if (st) {
        mri_assembly_free(a);
        return st;
    }
    bool one = train && (o->needs & MRI_NEED_UPDATE) && most_micros(s) == 1 &&
               !mri_dp_pieces(s->dp);
    mri_exec_options eo = { mode, tokens, env.slots, env.max_seq,
                            images, decode ? 0 : 3 * size * size,
                            { .train = train,
                              .split_w = train && mri_stages_split_w(s),
                              .guard = o->guard,
                              .stress = o->stress,
                              .sum_squares = one && !s->dp,
                              .deterministic = s->config->run.deterministic != 0,
                              .fuse = s->config->train.fuse != 0,
                              .overlap = s->config->mesh.overlap != 0,
                              .shared_beside = s->config->mesh.moe_shared_expert_overlap != 0,
                              .record_comm = !mri_world_alone(s->world) &&
                                             !mri_comm_obstacle(s->world),
                              .host_fallback = !strcmp(s->config->backend.fallback, "host"),
                              .recompute = train ? &s->config->train.recompute : NULL,
                              .recipe = recipe,
                              .loss = o->main_loss ? "lm_loss" : NULL },
                            decode ? s->decode : NULL, one, env.pages, env.page, env.logit_rows,
                            chunks, mri_stages_n_chunks(s, train), train,
                            train && mri_stages_zipped(s) };
    st = mri_exec_create(&s->device, a, &s->params, &s->scalars, &eo, out, err);
    free(chunks);
    if (!st && s->dp)
        mri_dp_attach(s->dp, *out);
    return st;
}
