/* SPDX-License-Identifier: Apache-2.0
 *
 * cache.c - a file is 512 bytes of description (text, padded with zeros), the arrays of a
 * sampling as they stand in memory, and 8 bytes of checksum over both.
 */
#include "cache.h"
#include "token_file.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { DESCRIPTION = 512, CHECKSUM = 8 };

/* A checksum against rot, not against malice: four lanes, so that memory is the limit. */
static uint64_t checksum(const void *p, uint64_t n)
{
    uint64_t lane[4] = { 1, 2, 3, 4 }, h = n, word;
    const unsigned char *b = p;
    uint64_t i = 0;
    for (; i + 8 <= n; i += 8) {
        memcpy(&word, b + i, 8);
        uint64_t *l = &lane[i / 8 % 4];
        *l = (*l ^ word) * 0x9e3779b97f4a7c15;
        *l ^= *l >> 29;
    }
    for (word = 0; i < n; i++)
        word = word << 8 | b[i];
    for (int k = 0; k < 4; k++)
        h = ((h ^ lane[k]) * 0xbf58476d1ce4e5b9) ^ (h >> 31);
    return (h ^ word) * 0x94d049bb133111eb;
}

static void describe(const sampling_request *q, const sampling_plan *p, char text[DESCRIPTION])
{
    uint64_t documents = checksum(q->lengths + 4 * q->first, 4 * (uint64_t)(q->last - q->first));
    memset(text, 0, DESCRIPTION);
    snprintf(text, DESCRIPTION,
             "mrun sample index 1, %d-byte words of order %d\n"
             "documents %lld to %lld, lengths %016llx, tokens %lld\n"
             "seq %lld, samples %lld, partial %d, seed %u\n"
             "epochs %lld, order %lld, samples %lld, apart %lld\n",
             (int)sizeof(uint32_t), __BYTE_ORDER__, (long long)q->first, (long long)q->last,
             (unsigned long long)documents, (long long)p->tokens, (long long)q->seq,
             (long long)q->samples, q->partial, q->seed, (long long)p->epochs,
             (long long)p->documents, (long long)p->samples, (long long)p->apart);
}

static int load(const char *path, const char text[DESCRIPTION], const sampling_request *q,
                const sampling_plan *plan, sampling *s, cache_entry *e)
{
    struct stat info;
    uint64_t n = DESCRIPTION + sampling_bytes(plan) + CHECKSUM, sum;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    void *p = MAP_FAILED;
    if (fd < 0)
        return 0;
    if (fstat(fd, &info) == 0 && (uint64_t)info.st_size == n)
        p = mmap(NULL, n, PROT_READ, MAP_PRIVATE, fd, 0);
    close(fd);
    if (p == MAP_FAILED)
        return 0;
    memcpy(&sum, (char *)p + n - CHECKSUM, sizeof sum);
    sampling_place(s, plan, (char *)p + DESCRIPTION);
    if (memcmp(p, text, DESCRIPTION) || sum != checksum(p, n - CHECKSUM) || !sampling_check(s, q)) {
        munmap(p, n);
        return 0;
    }
    *e = (cache_entry) { .p = p, .n = n, .mapped = 1 };
    return 1;
}

static int write_all(int fd, const void *p, uint64_t n)
{
    for (const char *at = p; n > 0;) {
        ssize_t done = write(fd, at, n < SSIZE_MAX ? n : SSIZE_MAX);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return -1;
        at += done;
        n -= (uint64_t)done;
    }
    return 0;
}

static int make_folder(char *path) /* and those above it */
{
    for (char *slash = path + 1; (slash = strchr(slash, '/')); slash++) {
        *slash = 0;
        int failed = mkdir(path, 0777) != 0 && errno != EEXIST;
        *slash = '/';
        if (failed)
            return -1;
    }
    return mkdir(path, 0777) != 0 && errno != EEXIST ? -1 : 0;
}

static int store(const char *dir, const char *path, const cache_entry *e)
{
    char aside[PATH_MAX], folder[PATH_MAX];
    int fd = -1, rc = -1, there = 0, e_no;
    if (snprintf(aside, sizeof aside, "%s.XXXXXX", path) >= (int)sizeof aside ||
        snprintf(folder, sizeof folder, "%s", dir) >= (int)sizeof folder) {
        errno = ENAMETOOLONG;
        return -1;
    }
    if (make_folder(folder) != 0 || (fd = mkstemp(aside)) < 0)
        goto out;
    there = 1;
    if (write_all(fd, e->p, e->n) || fchmod(fd, 0644) || fsync(fd) || rename(aside, path))
        goto out;
    there = 0;
    rc = 0;
out:
    e_no = errno;
    if (fd >= 0)
        close(fd);
    if (there)
        unlink(aside);
    errno = e_no;
    return rc;
}

mr_status cache_sampling(const char *dir, const sampling_request *q, const sampling_plan *plan,
                         sampling *s, cache_entry *e, char warning[400], mr_err *err)
{
    char text[DESCRIPTION], path[PATH_MAX];
    uint64_t n = DESCRIPTION + sampling_bytes(plan) + CHECKSUM, sum;
    warning[0] = 0;
    describe(q, plan, text);
    if (dir) {
        int size = snprintf(path, sizeof path, "%s/%016llx.index", dir,
                            (unsigned long long)checksum(text, DESCRIPTION));
        if (size >= (int)sizeof path)
            return mr_fail(err, MR_E_PROFILE_VALUE, MR_BLAME_USER,
                           "data.indexed.cache: a path of over %d bytes", PATH_MAX);
        if (load(path, text, q, plan, s, e))
            return MR_OK;
    }

    char *p = malloc(n);
    if (!p) {
        mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "data/indexed: no memory for the sample index");
        mr_detail(err, "%llu bytes for %lld samples", (unsigned long long)n,
                  (long long)plan->samples);
        return MR_E_NOMEM;
    }
    memcpy(p, text, DESCRIPTION);
    sampling_place(s, plan, p + DESCRIPTION);
    sampling_build(s, q);
    sum = checksum(p, n - CHECKSUM);
    memcpy(p + n - CHECKSUM, &sum, sizeof sum);
    *e = (cache_entry) { .p = p, .n = n };
    if (dir && store(dir, path, e) != 0)
        snprintf(warning, 400, "the sample index is not kept: cannot write %.250s: %s", path,
                 strerror(errno));
    return MR_OK;
}

void cache_release(cache_entry *e)
{
    if (e->mapped)
        munmap(e->p, e->n);
    else
        free(e->p);
    *e = (cache_entry) { 0 };
}
