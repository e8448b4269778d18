/* SPDX-License-Identifier: Apache-2.0
 *
 * hub.h - rank 0's thread that all ranks are connected to: small data by key, who is alive, and
 * the one error that all end with.
 *
 * Invariant: there is at most one verdict, the first; whoever fails or falls silent after it gets
 * the same. A rank whose connection closes without a word, or that is not heard of for `silence`
 * seconds, is the verdict itself.
 */
#ifndef MRI_HUB_H
#define MRI_HUB_H
#include "wire.h"

typedef struct mri_hub mri_hub;

/* Takes over the listening socket. `patience`: seconds for all ranks to come. */
mr_status mri_hub_open(int listening, uint32_t world, double patience, double silence,
                       mri_hub **out,
                       mr_err *err);
/* Waits until all have said goodbye, at most `grace` seconds. */
void mri_hub_close(mri_hub *h, double grace);

#endif
