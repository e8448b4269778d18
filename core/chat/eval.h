/* SPDX-License-Identifier: Apache-2.0
 *
 * eval.h - a tree of nodes brought to life: expressions (eval.c), statements (exec.c), operators
 * (arith.c), attributes and slices (attr.c), calls (call.c), and the tables of what is built in.
 */
#ifndef MRI_CHAT_EVAL_H
#define MRI_CHAT_EVAL_H
#include "loop.h"
#include "node.h"
#include "value.h"

/* Variables of a block. Names found in no scope are looked up among the built-in functions. */
typedef struct mri_var {
    const char *name;
    uint32_t hash;
    mri_val val;
} mri_var;

struct mri_scope {
    mri_scope *parent;
    mri_var *v;
    uint32_t n, cap;
    bool kept; /* a macro or a loop object refers to it: not to be used again */
};

mri_scope *mri_scope_new(mri_render *r, mri_scope *parent);
void mri_assign(mri_render *r, const char *name, uint32_t hash, mri_val v);
mri_val mri_lookup(mri_render *r, const char *name, uint32_t hash);

mri_val mri_eval(mri_render *r, const mri_node *n);
void mri_exec(mri_render *r, const mri_node *list);
void mri_bind(mri_render *r, const mri_node *target, mri_val v); /* a name, tuple, or ns.attr */
mri_str mri_capture(mri_render *r); /* starts an output of its own; returns the one before */
mri_val mri_captured(mri_render *r, mri_str before);
mri_val mri_loop_call(mri_render *r, mri_vloop *loop, mri_val items); /* loop(items), recursive */
void mri_for(mri_render *r, const mri_node *n, mri_val items, int depth0);

mri_val mri_binary(mri_render *r, uint8_t op, mri_val a, mri_val b);
mri_val mri_add_text(mri_render *r, mri_val a, mri_val b); /* a + b */
mri_val mri_getattr(mri_render *r, mri_val of, const char *name);   /* of.name */
mri_val mri_getitem(mri_render *r, mri_val of, mri_val key);        /* of[key] */
mri_val mri_path(mri_render *r, mri_val of, mri_val path, mri_val missing); /* "a.b.0" */
mri_val mri_slice(mri_render *r, mri_val of, mri_val from, mri_val to, mri_val step);

mri_val mri_call(mri_render *r, mri_val fn, const mri_args *args);
/* Arguments onto the names of f; `first` stands before them, if it is not NULL. */
mri_val mri_invoke(mri_render *r, const mri_func *f, const mri_val *first, const mri_args *args);

/* ---- what is built in; NULL: there is no such thing --------------------------------- */
enum { MRI_MAX_PARAMS = 8 };
const mri_func *mri_filter_find(const char *name);
const mri_func *mri_number_filter_find(const char *name);
const mri_func *mri_list_filter_find(const char *name);
const mri_func *mri_pick_filter_find(const char *name);
const mri_func *mri_test_find(const char *name);
const mri_func *mri_method_find(mri_val of, const char *name, bool *unsafe);
const mri_func *mri_text_method_find(const char *name);
const mri_func *mri_parts_method_find(const char *name);
const mri_func *mri_global_find(const char *name);
const mri_func *mri_func_in(const mri_func *table, size_t n, const char *name);

mri_val mri_percent(mri_render *r, mri_val fmt, mri_val args); /* "%s of %d" % args */
mri_val mri_str_format(mri_render *r, mri_val fmt, const mri_args *args);
bool mri_need_text(mri_render *r, mri_val v, const char *what); /* an error where it is none */
const char *mri_rfind(const mri_vstr *v, size_t n, const mri_vstr *x); /* in the first n bytes */
int64_t mri_to_int(mri_render *r, mri_val v, const char *what); /* an argument that is a number */
mri_val mri_lowered(mri_render *r, mri_val v); /* strings in lower case, others as they are */
mri_val mri_sorted(mri_render *r, const mri_vlist *items, const mri_val *keys, bool reverse);

#endif
