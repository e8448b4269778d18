/* SPDX-License-Identifier: Apache-2.0
 * images.c - see images.h. */
#include "images.h"
#include "core/run/text.h"
#include <stdlib.h>
#include <string.h>

void app_pictures_add(app_pictures *p, const char *file)
{
    char *copy = mri_strdup(file);
    MRI_PUSH(&p->files, copy);
}

mr_status app_pictures_args(app_pictures *p, const app_args *args, mr_err *err)
{
    const char *values = app_arg(args, "--pixel-values");
    for (size_t i = 0; i < args->names.n; i++)
        if (!strcmp(args->names.v[i], "--image"))
            app_pictures_add(p, args->values.v[i]);
    if (values)
        p->values = mri_strdup(values);
    return values && p->files.n ? mr_fail(err, MR_E_USAGE, MR_BLAME_USER, "--image and "
                                          "--pixel-values both give pictures; one of them will do")
                                : 0;
}

bool app_pictures_any(const app_pictures *p)
{
    return p->files.n || p->values;
}

void app_pictures_free(app_pictures *p)
{
    for (size_t i = 0; i < p->files.n; i++)
        free(p->files.v[i]);
    free(p->files.v);
    free(p->values);
    free(p->grid);
    free(p->pixels);
    memset(p, 0, sizeof *p);
}

/* ---- pixels -------------------------------------------------------------------------------- */

static mr_status read_values(app_pictures *p, const mri_session *s, mr_err *err)
{
    mri_safetensors *f = NULL;
    int64_t side = s->info.image_size;
    mr_status st = mri_safetensors_open(p->values, &f, err);
    const mri_tensor *t = st ? NULL : mri_safetensors_find(f, "pixel_values");
    if (st)
        goto out;
    if (!t) {
        st = mr_fail(err, MR_E_STORE_MISSING, MR_BLAME_USER, "%s has no tensor pixel_values",
                     p->values);
        goto out;
    }
    const int64_t *d = t->type.dim;
    if (t->type.rank != 4 || d[0] < 1 || d[1] != 3 || d[2] != side || d[3] != side) {
        st = mr_fail(err, MR_E_ARG, MR_BLAME_USER, "%s: pixel_values has another shape "
                     "than [tiles, 3, %lld, %lld]", p->values, (long long)side, (long long)side);
        mri_str shape = { 0 };
        for (uint32_t i = 0; i < t->type.rank; i++)
            mri_str_fmt(&shape, "%s%lld", i ? ", " : "", (long long)d[i]);
        mr_detail(err, "it is [%s]; the model's tower takes tiles of %lld pixels a side",
                  shape.s ? shape.s : "", (long long)side);
        mri_str_free(&shape);
        goto out;
    }
    p->pixels = mri_alloc((size_t)mr_numel(&t->type) * sizeof *p->pixels);
    MR_TRY(mri_convert(p->pixels, "f32", t->data, t->type.dtype, (uint64_t)mr_numel(&t->type),
                       err));
    p->tiles = d[0];
out:
    mri_safetensors_close(f);
    return st;
}

static mr_status read_files(app_pictures *p, mri_session *s, mr_err *err)
{
    const mri_imager *m;
    mr_status st = mri_session_imager(s, &m, err);
    size_t tile = st ? 0 : (size_t)(3 * m->rule.side * m->rule.side);
    p->grid = mri_alloc(p->files.n * sizeof *p->grid);
    for (size_t i = 0; i < p->files.n && !st; i++) {
        mri_image image = { 0 };
        mri_tiles t = { 0 };
        st = mri_image_load(p->files.v[i], NULL, &image, err);
        if (!st)
            st = mri_image_prepare(&m->rule, &image, &t, err);
        if (!st) {
            p->pixels = mri_grow(p->pixels, (size_t)(p->tiles + t.n) * tile * sizeof *p->pixels);
            memcpy(p->pixels + (size_t)p->tiles * tile, t.pixels,
                   (size_t)t.n * tile * sizeof *p->pixels);
            p->tiles += t.n;
            p->grid[i] = (mri_tiles){ t.rows, t.cols, t.n, t.side, NULL };
        }
        mri_tiles_free(&t);
        mri_image_free(&image);
    }
    return st;
}

static mr_status takes_pictures(const mri_session *s, mr_err *err)
{
    if (s->info.image_size > 0)
        return 0;
    mr_fail(err, MR_E_ARG, MR_BLAME_USER, "this model takes no pictures");
    mr_hint(err, "leave --image and --pixel-values out, or choose a model that reads pictures");
    return MR_E_ARG;
}

mr_status app_pictures_read(app_pictures *p, mri_session *s, mr_err *err)
{
    if (!app_pictures_any(p) || p->pixels)
        return 0;
    mr_status st = takes_pictures(s, err);
    if (!st)
        st = p->values ? read_values(p, s, err) : read_files(p, s, err);
    return st;
}

/* Of prepared pixels nobody knows the grid: their text has its image tokens written out. */
mr_status app_pictures_ids(const app_pictures *p, mri_session *s, const char *text, uint64_t len,
                           bool begin, int32_t **ids, uint64_t *n, mr_err *err)
{
    const mri_imager *m;
    if (!p->files.n)
        return mri_text_ids(s->tok_ops, s->tok, text, len, begin, ids, n, err);
    mr_status st = mri_session_imager(s, &m, err);
    if (!st && memchr(text, 0, len))
        st = mr_fail(err, MR_E_ARG, MR_BLAME_USER, "a text with pictures has a zero byte");
    return st ? st : mri_imager_ids(m, text, p->grid, p->files.n, begin, ids, n, err);
}
