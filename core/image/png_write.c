/* SPDX-License-Identifier: Apache-2.0
 * png_write.c - a picture as a PNG in memory: RGB of 8 bits, for pages that show what a model
 * saw. Errors of libpng jump back to mri_image_to_png(). */
#include "image.h"
#include <png.h>
#include <setjmp.h>

static void fail(png_structp png, png_const_charp message)
{
    snprintf(png_get_error_ptr(png), 100, "%s", message);
    png_longjmp(png, 1);
}

static void ignore(png_structp png, png_const_charp message)
{
    (void)png;
    (void)message;
}

static void append(png_structp png, png_bytep bytes, size_t n)
{
    mri_str_addn(png_get_io_ptr(png), (const char *)bytes, n);
}

static void flush(png_structp png)
{
    (void)png;
}

mr_status mri_image_to_png(const mri_image *image, mri_str *out, mr_err *err)
{
    char why[100] = "";
    png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, why, fail, ignore);
    png_infop info = png ? png_create_info_struct(png) : NULL;
    if (!info || setjmp(png_jmpbuf(png))) {
        png_destroy_write_struct(png ? &png : NULL, info ? &info : NULL);
        return mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "cannot write a PNG: %s",
                       *why ? why : "libpng does not start");
    }
    png_set_write_fn(png, out, append, flush);
    png_set_IHDR(png, info, (uint32_t)image->width, (uint32_t)image->height, 8, PNG_COLOR_TYPE_RGB,
                 PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
    png_write_info(png, info);
    for (int64_t y = 0; y < image->height; y++)
        png_write_row(png, image->rgb + 3 * y * image->width);
    png_write_end(png, info);
    png_destroy_write_struct(&png, &info);
    return 0;
}
