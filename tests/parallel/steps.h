/* SPDX-License-Identifier: Apache-2.0
 *
 * steps.h - the same ten steps on one rank and on many: losses, gradient norms, and every parameter
 * and optimizer state as the ranks' fragments give them, to compare.
 */
#ifndef TEST_PARALLEL_STEPS_H
#define TEST_PARALLEL_STEPS_H
#include "core/run/fragments.h"
#include "core/run/init.h"
#include "world.h"
#include <math.h>

enum { STEPS = 10, STATES = 3 }; /* the value, exp_avg, exp_avg_sq */

typedef struct steps_tensor { /* a parameter, whichever ranks have it */
    char *name;
    uint64_t n;
    float *x;         /* STATES x n */
    uint8_t *written; /* how often a writer had it */
} steps_tensor;

typedef struct steps {
    double loss[STEPS], norm[STEPS], aux[STEPS], tokens[STEPS];
    MRI_VEC(steps_tensor) tensors;
    double nll; /* of a validation, by rank 0 */
    pthread_mutex_t lock;
} steps;

static inline const steps_tensor *steps_find(const steps *s, const char *name)
{
    for (size_t i = 0; i < s->tensors.n; i++)
        if (!strcmp(s->tensors.v[i].name, name))
            return &s->tensors.v[i];
    return NULL;
}

static inline const steps_tensor *steps_tensor_of(steps *s, const mri_tensor_slot *slot)
{
    uint64_t n = slot->place.rank ? 1 : slot->n;
    for (uint32_t d = 0; d < slot->place.rank; d++)
        n *= (uint64_t)slot->place.full[d];
    if (!steps_find(s, slot->name)) {
        steps_tensor t = { mri_strdup(slot->name), n, mri_alloc(STATES * n * sizeof *t.x),
                           mri_alloc(STATES * n) };
        MRI_PUSH(&s->tensors, t);
    }
    return steps_find(s, slot->name);
}

/* One fragment's values to where they are in the whole parameter. */
static inline mr_status steps_keep_one(par_rank *r, const mri_fragment *x, steps *out, mr_err *err)
{
    mri_session *s = r->session;
    uint64_t n = x->to - x->from, state = 0;
    if (x->state)
        state = strcmp(x->state, "exp_avg") ? 2 : 1;
    float *v = mri_alloc(n * sizeof *v);
    mr_status st = mri_fragment_read(&s->params, &s->device, x, 0, n, v, err);
    pthread_mutex_lock(&out->lock);
    const steps_tensor *t = steps_tensor_of(out, x->slot);
    for (uint64_t j = 0; j < n && !st && x->writes; j++) {
        int64_t run, at = mri_box_element(&x->slot->desc.type, &x->slot->place,
                                          (int64_t)(x->from + j), &run);
        t->x[state * t->n + (uint64_t)at] = v[j];
        t->written[state * t->n + (uint64_t)at]++;
    }
    pthread_mutex_unlock(&out->lock);
    free(v);
    return st;
}

static inline mr_status steps_keep(par_rank *r, steps *out, mr_err *err)
{
    mri_session *s = r->session;
    mr_status st = 0;
    mri_fragments f = { 0 };
    for (size_t i = 0; i < s->params.slots.n; i++)
        mri_fragments_of(&s->params, s->update, &r->world->mesh, &s->params.slots.v[i], &f);
    for (size_t k = 0; k < f.n && !st; k++)
        st = steps_keep_one(r, &f.v[k], out, err);
    free(f.v);
    return st;
}

static inline mr_status steps_on(par_rank *r, void *ctx, mr_err *err)
{
    steps *out = ctx;
    mri_session_options o = { .needs = MRI_NEED_TRAIN | MRI_NEED_UPDATE | MRI_NEED_DATA |
                                       MRI_NEED_EVAL };
    mri_step_result x;
    mr_data_set info;
    double bits;
    mr_status st = 0;
    MR_TRY(par_session(r, &o, err));
    mri_session *s = r->session;
    MR_TRY(mri_session_init_weights(s, err));
    uint32_t set = mri_session_find_set(s, "valid", &info);
    for (int k = 0; k < STEPS; k++) {
        MR_TRY(mri_session_train_step(s, &x, err));
        if (!x.ok)
            st = mr_fail(err, MR_E_INTERNAL, MR_BLAME_HOST, "step %d is not finite", k + 1);
        if (!r->rank) {
            out->loss[k] = x.loss;
            out->norm[k] = x.grad_norm;
            out->aux[k] = x.aux[0];
            out->tokens[k] = x.weight;
        }
    }
    MR_TRY(st);
    double nll = 0;
    if (set != UINT32_MAX)
        MR_TRY(mri_session_evaluate(s, set, 0, &nll, &bits, err));
    if (!r->rank)
        out->nll = nll;
    MR_TRY(steps_keep(r, out, err));
out:
    return st;
}

/* a small mixture with a dense block, both losses of the router */
#define STEPS_MODEL "backend.plugin=ref", "model.hidden=16", "model.heads=2", \
        "model.ffn_hidden=24", "model.llama4.expert_hidden=12", "train.seq=12", \
        "data.text.valid_fraction=0.02"

static inline steps steps_run(uint32_t ranks, const char *const *common, const char *const *more)
{
    const char *sets[48] = { NULL };
    size_t n = 0;
    steps s = { 0 };
    while (common && common[n])
        sets[n] = common[n], n++;
    for (size_t i = 0; more && more[i]; i++)
        sets[n++] = more[i];
    cr_assert_lt(n, 48);
    pthread_mutex_init(&s.lock, NULL);
    par_run(par_source("profiles/parity-tiny.ini"), sets, ranks, steps_on, &s);
    return s;
}

static inline void steps_free(steps *s)
{
    for (size_t i = 0; i < s->tensors.n; i++) {
        free(s->tensors.v[i].name);
        free(s->tensors.v[i].x);
        free(s->tensors.v[i].written);
    }
    free(s->tensors.v);
    pthread_mutex_destroy(&s->lock);
    memset(s, 0, sizeof *s);
}

static inline double steps_gap(double a, double b)
{
    return fabs(a - b) / fmax(fmax(fabs(a), fabs(b)), 1e-30);
}

/* The same training: 1e-5 in losses and norms; weights and states by their root mean square, as
 * Adam turns the sign of a tiny gradient into a step. 0: to the last bit, but for the norms, which
 * are sums of other parts. */
static inline void steps_same(const steps *a, const steps *b, double limit, const char *what)
{
    for (int k = 0; k < STEPS; k++) {
        cr_assert(steps_gap(a->loss[k], b->loss[k]) <= limit, "%s, step %d: loss %.9g and %.9g",
                  what, k + 1, a->loss[k], b->loss[k]);
        cr_assert(steps_gap(a->norm[k], b->norm[k]) <= fmax(limit, 1e-6),
                  "%s, step %d: norm %.9g and %.9g", what, k + 1, a->norm[k], b->norm[k]);
        cr_assert(steps_gap(a->aux[k], b->aux[k]) <= limit, "%s, step %d: aux %.9g and %.9g",
                  what, k + 1, a->aux[k], b->aux[k]);
        cr_assert_eq(a->tokens[k], b->tokens[k], "%s, step %d: %g and %g tokens", what, k + 1,
                     a->tokens[k], b->tokens[k]);
    }
    cr_assert(steps_gap(a->nll, b->nll) <= limit, "%s: nll %.9g and %.9g", what, a->nll, b->nll);
    cr_assert_eq(a->tensors.n, b->tensors.n, "%s: %zu parameters and %zu", what, a->tensors.n,
                 b->tensors.n);
    for (int state = 0; state < STATES; state++) {
        double gap = 0, all = 0;
        for (size_t k = 0; k < a->tensors.n; k++) {
            const steps_tensor *x = &a->tensors.v[k], *y = steps_find(b, x->name);
            cr_assert(y && x->n == y->n, "%s: %s is missing, or of another size", what, x->name);
            for (uint64_t i = state * x->n; i < (state + 1) * x->n; i++) {
                unsigned times = state ? x->written[i] : 1; /* what is frozen has no states */
                cr_assert(x->written[i] == times && y->written[i] == times && times <= 1,
                          "%s: element %llu of state %d of %s is written %u and %u times", what,
                          (unsigned long long)(i % x->n), state, x->name, x->written[i],
                          y->written[i]);
                gap += ((double)x->x[i] - y->x[i]) * ((double)x->x[i] - y->x[i]);
                all += (double)x->x[i] * x->x[i];
            }
        }
        cr_assert(sqrt(gap) <= 20 * limit * sqrt(all), "%s: state %d is off by %g of %g", what,
                  state, sqrt(gap), sqrt(all));
    }
}

#endif
