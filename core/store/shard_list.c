/* SPDX-License-Identifier: Apache-2.0
 *
 * shard_list.c - the list of a sharded checkpoint's tensors and their parts: as JSON, from JSON,
 * searched and checked. What it promises is in shards.h.
 */
#include "dtype.h"
#include "shards.h"
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>

void mri_shards_free(mri_shards *s)
{
    for (size_t i = 0; i < s->tensors.n; i++) {
        mri_shard_tensor *t = &s->tensors.v[i];
        for (size_t k = 0; k < t->parts.n; k++)
            free(t->parts.v[k].as);
        free(t->parts.v);
        free(t->group);
        free(t->name);
    }
    free(s->tensors.v);
    memset(s, 0, sizeof *s);
}

const mri_shard_tensor *mri_shards_find(const mri_shards *s, const char *group, const char *name)
{
    size_t low = 0, high = s->tensors.n;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        const mri_shard_tensor *t = &s->tensors.v[mid];
        int order = strcmp(group, t->group);
        if (!order)
            order = strcmp(name, t->name);
        if (!order)
            return t;
        if (order < 0)
            high = mid;
        else
            low = mid + 1;
    }
    return NULL;
}

uint32_t mri_shards_count(const mri_shards *s, size_t *parts)
{
    MRI_VEC(uint8_t) seen = { 0 };
    uint32_t files = 0;
    *parts = 0;
    for (size_t i = 0; i < s->tensors.n; i++)
        for (size_t k = 0; k < s->tensors.v[i].parts.n; k++) {
            uint32_t f = s->tensors.v[i].parts.v[k].file;
            while (seen.n <= f)
                MRI_PUSH(&seen, 0);
            files += !seen.v[f];
            seen.v[f] = 1;
            ++*parts;
        }
    free(seen.v);
    return files;
}

mr_status mri_shards_check(const mri_shards *s, mr_err *err)
{
    MRI_VEC(mri_share) all = { 0 };
    mr_status st = 0;
    for (size_t i = 0; i < s->tensors.n && !st; i++) {
        const mri_shard_tensor *t = &s->tensors.v[i];
        all.n = 0;
        for (size_t k = 0; k < t->parts.n; k++)
            MRI_PUSH(&all, t->parts.v[k].f);
        st = mri_share_cover(all.v, all.n, err);
    }
    free(all.v);
    return st;
}

/* ---- to JSON ----------------------------------------------------------------------------- */

static void put_dims(const char *key, const int64_t *dim, uint32_t rank, mri_str *out)
{
    mri_str_fmt(out, "\"%s\": [", key);
    for (uint32_t d = 0; d < rank; d++)
        mri_str_fmt(out, "%s%" PRId64, d ? ", " : "", dim[d]);
    mri_str_add(out, "]");
}

static void put_part(const mri_shard_tensor *t, const mri_part *p, mri_str *out)
{
    const mri_box *b = &p->f.box;
    mri_str_fmt(out, "{\"file\": %u", p->file);
    if (!mri_box_same(b, &t->whole)) {
        mri_str_add(out, ", ");
        put_dims("at", b->at, b->rank, out);
        mri_str_add(out, ", ");
        put_dims("dims", b->dim, b->rank, out);
    }
    if (p->f.from || p->f.to != mri_box_count(b))
        mri_str_fmt(out, ", \"range\": [%" PRIu64 ", %" PRIu64 "]", p->f.from, p->f.to);
    if (strcmp(p->as, t->name)) {
        mri_str_add(out, ", \"as\": ");
        mri_str_json(out, p->as);
    }
    mri_str_add(out, "}");
}

void mri_shards_print(const mri_shards *s, mri_str *out)
{
    for (size_t i = 0; i < s->tensors.n; i++) {
        const mri_shard_tensor *t = &s->tensors.v[i];
        mri_str_add(out, i ? ",\n    {\"group\": " : "\n    {\"group\": ");
        mri_str_json(out, t->group);
        mri_str_add(out, ", \"name\": ");
        mri_str_json(out, t->name);
        mri_str_fmt(out, ", \"dtype\": \"%s\", ", t->dtype);
        put_dims("shape", t->whole.full, t->whole.rank, out);
        mri_str_add(out, ", \"parts\": [");
        for (size_t k = 0; k < t->parts.n; k++) {
            mri_str_add(out, k ? ", " : "");
            put_part(t, &t->parts.v[k], out);
        }
        mri_str_add(out, "]}");
    }
}

/* ---- from JSON --------------------------------------------------------------------------- */

#define BAD(...) mr_fail(err, MR_E_STORE_FORMAT, MR_BLAME_USER, __VA_ARGS__)

/* false: not `rank` whole numbers of 0 or more */
static bool get_dims(const json_t *v, uint32_t rank, int64_t *dim)
{
    if (!json_is_array(v) || json_array_size(v) != rank)
        return false;
    for (uint32_t d = 0; d < rank; d++) {
        const json_t *x = json_array_get(v, d);
        if (!json_is_integer(x) || json_integer_value(x) < 0)
            return false;
        dim[d] = json_integer_value(x);
    }
    return true;
}

static bool get_part(const json_t *v, const mri_shard_tensor *t, size_t n_files, mri_part *p)
{
    const json_t *file = json_object_get(v, "file"), *at = json_object_get(v, "at");
    const json_t *range = json_object_get(v, "range"), *as = json_object_get(v, "as");
    int64_t ends[2];
    *p = (mri_part){ .f = { .name = t->name, .dtype = t->dtype, .box = t->whole } };
    if (!json_is_integer(file) || json_integer_value(file) < 0 ||
        (uint64_t)json_integer_value(file) >= n_files || (as && !json_is_string(as)))
        return false;
    if (at && (!get_dims(at, t->whole.rank, p->f.box.at) ||
               !get_dims(json_object_get(v, "dims"), t->whole.rank, p->f.box.dim)))
        return false;
    if (range && !get_dims(range, 2, ends))
        return false;
    p->file = (uint32_t)json_integer_value(file);
    p->f.from = range ? (uint64_t)ends[0] : 0;
    p->f.to = range ? (uint64_t)ends[1] : mri_box_count(&p->f.box);
    if (mri_share_check(&p->f, NULL))
        return false;
    p->as = mri_strdup(as ? json_string_value(as) : t->name);
    return true;
}

static mr_status get_tensor(const char *path, const json_t *v, size_t n_files, mri_shard_tensor *t,
                            mr_err *err)
{
    const char *group = json_string_value(json_object_get(v, "group"));
    const char *name = json_string_value(json_object_get(v, "name"));
    const char *dtype = json_string_value(json_object_get(v, "dtype"));
    const json_t *shape = json_object_get(v, "shape"), *parts = json_object_get(v, "parts"), *p;
    const mri_dtype *known = dtype ? mri_dtype_of_name(dtype) : NULL;
    uint64_t bytes;
    size_t i;
    if (!group || !name || !known || !json_is_array(shape) || json_array_size(shape) > MR_MAX_RANK)
        return BAD("%s: a tensor has no group, name, known dtype or shape of at most %d dims", path,
                   MR_MAX_RANK);
    mr_type type = { .dtype = known->name, .rank = (uint32_t)json_array_size(shape) };
    t->group = mri_strdup(group);
    t->name = mri_strdup(name);
    t->dtype = known->name;
    if (!get_dims(shape, type.rank, type.dim) || !mri_type_bytes(&type, &bytes))
        return BAD("%s: tensor %s has an impossible shape", path, name);
    t->whole = mri_box_whole(&type);
    json_array_foreach(parts, i, p) {
        mri_part x;
        if (!get_part(p, t, n_files, &x))
            return BAD("%s: part %zu of tensor %s is impossible", path, i, name);
        MRI_PUSH(&t->parts, x);
    }
    return t->parts.n ? 0 : BAD("%s: tensor %s has no parts", path, name);
}

mr_status mri_shards_parse(const char *path, const json_t *v, size_t n_files, mri_shards *out,
                           mr_err *err)
{
    const json_t *x;
    mr_status st = 0;
    size_t i;
    json_array_foreach(v, i, x) {
        mri_shard_tensor t = { 0 };
        st = get_tensor(path, x, n_files, &t, err);
        MRI_PUSH(&out->tensors, t); /* its own now, good or bad */
        if (st)
            return st;
        const mri_shard_tensor *last = i ? &out->tensors.v[i - 1] : NULL;
        int order = last ? strcmp(last->group, t.group) : -1;
        if (order > 0 || (!order && strcmp(last->name, t.name) >= 0))
            return BAD("%s: tensor %s is out of order, or there twice", path, t.name);
    }
    return mri_shards_check(out, err);
}
