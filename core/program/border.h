/* SPDX-License-Identifier: Apache-2.0
 *
 * border.h - where a stage of a pipeline ends: the values that cross from one virtual stage to
 * another, and what of a stage's instances are blocks of the model and what stands for a crossing.
 * Invariant: a link leads to a later virtual stage.
 */
#ifndef MRI_BORDER_H
#define MRI_BORDER_H
#include <stdint.h>

typedef struct mri_link {
    uint32_t from, to; /* virtual stages, from < to */
} mri_link;

enum { /* what an instance is */
    MRI_BORDER_NONE = 0, /* a block                                                            */
    MRI_BORDER_IN,       /* receives a value for its chunk, and sends its gradient back        */
    MRI_BORDER_OUT       /* sends one that its chunk made, and receives its gradient           */
};

typedef struct mri_block { /* an instance, as a stage's schedule sees it */
    uint32_t chunk, link;  /* link: which, of the borders                */
    uint8_t border;
} mri_block;

#endif
