/* SPDX-License-Identifier: Apache-2.0
 * local.c - see local.h. */
#include "local.h"
#include <inttypes.h>
#include <stdlib.h>

enum { KEEP = 2 };

static char *folder(const mri_peers *p, const char *dir)
{
    return mri_peers_alone(p) ? mri_format("%s/rank-00000-of-00001", dir)
                              : mri_format("%s/rank-%05u-of-%05u", dir, p->rank, p->n);
}

mr_status mri_local_save(mri_session *s, const mri_peers *p, const mri_mesh *mesh, const char *dir,
                         mr_err *err)
{
    mri_session_shares x;
    mri_shards_save *save = NULL;
    mri_str profile = { 0 };
    char *mine = folder(p, dir);
    mr_status st = 0;
    mri_shares_make(s, mesh, MRI_SHARES_LOCAL, &x);
    mri_profile_print(s->config->profile, false, &profile);
    const mri_checkpoint_meta meta = mri_session_meta(s, profile.s);
    st = mri_shards_begin(NULL, mine, &meta, x.group, x.n_groups,
                          mri_shares_kind_name(MRI_SHARES_LOCAL), x.layout, &save, err);
    if (!st)
        st = mri_shards_end(save, mri_shards_write(save, err), KEEP, err);
    mri_shares_free(&x);
    mri_str_free(&profile);
    free(mine);
    return mri_peers_agree(p, st, err);
}

/* ---- the newest that all have --------------------------------------------------------------- */

/* Steps that every rank lists, newest first. */
static mr_status common(const mri_peers *p, const char *mine, int64_t above, int64_t **steps,
                        size_t *n, mr_err *err)
{
    uint32_t ranks = mri_peers_alone(p) ? 1 : p->n;
    uint64_t *end = mri_alloc(ranks * sizeof *end);
    char *text = NULL;
    const int64_t *all;
    size_t kept = 0;
    mr_status st = mri_checkpoint_list(mine, steps, n, err);
    MR_TRY(mri_peers_agree(p, st, err));
    MR_TRY(mri_peers_gather_text(p, (const char *)*steps, *n * sizeof **steps, &text, end, err));
    all = (const int64_t *)(const void *)text;
    for (size_t i = 0; i < *n; i++) {
        uint32_t have = 0;
        for (uint32_t r = 0; r < ranks; r++)
            for (uint64_t k = r ? end[r - 1] / sizeof *all : 0; k < end[r] / sizeof *all; k++)
                have += all[k] == (*steps)[i];
        if (have == ranks && (*steps)[i] > above)
            (*steps)[kept++] = (*steps)[i];
    }
    *n = kept;
out:
    free(text);
    free(end);
    return st;
}

mr_status mri_local_open(const mri_peers *p, const char *dir, int64_t above, mri_checkpoint **out,
                         mr_err *err)
{
    char *mine = folder(p, dir);
    int64_t *steps = NULL;
    size_t n = 0;
    mr_status st = 0;
    *out = NULL;
    MR_TRY(common(p, mine, above, &steps, &n, err));
    for (size_t i = 0; i < n && !*out; i++) {
        mr_err why = MR_ERR_INIT;
        char *path = mri_format("%s/step-%08" PRId64, mine, steps[i]);
        mr_status got = mri_checkpoint_open(path, out, &why);
        free(path);
        if (mri_peers_agree(p, got, &why)) { /* damaged on some rank: an older one may do */
            mri_checkpoint_close(*out);
            *out = NULL;
        }
    }
out:
    free(steps);
    free(mine);
    return st;
}
