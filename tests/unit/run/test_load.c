/* SPDX-License-Identifier: Apache-2.0
 * Weights of a folder are the parameters' values in every form that those are kept in, whatever
 * the files' order and dtypes, in place and through the ring of a device that copies late. */
#include "core/run/pieces.h"
#include "tests/unit/plan/tiny.h"
#include "tests/unit/store/scratch.h"

/* ---- a device that the host does not reach, and that copies only when it is waited for --------- */
typedef struct late_copy {
    void *dst;
    const void *src;
    uint64_t n;
} late_copy;

static struct {
    MRI_VEC(late_copy) queue;
    size_t done;
    mr_backend_ops ops;
    const mr_backend_ops *inner;
    mr_unit unit;
} late;

static void copy_until(size_t end)
{
    for (; late.done < end; late.done++) {
        late_copy *c = &late.queue.v[late.done];
        memcpy(c->dst, c->src, c->n);
    }
}

static mr_status late_enqueue(void *dev, void *stream, void *dst, const void *src, uint64_t n,
                              mr_err *err)
{
    late_copy c = { dst, src, n };
    (void)dev, (void)stream, (void)err;
    MRI_PUSH(&late.queue, c);
    return 0;
}

static mr_status late_record(void *dev, void *stream, void **event, mr_err *err)
{
    (void)dev, (void)stream, (void)err;
    if (!*event)
        *event = mri_alloc(sizeof(size_t));
    *(size_t *)*event = late.queue.n;
    return 0;
}

static mr_status late_event_sync(void *dev, void *event, mr_err *err)
{
    (void)dev, (void)err;
    copy_until(*(size_t *)event);
    return 0;
}

static void late_event_destroy(void *dev, void *event)
{
    (void)dev;
    free(event);
}

static mr_status late_sync(void *dev, void *stream, mr_err *err)
{
    copy_until(late.queue.n);
    return late.inner->sync(dev, stream, err);
}

static const void *late_ext(void *dev, const char *id)
{
    return strcmp(id, MR_EXT_HOST_MEMORY) ? late.inner->ext(dev, id) : NULL;
}

static void make_late(mri_config *c)
{
    mri_choice *choice = (mri_choice *)(uintptr_t)mri_config_choice(c, "backend", 0);
    late.inner = choice->unit->table;
    late.ops = *late.inner;
    late.ops.copy = late_enqueue;
    late.ops.record = late_record;
    late.ops.event_sync = late_event_sync;
    late.ops.event_destroy = late_event_destroy;
    late.ops.sync = late_sync;
    late.ops.ext = late_ext;
    late.unit = *choice->unit;
    late.unit.table = &late.ops;
    choice->unit = &late.unit;
}

/* ---- folders ------------------------------------------------------------------------------------ */
static float value(size_t slot, uint64_t i) /* of more digits than bf16 has */
{
    uint64_t s = slot * 1000003 + i;
    return (float)((double)(scratch_random(&s) >> 11) * 0x1p-53 - 0.5);
}

/* Slots are written backwards, every third in bf16, every fourth to the second shard. */
static void write_folder(const char *dir, const mri_params *p, bool drop)
{
    MRI_VEC(mri_tensor) shard[2] = { { 0 } };
    mri_str index = { 0 };
    mr_err err = MR_ERR_INIT;
    mri_str_add(&index, "{\"weight_map\": {");
    for (size_t k = p->slots.n; k-- > (drop ? 1u : 0u);) {
        const mri_tensor_slot *s = &p->slots.v[k];
        float *x = mri_alloc(s->n * sizeof *x);
        mri_tensor t = { s->name, s->desc.type, x };
        for (uint64_t i = 0; i < s->n; i++)
            x[i] = value(k, i);
        t.type.dtype = "f32";
        if (k % 3 == 0) {
            t.type.dtype = "bf16";
            cr_assert_eq(mri_convert(x, "bf16", x, "f32", s->n, &err), 0);
        }
        MRI_PUSH(&shard[k % 4 == 0], t);
        mri_str_fmt(&index, "%s\"%s\": \"m%d.safetensors\"", k + 1 < p->slots.n ? ", " : "",
                    s->name, k % 4 == 0);
    }
    mri_str_add(&index, "}}");
    for (int i = 0; i < 2; i++) {
        char *path = mri_format("%s/m%d.safetensors", dir, i);
        cr_assert_eq(mri_safetensors_write(path, shard[i].v, shard[i].n, NULL, &err), 0, "%s",
                     err.what);
        free(path);
        for (size_t k = 0; k < shard[i].n; k++)
            free((void *)(uintptr_t)shard[i].v[k].data);
        free(shard[i].v);
    }
    char *path = mri_format("%s/model.safetensors.index.json", dir);
    scratch_put(path, index.s, index.n);
    free(path);
    mri_str_free(&index);
}

static float as_bf16(float x)
{
    uint16_t h;
    mr_err err = MR_ERR_INIT;
    mri_convert(&h, "bf16", &x, "f32", 1, &err);
    mri_convert(&x, "f32", &h, "bf16", 1, &err);
    return x;
}

static void check_slot(mri_session *s, size_t k, bool exact)
{
    const mri_tensor_slot *slot = &s->params.slots.v[k];
    mr_err err = MR_ERR_INIT;
    const char *dtype;
    mri_params_exact(&s->params, slot, &dtype);
    void *raw = mri_alloc(slot->n * 8);
    float *x = mri_alloc(slot->n * sizeof *x);
    kit_ok(mri_params_get(&s->params, &s->device, slot, raw, &err), &err, "get");
    kit_ok(mri_convert(x, "f32", raw, dtype, slot->n, &err), &err, "convert");
    for (uint64_t i = 0; i < slot->n; i++) {
        float want = k % 3 == 0 || !exact ? as_bf16(value(k, i)) : value(k, i);
        cr_assert_eq(x[i], want, "%s, element %llu: %.9g, not %.9g", slot->name,
                     (unsigned long long)i, x[i], want);
    }
    free(raw);
    free(x);
}

static mri_session *open_with(kit *k, const char *const *base, const char *const *more, bool train,
                              bool is_late)
{
    const char *sets[64] = { "backend.plugin=cpu", "train.micro_batch=1" };
    mri_session_options o = { .needs = train ? MRI_NEED_TRAIN : MRI_NEED_EVAL };
    mr_err err = MR_ERR_INIT;
    size_t n = 2;
    while (*base)
        sets[n++] = *base++;
    while (*more)
        sets[n++] = *more++;
    memset(&late.queue, 0, sizeof late.queue);
    late.done = 0;
    k->registry = mri_registry_create(NULL);
    mri_registry_offer(k->registry, MR_EXT_REF, &mri_ref_service);
    mri_registry_offer(k->registry, MR_EXT_JSON, &mri_json_service);
    kit_ok(mri_config_load(k->registry, NULL, sets, n, &k->config, &err), &err, "config");
    if (is_late)
        make_late(k->config);
    kit_ok(mri_session_open(k->registry, k->config, &o, &k->session, &err), &err, "session");
    return k->session;
}

static mri_session *open_as(kit *k, const char *const *more, bool train, bool is_late)
{
    static const char *const base[] = { TINY_MODEL, "model.vocab=70000", NULL };
    return open_with(k, base, more, train, is_late); /* an embedding of two chunks */
}

static void loads(const char *const *more, bool train, bool exact)
{
    for (int is_late = 0; is_late < 2; is_late++) {
        kit k = { 0 };
        mr_err err = MR_ERR_INIT;
        char *dir = scratch_make();
        mri_session *s = open_as(&k, more, train, is_late);
        cr_assert_eq(s->device.host_memory, !is_late);
        write_folder(dir, &s->params, false);
        kit_ok(mri_session_load_hf(s, dir, &err), &err, "load");
        for (size_t i = 0; i < s->params.slots.n; i++)
            check_slot(s, i, exact);
        kit_close(&k);
        free(late.queue.v);
        scratch_drop(dir);
    }
}

Test(load, f32_parameters_are_exact)
{
    loads((const char *[]){ "precision.recipe=fp32", NULL }, true, true);
}

Test(load, bf16_weights_are_rounded_and_their_masters_exact)
{
    loads((const char *[]){ "precision.recipe=bf16", NULL }, true, true);
    loads((const char *[]){ "precision.recipe=bf16", NULL }, false, false);
}

Test(load, halves_of_split_masters_make_the_exact_value)
{
    loads((const char *[]){ "precision.recipe=bf16", "precision.masters=remainder", NULL }, true,
          true);
}

Test(load, a_missing_tensor_is_named)
{
    kit k = { 0 };
    mr_err err = MR_ERR_INIT;
    char *dir = scratch_make();
    mri_session *s = open_as(&k, (const char *[]){ NULL }, false, false);
    write_folder(dir, &s->params, true);
    cr_assert_eq(mri_session_load_hf(s, dir, &err), MR_E_STORE_MISSING);
    cr_assert(strstr(err.what, s->params.slots.v[0].name), "%s", err.what);
    kit_close(&k);
    scratch_drop(dir);
}

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

/* ---- experts, a tensor each: int4 in groups, the parameter f32 [E, 2F, D] and [E, D, F] -------- */

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
