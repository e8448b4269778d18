/* SPDX-License-Identifier: Apache-2.0
 *
 * merge.c - a piece of text to ids: of all neighbouring symbols that merge, the pair of the
 * smallest rank does, the leftmost of equals first, until none is left.
 *
 * A short piece is scanned for its smallest rank at each step: n^2 / 2 comparisons of what lies
 * in the first cache. A long one keeps its pairs in a heap over a linked list: n log n, so that
 * a hundred thousand spaces cost no more by the byte than prose. Pieces of up to 31 bytes that
 * come out as at most 7 ids are remembered in a direct-mapped table of 64-byte rows; prose finds
 * nineteen of twenty pieces there.
 */
#include "bpe.h"
#include <stdlib.h>

enum {
    SHORT = 96,     /* symbols; from here on the heap is faster */
    ROWS = 1 << 15, /* 2 MiB a thread */
    KEY = 31,       /* longest remembered piece */
    ROW_IDS = 7,
    KEEP = 1 << 16 /* symbols whose room stays between calls */
};
#define GONE UINT32_MAX

typedef struct row {
    uint64_t key[4]; /* the piece's bytes, zeros, its length in the last byte: 0 is an empty row */
    int32_t id[ROW_IDS];
    uint32_t n;
} row;

struct bp_scratch {
    row *rows;
    uint32_t *prev, *next, *sym, *rank; /* of a long piece, by position */
    uint64_t *heap;                     /* rank << 32 | position */
    uint64_t room;                      /* symbols */
};

bp_scratch *bp_scratch_new(void)
{
    bp_scratch *s = calloc(1, sizeof *s);
    if (s)
        s->rows = aligned_alloc(64, ROWS * sizeof *s->rows);
    if (!s || !s->rows) {
        free(s);
        return NULL;
    }
    memset(s->rows, 0, ROWS * sizeof *s->rows);
    return s;
}

static void drop_room(bp_scratch *s)
{
    free(s->prev);
    free(s->next);
    free(s->sym);
    free(s->rank);
    free(s->heap);
    s->prev = s->next = s->sym = s->rank = NULL;
    s->heap = NULL;
    s->room = 0;
}

void bp_scratch_free(bp_scratch *s)
{
    if (!s)
        return;
    drop_room(s);
    free(s->rows);
    free(s);
}

/* The bytes of p as symbols. Returns how many there are: unknown bytes have none, or `unk`. */
static uint64_t symbols(const bp_model *m, const char *p, uint64_t n, uint32_t *sym)
{
    uint64_t k = 0;
    bool was_unk = false;
    for (uint64_t i = 0; i < n; i++) {
        int32_t id = m->byte_id[(unsigned char)p[i]];
        bool unk = id == BP_NONE;
        if (!unk)
            sym[k++] = (uint32_t)id;
        else if (m->unk != BP_NONE && !(was_unk && m->fuse_unk))
            sym[k++] = (uint32_t)m->unk;
        was_unk = unk;
    }
    return k;
}

static uint32_t rank_of(const bp_model *m, uint32_t a, uint32_t b, uint32_t *id)
{
    const bp_merge *x = bp_merges_find(&m->merges, a, b);
    *id = x ? x->id : 0;
    return x ? x->rank : GONE;
}

static void merge_short(const bp_model *m, const char *p, uint64_t len, bp_ids *out)
{
    uint32_t sym[SHORT], rank[SHORT], to[SHORT]; /* of the pair (i, i + 1): its rank and its id */
    uint64_t n = symbols(m, p, len, sym);
    bool direct = n == len && m->unk == BP_NONE; /* a symbol a byte */
    for (uint64_t i = 0; direct && i + 1 < n; i++) {
        const bp_pair *two = &m->pair[(unsigned char)p[i] << 8 | (unsigned char)p[i + 1]];
        rank[i] = two->rank;
        to[i] = two->id;
    }
    for (uint64_t i = 0; !direct && i + 1 < n; i++)
        rank[i] = rank_of(m, sym[i], sym[i + 1], &to[i]);
    if (n)
        rank[n - 1] = GONE, to[n - 1] = 0; /* the last one is in no pair */
    while (n > 1) {
        uint64_t best = 0;
        for (uint64_t i = 1; i + 1 < n; i++)
            if (rank[i] < rank[best])
                best = i;
        if (rank[best] == GONE)
            break;
        sym[best] = to[best];
        n--;
        for (uint64_t i = best + 1; i < n; i++) {
            sym[i] = sym[i + 1];
            rank[i] = rank[i + 1];
            to[i] = to[i + 1];
        }
        if (best + 1 < n)
            rank[best] = rank_of(m, sym[best], sym[best + 1], &to[best]);
        if (best > 0)
            rank[best - 1] = rank_of(m, sym[best - 1], sym[best], &to[best - 1]);
    }
    for (uint64_t i = 0; i < n; i++)
        bp_push(out, (int32_t)sym[i]);
}

/* ---- long pieces ---------------------------------------------------------------------------- */

static void sift_down(uint64_t *heap, uint64_t n, uint64_t i)
{
    uint64_t x = heap[i];
    for (uint64_t c; (c = 2 * i + 1) < n; i = c) {
        if (c + 1 < n && heap[c + 1] < heap[c])
            c++;
        if (x <= heap[c])
            break;
        heap[i] = heap[c];
    }
    heap[i] = x;
}

static void heap_push(uint64_t *heap, uint64_t *n, uint64_t x)
{
    uint64_t i = (*n)++;
    for (; i && x < heap[(i - 1) / 2]; i = (i - 1) / 2)
        heap[i] = heap[(i - 1) / 2];
    heap[i] = x;
}

static mr_status make_room(bp_scratch *s, uint64_t n, mr_err *err)
{
    if (n <= s->room)
        return MR_OK;
    drop_room(s);
    s->prev = malloc(n * sizeof *s->prev);
    s->next = malloc(n * sizeof *s->next);
    s->sym = malloc(n * sizeof *s->sym);
    s->rank = malloc(n * sizeof *s->rank);
    s->heap = malloc(3 * n * sizeof *s->heap); /* n pairs, and at most two more a merge */
    if (!s->prev || !s->next || !s->sym || !s->rank || !s->heap) {
        drop_room(s);
        return bp_nomem(err, "a piece of text that no rule cuts", 40 * n);
    }
    s->room = n;
    return MR_OK;
}

/* The pair that starts at i has changed: its rank, and a place in the heap if it merges. */
static void renew(const bp_model *m, bp_scratch *s, uint32_t i, uint64_t *n_heap)
{
    uint32_t id;
    s->rank[i] = s->next[i] == GONE ? GONE : rank_of(m, s->sym[i], s->sym[s->next[i]], &id);
    if (s->rank[i] != GONE)
        heap_push(s->heap, n_heap, (uint64_t)s->rank[i] << 32 | i);
}

static mr_status merge_long(const bp_model *m, bp_scratch *s, const char *p, uint64_t len,
                            bp_ids *out, mr_err *err)
{
    uint64_t n_heap = 0;
    uint32_t id;
    if (len >= GONE) {
        mr_fail(err, MR_E_TOKENIZER, MR_BLAME_USER, "a piece of %llu bytes that no rule cuts",
                (unsigned long long)len);
        mr_detail(err, "the limit is %u bytes", GONE - 1);
        mr_hint(err, "give the text in smaller parts");
        return MR_E_TOKENIZER;
    }
    mr_status st = make_room(s, len, err);
    if (st)
        return st;
    uint32_t n = (uint32_t)symbols(m, p, len, s->sym);
    if (!n)
        return MR_OK;
    for (uint32_t i = 0; i < n; i++) {
        s->prev[i] = i - 1; /* of the first: GONE */
        s->next[i] = i + 1 < n ? i + 1 : GONE;
        s->rank[i] = i + 1 < n ? rank_of(m, s->sym[i], s->sym[i + 1], &id) : GONE;
        if (s->rank[i] != GONE)
            s->heap[n_heap++] = (uint64_t)s->rank[i] << 32 | i;
    }
    for (uint64_t i = n_heap / 2; i-- > 0;)
        sift_down(s->heap, n_heap, i);
    while (n_heap) {
        uint32_t at = (uint32_t)s->heap[0], rank = (uint32_t)(s->heap[0] >> 32), right;
        s->heap[0] = s->heap[--n_heap];
        sift_down(s->heap, n_heap, 0);
        if (s->rank[at] != rank) /* the pair that this row spoke of is no more */
            continue;
        right = s->next[at];
        rank_of(m, s->sym[at], s->sym[right], &s->sym[at]);
        s->rank[right] = GONE;
        s->next[at] = s->next[right];
        if (s->next[at] != GONE)
            s->prev[s->next[at]] = at;
        renew(m, s, at, &n_heap);
        if (s->prev[at] != GONE)
            renew(m, s, s->prev[at], &n_heap);
    }
    for (uint32_t i = 0; i != GONE; i = s->next[i])
        bp_push(out, (int32_t)s->sym[i]);
    if (s->room > KEEP)
        drop_room(s);
    return MR_OK;
}

/* ---- any piece ------------------------------------------------------------------------------ */

static mr_status piece(const bp_model *m, bp_scratch *s, const char *p, uint64_t n, bp_ids *out,
                       mr_err *err)
{
    int32_t id = m->whole_first && n <= BP_MAX_TOKEN ? bp_vocab_find(&m->vocab, p, n) : BP_NONE;
    if (id != BP_NONE) {
        bp_push(out, id);
        return MR_OK;
    }
    if (n > SHORT)
        return merge_long(m, s, p, n, out, err);
    merge_short(m, p, n, out);
    return MR_OK;
}

/* Up to 31 bytes as four words, zeros behind them, the length in the last byte. */
static void load_key(const char *p, uint64_t n, uint64_t key[4])
{
    uint64_t i = 0;
    key[0] = key[1] = key[2] = key[3] = 0;
    for (; i + 8 <= n; i += 8)
        memcpy(&key[i / 8], p + i, 8);
    key[i / 8] |= bp_tail(p, n);
    key[3] |= n << 56;
}

static bool same_key(const uint64_t a[4], const uint64_t b[4])
{
    return !((a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3]));
}

mr_status bp_piece(const bp_model *m, bp_scratch *s, const char *p, uint64_t n, bp_ids *out,
                   mr_err *err)
{
    if (n > KEY || !n)
        return piece(m, s, p, n, out, err);
    uint64_t key[4];
    load_key(p, n, key);
    uint64_t h =
        bp_mix(bp_mix(key[0]) ^ bp_mix(key[1] + 0x9e37) ^ bp_mix(key[2] + 0x79b9) ^ key[3]);
    row *r = &s->rows[bp_mix(h) & (ROWS - 1)];
    if (same_key(r->key, key)) {
        for (uint32_t i = 0; i < r->n; i++)
            bp_push(out, r->id[i]);
        return MR_OK;
    }
    int32_t ids[KEY]; /* a byte is one at most */
    bp_ids found = { ids, KEY, 0 };
    mr_status st = piece(m, s, p, n, &found, err);
    if (st)
        return st;
    for (uint64_t i = 0; i < found.n; i++)
        bp_push(out, ids[i]);
    if (found.n <= ROW_IDS) {
        memcpy(r->key, key, sizeof key);
        memcpy(r->id, ids, found.n * sizeof *ids);
        r->n = (uint32_t)found.n;
    }
    return MR_OK;
}
