/* SPDX-License-Identifier: Apache-2.0
 * pictures.c - see pictures.h. */
#include "pictures.h"
#include <string.h>

mr_status mri_pictures_check(const mri_session *s, const mri_session_options *o, mr_err *err)
{
    int64_t train = s->config->train.images, most = o->images > train ? o->images : train, n;
    const mr_model_info *i = &s->info;
    if (!most)
        return 0;
    if (!i->image_size) {
        mr_fail(err, MR_E_PROFILE_CONFLICT, MR_BLAME_USER,
                "room for %lld tiles of pictures was asked for, the model takes none",
                (long long)most);
        mr_hint(err, "[model] plugin = vlm reads pictures; else leave [train] images out");
        return MR_E_PROFILE_CONFLICT;
    }
    if (most < 0 || i->image_size < 1 || i->image_tokens < 1 ||
        __builtin_mul_overflow(most, s->config->train.micro_batch, &n) ||
        __builtin_mul_overflow(n, 12 * i->image_size, &n) || i->image_size > 1 << 20 ||
        __builtin_mul_overflow(n, i->image_size, &n) || n / 12 > INT32_MAX ||
        i->image_tokens > INT32_MAX / most)
        return mr_fail(err, MR_E_ARG, MR_BLAME_USER,
                       "%lld tiles of %lld x %lld pixels are too many to address", (long long)most,
                       (long long)i->image_size, (long long)i->image_size);
    return 0;
}

int64_t mri_pictures_room(const mri_session *s, const mri_session_options *o, const char *mode)
{
    bool own = !strcmp(mode, "train") ? o->train_tokens > 0 : o->eval_tokens > 0;
    if ((!strcmp(mode, "train") || !strcmp(mode, "infer")) && !own)
        return s->config->train.images * s->config->train.micro_batch;
    return o->images;
}

mr_status mri_pictures_alloc(mri_session *s, mr_err *err)
{
    mri_pictures *p = &s->pictures;
    p->feature_bytes = mri_pictures_bytes(s);
    mr_status st = s->device.ops->alloc(s->device.dev, p->feature_bytes, MR_MEM_ARENA,
                                        &p->features, err);
    s->decode->features = p->features;
    if (s->prefill)
        s->prefill->features = p->features;
    return st;
}

void mri_pictures_free(mri_session *s)
{
    mri_pictures *p = &s->pictures;
    if (p->features)
        s->device.ops->free(s->device.dev, p->features, p->feature_bytes);
    p->features = NULL;
}

uint64_t mri_pictures_bytes(const mri_session *s)
{
    if (!s->encode)
        return 0;
    return (uint64_t)(s->encode->opt.images * s->info.image_tokens * s->info.hidden) *
           mr_dtype_bytes(s->model_dtype);
}

/* ---- what sequences refer to ---------------------------------------------------------------- */

static mr_status encode(mri_session *s, mr_err *err)
{
    mri_pictures *p = &s->pictures;
    mri_micro m = mri_micro_of(s->encode);
    const mr_type *type;
    mr_status st = 0;
    memcpy(m.pixels, p->pixels, (size_t)(p->tiles * m.tile_values) * sizeof(float));
    mri_batch b = { .pixels = m.pixels };
    MR_TRY(mri_exec_upload(s->encode, &b, err));
    MR_TRY(mri_graphs_forward(&s->graphs, s->encode, err));
    const void *features = mri_exec_output(s->encode, "features", &type);
    if (!features || mr_bytes(type) != p->feature_bytes) {
        st = mr_fail(err, MR_E_PROGRAM, MR_BLAME_PLUGIN,
                     "mode \"images\" of the model has no output features of %lld x %lld",
                     (long long)(s->encode->opt.images * s->info.image_tokens),
                     (long long)s->info.hidden);
        goto out;
    }
    MR_TRY(s->device.ops->copy(s->device.dev, s->device.stream, p->features, features,
                               p->feature_bytes, err));
    MR_TRY(mri_device_sync(&s->device, err));
out:
    mri_micro_free(&m);
    return st;
}

mr_status mri_session_pictures(mri_session *s, const float *pixels, int64_t tiles, mr_err *err)
{
    mri_pictures *p = &s->pictures;
    const mri_exec *e = s->encode ? s->encode : s->eval;
    int64_t room = e ? e->opt.images : 0;
    p->next = 0;
    p->pixels = tiles ? pixels : NULL;
    p->tiles = 0;
    if (tiles < 0 || tiles > room) {
        mr_fail(err, MR_E_ARG, MR_BLAME_USER, "%lld tiles of pictures, the plan has room for %lld",
                (long long)tiles, (long long)room);
        mr_hint(err, room ? "give fewer or smaller pictures" : "was the session opened for any?");
        return MR_E_ARG;
    }
    p->tiles = tiles;
    return tiles && s->encode ? encode(s, err) : 0;
}

mr_status mri_pictures_place(const mri_session *s, mri_micro *m, int64_t n, mr_err *err)
{
    const mri_pictures *p = &s->pictures;
    int64_t next = 0, rows = p->tiles * s->info.image_tokens;
    if (!m->image_rows)
        return 0;
    if (p->tiles > m->images)
        return mr_fail(err, MR_E_ARG, MR_BLAME_USER, "%lld tiles, the plan has room for %lld",
                       (long long)p->tiles, (long long)m->images);
    memcpy(m->pixels, p->pixels ? p->pixels : m->pixels,
           (size_t)(p->tiles * m->tile_values) * sizeof(float));
    mr_status st = mri_micro_place_images(m, 0, n, s->info.image_token, &next, rows, err);
    if (!st && next < rows)
        st = mr_fail(err, MR_E_ARG, MR_BLAME_USER,
                     "the pictures give %lld rows, the text has %lld placeholders (token %d)",
                     (long long)rows, (long long)next, s->info.image_token);
    return st;
}

mr_status mri_pictures_next(mri_session *s, int32_t id, int32_t *row, mr_err *err)
{
    mri_pictures *p = &s->pictures;
    int64_t rows = p->tiles * s->info.image_tokens;
    *row = -1;
    if (id != s->info.image_token)
        return 0;
    if (p->next == rows)
        return mr_fail(err, MR_E_ARG, MR_BLAME_USER,
                       "the text has more placeholders (token %d) than the %lld rows that its "
                       "pictures give", s->info.image_token, (long long)rows);
    *row = (int32_t)p->next++;
    return 0;
}
