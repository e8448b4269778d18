/* SPDX-License-Identifier: Apache-2.0
 * Sessions of 2 and 4 tensor-parallel ranks have the losses and the gradients of one rank, with
 * and without sequence parallelism, and the same bits whether collectives overlap or not; and what
 * they score and decode is what one rank does. */
#include "world.h"
#include "tests/kit.h"

enum { SEQ = 8, ROWS = 2, VOCAB = 24, MAX_RANKS = 4 };

typedef struct tensors { /* of one rank: main gradients by slot, in f32 */
    MRI_VEC(mri_tensor_slot) slots;
    MRI_VEC(float *) grads;
    double loss, aux[8];
    uint32_t n_aux;
} tensors;

typedef struct results {
    tensors rank[MAX_RANKS];
} results;

static mr_status gradients(par_rank *r, void *ctx, mr_err *err)
{
    tensors *t = &((results *)ctx)->rank[r->rank];
    mri_session_options o = { .needs = MRI_NEED_TRAIN };
    mri_batch b = kit_batch(ROWS, SEQ, VOCAB, 11);
    mri_step_result res;
    mr_status st = 0;
    MR_TRY(par_session(r, &o, err));
    mri_session *s = r->session;
    MR_TRY(mri_session_init_weights(s, err));
    MR_TRY(mri_session_gradients_of(s, &b, &res, err));
    t->loss = res.loss;
    t->n_aux = res.n_aux;
    memcpy(t->aux, res.aux, sizeof t->aux);
    for (size_t i = 0; i < s->params.slots.n; i++) {
        mri_tensor_slot slot = s->params.slots.v[i];
        void *g = mri_params_grad(&s->params, &slot);
        float *copy = calloc(slot.n, sizeof *copy);
        slot.name = strdup(slot.name);
        if (g)
            MR_TRY(mri_device_read(&s->device, copy, g, slot.n * sizeof *copy, err));
        MRI_PUSH(&t->slots, slot);
        MRI_PUSH(&t->grads, copy);
    }
out:
    kit_batch_free(&b);
    return st;
}

static void forget(results *x)
{
    for (size_t r = 0; r < MAX_RANKS; r++) {
        for (size_t i = 0; i < x->rank[r].slots.n; i++) {
            free((void *)(uintptr_t)x->rank[r].slots.v[i].name);
            free(x->rank[r].grads.v[i]);
        }
        free(x->rank[r].slots.v);
        free(x->rank[r].grads.v);
    }
    memset(x, 0, sizeof *x);
}

/* The element of a whole tensor that element k of a box is. */
static size_t whole_index(const mri_tensor_slot *s, size_t k)
{
    size_t at = 0, stride = 1;
    if (!s->place.rank)
        return k;
    for (uint32_t d = s->place.rank; d-- > 0;) {
        size_t n = (size_t)s->desc.type.dim[d];
        at += ((size_t)s->place.at[d] + k % n) * stride;
        stride *= (size_t)s->place.full[d];
        k /= n;
    }
    return at;
}

static void same_gradients(const tensors *one, const results *many, uint32_t n)
{
    for (size_t i = 0; i < one->slots.n; i++) {
        const mri_tensor_slot *w = &one->slots.v[i];
        double *sum = calloc(w->n, sizeof *sum), scale = 1e-6;
        for (uint32_t r = 0; r < n; r++) {
            const mri_tensor_slot *s = &many->rank[r].slots.v[i];
            bool adds = s->place.split & MRI_AXIS_TP; /* else all have the whole sum */
            cr_assert_str_eq(s->name, w->name);
            for (size_t k = 0; k < s->n; k++)
                sum[whole_index(s, k)] += many->rank[r].grads.v[i][k] / (adds ? 1 : n);
        }
        for (size_t k = 0; k < w->n; k++)
            scale = fmax(scale, fabs(one->grads.v[i][k]));
        for (size_t k = 0; k < w->n; k++)
            cr_assert(fabs(sum[k] - one->grads.v[i][k]) <= 2e-5 * scale,
                      "%u ranks, %s[%zu]: %g and %g", n, w->name, k, sum[k], one->grads.v[i][k]);
        free(sum);
    }
}

static void check(const char *const *model)
{
    const char *sets[64] = { "backend.plugin=cpu", "backend.cpu.threads=1", "train.steps=10",
                             "train.seq=8", "train.micro_batch=2", "data.text.path=unused" };
    size_t n = 6;
    results one = { 0 }, many = { 0 }, plain = { 0 };
    for (size_t i = 0; model[i]; i++)
        sets[n++] = model[i];
    par_run(NULL, sets, 1, gradients, &one);
    for (uint32_t tp = 2; tp <= 4; tp += 2)
        for (int sequence = 0; sequence < 2; sequence++) {
            sets[n] = tp == 2 ? "mesh.tp=2" : "mesh.tp=4";
            sets[n + 1] = sequence ? "mesh.sequence_parallel=true" : "mesh.sequence_parallel=false";
            sets[n + 2] = "mesh.overlap=true";
            par_run(NULL, sets, tp, gradients, &many);
            sets[n + 2] = "mesh.overlap=false";
            par_run(NULL, sets, tp, gradients, &plain);
            for (uint32_t r = 0; r < tp; r++) {
                const tensors *t = &many.rank[r], *p = &plain.rank[r];
                cr_assert(fabs(t->loss - one.rank[0].loss) <= 1e-5 * one.rank[0].loss,
                          "rank %u of %u: loss %.9g, of one rank %.9g", r, tp, t->loss,
                          one.rank[0].loss);
                cr_assert_eq(t->n_aux, one.rank[0].n_aux);
                for (uint32_t a = 0; a < t->n_aux; a++)
                    cr_assert(fabs(t->aux[a] - one.rank[0].aux[a]) <= 1e-5 * one.rank[0].aux[a]);
                cr_assert_eq(t->loss, p->loss);
                for (size_t i = 0; i < t->slots.n; i++)
                    cr_assert_eq(memcmp(t->grads.v[i], p->grads.v[i],
                                        t->slots.v[i].n * sizeof(float)), 0, "%s",
                                 t->slots.v[i].name);
            }
            same_gradients(&one.rank[0], &many, tp);
            forget(&many);
            forget(&plain);
            sets[n] = sets[n + 1] = sets[n + 2] = NULL;
        }
    forget(&one);
}

#define TINY "model.hidden=16", "model.heads=4", "model.vocab=24", "model.max_positions=64", \
             "model.init_std=0.2", "model.layers=4"
#define LLAMA4 TINY, "model.plugin=llama4", "model.kv_heads=4", "model.head_dim=4", \
               "model.ffn_hidden=20", "model.llama4.experts=4", \
               "model.llama4.experts_per_token=2", "model.llama4.expert_hidden=12", \
               "model.llama4.moe_step=2", "model.llama4.nope_interval=4", \
               "model.llama4.attention_chunk=5", "model.llama4.aux_loss=0.05", \
               "model.llama4.z_loss=0.01"
#define KIMI TINY, "model.plugin=kimi_k2", "model.head_dim=10", "model.ffn_hidden=20", \
             "model.kimi_k2.q_lora_rank=12", "model.kimi_k2.kv_lora_rank=10", \
             "model.kimi_k2.nope_dim=6", "model.kimi_k2.rope_dim=4", "model.kimi_k2.value_dim=5", \
             "model.kimi_k2.experts=8", "model.kimi_k2.experts_per_token=3", \
             "model.kimi_k2.expert_hidden=12", "model.kimi_k2.groups=4", \
             "model.kimi_k2.group_topk=2", "model.kimi_k2.aux_loss=0.02"

Test(tensor, gradients_of_llama4)
{
    check((const char *[]){ LLAMA4, NULL });
}

Test(tensor, gradients_of_llama4_recomputed)
{
    check((const char *[]){ LLAMA4, "train.recompute=full", NULL });
}

Test(tensor, gradients_of_kimi_k2)
{
    check((const char *[]){ KIMI, NULL });
}

Test(tensor, gradients_with_biases)
{
    check((const char *[]){ TINY, "model.plugin=llama", "model.kv_heads=4", "model.head_dim=4",
                            "model.ffn_hidden=20", "model.llama.attention_bias=true",
                            "model.llama.tie=true", NULL });
}

/* ---- scoring and decoding ------------------------------------------------------------------ */

enum { IDS = 7 };

typedef struct answers {
    float nll[MAX_RANKS][IDS], scored[MAX_RANKS][IDS * VOCAB], decoded[MAX_RANKS][VOCAB];
} answers;

static mr_status answer(par_rank *r, void *ctx, mr_err *err)
{
    static const int32_t ids[IDS] = { 5, 1, 17, 23, 2, 9, 11 };
    answers *a = ctx;
    mri_session_options o = { .needs = MRI_NEED_EVAL | MRI_NEED_DECODE, .eval_tokens = 2 * SEQ,
                              .prefill_tokens = 4, .slots = 2, .max_seq = 16, .page = 4 };
    mr_status st = 0;
    MR_TRY(par_session(r, &o, err));
    MR_TRY(mri_session_init_weights(r->session, err));
    MR_TRY(mri_session_score(r->session, ids, IDS, a->nll[r->rank], a->scored[r->rank], err));
    MR_TRY(mri_session_decode(r->session, ids, IDS - 1, 0, a->decoded[r->rank], err));
    MR_TRY(mri_session_decode(r->session, ids + IDS - 1, 1, IDS - 1, a->decoded[r->rank], err));
out:
    return st;
}

static void near(const float *a, const float *b, size_t n, const char *what, uint32_t rank)
{
    for (size_t i = 0; i < n; i++)
        cr_assert(fabsf(a[i] - b[i]) <= 2e-5f * (1 + fabsf(b[i])), "%s[%zu] of rank %u: %g, one "
                  "rank has %g", what, i, rank, (double)a[i], (double)b[i]);
}

static void check_answers(const char *const *model)
{
    const char *sets[64] = { "backend.plugin=cpu", "backend.cpu.threads=1", "train.steps=1",
                             "train.seq=8", "data.text.path=unused" };
    size_t n = 5;
    answers one, many;
    for (size_t i = 0; model[i]; i++)
        sets[n++] = model[i];
    par_run(NULL, sets, 1, answer, &one);
    near(one.decoded[0], one.scored[0] + (IDS - 1) * VOCAB, VOCAB, "last logits", 0);
    for (uint32_t tp = 2; tp <= 4; tp += 2) {
        sets[n] = tp == 2 ? "mesh.tp=2" : "mesh.tp=4";
        par_run(NULL, sets, tp, answer, &many);
        for (uint32_t r = 0; r < tp; r++) {
            near(many.nll[r], one.nll[0], IDS - 1, "nll", r);
            near(many.scored[r], one.scored[0], IDS * VOCAB, "scored logits", r);
            near(many.decoded[r], one.decoded[0], VOCAB, "decoded logits", r);
        }
    }
}

Test(tensor, answers)
{
    check_answers((const char *[]){ LLAMA4, NULL });
    check_answers((const char *[]){ KIMI, NULL });
}
