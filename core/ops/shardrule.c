/* SPDX-License-Identifier: Apache-2.0
 *
 * shardrule.c - reads "T I, O I, O -> T O | T:map O:map I:sum:-bias" (the grammar is in
 * mrun/op.h). Axes that may be split come first in mri_shard.axis, in the order declared;
 * every declared axis stands somewhere in an operand.
 */
#include "core/ops/catalogue.h"
#include <ctype.h>
#include <string.h>

enum { MAX_AXES = sizeof((mri_shard *)0)->axis / sizeof(mri_shard_axis) };

static mr_status bad(mr_err *err, const char *rule, const char *fmt, ...) MR_PRINTF(3, 4);

static mr_status bad(mr_err *err, const char *rule, const char *fmt, ...)
{
    char why[160];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(why, sizeof why, fmt, ap);
    va_end(ap);
    mr_fail(err, MR_E_ARG, MR_BLAME_PLUGIN, "malformed sharding rule: %s", why);
    mr_detail(err, "in \"%s\"", rule);
    return MR_E_ARG;
}

static bool copy_name(char *to, size_t cap, const char *s, size_t n)
{
    if (!n || n >= cap)
        return false;
    for (size_t i = 0; i < n; i++)
        if (!isalnum((unsigned char)s[i]) && s[i] != '_')
            return false;
    memcpy(to, s, n);
    to[n] = 0;
    return true;
}

static int find_axis(const mri_shard *s, const char *name)
{
    for (uint32_t i = 0; i < s->n_named; i++)
        if (!strcmp(s->axis[i].name, name))
            return (int)i;
    return -1;
}

/* "H:map:heads,kv_heads,-bias,+up" */
static mr_status read_axis(const char *rule, const char *w, size_t n, mri_shard *out, mr_err *err)
{
    const char *end = w + n, *colon = memchr(w, ':', n);
    mri_shard_axis a = { 0 };
    if (!colon || !copy_name(a.name, sizeof a.name, w, (size_t)(colon - w)))
        return bad(err, rule, "\"%.*s\" is not of the form AXIS:map or AXIS:sum", (int)n, w);
    if (end - colon >= 4 && (!memcmp(colon, ":map", 4) || !memcmp(colon, ":sum", 4)))
        a.mode = colon[1];
    const char *p = colon + 4;
    if (!a.mode || (p < end && *p != ':'))
        return bad(err, rule, "axis %s is neither map nor sum", a.name);
    while (p < end) {
        const char *s = p + 1;
        size_t len = 0;
        while (s + len < end && s[len] != ',')
            len++;
        bool need = *s == '+' || *s == '-';
        char *to = *s == '-' ? a.absent
                 : *s == '+' ? a.present
                 : a.n_attrs < 4 ? a.attrs[a.n_attrs++] : NULL;
        if (!to || *to || !copy_name(to, sizeof a.absent, s + need, len - need))
            return bad(err, rule, "axis %s: \"%.*s\" is one name too many, or none", a.name,
                       (int)len, s);
        p = s + len;
    }
    if (find_axis(out, a.name) >= 0)
        return bad(err, rule, "axis %s is declared twice", a.name);
    if (out->n_named == MAX_AXES)
        return bad(err, rule, "more than %d axes", MAX_AXES);
    out->axis[out->n_named++] = a;
    out->n_axes = out->n_named;
    return 0;
}

/* one operand's dims, "T I" or "." */
static mr_status read_dims(const char *rule, const char *s, size_t n, bool output, mri_shard *out,
                           mr_err *err)
{
    uint32_t *count = output ? &out->n_out : &out->n_in;
    if (*count == MRI_MAX_OPERANDS)
        return bad(err, rule, "more than %d operands on one side", MRI_MAX_OPERANDS);
    int8_t *dims = output ? out->out[*count] : out->in[*count];
    uint8_t *rank = output ? &out->out_rank[*count] : &out->in_rank[*count];
    ++*count;
    for (size_t i = 0; i < n;) {
        size_t len = 0;
        char name[sizeof out->axis[0].name];
        if (s[i] == ' ') {
            i++;
            continue;
        }
        while (i + len < n && s[i + len] != ' ')
            len++;
        if (*rank == MR_MAX_RANK)
            return bad(err, rule, "an operand of more than %d dims", MR_MAX_RANK);
        int axis = -1;
        if (len != 1 || s[i] != '.') {
            if (!copy_name(name, sizeof name, s + i, len))
                return bad(err, rule, "\"%.*s\" is no axis name", (int)len, s + i);
            axis = find_axis(out, name);
            if (axis < 0) {
                if (out->n_named == MAX_AXES)
                    return bad(err, rule, "more than %d axes", MAX_AXES);
                axis = (int)out->n_named++;
                memcpy(out->axis[axis].name, name, sizeof name);
            }
        }
        for (uint8_t d = 0; axis >= 0 && d < *rank; d++)
            if (dims[d] == axis)
                return bad(err, rule, "axis %s stands twice in one operand",
                           out->axis[axis].name);
        dims[(*rank)++] = (int8_t)axis;
        i += len;
    }
    if (!*rank)
        return bad(err, rule, "an operand without dims; write \".\"");
    return 0;
}

static mr_status read_side(const char *rule, const char *s, const char *end, bool output,
                           mri_shard *out, mr_err *err)
{
    mr_status st = 0;
    if (s + strspn(s, " ") >= end)
        return output ? 0 : bad(err, rule, "no operands");
    while (s <= end) {
        const char *comma = memchr(s, ',', (size_t)(end - s));
        const char *e = comma ? comma : end;
        MR_TRY(read_dims(rule, s, (size_t)(e - s), output, out, err));
        s = e + 1;
    }
out:
    return st;
}

mr_status mri_shard_parse(const char *rule, mri_shard *out, mr_err *err)
{
    mr_status st = 0;
    memset(out, 0, sizeof *out);
    memset(out->in, -1, sizeof out->in);
    memset(out->out, -1, sizeof out->out);
    if (!rule)
        return 0;
    const char *arrow = strstr(rule, "->"), *bar = arrow ? strchr(arrow, '|') : NULL;
    if (!arrow)
        return bad(err, rule, "no \"->\" between operands and outputs");
    if (!bar)
        return bad(err, rule, "no \"|\" before the axes that may be split");
    for (const char *p = bar + 1; *(p += strspn(p, " "));) {
        size_t n = strcspn(p, " ");
        MR_TRY(read_axis(rule, p, n, out, err));
        p += n;
    }
    MR_TRY(read_side(rule, rule, arrow, false, out, err));
    MR_TRY(read_side(rule, arrow + 2, bar, true, out, err));
    for (uint32_t a = 0; a < out->n_axes; a++) {
        bool used = false;
        for (uint32_t i = 0; i < MRI_MAX_OPERANDS; i++)
            for (uint32_t d = 0; d < MR_MAX_RANK; d++)
                used |= out->in[i][d] == (int)a || out->out[i][d] == (int)a;
        if (!used)
            return bad(err, rule, "axis %s is in no operand", out->axis[a].name);
    }
out:
    return st;
}

static void cut(char *to, size_t cap, const char *s, const char *end)
{
    while (s < end && *s == ' ')
        s++;
    while (end > s && end[-1] == ' ')
        end--;
    size_t n = (size_t)(end - s) < cap ? (size_t)(end - s) : cap - 1;
    memcpy(to, s, n);
    to[n] = 0;
}

bool mri_shard_alternative(const char *rules, uint32_t i, char rule[256], char key[24],
                           char word[24])
{
    const char *s = rules, *end;
    for (uint32_t k = 0; s; k++, s = end ? end + 2 : NULL) {
        end = strstr(s, "||");
        if (k < i)
            continue;
        const char *last = end ? end : s + strlen(s), *ask = memchr(s, '?', (size_t)(last - s));
        const char *eq = ask ? memchr(s, '=', (size_t)(ask - s)) : NULL;
        key[0] = word[0] = 0;
        if (eq) {
            cut(key, 24, s, eq);
            cut(word, 24, eq + 1, ask);
        }
        cut(rule, 256, eq ? ask + 1 : s, last);
        return true;
    }
    return false;
}

mr_status mri_shard_of(const mr_op_def *def, const mr_call *c, mri_shard *out, mr_err *err)
{
    char rule[256], key[24], word[24];
    for (uint32_t i = 0; def->shard && mri_shard_alternative(def->shard, i, rule, key, word); i++)
        if (!*key || !strcmp(mr_attr_s(c, key, i == 0 ? word : ""), word))
            return mri_shard_parse(rule, out, err);
    return mri_shard_parse(NULL, out, err);
}

int mri_shard_at(const mri_shard *s, bool out, uint32_t operand, uint32_t dim, uint32_t rank)
{
    if (operand >= (out ? s->n_out : s->n_in) || dim >= rank)
        return -1;
    const int8_t *axis = out ? s->out[operand] : s->in[operand];
    uint32_t n = out ? s->out_rank[operand] : s->in_rank[operand];
    if (rank > n) {
        if (dim == 0 && n > 1)
            return axis[0];
        if (n == 1) /* "T" of [B,S], or "." */
            return dim == 0 ? axis[0] : -1;
        return dim >= rank - (n - 1) ? axis[n - (rank - dim)] : -1;
    }
    return axis[n - rank + dim];
}
