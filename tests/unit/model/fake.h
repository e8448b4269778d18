/* SPDX-License-Identifier: Apache-2.0
 *
 * fake.h - a host small enough to see through: it opens a model plugin, records what the
 * plugin describes, and checks each op's operands against the catalogue's table of
 * signatures. A recorded block can be read back as text, one op a line:
 *   moe/moe_act swiglu(h, -) -> [6,20]
 * Invariant: a block that fk_build() returned had every call accepted.
 */
#ifndef FK_FAKE_H
#define FK_FAKE_H
#include "core/base/base.h"
#include "mrun/model.h"

typedef struct fk_value {
    char name[80];
    mr_type type;
    char role; /* 'p' parameter, 'i' input, 's' state, 'o' an op's */
} fk_value;

typedef struct fk_op {
    const char *id;
    char region[80], text[400]; /* text: the line without region */
    mr_val in[16], out[8];
    uint32_t n_in, n_out;
    mr_attr attr[12];
    uint32_t n_attr;
} fk_op;

typedef struct fk_param {
    char name[80], placement[40], init[16], tensors[80];
    mr_type type;
    double scale;
    uint32_t flags;
} fk_param;

typedef struct fk_named {
    char name[40];
    mr_val v;
    uint32_t flags; /* of a state */
} fk_named;

struct mr_prog {
    MRI_VEC(fk_value) values; /* value v is entry v - 1 */
    MRI_VEC(fk_op) ops;
    MRI_VEC(fk_param) params;
    MRI_VEC(fk_named) inputs, outputs, losses, states;
    char stack[8][24];
    uint32_t depth;
    mri_str error; /* the first refused call */
    MRI_VEC(void *) pool;
};

typedef struct fk_instance {
    char kind[40], prefix[80];
} fk_instance;

struct mr_asm {
    MRI_VEC(fk_instance) at;
    MRI_VEC(fk_named) binds; /* name: local name, v: instance */
    MRI_VEC(char *) bound_to;
};

typedef struct fk_model {
    const mr_unit *unit;
    const mr_model_ops *ops;
    void *model, *config, *json;
    mr_asm as;
    MRI_VEC(void *) pool; /* option texts: the plugin may keep pointers to them */
} fk_model;

/* `so`: the plugin's file. sizes: "layers=2 hidden=24 experts=4": keys of [model] first, then
 * the family's own; json: text of a config.json or NULL. */
mr_status fk_open(fk_model *m, const char *so, const char *sizes, const char *json, mr_err *err);
void fk_close(fk_model *m);

/* one block recorded; aborts the test with the first refused call */
mr_prog *fk_build(fk_model *m, const char *kind, const char *mode, int64_t tokens);
void fk_free(mr_prog *p);

/* all lines; the caller frees */
char *fk_text(const mr_prog *p);
const fk_op *fk_find(const mr_prog *p, const char *id, size_t nth);
const fk_param *fk_param_named(const mr_prog *p, const char *name);
const fk_named *fk_named_in(const fk_named *v, size_t n, const char *name);
const mr_attr *fk_attr(const fk_op *op, const char *key);
const mr_type *fk_type(const mr_prog *p, mr_val v);

/* every parameter of the whole model with its full name: "name [dims]\n" sorted; caller frees */
char *fk_parameters(fk_model *m);
/* the same of the tensors that a Hugging Face folder holds them as (mr_param.tensors) */
char *fk_tensors(fk_model *m);
/* the model's blocks of one mode as one text, to compare two descriptions; caller frees */
char *fk_describe(fk_model *m, const char *mode);

/* a file of tests/parity/fixtures/NAME; n may be NULL; the caller frees */
char *fk_fixture(const char *name, const char *file, size_t *n);
/* the tensors of its model.safetensors, as fk_parameters() writes them; the caller frees */
char *fk_stored(const char *name);
long long fk_elements(const char *lines); /* total of such lines */

const char *fk_llama4(void); /* the built llama4.so */
const char *fk_kimi_k2(void);

#endif
