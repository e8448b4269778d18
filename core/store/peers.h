/* SPDX-License-Identifier: Apache-2.0
 *
 * peers.h - the other ranks, as far as files need them: what each has is told to all, and all go
 * on or none does. Whoever calls fills it in (from a world, or from a test's processes).
 *
 * Invariant: every rank makes the same calls in the same order.
 */
#ifndef MRI_PEERS_H
#define MRI_PEERS_H
#include "core/base/base.h"
#include <string.h>

typedef struct mri_peers {
    uint32_t rank, n;
    /* `bytes` of every rank to all, in the order of ranks; waits */
    mr_status (*gather)(void *ctx, const void *mine, uint64_t bytes, void *all, mr_err *err);
    /* every rank's status; returns the first bad one on all, with its error; waits */
    mr_status (*agree)(void *ctx, mr_status st, mr_err *err);
    void *ctx;
} mri_peers;

static inline bool mri_peers_alone(const mri_peers *p)
{
    return !p || p->n <= 1;
}

static inline mr_status mri_peers_agree(const mri_peers *p, mr_status st, mr_err *err)
{
    return mri_peers_alone(p) ? st : p->agree(p->ctx, st, err);
}

static inline mr_status mri_peers_gather(const mri_peers *p, const void *mine, uint64_t bytes,
                                         void *all, mr_err *err)
{
    if (!mri_peers_alone(p))
        return p->gather(p->ctx, mine, bytes, all, err);
    memcpy(all, mine, bytes);
    return 0;
}

/* Bytes of a length of each rank's own. *all: those of all ranks end to end, which the caller
 * frees; end[r] (n of them): where rank r's end. */
mr_status mri_peers_gather_text(const mri_peers *p, const char *mine, uint64_t bytes, char **all,
                                uint64_t *end, mr_err *err);

#endif
