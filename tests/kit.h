/* SPDX-License-Identifier: Apache-2.0
 *
 * kit.h - for tests that need a whole session: a registry with core's services over the
 * build's plugins, a session from --set style words, and comparing host arrays.
 */
#ifndef MRI_TEST_KIT_H
#define MRI_TEST_KIT_H
#include "core/base/json.h"
#include "core/run/session.h"
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct kit {
    mri_registry *registry;
    mri_config *config;
    mri_session *session;
} kit;

static inline void kit_ok(mr_status st, const mr_err *err, const char *what)
{
    cr_assert_eq(st, 0, "%s: %s | %s", what, err->what, err->detail);
}

/* sets: NULL-ended "section.key=value" */
static inline kit kit_open(const char *profile, const char *const *sets, mri_session_options o)
{
    kit k = { 0 };
    mr_err err = MR_ERR_INIT;
    size_t n = 0;
    while (sets[n])
        n++;
    k.registry = mri_registry_create(NULL);
    mri_registry_offer(k.registry, MR_EXT_REF, &mri_ref_service);
    mri_registry_offer(k.registry, MR_EXT_JSON, &mri_json_service);
    kit_ok(mri_registry_set_op_hook(k.registry, mri_op_register, &err), &err, "op hook");
    kit_ok(mri_config_load(k.registry, profile, sets, n, &k.config, &err), &err, "config");
    kit_ok(mri_session_open(k.registry, k.config, &o, &k.session, &err), &err, "session");
    return k;
}

static inline void kit_close(kit *k)
{
    mri_session_close(k->session);
    mri_config_free(k->config);
    mri_registry_free(k->registry);
    memset(k, 0, sizeof *k);
}

static inline const char *kit_source(const char *path) /* of the source tree; static buffer */
{
    static char full[4096];
    snprintf(full, sizeof full, "%s/%s", getenv("MRUN_SOURCE"), path);
    return full;
}

/* the main gradient of a slot as doubles; the caller frees */
static inline double *kit_grad(mri_session *s, const mri_tensor_slot *slot)
{
    mr_err err = MR_ERR_INIT;
    size_t width = mr_dtype_bytes(s->params.acc_dtype);
    void *raw = mri_alloc(slot->n * width);
    double *x = mri_alloc(slot->n * sizeof *x);
    kit_ok(mri_device_read(&s->device, raw, mri_params_grad(&s->params, slot), slot->n * width,
                           &err), &err, "read");
    kit_ok(mri_convert(x, "f64", raw, s->params.acc_dtype, slot->n, &err), &err, "convert");
    free(raw);
    return x;
}

/* A batch of `rows` sequences of `seq` pseudo-random ids below `vocab`; freed by kit_batch_free. */
static inline mri_batch kit_batch(int64_t rows, int64_t seq, int64_t vocab, uint32_t seed)
{
    int64_t t = rows * seq;
    int32_t *tokens = mri_alloc((size_t)t * 4), *targets = mri_alloc((size_t)t * 4);
    int32_t *positions = mri_alloc((size_t)t * 4), *start = mri_alloc((size_t)t * 4);
    float *weight = mri_alloc((size_t)t * 4);
    for (int64_t i = 0; i < t; i++) {
        seed = seed * 1664525u + 1013904223u;
        tokens[i] = (int32_t)((seed >> 8) % (uint32_t)vocab);
        positions[i] = (int32_t)(i % seq);
        start[i] = (int32_t)(i / seq * seq);
        weight[i] = (i + 1) % seq ? 1 : 0;
    }
    for (int64_t i = 0; i + 1 < t; i++)
        targets[i] = tokens[i + 1];
    return (mri_batch){ tokens, positions, start, targets, NULL, weight };
}

static inline void kit_batch_free(mri_batch *b)
{
    free((void *)(uintptr_t)b->tokens);
    free((void *)(uintptr_t)b->positions);
    free((void *)(uintptr_t)b->seq_start);
    free((void *)(uintptr_t)b->targets);
    free((void *)(uintptr_t)b->loss_weight);
}

#endif
