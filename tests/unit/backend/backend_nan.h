/* SPDX-License-Identifier: Apache-2.0
 *
 * backend_nan.h - every case of the catalogue with NaN in each operand in turn: where the
 * reference gives NaN, the backend must.
 */
#ifndef BACKEND_NAN_H
#define BACKEND_NAN_H
#include "backend_rig.h"

static inline void nan_poison(const mr_type *t, const mr_buf *b, int64_t n)
{
    mri_view v = mri_at(t, b);
    for (int64_t i = 0; i < n && i < mr_numel(t); i++)
        mri_put(v, i, NAN);
}

static inline int nans_kept(rig *r, const char *what, const mr_op_def *def, const mr_call *c,
                     const mr_buf *in)
{
    mr_err err = MR_ERR_INIT;
    int seen = 0;
    if (rig_leaves(r, what, def->id, c))
        return 0;
    rig_bufs want = rig_copy(c, in), got = rig_copy(c, in);
    cr_assert_eq(def->ref(c, want.in, want.out, &err), MR_OK, "%s: %s", what, err.what);
    rig_run(r, what, def, c, &got);
    for (uint32_t i = 0; i < c->n_in + c->n_out; i++) {
        bool out = i >= c->n_in;
        const mr_type *t = out ? c->out[i - c->n_in] : c->in[i];
        if (!t || mr_is(t, "i32"))
            continue;
        mri_view a = mri_at(t, out ? &want.out[i - c->n_in] : &want.in[i]);
        mri_view b = mri_at(t, out ? &got.out[i - c->n_in] : &got.in[i]);
        for (int64_t j = 0, n = mr_numel(t); j < n; j++)
            if (isnan(mri_get(a, j))) {
                seen += out;
                if (!isnan(mri_get(b, j)))
                    cr_assert_fail("%s: operand %u [%lld] is %g, the reference says NaN", what, i,
                                   (long long)j, mri_get(b, j));
            }
    }
    rig_free(&want);
    rig_free(&got);
    return seen;
}

/* one NaN, then nothing but NaN, in each operand of a case; -> NaNs that the reference gave */
static inline int nan_case(rig *r, const mr_op_def *def, const char *text, const char *dtype)
{
    int seen = 0;
    for (int all = 0; all < 2; all++) {
        mr_err err = MR_ERR_INIT;
        mri_case c;
        cr_assert_eq(mri_case_make(def, text, dtype, 7, &c, &err), MR_OK);
        for (uint32_t i = 0; i < c.call.n_in && !rig_has_f64(&c.call); i++) {
            const mr_type *t = c.in_ptr[i];
            if (!t || mr_is(t, "i32"))
                continue;
            rig_bufs b = rig_copy(&c.call, c.in);
            char *what = mri_format("%s %s (%s), NaN in %u", def->id, text, dtype, i);
            nan_poison(t, &b.in[i], all ? mr_numel(t) : 1);
            seen += nans_kept(r, what, def, &c.call, b.in);
            rig_free(&b);
            free(what);
        }
        mri_case_free(&c);
    }
    return seen;
}

static inline void nan_every_op(rig *r, const char *dtype)
{
    const mr_op_def *def;
    int seen = 0;
    for (uint32_t o = 0; (def = mri_op_at(o)); o++)
        for (const char *const *text = def->cases; text && *text; text++)
            seen += nan_case(r, def, *text, dtype);
    cr_expect_gt(seen, 1000);
}

#endif
