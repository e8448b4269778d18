/* SPDX-License-Identifier: Apache-2.0
 *
 * internal.h - what the files of this folder share: the search, a note in parts, the result
 * of looking at one library in a child process, and the registry that holds them.
 */
#ifndef MRI_PLUGIN_INTERNAL_H
#define MRI_PLUGIN_INTERNAL_H
#include "registry.h"
#include "mrun/op.h"
#include <sys/types.h>

/* ---- search.c: where plugins may be ------------------------------------------------ */
typedef struct mri_search_dir {
    char *path;
    const char *from; /* "--plugin-path", "MRUN_PLUGIN_PATH" ...             */
    int error;        /* errno of the first attempt to read it, 0: it was read */
    size_t files;
} mri_search_dir;

typedef struct mri_search {
    MRI_VEC(mri_search_dir) dirs;
    MRI_VEC(char *) files; /* every *.so, in the order in which they win */
    bool walked;
} mri_search;

void mri_search_init(mri_search *s, const char *paths);
void mri_search_walk(mri_search *s); /* reads the folders, once */
void mri_search_print(const mri_search *s, mri_str *out); /* one line a folder: what was there */
void mri_search_free(mri_search *s);

/* ---- note.c: what a file says of itself -------------------------------------------- */
typedef struct mri_note {
    char *text; /* owned; the fields below point into it */
    const char *id, *version, *units;
    uint32_t major, minor;
} mri_note;

bool mri_note_parse(const char *path, mri_note *out); /* false: no note, or not one of ours */
void mri_note_free(mri_note *n);
/* the next "kind/name" of a list; false at the end. *rest moves on. */
bool mri_note_next(const char **rest, char *kind, size_t kind_cap, char *name, size_t name_cap);
enum { MRI_NOTE_MARK = 64 };
/* and what stands behind the unit's @, or "" */
bool mri_note_next_marked(const char **rest, char *kind, size_t kind_cap, char *name,
                          size_t name_cap, char mark[MRI_NOTE_MARK]);
bool mri_note_has(const mri_note *n, const char *kind, const char *name);

/* Is the file a shared object for this machine that exports mrun_plugin_v1? Reads only. */
mr_status mri_elf_is_plugin(const char *path, mr_err *err);

/* ---- load.c: the only place that calls dlopen() ------------------------------------- */
/* `stage` (may be NULL) is told what comes next, so that a crash can be placed. */
mr_status mri_load_file(const mr_host *host, const char *path,
                        void (*stage)(void *user, const char *what), void *user,
                        const mr_plugin **out, mr_err *err);

/* ---- scan.c: a look at a library from a child process -------------------------------- */
enum { MRI_SCAN_LIMIT_MS = 2000 };
typedef struct mri_scan_unit {
    char *kind, *name, *doc, *missing; /* missing: the service it needs in vain, or "" */
} mri_scan_unit;
typedef struct mri_scan {
    char *id, *version, *abi;
    MRI_VEC(mri_scan_unit) units;
} mri_scan;
mr_status mri_scan_file(const mr_host *host, const char *path, int limit_ms, mri_scan *out,
                        mr_err *err);
void mri_scan_free(mri_scan *s);

/* ---- list.c ------------------------------------------------------------------------- */
const char *mri_status_word(mr_status code); /* "ok" "missing" ... of registry.h */
void mri_list_files(const mr_host *host, mri_search *search, bool deep, mri_listing **out,
                    size_t *n);

/* ---- registry.c --------------------------------------------------------------------- */
const char *mri_base_name(const char *path);

#endif
