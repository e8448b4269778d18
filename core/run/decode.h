/* SPDX-License-Identifier: Apache-2.0
 *
 * decode.h - one call of a decode exec: rows of (token, position, slot), of any sequences in any
 * mixture, and the logits of those rows for which they are asked. What the device is fed stands
 * in one block of pinned memory that looks as the exec's own, so that one copy feeds a call, and
 * a captured graph finds all of it where it was.
 *
 * Invariant: rows 0..n-1 are in use, the others have slot -1; of a sequence, rows stand together
 * and in the order of their positions.
 */
#ifndef MRI_DECODE_H
#define MRI_DECODE_H
#include "exec.h"
#include "graphs.h"
#include "pages.h"

typedef struct mri_rows {
    mri_exec *exec; /* NULL: not open */
    mri_graphs *graphs;
    char *host; /* pinned: the exec's fed block */
    int32_t *tokens, *positions, *slot, *table, *logit_rows;
    int32_t *image_rows; /* NULL: the exec has no pictures */
    int64_t room, n;     /* rows */
    int64_t wanted;      /* rows of logits that were asked for */
    void *raw;           /* pinned: the logits as the device has them */
    float *logits;       /* [room of logits, V] */
    int32_t *next;       /* pinned, [room of logits]: the likeliest id of each */
    uint64_t raw_bytes, next_bytes;
    bool every;          /* every row has a row of logits, wanted or not */
    bool busy;           /* the device may still be reading `host` */
} mri_rows;

/* The exec must be bound. */
mr_status mri_rows_open(mri_rows *r, mri_exec *e, mri_graphs *graphs, mr_err *err);
void mri_rows_close(mri_rows *r); /* the device must be idle */
int64_t mri_rows_vocab(const mri_rows *r);
/* Empties the rows and takes the table as it is now; add() fills them up to `room`. */
mr_status mri_rows_begin(mri_rows *r, mr_err *err);
/* -> which row of the logits is this one's, or -1 if none is asked for */
int64_t mri_rows_add(mri_rows *r, int32_t token, int64_t position, int64_t slot, bool logits);
/* Enqueues the call. The pages are looked at now: a row's position must be in them. */
mr_status mri_rows_run(mri_rows *r, const mri_pages *pages, mr_err *err);
mr_status mri_rows_read(mri_rows *r, mr_err *err); /* waits; r->logits are what was asked for */
/* Waits; r->next are the likeliest ids of the rows that were asked for. A model whose head gives
 * them (output "next", of op argmax) spares its logits the way to the host. */
mr_status mri_rows_next(mri_rows *r, mr_err *err);

#endif
