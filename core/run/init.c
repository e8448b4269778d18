/* SPDX-License-Identifier: Apache-2.0
 * init.c - see init.h. */
#include "init.h"
#include "core/ops/draw.h"
#include <inttypes.h>
#include <math.h>

static mr_status check(const mr_param *p, const char *full_name, mr_err *err)
{
    float nothing;
    if (!isfinite(p->scale))
        return mr_fail(err, MR_E_PROGRAM, MR_BLAME_PLUGIN,
                       "parameter %s: the scale of its initialisation is %g", full_name, p->scale);
    if (mri_draw(p->init, (mri_rng){ 0, 0 }, 0, 0, 1, &nothing))
        return MR_OK;
    mr_fail(err, MR_E_PROGRAM, MR_BLAME_PLUGIN, "parameter %s: unknown initialisation \"%s\"",
            full_name, p->init ? p->init : "(none)");
    mr_hint(err, "the model plugin must say \"normal\", \"constant\" or \"uniform\"");
    return MR_E_PROGRAM;
}

int64_t mri_box_element(const mr_type *type, const mri_place *box, int64_t i, int64_t *run)
{
    int64_t at = 0, step = 1, inside = i, whole = 1; /* whole: elements of a box's run in both */
    bool together = true;
    if (!box->rank) {
        *run = mr_numel(type) - i;
        return i;
    }
    for (uint32_t d = type->rank; d-- > 0;) {
        at += (box->at[d] + inside % type->dim[d]) * step;
        inside /= type->dim[d];
        step *= box->full[d];
        whole *= together ? type->dim[d] : 1;
        together &= type->dim[d] == box->full[d];
    }
    *run = whole - i % whole;
    return at;
}

/* A box that is cut in one dim is runs of one length at equal distances. */
static bool runs_of(const mr_type *type, const mri_place *box, int64_t *run, int64_t *step)
{
    uint32_t cut = 0;
    *run = *step = 0;
    for (uint32_t d = 0; d < box->rank; d++)
        cut += type->dim[d] != box->full[d];
    if (cut != 1)
        return !cut;
    *run = *step = 1;
    for (uint32_t d = type->rank; d-- > 0;) {
        *run *= type->dim[d];
        *step *= box->full[d];
        if (type->dim[d] != box->full[d])
            return true;
    }
    return true;
}

mr_status mri_init_attrs(const mr_param *p, const mri_place *box, const char *full_name,
                         uint64_t seed, mr_attr attr[MRI_INIT_ATTRS], mr_err *err)
{
    mri_rng r = mri_rng_named(seed, full_name);
    int64_t run, step, ignored;
    mr_status st = check(p, full_name, err);
    if (st)
        return st;
    if (!runs_of(&p->type, box, &run, &step))
        return MR_E_UNSUPPORTED;
    attr[0] = mr_ai("seed", (int64_t)r.seed);
    attr[1] = mr_ai("stream", (int64_t)r.stream);
    attr[2] = mr_as("kind", p->init);
    attr[3] = mr_af("scale", p->scale);
    attr[4] = mr_ai("first", mri_box_element(&p->type, box, 0, &ignored));
    attr[5] = mr_ai("run", run);
    attr[6] = mr_ai("step", step);
    return MR_OK;
}

mr_status mri_init_fill(const mr_param *p, const mri_place *box, const char *full_name,
                        uint64_t seed, int64_t first, int64_t n, float *out, mr_err *err)
{
    int64_t total = mr_numel(&p->type);
    mr_status st = check(p, full_name, err);
    if (st)
        return st;
    if (first < 0 || n < 0 || first > total || n > total - first)
        return mr_fail(err, MR_E_INTERNAL, MR_BLAME_HOST,
                       "parameter %s has %" PRId64 " elements; asked to fill %" PRId64
                       " from %" PRId64, full_name, total, n, first);
    for (int64_t i = 0, run; i < n; i += run) {
        int64_t at = mri_box_element(&p->type, box, first + i, &run);
        run = run < n - i ? run : n - i;
        mri_draw(p->init, mri_rng_named(seed, full_name), (uint64_t)at, (uint64_t)run, p->scale,
                 out + i);
    }
    return MR_OK;
}
