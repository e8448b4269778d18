/* SPDX-License-Identifier: Apache-2.0
 *
 * skeletons.h - the files of this folder, as `mrun new` carries them. Each KIND.c is a whole
 * plugin named "skeleton", compiled and checked in our own tests as it stands; `mrun new`
 * writes it with that word replaced. In *.in files KIND and USAGE are replaced too.
 */
#ifndef MRUN_SKELETONS_H
#define MRUN_SKELETONS_H
#include <stddef.h>

typedef struct skeleton_file {
    const char *name, *text; /* name NULL ends the table */
} skeleton_file;
extern const skeleton_file skeleton_files[];

#endif
