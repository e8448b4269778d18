/* SPDX-License-Identifier: Apache-2.0
 *
 * catalogue.c - the list of all ops: ours by list.h, then those that plugins register.
 * An id is found once at most. The plugin list only grows, on the main thread, and its length
 * is published after the entry, so that any thread may look up at any time; it is the one
 * process-wide table of core/ops, as plugins are loaded once a process.
 */
#include "core/ops/catalogue.h"
#include "core/ops/common.h"
#include <ctype.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

static const mr_op_def *const families[] = {
#define MRI_OP_FAMILY(name) mri_ops_##name,
#include "core/ops/list.h"
#undef MRI_OP_FAMILY
};

enum { MAX_PLUGIN_OPS = 512 };
static const mr_op_def *plugin_ops[MAX_PLUGIN_OPS];
static _Atomic uint32_t n_plugin_ops;

const mr_op_def *mri_op_at(uint32_t i)
{
    for (size_t f = 0; f < sizeof families / sizeof *families; f++)
        for (const mr_op_def *d = families[f]; d->id; d++)
            if (!i--)
                return d;
    return i < atomic_load_explicit(&n_plugin_ops, memory_order_acquire) ? plugin_ops[i] : NULL;
}

const mr_op_def *mri_op_find(const char *id)
{
    const mr_op_def *d;
    for (size_t f = 0; f < sizeof families / sizeof *families; f++)
        for (d = families[f]; d->id; d++)
            if (!strcmp(d->id, id))
                return d;
    uint32_t n = atomic_load_explicit(&n_plugin_ops, memory_order_acquire);
    for (uint32_t i = 0; i < n; i++)
        if (!strcmp(plugin_ops[i]->id, id))
            return plugin_ops[i];
    return NULL;
}

const char *mri_op_nearest(const char *id)
{
    MRI_VEC(const char *) ids = { 0 };
    const mr_op_def *d;
    for (uint32_t i = 0; (d = mri_op_at(i)); i++)
        MRI_PUSH(&ids, d->id);
    const char *near = mri_nearest(id, ids.v, ids.n);
    free(ids.v);
    return near;
}

/* ids read like "attention.bwd", a plugin's like "acme.fused_mlp" */
static bool id_ok(const char *id)
{
    if (!id || !islower((unsigned char)*id) || strlen(id) > 63)
        return false;
    for (const char *p = id; *p; p++)
        if (!islower((unsigned char)*p) && !isdigit((unsigned char)*p) && *p != '_' && *p != '.' &&
            *p != '/')
            return false;
    return true;
}

/* One rule names as many operands as the signature has, and only what exists. */
static mr_status check_rule(const mr_op_def *def, const char *text, const mri_sig *sig,
                            const mri_attr_list *attrs, mr_err *err)
{
    mri_shard rule;
    mr_status st;
    MR_TRY(mri_shard_parse(text, &rule, err));
    if ((rule.n_in != sig->n_in || rule.n_out != sig->n_out)) {
        mr_fail(err, MR_E_ARG, MR_BLAME_PLUGIN,
                "op %s: the sharding rule has %u operands and %u outputs, the signature %u and %u",
                def->id, rule.n_in, rule.n_out, sig->n_in, sig->n_out);
        mr_detail(err, "\"%s\" for \"%s\"", text, def->sig);
        return MR_E_ARG;
    }
    for (uint32_t a = 0; a < rule.n_axes; a++) {
        for (uint32_t i = 0; i < rule.axis[a].n_attrs; i++) {
            const mri_attr_decl *d = mri_attrs_find(attrs, rule.axis[a].attrs[i]);
            if (!d || d->type != MR_A_I64)
                return mr_fail(err, MR_E_ARG, MR_BLAME_PLUGIN,
                               "op %s: axis %s divides \"%s\", which is no integer attribute",
                               def->id, rule.axis[a].name, rule.axis[a].attrs[i]);
        }
        for (uint32_t k = 0; k < 2; k++) {
            const char *name = k ? rule.axis[a].present : rule.axis[a].absent;
            bool found = !*name;
            for (uint32_t i = 0; i < sig->n_in; i++)
                found |= sig->in[i].optional && !strcmp(sig->in[i].name, name);
            if (!found)
                return mr_fail(err, MR_E_ARG, MR_BLAME_PLUGIN,
                               "op %s: axis %s depends on \"%s\", which is no optional operand",
                               def->id, rule.axis[a].name, name);
        }
    }
out:
    return st;
}

static mr_status check_rules(const mr_op_def *def, const mri_sig *sig, const mri_attr_list *attrs,
                             mr_err *err)
{
    char rule[256], key[24], word[24];
    mr_status st = 0;
    for (uint32_t i = 0; !st && def->shard && mri_shard_alternative(def->shard, i, rule, key, word);
         i++) {
        const mri_attr_decl *d = *key ? mri_attrs_find(attrs, key) : NULL;
        if (*key && (!d || d->type != MR_A_STR))
            return mr_fail(err, MR_E_ARG, MR_BLAME_PLUGIN,
                           "op %s: a sharding rule depends on \"%s\", which is no string attribute",
                           def->id, key);
        st = check_rule(def, rule, sig, attrs, err);
    }
    return st;
}

mr_status mri_op_check_def(const mr_op_def *def, mr_err *err)
{
    mri_sig sig;
    mri_attr_list attrs;
    mr_status st;
    if (!def || !MR_HAS(def, cases))
        return mr_fail(err, MR_E_ARG, MR_BLAME_PLUGIN,
                       "an op definition of %u bytes is too small (%zu are needed)",
                       def ? def->size : 0, sizeof *def);
    if (!id_ok(def->id))
        return mr_fail(err, MR_E_ARG, MR_BLAME_PLUGIN,
                       "\"%s\" is no op id: up to 63 of a-z 0-9 _ . / are", def->id ? def->id : "");
    if (!def->shape || !def->ref || !def->doc)
        return mr_fail(err, MR_E_ARG, MR_BLAME_PLUGIN, "op %s lacks %s", def->id,
                       !def->shape ? "shape()" : !def->ref ? "reference loops, ref()" : "doc");
    MR_TRY(mri_sig_parse(def->sig, &sig, err));
    MR_TRY(mri_attrs_parse(def->attrs, &attrs, err));
    MR_TRY(check_rules(def, &sig, &attrs, err));
    for (const char *const *text = def->cases; text && *text; text++) {
        mri_case c;
        MR_TRY(mri_case_make(def, *text, NULL, 1, &c, err));
        mri_case_free(&c);
    }
out:
    if (st && err && err->code == st && def && def->id && !strstr(err->what, def->id)) {
        char what[sizeof err->what];
        snprintf(what, sizeof what, "op %.63s: %.170s", def->id, err->what);
        memcpy(err->what, what, sizeof what);
    }
    return st;
}

mr_status mri_op_register(const mr_op_def *def, mr_err *err)
{
    mr_status st;
    uint32_t n = atomic_load_explicit(&n_plugin_ops, memory_order_relaxed);
    MR_TRY(mri_op_check_def(def, err));
    if (mri_op_find(def->id)) {
        mr_fail(err, MR_E_ARG, MR_BLAME_PLUGIN, "op %s exists already", def->id);
        mr_hint(err, "give a plugin's ops its own prefix, as in \"acme.%s\"", def->id);
        return MR_E_ARG;
    }
    if (n == MAX_PLUGIN_OPS)
        return mr_fail(err, MR_E_ARG, MR_BLAME_USER, "op %s: plugins brought %d ops already, the "
                       "limit", def->id, MAX_PLUGIN_OPS);
    plugin_ops[n] = def;
    atomic_store_explicit(&n_plugin_ops, n + 1, memory_order_release);
out:
    return st;
}

const mr_ref_service mri_ref_service = { sizeof(mr_ref_service), 0, mri_op_find, mri_op_at };
