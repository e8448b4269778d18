/* SPDX-License-Identifier: Apache-2.0
 * init.c - see init.h. */
#include "init.h"
#include "core/base/rng.h"
#include <inttypes.h>
#include <math.h>

static void fill_constant(mri_rng r, uint64_t first, uint64_t n, double scale, float *out)
{
    (void)r, (void)first;
    for (uint64_t j = 0; j < n; j++)
        out[j] = (float)scale;
}

static void fill_uniform(mri_rng r, uint64_t first, uint64_t n, double scale, float *out)
{
    for (uint64_t j = 0; j < n; j++)
        out[j] = (float)(scale * (2 * mri_rng_uniform(r, first + j) - 1));
}

static const struct {
    const char *name;
    void (*fill)(mri_rng r, uint64_t first, uint64_t n, double scale, float *out);
} kinds[] = {
    { "normal", mri_rng_normals },
    { "constant", fill_constant },
    { "uniform", fill_uniform },
};

mr_status mri_init_fill(const mr_param *p, const char *full_name, uint64_t seed, int64_t first,
                        int64_t n, float *out, mr_err *err)
{
    int64_t total = mr_numel(&p->type);
    if (first < 0 || n < 0 || first > total || n > total - first)
        return mr_fail(err, MR_E_INTERNAL, MR_BLAME_HOST,
                       "parameter %s has %" PRId64 " elements; asked to fill %" PRId64
                       " from %" PRId64, full_name, total, n, first);
    if (!isfinite(p->scale))
        return mr_fail(err, MR_E_PROGRAM, MR_BLAME_PLUGIN,
                       "parameter %s: the scale of its initialisation is %g", full_name, p->scale);
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++)
        if (p->init && !strcmp(p->init, kinds[k].name)) {
            kinds[k].fill(mri_rng_named(seed, full_name), (uint64_t)first, (uint64_t)n, p->scale,
                          out);
            return MR_OK;
        }
    mr_fail(err, MR_E_PROGRAM, MR_BLAME_PLUGIN, "parameter %s: unknown initialisation \"%s\"",
            full_name, p->init ? p->init : "(none)");
    mr_hint(err, "the model plugin must say \"normal\", \"constant\" or \"uniform\"");
    return MR_E_PROGRAM;
}
