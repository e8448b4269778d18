/* SPDX-License-Identifier: Apache-2.0
 * decode.c - limits, and which format a file has; see image.h. */
#include "formats.h"
#include <stdlib.h>
#include <string.h>

const mri_image_limits mri_image_usual_limits = {
    .bytes = (uint64_t)64 << 20, .side = 32768, .pixels = (int64_t)64 << 20, .ratio = 200
};

/* A format is known by how a file begins: names lie. */
static const struct {
    const char *name, *begins;
    size_t n;
    mr_status (*decode)(const mri_image_source *, mri_image *, int *, mr_err *);
} formats[] = {
    { "PNG", "\x89PNG\r\n\x1a\n", 8, mri_png_decode },
    { "JPEG", "\xff\xd8\xff", 3, mri_jpeg_decode },
};

/* Named in the message, so that nobody looks for damage in a good file. */
static const struct {
    const char *name, *begins;
    size_t n;
} others[] = {
    { "a GIF", "GIF8", 4 },      { "a BMP", "BM", 2 },        { "a WebP", "RIFF", 4 },
    { "a TIFF", "II*\0", 4 },    { "a TIFF", "MM\0*", 4 },    { "a PDF", "%PDF", 4 },
    { "an SVG or XML", "<", 1 },
};

mr_status mri_image_new(int64_t width, int64_t height, mri_image *out, mr_err *err)
{
    *out = (mri_image){ 0 };
    if (width < 1 || height < 1 || width > INT32_MAX || height > INT32_MAX)
        return mr_fail(err, MR_E_ARG, MR_BLAME_HOST, "a picture of %lld x %lld pixels",
                       (long long)width, (long long)height);
    uint8_t *p = calloc((size_t)width * (size_t)height, 3);
    if (!p)
        return mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "no memory for a picture of %lld x %lld "
                       "pixels", (long long)width, (long long)height);
    *out = (mri_image){ width, height, p };
    return 0;
}

void mri_image_free(mri_image *image)
{
    free(image->rgb);
    *image = (mri_image){ 0 };
}

static mr_status too_large(const mri_image_source *s, mr_err *err, const char *what,
                           unsigned long long have, unsigned long long most)
{
    mr_fail(err, MR_E_IMAGE_LIMIT, MR_BLAME_USER, "the picture %.150s is too large: %s", s->name,
            what);
    mr_detail(err, "%llu, the limit is %llu", have, most);
    mr_hint(err, "make it smaller first; models look at some hundred pixels a side");
    return MR_E_IMAGE_LIMIT;
}

mr_status mri_image_check(const mri_image_source *s, uint64_t width, uint64_t height, mr_err *err)
{
    const mri_image_limits *l = s->limits;
    uint64_t longer = width > height ? width : height, shorter = width > height ? height : width;
    if (!shorter)
        return mri_image_broken(s, "picture", "a side has no pixels", err);
    if (longer > (uint64_t)l->side)
        return too_large(s, err, "pixels of its longer side", longer, (uint64_t)l->side);
    if (width * height > (uint64_t)l->pixels)
        return too_large(s, err, "pixels", width * height, (uint64_t)l->pixels);
    if (longer > shorter * (uint64_t)l->ratio) {
        mr_fail(err, MR_E_IMAGE_LIMIT, MR_BLAME_USER, "the picture %.150s is too long and thin",
                s->name);
        mr_detail(err, "%llu x %llu pixels, one side may be %lld times the other",
                  (unsigned long long)width, (unsigned long long)height, (long long)l->ratio);
        mr_hint(err, "cut it into parts, each a picture of its own");
        return MR_E_IMAGE_LIMIT;
    }
    return 0;
}

mr_status mri_image_broken(const mri_image_source *s, const char *format, const char *why,
                           mr_err *err)
{
    mr_fail(err, MR_E_IMAGE_FORMAT, MR_BLAME_USER, "the %s %.150s is damaged", format, s->name);
    mr_detail(err, "%s (%zu bytes)", why, s->n);
    mr_hint(err, "look at it with another program; fetch or save it again");
    return MR_E_IMAGE_FORMAT;
}

static mr_status unknown_format(const mri_image_source *s, mr_err *err)
{
    const char *is = NULL;
    for (size_t i = 0; i < sizeof others / sizeof *others && !is; i++)
        if (s->n >= others[i].n && !memcmp(s->data, others[i].begins, others[i].n))
            is = others[i].name;
    mr_fail(err, MR_E_IMAGE_FORMAT, MR_BLAME_USER, "%.150s is no PNG and no JPEG%s%s", s->name,
            is ? "; it begins like " : "", is ? is : "");
    if (!s->n)
        mr_detail(err, "it is empty");
    else
        mr_detail(err, "its first byte is %02x; a PNG begins with 89 50 4e 47, a JPEG with ff d8",
                  s->data[0]);
    mr_hint(err, "convert it to PNG");
    return MR_E_IMAGE_FORMAT;
}

mr_status mri_image_decode(const void *data, size_t n, const char *name,
                           const mri_image_limits *limits, mri_image *out, mr_err *err)
{
    mri_image_source s = { data, n, name, limits ? limits : &mri_image_usual_limits };
    int orientation = 1;
    *out = (mri_image){ 0 };
    if (n > s.limits->bytes)
        return too_large(&s, err, "bytes of the file", n, s.limits->bytes);
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++)
        if (n >= formats[i].n && !memcmp(data, formats[i].begins, formats[i].n)) {
            mr_status st = formats[i].decode(&s, out, &orientation, err);
            if (!st)
                st = mri_image_upright(out, orientation, err);
            if (st)
                mri_image_free(out);
            return st;
        }
    return unknown_format(&s, err);
}

mr_status mri_image_load(const char *path, const mri_image_limits *limits, mri_image *out,
                         mr_err *err)
{
    uint64_t most = (limits ? limits : &mri_image_usual_limits)->bytes;
    char *data = NULL;
    size_t n = 0;
    *out = (mri_image){ 0 };
    mr_status st = mri_read_file(path, most, &data, &n, err);
    if (st == MR_E_STORE_FORMAT) { /* more than the limit */
        mri_image_source s = { NULL, most, path, NULL };
        st = too_large(&s, err, "bytes of the file, more than", most, most);
    }
    if (!st)
        st = mri_image_decode(data, n, path, limits, out, err);
    free(data);
    return st;
}
