/* SPDX-License-Identifier: Apache-2.0
 *
 * check.c - refuses a model that contradicts itself, with one error that names the number, its
 * limit and the keys to change (of a profile, and of a config.json).
 */
#include "vlm.h"
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
    mr_fail(err, MR_E_MODEL_CONFIG, MR_BLAME_USER, "vlm: %s", what);
    mr_hint(err, "%s", hint);
    return MR_E_MODEL_CONFIG;
}

static mr_status check_sizes(const vlm_model *m, mr_err *err)
{
    const struct {
        const char *name;
        int64_t value, most;
        const char *hint;
    } row[] = {
        { "image_size", m->size, 1 << 16,
          KEYS("[model.vlm] image_size", "vision_config.image_size") },
        { "patch_size", m->patch, 1 << 12,
          KEYS("[model.vlm] patch_size", "vision_config.patch_size") },
        { "tower_layers", m->all_layers, 65536,
          KEYS("[model.vlm] tower_layers", "vision_config.num_hidden_layers") },
        { "tower_hidden", m->hidden, 1 << 20,
          KEYS("[model.vlm] tower_hidden", "vision_config.hidden_size") },
        { "tower_heads", m->heads, 65536,
          KEYS("[model.vlm] tower_heads", "vision_config.num_attention_heads") },
        { "tower_ffn_hidden", m->ffn, 1 << 24,
          KEYS("[model.vlm] tower_ffn_hidden", "vision_config.intermediate_size") },
        { "shuffle", m->shuffle, 1 << 8,
          KEYS("[model.vlm] shuffle", "vision_config.pixel_shuffle_ratio = 1 / shuffle") },
        { "adapter", m->tower->adapter ? m->adapter : 1, 1 << 24,
          KEYS("[model.vlm] adapter", "vision_config.projector_output_dim") },
    };
    for (size_t i = 0; i < sizeof row / sizeof *row; i++)
        if (row[i].value < 1 || row[i].value > row[i].most)
            return bad(err, row[i].hint, "%s is %lld, it must be from 1 to %lld", row[i].name,
                       (long long)row[i].value, (long long)row[i].most);
    return 0;
}

static mr_status check_tower(const vlm_model *m, mr_err *err)
{
    if (m->size % m->patch)
        return bad(err, KEYS("[model.vlm] patch_size", "vision_config.patch_size"),
                   "patch_size = %lld does not divide image_size = %lld", (long long)m->patch,
                   (long long)m->size);
    if (m->hidden % m->heads)
        return bad(err, KEYS("[model.vlm] tower_heads", "vision_config.num_attention_heads"),
                   "tower_heads = %lld does not divide tower_hidden = %lld", (long long)m->heads,
                   (long long)m->hidden);
    if (m->tower->rope && m->hidden / m->heads % 4)
        return bad(err, KEYS("[model.vlm] tower_heads", "vision_config.num_attention_heads"),
                   "heads of %lld values cannot be turned in two dimensions, which takes a "
                   "multiple of 4", (long long)(m->hidden / m->heads));
    if (m->grid % m->shuffle)
        return bad(err, KEYS("[model.vlm] shuffle", "vision_config.pixel_shuffle_ratio"),
                   "shuffle = %lld does not divide the %lld x %lld patches of a tile",
                   (long long)m->shuffle, (long long)m->grid, (long long)m->grid);
    if (m->shuffle != 1 && !m->tower->adapter)
        return bad(err, "leave [model.vlm] shuffle at 1", "tower %s has no pixel shuffle, shuffle "
                   "is %lld", m->tower->name, (long long)m->shuffle);
    if (m->layers < 1 || m->layers > m->all_layers)
        return bad(err, KEYS("[model.vlm] feature_layer", "vision_feature_layer"),
                   "the features would be those after %lld of the tower's %lld layers",
                   (long long)m->layers, (long long)m->all_layers);
    if (!(m->eps > 0 && isfinite(m->eps)) || !(m->theta > 0 && isfinite(m->theta)))
        return bad(err, KEYS("[model.vlm] tower_rope_theta", "vision_config.layer_norm_eps"),
                   "the tower's norm epsilon %g and rotary base %g must be positive", m->eps,
                   m->theta);
    return 0;
}

mr_status vlm_check(const vlm_model *m, mr_err *err)
{
    mr_status st = check_sizes(m, err);
    if (!st)
        st = check_tower(m, err);
    if (!st && (m->image_token < 0 || m->image_token >= m->info.vocab))
        st = bad(err, KEYS("[model.vlm] image_token", "image_token_index"),
                 "image_token is %lld, the text's vocabulary has %lld ids",
                 (long long)m->image_token, (long long)m->info.vocab);
    return st;
}
