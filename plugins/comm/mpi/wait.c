/* SPDX-License-Identifier: Apache-2.0
 * wait.c - see rank.h. A wait yields at first and sleeps later: ranks may share cores. */
#include "rank.h"
#include <sched.h>
#include <time.h>

enum { YIELDS = 2000, SLEEP_NS = 20000, MAX_SLEEP_NS = 500000 };

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

mr_status mpi_check(mpi_rank *self, int rc, const char *what, const char *group, mr_err *err)
{
    char text[MPI_MAX_ERROR_STRING];
    int n = 0;
    if (rc == MPI_SUCCESS)
        return 0;
    self->broken = true;
    MPI_Error_string(rc, text, &n);
    mr_fail(err, MR_E_COMM, MR_BLAME_ENV, "%s of group %s: MPI says %.150s", what, group, text);
    if (err)
        err->native = rc;
    return MR_E_COMM;
}

mr_status mpi_usable(const mpi_rank *self, mr_err *err)
{
    if (!atomic_load(&self->aborted) && !self->broken)
        return 0;
    return mr_fail(err, MR_E_COMM, MR_BLAME_ENV, "rank %u was told to stop", self->rank);
}

mr_status mpi_wait(mpi_rank *self, MPI_Request *requests, int n, const char *what,
                   const char *group, mr_err *err)
{
    double end = now() + self->timeout_s;
    long ns = SLEEP_NS;
    for (uint64_t i = 0;; i++) {
        int done = 0;
        int rc = MPI_Testall(n, requests, &done, MPI_STATUSES_IGNORE);
        if (rc != MPI_SUCCESS)
            return mpi_check(self, rc, what, group, err);
        if (done)
            return 0;
        if (i < YIELDS) {
            sched_yield();
            continue;
        }
        if (atomic_load(&self->aborted)) {
            self->broken = true;
            return mpi_usable(self, err);
        }
        if (now() > end) {
            self->broken = true;
            mr_fail(err, MR_E_COMM, MR_BLAME_ENV, "rank %u waited %.3g s in %s of group %s",
                    self->rank, self->timeout_s, what, group);
            mr_hint(err, "[comm] timeout is how long ranks wait: mrun explain comm.timeout");
            return MR_E_COMM;
        }
        struct timespec t = { 0, ns };
        nanosleep(&t, NULL);
        ns = 2 * ns < MAX_SLEEP_NS ? 2 * ns : MAX_SLEEP_NS;
    }
}
