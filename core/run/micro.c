/* SPDX-License-Identifier: Apache-2.0
 * micro.c - see micro.h. */
#include "micro.h"
#include "bind.h"
#include "core/ops/zigzag.h"
#include <stdlib.h>
#include <string.h>

mri_micro mri_micro_at(void *block, const mri_exec_options *o)
{
    char *p = block;
    uint64_t n = (mri_exec_field_bytes(o, 0) + MRI_ALIGN - 1) / MRI_ALIGN * MRI_ALIGN;
    mri_micro m = { .tokens = (int32_t *)p, /* in the order of mri_batch */
                    .positions = (int32_t *)(p + n),
                    .seq_start = (int32_t *)(p + 2 * n),
                    .targets = (int32_t *)(p + 3 * n),
                    .weight = (float *)(p + 4 * n),
                    .slot = (int32_t *)(p + 5 * n),
                    .t = o->tokens,
                    .images = o->images,
                    .tile_values = o->tile_values,
                    .block = block };
    if (mri_exec_field_bytes(o, MRI_FIELD_IMAGE_ROWS))
        m.image_rows = (int32_t *)(p + MRI_FIELD_IMAGE_ROWS * n);
    if (mri_exec_field_bytes(o, MRI_FIELD_PIXELS))
        m.pixels = (float *)(p + MRI_FIELD_PIXELS * n);
    return m;
}

mri_micro mri_micro_of(const mri_exec *e)
{
    mri_micro m = mri_micro_at(mri_alloc(mri_exec_fields_bytes(&e->opt)), &e->opt);
    for (int64_t i = 0; m.image_rows && i < m.t; i++)
        m.image_rows[i] = -1;
    return m;
}

mri_micro mri_micro_new(int64_t t)
{
    mri_exec_options o = { .tokens = t };
    return mri_micro_at(mri_alloc(mri_exec_fields_bytes(&o)), &o);
}

void mri_micro_free(mri_micro *m)
{
    free(m->block);
    m->block = NULL;
}

mri_batch mri_micro_batch(const mri_micro *m, bool decode)
{
    return (mri_batch){ m->tokens, m->positions, m->seq_start, m->targets,
                        decode ? m->slot : NULL, m->weight, m->image_rows, m->pixels };
}

mr_status mri_micro_check_cut(int64_t seq, int64_t cp, int64_t images, mr_err *err)
{
    if (cp == 1 || (seq % (2 * cp) == 0 && !images))
        return 0;
    mr_fail(err, MR_E_PROFILE_CONFLICT, MR_BLAME_USER,
            images ? "[mesh] cp = %lld does not go with pictures (sequences of %lld tokens)"
                   : "[mesh] cp = %lld: sequences of %lld tokens are not cut in 2*cp equal pieces",
            (long long)cp, (long long)seq);
    mr_hint(err, images ? "set cp = 1" : "make [train] seq a multiple of 2*cp");
    return MR_E_PROFILE_CONFLICT;
}

void mri_micro_cut(const mri_micro *whole, int64_t seq, int64_t ranks, int64_t index,
                   mri_micro *part)
{
    MRI_ASSERT(part->t * ranks == whole->t && !part->image_rows && whole->t % seq == 0 &&
               seq % (2 * ranks) == 0);
    for (int64_t i = 0; i < part->t; i++) {
        int64_t t = mri_zigzag_row(i, seq, ranks, index);
        part->tokens[i] = whole->tokens[t];
        part->positions[i] = whole->positions[t];
        part->seq_start[i] = whole->seq_start[t];
        part->targets[i] = whole->targets[t];
        part->weight[i] = whole->weight[t];
        part->slot[i] = whole->slot[t];
    }
}

void mri_micro_blank(mri_micro *m, int64_t from, int64_t seq)
{
    for (int64_t i = from; i < m->t; i++) {
        m->tokens[i] = m->targets[i] = 0;
        m->positions[i] = (int32_t)(i % seq);
        m->seq_start[i] = (int32_t)(i - i % seq);
        m->weight[i] = 0;
        m->slot[i] = -1;
        if (m->image_rows)
            m->image_rows[i] = -1;
    }
}

mr_status mri_micro_place_images(mri_micro *m, int64_t from, int64_t n, int32_t id, int64_t *next,
                                 int64_t room, mr_err *err)
{
    for (int64_t i = from; i < from + n; i++)
        if (m->tokens[i] == id && m->image_rows && (*next)++ < room)
            m->image_rows[i] = (int32_t)(*next - 1);
    if (*next <= room || !m->image_rows)
        return 0;
    mr_fail(err, MR_E_ARG, MR_BLAME_USER,
            "the text has %lld placeholders (token %d) of pictures, the pictures give %lld rows",
            (long long)*next, id, (long long)room);
    mr_hint(err, "each tile takes the same number of placeholders; are all pictures given?");
    return MR_E_ARG;
}

void mri_micro_sequence(mri_micro *m, const int32_t *ids, int64_t n, int64_t seq)
{
    mri_micro_blank(m, 0, seq);
    for (int64_t i = 0; i < n; i++) {
        m->tokens[i] = ids[i];
        m->targets[i] = i + 1 < n ? ids[i + 1] : 0;
        m->positions[i] = (int32_t)i;
        m->seq_start[i] = 0;
        m->weight[i] = i + 1 < n;
    }
}

/* Each sample has its own tiles of the micro-batch's: row r those from r * room on. */
static void offer_pixels(const mri_micro *m, int64_t r, int64_t rows, mr_sample *x)
{
    if (!m->pixels)
        return;
    x->room = m->images / rows;
    x->pixels = m->pixels + r * x->room * m->tile_values;
}

static mr_status place_sample(const mri_session *s, mri_micro *m, int64_t r, int64_t seq,
                              const mr_sample *x, int64_t sample, mr_err *err)
{
    int64_t tokens = s->info.image_tokens, first = r * x->room * tokens, next = first;
    int64_t end = first + x->tiles * tokens;
    if (!m->image_rows)
        return 0;
    if (x->tiles < 0 || x->tiles > x->room)
        return mr_fail(err, MR_E_DATA_FORMAT, MR_BLAME_PLUGIN, "sample %lld says it has %lld "
                       "tiles, there is room for %lld", (long long)sample, (long long)x->tiles,
                       (long long)x->room);
    for (int64_t i = r * seq; i < (r + 1) * seq; i++)
        if (m->tokens[i] == s->info.image_token && next++ < end)
            m->image_rows[i] = (int32_t)(next - 1);
    if (next == end)
        return 0;
    mr_fail(err, MR_E_IMAGE_COUNT, MR_BLAME_USER, "sample %lld has %lld image tokens (id %d), its "
            "%lld tiles give %lld rows of features", (long long)sample, (long long)(next - first),
            s->info.image_token, (long long)x->tiles, (long long)(end - first));
    mr_hint(err, "is [train] seq long enough for its pictures?");
    return MR_E_IMAGE_COUNT;
}

/* Tokens in the vocabulary, one sequence where the plugin promised it; seq_start in the batch. */
static mr_status check_sample(const mri_session *s, mri_micro *m, int64_t at, int64_t seq,
                              int64_t sample, mr_err *err)
{
    for (int64_t i = 0; i < seq; i++) {
        m->seq_start[at + i] += (int32_t)at;
        if (s->whole && m->seq_start[at + i] != at)
            return mr_fail(err, MR_E_DATA_FORMAT, MR_BLAME_PLUGIN,
                           "token %lld of sample %lld starts a sequence at %lld; the data "
                           "plugin promises samples of one sequence", (long long)i,
                           (long long)sample, (long long)(m->seq_start[at + i] - at));
        if (m->tokens[at + i] < 0 || m->tokens[at + i] >= s->info.vocab)
            return mr_fail(err, MR_E_DATA_FORMAT, MR_BLAME_USER,
                           "sample %lld has token %d, the model's vocabulary is %lld",
                           (long long)sample, m->tokens[at + i], (long long)s->info.vocab);
    }
    return 0;
}

mr_status mri_micro_read_row(mri_session *s, mri_micro *m, int64_t r, uint32_t set, int64_t sample,
                             int64_t choice, int64_t *answer, mr_err *err)
{
    int64_t seq = s->config->train.seq, at = r * seq;
    mr_sample x = { sizeof x, 0, m->tokens + at, m->targets + at, m->positions + at,
                    m->seq_start + at, m->weight + at, NULL, 0, 0, choice, 0 };
    mr_status st = 0;
    if (m->image_rows)
        memset(m->image_rows + at, 0xFF, (size_t)seq * 4); /* -1 */
    offer_pixels(m, r, m->t / seq, &x);
    if (x.pixels)
        memset(x.pixels, 0, (size_t)(x.room * m->tile_values) * sizeof(float));
    MR_TRY(s->data_ops->read(s->data, set, sample, &x, err));
    MR_TRY(place_sample(s, m, r, seq, &x, sample, err));
    MR_TRY(check_sample(s, m, at, seq, sample, err));
    *answer = x.answer;
out:
    return st;
}

static mr_status read_whole(mri_session *s, mri_micro *m, uint32_t set, int64_t first, int64_t limit,
                            double *weight, mr_err *err)
{
    int64_t seq = s->config->train.seq, rows = m->t / seq, answer;
    for (int64_t r = 0; r < rows; r++) {
        if (limit >= 0 && first + r >= limit) {
            mri_micro_blank(m, r * seq, s->whole ? seq : 1);
            if (m->pixels)
                memset(m->pixels + m->images / rows * r * m->tile_values, 0,
                       (size_t)(m->images / rows * (rows - r) * m->tile_values) * sizeof(float));
            return 0;
        }
        mr_status st = mri_micro_read_row(s, m, r, set, first + r, 0, &answer, err);
        if (st)
            return st;
        for (int64_t i = r * seq; i < (r + 1) * seq; i++)
            *weight += m->weight[i];
    }
    return 0;
}

mr_status mri_micro_read(mri_session *s, mri_micro *m, uint32_t set, int64_t first, int64_t limit,
                         double *weight, mr_err *err)
{
    int64_t cp = mri_session_cp(s);
    if (cp == 1)
        return read_whole(s, m, set, first, limit, weight, err);
    mri_micro whole = mri_micro_new(m->t * cp);
    mr_status st = read_whole(s, &whole, set, first, limit, weight, err);
    if (!st)
        mri_micro_cut(&whole, s->config->train.seq, cp, s->world->mesh.i_cp, m);
    mri_micro_free(&whole);
    return st;
}
