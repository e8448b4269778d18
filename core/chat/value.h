/* SPDX-License-Identifier: Apache-2.0
 *
 * value.h - what a chat template computes with: Python's values as far as templates see them, the
 * arena that holds them, and the budget of one rendering.
 *
 * Invariants: a value never changes after it was made (the sandbox that templates are written for
 * forbids it too), but for namespaces and the cursor of an iterator. Everything lives in the
 * rendering's arena and goes with it. An error sticks: the first one is kept, and after it every
 * function returns at once with an undefined value, so that callers look at `r->st` only where
 * they would loop.
 */
#ifndef MRI_CHAT_VALUE_H
#define MRI_CHAT_VALUE_H
#include "core/base/base.h"

typedef struct mri_render mri_render;
typedef struct mri_val mri_val;
typedef struct mri_args mri_args;

typedef enum mri_kind {
    MRI_V_ABSENT, /* an argument that was not given; no template sees one */
    MRI_V_UNDEF, MRI_V_NONE, MRI_V_BOOL, MRI_V_INT, MRI_V_FLOAT, MRI_V_STR,
    MRI_V_LIST, MRI_V_TUPLE, MRI_V_RANGE,
    MRI_V_VIEW, /* of a dict's keys, values or items: no list, but read again and again */
    MRI_V_ITER, /* a generator: read once, always true, without a length */
    MRI_V_DICT, MRI_V_SPACE, /* namespace() */
    MRI_V_MACRO, MRI_V_FUNC, MRI_V_LOOP
} mri_kind;

typedef struct mri_buf { /* bytes that strings point into; grows at its end only */
    size_t used, cap;
    char s[];
} mri_buf;

typedef struct mri_vstr {
    const char *s; /* UTF-8, not NUL-ended */
    size_t n, chars;
    mri_buf *buf; /* s ends where buf->used stood: a longer string may share the bytes; or NULL */
    bool safe;    /* of |safe and |escape: what is added to it is escaped, as with Markup */
} mri_vstr;

typedef struct mri_vlist {
    mri_val *v;
    size_t n, cap, at; /* at: what an iterator has given already */
} mri_vlist;

typedef struct mri_vdict {
    mri_val *key, *val; /* in the order in which they came */
    size_t n, cap;
} mri_vdict;

typedef struct mri_func { /* a built-in: a filter, a test, a method, a function */
    const char *name, *params; /* names with blanks between; NULL: takes `raw` as it is */
    int required;              /* how many of the params must be given */
    mri_val (*call)(mri_render *r, mri_val *a, const mri_args *raw);
} mri_func;

struct mri_vmacro;
struct mri_vloop;
typedef struct mri_bound {
    const mri_func *func;
    const mri_val *self; /* NULL: a plain function */
} mri_bound;

struct mri_val {
    uint8_t kind;
    bool unsafe; /* of an undefined: the sandbox hides what was asked for */
    union {
        bool b;
        int64_t i;
        double f;
        const mri_vstr *s;
        mri_vlist *l;
        mri_vdict *d;
        const char *what; /* of an undefined: what is not defined, for messages */
        const mri_bound *fn;
        struct mri_vmacro *macro;
        struct mri_vloop *loop;
    };
};

struct mri_args {
    const mri_val *pos;
    size_t n;
    const char *const *name; /* of keyword arguments */
    const mri_val *kw;
    size_t n_kw;
};

/* ---- the budget: a template comes from a file, and ends whatever it says ------------ */
enum {
    MRI_CHAT_STEPS = 40000000,       /* nodes evaluated, and 64 bytes copied or compared are one */
    MRI_CHAT_MEMORY = 512 << 20,     /* bytes of arena */
    MRI_CHAT_OUTPUT = 64 << 20,      /* bytes of text */
    MRI_CHAT_DEPTH = 1000,           /* of calls and nested expressions */
    MRI_CHAT_NESTING = 200           /* of brackets and blocks in the source */
};

typedef struct mri_scope mri_scope;
typedef struct mri_arena {
    struct mri_chunk *chunk;
    size_t total, limit;
} mri_arena;

struct mri_render {
    mri_arena arena;
    uint64_t steps;
    int depth, line; /* line: of the node that is evaluated, for messages */
    int leaving;     /* a break or continue on its way to its loop */
    mri_scope *scope;
    mri_val piped; /* what a block gave to its filters */
    mri_str out;
    const char *name; /* of the template */
    int64_t now;      /* seconds since 1970 that strftime_now() shows; negative: the clock's */
    mr_status st;
    mr_err *err;
};

/* NULL when the limit is passed (which is then the error); zeroed */
void *mri_arena_take(mri_arena *a, size_t n);
void mri_arena_free(mri_arena *a);
void *mri_take(mri_render *r, size_t n); /* never NULL: on error a block that nobody may trust */
bool mri_spend(mri_render *r, size_t bytes); /* false: over budget, or an error stands */
MR_PRINTF(2, 3) mri_val mri_raise(mri_render *r, const char *fmt, ...);

/* ---- making values ------------------------------------------------------------------ */
mri_val mri_undef(mri_render *r, const char *what);
mri_val mri_none(void);
mri_val mri_bool(bool b);
mri_val mri_int(int64_t i);
mri_val mri_float(double f);
mri_val mri_strn(mri_render *r, const char *s, size_t n); /* copies */
mri_val mri_text(mri_render *r, const char *s);
mri_val mri_slice_of(mri_render *r, mri_val s, size_t at, size_t n); /* bytes of a string, shared */
mri_val mri_take_str(mri_render *r, mri_str *b);          /* copies, and frees b */
mri_val mri_safe(mri_render *r, mri_val s);               /* the same, but marked */
mri_val mri_join2(mri_render *r, mri_val a, mri_val b);   /* two strings; cheap where a grows */
mri_val mri_list(mri_render *r, mri_kind kind, size_t room);
void mri_push(mri_render *r, mri_val list, mri_val x);
mri_val mri_pair(mri_render *r, mri_val a, mri_val b);
mri_val mri_dict(mri_render *r, mri_kind kind);
void mri_put(mri_render *r, mri_val dict, mri_val key, mri_val x);
mri_val mri_func_val(mri_render *r, const mri_func *f, const mri_val *self);

/* ---- reading them ------------------------------------------------------------------- */
const char *mri_kind_name(mri_val v); /* as Python calls the type */
bool mri_truth(mri_val v);
bool mri_is_num(mri_val v); /* bool, int, float */
double mri_num(mri_val v);
bool mri_is_list(mri_val v); /* has .l: list, tuple, range, view, iterator */
bool mri_equal(mri_render *r, mri_val a, mri_val b);
int mri_order(mri_render *r, mri_val a, mri_val b); /* < 0, 0, > 0; an error where Python has one */
bool mri_contains(mri_render *r, mri_val in, mri_val x);
mri_val *mri_find(mri_render *r, mri_val dict, mri_val key); /* NULL: not there */
mri_val *mri_find_s(mri_render *r, mri_val dict, const char *key);
int64_t mri_length(mri_render *r, mri_val v); /* -1 and an error: has none */
/* What a loop over v meets, as a list whose items may be read; an iterator is used up. */
mri_vlist *mri_items(mri_render *r, mri_val v);
bool mri_str_is(mri_val v, const char *s);

/* ---- showing them (print.c, json.c) ------------------------------------------------- */
void mri_show(mri_render *r, mri_val v, mri_str *out); /* str(v) */
void mri_repr(mri_render *r, mri_val v, mri_str *out);
mri_val mri_to_str(mri_render *r, mri_val v); /* str(v); a string is itself */
void mri_float_text(double f, mri_str *out);

#endif
