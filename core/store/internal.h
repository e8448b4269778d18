/* SPDX-License-Identifier: Apache-2.0
 *
 * internal.h - what the files of core/store share beside store.h.
 */
#ifndef MRI_STORE_INTERNAL_H
#define MRI_STORE_INTERNAL_H
#include "core/base/json.h"
#include "shards.h"
#include "store.h"

/* ---- map.c: a file, read-only, in memory ------------------------------------------------ */
typedef struct mri_map {
    const uint8_t *p; /* NULL for an empty file */
    size_t n;
} mri_map;
mr_status mri_map_open(const char *path, mri_map *m, mr_err *err);
void mri_map_close(mri_map *m);
/* see mri_safetensors_advise(); p .. p + n lies in m */
void mri_map_advise(const mri_map *m, const uint8_t *p, size_t n, int what);

/* ---- safetensors_header.c ---------------------------------------------------------------- */
typedef struct mri_span { /* a tensor before its place is known to be sound */
    uint64_t begin, end;
    mri_tensor t; /* its name is owned, its data not set */
} mri_span;

typedef struct mri_header {
    MRI_VEC(mri_span) spans;
    MRI_VEC(char *) metadata; /* key, value, key, value ... */
} mri_header;
/* false: not in the usual form, or malformed; nothing is left to free then */
bool mri_header_scan(const char *p, size_t n, mri_header *out);
void mri_header_free(mri_header *h);

/* model.safetensors.index.json; its strings are the text's, which gets zeros for their quotes */
typedef struct mri_index_entry {
    const char *name, *file;
    size_t name_length, file_length;
} mri_index_entry;
typedef struct mri_index {
    MRI_VEC(mri_index_entry) entries;
    int64_t total; /* metadata.total_size; -1: it says none */
} mri_index;
/* false as above, with the text as it was */
bool mri_index_scan(char *p, size_t n, mri_index *out);
void mri_index_free(mri_index *x);

/* ---- safetensors.c: takes `m` over, also when it fails ---------------------------------- */
mr_status mri_safetensors_from_map(const char *path, mri_map m, mri_safetensors **out, mr_err *err);
mri_safetensors *mri_safetensors_empty(void);
/* one more file into a set that is still being opened; mri_safetensors_seal() ends it */
mr_status mri_safetensors_add(mri_safetensors *f, const char *path, mri_map m, mr_err *err);
/* all of `from` behind what `to` has; `from` is gone */
void mri_safetensors_absorb(mri_safetensors *to, mri_safetensors *from);
mr_status mri_safetensors_seal(mri_safetensors *f, const char *path, mr_err *err);
/* a tensor of a set that is being made, its data borrowed or NULL; later memory for it, which is
 * the set's from then on */
void mri_safetensors_put(mri_safetensors *f, const char *name, const mr_type *type,
                         const void *data);
void mri_safetensors_fill(mri_safetensors *f, size_t i, void *owned);

/* ---- safetensors_write.c ---------------------------------------------------------------- */
/* source NULL: the tensors' own data. bytes and sum of the file; sum may be NULL */
mr_status mri_safetensors_write_sum(const char *path, const mri_tensor *t, size_t n,
                                    const mri_tensor_source *source, const char *const *metadata,
                                    uint64_t *bytes, uint64_t *sum, mr_err *err);
/* size of the file that would be written, 0 if it cannot be (the write says why) */
uint64_t mri_safetensors_size(const mri_tensor *t, size_t n);

/* ---- manifest.c: manifest.json ---------------------------------------------------------- */
typedef struct mri_manifest_file {
    char *group; /* "model"; NULL for a file that is no group */
    char *file;  /* name within the folder                    */
    uint64_t bytes, sum;
} mri_manifest_file;

typedef struct mri_manifest {
    mri_checkpoint_meta meta; /* profile_text stays NULL; counters' keys are owned when read */
    MRI_VEC(mri_manifest_file) files;
    mri_shards shards;     /* of one that several ranks wrote; else empty, and version is 1 */
    char *format, *layout; /* of the same; layout NULL: any may read it */
} mri_manifest;

#define MRI_MANIFEST "manifest.json"
#define MRI_PROFILE_FILE "profile.resolved.ini"
char *mri_manifest_text(const mri_manifest *m); /* the caller frees */
mr_status mri_manifest_read(const char *path, mri_manifest *m, mr_err *err);
void mri_manifest_free(mri_manifest *m); /* frees what a read made */

/* ---- checkpoint_dir.c: the names in a checkpoint folder --------------------------------- */
#define MRI_TMP_PREFIX ".tmp-"
char *mri_checkpoint_name(int64_t step); /* "step-00000400"; the caller frees */
/* Removes what dead savers left. A living one holds a lock on its folder. */
void mri_checkpoint_sweep(const char *dir);
/* opens and locks a folder for as long as the descriptor lives; -1: another holds it */
int mri_checkpoint_lock(const char *tmp);

/* ---- checkpoint_save.c: the steps of a save that shard_save.c takes too ------------------ */
mr_status mri_checkpoint_check_meta(const mri_checkpoint_meta *meta, mr_err *err);
mr_status mri_checkpoint_check_room(const char *dir, uint64_t need, mr_err *err);
/* profile and manifest, when all else that m lists is durable; fsync of the folder */
mr_status mri_checkpoint_seal(const char *tmp, mri_manifest *m, mr_err *err);
/* the final name; *made: something is left under the temporary one */
mr_status mri_checkpoint_publish(const char *dir, const char *tmp, const char *final, bool *made,
                                 mr_err *err);
/* All but the newest `keep` go; the one just saved always stays, whatever its number. */
mr_status mri_checkpoint_prune(const char *dir, int64_t saved, int64_t keep, mr_err *err);

/* ---- checkpoint_open.c ------------------------------------------------------------------ */
typedef struct mri_checkpoint_set { /* a group as one set of whole tensors */
    char *name;
    mri_safetensors *tensors;
} mri_checkpoint_set;

struct mri_checkpoint {
    mri_manifest manifest;
    char *profile;
    MRI_VEC(mri_checkpoint_set) groups;
    MRI_VEC(mri_safetensors *) sets; /* by file of the manifest, where a group has several */
};

/* ---- shard_read.c ------------------------------------------------------------------------ */
mr_status mri_checkpoint_link(mri_checkpoint *c, const char *dir, mr_err *err);
mr_status mri_checkpoint_list_groups(mri_checkpoint *c, const char *dir, mr_err *err);

#endif
