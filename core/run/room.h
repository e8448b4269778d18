/* SPDX-License-Identifier: Apache-2.0
 *
 * room.h - experts' rows that went in blocks of equal size (core/ops/experts_blocks.c) and had no
 * room in them: the device has noted it, and a step has changed nothing; the host says so.
 */
#ifndef MRI_ROOM_H
#define MRI_ROOM_H
#include "session.h"

/* `wanted`: the scalar MRI_ROOM_WANTED of all ranks. MR_E_EXPERT_ROOM unless it is 0. */
mr_status mri_room_verdict(const mri_session *s, double wanted, mr_err *err);
/* After a pass that no update follows: reads the scalar and asks all ranks, which call this alike.
 * Nothing where rows do not go in blocks. */
mr_status mri_room_check(mri_session *s, mr_err *err);

#endif
