/* SPDX-License-Identifier: Apache-2.0
 * A malformed safetensors file is refused with a named error, and no bytes of any kind crash
 * the reader or let it hand out memory outside the file. */
#include "core/store/dtype.h"
#include "core/store/store.h"
#include "scratch.h"

#define T(name, dtype, shape, b, e) \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":[" shape "],\"data_offsets\":[" b "," e "]}"

static const struct zoo {
    const char *header, *error;
    size_t data;
} zoo[] = {
    { "[1]", "InvalidHeaderStart", 0 },
    { " {}", "InvalidHeaderStart", 0 },
    { "{", "InvalidHeader", 0 },
    { "{}x", "InvalidHeader", 0 },
    { "{\"a\":3}", "InvalidHeader", 0 },
    { "{" T("a", "F32", "1", "0", "4") "," T("a", "F32", "1", "0", "4") "}", "duplicate", 4 },
    { "{" T("a", "F31", "1", "0", "4") "}", "unknown dtype F31", 4 },
    { "{" T("a", "f32", "1", "0", "4") "}", "unknown dtype f32", 4 },
    { "{" T("a", "F32", "-1", "0", "4") "}", "dimension 0", 4 },
    { "{" T("a", "F32", "1.0", "0", "4") "}", "dimension 0", 4 },
    { "{" T("a", "F32", "\"1\"", "0", "4") "}", "dimension 0", 4 },
    { "{" T("a", "F32", "1,1,1,1,1,1,1", "0", "4") "}", "7 dimensions", 4 },
    { "{" T("a", "F32", "4294967296,4294967296", "0", "4") "}", "ValidationOverflow", 4 },
    { "{" T("a", "F32", "4611686018427387904,4", "0", "0") "}", "ValidationOverflow", 0 },
    { "{" T("a", "F32", "99999999999999999999", "0", "4") "}", "InvalidHeader", 4 },
    { "{" T("a", "F4", "1", "0", "0") "}", "ValidationOverflow", 0 },
    { "{" T("a", "F32", "2", "0", "4") "}", "TensorInvalidInfo", 4 },
    { "{" T("a", "F32", "1", "4", "0") "}", "InvalidOffset", 4 },
    { "{" T("a", "F32", "1", "-4", "0") "}", "InvalidOffset", 4 },
    { "{" T("a", "F32", "1", "0", "8") "}", "InvalidOffset", 4 },
    { "{" T("a", "F32", "1", "0", "4.0") "}", "data_offsets", 4 },
    { "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4,4]}}", "data_offsets", 4 },
    { "{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", "data_offsets", 4 },
    { "{\"a\":{\"shape\":[1],\"data_offsets\":[0,4]}}", "dtype", 4 },
    { "{" T("a", "F32", "1", "0", "4") "," T("b", "F32", "1", "8", "12") "}", "a hole", 12 },
    { "{" T("a", "F32", "1", "4", "8") "}", "a hole", 8 },
    { "{" T("a", "F32", "2", "0", "8") "," T("b", "F32", "1", "4", "8") "}", "an overlap", 8 },
    { "{" T("a", "F32", "1", "0", "4") "," T("b", "F32", "1", "0", "4") "}", "an overlap", 4 },
    { "{" T("a", "F32", "1", "0", "4") "}", "MetadataIncompleteBuffer", 5 },
    { "{}", "MetadataIncompleteBuffer", 1 },
    { "{\"__metadata__\":{\"a\":1}}", "__metadata__", 0 },
    { "{\"__metadata__\":\"a\"}", "__metadata__", 0 },
    { "{" T("a\\u0000b", "F32", "1", "0", "4") "}", "InvalidHeader", 4 },
    { "{" T("a\\nb", "F32", "1", "0", "4") "}", "control characters", 4 },
    { "{" T("a\xff", "F32", "1", "0", "4") "}", "byte 0xff", 4 },
};

static void put(const char *path, const char *header, size_t n, size_t data)
{
    char *file = mri_alloc(8 + n + data);
    uint64_t length = n;
    memcpy(file, &length, 8);
    memcpy(file + 8, header, n);
    scratch_put(path, file, 8 + n + data);
    free(file);
}

Test(safetensors_malformed, each_of_the_zoo_is_refused_by_name)
{
    char *dir = scratch_make(), *path = mri_format("%s/x.safetensors", dir);
    for (size_t i = 0; i < sizeof zoo / sizeof *zoo; i++) {
        mr_err err = MR_ERR_INIT;
        mri_safetensors *f;
        put(path, zoo[i].header, strlen(zoo[i].header), zoo[i].data);
        cr_assert_eq(mri_safetensors_open(path, &f, &err), MR_E_STORE_FORMAT, "%s", zoo[i].header);
        cr_assert_null(f);
        cr_assert_not_null(strstr(err.what, path));
        cr_assert_not_null(strstr(err.what, zoo[i].error), "%s\nfor %s: %s", zoo[i].error,
                           zoo[i].header, err.what);
    }
    free(path);
    scratch_drop(dir);
}

Test(safetensors_malformed, a_pointer_in_place_of_the_weights_is_recognised)
{
    static const char pointer[] = "version https://git-lfs.github.com/spec/v1\noid sha256:00\n";
    char *dir = scratch_make(), *path = mri_format("%s/x.safetensors", dir);
    mr_err err = MR_ERR_INIT;
    mri_safetensors *f;
    scratch_put(path, pointer, strlen(pointer));
    cr_assert_eq(mri_safetensors_open(path, &f, &err), MR_E_STORE_FORMAT);
    cr_assert(strstr(err.what, "it is text") && strstr(err.hint, "git lfs pull"), "%s", err.what);
    free(path);
    scratch_drop(dir);
}

Test(safetensors_malformed, lengths_are_checked_against_the_file)
{
    char *dir = scratch_make(), *path = mri_format("%s/x.safetensors", dir);
    const struct {
        uint64_t length;
        size_t size;
        const char *error;
    } cases[] = {
        { 2, 0, "HeaderTooSmall" },
        { 2, 7, "HeaderTooSmall" },
        { 2, 9, "InvalidHeaderLength" },
        { 0, 10, "InvalidHeaderLength" },
        { 1, 10, "InvalidHeaderLength" },
        { 3, 10, "InvalidHeaderLength" },
        { 100000001, 10, "HeaderTooLarge" },
        { UINT64_MAX, 10, "HeaderTooLarge" },
        { UINT64_MAX - 7, 10, "HeaderTooLarge" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char file[16] = "\0\0\0\0\0\0\0\0{}";
        mr_err err = MR_ERR_INIT;
        mri_safetensors *f;
        memcpy(file, &cases[i].length, 8);
        scratch_put(path, file, cases[i].size);
        cr_assert_eq(mri_safetensors_open(path, &f, &err), MR_E_STORE_FORMAT, "case %zu", i);
        cr_assert_not_null(strstr(err.what, cases[i].error), "case %zu: %s", i, err.what);
    }
    mr_err err = MR_ERR_INIT;
    mri_safetensors *f;
    cr_assert_eq(mri_safetensors_open(dir, &f, &err), MR_E_STORE_FORMAT);
    remove(path);
    cr_assert_eq(mri_safetensors_open(path, &f, &err), MR_E_STORE_MISSING);
    free(path);
    scratch_drop(dir);
}

/* Reads every byte that the set hands out, so that a sanitizer or the mapping objects. */
static uint64_t touch(const mri_safetensors *f)
{
    uint64_t sum = 0, n;
    for (size_t i = 0; i < mri_safetensors_count(f); i++) {
        const mri_tensor *t = mri_safetensors_at(f, i);
        cr_assert(mri_type_bytes(&t->type, &n));
        for (uint64_t k = 0; k < n; k++)
            sum += ((const uint8_t *)t->data)[k];
        cr_assert_eq(mri_safetensors_find(f, t->name), t);
    }
    return sum;
}

Test(safetensors_malformed, mutated_headers_never_crash_the_reader)
{
    static const char seed[] =
        "{\"__metadata__\":{\"format\":\"pt\"}," T("scalar", "I64", "", "0", "8") ","
        T("a", "F32", "0,3", "8", "8") "," T("b", "F32", "2,3", "8", "32") ","
        T("h", "BF16", "3", "32", "38") "," T("u", "U8", "5", "38", "43") "}";
    static const char *const words[] = {
        "F64", "F4", "[",  "]", "{",    "}",          "\"",
        ",",   "0",  "9",  "-1", "null", "__metadata__", "18446744073709551615",
        "\\u0000",
    };
    char *dir = scratch_make(), *path = mri_format("%s/x.safetensors", dir);
    uint64_t rng = 20240;
    int good = 0, bad = 0;
    for (int round = 0; round < 4000; round++) {
        char h[sizeof seed + 64];
        size_t n = sizeof seed - 1;
        memcpy(h, seed, sizeof seed);
        for (int edits = 1 + (int)(scratch_random(&rng) % 3); edits; edits--) {
            size_t at = scratch_random(&rng) % n;
            const char *w = words[scratch_random(&rng) % (sizeof words / sizeof *words)];
            switch (scratch_random(&rng) % 4) {
            case 0: h[at] = (char)scratch_random(&rng); break;
            case 1: h[at] = (char)('0' + scratch_random(&rng) % 10); break;
            case 2: memmove(h + at, h + at + 1, --n - at); break;
            default:
                if (n + strlen(w) < sizeof h) {
                    memmove(h + at + strlen(w), h + at, n - at);
                    memcpy(h + at, w, strlen(w));
                    n += strlen(w);
                }
            }
        }
        put(path, h, n, 43);
        mr_err err = MR_ERR_INIT;
        mri_safetensors *f;
        mr_status st = mri_safetensors_open(path, &f, &err);
        if (st) {
            bad++;
            cr_assert_eq(st, MR_E_STORE_FORMAT);
            cr_assert(err.what[0]);
        } else {
            good++;
            touch(f);
            mri_safetensors_close(f);
        }
    }
    cr_assert_gt(bad, 1000); /* the mutations bite */
    cr_assert_gt(good, 50);  /* and some stay legal (names, metadata) */
    free(path);
    scratch_drop(dir);
}
