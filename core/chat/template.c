/* SPDX-License-Identifier: Apache-2.0
 * template.c - see template.h. */
#include "template.h"
#include "eval.h"
#include "json_text.h"
#include <stdlib.h>
#include <string.h>

enum { MAX_SOURCE = 4 << 20 };

struct mri_template {
    char *name;
    mri_arena arena;
    mri_node *root;
};

mr_status mri_template_parse(const char *text, size_t n, const char *name, mri_template **out,
                             mr_err *err)
{
    *out = NULL;
    if (n > MAX_SOURCE)
        return mr_fail(err, MR_E_TEMPLATE, MR_BLAME_USER, "%s has %zu bytes, the limit is %d", name,
                       n, MAX_SOURCE);
    mri_template *t = mri_alloc(sizeof *t);
    t->name = mri_strdup(name);
    mri_render r = { .arena.limit = MRI_CHAT_MEMORY, .name = t->name, .err = err, .line = 1 };
    t->root = mri_parse_template(&r, text, n);
    t->arena = r.arena;
    if (r.st) {
        mri_template_free(t);
        return r.st;
    }
    *out = t;
    return 0;
}

void mri_template_free(mri_template *t)
{
    if (!t)
        return;
    mri_arena_free(&t->arena);
    free(t->name);
    free(t);
}

mr_status mri_template_render(const mri_template *t, const mri_json *vars, int64_t now,
                              mri_str *out, mr_err *err)
{
    mri_render r = { .arena.limit = MRI_CHAT_MEMORY, .name = t->name, .now = now, .err = err,
                     .line = 1 };
    mri_val given = mri_from_json(&r, vars);
    r.scope = mri_scope_new(&r, NULL);
    for (size_t i = 0; given.kind == MRI_V_DICT && i < given.d->n && !r.st; i++) {
        mri_val key = given.d->key[i];
        char *name = mri_take(&r, key.s->n + 1);
        memcpy(name, key.s->s, key.s->n);
        mri_assign(&r, name, mri_name_hash(name), given.d->val[i]);
    }
    mri_exec(&r, t->root);
    if (!r.st)
        mri_str_addn(out, r.out.s ? r.out.s : "", r.out.n);
    mri_str_free(&r.out);
    mri_arena_free(&r.arena);
    return r.st;
}
