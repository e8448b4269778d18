/* SPDX-License-Identifier: Apache-2.0
 *
 * rewrite.h - a block said again with some of its ops in other words: what the passes that split
 * a program over ranks have in common.
 *
 * Invariant: named values keep their kind, flags and order, nodes their order, region and source
 * line; every type but those that the pass changes itself is inferred anew. The first error stays
 * in the new program, later calls do nothing, and mri_rewrite_end() reports it.
 */
#ifndef MRI_REWRITE_H
#define MRI_REWRITE_H
#include "program.h"

typedef struct mri_rewrite {
    mr_prog *from, *to;
    mr_val *map; /* by value of `from`, index id - 1: the new value; 0 not said yet */
} mri_rewrite;

/* Begins with regions and named values; the pass may change types of these before it goes on. */
void mri_rewrite_begin(mri_rewrite *w, mr_prog *from);
static inline mr_val *mri_rewrite_at(const mri_rewrite *w, mr_val v)
{
    return &w->map[v - 1];
}
/* The node again, with these operands (values of `to`); its outputs are mapped. */
void mri_rewrite_node(mri_rewrite *w, const mri_node *n, const mr_val *in);
/* A new op in the region, and on the account, of node `n`; gives its first output. */
mr_val mri_rewrite_op(mri_rewrite *w, const mri_node *n, const char *id, const mr_val *in,
                      uint32_t n_in, const mr_attr *attr, uint32_t n_attr, mr_val *out,
                      uint32_t n_out);
/* Ports, then `from` is freed and *p the new program; on an error *p stays as it was. */
mr_status mri_rewrite_end(mri_rewrite *w, mr_prog **p, mr_err *err);

#endif
