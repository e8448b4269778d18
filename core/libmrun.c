/* SPDX-License-Identifier: Apache-2.0
 *
 * libmrun.c - the embedder's side of core: include/mrun/mrun.h over the registry and a session.
 * Invariant: what an embedder hands in is checked here, so that nothing below sees an id
 * outside the vocabulary, a sequence longer than planned, or a table that is not there.
 */
#include "mrun/mrun.h"
#include "core/base/json.h"
#include "core/ops/catalogue.h"
#include "core/run/sample.h"
#include "core/run/source.h"
#include "core/run/submodel.h"
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

struct mr_runtime {
    mri_registry *registry;
};

struct mr_model {
    mri_config *config;
    mri_session *session;
    int64_t max_tokens;
};

const char *mr_version(void)
{
    return MRI_VERSION;
}

void mr_abi(uint32_t *major, uint32_t *minor)
{
    *major = MR_ABI_MAJOR;
    *minor = MR_ABI_MINOR;
}

void mr_free(void *p)
{
    free(p);
}

/* Ops belong to the process, since libraries are never unloaded: a second runtime meets those
 * that the first one brought. */
static mr_status register_op(const mr_op_def *op, mr_err *err)
{
    return op && mri_op_find(op->id) == op ? 0 : mri_op_register(op, err);
}

mr_runtime *mr_open(const char *plugin_paths)
{
    mr_runtime *r = mri_alloc(sizeof *r);
    r->registry = mri_registry_create(plugin_paths);
    mri_registry_offer(r->registry, MR_EXT_REF, &mri_ref_service);
    mri_registry_offer(r->registry, MR_EXT_JSON, &mri_json_service);
    mri_registry_offer(r->registry, MR_EXT_MODEL, &mri_model_service);
    mri_registry_set_op_hook(r->registry, register_op, NULL); /* no op is loaded yet */
    return r;
}

void mr_close(mr_runtime *r)
{
    if (!r)
        return;
    mri_registry_free(r->registry);
    free(r);
}

mr_status mr_profile_check(mr_runtime *r, const char *path, const char *const *sets, uint64_t n_sets,
                           char **text, mr_err *err)
{
    mri_config *c = NULL;
    mri_str b = { 0 };
    *text = NULL;
    mr_status st = mri_config_load(r->registry, path, sets, n_sets, &c, err);
    if (st)
        return st;
    mri_profile_print(c->profile, true, &b);
    *text = mri_str_take(&b);
    mri_config_free(c);
    return 0;
}

/* ---- a model ------------------------------------------------------------------------ */

/* A folder with a config.json that is no run folder is a Hugging Face folder. */
static bool is_hf(const char *source)
{
    struct stat sb;
    char *run = mri_format("%s/profile.resolved.ini", source);
    char *json = mri_format("%s/config.json", source);
    bool hf = stat(run, &sb) != 0 && stat(json, &sb) == 0;
    free(run);
    free(json);
    return hf;
}

mr_status mr_model_open(mr_runtime *r, const char *source, const char *const *sets, uint64_t n_sets,
                        const mr_model_options *options, mr_model **out, mr_err *err)
{
    mr_status st = 0;
    mr_model *m = NULL;
    MRI_VEC(const char *) all = { 0 };
    *out = NULL;
    if (!source || !options || !MR_HAS(options, max_tokens) || options->max_tokens < 1)
        return mr_fail(err, MR_E_ARG, MR_BLAME_USER,
                       "mr_model_open: a source, and options with max_tokens above 0, are needed");
    m = mri_alloc(sizeof *m);
    m->max_tokens = options->max_tokens;
    MRI_PUSH(&all, "job.run=generate"); /* whatever job the profile is for */
    for (uint64_t i = 0; i < n_sets; i++)
        MRI_PUSH(&all, sets[i]);
    bool hf = is_hf(source), text = (options->flags & MR_MODEL_TEXT) != 0;
    MR_TRY(mri_source_config(r->registry, hf ? NULL : source, hf ? source : NULL, all.v, all.n,
                             &m->config, err));
    mri_session_options o = {
        .needs = MRI_NEED_EVAL | MRI_NEED_DECODE | (text ? MRI_NEED_TOKENIZER : 0),
        .eval_tokens = m->max_tokens,
        .slots = 1,
        .max_seq = m->max_tokens,
        .prefill_tokens = m->max_tokens < 64 ? m->max_tokens : 64,
    };
    MR_TRY(mri_session_open(r->registry, m->config, &o, &m->session, err));
    MR_TRY(mri_source_weights(m->session, err));
    *out = m;
out:
    free(all.v);
    if (st)
        mr_model_close(m);
    return st;
}

void mr_model_close(mr_model *m)
{
    if (!m)
        return;
    mri_session_close(m->session);
    mri_config_free(m->config);
    free(m);
}

int64_t mr_model_vocab(const mr_model *m)
{
    return m->session->info.vocab;
}

static mr_status need_text(const mr_model *m, mr_err *err)
{
    if (m->session->tok)
        return 0;
    mr_fail(err, MR_E_ARG, MR_BLAME_USER, "the model was opened without its tokenizer");
    mr_hint(err, "set MR_MODEL_TEXT in mr_model_options.flags");
    return MR_E_ARG;
}

mr_status mr_model_encode(mr_model *m, const char *text, uint64_t len, int32_t *ids, uint64_t cap,
                          uint64_t *n, mr_err *err)
{
    mri_session *s = m->session;
    mr_status st = need_text(m, err);
    if (st)
        return st;
    uint64_t bos = s->tok_info.bos >= 0, room = cap > bos ? cap - bos : 0;
    if (bos && cap)
        ids[0] = s->tok_info.bos;
    st = s->tok_ops->encode(s->tok, text, len, room ? ids + bos : NULL, room, n, err);
    *n += st ? 0 : bos;
    return st;
}

static mr_status check_ids(const mr_model *m, const int32_t *ids, uint64_t n, mr_err *err)
{
    for (uint64_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= mr_model_vocab(m))
            return mr_fail(err, MR_E_ARG, MR_BLAME_USER, "id %d at %llu is not below the "
                           "vocabulary's %lld", ids[i], (unsigned long long)i,
                           (long long)mr_model_vocab(m));
    return 0;
}

mr_status mr_model_text(mr_model *m, const int32_t *ids, uint64_t n_ids, char *text, uint64_t cap,
                        uint64_t *n, mr_err *err)
{
    mr_status st = 0;
    MR_TRY(need_text(m, err));
    MR_TRY(check_ids(m, ids, n_ids, err));
    st = m->session->tok_ops->decode(m->session->tok, ids, n_ids, cap ? text : NULL, cap, n, err);
out:
    return st;
}

static mr_status check_span(const mr_model *m, const int32_t *ids, int64_t n, int64_t pos,
                            mr_err *err)
{
    if (n < 1 || pos < 0 || n > m->max_tokens || pos > m->max_tokens - n) {
        mr_fail(err, MR_E_ARG, MR_BLAME_USER, "%lld ids from position %lld, the model was opened "
                "for %lld", (long long)n, (long long)pos, (long long)m->max_tokens);
        mr_hint(err, "raise mr_model_options.max_tokens");
        return MR_E_ARG;
    }
    return check_ids(m, ids, (uint64_t)n, err);
}

mr_status mr_model_score(mr_model *m, const int32_t *ids, int64_t n, float *logprobs, mr_err *err)
{
    mr_status st = check_span(m, ids, n, 0, err);
    if (!st)
        st = mri_session_score(m->session, ids, n, logprobs, NULL, err);
    for (int64_t i = 0; !st && i + 1 < n; i++)
        logprobs[i] = -logprobs[i];
    return st;
}

mr_status mr_model_next(mr_model *m, const int32_t *ids, int64_t n, int64_t pos, float *logits,
                        mr_err *err)
{
    mr_status st = check_span(m, ids, n, pos, err);
    return st ? st : mri_session_decode(m->session, ids, n, pos, logits, err);
}

int32_t mr_draw(const float *logits, int64_t vocab, const mr_sampling *how, uint64_t position)
{
    mri_sampling s = { 0, 0, 1, 1 }; /* a caller that knows fewer fields gets the likeliest */
    if (MR_HAS(how, seed))
        s = (mri_sampling){ how->temperature, how->top_k, how->top_p, how->seed };
    return mri_sample(logits, vocab, &s, position);
}
