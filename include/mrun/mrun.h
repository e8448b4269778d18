/* SPDX-License-Identifier: Apache-2.0
 *
 * mrun.h - embedding: what a program that links libmrun may call. Plugins do not need it.
 *
 *     mr_runtime *r = mr_open(NULL);
 *     mr_model_options o = { sizeof o, MR_MODEL_TEXT, 512 };
 *     mr_err err = MR_ERR_INIT;
 *     mr_model *m;
 *     if (mr_model_open(r, "runs/quickstart", NULL, 0, &o, &m, &err))
 *         fprintf(stderr, "%s\n%s\n", err.what, err.hint);
 *
 * Nothing here prints, exits or catches signals. A call that fails returns a status other than
 * 0 and fills the caller's mr_err. Training is a job of the program: `mrun PROFILE.ini`.
 *
 *     cc app.c $(pkg-config --cflags --libs mrun-1)
 */
#ifndef MRUN_MRUN_H
#define MRUN_MRUN_H
#include "plugin.h"
#ifdef __cplusplus
extern "C" {
#endif

MR_EXPORT const char *mr_version(void); /* "0.1.0", of the library that runs   [any-thread] */
MR_EXPORT void mr_abi(uint32_t *major, uint32_t *minor); /* of the plugin ABI  [any-thread] */

/* Owns the plugins that were loaded; one a process is enough. `plugin_paths` is searched before
 * the usual folders, as --plugin-path is; NULL: only those. Closed after all that came of it. */
typedef struct mr_runtime mr_runtime;
MR_EXPORT mr_runtime *mr_open(const char *plugin_paths); /*                          [main] */
MR_EXPORT void mr_close(mr_runtime *r); /* NULL is fine                              [main] */

/* Resolves a profile with `sets` ("section.key=value") on top, as `mrun check PROFILE.ini`
 * does. *text: a profile again, each value with its origin; freed with mr_free(). [main] */
MR_EXPORT mr_status mr_profile_check(mr_runtime *r, const char *path, const char *const *sets,
                                     uint64_t n_sets, char **text, mr_err *err);
MR_EXPORT void mr_free(void *p); /*                                            [any-thread] */

/* ---- a trained model ---------------------------------------------------------------- */
enum { MR_MODEL_TEXT = 1 }; /* with its tokenizer: mr_model_encode(), mr_model_text() work */

typedef struct mr_model_options {
    uint32_t size, flags;
    int64_t max_tokens; /* longest sequence; memory is taken for it at once                */
} mr_model_options;

/* `source` is a profile, a run folder (the weights of its newest checkpoint), or a Hugging Face
 * folder. `sets` as above: { "backend.plugin=ref" }. One model is one conversation at a time. */
typedef struct mr_model mr_model;
MR_EXPORT mr_status mr_model_open(mr_runtime *r, const char *source, const char *const *sets,
                                  uint64_t n_sets, const mr_model_options *options, mr_model **out,
                                  mr_err *err);           /*                         [main] */
MR_EXPORT void mr_model_close(mr_model *m); /* NULL is fine                          [main] */
MR_EXPORT int64_t mr_model_vocab(const mr_model *m); /*                          [instance] */

/* Text to ids and back. Both write at most `cap` and set *n to what there is: with cap = 0 they
 * only measure. encode() puts the tokenizer's beginning-of-text id first, if it has one. */
MR_EXPORT mr_status mr_model_encode(mr_model *m, const char *text, uint64_t len, int32_t *ids,
                                    uint64_t cap, uint64_t *n, mr_err *err);   /* [instance] */
MR_EXPORT mr_status mr_model_text(mr_model *m, const int32_t *ids, uint64_t n_ids, char *text,
                                  uint64_t cap, uint64_t *n, mr_err *err);     /* [instance] */

/* logprobs[i] = log p(ids[i + 1] | ids[0..i]), n - 1 values. Leaves the cache alone. */
MR_EXPORT mr_status mr_model_score(mr_model *m, const int32_t *ids, int64_t n, float *logprobs,
                                   mr_err *err);                               /* [instance] */

/* Takes n ids in at positions pos, pos + 1 .. of the cached sequence, and gives the logits of
 * what follows them, [vocab]. pos = 0 starts anew; a smaller pos than before goes back. */
MR_EXPORT mr_status mr_model_next(mr_model *m, const int32_t *ids, int64_t n, int64_t pos,
                                  float *logits, mr_err *err);                 /* [instance] */

/* One id from logits. The draw depends on (seed, position) and nothing else. temperature 0:
 * the likeliest. top_k 0 and top_p 1: all ids. */
typedef struct mr_sampling {
    uint32_t size, pad;
    double temperature, top_p;
    int64_t top_k;
    uint64_t seed;
} mr_sampling;
MR_EXPORT int32_t mr_draw(const float *logits, int64_t vocab, const mr_sampling *how,
                          uint64_t position); /*                               [any-thread] */

#ifdef __cplusplus
}
#endif
#endif
