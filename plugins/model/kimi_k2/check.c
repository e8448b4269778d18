/* SPDX-License-Identifier: Apache-2.0
 *
 * check.c - refuses a model that contradicts itself, with one error that names the number,
 * its limit and the keys to change (of a profile, and of a config.json).
 */
#include "kimi_k2.h"
#include <math.h>

#define KEYS(profile, json) "set " profile " in the profile (" json " in config.json)"

static mr_status bad(mr_err *err, const char *hint, const char *fmt, ...) MR_PRINTF(3, 4);

static mr_status bad(mr_err *err, const char *hint, const char *fmt, ...)
{
    char what[200];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    mr_fail(err, MR_E_MODEL_CONFIG, MR_BLAME_USER, "kimi_k2: %s", what);
    mr_hint(err, "%s", hint);
    return MR_E_MODEL_CONFIG;
}

static bool any_moe(const k2_model *m)
{
    return m->first_dense < m->layers;
}

/* Every size that the model uses lies in its range. */
static mr_status check_sizes(const k2_model *m, mr_err *err)
{
    bool moe = any_moe(m), dense = m->first_dense > 0;
    const int64_t big = 1ll << 31;
    const struct {
        const char *name;
        int64_t value, least, most;
        bool used;
        const char *hint;
    } row[] = {
        { "layers", m->layers, 1, 65536, true, KEYS("[model] layers", "num_hidden_layers") },
        { "hidden", m->hidden, 1, big, true, KEYS("[model] hidden", "hidden_size") },
        { "heads", m->heads, 1, 65536, true, KEYS("[model] heads", "num_attention_heads") },
        { "vocab", m->vocab, 1, big, true, KEYS("[model] vocab", "vocab_size") },
        { "max_positions", m->max_positions, 1, big, true,
          KEYS("[model] max_positions", "max_position_embeddings") },
        { "q_lora_rank", m->q_rank, 0, big, true,
          KEYS("[model.kimi_k2] q_lora_rank (0: none)", "q_lora_rank") },
        { "kv_lora_rank", m->kv_rank, 1, big, true,
          KEYS("[model.kimi_k2] kv_lora_rank", "kv_lora_rank") },
        { "nope_dim", m->nope, 1, 65536, true,
          KEYS("[model.kimi_k2] nope_dim", "qk_nope_head_dim") },
        { "rope_dim", m->rope, 2, 65536, true,
          KEYS("[model.kimi_k2] rope_dim", "qk_rope_head_dim") },
        { "value_dim", m->value, 1, 65536, true, KEYS("[model.kimi_k2] value_dim", "v_head_dim") },
        { "first_dense", m->first_dense, 0, m->layers, true,
          KEYS("[model.kimi_k2] first_dense", "first_k_dense_replace") },
        { "ffn_hidden (width of the dense layers)", m->dense_hidden, 1, big, dense,
          KEYS("[model] ffn_hidden", "intermediate_size") },
        { "expert_hidden", m->expert_hidden, 1, big, moe,
          KEYS("[model.kimi_k2] expert_hidden", "moe_intermediate_size") },
        { "experts", m->experts, 1, 65536, moe,
          KEYS("[model.kimi_k2] experts", "n_routed_experts") },
        { "mtp_layers", m->mtp_layers, 0, 64, true,
          KEYS("[model.kimi_k2] mtp_layers", "num_nextn_predict_layers") },
        { "shared_experts", m->shared, 0, 65536, moe,
          KEYS("[model.kimi_k2] shared_experts", "n_shared_experts") },
    };
    for (size_t i = 0; i < sizeof row / sizeof *row; i++)
        if (row[i].used && (row[i].value < row[i].least || row[i].value > row[i].most))
            return bad(err, row[i].hint, "%s is %lld, it must be from %lld to %lld", row[i].name,
                       (long long)row[i].value, (long long)row[i].least, (long long)row[i].most);
    if (m->rope % 2)
        return bad(err, KEYS("[model.kimi_k2] rope_dim", "qk_rope_head_dim"),
                   "rope_dim = %lld is odd, rotary positions turn pairs", (long long)m->rope);
    return 0;
}

/* The largest tensors fit a signed 64-bit count of bytes. */
static mr_status check_products(const k2_model *m, mr_err *err)
{
    bool moe = any_moe(m);
    const int64_t shape[][3] = {
        { m->vocab, m->hidden, 1 },
        { m->heads, m->nope + m->rope, m->q_rank ? m->q_rank : m->hidden },
        { m->q_rank ? m->q_rank : 1, m->hidden, 1 },
        { m->kv_rank + m->rope, m->hidden, 1 },
        { m->heads, m->nope + m->value, m->kv_rank },
        { m->heads, m->value, m->hidden },
        { moe ? m->experts : 1, moe ? 2 * m->expert_hidden : 1, m->hidden },
        { moe ? m->shared : 1, moe ? m->expert_hidden : 1, m->hidden },
        { 1, m->dense_hidden, m->hidden },
    };
    for (size_t i = 0; i < sizeof shape / sizeof *shape; i++) {
        int64_t n = 8;
        for (int d = 0; d < 3; d++)
            if (__builtin_mul_overflow(n, shape[i][d], &n))
                return bad(err, "check the sizes: one of them is surely mistyped",
                           "a tensor of %lld x %lld x %lld elements is too large to address",
                           (long long)shape[i][0], (long long)shape[i][1], (long long)shape[i][2]);
    }
    return 0;
}

static mr_status check_groups(const k2_model *m, mr_err *err)
{
    const char *hint = KEYS("[model.kimi_k2] groups, group_topk", "n_group, topk_group");
    if (m->groups < 1 || m->experts % m->groups)
        return bad(err, hint, "groups = %lld does not divide experts = %lld", (long long)m->groups,
                   (long long)m->experts);
    if (m->group_topk < 1 || m->group_topk > m->groups)
        return bad(err, hint, "group_topk = %lld is outside 1..%lld, the number of groups",
                   (long long)m->group_topk, (long long)m->groups);
    int64_t per = m->experts / m->groups;
    if (m->groups > 1 && per < 2)
        return bad(err, hint, "groups = %lld leaves one expert a group, its worth is that of two",
                   (long long)m->groups);
    if (m->top_k == m->experts) /* all of them, whatever their group */
        return 0;
    if (m->top_k > m->group_topk * per)
        return bad(err, hint,
                   "experts_per_token = %lld, but the %lld groups that a token may use hold %lld",
                   (long long)m->top_k, (long long)m->group_topk,
                   (long long)(m->group_topk * per));
    return 0;
}

static mr_status check_experts(const k2_model *m, mr_err *err)
{
    if (!any_moe(m))
        return 0;
    if (m->top_k < 1 || m->top_k > m->experts)
        return bad(err, KEYS("[model.kimi_k2] experts_per_token", "num_experts_per_tok"),
                   "experts_per_token = %lld is outside 1..%lld, the number of experts",
                   (long long)m->top_k, (long long)m->experts);
    if (m->top_k == 1 && m->norm_topk && !m->imported)
        return bad(err, KEYS("[model.kimi_k2] norm_topk = false", "norm_topk_prob"),
                   "experts_per_token = 1 with norm_topk gives every expert the same weight, and "
                   "the router no gradient");
    if (!isfinite(m->routed_scale) || m->routed_scale == 0)
        return bad(err, KEYS("[model.kimi_k2] routed_scale", "routed_scaling_factor"),
                   "routed_scale = %g must be a number other than 0", m->routed_scale);
    if (strcmp(m->aux_type, "aux") && strcmp(m->aux_type, "seq_aux"))
        return bad(err, "set aux_loss_type in [model.kimi_k2] to aux or seq_aux",
                   "aux_loss_type \"%s\" is unknown", m->aux_type);
    if (!(m->aux_loss >= 0 && isfinite(m->aux_loss) && m->z_loss >= 0 && isfinite(m->z_loss)))
        return bad(err, "set aux_loss and z_loss in [model.kimi_k2]; 0 turns them off",
                   "aux_loss = %g and z_loss = %g must be 0 or positive", m->aux_loss, m->z_loss);
    return check_groups(m, err);
}

static mr_status check_rope(const k2_model *m, mr_err *err)
{
    if (!(m->rope_theta > 1 && isfinite(m->rope_theta)))
        return bad(err, KEYS("[model] rope_theta", "rope_theta"),
                   "rope_theta = %g must be above 1", m->rope_theta);
    if (!(m->rope_factor >= 1 && isfinite(m->rope_factor)))
        return bad(err, KEYS("[model.kimi_k2] rope_factor", "rope_scaling.factor"),
                   "rope_factor = %g must be at least 1", m->rope_factor);
    if (m->rope_factor == 1)
        return 0;
    if (!(m->beta_slow > 0 && m->beta_slow <= m->beta_fast && isfinite(m->beta_fast)))
        return bad(err, KEYS("[model.kimi_k2] beta_fast, beta_slow",
                             "rope_scaling.beta_fast, beta_slow"),
                   "beta_slow = %g must be positive and not above beta_fast = %g", m->beta_slow,
                   m->beta_fast);
    if (m->rope_original < 1)
        return bad(err, KEYS("[model.kimi_k2] rope_original_max_positions",
                             "rope_scaling.original_max_position_embeddings"),
                   "rope_original_max_positions = %lld must be positive",
                   (long long)m->rope_original);
    const double non_negative[] = { m->mscale, m->mscale_all_dim, m->attention_factor };
    for (int i = 0; i < 3; i++)
        if (!(non_negative[i] >= 0 && isfinite(non_negative[i])))
            return bad(err, KEYS("[model.kimi_k2] mscale, mscale_all_dim",
                                 "rope_scaling.mscale, mscale_all_dim, attention_factor"),
                       "mscale = %g, mscale_all_dim = %g and attention_factor = %g must be 0 or "
                       "positive", m->mscale, m->mscale_all_dim, m->attention_factor);
    return 0;
}

mr_status k2_check(const k2_model *m, mr_err *err)
{
    mr_status st = 0;
    MR_TRY(check_sizes(m, err));
    MR_TRY(check_products(m, err));
    MR_TRY(check_experts(m, err));
    MR_TRY(check_rope(m, err));
    if (!(m->eps > 0 && isfinite(m->eps)))
        st = bad(err, KEYS("[model] norm_eps", "rms_norm_eps"), "norm_eps = %g must be positive",
                 m->eps);
    else if (!(m->latent_eps > 0 && isfinite(m->latent_eps)))
        st = bad(err, "set latent_norm_eps in [model.kimi_k2]",
                 "latent_norm_eps = %g must be positive", m->latent_eps);
    else if (!(m->init_std > 0 && isfinite(m->init_std)))
        st = bad(err, KEYS("[model] init_std", "initializer_range"),
                 "init_std = %g must be positive", m->init_std);
out:
    return st;
}
