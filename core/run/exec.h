/* SPDX-License-Identifier: Apache-2.0
 *
 * exec.h - a model compiled for one mode and shape, ready to run: its assembly, one plan a
 * block kind, one frame an instance.
 *
 * Memory of an exec is one block, laid out once: scratch (shared), then the slots. A slot is what
 * one micro-batch needs from its first forward to its last backward:
 *   what the host feeds: batch fields (, page table, logit rows) | losses | keep | gradient edges
 *   (two that alternate, or one an instance when W is split) | edges and saved values of every
 *   instance, and over them, where a step is one micro-batch, the main gradients
 * There is one slot, unless a pipeline has several micro-batches in flight. Its stage may be
 * several chunks of instances with other stages between them, which share the slots or have their
 * own.
 * Where the forward of one micro-batch and the backward of another take turns (zipped), forwards
 * have scratch of their own, and each of the two a flight of collectives.
 * Execs of one session that are never live together (training, validation) are bound to
 * the same arena. States (key-value caches) are memory of their own, zeroed when first bound.
 *
 * Creating an exec plans it and takes no device memory, so that a session knows what all its
 * execs need before it takes any; binding gives every frame its addresses.
 */
#ifndef MRI_EXEC_H
#define MRI_EXEC_H
#include "flight.h"
#include "params.h"
#include "scalars.h"

typedef struct mri_batch { /* host arrays of T elements; slot only in mode decode */
    const int32_t *tokens, *positions, *seq_start, *targets, *slot;
    const float *loss_weight;
    const int32_t *image_rows; /* NULL: no token is a picture's */
    const float *pixels;       /* all tiles of the exec; NULL: zeros */
} mri_batch;

typedef struct mri_loss { /* one loss of one instance */
    const char *name;
    uint32_t instance;
} mri_loss;

typedef struct mri_state {
    char *name; /* full */
    mr_type type;
    uint32_t flags;
    void *data; /* device */
    bool borrowed;
} mri_state;

#define MRI_AT_START UINT32_MAX
typedef struct mri_range { /* elements of the flat parameter space */
    uint64_t at, n;
    uint32_t before; /* zeroed: before the first backward of this instance, or MRI_AT_START */
} mri_range;

/* Instances that follow each other, and slots for the micro-batches that they have in flight. */
typedef struct mri_chunk {
    uint32_t first, n, slots; /* instances first .. first + n - 1                              */
    uint32_t frame;           /* index of the frame of (slot 0, first)                         */
    uint32_t loss, n_losses;  /* which of e->losses                                            */
    uint64_t at, bytes;       /* slot 0 in the exec's block; a slot                            */
    uint64_t keep, grads, saved;   /* parts that differ from chunk to chunk, from a slot's start */
    uint64_t edge_pair, grad_pair; /* of one of the two buffers that alternate                 */
    uint64_t keep_bytes, grad_bytes, edge_bytes, saved_bytes; /* of one slot                   */
} mri_chunk;

typedef struct mri_exec_options {
    const char *mode; /* train | infer | decode | images */
    int64_t tokens, slots, max_seq;
    int64_t images, tile_values; /* tiles; values of one that are fed as pixels: 0 in decode */
    mri_plan_options plan;
    const struct mri_exec *states_of; /* use that exec's states (prefill beside decode), or NULL */
    /* No step has two: main gradients may lie in the exec's own block, and plan.sum_squares holds. */
    bool one_micro_batch;
    int64_t pages, page, logit_rows; /* decode: as in mr_block_env */
    const mri_chunk *chunks; /* n and slots of each; NULL: one chunk of all instances, one slot */
    uint32_t n_chunks;
    bool share_slots; /* a slot is one chunk's at a time: those of all chunks are the same memory */
    bool zipped;      /* a forward and a backward may be open at a time                           */
} mri_exec_options;

typedef struct mri_exec {
    mri_device *device;
    mri_assembly *assembly;
    const mri_params *params;
    mri_exec_options opt;
    MRI_VEC(mri_plan *) plans;   /* by kind */
    MRI_VEC(mri_frame) frames;   /* by chunk, slot and instance: mri_exec_frame() */
    MRI_VEC(mri_chunk) chunks;
    MRI_VEC(mri_loss) losses;
    MRI_VEC(mri_state) states;
    uint64_t bytes;              /* of its block */
    uint64_t at_fields, at_table, at_rows, fed_bytes; /* what is fed: all from at_fields on */
    uint64_t at_losses, at_saved, at_scratch; /* of the first slot, as those above */
    uint64_t at_forward_scratch, forward_scratch_bytes; /* at_scratch and 0, unless zipped */
    uint64_t saved_bytes, keep_bytes, grad_bytes, scratch_bytes, state_bytes, edge_bytes;
    /* Main gradients in the block: bytes, 0 if they lie elsewhere; bytes of them that saved values
     * share (gradients.c). */
    uint64_t at_main, main_bytes, main_clear;
    MRI_VEC(mri_range) zeroed;   /* main gradients that several add to, or that none may write */
    MRI_VEC(mri_range) summed;   /* those whose squares the backward adds to scalar "sumsq" */
    char *base;                  /* where it is bound, or NULL */
    void *features;              /* decode: where the pictures' features lie; set before binding */
    mri_flight flight[2];        /* of the forward and the backward that are cut open */
    const mri_trace *trace;      /* NULL outside debugging */
    struct mri_dp *dp;           /* told before and after each block; NULL: this rank is alone */
    struct mri_bucket_list *uses; /* with it: of every instance, buckets of its parameters */
} mri_exec;

/* Compiles. The assembly is consumed (owned), also on error; `params` need be planned only,
 * not allocated. */
mr_status mri_exec_create(mri_device *d, mri_assembly *a, const mri_params *params,
                          mri_scalars *scalars, const mri_exec_options *opt, mri_exec **out,
                          mr_err *err);
void mri_exec_free(mri_exec *e);
uint64_t mri_exec_fields_bytes(const mri_exec_options *o); /* of its batch fields */
/* mri_plan_options.beside, for plans of an exec's block kinds */
bool mri_exec_beside(const void *exec, const char *kind, const char *a, const char *b);
/* Points every frame at the parameters and into `base` (bytes long, 64-byte aligned); the first
 * time also allocates the states. An exec whose states are borrowed binds after their owner. */
mr_status mri_exec_bind(mri_exec *e, char *base, mr_err *err);
/* Where a fed input lies in the fed block, in bytes from at_fields; UINT64_MAX: it is not fed */
uint64_t mri_exec_fed_at(const mri_exec *e, const char *name);
/* Where a slot begins, in bytes of the block. */
static inline uint64_t mri_exec_slot_at(const mri_exec *e, uint32_t chunk, uint32_t slot)
{
    return e->chunks.v[chunk].at + slot * e->chunks.v[chunk].bytes;
}
static inline uint32_t mri_exec_instances(const mri_exec *e)
{
    return (uint32_t)e->assembly->instances.n;
}
/* and where the losses of its instances lie, bound */
static inline char *mri_exec_losses_at(const mri_exec *e, uint32_t chunk, uint32_t slot)
{
    return e->base + mri_exec_slot_at(e, chunk, slot) + e->fed_bytes;
}
uint32_t mri_exec_chunk_of(const mri_exec *e, uint32_t instance);
mri_frame *mri_exec_frame(const mri_exec *e, uint32_t slot, uint32_t instance);
mr_status mri_exec_upload(mri_exec *e, const mri_batch *b, mr_err *err); /* slot 0 of all chunks */
mr_status mri_exec_upload_in(mri_exec *e, uint32_t chunk, uint32_t slot, const mri_batch *b,
                             mr_err *err);
mr_status mri_exec_run(mri_exec *e, uint32_t instance, uint8_t phase, mr_err *err); /* slot 0 */
mr_status mri_exec_run_in(mri_exec *e, uint32_t slot, uint32_t instance, uint8_t phase,
                          mr_err *err);
/* The same as the first that touches the main gradients: those of `sole` parameters are written,
 * the others are zeroed, here or before (mri_exec_zero(e, MRI_AT_START)). */
mr_status mri_exec_run_first(mri_exec *e, uint32_t slot, uint32_t instance, uint8_t phase,
                             mr_err *err);
/* Piece `piece` of a block's F or B (mri_plan_piece), of which one each may be begun and not ended;
 * first: as of mri_exec_run_first(). */
mr_status mri_exec_run_piece(mri_exec *e, uint32_t slot, uint32_t instance, uint8_t phase,
                             bool first, uint32_t piece, mr_err *err);
mr_status mri_exec_zero(mri_exec *e, uint32_t before, mr_err *err);
mr_status mri_exec_forward(mri_exec *e, mr_err *err);  /* F of all instances in order   */
mr_status mri_exec_backward(mri_exec *e, mr_err *err); /* B (and W) of all, in reverse  */
mr_status mri_exec_backward_first(mri_exec *e, mr_err *err); /* whatever the gradients were */
/* sums of each loss over the micro-batch, in the order of e->losses; waits */
mr_status mri_exec_losses(mri_exec *e, float *out, mr_err *err);
/* one loss as it lies in the exec's memory, from a host copy of its line */
float mri_exec_loss_value(const mri_exec *e, size_t loss, const float *line);
/* device address and type of an output of the last instance that has one of this name */
const void *mri_exec_output(const mri_exec *e, const char *name, const mr_type **type);
double mri_exec_flops(const mri_exec *e, uint8_t phase); /* recomputation and all */
/* of forward and backward of one batch; recomputation is not the model's work */
double mri_exec_model_flops(const mri_exec *e);

#endif
