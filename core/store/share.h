/* SPDX-License-Identifier: Apache-2.0
 *
 * share.h - which part of a logical tensor somebody holds, and what two such parts have in
 * common: geometry alone, no files.
 *
 * A tensor is known by its name and its global shape. A share of it is a box (where it begins,
 * its own dims) and a range [from, to) of the box's elements in row-major order: tensor and expert
 * parallelism cut boxes, sharded optimizers and parameters cut ranges. A rank holds one share
 * a name at most.
 *
 * Invariant: a share that passed mri_share_check() has no product of dims, nor of dims and
 * element size, that overflows 63 bits, so nothing else here looks for it.
 */
#ifndef MRI_SHARE_H
#define MRI_SHARE_H
#include "core/base/base.h"
#include "core/mesh/mesh.h"
#include "mrun/program.h"

typedef struct mri_box {
    uint32_t rank; /* 0: a scalar, of one element */
    int64_t full[MR_MAX_RANK], at[MR_MAX_RANK], dim[MR_MAX_RANK];
} mri_box;

typedef struct mri_share mri_share;

/* How a holder hands out its elements: n from element `first` of the box on, in the share's dtype,
 * to host memory. */
typedef struct mri_share_holder {
    mr_status (*get)(void *ctx, const mri_share *f, uint64_t first, uint64_t n, void *out,
                     mr_err *err);
    void *ctx;
} mri_share_holder;

struct mri_share {
    const char *name;  /* borrowed */
    const char *dtype; /* of its elements, as mr_type.dtype; static */
    mri_box box;
    uint64_t from, to; /* elements of the box; to > from, or both 0 where it has none */
    const void *data;  /* host memory of element `from` on, or NULL: ask the holder */
    const mri_share_holder *holder;
    uint64_t key;      /* the holder's own */
};

/* the box of a value of type `own` at `place` (whose rank 0 means: all of it) */
mri_box mri_box_of(const mr_type *own, const mri_place *place);
mri_box mri_box_whole(const mr_type *type);
uint64_t mri_box_count(const mri_box *b); /* elements */
uint64_t mri_box_full(const mri_box *b);  /* of the whole tensor */
bool mri_box_same(const mri_box *a, const mri_box *b);
bool mri_box_same_full(const mri_box *a, const mri_box *b);
int mri_box_order(const mri_box *a, const mri_box *b); /* as qsort wants it: by at, then dim */
void mri_box_print(const mri_box *b, mri_str *out);    /* "[64,32]" or "[32,32] at [32,0] of ..." */

/* Known dtype, dims of 0 or more, the box within the tensor, the range within the box. */
mr_status mri_share_check(const mri_share *f, mr_err *err);

/* ---- what two have in common ----------------------------------------------------------- */
typedef struct mri_run {
    uint64_t a, b, n; /* elements a .. a + n of the first's box are b .. b + n of the other's */
} mri_run;

/* The elements that both have, as runs that lie in one piece on either side, ascending in both. */
typedef struct mri_runs {
    const mri_share *a, *b;
    uint32_t outer;                /* dims that are walked; those behind are one run */
    int64_t lo[MR_MAX_RANK], n[MR_MAX_RANK]; /* the common box */
    uint64_t step_a[MR_MAX_RANK], step_b[MR_MAX_RANK];
    uint64_t run, i, count;        /* elements of a run; the next; how many there are */
} mri_runs;
void mri_runs_begin(mri_runs *r, const mri_share *a, const mri_share *b);
bool mri_runs_next(mri_runs *r, mri_run *out);
/* Copies what both have. `in` and `out`: element `from` of each. Returns the elements copied. */
uint64_t mri_share_copy(const mri_share *to, void *out, const mri_share *from,
                           const void *in, size_t width);

/* Do the n shares, all of one tensor, hold each of its elements exactly once? The error says
 * which two overlap, or how much is missing and where that begins. Reorders f. */
mr_status mri_share_cover(mri_share *f, size_t n, mr_err *err);

#endif
