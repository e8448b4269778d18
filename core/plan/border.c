/* SPDX-License-Identifier: Apache-2.0
 *
 * border.c - the plan of a border between stages of a pipeline: its value as an input or an
 * output, in training also the value's gradient the other way, and nothing to run. Values that
 * are not floating-point have no gradient.
 */
#include "plan.h"
#include "core/program/border.h"
#include <string.h>

static bool has_gradient(const mr_type *t)
{
    return strcmp(t->dtype, "i32") && strcmp(t->dtype, "i64") && strcmp(t->dtype, "u8");
}

mri_plan *mri_plan_border(mr_prog *prog, const mri_plan_options *opt)
{
    mri_plan *plan = mri_alloc(sizeof *plan);
    bool in = prog->border == MRI_BORDER_IN;
    mr_type type = prog->values.v[0].type;
    mri_plan_port value = { in ? "y" : "x", 1, type }, gradient = { in ? "d:y" : "d:x", 1, type };
    plan->prog = prog;
    plan->name = prog->name;
    plan->train = opt->train;
    plan->split_w = opt->split_w;
    if (in)
        MRI_PUSH(&plan->outputs, value);
    else
        MRI_PUSH(&plan->inputs, value);
    if (opt->train && has_gradient(&type)) {
        if (in)
            MRI_PUSH(&plan->inputs, gradient);
        else
            MRI_PUSH(&plan->outputs, gradient);
    }
    plan->id = mri_hash_str(mri_prog_hash(prog), prog->name);
    return plan;
}
