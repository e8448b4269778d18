/* SPDX-License-Identifier: Apache-2.0
 *
 * meet.h - how the ranks of a world find rank 0's hub: by the launcher's address before the plugin
 * is open, or by what the plugin itself carries.
 */
#ifndef MRI_MEET_H
#define MRI_MEET_H
#include "world.h"

/* MASTER_ADDR and MASTER_PORT; where all ranks are on one host, neither is needed. */
mr_status mri_meet_before(mri_world *w, const mri_launcher *l, mr_err *err);
/* Rank 0 listens on a free port, and its host and port are gathered by the plugin. */
mr_status mri_meet_after(mri_world *w, mr_err *err);

#endif
