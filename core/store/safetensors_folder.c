/* SPDX-License-Identifier: Apache-2.0
 *
 * safetensors_folder.c - a Hugging Face folder as one set of tensors: model.safetensors, or
 * the shards that model.safetensors.index.json names.
 *
 * Invariant: the index and the shards agree both ways. Every tensor of the index is in the
 * shard that it names, and no shard holds a tensor that the index puts elsewhere or nowhere.
 * A shard's name never leaves the folder.
 */
#include "internal.h"
#include <jansson.h>
#include <stdlib.h>
#include <unistd.h>

#define SINGLE "model.safetensors"
#define INDEX "model.safetensors.index.json"
enum { INDEX_MAX = 256 << 20 };

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

static mr_status add_shard(mri_safetensors *f, const char *dir, const char *index,
                           const json_t *map, const char *shard, mr_err *err)
{
    mri_map m;
    mr_status st = 0;
    size_t first = mri_safetensors_count(f);
    char *path = mri_format("%s/%s", dir, shard);
    MR_TRY(mri_map_open(path, &m, err));
    MR_TRY(mri_safetensors_add(f, path, m, err));
    for (size_t i = first; i < mri_safetensors_count(f); i++) {
        const char *name = mri_safetensors_at(f, i)->name;
        const char *home = json_string_value(json_object_get(map, name));
        if (home && !strcmp(home, shard))
            continue;
        st = BAD("%s holds tensor %s, which %s puts %s%s", path, name, INDEX,
                 home ? "into " : "nowhere", home ? home : "");
        mr_hint(err, "the folder mixes files of two exports: fetch it again");
        goto out;
    }
out:
    if (st == MR_E_STORE_MISSING)
        mr_hint(err, "%s names this shard: fetch the folder again", index);
    free(path);
    return st;
}

static mr_status open_sharded(const char *dir, const char *index, mri_safetensors **out,
                              mr_err *err)
{
    json_t *doc = NULL, *map, *value;
    const char **shards = NULL, *name;
    size_t n = 0;
    mr_status st = 0;
    mri_safetensors *f = mri_safetensors_empty();

    MR_TRY(mri_json_read(index, INDEX_MAX, &doc, err));
    map = json_object_get(doc, "weight_map");
    if (!json_is_object(map)) {
        st = BAD("%s has no object \"weight_map\"", index);
        goto out;
    }
    MR_TRY(shard_names(index, map, &shards, &n, err));
    for (size_t i = 0; i < n; i++)
        MR_TRY(add_shard(f, dir, index, map, shards[i], err));
    MR_TRY(mri_safetensors_seal(f, dir, err));
    json_object_foreach(map, name, value) {
        if (mri_safetensors_find(f, name))
            continue;
        st = BAD("%s: tensor %s is not in %s", index, name, json_string_value(value));
        mr_hint(err, "the folder mixes files of two exports: fetch it again");
        goto out;
    }
    *out = f;
    f = NULL;
out:
    mri_safetensors_close(f);
    json_decref(doc);
    free(shards);
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
        st = open_sharded(dir, index, out, err);
    else {
        st = mr_fail(err, MR_E_STORE_MISSING, MR_BLAME_USER, "no weights in %s", dir);
        mr_detail(err, "tried %s and %s", single, index);
        mr_hint(err, "point at a folder with safetensors weights (not .bin or .gguf)");
    }
    free(single);
    free(index);
    return st;
}
