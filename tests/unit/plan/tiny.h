/* SPDX-License-Identifier: Apache-2.0
 *
 * tiny.h - a small Llama 4 (dense and mixture layers, RoPE and NoPE, shared expert, both
 * router losses) as a session, and its gradients as one block of bytes to compare.
 */
#ifndef TEST_TINY_H
#define TEST_TINY_H
#include "tests/kit.h"

enum { TINY_SEQ = 12, TINY_ROWS = 2, TINY_VOCAB = 23 };

#define TINY_MODEL \
    "model.plugin=llama4", "model.layers=4", "model.hidden=16", "model.heads=2", \
        "model.kv_heads=1", "model.head_dim=8", "model.ffn_hidden=20", "model.vocab=23", \
        "model.max_positions=64", "model.init_std=0.2", "model.llama4.experts=3", \
        "model.llama4.experts_per_token=2", "model.llama4.expert_hidden=12", \
        "model.llama4.moe_step=2", "model.llama4.nope_interval=4", \
        "model.llama4.attention_chunk=5", "model.llama4.aux_loss=0.05", \
        "model.llama4.z_loss=0.01", "train.steps=10", "train.seq=12", "data.text.path=unused", \
        "backend.cpu.threads=1"

typedef struct tiny {
    kit k;
    mri_session *s;
    mri_trace poison;
} tiny;

/* more: further "section.key=value" words, NULL-ended; they win over TINY_MODEL */
static inline tiny tiny_open(const char *backend, mri_session_options o, const char *const *more)
{
    char *plugin = mri_format("backend.plugin=%s", backend);
    const char *sets[64] = { plugin, "train.micro_batch=2", TINY_MODEL };
    size_t n = 0;
    tiny t = { .poison = { .poison = true } };
    while (sets[n])
        n++;
    for (size_t i = 0; more && more[i]; i++)
        sets[n++] = more[i];
    cr_assert_lt(n, 63);
    o.needs |= MRI_NEED_TRAIN;
    t.k = kit_open(NULL, sets, o);
    t.s = t.k.session;
    free(plugin);
    mr_err err = MR_ERR_INIT;
    kit_ok(mri_session_init_weights(t.s, &err), &err, "weights");
    return t;
}

static inline void tiny_close(tiny *t)
{
    kit_close(&t->k);
}

/* All main gradients after one batch of the session's micro-batch, dead buffers filled with NaN
 * as the run goes; *n bytes, freed by the caller. */
static inline char *tiny_gradients(tiny *t, uint32_t seed, size_t *n)
{
    mri_session *s = t->s;
    mr_err err = MR_ERR_INIT;
    mri_step_result r;
    mri_batch b = kit_batch(s->config->train.micro_batch, TINY_SEQ, TINY_VOCAB, seed);
    s->train->trace = &t->poison;
    kit_ok(mri_session_gradients_of(s, &b, &r, &err), &err, "gradients");
    s->train->trace = NULL;
    cr_assert(isfinite(r.loss) && r.n_aux == 2, "loss %g, %u others", r.loss, r.n_aux);
    kit_batch_free(&b);
    *n = s->params.trainable * mr_dtype_bytes(s->params.acc_dtype);
    char *g = mri_alloc(*n);
    kit_ok(mri_device_read(&s->device, g, s->params.grads, *n, &err), &err, "read");
    return g;
}

static inline uint64_t tiny_saved(const tiny *t)
{
    return t->s->train->saved_bytes;
}

static inline mr_type tiny_type(int64_t rows)
{
    return mr_type2("f32", rows, 4);
}

/* a program of its own: input x [3, 4] */
static inline mr_net tiny_prog(const char *name, mr_val *x)
{
    mr_net n = { &mri_builder, mri_prog_new(name, "f32") };
    mr_type t = tiny_type(3);
    *x = n.b->input(n.p, "x", &t);
    return n;
}

static inline mr_param tiny_param(mr_type type)
{
    return (mr_param){ sizeof(mr_param), 0, type, "-", "normal", 1, NULL };
}

#endif
