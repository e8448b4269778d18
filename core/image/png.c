/* SPDX-License-Identifier: Apache-2.0
 * png.c - the one file that knows libpng. Every kind of PNG becomes RGBA of 8 bits a row, and a
 * row becomes RGB on white. libpng's errors jump back to decode(), whose state outlives the jump
 * in *w; its warnings are dropped, and a wrong checksum is an error. */
#include "formats.h"
#include <png.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNK_BYTES = 8 << 20 /* of one text, profile or EXIF chunk */, CHUNKS = 1000 };

typedef struct work {
    const mri_image_source *s;
    size_t at; /* bytes read */
    png_structp png;
    png_infop info;
    mri_image image;
    uint8_t *rgba;  /* the whole picture if interlaced, else a row */
    png_bytepp row; /* interlaced: where each row is */
    char why[200];
    mr_status st; /* of what failed here and not in libpng */
    mr_err *err;
} work;

static void fail(png_structp png, png_const_charp message)
{
    work *w = png_get_error_ptr(png);
    snprintf(w->why, sizeof w->why, "%s", message);
    png_longjmp(png, 1);
}

static void ignore(png_structp png, png_const_charp message)
{
    (void)png;
    (void)message;
}

static void read_bytes(png_structp png, png_bytep to, size_t n)
{
    work *w = png_get_io_ptr(png);
    if (n > w->s->n - w->at)
        png_error(png, "it ends in the middle");
    memcpy(to, w->s->data + w->at, n);
    w->at += n;
}

/* Deflate packs at most 1032 to 1: a file that claims more rows than that is lying or cut off. */
static mr_status check_bytes(const work *w, uint64_t row_bytes, uint64_t rows)
{
    uint64_t most = (uint64_t)w->s->n * 1032;
    return row_bytes * rows > most
               ? mri_image_broken(w->s, "PNG", "it is too short for the pixels that it claims",
                                  w->err)
               : 0;
}

/* A row on white: what PIL's alpha_composite() gives, c*a/255 + 255 - a rounded. */
static void on_white(const uint8_t *rgba, int64_t width, uint8_t *rgb)
{
    for (int64_t x = 0; x < width; x++, rgba += 4, rgb += 3)
        for (int c = 0; c < 3; c++) {
            uint32_t v = rgba[c] * rgba[3] + 255u * (255u - rgba[3]);
            rgb[c] = (uint8_t)((v + 127) / 255);
        }
}

/* May be left by longjmp. What fails here itself is in w->st. */
static void decode(work *w, int *orientation)
{
    png_structp png = w->png;
    uint32_t width, height;
    int depth, colour, interlace;
    png_read_info(png, w->info);
    png_get_IHDR(png, w->info, &width, &height, &depth, &colour, &interlace, NULL, NULL);
    w->st = mri_image_check(w->s, width, height, w->err);
    if (!w->st)
        w->st = check_bytes(w, png_get_rowbytes(png, w->info), height);
    if (w->st)
        return;
    png_set_expand(png); /* palettes, few bits, transparent colours */
    png_set_strip_16(png);
    png_set_gray_to_rgb(png);
    png_set_add_alpha(png, 255, PNG_FILLER_AFTER);
    int passes = png_set_interlace_handling(png);
    png_read_update_info(png, w->info);
    if (png_get_rowbytes(png, w->info) != (size_t)width * 4)
        png_error(png, "its pixels do not become RGBA");
    w->st = mri_image_new(width, height, &w->image, w->err);
    if (w->st)
        return;
    size_t rows = passes > 1 ? height : 1;
    w->rgba = malloc(rows * width * 4);
    w->row = malloc(rows * sizeof *w->row);
    if (!w->rgba || !w->row) {
        w->st = mr_fail(w->err, MR_E_NOMEM, MR_BLAME_ENV, "no memory for the picture %s",
                        w->s->name);
        return;
    }
    for (size_t y = 0; y < rows; y++)
        w->row[y] = w->rgba + y * width * 4;
    if (passes > 1)
        png_read_image(png, w->row);
    for (uint32_t y = 0; y < height; y++) {
        if (passes == 1)
            png_read_row(png, w->rgba, NULL);
        on_white(w->row[passes > 1 ? y : 0], width, w->image.rgb + (size_t)y * width * 3);
    }
    png_read_end(png, w->info);
    png_bytep exif;
    uint32_t n_exif;
    if (png_get_eXIf_1(png, w->info, &n_exif, &exif))
        *orientation = mri_exif_orientation(exif, n_exif);
}

mr_status mri_png_decode(const mri_image_source *s, mri_image *out, int *orientation, mr_err *err)
{
    work *w = mri_alloc(sizeof *w);
    *w = (work){ .s = s, .err = err };
    mr_status st = 0;
    w->png = png_create_read_struct(PNG_LIBPNG_VER_STRING, w, fail, ignore);
    w->info = w->png ? png_create_info_struct(w->png) : NULL;
    if (!w->info) {
        st = mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "libpng %s does not start",
                     PNG_LIBPNG_VER_STRING);
        goto out;
    }
    if (setjmp(png_jmpbuf(w->png))) {
        st = mri_image_broken(s, "PNG", w->why, err);
        goto out;
    }
    png_set_user_limits(w->png, 0x7fffffff, 0x7fffffff); /* ours are checked, and say more */
    png_set_chunk_malloc_max(w->png, CHUNK_BYTES);
    png_set_chunk_cache_max(w->png, CHUNKS);
    png_set_crc_action(w->png, PNG_CRC_ERROR_QUIT, PNG_CRC_ERROR_QUIT);
    png_set_read_fn(w->png, w, read_bytes);
    decode(w, orientation);
    st = w->st;
out:
    if (!st) {
        *out = w->image;
        w->image = (mri_image){ 0 };
    }
    mri_image_free(&w->image);
    free(w->rgba);
    free(w->row);
    if (w->png)
        png_destroy_read_struct(&w->png, w->info ? &w->info : NULL, NULL);
    free(w);
    return st;
}
