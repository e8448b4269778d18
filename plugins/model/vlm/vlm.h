/* SPDX-License-Identifier: Apache-2.0
 *
 * vlm.h - what the files of the vision-language family share: the profile's options, and the model
 * that they (or a config.json) resolve to: a tower that turns tiles into rows, a projector to the
 * text's width, and any text family, whose embeddings the rows replace.
 *
 * Invariant: a vlm_model that vlm_resolve() returned is free of contradictions; the files that
 * describe blocks only read it. Tower, projector and text have names of their own layout.
 */
#ifndef VLM_VLM_H
#define VLM_VLM_H
#include "mrun/model.h"
#include <stdbool.h>

/* [model.vlm], as the option rows of vlm.c fill it */
typedef struct vlm_config {
    const char *text, *tower;
    mr_list text_options, freeze;
    int64_t image_size, patch_size, layers, hidden, heads, ffn_hidden, feature_layer;
    int64_t shuffle, adapter, image_token;
    double rope_theta;
} vlm_config;

/* What one kind of tower is like, and what its checkpoints call things. */
typedef struct vlm_tower {
    const char *name, *model_type;
    const char *class_row;            /* none | first | last: op patch_positions */
    const char *act;                  /* of gelu: none | tanh | quick            */
    const char *folder;               /* before all names of the tower           */
    const char *patch, *cls, *pos, *pre, *post, *layer, *norm1, *norm2, *out; /* NULL: none */
    double eps;
    bool convolution, patch_bias, rope, adapter;
} vlm_tower;

enum { VLM_TOWER = 1, VLM_PROJECTOR = 2, VLM_TEXT = 4 }; /* parts that may be frozen */

typedef struct vlm_model {
    const vlm_tower *tower;
    int64_t size, patch, grid, layers, hidden, heads, ffn; /* layers: those that are used */
    int64_t all_layers;               /* that the file has          */
    int64_t shuffle, adapter;         /* 1: none; widths, 0: none   */
    int64_t image_token;
    double eps, theta, init_std;
    const char *act, *project_act;    /* of gelu                    */
    bool drop_class, project_bias;
    uint32_t frozen;
    double *inv_freq;                 /* [head_dim / 4], with rope  */

    /* what stands before names: of tower, projector and text; under is what the text's own
     * "model." becomes */
    char tower_at[48], project_at[40];
    const char *text_at, *text_under;

    const mr_model_service *service;
    mr_model_part text;
    char text_family[32];
    mr_model_info info;
} vlm_model;

typedef struct vlm_block { /* a build under way */
    const mr_block_env *env;
    mr_net net;
} vlm_block;

/* config.c: the model from the profile, or from config.json */
mr_status vlm_resolve(const mr_host *host, const mr_model_env *env, const vlm_config *cfg,
                      vlm_model **out, mr_err *err);
void vlm_free(vlm_model *m);
const vlm_tower *vlm_tower_find(const char *name, const char *model_type); /* either may be NULL */
/* check.c: the first contradiction, as one error */
mr_status vlm_check(const vlm_model *m, mr_err *err);
/* hf_read.c, hf_write.c: config.json */
mr_status vlm_read_hf(vlm_model *m, const mr_model_env *env, const mr_json_service *js,
                      mr_err *err);
mr_status vlm_write_hf(const vlm_model *m, char *json, uint64_t cap, mr_err *err);

/* compose.c: the assembly, and the text's blocks */
mr_status vlm_assemble(vlm_model *m, const mr_assembler *a, mr_asm *as, mr_err *err);
mr_status vlm_build_text(vlm_model *m, const char *kind, const mr_block_env *env,
                         const mr_builder *builder, mr_prog *prog, mr_err *err);
/* tower.c, projector.c */
void vlm_tower_embed(const vlm_model *m, const vlm_block *b);
void vlm_tower_layer(const vlm_model *m, const vlm_block *b);
void vlm_tower_end(const vlm_model *m, const vlm_block *b);
void vlm_projector(const vlm_model *m, const vlm_block *b);
void vlm_merge(const vlm_model *m, const vlm_block *b);

/* params.c */
enum vlm_split { VLM_IN, VLM_OUT }; /* of a matrix over tp: what it makes is cut, or what it reads */
mr_val vlm_weight(const vlm_model *m, const vlm_block *b, uint32_t part, const char *name,
                  int64_t out, int64_t in, enum vlm_split split);
mr_val vlm_bias(const vlm_model *m, const vlm_block *b, uint32_t part, const char *name, int64_t n);
mr_val vlm_patch_weight(const vlm_model *m, const vlm_block *b);
mr_val vlm_rows(const vlm_model *m, const vlm_block *b, const char *name, int64_t rows);
/* y = x wᵀ + bias of NAME.weight and NAME.bias */
mr_val vlm_linear(const vlm_model *m, const vlm_block *b, uint32_t part, const char *name, mr_val x,
                  int64_t out, int64_t in, bool bias, enum vlm_split split);
mr_val vlm_layernorm(const vlm_model *m, const vlm_block *b, const char *name, mr_val x);

static inline bool vlm_has_class(const vlm_model *m)
{
    return strcmp(m->tower->class_row, "none") != 0;
}

/* rows of a tile in the tower, and those that it gives the text */
static inline int64_t vlm_tile_rows(const vlm_model *m)
{
    return m->grid * m->grid + vlm_has_class(m);
}

static inline int64_t vlm_image_tokens(const vlm_model *m)
{
    return m->drop_class ? m->grid * m->grid / (m->shuffle * m->shuffle) : vlm_tile_rows(m);
}

static inline mr_val vlm_gelu(const vlm_block *b, mr_val x, const char *approx)
{
    return MR_OP(b->net, "gelu", MR_IN(x), MR_AT(mr_as("approx", approx)));
}

#endif
