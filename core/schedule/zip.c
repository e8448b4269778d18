/* SPDX-License-Identifier: Apache-2.0
 *
 * zip.c - the forward of one micro-batch and the backward of another as one list: where one waits
 * for rows of experts, the other goes on.
 *
 * Blocks are cut into pieces at their seams, the steps that wait for such rows. A turn is all that
 * runs up to the next seam: the rest of one block, blocks without seams, the first piece of the
 * next. Turns alternate, the backward first, so that with one block of experts a layer
 *
 *     links      combine of B | dispatch of F | dispatch of B | combine of F | ...
 *     compute          attention F    experts B       experts F      attention B ...
 *
 * and weight gradients, which stand behind what their block sends, run beside what the forward
 * sends. What one half has left when the other is done runs alone.
 *
 * Invariant: of each half one block is cut open at a time, so one flight each (core/run/flight.h)
 * holds what is under way; the list depends on the pieces alone, so it is the same on all ranks of
 * a stage.
 */
#include "schedule.h"

typedef struct half {
    mri_schedule *s;
    mri_item at; /* kind, micro-batch, slot, chunk; the next instance and piece */
    int64_t next;
} half;

static bool mine(const half *h, int64_t i)
{
    const mri_schedule *s = h->s;
    return !s->blocks.n || (s->blocks.v[i].chunk == h->at.chunk && !s->blocks.v[i].border);
}

static void skip(half *h)
{
    int step = h->at.kind == MRI_ITEM_F ? 1 : -1;
    while (h->next >= 0 && h->next < h->s->instances && !mine(h, h->next))
        h->next += step;
}

static half open_half(mri_schedule *s, const mri_item *of, uint8_t kind)
{
    half h = { s, *of, kind == MRI_ITEM_F ? 0 : (int64_t)s->instances - 1 };
    h.at.kind = kind;
    h.at.piece = 0;
    skip(&h);
    return h;
}

/* Up to the next seam, or all that is left; false: nothing was. */
static bool turn(half *h)
{
    bool any = false;
    while (h->next >= 0 && h->next < h->s->instances) {
        const mri_seams *x = &h->s->seams.v[h->next];
        h->at.instance = (uint32_t)h->next;
        h->at.pieces = h->at.kind == MRI_ITEM_F ? x->forward : x->backward;
        MRI_PUSH(&h->s->items, h->at);
        any = true;
        if (++h->at.piece < h->at.pieces)
            return true;
        h->at.piece = 0;
        h->next += h->at.kind == MRI_ITEM_F ? 1 : -1;
        skip(h);
    }
    return any;
}

void mri_schedule_zip(mri_schedule *s, const mri_item *forward, const mri_item *backward)
{
    half f = open_half(s, forward, MRI_ITEM_F), b = open_half(s, backward, MRI_ITEM_B);
    bool more = true;
    while (more) {
        more = turn(&b);
        more |= turn(&f);
    }
}

static void put(mri_schedule *s, uint8_t kind, uint32_t instance, uint32_t micro)
{
    mri_item it = { .instance = instance, .micro_batch = micro, .slot = micro % 2, .kind = kind };
    MRI_PUSH(&s->items, it);
}

void mri_schedule_zipped(mri_schedule *s, const mri_seams *seams, uint32_t instances,
                         uint32_t micro_batches)
{
    mri_item f = { 0 }, b = { 0 };
    *s = (mri_schedule){ .instances = instances, .micro_batches = micro_batches, .chunks = 1 };
    for (uint32_t i = 0; i < instances; i++)
        MRI_PUSH(&s->seams, seams[i]);
    put(s, MRI_ITEM_ZERO, 0, 0);
    put(s, MRI_ITEM_LOAD, 0, 0);
    for (uint32_t i = 0; i < instances; i++)
        put(s, MRI_ITEM_F, i, 0);
    put(s, MRI_ITEM_LOSS, 0, 0);
    for (uint32_t m = 0; m < micro_batches; m++) {
        f.micro_batch = m + 1;
        f.slot = (m + 1) % 2;
        b.micro_batch = m;
        b.slot = m % 2;
        if (m + 1 < micro_batches)
            put(s, MRI_ITEM_LOAD, 0, m + 1);
        put(s, MRI_ITEM_SEED, 0, m);
        if (m + 1 < micro_batches)
            mri_schedule_zip(s, &f, &b);
        for (uint32_t i = instances; i-- > 0 && m + 1 == micro_batches;)
            put(s, MRI_ITEM_B, i, m);
        if (m + 1 < micro_batches)
            put(s, MRI_ITEM_LOSS, 0, m + 1);
    }
    put(s, MRI_ITEM_UPDATE, 0, 0);
}
