/* SPDX-License-Identifier: Apache-2.0
 *
 * safetensors_folder.c - a Hugging Face folder as one set of tensors: model.safetensors, or
 * the shards that model.safetensors.index.json names.
 *
 * Invariant: the index and the shards agree both ways. Every tensor of the index is in the
 * shard that it names, no shard holds a tensor that the index puts elsewhere or nowhere, and the
 * bytes of all are the index's total_size, where it says one. A shard's name never leaves the
 * folder. Shards are read by threads; which of several errors is told depends on none of them.
 */
#include "dtype.h"
#include "internal.h"
#include <inttypes.h>
#include <jansson.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <unistd.h>

#define SINGLE "model.safetensors"
#define INDEX "model.safetensors.index.json"
enum { INDEX_MAX = 256 << 20, THREADS = 16 };

#define BAD(...) mr_fail(err, MR_E_STORE_FORMAT, MR_BLAME_USER, __VA_ARGS__)

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The shards that the map names, each once, sorted; strings are the map's. */
static mr_status shard_names(const char *index, json_t *map, const char ***out, size_t *n,
                             mr_err *err)
{
    const char **v = mri_alloc((json_object_size(map) + 1) * sizeof *v);
    const char *name;
    json_t *value;
    *out = v;
    *n = 0;
    json_object_foreach(map, name, value) {
        const char *shard = json_string_value(value);
        if (!shard)
            return BAD("%s: weight_map entry %s is not a file name", index, name);
        if (!*shard || *shard == '.' || strchr(shard, '/'))
            return BAD("%s: weight_map sends %s to \"%s\", which is not a plain file name", index,
                       name, shard);
        v[(*n)++] = shard;
    }
    if (!*n)
        return BAD("%s: weight_map is empty", index);
    qsort(v, *n, sizeof *v, by_text);
    size_t unique = 1;
    for (size_t i = 1; i < *n; i++)
        if (strcmp(v[i], v[unique - 1]))
            v[unique++] = v[i];
    *n = unique;
    return 0;
}

typedef struct shard {
    const char *name; /* of the file */
    mri_safetensors *set;
    mr_status st;
    mr_err err;
} shard;

typedef struct shards {
    const char *dir, *index;
    const json_t *map; /* only read by threads; NULL: what is where is checked later */
    shard *v;
    size_t n, next;
} shards;

static mr_status read_shard(const shards *a, shard *s, mr_err *err)
{
    mri_map m;
    mr_status st = 0;
    char *path = mri_format("%s/%s", a->dir, s->name);
    s->set = mri_safetensors_empty();
    MR_TRY(mri_map_open(path, &m, err));
    MR_TRY(mri_safetensors_add(s->set, path, m, err));
    for (size_t i = 0; a->map && i < mri_safetensors_count(s->set); i++) {
        const char *name = mri_safetensors_at(s->set, i)->name;
        const char *home = json_string_value(json_object_get(a->map, name));
        if (home && !strcmp(home, s->name))
            continue;
        st = BAD("%s holds tensor %s, which %s puts %s%s", path, name, INDEX,
                 home ? "into " : "nowhere", home ? home : "");
        mr_hint(err, "the folder mixes files of two exports: fetch it again");
        goto out;
    }
out:
    if (st == MR_E_STORE_MISSING)
        mr_hint(err, "%s names this shard: fetch the folder again", a->index);
    free(path);
    return st;
}

static void *read_shards(void *arg)
{
    shards *a = arg;
    for (size_t i; (i = __atomic_fetch_add(&a->next, 1, __ATOMIC_RELAXED)) < a->n;)
        a->v[i].st = read_shard(a, &a->v[i], &a->v[i].err);
    return NULL;
}

/* The caller works too; threads that cannot be started are done without. */
static void read_all(shards *a)
{
    pthread_t thread[THREADS];
    cpu_set_t set;
    size_t n = 0, want = sched_getaffinity(0, sizeof set, &set) ? 1 : (size_t)CPU_COUNT(&set);
    json_object_seed(0); /* its first use is not for several threads at once */
    while (n + 1 < want && n + 1 < a->n && n < THREADS &&
           !pthread_create(&thread[n], NULL, read_shards, a))
        n++;
    read_shards(a);
    while (n)
        pthread_join(thread[--n], NULL);
}

static uint64_t bytes_of(const mri_safetensors *f)
{
    uint64_t sum = 0, bytes = 0;
    for (size_t i = 0; i < mri_safetensors_count(f); i++)
        if (mri_type_bytes(&mri_safetensors_at(f, i)->type, &bytes))
            sum += bytes; /* each lies in a file of its own: no overflow */
    return sum;
}

/* metadata.total_size, a number that some writers gave a point */
static mr_status check_total(const mri_safetensors *f, const char *index, const json_t *doc,
                             mr_err *err)
{
    const json_t *total = json_object_get(json_object_get(doc, "metadata"), "total_size");
    uint64_t sum = bytes_of(f);
    if (!total || json_is_null(total))
        return 0;
    if (json_is_number(total) && json_number_value(total) == (double)sum)
        return 0;
    BAD("%s: the shards hold %" PRIu64 " bytes of tensors, metadata.total_size says otherwise",
        index, sum);
    if (json_is_number(total))
        mr_detail(err, "it says %.0f", json_number_value(total));
    mr_hint(err, "fetch the folder again; if a tool rewrote the shards, take total_size out");
    return MR_E_STORE_FORMAT;
}

/* ---- the usual case: a good folder with an index in the usual form ------------------------ */

/* the files of the index, each once, sorted */
static size_t files_of(const mri_index *x, const char **v)
{
    size_t n = 0, unique = 0;
    for (size_t i = 0; i < x->entries.n; i++) /* neighbours are mostly in one file */
        if (!n || strcmp(v[n - 1], x->entries.v[i].file))
            v[n++] = x->entries.v[i].file;
    qsort(v, n, sizeof *v, by_text);
    for (size_t i = 0; i < n; i++)
        if (!unique || strcmp(v[i], v[unique - 1]))
            v[unique++] = v[i];
    return unique;
}

/* Is every entry a tensor of its file, and every tensor one entry? */
static bool agree(const mri_safetensors *f, const mri_index *x, const shards *a,
                  const size_t *first)
{
    size_t n = mri_safetensors_count(f), k = 0; /* k: the shard of the entry before */
    bool ok = x->entries.n == n;
    uint8_t *seen = mri_alloc(n);
    for (size_t i = 0; ok && i < n; i++) {
        const mri_tensor *t = mri_safetensors_find(f, x->entries.v[i].name);
        size_t at = t ? (size_t)(t - mri_safetensors_at(f, 0)) : 0;
        if (!t || seen[at]) {
            ok = false;
            break;
        }
        seen[at] = 1;
        if (at < first[k] || at >= first[k + 1])
            for (k = 0; at >= first[k + 1];)
                k++;
        ok = !strcmp(x->entries.v[i].file, a->v[k].name);
    }
    free(seen);
    return ok && (x->total < 0 || (uint64_t)x->total == bytes_of(f));
}

/* NULL: something is not as it should be, or not as usual; the long way tells which. */
static mri_safetensors *open_usual(const char *dir, const char *index)
{
    char *text = NULL;
    size_t size = 0, n;
    mri_index x = { 0 };
    shards a = { .dir = dir, .index = index };
    mri_safetensors *f = NULL;
    if (mri_read_file(index, INDEX_MAX, &text, &size, NULL) || !mri_index_scan(text, size, &x)) {
        free(text);
        return NULL;
    }
    const char **files = mri_alloc(x.entries.n * sizeof *files);
    n = a.n = files_of(&x, files);
    a.v = mri_alloc(n * sizeof *a.v);
    size_t *first = mri_alloc((n + 1) * sizeof *first);
    bool ok = true;
    for (size_t i = 0; i < n; i++) {
        a.v[i] = (shard){ .name = files[i], .err = MR_ERR_INIT };
        ok &= *files[i] && *files[i] != '.' && !strchr(files[i], '/');
    }
    if (ok)
        read_all(&a);
    f = mri_safetensors_empty();
    for (size_t i = 0; i < n; i++) {
        ok = ok && !a.v[i].st;
        if (ok)
            mri_safetensors_absorb(f, a.v[i].set);
        else
            mri_safetensors_close(a.v[i].set);
        first[i + 1] = ok ? mri_safetensors_count(f) : 0;
    }
    if (!ok || mri_safetensors_seal(f, dir, NULL) || !agree(f, &x, &a, first)) {
        mri_safetensors_close(f);
        f = NULL;
    }
    mri_index_free(&x);
    free(first);
    free(a.v);
    free(files);
    free(text);
    return f;
}

/* ---- all cases, and what is wrong ----------------------------------------------------------- */

static mr_status open_sharded(const char *dir, const char *index, mri_safetensors **out,
                              mr_err *err)
{
    json_t *doc = NULL, *map, *value;
    const char **names = NULL, *name;
    shards a = { .dir = dir, .index = index };
    mr_status st = 0;
    mri_safetensors *f = mri_safetensors_empty();

    MR_TRY(mri_json_read(index, INDEX_MAX, &doc, err));
    a.map = map = json_object_get(doc, "weight_map");
    if (!json_is_object(map)) {
        st = BAD("%s has no object \"weight_map\"", index);
        goto out;
    }
    MR_TRY(shard_names(index, map, &names, &a.n, err));
    a.v = mri_alloc(a.n * sizeof *a.v);
    for (size_t i = 0; i < a.n; i++)
        a.v[i] = (shard){ .name = names[i], .err = MR_ERR_INIT };
    read_all(&a);
    for (size_t i = 0; i < a.n; i++) {
        if (a.v[i].st) {
            st = a.v[i].st;
            if (err)
                *err = a.v[i].err;
            goto out;
        }
        mri_safetensors_absorb(f, a.v[i].set);
        a.v[i].set = NULL;
    }
    MR_TRY(mri_safetensors_seal(f, dir, err));
    json_object_foreach(map, name, value) {
        if (mri_safetensors_find(f, name))
            continue;
        st = BAD("%s: tensor %s is not in %s", index, name, json_string_value(value));
        mr_hint(err, "the folder mixes files of two exports: fetch it again");
        goto out;
    }
    MR_TRY(check_total(f, index, doc, err));
    *out = f;
    f = NULL;
out:
    for (size_t i = 0; a.v && i < a.n; i++)
        mri_safetensors_close(a.v[i].set);
    free(a.v);
    mri_safetensors_close(f);
    json_decref(doc);
    free(names);
    return st;
}

mr_status mri_safetensors_open_folder(const char *dir, mri_safetensors **out, mr_err *err)
{
    char *single = mri_format("%s/" SINGLE, dir), *index = mri_format("%s/" INDEX, dir);
    mr_status st = 0;
    *out = NULL;
    if (!access(single, F_OK))
        st = mri_safetensors_open(single, out, err);
    else if (!access(index, F_OK))
        st = (*out = open_usual(dir, index)) ? 0 : open_sharded(dir, index, out, err);
    else {
        st = mr_fail(err, MR_E_STORE_MISSING, MR_BLAME_USER, "no weights in %s", dir);
        mr_detail(err, "tried %s and %s", single, index);
        mr_hint(err, "point at a folder with safetensors weights (not .bin or .gguf)");
    }
    free(single);
    free(index);
    return st;
}
