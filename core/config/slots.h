/* SPDX-License-Identifier: Apache-2.0
 *
 * slots.h - what a profile is made of, for the files of core/config only.
 *
 * Invariant: entries and sections are allocated one by one and never move; every text they
 * point at lives in the profile until mri_profile_free.
 */
#ifndef MRI_SLOTS_H
#define MRI_SLOTS_H
#include "option.h"

typedef struct mri_slot {
    mri_entry e;
    uint64_t hash;     /* of section and key */
    uint32_t load;     /* which reading of which file wrote it: duplicates are per reading */
    const mr_opt *row; /* the row that typed it, once filled                               */
    bool old_spelling;
} mri_slot;

typedef struct mri_rows {
    const mr_opt *opts;
    uint32_t n;
} mri_rows;

typedef struct mri_known { /* one section name that was seen or filled */
    const char *name;
    mri_origin origin; /* its header, where it has one */
    bool filled;
    MRI_VEC(mri_rows) rows;
} mri_known;

struct mri_profile {
    MRI_VEC(mri_slot *) slots;
    MRI_VEC(mri_known *) sections;
    MRI_VEC(void *) owned;
    uint32_t loads;
};

void *mri_profile_own(mri_profile *p, void *block); /* returns it */
mri_slot *mri_profile_find(const mri_profile *p, const char *section, const char *key);
void mri_profile_rename(mri_profile *p, mri_slot *s, const char *key);
mri_known *mri_profile_known(const mri_profile *p, const char *section);
mri_known *mri_profile_add_section(mri_profile *p, const char *section, const mri_origin *o);
/* A new slot, or the one that exists; the caller sets the value and the origin. */
mri_slot *mri_profile_put(mri_profile *p, const char *section, const char *key);

/* "core section" as `mrun explain` names it: backend.cuda -> backend/cuda; caller frees */
char *mri_profile_topic(const char *section, const char *key);

#endif
