/* SPDX-License-Identifier: Apache-2.0
 *
 * init.h - first values of parameters. An element's value depends on the run's seed, the
 * parameter's full name and the element's logical index, on nothing else: a rank that owns a
 * slice fills just that slice, and every mesh starts from the same weights.
 */
#ifndef MRI_INIT_H
#define MRI_INIT_H
#include "core/mesh/mesh.h"
#include "mrun/program.h"

/* The same values as the op draw makes them: its attributes, whose strings are the parameter's.
 * `box`: which part p->type is. MR_E_UNSUPPORTED: one that is cut in two dims. */
enum { MRI_INIT_ATTRS = 7 };
mr_status mri_init_attrs(const mr_param *p, const mri_place *box, const char *full_name,
                         uint64_t seed, mr_attr attr[MRI_INIT_ATTRS], mr_err *err);
/* out[0..n) = elements [first, first + n) of the box, in its row-major order. Refused: an
 * unknown kind of initialisation, a scale that is not finite, a range outside the box. */
mr_status mri_init_fill(const mr_param *p, const mri_place *box, const char *full_name,
                        uint64_t seed, int64_t first, int64_t n, float *out, mr_err *err);
/* Which element of the whole parameter is element i of the box, and (*run) how many from there on
 * follow each other in both. */
int64_t mri_box_element(const mr_type *type, const mri_place *box, int64_t i, int64_t *run);

#endif
