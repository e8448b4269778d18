/* SPDX-License-Identifier: Apache-2.0
 *
 * sections.h - the sections that core itself owns, as option rows and the structs they
 * fill. A plugin's rows stand in [KIND.NAME]; `plugin =` in [KIND] chooses it, and
 * [KIND@NAME] is a further instance of the kind. mri_config_load() resolves a whole profile:
 * core's sections, then the chosen plugins' rows through the registry.
 */
#ifndef MRI_SECTIONS_H
#define MRI_SECTIONS_H
#include "mrun/model.h"
#include "profile.h"

typedef struct mri_cfg_run {
    const char *dir;
    int64_t seed, threads; /* threads 0: auto */
    int32_t deterministic, fork;
    int64_t check_replicas; /* steps between looks at the replicas' weights; 0: none */
    int64_t timeline;       /* the step that is written as a timeline; 0: none */
    const char *rerun;      /* none | nonfinite | elsewhere: bad steps run again, to tell whose
                               fault it was */
    int32_t check_for_spiky_loss;
    double spiky_loss_factor;
} mri_cfg_run;

typedef struct mri_cfg_job {
    const char *run; /* train | preprocess | generate | score | bench | tokenize | convert */
} mri_cfg_job;

typedef struct mri_cfg_backend {
    const char *fallback; /* none | host */
} mri_cfg_backend;

typedef struct mri_cfg_mesh {
    int64_t dp, tp, pp, vpp, cp, ep; /* dp 0: auto; 1 where no comm plugin is chosen */
    int64_t etp, copies;
    int32_t sequence_parallel, overlap, moe_shared_expert_overlap;
    int32_t overlap_moe_expert_parallel_comm;
    const char *schedule; /* 1f1b | zero_bubble: of a pipeline; vpp above 1: interleaved 1f1b      */
    const char *layout;   /* of a pipeline (core/program/layout.c), or NULL: by the numbers below  */
    int64_t first_stage_layers, last_stage_layers; /* -1: as all others                            */
    int32_t count_embedding, count_loss;           /* each counts as a layer                       */
    int64_t group; /* interleaved: micro-batches of a chunk in a row; 0: pp */
    double dispatch_bound, capacity_factor;
    const char *dispatcher;      /* alltoall | alltoall_padded | allgather */
    const char *capacity_policy; /* probs | position */
    const char *cp_comm_type;    /* all_gather | p2p */
    bool pad_to_capacity;
} mri_cfg_mesh;

typedef struct mri_cfg_comm {
    double timeout;   /* seconds after which a rank that does not come counts as lost */
    double heartbeat; /* seconds without a sign of life after which a process does     */
    double link_gbytes; /* GB/s of a rank's link, for plans; 0: the machine's         */
} mri_cfg_comm;

typedef struct mri_cfg_train {
    int64_t steps, seq, micro_batch;
    int64_t global_batch; /* left out: micro_batch x dp; 0 while dp is auto */
    int64_t eval_every, eval_steps, log_every;
    int64_t rampup_start, rampup_increment, rampup_samples; /* Megatron's batch ramp-up */
    mr_list recompute;  /* region names, or "full", or empty */
    const char *loss;   /* per_token | per_micro_batch */
    int32_t split_weight_gradient; /* W apart from B (zero-bubble schedules) */
    int32_t fuse; /* several ops as one where the backend has it */
    const char *sample_prompt; /* a sample is printed at the end from this prompt; NULL none */
    int64_t sample_tokens;
    int64_t images; /* tiles that a sequence has room for */
    double moe_router_bias_update_rate; /* 0: routers' biases stay */
} mri_cfg_train;

typedef struct mri_cfg_model {
    const char *hf; /* folder with config.json (and weights), or NULL */
    mr_model_sizes sizes; /* seed: run.seed where it is left out */
} mri_cfg_model;

typedef struct mri_cfg_precision {
    const char *recipe;  /* fp32 | bf16 | fp64 | fp8-tensor */
    const char *masters; /* f32 | remainder: of bf16 weights */
    int64_t start_in_bf16, end_in_bf16; /* layers that an 8-bit recipe leaves alone */
} mri_cfg_precision;

typedef struct mri_cfg_optimizer {
    double lr, min_lr, init_lr, weight_decay, clip_grad;
    const char *schedule;  /* constant|linear|cosine|wsd|inverse-square-root */
    const char *wsd_decay; /* linear|cosine|exponential|minus_sqrt           */
    int64_t warmup, decay_steps, wsd_steps; /* in steps; decay_steps 0: train.steps */
    mr_list groups; /* "PATTERN:lr_mult=0.1:decay_mult=0:frozen" glob on parameter names */
    int32_t decay_1d; /* decay norms and biases too */
} mri_cfg_optimizer;

typedef struct mri_cfg_checkpoint {
    const char *dir; /* default: RUN/checkpoints */
    int64_t every, keep;
    int32_t save_at_end;
    const char *format; /* fully_reshardable | dp_reshardable */
    int32_t async;      /* write behind training */
    const char *local_dir; /* each rank's own; NULL: no local checkpoints */
    int64_t local_every;
} mri_cfg_checkpoint;

typedef struct mri_cfg_debug {
    const char *mode; /* none | step */
    int32_t poison; /* fill dead saved buffers with NaN */
    mr_list spoil;  /* STEP:FACTOR: a step's loss is multiplied by it, once an item */
} mri_cfg_debug;

typedef struct mri_cfg_generate {
    const char *prompt, *ids, *jsonl, *system, *messages, *tools, *chat_template;
    int64_t max_tokens, min_tokens, top_k, seed, max_seq, n, batch, logprobs;
    double temperature, top_p, min_p;
    double repetition_penalty, presence_penalty, frequency_penalty;
    int32_t chat, special, ignore_eos;
    mr_list stop, stop_ids, logit_bias;
} mri_cfg_generate;

typedef struct mri_cfg_score {
    const char *text, *file, *logits, *grad;
    int32_t special;
} mri_cfg_score;

typedef struct mri_cfg_convert {
    const char *to, *out, *dtype, *max_shard_size;
    int32_t force;
} mri_cfg_convert;

typedef struct mri_cfg_preprocess {
    const char *input, *output_prefix, *json_key, *chat, *learn;
    int64_t workers;
    int32_t append_eod, pad;
} mri_cfg_preprocess;

typedef struct mri_config {
    mri_profile *profile; /* owned */
    mri_cfg_run run;
    mri_cfg_job job;
    mri_cfg_backend backend;
    mri_cfg_mesh mesh;
    mri_cfg_comm comm;
    mri_cfg_train train;
    mri_cfg_model model;
    mri_cfg_precision precision;
    mri_cfg_optimizer optimizer;
    mri_cfg_checkpoint checkpoint;
    mri_cfg_debug debug;
    mri_cfg_generate generate;
    mri_cfg_score score;
    mri_cfg_preprocess preprocess;
    mri_cfg_convert convert;
} mri_config;

/* one row a section of core's: its name, rows, where it lies in mri_config */
typedef struct mri_section {
    const char *name, *doc;
    const mr_opt *opts;
    uint32_t n_opts, offset, size;
} mri_section;
const mri_section *mri_sections(size_t *n);

/* A plugin kind that a profile may choose with [KIND] plugin = ...; what it defaults to. */
typedef struct mri_kind {
    const char *name, *default_plugin, *doc; /* default NULL: none chosen */
    bool many; /* `plugin =` is a list (sinks) */
} mri_kind;
const mri_kind *mri_kinds(size_t *n);

/* What a job needs of the profile; the plugins of kinds that it does not use are not loaded
 * and their sections stay unread. */
typedef struct mri_job_needs {
    const char *name;
    const char *needs, *takes; /* kinds, separated by blanks: a must; used if chosen */
    const char *section, *key; /* a key without a default that the job must have, or NULL */
} mri_job_needs;
const mri_job_needs *mri_jobs(size_t *n);

struct mri_registry;
/* The unit chosen for a kind and its filled config struct. */
typedef struct mri_choice {
    const char *kind;
    const mr_unit *unit;
    void *config; /* owned by the mri_config */
} mri_choice;

mr_status mri_config_load(struct mri_registry *reg, const char *path, const char *const *sets,
                          size_t n_sets, mri_config **out, mr_err *err);
void mri_config_free(mri_config *c);
/* i-th choice of a kind (i > 0 for kinds that may be many); NULL: none */
const mri_choice *mri_config_choice(const mri_config *c, const char *kind, size_t i);

#endif
