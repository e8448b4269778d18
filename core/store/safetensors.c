/* SPDX-License-Identifier: Apache-2.0
 *
 * safetensors.c - reads one safetensors file, strictly.
 *
 * The file: u64 little-endian N, N bytes of JSON (may end in spaces), then the data. The JSON
 * maps each name to {dtype, shape, data_offsets [begin, end)} relative to the data;
 * "__metadata__" maps strings to strings.
 *
 * Invariant: a tensor of an open set lies wholly inside its file's data, shares no byte with
 * another, has exactly the bytes that its type needs, and starts at a multiple of its
 * element's size (a file that breaks only this last rule is legal: such tensors are copied).
 * The errors carry the names that the format's own library gives them.
 */
#include "dtype.h"
#include "internal.h"
#include <assert.h>
#include <jansson.h>
#include <stdlib.h>

enum { HEADER_MAX = 100000000, HEADER_MIN = 2 };
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "data is used in place");

struct mri_safetensors {
    MRI_VEC(mri_map) maps;
    MRI_VEC(mri_tensor) tensors; /* by file, then by offset; names are owned */
    MRI_VEC(void *) copies;      /* data of tensors that their file misaligns */
    MRI_VEC(char *) metadata;    /* key, value, key, value ... */
    uint32_t *by_name;           /* hash table, made by seal: a tensor's number + 1, or 0 */
    size_t mask;                 /* its entries - 1 */
};

#define BAD(...) mr_fail(err, MR_E_STORE_FORMAT, MR_BLAME_USER, __VA_ARGS__)

/* Names go into log lines, tables and file names: no control characters. */
static bool printable(const char *s)
{
    for (; *s; s++)
        if ((unsigned char)*s < 0x20 || *s == 0x7f)
            return false;
    return true;
}

static mr_status read_type(const char *path, const char *name, const json_t *v, mr_type *type,
                           mr_err *err)
{
    const json_t *dtype = json_object_get(v, "dtype"), *shape = json_object_get(v, "shape");
    *type = (mr_type){ .size = sizeof *type };
    if (!json_is_string(dtype) || !json_is_array(shape))
        return BAD("%s: InvalidHeader: tensor %s needs a string dtype and an array shape", path,
                   name);
    const mri_dtype *d = mri_dtype_of_file(json_string_value(dtype));
    if (!d) {
        char *known = mri_dtype_list();
        BAD("%s: InvalidHeader: tensor %s has the unknown dtype %.32s", path, name,
            json_string_value(dtype));
        mr_detail(err, "known: %s", known);
        free(known);
        return MR_E_STORE_FORMAT;
    }
    type->dtype = d->name;
    if (json_array_size(shape) > MR_MAX_RANK)
        return BAD("%s: tensor %s has %zu dimensions; mrun takes at most %d", path, name,
                   json_array_size(shape), MR_MAX_RANK);
    type->rank = (uint32_t)json_array_size(shape);
    for (uint32_t i = 0; i < type->rank; i++) {
        const json_t *n = json_array_get(shape, i);
        if (!json_is_integer(n) || json_integer_value(n) < 0)
            return BAD("%s: InvalidHeader: tensor %s: dimension %u is not a whole number >= 0",
                       path, name, i);
        type->dim[i] = json_integer_value(n);
    }
    return 0;
}

static mr_status read_span(const char *path, const char *name, const json_t *v, mri_span *s,
                           mr_err *err)
{
    const json_t *off = json_object_get(v, "data_offsets");
    const json_t *b = json_array_get(off, 0), *e = json_array_get(off, 1);
    mr_status st = read_type(path, name, v, &s->t.type, err);
    if (st)
        return st;
    if (json_array_size(off) != 2 || !json_is_integer(b) || !json_is_integer(e))
        return BAD("%s: InvalidHeader: tensor %s: data_offsets must be two whole numbers", path,
                   name);
    if (json_integer_value(b) < 0 || json_integer_value(e) < 0)
        return BAD("%s: InvalidOffset: tensor %s: a data_offset is below 0", path, name);
    s->begin = (uint64_t)json_integer_value(b);
    s->end = (uint64_t)json_integer_value(e);
    return 0;
}

/* within the data's `room` bytes, and as many as the type needs */
static mr_status check_span(const char *path, const mri_span *s, uint64_t room, mr_err *err)
{
    uint64_t need;
    if (s->end < s->begin || s->end > room)
        return BAD("%s: InvalidOffset: tensor %s spans [%llu, %llu) of %llu data bytes", path,
                   s->t.name, (unsigned long long)s->begin, (unsigned long long)s->end,
                   (unsigned long long)room);
    if (!mri_type_bytes(&s->t.type, &need))
        return BAD("%s: ValidationOverflow: the shape of tensor %s overflows, or is no whole "
                   "number of bytes",
                   path, s->t.name);
    if (need != s->end - s->begin)
        return BAD("%s: TensorInvalidInfo: tensor %s needs %llu bytes by its shape, but its "
                   "data_offsets give %llu",
                   path, s->t.name, (unsigned long long)need,
                   (unsigned long long)(s->end - s->begin));
    return 0;
}

static mr_status read_metadata(const char *path, json_t *v, mri_header *h, mr_err *err)
{
    const char *key;
    json_t *value;
    if (!json_is_object(v))
        return BAD("%s: InvalidHeader: __metadata__ must map strings to strings", path);
    json_object_foreach(v, key, value) {
        if (!json_is_string(value))
            return BAD("%s: InvalidHeader: __metadata__ entry %s is not a string", path, key);
        MRI_PUSH(&h->metadata, mri_strdup(key));
        MRI_PUSH(&h->metadata, mri_strdup(json_string_value(value)));
    }
    return 0;
}

static int by_offset(const void *a, const void *b)
{
    const mri_span *x = a, *y = b;
    if (x->begin != y->begin)
        return x->begin < y->begin ? -1 : 1;
    return (x->end > y->end) - (x->end < y->end); /* empty tensors first */
}

/* In order of offset, each tensor starts where the one before ended; the last ends the file. */
static mr_status check_cover(const char *path, const mri_span *s, size_t n, uint64_t room,
                             mr_err *err)
{
    uint64_t at = 0;
    for (size_t i = 0; i < n; at = s[i++].end)
        if (s[i].begin != at)
            return BAD("%s: InvalidOffset: tensor %s starts at %llu, the data before it ends at "
                       "%llu: %s",
                       path, s[i].t.name, (unsigned long long)s[i].begin, (unsigned long long)at,
                       s[i].begin < at ? "an overlap" : "a hole");
    if (at != room)
        return BAD("%s: MetadataIncompleteBuffer: the tensors cover %llu of %llu data bytes", path,
                   (unsigned long long)at, (unsigned long long)room);
    return 0;
}

/* the header's length, within the file */
static mr_status read_length(const char *path, mri_map m, uint64_t *n, mr_err *err)
{
    if (m.n < 8)
        return BAD("%s: HeaderTooSmall: %zu bytes, and 8 are needed for the header's length", path,
                   m.n);
    memcpy(n, m.p, 8);
    if (!memcmp(m.p, "version ", 8)) {
        BAD("%s: HeaderTooLarge: it is text, not a safetensors file", path);
        mr_hint(err, "if it is a Git LFS pointer, fetch the weights: git lfs pull");
        return MR_E_STORE_FORMAT;
    }
    if (*n > HEADER_MAX)
        return BAD("%s: HeaderTooLarge: the header says %llu bytes, the limit is %d", path,
                   (unsigned long long)*n, HEADER_MAX);
    if (*n < HEADER_MIN || *n > m.n - 8)
        return BAD("%s: InvalidHeaderLength: the header says %llu bytes, the file has %zu after it",
                   path, (unsigned long long)*n, m.n - 8);
    if (m.p[8] != '{')
        return BAD("%s: InvalidHeaderStart: the header must start with '{', not byte 0x%02x", path,
                   m.p[8]);
    return 0;
}

/* A header in any form that JSON has; it says what is wrong with others. */
static mr_status parse_header(const char *path, const char *text, size_t n, mri_header *h,
                              mr_err *err)
{
    char *where = mri_format("%s: InvalidHeader: header", path);
    json_t *doc = NULL, *value;
    const char *name;
    mr_status st = 0;
    MR_TRY(mri_json_parse(text, n, where, &doc, err));
    json_object_foreach(doc, name, value) {
        mri_span s = { 0 };
        if (!strcmp(name, "__metadata__")) {
            MR_TRY(read_metadata(path, value, h, err));
            continue;
        }
        if (!printable(name)) {
            st = BAD("%s: InvalidHeader: a tensor's name has control characters", path);
            goto out;
        }
        MR_TRY(read_span(path, name, value, &s, err));
        s.t.name = mri_strdup(name);
        MRI_PUSH(&h->spans, s);
    }
out:
    json_decref(doc);
    free(where);
    return st;
}

/* Where the tensor's bytes are, copied if the file misaligns them. */
static const void *place(mri_safetensors *f, const uint8_t *p, size_t n, uint32_t bits)
{
    size_t align = bits > 8 ? bits / 8 : 1;
    if (!n || (uintptr_t)p % align == 0)
        return p;
    void *copy = mri_alloc(n);
    memcpy(copy, p, n);
    MRI_PUSH(&f->copies, copy);
    return copy;
}

mr_status mri_safetensors_add(mri_safetensors *f, const char *path, mri_map m, mr_err *err)
{
    mri_header h = { 0 };
    uint64_t length = 0;
    mr_status st = 0;

    MRI_PUSH(&f->maps, m);
    MR_TRY(read_length(path, m, &length, err));
    const char *text = (const char *)m.p + 8;
    if (!mri_header_scan(text, length, &h))
        MR_TRY(parse_header(path, text, length, &h, err));
    uint64_t room = m.n - 8 - length;
    size_t n = h.spans.n;
    for (size_t i = 0; i < n; i++)
        MR_TRY(check_span(path, &h.spans.v[i], room, err));
    if (n)
        qsort(h.spans.v, n, sizeof *h.spans.v, by_offset);
    MR_TRY(check_cover(path, h.spans.v, n, room, err));
    for (size_t i = 0; i < n; i++) {
        mri_span *s = &h.spans.v[i];
        uint32_t bits = mri_dtype_of_name(s->t.type.dtype)->bits;
        s->t.data = place(f, m.p + 8 + length + s->begin, s->end - s->begin, bits);
        MRI_PUSH(&f->tensors, s->t);
        s->t.name = NULL; /* the set's now */
    }
    for (size_t i = 0; i < h.metadata.n; i++)
        MRI_PUSH(&f->metadata, h.metadata.v[i]);
    h.metadata.n = 0;
out:
    mri_header_free(&h);
    return st;
}

/* The entry of `name`: its tensor's, or the empty one where it would stand. */
static uint32_t *entry(const mri_safetensors *f, const char *name)
{
    size_t h = (size_t)mri_hash_str(0, name);
    for (h ^= h >> 32;; h++) {
        uint32_t *e = &f->by_name[h & f->mask];
        if (!*e || !strcmp(f->tensors.v[*e - 1].name, name))
            return e;
    }
}

mr_status mri_safetensors_seal(mri_safetensors *f, const char *path, mr_err *err)
{
    size_t size = 16;
    if (f->tensors.n >= UINT32_MAX / 2)
        return BAD("%s holds %zu tensors, the limit is %u", path, f->tensors.n, UINT32_MAX / 2);
    while (size < 2 * f->tensors.n)
        size *= 2;
    f->by_name = mri_alloc(size * sizeof *f->by_name);
    f->mask = size - 1;
    for (size_t i = 0; i < f->tensors.n; i++) {
        uint32_t *e = entry(f, f->tensors.v[i].name);
        if (*e)
            return BAD("%s: two files hold a tensor named %s", path, f->tensors.v[i].name);
        *e = (uint32_t)i + 1;
    }
    return 0;
}

#define MOVE(vec) \
    do { \
        for (size_t i = 0; i < from->vec.n; i++) \
            MRI_PUSH(&to->vec, from->vec.v[i]); \
        from->vec.n = 0; \
    } while (0)

void mri_safetensors_absorb(mri_safetensors *to, mri_safetensors *from)
{
    MOVE(maps);
    MOVE(tensors);
    MOVE(copies);
    MOVE(metadata);
    mri_safetensors_close(from);
}

void mri_safetensors_put(mri_safetensors *f, const char *name, const mr_type *type,
                         const void *data)
{
    mri_tensor t = { mri_strdup(name), *type, data };
    MRI_PUSH(&f->tensors, t);
}

void mri_safetensors_fill(mri_safetensors *f, size_t i, void *owned)
{
    MRI_PUSH(&f->copies, owned);
    f->tensors.v[i].data = owned;
}

mri_safetensors *mri_safetensors_empty(void)
{
    return mri_alloc(sizeof(mri_safetensors));
}

mr_status mri_safetensors_from_map(const char *path, mri_map m, mri_safetensors **out, mr_err *err)
{
    mri_safetensors *f = mri_safetensors_empty();
    mr_status st = mri_safetensors_add(f, path, m, err);
    if (!st)
        st = mri_safetensors_seal(f, path, err);
    if (st) {
        mri_safetensors_close(f);
        f = NULL;
    }
    *out = f;
    return st;
}

mr_status mri_safetensors_open(const char *path, mri_safetensors **out, mr_err *err)
{
    mri_map m;
    *out = NULL;
    mr_status st = mri_map_open(path, &m, err);
    return st ? st : mri_safetensors_from_map(path, m, out, err);
}

void mri_safetensors_close(mri_safetensors *f)
{
    if (!f)
        return;
    for (size_t i = 0; i < f->tensors.n; i++)
        free((char *)f->tensors.v[i].name);
    for (size_t i = 0; i < f->copies.n; i++)
        free(f->copies.v[i]);
    for (size_t i = 0; i < f->metadata.n; i++)
        free(f->metadata.v[i]);
    for (size_t i = 0; i < f->maps.n; i++)
        mri_map_close(&f->maps.v[i]);
    free(f->tensors.v);
    free(f->copies.v);
    free(f->metadata.v);
    free(f->maps.v);
    free(f->by_name);
    free(f);
}

size_t mri_safetensors_count(const mri_safetensors *f)
{
    return f->tensors.n;
}

const mri_tensor *mri_safetensors_at(const mri_safetensors *f, size_t i)
{
    return i < f->tensors.n ? &f->tensors.v[i] : NULL;
}

const mri_tensor *mri_safetensors_find(const mri_safetensors *f, const char *name)
{
    uint32_t e = *entry(f, name);
    return e ? &f->tensors.v[e - 1] : NULL;
}

void mri_safetensors_advise(const mri_safetensors *f, const void *p, size_t n, int what)
{
    const uint8_t *b = p;
    for (size_t i = 0; i < f->maps.n && n; i++) {
        const mri_map *m = &f->maps.v[i];
        if (b >= m->p && b < m->p + m->n && n <= (size_t)(m->p + m->n - b)) {
            mri_map_advise(m, b, n, what);
            return;
        }
    }
}

const char *mri_safetensors_metadata(const mri_safetensors *f, const char *key)
{
    for (size_t i = 0; i < f->metadata.n; i += 2)
        if (!strcmp(f->metadata.v[i], key))
            return f->metadata.v[i + 1];
    return NULL;
}
