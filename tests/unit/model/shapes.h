/* SPDX-License-Identifier: Apache-2.0
 * shapes.h - the test's own table of op signatures and output shapes. */
#ifndef FK_SHAPES_H
#define FK_SHAPES_H
#include "mrun/op.h"

typedef struct fk_shape {
    const char *id, *sig, *attrs;                        /* attrs: the keys that the op knows */
    const char *(*infer)(const mr_call *, mr_type *out); /* the violated condition, or NULL */
} fk_shape;

const fk_shape *fk_shape_of(const char *id);

#endif
