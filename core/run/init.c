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

mr_status mri_init_attrs(const mr_param *p, const char *full_name, uint64_t seed,
                         mr_attr attr[MRI_INIT_ATTRS], mr_err *err)
{
    mri_rng r = mri_rng_named(seed, full_name);
    mr_status st = check(p, full_name, err);
    if (st)
        return st;
    attr[0] = mr_ai("seed", (int64_t)r.seed);
    attr[1] = mr_ai("stream", (int64_t)r.stream);
    attr[2] = mr_as("kind", p->init);
    attr[3] = mr_af("scale", p->scale);
    return MR_OK;
}

mr_status mri_init_fill(const mr_param *p, const char *full_name, uint64_t seed, int64_t first,
                        int64_t n, float *out, mr_err *err)
{
    int64_t total = mr_numel(&p->type);
    mr_status st = check(p, full_name, err);
    if (st)
        return st;
    if (first < 0 || n < 0 || first > total || n > total - first)
        return mr_fail(err, MR_E_INTERNAL, MR_BLAME_HOST,
                       "parameter %s has %" PRId64 " elements; asked to fill %" PRId64
                       " from %" PRId64, full_name, total, n, first);
    mri_draw(p->init, mri_rng_named(seed, full_name), (uint64_t)first, (uint64_t)n, p->scale, out);
    return MR_OK;
}
