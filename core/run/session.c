/* SPDX-License-Identifier: Apache-2.0
 * session.c - opening and closing; see session.h. */
#include "pictures.h"
#include "core/base/json.h"
#include "core/plan/shard.h"
#include "held.h"
#include "micro.h"
#include "saver.h"
#include "session_exec.h"
#include "stages.h"
#include "step.h"
#include "submodel.h"
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static mr_status pick(const mri_config *c, const char *kind, const mri_choice **out, mr_err *err)
{
    *out = mri_config_choice(c, kind, 0);
    if (*out)
        return 0;
    mr_fail(err, MR_E_PROFILE_MISSING, MR_BLAME_USER, "the profile chooses no %s", kind);
    mr_hint(err, "add [%s] plugin = NAME; mrun plugins lists what there is", kind);
    return MR_E_PROFILE_MISSING;
}

/* `runs`: with execs, whose collectives read and write the device's memory. */
static mr_status open_device(mri_session *s, bool runs, mr_err *err)
{
    const mri_choice *c;
    mr_status st = 0;
    uint32_t index = 0;
    MR_TRY(pick(s->config, "backend", &c, err));
    const mr_backend_ops *ops = c->unit->table;
    const mr_host *host = mri_registry_host(s->registry);
    if (!mri_world_alone(s->world)) { /* each process of a host has one of its own */
        uint32_t count = 0;
        MR_TRY(ops->count(host, c->config, &count, err));
        index = mri_world_device_index(s->world, count);
    }
    MR_TRY(mri_device_open(ops, host, c->config, index, &s->device, err));
    s->device.world = runs ? s->world : NULL;
    mri_comm_device d = { ops, s->device.dev, s->device.stream, s->device.host_memory };
    if (s->device.world && !s->dry)
        MR_TRY(mri_world_device(s->world, &d, err));
out:
    return st;
}

static mr_status open_model(mri_session *s, mr_err *err)
{
    const mri_choice *c;
    mr_status st = 0;
    mri_json *json = NULL;
    mri_held held = { s->config->model.hf, NULL, false };
    mr_model_sizes sizes = s->config->model.sizes;
    MR_TRY(pick(s->config, "model", &c, err));
    if (s->config->model.hf) {
        char *path = mri_format("%s/config.json", s->config->model.hf);
        st = mri_json_read(path, 16 << 20, &json, err);
        free(path);
        if (st)
            goto out;
    }
    sizes.size = sizeof sizes;
    if (!sizes.vocab && !json)
        sizes.vocab = s->tok_info.vocab; /* 0 where the job has no tokenizer: the family says so */
    mr_model_env env = { sizeof env, 0, &sizes, json, &held, mri_held_has };
    s->model_ops = c->unit->table;
    MR_TRY(s->model_ops->create(mri_registry_host(s->registry), &env, c->config, &s->model, err));
    s->info.size = sizeof s->info;
    MR_TRY(s->model_ops->info(s->model, &s->info, err));
out:
    mri_held_close(&held);
    mri_json_free(json);
    return st;
}

static mr_status open_tokenizer(mri_session *s, mr_err *err)
{
    const mri_choice *c = mri_config_choice(s->config, "tokenizer", 0);
    mr_status st = 0;
    s->tok_ops = c->unit->table;
    MR_TRY(s->tok_ops->create(mri_registry_host(s->registry), c->config, &s->tok, err));
    s->tok_info.size = sizeof s->tok_info;
    MR_TRY(s->tok_ops->info(s->tok, &s->tok_info, err));
out:
    return st;
}

static mr_status check_vocab(const mri_session *s, mr_err *err)
{
    if (!s->tok || s->tok_info.vocab <= s->info.vocab)
        return 0;
    mr_fail(err, MR_E_PROFILE_CONFLICT, MR_BLAME_USER,
            "the tokenizer has %lld ids, the model's vocabulary is %lld",
            (long long)s->tok_info.vocab, (long long)s->info.vocab);
    mr_hint(err, "set [model] vocab to at least %lld", (long long)s->tok_info.vocab);
    return MR_E_PROFILE_CONFLICT;
}

/* When it is first needed: a folder whose processor is not known still reads text. */
mr_status mri_session_imager(mri_session *s, const mri_imager **out, mr_err *err)
{
    *out = &s->imager;
    if (s->imager.tokens)
        return 0;
    if (!s->info.image_size) {
        mr_fail(err, MR_E_ARG, MR_BLAME_USER, "this model takes no pictures");
        mr_hint(err, "mrun inspect shows a folder's family; model/vlm reads pictures");
        return MR_E_ARG;
    }
    return mri_imager_open(s->config->model.hf, s->info.image_size, s->info.image_tokens,
                           s->info.image_token, s->tok_ops, s->tok, &s->imager, err);
}

static mr_status open_data(mri_session *s, mr_err *err)
{
    const mri_choice *c;
    const mri_cfg_train *t = &s->config->train;
    const mri_imager *imager = NULL;
    mr_status st = pick(s->config, "data", &c, err);
    if (!st && s->info.image_size && t->images)
        st = mri_session_imager(s, &imager, err);
    if (st)
        return st;
    mr_data_env env = { sizeof env, 0, t->seq, s->config->run.seed, t->steps * t->global_batch,
                        t->eval_steps * t->micro_batch, s->tok_ops, s->tok, t->images, imager };
    s->data_ops = c->unit->table;
    return s->data_ops->create(mri_registry_host(s->registry), &env, c->config, &s->data, err);
}

/* What the data promise of their samples, told without opening them; planning asks it too. The
 * eval exec of another size is for sequences that do not come from the data. */
static bool whole_sequences(const mri_session *s, const mri_session_options *o)
{
    const mri_choice *c = mri_config_choice(s->config, "data", 0);
    if (o->eval_tokens || o->train_tokens)
        return false;
    if (o->whole)
        return true;
    if (!c || !((o->needs & MRI_NEED_DATA) || o->dry))
        return false;
    const mr_data_ops *ops = c->unit->table;
    return MR_CAN(ops, promises) && (ops->promises(c->config) & MR_DATA_WHOLE);
}

static bool lends_gradients(const mri_session *s)
{
    return s->train && s->train->main_bytes;
}

static mr_status make_arena(mri_session *s, mr_err *err)
{
    mri_exec *all[] = { s->train, s->eval, s->decode, s->prefill, s->encode };
    mr_status st = 0;
    for (int i = 0; i < 5; i++)
        if (all[i] && all[i]->bytes > s->arena_bytes)
            s->arena_bytes = all[i]->bytes;
    if (!s->arena_bytes)
        return 0;
    st = s->device.ops->alloc(s->device.dev, s->arena_bytes, MR_MEM_ARENA, (void **)&s->arena, err);
    if (!st && lends_gradients(s))
        s->params.grads = s->arena + s->train->at_main;
    if (!st && s->encode)
        st = mri_pictures_alloc(s, err);
    for (int i = 0; i < 5 && !st; i++)
        if (all[i])
            st = mri_exec_bind(all[i], s->arena, err);
    return st;
}

static mr_status open_update(mri_session *s, mr_err *err)
{
    const mri_choice *c;
    mr_status st = 0;
    if (!strcmp(s->model_dtype, "f64")) {
        st = mr_fail(err, MR_E_UNSUPPORTED, MR_BLAME_USER,
                     "[precision] recipe = fp64 is for checking gradients, not for training");
        mr_hint(err, "recipe = fp32 or bf16; mrun grad-check uses fp64 by itself");
        goto out;
    }
    MR_TRY(pick(s->config, "optimizer", &c, err));
    s->optimizer_ops = c->unit->table;
    MR_TRY(s->optimizer_ops->create(mri_registry_host(s->registry), c->config, &s->optimizer, err));
    MR_TRY(mri_update_create(&s->device, s->world, &s->params, &s->scalars, s->train,
                             s->optimizer_ops, s->optimizer, s->config->optimizer.clip_grad,
                             s->config->run.deterministic != 0, &s->update, err));
    if (s->config->train.moe_router_bias_update_rate > 0)
        MR_TRY(mri_balance_create(&s->device, s->world, &s->params, &s->scalars, s->train,
                                  s->config->train.moe_router_bias_update_rate,
                                  s->config->run.deterministic != 0, &s->balance, err));
out:
    return st;
}

/* The model and its parameters, without a device. */
static mr_status open_described(mri_session *s, mr_err *err)
{
    mr_status st = 0;
    if (mri_config_choice(s->config, "tokenizer", 0) && !s->config->model.hf)
        MR_TRY(open_tokenizer(s, err)); /* it knows the vocabulary */
    MR_TRY(open_model(s, err));
    MR_TRY(mri_session_describe(s, "train", err)); /* where a family has all that its checkpoints hold */
out:
    return st;
}

/* The pages, before the decode execs are planned: their states are as large. */
static mr_status open_pages(mri_session *s, const mri_session_options *o, mr_err *err)
{
    int64_t page = o->page ? o->page : MRI_PAGE, of_slot = 0, all = 0;
    if (o->slots < 1 || o->max_seq < 1 || o->page < 0 || o->pages < 0 || o->max_seq > INT32_MAX ||
        __builtin_mul_overflow(o->slots, of_slot = (o->max_seq - 1) / page + 1, &all) ||
        all > INT32_MAX || o->pages > INT32_MAX) {
        mr_fail(err, MR_E_ARG, MR_BLAME_USER,
                "%lld sequences of %lld positions in %lld pages of %lld", (long long)o->slots,
                (long long)o->max_seq, (long long)o->pages, (long long)page);
        mr_hint(err, "each is 1 or more (pages and page also 0), and no number is above %d",
                INT32_MAX);
        return MR_E_ARG;
    }
    mri_pages_open(&s->pages, o->slots, of_slot, o->pages ? o->pages : all, page);
    return 0;
}

static mr_status open_decode(mri_session *s, const mri_session_options *o, mr_err *err)
{
    mr_status st = 0;
    MR_TRY(open_pages(s, o, err));
    MR_TRY(mri_session_make_exec(s, o, "decode", o->slots, &s->decode, err));
    if (o->prefill_tokens > o->slots)
        MR_TRY(mri_session_make_exec(s, o, "decode", o->prefill_tokens, &s->prefill, err));
out:
    return st;
}

/* What a step is fed by, and the graph plugin. */
static mr_status open_steps(mri_session *s, mr_err *err)
{
    const mri_choice *c = mri_config_choice(s->config, "graph", 0);
    if (s->train && s->update)
        mri_feed_plan(&s->feed, &s->device, &s->scalars, s->train, mri_micros_of(s, s->config->train.global_batch));
    return mri_graphs_open(&s->graphs, &s->device, c ? c->unit->table : NULL,
                           mri_registry_host(s->registry), c ? c->config : NULL, err);
}

mr_status mri_session_open(mri_registry *reg, const mri_config *config,
                           const mri_session_options *o, mri_session **out, mr_err *err)
{
    mr_status st = 0;
    mri_session *s = mri_alloc(sizeof *s);
    s->registry = reg;
    s->config = config;
    s->world = o->world;
    s->dry = o->dry;
    const mri_recipe *recipe = mri_recipe_find(config->precision.recipe);
    MRI_ASSERT(recipe); /* the profile's words are those of the table */
    s->model_dtype = mri_strdup(recipe->dtype);
    mri_registry_offer(reg, MR_EXT_MODEL, &mri_model_service);
    mri_registry_offer(reg, MR_EXT_IMAGE, &mri_image_service);
    if ((o->needs & MRI_NEED_UPDATE) && !strcmp(s->model_dtype, "f64")) {
        st = mr_fail(err, MR_E_PROFILE_CONFLICT, MR_BLAME_USER,
                     "[precision] recipe fp64 has gradients but no optimizer steps");
        mr_hint(err, "train in fp32 or bf16; mrun grad-check chooses fp64 by itself");
        goto out;
    }
    if (o->describe) {
        st = open_described(s, err);
        goto out;
    }
    MR_TRY(open_device(s, o->needs & (MRI_NEED_TRAIN | MRI_NEED_EVAL | MRI_NEED_DECODE), err));
    MR_TRY(mri_scalars_create(&s->scalars, &s->device, err));
    bool reads_text = o->needs & (MRI_NEED_TOKENIZER | MRI_NEED_DATA);
    if (mri_config_choice(config, "tokenizer", 0) && (reads_text || !config->model.hf))
        MR_TRY(open_tokenizer(s, err)); /* else config.json knows the vocabulary */
    MR_TRY(open_model(s, err));
    if (reads_text) {
        const mri_choice *tokenizer;
        MR_TRY(pick(config, "tokenizer", &tokenizer, err));
        MR_TRY(check_vocab(s, err));
    }
    if (o->needs & MRI_NEED_DATA)
        MR_TRY(open_data(s, err));
    s->whole = whole_sequences(s, o);
    int64_t tokens = config->train.micro_batch * config->train.seq;
    MR_TRY(mri_pictures_check(s, o, err));
    if (s->info.image_size && !(o->needs & MRI_NEED_TRAIN))
        MR_TRY(mri_session_describe(s, "infer", err));
    if (o->needs & MRI_NEED_TRAIN)
        MR_TRY(mri_session_make_exec(s, o, "train", o->train_tokens ? o->train_tokens : tokens, &s->train,
                         err));
    if (o->needs & MRI_NEED_EVAL)
        MR_TRY(mri_session_make_exec(s, o, "infer", o->eval_tokens ? o->eval_tokens : tokens, &s->eval, err));
    if (o->needs & MRI_NEED_DECODE)
        MR_TRY(open_decode(s, o, err));
    if ((o->needs & MRI_NEED_DECODE) && o->images)
        MR_TRY(mri_session_make_exec(s, o, "images", o->images * s->info.image_tokens, &s->encode, err));
    if (o->needs & MRI_NEED_UPDATE)
        MR_TRY(open_update(s, err));
    MR_TRY(open_steps(s, err));
    if (s->dp && s->graphs.ops)
        s->dp->overlap = 0; /* a graph has its collectives begin and end in itself */
    if (!o->dry) { /* all is planned, now it is taken */
        MR_TRY(mri_session_fits(s, err));
        if (s->params.slots.n)
            MR_TRY(mri_params_alloc(&s->params, &s->device, (o->needs & MRI_NEED_TRAIN) != 0,
                                    lends_gradients(s), err));
        if (s->dp)
            MR_TRY(mri_dp_alloc(s->dp, err));
        if (s->balance)
            MR_TRY(mri_balance_alloc(s->balance, err));
        MR_TRY(make_arena(s, err));
        if (s->decode)
            MR_TRY(mri_rows_open(&s->rows[0], s->decode, &s->graphs, err));
        if (s->prefill)
            MR_TRY(mri_rows_open(&s->rows[1], s->prefill, &s->graphs, err));
        if (s->update) {
            MR_TRY(mri_update_alloc(s->update, err));
            MR_TRY(mri_feed_alloc(&s->feed, err));
        }
    }
out:
    if (st) {
        mri_session_close(s);
        s = NULL;
    }
    *out = s;
    return st;
}

void mri_session_close(mri_session *s)
{
    mr_err ignored = MR_ERR_INIT;
    if (!s)
        return;
    if (s->device.stream)
        mri_device_sync(&s->device, &ignored); /* graphs and pinned memory may be in use */
    mri_graphs_close(&s->graphs); /* before the world: NCCL waits for graphs that it is in */
    if (s->device.world && s->device.dev)
        mri_world_leave_device(s->world);
    mri_saver_free(s->saver);
    mri_rows_close(&s->rows[0]);
    mri_rows_close(&s->rows[1]);
    mri_pages_close(&s->pages);
    mri_feed_free(&s->feed);
    mri_schedule_free(&s->schedule);
    mri_update_free(s->update);
    mri_balance_free(s->balance);
    if (s->optimizer)
        s->optimizer_ops->destroy(s->optimizer);
    mri_relay_close(&s->relay);
    mri_relay_close(&s->eval_relay);
    mri_exec_free(s->train);
    mri_exec_free(s->eval);
    mri_exec_free(s->prefill); /* borrows decode's states */
    mri_exec_free(s->decode);
    mri_exec_free(s->encode);
    mri_pictures_free(s);
    if (s->arena)
        s->device.ops->free(s->device.dev, s->arena, s->arena_bytes);
    mri_dp_close(s->dp);
    mri_params_free(&s->params, &s->device);
    mri_assembly_free(s->described);
    if (s->scalars.data)
        mri_scalars_free(&s->scalars, &s->device);
    if (s->data)
        s->data_ops->destroy(s->data);
    if (s->tok)
        s->tok_ops->destroy(s->tok);
    if (s->model)
        s->model_ops->destroy(s->model);
    if (s->device.ops)
        mri_device_close(&s->device);
    free(s->model_dtype);
    free(s);
}
