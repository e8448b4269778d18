/* SPDX-License-Identifier: Apache-2.0
 *
 * tower.c - the vision transformer (Dosovitskiy et al. 2021), as Llama 4, CLIP and SigLIP have it.
 * Each tile is a sequence of its own: patches in the order of reading, and maybe a class row.
 *
 *   tower.embed  patches as rows, times a matrix; class row; learned positions; norm
 *   tower.layer  z += attention(norm z), z += mlp(norm z): full attention inside the tile, in
 *                Llama 4 with rotary positions in two dimensions
 *   tower.end    Llama 4's: norm, class row dropped, squares of patches as one row, two layers of
 *                GELU
 */
#include "vlm.h"
#include <math.h>

static int64_t rows_of(const vlm_model *m, const vlm_block *b)
{
    return b->env->images * vlm_tile_rows(m);
}

static mr_val take_x(const vlm_model *m, const vlm_block *b)
{
    mr_type t = mr_type2("model", rows_of(m, b), m->hidden);
    return b->net.b->input(b->net.p, "x", &t);
}

/* pixels [N,3,S,S] -> [N rows, D] */
void vlm_tower_embed(const vlm_model *m, const vlm_block *b)
{
    mr_net n = b->net;
    mr_type t = mr_type1("f32", b->env->images);
    t.rank = 4;
    t.dim[1] = 3;
    t.dim[2] = t.dim[3] = m->size;
    mr_val x = n.b->input(n.p, "pixels", &t);
    n.b->region(n.p, "patches");
    x = MR_OP(n, "patchify", MR_IN(x), MR_AT(mr_ai("patch", m->patch)));
    x = MR_OP(n, "cast", MR_IN(x), MR_AT(mr_as("dtype", "model")));
    char bias[96];
    snprintf(bias, sizeof bias, "%.*sbias", (int)(strlen(m->tower->patch) - strlen("weight")),
             m->tower->patch);
    x = MR_OP(n, "linear",
              MR_IN(x, vlm_patch_weight(m, b),
                    m->tower->patch_bias ? vlm_bias(m, b, VLM_TOWER, bias, m->hidden) : 0),
              MR_NOAT);
    mr_val pos = vlm_rows(m, b, m->tower->pos, vlm_tile_rows(m));
    mr_val cls = m->tower->cls ? vlm_rows(m, b, m->tower->cls, 0) : 0;
    x = MR_OP(n, "patch_positions", MR_IN(x, pos, cls),
              MR_AT(mr_as("class", m->tower->class_row)));
    n.b->end(n.p);
    if (m->tower->pre)
        x = vlm_layernorm(m, b, m->tower->pre, x);
    n.b->output(n.p, "y", x);
}

static mr_val rotate(const vlm_model *m, const vlm_block *b, mr_val x)
{
    int64_t C = m->hidden / m->heads;
    if (!m->tower->rope)
        return x;
    return MR_OP(b->net, "rope_2d", MR_IN(x),
                 MR_AT(mr_ai("head_dim", C), mr_afs("inv_freq", m->inv_freq, (uint32_t)(C / 4)),
                       mr_ai("grid", m->grid), mr_as("class", m->tower->class_row)));
}

static mr_val attention(const vlm_model *m, const vlm_block *b, mr_val x)
{
    mr_net n = b->net;
    int64_t D = m->hidden, C = D / m->heads;
    mr_val out[2] = { 0, 0 }; /* o, lse */
    mr_val q = rotate(m, b, vlm_linear(m, b, VLM_TOWER, "self_attn.q_proj", x, D, D, true,
                                      VLM_IN));
    mr_val k = rotate(m, b, vlm_linear(m, b, VLM_TOWER, "self_attn.k_proj", x, D, D, true,
                                      VLM_IN));
    mr_val v = vlm_linear(m, b, VLM_TOWER, "self_attn.v_proj", x, D, D, true, VLM_IN);
    n.b->region(n.p, "core_attn");
    MR_OPN(n, "attention", out, 2, MR_IN(q, k, v, 0),
           MR_AT(mr_ai("heads", m->heads), mr_ai("kv_heads", m->heads), mr_ai("head_dim", C),
                 mr_af("scale", 1 / sqrt((double)C)), mr_ai("seq", vlm_tile_rows(m)),
                 mr_ai("packed", 0), mr_ai("causal", 0)));
    n.b->end(n.p);
    return vlm_linear(m, b, VLM_TOWER, m->tower->out, out[0], D, D, true, VLM_OUT);
}

void vlm_tower_layer(const vlm_model *m, const vlm_block *b)
{
    mr_net n = b->net;
    mr_val x = take_x(m, b);
    mr_val h = vlm_layernorm(m, b, m->tower->norm1, x);
    n.b->region(n.p, "attn");
    h = attention(m, b, h);
    n.b->end(n.p);
    x = MR_OP(n, "add", MR_IN(x, h), MR_NOAT);

    h = vlm_layernorm(m, b, m->tower->norm2, x);
    n.b->region(n.p, "mlp");
    h = vlm_linear(m, b, VLM_TOWER, "mlp.fc1", h, m->ffn, m->hidden, true, VLM_IN);
    h = vlm_gelu(b, h, m->act);
    h = vlm_linear(m, b, VLM_TOWER, "mlp.fc2", h, m->hidden, m->ffn, true, VLM_OUT);
    n.b->end(n.p);
    n.b->output(n.p, "y", MR_OP(n, "add", MR_IN(x, h), MR_NOAT));
}

void vlm_tower_end(const vlm_model *m, const vlm_block *b)
{
    mr_net n = b->net;
    int64_t wide = m->hidden * m->shuffle * m->shuffle;
    mr_val x = vlm_layernorm(m, b, m->tower->post, take_x(m, b));
    n.b->region(n.p, "adapter");
    x = MR_OP(n, "shuffle_patches", MR_IN(x),
              MR_AT(mr_ai("grid", m->grid), mr_ai("ratio", m->shuffle),
                    mr_as("class", m->tower->class_row)));
    x = vlm_linear(m, b, VLM_TOWER, "vision_adapter.mlp.fc1", x, m->adapter, wide, false, VLM_IN);
    x = vlm_gelu(b, x, "none");
    x = vlm_linear(m, b, VLM_TOWER, "vision_adapter.mlp.fc2", x, m->adapter, m->adapter, false,
                   VLM_OUT);
    x = vlm_gelu(b, x, "none");
    n.b->end(n.p);
    n.b->output(n.p, "y", x);
}
