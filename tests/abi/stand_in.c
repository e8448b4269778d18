/* SPDX-License-Identifier: Apache-2.0
 * stand_in.c - mri_options_check() for a tree without config/: integer defaults and offsets. */
#include "core/config/profile.h"
#include <stdlib.h>

mr_status mri_options_check(const mr_opt *opts, uint32_t n, uint32_t config_size, mr_err *err)
{
    for (uint32_t i = 0; i < n; i++) {
        const mr_opt *o = &opts[i];
        if (o->offset > config_size || config_size - o->offset < 8)
            return mr_fail(err, MR_E_PLUGIN_MALFORMED, MR_BLAME_PLUGIN,
                           "option '%s' lies at offset %u of a config of %u bytes", o->key,
                           o->offset, config_size);
        double v = o->def ? atof(o->def) : 0;
        if (o->def && o->lo < o->hi && (v < o->lo || v > o->hi))
            return mr_fail(err, MR_E_PLUGIN_MALFORMED, MR_BLAME_PLUGIN,
                           "option '%s': default %s is outside %g..%g", o->key, o->def, o->lo,
                           o->hi);
    }
    return 0;
}
