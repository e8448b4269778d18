/* SPDX-License-Identifier: Apache-2.0
 *
 * shards.h - a checkpoint that several ranks write and read: which rank writes which part of which
 * tensor, and where each part lies.
 *
 * Invariant: of every tensor of a list that passed mri_shards_check(), each element is in exactly
 * one part. Lists are sorted by group and name; parts are in the order of their files.
 */
#ifndef MRI_SHARDS_H
#define MRI_SHARDS_H
#include "share.h"
#include "peers.h"
#include "store.h"

struct json_t;

typedef struct mri_part { /* what one file has of a tensor */
    uint32_t file;        /* of the manifest's files; in a plan: the rank that writes it */
    char *as;             /* the tensor's name within the file */
    mri_share f;       /* data: once the file is open */
} mri_part;

typedef struct mri_shard_tensor {
    char *group, *name;
    const char *dtype;
    mri_box whole;
    MRI_VEC(mri_part) parts;
} mri_shard_tensor;

typedef struct mri_shards {
    MRI_VEC(mri_shard_tensor) tensors;
} mri_shards;

/* each element of each tensor once? The first tensor that is not is named. */
mr_status mri_shards_check(const mri_shards *s, mr_err *err);
const mri_shard_tensor *mri_shards_find(const mri_shards *s, const char *group, const char *name);
void mri_shards_free(mri_shards *s);
uint32_t mri_shards_count(const mri_shards *s, size_t *parts); /* how many files they lie in */
/* The manifest's "tensors". A part's box and range are left out where they are all there is. */
void mri_shards_print(const mri_shards *s, mri_str *out);
mr_status mri_shards_parse(const char *path, const struct json_t *v, size_t n_files,
                           mri_shards *out, mr_err *err);

/* ---- saving: begin, write, end ---------------------------------------------------------- */
/* What a rank holds of one group ("model", "optimizer"), at most one share a name. */
typedef struct mri_shard_group {
    const char *name;
    const mri_share *v;
    size_t n;
} mri_shard_group;

/* Who writes what, the same on every rank: a part that several hold is given to the one that has
 * least to write, those that few hold first. `group` as this rank holds them; all ranks name the
 * same groups in the same order. */
mr_status mri_shards_plan(const mri_peers *p, const mri_shard_group *group, size_t n,
                          mri_shards *out, mr_err *err);

typedef struct mri_shards_save mri_shards_save;
/* Plans, and makes the temporary folder. All that is given is borrowed until end(). `format` and
 * `layout` go into the manifest: the layout names what a reader's must equal, NULL: any may
 * read. */
mr_status mri_shards_begin(const mri_peers *p, const char *dir, const mri_checkpoint_meta *meta,
                           const mri_shard_group *group, size_t n, const char *format,
                           const char *layout, mri_shards_save **out, mr_err *err);
/* Copies what this rank writes to `room`, mri_shards_bytes() of it: then what is held may
 * change. */
mr_status mri_shards_stage(mri_shards_save *s, void *room, mr_err *err);
/* Writes this rank's files. Tells no other rank anything, so it may run beside whatever else they
 * do. [any-thread] */
mr_status mri_shards_write(mri_shards_save *s, mr_err *err);
/* With the result of write(): if all ranks' was good, the checkpoint is there when this returns,
 * and older ones but the newest `keep` are gone. Else nothing is left of it. Frees s. */
mr_status mri_shards_end(mri_shards_save *s, mr_status wrote, int64_t keep, mr_err *err);
/* A write() that runs ends soon, with MR_E_CANCELLED. [any-thread] */
void mri_shards_cancel(mri_shards_save *s);
/* Forgets a save without a word to other ranks, which may be dead; what it wrote goes with the
 * next save or open. Not while write() runs. */
void mri_shards_abandon(mri_shards_save *s);
uint64_t mri_shards_bytes(const mri_shards_save *s); /* that this rank writes */

/* ---- reading ------------------------------------------------------------------------------ */
/* As mri_checkpoint_open() and _open_newest(), by all ranks together: each file's checksum is
 * verified by one of them, and all have the checkpoint or none. */
mr_status mri_checkpoint_open_with(const mri_peers *p, const char *step_dir, mri_checkpoint **out,
                                   mr_err *err);
mr_status mri_checkpoint_open_newest_with(const mri_peers *p, const char *dir,
                                          mri_checkpoint **out, mr_err *err);
/* the whole tensor's type; false: there is none of that name */
bool mri_checkpoint_find(const mri_checkpoint *c, const char *group, const char *name,
                         mr_type *type);
/* n elements of want's box from `first` on, in the dtype that the checkpoint has. What is on
 * either side cut in other dims must be told in the same shape. [any-thread] */
mr_status mri_checkpoint_read(const mri_checkpoint *c, const char *group, const mri_share *want,
                              uint64_t first, uint64_t n, void *out, mr_err *err);
/* Gives the tensors of mri_checkpoint_group() that lie in several parts their data, in memory. */
mr_status mri_checkpoint_join(mri_checkpoint *c, const char *group, mr_err *err);
/* NULL for a checkpoint that one rank wrote; the second for one that any layout may read */
const char *mri_checkpoint_format(const mri_checkpoint *c);
const char *mri_checkpoint_layout(const mri_checkpoint *c);
const mri_shards *mri_checkpoint_shards(const mri_checkpoint *c);

#endif
