/* SPDX-License-Identifier: Apache-2.0
 * fixture.c - the part of fake.h that reads the parity fixtures. */
#include "fake.h"
#include <criterion/criterion.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

char *fk_fixture(const char *name, const char *file, size_t *n)
{
    const char *source = getenv("MRUN_SOURCE");
    cr_assert(source, "run through meson test: MRUN_SOURCE is not set");
    mr_err err = MR_ERR_INIT;
    size_t ignored;
    char *text, *path = mri_format("%s/tests/parity/fixtures/%s/%s", source, name, file);
    cr_assert_eq(mri_read_file(path, 16 << 20, &text, n ? n : &ignored, &err), 0, "%s", err.what);
    free(path);
    return text;
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

char *fk_stored(const char *name)
{
    size_t n;
    char *file = fk_fixture(name, "model.safetensors", &n);
    unsigned long long header;
    cr_assert_gt(n, 8);
    memcpy(&header, file, 8);
    cr_assert_leq(header, n - 8);
    json_t *all = json_loadb(file + 8, header, 0, NULL), *tensor;
    cr_assert_not_null(all);
    MRI_VEC(char *) lines = { 0 };
    mri_str text = { 0 };
    const char *key;
    json_object_foreach(all, key, tensor)
    {
        mri_str s = { 0 };
        json_t *shape = json_object_get(tensor, "shape");
        if (!shape)
            continue; /* __metadata__ */
        mri_str_fmt(&s, "%s [", key);
        for (size_t i = 0; i < json_array_size(shape); i++)
            mri_str_fmt(&s, "%s%lld", i ? "," : "",
                        (long long)json_integer_value(json_array_get(shape, i)));
        mri_str_add(&s, "]\n");
        MRI_PUSH(&lines, mri_str_take(&s));
    }
    qsort(lines.v, lines.n, sizeof *lines.v, by_text);
    for (size_t i = 0; i < lines.n; i++) {
        mri_str_add(&text, lines.v[i]);
        free(lines.v[i]);
    }
    free(lines.v);
    json_decref(all);
    free(file);
    return mri_str_take(&text);
}

long long fk_elements(const char *lines)
{
    long long total = 0;
    for (const char *at = strchr(lines, '['); at; at = strchr(at, '[')) {
        long long n = 1;
        do
            n *= strtoll(at + 1, (char **)&at, 10);
        while (*at == ',');
        total += n;
    }
    return total;
}
