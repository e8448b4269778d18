/* SPDX-License-Identifier: Apache-2.0
 *
 * registry.h - finds, checks, loads and lists plugins.
 *
 * Invariants: a library is loaded at most once and never unloaded (RTLD_NOW | RTLD_LOCAL |
 * RTLD_NODELETE); no unit of a plugin is handed out before its header, version, units and
 * options were checked and its open() succeeded; listing never runs plugin code in this
 * process (notes are read as ELF text; the status scan forks).
 */
#ifndef MRI_REGISTRY_H
#define MRI_REGISTRY_H
#include "core/base/base.h"

typedef struct mri_registry mri_registry;

/* Search path, first hit wins: `paths` (--plugin-path, ':'-separated, may be NULL);
 * MRUN_PLUGIN_PATH (secure_getenv); $XDG_DATA_HOME/mrun/plugins-1; EXE/../lib/mrun/plugins-1;
 * the compiled-in directory. In each directory plugins are FILES *.so, and one level of
 * folders below is searched too (so that a build tree's plugins/KIND/NAME works with
 * MRUN_PLUGIN_PATH=build/plugins, depth 2). Never the current directory. */
mri_registry *mri_registry_create(const char *paths);
void mri_registry_free(mri_registry *r);

/* The unit KIND/NAME. `name` may also be a path with '/' to a .so holding one unit of the
 * kind (or "path.so:name"). A plugin named here that cannot load is an error that names
 * every path tried; it is never skipped for another. */
mr_status mri_registry_find(mri_registry *r, const char *kind, const char *name,
                            const mr_unit **unit, mr_err *err);

/* Services and ops of the host: what mr_host.ext() answers. */
const mr_host *mri_registry_host(mri_registry *r);
void mri_registry_offer(mri_registry *r, const char *ext_id, const void *service);

/* One unit found by scanning. Status: "ok" "missing" "refused" "malformed" "crashed" "timeout". */
typedef struct mri_listing {
    char *kind, *name, *version, *abi, *id, *path;
    char *status, *reason, *doc;
} mri_listing;
/* deep = false: notes only (no dlopen). deep = true: each library is opened in a forked
 * child with a time limit. The caller frees with mri_listing_free. */
mr_status mri_registry_list(mri_registry *r, bool deep, mri_listing **list, size_t *n, mr_err *err);
void mri_listing_free(mri_listing *list, size_t n);

/* names of units of a kind, from notes, for did-you-mean; freed by the caller as one block */
const char **mri_registry_names(mri_registry *r, const char *kind, size_t *n);

/* Loads one file and checks it whole; `plugin` points into the library. */
mr_status mri_plugin_load(mri_registry *r, const char *path, const mr_plugin **plugin, mr_err *err);
/* The checks alone, on a descriptor in memory (for the size-truncation tests). */
mr_status mri_plugin_validate(const mr_plugin *p, const char *path, mr_err *err);

/* i-th unit, walked by the unit's own size */
const mr_unit *mri_plugin_unit(const mr_plugin *p, uint32_t i);

/* ELF: the text of section .mrun.note (caller frees), or NULL */
char *mri_note_read(const char *path);
/* ELF: the defined dynamic symbols, for the one-symbol check */
mr_status mri_elf_exports(const char *path, char ***names, size_t *n, mr_err *err);

#endif
