/* SPDX-License-Identifier: Apache-2.0
 *
 * hf_read.c - tower and projector from Hugging Face's config.json: that of
 * Llama4ForConditionalGeneration and LlavaForConditionalGeneration, as transformers 4.x and 5.x write
 * them. A key that the file leaves out has the class default. The first bad value ends the reading.
 */
#include "../hf.h"
#include "vlm.h"

static mr_status refuse(hf_reader *r, const char *hint, const char *fmt, ...) MR_PRINTF(3, 4);

static mr_status refuse(hf_reader *r, const char *hint, const char *fmt, ...)
{
    char what[200];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    if (r->st)
        return r->st;
    r->st = mr_fail(r->err, MR_E_MODEL_CONFIG, MR_BLAME_USER, "vlm: %s", what);
    mr_hint(r->err, "%s", hint);
    return r->st;
}

/* transformers' name of an activation as op gelu's approx */
static const char *gelu_of(hf_reader *r, const char *key, const char *otherwise)
{
    static const char *const names[][2] = {
        { "gelu", "none" }, { "gelu_pytorch_tanh", "tanh" }, { "gelu_new", "tanh" },
        { "quick_gelu", "quick" },
    };
    const char *act = hf_text(r, key);
    for (size_t i = 0; act && i < sizeof names / sizeof *names; i++)
        if (!strcmp(act, names[i][0]))
            return names[i][1];
    if (act)
        refuse(r, "it knows gelu, gelu_pytorch_tanh and quick_gelu",
               "%s%s in config.json is \"%s\"", r->at, key, act);
    return otherwise;
}

static void read_llama4(vlm_model *m, hf_reader *r)
{
    double ratio = hf_number(r, "pixel_shuffle_ratio", 0.5);
    int64_t out = hf_integer(r, "projector_output_dim", 4096);
    m->layers = m->all_layers;
    m->adapter = hf_integer(r, "projector_input_dim", 4096);
    m->eps = 1e-5; /* the class's own: norm_eps is not read there */
    m->theta = hf_number(r, "rope_theta", 10000);
    m->theta = hf_number(r, "rope_parameters.rope_theta", m->theta);
    m->shuffle = ratio >= 1.0 / 256 && ratio <= 1 ? (int64_t)(1 / ratio + 0.5) : 0;
    if (r->st || m->hidden < 1 || m->hidden > 1 << 20)
        return; /* the latter is vlm_check()'s to say */
    if (m->shuffle < 1 || fabs((double)m->shuffle * ratio - 1) > 1e-9)
        refuse(r, "it must be 1, 1/2, 1/3 ... 1/256", "pixel_shuffle_ratio is %g in config.json", ratio);
    else if (out != m->adapter || hf_integer(r, "vision_output_dim", out) != out)
        refuse(r, "projector_input_dim, projector_output_dim and vision_output_dim are one number",
               "the adapter's widths in config.json, %lld and %lld, differ",
               (long long)m->adapter, (long long)out);
    else if (m->ffn != m->hidden * m->shuffle * m->shuffle)
        refuse(r, "it is also the width of the rows that pixel shuffle makes",
               "intermediate_size is %lld in config.json, must be %lld", (long long)m->ffn,
               (long long)(m->hidden * m->shuffle * m->shuffle));
    else if (hf_number(r, "multi_modal_projector_bias", 0) != 0)
        refuse(r, "Llama 4's projector is one matrix", "multi_modal_projector_bias is true");
}

/* hidden_states[layer], 0 being the embedding: how many layers run */
static void read_llava(vlm_model *m, hf_reader *r)
{
    int64_t layer = hf_integer(r, "vision_feature_layer", -2);
    const char *take = hf_text(r, "vision_feature_select_strategy");
    m->layers = layer < 0 ? m->all_layers + 1 + layer : layer;
    m->shuffle = 1;
    m->drop_class = !take || !strcmp(take, "default");
    m->project_act = gelu_of(r, "projector_hidden_act", "none");
    m->project_bias = hf_number(r, "multimodal_projector_bias", 1) != 0;
    if (take && strcmp(take, "default") && strcmp(take, "full"))
        refuse(r, "it is \"default\" or \"full\"",
               "vision_feature_select_strategy is \"%s\"", take);
    if (m->drop_class && !vlm_has_class(m))
        refuse(r, "\"full\" takes all rows",
               "vision_feature_select_strategy \"default\" drops a class row, tower %s has none",
               m->tower->name);
    if (!vlm_has_class(m)) /* all rows are patches either way */
        m->drop_class = true;
}

static void read_tower(vlm_model *m, hf_reader *r)
{
    m->size = hf_integer(r, "image_size", m->tower->adapter ? 448 : 224);
    m->patch = hf_integer(r, "patch_size", m->tower->adapter     ? 14
                                           : vlm_has_class(m)    ? 32
                                                                 : 16);
    m->all_layers = hf_integer(r, "num_hidden_layers", m->tower->adapter ? 34 : 12);
    m->hidden = hf_integer(r, "hidden_size", 768);
    m->heads = hf_integer(r, "num_attention_heads", m->tower->adapter ? 16 : 12);
    m->ffn = hf_integer(r, "intermediate_size", m->tower->adapter ? 5632 : 3072);
    m->eps = hf_number(r, "layer_norm_eps", m->tower->eps);
    m->init_std = hf_number(r, "initializer_range", 0.02);
    m->act = gelu_of(r, "hidden_act", m->tower->act);
    m->theta = 10000;
    if (hf_integer(r, "num_channels", 3) != 3)
        refuse(r, "pictures have red, green and blue", "num_channels in config.json is not 3");
}

/* "llama4_text" is family llama4 */
static void read_text_family(vlm_model *m, hf_reader *r)
{
    const char *type = hf_text(r, "text_config.model_type");
    if (!type)
        type = m->tower->adapter ? "llama4_text" : "llama";
    size_t n = strlen(type);
    if (n > 5 && !strcmp(type + n - 5, "_text"))
        n -= 5;
    if (!strcmp(type, "mistral"))
        type = "llama", n = 5;
    snprintf(m->text_family, sizeof m->text_family, "%.*s", (int)n, type);
}

mr_status vlm_read_hf(vlm_model *m, const mr_model_env *env, const mr_json_service *js, mr_err *err)
{
    hf_reader r = { js, env->hf_config, "vlm", "", err, 0 };
    const char *type = hf_text(&r, "model_type");
    bool llama4 = type && !strcmp(type, "llama4");
    if (!js->at(r.json, "vision_config") || !js->at(r.json, "text_config") ||
        !(llama4 || (type && !strcmp(type, "llava"))))
        return refuse(&r, "model/vlm reads Llama 4's and LLaVA's checkpoints (model_type llama4, "
                          "llava)",
                      "config.json is of model type \"%s\"%s", type ? type : "",
                      js->at(r.json, "vision_config") ? "" : ", without a vision_config");
    const char *vision = hf_text(&r, "vision_config.model_type");
    m->tower = vlm_tower_find(NULL, vision ? vision
                                    : llama4 ? "llama4_vision_model"
                                             : "clip_vision_model");
    if (!m->tower || m->tower->adapter != llama4)
        return refuse(&r, "it knows llama4_vision_model in llama4, and clip_vision_model and "
                          "siglip_vision_model in llava",
                      "the vision_config in config.json is of type \"%s\"", vision);
    m->image_token = hf_integer(&r, "image_token_index", llama4 ? 200092 : 32000);
    m->image_token = hf_integer(&r, "image_token_id", m->image_token);
    read_text_family(m, &r);
    m->drop_class = true;
    m->project_act = "none";
    r.at = "vision_config.";
    read_tower(m, &r);
    if (llama4)
        read_llama4(m, &r);
    r.at = "";
    if (!llama4 && !r.st)
        read_llava(m, &r);
    return r.st;
}
