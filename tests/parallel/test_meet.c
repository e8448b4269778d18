/* SPDX-License-Identifier: Apache-2.0
 * Ranks whose plugin needs an address before it opens meet by the launcher's variables: on one host
 * without any; on several the missing one is named. The figures that they then gather are the same
 * on all. */
#include "core/mesh/meet.h"
#include "core/mesh/rendezvous.h"
#include <criterion/criterion.h>
#include <pthread.h>
#include <string.h>

enum { N = 4 };

typedef struct one {
    mri_world w;
    mri_launcher l;
    mr_status st;
    mr_err err;
    uint32_t all[N];
    pthread_t thread;
} one;

static const mri_config config = { .comm = { .timeout = 20, .heartbeat = 20 } };

static one rank_of(uint32_t r, uint32_t local_world)
{
    one o = { .l = { .rank = r, .world = N, .local_rank = r, .local_world = local_world,
                     .name = "slurm", .source = "SLURM_PROCID=0 SLURM_NTASKS=4" },
              .err = MR_ERR_INIT };
    o.w.env.rank = r;
    o.w.env.world = N;
    o.w.config = &config;
    return o;
}

static void *meet(void *arg)
{
    one *o = arg;
    uint32_t mine = 10 + o->w.env.rank;
    o->st = mri_meet_before(&o->w, &o->l, &o->err);
    if (!o->st)
        o->st = mri_rendezvous_gather(o->w.rendezvous, &mine, sizeof mine, o->all, &o->err);
    return NULL;
}

Test(meet, on_one_host_no_address_is_needed)
{
    one o[N];
    for (uint32_t r = 0; r < N; r++) {
        o[r] = rank_of(r, N);
        cr_assert_eq(pthread_create(&o[r].thread, NULL, meet, &o[r]), 0);
    }
    for (uint32_t r = 0; r < N; r++)
        pthread_join(o[r].thread, NULL);
    for (uint32_t r = 0; r < N; r++) {
        cr_expect_eq(o[r].st, 0, "rank %u: %s", r, o[r].err.what);
        cr_expect_not_null(o[r].w.env.rendezvous);
        for (uint32_t i = 0; i < N; i++)
            cr_expect_eq(o[r].all[i], 10 + i);
    }
    for (uint32_t r = N; r-- > 0;)
        mri_rendezvous_close(o[r].w.rendezvous, false);
}

Test(meet, on_several_hosts_what_is_missing_is_named)
{
    one o = rank_of(0, 2);
    cr_expect_eq(mri_meet_before(&o.w, &o.l, &o.err), MR_E_COMM);
    cr_expect(strstr(o.err.what, "MASTER_ADDR is not set"), "%s", o.err.what);
    cr_expect(strstr(o.err.detail, "SLURM_NTASKS=4"), "%s", o.err.detail);
    snprintf(o.l.address, sizeof o.l.address, "node1");
    cr_expect_eq(mri_meet_before(&o.w, &o.l, &o.err), MR_E_COMM);
    cr_expect(strstr(o.err.what, "MASTER_ADDR=node1 is set and MASTER_PORT is not"), "%s",
              o.err.what);
}
