/* SPDX-License-Identifier: Apache-2.0
 * sections.c - the tables behind sections.h: core's own option rows, the kinds, the jobs. */
#include "sections.h"
#include <math.h>

#define LEN(a) (uint32_t)(sizeof(a) / sizeof *(a))
/* a number that also takes words; a list; neither has a macro in plugin.h */
#define WORDS(kind, type, field, key, def, lo, hi, words, doc) \
    { sizeof(mr_opt), type, 0, (uint32_t)offsetof(kind, field), key, def, doc, words, lo, hi, 0 }

#define C mri_cfg_run
static const mr_opt run_opts[] = {
    MR_OPT(C, MR_T_PATH, dir, "dir", NULL, "folder of the run: log, checkpoints, resolved profile "
           "(default: runs/PROFILE)"),
    MR_OPT_RANGE(C, MR_T_INT, seed, "seed", "1", 0, 9007199254740992,
                 "seed of everything random; equal seeds give equal runs"),
    WORDS(C, MR_T_INT, threads, "threads", "auto", 1, 4096, "auto",
          "CPU threads; auto: the cores that this process may use"),
    MR_OPT(C, MR_T_BOOL, deterministic, "deterministic", "true",
           "equal machine, binary, threads and ranks give equal bits"),
    MR_OPT(C, MR_T_BOOL, fork, "fork", "false",
           "start a new run from the weights of another profile's run in this folder"),
    MR_OPT_RANGE(C, MR_T_INT, check_replicas, "check_replicas", "0", 0, 1e12,
                 "steps between checks that ranks with the same parameters hold the same bits; 0: "
                 "none"),
    MR_OPT_RANGE(C, MR_T_INT, timeline, "timeline", "0", 0, 1e12,
                 "step whose ops and collectives every rank writes to timeline.json in the run's "
                 "folder, for Perfetto or chrome://tracing; 0: none"),
    MR_OPT_CHOICE(C, rerun, "rerun", "nonfinite", "none|nonfinite|elsewhere",
                  "nonfinite: such a step, or one with a spike, runs again, which tells the data's "
                  "fault from the machine's; elsewhere: and once more on another machine, where "
                  "the next start is, if it was the same again"),
    MR_OPT(C, MR_T_BOOL, check_for_spiky_loss, "check_for_spiky_loss", "false",
           "look at each step's loss before its update; a spike is treated as [run] rerun says"),
    MR_OPT_RANGE(C, MR_T_FLOAT, spiky_loss_factor, "spiky_loss_factor", "10", 1, 1e9,
                 "a loss is a spike that is so many times the largest of the run's first 100"),
};
#undef C

#define C mri_cfg_job
static const mr_opt job_opts[] = {
    MR_OPT_CHOICE(C, run, "run", "train", "train|preprocess|generate|score|bench|tokenize|convert",
                  "what `mrun PROFILE.ini` does"),
};
#undef C

#define C mri_cfg_backend
static const mr_opt backend_opts[] = {
    MR_OPT_CHOICE(C, fallback, "fallback", "none", "none|host",
                  "ops that a device backend lacks: none stops, host runs their reference loops"),
};
#undef C

#define C mri_cfg_mesh
#define AXIS(field, doc) MR_OPT_RANGE(C, MR_T_INT, field, #field, "1", 1, 1048576, doc)
static const mr_opt mesh_opts[] = {
    WORDS(C, MR_T_INT, dp, "dp", "auto", 1, 1048576, "auto",
          "data-parallel ranks; auto: what the other axes leave"),
    AXIS(tp, "tensor-parallel ranks"),
    AXIS(pp, "pipeline stages"),
    AXIS(vpp, "virtual stages a pipeline rank holds"),
    AXIS(cp, "context-parallel ranks"),
    AXIS(ep, "expert-parallel ranks"),
    AXIS(etp, "tensor-parallel ranks of each expert: 1 in this version"),
    AXIS(copies, "hybrid sharding: copies of sharded parameters over dp x cp"),
    MR_OPT(C, MR_T_BOOL, sequence_parallel, "sequence_parallel", "true",
           "with tp above 1, tokens are split over tp outside of the split products"),
    MR_OPT(C, MR_T_BOOL, overlap, "overlap", "true",
           "collectives of a step run beside the computation that does not wait for them"),
    MR_OPT(C, MR_T_BOOL, moe_shared_expert_overlap, "moe_shared_expert_overlap", "true",
           "with overlap, what no collective of a block needs, as a shared expert, is computed "
           "beside those of the experts"),
    MR_OPT(C, MR_T_BOOL, overlap_moe_expert_parallel_comm, "overlap_moe_expert_parallel_comm",
           "false", "the forward of a micro-batch runs beside the backward of another: one "
           "computes while the other's rows are on their way to experts; takes memory for one more "
           "micro-batch"),
    MR_OPT_CHOICE(C, schedule, "schedule", "1f1b", "1f1b|zero_bubble",
                  "order of a pipeline's work; 1f1b with vpp above 1 is interleaved"),
    MR_OPT(C, MR_T_STR, layout, "layout", NULL,
           "which stage has what: E embedding, t layer, m MTP, L loss, | between stages, x*3 and "
           "(..)*3 repeat: \"Et*3|t*4|t*3L\""),
    MR_OPT_RANGE(C, MR_T_INT, first_stage_layers, "first_stage_layers", "-1", -1, 65536,
                 "layers of the first virtual stage; -1: as many as the others have"),
    MR_OPT_RANGE(C, MR_T_INT, last_stage_layers, "last_stage_layers", "-1", -1, 65536,
                 "layers of the last virtual stage; -1: as many as the others have"),
    MR_OPT(C, MR_T_BOOL, count_embedding, "count_embedding", "false",
           "the embedding counts as a layer where layers are shared out"),
    MR_OPT(C, MR_T_BOOL, count_loss, "count_loss", "false",
           "the loss counts as a layer where layers are shared out"),
    MR_OPT_RANGE(C, MR_T_INT, group, "group", "0", 0, 1048576,
                 "interleaved: micro-batches that a chunk takes in a row; 0: pp"),
    MR_OPT_CHOICE(C, dispatcher, "dispatcher", "alltoall", "alltoall|alltoall_padded|allgather",
                  "how tokens reach experts: sent where they are, as many as there are or in blocks "
                  "of equal size (which a graph can hold), or all to all ranks of ep (for few "
                  "ranks, and experts that are chosen many at a time)"),
    MR_OPT_RANGE(C, MR_T_FLOAT, dispatch_bound, "dispatch_bound", "0", 0, 1048576,
                 "rows that the experts of a rank have room for, as a multiple of those that it "
                 "sends; more is an error; 0: room for all rows of all ranks"),
    MR_OPT_RANGE(C, MR_T_FLOAT, capacity_factor, "capacity_factor", "0", 0, 1048576,
                 "an expert takes at most this many times the mean of a rank's tokens, the others "
                 "are dropped; 0: all are taken"),
    MR_OPT_CHOICE(C, capacity_policy, "capacity_policy", "probs", "probs|position",
                  "which tokens an expert keeps: the most probable, or the first"),
    MR_OPT(C, MR_T_BOOL, pad_to_capacity, "pad_to_capacity", "false",
           "every expert gets exactly its capacity of rows, zeros where it has fewer tokens"),
    MR_OPT_CHOICE(C, cp_comm_type, "cp_comm_type", "all_gather", "all_gather|p2p",
                  "how attention sees the keys of all cp ranks: gathered, or one block at a time "
                  "that pass round them, in less memory and beside the computation"),
};
#undef AXIS
#undef C

#define C mri_cfg_comm
static const mr_opt comm_opts[] = {
    MR_OPT_RANGE(C, MR_T_TIME, timeout, "timeout", "120s", 0.1, 1e6,
                 "how long ranks wait for one that does not come before it counts as lost"),
    MR_OPT_RANGE(C, MR_T_TIME, heartbeat, "heartbeat", "15s", 0.1, 1e6,
                 "how long a rank may give no sign of life before it counts as lost"),
    MR_OPT_RANGE(C, MR_T_FLOAT, link_gbytes, "link_gbytes", "0", 0, 1e6,
                 "mrun plan: GB/s of a rank's link; 0: as the machine has it"),
};
#undef C

#define C mri_cfg_train
#define COUNT(field, def, lo, hi, doc) MR_OPT_RANGE(C, MR_T_INT, field, #field, def, lo, hi, doc)
static const mr_opt train_opts[] = {
    COUNT(steps, NULL, 1, 1e12, "optimizer steps of the whole run"),
    COUNT(seq, "128", 1, 16777216, "tokens a sequence"),
    COUNT(micro_batch, "1", 1, 1048576, "sequences that one rank computes at a time"),
    COUNT(global_batch, NULL, 1, 1073741824,
          "sequences a step, over all ranks (default: micro_batch x dp)"),
    COUNT(eval_every, "0", 0, 1e12, "steps between validations; 0: none"),
    COUNT(eval_steps, "0", 0, 1e12, "batches a validation reads; 0: the whole validation set"),
    COUNT(log_every, "1", 1, 1e12, "steps between log lines"),
    COUNT(rampup_start, "0", 0, 1073741824, "batch ramp-up: the first global batch; 0: no ramp-up"),
    COUNT(rampup_increment, "0", 0, 1073741824, "batch ramp-up: what each stage adds"),
    COUNT(rampup_samples, "0", 0, 1e15, "batch ramp-up: sequences until the full global batch"),
    WORDS(C, MR_T_LIST, recompute, "recompute", "none", 0, 0, "none|full",
          "regions that backward computes again instead of keeping: core_attn,moe_act,mlp,..."),
    MR_OPT_CHOICE(C, loss, "loss", "per_token", "per_token|per_micro_batch",
                  "mean over the step's tokens, or mean of the micro-batches' means"),
    MR_OPT_RANGE(C, MR_T_FLOAT, moe_router_bias_update_rate, "moe_router_bias_update_rate", "0", 0,
                 1, "by how much a step moves the bias by which a router chooses, towards an even "
                 "load of its experts; 0: not at all"),
    MR_OPT(C, MR_T_BOOL, split_weight_gradient, "split_weight_gradient", "false",
           "weight gradients as a phase of their own (zero-bubble schedules)"),
    MR_OPT(C, MR_T_BOOL, fuse, "fuse", "true",
           "several ops as one that moves fewer bytes, where the backend has it"),
    MR_OPT(C, MR_T_STR, sample_prompt, "sample_prompt", NULL,
           "print a sample that goes on from this text at the end"),
    COUNT(sample_tokens, "200", 1, 1048576, "length of that sample (tokens)"),
    COUNT(images, "0", 0, 65536, "tiles of pictures that a sequence has room for; 0: text alone"),
};
#undef COUNT
#undef C

#define C mri_cfg_model
#define COUNT(field, hi, doc) MR_OPT_RANGE(C, MR_T_INT, sizes.field, #field, NULL, 1, hi, doc)
static const mr_opt model_opts[] = {
    MR_OPT(C, MR_T_PATH, hf, "hf", NULL,
           "Hugging Face folder: config.json gives the sizes, *.safetensors the weights"),
    COUNT(layers, 65536, "transformer layers"),
    COUNT(hidden, 1048576, "width of the residual stream"),
    COUNT(heads, 65536, "attention heads"),
    COUNT(kv_heads, 65536, "key/value heads (default: heads)"),
    COUNT(head_dim, 65536, "width of a head (default: hidden / heads)"),
    COUNT(ffn_hidden, 16777216, "inner width of a dense feed-forward block"),
    COUNT(vocab, 16777216, "vocabulary (default: the tokenizer's)"),
    COUNT(max_positions, 1073741824, "longest sequence that the model is made for"),
    MR_OPT_RANGE(C, MR_T_FLOAT, sizes.norm_eps, "norm_eps", NULL, 0, 1,
                 "epsilon of the norms (default: the family's)"),
    MR_OPT_RANGE(C, MR_T_FLOAT, sizes.rope_theta, "rope_theta", NULL, 1, 1e12,
                 "base of the rotary frequencies (default: the family's)"),
    MR_OPT_RANGE(C, MR_T_FLOAT, sizes.init_std, "init_std", NULL, 0, 10,
                 "standard deviation of the initial weights (default: the family's)"),
    MR_OPT_RANGE(C, MR_T_INT, sizes.seed, "seed", NULL, 0, 9007199254740992,
                 "seed of the initial weights (default: run.seed)"),
};
#undef COUNT
#undef C

#define C mri_cfg_precision
static const mr_opt precision_opts[] = {
    MR_OPT_CHOICE(C, recipe, "recipe", "fp32", "fp32|bf16|fp64|fp8-tensor",
                  "what products compute in; master weights stay fp32 (fp64: all is fp64). "
                  "fp8-tensor: bf16, and layers' products in 8-bit floats, one scale a tensor"),
    MR_OPT_CHOICE(C, masters, "masters", "f32", "f32|remainder",
                  "how the masters of bf16 weights are kept: whole, or what the weights leave"),
    MR_OPT_RANGE(C, MR_T_INT, start_in_bf16, "num_layers_at_start_in_bf16", "0", 0, 65536,
                 "first layers whose products an 8-bit recipe leaves in bf16"),
    MR_OPT_RANGE(C, MR_T_INT, end_in_bf16, "num_layers_at_end_in_bf16", "0", 0, 65536,
                 "last layers whose products an 8-bit recipe leaves in bf16"),
};
#undef C

#define C mri_cfg_optimizer
#define REAL(field, def, hi, doc) MR_OPT_RANGE(C, MR_T_FLOAT, field, #field, def, 0, hi, doc)
#define COUNT(field, def, doc) MR_OPT_RANGE(C, MR_T_INT, field, #field, def, 0, 1e12, doc)
static const mr_opt optimizer_opts[] = {
    REAL(lr, "3e-4", 1e6, "peak learning rate"),
    REAL(min_lr, "0", 1e6, "learning rate that the schedule ends at"),
    REAL(init_lr, "0", 1e6, "learning rate that the warm-up starts from"),
    REAL(weight_decay, "0.01", 1e6, "decoupled weight decay"),
    REAL(clip_grad, "1.0", INFINITY, "largest global gradient norm; 0: no clipping"),
    MR_OPT_CHOICE(C, schedule, "schedule", "cosine",
                  "constant|linear|cosine|wsd|inverse-square-root",
                  "how the learning rate falls after the warm-up"),
    MR_OPT_CHOICE(C, wsd_decay, "wsd_decay", "exponential",
                  "linear|cosine|exponential|minus_sqrt", "shape of the last part of wsd"),
    COUNT(warmup, "0", "steps of linear warm-up"),
    COUNT(decay_steps, "0", "step at which min_lr is reached; 0: train.steps"),
    COUNT(wsd_steps, "0", "steps of the falling part of wsd"),
    MR_OPT(C, MR_T_LIST, groups, "groups", NULL,
           "parameter groups, PATTERN:lr_mult=X:decay_mult=X:frozen on parameter names"),
    MR_OPT(C, MR_T_BOOL, decay_1d, "decay_1d", "false", "decay norms and biases too"),
};
#undef REAL
#undef COUNT
#undef C

#define C mri_cfg_checkpoint
static const mr_opt checkpoint_opts[] = {
    MR_OPT(C, MR_T_PATH, dir, "dir", NULL,
           "folder of the checkpoints (default: checkpoints in run.dir)"),
    MR_OPT_RANGE(C, MR_T_INT, every, "every", "0", 0, 1e12, "steps between checkpoints; 0: none"),
    MR_OPT_RANGE(C, MR_T_INT, keep, "keep", "3", 0, 1e6, "newest checkpoints to keep; 0: all"),
    MR_OPT(C, MR_T_BOOL, save_at_end, "save_at_end", "true", "save after the last step"),
    MR_OPT_CHOICE(C, format, "format", "fully_reshardable", "fully_reshardable|dp_reshardable",
                  "of several ranks: any mesh reads it; or states as they lie, for other dp only"),
    MR_OPT(C, MR_T_BOOL, async, "async", "false",
           "copy once to host memory and write while training goes on"),
    MR_OPT(C, MR_T_PATH, local_dir, "local_dir", NULL,
           "a disk of each rank's own for fast checkpoints that only the same mesh reads"),
    MR_OPT_RANGE(C, MR_T_INT, local_every, "local_every", "0", 0, 1e12,
                 "steps between local checkpoints; 0: none"),
};
#undef C

#define C mri_cfg_debug
static const mr_opt debug_opts[] = {
    MR_OPT_CHOICE(C, mode, "mode", "none", "none|step",
                  "step: one op at a time, checked for NaN, Inf and guard bytes"),
    MR_OPT(C, MR_T_BOOL, poison, "poison", "false",
           "fill saved buffers with NaN once they are dead"),
    MR_OPT(C, MR_T_LIST, spoil, "spoil", NULL,
           "STEP:FACTOR, as in 5:nan: multiply a step's gradients, to see what a run does about "
           "it; "
           "each item serves once"),
};
#undef C

#define C mri_cfg_generate
#define COUNT(field, def, lo, hi, doc) MR_OPT_RANGE(C, MR_T_INT, field, #field, def, lo, hi, doc)
#define REAL(field, def, lo, hi, doc) MR_OPT_RANGE(C, MR_T_FLOAT, field, #field, def, lo, hi, doc)
static const mr_opt generate_opts[] = {
    MR_OPT(C, MR_T_STR, prompt, "prompt", NULL, "text to go on from; with chat: what a user says"),
    MR_OPT(C, MR_T_STR, ids, "ids", NULL, "ids to go on from, taken as they are: \"1 2 3\""),
    MR_OPT(C, MR_T_PATH, jsonl, "jsonl", NULL,
           "file of JSON lines with \"prompt\", \"ids\" or \"messages\"; one comes out for each"),
    MR_OPT(C, MR_T_BOOL, chat, "chat", "false",
           "prompts are what a user says: the model's chat template goes around them"),
    MR_OPT(C, MR_T_STR, system, "system", NULL, "with chat: the system message"),
    MR_OPT(C, MR_T_PATH, messages, "messages", NULL, "JSON file of a chat's messages"),
    MR_OPT(C, MR_T_PATH, tools, "tools", NULL, "with chat: JSON file of the tools' schemas"),
    MR_OPT(C, MR_T_PATH, chat_template, "chat_template", NULL,
           "a template in place of the model's own"),
    MR_OPT(C, MR_T_BOOL, special, "special", "true",
           "begin prompts with the tokenizer's beginning-of-text id"),
    COUNT(max_tokens, "128", 1, 1073741824, "tokens to write"),
    COUNT(min_tokens, "0", 0, 1073741824, "tokens before anything may end the answer"),
    COUNT(n, "1", 1, 65536, "answers to each prompt; the j-th, from 0, has the seed seed + j"),
    COUNT(batch, "16", 1, 65536, "sequences that run at a time"),
    COUNT(top_k, "0", 0, 16777216, "likeliest tokens kept; 0: all"),
    COUNT(seed, "1", 0, 9007199254740992, "seed of the sampling"),
    COUNT(max_seq, "0", 0, 1073741824,
          "positions of the cache, for each sequence; 0: what prompt and max_tokens need"),
    REAL(temperature, "1.0", 0, 1000, "0: always the likeliest token"),
    REAL(top_p, "1.0", 0, 1, "smallest set of tokens with this probability is kept; 1: all"),
    REAL(min_p, "0.0", 0, 1,
         "tokens below this part of the likeliest one's probability go; 0: none"),
    REAL(repetition_penalty, "1.0", 1e-6, 1e6,
         "divides the logits of tokens that were there, multiplies those below 0; 1: none"),
    REAL(presence_penalty, "0.0", -1e6, 1e6, "off the logits of tokens that the answer has"),
    REAL(frequency_penalty, "0.0", -1e6, 1e6, "off them for each time that the answer has them"),
    MR_OPT(C, MR_T_LIST, logit_bias, "logit_bias", NULL, "ID:X, X is added to the logit of ID"),
    MR_OPT(C, MR_T_LIST, stop, "stop", NULL,
           "texts that end the answer and are not shown; \\n \\t \\\\ stand for their characters"),
    MR_OPT(C, MR_T_LIST, stop_ids, "stop_ids", NULL, "ids that end it, beside the model's own"),
    MR_OPT(C, MR_T_BOOL, ignore_eos, "ignore_eos", "false", "the model's own end is no end"),
    COUNT(logprobs, "-1", -1, 1048576,
          "log-probabilities in JSON, with those of so many likeliest tokens; -1: none"),
};
#undef REAL
#undef COUNT
#undef C

#define C mri_cfg_score
static const mr_opt score_opts[] = {
    MR_OPT(C, MR_T_STR, text, "text", NULL, "one text to score"),
    MR_OPT(C, MR_T_PATH, file, "file", NULL,
           "a file of JSON lines to score, each an object with \"text\" or \"ids\""),
    MR_OPT(C, MR_T_BOOL, special, "special", "true",
           "begin texts with the tokenizer's beginning-of-text id"),
    MR_OPT(C, MR_T_PATH, logits, "logits", NULL, "safetensors file that the logits go into"),
    MR_OPT(C, MR_T_PATH, grad, "grad", NULL,
           "safetensors file that the gradients of the mean loss go into"),
};
#undef C

#define C mri_cfg_preprocess
static const mr_opt preprocess_opts[] = {
    MR_OPT(C, MR_T_PATH, input, "input", NULL, "a file of JSON lines, one document a line"),
    MR_OPT(C, MR_T_PATH, output_prefix, "output_prefix", NULL,
           "path of the .bin and .idx without their endings"),
    MR_OPT(C, MR_T_STR, json_key, "json_key", "text", "key of a line's text"),
    MR_OPT(C, MR_T_BOOL, append_eod, "append_eod", "true",
           "end each document with the tokenizer's end-of-document id"),
    MR_OPT_RANGE(C, MR_T_INT, workers, "workers", "0", 0, 64,
                 "threads that tokenise (0: one a processor)"),
    MR_OPT(C, MR_T_STR, chat, "chat", NULL,
           "lines hold messages: how one reads, as in {role}: {content}\\n; PREFIX_loss gets "
           "weights"),
    MR_OPT(C, MR_T_STR, learn, "learn", "assistant", "role whose messages are learnt, with chat"),
};
#undef C

#define C mri_cfg_convert
static const mr_opt convert_opts[] = {
    MR_OPT_CHOICE(C, to, "to", "hf", "hf|mrun",
                  "what is made: a Hugging Face folder, or a run folder with one checkpoint"),
    MR_OPT(C, MR_T_PATH, out, "out", NULL, "folder that is made; it appears when it is whole"),
    MR_OPT_CHOICE(C, dtype, "dtype", "auto", "auto|fp32|bf16|fp16|f16",
                  "of the weights; auto: those of a Hugging Face folder as they are, a run's in "
                  "its precision"),
    MR_OPT(C, MR_T_STR, max_shard_size, "max_shard_size", "5GB",
           "largest safetensors file: bytes, or with KB MB GB TB KiB MiB GiB TiB"),
    MR_OPT(C, MR_T_BOOL, force, "force", "false", "replace a model folder that is there"),
};
#undef C

#define SECTION(field, doc) \
    { #field, doc, field##_opts, LEN(field##_opts), (uint32_t)offsetof(mri_config, field), \
      (uint32_t)sizeof(((mri_config *)0)->field) }
static const mri_section sections[] = {
    SECTION(run, "where the run lives, and what makes it repeatable"),
    SECTION(job, "what the profile does"),
    SECTION(backend, "where kernels run"),
    SECTION(mesh, "how many ranks each kind of parallelism takes"),
    SECTION(comm, "collectives between ranks"),
    SECTION(train, "steps, batches, validation, recompute"),
    SECTION(model, "the model family and the sizes that all families share"),
    SECTION(precision, "number formats"),
    SECTION(optimizer, "the optimizer, its learning-rate schedule, parameter groups"),
    SECTION(checkpoint, "when to save, what to keep"),
    SECTION(debug, "slow modes that find faults"),
    SECTION(generate, "the job generate"),
    SECTION(score, "the job score"),
    SECTION(preprocess, "the job preprocess: JSON lines to an indexed data set"),
    SECTION(convert, "the job convert: a model in another format"),
};

static const mri_kind kinds[] = {
    { "backend", "cpu", "where kernels run", false },
    { "comm", "none", "collectives between ranks", false },
    { "model", NULL, "the model family", false },
    { "optimizer", "adamw", "the update rule", false },
    { "shard", "none", "how parameters and optimizer state are split over ranks", false },
    { "graph", "none", "what is captured into device graphs", false },
    { "data", "text", "where training tokens come from", false },
    { "tokenizer", "bytes", "text to tokens and back", false },
    { "sink", "console, jsonl", "where metrics go: one or more", true },
};

static const mri_job_needs jobs[] = {
    { "train", "backend model optimizer data tokenizer", "comm shard graph sink", "train",
      "steps" },
    { "preprocess", "tokenizer", "", "preprocess", "input" },
    { "tokenize", "tokenizer", "", NULL, NULL },
    { "generate", "backend model tokenizer", "comm shard graph", NULL, NULL },
    { "score", "backend model tokenizer", "comm shard graph", NULL, NULL },
    { "convert", "model", "tokenizer", "convert", "out" }, /* no device is opened */
    { "bench", "backend model optimizer", "comm shard graph data tokenizer", "train",
      "steps" },
};

const mri_section *mri_sections(size_t *n)
{
    *n = LEN(sections);
    return sections;
}

const mri_kind *mri_kinds(size_t *n)
{
    *n = LEN(kinds);
    return kinds;
}

const mri_job_needs *mri_jobs(size_t *n)
{
    *n = LEN(jobs);
    return jobs;
}
