/* SPDX-License-Identifier: Apache-2.0
 * room.c - see room.h. */
#include "room.h"
#include "core/plan/shard_experts.h"
#include <stdlib.h>

mr_status mri_room_verdict(const mri_session *s, double wanted, mr_err *err)
{
    if (!(wanted > 0))
        return 0;
    mr_fail(err, MR_E_EXPERT_ROOM, MR_BLAME_USER,
            "a rank has more rows for the experts of another than their block has room for: it "
            "takes [mesh] dispatch_bound = %.3g, and it is %.3g", wanted,
            s->world->mesh.dispatch_bound);
    mr_hint(err, "raise [mesh] dispatch_bound; 0 has room for all rows on one rank");
    return MR_E_EXPERT_ROOM;
}

mr_status mri_room_check(mri_session *s, mr_err *err)
{
    double mine = 0, most = 0, *all;
    mr_status st = 0;
    if (mri_world_alone(s->world) || !s->world->mesh.equal_blocks)
        return 0;
    all = mri_alloc(s->world->mesh.world * sizeof *all);
    MR_TRY(mri_scalar_get(&s->scalars, &s->device, MRI_ROOM_WANTED, &mine, err));
    MR_TRY(mri_world_gather(s->world, &mine, sizeof mine, all, err));
    for (uint32_t r = 0; r < s->world->mesh.world; r++)
        most = all[r] > most ? all[r] : most;
    st = mri_room_verdict(s, most, err);
out:
    free(all);
    return st;
}
