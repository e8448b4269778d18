/* SPDX-License-Identifier: Apache-2.0
 * An index of any text over two good shards: what opens names their tensors and no others. */
#include "fuzz.h"
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

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static bool made;
    mr_err err = MR_ERR_INIT;
    mri_safetensors *f;
    if (!made)
        make_folder();
    made = true;
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
