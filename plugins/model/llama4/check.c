/* SPDX-License-Identifier: Apache-2.0
 *
 * check.c - refuses a model that contradicts itself, with one error that names the number,
 * its limit and the keys to change (of a profile, and of a config.json).
 */
#include "llama4.h"
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
    mr_fail(err, MR_E_MODEL_CONFIG, MR_BLAME_USER, "llama4: %s", what);
    mr_hint(err, "%s", hint);
    return MR_E_MODEL_CONFIG;
}

static bool any(const l4_model *m, const unsigned char *marks, unsigned char value)
{
    for (int64_t i = 0; i < m->layers; i++)
        if (marks[i] == value)
            return true;
    return false;
}

/* Every size that the model uses lies in 1..2^31. */
static mr_status check_sizes(const l4_model *m, mr_err *err)
{
    bool moe = any(m, m->moe, 1), dense = any(m, m->moe, 0);
    const struct {
        const char *name;
        int64_t value;
        bool used;
        const char *hint;
    } row[] = {
        { "hidden", m->hidden, true, KEYS("[model] hidden", "hidden_size") },
        { "heads", m->heads, true, KEYS("[model] heads", "num_attention_heads") },
        { "kv_heads", m->kv_heads, true, KEYS("[model] kv_heads", "num_key_value_heads") },
        { "head_dim", m->head_dim, true, KEYS("[model] head_dim", "head_dim") },
        { "vocab", m->vocab, true, KEYS("[model] vocab", "vocab_size") },
        { "max_positions", m->max_positions, true,
          KEYS("[model] max_positions", "max_position_embeddings") },
        { "ffn_hidden (width of the dense layers)", m->dense_hidden, dense,
          KEYS("[model] ffn_hidden", "intermediate_size_mlp") },
        { "expert_hidden", m->expert_hidden, moe,
          KEYS("[model.llama4] expert_hidden", "intermediate_size") },
        { "experts", m->experts, moe, KEYS("[model.llama4] experts", "num_local_experts") },
    };
    for (size_t i = 0; i < sizeof row / sizeof *row; i++)
        if (row[i].used && (row[i].value < 1 || row[i].value > 1ll << 31))
            return bad(err, row[i].hint, "%s is %lld, it must be from 1 to 2147483648", row[i].name,
                       (long long)row[i].value);
    return 0;
}

/* The largest tensors fit a signed 64-bit count of bytes. */
static mr_status check_products(const l4_model *m, mr_err *err)
{
    const int64_t shape[][3] = {
        { m->vocab, m->hidden, 1 },
        { m->heads, m->head_dim, m->hidden },
        { m->kv_heads, m->head_dim, m->hidden },
        { any(m, m->moe, 1) ? m->experts : 1, 2 * m->expert_hidden, m->hidden },
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

static mr_status check_attention(const l4_model *m, mr_err *err)
{
    if (m->heads % m->kv_heads)
        return bad(err, KEYS("[model] heads, kv_heads", "num_attention_heads, num_key_value_heads"),
                   "heads = %lld is not a multiple of kv_heads = %lld", (long long)m->heads,
                   (long long)m->kv_heads);
    if (m->head_dim % 2)
        return bad(err, KEYS("[model] head_dim, or hidden and heads,", "head_dim"),
                   "head_dim = %lld is odd, rotary positions turn pairs", (long long)m->head_dim);
    if (m->chunk < 0)
        return bad(err, KEYS("[model.llama4] attention_chunk", "attention_chunk_size"),
                   "attention_chunk = %lld is negative", (long long)m->chunk);
    if (m->temperature && !(m->floor_scale > 0 && isfinite(m->floor_scale)))
        return bad(err, KEYS("[model.llama4] floor_scale", "floor_scale"),
                   "floor_scale = %g must be positive", m->floor_scale);
    if (m->temperature && !isfinite(m->attn_scale))
        return bad(err, KEYS("[model.llama4] attn_scale", "attn_scale"),
                   "attn_scale = %g is not a number", m->attn_scale);
    return 0;
}

static mr_status check_rope(const l4_model *m, mr_err *err)
{
    if (!(m->rope_theta > 0 && isfinite(m->rope_theta)))
        return bad(err, KEYS("[model] rope_theta", "rope_theta"),
                   "rope_theta = %g must be positive", m->rope_theta);
    if (!(m->rope_factor >= 1 && isfinite(m->rope_factor)))
        return bad(err, KEYS("[model.llama4] rope_factor", "rope_scaling.factor"),
                   "rope_factor = %g must be at least 1", m->rope_factor);
    if (m->rope_factor == 1)
        return 0;
    if (!(m->rope_low > 0 && m->rope_low <= m->rope_high && isfinite(m->rope_high)))
        return bad(err,
                   KEYS("[model.llama4] rope_low_freq_factor, rope_high_freq_factor",
                        "rope_scaling.low_freq_factor, high_freq_factor"),
                   "rope_low_freq_factor = %g must be positive and not above "
                   "rope_high_freq_factor = %g",
                   m->rope_low, m->rope_high);
    if (m->rope_original < 1)
        return bad(err,
                   KEYS("[model.llama4] rope_original_max_positions",
                        "rope_scaling.original_max_position_embeddings"),
                   "rope_original_max_positions = %lld must be positive",
                   (long long)m->rope_original);
    return 0;
}

static mr_status check_experts(const l4_model *m, mr_err *err)
{
    if (any(m, m->moe, 1) && (m->top_k < 1 || m->top_k > m->experts))
        return bad(err, KEYS("[model.llama4] experts_per_token", "num_experts_per_tok"),
                   "experts_per_token = %lld is outside 1..%lld, the number of experts",
                   (long long)m->top_k, (long long)m->experts);
    if (strcmp(m->aux_type, "aux") && strcmp(m->aux_type, "seq_aux"))
        return bad(err, "set aux_loss_type in [model.llama4] to aux or seq_aux",
                   "aux_loss_type \"%s\" is unknown", m->aux_type);
    if (!(m->aux_loss >= 0 && isfinite(m->aux_loss) && m->z_loss >= 0 && isfinite(m->z_loss)))
        return bad(err, "set aux_loss and z_loss in [model.llama4]; 0 turns them off",
                   "aux_loss = %g and z_loss = %g must be 0 or positive", m->aux_loss, m->z_loss);
    return 0;
}

mr_status l4_check(const l4_model *m, mr_err *err)
{
    mr_status st = 0;
    MR_TRY(check_sizes(m, err));
    MR_TRY(check_products(m, err));
    MR_TRY(check_attention(m, err));
    MR_TRY(check_rope(m, err));
    MR_TRY(check_experts(m, err));
    if (!(m->eps > 0 && isfinite(m->eps)))
        st = bad(err, KEYS("[model] norm_eps", "rms_norm_eps"), "norm_eps = %g must be positive",
                 m->eps);
    else if (!(m->init_std > 0 && isfinite(m->init_std)))
        st = bad(err, KEYS("[model] init_std", "initializer_range"),
                 "init_std = %g must be positive", m->init_std);
out:
    return st;
}
