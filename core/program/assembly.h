/* SPDX-License-Identifier: Apache-2.0
 *
 * assembly.h - a model as its plugin describes it: block kinds, their instances in order,
 * edges between instances, and parameters shared by name.
 *
 * Invariant after mri_assemble(): every instance's kind has exactly one built program, so
 * that work and memory here grow with kinds, not with layers; every non-batch input of
 * every instance has a source among earlier instances with an equal type.
 */
#ifndef MRI_ASSEMBLY_H
#define MRI_ASSEMBLY_H
#include "program.h"

typedef struct mri_edge {
    const char *in, *out;
    int32_t from;
} mri_edge;

typedef struct mri_binding {
    const char *name, *full_name;
} mri_binding;

typedef struct mri_instance {
    uint32_t kind; /* index in kinds */
    const char *prefix;
    MRI_VEC(mri_edge) edges;
    MRI_VEC(mri_binding) bindings;
} mri_instance;

typedef struct mri_kind_prog {
    const char *name;
    mr_prog *prog;
} mri_kind_prog;

struct mr_asm {
    MRI_VEC(mri_kind_prog) kinds;
    MRI_VEC(mri_instance) instances;
    MRI_VEC(char *) strings;
    mr_status failed;
    mr_err err;
};
typedef struct mr_asm mri_assembly;

/* Is `name` one of the inputs that core feeds from the batch (model.h)? They have the types that
 * the block's environment says; others are refused by mri_assemble(). */
bool mri_is_batch_input(const char *name);

/* Calls the plugin's assemble(), then build() once a kind, with the builder. */
mr_status mri_assemble(const mr_model_ops *ops, void *model, const mr_block_env *env,
                       const char *model_dtype, mri_assembly **out, mr_err *err);
void mri_assembly_free(mri_assembly *a);
/* one kind's program, as mri_assemble() makes it */
mr_status mri_assembly_build_kind(const mr_model_ops *ops, void *model, const char *kind,
                                  const mr_block_env *env, const char *model_dtype, mr_prog **out,
                                  mr_err *err);

/* Instances of one kind that differ in which of their parameters are frozen get kinds of their
 * own, built again, with those parameters marked: the vjp then makes no gradients of them. */
mr_status mri_assembly_freeze(mri_assembly *a, const mr_model_ops *ops, void *model,
                              const mr_block_env *env, const char *model_dtype,
                              bool (*frozen)(const void *ctx, const char *full_name),
                              const void *ctx, mr_err *err);
/* The first and last `start` and `end` layers (blocks with parameters that are fed neither tokens,
 * pictures nor targets) become exact: their kinds are built again where others share them. */
mr_status mri_assembly_exact(mri_assembly *a, const mr_model_ops *ops, void *model,
                             const mr_block_env *env, const char *model_dtype, int64_t start,
                             int64_t end, mr_err *err);
/* Refuses a name that is neither "full" nor a region of any block. */
mr_status mri_assembly_check_regions(const mri_assembly *a, const mr_list *names, mr_err *err);

/* the source of input `in` of instance i: default "y" of i-1 for "x" */
bool mri_assembly_source(const mri_assembly *a, uint32_t i, const char *in, mri_edge *out);
/* Outputs of a kind that some instance's consumer reads, one that `loss` depends on (NULL: any):
 * names borrowed from the program, the list itself freed by the caller. */
mr_list mri_assembly_consumed(const mri_assembly *a, uint32_t kind, const char *loss);
/* Inputs of a kind that no trainable parameter reaches in any of its instances, so that no gradient
 * goes back through them: what frozen first blocks feed. Freed as above. */
mr_list mri_assembly_constant(const mri_assembly *a, uint32_t kind);
/* the full name of a parameter or state of instance i; the caller frees */
char *mri_assembly_full_name(const mri_assembly *a, uint32_t i, const char *name);

#endif
