/* SPDX-License-Identifier: Apache-2.0
 * Pages are in one slot's row or free, never both, whatever is taken and given back; and
 * log-probabilities are those of the logits. */
#include "core/run/logprobs.h"
#include "core/run/pages.h"
#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

/* every page once; each row's pages first, then -1 */
static void check(const mri_pages *p)
{
    int seen[64] = { 0 };
    for (int64_t i = 0; i < p->n_free; i++)
        seen[p->free[i]]++;
    for (int64_t b = 0; b < p->slots; b++)
        for (int64_t i = 0; i < p->of_slot; i++) {
            int32_t page = p->table[b * p->of_slot + i];
            if (i < p->held[b])
                seen[page]++;
            else
                cr_assert_eq(page, -1);
        }
    for (int64_t i = 0; i < p->pages; i++)
        cr_assert_eq(seen[i], 1, "page %lld is there %d times", (long long)i, seen[i]);
}

Test(pages, are_never_lost_or_given_twice)
{
    mri_pages p;
    mri_pages_open(&p, 5, 8, 20, 4);
    check(&p);
    int refused = 0;
    for (uint32_t i = 0, x = 1; i < 3000; i++) {
        x = x * 1664525u + 1013904223u;
        int64_t slot = (x >> 8) % 5, n = (x >> 16) % 40, free = p.n_free, held = p.held[slot];
        if ((x >> 28) == 0)
            mri_pages_release(&p, slot);
        else if (!mri_pages_reach(&p, slot, n)) {
            refused++;
            cr_assert(p.n_free == free && p.held[slot] == held);
            cr_assert(n > 32 || mri_pages_for(&p, n) > held + free);
        } else {
            cr_assert_geq(p.held[slot] * 4, n);
            cr_assert_geq(p.held[slot], held, "reaching never gives back");
        }
        check(&p);
    }
    cr_assert_gt(refused, 100);
    mri_pages_close(&p);
}

Test(logprobs, are_of_a_softmax_and_fall)
{
    const float logits[] = { 1, 3, -INFINITY, 3, 80, 79.5f, 2 };
    mri_scored top[7];
    double lse = mri_log_sum_exp(logits, 7), sum = 0;
    mri_likeliest(logits, 7, lse, top, 7);
    const int32_t order[] = { 4, 5, 1, 3, 6, 0, 2 }; /* the lower id first on ties */
    for (int i = 0; i < 7; i++) {
        cr_assert_eq(top[i].id, order[i]);
        sum += exp((double)top[i].logprob);
    }
    cr_assert_float_eq(sum, 1, 1e-6);
    cr_assert_float_eq(top[0].logprob, -log1p(exp(-0.5)), 1e-6);
    mri_scored two[2];
    mri_likeliest(logits, 7, lse, two, 2);
    cr_assert(two[0].id == 4 && two[1].id == 5);
}
