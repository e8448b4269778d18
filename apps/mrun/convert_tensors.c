/* SPDX-License-Identifier: Apache-2.0
 *
 * convert_tensors.c - which tensors are written, and from what. The names on both sides come from
 * the family's parameter declarations alone (core/run/export.h, pieces.h); what a folder holds
 * beside them (modules without blocks, a vision tower) goes along.
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
    from.stored.name = name;
    mri_tensor t = { name, *type, NULL };
    t.type.dtype = dtype;
    MRI_PUSH(&l->out, t);
    MRI_PUSH(&l->from, from);
}

/* The dtype that a parameter (or, slot NULL, another tensor) is written in. What blocks read in f32
 * (a router's correction bias) stays as it is: rounded it would choose other experts. */
static const char *written_as(const convert_source *s, const mri_tensor_slot *slot,
                              const mri_stored *from, const char *asked)
{
    const char *own = from->type.dtype;
    if ((slot && slot->f32) || !is_float(own))
        return own;
    return asked ? asked : s->checkpoint || from->rule ? s->model->model_dtype : own;
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

static mr_status bad_shape(const char *name, const mr_type *is, const mr_type *want, mr_err *err)
{
    mri_str s = { 0 };
    mri_type_print(is, &s);
    mri_str_add(&s, ", the model's is ");
    mri_type_print(want, &s);
    mr_fail(err, MR_E_STORE_FORMAT, MR_BLAME_USER, "tensor %s is %s", name, s.s);
    mri_str_free(&s);
    return MR_E_STORE_FORMAT;
}

/* ---- what no parameter is ------------------------------------------------------------------ */

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static bool known(const char *const *names, size_t n, const char *name)
{
    return bsearch(&name, names, n, sizeof *names, by_text) != NULL;
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

/* The weight that a tensor is the codes of: "a.weight_packed" holds a.weight. The caller frees. */
static char *weight_of(const char *name)
{
    const char *end = strrchr(name, '_');
    bool packed = end && !strcmp(end, "_packed");
    return packed ? mri_strndup(name, (size_t)(end - name)) : mri_strdup(name);
}

/* Numbers that no program reads without their scales. Other whole numbers are what they are. */
static bool holds_codes(const mri_tensor *t)
{
    static const char *const dtypes[] = { "f8e4m3", "i8", "u8" };
    size_t n = strlen(t->name), k = strlen("_packed");
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++)
        if (!strcmp(t->type.dtype, dtypes[i]))
            return true;
    return n > k && !strcmp(t->name + n - k, "_packed");
}

/* Is t a part of a quantised weight, which is written without? */
static bool only_part(const convert_source *s, const char *const *names, size_t n,
                      const mri_tensor *t)
{
    char *weight = weight_of(t->name);
    bool part = mri_quant_companion(s->quant, t->name) || known(names, n, weight);
    free(weight);
    return part;
}

/* What stands beside the parameters, under its own name: numbers, also where it is quantised;
 * other things as they are. Already known names are passed over. */
static mr_status add_other(const convert_source *s, const mri_tensor *t, const char *dtype,
                           convert_list *l, mr_err *err)
{
    convert_from from = { { .name = t->name, .type = t->type, .data = t }, 0, 0, SIZE_MAX };
    char *name = mri_strdup(t->name);
    const mri_tensor *now = s->checkpoint ? copied_of(s, t, &from.slot) : NULL;
    mr_status st = 0;
    if (now)
        from.stored = (mri_stored){ .type = now->type, .data = now };
    else if (s->plain && s->quant && holds_codes(t)) {
        bool found;
        free(name);
        name = weight_of(t->name);
        MR_TRY(mri_stored_find(s->folder, s->quant, name, &from.stored, &found, err));
        MRI_ASSERT(found); /* else a reason was given */
    }
    /* a copy in the dtype of what it is a copy of, others as they are unless one is asked for */
    const mri_tensor_slot *slot = now ? &s->model->params.slots.v[from.slot] : NULL;
    const char *as = now || from.stored.rule || dtype
                         ? written_as(s, slot, &from.stored, dtype)
                         : t->type.dtype;
    push(l, name, &from.stored.type, as, from);
    list_name(&l->others, &l->n_others, name);
    return 0;
out:
    free(name);
    return st;
}

static mr_status add_others(const convert_source *s, const char *dtype, const uint8_t *used,
                            convert_list *l, mr_err *err)
{
    size_t n = l->out.n;
    const char **names = mri_alloc((n + 1) * sizeof *names);
    mr_status st = 0;
    for (size_t i = 0; i < n; i++)
        names[i] = l->out.v[i].name;
    qsort(names, n, sizeof *names, by_text);
    for (size_t i = 0; i < mri_safetensors_count(s->folder) && !st; i++) {
        const mri_tensor *t = mri_safetensors_at(s->folder, i);
        bool head = s->checkpoint && unread_head(s, t->name);
        if (used[i] || known(names, n, t->name))
            continue;
        if (head || (s->plain && only_part(s, names, n, t)))
            l->left_out++;
        else
            st = add_other(s, t, dtype, l, err);
    }
    free(names);
    return st;
}

/* ---- the lists ----------------------------------------------------------------------------- */

/* Where the numbers of one tensor come from. *found false: from nowhere. */
static mr_status find_source(const convert_source *s, const mri_export *e, convert_from *from,
                             bool *found, mr_err *err)
{
    const mri_tensor_slot *slot = &s->model->params.slots.v[e->slot];
    const char *name = s->checkpoint ? slot->name : e->name;
    const mr_type own = mri_slot_stored(slot), *type = s->checkpoint ? &own : &e->type;
    mr_status st =
        s->checkpoint ? mri_stored_find(s->weights, NULL, name, &from->stored, found, err)
                      : mri_stored_find(s->folder, s->quant, name, &from->stored, found, err);
    if (!st && *found && !same_shape(&from->stored.type, type))
        st = bad_shape(name, &from->stored.type, type, err);
    from->slot = e->slot;
    from->at = s->checkpoint ? e->at : 0;
    from->ld = s->checkpoint ? e->ld : 0;
    return st;
}

/* A parameter that is written as one, of the tensors that the folder has in its stead. *found
 * false: it has not. */
static mr_status find_joined(const convert_source *s, const mri_export *e, uint8_t *used,
                             convert_from *from, bool *found, mr_err *err)
{
    const mri_tensor_slot *slot = &s->model->params.slots.v[e->slot];
    mri_pieces all = { 0 };
    const mri_stored *part;
    mr_status st = mri_pieces_find(s->folder, s->quant, slot, s->dir, &all, err);
    for (size_t i = 0; i < all.list.n && !st; i++)
        for (uint32_t k = 0; (part = mri_stretch_part(&all.list.v[i], k)); k++)
            used[part->data - mri_safetensors_at(s->folder, 0)] = 1;
    if (!st && !s->checkpoint && !*found) {
        *found = true;
        *from = (convert_from){ { .type = e->type }, 0, 0, e->slot };
        from->stored.type.dtype = all.list.v[0].from.type.dtype;
    }
    mri_pieces_free(&all);
    return st;
}

/* The folder as it is: every tensor's bytes, quantised ones too. Those of no parameter are named
 * for talk. */
static void add_untouched(const convert_source *s, const uint8_t *used, convert_list *l)
{
    for (size_t i = 0; i < mri_safetensors_count(s->folder); i++) {
        const mri_tensor *t = mri_safetensors_at(s->folder, i);
        convert_from from = { { .name = t->name, .type = t->type, .data = t }, 0, 0, SIZE_MAX };
        push(l, mri_strdup(t->name), &t->type, t->type.dtype, from);
        if (!used[i] && !mri_quant_companion(s->quant, t->name))
            list_name(&l->others, &l->n_others, t->name);
    }
}

mr_status convert_to_hf(const convert_source *s, const char *dtype, convert_list *l, mr_err *err)
{
    const mri_params *p = &s->model->params;
    bool untouched = !s->checkpoint && !dtype;
    uint8_t *used = mri_alloc(s->folder ? mri_safetensors_count(s->folder) + 1 : 1);
    mri_exports e = { 0 };
    missing m = { 0 };
    mr_status st = 0;
    l->source = s;
    MR_TRY(mri_export_all(p, s->folder, s->quant, s->plain && s->quant, &e, err));
    for (size_t i = 0; i < e.n; i++) {
        convert_from from = { 0 };
        bool found;
        MR_TRY(find_source(s, &e.v[i], &from, &found, err));
        if (s->folder && s->plain && s->quant &&
            (p->slots.v[e.v[i].slot].desc.flags & MR_PARAM_WHOLE))
            MR_TRY(find_joined(s, &e.v[i], used, &from, &found, err));
        if (!found)
            list_name(&m.names, &m.n, s->checkpoint ? p->slots.v[e.v[i].slot].name : e.v[i].name);
        else if (untouched)
            used[from.stored.data - mri_safetensors_at(s->folder, 0)] = 1;
        else
            push(l, mri_strdup(e.v[i].name), &e.v[i].type,
                 written_as(s, &p->slots.v[e.v[i].slot], &from.stored, dtype), from);
    }
    MR_TRY(refuse_missing(s, &m, err));
    if (untouched)
        add_untouched(s, used, l);
    else if (s->folder)
        MR_TRY(add_others(s, dtype, used, l, err));
out:
    mri_exports_free(&e);
    mri_str_free(&m.names);
    free(used);
    return st;
}

mr_status convert_to_mrun(const convert_source *s, const char *dtype, convert_list *l, mr_err *err)
{
    const mri_params *p = &s->model->params;
    mri_exports e = { 0 };
    missing m = { 0 };
    mr_status st = 0;
    l->source = s;
    MR_TRY(mri_export_all(p, s->folder, s->quant, false, &e, err));
    for (size_t i = 0; i < e.n; i++) {
        const mri_tensor_slot *slot = &p->slots.v[e.v[i].slot];
        convert_from from = { 0 };
        bool found;
        MR_TRY(find_source(s, &e.v[i], &from, &found, err));
        if (!found)
            list_name(&m.names, &m.n, e.v[i].name);
        if (!found || (i && e.v[i - 1].slot == e.v[i].slot)) /* a further piece */
            continue;
        const mr_type own = mri_slot_stored(slot);
        const char *as = written_as(s, slot, &from.stored, dtype);
        if (from.stored.rule || slot->n != (uint64_t)mr_numel(&from.stored.type) || e.v[i].ld)
            from.stored.data = NULL; /* joined */
        push(l, mri_strdup(slot->name), &own, as, from);
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

/* The numbers of a tensor, or of a parameter's pieces, in new memory. */
static mr_status gather(const convert_source *s, const convert_from *from, const mri_tensor *t,
                        void **out, const char **own, mr_err *err)
{
    const mri_stored *x = &from->stored;
    uint64_t n = (uint64_t)mr_numel(&t->type);
    if (!x->data)
        return mri_pieces_join(s->folder, s->quant, &s->model->params.slots.v[from->slot], s->dir,
                               out, own, err);
    *own = x->type.dtype;
    *out = mri_alloc(n * mr_dtype_bytes(*own));
    if (x->rule)
        mri_stored_read(x, 0, (int64_t)n, *out);
    else
        mri_turn(*out, (const char *)x->data->data + from->at * mr_dtype_bytes(*own),
                 t->type.dim[0], t->type.dim[1], from->ld, mr_dtype_bytes(*own));
    return 0;
}

static mr_status bytes_of(void *ctx, const mri_tensor *t, const void **data, mr_err *err)
{
    convert_list *l = ctx;
    const convert_from *from = &l->from.v[t - l->out.v];
    const mri_stored *x = &from->stored;
    const char *own = x->type.dtype;
    void *made = NULL;
    mr_status st = 0;
    if (!x->data || x->rule || from->ld)
        MR_TRY(gather(l->source, from, t, &made, &own, err));
    *data = made ? made : (const char *)x->data->data + from->at * mr_dtype_bytes(own);
    if (strcmp(own, t->type.dtype)) {
        st = convert(l, t, *data, own, data, err);
    } else if (made) {
        free(l->room);
        l->room = made;
        made = NULL;
    }
out:
    free(made);
    return st;
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
        bool same = l->from.v[i].stored.data && !mr_dtype_bytes(t->dtype); /* less than a byte */
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
