/* SPDX-License-Identifier: Apache-2.0
 * digest.c - see digest.h. xxhash is used as a header, so nothing more is linked. */
#include "digest.h"
#include "core/base/base.h"
#include <stdlib.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

struct mri_digest {
    XXH64_state_t state;
};

mri_digest *mri_digest_begin(void)
{
    mri_digest *d = mri_alloc(sizeof *d);
    XXH64_reset(&d->state, 0);
    return d;
}

void mri_digest_add(mri_digest *d, const void *p, size_t n)
{
    XXH64_update(&d->state, p, n);
}

uint64_t mri_digest_end(mri_digest *d)
{
    uint64_t sum = d ? XXH64_digest(&d->state) : 0;
    free(d);
    return sum;
}

uint64_t mri_digest_of(const void *p, size_t n)
{
    return XXH64(p, n, 0);
}
