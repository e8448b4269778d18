/* SPDX-License-Identifier: Apache-2.0
 * Weights of a folder are the parameters' values in every form that those are kept in, whatever
 * the files' order and dtypes, in place and through the ring of a device that copies late. */
#include "late.h"

/* ---- folders --------------------------------------------------------------------------------- */
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

/* Each state of each parameter, written or compared with what was written. */
static void each_state(mri_session *s, bool compare, float plus)
{
    mr_err err = MR_ERR_INIT;
    size_t seen = 0;
    for (size_t k = 0; k < s->params.slots.n; k++)
        for (size_t j = 0; j < s->update->states.n; j++) {
            const mri_tensor_slot *slot = &s->params.slots.v[k];
            const mri_opt_state *x = &s->update->states.v[j];
            if (x->group != slot->group)
                continue;
            char *at = (char *)x->data + (slot->at - s->params.groups.v[x->group].at) * 4;
            float *v = mri_alloc(slot->n * sizeof *v);
            if (compare)
                kit_ok(mri_device_read(&s->device, v, at, slot->n * 4, &err), &err, "read");
            for (uint64_t i = 0; i < slot->n; i++) {
                float want = value(100 * j + k, i) + plus;
                if (compare)
                    cr_assert_eq(v[i], want, "%s of %s", x->name, slot->name);
                v[i] = want;
            }
            if (!compare)
                kit_ok(mri_device_write(&s->device, at, v, slot->n * 4, &err), &err, "write");
            free(v);
            seen++;
        }
    cr_assert_gt(seen, s->params.slots.n);
}

Test(load, a_checkpoints_states_come_back_with_its_weights)
{
    for (int is_late = 0; is_late < 2; is_late++) {
        kit k = { 0 };
        mr_err err = MR_ERR_INIT;
        mri_checkpoint *c = NULL;
        char *dir = scratch_make(), *saved = mri_format("%s/saved", dir);
        mri_session *s = open_as(&k, (const char *[]){ "precision.recipe=bf16", NULL }, true,
                                 is_late);
        write_folder(dir, &s->params, false);
        kit_ok(mri_session_load_hf(s, dir, &err), &err, "load");
        each_state(s, false, 0);
        kit_ok(mri_session_save(s, saved, 1, &err), &err, "save");
        each_state(s, false, 1);
        kit_ok(mri_checkpoint_open_newest(saved, &c, &err), &err, "open");
        kit_ok(mri_session_load(s, c, false, &err), &err, "resume");
        each_state(s, true, 0);
        for (size_t i = 0; i < s->params.slots.n; i++)
            check_slot(s, i, true);
        mri_checkpoint_close(c);
        kit_close(&k);
        free(late.queue.v);
        free(saved);
        scratch_drop(dir);
    }
}
