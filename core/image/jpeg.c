/* SPDX-License-Identifier: Apache-2.0
 * jpeg.c - the one file that knows libjpeg: baseline and progressive, grey, YCbCr, RGB and CMYK
 * (taken as inverted, as Adobe writes it and PIL reads it), to RGB. The library's errors jump
 * back to mri_jpeg_decode(), whose state outlives the jump in *w. Of its warnings those count that
 * mean lost pixels. */
#include "formats.h"
#include <jpeglib.h>
#include <jerror.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>

/* A progressive file has about ten scans; each costs a pass over the whole picture. */
enum { MAX_SCANS = 200, EXIF_MARKER = JPEG_APP0 + 1, EXIF_BYTES = 65533 };

typedef struct work {
    struct jpeg_error_mgr errors; /* first: the library knows its address as cinfo->err */
    struct jpeg_progress_mgr progress;
    struct jpeg_decompress_struct j;
    jmp_buf back;
    mri_image image;
    uint8_t *row;
    char why[JMSG_LENGTH_MAX];
    bool started;
} work;

static void fail(j_common_ptr j)
{
    work *w = (work *)j->err;
    j->err->format_message(j, w->why);
    longjmp(w->back, 1);
}

static void warn(j_common_ptr j, int level)
{
    static const int lost[] = { JWRN_JPEG_EOF, JWRN_HIT_MARKER, JWRN_HUFF_BAD_CODE,
                                JWRN_MUST_RESYNC, JWRN_BOGUS_PROGRESSION };
    if (level >= 0)
        return; /* a trace */
    for (size_t i = 0; i < sizeof lost / sizeof *lost; i++)
        if (j->err->msg_code == lost[i])
            fail(j);
}

static void count_scans(j_common_ptr j)
{
    work *w = (work *)j->err;
    if (((j_decompress_ptr)j)->input_scan_number > MAX_SCANS) {
        snprintf(w->why, sizeof w->why, "it has more than %d scans", MAX_SCANS);
        longjmp(w->back, 1);
    }
}

static int orientation_of(const struct jpeg_decompress_struct *j)
{
    static const char head[] = "Exif\0"; /* and the literal's own zero: six bytes */
    for (jpeg_saved_marker_ptr m = j->marker_list; m; m = m->next)
        if (m->marker == EXIF_MARKER && m->data_length > sizeof head &&
            !memcmp(m->data, head, sizeof head))
            return mri_exif_orientation(m->data + sizeof head, m->data_length - sizeof head);
    return 1;
}

/* k of a row's CMYK is how much of the rest is let through. */
static void from_cmyk(const uint8_t *cmyk, int64_t width, uint8_t *rgb)
{
    for (int64_t x = 0; x < width; x++, cmyk += 4, rgb += 3)
        for (int c = 0; c < 3; c++) {
            int t = (255 - cmyk[c]) * cmyk[3] + 128;
            int v = cmyk[3] - (((t >> 8) + t) >> 8);
            rgb[c] = (uint8_t)(v < 0 ? 0 : v);
        }
}

/* May be left by longjmp. */
static mr_status decode(work *w, const mri_image_source *s, int *orientation, mr_err *err)
{
    struct jpeg_decompress_struct *j = &w->j;
    jpeg_mem_src(j, s->data, s->n);
    jpeg_save_markers(j, EXIF_MARKER, EXIF_BYTES);
    jpeg_read_header(j, TRUE);
    mr_status st = mri_image_check(s, j->image_width, j->image_height, err);
    if (st)
        return st;
    bool cmyk = j->num_components == 4;
    *orientation = orientation_of(j);
    j->out_color_space = cmyk ? JCS_CMYK : JCS_RGB;
    jpeg_start_decompress(j);
    st = mri_image_new(j->output_width, j->output_height, &w->image, err);
    if (st)
        return st;
    w->row = cmyk ? mri_alloc((size_t)j->output_width * 4) : NULL;
    while (j->output_scanline < j->output_height) {
        uint8_t *to = w->image.rgb + (size_t)j->output_scanline * j->output_width * 3;
        JSAMPROW row = cmyk ? w->row : to;
        jpeg_read_scanlines(j, &row, 1);
        if (cmyk)
            from_cmyk(w->row, j->output_width, to);
    }
    jpeg_finish_decompress(j);
    return 0;
}

mr_status mri_jpeg_decode(const mri_image_source *s, mri_image *out, int *orientation, mr_err *err)
{
    work *w = mri_alloc(sizeof *w);
    mr_status st = 0;
    w->j.err = jpeg_std_error(&w->errors);
    w->errors.error_exit = fail;
    w->errors.emit_message = warn;
    w->progress.progress_monitor = count_scans;
    if (setjmp(w->back)) {
        st = mri_image_broken(s, "JPEG", w->why, err);
        goto out;
    }
    jpeg_create_decompress(&w->j);
    w->started = true;
    w->j.progress = &w->progress;
    st = decode(w, s, orientation, err);
out:
    if (!st) {
        *out = w->image;
        w->image = (mri_image){ 0 };
    }
    mri_image_free(&w->image);
    free(w->row);
    if (w->started)
        jpeg_destroy_decompress(&w->j);
    free(w);
    return st;
}
