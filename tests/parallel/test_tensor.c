/* SPDX-License-Identifier: Apache-2.0
 * Sessions of 2 and 4 tensor-parallel ranks have the losses and the gradients of one rank, with
 * and without sequence parallelism, and the same bits whether collectives overlap or not. */
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

Test(tensor, llama4_with_experts)
{
    check((const char *[]){ TINY, "model.plugin=llama4", "model.kv_heads=4", "model.head_dim=4",
                            "model.ffn_hidden=20", "model.llama4.experts=4",
                            "model.llama4.experts_per_token=2", "model.llama4.expert_hidden=12",
                            "model.llama4.moe_step=2", "model.llama4.nope_interval=4",
                            "model.llama4.attention_chunk=5", "model.llama4.aux_loss=0.05",
                            "model.llama4.z_loss=0.01", NULL });
}
