/* SPDX-License-Identifier: Apache-2.0
 *
 * hf_write.c - the config.json that transformers opens as Llama4ForConditionalGeneration or
 * LlavaForConditionalGeneration; the text's part is what its own family writes.
 */
#include "../hf.h"
#include "vlm.h"

static const char *act_name(const char *approx)
{
    return !strcmp(approx, "tanh")    ? "gelu_pytorch_tanh"
         : !strcmp(approx, "quick") ? "quick_gelu"
                                    : "gelu";
}

static void put_vision(hf_writer *w, const vlm_model *m)
{
    const struct {
        const char *key;
        int64_t v;
    } ints[] = {
        { "image_size", m->size },
        { "patch_size", m->patch },
        { "num_channels", 3 },
        { "num_hidden_layers", m->all_layers },
        { "hidden_size", m->hidden },
        { "num_attention_heads", m->heads },
        { "intermediate_size", m->ffn },
    };
    hf_put(w, "  \"vision_config\": {\n    \"model_type\": \"%s\",\n    \"hidden_act\": \"%s\",\n",
           m->tower->model_type, act_name(m->act));
    for (size_t i = 0; i < sizeof ints / sizeof *ints; i++)
        hf_put(w, "    \"%s\": %lld,\n", ints[i].key, (long long)ints[i].v);
    if (m->tower->adapter) {
        hf_put(w, "    \"projector_input_dim\": %lld,\n    \"projector_output_dim\": %lld,\n"
                  "    \"vision_output_dim\": %lld,\n"
                  "    \"multi_modal_projector_bias\": false,\n    ",
               (long long)m->adapter, (long long)m->adapter, (long long)m->adapter);
        hf_put_real(w, "pixel_shuffle_ratio", 1 / (double)m->shuffle, ",\n    ");
        hf_put_real(w, "rope_theta", m->theta, ",\n    ");
        hf_put_real(w, "norm_eps", m->eps, ",\n    ");
    } else {
        if (!vlm_has_class(m)) /* SigLIP's pooling, which is not read */
            hf_put(w, "    \"vision_use_head\": false,\n");
        hf_put(w, "    ");
        hf_put_real(w, "layer_norm_eps", m->eps, ",\n    ");
    }
    hf_put_real(w, "initializer_range", m->init_std, "\n  },\n");
}

mr_status vlm_write_hf(const vlm_model *m, char *json, uint64_t cap, mr_err *err)
{
    enum { TEXT_CAP = 1 << 18 };
    hf_writer w = { json, cap, 0 };
    bool llama4 = m->tower->adapter;
    mr_status st = 0;
    char *text = malloc(TEXT_CAP);
    if (!text)
        return mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "vlm: no memory for config.json");
    if (!MR_CAN(m->text.ops, hf_config) || (!llama4 && m->shuffle != 1) ||
        (llama4 && m->ffn != m->hidden * m->shuffle * m->shuffle)) {
        st = mr_fail(err, MR_E_UNSUPPORTED, MR_BLAME_USER,
                     "vlm: Hugging Face has no such model: text %s, tower %s", m->text_family,
                     m->tower->name);
        mr_hint(err, "tower llama4 wants tower_ffn_hidden = tower_hidden x shuffle x shuffle, and "
                     "a text family that writes config.json");
        goto out;
    }
    MR_TRY(m->text.ops->hf_config(m->text.model, text, TEXT_CAP, err));
    hf_put(&w, "{\n  \"architectures\": [\"%s\"],\n  \"model_type\": \"%s\",\n"
               "  \"image_token_index\": %lld,\n",
           llama4 ? "Llama4ForConditionalGeneration" : "LlavaForConditionalGeneration",
           llama4 ? "llama4" : "llava", (long long)m->image_token);
    if (!llama4)
        hf_put(&w, "  \"vision_feature_layer\": %lld,\n"
                   "  \"vision_feature_select_strategy\": \"%s\",\n"
                   "  \"projector_hidden_act\": \"%s\",\n  \"multimodal_projector_bias\": %s,\n",
               (long long)(m->layers - m->all_layers - 1),
               m->drop_class && vlm_has_class(m) ? "default" : "full", act_name(m->project_act),
               hf_boolean(m->project_bias));
    /* the class asks the whole for it, the text's family wrote it into its part */
    hf_put(&w, "  \"tie_word_embeddings\": %s,\n",
           hf_boolean(strstr(text, "\"tie_word_embeddings\": true") != NULL));
    put_vision(&w, m);
    hf_put(&w, "  \"text_config\": %s}\n", text);
    st = hf_written(&w, "vlm", err);
out:
    free(text);
    return st;
}
