/* SPDX-License-Identifier: Apache-2.0
 *
 * bench_mfu.h - the work that training one token takes by the usual formula, which knows the
 * model's sizes alone, not how it is run:
 *
 *     6 x active parameters + 3 x sum over attentions of H S (C + Cv)
 *
 * Active are the parameters that a token meets: of experts the k / E that it is sent to, of an
 * embedding nothing (a row is looked up), but a table that is tied counts as the head that it is.
 * The second term is causal attention, 2 H S (C + Cv) flops a token forward halved by the mask,
 * S the sequence or the chunk, and three passes (forward once, backward twice).
 */
#ifndef MRUN_BENCH_MFU_H
#define MRUN_BENCH_MFU_H
#include "core/run/session.h"

typedef struct bench_work { /* of one token, forward and backward */
    double active;          /* parameters */
    double attention;       /* flops      */
    double flops;           /* of both    */
} bench_work;
bench_work bench_work_of(const mri_exec *train, int64_t seq);

/* Dense bf16 flop/s that the maker states for this device, by its name; 0: not known here */
double bench_stated_peak(const char *device);

#endif
