/* SPDX-License-Identifier: Apache-2.0
 * safetensors files round-trip byte for byte, in the layout of the format's own library. */
#include "core/store/store.h"
#include "scratch.h"

static mr_type type_of(const char *dtype, uint32_t rank, const int64_t *dim)
{
    mr_type t = { .size = sizeof t, .rank = rank, .dtype = dtype };
    for (uint32_t i = 0; i < rank; i++)
        t.dim[i] = dim[i];
    return t;
}

static const float matrix[6] = { 1, 2, 3, 4, 5, 6 };
static const int64_t count = -7;
static const uint16_t halves[3] = { 0x3f80, 0x4000, 0x4040 };
static const uint8_t bytes[5] = { 1, 2, 3, 4, 5 };

static const mri_tensor set[] = {
    { "z.bytes", { .size = sizeof(mr_type), .rank = 1, .dtype = "u8", .dim = { 5 } }, bytes },
    { "b.matrix", { .size = sizeof(mr_type), .rank = 2, .dtype = "f32", .dim = { 2, 3 } }, matrix },
    { "scalar", { .size = sizeof(mr_type), .rank = 0, .dtype = "i64" }, &count },
    { "half", { .size = sizeof(mr_type), .rank = 1, .dtype = "bf16", .dim = { 3 } }, halves },
    { "a.empty", { .size = sizeof(mr_type), .rank = 2, .dtype = "f32", .dim = { 0, 3 } }, NULL },
};
enum { N = sizeof set / sizeof *set };

/* What safetensors 0.4+ writes for the same tensors (its header, then its data). */
static const char header[] =
    "{\"__metadata__\":{\"format\":\"pt\"},"
    "\"scalar\":{\"dtype\":\"I64\",\"shape\":[],\"data_offsets\":[0,8]},"
    "\"a.empty\":{\"dtype\":\"F32\",\"shape\":[0,3],\"data_offsets\":[8,8]},"
    "\"b.matrix\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[8,32]},"
    "\"half\":{\"dtype\":\"BF16\",\"shape\":[3],\"data_offsets\":[32,38]},"
    "\"z.bytes\":{\"dtype\":\"U8\",\"shape\":[5],\"data_offsets\":[38,43]}}";

Test(safetensors, the_writer_is_the_librarys_byte_for_byte)
{
    char *dir = scratch_make(), *path = mri_format("%s/x.safetensors", dir);
    const char *const metadata[] = { "format", "pt", NULL };
    mr_err err = MR_ERR_INIT;
    mri_str want = { 0 };
    uint64_t length = (strlen(header) + 7) / 8 * 8;
    mri_str_addn(&want, (char *)&length, 8);
    mri_str_add(&want, header);
    while (want.n % 8)
        mri_str_add(&want, " ");
    mri_str_addn(&want, (const char *)&count, 8);
    mri_str_addn(&want, (const char *)matrix, sizeof matrix);
    mri_str_addn(&want, (const char *)halves, sizeof halves);
    mri_str_addn(&want, (const char *)bytes, sizeof bytes);

    cr_assert_eq(mri_safetensors_write(path, set, N, metadata, &err), 0, "%s", err.what);
    size_t n;
    char *got = scratch_get(path, &n);
    cr_assert_eq(n, want.n);
    cr_assert_arr_eq(got, want.s, n);
    free(got);
    mri_str_free(&want);
    free(path);
    scratch_drop(dir);
}

Test(safetensors, what_was_written_is_read)
{
    char *dir = scratch_make(), *path = mri_format("%s/x.safetensors", dir);
    const char *const metadata[] = { "format", "pt", "note", "a \"quoted\"\nline", NULL };
    mri_safetensors *f;
    mr_err err = MR_ERR_INIT;
    cr_assert_eq(mri_safetensors_write(path, set, N, metadata, &err), 0, "%s", err.what);
    cr_assert_eq(mri_safetensors_open(path, &f, &err), 0, "%s", err.what);
    cr_assert_eq(mri_safetensors_count(f), N);
    for (size_t i = 0; i < N; i++) {
        const mri_tensor *t = mri_safetensors_find(f, set[i].name);
        cr_assert_not_null(t, "%s", set[i].name);
        cr_assert_str_eq(t->type.dtype, set[i].type.dtype);
        cr_assert_eq(t->type.rank, set[i].type.rank);
        for (uint32_t k = 0; k < t->type.rank; k++)
            cr_assert_eq(t->type.dim[k], set[i].type.dim[k]);
        cr_assert_eq((uintptr_t)t->data % mr_dtype_bytes(t->type.dtype), 0);
        if (mr_bytes(&t->type))
            cr_assert_eq(memcmp(t->data, set[i].data, mr_bytes(&t->type)), 0);
    }
    cr_assert_null(mri_safetensors_find(f, "half "));
    cr_assert_null(mri_safetensors_at(f, N));
    cr_assert_str_eq(mri_safetensors_metadata(f, "note"), metadata[3]);
    cr_assert_null(mri_safetensors_metadata(f, "none"));

    /* writing what was read gives the same file */
    char *again = mri_format("%s/y.safetensors", dir);
    mri_tensor copy[N];
    for (size_t i = 0; i < N; i++)
        copy[i] = *mri_safetensors_at(f, N - 1 - i);
    cr_assert_eq(mri_safetensors_write(again, copy, N, metadata, &err), 0, "%s", err.what);
    size_t n, m;
    char *a = scratch_get(path, &n), *b = scratch_get(again, &m);
    cr_assert_eq(n, m);
    cr_assert_arr_eq(a, b, n);
    mri_safetensors_close(f);
    free(a);
    free(b);
    free(again);
    free(path);
    scratch_drop(dir);
}

Test(safetensors, a_file_without_tensors)
{
    char *dir = scratch_make(), *path = mri_format("%s/x.safetensors", dir);
    mri_safetensors *f;
    mr_err err = MR_ERR_INIT;
    cr_assert_eq(mri_safetensors_write(path, NULL, 0, NULL, &err), 0, "%s", err.what);
    cr_assert_eq(mri_safetensors_open(path, &f, &err), 0, "%s", err.what);
    cr_assert_eq(mri_safetensors_count(f), 0);
    cr_assert_null(mri_safetensors_find(f, "x"));
    mri_safetensors_close(f);
    free(path);
    scratch_drop(dir);
}

/* Old files have headers of any length: legal, and the data still comes aligned. */
Test(safetensors, a_misaligned_file_reads_aligned)
{
    char *dir = scratch_make(), *path = mri_format("%s/x.safetensors", dir);
    const char *h = "{\"u\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,3]},"
                    "\"x\":{\"dtype\":\"F32\",\"shape\":[6],\"data_offsets\":[3,27]}}";
    mri_str b = { 0 };
    uint64_t n = strlen(h);
    mri_str_addn(&b, (char *)&n, 8);
    mri_str_add(&b, h);
    mri_str_addn(&b, "abc", 3);
    mri_str_addn(&b, (const char *)matrix, sizeof matrix);
    scratch_put(path, b.s, b.n);
    mri_safetensors *f;
    mr_err err = MR_ERR_INIT;
    cr_assert_eq(mri_safetensors_open(path, &f, &err), 0, "%s", err.what);
    const mri_tensor *x = mri_safetensors_find(f, "x");
    cr_assert_eq((uintptr_t)x->data % 4, 0);
    cr_assert_arr_eq(x->data, matrix, sizeof matrix);
    cr_assert_eq(memcmp(mri_safetensors_find(f, "u")->data, "abc", 3), 0);
    mri_safetensors_close(f);
    mri_str_free(&b);
    free(path);
    scratch_drop(dir);
}

Test(safetensors, the_writer_refuses_what_it_cannot_hold)
{
    char *dir = scratch_make(), *path = mri_format("%s/x.safetensors", dir);
    const int64_t huge[] = { INT64_MAX, 3 }, one[] = { 1 }, minus[] = { -1 };
    const mri_tensor bad[][2] = {
        { { "a", type_of("f32", 1, one), matrix }, { "a", type_of("u8", 1, one), bytes } },
        { { "a", type_of("float", 1, one), matrix } },
        { { "a", type_of("f32", 2, huge), matrix } },
        { { "a", type_of("f32", 1, minus), matrix } },
        { { "a", type_of("f32", 1, one), NULL } },
        { { "a\n", type_of("f32", 1, one), matrix } },
        { { "__metadata__", type_of("f32", 1, one), matrix } },
        { { NULL, type_of("f32", 1, one), matrix } },
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        mr_err err = MR_ERR_INIT;
        cr_assert_eq(mri_safetensors_write(path, bad[i], i ? 1 : 2, NULL, &err), MR_E_ARG,
                     "case %zu", i);
        cr_assert(err.what[0]);
        cr_assert_neq(access(path, F_OK), 0, "case %zu left a file", i);
    }
    free(path);
    scratch_drop(dir);
}
