/* SPDX-License-Identifier: Apache-2.0
 *
 * catalogue.h - looks an op up, checks one use of it, and reads the small languages that op
 * definitions are written in: signatures ("x w bias? dw! -> y"), attribute lists
 * ("eps:f=1e-5"), sharding rules, sample cases.
 */
#ifndef MRI_CATALOGUE_H
#define MRI_CATALOGUE_H
#include "core/base/base.h"
#include "mrun/op.h"

/* ---- the catalogue (catalogue.c) ------------------------------------------------------- */
const mr_op_def *mri_op_find(const char *id);
const mr_op_def *mri_op_at(uint32_t i); /* NULL: past the last */
/* The id nearest in spelling, for did-you-mean; or NULL. */
const char *mri_op_nearest(const char *id);
/* A plugin's op joins the catalogue; [main]. Refused: an id that exists, a malformed definition.
 * The definition must live as long as the process (plugins are never unloaded). */
mr_status mri_op_register(const mr_op_def *def, mr_err *err);
/* Are the signature, the attributes, the rule and the cases of a definition well formed? */
mr_status mri_op_check_def(const mr_op_def *def, mr_err *err);
extern const mr_ref_service mri_ref_service;

/* ---- one use of an op (call.c) ---------------------------------------------------------
 * Operands present, attributes known and well typed, then the op's own shape function, which
 * fills out[0..call->n_out). call->out is not read. The builder's gate: ops may rely on it. */
mr_status mri_op_check_call(const mr_op_def *def, const mr_call *call, mr_type *const *out,
                            mr_err *err);

/* ---- signatures and attribute lists (sig.c) --------------------------------------------- */
enum { MRI_MAX_OPERANDS = 16, MRI_MAX_ATTRS = 16 };
typedef struct mri_sig {
    uint32_t n_in, n_out;
    struct {
        char name[24];
        bool optional, mutated;
    } in[MRI_MAX_OPERANDS], out[MRI_MAX_OPERANDS];
} mri_sig;
mr_status mri_sig_parse(const char *sig, mri_sig *out, mr_err *err);

typedef struct mri_attr_decl {
    char key[24];
    uint32_t type;   /* MR_A_*                                                       */
    bool required;   /* "heads:i"; not for "eps:f=1e-5", nor "scale:f?"              */
    char def[64];    /* default as text; of a string its choices "a|b", a the default */
} mri_attr_decl;
typedef struct mri_attr_list {
    uint32_t n;
    mri_attr_decl at[MRI_MAX_ATTRS];
} mri_attr_list;
mr_status mri_attrs_parse(const char *attrs, mri_attr_list *out, mr_err *err); /* NULL: none */
const mri_attr_decl *mri_attrs_find(const mri_attr_list *l, const char *key);

/* ---- sharding rules (shardrule.c) ------------------------------------------------------- */
typedef struct mri_shard_axis {
    char name[16];
    char mode; /* 'm' map, 's' sum; 0: named but not to be split */
    char attrs[4][24]; /* integer attributes that are divided with the axis */
    uint32_t n_attrs;
    char absent[24], present[24]; /* splits only without / only with this optional operand */
} mri_shard_axis;
typedef struct mri_shard {
    uint32_t n_in, n_out, n_axes;
    int8_t in[MRI_MAX_OPERANDS][MR_MAX_RANK];  /* index of the axis, -1: none; by operand and dim */
    int8_t out[MRI_MAX_OPERANDS][MR_MAX_RANK]; /* as written in the rule: see mri_shard_at()      */
    uint8_t in_rank[MRI_MAX_OPERANDS], out_rank[MRI_MAX_OPERANDS]; /* dims written in the rule    */
    uint32_t n_named;
    mri_shard_axis axis[8]; /* those that may be split come first: n_axes of n_named */
} mri_shard;
mr_status mri_shard_parse(const char *rule, mri_shard *out, mr_err *err); /* NULL: no axes */
/* The i-th rule of "key=word ? RULE || key=word ? RULE" (a single rule is its own first and
 * has no key); false past the last. Names or a rule that are too long are cut short. */
bool mri_shard_alternative(const char *rules, uint32_t i, char rule[256], char key[24],
                           char word[24]);
/* the rule of one use of an op, by its attributes */
mr_status mri_shard_of(const mr_op_def *def, const mr_call *c, mri_shard *out, mr_err *err);
/* The axis of a dim of an operand (output, if `out`) that has this rank, or -1. An operand of
 * more dims than its rule: the first name is of its first dim, the rest of its last dims (T
 * tokens may be written as [B,S]); of fewer dims: the last names. */
int mri_shard_at(const mri_shard *s, bool out, uint32_t operand, uint32_t dim, uint32_t rank);

/* ---- sample cases (case.c) -------------------------------------------------------------- */
/* One sample case made concrete: types and filled host buffers. `call` points into the case
 * itself, so a case stays where it was made. */
typedef struct mri_case {
    mr_call call;
    mr_type in_type[MRI_MAX_OPERANDS], out_type[MRI_MAX_OPERANDS];
    const mr_type *in_ptr[MRI_MAX_OPERANDS], *out_ptr[MRI_MAX_OPERANDS];
    mr_attr attr[MRI_MAX_ATTRS];
    mr_buf in[MRI_MAX_OPERANDS], out[MRI_MAX_OPERANDS]; /* outputs are zeros; 64-byte aligned */
    double *arrays; /* backing store of array attributes */
    char *text;     /* backing store of strings           */
} mri_case;
/* In case texts dtype F is the model's float, `dtype`: "f32" (also NULL), "bf16" or "f64" (for
 * finite differences), and S that of statistics and accumulators: f32, or f64 under f64.
 * Filled from `seed` alone. Checks the case against the op's shape function. Operands that the
 * text does not name, or leaves out with "-", are absent; call.n_in counts them all. */
mr_status mri_case_make(const mr_op_def *def, const char *text, const char *dtype, uint64_t seed,
                        mri_case *out, mr_err *err);
/* The same for measuring: a sample case has 2^24 elements an operand at most, this 2^30. */
mr_status mri_case_make_large(const mr_op_def *def, const char *text, const char *dtype,
                              uint64_t seed, mri_case *out, mr_err *err);
void mri_case_free(mri_case *c); /* {0} is fine */

#endif
