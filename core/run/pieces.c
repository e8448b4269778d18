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

/* "WHERE: tensor A is f32[2,3], which does not go into f32[3,3]" */
static mr_status misfit(const mri_stored *t, const mri_tensor_slot *s, const char *where,
                        mr_err *err)
{
    mri_str shape = { 0 };
    mri_type_print(&t->type, &shape);
    mri_str_fmt(&shape, ", which does not go into ");
    mr_type own = mri_slot_stored(s);
    mri_type_print(&own, &shape);
    mr_fail(err, MR_E_STORE_FORMAT, MR_BLAME_USER, "%s: tensor %s is %s", where, t->data->name,
            shape.s);
    mri_str_free(&shape);
    return MR_E_STORE_FORMAT;
}

/* Is t a stretch of the parameter: its dims from `first` on, of the first of them any number up
 * to `left` rows? */
static mr_status check_piece(const mri_stored *t, const mri_tensor_slot *s, uint32_t first,
                             int64_t left, const char *where, mr_err *err)
{
    const mr_type *a = &t->type, *b = &s->desc.type;
    bool fits = a->rank == b->rank - first && a->rank > 0 && a->dim[0] > 0 && a->dim[0] <= left;
    for (uint32_t d = 1; fits && d < a->rank; d++)
        fits = a->dim[d] == b->dim[first + d];
    if (fits)
        return 0;
    misfit(t, s, where, err);
    mr_detail(err, "it is part of parameter %s, of which %" PRId64 " rows are missing", s->name,
              left);
    return MR_E_STORE_FORMAT;
}

static mr_status no_piece(const mri_tensor_slot *s, const char *name, const char *where,
                          mr_err *err)
{
    mr_fail(err, MR_E_STORE_MISSING, MR_BLAME_USER, "%s has no tensor %s", where, name);
    if (strcmp(name, s->name))
        mr_detail(err, "it is part of parameter %s, which is not there as one tensor either",
                  s->name);
    mr_hint(err, "mrun inspect %s lists what it holds", where);
    return MR_E_STORE_MISSING;
}

static void push(mri_pieces *out, const mri_tensor_slot *s, uint64_t at, const mri_stored *from)
{
    mri_stretch p = { .slot = s, .at = at, .n = mr_numel(&from->type), .from = *from };
    p.from.name = from->data->name;
    MRI_PUSH(&out->list, p);
}

void mri_pieces_free(mri_pieces *p)
{
    for (size_t i = 0; i < p->list.n; i++)
        free(p->list.v[i].turned);
    free(p->list.v);
    memset(p, 0, sizeof *p);
}

const mri_stored *mri_stretch_part(const mri_stretch *s, uint32_t i)
{
    if (s->turned)
        return i < s->turned->n ? &s->turned->part[i] : NULL;
    return i ? NULL : &s->from;
}

/* ---- transposed matrices -------------------------------------------------------------------- */

/* The tensors for count `at`, which are together the transpose of the matrix from *n on. */
static mr_status find_turned(const mri_safetensors *f, const mri_quant *q, const mri_tensor_slot *s,
                             const char *where, int64_t at, uint32_t first, uint64_t *n,
                             mri_pieces *out, mr_err *err)
{
    const mr_type *own = &s->desc.type;
    mri_turned *m = mri_alloc(sizeof *m + (strlen(s->desc.tensors) / 2 + 1) * sizeof *m->part);
    mr_status st = 0;
    m->rows = own->dim[first];
    m->cols = own->dim[first + 1];
    int64_t left = m->cols;
    for (const char *w = s->desc.tensors; *(w += strspn(w, " ")); w += strcspn(w, " ")) {
        char *name = mri_piece_name(s, w, strcspn(w, " "), at);
        mri_stored *t = &m->part[m->n++];
        bool found;
        st = mri_stored_find(f, q, name, t, &found, err);
        if (!st && !found)
            st = no_piece(s, name, where, err);
        free(name);
        if (st)
            goto out;
        t->name = t->data->name;
        if (t->type.rank != 2 || t->type.dim[1] != m->rows || t->type.dim[0] < 1 ||
            t->type.dim[0] > left) {
            st = misfit(t, s, where, err);
            mr_detail(err, "it is to be columns of %" PRId64 " numbers, of which %" PRId64
                      " are missing", m->rows, left);
            goto out;
        }
        left -= t->type.dim[0];
    }
    if (left || !m->n) {
        st = mr_fail(err, MR_E_STORE_FORMAT, MR_BLAME_USER,
                     "%s: the tensors of parameter %s leave %" PRId64 " of %" PRId64
                     " columns unfilled", where, s->name, left, m->cols);
        goto out;
    }
    mri_stretch p = { s, *n, m->rows * m->cols, m->part[0], m, NULL };
    MRI_PUSH(&out->list, p);
    *n += (uint64_t)p.n;
    return 0;
out:
    free(m);
    return st;
}

/* ---- all ------------------------------------------------------------------------------------ */

/* The pieces for count `at`, which fill elements from *n on. */
static mr_status find_one(const mri_safetensors *f, const mri_quant *q, const mri_tensor_slot *s,
                          const char *where, int64_t at, uint32_t first, uint64_t *n,
                          mri_pieces *out, mr_err *err)
{
    int64_t left = s->desc.type.dim[first];
    mr_status st = 0;
    for (const char *w = s->desc.tensors; !st && *(w += strspn(w, " "));) {
        size_t len = strcspn(w, " ");
        char *name = mri_piece_name(s, w, len, at);
        mri_stored t;
        bool found;
        st = mri_stored_find(f, q, name, &t, &found, err);
        if (!st)
            st = found ? check_piece(&t, s, first, left, where, err)
                       : no_piece(s, name, where, err);
        free(name);
        if (st)
            break;
        push(out, s, *n, &t);
        *n += (uint64_t)mr_numel(&t.type);
        left -= t.type.dim[0];
        w += len;
    }
    if (!st && left)
        st = mr_fail(err, MR_E_STORE_FORMAT, MR_BLAME_USER,
                     "%s: the tensors of parameter %s leave %" PRId64 " of %" PRId64
                     " rows unfilled", where, s->name, left, s->desc.type.dim[first]);
    return st;
}

mr_status mri_pieces_find(const mri_safetensors *f, const mri_quant *q, const mri_tensor_slot *s,
                          const char *where, mri_pieces *out, mr_err *err)
{
    const mr_type own = mri_slot_stored(s), *b = &own;
    mri_stored t;
    bool found;
    uint64_t n = 0;
    mr_status st = mri_stored_find(f, q, s->name, &t, &found, err);
    if (st)
        return st;
    if (found) {
        if (t.type.rank != b->rank || memcmp(t.type.dim, b->dim, b->rank * sizeof b->dim[0]))
            return misfit(&t, s, where, err);
        push(out, s, 0, &t);
        return 0;
    }
    if (!s->desc.tensors)
        return no_piece(s, s->name, where, err);
    bool counted = strchr(s->desc.tensors, '#') && b->rank > 1;
    int64_t count = counted ? b->dim[0] : 1;
    bool turned = s->desc.flags & MR_PARAM_TURNED;
    if (turned && s->desc.type.rank != 2u + counted)
        return mr_fail(err, MR_E_PROGRAM, MR_BLAME_PLUGIN,
                       "parameter %s is no matrix, or several, that could be turned", s->name);
    for (int64_t i = 0; i < count && !st; i++)
        st = (turned ? find_turned : find_one)(f, q, s, where, i, counted, &n, out, err);
    return st;
}

static mr_status join_turned(const mri_stretch *x, char *to, const char *dtype, mr_err *err)
{
    float *f = mri_alloc((size_t)x->n * sizeof *f);
    mr_status st = mri_turned_read(x->turned, 0, x->n, f, err);
    if (!st)
        st = mri_convert(to, dtype, f, "f32", (uint64_t)x->n, err);
    free(f);
    return st;
}

mr_status mri_pieces_join(const mri_safetensors *f, const mri_quant *q, const mri_tensor_slot *s,
                          const char *where, void **data, const char **dtype, mr_err *err)
{
    mri_pieces all = { 0 };
    char *out = NULL;
    mr_status st = 0;
    MR_TRY(mri_pieces_find(f, q, s, where, &all, err));
    *dtype = all.list.v[0].from.type.dtype;
    size_t each = mr_dtype_bytes(*dtype);
    out = mri_alloc(s->n * each);
    for (size_t i = 0; i < all.list.n; i++) {
        const mri_stretch *x = &all.list.v[i];
        const mri_stored *part;
        char *to = out + x->at * each;
        for (uint32_t k = 0; (part = mri_stretch_part(x, k)); k++)
            if (strcmp(part->type.dtype, *dtype)) {
                st = mr_fail(err, MR_E_STORE_FORMAT, MR_BLAME_USER,
                             "%s: tensor %s is %s, %s of the same parameter is %s", where,
                             part->name, part->type.dtype, all.list.v[0].from.name, *dtype);
                goto out;
            }
        if (x->turned)
            MR_TRY(join_turned(x, to, *dtype, err));
        else if (x->from.rule)
            mri_stored_read(&x->from, 0, x->n, (float *)(void *)to);
        else
            memcpy(to, x->from.data->data, mr_bytes(&x->from.type));
    }
out:
    if (st) {
        free(out);
        out = NULL;
    }
    mri_pieces_free(&all);
    *data = out;
    return st;
}
