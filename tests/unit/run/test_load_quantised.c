/* SPDX-License-Identifier: Apache-2.0
 * A quantised weight goes where a plain one does: the same call reads both, in place and through
 * the ring of a device that copies late; experts of a tensor each become one parameter. */
#include "core/run/pieces.h"
#include "late.h"

/* One weight in fp8 blocks, the others as they are: the same call reads both. */
Test(load, a_quantised_weight_goes_where_a_plain_one_does)
{
    static const char config[] = "{\"model_type\": \"llama4_text\", \"quantization_config\": "
                                 "{\"quant_method\": \"fp8\", \"weight_block_size\": [8, 8]}}";
    static const uint8_t codes[4] = { 0x38, 0x40, 0xb8, 0x30 };
    static const float means[4] = { 1, 2, -1, 0.5 };
    for (int is_late = 0; is_late < 2; is_late++) {
        kit k = { 0 };
        mr_err err = MR_ERR_INIT;
        MRI_VEC(mri_tensor) t = { 0 };
        char *dir = scratch_make(), *path = mri_format("%s/model.safetensors", dir);
        char *json = mri_format("%s/config.json", dir), *scale_name = NULL;
        mri_session *s = open_as(&k, (const char *[]){ "precision.recipe=bf16", NULL }, true,
                                 is_late);
        size_t chosen = SIZE_MAX;
        for (size_t i = 0; i < s->params.slots.n; i++) {
            const mri_tensor_slot *p = &s->params.slots.v[i];
            mri_tensor x = { p->name, p->desc.type, mri_alloc(p->n * 4) };
            x.type.dtype = "f32";
            if (strstr(p->name, "layers.0.self_attn.q_proj.weight")) {
                chosen = i;
                x.type.dtype = "f8e4m3";
                for (uint64_t e = 0; e < p->n; e++)
                    ((uint8_t *)(uintptr_t)x.data)[e] = codes[e % 4];
                float *scales = mri_alloc(4 * sizeof *scales);
                for (int e = 0; e < 4; e++)
                    scales[e] = (float)(e + 1);
                scale_name = mri_format("%s_scale_inv", p->name);
                mri_tensor y = { scale_name, mr_type2("f32", 2, 2), scales };
                MRI_PUSH(&t, y);
            }
            MRI_PUSH(&t, x);
        }
        cr_assert_neq(chosen, SIZE_MAX);
        cr_assert_eq(mri_safetensors_write(path, t.v, t.n, NULL, &err), 0, "%s", err.what);
        scratch_put(json, config, strlen(config));
        kit_ok(mri_session_load_hf(s, dir, &err), &err, "load");
        const mri_tensor_slot *q = &s->params.slots.v[chosen];
        float *got = mri_alloc(q->n * sizeof *got);
        kit_ok(mri_params_get(&s->params, &s->device, q, got, &err), &err, "get");
        cr_assert(q->desc.type.dim[0] == 16 && q->desc.type.dim[1] == 16);
        for (int64_t e = 0; e < 256; e++)
            cr_assert_eq(got[e], means[e % 4] * (float)(e / 128 * 2 + e % 16 / 8 + 1));
        free(got);
        kit_close(&k);
        for (size_t i = 0; i < t.n; i++)
            free((void *)(uintptr_t)t.v[i].data);
        free(t.v);
        free(late.queue.v);
        free(scale_name);
        free(json);
        free(path);
        scratch_drop(dir);
    }
}

/* ---- experts, a tensor each: int4 in groups, the parameters f32 [E, 2F, D], [E, D, F] ------- */

#define INT4 \
    "{\"model_type\": \"kimi_k2\", \"quantization_config\": {\"quant_method\": " \
    "\"compressed-tensors\", \"format\": \"pack-quantized\", \"config_groups\": {\"g\": " \
    "{\"weights\": {\"num_bits\": 4, \"strategy\": \"group\", \"group_size\": 8}}}}}"

static uint32_t nibble(int64_t piece, int64_t r, int64_t c) /* a code of a piece */
{
    return (uint32_t)(piece * 7 + r * 5 + c * 3) & 15;
}

static float group_scale(int64_t piece, int64_t r, int64_t g) /* exact in bf16 */
{
    return (float)(1 + (piece + r + g) % 5) / 8;
}

typedef MRI_VEC(mri_tensor) tensors;

static void put_piece(tensors *t, char *name, int64_t piece, int64_t rows, int64_t cols)
{
    uint32_t *codes = mri_alloc((size_t)(rows * cols / 2));
    uint16_t *scales = mri_alloc((size_t)(rows * cols / 8) * 2);
    mr_err err = MR_ERR_INIT;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < cols; c++) {
            codes[(r * cols + c) / 8] |= nibble(piece, r, c) << (c % 8 * 4);
            float x = group_scale(piece, r, c / 8);
            mri_convert(&scales[(r * cols + c) / 8], "bf16", &x, "f32", 1, &err);
        }
    mri_tensor a = { mri_format("%s_packed", name), mr_type2("i32", rows, cols / 8), codes };
    mri_tensor b = { mri_format("%s_scale", name), mr_type2("bf16", rows, cols / 8), scales };
    MRI_PUSH(t, b);
    MRI_PUSH(t, a);
    free(name);
}

static void check_experts(mri_session *s, const mri_tensor_slot *slot, int64_t per)
{
    mr_err err = MR_ERR_INIT;
    const mr_type *t = &slot->desc.type;
    int64_t rows = t->dim[1] / per, cols = t->dim[2];
    float *got = mri_alloc(slot->n * sizeof *got);
    kit_ok(mri_params_get(&s->params, &s->device, slot, got, &err), &err, "get");
    for (uint64_t i = 0; i < slot->n; i++) {
        int64_t c = (int64_t)i % cols, r = (int64_t)i / cols % t->dim[1];
        int64_t piece = (int64_t)i / cols / t->dim[1] * per + r / rows;
        float want = (float)((int)nibble(piece, r % rows, c) - 8) *
                     group_scale(piece, r % rows, c / 8);
        cr_assert_eq(got[i], want, "%s, element %llu", slot->name, (unsigned long long)i);
    }
    free(got);
}

Test(load, quantised_experts_of_their_own_become_one_parameter)
{
    static const char *const base[] = {
        "model.plugin=kimi_k2",          "model.layers=2",           "model.hidden=24",
        "model.heads=2",                 "model.ffn_hidden=32",      "model.vocab=40",
        "model.kimi_k2.experts=4",       "model.kimi_k2.experts_per_token=2",
        "model.kimi_k2.expert_hidden=16", "model.kimi_k2.groups=1",  "model.kimi_k2.q_lora_rank=8",
        "model.kimi_k2.kv_lora_rank=8",  "model.kimi_k2.nope_dim=4", "model.kimi_k2.rope_dim=4",
        "model.kimi_k2.value_dim=4",     "train.steps=1",            "train.seq=8",
        "data.text.path=unused",         "precision.recipe=fp32",    NULL
    };
    for (int is_late = 0; is_late < 2; is_late++) {
        kit k = { 0 };
        mr_err err = MR_ERR_INIT;
        tensors t = { 0 };
        char *dir = scratch_make(), *path = mri_format("%s/model.safetensors", dir);
        char *json = mri_format("%s/config.json", dir);
        mri_session *s = open_with(&k, base, (const char *[]){ NULL }, false, is_late);
        size_t experts = 0;
        for (size_t i = 0; i < s->params.slots.n; i++) {
            const mri_tensor_slot *p = &s->params.slots.v[i];
            const char *words = p->desc.tensors;
            int64_t per = words && strchr(words, ' ') ? 2 : 1;
            for (int64_t e = 0; words && e < p->desc.type.dim[0]; e++)
                for (int64_t w = 0; w < per; w++) {
                    const char *word = w ? strchr(words, ' ') + 1 : words;
                    put_piece(&t, mri_piece_name(p, word, strcspn(word, " "), e), e * per + w,
                              p->desc.type.dim[1] / per, p->desc.type.dim[2]);
                }
            if (!words) {
                mri_tensor x = { mri_strdup(p->name), p->desc.type, mri_alloc(p->n * 4) };
                x.type.dtype = "f32";
                MRI_PUSH(&t, x);
            }
            experts += words != NULL;
        }
        cr_assert_eq(experts, 2);
        cr_assert_eq(mri_safetensors_write(path, t.v, t.n, NULL, &err), 0, "%s", err.what);
        scratch_put(json, INT4, strlen(INT4));
        kit_ok(mri_session_load_hf(s, dir, &err), &err, "load");
        for (size_t i = 0; i < s->params.slots.n; i++)
            if (s->params.slots.v[i].desc.tensors)
                check_experts(s, &s->params.slots.v[i],
                              strchr(s->params.slots.v[i].desc.tensors, ' ') ? 2 : 1);
        kit_close(&k);
        for (size_t i = 0; i < t.n; i++) {
            free((void *)(uintptr_t)t.v[i].name);
            free((void *)(uintptr_t)t.v[i].data);
        }
        free(t.v);
        free(late.queue.v);
        free(json);
        free(path);
        scratch_drop(dir);
    }
}
