/* SPDX-License-Identifier: Apache-2.0
 *
 * shares.h - a session's parameters and optimizer states as shares of logical tensors
 * (core/store/share.h), which is how checkpoints of several ranks know them.
 *
 * Invariant: names, shapes and values say nothing of the mesh; only boxes and ranges do.
 */
#ifndef MRI_SHARES_H
#define MRI_SHARES_H
#include "core/store/shards.h"
#include "fragments.h"
#include "session.h"

enum mri_shares_kind {
    MRI_SHARES_LOGICAL, /* tensors by name: any mesh reads them (fully_reshardable)              */
    MRI_SHARES_FLAT,    /* parameters so, states as the optimizer's ranges lie: the same tp, pp
                           and ep read them, whatever dp (dp_reshardable)                        */
    MRI_SHARES_LOCAL    /* this rank's memory, buffer by buffer: the same rank of the same mesh  */
};

typedef struct mri_session_shares {
    mri_session *session;
    mri_fragments fragments; /* what each share is; slot NULL: a stretch of device memory */
    MRI_VEC(mri_share) model, optimizer; /* key: their number in `fragments` */
    MRI_VEC(char *) names;
    mri_share_holder holder;
    mri_shard_group group[2];
    uint32_t n_groups; /* 1: there is no second */
    char *layout;      /* what a reader's must equal; NULL: any may read it */
} mri_session_shares;

/* `mesh` NULL: this rank alone. Session and shares must stay where they are until they are
 * freed. */
void mri_shares_make(mri_session *s, const mri_mesh *mesh, enum mri_shares_kind kind,
                     mri_session_shares *out);
void mri_shares_free(mri_session_shares *x);
const char *mri_shares_kind_name(enum mri_shares_kind kind); /* as [checkpoint] format */
/* the part of a parameter that this rank's blocks compute with, as files know it */
mri_share mri_share_of_slot(const mri_tensor_slot *slot);

/* Weights, and states unless weights_only, from an open checkpoint of any ranks and kind. */
mr_status mri_shares_load(mri_session *s, const mri_mesh *mesh, const mri_checkpoint *c,
                          bool weights_only, mr_err *err);

/* the world's other ranks, as files need them (persist.c); n is 1 for a session that is alone */
mri_peers mri_session_peers(const mri_session *s);

/* What a checkpoint says beside tensors: progress, and what is known of the first losses. Its text
 * is the caller's, its counters are the session's, until the next call. */
mri_checkpoint_meta mri_session_meta(mri_session *s, const char *profile);

/* flat.c: adds what is no logical tensor, and the layout by which it is known again */
void mri_shares_add(mri_session_shares *x, bool optimizer, char *name, const mri_box *box,
                    const mri_fragment *f);
void mri_shares_flat(mri_session_shares *x, const mri_mesh *mesh);
void mri_shares_local(mri_session_shares *x, const mri_mesh *mesh);

#endif
