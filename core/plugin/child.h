/* SPDX-License-Identifier: Apache-2.0
 *
 * child.h - runs a function that may crash, hang or print, in a forked child, and brings back
 * what it wrote. Ask from the main thread: another thread that is inside dlopen() or malloc()
 * while this one forks may leave a lock taken in the child.
 */
#ifndef MRI_CHILD_H
#define MRI_CHILD_H
#include "core/base/base.h"

typedef struct mri_child {
    mri_str text;  /* what came through the pipe, at most 1 MiB; untrusted; NUL-ended */
    bool in_time;  /* false: it was killed at the limit                               */
    int status;    /* as waitpid() gives it                                           */
} mri_child;

/* `fn` writes its report to `fd` and returns; no exit handler of this process runs in the
 * child. quiet: its stdin, stdout and stderr are /dev/null. Fails only where no child could
 * be made. Free with mri_str_free(&out->text). */
mr_status mri_child_run(void (*fn)(int fd, void *user), void *user, int limit_ms, bool quiet,
                        mri_child *out, mr_err *err);

/* writes all of it, or ends the child when nobody listens any more */
void mri_child_tell(int fd, const char *bytes, size_t n);

/* "SIGSEGV" or "exit(3)"; NULL: it ended as it should. The caller frees. */
char *mri_child_death(const mri_child *c);

#endif
