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
#include <string.h>

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
extern const mri_fuse_pattern mri_fuse_few_rows[]; /* fuse_few_rows.c, asked after those */

/* The node that makes v; NULL if v is no temporary. */
const mri_node *mri_fuse_maker(const mr_prog *p, mr_val v);
/* How often nodes read v; the first `cap` of them. */
uint32_t mri_fuse_readers(const mr_prog *p, mr_val v, uint32_t *nodes, uint32_t cap);
bool mri_fuse_is_output(const mr_prog *p, mr_val v); /* of the block */

/* ---- to write a pattern ---------------------------------------------------------------- */
static inline bool mri_fuse_is(const mri_node *n, const char *op)
{
    return n && !strcmp(n->def->id, op);
}

static inline uint32_t mri_fuse_index(const mr_prog *p, const mri_node *n)
{
    return (uint32_t)(n - p->nodes.v);
}

static inline void mri_fuse_set(mri_fusion *f, const char *op, const mr_val *in, uint32_t n_in)
{
    f->op = op;
    memcpy(f->in, in, n_in * sizeof *in);
    f->n_in = n_in;
}

static inline void mri_fuse_outputs(mri_fusion *f, const mri_node *n)
{
    memcpy(f->out, n->out, n->n_out * sizeof *n->out);
    f->n_out = n->n_out;
}

static inline void mri_fuse_drop(const mr_prog *p, mri_fusion *f, const mri_node *n)
{
    f->drop[f->n_drop++] = mri_fuse_index(p, n);
}

static inline void mri_fuse_attrs(mri_fusion *f, const mri_node *n, const char *but)
{
    for (uint32_t i = 0; i < n->n_attr; i++)
        if (!but || strcmp(n->attr[i].key, but))
            f->attr[f->n_attr++] = n->attr[i];
}

static inline mr_call mri_fuse_call(const mri_node *n) /* attributes only */
{
    return (mr_call){ .size = sizeof(mr_call), .n_attr = n->n_attr, .attr = n->attr };
}

static inline int64_t mri_fuse_attr_i(const mri_node *n, const char *key, int64_t def)
{
    mr_call c = mri_fuse_call(n);
    return mr_attr_i(&c, key, def);
}

static inline bool mri_fuse_whole_row(const mr_prog *p, const mri_node *norm, mr_val x)
{
    int64_t group = mri_fuse_attr_i(norm, "group", 0);
    return !group || group == mr_last(&mri_val(p, x)->type);
}

#endif
