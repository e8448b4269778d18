/* SPDX-License-Identifier: Apache-2.0
 *
 * share.c - see share.h.
 *
 * The common box of two boxes is walked in row-major order. Along that walk the element numbers
 * grow in both boxes, so the runs that both ranges reach are neighbours: the first is found by
 * halving, and the walk ends behind the last. Trailing dims that the common box shares whole with
 * both boxes are part of a run, not of the walk.
 */
#include "share.h"
#include "dtype.h"
#include <inttypes.h>
#include <stdlib.h>

/* ---- boxes ------------------------------------------------------------------------------- */

mri_box mri_box_of(const mr_type *own, const mri_place *place)
{
    mri_box b = { .rank = own->rank };
    for (uint32_t d = 0; d < b.rank; d++) {
        b.dim[d] = own->dim[d];
        b.full[d] = place && place->rank ? place->full[d] : own->dim[d];
        b.at[d] = place && place->rank ? place->at[d] : 0;
    }
    return b;
}

mri_box mri_box_whole(const mr_type *type)
{
    return mri_box_of(type, NULL);
}

static uint64_t product(const int64_t *dim, uint32_t from, uint32_t to)
{
    uint64_t n = 1;
    for (uint32_t d = from; d < to; d++)
        n *= (uint64_t)dim[d];
    return n;
}

uint64_t mri_box_count(const mri_box *b)
{
    return product(b->dim, 0, b->rank);
}

uint64_t mri_box_full(const mri_box *b)
{
    return product(b->full, 0, b->rank);
}

static bool same_dims(const int64_t *a, const int64_t *b, uint32_t rank)
{
    return !memcmp(a, b, rank * sizeof *a);
}

bool mri_box_same_full(const mri_box *a, const mri_box *b)
{
    return a->rank == b->rank && same_dims(a->full, b->full, a->rank);
}

bool mri_box_same(const mri_box *a, const mri_box *b)
{
    return mri_box_same_full(a, b) && same_dims(a->at, b->at, a->rank) &&
           same_dims(a->dim, b->dim, a->rank);
}

int mri_box_order(const mri_box *a, const mri_box *b)
{
    for (uint32_t d = 0; d < a->rank && d < b->rank; d++)
        if (a->at[d] != b->at[d])
            return a->at[d] < b->at[d] ? -1 : 1;
    for (uint32_t d = 0; d < a->rank && d < b->rank; d++)
        if (a->dim[d] != b->dim[d])
            return a->dim[d] < b->dim[d] ? -1 : 1;
    return 0;
}

static void print_dims(const int64_t *dim, uint32_t rank, mri_str *out)
{
    mri_str_add(out, "[");
    for (uint32_t d = 0; d < rank; d++)
        mri_str_fmt(out, "%s%" PRId64, d ? "," : "", dim[d]);
    mri_str_add(out, "]");
}

void mri_box_print(const mri_box *b, mri_str *out)
{
    print_dims(b->dim, b->rank, out);
    if (same_dims(b->dim, b->full, b->rank))
        return;
    mri_str_add(out, " at ");
    print_dims(b->at, b->rank, out);
    mri_str_add(out, " of ");
    print_dims(b->full, b->rank, out);
}

mr_status mri_share_check(const mri_share *f, mr_err *err)
{
    const mri_box *b = &f->box;
    const char *wrong = NULL;
    uint64_t bytes;
    if (b->rank > MR_MAX_RANK)
        return mr_fail(err, MR_E_STORE_FORMAT, MR_BLAME_HOST, "%s has %u dims, at most %d are "
                       "possible", f->name, b->rank, MR_MAX_RANK);
    mr_type full = { .dtype = f->dtype, .rank = b->rank };
    memcpy(full.dim, b->full, sizeof full.dim);
    for (uint32_t d = 0; d < b->rank && !wrong; d++)
        if (b->at[d] < 0 || b->dim[d] < 0 || b->at[d] > b->full[d] ||
            b->dim[d] > b->full[d] - b->at[d])
            wrong = "its box is not within its shape";
    if (!mri_type_bytes(&full, &bytes))
        wrong = "its dtype is unknown, or it is over 2^63 bytes";
    else if (!wrong && (f->from > f->to || f->to > mri_box_count(b)))
        wrong = "its range is not within its box";
    if (!wrong)
        return 0;
    mri_str s = { 0 };
    mri_box_print(b, &s);
    mr_fail(err, MR_E_STORE_FORMAT, MR_BLAME_HOST, "the share of %s is impossible: %s", f->name,
            wrong);
    mr_detail(err, "%s %s, elements %" PRIu64 " to %" PRIu64, f->dtype, s.s, f->from, f->to);
    mri_str_free(&s);
    return MR_E_STORE_FORMAT;
}

/* ---- what two have in common ------------------------------------------------------------ */

/* Makes r->lo and r->n the common box; false: there is none. */
static bool common_box(mri_runs *r)
{
    const mri_box *a = &r->a->box, *b = &r->b->box;
    for (uint32_t d = 0; d < a->rank; d++) {
        int64_t lo = a->at[d] > b->at[d] ? a->at[d] : b->at[d];
        int64_t end_a = a->at[d] + a->dim[d], end_b = b->at[d] + b->dim[d];
        int64_t end = end_a < end_b ? end_a : end_b;
        if (end <= lo)
            return false;
        r->lo[d] = lo;
        r->n[d] = end - lo;
    }
    return true;
}

/* Run i before the ranges cut it: its first element in both boxes. */
static void run_at(const mri_runs *r, uint64_t i, uint64_t *a, uint64_t *b)
{
    *a = *b = 0;
    for (uint32_t d = r->a->box.rank; d-- > 0;) {
        uint64_t k = 0;
        if (d < r->outer) {
            k = i % (uint64_t)r->n[d];
            i /= (uint64_t)r->n[d];
        }
        *a += (k + (uint64_t)(r->lo[d] - r->a->box.at[d])) * r->step_a[d];
        *b += (k + (uint64_t)(r->lo[d] - r->b->box.at[d])) * r->step_b[d];
    }
}

void mri_runs_begin(mri_runs *r, const mri_share *a, const mri_share *b)
{
    uint32_t rank = a->box.rank;
    *r = (mri_runs){ .a = a, .b = b };
    if (!mri_box_same_full(&a->box, &b->box) || !common_box(r))
        return;
    for (uint32_t d = 0; d < rank; d++) {
        r->step_a[d] = product(a->box.dim, d + 1, rank);
        r->step_b[d] = product(b->box.dim, d + 1, rank);
    }
    /* one dim that is cut may be part of a run, if all behind it are whole */
    r->outer = rank;
    r->run = 1;
    while (r->outer > 0) {
        uint32_t d = --r->outer;
        r->run *= (uint64_t)r->n[d];
        if (r->n[d] != a->box.dim[d] || r->n[d] != b->box.dim[d])
            break;
    }
    r->count = product(r->n, 0, r->outer);
    /* the first run that ends behind the beginning of both ranges */
    uint64_t low = 0, high = r->count;
    while (low < high) {
        uint64_t mid = low + (high - low) / 2, at_a, at_b;
        run_at(r, mid, &at_a, &at_b);
        if (at_a + r->run <= a->from || at_b + r->run <= b->from)
            low = mid + 1;
        else
            high = mid;
    }
    r->i = low;
}

bool mri_runs_next(mri_runs *r, mri_run *out)
{
    while (r->i < r->count) {
        uint64_t a, b, skip = 0, end = r->run;
        run_at(r, r->i++, &a, &b);
        if (a >= r->a->to || b >= r->b->to) {
            r->i = r->count;
            break;
        }
        if (a < r->a->from)
            skip = r->a->from - a;
        if (b < r->b->from && r->b->from - b > skip)
            skip = r->b->from - b;
        if (r->a->to - a < end)
            end = r->a->to - a;
        if (r->b->to - b < end)
            end = r->b->to - b;
        if (skip >= end) /* one range begins where the other has ended */
            continue;
        *out = (mri_run){ a + skip, b + skip, end - skip };
        return true;
    }
    return false;
}

uint64_t mri_share_copy(const mri_share *to, void *out, const mri_share *from,
                           const void *in, size_t width)
{
    mri_runs r;
    mri_run x;
    uint64_t n = 0;
    mri_runs_begin(&r, to, from);
    while (mri_runs_next(&r, &x)) {
        memcpy((char *)out + (x.a - to->from) * width,
               (const char *)in + (x.b - from->from) * width, x.n * width);
        n += x.n;
    }
    return n;
}

/* ---- each element once ------------------------------------------------------------------- */

static int by_box_then_range(const void *a, const void *b)
{
    const mri_share *x = a, *y = b;
    int order = mri_box_order(&x->box, &y->box);
    if (order)
        return order;
    if (x->from != y->from)
        return x->from < y->from ? -1 : 1;
    return (x->to > y->to) - (x->to < y->to);
}

static void print(const mri_share *f, mri_str *out)
{
    mri_box_print(&f->box, out);
    mri_str_fmt(out, ", elements %" PRIu64 " to %" PRIu64, f->from, f->to);
}

static mr_status twice(const mri_share *a, const mri_share *b, mr_err *err)
{
    mri_str s = { 0 };
    print(a, &s);
    mri_str_add(&s, "; and ");
    print(b, &s);
    mr_fail(err, MR_E_STORE_FORMAT, MR_BLAME_HOST, "elements of tensor %s are there twice",
            a->name);
    mr_detail(err, "%s", s.s);
    mri_str_free(&s);
    return MR_E_STORE_FORMAT;
}

static bool boxes_meet(const mri_box *a, const mri_box *b)
{
    for (uint32_t d = 0; d < a->rank; d++)
        if (a->at[d] >= b->at[d] + b->dim[d] || b->at[d] >= a->at[d] + a->dim[d])
            return false;
    return true;
}

/* Shares of one box are sorted by range, so neighbours tell; those of different boxes are
 * compared only where the boxes meet. */
static mr_status disjoint(const mri_share *f, size_t n, mr_err *err)
{
    mri_runs r;
    mri_run x;
    for (size_t i = 0; i < n; i++)
        for (size_t k = i + 1; k < n; k++) {
            bool same = mri_box_same(&f[i].box, &f[k].box);
            if (same && f[k].from >= f[i].to) {
                while (k + 1 < n && mri_box_same(&f[i].box, &f[k + 1].box))
                    k++; /* so are all others of this box */
                continue;
            }
            if (!same && !boxes_meet(&f[i].box, &f[k].box))
                continue;
            mri_runs_begin(&r, &f[i], &f[k]);
            if (mri_runs_next(&r, &x))
                return twice(&f[i], &f[k], err);
        }
    return 0;
}

mr_status mri_share_cover(mri_share *f, size_t n, mr_err *err)
{
    uint64_t have = 0, all;
    mr_status st = 0;
    if (!n)
        return mr_fail(err, MR_E_ARG, MR_BLAME_HOST, "no share of a tensor to be checked");
    for (size_t i = 0; i < n; i++) {
        MR_TRY(mri_share_check(&f[i], err));
        if (!mri_box_same_full(&f[i].box, &f[0].box) || strcmp(f[i].dtype, f[0].dtype)) {
            mri_str s = { 0 };
            mri_str_fmt(&s, "%s ", f[0].dtype);
            print_dims(f[0].box.full, f[0].box.rank, &s);
            mri_str_fmt(&s, ", and %s ", f[i].dtype);
            print_dims(f[i].box.full, f[i].box.rank, &s);
            st = mr_fail(err, MR_E_STORE_FORMAT, MR_BLAME_HOST,
                         "two shares of tensor %s disagree on what it is", f[i].name);
            mr_detail(err, "%s", s.s);
            mri_str_free(&s);
            goto out;
        }
    }
    qsort(f, n, sizeof *f, by_box_then_range);
    MR_TRY(disjoint(f, n, err));
    for (size_t i = 0; i < n; i++)
        have += f[i].to - f[i].from;
    all = mri_box_full(&f[0].box);
    if (have != all) {
        mri_str s = { 0 };
        print_dims(f[0].box.full, f[0].box.rank, &s);
        st = mr_fail(err, MR_E_STORE_FORMAT, MR_BLAME_HOST,
                     "%" PRIu64 " of %" PRIu64 " elements of tensor %s are in no share",
                     all - have, all, f[0].name);
        mr_detail(err, "%s %s in %zu shares", f[0].dtype, s.s, n);
        mri_str_free(&s);
    }
out:
    return st;
}
