/* SPDX-License-Identifier: Apache-2.0
 * The parameters have exactly the names and shapes of transformers' tensors: the parity
 * fixtures' config.json gives the model, their safetensors header the truth. */
#include "fake.h"
#include <criterion/criterion.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

static char *fixture(const char *name, const char *file, size_t *n)
{
    const char *source = getenv("MRUN_SOURCE");
    cr_assert(source, "run through meson test: MRUN_SOURCE is not set");
    mr_err err = MR_ERR_INIT;
    char *text, *path = mri_format("%s/tests/parity/fixtures/%s/%s", source, name, file);
    cr_assert_eq(mri_read_file(path, 16 << 20, &text, n, &err), 0, "%s", err.what);
    free(path);
    return text;
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* the header's tensors as fk_parameters() writes them */
static char *truth(const char *name)
{
    size_t n;
    char *file = fixture(name, "model.safetensors", &n);
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

static const char *const fixtures[] = { "llama4-base", "llama4-maverick", "llama4-scout",
                                        "llama4-top2", "llama4-tied" };

Test(llama4_names, are_transformers_names)
{
    for (size_t i = 0; i < sizeof fixtures / sizeof *fixtures; i++) {
        fk_model m;
        mr_err err = MR_ERR_INIT;
        size_t n;
        char *config = fixture(fixtures[i], "config.json", &n);
        cr_assert_eq(fk_open(&m, fk_llama4(), "", config, &err), 0, "%s", err.what);
        char *ours = fk_parameters(&m), *theirs = truth(fixtures[i]);
        cr_assert_gt(strlen(theirs), 100);
        cr_assert_str_eq(ours, theirs, "%s:\n%s", fixtures[i], ours);
        free(ours), free(theirs), free(config);
        fk_close(&m);
    }
}
