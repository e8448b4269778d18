/* SPDX-License-Identifier: Apache-2.0
 * One rank of test_mpi, started by mpirun: opens the world of PROFILE with the given --set words
 * and checks the claims; with "late", rank 2 does not come to a sum; with "bytes", it trains two
 * steps and compares what it sent with the plans and the counts of rows. Exit 0: all is right. */
#include "bytes.h"
#include "claims.h"
#include "core/base/json.h"
#include "core/ops/catalogue.h"
#include "core/run/step.h"
#include <unistd.h>

static mr_status late_sum(mri_world *w, mr_err *err)
{
    double x = 1;
    if (w->mesh.rank == 2)
        sleep(6);
    return mri_world_sum(w, MRI_GROUP_WORLD, &x, 1, err);
}

/* Over tp what the plans of one step say, over ep what the second step's own counts say. */
static mr_status train(mri_registry *reg, const mri_config *c, mri_world *w, claims *found,
                       mr_err *err)
{
    mri_session_options o = { .needs = MRI_NEED_TRAIN | MRI_NEED_UPDATE | MRI_NEED_DATA |
                                       MRI_NEED_TOKENIZER, .world = w };
    bytes_watch seen = { 0 };
    mri_trace trace = { .fn = bytes_see, .ctx = &seen };
    mri_session *s = NULL;
    mri_step_result x;
    uint64_t tp = 0, ep;
    mr_status st = 0;
    MR_TRY(mri_session_open(reg, c, &o, &s, err));
    MR_TRY(mri_session_init_weights(s, err));
    memset(w->sent, 0, sizeof w->sent);
    MR_TRY(mri_session_train_step(s, &x, err));
    if (w->mesh.tp > 1)
        tp = bytes_planned(s, mri_micros_of(s, c->train.global_batch));
    if (w->sent[MRI_GROUP_TP] != tp || (w->mesh.tp > 1 && !tp))
        snprintf(found->note, sizeof found->note, "tp: %llu bytes, planned %llu",
                 (unsigned long long)w->sent[MRI_GROUP_TP], (unsigned long long)tp), found->wrong++;
    s->train->trace = &trace;
    ep = w->sent[MRI_GROUP_EP];
    MR_TRY(mri_session_train_step(s, &x, err));
    ep = w->sent[MRI_GROUP_EP] - ep;
    if (ep != seen.bytes || (w->mesh.ep > 1 && !ep))
        snprintf(found->note, sizeof found->note, "ep: %llu bytes, counted %llu",
                 (unsigned long long)ep, (unsigned long long)seen.bytes), found->wrong++;
out:
    mri_session_close(s);
    return st;
}

int main(int argc, char **argv)
{
    mr_err err = MR_ERR_INIT;
    mri_registry *reg = mri_registry_create(NULL);
    mri_config *c = NULL;
    mri_world *w = NULL;
    claims found = { 0 };
    mr_status st = mri_registry_set_op_hook(reg, mri_op_register, &err);
    mri_registry_offer(reg, MR_EXT_REF, &mri_ref_service);
    mri_registry_offer(reg, MR_EXT_JSON, &mri_json_service);
    const char *what = argc > 2 ? argv[2] : "";
    if (!st && argc > 2)
        st = mri_config_load(reg, argv[1], (const char *const *)(uintptr_t)(argv + 3),
                             (size_t)(argc - 3), &c, &err);
    if (!st)
        st = mri_world_open(reg, c, 0, NULL, 0, &w, &err);
    if (!st)
        st = mri_world_agree(w, mri_world_settle(w, c, &err), &err);
    if (!st && mri_world_alone(w))
        st = mr_fail(&err, MR_E_COMM, MR_BLAME_ENV, "this rank is alone");
    if (!st)
        st = !strcmp(what, "late")    ? late_sum(w, &err)
             : !strcmp(what, "bytes") ? train(reg, c, w, &found, &err)
                                      : claims_of(w, &found, &err);
    if (w)
        st = mri_world_fail(w, st, &err);
    if (st)
        fprintf(stderr, "rank %u ends with: %s\n", w ? w->mesh.rank : 99, err.what);
    if (found.wrong)
        fprintf(stderr, "rank %u: %d wrong: %s\n", w->mesh.rank, found.wrong, found.note);
    mri_world_close(w);
    if (c)
        mri_config_free(c);
    mri_registry_free(reg);
    return st || found.wrong ? 3 : 0;
}
