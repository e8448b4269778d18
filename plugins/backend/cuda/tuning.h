/* SPDX-License-Identifier: Apache-2.0
 *
 * tuning.h - choices between a library's algorithms that were timed once, kept in a text file for
 * the next start. Knows neither the library nor the GPU: a choice is 64 bytes under a key of this
 * machine's.
 *
 * Invariants: the file is replaced whole, never half written; what others have put into it stays;
 * a file that is not ours is not touched. Nothing here is an error: the worst file costs timing
 * anew, and a warning.
 */
#ifndef MRUN_CUDA_TUNING_H
#define MRUN_CUDA_TUNING_H
#include <stdint.h>

enum {
    CUDA_CHOICE_BYTES = 64,
    CUDA_CHOICE_KEY = 160 /* bytes that a key, and a machine, has at most */
};

struct cuda_choice {
    uint8_t algo[CUDA_CHOICE_BYTES];
    double us; /* that a run took when it was chosen */
};

struct cuda_tuning;
typedef void (*cuda_tuning_warn)(void *self, const char *line);

/* The file that a setting means: "auto" one in the user's cache folder, "off" none, else itself.
 * NULL: none, or there is no such folder. Freed by the caller. */
char *cuda_tuning_path(const char *setting);

/* path NULL: choices live as long as this does. `machine`: device and library version, no tabs or
 * line ends. NULL only if there is no memory. */
struct cuda_tuning *cuda_tuning_open(const char *path, const char *machine, cuda_tuning_warn warn,
                                     void *self);
void cuda_tuning_close(struct cuda_tuning *);

/* 1: found */
int cuda_tuning_find(const struct cuda_tuning *, const char *key, struct cuda_choice *);
/* In place of one under the same key; then the file is written. */
void cuda_tuning_keep(struct cuda_tuning *, const char *key, const struct cuda_choice *);

#endif
