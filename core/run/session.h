/* SPDX-License-Identifier: Apache-2.0
 *
 * session.h - a profile brought to life: device, model, parameters, data, and the execs that
 * a job needs, in one arena. Jobs (apps/) drive it; nothing here prints.
 *
 * Invariant: between two calls nothing lives in the arena, so training, validation and
 * generation may take turns in it; what persists are parameters, optimizer states, model
 * states and the counters in `done`. Main gradients live until the next call.
 */
#ifndef MRI_SESSION_H
#define MRI_SESSION_H
#include "core/config/sections.h"
#include "core/mesh/world.h"
#include "core/plugin/registry.h"
#include "core/store/store.h"
#include "mrun/data.h"
#include "balance.h"
#include "decode.h"
#include "feed.h"
#include "graphs.h"
#include "imager.h"
#include "dp.h"
#include "relay.h"
#include "update.h"

enum { /* what a job needs */
    MRI_NEED_TRAIN = 1, MRI_NEED_EVAL = 2, MRI_NEED_DECODE = 4, MRI_NEED_DATA = 8,
    MRI_NEED_TOKENIZER = 16, MRI_NEED_UPDATE = 32 /* with TRAIN: optimizer too */
};

typedef struct mri_progress { /* what a checkpoint's manifest carries */
    int64_t step, samples, tokens;
} mri_progress;

typedef struct mri_memory { /* bytes */
    uint64_t parameters, optimizer, arena, saved, edges, scratch, states, device;
    uint64_t shared; /* of the arena's saved values: bytes that lie in the gradients */
} mri_memory;

typedef struct mri_step_result {
    int64_t step;     /* 1, 2, ... */
    double loss;      /* mean over the tokens that count */
    double aux[8];    /* further losses by name, per token and instance */
    const char *aux_name[8];
    uint32_t n_aux;
    double grad_norm, lr, weight;
    int64_t tokens, samples; /* that this step took in */
    int64_t samples_done;    /* after it */
    bool ok;          /* false: not finite, or a spike: nothing was changed */
    bool spike;       /* its loss is finite and too large; grad_norm is not known */
} mri_step_result;

typedef struct mri_spikes { /* [run] check_for_spiky_loss: what is known of the first losses */
    int64_t seen;
    double most;
    bool pass; /* the next step is taken whatever its loss */
    mr_attr counters[2]; /* seen and most, as of the last save */
} mri_spikes;

typedef struct mri_pending { /* a step that was begun */
    mri_step_result result;  /* what the host knows of it */
    mri_progress before;
    uint32_t micros, slot;
    uint32_t read; /* micro-batches that are this rank's; the others are blank */
    double spoil;  /* not 0: what its gradients and its loss were multiplied by */
} mri_pending;

typedef struct mri_pictures { /* that scored and decoded sequences refer to */
    const float *pixels;      /* borrowed [tiles, 3, S, S], NULL: none */
    int64_t tiles, next;      /* next: feature rows that the decoded sequence took so far */
    void *features;           /* device, decode: [room tiles * image_tokens, hidden] */
    uint64_t feature_bytes;
} mri_pictures;

typedef struct mri_session {
    const mri_config *config;
    mri_registry *registry;
    mri_world *world; /* borrowed; NULL: this rank alone */
    mri_device device;
    const mr_model_ops *model_ops;
    void *model;
    mr_model_info info;
    char *model_dtype;
    mri_params params;
    mri_dp *dp; /* NULL: no other rank */
    mri_assembly *described; /* whose parameters those are, where no exec has them all */
    mri_scalars scalars;
    const mr_optimizer_ops *optimizer_ops;
    void *optimizer;
    mri_update *update;
    mri_balance *balance; /* of routers' biases; or NULL */
    mri_exec *train, *eval, *decode, *prefill; /* decode: a row a slot; prefill: more, same states */
    mri_pages pages;    /* who has which page of the states */
    mri_rows rows[2];   /* of decode and of prefill */
    mri_exec *encode;   /* pictures alone, for decode */
    mri_pictures pictures;
    mri_imager imager;  /* of models that take pictures */
    char *arena;
    uint64_t arena_bytes;
    mri_feed feed;
    mri_graphs graphs;
    mri_relay relay, eval_relay; /* of train and eval: this rank's stage of the pipeline */
    mri_schedule schedule; /* of the last step's number of micro-batches */
    mri_pending pending[MRI_FEED_SLOTS];
    uint32_t n_pending, begun;
    const mr_tokenizer_ops *tok_ops;
    void *tok;
    mr_tokenizer_info tok_info;
    const mr_data_ops *data_ops;
    void *data;
    bool dry;   /* planned alone */
    double spoil; /* not 0: what the next step's gradients and loss are multiplied by, once */
    mri_spikes spikes;
    bool whole; /* every row of train and eval is one sequence of [train] seq tokens */
    mri_progress done;
    struct mri_saver *saver; /* of saves behind training, and those of several ranks; or NULL */
} mri_session;

/* eval_tokens, train_tokens: T of that exec, 0: the training micro-batch's. Memory is predicted
 * from the plans and checked against the device before any of it is taken. */
typedef struct mri_session_options {
    uint32_t needs;
    int64_t eval_tokens;
    int64_t prefill_tokens; /* rows of the prefill exec; not above slots: there is none */
    int64_t slots, max_seq; /* sequences that run at a time, positions of each at most */
    int64_t page, pages;    /* positions of a page; pages. 0: MRI_PAGE; enough for all slots */
    int64_t images; /* tiles that decode, and a train or eval of own tokens, have room for; by the
                       data's batches they have [train] images a sequence */
    bool guard, stress; /* plans with guard bytes; without sharing of memory */
    bool dry; /* plan only: nothing is allocated (mrun plan) */
    bool whole; /* the caller's own batches are rows of whole sequences; batches of the data are
                   that if the data plugin promises it */
    int64_t train_tokens;
    bool describe;  /* model and parameters by name and type alone: no device, nothing runs */
    bool main_loss; /* gradients of lm_loss alone, the model's auxiliary losses left out */
    mri_world *world; /* of many ranks, all of which open the same session; lives longer */
} mri_session_options;

mr_status mri_session_open(mri_registry *reg, const mri_config *config,
                           const mri_session_options *opt, mri_session **out, mr_err *err);
void mri_session_close(mri_session *s);
/* The model's blocks for one mode, as this rank runs them: after mri_assemble(), and again after
 * what builds kinds again. */
mr_status mri_session_cut(const mri_session *s, mri_assembly *a, const mr_block_env *env,
                          mr_err *err);
void mri_session_memory(const mri_session *s, mri_memory *out); /* memory.c */
mr_status mri_session_fits(const mri_session *s, mr_err *err);  /* the device has as much? */
/* fresh weights, or those of [model] hf when the folder has safetensors */
mr_status mri_session_init_weights(mri_session *s, mr_err *err);
mr_status mri_session_load_hf(mri_session *s, const char *dir, mr_err *err);

/* One optimizer step: reads its global batch from set "train" at done.samples, accumulates,
 * updates, advances `done` (only if ok). Waits; step.h has the queue behind it. */
mr_status mri_session_train_step(mri_session *s, mri_step_result *out, mr_err *err);
/* Runs forward and backward of the coming step's batch, without update or progress. */
mr_status mri_session_gradients(mri_session *s, mri_step_result *out, mr_err *err);
/* Forward and backward of one batch of exactly the train exec's tokens: the gradients of its
 * weighted mean loss (and of the model's auxiliary losses) in the main gradients, zeroed first. */
mr_status mri_session_gradients_of(mri_session *s, const mri_batch *b, mri_step_result *out,
                                   mr_err *err);
/* mean nll over one data set (steps > 0: only so many micro-batches), and its bits per byte */
mr_status mri_session_evaluate(mri_session *s, uint32_t set, int64_t steps, double *nll,
                               double *bits_per_byte, mr_err *err);
uint32_t mri_session_find_set(mri_session *s, const char *name, mr_data_set *out); /* UINT32_MAX: none */

/* The pictures of the sequences that are scored or decoded next: [tiles, 3, S, S] f32, normalised,
 * borrowed until the next call; encoded at once for decoding. The k-th token info.image_token of a
 * sequence takes the k-th row of the features. tiles 0: none. */
mr_status mri_session_pictures(mri_session *s, const float *pixels, int64_t tiles, mr_err *err);

/* How pictures become tiles and ids for this model; MR_E_ARG if it takes none. */
mr_status mri_session_imager(mri_session *s, const mri_imager **out, mr_err *err);

/* nll of each position of one sequence: out[i] = -log p(ids[i+1] | ids[..i]), n - 1 values;
 * logits (may be NULL): [n, V] f32. Needs an eval exec of at least n tokens. Of several sequences,
 * over ranks: score.h. */
mr_status mri_session_score(mri_session *s, const int32_t *ids, int64_t n, float *nll, float *logits,
                            mr_err *err);

/* Cached decoding in slot 0: feeds n ids at positions pos..; logits of the last one, [V] f32. Not
 * beside an engine (engine.h), which has slots and pages for its own. */
mr_status mri_session_decode(mri_session *s, const int32_t *ids, int64_t n, int64_t pos,
                             float *logits, mr_err *err);

/* Checkpoints: the model in HF names (file group "model": weights as masters hold them), the
 * optimizer states per parameter ("optimizer": "exp_avg.NAME"). All ranks make these calls
 * alike. */
mr_status mri_session_save(mri_session *s, const char *dir, int64_t keep, mr_err *err);
/* The same behind the steps that follow. saved() asks whether it is done: *step of it then, else
 * -1; `wait`: until it is. What is not done when the session closes is given up. */
mr_status mri_session_save_behind(mri_session *s, const char *dir, int64_t keep, mr_err *err);
mr_status mri_session_saved(mri_session *s, bool wait, int64_t *step, mr_err *err);
/* each rank's own to [checkpoint] local_dir */
mr_status mri_session_save_local(mri_session *s, mr_err *err);
/* The newest checkpoint in `dir`, or the newest local one if that is of a later step; *found false:
 * there is none, and nothing was changed. *saved: the step of that in `dir`, -1 if it has none. */
mr_status mri_session_resume(mri_session *s, const char *dir, bool *found, int64_t *saved,
                             mr_err *err);
/* Loads weights, and states and progress unless weights_only. */
mr_status mri_session_load(mri_session *s, const mri_checkpoint *c, bool weights_only, mr_err *err);

/* ranks that share the sequences of a micro-batch */
static inline int64_t mri_session_cp(const mri_session *s)
{
    return s->world ? s->world->mesh.cp : 1;
}

#endif
