/* SPDX-License-Identifier: Apache-2.0
 *
 * late.h - sessions to load weights into: on the cpu backend as it is, or behind a device whose
 * memory the host does not reach, and which copies only when it is waited for: a buffer that is
 * written again too early shows. One session at a time.
 */
#ifndef TEST_LATE_H
#define TEST_LATE_H
#include "tests/unit/plan/tiny.h"
#include "tests/unit/store/scratch.h"

typedef struct late_copy {
    void *dst;
    const void *src;
    uint64_t n;
} late_copy;

static struct {
    MRI_VEC(late_copy) queue;
    size_t done;
    mr_backend_ops ops;
    const mr_backend_ops *inner;
    mr_unit unit;
} late;

static void copy_until(size_t end)
{
    for (; late.done < end; late.done++) {
        late_copy *c = &late.queue.v[late.done];
        memcpy(c->dst, c->src, c->n);
    }
}

static mr_status late_enqueue(void *dev, void *stream, void *dst, const void *src, uint64_t n,
                              mr_err *err)
{
    late_copy c = { dst, src, n };
    (void)dev, (void)stream, (void)err;
    MRI_PUSH(&late.queue, c);
    return 0;
}

static mr_status late_record(void *dev, void *stream, void **event, mr_err *err)
{
    (void)dev, (void)stream, (void)err;
    if (!*event)
        *event = mri_alloc(sizeof(size_t));
    *(size_t *)*event = late.queue.n;
    return 0;
}

static mr_status late_event_sync(void *dev, void *event, mr_err *err)
{
    (void)dev, (void)err;
    copy_until(*(size_t *)event);
    return 0;
}

static void late_event_destroy(void *dev, void *event)
{
    (void)dev;
    free(event);
}

static mr_status late_sync(void *dev, void *stream, mr_err *err)
{
    copy_until(late.queue.n);
    return late.inner->sync(dev, stream, err);
}

static const void *late_ext(void *dev, const char *id)
{
    return strcmp(id, MR_EXT_HOST_MEMORY) ? late.inner->ext(dev, id) : NULL;
}

static void make_late(mri_config *c)
{
    mri_choice *choice = (mri_choice *)(uintptr_t)mri_config_choice(c, "backend", 0);
    late.inner = choice->unit->table;
    late.ops = *late.inner;
    late.ops.copy = late_enqueue;
    late.ops.record = late_record;
    late.ops.event_sync = late_event_sync;
    late.ops.event_destroy = late_event_destroy;
    late.ops.sync = late_sync;
    late.ops.ext = late_ext;
    late.unit = *choice->unit;
    late.unit.table = &late.ops;
    choice->unit = &late.unit;
}

MR_UNUSED static mri_session *open_with(kit *k, const char *const *base, const char *const *more,
                                        bool train, bool is_late)
{
    const char *sets[64] = { "backend.plugin=cpu", "train.micro_batch=1" };
    mri_session_options o = { .needs = train ? MRI_NEED_TRAIN | MRI_NEED_UPDATE
                                             : MRI_NEED_EVAL };
    mr_err err = MR_ERR_INIT;
    size_t n = 2;
    while (*base)
        sets[n++] = *base++;
    while (*more)
        sets[n++] = *more++;
    memset(&late.queue, 0, sizeof late.queue);
    late.done = 0;
    k->registry = mri_registry_create(NULL);
    mri_registry_offer(k->registry, MR_EXT_REF, &mri_ref_service);
    mri_registry_offer(k->registry, MR_EXT_JSON, &mri_json_service);
    kit_ok(mri_config_load(k->registry, NULL, sets, n, &k->config, &err), &err, "config");
    if (is_late)
        make_late(k->config);
    kit_ok(mri_session_open(k->registry, k->config, &o, &k->session, &err), &err, "session");
    return k->session;
}

MR_UNUSED static mri_session *open_as(kit *k, const char *const *more, bool train, bool is_late)
{
    static const char *const base[] = { TINY_MODEL, "model.vocab=70000", NULL };
    return open_with(k, base, more, train, is_late); /* an embedding of two chunks */
}

#endif
