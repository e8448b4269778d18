/* SPDX-License-Identifier: Apache-2.0
 *
 * capture.h - "mrun.capture/1" without hardware: between begin and end calls go to a list, and
 * launching does the list. It is what a device graph is - the same calls at the same addresses -
 * so whoever captures can be tested on any machine.
 */
#ifndef MRUN_REF_CAPTURE_H
#define MRUN_REF_CAPTURE_H
#include "mrun/backend.h"

/* An op's run, a copy (kernel NULL, src given) or a fill (both NULL). */
struct ref_call {
    void *kernel, *dst;
    const void *src;
    uint64_t n;
    uint32_t byte, pad;
    mr_buf *bufs; /* inputs, then outputs; owned */
    uint32_t n_in, n_out;
};

struct ref_graph {
    struct ref_call *v;
    size_t n, cap;
};

/* Takes over call->bufs, also when it fails. */
mr_status ref_graph_add(struct ref_graph *, const struct ref_call *, mr_err *);
void ref_graph_free(struct ref_graph *);

#endif
