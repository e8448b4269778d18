/* SPDX-License-Identifier: Apache-2.0
 *
 * infer.c - infers and checks the types of one use of an op from its typed signature,
 * "x:F[..,I] w:G[O,I] bias:G[O] -> y:F[..,O]" (the language is described in common.h).
 * Every op's shape errors come from here, so that they all read the same: the operand, what
 * it is, what was expected, and which operand each expected dim comes from.
 */
#include "core/ops/common.h"
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_DIMS = 24, NAME = 16 };

typedef struct infer {
    const char *op;
    mr_err *err;
    struct {
        char name[NAME], from[24];
        int64_t n;
    } dim[MAX_DIMS];
    uint32_t n_dims;
    bool has_lead; /* the dims that ".." stands for */
    uint32_t lead_rank;
    int64_t lead[MR_MAX_RANK];
    const char *dtype[3]; /* F G H, NULL while unbound */
} infer;

/* One operand of the spec, taken apart. */
typedef struct spec_operand {
    char name[24], dtype[8];
    char dim[MR_MAX_RANK][NAME];
    uint32_t n; /* dims without ".." */
    bool lead, any_shape;
} spec_operand;

const char *mri_dtype_name(const char *s)
{
    static const char *const known[] = { "f32", "f64", "bf16", "i32",    "i64",   "u8",
                                         "f16", "i16", "i8",   "f8e4m3", "f8e5m2" };
    for (size_t i = 0; s && i < sizeof known / sizeof *known; i++)
        if (!strcmp(s, known[i]))
            return known[i];
    return NULL;
}

const char *mri_type_text(const mr_type *t, char s[MRI_TYPE_TEXT])
{
    if (!t)
        return strcpy(s, "absent");
    int n = snprintf(s, MRI_TYPE_TEXT, "%.12s [", t->dtype ? t->dtype : "(no dtype)");
    for (uint32_t i = 0; i < t->rank && i < MR_MAX_RANK && n < MRI_TYPE_TEXT - 24; i++)
        n += snprintf(s + n, (size_t)(MRI_TYPE_TEXT - n), "%s%lld", i ? "," : "",
                      (long long)t->dim[i]);
    snprintf(s + n, (size_t)(MRI_TYPE_TEXT - n), "]");
    return s;
}

mr_status mri_op_fail(mr_err *err, const char *op, const char *fmt, ...)
{
    char text[200];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return mr_fail(err, MR_E_OP_SHAPE, MR_BLAME_PLUGIN, "%s: %s", op, text);
}

/* Specs are ours, not the user's: a malformed one is a bug of the op file. */
static const char *read_operand(const char *s, spec_operand *o)
{
    memset(o, 0, sizeof *o);
    size_t n = strcspn(s, ":");
    MRI_ASSERT(s[n] && n < sizeof o->name);
    memcpy(o->name, s, n);
    s += n + 1;
    n = strcspn(s, "[");
    MRI_ASSERT(s[n] && n && n < sizeof o->dtype);
    memcpy(o->dtype, s, n);
    s += n + 1;
    while (*s != ']') {
        n = strcspn(s, ",]");
        MRI_ASSERT(s[n] && n && n < NAME);
        if (n == 2 && !memcmp(s, "..", 2)) {
            MRI_ASSERT(!o->n); /* leading dims lead */
            o->lead = true;
        } else if (n == 1 && *s == '*') {
            o->any_shape = true;
        } else {
            MRI_ASSERT(o->n < MR_MAX_RANK);
            memcpy(o->dim[o->n++], s, n);
        }
        s += n + (s[n] == ',');
    }
    return s + 1;
}

static const int64_t *find_dim(const infer *f, const char *name, size_t n)
{
    for (uint32_t i = 0; i < f->n_dims; i++)
        if (strlen(f->dim[i].name) == n && !memcmp(f->dim[i].name, name, n))
            return &f->dim[i].n;
    return NULL;
}

static void bind_dim(infer *f, const char *name, int64_t n, const char *from)
{
    MRI_ASSERT(f->n_dims < MAX_DIMS && strlen(name) < NAME);
    snprintf(f->dim[f->n_dims].name, NAME, "%s", name);
    snprintf(f->dim[f->n_dims].from, sizeof f->dim[0].from, "%s", from);
    f->dim[f->n_dims++].n = n;
}

/* Value of "16", "I", "E+1" or "T*K", left to right; false if a name in it is unbound. */
static bool eval_dim(const infer *f, const char *e, int64_t *value)
{
    char op = 0;
    *value = 0;
    for (;;) {
        size_t n = strcspn(e, "+*");
        int64_t term = 0;
        if (isdigit((unsigned char)*e)) {
            term = strtoll(e, NULL, 10);
        } else {
            const int64_t *d = find_dim(f, e, n);
            if (!d)
                return false;
            term = *d;
        }
        if (op == '*' ? __builtin_mul_overflow(*value, term, value)
                      : __builtin_add_overflow(*value, term, value))
            *value = -1; /* matches no dim */
        if (!e[n])
            return true;
        op = e[n];
        e += n + 1;
    }
}

static const char *want_dtype(const infer *f, const char *d) /* NULL: any float, or any at all */
{
    if (!strcmp(d, "*"))
        return NULL;
    if (!strcmp(d, "S"))
        return f->dtype[0] && !strcmp(f->dtype[0], "f64") ? "f64" : "f32";
    if (*d >= 'F' && *d <= 'H' && !d[1])
        return f->dtype[*d - 'F'];
    return mri_dtype_name(d);
}

static bool dtype_fits(infer *f, const spec_operand *o, const mr_type *t)
{
    const char *want = want_dtype(f, o->dtype);
    if (want)
        return mr_is(t, want);
    if (*o->dtype == '*')
        return mri_dtype_name(t->dtype) != NULL;
    if (!mr_is(t, "f32") && !mr_is(t, "bf16") && !mr_is(t, "f64"))
        return false;
    f->dtype[*o->dtype - 'F'] = mri_dtype_name(t->dtype);
    return true;
}

static bool dims_fit(infer *f, const spec_operand *o, const mr_type *t)
{
    if (o->any_shape)
        return true;
    if (o->lead ? t->rank < o->n : t->rank != o->n)
        return false;
    uint32_t lead = t->rank - o->n;
    if (o->lead && !f->has_lead) {
        f->has_lead = true;
        f->lead_rank = lead;
        memcpy(f->lead, t->dim, lead * sizeof *f->lead);
    } else if (o->lead && (lead != f->lead_rank ||
                           memcmp(f->lead, t->dim, lead * sizeof *f->lead))) {
        return false;
    }
    for (uint32_t i = 0; i < o->n; i++) {
        int64_t want;
        if (eval_dim(f, o->dim[i], &want)) {
            if (want != t->dim[lead + i])
                return false;
        } else if (!o->dim[i][strcspn(o->dim[i], "+*")]) {
            bind_dim(f, o->dim[i], t->dim[lead + i], o->name);
        }
    }
    return true;
}

static void expected_text(const infer *f, const spec_operand *o, mri_str *b)
{
    const char *want = want_dtype(f, o->dtype);
    mri_str_add(b, want ? want : *o->dtype == '*' ? "any dtype" : "f32, bf16 or f64");
    mri_str_add(b, " [");
    const char *comma = "";
    if (o->any_shape)
        mri_str_add(b, "any shape");
    if (o->lead && !f->has_lead) {
        mri_str_add(b, "..");
        comma = ",";
    }
    for (uint32_t i = 0; o->lead && f->has_lead && i < f->lead_rank; i++, comma = ",")
        mri_str_fmt(b, "%s%lld", comma, (long long)f->lead[i]);
    for (uint32_t i = 0; i < o->n; i++, comma = ",") {
        int64_t n;
        bool number = isdigit((unsigned char)o->dim[i][0]) && !o->dim[i][strcspn(o->dim[i], "+*")];
        mri_str_fmt(b, "%s%s", comma, o->dim[i]);
        if (!number && eval_dim(f, o->dim[i], &n))
            mri_str_fmt(b, "=%lld", (long long)n);
    }
    mri_str_add(b, "]");
}

static mr_status mismatch(const infer *before, const spec_operand *o, const mr_type *t)
{
    char got[MRI_TYPE_TEXT];
    mri_str want = { 0 }, why = { 0 };
    expected_text(before, o, &want);
    for (uint32_t i = 0; i < before->n_dims; i++)
        mri_str_fmt(&why, "%s%s=%lld from %s", i ? ", " : "", before->dim[i].name,
                    (long long)before->dim[i].n, before->dim[i].from);
    mr_status st = mri_op_fail(before->err, before->op, "%s is %s, expected %s", o->name,
                               mri_type_text(t, got), want.s);
    if (why.s)
        mr_detail(before->err, "%s", why.s);
    mri_str_free(&want);
    mri_str_free(&why);
    return st;
}

/* dims are positive, and the element count cannot overflow a byte count */
static bool sane(const mr_type *t)
{
    int64_t n = 8;
    if (!t->dtype || t->rank > MR_MAX_RANK)
        return false;
    for (uint32_t i = 0; i < t->rank; i++)
        if (t->dim[i] < 1 || __builtin_mul_overflow(n, t->dim[i], &n))
            return false;
    return true;
}

static void fill(const infer *f, const spec_operand *o, mr_type *t)
{
    memset(t, 0, sizeof *t);
    t->size = sizeof *t;
    t->dtype = want_dtype(f, o->dtype);
    MRI_ASSERT(t->dtype && !o->any_shape);
    if (o->lead) {
        MRI_ASSERT(f->has_lead && f->lead_rank + o->n <= MR_MAX_RANK);
        memcpy(t->dim, f->lead, f->lead_rank * sizeof *f->lead);
        t->rank = f->lead_rank;
    }
    for (uint32_t i = 0; i < o->n; i++)
        MRI_ASSERT(eval_dim(f, o->dim[i], &t->dim[t->rank++]));
}

mr_status mri_infer(const mr_call *c, mr_type *const *out, mr_err *err, const char *op,
                    const char *spec, const mri_given *given)
{
    infer f = { .op = op, .err = err };
    bool outputs = false;
    uint32_t i = 0;
    for (; given && given->name; given++)
        bind_dim(&f, given->name, given->n, "the attributes");
    for (const char *s = spec; *(s += strspn(s, " "));) {
        spec_operand o;
        if (!strncmp(s, "->", 2)) {
            outputs = true;
            i = 0;
            s += 2;
            continue;
        }
        s = read_operand(s, &o);
        if (outputs) {
            if (i < c->n_out && out && out[i]) {
                fill(&f, &o, out[i]);
                if (!sane(out[i]))
                    return mri_op_fail(err, op, "output %s would be too large", o.name);
            }
        } else if (mri_in(c, i)) {
            const mr_type *t = c->in[i];
            infer before = f;
            if (!sane(t) || !dtype_fits(&f, &o, t) || !dims_fit(&f, &o, t))
                return mismatch(&before, &o, t);
        }
        i++;
    }
    return 0;
}
