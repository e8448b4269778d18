/* SPDX-License-Identifier: Apache-2.0
 *
 * token_file.c - maps the two files and checks them whole, once. Counts are compared with
 * the file's size by division, so that no product of numbers from a file can overflow.
 */
#include "token_file.h"
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { HEADER = 9 + 8 + 1 + 8 + 8 };

static uint64_t u64_at(const unsigned char *p)
{
    uint64_t x;
    memcpy(&x, p, sizeof x);
    return le64toh(x);
}

static uint32_t u32_at(const unsigned char *p)
{
    uint32_t x;
    memcpy(&x, p, sizeof x);
    return le32toh(x);
}

static uint16_t u16_at(const unsigned char *p)
{
    uint16_t x;
    memcpy(&x, p, sizeof x);
    return le16toh(x);
}

static int64_t get_u8(const unsigned char *p)
{
    return *p;
}

static int64_t get_i8(const unsigned char *p)
{
    return (int8_t)*p;
}

static int64_t get_i16(const unsigned char *p)
{
    return (int16_t)u16_at(p);
}

static int64_t get_u16(const unsigned char *p)
{
    return u16_at(p);
}

static int64_t get_i32(const unsigned char *p)
{
    return (int32_t)u32_at(p);
}

static int64_t get_i64(const unsigned char *p)
{
    return (int64_t)u64_at(p);
}

static const struct token_dtype {
    const char *name;
    uint32_t size;
    int64_t (*get)(const unsigned char *); /* NULL: holds no tokens */
} dtypes[] = {
    /* by the file's code */
    { NULL, 0, NULL },     { "u8", 1, get_u8 },   { "i8", 1, get_i8 },
    { "i16", 2, get_i16 }, { "i32", 4, get_i32 }, { "i64", 8, get_i64 },
    { "f64", 8, NULL },    { "f32", 4, NULL },    { "u16", 2, get_u16 },
};

int32_t token_file_i32(const unsigned char *array, int64_t i)
{
    return (int32_t)u32_at(array + 4 * i);
}

int32_t token_file_length(const token_file *f, int64_t sequence)
{
    return token_file_i32(f->lengths, sequence);
}

const char *token_file_dtype(const token_file *f)
{
    return f->dtype->name;
}

static int64_t offset_of(const token_file *f, int64_t sequence)
{
    return (int64_t)u64_at(f->offsets + 8 * sequence);
}

int64_t token_file_get(const token_file *f, int64_t sequence, int64_t at)
{
    return f->dtype->get(f->bin + offset_of(f, sequence) + at * f->dtype->size);
}

static mr_status map_file(const char *prefix, const char *suffix, const unsigned char **p,
                          uint64_t *n, mr_err *err)
{
    char path[4096];
    struct stat info;
    mr_status st = MR_OK;
    int fd = -1;
    void *at = NULL;
    if (snprintf(path, sizeof path, "%s%s", prefix, suffix) >= (int)sizeof path)
        return mr_fail(err, MR_E_DATA_OPEN, MR_BLAME_USER, "a path of over %zu bytes: %.60s...",
                       sizeof path, prefix);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &info) != 0)
        goto failed;
    if (!S_ISREG(info.st_mode)) {
        st = mr_fail(err, MR_E_DATA_OPEN, MR_BLAME_USER, "%s is not a file", path);
        goto out;
    }
    if (info.st_size > 0) {
        at = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (at == MAP_FAILED)
            goto failed;
    }
    *p = at;
    *n = (uint64_t)info.st_size;
    goto out;
failed:
    st = mr_fail(err, MR_E_DATA_OPEN, MR_BLAME_USER, "cannot open %s", path);
    mr_detail(err, "%s", strerror(errno));
    mr_hint(err, "a data set's path is given without .bin and .idx");
    if (err)
        err->native = errno;
out:
    if (fd >= 0)
        close(fd);
    return st;
}

/* `what` about PREFIX.idx is wrong; the caller adds the numbers. */
static mr_status bad(const token_file *f, const char *what, mr_err *err)
{
    mr_fail(err, MR_E_DATA_FORMAT, MR_BLAME_USER, "%s.idx: %s", f->prefix, what);
    mr_hint(err, "write the data set again (job preprocess), or copy both files again");
    return MR_E_DATA_FORMAT;
}

static mr_status check_header(token_file *f, int64_t *boundaries, mr_err *err)
{
    static const char magic[] = "MMIDIDX\0"; /* and the literal's own zero: 9 bytes */
    const unsigned char *p = f->idx;
    mr_status st;
    if (f->idx_size < HEADER) {
        st = bad(f, "cut off inside its header", err);
        mr_detail(err, "%llu bytes; the header alone has %d", (unsigned long long)f->idx_size,
                  HEADER);
        return st;
    }
    if (memcmp(p, magic, sizeof magic) != 0)
        return bad(f, "not an index: it does not begin with MMIDIDX", err);
    if (u64_at(p + 9) != 1) {
        st = bad(f, "unknown version", err);
        mr_detail(err, "version %llu; known: 1", (unsigned long long)u64_at(p + 9));
        return st;
    }
    if (p[17] >= sizeof dtypes / sizeof *dtypes || !dtypes[p[17]].get) {
        st = bad(f, "its dtype holds no tokens", err);
        mr_detail(err, "dtype code %d%s%s; token dtypes are 1 to 5 and 8", p[17],
                  p[17] == 6 || p[17] == 7 ? ", " : "",
                  p[17] == 6 || p[17] == 7 ? dtypes[p[17]].name : "");
        return st;
    }
    f->dtype = &dtypes[p[17]];

    uint64_t n = u64_at(p + 18), m = u64_at(p + 26), room = f->idx_size - HEADER;
    if (n > room / 12 || m > (room - 12 * n) / 8) {
        st = bad(f, "cut off, or its counts are wrong", err);
        mr_detail(err, "%llu sequences and %llu boundaries in %llu bytes", (unsigned long long)n,
                  (unsigned long long)m, (unsigned long long)f->idx_size);
        return st;
    }
    uint64_t rest = room - 12 * n - 8 * m;
    if (rest != 0 && rest != n) { /* n: the modes of a multimodal set */
        st = bad(f, "has bytes that belong to nothing", err);
        mr_detail(err, "%llu after %llu sequences and %llu boundaries", (unsigned long long)rest,
                  (unsigned long long)n, (unsigned long long)m);
        return st;
    }
    f->sequences = (int64_t)n;
    f->lengths = p + HEADER;
    f->offsets = f->lengths + 4 * n;
    *boundaries = (int64_t)m;
    return MR_OK;
}

static mr_status check_sequences(const token_file *f, mr_err *err)
{
    uint64_t end = 0; /* of the sequences so far, in the .bin */
    mr_status st;
    for (int64_t i = 0; i < f->sequences; i++) {
        int64_t length = token_file_length(f, i), offset = offset_of(f, i);
        if (length < 0) {
            st = bad(f, "a sequence has a negative length", err);
            mr_detail(err, "sequence %lld of %lld: %lld", (long long)i, (long long)f->sequences,
                      (long long)length);
            return st;
        }
        if (offset < 0 || (uint64_t)offset < end) {
            st = bad(f, "its offsets do not ascend", err);
            mr_detail(err, "sequence %lld of %lld starts at byte %lld, the one before ends at %llu",
                      (long long)i, (long long)f->sequences, (long long)offset,
                      (unsigned long long)end);
            return st;
        }
        uint64_t bytes = (uint64_t)length * f->dtype->size;
        if ((uint64_t)offset > f->bin_size || bytes > f->bin_size - (uint64_t)offset) {
            st = bad(f, "a sequence ends outside the .bin", err);
            mr_detail(err, "sequence %lld of %lld: %llu bytes (%s) at %lld, the .bin has %llu",
                      (long long)i, (long long)f->sequences, (unsigned long long)bytes,
                      f->dtype->name, (long long)offset, (unsigned long long)f->bin_size);
            return st;
        }
        end = (uint64_t)offset + bytes;
    }
    if (end != f->bin_size) {
        st = bad(f, "does not belong to this .bin", err);
        mr_detail(err, "its sequences end at byte %llu, the .bin has %llu", (unsigned long long)end,
                  (unsigned long long)f->bin_size);
        return st;
    }
    return MR_OK;
}

static mr_status check_boundaries(const token_file *f, int64_t n, mr_err *err)
{
    const unsigned char *p = f->offsets + 8 * f->sequences;
    int64_t last = 0;
    for (int64_t i = 0; i < n; i++) {
        int64_t x = (int64_t)u64_at(p + 8 * i);
        if (x < last || (i == 0 && x != 0)) {
            mr_status st = bad(f, "its document boundaries do not ascend from 0", err);
            mr_detail(err, "boundary %lld of %lld: %lld after %lld", (long long)i, (long long)n,
                      (long long)x, (long long)last);
            return st;
        }
        last = x;
    }
    if (n == 0 || last != f->sequences) {
        mr_status st = bad(f, "its documents do not end with its sequences", err);
        mr_detail(err, "%lld boundaries, the last %lld; %lld sequences", (long long)n,
                  (long long)last, (long long)f->sequences);
        return st;
    }
    return MR_OK;
}

mr_status token_file_open(const char *prefix, token_file *f, mr_err *err)
{
    mr_status st = MR_OK;
    int64_t boundaries = 0;
    *f = (token_file) { .prefix = prefix };
    MR_TRY(map_file(prefix, ".idx", &f->idx, &f->idx_size, err));
    MR_TRY(map_file(prefix, ".bin", &f->bin, &f->bin_size, err));
    MR_TRY(check_header(f, &boundaries, err));
    MR_TRY(check_sequences(f, err));
    MR_TRY(check_boundaries(f, boundaries, err));
out:
    if (st)
        token_file_close(f);
    return st;
}

void token_file_close(token_file *f)
{
    if (f->idx)
        munmap((void *)f->idx, f->idx_size);
    if (f->bin)
        munmap((void *)f->bin, f->bin_size);
    *f = (token_file) { 0 };
}
