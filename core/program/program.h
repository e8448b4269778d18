/* SPDX-License-Identifier: Apache-2.0
 *
 * program.h - a block as core sees it: values, nodes, regions.
 *
 * Invariants: value ids are index + 1 and never reused; a node's inputs are defined before
 * it (SSA), except written operands, which are states, main gradients or scalars; nodes are
 * in execution order within a phase; names of parameters, inputs, states, scalars and
 * outputs are unique within their kind.
 */
#ifndef MRI_PROGRAM_H
#define MRI_PROGRAM_H
#include "core/base/base.h"
#include "core/mesh/mesh.h"
#include "core/ops/catalogue.h"
#include "mrun/model.h"

enum mri_value_kind {
    MRI_TEMP = 0, /* output of a node                                        */
    MRI_PARAM,    /* weights in the model dtype                              */
    MRI_GRAD,     /* the main gradient of parameter `of`, in the accumulator dtype */
    MRI_INPUT,    /* fed at launch: a batch field, an edge, a gradient "d:x" */
    MRI_STATE,    /* persistent                                              */
    MRI_SCALAR    /* f32 [1] set per step                                    */
};

enum mri_phase { MRI_F = 0, MRI_B, MRI_W, MRI_PHASES };
extern const char *const mri_phase_name[MRI_PHASES]; /* "F" "B" "W" */

typedef struct mri_value {
    const char *name; /* NULL for temporaries */
    mr_type type;
    uint8_t kind, phase; /* phase of the defining node, for temporaries        */
    uint8_t trainable;   /* a gradient may be asked of it (computed by vjp)    */
    uint8_t joined;      /* PARAM: part of another one now (core/plan/join.c)  */
    uint32_t node, slot; /* TEMP: the defining node and which output           */
    uint32_t flags;      /* of a parameter or state                            */
    mr_val of;           /* GRAD: its parameter                                */
    mr_param param;      /* PARAM: placement and initialiser (strings owned)   */
    mri_place place;     /* PARAM: the part that this rank has; rank 0: all    */
} mri_value;

typedef struct mri_node {
    const mr_op_def *def;
    mr_val in[MRI_MAX_OPERANDS], out[MRI_MAX_OPERANDS]; /* 0: absent */
    uint32_t n_in, n_out, n_attr;
    mr_attr *attr;   /* owned, strings and arrays too */
    uint32_t region; /* index of the innermost, 0: none */
    const char *file;
    int32_t line;
    uint8_t phase;
    uint8_t recomputed; /* a forward node run again in the backward */
    uint32_t written;   /* bit i: operand i is written in place     */
} mri_node;

typedef struct mri_region {
    const char *name; /* innermost name            */
    const char *path; /* "moe/moe_experts/moe_act" */
    uint32_t parent;
} mri_region;

typedef struct mri_port {
    const char *name;
    mr_val value;
} mri_port;

typedef MRI_VEC(mri_port) mri_ports;

struct mr_prog {
    char *name;              /* the block kind */
    const char *model_dtype; /* what "model" means: f32, bf16, f64 */
    const char *acc_dtype;   /* of main gradients: f32, or f64     */
    MRI_VEC(mri_value) values;
    MRI_VEC(mri_node) nodes;
    MRI_VEC(mri_region) regions; /* [0] is the outermost, name "" */
    MRI_VEC(uint32_t) open;      /* stack of open regions         */
    bool exact;              /* its products stay in the model dtype under any recipe */
    mri_ports outputs, losses;
    MRI_VEC(char *) strings; /* owned copies */
    mr_status failed;        /* first error of the builder */
    mr_err err;
    uint8_t phase;           /* of nodes being added */
    const mr_block_env *decode; /* while a block is built in mode decode: op attention is said
                                   over a cache in pages (decode.c); else NULL */
    uint32_t caches;            /* how many were */
    uint8_t border;             /* no block, but where a pipeline's stage ends (stage.h): which  */
    bool sharded; /* it is one rank's (core/plan/shard.h) */
};

mr_prog *mri_prog_new(const char *name, const char *model_dtype);
void mri_prog_free(mr_prog *p);
extern const mr_builder mri_builder;

static inline mri_value *mri_val(const mr_prog *p, mr_val v)
{
    MRI_ASSERT(v && v <= p->values.n);
    return &p->values.v[v - 1];
}

/* used by the passes, which add nodes and values after build() */
mr_val mri_prog_value(mr_prog *p, uint8_t kind, const char *name, const mr_type *type);
mr_status mri_prog_node(mr_prog *p, const char *id, const mr_val *in, uint32_t n_in,
                        const mr_attr *attr, uint32_t n_attr, mr_val *out, uint32_t n_out,
                        const char *file, int32_t line);
/* Takes node `at` out: nobody may read its outputs. Its attributes live on. */
void mri_prog_remove(mr_prog *p, size_t at);
/* Op attention of (q, k, v, seq_start) as attention.paged, with its caches and what else it is fed. */
mr_val mri_prog_paged(mr_prog *p, const mr_val *in, const mr_attr *attr, uint32_t n_attr,
                      mr_val *out, uint32_t n_out, const char *file, int32_t line);
/* A block with the output logits gets the output next, argmax of it, unless it has one. */
void mri_prog_greedy(mr_prog *p);
/* the types of a node as a call; `types` has room for 2 x MRI_MAX_OPERANDS pointers */
mr_call mri_node_call(const mr_prog *p, const mri_node *n, const mr_type **types);
mr_val mri_port_find(const mri_ports *ports, const char *name); /* 0: none */
mr_val mri_value_find(const mr_prog *p, uint8_t kind, const char *name);
const char *mri_prog_string(mr_prog *p, const char *s); /* an owned copy; NULL stays NULL */
/* does the region, or one that encloses it, carry this name? */
bool mri_region_within(const mr_prog *p, uint32_t region, const char *name);

/* "f32[64,256]" */
void mri_type_print(const mr_type *t, mri_str *out);
void mri_prog_print(const mr_prog *p, mri_str *out);
uint64_t mri_prog_hash(const mr_prog *p);

/* The SSA and naming invariants above; names the node and value that breaks one. */
mr_status mri_prog_verify(const mr_prog *p, const char *pass, mr_err *err);

#endif
