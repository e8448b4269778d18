/* SPDX-License-Identifier: Apache-2.0
 * agree.c - see agree.h. */
#include "agree.h"
#include "channel.h"
#include "rendezvous.h"
#include <stdlib.h>
#include <string.h>

/* ---- gather, sum ---------------------------------------------------------------------------- */

typedef struct gather {
    mri_world *w;
    const void *mine;
    uint64_t bytes;
    void *all;
} gather;

static mr_status do_gather(void *ctx, mr_err *err)
{
    const gather *g = ctx;
    const mri_world *w = g->w;
    if (w->ops->flags & MR_COMM_STREAM) /* device memory is no place for the host's figures */
        return mri_rendezvous_gather(w->rendezvous, g->mine, g->bytes, g->all, err);
    return w->ops->host_gather(w->comm, g->mine, g->bytes, g->all, err);
}

mr_status mri_world_gather(mri_world *w, const void *mine, uint64_t bytes, void *all, mr_err *err)
{
    gather g = { w, mine, bytes, all };
    if (mri_world_alone(w)) {
        memmove(all, mine, bytes);
        return 0;
    }
    if (!w->channel)
        return mr_fail(err, MR_E_INTERNAL, MR_BLAME_HOST,
                       "ranks of a world that is for planning alone cannot tell each other "
                       "anything");
    return mri_channel_call(w, do_gather, &g, err);
}

mr_status mri_world_sum(mri_world *w, uint32_t group, double *x, size_t n, mr_err *err)
{
    if (mri_world_alone(w))
        return 0;
    uint32_t *ranks, members, index;
    double *all = mri_alloc(w->mesh.world * n * sizeof *all + 1);
    mr_status st = mri_world_gather(w, x, n * sizeof *x, all, err);
    mri_mesh_group(&w->mesh, group, &ranks, &members, &index);
    for (size_t i = 0; i < n && !st; i++) {
        x[i] = 0;
        for (uint32_t r = 0; r < members; r++)
            x[i] += all[ranks[r] * n + i];
    }
    free(ranks);
    free(all);
    return st;
}

mr_status mri_world_any(mri_world *w, bool *x, mr_err *err)
{
    if (mri_world_alone(w))
        return 0;
    bool *all = mri_alloc(w->mesh.world * sizeof *all);
    mr_status st = mri_world_gather(w, x, sizeof *x, all, err);
    for (uint32_t r = 0; r < w->mesh.world && !st; r++)
        *x |= all[r];
    free(all);
    return st;
}

/* ---- agreement ------------------------------------------------------------------------------- */

static void blame_rank(mr_err *err, uint32_t rank)
{
    char what[sizeof err->what];
    memcpy(what, err->what, sizeof what);
    snprintf(err->what, sizeof err->what, "rank %u: %.*s", rank, (int)sizeof what - 24, what);
}

/* Of the lowest rank that failed; one that only lost a peer says less than the peer. */
static uint32_t first_bad(const mr_status *st, uint32_t n)
{
    for (uint32_t r = 0; r < n; r++)
        if (st[r] && st[r] != MR_E_COMM)
            return r;
    for (uint32_t r = 0; r < n; r++)
        if (st[r])
            return r;
    return n;
}

mr_status mri_world_agree(mri_world *w, mr_status st, mr_err *err)
{
    if (mri_world_alone(w) || w->lost || !w->channel)
        return st;
    uint32_t n = w->mesh.world;
    mr_status *all = mri_alloc(n * sizeof *all);
    mr_err *errors = NULL, other = MR_ERR_INIT;
    mr_status gathered = mri_world_gather(w, &st, sizeof st, all, &other);
    uint32_t bad = gathered ? n : first_bad(all, n);
    if (!gathered && bad < n) {
        errors = mri_alloc(n * sizeof *errors);
        gathered = mri_world_gather(w, st ? err : &other, sizeof *err, errors, &other);
    }
    if (gathered && !st) { /* the others are gone */
        *err = other;
        st = gathered;
    } else if (errors && !gathered) {
        bool alike = true;
        for (uint32_t r = 0; r < n; r++)
            alike &= !strcmp(errors[r].what, errors[bad].what);
        *err = errors[bad];
        if (!alike)
            blame_rank(err, bad);
        st = all[bad];
        w->lost = true; /* all know; each stops by itself */
    }
    free(errors);
    free(all);
    return st;
}

mr_status mri_world_fail(mri_world *w, mr_status st, mr_err *err)
{
    if (!st || mri_world_alone(w) || w->lost || !w->channel)
        return st;
    w->lost = true;
    blame_rank(err, w->mesh.rank);
    if (w->rendezvous)
        mri_rendezvous_fail(w->rendezvous, err); /* whose verdict aborts the plugin */
    else if (w->comm && MR_CAN(w->ops, fail))
        w->ops->fail(w->comm, err);
    return err->code;
}

bool mri_world_orphan(const mri_world *w)
{
    return w && w->rendezvous && mri_rendezvous_orphan(w->rendezvous);
}

/* ---- started alike? -------------------------------------------------------------------------- */

typedef struct alike {
    uint64_t profile, binary, length;
} alike;

static uint64_t hash_file(const char *path)
{
    unsigned char block[1 << 16];
    uint64_t h = 0;
    size_t n;
    FILE *f = fopen(path, "rb");
    while (f && (n = fread(block, 1, sizeof block, f)) > 0)
        h = mri_hash(h, block, n);
    if (f)
        fclose(f);
    return h;
}

/* the first line of a that b lacks at that place */
static void first_difference(const char *a, const char *b, char *line_a, char *line_b, size_t room)
{
    while (*a && *a == *b) {
        size_t n = strcspn(a, "\n"), k = strcspn(b, "\n");
        if (n != k || memcmp(a, b, n))
            break;
        a += n + (a[n] == '\n');
        b += k + (b[k] == '\n');
    }
    snprintf(line_a, room, "%.*s", (int)strcspn(a, "\n"), a);
    snprintf(line_b, room, "%.*s", (int)strcspn(b, "\n"), b);
}

static mr_status profiles_differ(mri_world *w, const mri_str *text, uint64_t longest, uint32_t bad,
                                 mr_err *err)
{
    char *mine = mri_alloc(longest + 1), *all = mri_alloc(w->mesh.world * (longest + 1));
    char first[200], other[200];
    memcpy(mine, text->s, text->n);
    mr_status st = mri_world_gather(w, mine, longest + 1, all, err);
    if (!st) {
        first_difference(all, all + bad * (longest + 1), first, other, sizeof first);
        st = mr_fail(err, MR_E_COMM, MR_BLAME_USER, "rank %u was started with another profile than "
                     "rank 0", bad);
        mr_detail(err, "rank 0: %s\nrank %u: %s", first, bad, other);
        mr_hint(err, "start all ranks with the same profile and the same --set");
    }
    free(mine);
    free(all);
    return st;
}

mr_status mri_agree_same(mri_world *w, mr_err *err)
{
    uint32_t n = w->mesh.world, profile = 0, binary = 0;
    uint64_t longest = 0;
    mri_str text = { 0 };
    alike *all = mri_alloc(n * sizeof *all);
    mri_profile_print(w->config->profile, false, &text);
    alike mine = { mri_hash(0, text.s, text.n),
                   w->ops->flags & MR_COMM_THREADS ? 0 : hash_file("/proc/self/exe"), text.n };
    mr_status st = mri_world_gather(w, &mine, sizeof mine, all, err);
    for (uint32_t r = n; r-- > 1 && !st;) {
        profile = all[r].profile != all[0].profile ? r : profile;
        binary = all[r].binary != all[0].binary ? r : binary;
    }
    for (uint32_t r = 0; r < n && !st; r++)
        longest = all[r].length > longest ? all[r].length : longest;
    if (!st && profile) {
        st = profiles_differ(w, &text, longest, profile, err);
    } else if (!st && binary) {
        st = mr_fail(err, MR_E_COMM, MR_BLAME_ENV, "rank %u runs another mrun than rank 0", binary);
        mr_detail(err, "hash of the program: %016llx, rank 0: %016llx",
                  (unsigned long long)all[binary].binary, (unsigned long long)all[0].binary);
        mr_hint(err, "install the same build on all hosts");
    }
    mri_str_free(&text);
    free(all);
    return st;
}
