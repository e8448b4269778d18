/* SPDX-License-Identifier: Apache-2.0
 *
 * sim.h - the ranks of comm/sim: threads of one process that meet.
 *
 * A collective is two meetings of a team: at the first every member shows its arguments, and the
 * last to come checks that all make the same call; between them each reads what it needs from the
 * others' memory; after the second nobody reads any more. All work is done in the order of ranks,
 * so equal inputs give equal bits.
 *
 * Invariant: one lock, one condition a world. A world that failed stays failed: everyone who waits
 * wakes with the first failure's error, and so does who comes later.
 */
#ifndef SIM_H
#define SIM_H
#include "mrun/comm.h"
#include <pthread.h>
#include <stdbool.h>

enum { SIM_MAX_RANKS = 64 };

typedef struct sim_call { /* what a member shows; the first four must be alike */
    const char *what;     /* "all_reduce" */
    uint64_t n;
    const char *dtype;
    uint32_t op, root;
    const void *in;
    void *out;
    const uint64_t *send, *send_at, *receive;
    int32_t color;
} sim_call;

typedef struct sim_message {
    struct sim_message *next;
    uint64_t bytes;
    char data[];
} sim_message;

typedef struct sim_team {
    struct sim_team *next;
    uint64_t split; /* which split() of the world made it */
    int32_t color;
    uint32_t n, users, arrived;
    uint64_t round; /* meetings so far */
    uint32_t rank[SIM_MAX_RANKS];
    bool here[SIM_MAX_RANKS];
    sim_call call[SIM_MAX_RANKS];
    sim_message *mail[SIM_MAX_RANKS][SIM_MAX_RANKS]; /* [from][to], oldest first */
    char *sum; /* of an all_reduce */
    uint64_t sum_bytes;
    char name[32];
} sim_team;

typedef struct sim_world {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    uint32_t n;
    bool gone[SIM_MAX_RANKS];
    bool failed;
    mr_err why;
    sim_team *teams, *all; /* all: the world's own */
} sim_world;

typedef struct sim_rank { /* a comm */
    sim_world *world;
    uint32_t rank;
    uint64_t splits;
    double timeout_s;
} sim_rank;

typedef struct sim_group {
    sim_rank *self;
    sim_team *team;
    uint32_t index;
} sim_group;

/* ---- meet.c --------------------------------------------------------------------------------- */
sim_team *sim_team_make(sim_world *w, const char *name, uint64_t split, int32_t color);
void sim_team_free(sim_team *t);
/* Waits for all members. With a call: it must be like theirs; NULL: the second meeting of one. */
mr_status sim_meet(sim_group *g, const sim_call *call, mr_err *err);
/* Waits for a change of the world, at most until the deadline; lock held. `who` (a rank) is waited
 * for in `what`: if it has gone, or time is over, the world fails. */
mr_status sim_wait(sim_group *g, const struct timespec *deadline, uint32_t who, const char *what,
                   mr_err *err);
void sim_deadline(double seconds, struct timespec *at);
/* Fails the world, unless it has failed: the first reason stays; copied to *err. Lock held. */
mr_status sim_fail(sim_world *w, mr_err *err);
mr_status sim_failed(sim_world *w, mr_err *err); /* its reason, or 0; lock held */

/* ---- collectives.c, mail.c: functions of mr_comm_ops ----------------------------------------- */
mr_status sim_all_reduce(void *group, void *stream, const void *in, void *out, uint64_t n,
                         const char *dtype, uint32_t op, mr_err *err);
mr_status sim_all_gather(void *group, void *stream, const void *in, void *out, uint64_t n,
                         const char *dtype, mr_err *err);
mr_status sim_reduce_scatter(void *group, void *stream, const void *in, void *out, uint64_t n,
                             const char *dtype, uint32_t op, mr_err *err);
mr_status sim_broadcast(void *group, void *stream, void *data, uint64_t n, const char *dtype,
                        uint32_t root, mr_err *err);
mr_status sim_all_to_all(void *group, void *stream, const void *in, const uint64_t *send,
                         const uint64_t *send_at, void *out, const uint64_t *receive,
                         const uint64_t *receive_at, mr_err *err);
mr_status sim_host_gather(void *comm, const void *mine, uint64_t bytes, void *all, mr_err *err);
mr_status sim_send(void *group, void *stream, const void *data, uint64_t bytes, uint32_t to,
                   mr_err *err);
mr_status sim_receive(void *group, void *stream, void *data, uint64_t bytes, uint32_t from,
                      mr_err *err);

/* ---- reduce.c -------------------------------------------------------------------------------- */
uint64_t sim_width(const char *dtype); /* bytes; 0: a type without sums */
/* out[i] = in[0][i] op in[1][i] op ..., i from `from` to `to`; false: no such op or type */
bool sim_reduce(void *out, const sim_call *in, uint32_t n_in, uint64_t from, uint64_t to,
                const char *dtype, uint32_t op);

#endif
