/* SPDX-License-Identifier: Apache-2.0
 *
 * config.c - resolves a model: tower and projector from the profile or from config.json, the text
 * by its own family, which gets the sizes of [model], or the file's text_config. With a config.json
 * the architecture is the file's alone.
 */
#include "vlm.h"
#include <math.h>
#include <stdlib.h>

static const vlm_tower towers[] = {
    { "llama4", "llama4_vision_model", "last", "none", "vision_model.",
      "patch_embedding.linear.weight", "class_embedding", "positional_embedding_vlm",
      "layernorm_pre", "layernorm_post", "model.layers.", "input_layernorm",
      "post_attention_layernorm", "self_attn.o_proj", 1e-5, false, false, true, true },
    { "clip", "clip_vision_model", "first", "quick", "vision_tower.vision_model.",
      "embeddings.patch_embedding.weight", "embeddings.class_embedding",
      "embeddings.position_embedding.weight", "pre_layrnorm" /* sic */, NULL, "encoder.layers.",
      "layer_norm1", "layer_norm2", "self_attn.out_proj", 1e-5, true, false, false, false },
    { "siglip", "siglip_vision_model", "none", "tanh", "vision_tower.vision_model.",
      "embeddings.patch_embedding.weight", NULL, "embeddings.position_embedding.weight", NULL,
      NULL, "encoder.layers.", "layer_norm1", "layer_norm2", "self_attn.out_proj", 1e-6, true, true,
      false, false },
};

const vlm_tower *vlm_tower_find(const char *name, const char *model_type)
{
    for (size_t i = 0; i < sizeof towers / sizeof *towers; i++)
        if ((name && !strcmp(name, towers[i].name)) ||
            (model_type && !strcmp(model_type, towers[i].model_type)))
            return &towers[i];
    return NULL;
}

static mr_status from_profile(vlm_model *m, const mr_model_env *env, const vlm_config *c,
                              mr_err *err)
{
    m->tower = vlm_tower_find(c->tower ? c->tower : "siglip", NULL);
    if (!m->tower)
        return mr_fail(err, MR_E_MODEL_CONFIG, MR_BLAME_USER, "vlm: no tower \"%s\"", c->tower);
    m->size = c->image_size;
    m->patch = c->patch_size;
    m->all_layers = c->layers;
    m->layers = m->tower->adapter       ? c->layers
              : c->feature_layer < 0    ? c->layers + 1 + c->feature_layer
                                        : c->feature_layer;
    m->hidden = c->hidden;
    m->heads = c->heads;
    m->ffn = c->ffn_hidden ? c->ffn_hidden : 4 * c->hidden;
    m->shuffle = m->tower->adapter ? c->shuffle : 1;
    m->adapter = m->tower->adapter ? (c->adapter ? c->adapter : 4 * c->hidden) : 0;
    m->image_token = c->image_token;
    m->eps = m->tower->eps;
    m->theta = c->rope_theta > 0 ? c->rope_theta : 10000;
    m->init_std = env->sizes->init_std > 0 ? env->sizes->init_std : 0.02;
    m->act = m->tower->act;
    m->project_act = "none";
    m->project_bias = !m->tower->adapter;
    m->drop_class = true;
    snprintf(m->text_family, sizeof m->text_family, "%s", c->text ? c->text : "llama");
    return 0;
}

static mr_status read_freeze(vlm_model *m, const mr_list *list, mr_err *err)
{
    static const char *const words[] = { "tower", "projector", "text" };
    for (uint64_t i = 0; i < list->n; i++) {
        size_t k = 0;
        while (k < 3 && strcmp(list->v[i], words[k]))
            k++;
        if (k == 3) {
            mr_fail(err, MR_E_MODEL_CONFIG, MR_BLAME_USER,
                    "vlm: freeze names \"%s\", which is no part of the model", list->v[i]);
            mr_hint(err, "its parts are tower, projector and text");
            return MR_E_MODEL_CONFIG;
        }
        m->frozen |= 1u << k;
    }
    return 0;
}

/* Checkpoints call things as the version of transformers did that wrote them. The weights say
 * which, if there are any; else it is what all versions read. */
static void find_names(vlm_model *m, const mr_model_env *env)
{
    static const char *const folders[] = { "vision_tower.vision_model.", "vision_tower.",
                                           "model.vision_tower.vision_model.",
                                           "model.vision_tower." };
    const char *folder = m->tower->folder;
    char name[128];
    for (size_t i = 0; i < 4 && !m->tower->adapter && MR_CAN(env, has_tensor); i++) {
        snprintf(name, sizeof name, "%s%s", folders[i], m->tower->pos);
        if (env->has_tensor(env->weights, name)) {
            folder = folders[i];
            break;
        }
    }
    bool under = !strncmp(folder, "model.", 6); /* all lies in a folder "model.", but lm_head */
    snprintf(m->tower_at, sizeof m->tower_at, "%s", folder);
    snprintf(m->project_at, sizeof m->project_at, "%smulti_modal_projector.",
             under ? "model." : "");
    m->text_at = under ? "" : "language_model.";
    m->text_under = under ? "model.language_model." : NULL;
}

static mr_status open_text(vlm_model *m, const mr_host *host, const mr_model_env *env,
                           const mr_json_service *js, const vlm_config *c, mr_err *err)
{
    mr_model_env inner = { sizeof inner, 0, env->sizes, NULL, NULL, NULL };
    m->service = MR_CAN(host, ext) ? host->ext(host->self, MR_EXT_MODEL) : NULL;
    if (!m->service)
        return mr_fail(err, MR_E_UNSUPPORTED, MR_BLAME_HOST,
                       "vlm: this host does not offer " MR_EXT_MODEL
                       ", so the text's family cannot be opened");
    if (env->hf_config)
        inner.hf_config = js->at(env->hf_config, "text_config");
    m->text.size = sizeof m->text;
    mr_status st = m->service->open(host, m->text_family, &c->text_options, &inner, &m->text, err);
    m->info.size = sizeof m->info;
    return st ? st : m->text.ops->info(m->text.model, &m->info, err);
}

mr_status vlm_resolve(const mr_host *host, const mr_model_env *env, const vlm_config *cfg,
                      vlm_model **out, mr_err *err)
{
    mr_status st = 0;
    const mr_json_service *js = MR_CAN(host, ext) ? host->ext(host->self, MR_EXT_JSON) : NULL;
    vlm_model *m = calloc(1, sizeof *m);
    if (!m)
        return mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "vlm: no memory for the model");
    if (env->hf_config && !(js && MR_CAN(js, at)))
        MR_TRY(mr_fail(err, MR_E_UNSUPPORTED, MR_BLAME_HOST,
                       "vlm: this host does not offer parts of documents (" MR_EXT_JSON
                       "), so config.json cannot be read"));
    MR_TRY(env->hf_config ? vlm_read_hf(m, env, js, err) : from_profile(m, env, cfg, err));
    MR_TRY(read_freeze(m, &cfg->freeze, err));
    m->grid = m->patch > 0 ? m->size / m->patch : 0;
    MR_TRY(open_text(m, host, env, js, cfg, err));
    MR_TRY(vlm_check(m, err));
    find_names(m, env);
    int64_t quarter = m->hidden / m->heads / 4;
    m->inv_freq = calloc((size_t)quarter + 1, sizeof *m->inv_freq);
    if (!m->inv_freq)
        MR_TRY(mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "vlm: no memory for frequencies"));
    for (int64_t i = 0; i < quarter; i++)
        m->inv_freq[i] = pow(m->theta, -(double)i / (double)quarter);
    *out = m;
    return 0;
out:
    vlm_free(m);
    return st;
}

void vlm_free(vlm_model *m)
{
    if (!m)
        return;
    if (m->service)
        m->service->close(&m->text);
    free(m->inv_freq);
    free(m);
}
