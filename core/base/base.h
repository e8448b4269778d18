/* SPDX-License-Identifier: Apache-2.0
 *
 * base.h - the few tools that every core folder uses: a growing string, an array that
 * doubles, memory that is checked, hashing, edit distance. Functions here never print.
 * Out of memory for these small host structures aborts the process with one line; the
 * large buffers (weights, arena, files) are allocated elsewhere and report MR_E_NOMEM.
 */
#ifndef MRI_BASE_H
#define MRI_BASE_H
#include "mrun/plugin.h"
#include <stdarg.h>
#include <stdbool.h>

void *mri_alloc(size_t n); /* zeroed; aborts when the host has none left */
void *mri_grow(void *p, size_t n);
char *mri_strdup(const char *s);
char *mri_strndup(const char *s, size_t n);
MR_PRINTF(1, 2) char *mri_format(const char *fmt, ...);

/* a string that grows; {0} is a valid empty one */
typedef struct mri_str {
    char *s; /* NULL while empty; else NUL-ended */
    size_t n, cap;
} mri_str;
void mri_str_add(mri_str *b, const char *s);
void mri_str_addn(mri_str *b, const char *s, size_t n);
MR_PRINTF(2, 3) void mri_str_fmt(mri_str *b, const char *fmt, ...);
void mri_str_vfmt(mri_str *b, const char *fmt, va_list ap);
void mri_str_json(mri_str *b, const char *s); /* quoted and escaped */
char *mri_str_take(mri_str *b);               /* the caller frees; never NULL */
void mri_str_free(mri_str *b);

/* typed dynamic arrays: struct { T *v; size_t n, cap; } */
#define MRI_VEC(T) \
    struct { \
        T *v; \
        size_t n, cap; \
    }
#define MRI_PUSH(a, x) \
    do { \
        if ((a)->n == (a)->cap) { \
            (a)->cap = (a)->cap ? 2 * (a)->cap : 8; \
            (a)->v = mri_grow((a)->v, (a)->cap * sizeof *(a)->v); \
        } \
        (a)->v[(a)->n++] = (x); \
    } while (0)

uint64_t mri_hash(uint64_t h, const void *p, size_t n); /* FNV-1a 64, chainable: h = 0 starts */
uint64_t mri_hash_str(uint64_t h, const char *s);
unsigned mri_distance(const char *a, const char *b); /* Levenshtein, transposition counts 1 */

/* the nearest of n words within distance 2 (1 for words under 4 letters), or NULL */
const char *mri_nearest(const char *word, const char *const *words, size_t n);

char *mri_bytes_text(double bytes); /* "81.2 GiB"; the caller frees */

/* whole file into memory, NUL-ended; fails above `limit` bytes. Free with free(). */
mr_status mri_read_file(const char *path, size_t limit, char **text, size_t *n, mr_err *err);

#define MRI_ASSERT(x) ((x) ? (void)0 : mri_assert_fail(#x, __FILE__, __LINE__))
__attribute__((noreturn)) void mri_assert_fail(const char *what, const char *file, int line);

#endif
