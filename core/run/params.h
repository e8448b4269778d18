/* SPDX-License-Identifier: Apache-2.0
 *
 * params.h - a model's parameters as one flat space.
 *
 * Every parameter has a range [at, at + n) of elements, the same in the weights (model
 * dtype), the master weights, the main gradients and each optimizer state, so that one
 * update runs over a whole group. Ranges start at multiples of MRI_PARAM_ALIGN elements; the
 * gaps hold zeros for ever. Order: groups one after the other, inside a group as the model
 * declares them, those that several blocks bind behind the others (their gradients begin with the
 * last block's, see gradients.c); frozen parameters come last and have no gradients. The groups of parameters
 * that blocks read in f32 lie side by side: trainable ones, then frozen ones.
 *
 * When the model dtype is the master dtype, weights and masters are the same memory. Else a
 * parameter's exact value is its f32 master, or, if `split`, its bf16 weight and the i16 rest
 * (core/ops/ref.h), or without training its weight. Parameters that are read in f32 always
 * have a master.
 *
 * Over several ranks of data parallelism (dp.h) the trainable part of the space is cut into
 * buckets, of which a rank keeps all or its piece, form by form. `at` of an element is the same
 * then; where it lies follows from its bucket.
 */
#ifndef MRI_PARAMS_H
#define MRI_PARAMS_H
#include "core/config/sections.h"
#include "core/program/assembly.h"
#include "device.h"
#include <string.h>

enum { MRI_PARAM_ALIGN = 32 }; /* elements: 64 bytes of bf16, 128 of f32 */

typedef struct mri_pgroup {
    double lr_mult, decay_mult;
    bool frozen, f32;
    bool expert;             /* of mri_place, which a group's parameters have in common: which */
    uint32_t split, partial; /* ranks hold copies, and whose gradients are to be summed        */
    uint64_t at, n; /* elements, gaps included */
} mri_pgroup;

enum { MRI_SHARED = UINT32_MAX }; /* instance of parameters that several blocks bind */

/* Parameters of one group, of neighbouring instances, whose gradients are summed and whose weights
 * are gathered together. Its piece of rank i is the i-th of `ranks` equal ones. */
typedef struct mri_bucket {
    uint64_t at, n;              /* elements of the flat space: n is a multiple of
                                    ranks x MRI_PARAM_ALIGN */
    uint32_t group, first, last; /* instances; MRI_SHARED: both */
    uint32_t strategy;           /* MR_SHARD_*: what is kept as a piece */
    uint32_t comm, ranks, index; /* the group of ranks that has it (MRI_GROUP_*), ours among them */
    uint64_t own, own_n;         /* the piece that this rank updates */
    uint64_t weights, masters, grads, states; /* elements of each storage before its part */
    char *unit_weights, *unit_grads; /* where blocks find all of it while the rank keeps a piece */
} mri_bucket;

typedef struct mri_tensor_slot {
    const char *name; /* full */
    mr_param desc;    /* type in the dtype that the block sees */
    uint64_t at, n;   /* elements */
    uint32_t group;
    bool f32;         /* MR_PARAM_F32: the block reads the master */
    bool shared;      /* several blocks bind it */
    bool twin;        /* the pipeline's first stage has it too, and counts and writes it */
    uint32_t instance; /* the block that binds it, or MRI_SHARED */
    mri_place place;  /* the part of the parameter that desc.type is */
} mri_tensor_slot;

/* the type by which files know the parameter: of as many elements, in other dims if it says so */
static inline mr_type mri_slot_stored(const mri_tensor_slot *s)
{
    mr_type t = s->desc.type;
    if (s->desc.stored_rank) {
        t.rank = s->desc.stored_rank;
        memcpy(t.dim, s->desc.stored, sizeof t.dim);
    }
    return t;
}

typedef struct mri_params {
    MRI_VEC(mri_tensor_slot) slots;
    MRI_VEC(mri_pgroup) groups;
    const char *dtype, *acc_dtype; /* of weights; of masters, gradients, states */
    uint64_t total, trainable;     /* elements, gaps included */
    uint64_t count;                /* parameters, gaps excluded */
    uint64_t f32_at, f32_n;        /* elements of the groups that blocks read in f32 */
    bool split;                    /* masters of the others are weights and rest */
    char *weights, *master, *rest, *grads; /* device; NULL where there are none */
    bool grads_lent;                       /* they lie in the arena, which is not ours to free */
    uint64_t master_at, master_n;          /* elements that have a master */
    MRI_VEC(mri_bucket) buckets;           /* of the trainable part, in its order; none: all of it
                                              is here and nobody else's */
    uint64_t weights_n, masters_n, rest_n, grads_n; /* elements of each storage */
} mri_params;

/* Lists the assembly's parameters (each full name once; two instances that bind one name must
 * agree on type) and groups them by the optimizer's rules. `split` acts on bf16 weights only. */
mr_status mri_params_plan(const mri_assembly *a, const mri_cfg_optimizer *cfg, const char *dtype,
                          bool split, mri_params *out, mr_err *err);
/* Lays the parameters out again by buckets of which group, first, last, strategy, comm, ranks and
 * index are set: in the order of groups, then of instances, those that are shared last. They must
 * have all trainable parameters. The array is taken. */
void mri_params_cut(mri_params *p, mri_bucket *buckets, size_t n);
const mri_bucket *mri_params_bucket(const mri_params *p, uint64_t at); /* NULL: in none */
/* How many elements from `i` on lie side by side wherever they are kept; *held: here at all. */
uint64_t mri_params_span(const mri_params *p, const mri_tensor_slot *s, uint64_t i, bool *held);
/* `lent`: the gradients get their place later, by whoever sets p->grads */
mr_status mri_params_alloc(mri_params *p, mri_device *d, bool train, bool lent, mr_err *err);
void mri_params_release(mri_params *p, mri_device *d); /* the memory alone */
void mri_params_free(mri_params *p, mri_device *d);
int64_t mri_params_find(const mri_params *p, const char *name); /* -1: none */
bool mri_params_frozen(const void *params, const char *name); /* as mri_assembly_freeze() asks */
uint64_t mri_params_bytes(const mri_params *p, bool train); /* weights, masters, gradients */
bool mri_params_one_copy(const mri_params *p); /* weights and masters are the same memory */

void *mri_params_weight(const mri_params *p, const mri_tensor_slot *s); /* as blocks read it */
void *mri_params_grad(const mri_params *p, const mri_tensor_slot *s);  /* as blocks add to it */
void *mri_params_grad_at(const mri_params *p, uint64_t at);
/* of element `at`, where it is kept between steps; NULL: on other ranks */
void *mri_params_kept_weight(const mri_params *p, uint64_t at);
void *mri_params_kept_grad(const mri_params *p, uint64_t at);
/* of element `at` in a state of its group: elements before it; UINT64_MAX: on another rank */
uint64_t mri_params_state_at(const mri_params *p, uint64_t at);
uint64_t mri_params_states(const mri_params *p, uint32_t group); /* elements of one state */
void *mri_params_master(const mri_params *p, uint64_t at); /* of element `at`; NULL: none */
/* what an update calls "master" at element `at`: masters, or the rests of split ones */
void *mri_params_masters(const mri_params *p, uint64_t at);
/* Where a parameter's exact values lie on the device, and their dtype; NULL if they do not lie side
 * by side: they are split, or another rank has some. */
const void *mri_params_exact(const mri_params *p, const mri_tensor_slot *s, const char **dtype);
const char *mri_params_exact_dtype(const mri_params *p, const mri_tensor_slot *s);
/* Exact values of a parameter to the host, in that dtype: elements [i, i + n), all of which this
 * rank must keep, or all of it. */
mr_status mri_params_get_part(const mri_params *p, mri_device *d, const mri_tensor_slot *s,
                              uint64_t i, uint64_t n, void *out, mr_err *err);
mr_status mri_params_get(const mri_params *p, mri_device *d, const mri_tensor_slot *s, void *out,
                         mr_err *err);

/* Fresh weights by each parameter's initialiser; independent of order and mesh. */
mr_status mri_params_init(mri_params *p, mri_device *d, uint64_t seed, mr_err *err);
/* Sets one parameter from host values of dtype f32, f64 or bf16 (n elements): what of it this rank
 * keeps. */
mr_status mri_params_set(mri_params *p, mri_device *d, const mri_tensor_slot *s, const void *data,
                         const char *dtype, mr_err *err);
mr_status mri_params_set_part(mri_params *p, mri_device *d, const mri_tensor_slot *s, uint64_t i,
                              uint64_t n, const void *data, const char *dtype, mr_err *err);
/* Where on the device, and in which forms, parameter s is kept from its element i on, for as many
 * as mri_params_span() says: its weights, its masters, or both; or the two halves of its exact
 * values, which encode() makes together. 0: on other ranks. */
typedef struct mri_param_form {
    char *at;
    const char *dtype;
    size_t width; /* bytes an element */
    bool half;
} mri_param_form;
size_t mri_params_forms(const mri_params *p, const mri_tensor_slot *s, uint64_t i,
                        mri_param_form out[2]);
/* n host values of `dtype` in those forms; to[k]: host memory for form k, which may be its place
 * where the host reaches it. [any-thread] */
mr_status mri_params_encode(const mri_param_form *f, size_t n_forms, void *const to[2],
                            const void *from, const char *dtype, uint64_t n, mr_err *err);
/* host buffers of n elements in `dtype` converted; f32 f64 bf16 f16 in and out */
mr_status mri_convert(void *dst, const char *dst_dtype, const void *src, const char *src_dtype,
                      uint64_t n, mr_err *err);

#endif
