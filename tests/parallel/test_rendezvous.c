/* SPDX-License-Identifier: Apache-2.0
 * Ranks that are processes meet at rank 0: values by key, gathers, the first error for all; one
 * that dies, falls silent or never comes is named in time, and bytes of strangers hurt nobody. */
#include "core/mesh/hub.h"
#include "core/mesh/rendezvous.h"
#include <criterion/criterion.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { N = 3 };

typedef struct line { /* one rank */
    mri_meeting m;
    mri_pulse pulse;
    mri_rendezvous *r;
    mr_status st;
    mr_err err;
    pthread_t thread;
    void (*fn)(struct line *l);
    uint32_t result[N];
} line;

static void *open_line(void *arg)
{
    line *l = arg;
    l->st = mri_rendezvous_open(&l->m, &l->r, &l->err);
    if (!l->st && l->fn)
        l->fn(l);
    return NULL;
}

static line new_line(uint32_t rank, uint32_t world, uint32_t port, int listening, double silence)
{
    return (line){ .m = { .rank = rank, .world = world, .host = "127.0.0.1", .port = port,
                          .listening = listening, .timeout_s = 10, .silence_s = silence },
                   .err = MR_ERR_INIT };
}

static int listen_any(uint32_t *port)
{
    mr_err err = MR_ERR_INIT;
    int fd;
    *port = 0;
    cr_assert_eq(mri_wire_listen(port, &fd, &err), 0, "%s", err.what);
    return fd;
}

/* fn on N ranks, each a thread; then all close. */
static void on_ranks(line *l, void (*fn)(line *l), bool lost)
{
    uint32_t port;
    int fd = listen_any(&port);
    for (uint32_t r = 0; r < N; r++) {
        l[r] = new_line(r, N, port, r ? -1 : fd, 10);
        l[r].m.pulse = &l[r].pulse;
        l[r].fn = fn;
        l[r].pulse.waits = r != 2;
        cr_assert_eq(pthread_create(&l[r].thread, NULL, open_line, &l[r]), 0);
    }
    for (uint32_t r = 0; r < N; r++) {
        pthread_join(l[r].thread, NULL);
        cr_expect(l[r].r, "rank %u: %s", r, l[r].err.what);
    }
    for (uint32_t r = lost ? 0 : N; lost ? r < N : r-- > 0; r += lost)
        mri_rendezvous_close(l[r].r, lost);
}

static void talk(line *l)
{
    const mr_rendezvous *s = mri_rendezvous_service(l->r);
    uint32_t x = 100 + l->m.rank, next = (l->m.rank + 1) % N;
    char key[32], theirs[32];
    snprintf(key, sizeof key, "id/%u", l->m.rank);
    snprintf(theirs, sizeof theirs, "id/%u", next);
    l->st = s->put(s->self, key, &x, sizeof x, &l->err);
    if (!l->st)
        l->st = s->get(s->self, theirs, next, &x, sizeof x, &l->err);
    for (int i = 0; i < 3 && !l->st; i++) /* rounds do not mix */
        l->st = mri_rendezvous_gather(l->r, &x, sizeof x, l->result, &l->err);
}

Test(rendezvous, keys_and_gathers)
{
    line l[N];
    on_ranks(l, talk, false);
    for (uint32_t r = 0; r < N; r++) {
        cr_expect_eq(l[r].st, 0, "rank %u: %s", r, l[r].err.what);
        for (uint32_t i = 0; i < N; i++)
            cr_expect_eq(l[r].result[i], 100 + (i + 1) % N);
    }
}

static void give_up(line *l)
{
    double end = mri_wire_now() + 5;
    if (l->m.rank == 0) {
        usleep(300000); /* all have come and beaten once */
        mr_fail(&l->err, MR_E_COMM, MR_BLAME_ENV, "rank 0 waited 2 s in all_reduce of group dp");
        mri_rendezvous_fail(l->r, &l->err);
    } else {
        while (!(l->st = mri_rendezvous_check(l->r, &l->err)) && mri_wire_now() < end)
            usleep(5000);
        mr_fail(&l->err, MR_E_NOMEM, MR_BLAME_ENV, "rank %u says something else", l->m.rank);
        mri_rendezvous_fail(l->r, &l->err); /* too late */
    }
}

Test(rendezvous, the_first_error_is_everybodys_and_names_who_is_late)
{
    line l[N];
    on_ranks(l, give_up, true);
    for (uint32_t r = 0; r < N; r++) {
        cr_expect_eq(l[r].err.code, MR_E_COMM);
        cr_expect(strstr(l[r].err.what, "rank 2 does not come") && strstr(l[r].err.what, "all_reduce"),
                  "rank %u: %s", r, l[r].err.what);
    }
}

/* Rank 1 is a process that comes and then does what `fate` says; rank 0 waits for the verdict. */
static void verdict_on(int fate, double silence, const char *part)
{
    uint32_t port;
    int fd = listen_any(&port), status;
    pid_t child = fork();
    cr_assert_geq(child, 0);
    if (!child) {
        close(fd);
        line l = new_line(1, 2, port, -1, 10);
        l.m.pulse = &l.pulse;
        open_line(&l);
        usleep(50000);
        raise(fate);
        _exit(0);
    }
    line l = new_line(0, 2, port, fd, silence);
    l.m.pulse = &l.pulse;
    open_line(&l);
    cr_assert_eq(l.st, 0, "%s", l.err.what);
    double end = mri_wire_now() + 8;
    while (!(l.st = mri_rendezvous_check(l.r, &l.err)) && mri_wire_now() < end)
        usleep(5000);
    cr_expect_eq(l.st, MR_E_COMM);
    cr_expect(strstr(l.err.what, part), "'%s' lacks '%s'", l.err.what, part);
    mri_rendezvous_close(l.r, true);
    kill(child, SIGKILL);
    waitpid(child, &status, 0);
}

Test(rendezvous, a_rank_that_dies_is_named)
{
    verdict_on(SIGKILL, 10, "rank 1 died");
}

Test(rendezvous, a_rank_that_falls_silent_is_named)
{
    verdict_on(SIGSTOP, 0.4, "rank 1 has not been heard of for 0.4 s");
}

Test(rendezvous, a_rank_that_never_comes_is_named_with_the_time)
{
    uint32_t port, x = 1, all[2];
    line l = new_line(0, 2, 0, listen_any(&port), 10);
    l.m.port = port;
    l.m.timeout_s = 0.3;
    l.m.pulse = &l.pulse;
    open_line(&l);
    cr_assert_eq(l.st, 0, "%s", l.err.what);
    cr_expect_eq(mri_rendezvous_gather(l.r, &x, sizeof x, all, &l.err), MR_E_COMM);
    double end = mri_wire_now() + 8;
    while (!(l.st = mri_rendezvous_check(l.r, &l.err)) && mri_wire_now() < end)
        usleep(5000);
    cr_expect(strstr(l.err.what, "rank 1 never came; waited 0.3 s"), "%s", l.err.what);
    mri_rendezvous_close(l.r, true);
}

Test(rendezvous, a_port_in_use_and_nobody_there)
{
    uint32_t port, same;
    int fd = listen_any(&port), second;
    mr_err err = MR_ERR_INIT;
    same = port;
    cr_expect_eq(mri_wire_listen(&same, &second, &err), MR_E_COMM);
    cr_expect(strstr(err.what, "Address already in use") && strstr(err.hint, "MASTER_PORT"), "%s",
              err.what);
    close(fd);
    cr_expect_eq(mri_wire_connect("127.0.0.1", port, 0.1, &fd, &err), MR_E_COMM);
    cr_expect(strstr(err.what, "waited 0.1 s"), "%s", err.what);
}

static void beside_strangers(line *l)
{
    mr_err err = MR_ERR_INIT;
    static const char noise[64] = "GET / HTTP/1.1\r\n";
    uint32_t x = l->m.rank, other = 77;
    int fd;
    l->st = mri_rendezvous_gather(l->r, &x, sizeof x, l->result, &l->err);
    if (!l->m.rank && !mri_wire_connect("127.0.0.1", l->m.port, 5, &fd, &err)) {
        (void)!write(fd, noise, sizeof noise);
        close(fd);
    }
    if (!l->m.rank && !mri_wire_connect("127.0.0.1", l->m.port, 5, &fd, &err)) {
        mri_wire_send(fd, WIRE_HELLO, 0, NULL, &other, sizeof other); /* a rank of another job */
        wire_word w;
        bool told = mri_wire_read(fd, &w) && w.kind == WIRE_VERDICT;
        if (!told)
            l->st = -1;
        if (told)
            free(w.data);
        close(fd);
    }
    if (!l->st)
        l->st = mri_rendezvous_gather(l->r, &x, sizeof x, l->result, &l->err);
}

Test(rendezvous, strangers_hurt_nobody)
{
    line l[N];
    on_ranks(l, beside_strangers, false);
    for (uint32_t r = 0; r < N; r++)
        cr_expect_eq(l[r].st, 0, "rank %u: %s", r, l[r].err.what);
}
