/* SPDX-License-Identifier: Apache-2.0
 *
 * nfc.c - Unicode's normal form C: characters taken apart, their marks put in order, and put
 * together again where one character is made of two. What is not UTF-8 is left as it is.
 *
 * Cost: linear but for the order of marks, n log n in the length of a run of them.
 */
#define BP_NORMAL_FORMS
#include "bpe.h"
#include "unicode_tables.h"
#include <stdlib.h>

#define COUNT(table) (sizeof(table) / sizeof *(table))
enum { /* Hangul syllables are computed, not listed */
       S_BASE = 0xac00,
       L_BASE = 0x1100,
       V_BASE = 0x1161,
       T_BASE = 0x11a7,
       L_COUNT = 19,
       V_COUNT = 21,
       T_COUNT = 28,
       S_COUNT = L_COUNT * V_COUNT * T_COUNT
};

typedef struct mark { /* a character with its combining class, and its place among equals */
    uint32_t c, class, at;
} mark;

typedef struct chars {
    mark *v;
    uint64_t n, room;
} chars;

/* Row of marks[] that c is in; NULL: a starter that NFC never changes. */
static const uint32_t *mark_of(uint32_t c)
{
    size_t low = 0, high = COUNT(marks);
    while (low < high) {
        size_t mid = (low + high) / 2;
        if (c > marks[mid][1])
            low = mid + 1;
        else if (c < marks[mid][0])
            high = mid;
        else
            return marks[mid];
    }
    return NULL;
}

static const uint32_t *find(const uint32_t (*table)[3], size_t n, uint32_t a, uint32_t b,
                            bool by_two)
{
    size_t low = 0, high = n;
    while (low < high) {
        size_t mid = (low + high) / 2;
        const uint32_t *row = table[mid];
        if (row[0] == a && (!by_two || row[1] == b))
            return row;
        if (row[0] < a || (row[0] == a && row[1] < b))
            low = mid + 1;
        else
            high = mid;
    }
    return NULL;
}

bool bp_is_nfc_surely(const char *p, uint64_t n)
{
    uint64_t word;
    uint32_t len;
    for (uint64_t i = 0; i < n; i += len) {
        bool rare = false;
        if (n - i >= 8 && (memcpy(&word, p + i, 8), !(word & 0x8080808080808080u))) {
            len = 8;
            continue;
        }
        if (!bp_utf8_valid(p + i, n - i < 4 ? n - i : 4, &rare)) {
            len = 1;
            continue;
        }
        uint32_t c = bp_utf8_get(p + i, &len);
        if (c >= 0x300 && mark_of(c)) /* no character below changes by itself */
            return false;
    }
    return true;
}

static mr_status push(chars *out, uint32_t c, mr_err *err)
{
    if (out->n == out->room) {
        uint64_t room = 2 * out->room + 64;
        mark *v = realloc(out->v, room * sizeof *v);
        if (!v)
            return bp_nomem(err, "normalized text", room * sizeof *v);
        out->v = v;
        out->room = room;
    }
    const uint32_t *m = c < 0x300 ? NULL : mark_of(c);
    out->v[out->n] = (mark) { c, m ? m[2] : 0, (uint32_t)out->n };
    out->n++;
    return MR_OK;
}

static mr_status take_apart(chars *out, uint32_t c, mr_err *err)
{
    mr_status st = MR_OK;
    const uint32_t *d;
    if (c >= S_BASE && c < S_BASE + S_COUNT) {
        uint32_t s = c - S_BASE, t = s % T_COUNT;
        MR_TRY(push(out, L_BASE + s / (V_COUNT * T_COUNT), err));
        MR_TRY(push(out, V_BASE + s % (V_COUNT * T_COUNT) / T_COUNT, err));
        if (t)
            MR_TRY(push(out, T_BASE + t, err));
    } else if (c >= 0xc0 && (d = find(decompositions, COUNT(decompositions), c, 0, false))) {
        MR_TRY(take_apart(out, d[1], err)); /* at most four deep, and the second is never made */
        if (d[2])                           /* of others, but for a few whose parts are pushed so */
            MR_TRY(take_apart(out, d[2], err));
    } else {
        MR_TRY(push(out, c, err));
    }
out:
    return st;
}

static int by_class(const void *a, const void *b)
{
    const mark *x = a, *y = b;
    if (x->class != y->class)
        return x->class < y->class ? -1 : 1;
    return x->at < y->at ? -1 : x->at > y->at;
}

static void order(chars *t)
{
    for (uint64_t i = 0, end; i < t->n; i = end) {
        end = i + 1;
        if (!t->v[i].class)
            continue;
        while (end < t->n && t->v[end].class)
            end++;
        if (end - i > 1)
            qsort(t->v + i, end - i, sizeof *t->v, by_class);
    }
}

static uint32_t compose(uint32_t a, uint32_t b)
{
    if (a >= L_BASE && a < L_BASE + L_COUNT && b >= V_BASE && b < V_BASE + V_COUNT)
        return S_BASE + ((a - L_BASE) * V_COUNT + (b - V_BASE)) * T_COUNT;
    if (a >= S_BASE && a < S_BASE + S_COUNT && (a - S_BASE) % T_COUNT == 0 && b > T_BASE &&
        b < T_BASE + T_COUNT)
        return a + (b - T_BASE);
    const uint32_t *row = find(compositions, COUNT(compositions), a, b, true);
    return row ? row[2] : 0;
}

/* A mark joins the last starter unless one of its class or a higher one stands between. */
static void put_together(chars *t)
{
    uint64_t n = 0, starter = UINT64_MAX;
    uint32_t last = 0; /* class of the character before, since the starter */
    for (uint64_t i = 0; i < t->n; i++) {
        mark m = t->v[i];
        bool adjacent = n && starter == n - 1;
        uint32_t c = starter != UINT64_MAX && (adjacent || (last && last < m.class))
                         ? compose(t->v[starter].c, m.c)
                         : 0;
        if (c) {
            t->v[starter].c = c;
            continue;
        }
        if (!m.class)
            starter = n;
        last = m.class;
        t->v[n++] = m;
    }
    t->n = n;
}

/* One run of UTF-8. */
static mr_status normalize(const char *p, uint64_t n, chars *t, mr_err *err)
{
    uint32_t len;
    t->n = 0;
    for (uint64_t i = 0; i < n; i += len) {
        mr_status st = take_apart(t, bp_utf8_get(p + i, &len), err);
        if (st)
            return st;
    }
    order(t);
    put_together(t);
    return MR_OK;
}

static mr_status add(char **out, uint64_t *n, uint64_t *room, const char *p, uint64_t m,
                     mr_err *err)
{
    if (*n + m > *room) {
        uint64_t more = 2 * (*n + m) + 64;
        char *s = realloc(*out, more);
        if (!s)
            return bp_nomem(err, "normalized text", more);
        *out = s;
        *room = more;
    }
    memcpy(*out + *n, p, m);
    *n += m;
    return MR_OK;
}

mr_status bp_nfc(const char *p, uint64_t n, char **out, uint64_t *out_n, mr_err *err)
{
    chars t = { 0 };
    char *s = NULL, one[4];
    uint64_t m = 0, room = 0;
    mr_status st = MR_OK;
    for (uint64_t i = 0; i < n;) {
        bool rare = false;
        uint64_t ok = bp_utf8_valid(p + i, n - i, &rare), bad;
        MR_TRY(normalize(p + i, ok, &t, err));
        for (uint64_t k = 0; k < t.n; k++)
            MR_TRY(add(&s, &m, &room, one, bp_utf8_put(t.v[k].c, one), err));
        i += ok;
        bad = bp_utf8_invalid(p + i, n - i);
        MR_TRY(add(&s, &m, &room, p + i, bad, err));
        i += bad;
    }
    *out = s;
    *out_n = m;
    s = NULL;
out:
    free(t.v);
    free(s);
    return st;
}
