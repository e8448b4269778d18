/* SPDX-License-Identifier: Apache-2.0
 *
 * quant.c - finds a weight in a folder, and the tensors that it is put together from; see
 * quant.h. Invariant: whatever a rule will read is checked here, once a tensor, by shape and
 * dtype; nothing is sized from a number of the file before it agreed with the data beside it.
 */
#include "quant.h"
#include "core/program/program.h"
#include "dtype.h"
#include <stdlib.h>

#define BAD(...) mr_fail(err, MR_E_STORE_FORMAT, MR_BLAME_USER, __VA_ARGS__)

/* "a.b.weight" has the stem "a.b."; a fused "a.experts.down_proj" is itself the data, and has
 * the stem "a.experts.down_proj_" for what goes with it. */
static char *beside_name(const char *name, const char *suffix)
{
    size_t n = strlen(name), w = strlen("weight");
    if (n >= w && !strcmp(name + n - w, "weight"))
        return mri_format("%.*s%s", (int)(n - w), name, suffix);
    return strcmp(suffix, "weight") ? mri_format("%s_%s", name, suffix) : mri_strdup(name);
}

static const mri_tensor *beside(const mri_safetensors *f, const char *name, const char *suffix)
{
    char *full = beside_name(name, suffix);
    const mri_tensor *t = mri_safetensors_find(f, full);
    free(full);
    return t;
}

static bool one_of(const char *word, const char *const *list)
{
    while (*list && strcmp(*list, word))
        list++;
    return *list != NULL;
}

static bool is_float(const mr_type *t)
{
    static const char *const floats[] = { "f32", "bf16", "f16", "f64", NULL };
    return one_of(t->dtype, floats);
}

/* Are the dims of t those of `want`, where dims of 1 do not count? */
static bool same_but_ones(const mr_type *t, const int64_t *want, size_t n)
{
    size_t k = 0;
    for (uint32_t i = 0; i < t->rank; i++) {
        if (t->dim[i] == 1)
            continue;
        while (k < n && want[k] == 1)
            k++;
        if (k == n || want[k++] != t->dim[i])
            return false;
    }
    while (k < n && want[k] == 1)
        k++;
    return k == n;
}

static int64_t up(int64_t n, int64_t block)
{
    return n / block + (n % block != 0);
}

/* "tensor A is f32[5], which does not go with B, u8[4,8]: WHY" */
static mr_status misfit(const mri_tensor *t, const mri_tensor *data, const char *why, mr_err *err)
{
    mri_str s = { 0 };
    mri_type_print(&t->type, &s);
    mri_str_fmt(&s, ", which does not go with %s, ", data->name);
    mri_type_print(&data->type, &s);
    BAD("tensor %s is %s: %s", t->name, s.s, why);
    mri_str_free(&s);
    return MR_E_STORE_FORMAT;
}

/* ---- the parts of one weight ---------------------------------------------------------------- */
static const struct {
    const char *dtype;
    uint32_t bits; /* a code; 0: the rule's */
} code[] = {
    [MRI_CODES_E4M3] = { "f8e4m3", 8 },
    [MRI_CODES_I8] = { "i8", 8 },
    [MRI_CODES_BITS] = { "i32", 0 },
    [MRI_CODES_E2M1] = { "u8", 4 },
    [MRI_CODES_E2M1_ROWS] = { "u8", 4 },
};

static uint32_t bits_of(const mri_quant_rule *r)
{
    uint32_t bits = code[r->format->codes].bits;
    return bits ? bits : r->bits;
}

/* weight_shape: the columns that rows of whole words may be longer than */
static mr_status read_shape(mri_stored *s, const mri_tensor *shape, mr_err *err)
{
    const mr_type *t = &shape->type, *d = &s->data->type;
    int64_t v[3] = { 0 };
    bool wide = !strcmp(t->dtype, "i64");
    int64_t per = 8 * (int64_t)mr_dtype_bytes(d->dtype) / bits_of(s->rule);
    if (t->rank != 1 || t->dim[0] != d->rank || (!wide && strcmp(t->dtype, "i32")))
        return misfit(shape, s->data, "one i32 or i64 a dimension is needed", err);
    for (uint32_t i = 0; i < d->rank; i++)
        v[i] = wide ? ((const int64_t *)shape->data)[i] : ((const int32_t *)shape->data)[i];
    for (uint32_t i = 0; i + 1 < d->rank; i++)
        if (v[i] != d->dim[i])
            return misfit(shape, s->data, "it says another number of rows", err);
    if (v[d->rank - 1] < 0 || up(v[d->rank - 1], per) != d->dim[d->rank - 1])
        return misfit(shape, s->data, "its columns do not fill the words of a row", err);
    s->cols = v[d->rank - 1];
    return 0;
}

/* rows, columns and batches of the numbers, from the codes' own shape */
static mr_status lay_codes(mri_stored *s, const mri_tensor *shape, mr_err *err)
{
    const mr_type *d = &s->data->type;
    int64_t width = (int64_t)mr_dtype_bytes(d->dtype), last = d->rank ? d->dim[d->rank - 1] : 0;
    bool by_rows = s->rule->format->codes == MRI_CODES_E2M1_ROWS;
    uint64_t bytes;
    if (d->rank != 2 && d->rank != 3)
        return BAD("tensor %s has %u dimensions; quantised ones have 2 or 3", s->data->name,
                   d->rank);
    int64_t per = 8 * width / bits_of(s->rule); /* codes of one element of the data */
    if (__builtin_mul_overflow(last, by_rows ? 1 : per, &s->cols) ||
        __builtin_mul_overflow(d->dim[d->rank - 2], by_rows ? per : 1, &s->rows) ||
        __builtin_mul_overflow(last, width, &s->row_bytes))
        return BAD("tensor %s: its rows or columns overflow", s->data->name);
    mr_status st = shape ? read_shape(s, shape, err) : 0;
    if (st)
        return st;
    s->type = *d;
    s->type.dtype = "f32";
    s->type.dim[d->rank - 1] = s->cols;
    s->type.dim[d->rank - 2] = s->rows;
    if (!mri_type_bytes(&s->type, &bytes))
        return BAD("tensor %s: its shape overflows once it is unpacked", s->data->name);
    return 0;
}

static mr_status lay_scales(mri_stored *s, mr_err *err)
{
    static const char *const any[] = { "f32", "bf16", "f16", "f8e4m3", "f8e8m0", NULL };
    const mri_quant_rule *r = s->rule;
    const int64_t size[2] = { s->rows, s->cols };
    for (int i = 0; i < 2; i++) {
        s->block[i] = r->block[i] ? r->block[i] : size[i] ? size[i] : 1;
        s->grid[i] = up(size[i], s->block[i]);
    }
    int64_t want[3] = { s->type.rank == 3 ? s->type.dim[0] : 1, s->grid[0], s->grid[1] };
    if (!one_of(s->scale->type.dtype, any) || (!r->format->result && !is_float(&s->scale->type)) ||
        !strcmp(s->scale->type.dtype, "f64"))
        return misfit(s->scale, s->data, "scales are not kept in that dtype", err);
    s->one_scale = !r->block[0] && !r->block[1] && mr_numel(&s->scale->type) == 1;
    if (!s->one_scale && !same_but_ones(&s->scale->type, want, 3)) {
        char *why = mri_format("the folder's scheme has a scale every %lld x %lld, %lld x %lld in "
                               "all", (long long)s->block[0], (long long)s->block[1],
                               (long long)s->grid[0], (long long)s->grid[1]);
        misfit(s->scale, s->data, why, err);
        free(why);
        return MR_E_STORE_FORMAT;
    }
    return 0;
}

/* zero points: as the scales, or packed like the codes, along the rows */
static mr_status lay_zeros(mri_stored *s, mr_err *err)
{
    int64_t want[3] = { s->type.rank == 3 ? s->type.dim[0] : 1, s->grid[0], s->grid[1] };
    bool packed = !strcmp(s->zero->type.dtype, "i32");
    if (packed) {
        want[1] = up(s->grid[0], 32 / bits_of(s->rule));
        s->zero_row_bytes = s->grid[1] * 4;
    }
    if ((!packed && strcmp(s->zero->type.dtype, "i8")) ||
        (packed && s->rule->format->codes != MRI_CODES_BITS) ||
        (!s->one_scale && !same_but_ones(&s->zero->type, want, 3)) ||
        (s->one_scale && mr_numel(&s->zero->type) != 1))
        return misfit(s->zero, s->data, "a zero point is needed beside each scale", err);
    return 0;
}

static mr_status missing_part(const mri_tensor *data, const char *name, const char *suffix,
                              const mri_quant_rule *r, mr_err *err)
{
    char *full = beside_name(name, suffix);
    mr_fail(err, MR_E_STORE_MISSING, MR_BLAME_USER, "tensor %s is quantised (%s %s), and %s is not "
            "there", data->name, r->format->method, r->format->name, full);
    mr_hint(err, "the folder is not whole, or its quantization_config is another folder's");
    free(full);
    return MR_E_STORE_MISSING;
}

/* *data: the codes, if the rule's are there. A rule that does not fit says why. */
static mr_status meet(const mri_safetensors *f, const mri_quant_rule *r, const char *name,
                      mri_stored *s, mr_err *err)
{
    const mri_quant_format *fm = r->format;
    bool packed = fm->codes == MRI_CODES_BITS;
    const char *refused = packed                            ? "weight_g_idx"
                          : !strcmp(fm->method, "modelopt") ? "pre_quant_scale" : NULL;
    const mri_tensor *shape = packed ? beside(f, name, "weight_shape") : NULL, *global, *other;
    mr_status st = 0;
    s->rule = r;
    s->global = 1;
    if (!(s->scale = beside(f, name, fm->scale)))
        return missing_part(s->data, name, fm->scale, r, err);
    MR_TRY(lay_codes(s, shape, err));
    MR_TRY(lay_scales(s, err));
    if (r->zeros) {
        if (!(s->zero = beside(f, name, "weight_zero_point")))
            return missing_part(s->data, name, "weight_zero_point", r, err);
        MR_TRY(lay_zeros(s, err));
    }
    if (fm->global) {
        if (!(global = beside(f, name, fm->global)))
            return missing_part(s->data, name, fm->global, r, err);
        if (strcmp(global->type.dtype, "f32") || mr_numel(&global->type) != 1)
            return misfit(global, s->data, "one f32 is needed", err);
        memcpy(&s->global, global->data, sizeof s->global);
    }
    if (refused && (other = beside(f, name, refused)))
        return mr_fail(err, MR_E_UNSUPPORTED, MR_BLAME_USER,
                       "tensor %s goes with %s, which mrun does not apply", s->data->name,
                       other->name);
out:
    return st;
}

mr_status mri_stored_find(const mri_safetensors *f, const mri_quant *q, const char *name,
                          mri_stored *out, bool *found, mr_err *err)
{
    const mri_tensor *t = mri_safetensors_find(f, name);
    mr_err first = MR_ERR_INIT;
    mr_status st = 0;
    *out = (mri_stored){ .name = name, .data = t };
    *found = t && is_float(&t->type);
    if (*found) { /* a module that the scheme left alone */
        out->type = t->type;
        return 0;
    }
    for (size_t i = 0; q && i < q->rules.n; i++) {
        const mri_quant_rule *r = &q->rules.v[i];
        mri_stored s = { .name = name, .data = beside(f, name, r->format->data) };
        if (!s.data || strcmp(s.data->type.dtype, code[r->format->codes].dtype))
            continue;
        mr_err e = MR_ERR_INIT;
        mr_status one = meet(f, r, name, &s, &e);
        *found = !one;
        if (*found) {
            *out = s;
            return 0;
        }
        if (!st) { /* several rules may name the same tensors: the first one's reason is told */
            st = one;
            first = e;
        }
    }
    if (st && err)
        *err = first;
    if (!st && t) {
        st = BAD("tensor %s is %s, and the folder names no scheme that it is quantised by", name,
                 t->type.dtype);
        mr_hint(err, "quantization_config in config.json, or hf_quant_config.json, must say it");
    }
    return st;
}

bool mri_quant_companion(const mri_quant *q, const char *name)
{
    static const char *const suffix[] = {
        "weight_scale_inv", "weight_scale",       "weight_scale_2",   "weight_global_scale",
        "weight_shape",     "weight_zero_point",  "input_scale",      "input_global_scale",
        "k_scale",          "input_zero_point",   "output_scale",     "v_scale",
    };
    size_t n = strlen(name);
    for (size_t i = 0; q && i < sizeof suffix / sizeof *suffix; i++) {
        size_t k = strlen(suffix[i]);
        if (n > k && !strcmp(name + n - k, suffix[i]) && strchr("._", name[n - k - 1]))
            return true;
    }
    return false;
}
