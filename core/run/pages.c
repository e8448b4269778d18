/* SPDX-License-Identifier: Apache-2.0
 * pages.c - see pages.h. */
#include "pages.h"
#include "core/base/base.h"
#include <stdlib.h>
#include <string.h>

void mri_pages_open(mri_pages *p, int64_t slots, int64_t of_slot, int64_t pages, int64_t page)
{
    *p = (mri_pages){ .slots = slots, .of_slot = of_slot, .pages = pages, .page = page };
    p->table = mri_alloc((size_t)(slots * of_slot) * sizeof *p->table);
    p->held = mri_alloc((size_t)slots * sizeof *p->held);
    p->free = mri_alloc((size_t)pages * sizeof *p->free);
    memset(p->table, 0xff, (size_t)(slots * of_slot) * sizeof *p->table);
    while (p->n_free < pages) { /* page 0 is the first to go */
        p->free[p->n_free] = (int32_t)(pages - 1 - p->n_free);
        p->n_free++;
    }
}

void mri_pages_close(mri_pages *p)
{
    free(p->table);
    free(p->held);
    free(p->free);
    *p = (mri_pages){ 0 };
}

bool mri_pages_reach(mri_pages *p, int64_t slot, int64_t n)
{
    int64_t need = mri_pages_for(p, n);
    if (need > p->of_slot || need - p->held[slot] > p->n_free)
        return false;
    while (p->held[slot] < need)
        p->table[slot * p->of_slot + p->held[slot]++] = p->free[--p->n_free];
    return true;
}

void mri_pages_release(mri_pages *p, int64_t slot)
{
    int32_t *row = p->table + slot * p->of_slot;
    while (p->held[slot]) { /* the last taken is the next to go */
        int32_t *entry = &row[--p->held[slot]];
        p->free[p->n_free++] = *entry;
        *entry = -1;
    }
}
