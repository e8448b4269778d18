/* SPDX-License-Identifier: Apache-2.0
 * Every op of the catalogue is measured by `mrun bench op`: it has a shape of its own, or it is
 * emitted by the vjp of an op that has one. */
#include "apps/mrun/bench.h"
#include "core/ops/record.h"
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

/* What ranks say to each other, and the few numbers by which rows find their experts: one rank has
 * nothing to measure there. */
static bool between_ranks(const char *id)
{
    static const char *const ids[] = { "comm.copy", "comm.reduce", "comm.gather",
        "comm.reduce_scatter", "comm.slice", "comm.shift", "zigzag", "attention.cp",
        "attention.cp.bwd", "attention.part", "attention.part.bwd", "attention.merge",
        "attention.ring", "mla_attention.ring",
        "moe_counts", "moe_balance_loss", "moe_balance_loss.bwd", "route_drop", "route_drop.bwd",
        "ep_counts", "ep_plan", "ep_window", "ep_send", "ep_return", "ep_blocks", "ep_room",
        "route_pad", "route_load", "balance_bias", "comm.exchange" };
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++)
        if (!strcmp(ids[i], id))
            return true;
    return false;
}

static bool has_shape(const char *id)
{
    for (const bench_shape *s = bench_shapes; s->op; s++)
        if (!strcmp(s->op, id))
            return true;
    return false;
}

/* as the bench does: all gradients, or the first operand's where the op refuses others */
static bool emits(const mr_op_def *def, const char *id)
{
    bool found = false;
    for (const char *const *text = def->cases; text && *text; text++) {
        mr_err err = MR_ERR_INIT;
        mri_case c;
        mri_record *r = NULL;
        cr_assert_eq(mri_case_make(def, *text, NULL, 1, &c, &err), 0, "%s", err.what);
        if (mri_record_vjp(def, &c, MRI_OUT0, MRI_ALL, &r, &err))
            cr_assert_eq(mri_record_vjp(def, &c, MRI_OUT0, 1, &r, &err), 0, "%s", err.what);
        for (size_t i = 0; i < r->step.n; i++)
            found |= !strcmp(r->step.v[i]->def->id, id);
        mri_record_free(r);
        mri_case_free(&c);
    }
    return found;
}

Test(bench_shapes, name_ops_of_the_catalogue)
{
    static const bench_shape *const lists[] = { bench_shapes, bench_large_shapes };
    for (int l = 0; l < 2; l++)
        for (const bench_shape *s = lists[l]; s->op; s++)
            cr_assert_not_null(mri_op_find(s->op), "%s", s->op);
}

Test(bench_shapes, reach_every_op)
{
    const mr_op_def *def, *from;
    for (uint32_t i = 0; (def = mri_op_at(i)); i++) {
        bool reached = has_shape(def->id) || between_ranks(def->id);
        for (const bench_shape *s = bench_shapes; s->op && !reached; s++) {
            from = mri_op_find(s->op);
            reached = from->vjp && !(from->flags & MR_OP_NO_VJP) && emits(from, def->id);
        }
        cr_expect(reached, "no shape measures %s", def->id);
    }
}

Test(bench_shapes, may_exceed_sample_cases)
{
    const mr_op_def *def = mri_op_find("sumsq");
    const char *text = "x=f32[20000000] acc=f32[1]zero";
    mr_err err = MR_ERR_INIT;
    mri_case c;
    cr_assert_eq(mri_case_make(def, text, NULL, 1, &c, &err), MR_E_ARG);
    cr_assert_eq(mri_case_make_large(def, text, NULL, 1, &c, &err), 0, "%s", err.what);
    const float *x = c.in[0].data;
    cr_assert(x[0] != x[1] && x[(1 << 20) + 1] == x[1], "the numbers repeat after 2^20");
    mri_case_free(&c);
    cr_assert_eq(mri_case_make_large(def, "x=f32[99999999999] acc=f32[1]zero", NULL, 1, &c, &err),
                 MR_E_ARG);
}
