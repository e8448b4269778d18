/* SPDX-License-Identifier: Apache-2.0
 *
 * bad_backend.c - the backend skeleton with one fault in run(), by -DFAULT=N, that the
 * cross-backend table must see.
 */
#define mrun_plugin_v1 good_plugin
#include "apps/mrun/skeletons/backend.c"
#undef mrun_plugin_v1

enum {
    WRONG_VALUE = 1,
    PAST_THE_END,
    BEFORE_THE_START,
    CHANGES_INPUT,
    OTHER_BITS,
    LEAVES_UNWRITTEN
};

static mr_status bad_run(void *dev, void *p, void *stream, const mr_buf *in, const mr_buf *out,
                         void *workspace, mr_err *err)
{
    static int times;
    const kernel *k = p;
    mr_status st;
    if (FAULT == LEAVES_UNWRITTEN && !strcmp(k->def->id, "add"))
        return MR_OK;
    st = run(dev, p, stream, in, out, workspace, err);
    if (st || strcmp(k->def->id, "add"))
        return st;
    size_t bytes = mr_bytes(k->call.out[0]), width = mr_dtype_bytes(k->call.out[0]->dtype);
    unsigned char *y = out[0].data, *x = in[0].data;
    switch (FAULT) {
    case WRONG_VALUE: y[bytes - 1] ^= 0x80; break; /* the last element's sign */
    case PAST_THE_END: y[bytes] = 0; break;
    case BEFORE_THE_START: y[-1] = 0; break;
    case CHANGES_INPUT: x[0] ^= 1; break;
    case OTHER_BITS: y[bytes - width] ^= (unsigned char)(times++ & (width == 4)); break;
    }
    return st;
}

static const mr_backend_ops bad_table = {
    .size = sizeof bad_table,
    .count = count,
    .open = open_device,
    .close = free,
    .info = info,
    .alloc = alloc,
    .free = free_memory,
    .query = query,
    .release = release,
    .run = bad_run,
    .stream_create = stream_create,
    .stream_destroy = stream_destroy,
    .record = record,
    .wait = wait,
    .event_destroy = event_destroy,
    .sync = sync,
    .copy = copy,
    .fill = fill,
};

static const mr_unit bad_unit = {
    .size = sizeof bad_unit,
    .kind = "backend",
    .name = "skeleton",
    .doc = "one fault",
    .table = &bad_table,
    .needs = needs,
};

MR_EXPORT const mr_plugin MR_PLUGIN_SYMBOL = {
    MR_PLUGIN_HEADER, "org.example.skeleton", "0.1.0", "Apache-2.0", "one fault", &bad_unit, 1, 0,
    NULL, NULL,
};
