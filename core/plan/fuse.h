/* SPDX-License-Identifier: Apache-2.0
 *
 * fuse.h - between the pass that fuses ops (fuse.c) and the patterns that it looks for
 * (fuse_patterns.c). A new fused op needs a family file in core/ops/ and a row there; a backend
 * that answers its query() gets it.
 */
#ifndef MRI_FUSE_H
#define MRI_FUSE_H
#include "plan.h"
#include <stdlib.h>

/* One op instead of several: `out` are values that the dropped nodes made, by their ids.
 * drop[0] is the chief: the new node keeps its region and line. */
typedef struct mri_fusion {
    const char *op;
    mr_val in[MRI_MAX_OPERANDS], out[MRI_MAX_OPERANDS];
    mr_attr attr[MRI_MAX_ATTRS];
    uint32_t n_in, n_out, n_attr;
    uint32_t drop[4], n_drop;
} mri_fusion;

/* Is the node `at`, whose op is `last`, the end of the pattern? Fills in the proposal; whether
 * it is sound is the pass's business. */
typedef struct mri_fuse_pattern {
    const char *last, *doc;
    bool (*match)(const mr_prog *p, uint32_t at, mri_fusion *f);
} mri_fuse_pattern;
extern const mri_fuse_pattern mri_fuse_patterns[]; /* ended by a `last` of NULL; the first wins */

/* The node that makes v; NULL if v is no temporary. */
const mri_node *mri_fuse_maker(const mr_prog *p, mr_val v);
/* How often nodes read v; the first `cap` of them. */
uint32_t mri_fuse_readers(const mr_prog *p, mr_val v, uint32_t *nodes, uint32_t cap);
bool mri_fuse_is_output(const mr_prog *p, mr_val v); /* of the block */

#endif
