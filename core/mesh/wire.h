/* SPDX-License-Identifier: Apache-2.0
 *
 * wire.h - the words between rank 0's hub and the ranks: a head, a key, data, over TCP.
 *
 * Invariant: what comes in is checked before it is used: magic, kind, rank and sizes (a key of 63
 * letters, WIRE_MAX bytes of data at most); a peer that breaks this is cut off.
 */
#ifndef MRI_WIRE_H
#define MRI_WIRE_H
#include "core/base/base.h"

enum { WIRE_KEY = 64, WIRE_MAX = 1 << 24 };

enum wire_kind {
    WIRE_HELLO = 1, /* rank -> hub, first; data: the world's size as u32      */
    WIRE_PUT,       /* rank -> hub: key, data                                 */
    WIRE_GET,       /* rank -> hub: key; answered by VALUE when it is there   */
    WIRE_VALUE,     /* hub -> rank                                            */
    WIRE_BEAT,      /* rank -> hub: a wire_beat                               */
    WIRE_FAIL,      /* rank -> hub: its mr_err                                */
    WIRE_VERDICT,   /* hub -> all: the mr_err that all end with               */
    WIRE_GATHER,    /* rank -> hub: data; when all have sent, all get VALUE "gather" */
    WIRE_BYE        /* rank -> hub: it leaves, nothing is wrong               */
};

typedef struct wire_beat { /* what a rank does */
    uint64_t jobs;  /* collectives that it has come to           */
    uint32_t waits; /* 1: it is in one, 0: it computes           */
    uint32_t pad;
} wire_beat;

typedef struct wire_word {
    uint32_t kind, from;
    char key[WIRE_KEY];
    uint64_t bytes;
    void *data; /* the reader frees */
} wire_word;

bool mri_wire_send(int fd, uint32_t kind, uint32_t from, const char *key, const void *data,
                   uint64_t bytes);
/* false: the peer is gone, or breaks the rules */
bool mri_wire_read(int fd, wire_word *out);
/* a listening socket on any address; *port 0: a free one, which is stored */
mr_status mri_wire_listen(uint32_t *port, int *fd, mr_err *err);
/* tries until the deadline; the error says how long it waited */
mr_status mri_wire_connect(const char *host, uint32_t port, double seconds, int *fd, mr_err *err);
double mri_wire_now(void); /* seconds of a clock that never jumps */

#endif
