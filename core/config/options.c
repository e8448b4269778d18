/* SPDX-License-Identifier: Apache-2.0
 * options.c - option rows: their walk, their pages, and the check that they are sound. */
#include "option.h"
#include "ini.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    size_t storage, align;
    bool owns, ranged;
} type_table[] = {
    [MR_T_BOOL] = { "bool", sizeof(int32_t), 4, false, false },
    [MR_T_INT] = { "int", sizeof(int64_t), 8, false, true },
    [MR_T_FLOAT] = { "float", sizeof(double), 8, false, true },
    [MR_T_SIZE] = { "size", sizeof(int64_t), 8, false, true },
    [MR_T_TIME] = { "time", sizeof(double), 8, false, true },
    [MR_T_STR] = { "text", sizeof(char *), sizeof(char *), true, false },
    [MR_T_PATH] = { "path", sizeof(char *), sizeof(char *), true, false },
    [MR_T_ENUM] = { "word", sizeof(char *), sizeof(char *), true, false },
    [MR_T_LIST] = { "list", sizeof(mr_list), 8, true, false },
};

static bool type_known(uint32_t type)
{
    return type >= MR_T_BOOL && type <= MR_T_LIST;
}

size_t mri_opt_storage(uint32_t type)
{
    return type_known(type) ? type_table[type].storage : 0;
}

bool mri_opt_owns(uint32_t type)
{
    return type_known(type) && type_table[type].owns;
}

const mr_opt *mri_opt_row(const mr_opt *opts, uint32_t n, uint32_t i)
{
    if (i >= n || !opts)
        return NULL;
    const char *p = (const char *)opts;
    while (i--)
        p += ((const mr_opt *)(const void *)p)->size;
    return (const mr_opt *)(const void *)p;
}

mr_opt mri_opt_read(const mr_opt *row)
{
    mr_opt o = { 0 };
    memcpy(&o, row, row->size < sizeof o ? row->size : sizeof o);
    return o;
}

bool mri_opt_has_word(const char *choices, const char *word, size_t n, uint32_t *index)
{
    uint32_t i = 0;
    for (const char *c = choices; c && n; i++) {
        size_t len = strcspn(c, "|");
        if (len == n && !memcmp(c, word, n)) {
            if (index)
                *index = i;
            return true;
        }
        c = c[len] ? c + len + 1 : NULL;
    }
    return false;
}

/* A limit in the unit that a person would write. */
static void add_limit(uint32_t type, double x, mri_str *out)
{
    static const char *const unit[] = { "", "KiB", "MiB", "GiB", "TiB" };
    int u = 0;
    while (type == MR_T_SIZE && x >= 1024 && u < 4 && fmod(x, 1024) == 0) {
        x /= 1024;
        u++;
    }
    char text[40], round[40];
    snprintf(text, sizeof text, "%.15g", x);
    snprintf(round, sizeof round, "%.0e", x); /* 1e+12 reads better than twelve zeros */
    if (fabs(x) >= 1e6 && strtod(round, NULL) == x)
        snprintf(text, sizeof text, "%.1se%d", round, atoi(strchr(round, 'e') + 1));
    mri_str_fmt(out, "%s%s%s", text, unit[u], type == MR_T_TIME ? "s" : "");
}

void mri_opt_type_text(const mr_opt *o, mri_str *out)
{
    if (o->type == MR_T_ENUM && o->choices) {
        mri_str_add(out, o->choices);
        return;
    }
    mri_str_add(out, type_known(o->type) ? type_table[o->type].name : "?");
    if (o->lo < o->hi && type_known(o->type) && type_table[o->type].ranged) {
        mri_str_add(out, " ");
        if (!isinf(o->lo))
            add_limit(o->type, o->lo, out);
        mri_str_add(out, "..");
        if (!isinf(o->hi))
            add_limit(o->type, o->hi, out);
    }
    if (o->choices)
        mri_str_fmt(out, "|%s", o->choices);
}

void mri_option_print(const mr_opt *row, mri_str *out)
{
    mr_opt o = mri_opt_read(row);
    mri_str type = { 0 };
    mri_opt_type_text(&o, &type);
    mri_str_fmt(out, "%-21s = %-10s ; %-20s  %s", o.key, o.def ? o.def : "", type.s, o.doc);
    if (o.flags & MR_OPT_REQUIRED)
        mri_str_add(out, " (required)");
    if (o.was)
        mri_str_fmt(out, " (was: %s)", o.was);
    mri_str_add(out, "\n");
    mri_str_free(&type);
}

static mr_status unsound(mr_err *err, const char *key, const char *fmt, const char *arg)
{
    mri_str why = { 0 };
    mri_str_add(&why, fmt);
    if (arg)
        mri_str_fmt(&why, " %s", arg);
    mr_fail(err, MR_E_PLUGIN_MALFORMED, MR_BLAME_PLUGIN, "option '%.60s': %s", key, why.s);
    mri_str_free(&why);
    return MR_E_PLUGIN_MALFORMED;
}

static bool name_taken(const mr_opt *opts, uint32_t upto, const char *name)
{
    for (uint32_t j = 0; j < upto; j++) {
        mr_opt o = mri_opt_read(mri_opt_row(opts, upto, j));
        if (!strcmp(o.key, name) || (o.was && !strcmp(o.was, name)))
            return true;
    }
    return false;
}

static mr_status check_default(const mr_opt *o, mr_err *err)
{
    mr_err inner = MR_ERR_INIT;
    mr_opt alone = *o; /* into a slot of its own: config_size is the plugin's word */
    mr_list slot = { NULL, 0 };
    alone.size = sizeof alone;
    alone.offset = 0;
    mr_status st = mri_option_parse(&alone, o->def, "/", &slot, &inner);
    if (!st && mri_opt_owns(o->type))
        free((void *)slot.v);
    return st ? unsound(err, o->key, "its default does not pass:", inner.what) : 0;
}

static mr_status check_row(const mr_opt *opts, uint32_t i, const mr_opt *row,
                           uint32_t config_size, mr_err *err)
{
    mr_opt o = mri_opt_read(row);
    size_t storage = mri_opt_storage(o.type);
    if (!o.key || !mri_ini_name_ok(o.key, strnlen(o.key, MRI_INI_MAX_NAME + 1), false))
        return mr_fail(err, MR_E_PLUGIN_MALFORMED, MR_BLAME_PLUGIN,
                       "option row %u: '%.60s' cannot be a key (letters, digits, _ and -; at most "
                       "48)", i, o.key ? o.key : "(null)");
    if (!storage)
        return unsound(err, o.key, "its type is none of MR_T_*", NULL);
    if (!o.doc || !*o.doc)
        return unsound(err, o.key, "it has no doc", NULL);
    if (strchr(o.doc, '\n'))
        return unsound(err, o.key, "its doc is more than one line", NULL);
    if (o.offset > config_size || storage > config_size - o.offset)
        return unsound(err, o.key, "its storage ends past config_size", NULL);
    if (o.offset % type_table[o.type].align)
        return unsound(err, o.key, "its offset is not aligned for its type", NULL);
    for (uint32_t j = 0; j < i; j++) {
        mr_opt e = mri_opt_read(mri_opt_row(opts, i, j));
        if (o.offset < e.offset + mri_opt_storage(e.type) && e.offset < o.offset + storage)
            return unsound(err, o.key, "it shares its storage with", e.key);
    }
    if (name_taken(opts, i, o.key) || (o.was && name_taken(opts, i, o.was)))
        return unsound(err, o.key, "its key is given twice", NULL);
    if (o.type == MR_T_ENUM && (!o.choices || !*o.choices))
        return unsound(err, o.key, "it is an ENUM without choices", NULL);
    if (isnan(o.lo) || isnan(o.hi) || o.lo > o.hi)
        return unsound(err, o.key, "its range is empty", NULL);
    if ((o.flags & MR_OPT_REQUIRED) && o.def)
        return unsound(err, o.key, "it is required, so its default can never be used", NULL);
    return o.def ? check_default(&o, err) : 0;
}

mr_status mri_options_check(const mr_opt *opts, uint32_t n, uint32_t config_size, mr_err *err)
{
    if (n && !opts)
        return mr_fail(err, MR_E_PLUGIN_MALFORMED, MR_BLAME_PLUGIN, "%u option rows at NULL", n);
    const char *p = (const char *)opts;
    for (uint32_t i = 0; i < n; i++) {
        const mr_opt *row = (const mr_opt *)(const void *)p;
        if (!MR_HAS(row, hi) || row->size % sizeof(void *) || row->size > 4096)
            return mr_fail(err, MR_E_PLUGIN_MALFORMED, MR_BLAME_PLUGIN,
                           "option row %u has size %u; this header's rows have %zu", i, row->size,
                           sizeof *row);
        mr_status st = check_row(opts, i, row, config_size, err);
        if (st)
            return st;
        p += row->size;
    }
    return 0;
}
