/* SPDX-License-Identifier: Apache-2.0
 *
 * exec.c - statements (eval.h). Scopes as Jinja has them: loops, macros, blocks with an end tag
 * open one, {% if %} does not; what is set inside is gone outside, but for a namespace's values.
 */
#include "eval.h"
#include <string.h>

enum { LEAVE_BREAK = 1, LEAVE_CONTINUE = 2 };

mri_str mri_capture(mri_render *r)
{
    mri_str before = r->out;
    r->out = (mri_str){ 0 };
    return before;
}

mri_val mri_captured(mri_render *r, mri_str before)
{
    mri_val v = mri_take_str(r, &r->out);
    r->out = before;
    return v;
}

static void scoped(mri_render *r, const mri_node *list)
{
    mri_scope *outer = r->scope;
    r->scope = mri_scope_new(r, outer);
    mri_exec(r, list);
    r->scope = outer;
}

static void bind_space(mri_render *r, const mri_node *target, mri_val v)
{
    mri_val ns = mri_lookup(r, target->name, target->hash);
    if (ns.kind != MRI_V_SPACE)
        mri_raise(r, "cannot assign an attribute of '%.40s': it is no namespace()", target->name);
    else if (*target->attr == '_')
        mri_raise(r, "'%.40s': a namespace takes no names that begin with '_'", target->attr);
    else
        mri_put(r, ns, mri_text(r, target->attr), v);
}

void mri_bind(mri_render *r, const mri_node *target, mri_val v)
{
    if (target->kind == MRI_N_NAME) {
        mri_assign(r, target->name, target->hash, v);
        return;
    }
    if (target->kind == MRI_N_NSREF) {
        bind_space(r, target, v);
        return;
    }
    const mri_vlist *items = mri_items(r, v);
    size_t i = 0;
    for (const mri_node *x = target->list; x && !r->st; x = x->next, i++) {
        if (i < items->n)
            mri_bind(r, x, items->v[i]);
        else
            mri_raise(r, "not enough values to unpack (got %zu)", items->n);
    }
    if (i < items->n)
        mri_raise(r, "too many values to unpack (expected %zu)", i);
}

/* ---- loops -------------------------------------------------------------------------- */
static const mri_vlist *chosen(mri_render *r, const mri_node *n, const mri_vlist *all)
{
    mri_val out = mri_list(r, MRI_V_LIST, all->n);
    mri_scope *outer = r->scope;
    for (size_t i = 0; i < all->n && !r->st; i++) {
        r->scope = mri_scope_new(r, outer);
        mri_bind(r, n->a, all->v[i]);
        if (mri_truth(mri_eval(r, n->c)))
            mri_push(r, out, all->v[i]);
    }
    r->scope = outer;
    return out.l;
}

void mri_for(mri_render *r, const mri_node *n, mri_val over, int depth0)
{
    const mri_vlist *items = mri_items(r, over);
    mri_scope *outer = r->scope, *inner = NULL;
    uint32_t loop_hash = mri_name_hash("loop");
    if (n->c)
        items = chosen(r, n, items);
    mri_vloop *loop = mri_take(r, sizeof *loop);
    *loop = (mri_vloop){ .items = items, .depth0 = depth0, .node = n->op ? n : NULL,
                         .scope = outer };
    for (size_t i = 0; i < items->n && !r->st; i++) {
        if (!inner || inner->kept)
            inner = mri_scope_new(r, outer);
        inner->n = 0;
        r->scope = inner;
        loop->at = i;
        mri_assign(r, "loop", loop_hash, (mri_val){ .kind = MRI_V_LOOP, .loop = loop });
        mri_bind(r, n->a, items->v[i]);
        mri_exec(r, n->list);
        int leaving = r->leaving;
        r->leaving = 0;
        if (leaving == LEAVE_BREAK)
            break;
    }
    r->scope = outer;
    if (!items->n && n->other)
        scoped(r, n->other);
}

mri_val mri_loop_call(mri_render *r, mri_vloop *loop, mri_val items)
{
    mri_scope *here = r->scope;
    mri_str before;
    if (!loop->node)
        return mri_raise(r, "loop(...) needs {%% for ... recursive %%}");
    before = mri_capture(r);
    r->scope = loop->scope;
    mri_for(r, loop->node, items, loop->depth0 + 1);
    r->scope = here;
    return mri_captured(r, before);
}

/* ---- the other statements ----------------------------------------------------------- */
static void print(mri_render *r, const mri_node *n)
{
    mri_val v = mri_eval(r, n->a);
    r->line = n->line;
    if (!r->st)
        mri_show(r, v, &r->out);
}

static mri_val block_text(mri_render *r, const mri_node *list, const mri_node *filters)
{
    mri_str before = mri_capture(r);
    mri_val outer = r->piped, v;
    scoped(r, list);
    v = mri_captured(r, before);
    if (filters) {
        r->piped = v;
        v = mri_eval(r, filters);
        r->piped = outer;
    }
    return v;
}

static void if_chain(mri_render *r, const mri_node *n)
{
    while (n && !r->st) {
        if (mri_truth(mri_eval(r, n->a))) {
            mri_exec(r, n->list);
            return;
        }
        n = n->other;
        if (n && (n->kind != MRI_N_IF || n->next)) {
            mri_exec(r, n);
            return;
        }
    }
}

static void with(mri_render *r, const mri_node *n)
{
    mri_scope *outer = r->scope, *inner = mri_scope_new(r, outer);
    for (const mri_node *x = n->params; x && !r->st; x = x->next) {
        mri_val v = mri_eval(r, x->b); /* outside: the new names are not seen */
        r->scope = inner;
        mri_bind(r, x->a, v);
        r->scope = outer;
    }
    r->scope = inner;
    mri_exec(r, n->list);
    r->scope = outer;
}

static mri_val macro_of(mri_render *r, const mri_node *n)
{
    mri_vmacro *m = mri_take(r, sizeof *m);
    *m = (mri_vmacro){ n, r->scope };
    for (mri_scope *s = r->scope; s; s = s->parent)
        s->kept = true;
    return (mri_val){ .kind = MRI_V_MACRO, .macro = m };
}

/* The call of the block, with its body as the keyword argument `caller`. */
static void call_block(mri_render *r, const mri_node *n)
{
    mri_val caller = macro_of(r, n);
    mri_node arg = { .kind = MRI_N_ARG, .name = "caller", .line = n->line };
    mri_node given = { .kind = MRI_N_CONST, .value = caller }, call = *n->a;
    arg.a = &given;
    arg.next = call.list; /* keywords are sorted out by name */
    call.list = &arg;
    mri_val v = mri_eval(r, &call);
    if (!r->st)
        mri_show(r, v, &r->out);
}

static void statement(mri_render *r, const mri_node *n)
{
    switch (n->kind) {
    case MRI_N_DATA:
        mri_spend(r, n->value.s->n);
        mri_str_addn(&r->out, n->value.s->s, n->value.s->n);
        break;
    case MRI_N_PRINT:
        print(r, n);
        break;
    case MRI_N_FOR:
        mri_for(r, n, mri_eval(r, n->b), 0);
        break;
    case MRI_N_IF:
        if_chain(r, n);
        break;
    case MRI_N_SET:
        mri_bind(r, n->a, mri_eval(r, n->b));
        break;
    case MRI_N_SET_BLOCK:
        mri_bind(r, n->a, block_text(r, n->list, n->b));
        break;
    case MRI_N_FILTER_BLOCK:
        mri_show(r, block_text(r, n->list, n->a), &r->out);
        break;
    case MRI_N_MACRO:
        mri_assign(r, n->name, n->hash, macro_of(r, n));
        break;
    case MRI_N_CALL_BLOCK:
        call_block(r, n);
        break;
    case MRI_N_WITH:
        with(r, n);
        break;
    case MRI_N_SCOPE:
        scoped(r, n->list);
        break;
    case MRI_N_BREAK:
        r->leaving = LEAVE_BREAK;
        break;
    default:
        r->leaving = LEAVE_CONTINUE;
        break;
    }
}

void mri_exec(mri_render *r, const mri_node *list)
{
    if (++r->depth > MRI_CHAT_DEPTH)
        mri_raise(r, "blocks and calls are nested more than %d deep", MRI_CHAT_DEPTH);
    for (const mri_node *n = list; n && mri_spend(r, 0) && !r->leaving; n = n->next) {
        r->line = n->line;
        statement(r, n);
        if (r->out.n > MRI_CHAT_OUTPUT)
            mri_raise(r, "the text is longer than %d MiB", MRI_CHAT_OUTPUT >> 20);
    }
    r->depth--;
}
