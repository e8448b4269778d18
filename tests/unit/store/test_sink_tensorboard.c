/* SPDX-License-Identifier: Apache-2.0
 * Event files decode, by a decoder written apart from the encoder: framing, CRCs, fields. */
#include "sinkkit.h"
#include <dirent.h>
#include <math.h>

static uint32_t crc32c(const uint8_t *p, size_t n) /* bit by bit: no table to share a bug with */
{
    uint32_t c = ~0u;
    while (n--) {
        c ^= *p++;
        for (int k = 0; k < 8; k++)
            c = c & 1 ? (c >> 1) ^ 0x82f63b78u : c >> 1;
    }
    return ~c;
}

static uint32_t unmask(uint32_t c)
{
    c -= 0xa282ead8u;
    return (c << 15) | (c >> 17);
}

/* One field of a message; varints and fixed numbers land in `bits`, blocks in p, n. */
typedef struct field {
    uint32_t number, wire;
    uint64_t bits;
    const uint8_t *p;
    size_t n;
} field;

static uint64_t varint(const uint8_t **at, const uint8_t *end)
{
    uint64_t v = 0;
    for (int shift = 0;; shift += 7) {
        cr_assert(*at < end && shift < 64);
        uint8_t c = *(*at)++;
        v |= (uint64_t)(c & 0x7f) << shift;
        if (!(c & 0x80))
            return v;
    }
}

static bool next(const uint8_t **at, const uint8_t *end, field *f)
{
    if (*at == end)
        return false;
    uint64_t key = varint(at, end);
    *f = (field){ (uint32_t)(key >> 3), key & 7, 0, NULL, 0 };
    if (f->wire == 0) {
        f->bits = varint(at, end);
    } else if (f->wire == 2) {
        f->n = varint(at, end);
        f->p = *at;
        cr_assert_leq(f->n, (size_t)(end - *at));
        *at += f->n;
    } else {
        size_t n = f->wire == 1 ? 8 : 4;
        cr_assert(f->wire == 1 || f->wire == 5);
        cr_assert_leq(n, (size_t)(end - *at));
        memcpy(&f->bits, *at, n);
        *at += n;
    }
    return true;
}

typedef struct scalar {
    double time;
    int64_t step;
    char tag[32];
    float value;
} scalar;

typedef struct events {
    char version[32];
    scalar v[64];
    size_t n, records;
    int64_t restart; /* step of the SessionLog START, -1: none */
} events;

static void decode_value(const uint8_t *p, size_t n, scalar *s)
{
    const uint8_t *end = p + n;
    field f;
    while (next(&p, end, &f)) {
        if (f.number == 1 && f.wire == 2)
            snprintf(s->tag, sizeof s->tag, "%.*s", (int)f.n, f.p);
        else if (f.number == 2 && f.wire == 5)
            memcpy(&s->value, &f.bits, 4);
        else
            cr_assert_fail("field %u of a value", f.number);
    }
}

static void decode_event(const uint8_t *p, size_t n, events *e)
{
    const uint8_t *end = p + n, *at;
    field f, g;
    scalar base = { 0 };
    while (next(&p, end, &f)) {
        if (f.number == 1 && f.wire == 1) {
            memcpy(&base.time, &f.bits, 8);
        } else if (f.number == 2 && f.wire == 0) {
            base.step = (int64_t)f.bits;
        } else if (f.number == 3 && f.wire == 2) {
            snprintf(e->version, sizeof e->version, "%.*s", (int)f.n, f.p);
        } else if (f.number == 5 && f.wire == 2) {
            for (at = f.p; next(&at, f.p + f.n, &g); e->n++) {
                cr_assert(g.number == 1 && g.wire == 2);
                e->v[e->n] = base;
                decode_value(g.p, g.n, &e->v[e->n]);
            }
        } else {
            cr_assert(f.number == 7 && f.n == 2 && f.p[0] == 8 && f.p[1] == 1);
            e->restart = base.step;
        }
    }
}

static events decode(const uint8_t *p, size_t n)
{
    events e = { .restart = -1 };
    size_t at = 0;
    while (n - at >= 12) {
        uint64_t length;
        uint32_t head, body;
        memcpy(&length, p + at, 8);
        memcpy(&head, p + at + 8, 4);
        cr_assert_eq(unmask(head), crc32c(p + at, 8));
        if (n - at - 12 < length + 4)
            break; /* a torn tail */
        memcpy(&body, p + at + 12 + length, 4);
        cr_assert_eq(unmask(body), crc32c(p + at + 12, length));
        decode_event(p + at + 12, length, &e);
        e.records++;
        at += 16 + length;
    }
    return e;
}

/* The event files in a folder, in order of their names. */
static size_t event_files(const char *dir, char **names, size_t room)
{
    struct dirent **list;
    size_t found = 0;
    int n = scandir(dir, &list, NULL, alphasort);
    for (int i = 0; i < n; i++) {
        if (!strncmp(list[i]->d_name, "events.out.tfevents.", 20) && found < room)
            names[found++] = mri_format("%s/%s", dir, list[i]->d_name);
        free(list[i]);
    }
    free(list);
    return found;
}

Test(tensorboard, the_decoders_crc_is_crc32c)
{
    uint8_t zeros[32] = { 0 }, ones[32], rising[32];
    memset(ones, 0xff, sizeof ones);
    for (int i = 0; i < 32; i++)
        rising[i] = (uint8_t)i;
    cr_assert_eq(crc32c((const uint8_t *)"123456789", 9), 0xe3069283u);
    cr_assert_eq(crc32c(zeros, 32), 0x8a9136aau); /* RFC 3720, B.4 */
    cr_assert_eq(crc32c(ones, 32), 0x62a8ab43u);
    cr_assert_eq(crc32c(rising, 32), 0x46dd794eu);
}

Test(tensorboard, every_scalar_of_every_event_is_there)
{
    char *dir = scratch_make(), *files[4];
    kit k = kit_open("tensorboard", dir, 0, 0, NULL);
    const mr_metric m[] = { { "loss", 2.5 }, { "lr", 3e-4 } }, val[] = { { "val_loss", NAN } };
    kit_event(k, "start", 0, 9, 1.5, NULL, 0, "hello");
    kit_event(k, "step", 1, 9, 1700000000.25, m, 2, NULL);
    kit_event(k, "step", 300, 900, 1700000001.5, m, 1, NULL);
    kit_event(k, "eval", 300, 900, 1700000002, val, 1, NULL);
    kit_event(k, "note", 300, 900, 0, NULL, 0, "x");
    kit_close(k);
    cr_assert_eq(event_files(dir, files, 4), 1);
    size_t n;
    uint8_t *p = (uint8_t *)scratch_get(files[0], &n);
    events e = decode(p, n);
    cr_assert_str_eq(e.version, "brain.Event:2");
    cr_assert_eq(e.restart, -1);
    cr_assert_eq(e.records, 4);
    cr_assert_eq(e.n, 4);
    cr_assert(e.v[0].time == 1700000000.25 && e.v[0].step == 1 && e.v[0].value == 2.5f);
    cr_assert_str_eq(e.v[0].tag, "loss");
    cr_assert(e.v[1].value == 3e-4f && !strcmp(e.v[1].tag, "lr"));
    cr_assert(e.v[2].step == 300 && e.v[2].time == 1700000001.5);
    cr_assert(isnan(e.v[3].value) && !strcmp(e.v[3].tag, "val_loss"));
    for (size_t cut = n; cut > n - 40; cut--) /* a torn tail spoils nothing before it */
        cr_assert_geq(decode(p, cut).records, cut == n ? 4 : 2);
    free(p);
    free(files[0]);
    scratch_drop(dir);
}

Test(tensorboard, a_resume_is_a_new_file_that_drops_the_replayed_steps)
{
    char *dir = scratch_make(), *files[4];
    for (int i = 0; i < 3; i++)
        kit_close(kit_open("tensorboard", dir, i > 0, 40, NULL));
    cr_assert_eq(event_files(dir, files, 4), 3);
    int restarts = 0;
    for (int i = 0; i < 3; i++) {
        size_t n;
        uint8_t *p = (uint8_t *)scratch_get(files[i], &n);
        events e = decode(p, n);
        cr_assert_str_eq(e.version, "brain.Event:2");
        restarts += e.restart == 41;
        free(p);
        free(files[i]);
    }
    cr_assert_eq(restarts, 2);
    scratch_drop(dir);
}
