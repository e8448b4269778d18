/* SPDX-License-Identifier: Apache-2.0
 * exif.c - which way up a camera held the picture: one tag of the first directory of a TIFF
 * header, and the turn that undoes it. Every offset is held against the block's end. */
#include "formats.h"
#include <string.h>

enum { TAG_ORIENTATION = 0x0112, TYPE_SHORT = 3, ENTRY_BYTES = 12 };

typedef struct block {
    const uint8_t *p;
    size_t n;
    bool big; /* the first byte is the high one */
} block;

static uint32_t get(const block *b, size_t at, int bytes)
{
    uint32_t v = 0;
    for (int i = 0; i < bytes; i++)
        v |= (uint32_t)b->p[at + (size_t)i] << 8 * (b->big ? bytes - 1 - i : i);
    return v;
}

int mri_exif_orientation(const uint8_t *tiff, size_t n)
{
    block b = { tiff, n, n > 0 && tiff[0] == 'M' };
    if (n < 14 || (memcmp(tiff, "II*\0", 4) && memcmp(tiff, "MM\0*", 4)))
        return 1;
    size_t at = get(&b, 4, 4);
    if (at > n - 2)
        return 1;
    uint32_t entries = get(&b, at, 2);
    at += 2;
    for (uint32_t i = 0; i < entries && n - at >= ENTRY_BYTES; i++, at += ENTRY_BYTES)
        if (get(&b, at, 2) == TAG_ORIENTATION && get(&b, at + 2, 2) == TYPE_SHORT) {
            uint32_t v = get(&b, at + 8, 2);
            return v >= 1 && v <= 8 ? (int)v : 1;
        }
    return 1;
}

/* The pixel (x, y) of the upright picture is pixel (u, v) of the stored one: u and v change places
 * first, then each is counted from its other end. */
static const struct {
    uint8_t swap, from_right, from_bottom;
} turns[9] = { { 0, 0, 0 }, { 0, 0, 0 }, { 0, 1, 0 }, { 0, 1, 1 }, { 0, 0, 1 },
               { 1, 0, 0 }, { 1, 0, 1 }, { 1, 1, 1 }, { 1, 1, 0 } };

mr_status mri_image_upright(mri_image *image, int orientation, mr_err *err)
{
    mri_image up;
    if (orientation <= 1 || orientation > 8)
        return 0;
    int swap = turns[orientation].swap;
    mr_status st = mri_image_new(swap ? image->height : image->width,
                                 swap ? image->width : image->height, &up, err);
    if (st)
        return st;
    uint8_t *to = up.rgb;
    for (int64_t y = 0; y < up.height; y++)
        for (int64_t x = 0; x < up.width; x++, to += 3) {
            int64_t u = swap ? y : x, v = swap ? x : y;
            if (turns[orientation].from_right)
                u = image->width - 1 - u;
            if (turns[orientation].from_bottom)
                v = image->height - 1 - v;
            memcpy(to, image->rgb + 3 * (v * image->width + u), 3);
        }
    mri_image_free(image);
    *image = up;
    return 0;
}
