/* SPDX-License-Identifier: Apache-2.0
 *
 * convert_tensors.c - which tensors are written, and from what. The names on both sides come from
 * the family's parameter declarations alone (core/run/export.h, pieces.h); what a folder holds
 * beside them (modules for multi-token prediction, a vision tower) goes along unchanged.
 */
#include "convert.h"
#include "core/run/export.h"
#include "core/run/pieces.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { LISTED = 8 }; /* names in a message */

static bool is_float(const char *dtype)
{
    return !strcmp(dtype, "f32") || !strcmp(dtype, "f64") || !strcmp(dtype, "bf16") ||
           !strcmp(dtype, "f16");
}

static bool same_shape(const mr_type *a, const mr_type *b)
{
    return a->rank == b->rank && !memcmp(a->dim, b->dim, a->rank * sizeof a->dim[0]);
}

static void list_name(mri_str *s, size_t *n, const char *name)
{
    if ((*n)++ < LISTED)
        mri_str_fmt(s, "%s%s", *n > 1 ? ", " : "", name);
}

static void push(convert_list *l, char *name, const mr_type *type, const char *dtype,
                 convert_from from)
{
    mri_tensor t = { name, *type, NULL };
    t.type.dtype = dtype;
    MRI_PUSH(&l->out, t);
    MRI_PUSH(&l->from, from);
}

/* The dtype that a parameter is written in: `own` of the source. What blocks read in f32 (a
 * router's correction bias) stays as it is: rounded it would choose other experts. */
static const char *written_as(const convert_source *s, const mri_tensor_slot *slot,
                              const char *own, const char *asked)
{
    if (slot->f32 || !is_float(own))
        return own;
    return asked ? asked : s->checkpoint ? s->model->model_dtype : own;
}

typedef struct missing {
    mri_str names;
    size_t n;
} missing;

static mr_status refuse_missing(const convert_source *s, missing *m, mr_err *err)
{
    if (!m->n)
        return 0;
    mr_fail(err, MR_E_STORE_MISSING, MR_BLAME_USER,
            "%s lacks %zu of the tensors that the model consists of",
            s->checkpoint ? "the checkpoint" : s->dir, m->n);
    mr_detail(err, "missing: %s%s", m->names.s, m->n > LISTED ? ", ..." : "");
    mr_hint(err, "mrun inspect lists what it holds; fetch the folder again, or set [model] to "
                 "what the weights are of");
    return MR_E_STORE_MISSING;
}

static mr_status bad_shape(const mri_tensor *t, const mr_type *want, mr_err *err)
{
    mri_str s = { 0 };
    mri_type_print(&t->type, &s);
    mri_str_add(&s, ", the model's is ");
    mri_type_print(want, &s);
    mr_fail(err, MR_E_STORE_FORMAT, MR_BLAME_USER, "tensor %s is %s", t->name, s.s);
    mri_str_free(&s);
    return MR_E_STORE_FORMAT;
}

/* ---- what no parameter is ------------------------------------------------------------------ */

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Is `name` one of the sorted names, or what a quantised one consists of (NAME_scale_inv)? */
static bool known(const char *const *names, size_t n, const char *name, bool *part)
{
    *part = false;
    if (bsearch(&name, names, n, sizeof *names, by_text))
        return true;
    for (const char *c = strchr(name, '_'); c && !*part; c = strchr(c + 1, '_')) {
        char *head = mri_strndup(name, (size_t)(c - name));
        const char *key = head;
        *part = bsearch(&key, names, n, sizeof *names, by_text) != NULL;
        free(head);
    }
    return false;
}

/* Modules for multi-token prediction repeat the embedding and the head. In a trained model such a
 * copy is written as the parameter is now. NULL: it is no copy. */
static const mri_tensor *copied_of(const convert_source *s, const mri_tensor *t, size_t *slot)
{
    static const struct {
        const char *ends, *of;
    } copies[] = { { ".embed_tokens.weight", "embed_tokens.weight" },
                   { ".shared_head.head.weight", "lm_head.weight" } };
    const mri_params *p = &s->model->params;
    size_t n = strlen(t->name);
    for (size_t i = 0; i < sizeof copies / sizeof *copies; i++) {
        size_t k = strlen(copies[i].ends);
        if (n < k || strcmp(t->name + n - k, copies[i].ends))
            continue;
        for (size_t j = 0; j < p->slots.n; j++) {
            const char *name = p->slots.v[j].name;
            size_t m = strlen(name), q = strlen(copies[i].of);
            const mri_tensor *first = mri_safetensors_find(s->folder, name);
            if (m >= q && !strcmp(name + m - q, copies[i].of) && first &&
                mr_same_type(&first->type, &t->type) &&
                !memcmp(first->data, t->data, mr_bytes(&t->type))) {
                *slot = j;
                return mri_safetensors_find(s->weights, name);
            }
        }
    }
    return NULL;
}

/* A head of its own in the folder of a model whose head is the embedding: never read. */
static bool unread_head(const convert_source *s, const char *name)
{
    size_t n = strlen(name), k = strlen("lm_head.weight");
    return n >= k && !strcmp(name + n - k, "lm_head.weight") &&
           mri_params_find(&s->model->params, name) < 0;
}

static void add_others(const convert_source *s, const char *dtype, convert_list *l)
{
    size_t n = l->out.n;
    const char **names = mri_alloc((n + 1) * sizeof *names);
    for (size_t i = 0; i < n; i++)
        names[i] = l->out.v[i].name;
    qsort(names, n, sizeof *names, by_text);
    for (size_t i = 0; i < mri_safetensors_count(s->folder); i++) {
        const mri_tensor *t = mri_safetensors_at(s->folder, i), *now = NULL;
        bool part;
        size_t slot = SIZE_MAX;
        if (known(names, n, t->name, &part))
            continue;
        /* the folder itself keeps all it has; a run's weights are no longer quantised */
        if (s->checkpoint && (part || unread_head(s, t->name) || !mr_dtype_bytes(t->type.dtype) ||
                              (mr_dtype_bytes(t->type.dtype) == 1))) {
            l->left_out++;
            continue;
        }
        if (s->checkpoint)
            now = copied_of(s, t, &slot);
        const char *as = dtype && is_float(t->type.dtype) ? dtype : t->type.dtype;
        if (now)
            as = written_as(s, &s->model->params.slots.v[slot], now->type.dtype, dtype);
        convert_from from = { now ? now : t, 0, slot };
        push(l, mri_strdup(t->name), &t->type, as, from);
        list_name(&l->others, &l->n_others, t->name);
    }
    free(names);
}

/* ---- the lists ----------------------------------------------------------------------------- */

mr_status convert_to_hf(const convert_source *s, const char *dtype, convert_list *l, mr_err *err)
{
    const mri_params *p = &s->model->params;
    mri_exports e = { 0 };
    missing m = { 0 };
    mr_status st = 0;
    l->source = s;
    MR_TRY(mri_export_all(p, s->folder, &e, err));
    for (size_t i = 0; i < e.n; i++) {
        const mri_tensor_slot *slot = &p->slots.v[e.v[i].slot];
        const char *name = s->checkpoint ? slot->name : e.v[i].name;
        const mr_type own = mri_slot_stored(slot), *type = s->checkpoint ? &own : &e.v[i].type;
        const mri_tensor *t = mri_safetensors_find(s->checkpoint ? s->weights : s->folder, name);
        if (!t) {
            list_name(&m.names, &m.n, name);
            continue;
        }
        if (!same_shape(&t->type, type)) {
            st = bad_shape(t, type, err);
            goto out;
        }
        convert_from from = { t, s->checkpoint ? e.v[i].at : 0, e.v[i].slot };
        push(l, mri_strdup(e.v[i].name), &e.v[i].type, written_as(s, slot, t->type.dtype, dtype),
             from);
    }
    MR_TRY(refuse_missing(s, &m, err));
    if (s->folder)
        add_others(s, dtype, l);
out:
    mri_exports_free(&e);
    mri_str_free(&m.names);
    return st;
}

mr_status convert_to_mrun(const convert_source *s, const char *dtype, convert_list *l, mr_err *err)
{
    const mri_params *p = &s->model->params;
    mri_exports e = { 0 };
    missing m = { 0 };
    mr_status st = 0;
    l->source = s;
    MR_TRY(mri_export_all(p, s->folder, &e, err));
    for (size_t i = 0; i < e.n; i++) {
        const mri_tensor_slot *slot = &p->slots.v[e.v[i].slot];
        const mri_tensor *t = mri_safetensors_find(s->folder, e.v[i].name);
        if (!t) {
            list_name(&m.names, &m.n, e.v[i].name);
            continue;
        }
        if (!same_shape(&t->type, &e.v[i].type)) {
            st = bad_shape(t, &e.v[i].type, err);
            goto out;
        }
        if (e.v[i].at) /* a further piece */
            continue;
        bool joined = slot->n != (uint64_t)mr_numel(&t->type);
        convert_from from = { joined ? NULL : t, 0, e.v[i].slot };
        const mr_type own = mri_slot_stored(slot);
        push(l, mri_strdup(slot->name), &own, written_as(s, slot, t->type.dtype, dtype), from);
    }
    MR_TRY(refuse_missing(s, &m, err));
out:
    mri_exports_free(&e);
    mri_str_free(&m.names);
    return st;
}

/* ---- their bytes --------------------------------------------------------------------------- */

/* A number that the dtype cannot hold would be written as infinity. */
static mr_status check_range(const mri_tensor *t, const char *own, const void *from, uint64_t n,
                             const void *to, mr_err *err)
{
    const uint16_t *half = to;
    float before = 0;
    if (strcmp(t->type.dtype, "f16"))
        return 0;
    for (uint64_t i = 0; i < n; i++) {
        if ((half[i] & 0x7fff) != 0x7c00)
            continue;
        mr_status st = mri_convert(&before, "f32",
                                   (const char *)from + i * mr_dtype_bytes(own), own, 1, err);
        if (st || isinf(before))
            continue;
        mr_fail(err, MR_E_ARG, MR_BLAME_USER,
                "tensor %s has the value %g, the largest of fp16 is 65504", t->name,
                (double)before);
        mr_hint(err, "bf16 has the range of fp32: --dtype bf16");
        return MR_E_ARG;
    }
    return 0;
}

static mr_status convert(convert_list *l, const mri_tensor *t, const void *from, const char *own,
                         const void **data, mr_err *err)
{
    uint64_t n = (uint64_t)mr_numel(&t->type);
    if (!mr_dtype_bytes(own) || !mr_dtype_bytes(t->type.dtype))
        return mr_fail(err, MR_E_UNSUPPORTED, MR_BLAME_USER,
                       "tensor %s: no conversion from dtype %s to %s", t->name, own, t->type.dtype);
    void *to = mri_alloc(n * mr_dtype_bytes(t->type.dtype));
    mr_status st = mri_convert(to, t->type.dtype, from, own, n, err);
    if (!st)
        st = check_range(t, own, from, n, to, err);
    free(l->room);
    *data = l->room = to;
    return st;
}

static mr_status bytes_of(void *ctx, const mri_tensor *t, const void **data, mr_err *err)
{
    convert_list *l = ctx;
    const convert_source *s = l->source;
    const convert_from *from = &l->from.v[t - l->out.v];
    const char *own;
    if (!from->t) {
        void *joined;
        const mri_tensor_slot *slot = &s->model->params.slots.v[from->slot];
        mr_status st = mri_pieces_join(s->folder, NULL, slot, s->dir, &joined, &own, err);
        if (st)
            return st;
        free(l->room);
        *data = l->room = joined;
        if (strcmp(own, t->type.dtype)) {
            l->room = NULL; /* convert() frees what it replaces */
            st = convert(l, t, joined, own, data, err);
            free(joined);
        }
        return st;
    }
    own = from->t->type.dtype;
    *data = (const char *)from->t->data + from->at * mr_dtype_bytes(own);
    return strcmp(own, t->type.dtype) ? convert(l, t, *data, own, data, err) : 0;
}

mri_tensor_source convert_bytes_of(convert_list *l)
{
    return (mri_tensor_source){ bytes_of, l };
}

uint64_t convert_bytes(const convert_list *l)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < l->out.n; i++) {
        const mr_type *t = &l->out.v[i].type;
        const mri_tensor *from = l->from.v[i].t;
        bool same = from && !mr_dtype_bytes(t->dtype); /* of less than a byte, copied as it is */
        sum += same ? (uint64_t)mr_numel(t) : (uint64_t)mr_bytes(t);
        sum += strlen(l->out.v[i].name) + 128; /* in the header */
    }
    return sum;
}

void convert_list_free(convert_list *l)
{
    for (size_t i = 0; i < l->out.n; i++)
        free((char *)l->out.v[i].name);
    free(l->out.v);
    free(l->from.v);
    free(l->room);
    mri_str_free(&l->others);
    memset(l, 0, sizeof *l);
}
