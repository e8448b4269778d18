/* SPDX-License-Identifier: Apache-2.0
 * pieces.c - see pieces.h. */
#include "pieces.h"
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

char *mri_piece_name(const mri_tensor_slot *s, const char *word, size_t len, int64_t at)
{
    const char *dot = strrchr(s->name, '.'), *hash = memchr(word, '#', len);
    int folder = dot ? (int)(dot + 1 - s->name) : 0;
    if (!hash)
        return mri_format("%.*s%.*s", folder, s->name, (int)len, word);
    return mri_format("%.*s%.*s%" PRId64 "%.*s", folder, s->name, (int)(hash - word), word, at,
                      (int)(word + len - hash - 1), hash + 1);
}

/* Is t a stretch of the parameter: its dims from `first` on, of the first of them any number up
 * to `left` rows? */
static mr_status check_piece(const mri_tensor *t, const mri_tensor_slot *s, uint32_t first,
                             int64_t left, const char *dtype, const char *where, mr_err *err)
{
    const mr_type *a = &t->type, *b = &s->desc.type;
    bool fits = a->rank == b->rank - first && a->rank > 0 && a->dim[0] > 0 && a->dim[0] <= left &&
                (!dtype || !strcmp(a->dtype, dtype)) && mr_dtype_bytes(a->dtype);
    for (uint32_t d = 1; fits && d < a->rank; d++)
        fits = a->dim[d] == b->dim[first + d];
    if (fits)
        return 0;
    mri_str shape = { 0 };
    mri_type_print(a, &shape);
    mri_str_fmt(&shape, ", which does not go into ");
    mri_type_print(b, &shape);
    mr_fail(err, MR_E_STORE_FORMAT, MR_BLAME_USER, "%s: tensor %s is %s", where, t->name, shape.s);
    mr_detail(err, "it is part of parameter %s, of which %" PRId64 " rows%s%s are missing", s->name,
              left, dtype ? " in " : "", dtype ? dtype : "");
    mri_str_free(&shape);
    return MR_E_STORE_FORMAT;
}

static mr_status no_piece(const mri_tensor_slot *s, const char *name, const char *where,
                          mr_err *err)
{
    mr_fail(err, MR_E_STORE_MISSING, MR_BLAME_USER, "%s has no tensor %s", where, name);
    mr_detail(err, "it is part of parameter %s, which is not there as one tensor either", s->name);
    mr_hint(err, "mrun inspect %s lists what it holds", where);
    return MR_E_STORE_MISSING;
}

/* Appends the pieces for count `at` to *data, which is made when the first tells the dtype. */
static mr_status join_one(const mri_safetensors *f, const mri_tensor_slot *s, const char *where,
                          int64_t at, uint32_t first, char **data, size_t *n, const char **dtype,
                          mr_err *err)
{
    int64_t left = s->desc.type.dim[first];
    mr_status st = 0;
    for (const char *w = s->desc.tensors; !st && *(w += strspn(w, " "));) {
        size_t len = strcspn(w, " ");
        char *name = mri_piece_name(s, w, len, at);
        const mri_tensor *t = mri_safetensors_find(f, name);
        st = t ? check_piece(t, s, first, left, *dtype, where, err)
               : no_piece(s, name, where, err);
        free(name);
        if (st)
            break;
        if (!*data)
            *data = mri_alloc((size_t)s->n * mr_dtype_bytes(*dtype = t->type.dtype));
        memcpy(*data + *n, t->data, mr_bytes(&t->type));
        *n += mr_bytes(&t->type);
        left -= t->type.dim[0];
        w += len;
    }
    if (!st && left)
        st = mr_fail(err, MR_E_STORE_FORMAT, MR_BLAME_USER,
                     "%s: the tensors of parameter %s leave %" PRId64 " of %" PRId64
                     " rows unfilled", where, s->name, left, s->desc.type.dim[first]);
    return st;
}

mr_status mri_pieces_join(const mri_safetensors *f, const mri_tensor_slot *s, const char *where,
                          void **data, const char **dtype, mr_err *err)
{
    bool counted = strchr(s->desc.tensors, '#') && s->desc.type.rank > 1;
    int64_t count = counted ? s->desc.type.dim[0] : 1;
    char *all = NULL;
    size_t n = 0;
    mr_status st = 0;
    *dtype = NULL;
    for (int64_t i = 0; i < count && !st; i++)
        st = join_one(f, s, where, i, counted, &all, &n, dtype, err);
    if (st) {
        free(all);
        all = NULL;
    }
    *data = all;
    return st;
}
