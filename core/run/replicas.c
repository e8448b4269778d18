/* SPDX-License-Identifier: Apache-2.0
 * replicas.c - see replicas.h. Each rank tells, for each of its parameters, what it holds of it and
 * a hash of the bits: weights as blocks read them. One read of the weights, 16 bytes a parameter. */
#include "replicas.h"
#include <stdlib.h>
#include <string.h>

enum { CHUNK = 16 << 20 };

typedef struct copy {
    uint64_t what; /* which parameter, which part of it; 0: none */
    uint64_t bits;
} copy;

/* Eight bytes at a time: a whole model is read. The tail is padded with zeros. */
static uint64_t hash_bits(uint64_t h, const void *data, uint64_t n)
{
    const char *p = data;
    for (; n; n -= n < 8 ? n : 8, p += 8) {
        uint64_t x = 0;
        memcpy(&x, p, n < 8 ? n : 8);
        h = (h ^ x) * 0x9E3779B97F4A7C15u;
        h ^= h >> 32;
    }
    return h;
}

static mr_status hash_range(mri_session *s, const char *device, uint64_t bytes, void *room,
                            uint64_t *h, mr_err *err)
{
    mr_status st = 0;
    for (uint64_t at = 0; at < bytes && !st; at += CHUNK) {
        uint64_t n = bytes - at < CHUNK ? bytes - at : CHUNK;
        st = mri_device_read(&s->device, room, device + at, n, err);
        *h = st ? *h : hash_bits(*h, room, n);
    }
    return st;
}

static mr_status look_at(mri_session *s, const mri_tensor_slot *t, void *room, copy *out,
                         mr_err *err)
{
    uint64_t width = mr_dtype_bytes(t->f32 ? s->params.acc_dtype : s->params.dtype);
    mr_status st = 0;
    out->what = mri_hash_str(0, t->name);
    out->what = mri_hash(out->what, t->place.at, sizeof t->place.at);
    out->what = mri_hash(out->what, t->place.full, sizeof t->place.full);
    out->bits = 1;
    for (uint64_t i = 0, k; i < t->n && !st; i += k) {
        bool held;
        k = mri_params_span(&s->params, t, i, &held);
        const void *w = mri_params_kept_weight(&s->params, t->at + i);
        uint64_t range[3] = { i, k, w != NULL };
        out->what = mri_hash(out->what, range, sizeof range);
        if (w)
            st = hash_range(s, w, k * width, room, &out->bits, err);
    }
    out->what |= 1;
    return st;
}

/* Ranks that hold the same of parameter i: whose bits have most company? */
static uint32_t company(const copy *all, uint32_t ranks, size_t n, size_t i, uint32_t r, bool bits)
{
    const copy *mine = &all[r * n + i];
    uint32_t same = 0;
    for (uint32_t q = 0; q < ranks; q++) {
        const copy *other = &all[q * n + i];
        same += other->what == mine->what && (!bits || other->bits == mine->bits);
    }
    return same;
}

static mr_status differ(mri_session *s, const copy *all, uint32_t ranks, size_t n, size_t i,
                        mr_err *err)
{
    uint32_t odd = 0, fewest = UINT32_MAX;
    uint64_t what = 0;
    mri_str who = { 0 };
    for (uint32_t r = ranks; r-- > 0;) { /* of a tie the highest is named: all name the same */
        if (company(all, ranks, n, i, r, true) == company(all, ranks, n, i, r, false))
            continue;
        if (company(all, ranks, n, i, r, true) < fewest) {
            fewest = company(all, ranks, n, i, r, true);
            odd = r;
            what = all[r * n + i].what;
        }
    }
    for (uint32_t r = 0; r < ranks; r++)
        if (all[r * n + i].what == what)
            mri_str_fmt(&who, "rank %u: %016llx\n", r, (unsigned long long)all[r * n + i].bits);
    const char *name = i < s->params.slots.n ? s->params.slots.v[i].name : "of another stage";
    mr_fail(err, MR_E_DIVERGED, MR_BLAME_ENV, "rank %u holds other weights than its replicas after "
            "step %lld: %.120s", odd, (long long)s->done.step, name);
    mr_detail(err, "%.700s", who.s ? who.s : "");
    mr_hint(err, "suspect the memory or the links of that rank's host; go on from the last "
                 "checkpoint "
                 "without it");
    mri_str_free(&who);
    return MR_E_DIVERGED;
}

mr_status mri_replicas_check(mri_session *s, mr_err *err)
{
    if (mri_world_alone(s->world))
        return 0;
    uint32_t ranks = s->world->mesh.world;
    uint64_t mine_n = s->params.slots.n, most = 0;
    uint64_t *counts = mri_alloc(ranks * sizeof *counts);
    copy *mine = NULL, *all = NULL;
    void *room = mri_alloc(CHUNK);
    mr_status st = mri_world_gather(s->world, &mine_n, sizeof mine_n, counts, err);
    for (uint32_t r = 0; r < ranks && !st; r++)
        most = counts[r] > most ? counts[r] : most;
    if (st)
        goto out;
    mine = mri_alloc(most * sizeof *mine + 1);
    all = mri_alloc(ranks * most * sizeof *all + 1);
    for (size_t i = 0; i < mine_n; i++)
        MR_TRY(look_at(s, &s->params.slots.v[i], room, &mine[i], err));
    MR_TRY(mri_world_gather(s->world, mine, most * sizeof *mine, all, err));
    for (size_t i = 0; i < most; i++)
        for (uint32_t r = 0; r < ranks; r++)
            if (company(all, ranks, most, i, r, true) != company(all, ranks, most, i, r, false)) {
                st = differ(s, all, ranks, most, i, err);
                goto out;
            }
out:
    free(room);
    free(counts);
    free(mine);
    free(all);
    return st;
}
