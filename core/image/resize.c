/* SPDX-License-Identifier: Apache-2.0
 *
 * resize.c - another size for a picture; see image.h. Two passes, along the rows and then along
 * the columns, each rounding to bytes; an output value is a weighted sum of the input values
 * below a filter that is as wide as the step between outputs (so it averages when it shrinks).
 *
 * The order, the fixed point and the rounding are those of torchvision on bytes: weights are
 * normalised in double, scaled by the largest power of two that keeps the largest of them in 16
 * bits, and rounded half away from zero. A pass of w outputs costs w * taps * 3 multiplications a
 * row and reads every byte once; pictures are prepared once, so plain loops will do.
 */
#include "image.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct taps { /* of one axis: output i is a sum over input first[i] .. + count[i] */
    int64_t n, most;
    int64_t *first, *count;
    double *exact;  /* [n][most] */
    int32_t *fixed; /* times 2^bits */
    int bits;
} taps;

static double triangle(double x)
{
    x = fabs(x);
    return x < 1 ? 1 - x : 0;
}

/* Keys' cubic with a = -1/2, which antialiasing filters use */
static double cubic(double x)
{
    const double a = -0.5;
    x = fabs(x);
    if (x < 1)
        return ((a + 2) * x - (a + 3)) * x * x + 1;
    return x < 2 ? ((a * x - 5 * a) * x + 8 * a) * x - 4 * a : 0;
}

static const struct {
    double (*at)(double);
    int width; /* of the filter, in steps */
} filters[] = { [MRI_BILINEAR] = { triangle, 2 }, [MRI_BICUBIC] = { cubic, 4 } };

static void taps_free(taps *t)
{
    free(t->first);
    free(t->count);
    free(t->exact);
    free(t->fixed);
}

/* The largest power of two that leaves the largest weight below 2^15, and weights times it. */
static void to_fixed(taps *t, double largest)
{
    for (t->bits = 0; t->bits < 22; t->bits++)
        if ((int)(0.5 + largest * (1 << (t->bits + 1))) >= 1 << 15)
            break;
    for (int64_t i = 0; i < t->n * t->most; i++) {
        double v = t->exact[i] * (1 << t->bits);
        t->fixed[i] = (int32_t)(v < 0 ? v - 0.5 : v + 0.5);
    }
}

static mr_status taps_make(int64_t in, int64_t n, mri_resample how, taps *t, mr_err *err)
{
    double step = (double)in / (double)n, shrink = step >= 1 ? step : 1;
    double support = filters[how].width * 0.5 * shrink, largest = 0;
    *t = (taps){ .n = n, .most = (int64_t)ceil(support) * 2 + 1 };
    size_t cells = (size_t)(n * t->most);
    t->first = calloc((size_t)n, sizeof *t->first);
    t->count = calloc((size_t)n, sizeof *t->count);
    t->exact = calloc(cells, sizeof *t->exact);
    t->fixed = calloc(cells, sizeof *t->fixed);
    if (!t->first || !t->count || !t->exact || !t->fixed) {
        taps_free(t);
        return mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "no memory to resize %lld pixels to %lld",
                       (long long)in, (long long)n);
    }
    for (int64_t i = 0; i < n; i++) {
        double centre = step * ((double)i + 0.5), sum = 0, *w = t->exact + i * t->most;
        int64_t from = (int64_t)(centre - support + 0.5), to = (int64_t)(centre + support + 0.5);
        from = from < 0 ? 0 : from;
        to = to > in ? in : to;
        t->first[i] = from;
        t->count[i] = to - from < t->most ? to - from : t->most;
        for (int64_t k = 0; k < t->count[i]; k++) {
            w[k] = filters[how].at(((double)(k + from) - centre + 0.5) * (1 / shrink));
            sum += w[k];
        }
        for (int64_t k = 0; k < t->count[i]; k++) {
            w[k] /= sum;
            largest = w[k] > largest ? w[k] : largest;
        }
    }
    to_fixed(t, largest);
    return 0;
}

static uint8_t clamp(int32_t v)
{
    return (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
}

/* Sums of three channels over bytes `stride` apart. */
static void sum_taps(const taps *t, int64_t i, const uint8_t *from, int64_t stride, uint8_t *to)
{
    const int32_t *w = t->fixed + i * t->most;
    int32_t half = (int32_t)1 << t->bits >> 1, r = half, g = half, b = half;
    from += t->first[i] * stride;
    for (int64_t k = 0; k < t->count[i]; k++, from += stride) {
        r += w[k] * from[0];
        g += w[k] * from[1];
        b += w[k] * from[2];
    }
    to[0] = clamp(r >> t->bits);
    to[1] = clamp(g >> t->bits);
    to[2] = clamp(b >> t->bits);
}

static mr_status along_rows(const mri_image *in, int64_t width, mri_resample how, mri_image *out,
                            mr_err *err)
{
    taps t;
    mr_status st = taps_make(in->width, width, how, &t, err);
    if (st)
        return st;
    st = mri_image_new(width, in->height, out, err);
    for (int64_t y = 0; !st && y < in->height; y++)
        for (int64_t x = 0; x < width; x++)
            sum_taps(&t, x, in->rgb + 3 * y * in->width, 3, out->rgb + 3 * (y * width + x));
    taps_free(&t);
    return st;
}

static mr_status along_columns(const mri_image *in, int64_t height, mri_resample how,
                               mri_image *out, mr_err *err)
{
    taps t;
    mr_status st = taps_make(in->height, height, how, &t, err);
    if (st)
        return st;
    st = mri_image_new(in->width, height, out, err);
    for (int64_t y = 0; !st && y < height; y++)
        for (int64_t x = 0; x < in->width; x++)
            sum_taps(&t, y, in->rgb + 3 * x, 3 * in->width, out->rgb + 3 * (y * in->width + x));
    taps_free(&t);
    return st;
}

mr_status mri_image_resize(const mri_image *image, int64_t width, int64_t height, mri_resample how,
                           mri_image *out, mr_err *err)
{
    mri_image wide = { 0 };
    const mri_image *from = image;
    mr_status st = 0;
    *out = (mri_image){ 0 };
    if (width < 1 || height < 1 || width > INT32_MAX || height > INT32_MAX)
        return mr_fail(err, MR_E_ARG, MR_BLAME_HOST, "a picture resized to %lld x %lld",
                       (long long)width, (long long)height);
    if (width != image->width) {
        MR_TRY(along_rows(image, width, how, &wide, err));
        from = &wide;
    }
    if (height != image->height) {
        MR_TRY(along_columns(from, height, how, out, err));
    } else if (from == &wide) {
        *out = wide;
        wide = (mri_image){ 0 };
    } else {
        MR_TRY(mri_image_new(width, height, out, err));
        memcpy(out->rgb, image->rgb, (size_t)(width * height * 3));
    }
out:
    mri_image_free(&wide);
    return st;
}

mr_status mri_image_place(const mri_image *image, int64_t width, int64_t height, int64_t x,
                          int64_t y, const uint8_t ground[3], mri_image *out, mr_err *err)
{
    mr_status st = mri_image_new(width, height, out, err);
    if (st)
        return st;
    for (int64_t i = 0; i < width * height; i++)
        memcpy(out->rgb + 3 * i, ground, 3);
    int64_t left = x < 0 ? 0 : x, right = x + image->width < width ? x + image->width : width;
    for (int64_t v = y < 0 ? 0 : y; v < height && v < y + image->height && left < right; v++)
        memcpy(out->rgb + 3 * (v * width + left),
               image->rgb + 3 * ((v - y) * image->width + left - x), (size_t)(3 * (right - left)));
    return 0;
}
