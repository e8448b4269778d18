/* SPDX-License-Identifier: Apache-2.0
 *
 * grid.h - how the rows of a picture's tile lie: grid x grid patches, row by row of the picture,
 * and maybe one row for the whole tile (class token) before or behind them.
 */
#ifndef MRI_GRID_H
#define MRI_GRID_H
#include "core/ops/common.h"

#define MRI_CLASS_ATTR "class:s=none|first|last"

typedef struct mri_grid {
    int64_t grid, patches, rows; /* rows of a tile: patches, and the class row */
    int64_t first, at;           /* row of patch 0; the class row, -1: none */
} mri_grid;

static inline mri_grid mri_grid_of(const mr_call *c, int64_t grid, int64_t patches)
{
    const char *where = mr_attr_s(c, "class", "none");
    bool first = !strcmp(where, "first"), last = !strcmp(where, "last");
    mri_grid g = { grid, patches, patches + (first || last), first,
                   first ? 0 : last ? patches : -1 };
    return g;
}

/* Attribute grid is sound and R rows are whole tiles. */
static inline mr_status mri_grid_check(const mr_call *c, mr_err *err, const char *op, int64_t R,
                                       int64_t tile)
{
    int64_t grid = mr_attr_i(c, "grid", 0);
    if (grid < 1 || grid > 1 << 15)
        return mri_op_fail(err, op, "grid is %lld, must be in 1..32768", (long long)grid);
    if (tile < 1 || R % tile)
        return mri_op_fail(err, op, "%lld rows are not whole tiles of %lld", (long long)R,
                           (long long)tile);
    return 0;
}

#endif
