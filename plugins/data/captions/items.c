/* SPDX-License-Identifier: Apache-2.0
 * items.c - see items.h. */
#include "items.h"
#include "map.h"
#include <jansson.h>
#include <stdlib.h>

enum { MAX_LINE = 1 << 20 };

void items_close(items *s)
{
    map_close(s->map, s->map_bytes);
    map_close(s->labels_map, s->labels_bytes);
    free(s->folder);
    free(s->line);
    *s = (items){ 0 };
}

void item_free(item *it)
{
    free(it->file);
    free(it->prompt);
    free(it->owned_answer);
    *it = (item){ 0 };
}

static int64_t class_of(const mr_list *classes, const char *answer)
{
    for (uint64_t i = 0; i < classes->n; i++)
        if (!strcmp(classes->v[i], answer))
            return (int64_t)i;
    return -1;
}

/* ---- JSON Lines ---------------------------------------------------------------------------- */

/* The lines that hold more than blanks. */
static mr_status find_lines(items *s, mr_err *err)
{
    int64_t cap = 0;
    for (uint64_t at = 0; at < s->map_bytes;) {
        const uint8_t *end = memchr(s->map + at, '\n', s->map_bytes - at);
        uint64_t stop = end ? (uint64_t)(end - s->map) : s->map_bytes;
        uint64_t from = at;
        while (from < stop && strchr(" \t\r", s->map[from]))
            from++;
        if (s->n + 1 >= cap) {
            cap = cap ? 2 * cap : 1024;
            uint64_t *more = realloc(s->line, (size_t)cap * sizeof *more);
            if (!more)
                return mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "no memory for the lines of %s",
                               s->path);
            s->line = more;
        }
        if (from < stop)
            s->line[s->n++] = at;
        s->line[s->n] = stop + 1;
        at = stop + 1;
    }
    if (!s->n)
        return mr_fail(err, MR_E_DATA_SHORT, MR_BLAME_USER, "%s has no lines", s->path);
    return 0;
}

static const char *text_at(const json_t *j, const char *key)
{
    const json_t *v = json_object_get(j, key);
    return json_is_string(v) && !memchr(json_string_value(v), 0, json_string_length(v))
               ? json_string_value(v)
               : NULL;
}

/* One line: {"image": path, "text": words} or {"image":, "prompt":, "answer":}. */
static mr_status read_line(const items *s, int64_t i, item *out, mr_err *err)
{
    const char *line = (const char *)s->map + s->line[i];
    const char *end = memchr(line, '\n', s->map_bytes - s->line[i]);
    size_t n = end ? (size_t)(end - line) : (size_t)(s->map_bytes - s->line[i]);
    json_error_t e;
    mr_status st = 0;
    json_t *j = n <= MAX_LINE ? json_loadb(line, n, JSON_REJECT_DUPLICATES, &e) : NULL;
    const char *image = text_at(j, "image"), *text = text_at(j, "text");
    const char *prompt = text_at(j, "prompt"), *answer = text_at(j, "answer");
    if (n > MAX_LINE) {
        st = mr_fail(err, MR_E_DATA_FORMAT, MR_BLAME_USER, "%s: item %lld is longer than %d bytes",
                     s->path, (long long)i + 1, MAX_LINE);
    } else if (!j) {
        st = mr_fail(err, MR_E_DATA_FORMAT, MR_BLAME_USER, "%s: item %lld: %s", s->path,
                     (long long)i + 1, e.text);
    } else if (!image || !*image || !(text || answer)) {
        st = mr_fail(err, MR_E_DATA_FORMAT, MR_BLAME_USER, "%s: item %lld has no %s", s->path,
                     (long long)i + 1, image && *image ? "text and no answer" : "image");
        mr_hint(err, "a line is {\"image\": path, \"text\": words} or "
                     "{\"image\": path, \"prompt\": words, \"answer\": words}");
    } else if (answer && s->classes->n && class_of(s->classes, answer) < 0) {
        st = mr_fail(err, MR_E_DATA_FORMAT, MR_BLAME_USER, "%s: item %lld: '%.60s' is none of the "
                     "%llu classes", s->path, (long long)i + 1, answer,
                     (unsigned long long)s->classes->n);
    } else if (out) {
        size_t room = strlen(s->folder) + strlen(image) + 2;
        *out = (item){ .file = malloc(room), .prompt = strdup(answer && prompt ? prompt : ""),
                       .owned_answer = strdup(answer ? answer : text) };
        if (!out->file || !out->prompt || !out->owned_answer) {
            item_free(out);
            st = mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "data/captions: out of memory");
        } else {
            snprintf(out->file, room, "%s%s", *image == '/' ? "" : s->folder, image);
            out->answer = out->owned_answer;
            out->class = answer ? class_of(s->classes, answer) : -1;
        }
    }
    json_decref(j);
    return st;
}

mr_status items_open_jsonl(const char *path, const mr_list *classes, items *out, mr_err *err)
{
    const char *slash = strrchr(path, '/');
    mr_status st = 0;
    *out = (items){ .path = path, .classes = classes,
                    .folder = slash ? strndup(path, (size_t)(slash - path) + 1) : strdup("") };
    if (!out->folder)
        return mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "data/captions: out of memory");
    MR_TRY(map_open(path, &out->map, &out->map_bytes, err));
    MR_TRY(find_lines(out, err));
    for (int64_t i = 0; i < out->n; i++)
        MR_TRY(read_line(out, i, NULL, err));
out:
    if (st)
        items_close(out);
    return st;
}

/* ---- IDX ----------------------------------------------------------------------------------- */

static uint64_t big32(const uint8_t *p)
{
    return (uint64_t)p[0] << 24 | (uint64_t)p[1] << 16 | (uint64_t)p[2] << 8 | p[3];
}

/* Header: two zeros, type 8 (bytes), rank; then the sizes, each of four bytes, high first. */
static mr_status check_idx(const char *path, const uint8_t *p, uint64_t bytes, int rank,
                           uint64_t size[3], mr_err *err)
{
    uint64_t head = 4 + 4 * (uint64_t)rank, need = 1;
    if (bytes >= 2 && p[0] == 0x1f && p[1] == 0x8b) {
        mr_fail(err, MR_E_DATA_FORMAT, MR_BLAME_USER, "%s is compressed", path);
        mr_hint(err, "unpack it with gunzip");
        return MR_E_DATA_FORMAT;
    }
    if (bytes < head || p[0] || p[1] || p[2] != 8 || p[3] != rank)
        return mr_fail(err, MR_E_DATA_FORMAT, MR_BLAME_USER,
                       "%s is no IDX file of bytes with %d dimension%s", path, rank,
                       rank == 1 ? "" : "s");
    for (int i = 0; i < rank; i++) {
        size[i] = big32(p + 4 + 4 * i);
        if (!size[i] || __builtin_mul_overflow(need, size[i], &need))
            need = 0;
    }
    if (!need || need != bytes - head)
        return mr_fail(err, MR_E_DATA_FORMAT, MR_BLAME_USER, "%s: the header says %llu values, "
                       "there are %llu", path, (unsigned long long)need,
                       (unsigned long long)(bytes - head));
    return 0;
}

mr_status items_open_idx(const char *images, const char *labels, const mr_list *classes,
                         items *out, mr_err *err)
{
    uint64_t size[3] = { 0 }, n[3] = { 0 };
    mr_status st = 0;
    *out = (items){ .path = images, .classes = classes };
    MR_TRY(map_open(images, &out->map, &out->map_bytes, err));
    MR_TRY(map_open(labels, &out->labels_map, &out->labels_bytes, err));
    MR_TRY(check_idx(images, out->map, out->map_bytes, 3, size, err));
    MR_TRY(check_idx(labels, out->labels_map, out->labels_bytes, 1, n, err));
    if (size[0] != n[0]) {
        st = mr_fail(err, MR_E_DATA_FORMAT, MR_BLAME_USER, "%s has %llu pictures, %s %llu labels",
                     images, (unsigned long long)size[0], labels, (unsigned long long)n[0]);
        goto out;
    }
    for (uint64_t i = 0; i < n[0]; i++)
        if (out->labels_map[8 + i] >= classes->n) {
            st = mr_fail(err, MR_E_DATA_FORMAT, MR_BLAME_USER, "%s: label %llu is %u, there are "
                         "names for %llu", labels, (unsigned long long)i, out->labels_map[8 + i],
                         (unsigned long long)classes->n);
            mr_hint(err, "list all names in data.captions.classes, the first is label 0");
            goto out;
        }
    out->n = (int64_t)size[0];
    out->height = (int64_t)size[1];
    out->width = (int64_t)size[2];
out:
    if (st)
        items_close(out);
    return st;
}

mr_status items_read(const items *s, int64_t i, item *out, mr_err *err)
{
    if (s->line)
        return read_line(s, i, out, err);
    *out = (item){ .values = s->map + 16 + i * s->width * s->height,
                   .class = s->labels_map[8 + i], .prompt = strdup("") };
    if (!out->prompt)
        return mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "data/captions: out of memory");
    out->answer = s->classes->v[out->class];
    return 0;
}
