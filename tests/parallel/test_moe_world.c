/* SPDX-License-Identifier: Apache-2.0
 *
 * Experts over ep, and sequences over cp, in a world of threads: the losses and the sums of main
 * gradients of all ranks are those of one rank that runs the same micro-batches, for Llama 4 and
 * Kimi-K2 with a mixture of experts.
 */
#include "core/run/micro.h"
#include "tests/kit.h"
#include "world.h"

enum { SEQ = 32, ROWS = 2, T = SEQ * ROWS, VOCAB = 256, MOST = 64 };

typedef struct grad { /* of one parameter, whole */
    char name[128];
    double *x;
    int64_t n;
} grad;

typedef struct sums { /* of all ranks */
    pthread_mutex_t lock;
    grad at[MOST];
    size_t n;
    double loss, weight;
    int64_t micros;
} sums;

/* The box that a rank has of a parameter, added to the whole. */
static void add_box(const mri_tensor_slot *s, const double *part, double *whole)
{
    const mr_type *t = &s->desc.type;
    for (int64_t i = 0; i < (int64_t)s->n; i++) {
        int64_t rest = i, at = 0, step = 1;
        for (uint32_t d = t->rank; d-- > 0;) {
            int64_t full = s->place.rank ? s->place.full[d] : t->dim[d];
            at += (rest % t->dim[d] + (s->place.rank ? s->place.at[d] : 0)) * step;
            rest /= t->dim[d];
            step *= full;
        }
        whole[at] += part[i];
    }
}

static int64_t whole_numel(const mri_tensor_slot *s)
{
    int64_t n = 1;
    for (uint32_t d = 0; d < s->desc.type.rank; d++)
        n *= s->place.rank ? s->place.full[d] : s->desc.type.dim[d];
    return n;
}

static mr_status add_grads(mri_session *s, const mri_mesh *mesh, sums *to, mr_err *err)
{
    mr_status st = 0;
    for (size_t i = 0; i < s->params.slots.n && !st; i++) {
        const mri_tensor_slot *slot = &s->params.slots.v[i];
        void *raw = mri_params_grad(&s->params, slot);
        bool copy = !slot->place.expert &&
                    !((slot->place.split | slot->place.partial) & MRI_AXIS_TP);
        if (!raw || (copy && mesh->i_tp))
            continue;
        double *x = mri_alloc(slot->n * sizeof *x);
        st = mri_convert(x, "f64", raw, s->params.acc_dtype, slot->n, err);
        pthread_mutex_lock(&to->lock);
        size_t k = 0;
        while (k < to->n && strcmp(to->at[k].name, slot->name))
            k++;
        if (k == to->n && k < MOST) {
            snprintf(to->at[k].name, sizeof to->at[k].name, "%s", slot->name);
            to->at[k].n = whole_numel(slot);
            to->at[k].x = mri_alloc((size_t)to->at[k].n * sizeof(double));
            to->n++;
        }
        add_box(slot, x, to->at[k].x);
        pthread_mutex_unlock(&to->lock);
        free(x);
    }
    return st;
}

/* Micro-batches dp apart, from this rank's on: each is made whole and then cut. */
static mr_status gradients(par_rank *r, void *ctx, mr_err *err)
{
    sums *to = ctx;
    mri_session_options o = { .needs = MRI_NEED_TRAIN };
    mr_status st = 0;
    MR_TRY(par_session(r, &o, err));
    mri_session *s = r->session;
    const mri_mesh *m = &r->world->mesh;
    MR_TRY(mri_session_init_weights(s, err));
    MR_TRY(s->device.ops->fill(s->device.dev, s->device.stream, s->params.grads, 0,
                               s->params.trainable * 4, err));
    MR_TRY(mri_scalar_set(&s->scalars, &s->device, MRI_LOSS_SEED, 1 / to->weight, err));
    for (int64_t i = m->i_dp; i < to->micros; i += m->dp) {
        mri_batch b = kit_batch(ROWS, SEQ, VOCAB, (uint32_t)(11 + i));
        mri_micro whole = { .tokens = (int32_t *)(uintptr_t)b.tokens,
                            .positions = (int32_t *)(uintptr_t)b.positions,
                            .seq_start = (int32_t *)(uintptr_t)b.seq_start,
                            .targets = (int32_t *)(uintptr_t)b.targets,
                            .slot = mri_alloc(T * 4),
                            .weight = (float *)(uintptr_t)b.loss_weight, .t = T };
        mri_micro part = mri_micro_new(T / m->cp);
        mri_micro_cut(&whole, SEQ, m->cp, m->i_cp, &part);
        mri_batch mine = mri_micro_batch(&part, false);
        float loss[16];
        st = mri_exec_upload(s->train, &mine, err);
        st = st ? st : mri_exec_forward(s->train, err);
        st = st ? st : mri_exec_backward(s->train, err);
        st = st ? st : mri_exec_losses(s->train, loss, err);
        pthread_mutex_lock(&to->lock);
        for (size_t k = 0; k < s->train->losses.n && !m->i_tp && !st; k++)
            to->loss += loss[k];
        pthread_mutex_unlock(&to->lock);
        free(whole.slot);
        kit_batch_free(&b);
        mri_micro_free(&part);
        if (st)
            goto out;
    }
    MR_TRY(add_grads(s, m, to, err));
out:
    return st;
}

static sums run(const char *const *model, const char *const *mesh, uint32_t ranks, int64_t micros)
{
    sums x = { .lock = PTHREAD_MUTEX_INITIALIZER, .micros = micros,
               .weight = (double)(micros * ROWS * (SEQ - 1)) };
    const char *sets[32];
    size_t n = 0;
    for (size_t i = 0; model[i]; i++)
        sets[n++] = model[i];
    for (size_t i = 0; mesh[i]; i++)
        sets[n++] = mesh[i];
    sets[n] = NULL;
    par_run(par_source("profiles/parity-tiny.ini"), sets, ranks, gradients, &x);
    return x;
}

static void release(sums *x)
{
    for (size_t i = 0; i < x->n; i++)
        free(x->at[i].x);
}

static void equal(const sums *a, const sums *b, const char *what)
{
    cr_assert(fabs(a->loss - b->loss) <= 1e-5 * fabs(b->loss), "%s: loss %.9g, not %.9g", what,
              a->loss, b->loss);
    cr_assert_eq(a->n, b->n);
    for (size_t i = 0; i < b->n; i++) {
        const grad *y = &b->at[i], *x = a->at;
        while (strcmp(x->name, y->name))
            cr_assert_lt(++x - a->at, (ptrdiff_t)a->n, "%s: no %s", what, y->name);
        cr_assert_eq(x->n, y->n);
        double most = 0;
        for (int64_t k = 0; k < y->n; k++)
            most = fmax(most, fabs(y->x[k]));
        for (int64_t k = 0; k < y->n; k++)
            cr_assert(fabs(x->x[k] - y->x[k]) <= 1e-5 * most + 1e-12, "%s: %s[%lld] is %.9g, not "
                      "%.9g of at most %g", what, y->name, (long long)k, x->x[k], y->x[k], most);
    }
}

#define OWN "train.micro_batch=2", "train.global_batch=8", "backend.plugin=ref"
static const char *const llama4[] = { OWN, "model.llama4.experts_per_token=2", NULL };
static const char *const kimi[] = { OWN, "model.plugin=kimi_k2", NULL };

static void same(const char *const *model, uint32_t ranks, int64_t micros, const char *const *mesh)
{
    char what[200] = "";
    for (size_t i = 0; mesh[i]; i++)
        snprintf(what + strlen(what), sizeof what - strlen(what), "%s ", mesh[i]);
    sums one = run(model, (const char *const[]){ "mesh.dp=1", NULL }, 1, micros);
    sums all = run(model, mesh, ranks, micros);
    equal(&all, &one, what);
    release(&one);
    release(&all);
}
#define MESH(...) (const char *const[]){ __VA_ARGS__, NULL }

Test(moe_world, experts_over_two_and_four_ranks)
{
    same(llama4, 2, 2, MESH("mesh.ep=2"));
    same(kimi, 2, 2, MESH("mesh.ep=2"));
    same(llama4, 4, 4, MESH("mesh.ep=4"));
    same(kimi, 4, 4, MESH("mesh.ep=2")); /* two copies of every expert */
}

Test(moe_world, experts_by_gathered_tokens)
{
    same(llama4, 2, 2, MESH("mesh.ep=2", "mesh.dispatcher=allgather"));
    same(kimi, 2, 2, MESH("mesh.ep=2", "mesh.dispatcher=allgather"));
}

Test(moe_world, sequences_over_two_and_four_ranks)
{
    same(llama4, 2, 1, MESH("mesh.cp=2"));
    same(kimi, 2, 1, MESH("mesh.cp=2"));
    same(llama4, 4, 1, MESH("mesh.cp=4"));
}

Test(moe_world, experts_and_sequences)
{
    same(kimi, 4, 2, MESH("mesh.cp=2", "mesh.ep=4"));
    same(llama4, 4, 2, MESH("mesh.cp=2", "mesh.ep=2"));
}

/* Under sequence parallelism tp ranks are more ranks with their own tokens. */
Test(moe_world, experts_under_tensor_parallelism)
{
    same(llama4, 2, 1, MESH("mesh.tp=2", "mesh.ep=2"));
    same(kimi, 4, 2, MESH("mesh.tp=2", "mesh.ep=4"));
    same(kimi, 4, 1, MESH("mesh.tp=2", "mesh.cp=2", "mesh.ep=2"));
}
