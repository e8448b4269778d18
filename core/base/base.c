/* SPDX-License-Identifier: Apache-2.0
 * base.c - see base.h. */
#include "base.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

__attribute__((noreturn)) static void no_memory(size_t n)
{
    fprintf(stderr, "mrun: out of host memory (%zu bytes)\n", n);
    abort();
}

void mri_assert_fail(const char *what, const char *file, int line)
{
    fprintf(stderr, "mrun: internal error at %s:%d: %s\n", file, line, what);
    abort();
}

void *mri_alloc(size_t n)
{
    void *p = calloc(1, n ? n : 1);
    if (!p)
        no_memory(n);
    return p;
}

void *mri_grow(void *p, size_t n)
{
    void *q = realloc(p, n ? n : 1);
    if (!q)
        no_memory(n);
    return q;
}

char *mri_strndup(const char *s, size_t n)
{
    char *p = mri_alloc(n + 1);
    memcpy(p, s, n);
    return p;
}

char *mri_strdup(const char *s)
{
    return mri_strndup(s, strlen(s));
}

void mri_str_addn(mri_str *b, const char *s, size_t n)
{
    if (b->n + n + 1 > b->cap) {
        b->cap = 2 * (b->n + n + 1);
        b->s = mri_grow(b->s, b->cap);
    }
    if (n)
        memcpy(b->s + b->n, s, n);
    b->n += n;
    b->s[b->n] = 0;
}

void mri_str_add(mri_str *b, const char *s)
{
    mri_str_addn(b, s, strlen(s));
}

void mri_str_vfmt(mri_str *b, const char *fmt, va_list ap)
{
    va_list again;
    char small[256];
    va_copy(again, ap);
    int n = vsnprintf(small, sizeof small, fmt, ap);
    MRI_ASSERT(n >= 0);
    if ((size_t)n < sizeof small) {
        mri_str_addn(b, small, (size_t)n);
    } else {
        char *big = mri_alloc((size_t)n + 1);
        vsnprintf(big, (size_t)n + 1, fmt, again);
        mri_str_addn(b, big, (size_t)n);
        free(big);
    }
    va_end(again);
}

void mri_str_fmt(mri_str *b, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    mri_str_vfmt(b, fmt, ap);
    va_end(ap);
}

char *mri_format(const char *fmt, ...)
{
    mri_str b = { 0 };
    va_list ap;
    va_start(ap, fmt);
    mri_str_vfmt(&b, fmt, ap);
    va_end(ap);
    return mri_str_take(&b);
}

void mri_str_json(mri_str *b, const char *s)
{
    mri_str_add(b, "\"");
    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;
        if (c == '"' || c == '\\')
            mri_str_fmt(b, "\\%c", c);
        else if (c == '\n')
            mri_str_add(b, "\\n");
        else if (c < 0x20)
            mri_str_fmt(b, "\\u%04x", c);
        else
            mri_str_addn(b, s, 1);
    }
    mri_str_add(b, "\"");
}

char *mri_str_take(mri_str *b)
{
    char *s = b->s ? b->s : mri_alloc(1);
    memset(b, 0, sizeof *b);
    return s;
}

void mri_str_free(mri_str *b)
{
    free(b->s);
    memset(b, 0, sizeof *b);
}

uint64_t mri_hash(uint64_t h, const void *p, size_t n)
{
    const unsigned char *c = p;
    if (!h)
        h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < n; i++)
        h = (h ^ c[i]) * 0x100000001b3u;
    return h;
}

uint64_t mri_hash_str(uint64_t h, const char *s)
{
    return mri_hash(h, s, strlen(s) + 1);
}

unsigned mri_distance(const char *a, const char *b)
{
    enum { MAX = 63 };
    size_t n = strlen(a), m = strlen(b);
    if (n > MAX || m > MAX)
        return n == m && !strcmp(a, b) ? 0 : MAX;
    unsigned d[MAX + 1][MAX + 1];
    for (size_t i = 0; i <= n; i++)
        d[i][0] = (unsigned)i;
    for (size_t j = 0; j <= m; j++)
        d[0][j] = (unsigned)j;
    for (size_t i = 1; i <= n; i++)
        for (size_t j = 1; j <= m; j++) {
            unsigned best = d[i - 1][j - 1] + (a[i - 1] != b[j - 1]);
            if (d[i - 1][j] + 1 < best)
                best = d[i - 1][j] + 1;
            if (d[i][j - 1] + 1 < best)
                best = d[i][j - 1] + 1;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
                d[i - 2][j - 2] + 1 < best)
                best = d[i - 2][j - 2] + 1;
            d[i][j] = best;
        }
    return d[n][m];
}

const char *mri_nearest(const char *word, const char *const *words, size_t n)
{
    unsigned best = strlen(word) < 4 ? 2 : 3;
    const char *found = NULL;
    for (size_t i = 0; i < n; i++) {
        unsigned d = mri_distance(word, words[i]);
        if (d < best) {
            best = d;
            found = words[i];
        }
    }
    return found;
}

char *mri_bytes_text(double bytes)
{
    static const char *const unit[] = { "B", "KiB", "MiB", "GiB", "TiB", "PiB" };
    int u = 0;
    while (bytes >= 1024 && u < 5) {
        bytes /= 1024;
        u++;
    }
    return mri_format(u ? "%.1f %s" : "%.0f %s", bytes, unit[u]);
}

mr_status mri_read_file(const char *path, size_t limit, char **text, size_t *n, mr_err *err)
{
    FILE *f = fopen(path, "rb");
    if (!f) {
        mr_fail(err, MR_E_STORE_IO, MR_BLAME_USER, "cannot read %s: %s", path, strerror(errno));
        return MR_E_STORE_IO;
    }
    mri_str b = { 0 };
    char chunk[1 << 16];
    size_t got;
    mri_str_addn(&b, "", 0);
    while ((got = fread(chunk, 1, sizeof chunk, f)) > 0 && b.n <= limit)
        mri_str_addn(&b, chunk, got);
    int bad = ferror(f);
    int e = errno;
    fclose(f);
    if (bad || b.n > limit) {
        size_t have = b.n;
        mri_str_free(&b);
        if (bad)
            return mr_fail(err, MR_E_STORE_IO, MR_BLAME_ENV, "cannot read %s: %s", path,
                           strerror(e));
        return mr_fail(err, MR_E_STORE_FORMAT, MR_BLAME_USER,
                       "%s is larger than the limit of %zu bytes (read %zu)", path, limit, have);
    }
    *n = b.n;
    *text = mri_str_take(&b);
    return 0;
}
