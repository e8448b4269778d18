/* SPDX-License-Identifier: Apache-2.0
 * decode.c - see decode.h; and mri_session_decode(), which is one sequence in slot 0. */
#include "decode.h"
#include "pictures.h"
#include "sample.h"
#include "session.h"
#include <stdlib.h>
#include <string.h>

static const void *logits_of(const mri_rows *r, const mr_type **type)
{
    return mri_exec_output(r->exec, "logits", type);
}

mr_status mri_rows_open(mri_rows *r, mri_exec *e, mri_graphs *graphs, mr_err *err)
{
    const mr_backend_ops *ops = e->device->ops;
    const mr_type *type;
    mr_status st = 0;
    *r = (mri_rows){ .exec = e, .graphs = graphs, .room = e->opt.tokens };
    if (!logits_of(r, &type) || type->rank != 2 ||
        (mr_rows(type) != e->opt.tokens && mr_rows(type) != e->opt.logit_rows)) {
        st = mr_fail(err, MR_E_PROGRAM, MR_BLAME_PLUGIN,
                     "in mode decode the model must have the output logits [%lld, vocabulary]",
                     (long long)(e->opt.logit_rows ? e->opt.logit_rows : e->opt.tokens));
        goto out;
    }
    r->every = mr_rows(type) == e->opt.tokens; /* a model need not mind logit_rows */
    r->raw_bytes = mr_bytes(type);
    MR_TRY(ops->alloc(e->device->dev, e->fed_bytes, MR_MEM_PINNED, (void **)&r->host, err));
    MR_TRY(ops->alloc(e->device->dev, r->raw_bytes, MR_MEM_PINNED, &r->raw, err));
    r->next_bytes = (uint64_t)mr_rows(type) * sizeof *r->next;
    MR_TRY(ops->alloc(e->device->dev, r->next_bytes, MR_MEM_PINNED, (void **)&r->next, err));
    r->logits = mri_alloc((size_t)mr_numel(type) * sizeof *r->logits);
    r->tokens = (int32_t *)(r->host + mri_exec_fed_at(e, "tokens"));
    r->positions = (int32_t *)(r->host + mri_exec_fed_at(e, "positions"));
    r->slot = (int32_t *)(r->host + mri_exec_fed_at(e, "slot"));
    r->table = (int32_t *)(r->host + mri_exec_fed_at(e, "pages"));
    r->logit_rows = (int32_t *)(r->host + mri_exec_fed_at(e, "logit_rows"));
    if (e->opt.images)
        r->image_rows = (int32_t *)(r->host + mri_exec_fed_at(e, "image_rows"));
out:
    if (st)
        mri_rows_close(r);
    return st;
}

void mri_rows_close(mri_rows *r)
{
    mri_device *d = r->exec ? r->exec->device : NULL;
    if (r->host)
        d->ops->free(d->dev, r->host, r->exec->fed_bytes);
    if (r->raw)
        d->ops->free(d->dev, r->raw, r->raw_bytes);
    if (r->next)
        d->ops->free(d->dev, r->next, r->next_bytes);
    free(r->logits);
    *r = (mri_rows){ 0 };
}

int64_t mri_rows_vocab(const mri_rows *r)
{
    const mr_type *type;
    logits_of(r, &type);
    return mr_last(type);
}

mr_status mri_rows_begin(mri_rows *r, mr_err *err)
{
    mr_status st = r->busy ? mri_device_sync(r->exec->device, err) : 0;
    r->busy = false;
    r->n = r->wanted = 0;
    memset(r->logit_rows, 0, (size_t)r->exec->opt.logit_rows * sizeof *r->logit_rows);
    for (int64_t i = 0; i < r->room; i++) {
        r->tokens[i] = r->positions[i] = 0;
        r->slot[i] = -1;
        if (r->image_rows)
            r->image_rows[i] = -1;
    }
    return st;
}

int64_t mri_rows_add(mri_rows *r, int32_t token, int64_t position, int64_t slot, bool logits)
{
    int64_t i = r->n++;
    MRI_ASSERT(i < r->room);
    r->tokens[i] = token;
    r->positions[i] = (int32_t)position;
    r->slot[i] = (int32_t)slot;
    if (!logits)
        return -1;
    if (r->every) {
        r->wanted = i + 1;
        return i;
    }
    MRI_ASSERT(r->wanted < r->exec->opt.logit_rows);
    r->logit_rows[r->wanted] = (int32_t)i;
    return r->wanted++;
}

mr_status mri_rows_run(mri_rows *r, const mri_pages *pages, mr_err *err)
{
    mri_device *d = r->exec->device;
    memcpy(r->table, pages->table,
           (size_t)(pages->slots * pages->of_slot) * sizeof *pages->table);
    r->busy = true;
    mr_status st = d->ops->copy(d->dev, d->stream, r->exec->base + r->exec->at_fields, r->host,
                                r->exec->fed_bytes, err);
    return st ? st : mri_graphs_forward(r->graphs, r->exec, err);
}

mr_status mri_rows_read(mri_rows *r, mr_err *err)
{
    const mr_type *type;
    const void *from = logits_of(r, &type);
    uint64_t n = (uint64_t)r->wanted * (uint64_t)mr_last(type);
    mr_status st = mri_device_read(r->exec->device, r->raw, from, n * mr_dtype_bytes(type->dtype),
                                   err);
    r->busy &= st != 0;
    return st ? st : mri_convert(r->logits, "f32", r->raw, type->dtype, n, err);
}

mr_status mri_rows_next(mri_rows *r, mr_err *err)
{
    static const mri_sampling greedy = { .temperature = 0 };
    const mr_type *type;
    const void *from = mri_exec_output(r->exec, "next", &type);
    int64_t vocab = mri_rows_vocab(r);
    mr_status st;
    if (from && mr_is(type, "i32") && (uint64_t)mr_numel(type) * 4 == r->next_bytes) {
        st = mri_device_read(r->exec->device, r->next, from, (uint64_t)r->wanted * 4, err);
        r->busy &= st != 0;
        return st;
    }
    st = mri_rows_read(r, err);
    for (int64_t i = 0; i < r->wanted && !st; i++)
        r->next[i] = mri_sample(r->logits + i * vocab, vocab, &greedy, 0);
    return st;
}

mr_status mri_session_decode(mri_session *s, const int32_t *ids, int64_t n, int64_t pos,
                             float *logits, mr_err *err)
{
    mr_status st = 0;
    int64_t holds = s->decode->opt.max_seq;
    if (!pos)
        s->pictures.next = 0;
    if (n < 1 || pos < 0 || pos > holds || n > holds - pos) {
        st = mr_fail(err, MR_E_ARG, MR_BLAME_USER, "positions %lld to %lld, the cache holds %lld",
                     (long long)pos, (long long)(pos + n), (long long)holds);
        goto out;
    }
    if (!mri_pages_reach(&s->pages, 0, pos + n)) {
        st = mr_fail(err, MR_E_NOMEM, MR_BLAME_USER, "%lld positions take %lld pages, %lld of %lld "
                     "are free", (long long)(pos + n),
                     (long long)mri_pages_for(&s->pages, pos + n), (long long)s->pages.n_free,
                     (long long)s->pages.pages);
        goto out;
    }
    for (int64_t at = 0; at < n;) {
        mri_rows *r = &s->rows[s->prefill && n - at > 1];
        int64_t end = n - at < r->room ? n : at + r->room;
        MR_TRY(mri_rows_begin(r, err));
        for (; at < end; at++) {
            mri_rows_add(r, ids[at], pos + at, 0, at == n - 1);
            if (r->image_rows)
                MR_TRY(mri_pictures_next(s, ids[at], &r->image_rows[r->n - 1], err));
        }
        MR_TRY(mri_rows_run(r, &s->pages, err));
        if (at < n)
            continue;
        MR_TRY(mri_rows_read(r, err));
        memcpy(logits, r->logits + (r->wanted - 1) * mri_rows_vocab(r),
               (size_t)mri_rows_vocab(r) * sizeof *logits);
    }
out:
    return st;
}
