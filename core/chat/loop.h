/* SPDX-License-Identifier: Apache-2.0
 *
 * loop.h - what `loop` is inside {% for %}, and what a macro is.
 */
#ifndef MRI_CHAT_LOOP_H
#define MRI_CHAT_LOOP_H
#include "node.h"
#include "value.h"

typedef struct mri_vloop {
    const mri_vlist *items;
    size_t at;
    int depth0;
    const mri_node *node; /* the {% for %}, for a recursive call; NULL: not recursive */
    mri_scope *scope;     /* in which it stands */
    mri_val changed;      /* what changed() was last asked; absent: nothing yet */
} mri_vloop;

typedef struct mri_vmacro {
    const mri_node *node; /* {% macro %} or {% call %} */
    mri_scope *scope;     /* in which it was defined */
} mri_vmacro;

#endif
