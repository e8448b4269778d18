/* SPDX-License-Identifier: Apache-2.0
 *
 * safetensors_header.c - the header of a safetensors file, and the index of several, in the form
 * that every writer gives them, in one pass: strings without escapes in ASCII, whole numbers, the
 * three keys of a tensor once each. A folder has 100,000 of them, for which the JSON library's
 * trees take most of a second.
 *
 * Invariant: what is accepted here, the JSON library reads as the same. Everything else, and
 * every error, is left to it: false means "not in this form", not "malformed".
 */
#include "dtype.h"
#include "internal.h"
#include <stdlib.h>

typedef struct cursor {
    const char *p, *end;
} cursor;

static void blanks(cursor *c)
{
    while (c->p < c->end && (*c->p == ' ' || *c->p == '\n' || *c->p == '\t' || *c->p == '\r'))
        c->p++;
}

static bool is(cursor *c, char want) /* blanks, then this character, which is passed */
{
    blanks(c);
    if (c->p == c->end || *c->p != want)
        return false;
    c->p++;
    return true;
}

static bool text(cursor *c, const char **s, size_t *n)
{
    if (!is(c, '"'))
        return false;
    *s = c->p;
    while (c->p < c->end && *c->p >= 0x20 && *c->p < 0x7f && *c->p != '"' && *c->p != '\\')
        c->p++;
    *n = (size_t)(c->p - *s);
    return c->p < c->end && *c->p++ == '"';
}

static bool whole(cursor *c, int64_t *v)
{
    int digits = 0;
    if (is(c, '0')) {
        *v = 0;
        return true; /* a digit after it is no comma: the caller says no */
    }
    for (*v = 0; c->p < c->end && *c->p >= '0' && *c->p <= '9'; c->p++) {
        *v = 10 * *v + (*c->p - '0');
        if (++digits > 18)
            return false;
    }
    return digits > 0;
}

/* [1, 2, 3]: up to `most` numbers */
static bool list(cursor *c, int64_t *v, uint32_t most, uint32_t *n)
{
    *n = 0;
    if (!is(c, '['))
        return false;
    if (is(c, ']'))
        return true;
    do
        if (*n == most || !whole(c, &v[(*n)++]))
            return false;
    while (is(c, ','));
    return is(c, ']');
}

static bool same(const char *s, size_t n, const char *word)
{
    return n == strlen(word) && !memcmp(s, word, n);
}

static bool tensor(cursor *c, mri_span *out)
{
    const char *s;
    size_t n;
    int64_t offset[2];
    uint32_t two = 0;
    bool dtype = false, shape = false;
    out->t.type = (mr_type){ .size = sizeof(mr_type) };
    if (!is(c, '{'))
        return false;
    do {
        if (!text(c, &s, &n) || !is(c, ':'))
            return false;
        if (!dtype && same(s, n, "dtype")) {
            const mri_dtype *d;
            char name[16] = { 0 };
            if (!text(c, &s, &n) || n >= sizeof name)
                return false;
            memcpy(name, s, n);
            if (!(d = mri_dtype_of_file(name)))
                return false;
            out->t.type.dtype = d->name;
            dtype = true;
        } else if (!shape && same(s, n, "shape")) {
            if (!list(c, out->t.type.dim, MR_MAX_RANK, &out->t.type.rank))
                return false;
            shape = true;
        } else if (!two && same(s, n, "data_offsets")) {
            if (!list(c, offset, 2, &two) || two != 2)
                return false;
        } else {
            return false;
        }
    } while (is(c, ','));
    out->begin = two ? (uint64_t)offset[0] : 0;
    out->end = two ? (uint64_t)offset[1] : 0;
    return is(c, '}') && dtype && shape && two;
}

static bool metadata(cursor *c, mri_header *h)
{
    if (h->metadata.n || !is(c, '{'))
        return false;
    do {
        const char *s[2];
        size_t n[2];
        if (!text(c, &s[0], &n[0]) || !is(c, ':') || !text(c, &s[1], &n[1]))
            return false;
        for (size_t i = 0; i < h->metadata.n; i += 2)
            if (same(s[0], n[0], h->metadata.v[i]))
                return false;
        for (int i = 0; i < 2; i++)
            MRI_PUSH(&h->metadata, mri_strndup(s[i], n[i]));
    } while (is(c, ','));
    return is(c, '}');
}

/* Is a name there twice? */
static bool repeated(const mri_header *h)
{
    size_t size = 16;
    bool twice = false;
    while (size < 2 * h->spans.n)
        size *= 2;
    uint32_t *table = mri_alloc(size * sizeof *table);
    for (size_t i = 0; i < h->spans.n && !twice; i++) {
        const char *name = h->spans.v[i].t.name;
        size_t k = (size_t)mri_hash_str(0, name);
        for (k ^= k >> 32; table[k & (size - 1)] && !twice; k++)
            twice = !strcmp(h->spans.v[table[k & (size - 1)] - 1].t.name, name);
        table[k & (size - 1)] = (uint32_t)i + 1;
    }
    free(table);
    return twice;
}

static bool all(cursor *c, mri_header *h)
{
    if (!is(c, '{'))
        return false;
    do {
        const char *s;
        size_t n;
        mri_span span;
        if (!text(c, &s, &n) || !is(c, ':'))
            return false;
        if (same(s, n, "__metadata__")) {
            if (!metadata(c, h))
                return false;
            continue;
        }
        if (!tensor(c, &span))
            return false;
        span.t.name = mri_strndup(s, n);
        span.t.data = NULL;
        MRI_PUSH(&h->spans, span);
    } while (is(c, ','));
    if (!is(c, '}'))
        return false;
    blanks(c);
    return c->p == c->end && h->spans.n < UINT32_MAX / 2 && !repeated(h);
}

bool mri_header_scan(const char *p, size_t n, mri_header *out)
{
    cursor c = { p, p + n };
    *out = (mri_header){ 0 };
    if (all(&c, out))
        return true;
    mri_header_free(out);
    return false;
}

/* ---- an index ----------------------------------------------------------------------------- */

/* {"total_parameters": 12, "total_size": 24}, or a part of it */
static bool index_metadata(cursor *c, mri_index *x, bool *seen)
{
    int64_t parameters = -1;
    if (*seen || !is(c, '{'))
        return false;
    *seen = true;
    if (is(c, '}'))
        return true;
    do {
        const char *s;
        size_t n;
        if (!text(c, &s, &n) || !is(c, ':'))
            return false;
        int64_t *to = same(s, n, "total_size")         ? &x->total
                      : same(s, n, "total_parameters") ? &parameters : NULL;
        if (!to || *to >= 0 || !whole(c, to))
            return false;
    } while (is(c, ','));
    return is(c, '}');
}

static bool weight_map(cursor *c, mri_index *x)
{
    if (x->entries.n || !is(c, '{'))
        return false;
    do {
        mri_index_entry e;
        size_t n, m;
        const char *s, *file;
        if (!text(c, &s, &n) || !is(c, ':') || !text(c, &file, &m))
            return false;
        e = (mri_index_entry){ s, file, n, m };
        MRI_PUSH(&x->entries, e);
    } while (is(c, ','));
    return is(c, '}');
}

bool mri_index_scan(char *p, size_t n, mri_index *out)
{
    cursor c = { p, p + n };
    const char *s;
    size_t k;
    bool ok = is(&c, '{'), seen = false;
    *out = (mri_index){ .total = -1 };
    do {
        ok = ok && text(&c, &s, &k) && is(&c, ':') &&
             (same(s, k, "metadata")     ? index_metadata(&c, out, &seen)
              : same(s, k, "weight_map") ? weight_map(&c, out) : false);
    } while (ok && is(&c, ','));
    ok = ok && is(&c, '}');
    blanks(&c);
    ok = ok && c.p == c.end && out->entries.n;
    for (size_t i = 0; ok && i < out->entries.n; i++) { /* their quotes were read */
        mri_index_entry *e = &out->entries.v[i];
        p[e->name + e->name_length - p] = p[e->file + e->file_length - p] = 0;
    }
    if (!ok)
        mri_index_free(out);
    return ok;
}

void mri_index_free(mri_index *x)
{
    free(x->entries.v);
    *x = (mri_index){ .total = -1 };
}

void mri_header_free(mri_header *h)
{
    for (size_t i = 0; i < h->spans.n; i++)
        free((char *)(uintptr_t)h->spans.v[i].t.name);
    for (size_t i = 0; i < h->metadata.n; i++)
        free(h->metadata.v[i]);
    free(h->spans.v);
    free(h->metadata.v);
    *h = (mri_header){ 0 };
}
