/* SPDX-License-Identifier: Apache-2.0
 *
 * pages.h - who owns which page of the caches: N pages of P positions each, handed out to the
 * slots of running sequences (Kwon et al. 2023). All layers' caches share one table.
 *
 * Invariant: a page is free or in one slot's row of the table, never both; a row's pages are its
 * first entries, in the order of the positions, and -1 behind them.
 */
#ifndef MRI_PAGES_H
#define MRI_PAGES_H
#include <stdbool.h>
#include <stdint.h>

enum { MRI_PAGE = 64 }; /* positions of a page, where nobody chose */

typedef struct mri_pages {
    int64_t slots, of_slot; /* B rows of the table of M pages */
    int64_t pages, page;    /* N pages of P positions         */
    int32_t *table;         /* [B, M]                         */
    int64_t *held;          /* [B] pages of each slot         */
    int32_t *free;          /* [N], the first n_free are it   */
    int64_t n_free;
} mri_pages;

void mri_pages_open(mri_pages *p, int64_t slots, int64_t of_slot, int64_t pages, int64_t page);
void mri_pages_close(mri_pages *p);
/* pages that so many positions take */
static inline int64_t mri_pages_for(const mri_pages *p, int64_t positions)
{
    return (positions + p->page - 1) / p->page;
}
/* Sees to it that the slot has pages for positions 0..n-1. false: too few are free (or the slot
 * cannot have so many), and nothing has changed. */
bool mri_pages_reach(mri_pages *p, int64_t slot, int64_t n);
void mri_pages_release(mri_pages *p, int64_t slot);

#endif
