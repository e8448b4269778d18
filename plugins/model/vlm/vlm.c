/* SPDX-License-Identifier: Apache-2.0
 *
 * vlm.c - unit model/vlm: its option rows, and the table that core calls. Its blocks are
 * "tower.embed", "tower.layer", "tower.end", "projector", "merge", and "text.KIND" for each kind of
 * the text's family, which builds those itself.
 */
#include "vlm.h"

static mr_status create(const mr_host *host, const mr_model_env *env, const void *config,
                        void **model, mr_err *err)
{
    vlm_model *m = NULL;
    mr_status st = vlm_resolve(host, env, config, &m, err);
    *model = m;
    return st;
}

static void destroy(void *model)
{
    vlm_free(model);
}

static mr_status info(void *model, mr_model_info *out, mr_err *err)
{
    const vlm_model *m = model;
    (void)err;
    out->vocab = m->info.vocab;
    out->layers = m->info.layers;
    out->hidden = m->info.hidden;
    out->max_positions = m->info.max_positions;
    if (!MR_HAS(out, pad2))
        return 0;
    out->image_size = m->size;
    out->image_tokens = vlm_image_tokens(m);
    out->image_token = (int32_t)m->image_token;
    return 0;
}

static mr_status assemble(void *model, const mr_assembler *a, mr_asm *as, mr_err *err)
{
    return vlm_assemble(model, a, as, err);
}

static const struct {
    const char *kind;
    void (*build)(const vlm_model *, const vlm_block *);
} blocks[] = {
    { "tower.embed", vlm_tower_embed }, { "tower.layer", vlm_tower_layer },
    { "tower.end", vlm_tower_end },     { "projector", vlm_projector },
    { "merge", vlm_merge },
};

static mr_status build(void *model, const char *kind, const mr_block_env *env,
                       const mr_builder *builder, mr_prog *prog, mr_err *err)
{
    const vlm_block b = { env, { builder, prog } };
    if (!strncmp(kind, "text.", 5))
        return vlm_build_text(model, kind + 5, env, builder, prog, err);
    for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++)
        if (!strcmp(kind, blocks[i].kind))
            return blocks[i].build(model, &b), 0;
    return mr_fail(err, MR_E_PROGRAM, MR_BLAME_HOST, "vlm has no block \"%s\"", kind);
}

static mr_status hf_config(void *model, char *json, uint64_t cap, mr_err *err)
{
    return vlm_write_hf(model, json, cap, err);
}

#define COUNT(field, key, def, lo, hi, doc) \
    MR_OPT_RANGE(vlm_config, MR_T_INT, field, key, def, lo, hi, doc)

static const mr_opt options[] = {
    MR_OPT(vlm_config, MR_T_STR, text, "text", "llama",
           "family of the text, a model plugin; its sizes are those of [model]"),
    MR_OPT(vlm_config, MR_T_LIST, text_options, "text_options", NULL,
           "options of the text's family: KEY=VALUE, separated by commas"),
    MR_OPT_CHOICE(vlm_config, tower, "tower", "siglip", "llama4|clip|siglip",
                  "kind of vision transformer"),
    { sizeof(mr_opt), MR_T_LIST, 0, (uint32_t)offsetof(vlm_config, freeze), "freeze", "none",
      "parts that are not trained: tower, projector, text", "none", 0, 0, NULL },
    COUNT(image_size, "image_size", "224", 1, 65536, "side of a tile (pixels)"),
    COUNT(patch_size, "patch_size", "16", 1, 4096, "side of a patch (pixels)"),
    COUNT(layers, "tower_layers", "12", 1, 65536, "layers of the tower"),
    COUNT(hidden, "tower_hidden", "768", 1, 1048576, "width of the tower"),
    COUNT(heads, "tower_heads", "12", 1, 65536, "attention heads of the tower"),
    COUNT(ffn_hidden, "tower_ffn_hidden", "0", 0, 16777216,
          "inner width of the tower's feed-forward blocks; 0: 4 x tower_hidden"),
    COUNT(feature_layer, "feature_layer", "-1", -65536, 65536,
          "clip, siglip: the layer whose output is read; from the end if negative"),
    COUNT(shuffle, "shuffle", "2", 1, 256,
          "llama4: side of the squares of patches that become one row"),
    COUNT(adapter, "adapter", "0", 0, 16777216,
          "llama4: width of the rows that the projector reads; 0: 4 x tower_hidden"),
    COUNT(image_token, "image_token", "0", 0, 16777216,
          "id of the token whose embeddings the features replace"),
    MR_OPT_RANGE(vlm_config, MR_T_FLOAT, rope_theta, "tower_rope_theta", "10000", 1, 1e12,
                 "llama4: base of the tower's rotary frequencies"),
};

static const mr_model_ops table = {
    sizeof(mr_model_ops), 0, create, destroy, info, assemble, build, hf_config,
};

#define UNIT(name, doc)                                                                            \
    {                                                                                              \
        sizeof(mr_unit), 0, "model", name, doc, options, sizeof options / sizeof *options,         \
            sizeof(vlm_config), &table, NULL,                                                      \
    }

/* The second is the first by the name that its checkpoints have as model_type. */
static const mr_unit units[] = {
    UNIT("vlm", "vision-language models: a vision tower (Llama 4's, CLIP, SigLIP), a projector and "
                "any text family; sizes from these options and [model], or from [model] hf = DIR, "
                "which leaves only freeze and text_options to the profile"),
    UNIT("llava", "the same as model/vlm, by the model type of LLaVA's checkpoints"),
};

MR_EXPORT const mr_plugin mrun_plugin_v1 = {
    MR_PLUGIN_HEADER,
    "org.mrun.vlm",
    "0.1.0",
    "Apache-2.0",
    "vision-language models over any text family",
    units,
    sizeof units / sizeof *units,
    0,
    NULL,
    NULL,
};
MR_PLUGIN_NOTE("org.mrun.vlm", "0.1.0", "model/vlm@vision_config model/llava");
