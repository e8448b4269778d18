/* SPDX-License-Identifier: Apache-2.0
 * test_decode.c - every kind of PNG and JPEG reads as PIL reads it; what is broken, lying or too
 * large is refused with its number, and never with memory taken for it first. */
#include "image_kit.h"

Test(decode, every_kind_of_file_reads_as_pil_reads_it)
{
    mr_err err = MR_ERR_INIT;
    mri_safetensors *f = kit_tensors("decoded.safetensors");
    cr_assert_geq(mri_safetensors_count(f), 24);
    for (size_t i = 0; i < mri_safetensors_count(f); i++) {
        const mri_tensor *t = mri_safetensors_at(f, i);
        char *path = kit_path(t->name);
        mri_image x;
        OK(mri_image_load(path, NULL, &x, &err));
        cr_assert_eq(x.height, t->type.dim[0], "%s", t->name);
        cr_assert_eq(x.width, t->type.dim[1], "%s", t->name);
        const uint8_t *want = t->data;
        for (int64_t k = 0; k < x.width * x.height * 3; k++)
            cr_assert_eq(x.rgb[k], want[k], "%s at %lld: %d, PIL has %d", t->name, (long long)k,
                         x.rgb[k], want[k]);
        mri_image_free(&x);
        free(path);
    }
    mri_safetensors_close(f);
}

typedef struct bytes {
    uint8_t *p;
    size_t n;
} bytes;

static bytes read_fixture(const char *name)
{
    mr_err err = MR_ERR_INIT;
    bytes b = { 0 };
    char *path = kit_path(name), *text;
    OK(mri_read_file(path, 1 << 20, &text, &b.n, &err));
    free(path);
    b.p = (uint8_t *)text;
    return b;
}

static mr_status decode(bytes b, const mri_image_limits *limits, mr_err *err)
{
    mri_image x;
    mr_status st = mri_image_decode(b.p, b.n, "x", limits, &x, err);
    cr_assert(st ? !x.rgb : !!x.rgb);
    mri_image_free(&x);
    return st;
}

Test(decode, a_file_cut_anywhere_is_refused)
{
    static const char *const names[] = { "rgb.png", "palette-transparent.png", "interlaced.png",
                                         "rgb.jpg", "progressive.jpg" };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        bytes b = read_fixture(names[i]);
        size_t whole = b.n, last = i < 3 ? 4 : 2; /* what behind the pixels may be missing */
        for (b.n = 0; b.n + last < whole; b.n++) {
            mr_err err = MR_ERR_INIT;
            cr_assert_eq(decode(b, NULL, &err), MR_E_IMAGE_FORMAT, "%s cut to %zu bytes", names[i],
                         b.n);
            cr_assert(*err.what && *err.detail && *err.hint);
        }
        free(b.p);
    }
}

/* Not all changes are damage, but none may crash, hang or read outside. */
Test(decode, a_changed_byte_is_a_picture_or_an_error)
{
    static const char *const names[] = { "palette.png", "alpha.png", "progressive.jpg", "cmyk.jpg",
                                         "turned.png", "turned6.jpg", "interlaced.png" };
    int64_t refused = 0;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        bytes b = read_fixture(names[i]);
        for (size_t at = 0; at < b.n; at++) {
            mr_err err = MR_ERR_INIT;
            uint8_t was = b.p[at];
            b.p[at] ^= (uint8_t)(1 + at * 37 % 255);
            mr_status st = decode(b, NULL, &err);
            cr_assert(!st || st == MR_E_IMAGE_FORMAT || st == MR_E_IMAGE_LIMIT, "%s, byte %zu: %s",
                      names[i], at, err.what);
            refused += st != 0;
            b.p[at] = was;
        }
        free(b.p);
    }
    cr_assert_gt(refused, 1000);
}

static void put32(uint8_t *p, uint32_t v)
{
    for (int i = 0; i < 4; i++)
        p[i] = (uint8_t)(v >> (24 - 8 * i));
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

/* rgb.png with other numbers in its header, the checksum made right again */
static bytes claiming(uint32_t width, uint32_t height)
{
    bytes b = read_fixture("rgb.png");
    put32(b.p + 16, width);
    put32(b.p + 20, height);
    put32(b.p + 29, crc(b.p + 12, 17));
    return b;
}

Test(decode, a_header_that_lies_is_refused_before_memory_is_taken)
{
    static const struct {
        uint32_t width, height;
        mr_status st;
        const char *says;
    } rows[] = {
        { 32769, 2, MR_E_IMAGE_LIMIT, "longer side" },
        { 20000, 20000, MR_E_IMAGE_LIMIT, "pixels" },
        { 2001, 10, MR_E_IMAGE_LIMIT, "thin" },
        { 0x7fffffff, 0x7fffffff, MR_E_IMAGE_LIMIT, "longer side" },
        { 8000, 8000, MR_E_IMAGE_FORMAT, "damaged" }, /* more than its bytes can unpack to */
        { 0, 5, MR_E_IMAGE_FORMAT, "damaged" },
        { 24, 17, MR_E_IMAGE_FORMAT, "damaged" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        mr_err err = MR_ERR_INIT;
        bytes b = claiming(rows[i].width, rows[i].height);
        cr_assert_eq(decode(b, NULL, &err), rows[i].st, "%u x %u: %s", rows[i].width,
                     rows[i].height, err.what);
        cr_assert(strstr(err.what, rows[i].says), "%s", err.what);
        free(b.p);
    }
}

Test(decode, limits_are_the_callers)
{
    mr_err err = MR_ERR_INIT;
    mri_image_limits l = { 1 << 20, 23, 23 * 17, 2 };
    bytes png = read_fixture("rgb.png"), jpeg = read_fixture("rgb.jpg");
    OK(decode(png, &l, &err));
    OK(decode(jpeg, &l, &err));
    l.side = 22;
    cr_assert_eq(decode(png, &l, &err), MR_E_IMAGE_LIMIT);
    cr_assert_eq(decode(jpeg, &l, &err), MR_E_IMAGE_LIMIT);
    l.side = 23;
    l.pixels = 23 * 17 - 1;
    cr_assert_eq(decode(png, &l, &err), MR_E_IMAGE_LIMIT);
    cr_assert_eq(decode(jpeg, &l, &err), MR_E_IMAGE_LIMIT);
    l.pixels = 1000;
    l.ratio = 1;
    cr_assert_eq(decode(jpeg, &l, &err), MR_E_IMAGE_LIMIT);
    l.ratio = 2;
    l.bytes = png.n - 1;
    cr_assert_eq(decode(png, &l, &err), MR_E_IMAGE_LIMIT);
    char *path = kit_path("rgb.png");
    mri_image x;
    cr_assert_eq(mri_image_load(path, &l, &x, &err), MR_E_IMAGE_LIMIT);
    cr_assert(strstr(err.detail, "limit"), "%s", err.detail);
    free(path);
    free(png.p);
    free(jpeg.p);
}

Test(decode, other_formats_are_named)
{
    static const struct {
        const char *begins, *says;
    } rows[] = { { "GIF89a..", "GIF" }, { "RIFF....WEBP", "WebP" }, { "<svg>", "SVG" },
                 { "BM......", "BMP" }, { "hello", "no PNG" } };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        mr_err err = MR_ERR_INIT;
        bytes b = { (uint8_t *)rows[i].begins, strlen(rows[i].begins) };
        cr_assert_eq(decode(b, NULL, &err), MR_E_IMAGE_FORMAT);
        cr_assert(strstr(err.what, rows[i].says), "%s", err.what);
    }
    mr_err err = MR_ERR_INIT;
    mri_image x;
    cr_assert_eq(decode((bytes){ (uint8_t *)"", 0 }, NULL, &err), MR_E_IMAGE_FORMAT);
    cr_assert_eq(mri_image_load("/nowhere/x.png", NULL, &x, &err), MR_E_STORE_IO);
}
