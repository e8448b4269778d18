/* SPDX-License-Identifier: Apache-2.0
 * feed.c - see feed.h. */
#include "feed.h"
#include "bind.h"
#include "core/plan/plan.h"
#include "micro.h"
#include <string.h>

/* The loss seed stands behind the fields, in a line of its own. */
static uint64_t block_bytes(const mri_feed *f)
{
    return f->micro_bytes + MRI_ALIGN;
}

void mri_feed_plan(mri_feed *f, mri_device *d, mri_scalars *s, const mri_exec *e, uint32_t room)
{
    size_t n;
    memset(f, 0, sizeof *f);
    f->device = d;
    f->scalars = s;
    f->exec = e;
    f->room = room;
    f->micro_bytes = mri_exec_fields_bytes(&e->opt);
    f->loss_bytes = (e->losses.n ? e->losses.n : 1) * MRI_SCALAR_STRIDE * sizeof(float);
    f->scalar_bytes = MRI_MAX_SCALARS * MRI_SCALAR_STRIDE * sizeof(float);
    f->in_bytes = room * block_bytes(f);
    mri_scalars_written(s, &n);
    f->out_bytes = room * f->loss_bytes + n * sizeof(float);
}

uint64_t mri_feed_bytes(const mri_feed *f)
{
    return f->in_bytes + f->out_bytes;
}

mr_status mri_feed_alloc(mri_feed *f, mr_err *err)
{
    const mr_backend_ops *ops = f->device->ops;
    mr_status st = 0;
    MR_TRY(ops->alloc(f->device->dev, f->in_bytes, MR_MEM_ARENA, (void **)&f->in, err));
    MR_TRY(ops->alloc(f->device->dev, f->out_bytes, MR_MEM_ARENA, (void **)&f->out, err));
    for (int i = 0; i < MRI_FEED_SLOTS; i++) {
        MR_TRY(ops->alloc(f->device->dev, f->scalar_bytes + f->in_bytes, MR_MEM_PINNED,
                          (void **)&f->host_in[i], err));
        MR_TRY(ops->alloc(f->device->dev, f->out_bytes, MR_MEM_PINNED, (void **)&f->host_out[i],
                          err));
    }
out:
    return st;
}

void mri_feed_free(mri_feed *f)
{
    const mr_backend_ops *ops = f->device ? f->device->ops : NULL;
    if (!ops)
        return;
    if (f->in)
        ops->free(f->device->dev, f->in, f->in_bytes);
    if (f->out)
        ops->free(f->device->dev, f->out, f->out_bytes);
    for (int i = 0; i < MRI_FEED_SLOTS; i++) {
        if (f->host_in[i])
            ops->free(f->device->dev, f->host_in[i], f->scalar_bytes + f->in_bytes);
        if (f->host_out[i])
            ops->free(f->device->dev, f->host_out[i], f->out_bytes);
        if (f->done[i])
            ops->event_destroy(f->device->dev, f->done[i]);
    }
    memset(f, 0, sizeof *f);
}

/* ---- the host's side ------------------------------------------------------------------------ */

void *mri_feed_fields(mri_feed *f, uint32_t slot, uint32_t micro)
{
    return f->host_in[slot] + f->scalar_bytes + micro * block_bytes(f);
}

void mri_feed_seed(mri_feed *f, uint32_t slot, uint32_t micro, double seed)
{
    float x = (float)seed;
    memcpy((char *)mri_feed_fields(f, slot, micro) + f->micro_bytes, &x, sizeof x);
}

void mri_feed_scalar(mri_feed *f, uint32_t slot, const char *name, double value)
{
    ((float *)f->host_in[slot])[mri_scalar_at(f->scalars, name)] = (float)value;
}

static mr_status copy(mri_feed *f, void *dst, const void *src, uint64_t n, mr_err *err)
{
    return f->device->ops->copy(f->device->dev, f->device->stream, dst, src, n, err);
}

mr_status mri_feed_send(mri_feed *f, uint32_t slot, uint32_t micros, mr_err *err)
{
    uint64_t set = f->scalars->names.n * MRI_SCALAR_STRIDE * sizeof(float);
    mr_status st = set ? copy(f, f->scalars->data, f->host_in[slot], set, err) : 0;
    return st ? st
              : copy(f, f->in, f->host_in[slot] + f->scalar_bytes, micros * block_bytes(f), err);
}

mr_status mri_feed_fetch(mri_feed *f, uint32_t slot, mr_err *err)
{
    mr_status st = copy(f, f->host_out[slot], f->out, f->out_bytes, err);
    return st ? st
              : f->device->ops->record(f->device->dev, f->device->stream, &f->done[slot], err);
}

mr_status mri_feed_await(mri_feed *f, uint32_t slot, mr_err *err)
{
    return mri_device_wait(f->device, f->done[slot], err);
}

float mri_feed_loss(const mri_feed *f, uint32_t slot, uint32_t micro, size_t loss)
{
    const float *x = (const float *)(f->host_out[slot] + micro * f->loss_bytes) +
                     loss * MRI_SCALAR_STRIDE;
    return mri_exec_loss_value(f->exec, loss, x);
}

float mri_feed_result(const mri_feed *f, uint32_t slot, const char *scalar)
{
    const float *x = (const float *)(f->host_out[slot] + f->room * f->loss_bytes);
    return x[mri_scalar_written_at(scalar)];
}

/* ---- the device's side ---------------------------------------------------------------------- */

mr_status mri_feed_load(mri_feed *f, uint32_t micro, uint32_t chunk, uint32_t slot, mr_err *err)
{
    mr_status st = copy(f, f->exec->base + mri_exec_slot_at(f->exec, chunk, slot),
                        f->in + micro * block_bytes(f), f->micro_bytes, err);
    return st ? st : mri_feed_load_seed(f, micro, err);
}

mr_status mri_feed_load_seed(mri_feed *f, uint32_t micro, mr_err *err)
{
    return copy(f, mri_scalar(f->scalars, MRI_LOSS_SEED),
                f->in + micro * block_bytes(f) + f->micro_bytes, sizeof(float), err);
}

mr_status mri_feed_store_losses(mri_feed *f, uint32_t micro, uint32_t chunk, uint32_t slot,
                                mr_err *err)
{
    const mri_chunk *c = &f->exec->chunks.v[chunk];
    uint64_t line = MRI_SCALAR_STRIDE * sizeof(float);
    return c->n_losses ? copy(f, f->out + micro * f->loss_bytes + c->loss * line,
                              mri_exec_losses_at(f->exec, chunk, slot), c->n_losses * line, err)
                       : 0;
}

mr_status mri_feed_store_scalars(mri_feed *f, mr_err *err)
{
    size_t n;
    const float *from = mri_scalars_written(f->scalars, &n);
    return copy(f, f->out + f->room * f->loss_bytes, from, n * sizeof(float), err);
}
