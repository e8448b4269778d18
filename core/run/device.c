/* SPDX-License-Identifier: Apache-2.0
 * device.c - opening a device and moving bytes; see device.h. */
#include "device.h"
#include "exchange.h"
#include <string.h>
#include <time.h>

mr_status mri_device_open(const mr_backend_ops *ops, const mr_host *host, const void *config,
                          uint32_t index, mri_device *out, mr_err *err)
{
    mr_status st = 0;
    uint32_t count = 0;
    memset(out, 0, sizeof *out);
    out->ops = ops;
    MR_TRY(ops->count(host, config, &count, err));
    if (index >= count) {
        st = mr_fail(err, MR_E_DEVICE, MR_BLAME_ENV, "device %u was asked for, the backend has %u",
                     index, count);
        goto out;
    }
    MR_TRY(ops->open(host, config, index, &out->dev, err));
    MR_TRY(ops->stream_create(out->dev, 0, &out->stream, err));
    out->info.size = sizeof out->info;
    MR_TRY(ops->info(out->dev, &out->info, err));
    if (MR_CAN(ops, ext)) {
        out->host_memory = ops->ext(out->dev, MR_EXT_HOST_MEMORY) != NULL;
        out->timer = ops->ext(out->dev, MR_EXT_TIMER);
        out->capture = ops->ext(out->dev, MR_EXT_CAPTURE);
    }
out:
    if (st)
        mri_device_close(out);
    return st;
}

void mri_device_close(mri_device *d)
{
    mri_exchange_forget(d);
    if (d->stream)
        d->ops->stream_destroy(d->dev, d->stream);
    if (d->dev)
        d->ops->close(d->dev);
    memset(d, 0, sizeof *d);
}

double mri_device_clock(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

mr_status mri_device_sync(mri_device *d, mr_err *err)
{
    return d->ops->sync(d->dev, d->stream, err);
}

mr_status mri_device_wait(mri_device *d, void *event, mr_err *err)
{
    return MR_CAN(d->ops, event_sync) ? d->ops->event_sync(d->dev, event, err)
                                      : mri_device_sync(d, err);
}

mr_status mri_device_read(mri_device *d, void *host, const void *device, uint64_t n, mr_err *err)
{
    mr_status st = d->ops->copy(d->dev, d->stream, host, device, n, err);
    return st ? st : mri_device_sync(d, err);
}

mr_status mri_device_write(mri_device *d, void *device, const void *host, uint64_t n, mr_err *err)
{
    mr_status st = d->ops->copy(d->dev, d->stream, device, host, n, err);
    return st ? st : mri_device_sync(d, err);
}
