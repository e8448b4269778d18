/* SPDX-License-Identifier: Apache-2.0
 * trio.c - a plugin of three units for the registry's tests: two sinks, and an op whose
 * definition is as short as a header that knew only its first fields would have it. */
#include "mrun/op.h"
#include "mrun/sink.h"

static mr_status create(const mr_host *host, const mr_sink_env *env, const void *config,
                        void **sink, mr_err *err)
{
    (void)env;
    (void)config;
    (void)err;
    host->log(host->self, MR_LOG_WARN, "sink/one",
              host->cancelled(host->self) ? "stopping" : "going");
    *sink = (void *)host->ext(host->self, "org.example.answer/1");
    return 0;
}

static void destroy(void *sink)
{
    (void)sink;
}

static mr_status event(void *sink, const mr_event *e, mr_err *err)
{
    (void)sink;
    (void)e;
    (void)err;
    return 0;
}

static mr_status shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    (void)err;
    *out[0] = *c->in[0];
    return 0;
}

static mr_status ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    (void)err;
    memcpy(out[0].data, in[0].data, mr_bytes(c->in[0]));
    return 0;
}

static const mr_sink_ops sink = { sizeof sink, 0, create, destroy, event };
static const mr_op_def op = {
    .size = offsetof(mr_op_def, cost),
    .id = "org.example.same",
    .doc = "y = x",
    .sig = "x -> y",
    .shape = shape,
    .ref = ref,
    .shard = "must not be seen",
};
static const char *const needs[] = { "org.example.answer/1", NULL };
static const mr_unit units[] = {
    { sizeof(mr_unit), 0, "sink", "one", "the first", NULL, 0, 0, &sink, NULL },
    { sizeof(mr_unit), 0, "sink", "two", "the second", NULL, 0, 0, &sink, needs },
    { sizeof(mr_unit), 0, "op", "same", "the third", NULL, 0, 0, &op, NULL },
};

static int opened;
static mr_status start(const mr_host *host, mr_err *err)
{
    (void)host;
    if (opened++)
        return mr_fail(err, MR_E_PLUGIN_OPEN, MR_BLAME_HOST, "opened twice");
    return 0;
}

MR_PLUGIN_NOTE("org.example.trio", "3.0", "sink/one sink/two op/same");

MR_EXPORT const mr_plugin MR_PLUGIN_SYMBOL = {
    MR_PLUGIN_HEADER, "org.example.trio", "3.0", "Apache-2.0", "three units", units, 3, 0, start,
    NULL,
};
