/* SPDX-License-Identifier: Apache-2.0
 *
 * manifest.c - manifest.json of a checkpoint: what it holds, and proof of every byte.
 *
 * Invariant: the text's last line is the checksum of all text above it, so a change of any
 * character (a step, a counter, a file's checksum) is noticed. Numbers survive the round trip
 * bit for bit: a counter of type f64 is written with 17 digits, or as a string if not finite.
 */
#include "digest.h"
#include "internal.h"
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <unistd.h>

#define FORMAT "mrun-checkpoint"
/* version 2 has "sharding" and "tensors", and is written where there are any */
enum { VERSION = 1, VERSION_SHARDED = 2, MANIFEST_MAX = 1 << 30 };

/* the last line; its length never varies */
#define SEAL "  \"manifest_xxh64\": \"%016" PRIx64 "\"\n}\n"
enum { SEAL_LENGTH = sizeof "  \"manifest_xxh64\": \"0123456789abcdef\"\n}\n" - 1 };

static void put_counter(mri_str *b, const mr_attr *a)
{
    mri_str_json(b, a->key);
    if (a->type == MR_A_I64)
        mri_str_fmt(b, ": %" PRId64, a->u.i);
    else if (!isfinite(a->u.f))
        mri_str_fmt(b, ": \"%s\"", isnan(a->u.f) ? "nan" : a->u.f < 0 ? "-inf" : "inf");
    else /* %.17e has a point and an exponent always: JSON reads a real, never an integer */
        mri_str_fmt(b, ": %.17e", a->u.f);
}

static void put_shards(mri_str *b, const mri_manifest *m)
{
    mri_str_add(b, "  \"sharding\": ");
    mri_str_json(b, m->format);
    if (m->layout) {
        mri_str_add(b, ",\n  \"layout\": ");
        mri_str_json(b, m->layout);
    }
    mri_str_add(b, ",\n  \"tensors\": [");
    mri_shards_print(&m->shards, b);
    mri_str_add(b, "\n  ],\n");
}

char *mri_manifest_text(const mri_manifest *m)
{
    mri_str b = { 0 };
    mri_str_fmt(&b, "{\n  \"format\": \"" FORMAT "\",\n  \"version\": %d,\n",
                m->shards.tensors.n ? VERSION_SHARDED : VERSION);
    mri_str_fmt(&b, "  \"step\": %" PRId64 ",\n  \"samples\": %" PRId64 ",\n  \"tokens\": %" PRId64,
                m->meta.step, m->meta.samples, m->meta.tokens);
    mri_str_add(&b, ",\n  \"counters\": {");
    for (size_t i = 0; i < m->meta.counters.n; i++) {
        mri_str_add(&b, i ? ",\n    " : "\n    ");
        put_counter(&b, &m->meta.counters.v[i]);
    }
    mri_str_add(&b, "\n  },\n  \"files\": [");
    for (size_t i = 0; i < m->files.n; i++) {
        const mri_manifest_file *f = &m->files.v[i];
        mri_str_add(&b, i ? ",\n    {" : "\n    {");
        if (f->group) {
            mri_str_add(&b, "\"group\": ");
            mri_str_json(&b, f->group);
            mri_str_add(&b, ", ");
        }
        mri_str_add(&b, "\"file\": ");
        mri_str_json(&b, f->file);
        mri_str_fmt(&b, ", \"bytes\": %" PRIu64 ", \"xxh64\": \"%016" PRIx64 "\"}", f->bytes,
                    f->sum);
    }
    mri_str_add(&b, "\n  ],\n");
    if (m->shards.tensors.n)
        put_shards(&b, m);
    mri_str_fmt(&b, SEAL, mri_digest_of(b.s, b.n));
    return mri_str_take(&b);
}

#define DAMAGED(...) mr_fail(err, MR_E_STORE_CHECKSUM, MR_BLAME_ENV, __VA_ARGS__)

static mr_status check_seal(const char *path, const char *text, size_t n, mr_err *err)
{
    char want[SEAL_LENGTH + 1];
    if (n <= SEAL_LENGTH)
        return DAMAGED("%s is cut off: %zu bytes", path, n);
    snprintf(want, sizeof want, SEAL, mri_digest_of(text, n - SEAL_LENGTH));
    if (memcmp(want, text + n - SEAL_LENGTH, SEAL_LENGTH))
        return DAMAGED("%s does not match its own checksum: it was changed or cut off", path);
    return 0;
}

static bool read_counter(const char *key, const json_t *v, mr_attr *a)
{
    const char *word = json_string_value(v);
    if (json_is_integer(v))
        *a = mr_ai(mri_strdup(key), json_integer_value(v));
    else if (json_is_real(v))
        *a = mr_af(mri_strdup(key), json_real_value(v));
    else if (word && (!strcmp(word, "nan") || !strcmp(word, "inf") || !strcmp(word, "-inf")))
        *a = mr_af(mri_strdup(key), strtod(word, NULL));
    else
        return false;
    return true;
}

static bool read_file_entry(const json_t *v, mri_manifest_file *f)
{
    const json_t *group = json_object_get(v, "group"), *bytes = json_object_get(v, "bytes");
    const char *file = json_string_value(json_object_get(v, "file"));
    const char *sum = json_string_value(json_object_get(v, "xxh64"));
    char *end = NULL;
    /* a plain name: the manifest never leads out of its folder */
    if (!file || !*file || *file == '.' || strchr(file, '/') || !json_is_integer(bytes) ||
        json_integer_value(bytes) < 0 || !sum || strlen(sum) != 16 ||
        (group && !json_is_string(group)))
        return false;
    f->sum = strtoull(sum, &end, 16);
    if (*end)
        return false;
    f->bytes = (uint64_t)json_integer_value(bytes);
    f->file = mri_strdup(file);
    f->group = group ? mri_strdup(json_string_value(group)) : NULL;
    return true;
}

static mr_status read_shards(const char *path, json_t *doc, mri_manifest *m, mr_err *err)
{
    const char *format = json_string_value(json_object_get(doc, "sharding"));
    const char *layout = json_string_value(json_object_get(doc, "layout"));
    if (!format)
        return DAMAGED("%s does not say how its tensors are sharded", path);
    m->format = mri_strdup(format);
    m->layout = layout ? mri_strdup(layout) : NULL;
    return mri_shards_parse(path, json_object_get(doc, "tensors"), m->files.n, &m->shards, err);
}

static mr_status read_document(const char *path, json_t *doc, mri_manifest *m, mr_err *err)
{
    const char *format = json_string_value(json_object_get(doc, "format")), *key;
    const json_t *version = json_object_get(doc, "version");
    json_t *files = json_object_get(doc, "files"), *counters = json_object_get(doc, "counters");
    const struct {
        const char *key;
        int64_t *to;
    } numbers[] = {
        { "step", &m->meta.step }, { "samples", &m->meta.samples }, { "tokens", &m->meta.tokens },
    };
    json_t *v;
    size_t i;
    if (!format || strcmp(format, FORMAT) || !json_is_integer(version))
        return mr_fail(err, MR_E_STORE_FORMAT, MR_BLAME_USER, "%s is not an mrun checkpoint", path);
    if (json_integer_value(version) != VERSION && json_integer_value(version) != VERSION_SHARDED) {
        mr_fail(err, MR_E_STORE_FORMAT, MR_BLAME_USER,
                "%s has format version %lld; this mrun reads versions %d and %d", path,
                (long long)json_integer_value(version), VERSION, VERSION_SHARDED);
        mr_hint(err, "read it with the mrun that wrote it, or a newer one");
        return MR_E_STORE_FORMAT;
    }
    for (i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        v = json_object_get(doc, numbers[i].key);
        if (!json_is_integer(v))
            return DAMAGED("%s: \"%s\" is not a whole number", path, numbers[i].key);
        *numbers[i].to = json_integer_value(v);
    }
    json_object_foreach(counters, key, v) {
        mr_attr a;
        if (!read_counter(key, v, &a))
            return DAMAGED("%s: counter %s is not a number", path, key);
        MRI_PUSH(&m->meta.counters, a);
    }
    json_array_foreach(files, i, v) {
        mri_manifest_file f = { 0 };
        if (!read_file_entry(v, &f))
            return DAMAGED("%s: entry %zu of \"files\" is malformed", path, i);
        MRI_PUSH(&m->files, f);
    }
    return json_integer_value(version) == VERSION ? 0 : read_shards(path, doc, m, err);
}

mr_status mri_manifest_read(const char *path, mri_manifest *m, mr_err *err)
{
    char *text = NULL;
    size_t n = 0;
    json_t *doc = NULL;
    mr_status st = 0;
    memset(m, 0, sizeof *m);
    if (access(path, F_OK))
        return mr_fail(err, MR_E_STORE_MISSING, MR_BLAME_USER, "no checkpoint: %s is missing",
                       path);
    MR_TRY(mri_read_file(path, MANIFEST_MAX, &text, &n, err));
    MR_TRY(check_seal(path, text, n, err));
    MR_TRY(mri_json_parse(text, n, path, &doc, err));
    MR_TRY(read_document(path, doc, m, err));
out:
    json_decref(doc);
    free(text);
    if (st)
        mri_manifest_free(m);
    return st;
}

void mri_manifest_free(mri_manifest *m)
{
    for (size_t i = 0; i < m->meta.counters.n; i++)
        free((char *)m->meta.counters.v[i].key);
    for (size_t i = 0; i < m->files.n; i++) {
        free(m->files.v[i].group);
        free(m->files.v[i].file);
    }
    mri_shards_free(&m->shards);
    free(m->format);
    free(m->layout);
    free(m->meta.counters.v);
    free(m->files.v);
    memset(m, 0, sizeof *m);
}
