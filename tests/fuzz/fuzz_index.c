/* SPDX-License-Identifier: Apache-2.0
 * An index of any text over two good shards: what opens names their tensors and no others, and an
 * index that is read in one pass is read as the JSON library reads it. */
#include "fuzz.h"
#include <jansson.h>
#include <unistd.h>

static char dir[] = "/tmp/mrun-fuzz-XXXXXX";

static void clean(void)
{
    static const char *const files[] = { "a.safetensors", "b.safetensors",
                                         "model.safetensors.index.json" };
    for (size_t i = 0; i < 3; i++) {
        char *path = mri_format("%s/%s", dir, files[i]);
        unlink(path);
        free(path);
    }
    rmdir(dir);
}

static void put(const char *name, const void *p, size_t n)
{
    char *path = mri_format("%s/%s", dir, name);
    FILE *f = fopen(path, "wb");
    MRI_ASSERT(f && fwrite(p, 1, n, f) == n && !fclose(f));
    free(path);
}

static void make_folder(void)
{
    static const float x[4] = { 1, 2, 3, 4 };
    const mri_tensor t[] = { { "x", mr_type1("f32", 4), x }, { "y", mr_type1("f32", 2), x } };
    mr_err err = MR_ERR_INIT;
    MRI_ASSERT(mkdtemp(dir));
    atexit(clean);
    for (int i = 0; i < 2; i++) {
        char *path = mri_format("%s/%c.safetensors", dir, 'a' + i);
        MRI_ASSERT(!mri_safetensors_write(path, &t[i], 1, NULL, &err));
        free(path);
    }
}

static void check_scan(const uint8_t *data, size_t n)
{
    char *text = mri_strndup((const char *)data, n);
    mri_json *doc = NULL;
    mri_index x;
    bool usual = mri_index_scan(text, n, &x);
    if (usual) {
        bool parsed = !mri_json_parse((const char *)data, n, "index", &doc, NULL);
        const json_t *map = json_object_get(doc, "weight_map");
        const json_t *total = json_object_get(json_object_get(doc, "metadata"), "total_size");
        bool twice = false; /* then the tensors do not agree with the entries either */
        for (size_t i = 0; i < x.entries.n && !twice; i++)
            for (size_t k = 0; k < i && !twice; k++)
                twice = !strcmp(x.entries.v[i].name, x.entries.v[k].name);
        MRI_ASSERT(parsed || twice);
        MRI_ASSERT(!parsed || json_object_size(map) == x.entries.n);
        for (size_t i = 0; parsed && i < x.entries.n; i++) {
            const char *file = json_string_value(json_object_get(map, x.entries.v[i].name));
            MRI_ASSERT(file && !strcmp(file, x.entries.v[i].file));
        }
        MRI_ASSERT(!parsed || (total ? json_integer_value(total) == x.total : x.total == -1));
    } else {
        MRI_ASSERT(!n || !memcmp(text, data, n));
    }
    mri_json_free(doc);
    mri_index_free(&x);
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static bool made;
    mr_err err = MR_ERR_INIT;
    mri_safetensors *f;
    if (!made)
        make_folder();
    made = true;
    check_scan(data, n);
    put("model.safetensors.index.json", data, n);
    mr_status st = mri_safetensors_open_folder(dir, &f, &err);
    fuzz_told(st, &err);
    for (size_t i = 0; f && i < mri_safetensors_count(f); i++) {
        const char *name = mri_safetensors_at(f, i)->name;
        MRI_ASSERT(!strcmp(name, "x") || !strcmp(name, "y"));
    }
    mri_safetensors_close(f);
    return 0;
}
