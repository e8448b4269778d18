/* SPDX-License-Identifier: Apache-2.0
 * wire.c - see wire.h. */
#include "wire.h"
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

typedef struct head {
    char magic[4];
    uint32_t kind, from, key_bytes;
    uint64_t bytes;
} head;

double mri_wire_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static bool put(int fd, const void *data, uint64_t n)
{
    const char *p = data;
    while (n) {
        ssize_t k = send(fd, p, n, MSG_NOSIGNAL);
        if (k < 0 && errno == EINTR)
            continue;
        if (k <= 0)
            return false;
        p += k;
        n -= (uint64_t)k;
    }
    return true;
}

static bool get(int fd, void *data, uint64_t n)
{
    char *p = data;
    while (n) {
        ssize_t k = recv(fd, p, n, 0);
        if (k < 0 && errno == EINTR)
            continue;
        if (k <= 0)
            return false;
        p += k;
        n -= (uint64_t)k;
    }
    return true;
}

bool mri_wire_send(int fd, uint32_t kind, uint32_t from, const char *key, const void *data,
                   uint64_t bytes)
{
    uint32_t k = key ? (uint32_t)strlen(key) : 0;
    head h = { { 'M', 'R', 'U', 'N' }, kind, from, k, bytes };
    return k < WIRE_KEY && bytes <= WIRE_MAX && put(fd, &h, sizeof h) && put(fd, key, k) &&
           put(fd, data, bytes);
}

bool mri_wire_read(int fd, wire_word *out)
{
    head h;
    *out = (wire_word){ 0 };
    if (!get(fd, &h, sizeof h) || memcmp(h.magic, "MRUN", 4) || h.kind < WIRE_HELLO ||
        h.kind > WIRE_BYE || h.key_bytes >= WIRE_KEY || h.bytes > WIRE_MAX)
        return false;
    out->kind = h.kind;
    out->from = h.from;
    out->bytes = h.bytes;
    out->data = h.bytes ? mri_alloc(h.bytes) : NULL;
    if (get(fd, out->key, h.key_bytes) && get(fd, out->data, h.bytes))
        return true;
    free(out->data);
    return false;
}

/* ---- sockets --------------------------------------------------------------------------------- */

mr_status mri_wire_listen(uint32_t *port, int *fd, mr_err *err)
{
    struct sockaddr_in any = { .sin_family = AF_INET, .sin_port = htons((uint16_t)*port),
                               .sin_addr.s_addr = htonl(INADDR_ANY) };
    socklen_t n = sizeof any;
    int on = 1;
    *fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (*fd >= 0)
        setsockopt(*fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (*fd >= 0 && !bind(*fd, (struct sockaddr *)&any, sizeof any) && !listen(*fd, 1024) &&
        !getsockname(*fd, (struct sockaddr *)&any, &n)) {
        *port = ntohs(any.sin_port);
        return 0;
    }
    int e = errno;
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
    mr_fail(err, MR_E_COMM, MR_BLAME_ENV, "rank 0 cannot listen on port %u: %s", *port,
            strerror(e));
    if (err)
        err->native = e;
    mr_hint(err, e == EADDRINUSE ? "another job holds it: set MASTER_PORT to a port that is free"
                                 : "MASTER_PORT is the port that ranks meet at");
    return MR_E_COMM;
}

static int try_connect(const char *host, uint32_t port)
{
    struct addrinfo hints = { .ai_family = AF_INET, .ai_socktype = SOCK_STREAM }, *list, *a;
    char service[16];
    int fd = -1;
    snprintf(service, sizeof service, "%u", port);
    if (getaddrinfo(host, service, &hints, &list))
        return -1;
    for (a = list; a && fd < 0; a = a->ai_next) {
        fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC, a->ai_protocol);
        if (fd >= 0 && connect(fd, a->ai_addr, a->ai_addrlen)) {
            close(fd);
            fd = -1;
        }
    }
    freeaddrinfo(list);
    return fd;
}

mr_status mri_wire_connect(const char *host, uint32_t port, double seconds, int *fd, mr_err *err)
{
    double end = mri_wire_now() + seconds;
    int on = 1;
    while ((*fd = try_connect(host, port)) < 0 && mri_wire_now() < end)
        usleep(20000);
    if (*fd >= 0) {
        setsockopt(*fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        return 0;
    }
    mr_fail(err, MR_E_COMM, MR_BLAME_ENV, "rank 0 does not answer at %s:%u; waited %.3g s", host,
            port, seconds);
    mr_hint(err,
            "MASTER_ADDR is the host of rank 0; is it up, and does no firewall stand between?");
    return MR_E_COMM;
}
