/* SPDX-License-Identifier: Apache-2.0
 * Ranks that should hold the same weights: equal after steps of the same training; one bit that
 * flips on one rank is found, and the rank and the parameter are named. */
#include "core/run/replicas.h"
#include "world.h"

enum { N = 3 };

typedef struct flip {
    int64_t rank; /* -1: none */
    size_t slot;
} flip;

static mr_status train(par_rank *r, void *ctx, mr_err *err)
{
    const flip *f = ctx;
    mri_session_options o = { .needs = MRI_NEED_TRAIN | MRI_NEED_UPDATE | MRI_NEED_DATA |
                                       MRI_NEED_TOKENIZER };
    mri_step_result x;
    mr_status st = 0;
    MR_TRY(par_session(r, &o, err));
    mri_session *s = r->session;
    MR_TRY(mri_session_init_weights(s, err));
    for (int i = 0; i < 2; i++)
        MR_TRY(mri_session_train_step(s, &x, err));
    if (f->rank == r->rank) {
        unsigned char *w = mri_params_weight(&s->params, &s->params.slots.v[f->slot]);
        w[1] ^= 4;
    }
    MR_TRY(mri_world_agree(r->world, mri_replicas_check(s, err), err));
out:
    return st;
}

static const char *const sets[] = { "train.micro_batch=1", "train.global_batch=3",
                                    "backend.plugin=cpu", NULL };

Test(replicas, equal_training_gives_equal_bits)
{
    flip none = { -1, 0 };
    par_run(par_source("profiles/parity-tiny.ini"), sets, N, train, &none);
}

Test(replicas, one_bit_of_one_rank)
{
    for (uint32_t rank = 0; rank < N; rank += 2) {
        flip f = { rank, 5 };
        mr_err err = MR_ERR_INIT;
        char who[64];
        mr_status st = par_try(par_source("profiles/parity-tiny.ini"), sets, N, train, &f, &err);
        snprintf(who, sizeof who, "rank %u holds other weights than its replicas after step 2",
                 rank);
        cr_expect_eq(st, MR_E_DIVERGED, "%s", err.what);
        cr_expect(strncmp(err.what, who, strlen(who)) == 0, "'%s' does not begin '%s'", err.what,
                  who);
        cr_expect(strstr(err.detail, "rank 1: "), "%s", err.detail);
    }
}
