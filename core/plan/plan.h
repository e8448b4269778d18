/* SPDX-License-Identifier: Apache-2.0
 *
 * plan.h - a block kind compiled once: flat lists of kernel calls whose operands are
 * (segment, offset), bound at launch. However many instances a kind has, it has one plan.
 *
 * Passes, in order, each followed by the verifier and printable (`mrun plan --print PASS`):
 *   types      the program as built, dtypes resolved by the precision recipe
 *   join       products of one x by matrices that lie side by side become one
 *   vjp        backward nodes: B (towards inputs), W (only into main gradients)
 *   comm       copies that only gradients needed are gone
 *   precision  products in the formats of the recipe, their operands quantised
 *   recompute  forward nodes of the chosen regions run again in B instead of being saved
 *   fuse       neighbouring ops as one that moves fewer bytes, where the backend has it
 *   lower      a kernel for every node, or the reference loops where the backend has none
 *   streams    which steps wait for a collective, and every step's stream
 *   arena      offsets: one lane per stream, buffers of disjoint lifetimes share memory
 *
 * Invariants of a finished plan: no step allocates; two live buffers never overlap; a value
 * of F that B or W reads lies in SAVED; one of B that a split W reads lies in KEEP; the id is
 * a hash of everything that shapes the plan, and equal ids mean equal plans.
 */
#ifndef MRI_PLAN_H
#define MRI_PLAN_H
#include "core/program/program.h"
#include "recipe.h"
#include "mrun/backend.h"

enum mri_segment {
    MRI_SEG_NONE = 0,
    MRI_SEG_PARAM,   /* index into plan->params: weights                                 */
    MRI_SEG_GRAD,    /* index into plan->params: main gradients                          */
    MRI_SEG_STATE,   /* index into plan->states                                          */
    MRI_SEG_SCALAR,  /* index into plan->scalars                                         */
    MRI_SEG_INPUT,   /* index into plan->inputs                                          */
    MRI_SEG_OUTPUT,  /* index into plan->outputs                                         */
    MRI_SEG_SAVED,   /* byte offset: lives from F to B, per instance and micro-batch slot */
    MRI_SEG_SCRATCH, /* byte offset: lives inside one launch                             */
    MRI_SEG_KEEP     /* byte offset: lives from B to a split W                           */
};

typedef struct mri_addr {
    uint32_t seg, pad;
    uint64_t at; /* index or offset */
} mri_addr;

enum { /* mri_step.comm: what runs, and where */
    MRI_STEP_KERNEL = 0, /* the backend's kernel, or reference loops                     */
    MRI_STEP_REDUCE,     /* a collective: the world's                                    */
    MRI_STEP_GATHER,
    MRI_STEP_SCATTER,
    MRI_STEP_SHIFT,      /* to a rank of the group, and from one                         */
    MRI_STEP_SLICE,      /* this rank's part of what it has: a copy on the device        */
    MRI_STEP_EXCHANGE,   /* rows of experts, as many as the data say: core/run/exchange.h */
    MRI_STEP_BLOCKS      /* the same in blocks of equal size                             */
};
enum { MRI_COMM_PENDING = 16 }; /* collectives under way at a time, in one phase */

typedef struct mri_step {
    uint32_t node;
    uint32_t stream;
    const mr_op_def *ref; /* not NULL: run the reference loops on the host */
    void *kernel;
    mr_kernel_info info;
    mri_addr in[MRI_MAX_OPERANDS], out[MRI_MAX_OPERANDS];
    uint64_t workspace; /* offset in SCRATCH */
    MRI_VEC(mri_addr) dead; /* buffers whose last use this is (for poisoning), sizes beside */
    MRI_VEC(uint64_t) dead_bytes;
    mr_cost cost;
    /* A weight gradient that nothing else in the program adds to: the kernel that writes it
     * where `kernel` adds (op X.first beside X), for whoever comes first. NULL: none. */
    void *first;
    mr_kernel_info first_info;
    mr_cost first_cost;
    bool first_sums; /* it also adds the gradient's squares to the operand in dw's place */
    uint8_t comm;     /* MRI_STEP_*                                                        */
    bool wait_after;  /* a collective that is waited for at once                            */
    uint32_t group, index; /* of a collective: mri_group_id, this rank's place              */
    uint32_t by;      /* of a shift: how many places further                                */
    uint32_t order, wait;  /* the phase's collectives are 1, 2, ...; before this step, all up
                              to `wait` must be done; 0: none                               */
    uint32_t done;    /* of a collective: the last step that may run while it is under way   */
    bool seam;        /* it waits for rows of experts: here another micro-batch may go on    */
} mri_step;

typedef struct mri_plan_port { /* a named operand bound at launch */
    const char *name;
    mr_val value;
    mr_type type;
} mri_plan_port;

typedef struct mri_buffer { /* for the memory report: what takes room, by region */
    mr_val value;
    uint32_t seg;
    uint64_t offset, bytes;
    uint32_t first, last; /* steps, F then B then W in one numbering */
    const char *region, *op;
} mri_buffer;

typedef struct mri_plan {
    mr_prog *prog;  /* owned: a copy of the built block, with the passes' nodes */
    const char *name;
    uint64_t id;
    MRI_VEC(mri_step) steps[MRI_PHASES];
    MRI_VEC(mri_plan_port) params, states, scalars, inputs, outputs;
    uint64_t saved_bytes, scratch_bytes, keep_bytes;
    uint64_t forward_scratch_bytes; /* of scratch_bytes, what F reaches */
    MRI_VEC(mri_buffer) buffers;
    double flops[MRI_PHASES], bytes[MRI_PHASES], recompute_flops;
    bool train, split_w;
    /* where released kernels go */
    const mr_backend_ops *backend;
    void *dev;
} mri_plan;

typedef struct mri_plan_options {
    bool train;            /* make B and W */
    bool split_w;          /* W in a list of its own */
    bool guard;            /* room for guard bytes behind every buffer (debug mode step) */
    bool deterministic;
    bool stress;           /* no sharing of memory: every buffer its own (tests compare)  */
    bool sum_squares;      /* first gradients are final: their kernels add up squares if they can */
    const mr_list *recompute; /* region names, or "full" */
    const mr_list *consumed;  /* train: outputs that later blocks read, so that gradients come
                                 back through them (mri_assembly_consumed) */
    const mr_list *constant;  /* train: inputs that need no gradient (mri_assembly_constant) */
    const char *stop_after; /* name of a pass: stop there, for printing; NULL: all        */
    bool fuse;             /* one op for several where the backend answers for it */
    /* Does parameter b follow a without a gap, of one group, wherever this block kind is used?
     * NULL: nobody knows. */
    bool (*beside)(const void *ctx, const char *kind, const char *a, const char *b);
    const void *beside_ctx;
    bool overlap;       /* collectives run beside the steps that follow                     */
    bool shared_beside; /* ... of which any may move there, not weight gradients alone      */
    bool record_comm;   /* they may be recorded into a device graph                         */
    bool host_fallback; /* ops that the backend lacks run by reference loops on the host  */
    const mri_recipe *recipe; /* of products; NULL: as the program says */
    const char *loss;   /* train: the one loss that is differentiated; NULL: all of them   */
} mri_plan_options;

enum { MRI_ALIGN = 64, MRI_GUARD = 64 };

/* `prog` is consumed (owned by the plan, freed on error). backend NULL: plan without a
 * device (kernels unknown, workspaces 0). */
mr_status mri_plan_compile(mr_prog *prog, const mri_plan_options *opt,
                           const mr_backend_ops *backend, void *dev, mri_plan **out, mr_err *err);
/* The plan of a border (stage.h): ports, and no steps. `prog` is consumed. */
mri_plan *mri_plan_border(mr_prog *prog, const mri_plan_options *opt);
void mri_plan_free(mri_plan *p);
void mri_plan_print(const mri_plan *p, mri_str *out); /* steps with addresses, memory */
/* A phase's pieces, between its seams: 1 or more; steps [*from, *to) of the k-th. */
uint32_t mri_plan_pieces(const mri_plan *p, int phase);
void mri_plan_piece(const mri_plan *p, int phase, uint32_t k, uint32_t *from, uint32_t *to);
int32_t mri_plan_port_find(const mri_plan_port *v, size_t n, const char *name); /* -1: none */

/* ---- the passes (each in its own file) ---- */
mr_status mri_pass_join(mri_plan *plan, const mri_plan_options *opt, mr_err *err);
mr_status mri_pass_vjp(mr_prog *p, const mr_list *consumed, const mr_list *constant,
                       const char *loss, mr_err *err);
mr_status mri_pass_precision(mri_plan *plan, const mri_plan_options *opt, mr_err *err);
mr_status mri_pass_comm(mri_plan *plan, const mri_plan_options *opt, mr_err *err);
mr_status mri_pass_recompute(mr_prog *p, const mr_list *regions, mr_err *err);
mr_status mri_pass_fuse(mri_plan *plan, const mri_plan_options *opt, mr_err *err);
mr_status mri_pass_lower(mri_plan *plan, const mri_plan_options *opt, mr_err *err);
mr_status mri_pass_streams(mri_plan *plan, const mri_plan_options *opt, mr_err *err);
void mri_steps_beside(mri_plan *plan, int phase, bool weights_alone);
/* bytes of the whole of a step's collective; those from which on one is great in its phase */
double mri_step_carries(const mri_plan *plan, const mri_step *s);
double mri_phase_great(const mri_plan *plan, int phase);
mr_status mri_pass_arena(mri_plan *plan, const mri_plan_options *opt, mr_err *err);
mr_status mri_arena_verify(const mri_plan *plan, mr_err *err);
uint8_t mri_step_comm(const mri_node *n); /* MRI_STEP_*, of the op */
void mri_step_print_comm(const mri_plan *p, const mri_step *s, mri_str *out);

/* Name of the scalar that seeds every loss: 1 / (tokens of the global batch). */
#define MRI_LOSS_SEED "loss_seed"

#endif
