/* SPDX-License-Identifier: Apache-2.0
 * score_input.c - see score_input.h. */
#include "score_input.h"
#include "core/base/json.h"
#include <ctype.h>
#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#define BAD(...) mr_fail(err, MR_E_DATA_FORMAT, MR_BLAME_USER, __VA_ARGS__)

mr_status score_add_ids(score_list *l, const char *text, mr_err *err)
{
    MRI_VEC(int32_t) ids = { 0 };
    const char *p = text;
    for (;;) {
        while (isspace((unsigned char)*p) || *p == ',')
            p++;
        if (!*p)
            break;
        char *end;
        errno = 0;
        long long v = strtoll(p, &end, 10);
        bool ends = !*end || *end == ',' || isspace((unsigned char)*end);
        if (end == p || !ends || errno || v < 0 || v > INT32_MAX) {
            free(ids.v);
            mr_fail(err, MR_E_ARG, MR_BLAME_USER, "--ids: '%.20s' is no token id", p);
            mr_hint(err, "ids are whole numbers from 0 on, with blanks or commas between them");
            return MR_E_ARG;
        }
        MRI_PUSH(&ids, (int32_t)v);
        p = end;
    }
    score_sequence q = { .ids = ids.v, .n = (int64_t)ids.n, .where = mri_strdup("--ids") };
    MRI_PUSH(l, q);
    return 0;
}

void score_add_text(score_list *l, const char *where, const char *text, size_t n)
{
    score_sequence q = { .text = mri_strndup(text, n), .text_n = n, .where = mri_strdup(where) };
    MRI_PUSH(l, q);
}

static mr_status add_images(score_sequence *q, const json_t *images, mr_err *err)
{
    if (images && !json_is_array(images))
        return BAD("%s: \"images\" is no array of file names", q->where);
    for (size_t i = 0; i < json_array_size(images); i++) {
        const char *file = json_string_value(json_array_get(images, i));
        if (!file)
            return BAD("%s: images[%zu] is no file name", q->where, i);
        app_pictures_add(&q->pictures, file);
    }
    return 0;
}

/* one object of a file; `where` is FILE:LINE */
static mr_status add_object(score_list *l, const char *where, const json_t *o, mr_err *err)
{
    const json_t *ids = json_object_get(o, "ids"), *text = json_object_get(o, "text");
    if (ids && text)
        return BAD("%s: the object has both \"ids\" and \"text\"", where);
    if (json_is_string(text)) {
        score_add_text(l, where, json_string_value(text), json_string_length(text));
        return add_images(&l->v[l->n - 1], json_object_get(o, "images"), err);
    }
    if (!json_is_array(ids))
        return BAD("%s: the line is no object with an array \"ids\" or a string \"text\"", where);
    size_t n = json_array_size(ids);
    score_sequence q = { .ids = mri_alloc((n + 1) * sizeof *q.ids), .n = (int64_t)n,
                         .where = mri_strdup(where) };
    MRI_PUSH(l, q);
    for (size_t i = 0; i < n; i++) {
        const json_t *id = json_array_get(ids, i);
        json_int_t v = json_integer_value(id);
        if (!json_is_integer(id) || v < 0 || v > INT32_MAX)
            return BAD("%s: ids[%zu] is no whole number from 0 to 2147483647", where, i);
        q.ids[i] = (int32_t)v;
    }
    return add_images(&l->v[l->n - 1], json_object_get(o, "images"), err);
}

mr_status score_add_jsonl(score_list *l, const char *path, mr_err *err)
{
    char *text;
    size_t n;
    int line = 1;
    mr_status st = mri_read_file(path, (size_t)1 << 32, &text, &n, err);
    if (st)
        return st;
    for (char *p = text, *end; p < text + n && !st; p = end + 1, line++) {
        json_error_t je;
        end = memchr(p, '\n', (size_t)(text + n - p));
        if (!end)
            end = text + n;
        if (strspn(p, " \t\r") >= (size_t)(end - p)) /* a blank line */
            continue;
        char *where = mri_format("%s:%d", path, line);
        json_t *o = json_loadb(p, (size_t)(end - p), JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &je);
        st = o ? add_object(l, where, o, err) : BAD("%s: %s", where, je.text);
        json_decref(o);
        free(where);
    }
    free(text);
    return st;
}

bool score_has_text(const score_list *l)
{
    for (size_t i = 0; i < l->n; i++)
        if (l->v[i].text)
            return true;
    return false;
}

static mr_status check(const score_sequence *q, const mr_model_info *m, mr_err *err)
{
    if (!q->n)
        return mr_fail(err, MR_E_ARG, MR_BLAME_USER, "%s: the sequence is empty", q->where);
    if (m->max_positions > 0 && q->n > m->max_positions) {
        mr_fail(err, MR_E_ARG, MR_BLAME_USER,
                "%s: %lld tokens, the model's context has %lld positions", q->where,
                (long long)q->n, (long long)m->max_positions);
        mr_hint(err, "shorten it; or --set model.max_positions=%lld to go beyond what the model "
                "was made for", (long long)q->n);
        return MR_E_ARG;
    }
    for (int64_t i = 0; i < q->n; i++)
        if (q->ids[i] >= m->vocab)
            return mr_fail(err, MR_E_ARG, MR_BLAME_USER,
                           "%s: id %d at position %lld, the vocabulary has %lld", q->where,
                           q->ids[i], (long long)i, (long long)m->vocab);
    return 0;
}

mr_status score_resolve(score_list *l, mri_session *s, bool special, mr_err *err)
{
    mr_status st = 0;
    for (size_t i = 0; i < l->n && !st; i++) {
        score_sequence *q = &l->v[i];
        st = app_pictures_read(&q->pictures, s, err);
        if (!st && q->text) {
            uint64_t n = 0;
            st = app_pictures_ids(&q->pictures, s, q->text, q->text_n, special, &q->ids, &n, err);
            q->n = (int64_t)n;
        }
        if (!st)
            st = check(q, &s->info, err);
    }
    return st;
}

int64_t score_longest(const score_list *l)
{
    int64_t longest = 1;
    for (size_t i = 0; i < l->n; i++)
        longest = l->v[i].n > longest ? l->v[i].n : longest;
    return longest;
}

int64_t score_most_tiles(const score_list *l)
{
    int64_t most = 0;
    for (size_t i = 0; i < l->n; i++)
        most = l->v[i].pictures.tiles > most ? l->v[i].pictures.tiles : most;
    return most;
}

void score_list_free(score_list *l)
{
    for (size_t i = 0; i < l->n; i++) {
        free(l->v[i].ids);
        free(l->v[i].text);
        free(l->v[i].where);
        app_pictures_free(&l->v[i].pictures);
    }
    free(l->v);
    memset(l, 0, sizeof *l);
}
