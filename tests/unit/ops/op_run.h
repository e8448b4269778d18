/* SPDX-License-Identifier: Apache-2.0
 *
 * op_run.h - for tests with hand-computed values: an op use is written as a sample case
 * ("logits=F[1,3]{1,3,3} @k=1"), run by its reference loops, and its elements are read back.
 */
#ifndef OP_RUN_H
#define OP_RUN_H
#include "core/ops/catalogue.h"
#include "core/ops/common.h"
#include <criterion/criterion.h>
#include <stdlib.h>

static inline mr_status run_case(mri_case *c, const char *op, mr_err *err)
{
    return mri_op_find(op)->ref(&c->call, c->in, c->out, err);
}

/* Makes the case; the caller may then change the operands' elements. On the heap, because a
 * case points into itself. */
static inline mri_case *make_case(const char *op, const char *text, const char *dtype)
{
    mri_case *c = mri_alloc(sizeof *c);
    mr_err err = MR_ERR_INIT;
    cr_assert(mri_op_find(op), "no op %s", op);
    cr_assert_eq(mri_case_make(mri_op_find(op), text, dtype, 1, c, &err), 0, "%s %s", err.what,
                 err.detail);
    return c;
}

static inline void drop(mri_case *c)
{
    mri_case_free(c);
    free(c);
}

/* in double, so that values can be compared to the last digits */
static inline mri_case *run(const char *op, const char *text)
{
    mri_case *c = make_case(op, text, "f64");
    mr_err err = MR_ERR_INIT;
    cr_assert_eq(run_case(c, op, &err), 0, "%s", err.what);
    return c;
}

/* A use that must be refused: by the shape function, or by the loops for wrong values. */
static inline void refused(const char *op, const char *text, const char *word)
{
    mri_case c;
    mr_err err = MR_ERR_INIT;
    mr_status st = mri_case_make(mri_op_find(op), text, "f64", 1, &c, &err);
    if (!st) {
        st = run_case(&c, op, &err);
        mri_case_free(&c);
    }
    cr_assert_eq(st, MR_E_OP_SHAPE, "%s %s gave %d", op, text, st);
    cr_assert(strstr(err.what, word), "\"%s\" does not say \"%s\"", err.what, word);
}

static inline mri_view in_view(const mri_case *c, uint32_t i)
{
    return mri_in_view(&c->call, c->in, i);
}

static inline mri_view out_view(const mri_case *c, uint32_t i)
{
    return mri_out_view(&c->call, c->out, i);
}

static inline double in_at(const mri_case *c, uint32_t i, int64_t k)
{
    return mri_get(in_view(c, i), k);
}

static inline double out_at(const mri_case *c, uint32_t i, int64_t k)
{
    return mri_get(out_view(c, i), k);
}

#define EXPECT_OUT(c, i, ...) \
    do { \
        const double want_[] = { __VA_ARGS__ }; \
        for (size_t k_ = 0; k_ < sizeof want_ / sizeof *want_; k_++) \
            cr_assert(fabs(out_at(c, i, (int64_t)k_) - want_[k_]) < 1e-12, \
                      "output %d, element %zu is %.15g, expected %.15g", (int)(i), k_, \
                      out_at(c, i, (int64_t)k_), want_[k_]); \
    } while (0)

#endif
