/* SPDX-License-Identifier: Apache-2.0
 *
 * digest.h - XXH64 with seed 0 of a stream of bytes: what the `xxhsum` tool prints, so that a
 * checkpoint can be checked by hand.
 */
#ifndef MRI_DIGEST_H
#define MRI_DIGEST_H
#include <stddef.h>
#include <stdint.h>

typedef struct mri_digest mri_digest;
mri_digest *mri_digest_begin(void);
void mri_digest_add(mri_digest *d, const void *p, size_t n);
uint64_t mri_digest_end(mri_digest *d); /* frees d; NULL gives 0 */
uint64_t mri_digest_of(const void *p, size_t n);

#endif
