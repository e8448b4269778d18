/* SPDX-License-Identifier: Apache-2.0
 *
 * map.h - a file as bytes, read only.
 */
#ifndef CAPTIONS_MAP_H
#define CAPTIONS_MAP_H
#include "mrun/plugin.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static inline mr_status map_open(const char *path, const uint8_t **map, uint64_t *bytes,
                                 mr_err *err)
{
    struct stat sb;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    void *p = MAP_FAILED;
    mr_status st = 0;
    if (fd < 0 || fstat(fd, &sb)) {
        st = mr_fail(err, MR_E_DATA_OPEN, MR_BLAME_USER, "cannot open %s: %s", path,
                     strerror(errno));
        mr_hint(err, "paths in a profile are relative to the profile");
        goto out;
    }
    if (!S_ISREG(sb.st_mode) || sb.st_size < 1) {
        st = mr_fail(err, MR_E_DATA_OPEN, MR_BLAME_USER, "%s is %s", path,
                     S_ISREG(sb.st_mode) ? "empty" : "no file");
        goto out;
    }
    p = mmap(NULL, (size_t)sb.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (p == MAP_FAILED) {
        st = mr_fail(err, MR_E_DATA_OPEN, MR_BLAME_ENV, "cannot map %s: %s", path,
                     strerror(errno));
        goto out;
    }
    *map = p;
    *bytes = (uint64_t)sb.st_size;
out:
    if (fd >= 0)
        close(fd);
    return st;
}

static inline void map_close(const uint8_t *map, uint64_t bytes)
{
    if (map)
        munmap((void *)map, bytes);
}

#endif
