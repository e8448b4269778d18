/* SPDX-License-Identifier: Apache-2.0
 * export.c - see export.h. */
#include "export.h"
#include "pieces.h"
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static size_t count_words(const char *text)
{
    size_t n = 0;
    for (const char *w = text; *(w += strspn(w, " ")); w += strcspn(w, " "))
        n++;
    return n;
}

mr_status mri_export_slot(const mri_params *p, size_t slot, bool whole, mri_exports *out,
                          mr_err *err)
{
    const mri_tensor_slot *s = &p->slots.v[slot];
    if (whole || !s->desc.tensors) {
        mri_export e = { mri_strdup(s->name), mri_slot_stored(s), slot, 0 };
        MRI_PUSH(out, e);
        return 0;
    }
    bool counted = strchr(s->desc.tensors, '#') && s->desc.type.rank > 1;
    int64_t count = counted ? s->desc.type.dim[0] : 1;
    int64_t words = (int64_t)count_words(s->desc.tensors);
    mr_type t = s->desc.type; /* of one piece: equal shares of the first dim that is not counted */
    if (counted) {
        t.rank--;
        memmove(t.dim, t.dim + 1, t.rank * sizeof *t.dim);
    }
    if (!words || t.dim[0] % words)
        return mr_fail(err, MR_E_PROGRAM, MR_BLAME_PLUGIN,
                       "parameter %s has %" PRId64 " rows for the %" PRId64 " tensors of '%s'",
                       s->name, t.dim[0], words, s->desc.tensors);
    t.dim[0] /= words;
    uint64_t at = 0;
    for (int64_t i = 0; i < count; i++)
        for (const char *w = s->desc.tensors; *(w += strspn(w, " "));) {
            size_t len = strcspn(w, " ");
            mri_export e = { mri_piece_name(s, w, len, i), t, slot, at };
            MRI_PUSH(out, e);
            at += (uint64_t)mr_numel(&t);
            w += len;
        }
    return 0;
}

mr_status mri_export_all(const mri_params *p, const mri_safetensors *like, mri_exports *out,
                         mr_err *err)
{
    mr_status st = 0;
    for (size_t i = 0; i < p->slots.n && !st; i++)
        st = mri_export_slot(p, i, like && mri_safetensors_find(like, p->slots.v[i].name), out,
                             err);
    return st;
}

void mri_exports_free(mri_exports *e)
{
    for (size_t i = 0; i < e->n; i++)
        free(e->v[i].name);
    free(e->v);
    memset(e, 0, sizeof *e);
}
