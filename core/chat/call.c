/* SPDX-License-Identifier: Apache-2.0
 *
 * call.c - calling what a template can call: macros, built-in functions, methods, loop(...)
 * (eval.h).
 */
#include "eval.h"
#include <string.h>

/* The i-th name of "a b c", and its length; NULL behind the last. */
static const char *param(const char *params, size_t i, size_t *n)
{
    for (const char *p = params;; p += *n, i--) {
        p += *p == ' ';
        *n = strcspn(p, " ");
        if (!*n || !i)
            return *n ? p : NULL;
    }
}

static size_t param_named(const char *params, const char *name)
{
    const char *p;
    size_t n;
    for (size_t i = 0; (p = param(params, i, &n)); i++)
        if (strlen(name) == n && !strncmp(p, name, n))
            return i;
    return SIZE_MAX;
}

mri_val mri_invoke(mri_render *r, const mri_func *f, const mri_val *first, const mri_args *args)
{
    mri_val slot[MRI_MAX_PARAMS] = { 0 };
    size_t n, have = 0;
    if (r->st)
        return mri_none();
    if (first)
        slot[have++] = *first;
    if (f->params) {
        for (size_t i = 0; i < args->n; i++) {
            if (!param(f->params, have, &n))
                return mri_raise(r, "%s takes fewer arguments than %zu", f->name, args->n);
            slot[have++] = args->pos[i];
        }
        for (size_t i = 0; i < args->n_kw; i++) {
            size_t at = param_named(f->params, args->name[i]);
            if (at == SIZE_MAX || slot[at].kind != MRI_V_ABSENT)
                return mri_raise(r, "%s takes no argument '%.40s', or has it already", f->name,
                                 args->name[i]);
            slot[at] = args->kw[i];
        }
        for (int i = 0; i < f->required; i++)
            if (slot[i].kind == MRI_V_ABSENT)
                return mri_raise(r, "%s lacks the argument '%.*s'", f->name,
                                 (int)strcspn(param(f->params, (size_t)i, &n), " "),
                                 param(f->params, (size_t)i, &n));
    }
    return f->call(r, slot, args);
}

/* Sets a parameter from what was given, else from its default, which sees those before it. */
static void set_param(mri_render *r, const mri_node *p, size_t i, const mri_args *args, bool *used)
{
    mri_val v = { .kind = MRI_V_ABSENT };
    if (i < args->n)
        v = args->pos[i];
    for (size_t k = 0; k < args->n_kw && i >= args->n; k++)
        if (!strcmp(args->name[k], p->name)) {
            v = args->kw[k];
            used[k] = true;
        }
    if (v.kind == MRI_V_ABSENT)
        v = p->a ? mri_eval(r, p->a) : mri_undef(r, p->name);
    mri_assign(r, p->name, p->hash, v);
}

/* varargs, kwargs and caller: what was given beyond the parameters */
static void set_rest(mri_render *r, const mri_vmacro *m, size_t n, const mri_args *args,
                     const bool *used)
{
    mri_val more = mri_list(r, MRI_V_TUPLE, 2), kw = mri_dict(r, MRI_V_DICT);
    mri_assign(r, "caller", mri_name_hash("caller"), mri_undef(r, "caller"));
    for (size_t i = n; i < args->n && !r->st; i++)
        mri_push(r, more, args->pos[i]);
    for (size_t i = 0; i < args->n_kw && !r->st; i++) {
        if (used[i])
            continue;
        if (!strcmp(args->name[i], "caller"))
            mri_assign(r, "caller", mri_name_hash("caller"), args->kw[i]);
        else
            mri_put(r, kw, mri_text(r, args->name[i]), args->kw[i]);
    }
    bool macro = m->node->kind == MRI_N_MACRO;
    if (more.l->n && !(macro && m->node->op & MRI_REST_POS))
        mri_raise(r, "macro '%.40s' takes not more than %zu arguments", m->node->name, n);
    if (kw.d->n && !(macro && m->node->op & MRI_REST_KW))
        mri_raise(r, "macro '%.40s' takes no argument '%.*s'", m->node->name,
                  (int)kw.d->key[0].s->n, kw.d->key[0].s->s);
    mri_assign(r, "varargs", mri_name_hash("varargs"), more);
    mri_assign(r, "kwargs", mri_name_hash("kwargs"), kw);
}

static mri_val macro_call(mri_render *r, const mri_vmacro *m, const mri_args *args)
{
    mri_scope *here = r->scope;
    bool *used = mri_take(r, args->n_kw + 1);
    size_t i = 0;
    if (++r->depth > MRI_CHAT_DEPTH)
        mri_raise(r, "calls are nested more than %d deep", MRI_CHAT_DEPTH);
    r->scope = mri_scope_new(r, m->scope);
    for (const mri_node *p = m->node->params; p && !r->st; p = p->next, i++)
        set_param(r, p, i, args, used);
    set_rest(r, m, i, args, used);
    mri_str before = mri_capture(r);
    mri_exec(r, m->node->list);
    r->leaving = 0;
    r->scope = here;
    r->depth--;
    return mri_captured(r, before);
}

mri_val mri_call(mri_render *r, mri_val fn, const mri_args *args)
{
    if (r->st)
        return mri_none();
    switch (fn.kind) {
    case MRI_V_MACRO:
        return macro_call(r, fn.macro, args);
    case MRI_V_FUNC:
        return mri_invoke(r, fn.fn->func, fn.fn->self, args);
    case MRI_V_LOOP:
        if (args->n == 1 && !args->n_kw)
            return mri_loop_call(r, fn.loop, args->pos[0]);
        return mri_raise(r, "loop(...) takes what to go over, and nothing else");
    case MRI_V_UNDEF:
        return mri_raise(r, fn.unsafe ? "%s is hidden from templates" : "%s is undefined",
                         fn.what ? fn.what : "a value");
    default:
        return mri_raise(r, "a value of type '%s' cannot be called", mri_kind_name(fn));
    }
}

const mri_func *mri_func_in(const mri_func *table, size_t n, const char *name)
{
    for (size_t i = 0; i < n; i++)
        if (!strcmp(table[i].name, name))
            return &table[i];
    return NULL;
}
