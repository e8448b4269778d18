/* SPDX-License-Identifier: Apache-2.0
 * Shares of a tensor: what two have in common, tried for every box and every range of small
 * tensors against counting element by element; and whether many hold each element once. */
#include "core/store/share.h"
#include "scratch.h"

enum { MOST = 24 }; /* elements of a tensor here */

typedef struct all {
    MRI_VEC(mri_share) v;
} all;

static mri_share share(uint32_t rank, const int64_t *full, const int64_t *at,
                             const int64_t *dim, uint64_t from, uint64_t to)
{
    mri_share f = { .name = "t", .dtype = "i32", .from = from, .to = to };
    f.box.rank = rank;
    for (uint32_t d = 0; d < rank; d++) {
        f.box.full[d] = full[d];
        f.box.at[d] = at[d];
        f.box.dim[d] = dim[d];
    }
    return f;
}

/* every box that is not empty, with every range */
static void list(all *out, uint32_t rank, const int64_t *full, uint32_t d, int64_t *at,
                 int64_t *dim)
{
    if (d == rank) {
        mri_share f = share(rank, full, at, dim, 0, 0);
        uint64_t n = mri_box_count(&f.box);
        for (f.from = 0; f.from < n; f.from++)
            for (f.to = f.from + 1; f.to <= n; f.to++)
                MRI_PUSH(&out->v, f);
        return;
    }
    for (at[d] = 0; at[d] < full[d]; at[d]++)
        for (dim[d] = 1; dim[d] <= full[d] - at[d]; dim[d]++)
            list(out, rank, full, d + 1, at, dim);
}

/* number[i]: which element of f's box element i of the tensor is; -1: f has it not */
static void number_elements(const mri_share *f, int number[MOST])
{
    uint64_t n = mri_box_full(&f->box);
    for (uint64_t i = 0; i < n; i++) {
        uint64_t left = i, own = 0, step = 1;
        bool in = true;
        for (uint32_t d = f->box.rank; d-- > 0;) {
            int64_t x = (int64_t)(left % (uint64_t)f->box.full[d]) - f->box.at[d];
            left /= (uint64_t)f->box.full[d];
            in &= x >= 0 && x < f->box.dim[d];
            own += (uint64_t)x * step;
            step *= (uint64_t)f->box.dim[d];
        }
        number[i] = in && own >= f->from && own < f->to ? (int)own : -1;
    }
}

static void try_all(uint32_t rank, const int64_t *full)
{
    all a = { 0 };
    int64_t at[MR_MAX_RANK], dim[MR_MAX_RANK];
    uint64_t pairs = 0, wrong = 0;
    list(&a, rank, full, 0, at, dim);
    int (*number)[MOST] = mri_alloc(a.v.n * sizeof *number);
    for (size_t i = 0; i < a.v.n; i++) {
        cr_assert_eq(mri_share_check(&a.v.v[i], NULL), 0);
        number_elements(&a.v.v[i], number[i]);
    }
    int n = (int)mri_box_full(&a.v.v[0].box);
    for (size_t i = 0; i < a.v.n; i++)
        for (size_t k = 0; k < a.v.n; k++) {
            mri_runs r;
            mri_run x = { 0 };
            int want = 0; /* element of the tensor that must come next */
            bool ok = true;
            mri_runs_begin(&r, &a.v.v[i], &a.v.v[k]);
            while (mri_runs_next(&r, &x))
                for (uint64_t j = 0; j < x.n; j++, want++) {
                    while (want < n && (number[i][want] < 0 || number[k][want] < 0))
                        want++;
                    ok &= want < n && number[i][want] == (int)(x.a + j) &&
                          number[k][want] == (int)(x.b + j);
                }
            for (; want < n; want++)
                ok &= number[i][want] < 0 || number[k][want] < 0;
            wrong += !ok;
            pairs++;
        }
    cr_assert_eq(wrong, 0, "%llu of %llu pairs", (unsigned long long)wrong,
                 (unsigned long long)pairs);
    cr_assert_gt(pairs, 40);
    free(number);
    free(a.v.v);
}

Test(share, common_elements_of_every_pair_in_one_dim)
{
    try_all(1, (int64_t[]){ 5 });
}

Test(share, common_elements_of_every_pair_in_two_dims)
{
    try_all(2, (int64_t[]){ 3, 4 });
    try_all(2, (int64_t[]){ 4, 1 });
}

Test(share, common_elements_of_every_pair_in_three_dims)
{
    try_all(3, (int64_t[]){ 2, 2, 3 });
}

Test(share, a_scalar_is_one_element)
{
    mri_share f = { .name = "s", .dtype = "f32", .to = 1 };
    float in = 3, out = 0;
    mr_err err = MR_ERR_INIT;
    cr_assert_eq(mri_share_cover(&f, 1, &err), 0, "%s", err.what);
    cr_assert_eq(mri_share_copy(&f, &out, &f, &in, sizeof in), 1);
    cr_assert_eq(out, 3);
}

Test(share, tensors_of_other_shapes_have_nothing_in_common)
{
    mri_share a = share(1, (int64_t[]){ 4 }, (int64_t[]){ 0 }, (int64_t[]){ 4 }, 0, 4);
    mri_share b = share(1, (int64_t[]){ 5 }, (int64_t[]){ 0 }, (int64_t[]){ 5 }, 0, 5);
    mri_runs runs;
    mri_run r;
    mri_runs_begin(&runs, &a, &b);
    cr_assert_not(mri_runs_next(&runs, &r));
}

/* ---- partitions ------------------------------------------------------------------------- */

/* Cuts [0, n) at random places; returns the number of parts, `cut` gets their ends too. */
static size_t cut_at_random(uint64_t n, size_t most, uint64_t *rng, uint64_t *cut)
{
    size_t parts = 0;
    cut[0] = 0;
    for (uint64_t at = 0; at < n;) {
        uint64_t step = 1 + scratch_random(rng) % (n - at);
        at = parts + 1 == most ? n : at + step;
        cut[++parts] = at;
    }
    return parts;
}

/* A random grid of boxes, each cut into random ranges. */
static void partition(all *out, uint64_t *rng)
{
    int64_t full[3] = { 1 + (int64_t)(scratch_random(rng) % 9),
                        1 + (int64_t)(scratch_random(rng) % 7),
                        1 + (int64_t)(scratch_random(rng) % 5) };
    uint64_t cut[3][8], range[8];
    size_t n[3];
    for (int d = 0; d < 3; d++)
        n[d] = cut_at_random((uint64_t)full[d], 3, rng, cut[d]);
    for (size_t i = 0; i < n[0] * n[1] * n[2]; i++) {
        size_t k[3] = { i / (n[1] * n[2]), i / n[2] % n[1], i % n[2] };
        int64_t at[3], dim[3];
        for (int d = 0; d < 3; d++) {
            at[d] = (int64_t)cut[d][k[d]];
            dim[d] = (int64_t)cut[d][k[d] + 1] - at[d];
        }
        size_t parts = cut_at_random((uint64_t)(dim[0] * dim[1] * dim[2]), 4, rng, range);
        for (size_t p = 0; p < parts; p++)
            MRI_PUSH(&out->v, share(3, full, at, dim, range[p], range[p + 1]));
    }
}

static void shuffle(all *a, uint64_t *rng)
{
    for (size_t i = a->v.n; i > 1; i--) {
        size_t k = scratch_random(rng) % i;
        mri_share f = a->v.v[i - 1];
        a->v.v[i - 1] = a->v.v[k];
        a->v.v[k] = f;
    }
}

Test(share, a_partition_covers_and_any_change_of_it_does_not)
{
    for (uint64_t seed = 1; seed <= 300; seed++) {
        uint64_t rng = seed;
        mr_err err = MR_ERR_INIT;
        all a = { 0 };
        partition(&a, &rng);
        shuffle(&a, &rng);
        cr_assert_eq(mri_share_cover(a.v.v, a.v.n, &err), 0, "seed %d: %s | %s", (int)seed,
                     err.what, err.detail);
        mri_share *f = &a.v.v[scratch_random(&rng) % a.v.n], was = *f;
        f->to--; /* a gap */
        cr_assert_eq(mri_share_cover(a.v.v, a.v.n, &err), MR_E_STORE_FORMAT, "seed %d",
                     (int)seed);
        cr_assert_not_null(strstr(err.what, "1 of "), "%s", err.what);
        a.v.n = 0;
        rng = seed;
        partition(&a, &rng);
        was = a.v.v[scratch_random(&rng) % a.v.n];
        was.from = was.to - 1; /* one element twice */
        MRI_PUSH(&a.v, was);
        shuffle(&a, &rng);
        cr_assert_eq(mri_share_cover(a.v.v, a.v.n, &err), MR_E_STORE_FORMAT, "seed %d",
                     (int)seed);
        cr_assert_not_null(strstr(err.what, "twice"), "%s", err.what);
        free(a.v.v);
    }
}

Test(share, one_partition_copies_into_another)
{
    for (uint64_t seed = 1; seed <= 200; seed++) {
        uint64_t rng = seed, again = seed;
        all a = { 0 }, b = { 0 };
        partition(&a, &rng);
        do { /* another partition of the same shape */
            b.v.n = 0;
            partition(&b, &again);
        } while (!mri_box_same_full(&a.v.v[0].box, &b.v.v[0].box));
        uint64_t n = mri_box_full(&a.v.v[0].box);
        mri_share whole = a.v.v[0];
        for (uint32_t d = 0; d < 3; d++) {
            whole.box.at[d] = 0;
            whole.box.dim[d] = whole.box.full[d];
        }
        whole.from = 0;
        whole.to = n;
        int32_t *value = mri_alloc(n * sizeof *value), *back = mri_alloc(n * sizeof *back);
        int32_t *part = mri_alloc(n * sizeof *part), *mid = mri_alloc(n * sizeof *mid);
        for (uint64_t i = 0; i < n; i++)
            value[i] = (int32_t)(i * 7 + seed);
        for (size_t k = 0; k < b.v.n; k++) {
            uint64_t got = 0;
            for (size_t i = 0; i < a.v.n; i++) { /* the writer's share, then the reader's */
                mri_share_copy(&a.v.v[i], part, &whole, value, sizeof *part);
                got += mri_share_copy(&b.v.v[k], mid, &a.v.v[i], part, sizeof *mid);
            }
            cr_assert_eq(got, b.v.v[k].to - b.v.v[k].from);
            mri_share_copy(&whole, back, &b.v.v[k], mid, sizeof *back);
        }
        cr_assert_eq(memcmp(value, back, n * sizeof *value), 0, "seed %d", (int)seed);
        free(value);
        free(back);
        free(part);
        free(mid);
        free(a.v.v);
        free(b.v.v);
    }
}

Test(share, impossible_ones_are_refused)
{
    mr_err err = MR_ERR_INIT;
    int64_t four[] = { 4 }, zero[] = { 0 }, three[] = { 3 }, huge[] = { INT64_MAX, 4 };
    mri_share f = share(1, four, three, three, 0, 1);
    cr_assert_eq(mri_share_check(&f, &err), MR_E_STORE_FORMAT);
    f = share(1, four, zero, three, 0, 4);
    cr_assert_eq(mri_share_check(&f, &err), MR_E_STORE_FORMAT);
    cr_assert_not_null(strstr(err.what, "range"), "%s", err.what);
    f = share(1, four, zero, three, 2, 1);
    cr_assert_eq(mri_share_check(&f, &err), MR_E_STORE_FORMAT);
    f = share(1, four, (int64_t[]){ -1 }, three, 0, 1);
    cr_assert_eq(mri_share_check(&f, &err), MR_E_STORE_FORMAT);
    f = share(2, huge, (int64_t[]){ 0, 0 }, (int64_t[]){ 1, 1 }, 0, 1);
    cr_assert_eq(mri_share_check(&f, &err), MR_E_STORE_FORMAT);
    f = share(1, four, zero, four, 0, 4);
    f.dtype = "f33";
    cr_assert_eq(mri_share_check(&f, &err), MR_E_STORE_FORMAT);
}
