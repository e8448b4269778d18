/* SPDX-License-Identifier: Apache-2.0
 *
 * case.c - makes a sample case concrete: "x=F[7,16] w=F[5,16] ids=i32[7]<9 @eps=1e-5" becomes
 * types, filled buffers and attributes (the language is described in mrun/op.h). The numbers
 * are a pure function of the seed, the operand's number and the element.
 */
#include "core/ops/catalogue.h"
#include "core/ops/common.h"
#include <stdlib.h>
#include <string.h>

static mr_status bad(mr_err *err, const mr_op_def *def, const char *text, const char *fmt, ...)
    MR_PRINTF(4, 5);

static mr_status bad(mr_err *err, const mr_op_def *def, const char *text, const char *fmt, ...)
{
    char why[160];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(why, sizeof why, fmt, ap);
    va_end(ap);
    mr_fail(err, MR_E_ARG, MR_BLAME_PLUGIN, "op %s: malformed case: %s", def->id, why);
    mr_detail(err, "in \"%s\"", text);
    return MR_E_ARG;
}

/* ---- numbers ---------------------------------------------------------------------------- */
static uint64_t draw(uint64_t key, uint64_t i) /* splitmix64, counter-based */
{
    uint64_t z = key + (i + 1) * 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static double uniform(uint64_t key, uint64_t i) /* (0,1) */
{
    return ((double)(draw(key, i) >> 11) + 0.5) * 0x1p-53;
}

static double normal(uint64_t key, uint64_t i)
{
    return sqrt(-2 * log(uniform(key, 2 * i))) * cos(6.283185307179586 * uniform(key, 2 * i + 1));
}

/* ---- fills: a word, maybe a number after it, and what it does to an operand --------------- */
typedef struct fill_job {
    mri_view v;
    void *data;
    size_t width;   /* bytes of an element */
    int64_t n, arg; /* elements; the number in the text */
    uint64_t key;
    mri_view other; /* of inv:NAME */
    int64_t other_n;
    const char *list; /* of {1,2,3} */
} fill_job;

/* Of a large operand the first PERIOD numbers are drawn and then repeat: drawing is slow. */
static bool fill_normal(const fill_job *f)
{
    enum { PERIOD = 1 << 20 };
    for (int64_t i = 0; i < f->n && i < PERIOD; i++)
        mri_put(f->v, i, normal(f->key, (uint64_t)i));
    for (int64_t i = PERIOD; i < f->n; i += PERIOD)
        memcpy((char *)f->data + (size_t)i * f->width, f->data,
               (size_t)(f->n - i < PERIOD ? f->n - i : PERIOD) * f->width);
    return true;
}

static bool fill_below(const fill_job *f)
{
    for (int64_t i = 0; i < f->n && f->arg > 0; i++)
        mri_put(f->v, i, (double)(draw(f->key, (uint64_t)i) % (uint64_t)f->arg));
    return f->arg > 0;
}

static bool fill_ramp(const fill_job *f)
{
    for (int64_t i = 0; i < f->n; i++)
        mri_put(f->v, i, (double)i);
    return true;
}

/* n sorted offsets of arg rows; parts may be empty */
static bool fill_part(const fill_job *f)
{
    for (int64_t i = 0; i < f->n; i++)
        mri_put(f->v, i, 0);
    for (int64_t r = 0; r < f->arg && f->n > 1; r++) { /* row r falls into one of n - 1 parts */
        int64_t e = (int64_t)(draw(f->key, (uint64_t)r) % (uint64_t)(f->n - 1));
        mri_acc(f->v, e + 1, 1);
    }
    for (int64_t i = 1; i < f->n; i++)
        mri_acc(f->v, i, mri_get(f->v, i - 1));
    return f->n > 1 && f->arg > 0;
}

static bool fill_perm(const fill_job *f)
{
    fill_ramp(f);
    for (int64_t i = f->n - 1; i > 0; i--) {
        int64_t j = (int64_t)(draw(f->key, (uint64_t)i) % (uint64_t)(i + 1));
        double a = mri_get(f->v, i);
        mri_put(f->v, i, mri_get(f->v, j));
        mri_put(f->v, j, a);
    }
    return true;
}

static bool fill_inv(const fill_job *f)
{
    if (!f->other.kind || f->other_n != f->n)
        return false;
    for (int64_t i = 0; i < f->n; i++) {
        int64_t at = mri_get_i(f->other, i);
        if (at < 0 || at >= f->n)
            return false;
        mri_put(f->v, at, (double)i);
    }
    return true;
}

static bool fill_pos(const fill_job *f)
{
    for (int64_t i = 0; i < f->n; i++)
        mri_put(f->v, i, 0.1 + 0.9 * uniform(f->key, (uint64_t)i));
    return true;
}

static bool fill_start(const fill_job *f)
{
    for (int64_t i = 0; i < f->n && f->arg > 0; i++)
        mri_put(f->v, i, (double)(i / f->arg * f->arg));
    return f->arg > 0;
}

static bool fill_zero(const fill_job *f)
{
    for (int64_t i = 0; i < f->n; i++)
        mri_put(f->v, i, 0);
    return true;
}

static bool fill_list(const fill_job *f)
{
    const char *p = f->list;
    for (int64_t i = 0; i < f->n; i++) {
        char *end;
        mri_put(f->v, i, strtod(p, &end));
        if (end == p || *end != (i + 1 < f->n ? ',' : '}'))
            return false;
        p = end + 1;
    }
    return !*p;
}

static const struct {
    const char *word;
    char more; /* 'n' a number follows, 'o' an operand's name, 'l' a list, 0 nothing */
    bool (*fill)(const fill_job *);
} fills[] = {
    { "<", 'n', fill_below },   { "part:", 'n', fill_part }, { "start:", 'n', fill_start },
    { "inv:", 'o', fill_inv },  { "{", 'l', fill_list },     { "ramp", 0, fill_ramp },
    { "perm", 0, fill_perm },   { "pos", 0, fill_pos },      { "zero", 0, fill_zero },
    { "", 0, fill_normal },
};

static mr_status do_fill(const mr_op_def *def, const char *text, const mri_sig *sig,
                         const char *how, uint32_t operand, uint64_t seed, mri_case *c, mr_err *err)
{
    const mr_type *t = &c->in_type[operand];
    fill_job f = { .v = mri_at(t, &c->in[operand]), .data = c->in[operand].data,
                   .width = mr_dtype_bytes(t->dtype), .n = mr_numel(t) };
    f.key = draw(draw(0x6d72756e, seed), operand);
    for (size_t k = 0; k < sizeof fills / sizeof *fills; k++) {
        size_t n = strlen(fills[k].word);
        if (strncmp(how, fills[k].word, n) || (!fills[k].more && how[n]))
            continue;
        char *end = (char *)how + strlen(how);
        if (fills[k].more == 'n')
            f.arg = strtoll(how + n, &end, 10);
        if (fills[k].more == 'l')
            f.list = how + n;
        for (uint32_t i = 0; fills[k].more == 'o' && i < operand; i++)
            if (!strcmp(sig->in[i].name, how + n) && c->in_ptr[i]) {
                f.other = mri_at(c->in_ptr[i], &c->in[i]);
                f.other_n = mr_numel(c->in_ptr[i]);
            }
        if (*end || !fills[k].fill(&f))
            break;
        return 0;
    }
    return bad(err, def, text, "%s cannot be filled by \"%s\"", sig->in[operand].name, how);
}

/* ---- operands ------------------------------------------------------------------------------ */
static void *alloc64(size_t n)
{
    void *p = aligned_alloc(64, (n + 63) / 64 * 64 + 64);
    MRI_ASSERT(p); /* read_type() bounds them */
    memset(p, 0, (n + 63) / 64 * 64 + 64);
    return p;
}

/* "F[7,16]" -> type of at most `most` elements; *rest: what follows the dims */
static bool read_type(const char *s, const char *dtype, int64_t most, mr_type *t,
                      const char **rest)
{
    char word[8];
    size_t n = strcspn(s, "[");
    if (!s[n] || !n || n >= sizeof word)
        return false;
    snprintf(word, sizeof word, "%.*s", (int)n, s);
    memset(t, 0, sizeof *t);
    t->size = sizeof *t;
    t->dtype = !strcmp(word, "F")   ? mri_dtype_name(dtype)
             : !strcmp(word, "S") ? (!strcmp(dtype, "f64") ? "f64" : "f32")
                                  : mri_dtype_name(word);
    if (!t->dtype)
        return false;
    int64_t total = 1;
    for (s += n; *s == '[' || *s == ',';) {
        char *end;
        if (t->rank == MR_MAX_RANK)
            return false;
        int64_t d = strtoll(s + 1, &end, 10);
        if (end == s + 1 || d < 1 || d > most / total)
            return false;
        t->dim[t->rank++] = d;
        total *= d;
        s = end;
    }
    *rest = s + 1;
    return *s == ']';
}

static mr_status read_operand(const mr_op_def *def, const char *text, const mri_sig *sig,
                              const char *w, const char *dtype, uint64_t seed, int64_t most,
                              mri_case *c, mr_err *err)
{
    const char *eq = strchr(w, '='), *fill;
    uint32_t i = 0;
    if (!eq)
        return bad(err, def, text, "\"%s\" is not of the form name=type", w);
    while (i < sig->n_in && (strlen(sig->in[i].name) != (size_t)(eq - w) ||
                             memcmp(sig->in[i].name, w, (size_t)(eq - w))))
        i++;
    for (uint32_t o = 0; i == sig->n_in && o < sig->n_out; o++) /* outputs from this on: left out */
        if (strlen(sig->out[o].name) == (size_t)(eq - w) && !strcmp(eq + 1, "-") &&
            !memcmp(sig->out[o].name, w, (size_t)(eq - w))) {
            c->call.n_out = o;
            return 0;
        }
    if (i == sig->n_in)
        return bad(err, def, text, "no operand \"%.*s\" in (%s)", (int)(eq - w), w, def->sig);
    if (c->in_ptr[i])
        return bad(err, def, text, "operand %s is given twice", sig->in[i].name);
    if (!strcmp(eq + 1, "-"))
        return 0;
    if (!read_type(eq + 1, dtype, most, &c->in_type[i], &fill))
        return bad(err, def, text, "\"%s\" is not of the form dtype[dims]", eq + 1);
    c->in_ptr[i] = &c->in_type[i];
    c->in[i].data = alloc64(mr_bytes(&c->in_type[i]));
    return do_fill(def, text, sig, fill, i, seed, c, err);
}

/* ---- attributes ---------------------------------------------------------------------------- */
static mr_status read_attr(const mr_op_def *def, const char *text, const mri_attr_list *list,
                           char *w, size_t *n_arrays, mri_case *c, mr_err *err)
{
    char *eq = strchr(w, '='), *end = NULL;
    if (!eq)
        return bad(err, def, text, "\"@%s\" is not of the form @key=value", w);
    *eq = 0;
    const mri_attr_decl *d = mri_attrs_find(list, w);
    if (!d)
        return bad(err, def, text, "no attribute \"%s\" in (%s)", w, def->attrs ? def->attrs : "");
    if (c->call.n_attr == MRI_MAX_ATTRS)
        return bad(err, def, text, "more than %d attributes", MRI_MAX_ATTRS);
    mr_attr *a = &c->attr[c->call.n_attr++];
    a->key = w; /* lives in c->text */
    a->type = d->type;
    a->n = 1;
    if (d->type == MR_A_STR) {
        a->u.s = eq + 1;
        return 0;
    }
    if (d->type == MR_A_I64)
        a->u.i = strtoll(eq + 1, &end, 10);
    if (d->type == MR_A_F64)
        a->u.f = strtod(eq + 1, &end);
    if (d->type == MR_A_F64S) {
        a->u.fs = c->arrays + *n_arrays;
        a->n = 0;
        for (char *p = eq + 1;; p = end + 1) {
            c->arrays[(*n_arrays)++] = strtod(p, &end);
            a->n++;
            if (end == p || *end != ',')
                break;
        }
    }
    if (end == eq + 1 || *end)
        return bad(err, def, text, "attribute %s: \"%s\" is no value of its type", w, eq + 1);
    return 0;
}

static mr_status make(const mr_op_def *def, const char *text, const char *dtype, uint64_t seed,
                      int64_t most, mri_case *c, mr_err *err)
{
    mri_sig sig;
    mri_attr_list attrs;
    mr_type *out[MRI_MAX_OPERANDS];
    mr_status st;
    size_t n_arrays = 0;
    memset(c, 0, sizeof *c);
    if (!dtype)
        dtype = "f32";
    if (strcmp(dtype, "f32") && strcmp(dtype, "bf16") && strcmp(dtype, "f64"))
        return bad(err, def, text, "dtype %s for F, must be f32, bf16 or f64", dtype);
    MR_TRY(mri_sig_parse(def->sig, &sig, err));
    MR_TRY(mri_attrs_parse(def->attrs, &attrs, err));
    c->call = (mr_call){ sizeof c->call, sig.n_in, sig.n_out, 0, c->in_ptr, c->out_ptr, c->attr };
    c->text = mri_strdup(text);
    c->arrays = mri_alloc((strlen(text) + 1) * sizeof *c->arrays); /* more than it can list */

    char *save = NULL;
    for (char *w = strtok_r(c->text, " ", &save); w; w = strtok_r(NULL, " ", &save)) {
        if (*w == '@')
            MR_TRY(read_attr(def, text, &attrs, w + 1, &n_arrays, c, err));
        else
            MR_TRY(read_operand(def, text, &sig, w, dtype, seed, most, c, err));
    }
    for (uint32_t i = 0; i < c->call.n_out; i++) {
        out[i] = &c->out_type[i];
        c->out_ptr[i] = out[i];
    }
    MR_TRY(mri_op_check_call(def, &c->call, out, err));
    for (uint32_t i = 0; i < c->call.n_out; i++)
        c->out[i].data = alloc64(mr_bytes(&c->out_type[i]));
out:
    if (st)
        mri_case_free(c);
    return st;
}

mr_status mri_case_make(const mr_op_def *def, const char *text, const char *dtype, uint64_t seed,
                        mri_case *c, mr_err *err)
{
    return make(def, text, dtype, seed, 1 << 24, c, err);
}

mr_status mri_case_make_large(const mr_op_def *def, const char *text, const char *dtype,
                              uint64_t seed, mri_case *c, mr_err *err)
{
    return make(def, text, dtype, seed, 1 << 30, c, err);
}

void mri_case_free(mri_case *c)
{
    for (uint32_t i = 0; i < MRI_MAX_OPERANDS; i++) {
        free(c->in[i].data);
        free(c->out[i].data);
    }
    free(c->arrays);
    free(c->text);
    memset(c, 0, sizeof *c);
}
