/* SPDX-License-Identifier: Apache-2.0
 * A picture of any bytes: what decodes keeps the limits, and every rule makes tiles of it, each of
 * a number for each pixel. Limits are small, so that time goes into variants and not into size. A
 * PNG is tried a second time with its checksums put right, which no mutation would ever hit. */
#include "core/image/rule.h"
#include "fuzz.h"

static const mri_image_limits limits = { 1 << 20, 2048, 1 << 18, 100 };

static void prepare(const mri_image_rule *rule, const mri_image *image)
{
    mr_err err = MR_ERR_INIT;
    mri_tiles t;
    mr_status st = mri_image_prepare(rule, image, &t, &err);
    fuzz_told(st, &err);
    MRI_ASSERT(!t.pixels == (st != 0));
    if (st)
        return;
    MRI_ASSERT(t.n >= 1 && t.n <= mri_image_most_tiles(rule));
    for (int64_t i = 0; i < t.n * 3 * t.side * t.side; i++)
        MRI_ASSERT(t.pixels[i] >= -4 && t.pixels[i] <= 4);
    mri_tiles_free(&t);
}

static void look_at(const uint8_t *data, size_t n)
{
    static const char *const towers[] = { "llama4_vision_model", "clip_vision_model",
                                          "siglip_vision_model", NULL };
    mr_err err = MR_ERR_INIT;
    mri_image image;
    mr_status st = mri_image_decode(data, n, "picture", &limits, &image, &err);
    fuzz_told(st, &err);
    MRI_ASSERT(!image.rgb == (st != 0));
    if (st)
        return;
    MRI_ASSERT(image.width >= 1 && image.height >= 1 && image.width <= limits.side &&
               image.height <= limits.side && image.width * image.height <= limits.pixels);
    for (int i = 0; i < 4; i++) {
        mri_image_rule rule = mri_image_rule_usual(towers[i], 12);
        prepare(&rule, &image);
    }
    mri_image_free(&image);
}

static uint32_t crc(const uint8_t *p, size_t n)
{
    uint32_t c = 0xffffffffu;
    for (size_t i = 0; i < n; i++) {
        c ^= p[i];
        for (int k = 0; k < 8; k++)
            c = c & 1 ? c >> 1 ^ 0xedb88320u : c >> 1;
    }
    return ~c;
}

/* Chunks are length, name, data, checksum of the last two; numbers with the high byte first. */
static void put_checksums_right(uint8_t *png, size_t n)
{
    for (size_t at = 8; n - at >= 12;) {
        size_t length = (size_t)png[at] << 24 | (size_t)png[at + 1] << 16 |
                        (size_t)png[at + 2] << 8 | png[at + 3];
        if (length > n - at - 12)
            return;
        uint32_t c = crc(png + at + 4, length + 4);
        for (size_t k = 0; k < 4; k++)
            png[at + 8 + length + k] = (uint8_t)(c >> (24 - 8 * k));
        at += length + 12;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    look_at(data, n);
    if (n > 8 && data[0] == 0x89) {
        uint8_t *copy = malloc(n);
        MRI_ASSERT(copy);
        memcpy(copy, data, n);
        put_checksums_right(copy, n);
        look_at(copy, n);
        free(copy);
    }
    return 0;
}
