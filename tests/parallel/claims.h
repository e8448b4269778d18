/* SPDX-License-Identifier: Apache-2.0
 *
 * claims.h - what mrun/comm.h says of every collective, checked on one rank of an open world of
 * four with tp = 2: for any comm plugin whose buffers are the host's.
 */
#ifndef TEST_PARALLEL_CLAIMS_H
#define TEST_PARALLEL_CLAIMS_H
#include "core/mesh/world.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { CLAIM_RANKS = 4, CLAIM_COUNT = 37 };

typedef struct claims {
    int wrong;
    char note[200]; /* the last that was wrong */
} claims;

static inline void claim(claims *c, bool right, const char *what, uint32_t group)
{
    if (right)
        return;
    c->wrong++;
    snprintf(c->note, sizeof c->note, "%s of group %s", what, mri_group_name(group));
}

/* f(rank, i): exact in f32 and in bf16, also their sums over four ranks */
static inline float claim_value(uint32_t rank, int i)
{
    return (float)((int)(rank * 7 + (uint32_t)i) % 13 - 6);
}

static inline uint16_t claim_bf16(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return (uint16_t)(bits >> 16);
}

static inline float claim_sum(const uint32_t *ranks, uint32_t n, int i)
{
    float s = 0;
    for (uint32_t m = 0; m < n; m++)
        s += claim_value(ranks[m], i);
    return s;
}

static inline mr_status claim_reductions(mri_world *w, uint32_t group, claims *c, mr_err *err)
{
    uint32_t *ranks, n, index;
    float a[CLAIM_RANKS * CLAIM_COUNT], out[CLAIM_RANKS * CLAIM_COUNT];
    uint16_t h[CLAIM_COUNT];
    void *g = w->group[group].handle;
    mr_status st = 0;
    mri_mesh_group(&w->mesh, group, &ranks, &n, &index);
    for (int i = 0; i < CLAIM_RANKS * CLAIM_COUNT; i++)
        a[i] = claim_value(w->mesh.rank, i);
    for (int i = 0; i < CLAIM_COUNT; i++)
        h[i] = claim_bf16(a[i]);
    MR_TRY(w->ops->all_reduce(g, NULL, a, out, CLAIM_COUNT, "f32", MR_COMM_SUM, err));
    for (int i = 0; i < CLAIM_COUNT; i++)
        claim(c, out[i] == claim_sum(ranks, n, i), "all_reduce", group);
    MR_TRY(w->ops->all_reduce(g, NULL, h, h, CLAIM_COUNT, "bf16", MR_COMM_SUM, err));
    for (int i = 0; i < CLAIM_COUNT; i++)
        claim(c, h[i] == claim_bf16(claim_sum(ranks, n, i)), "all_reduce of bf16", group);
    MR_TRY(w->ops->reduce_scatter(g, NULL, a, out, CLAIM_COUNT, "f32", MR_COMM_SUM, err));
    for (int i = 0; i < CLAIM_COUNT; i++)
        claim(c, out[i] == claim_sum(ranks, n, (int)index * CLAIM_COUNT + i), "reduce_scatter",
              group);
    MR_TRY(w->ops->all_reduce(g, NULL, a, a, CLAIM_COUNT, "f32", MR_COMM_MAX, err));
    for (int i = 0; i < CLAIM_COUNT; i++) {
        float most = -1e9f;
        for (uint32_t m = 0; m < n; m++)
            most = fmaxf(most, claim_value(ranks[m], i));
        claim(c, a[i] == most, "all_reduce of maxima in place", group);
    }
out:
    free(ranks);
    return st;
}

static inline mr_status claim_copies(mri_world *w, uint32_t group, claims *c, mr_err *err)
{
    uint32_t *ranks, n, index;
    float a[CLAIM_COUNT], out[CLAIM_RANKS * CLAIM_COUNT];
    void *g = w->group[group].handle;
    mr_status st = 0;
    mri_mesh_group(&w->mesh, group, &ranks, &n, &index);
    for (int i = 0; i < CLAIM_COUNT; i++)
        a[i] = claim_value(w->mesh.rank, i);
    MR_TRY(w->ops->all_gather(g, NULL, a, out, CLAIM_COUNT, "f32", err));
    for (uint32_t k = 0; k < n * CLAIM_COUNT; k++)
        claim(c, out[k] == claim_value(ranks[k / CLAIM_COUNT], (int)(k % CLAIM_COUNT)), "all_gather",
              group);
    memcpy(out + index * CLAIM_COUNT, a, sizeof a);
    MR_TRY(w->ops->all_gather(g, NULL, out + index * CLAIM_COUNT, out, CLAIM_COUNT, "f32", err));
    for (uint32_t k = 0; k < n * CLAIM_COUNT; k++)
        claim(c, out[k] == claim_value(ranks[k / CLAIM_COUNT], (int)(k % CLAIM_COUNT)),
              "all_gather in place", group);
    MR_TRY(w->ops->broadcast(g, NULL, a, CLAIM_COUNT, "f32", n - 1, err));
    for (int i = 0; i < CLAIM_COUNT; i++)
        claim(c, a[i] == claim_value(ranks[n - 1], i), "broadcast", group);
out:
    free(ranks);
    return st;
}

/* r * p bytes from rank r to p: none from and to rank 0; and messages that keep their order */
static inline mr_status claim_messages(mri_world *w, claims *c, mr_err *err)
{
    void *g = w->group[MRI_GROUP_WORLD].handle;
    uint64_t send[CLAIM_RANKS], receive[CLAIM_RANKS];
    unsigned char in[64], out[64];
    uint32_t rank = w->mesh.rank;
    size_t n = 0, m = 0;
    mr_status st = 0;
    for (uint32_t p = 0; p < CLAIM_RANKS; p++) {
        send[p] = receive[p] = rank * p;
        for (uint64_t i = 0; i < send[p]; i++)
            in[n++] = (unsigned char)(16 * rank + p);
    }
    MR_TRY(w->ops->all_to_all(g, NULL, in, send, NULL, out, receive, NULL, err));
    for (uint32_t p = 0; p < CLAIM_RANKS; p++)
        for (uint64_t i = 0; i < receive[p]; i++)
            claim(c, out[m++] == 16 * p + rank, "all_to_all", MRI_GROUP_WORLD);
    for (uint32_t k = 0; k < 3; k++) {
        uint32_t word = 100 * rank + k;
        MR_TRY(w->ops->send(g, NULL, &word, sizeof word, (rank + 1) % CLAIM_RANKS, err));
    }
    for (uint32_t k = 0; k < 3; k++) {
        uint32_t from = (rank + CLAIM_RANKS - 1) % CLAIM_RANKS, word = 0;
        MR_TRY(w->ops->receive(g, NULL, &word, sizeof word, from, err));
        claim(c, word == 100 * from + k, "send and receive", MRI_GROUP_WORLD);
    }
out:
    return st;
}

static inline mr_status claims_of(mri_world *w, claims *c, mr_err *err)
{
    const uint32_t groups[] = { MRI_GROUP_TP, MRI_GROUP_DP, MRI_GROUP_WORLD };
    mr_status st = 0;
    for (int k = 0; k < 3; k++) {
        MR_TRY(claim_reductions(w, groups[k], c, err));
        MR_TRY(claim_copies(w, groups[k], c, err));
    }
    MR_TRY(claim_messages(w, c, err));
out:
    return st;
}

#endif
