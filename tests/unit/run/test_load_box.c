/* SPDX-License-Identifier: Apache-2.0
 * A rank that has a box of a parameter loads that box and nothing else: every half of every dim of
 * every parameter of a small model, from tensors of one dtype or another, whole or in pieces. */
#include "../plan/tiny.h"
#include "core/run/load_box.h"
#include "core/run/shares.h"
#include "tests/unit/store/scratch.h"

static float value(size_t slot, uint64_t i)
{
    return (float)((slot * 131 + i * 7) % 251) - 125; /* exact in bf16 too */
}

/* [rows,cols] to [cols,rows] */
static void turn(char *x, int64_t rows, int64_t cols, size_t width)
{
    char *y = mri_alloc((size_t)(rows * cols) * width);
    for (int64_t i = 0; i < rows * cols; i++)
        memcpy(y + (size_t)(i % cols * rows + i / cols) * width, x + (size_t)i * width, width);
    memcpy(x, y, (size_t)(rows * cols) * width);
    free(y);
}

/* every second slot in bf16; the first matrix of three dims goes as `pieces` of its first dim,
 * perhaps turned */
static mri_safetensors *write_and_open(const char *dir, mri_session *s, size_t in_pieces,
                                       bool turned)
{
    MRI_VEC(mri_tensor) t = { 0 };
    char *path = mri_format("%s/model.safetensors", dir);
    mri_safetensors *f = NULL;
    mr_err err = MR_ERR_INIT;
    for (size_t k = 0; k < s->params.slots.n; k++) {
        const mri_tensor_slot *slot = &s->params.slots.v[k];
        const char *dtype = k % 2 ? "bf16" : "f32";
        size_t width = mr_dtype_bytes(dtype);
        float *x = mri_alloc(slot->n * sizeof *x);
        for (uint64_t i = 0; i < slot->n; i++)
            x[i] = value(k, i);
        kit_ok(mri_convert(x, dtype, x, "f32", slot->n, &err), &err, "convert");
        mr_type type = mri_slot_stored(slot);
        type.dtype = dtype;
        if (k != in_pieces) {
            MRI_PUSH(&t, ((mri_tensor){ slot->name, type, x }));
            continue;
        }
        int64_t count = type.dim[0], each = mr_numel(&type) / count;
        memmove(type.dim, type.dim + 1, (type.rank - 1) * sizeof type.dim[0]);
        type.rank--;
        const char *dot = strrchr(slot->name, '.');
        for (int64_t e = 0; e < count; e++) {
            char *name = mri_format("%.*s.%lld.piece", (int)(dot - slot->name), slot->name,
                                    (long long)e);
            char *piece = (char *)x + (size_t)(e * each) * width;
            mr_type own = type;
            if (turned) {
                turn(piece, type.dim[0], type.dim[1], width);
                own.dim[0] = type.dim[1];
                own.dim[1] = type.dim[0];
            }
            MRI_PUSH(&t, ((mri_tensor){ name, own, piece }));
        }
    }
    kit_ok(mri_safetensors_write(path, t.v, t.n, NULL, &err), &err, "write");
    kit_ok(mri_safetensors_open(path, &f, &err), &err, "open");
    free(t.v);
    free(path);
    return f;
}

/* Loads half `half` of dim d of slot k, as if this rank had no more of it, and looks. */
static void try_half(mri_session *s, const mri_safetensors *f, size_t k, uint32_t d, int half,
                     const char *pieces, bool turned)
{
    const mri_tensor_slot *whole = &s->params.slots.v[k];
    mri_tensor_slot box = *whole;
    mri_pieces found = { 0 };
    mr_err err = MR_ERR_INIT;
    box.place = (mri_place){ .rank = box.desc.type.rank };
    memcpy(box.place.full, whole->desc.type.dim, sizeof box.place.full);
    box.desc.type.dim[d] /= 2;
    box.place.at[d] = half * box.desc.type.dim[d];
    box.n = (uint64_t)mr_numel(&box.desc.type);
    if (pieces) {
        box.desc.tensors = pieces;
        box.desc.flags &= ~(uint32_t)MR_PARAM_TURNED;
        box.desc.flags |= turned ? MR_PARAM_TURNED : 0;
    }
    kit_ok(mri_load_box(&s->params, &s->device, f, NULL, &box, "here", &found, &err), &err,
           box.name);
    cr_assert_eq(found.list.n, pieces ? (size_t)whole->desc.type.dim[0] : 1);
    cr_assert_eq(found.elements, box.n, "%s: %llu elements were read for %llu", box.name,
                 (unsigned long long)found.elements, (unsigned long long)box.n);
    float *x = mri_alloc(box.n * sizeof *x);
    kit_ok(mri_params_get(&s->params, &s->device, &box, x, &err), &err, box.name);
    mri_share want = mri_share_of_slot(&box);
    for (uint64_t i = 0; i < box.n; i++) {
        uint64_t left = i, at = 0, step = 1;
        for (uint32_t e = want.box.rank; e-- > 0;) {
            at += (left % (uint64_t)want.box.dim[e] + (uint64_t)want.box.at[e]) * step;
            left /= (uint64_t)want.box.dim[e];
            step *= (uint64_t)want.box.full[e];
        }
        cr_assert_eq(x[i], value(k, at), "%s, half %d of dim %u: element %llu", box.name, half, d,
                     (unsigned long long)i);
    }
    free(x);
    mri_pieces_free(&found);
}

static size_t try_all(mri_session *s, const mri_safetensors *f, size_t in_pieces, bool turned)
{
    size_t n = 0;
    for (size_t k = 0; k < s->params.slots.n; k++) {
        const mr_type *t = &s->params.slots.v[k].desc.type;
        for (uint32_t d = 0; d < t->rank && !s->params.slots.v[k].desc.stored_rank; d++)
            for (int half = 0; half < 2 && t->dim[d] % 2 == 0; half++, n++)
                try_half(s, f, k, d, half, k == in_pieces ? "#.piece" : NULL, turned);
    }
    return n;
}

Test(load_box, every_half_of_every_dim)
{
    char *dir = scratch_make();
    tiny t = tiny_open("cpu", (mri_session_options){ .needs = MRI_NEED_UPDATE }, NULL);
    mri_safetensors *f = write_and_open(dir, t.s, SIZE_MAX, false);
    cr_assert_gt(try_all(t.s, f, SIZE_MAX, false), 100);
    mri_safetensors_close(f);
    tiny_close(&t);
    scratch_drop(dir);
}

static void in_pieces(bool turned)
{
    const char *four[] = { "model.llama4.experts=4", NULL };
    char *dir = scratch_make();
    tiny t = tiny_open("cpu", (mri_session_options){ .needs = MRI_NEED_UPDATE }, four);
    size_t k = 0;
    while (t.s->params.slots.v[k].desc.type.rank != 3)
        cr_assert_lt(++k, t.s->params.slots.n, "no parameter of three dims");
    mri_safetensors *f = write_and_open(dir, t.s, k, turned);
    cr_assert_eq(t.s->params.slots.v[k].desc.type.dim[0], 4);
    cr_assert_gt(try_all(t.s, f, k, turned), 100);
    mri_safetensors_close(f);
    tiny_close(&t);
    scratch_drop(dir);
}

Test(load_box, a_parameter_that_the_folder_has_in_pieces)
{
    in_pieces(false);
}

Test(load_box, pieces_that_the_folder_has_turned)
{
    in_pieces(true);
}
