/* SPDX-License-Identifier: Apache-2.0
 * A parameter is made of the tensors that a folder holds in its stead, in the order and by the
 * count that its description says; what is missing or does not fit is named. */
#include "core/run/pieces.h"
#include "scratch.h"
#include <stdlib.h>

/* two experts of gate [1,3] and up [1,3]: a parameter [2, 2, 3] of 0 .. 11 */
static const float data[12] = { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 };
static const char *const names[4] = { "l.mlp.experts.0.gate.w", "l.mlp.experts.0.up.w",
                                      "l.mlp.experts.1.gate.w", "l.mlp.experts.1.up.w" };

static mri_tensor_slot slot(void)
{
    mri_tensor_slot s = { .name = "l.mlp.experts.gate_up", .n = 12 };
    s.desc.type = mr_type3("f32", 2, 2, 3);
    s.desc.tensors = "#.gate.w #.up.w";
    return s;
}

static mri_safetensors *folder(char *dir, const mri_tensor *t, size_t n)
{
    mr_err err = MR_ERR_INIT;
    mri_safetensors *f;
    char *path = mri_format("%s/model.safetensors", dir);
    cr_assert_eq(mri_safetensors_write(path, t, n, NULL, &err), 0, "%s", err.what);
    cr_assert_eq(mri_safetensors_open_folder(dir, &f, &err), 0, "%s", err.what);
    free(path);
    return f;
}

static void four(mri_tensor t[4])
{
    for (int i = 0; i < 4; i++)
        t[i] = (mri_tensor){ names[i], mr_type2("f32", 1, 3), data + 3 * i };
}

/* the parameter's data, put together from the pieces where they say they go */
static void joined(const mri_safetensors *f, const mri_tensor_slot *s, size_t pieces, float all[12])
{
    mri_pieces p = { 0 };
    mr_err err = MR_ERR_INIT;
    cr_assert_eq(mri_pieces_find(f, NULL, s, "DIR", &p, &err), 0, "%s", err.what);
    cr_assert_eq(p.list.n, pieces);
    for (size_t i = 0; i < p.list.n; i++) {
        const mri_stored *t = &p.list.v[i].from;
        cr_assert(!t->rule && !strcmp(t->type.dtype, "f32") && p.list.v[i].slot == s);
        memcpy(all + p.list.v[i].at, t->data->data, mr_bytes(&t->type));
    }
    mri_pieces_free(&p);
}

Test(pieces, are_joined_by_count_then_by_name)
{
    mri_tensor t[4], order[4];
    mri_tensor_slot s = slot();
    float all[12];
    char *dir = scratch_make();
    four(t);
    for (int i = 0; i < 4; i++)
        order[i] = t[3 - i]; /* the file's order says nothing */
    mri_safetensors *f = folder(dir, order, 4);
    joined(f, &s, 4, all);
    cr_assert_arr_eq(all, data, sizeof data);
    mri_safetensors_close(f);
    scratch_drop(dir);
}

Test(pieces, without_a_count_are_laid_end_to_end)
{
    mri_tensor t[2] = { { "l.q", mr_type2("f32", 1, 3), data },
                        { "l.k", mr_type2("f32", 3, 3), data + 3 } };
    mri_tensor_slot s = { .name = "l.qk", .n = 12 };
    float all[12];
    char *dir = scratch_make();
    s.desc.type = mr_type2("f32", 4, 3);
    s.desc.tensors = "q k";
    mri_safetensors *f = folder(dir, t, 2);
    joined(f, &s, 2, all);
    cr_assert_arr_eq(all, data, sizeof data);
    mri_safetensors_close(f);
    scratch_drop(dir);
}

static void fails(const mri_tensor *t, size_t n, mr_status code, const char *says)
{
    mri_tensor_slot s = slot();
    mr_err err = MR_ERR_INIT;
    mri_pieces p = { 0 };
    char *dir = scratch_make();
    mri_safetensors *f = folder(dir, t, n);
    cr_assert_eq(mri_pieces_find(f, NULL, &s, "DIR", &p, &err), code, "%s", says);
    cr_assert(strstr(err.what, says), "\"%s\" does not say \"%s\"", err.what, says);
    mri_pieces_free(&p);
    mri_safetensors_close(f);
    scratch_drop(dir);
}

Test(pieces, that_do_not_make_the_parameter_are_named)
{
    mri_tensor t[4];
    four(t);
    fails(t, 3, MR_E_STORE_MISSING, "no tensor l.mlp.experts.1.up.w");
    t[2].type = mr_type2("f32", 1, 2);
    fails(t, 4, MR_E_STORE_FORMAT, "tensor l.mlp.experts.1.gate.w");
    four(t);
    t[1].type = mr_type2("f32", 2, 3); /* a row too many */
    fails(t, 4, MR_E_STORE_FORMAT, "tensor l.mlp.experts.0.up.w");
    four(t);
    t[0].type = mr_type1("f32", 3);
    fails(t, 4, MR_E_STORE_FORMAT, "tensor l.mlp.experts.0.gate.w");
}

/* gate [2,3] and up [1,3] of each of two experts are columns of its [3, 3] */
Test(pieces, turned_are_columns_of_each_matrix)
{
    static const char *const parts[] = { "l.experts.0.gate.w", "l.experts.0.up.w",
                                         "l.experts.1.gate.w", "l.experts.1.up.w" };
    static const float x[18] = { 0, 3, 6, 1, 4, 7, 2, 5, 8, 9, 12, 15, 10, 13, 16, 11, 14, 17 };
    mri_tensor t[4] = { 0 };
    mri_tensor_slot s = { .name = "l.experts.gate_up", .n = 18 };
    s.desc.type = mr_type3("f32", 2, 3, 3);
    s.desc.tensors = "#.gate.w #.up.w";
    s.desc.flags = MR_PARAM_TURNED;
    for (int i = 0; i < 4; i++)
        t[i] = (mri_tensor){ parts[i], mr_type2("f32", i % 2 ? 1 : 2, 3),
                             x + i / 2 * 9 + i % 2 * 6 };
    char *dir = scratch_make();
    mri_safetensors *f = folder(dir, t, 4);
    mr_err err = MR_ERR_INIT;
    void *all;
    const char *dtype;
    cr_assert_eq(mri_pieces_join(f, NULL, &s, "DIR", &all, &dtype, &err), 0, "%s", err.what);
    cr_assert_str_eq(dtype, "f32");
    for (int i = 0; i < 18; i++)
        cr_assert_eq(((float *)all)[i], (float)i, "element %d is %g", i, ((float *)all)[i]);
    free(all);

    mri_pieces p = { 0 };
    float some[3];
    cr_assert_eq(mri_pieces_find(f, NULL, &s, "DIR", &p, &err), 0, "%s", err.what);
    cr_assert(p.list.n == 2 && p.list.v[1].at == 9 && p.list.v[1].n == 9);
    for (int64_t at = 0; at < 9; at++) /* parts of a row, as of rows longer than a chunk */
        for (int64_t n = 1; n <= 3 - at % 3; n++) {
            cr_assert_eq(mri_turned_read(p.list.v[1].turned, at, n, some, &err), 0);
            for (int64_t k = 0; k < n; k++)
                cr_assert_eq(some[k], (float)(9 + at + k));
        }
    mri_pieces_free(&p);
    mri_safetensors_close(f);
    scratch_drop(dir);

    t[3].type = mr_type2("f32", 1, 2);
    dir = scratch_make();
    f = folder(dir, t, 4);
    cr_assert_eq(mri_pieces_find(f, NULL, &s, "DIR", &p, &err), MR_E_STORE_FORMAT);
    cr_assert(strstr(err.what, parts[3]), "%s", err.what);
    mri_pieces_free(&p);
    mri_safetensors_close(f);
    scratch_drop(dir);
}
