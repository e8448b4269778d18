/* SPDX-License-Identifier: Apache-2.0
 *
 * store.h - tensors in files: safetensors, and run checkpoints made of them.
 *
 * A checkpoint is a folder `step-00000400/` of safetensors files plus `manifest.json`
 * (format version, step, every file's size and checksum, counters, the profile's hash).
 * Invariant: a folder with its final name is whole. It is written under `.tmp-...`, each
 * file and the folder fsynced, then renamed, then the parent fsynced; only then are older
 * ones deleted (keep = N). Readers ignore and remove temporary folders. No pointer file.
 */
#ifndef MRI_STORE_H
#define MRI_STORE_H
#include "core/base/base.h"
#include "mrun/program.h"

/* ---- safetensors ------------------------------------------------------------------------ */
typedef struct mri_tensor { /* a named array in host memory */
    const char *name;
    mr_type type;     /* dtype f32 f64 bf16 f16 i32 i64 u8 i8 f8e4m3 f8e5m2 (dtype.h: all) */
    const void *data; /* borrowed */
} mri_tensor;

typedef struct mri_safetensors mri_safetensors; /* an mmapped file, or a sharded folder */
/* Strict: header size against the file, JSON, duplicate names, dtypes, shapes that multiply
 * without overflow, offsets in order without overlap or hole, alignment. */
mr_status mri_safetensors_open(const char *path, mri_safetensors **out, mr_err *err);
/* DIR/model.safetensors, or DIR/model.safetensors.index.json with its shards */
mr_status mri_safetensors_open_folder(const char *dir, mri_safetensors **out, mr_err *err);
void mri_safetensors_close(mri_safetensors *f);
size_t mri_safetensors_count(const mri_safetensors *f);
const mri_tensor *mri_safetensors_at(const mri_safetensors *f, size_t i);
const mri_tensor *mri_safetensors_find(const mri_safetensors *f, const char *name);
const char *mri_safetensors_metadata(const mri_safetensors *f, const char *key);

/* Advice on a stretch of a tensor's data: it will be read soon; it is read now, whole; it will not
 * be read again soon. Means nothing to what is read. [any-thread] */
enum { MRI_WANT, MRI_READ, MRI_DONE };
void mri_safetensors_advise(const mri_safetensors *f, const void *p, size_t n, int what);

/* Writes `path` (not atomic by itself). metadata: key, value, key, value ... NULL. fsyncs. */
mr_status mri_safetensors_write(const char *path, const mri_tensor *t, size_t n,
                                const char *const *metadata, mr_err *err);

/* Where a tensor's bytes come from when they are not in memory before: asked once for each of
 * the tensors, in the order of the file; *data need live until the next call only. */
typedef struct mri_tensor_source {
    mr_status (*bytes)(void *ctx, const mri_tensor *t, const void **data, mr_err *err);
    void *ctx;
} mri_tensor_source;

/* ---- model folders ---------------------------------------------------------------------- */
/* A folder that is there as a whole or not at all: filled under a temporary name beside `path`,
 * then renamed. What a killed writer left of the same folder is removed by the next. */
typedef struct mri_new_folder {
    char *path, *tmp;
    int lock;
} mri_new_folder;
/* `need`: bytes that will be written, checked against the room on the disk. A folder that exists
 * and is not empty is refused; with `force` it is replaced if it is a model's or a run's. */
mr_status mri_new_folder_begin(mri_new_folder *f, const char *path, uint64_t need, bool force,
                               mr_err *err);
mr_status mri_new_folder_commit(mri_new_folder *f, mr_err *err); /* fsync, rename */
void mri_new_folder_end(mri_new_folder *f); /* frees; removes what was not committed */
/* a file of the folder */
mr_status mri_new_folder_text(const mri_new_folder *f, const char *name, const char *text,
                              mr_err *err);
mr_status mri_new_folder_copy(const mri_new_folder *f, const char *from, const char *name,
                              mr_err *err);
/* model.safetensors, or shards of at most `most` bytes of tensors (a larger tensor alone) with
 * their model.safetensors.index.json, filled in the order of t */
mr_status mri_new_folder_tensors(const mri_new_folder *f, const mri_tensor *t, size_t n,
                                 const mri_tensor_source *source, uint64_t most, mr_err *err);

/* ---- checkpoints ------------------------------------------------------------------------ */
typedef struct mri_checkpoint_meta {
    int64_t step, samples, tokens; /* done so far */
    const char *profile_text; /* profile.resolved.ini as of the save; borrowed by save,
                                 owned by the open checkpoint when read */
    MRI_VEC(mr_attr) counters; /* further named numbers (MR_A_I64, MR_A_F64) */
} mri_checkpoint_meta;

/* files: one safetensors file a named group ("model", "optimizer"), each with its tensors */
typedef struct mri_checkpoint_file {
    const char *name;
    const mri_tensor *tensors;
    size_t n;
    const mri_tensor_source *source; /* of their bytes; NULL: tensors[i].data */
} mri_checkpoint_file;

mr_status mri_checkpoint_save(const char *dir, const mri_checkpoint_meta *meta,
                              const mri_checkpoint_file *files, size_t n_files, int64_t keep,
                              mr_err *err);

typedef struct mri_checkpoint mri_checkpoint;
/* The newest whole checkpoint below `dir`; *out NULL and 0 when there is none. Verifies sizes
 * and checksums; a damaged newest one is an error that names the file and the older
 * checkpoint to go back to (MR_E_STORE_CHECKSUM). Removes stale temporary folders. */
mr_status mri_checkpoint_open_newest(const char *dir, mri_checkpoint **out, mr_err *err);
mr_status mri_checkpoint_open(const char *step_dir, mri_checkpoint **out, mr_err *err);
const mri_checkpoint_meta *mri_checkpoint_info(const mri_checkpoint *c);
const mri_safetensors *mri_checkpoint_group(const mri_checkpoint *c, const char *name); /* or NULL */
const char *mri_checkpoint_group_name(const mri_checkpoint *c, size_t i); /* NULL past the last */
void mri_checkpoint_close(mri_checkpoint *c);
/* the steps in `dir`, newest first; a folder that does not exist has none. The caller frees. */
mr_status mri_checkpoint_list(const char *dir, int64_t **steps, size_t *n, mr_err *err);

/* Atomic small file: temporary name, fsync, rename, fsync of the folder. */
mr_status mri_write_file_atomic(const char *path, const char *text, size_t n, mr_err *err);

/* Fault injection for tests: called before every create, write, fsync, rename, mkdir and
 * unlink with a running number; may kill the process. NULL in production. */
extern void (*mri_store_fault_hook)(const char *what, const char *path, uint64_t n);

#endif
