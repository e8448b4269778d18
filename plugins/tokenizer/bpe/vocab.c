/* SPDX-License-Identifier: Apache-2.0
 *
 * vocab.c - tokens by id and by bytes, and the pairs that merge: open-addressed tables, at most
 * half full, read only once they are made.
 */
#include "bpe.h"
#include <stdlib.h>

mr_status bp_vocab_init(bp_vocab *v, int64_t n, mr_err *err)
{
    memset(v, 0, sizeof *v);
    v->v = calloc((size_t)n + 1, sizeof *v->v);
    if (!v->v)
        return bp_nomem(err, "tokens", (uint64_t)n * sizeof *v->v);
    v->n = n;
    return MR_OK;
}

void bp_vocab_free(bp_vocab *v)
{
    free(v->v);
    free(v->pool);
    free(v->slot);
    memset(v, 0, sizeof *v);
}

mr_status bp_vocab_set(bp_vocab *v, int64_t id, const char *bytes, uint64_t n, uint32_t flags,
                       mr_err *err)
{
    if (v->used + n > v->room) {
        uint64_t room = 2 * (v->used + n) + 4096;
        char *pool = realloc(v->pool, room);
        if (!pool)
            return bp_nomem(err, "the tokens' bytes", room);
        v->pool = pool;
        v->room = room;
    }
    memcpy(v->pool + v->used, bytes, n);
    v->v[id] = (bp_entry) { v->used, (uint32_t)n, flags | BP_TOKEN };
    v->used += n;
    return MR_OK;
}

/* Eight bytes at a time; the length keeps "a" and "a\0" apart. */
static uint64_t hash(const char *p, uint64_t n)
{
    uint64_t h = n, word;
    for (uint64_t i = 0; i + 8 <= n; i += 8) {
        memcpy(&word, p + i, 8);
        h = bp_mix(h ^ word);
    }
    return bp_mix(bp_mix(h ^ bp_tail(p, n)));
}

static uint32_t table_size(uint64_t n)
{
    uint32_t size = 16;
    while (size < 2 * n)
        size *= 2;
    return size;
}

mr_status bp_vocab_index(bp_vocab *v, mr_err *err)
{
    uint32_t size = table_size((uint64_t)v->n);
    v->slot = calloc(size, sizeof *v->slot);
    if (!v->slot)
        return bp_nomem(err, "the table of tokens", (uint64_t)size * sizeof *v->slot);
    v->mask = size - 1;
    for (int64_t id = 0; id < v->n; id++) {
        const bp_entry *e = &v->v[id];
        if (!(e->flags & BP_PIECE) || bp_vocab_find(v, v->pool + e->at, e->n) != BP_NONE)
            continue;
        uint64_t h = hash(v->pool + e->at, e->n);
        uint32_t i = (uint32_t)h & v->mask;
        while (v->slot[i])
            i = (i + 1) & v->mask;
        v->slot[i] = (uint32_t)(h >> 56) << 24 | ((uint32_t)id + 1);
    }
    return MR_OK;
}

int32_t bp_vocab_find(const bp_vocab *v, const char *bytes, uint64_t n)
{
    uint64_t h = hash(bytes, n);
    for (uint32_t i = (uint32_t)h & v->mask, s; (s = v->slot[i]); i = (i + 1) & v->mask) {
        if (s >> 24 != h >> 56) /* spares two looks into far memory */
            continue;
        const bp_entry *e = &v->v[(s & 0xffffff) - 1];
        if (e->n == n && !memcmp(v->pool + e->at, bytes, n))
            return (int32_t)((s & 0xffffff) - 1);
    }
    return BP_NONE;
}

mr_status bp_merges_init(bp_merges *m, uint64_t n, mr_err *err)
{
    uint32_t size = table_size(n);
    m->slot = malloc(size * sizeof *m->slot);
    m->maybe = calloc(size / 32 + 1, sizeof *m->maybe); /* 2 bits a slot, to stay near */
    if (!m->slot || !m->maybe)
        return bp_nomem(err, "the table of merges", (uint64_t)size * sizeof *m->slot);
    m->mask = size - 1;
    m->maybe_mask = 2 * size - 1;
    for (uint32_t i = 0; i < size; i++)
        m->slot[i].rank = UINT32_MAX;
    return MR_OK;
}

void bp_merges_put(bp_merges *m, bp_merge merge)
{
    uint64_t h = bp_mix((uint64_t)merge.a << 32 | merge.b);
    uint32_t bit = (uint32_t)(h >> 20) & m->maybe_mask, i = (uint32_t)h & m->mask;
    m->maybe[bit / 64] |= (uint64_t)1 << bit % 64;
    while (m->slot[i].rank != UINT32_MAX && (m->slot[i].a != merge.a || m->slot[i].b != merge.b))
        i = (i + 1) & m->mask;
    m->slot[i] = merge;
}

void bp_merges_free(bp_merges *m)
{
    free(m->slot);
    free(m->maybe);
    memset(m, 0, sizeof *m);
}
