/* SPDX-License-Identifier: Apache-2.0
 * peers.c - see peers.h. */
#include "peers.h"
#include <stdlib.h>

mr_status mri_peers_gather_text(const mri_peers *p, const char *mine, uint64_t bytes, char **all,
                                uint64_t *end, mr_err *err)
{
    uint32_t n = mri_peers_alone(p) ? 1 : p->n;
    uint64_t most = 0, at = 0;
    char *padded = NULL, *wide = NULL;
    mr_status st = 0;
    *all = NULL;
    MR_TRY(mri_peers_gather(p, &bytes, sizeof bytes, end, err));
    for (uint32_t r = 0; r < n; r++)
        most = end[r] > most ? end[r] : most;
    padded = mri_alloc(most);
    wide = mri_alloc(most * n + 1);
    if (bytes)
        memcpy(padded, mine, bytes);
    if (most)
        MR_TRY(mri_peers_gather(p, padded, most, wide, err));
    for (uint32_t r = 0; r < n; r++) { /* close the gaps that padding made */
        memmove(wide + at, wide + r * most, end[r]);
        at += end[r];
        end[r] = at;
    }
    wide[at] = 0;
    *all = wide;
    wide = NULL;
out:
    free(padded);
    free(wide);
    return st;
}
