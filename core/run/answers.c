/* SPDX-License-Identifier: Apache-2.0
 *
 * answers.c - answers of several replicas brought together (complete.h): each rank packs those of
 * its own into bytes, all get all, and take from the first rank of each replica what they lack.
 *
 * Invariant: an answer is packed and unpacked by the same list of parts, each its length and bytes.
 */
#include "complete.h"
#include <stdlib.h>
#include <string.h>

typedef struct parcel { /* read: bytes from `at` on are not yet unpacked */
    char *bytes;
    size_t n, at;
} parcel;

static void put(parcel *p, const void *data, size_t n)
{
    p->bytes = mri_grow(p->bytes, p->n + n + 1);
    if (n)
        memcpy(p->bytes + p->n, data, n);
    p->n += n;
}

static bool take(parcel *p, void *out, size_t n)
{
    if (n > p->n - p->at)
        return false;
    if (n)
        memcpy(out, p->bytes + p->at, n);
    p->at += n;
    return true;
}

static void put_list(parcel *p, const void *data, size_t n, size_t width)
{
    uint64_t count = n;
    put(p, &count, sizeof count);
    put(p, data, n * width);
}

/* The list, which the caller frees; NULL where the parcel ends before it. */
static void *take_list(parcel *p, size_t width, size_t *n)
{
    uint64_t count;
    if (!take(p, &count, sizeof count) || count > (p->n - p->at) / width)
        return NULL;
    void *out = mri_alloc(count * width + 1);
    take(p, out, count * width);
    *n = count;
    return out;
}

typedef struct ending {
    int64_t n_top;
    int32_t reason, word; /* word: number of the one that ended it, -1: none */
} ending;

static void pack(parcel *p, const mri_completing *c, const mri_answer *a)
{
    ending e = { a->n_top, a->reason, -1 };
    for (size_t i = 0; i < c->n_stop_words && a->word; i++)
        if (c->stop_words[i] == a->word)
            e.word = (int32_t)i;
    put(p, &e, sizeof e);
    put_list(p, a->ids.v, a->ids.n, sizeof *a->ids.v);
    put_list(p, a->logprobs.v, a->logprobs.n, sizeof *a->logprobs.v);
    put_list(p, a->top.v, a->top.n, sizeof *a->top.v);
    put_list(p, a->text.s, a->text.n, 1);
}

static bool unpack(parcel *p, const mri_completing *c, mri_answer *a)
{
    ending e;
    size_t n = 0;
    if (!take(p, &e, sizeof e) || !(a->ids.v = take_list(p, sizeof *a->ids.v, &a->ids.n)) ||
        !(a->logprobs.v = take_list(p, sizeof *a->logprobs.v, &a->logprobs.n)) ||
        !(a->top.v = take_list(p, sizeof *a->top.v, &a->top.n)))
        return false;
    char *text = take_list(p, 1, &n);
    if (!text || e.word >= (int32_t)c->n_stop_words)
        return free(text), false;
    mri_str_addn(&a->text, text, n);
    free(text);
    a->n_top = e.n_top;
    a->reason = (enum mri_reason)e.reason;
    a->word = e.word < 0 ? NULL : c->stop_words[e.word];
    a->done = true;
    return true;
}

/* Every rank's parcel, end to end in room for the longest; sizes[r] of them are rank r's. */
static mr_status exchange(mri_world *w, const parcel *mine, uint64_t *sizes, uint64_t *room,
                          char **all, mr_err *err)
{
    uint64_t n = mine->n;
    mr_status st = mri_world_gather(w, &n, sizeof n, sizes, err);
    *room = 1;
    for (uint32_t r = 0; r < w->mesh.world && !st; r++)
        *room = sizes[r] > *room ? sizes[r] : *room;
    char *padded = mri_alloc(*room);
    *all = mri_alloc(*room * w->mesh.world);
    if (mine->n)
        memcpy(padded, mine->bytes, mine->n);
    st = st ? st : mri_world_gather(w, padded, *room, *all, err);
    free(padded);
    return st;
}

mr_status mri_answers_gather(mri_world *w, const mri_completing *c, mri_answer *out, size_t n,
                             mr_err *err)
{
    if (mri_world_alone(w) || w->mesh.dp == 1)
        return 0;
    parcel mine = { 0 };
    uint64_t *sizes = mri_alloc(w->mesh.world * sizeof *sizes), room;
    uint32_t *of = mri_alloc(w->mesh.world * sizeof *of), own = w->mesh.i_dp;
    char *all = NULL;
    mr_status st = 0;
    for (size_t i = own; i < n; i += w->mesh.dp)
        pack(&mine, c, &out[i]);
    MR_TRY(mri_world_gather(w, &own, sizeof own, of, err));
    MR_TRY(exchange(w, &mine, sizes, &room, &all, err));
    for (uint32_t d = 0; d < w->mesh.dp; d++) {
        uint32_t r = 0;
        while (r + 1 < w->mesh.world && of[r] != d)
            r++;
        parcel p = { all + r * room, sizes[r], 0 };
        for (size_t i = d; i < n && d != own; i += w->mesh.dp)
            if (!unpack(&p, c, &out[i])) {
                st = mr_fail(err, MR_E_COMM, MR_BLAME_HOST, "answer %zu of rank %u is cut short", i,
                             r);
                goto out;
            }
    }
out:
    free(mine.bytes);
    free(sizes);
    free(of);
    free(all);
    return st;
}
