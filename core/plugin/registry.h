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
#include "mrun/op.h"

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

/* Where mr_host.log() and .cancelled() go; NULL: nowhere, and never. [main], before find. */
void mri_registry_set_log(mri_registry *r,
                          void (*log)(void *user, uint32_t level, const char *unit,
                                      const char *msg),
                          void *user);
void mri_registry_set_cancelled(mri_registry *r, int32_t (*cancelled)(void *user), void *user);
/* Units of kind "op" are handed to `hook` when their plugin is loaded (mri_op_register fits);
 * ops that were loaded before the hook was set are handed over now. */
typedef mr_status (*mri_op_hook)(const mr_op_def *op, mr_err *err);
mr_status mri_registry_set_op_hook(mri_registry *r, mri_op_hook hook, mr_err *err);

/* One unit found by scanning. Status words, with the error that stands behind each:
 *   ok         loads here; without a scan: its note fits this mrun
 *   missing    E0202, a library it needs is not there
 *   refused    E0203 E0207, another ABI, a service we lack, or its open() said no
 *   malformed  E0204, breaks the ABI's rules or is no plugin
 *   crashed    E0205, by signal or exit() while it was loaded
 *   timeout    E0206
 *   unknown    has no note, and no scan was asked for
 * A unit that an earlier folder also offers says so in `reason`: the earlier one wins. */
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

/* The unit of that kind whose note marks it (MR_PLUGIN_NOTE) with something that is `there`; of
 * several the first by name. The caller frees; NULL: none. */
char *mri_registry_marked(mri_registry *r, const char *kind,
                          bool (*there)(const void *ctx, const char *mark), const void *ctx);

/* every folder of the search path and what was found in it, a line each; the caller frees */
char *mri_registry_searched(mri_registry *r);

/* Loads one file and checks it whole; `plugin` points into the library. */
mr_status mri_plugin_load(mri_registry *r, const char *path, const mr_plugin **plugin, mr_err *err);
/* Does a plugin of ABI major.built that needs at least major.needed run in ours? Before 1.0
 * only with the same minor. The refusal names both versions and the remedy. */
mr_status mri_abi_check(uint32_t our_major, uint32_t our_minor, uint32_t major, uint32_t built,
                        uint32_t needed, const char *path, mr_err *err);
/* The checks alone, on a descriptor in memory (for the size-truncation tests). */
mr_status mri_plugin_validate(const mr_plugin *p, const char *path, mr_err *err);

/* What loading the file in a child process gives, within limit_ms; the error says how it
 * died. Returns how long it took in *ms (may be NULL). */
mr_status mri_plugin_probe(mri_registry *r, const char *path, int limit_ms, int *ms, mr_err *err);

/* i-th unit, walked by the unit's own size */
const mr_unit *mri_plugin_unit(const mr_plugin *p, uint32_t i);

/* the services in unit->needs; the first that the host lacks is an error. find() asks this. */
mr_status mri_unit_needs(const mr_host *host, const mr_unit *u, const char *path, mr_err *err);

/* ELF: the text of section .mrun.note (caller frees), or NULL */
char *mri_note_read(const char *path);
/* ELF: the defined dynamic symbols, for the one-symbol check */
mr_status mri_elf_exports(const char *path, char ***names, size_t *n, mr_err *err);

#endif
