/* SPDX-License-Identifier: Apache-2.0
 * schedule.c - see schedule.h. */
#include "schedule.h"
#include <stdlib.h>
#include <string.h>

static void add(mri_schedule *s, uint8_t kind, uint32_t instance, uint32_t mb)
{
    mri_item it = { instance, mb, kind };
    MRI_PUSH(&s->items, it);
}

void mri_schedule_single(mri_schedule *s, uint32_t instances, uint32_t micro_batches, bool split_w)
{
    memset(s, 0, sizeof *s);
    s->instances = instances;
    s->micro_batches = micro_batches;
    s->split_w = split_w;
    add(s, MRI_ITEM_ZERO, 0, 0);
    for (uint32_t m = 0; m < micro_batches; m++) {
        add(s, MRI_ITEM_LOAD, 0, m);
        for (uint32_t i = 0; i < instances; i++)
            add(s, MRI_ITEM_F, i, m);
        for (uint32_t i = instances; i-- > 0;)
            add(s, MRI_ITEM_B, i, m);
        for (uint32_t i = instances; split_w && i-- > 0;)
            add(s, MRI_ITEM_W, i, m);
        add(s, MRI_ITEM_LOSS, 0, m);
    }
    add(s, MRI_ITEM_UPDATE, 0, 0);
}

void mri_schedule_free(mri_schedule *s)
{
    free(s->items.v);
    memset(s, 0, sizeof *s);
}

/* progress of one (micro-batch, instance): bits of kinds already seen */
mr_status mri_schedule_verify(const mri_schedule *s, mr_err *err)
{
    size_t cells = (size_t)s->instances * s->micro_batches;
    uint8_t *seen = mri_alloc(cells + 1), *loaded = mri_alloc(s->micro_batches + 1u);
    mr_status st = 0;
    size_t n_f = 0, n_b = 0, n_w = 0;
    for (size_t k = 0; k < s->items.n && !st; k++) {
        const mri_item *it = &s->items.v[k];
        bool good = it->micro_batch < s->micro_batches && it->instance < s->instances;
        if (good) {
            uint8_t *at = seen + (size_t)it->micro_batch * s->instances;
            uint32_t i = it->instance;
            switch (it->kind) {
            case MRI_ITEM_LOAD: loaded[it->micro_batch] = 1; break;
            case MRI_ITEM_F:
                good = loaded[it->micro_batch] && !at[i] && (i == 0 || at[i - 1] & 2);
                at[i] |= 2;
                n_f++;
                break;
            case MRI_ITEM_B:
                good = at[i] == 2 && (i + 1 == s->instances || at[i + 1] & 4);
                at[i] |= 4;
                n_b++;
                break;
            case MRI_ITEM_W:
                good = at[i] == 6 && s->split_w;
                at[i] |= 8;
                n_w++;
                break;
            case MRI_ITEM_LOSS: good = (at[s->instances - 1] & 2) != 0; break;
            case MRI_ITEM_ZERO: good = k == 0; break;
            case MRI_ITEM_UPDATE: good = k + 1 == s->items.n; break;
            default: good = false;
            }
        }
        if (!good)
            st = mr_fail(err, MR_E_PLAN_VERIFY, MR_BLAME_HOST,
                         "schedule: item %zu (kind %u, instance %u, micro-batch %u) is out of order",
                         k, it->kind, it->instance, it->micro_batch);
    }
    if (!st && (n_f != cells || n_b != cells || n_w != (s->split_w ? cells : 0)))
        st = mr_fail(err, MR_E_PLAN_VERIFY, MR_BLAME_HOST,
                     "schedule: %zu F, %zu B and %zu W items for %zu blocks", n_f, n_b, n_w, cells);
    free(seen);
    free(loaded);
    return st;
}

void mri_schedule_print(const mri_schedule *s, const char *const *labels, mri_str *out)
{
    enum { COLUMNS = 96 };
    static const char letter[] = { 0, 'F', 'B', 'W', 0, 0, 0 };
    size_t n = 0, k = 0;
    for (size_t i = 0; i < s->items.n; i++)
        n += letter[s->items.v[i].kind] != 0;
    size_t shown = n < COLUMNS ? n : COLUMNS;
    char *row = mri_alloc(s->instances * (shown + 1));
    memset(row, '.', s->instances * (shown + 1));
    for (size_t i = 0; i < s->items.n && k < shown; i++)
        if (letter[s->items.v[i].kind])
            row[s->items.v[i].instance * (shown + 1) + k++] = letter[s->items.v[i].kind];
    for (uint32_t i = 0; i < s->instances; i++)
        mri_str_fmt(out, "  %-24s %.*s\n", labels[i], (int)shown, row + i * (shown + 1));
    if (shown < n)
        mri_str_fmt(out, "  (%zu of %zu items shown)\n", shown, n);
    free(row);
}
