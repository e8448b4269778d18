/* SPDX-License-Identifier: Apache-2.0
 *
 * image_kit.h - the fixtures of tests/unit/image, and the picture that their cases are made of:
 * the same formula as in tools/make_image_fixtures.py.
 */
#ifndef IMAGE_KIT_H
#define IMAGE_KIT_H
#include "core/base/json.h"
#include "core/image/expand.h"
#include "core/store/store.h"
#include <criterion/criterion.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#define OK(e) cr_assert((e) == 0, "%s | %s", err.what, err.detail)

MR_UNUSED static char *kit_path(const char *name)
{
    const char *source = getenv("MRUN_SOURCE");
    return mri_format("%s/tests/unit/image/fixtures/%s", source ? source : ".", name);
}

MR_UNUSED static mri_image kit_picture(int64_t width, int64_t height)
{
    mr_err err = MR_ERR_INIT;
    mri_image p;
    OK(mri_image_new(width, height, &p, &err));
    uint8_t *to = p.rgb;
    for (int64_t y = 0; y < height; y++)
        for (int64_t x = 0; x < width; x++)
            for (int64_t c = 0; c < 3; c++)
                *to++ = (uint8_t)((x * x * 3 + y * 7 + c * 85 + (x * y >> 3)) & 255);
    return p;
}

MR_UNUSED static mri_safetensors *kit_tensors(const char *name)
{
    mr_err err = MR_ERR_INIT;
    mri_safetensors *f = NULL;
    char *path = kit_path(name);
    OK(mri_safetensors_open(path, &f, &err));
    free(path);
    return f;
}

MR_UNUSED static json_t *kit_json(const char *name)
{
    mr_err err = MR_ERR_INIT;
    mri_json *j = NULL;
    char *path = kit_path(name);
    OK(mri_json_read(path, 4 << 20, &j, &err));
    free(path);
    return j;
}

/* A folder of its own for files of one test. */
MR_UNUSED static char *kit_folder(void)
{
    char *dir = mri_strdup("/tmp/mrun-image-XXXXXX");
    cr_assert_not_null(mkdtemp(dir));
    return dir;
}

MR_UNUSED static void kit_remove(char *dir)
{
    char *command = mri_format("rm -r '%s'", dir);
    cr_assert_eq(system(command), 0);
    free(command);
    free(dir);
}

MR_UNUSED static void kit_write(const char *dir, const char *name, const char *text)
{
    mr_err err = MR_ERR_INIT;
    char *path = mri_format("%s/%s", dir, name);
    OK(mri_write_file_atomic(path, text, strlen(text), &err));
    free(path);
}

#endif
