/* SPDX-License-Identifier: Apache-2.0
 * meet.c - see meet.h. */
#include "meet.h"
#include "rendezvous.h"
#include "wire.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { FIRST_PORT = 29400, PORTS = 20000 };

/* The verdict is there: calls that wait for peers must end. */
static void ended(void *ctx)
{
    mri_world *w = ctx;
    void *comm = __atomic_load_n(&w->comm, __ATOMIC_ACQUIRE);
    if (comm && MR_CAN(w->ops, abort))
        w->ops->abort(comm);
}

static mr_status meet(mri_world *w, const char *host, uint32_t port, int listening, mr_err *err)
{
    mri_meeting m = { .rank = w->env.rank, .world = w->env.world, .host = host, .port = port,
                      .listening = listening, .timeout_s = w->config->comm.timeout,
                      .silence_s = w->config->comm.heartbeat, .pulse = &w->pulse, .ended = ended,
                      .ctx = w };
    mr_status st = mri_rendezvous_open(&m, &w->rendezvous, err);
    if (!st)
        w->env.rendezvous = mri_rendezvous_service(w->rendezvous);
    return st;
}

mr_status mri_meet_before(mri_world *w, const mri_launcher *l, mr_err *err)
{
    bool one_host = l->local_world == l->world;
    if (!*l->address && !one_host) {
        mr_fail(err, MR_E_COMM, MR_BLAME_ENV, "MASTER_ADDR is not set, and the ranks are on "
                                              "several "
                "hosts");
        mr_detail(err, "%s: %s", l->name, l->source);
        mr_hint(err, "export MASTER_ADDR=(host of rank 0) MASTER_PORT=(a free port there)");
        return MR_E_COMM;
    }
    if (!l->port && !one_host) {
        mr_fail(err, MR_E_COMM, MR_BLAME_ENV, "MASTER_ADDR=%.100s is set and MASTER_PORT is not",
                l->address);
        mr_hint(err, "export MASTER_PORT=(a free port on the host of rank 0)");
        return MR_E_COMM;
    }
    uint32_t launcher = (uint32_t)getppid(); /* the same for all ranks of this host */
    uint32_t port = l->port ? l->port : FIRST_PORT + launcher % PORTS;
    return meet(w, *l->address ? l->address : "127.0.0.1", port, -1, err);
}

typedef struct place {
    char host[256];
    uint32_t port;
} place;

mr_status mri_meet_after(mri_world *w, mr_err *err)
{
    place mine = { 0 }, *all = mri_alloc(w->env.world * sizeof *all);
    int listening = -1;
    mr_err own = MR_ERR_INIT;
    gethostname(mine.host, sizeof mine.host - 1);
    mr_status refused = w->env.rank ? 0 : mri_wire_listen(&mine.port, &listening, &own), st = 0;
    MR_TRY(mri_world_gather(w, &mine, sizeof mine, all, err));
    all[0].host[sizeof all[0].host - 1] = 0;
    if (refused) {
        *err = own;
        st = refused;
    } else if (!all[0].port) {
        st = mr_fail(err, MR_E_COMM, MR_BLAME_ENV, "rank 0 cannot listen on any port");
    } else {
        bool here = !strcmp(all[0].host, mine.host);
        st = meet(w, here ? "127.0.0.1" : all[0].host, all[0].port, listening, err);
        listening = -1; /* the hub's */
    }
out:
    if (listening >= 0)
        close(listening);
    free(all);
    return st;
}
