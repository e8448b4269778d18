/* SPDX-License-Identifier: Apache-2.0
 *
 * projector.c - from the tower's rows to the text's, and where they take the place of embeddings.
 *
 *   projector  Llama 4: one matrix; LLaVA (Liu et al. 2023): the class row dropped, two matrices
 *              with GELU between
 *   merge      token t's embedding, or the row image_rows[t] of the features
 */
#include "vlm.h"

void vlm_projector(const vlm_model *m, const vlm_block *b)
{
    mr_net n = b->net;
    bool llama = m->tower->adapter, drops = !llama && m->drop_class && vlm_has_class(m);
    int64_t rows = b->env->images * (llama ? vlm_image_tokens(m) : vlm_tile_rows(m));
    int64_t width = llama ? m->adapter : m->hidden, D = m->info.hidden;
    mr_type t = mr_type2("model", rows, width);
    mr_val x = n.b->input(n.p, "x", &t);
    n.b->region(n.p, "projector");
    if (drops)
        x = MR_OP(n, "shuffle_patches", MR_IN(x),
                  MR_AT(mr_ai("grid", m->grid), mr_as("class", m->tower->class_row)));
    x = vlm_linear(m, b, VLM_PROJECTOR, "linear_1", x, D, width, m->project_bias, VLM_IN);
    if (!llama) {
        x = vlm_gelu(b, x, m->project_act);
        x = vlm_linear(m, b, VLM_PROJECTOR, "linear_2", x, D, D, m->project_bias, VLM_OUT);
    }
    n.b->end(n.p);
    n.b->output(n.p, "features", x);
}

void vlm_merge(const vlm_model *m, const vlm_block *b)
{
    mr_net n = b->net;
    bool decode = !strcmp(b->env->mode, "decode");
    mr_type t = mr_type2("model", b->env->tokens, m->info.hidden);
    mr_type f = mr_type2("model", b->env->images * vlm_image_tokens(m), m->info.hidden);
    mr_type r = mr_type1("i32", b->env->tokens);
    mr_val x = n.b->input(n.p, "x", &t);
    mr_val features = n.b->input(n.p, decode ? "features" : "image_features", &f);
    mr_val rows = n.b->input(n.p, "image_rows", &r);
    n.b->output(n.p, "y", MR_OP(n, "merge_rows", MR_IN(x, features, rows), MR_NOAT));
}
