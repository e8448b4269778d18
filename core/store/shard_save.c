/* SPDX-License-Identifier: Apache-2.0
 *
 * shard_save.c - a checkpoint that all ranks write together, all or nothing.
 *
 *   begin  all: plan.  rank 0: room for all of it? -> .tmp folder, locked
 *   write  each rank: a safetensors file a group, of its parts; fsync
 *   end    all: sizes and checksums to all.  rank 0: profile, manifest, fsync of the folder,
 *          rename to step-N, fsync of the parent, older ones away.  all: agree
 *
 * Invariant: the same as of checkpoint_save.c: a folder with its final name is whole, whenever
 * whichever rank dies. Between begin and end ranks tell each other nothing.
 */
#include "fsops.h"
#include "internal.h"
#include "shards.h"
#include <inttypes.h>
#include <stdlib.h>
#include <unistd.h>

enum { MOST_GROUPS = 8 };

typedef struct written { /* what a rank tells of its file of one group */
    uint64_t there, bytes, sum;
} written;

struct mri_shards_save {
    const mri_peers *peers;
    const mri_checkpoint_meta *meta;
    const mri_shard_group *group;
    size_t n;
    uint32_t rank, ranks;
    mri_shards plan;
    const char *format, *layout;
    char *dir, *tmp;
    int lock;
    bool made;
    _Atomic bool cancelled;
    written file[MOST_GROUPS];
};

static char *file_name(const char *group, uint32_t rank)
{
    return mri_format("%s-%05u.safetensors", group, rank);
}

/* ---- begin --------------------------------------------------------------------------------- */

static uint64_t part_bytes(const mri_part *p)
{
    return (p->f.to - p->f.from) * mr_dtype_bytes(p->f.dtype);
}

/* bytes of the parts; rank UINT32_MAX: of all ranks */
static uint64_t bytes_of(const mri_shards *plan, uint32_t rank)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < plan->tensors.n; i++)
        for (size_t k = 0; k < plan->tensors.v[i].parts.n; k++) {
            const mri_part *p = &plan->tensors.v[i].parts.v[k];
            if (rank == UINT32_MAX || p->file == rank)
                sum += part_bytes(p);
        }
    return sum;
}

/* headers, the manifest and block rounding, beside the tensors */
static uint64_t bytes_beside(const mri_shards_save *s)
{
    uint64_t parts = 0;
    for (size_t i = 0; i < s->plan.tensors.n; i++)
        parts += s->plan.tensors.v[i].parts.n;
    return (256 << 10) + parts * 512 + s->n * s->ranks * 8192;
}

static mr_status make_folder(mri_shards_save *s, mr_err *err)
{
    uint64_t need = bytes_of(&s->plan, UINT32_MAX) + bytes_beside(s);
    mr_status st = 0;
    MR_TRY(mri_checkpoint_check_meta(s->meta, err));
    MR_TRY(mri_fs_mkdirs(s->dir, err));
    mri_checkpoint_sweep(s->dir);
    MR_TRY(mri_checkpoint_check_room(s->dir, need, err));
    MR_TRY(mri_fs_mkdir(s->tmp, err));
    s->made = true;
    s->lock = mri_checkpoint_lock(s->tmp);
out:
    return st;
}

static mr_status find_folder(const mri_shards_save *s, mr_err *err)
{
    if (!access(s->tmp, W_OK))
        return 0;
    mr_fail(err, MR_E_STORE_IO, MR_BLAME_ENV, "rank %u does not see %s, which rank 0 has made",
            s->rank, s->tmp);
    mr_hint(err, "[checkpoint] dir must be on a file system that all ranks share");
    return MR_E_STORE_IO;
}

static void drop(mri_shards_save *s)
{
    if (s->lock >= 0)
        close(s->lock);
    mri_shards_free(&s->plan);
    free(s->dir);
    free(s->tmp);
    free(s);
}

mr_status mri_shards_begin(const mri_peers *p, const char *dir, const mri_checkpoint_meta *meta,
                           const mri_shard_group *group, size_t n, const char *format,
                           const char *layout, mri_shards_save **out, mr_err *err)
{
    mri_shards_save *s = mri_alloc(sizeof *s);
    int64_t pid = getpid(), *pids = NULL;
    mr_status st = 0;
    *out = NULL;
    *s = (mri_shards_save){ .peers = p, .meta = meta, .group = group, .n = n, .lock = -1,
                            .format = format, .layout = layout, .ranks = 1 };
    if (!mri_peers_alone(p)) {
        s->rank = p->rank;
        s->ranks = p->n;
    }
    MRI_ASSERT(n <= MOST_GROUPS);
    pids = mri_alloc(s->ranks * sizeof *pids);
    MR_TRY(mri_shards_plan(p, group, n, &s->plan, err));
    MR_TRY(mri_peers_gather(p, &pid, sizeof pid, pids, err));
    char *name = mri_checkpoint_name(meta->step);
    s->dir = mri_strdup(dir);
    s->tmp = mri_format("%s/" MRI_TMP_PREFIX "%s-%" PRId64, dir, name, pids[0]);
    free(name);
    if (!s->rank)
        st = make_folder(s, err);
    MR_TRY(mri_peers_agree(p, st, err));
    MR_TRY(mri_peers_agree(p, find_folder(s, err), err));
    *out = s;
    s = NULL;
out:
    free(pids);
    if (s) {
        if (s->made)
            mri_fs_remove(s->tmp, NULL);
        drop(s);
    }
    return st;
}

/* ---- write --------------------------------------------------------------------------------- */

typedef struct outgoing { /* this rank's file of one group, while it is written */
    MRI_VEC(mri_tensor) tensors;
    MRI_VEC(const mri_part *) parts;     /* of the same numbers          */
    MRI_VEC(const mri_share *) from;     /* what this rank holds of each */
    MRI_VEC(char *) metadata;            /* NAME, where it lies, ... NULL */
    const mri_shards_save *save;
    void *room;                          /* of the largest that must be fetched */
    uint64_t room_bytes;
} outgoing;

static mr_status part_data(void *ctx, const mri_tensor *t, const void **data, mr_err *err)
{
    outgoing *o = ctx;
    size_t i = (size_t)(t - o->tensors.v);
    const mri_part *p = o->parts.v[i];
    const mri_share *f = o->from.v[i];
    uint64_t bytes = part_bytes(p);
    if (o->save->cancelled)
        return mr_fail(err, MR_E_CANCELLED, MR_BLAME_HOST, "saving was given up");
    if ((*data = p->f.data))
        return 0;
    if (f->data) {
        *data = (const char *)f->data + (p->f.from - f->from) * mr_dtype_bytes(f->dtype);
        return 0;
    }
    if (bytes > o->room_bytes) {
        free(o->room);
        o->room = mri_alloc(bytes);
        o->room_bytes = bytes;
    }
    *data = o->room;
    return f->holder->get(f->holder->ctx, f, p->f.from, p->f.to - p->f.from, o->room, err);
}

/* In the file a part has the shape of its box, or is a line where it has a range of one only. */
static mr_type part_type(const mri_part *p)
{
    mr_type t = mr_type1(p->f.dtype, (int64_t)(p->f.to - p->f.from));
    if (p->f.from || p->f.to != mri_box_count(&p->f.box))
        return t;
    t.rank = p->f.box.rank;
    memcpy(t.dim, p->f.box.dim, sizeof t.dim);
    return t;
}

static const mri_share *own(const mri_shard_group *g, const mri_share **by_name,
                               const char *name)
{
    size_t low = 0, high = g->n;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        int order = strcmp(name, by_name[mid]->name);
        if (!order)
            return by_name[mid];
        if (order < 0)
            high = mid;
        else
            low = mid + 1;
    }
    return NULL;
}

static int by_name_order(const void *a, const void *b)
{
    return strcmp((*(const mri_share *const *)a)->name, (*(const mri_share *const *)b)->name);
}

static void collect(const mri_shards_save *s, const mri_shard_group *g, outgoing *o)
{
    const mri_share **names = mri_alloc((g->n + 1) * sizeof *names);
    for (size_t i = 0; i < g->n; i++)
        names[i] = &g->v[i];
    qsort(names, g->n, sizeof *names, by_name_order);
    for (size_t i = 0; i < s->plan.tensors.n; i++) {
        const mri_shard_tensor *t = &s->plan.tensors.v[i];
        for (size_t k = 0; k < t->parts.n && !strcmp(t->group, g->name); k++) {
            const mri_part *p = &t->parts.v[k];
            if (p->file != s->rank)
                continue;
            mri_str where = { 0 };
            mri_box_print(&p->f.box, &where);
            mri_str_fmt(&where, ", elements %" PRIu64 " to %" PRIu64, p->f.from, p->f.to);
            MRI_PUSH(&o->metadata, p->as);
            MRI_PUSH(&o->metadata, mri_str_take(&where));
            MRI_PUSH(&o->tensors, ((mri_tensor){ p->as, part_type(p), NULL }));
            MRI_PUSH(&o->parts, p);
            MRI_PUSH(&o->from, own(g, names, t->name));
        }
    }
    MRI_PUSH(&o->metadata, NULL);
    free(names);
}

static void outgoing_free(outgoing *o)
{
    for (size_t i = 1; i < o->metadata.n; i += 2)
        free(o->metadata.v[i]);
    free(o->metadata.v);
    free(o->tensors.v);
    free(o->parts.v);
    free(o->from.v);
    free(o->room);
}

mr_status mri_shards_stage(mri_shards_save *s, void *room, mr_err *err)
{
    char *at = room;
    mr_status st = 0;
    for (size_t g = 0; g < s->n && !st; g++) {
        outgoing o = { .save = s };
        collect(s, &s->group[g], &o);
        for (size_t i = 0; i < o.tensors.n && !st; i++) {
            mri_part *p = (mri_part *)(uintptr_t)o.parts.v[i]; /* of our own plan */
            const mri_share *f = o.from.v[i];
            uint64_t n = p->f.to - p->f.from, bytes = part_bytes(p);
            if (f->data)
                memcpy(at, (const char *)f->data + (p->f.from - f->from) * (bytes / (n + !n)),
                       bytes);
            else
                st = f->holder->get(f->holder->ctx, f, p->f.from, n, at, err);
            p->f.data = at;
            at += bytes;
        }
        outgoing_free(&o);
    }
    return st;
}

void mri_shards_cancel(mri_shards_save *s)
{
    s->cancelled = true;
}

mr_status mri_shards_write(mri_shards_save *s, mr_err *err)
{
    mr_status st = 0;
    for (size_t g = 0; g < s->n && !st; g++) {
        outgoing o = { .save = s };
        written *w = &s->file[g];
        collect(s, &s->group[g], &o);
        if (o.tensors.n) {
            const mri_tensor_source source = { part_data, &o };
            char *name = file_name(s->group[g].name, s->rank);
            char *path = mri_format("%s/%s", s->tmp, name);
            st = mri_safetensors_write_sum(path, o.tensors.v, o.tensors.n, &source,
                                           (const char *const *)o.metadata.v, &w->bytes, &w->sum,
                                           err);
            w->there = 1;
            free(path);
            free(name);
        }
        outgoing_free(&o);
    }
    return st;
}

/* ---- end ----------------------------------------------------------------------------------- */

/* Lists the files, and makes the parts' ranks the files' numbers. */
static mr_status list_files(mri_shards_save *s, const written *all, mri_manifest *m, mr_err *err)
{
    uint32_t *number = mri_alloc(s->n * s->ranks * sizeof *number);
    mr_status st = 0;
    for (size_t g = 0; g < s->n; g++)
        for (uint32_t r = 0; r < s->ranks; r++) {
            const written *w = &all[r * MOST_GROUPS + g];
            number[g * s->ranks + r] = (uint32_t)m->files.n;
            if (!w->there)
                continue;
            mri_manifest_file f = { .group = mri_strdup(s->group[g].name),
                                    .file = file_name(s->group[g].name, r), .bytes = w->bytes,
                                    .sum = w->sum };
            MRI_PUSH(&m->files, f);
        }
    for (size_t i = 0; i < s->plan.tensors.n && !st; i++) {
        mri_shard_tensor *t = &s->plan.tensors.v[i];
        size_t g = 0;
        while (strcmp(s->group[g].name, t->group))
            g++;
        for (size_t k = 0; k < t->parts.n; k++) {
            uint32_t r = t->parts.v[k].file;
            if (!all[r * MOST_GROUPS + g].there)
                st = mr_fail(err, MR_E_INTERNAL, MR_BLAME_HOST, "rank %u has not written %s", r,
                             t->name);
            t->parts.v[k].file = number[g * s->ranks + r];
        }
    }
    free(number);
    return st;
}

/* Rank 0, when all files are durable: the manifest, and the final name. */
static mr_status commit(mri_shards_save *s, const written *all, int64_t keep, mr_err *err)
{
    mri_manifest m = { .meta = *s->meta };
    char *name = mri_checkpoint_name(s->meta->step), *final = mri_format("%s/%s", s->dir, name);
    mr_status st = 0;
    MR_TRY(list_files(s, all, &m, err));
    m.shards = s->plan; /* lent */
    m.format = (char *)(uintptr_t)s->format;
    m.layout = (char *)(uintptr_t)s->layout;
    MR_TRY(mri_checkpoint_seal(s->tmp, &m, err));
    MR_TRY(mri_checkpoint_publish(s->dir, s->tmp, final, &s->made, err));
    if (keep > 0)
        MR_TRY(mri_checkpoint_prune(s->dir, s->meta->step, keep, err));
out:
    memset(&m.meta, 0, sizeof m.meta);
    memset(&m.shards, 0, sizeof m.shards);
    m.format = m.layout = NULL;
    mri_manifest_free(&m);
    free(final);
    free(name);
    return st;
}

mr_status mri_shards_end(mri_shards_save *s, mr_status wrote, int64_t keep, mr_err *err)
{
    written *all = mri_alloc(s->ranks * sizeof s->file);
    mr_status st = 0;
    MR_TRY(mri_peers_agree(s->peers, wrote, err));
    MR_TRY(mri_peers_gather(s->peers, s->file, sizeof s->file, all, err));
    if (!s->rank)
        st = commit(s, all, keep, err);
    MR_TRY(mri_peers_agree(s->peers, st, err));
out:
    free(all);
    if (s->made) /* of a save that failed, or what it has replaced */
        mri_fs_remove(s->tmp, NULL);
    drop(s);
    return st;
}

void mri_shards_abandon(mri_shards_save *s)
{
    if (s)
        drop(s);
}

uint64_t mri_shards_bytes(const mri_shards_save *s)
{
    return bytes_of(&s->plan, s->rank);
}
