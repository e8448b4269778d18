/* SPDX-License-Identifier: Apache-2.0
 * ranks.c - see ranks.h. Memory is taken by the file's size, never by a number in it. */
#include "ranks.h"
#include <stdlib.h>

MR_PRINTF(5, 6)
static mr_status bad_line(const char *unit, const char *path, uint64_t line, mr_err *err,
                          const char *fmt, ...)
{
    char why[140];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(why, sizeof why, fmt, ap);
    va_end(ap);
    mr_fail(err, MR_E_STORE_FORMAT, MR_BLAME_USER, "%s: line %llu of the rank file %s", unit,
            (unsigned long long)line, why);
    mr_detail(err, "in %s", path);
    mr_hint(err,
            "a line is a token in base64, a space and its rank; a cut or converted copy is not: "
            "fetch it again");
    return MR_E_STORE_FORMAT;
}

static int digit(char c)
{
    return c >= 'A' && c <= 'Z'   ? c - 'A'
           : c >= 'a' && c <= 'z' ? c - 'a' + 26
           : c >= '0' && c <= '9' ? c - '0' + 52
           : c == '+'             ? 62
           : c == '/'             ? 63
                                  : -1;
}

/* Strict: whole groups of four, padding only at the end, no bits left over. -1: it is not. */
static int64_t from_base64(const char *s, uint64_t n, char *out)
{
    int64_t m = 0;
    if (!n || n % 4)
        return -1;
    for (uint64_t i = 0; i < n; i += 4) {
        bool last = i + 4 == n;
        int pad = !last ? 0 : (s[i + 3] == '=') + (s[i + 3] == '=' && s[i + 2] == '=');
        uint32_t word = 0;
        for (int k = 0; k < 4; k++) {
            int d = k >= 4 - pad ? 0 : digit(s[i + k]);
            if (d < 0)
                return -1;
            word = word << 6 | (uint32_t)d;
        }
        if (pad && word & ((1u << 8 * pad) - 1))
            return -1;
        for (int k = 0; k < 3 - pad; k++)
            out[m++] = (char)(word >> (16 - 8 * k));
    }
    return m;
}

static mr_status read_line(const char *unit, const char *path, uint64_t number, const char *s,
                           uint64_t n, ranks *r, uint64_t *used, mr_err *err)
{
    const char *space = memchr(s, ' ', n);
    uint64_t k = space ? (uint64_t)(space - s) : n, rank = 0, i = k + 1;
    if (!space || i == n)
        return bad_line(unit, path, number, err, "is no token and rank: %.*s", n < 40 ? (int)n : 40,
                        s);
    for (; i < n && s[i] >= '0' && s[i] <= '9' && rank < BP_MAX_IDS; i++)
        rank = 10 * rank + (uint64_t)(s[i] - '0');
    if (i < n || rank >= BP_MAX_IDS)
        return bad_line(unit, path, number, err,
                        "has the rank %.*s; ranks are whole numbers below %d",
                        n - k - 1 < 30 ? (int)(n - k - 1) : 30, space + 1, BP_MAX_IDS);
    if (k > 2 * BP_MAX_TOKEN)
        return bad_line(unit, path, number, err, "has a token of %llu characters; the limit is %d",
                        (unsigned long long)k, 2 * BP_MAX_TOKEN);
    int64_t m = from_base64(s, k, r->bytes + *used);
    if (m < 0 || m > BP_MAX_TOKEN)
        return bad_line(unit, path, number, err, "has a token that is no base64: %.*s",
                        k < 40 ? (int)k : 40, s);
    r->v[r->n++] = (rank_line) { *used, (uint32_t)m, (uint32_t)rank };
    r->end = (int64_t)rank >= r->end ? (int64_t)rank + 1 : r->end;
    *used += (uint64_t)m;
    return MR_OK;
}

mr_status ranks_read(const char *unit, const char *path, ranks *r, mr_err *err)
{
    char *text = NULL;
    uint64_t n = 0, lines = 1, used = 0, number = 0;
    *r = (ranks) { 0 };
    mr_status st = bp_read(unit, path, &text, &n, err);
    if (st)
        return st;
    for (uint64_t i = 0; i < n; i++)
        lines += text[i] == '\n';
    r->v = malloc(lines * sizeof *r->v);
    r->bytes = malloc(n + 4);
    if (!r->v || !r->bytes) {
        st = bp_nomem(err, "a rank file", lines * sizeof *r->v + n);
        goto out;
    }
    for (uint64_t i = 0; i < n; number++) {
        const char *end = memchr(text + i, '\n', n - i);
        uint64_t len = (end ? (uint64_t)(end - text) : n) - i, whole = len;
        if (len && text[i + len - 1] == '\r')
            len--;
        if (len)
            MR_TRY(read_line(unit, path, number + 1, text + i, len, r, &used, err));
        i += whole + 1;
    }
    if (!r->n)
        st = bad_line(unit, path, 1, err, "is missing: it holds no token");
out:
    free(text);
    if (st)
        ranks_free(r);
    return st;
}

void ranks_free(ranks *r)
{
    free(r->v);
    free(r->bytes);
    *r = (ranks) { 0 };
}

/* ---- merges ---------------------------------------------------------------------------------- */

typedef struct pairs {
    bp_merge *v;
    uint64_t n, room;
} pairs;

static mr_status add_pair(pairs *p, bp_merge m, mr_err *err)
{
    if (p->n == p->room) {
        uint64_t room = p->room ? 2 * p->room : 1 << 16;
        bp_merge *v = realloc(p->v, room * sizeof *v);
        if (!v)
            return bp_nomem(err, "merges", room * sizeof *v);
        p->v = v;
        p->room = room;
    }
    p->v[p->n++] = m;
    return MR_OK;
}

mr_status ranks_merges(bp_model *m, mr_err *err)
{
    const bp_vocab *v = &m->vocab;
    pairs all = { 0 };
    mr_status st = MR_OK;
    for (int64_t id = 0; id < v->n; id++) {
        const bp_entry *e = &v->v[id];
        const char *p = v->pool + e->at;
        if (!(e->flags & BP_PIECE))
            continue;
        for (uint32_t k = 1; k < e->n; k++) {
            int32_t a = bp_vocab_find(v, p, k);
            int32_t b = a == BP_NONE ? BP_NONE : bp_vocab_find(v, p + k, e->n - k);
            if (b != BP_NONE)
                MR_TRY(add_pair(&all,
                                (bp_merge) { (uint32_t)a, (uint32_t)b, (uint32_t)id, (uint32_t)id },
                                err));
        }
    }
    MR_TRY(bp_merges_init(&m->merges, all.n, err));
    for (uint64_t i = 0; i < all.n; i++)
        bp_merges_put(&m->merges, all.v[i]);
out:
    free(all.v);
    return st;
}
