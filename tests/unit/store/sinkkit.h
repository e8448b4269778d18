/* SPDX-License-Identifier: Apache-2.0
 * sinkkit.h - a sink plugin as the host would drive it: loaded, configured, fed. */
#ifndef SINKKIT_H
#define SINKKIT_H
#include "mrun/sink.h"
#include "scratch.h"
#include <dlfcn.h>

typedef struct kit {
    const mr_sink_ops *ops;
    void *config, *sink;
} kit;

static inline void kit_option(const mr_unit *u, char *config, const char *key, const char *text)
{
    for (uint32_t i = 0; i < u->n_opts; i++) {
        const mr_opt *o = &u->opts[i];
        if (strcmp(o->key, key))
            continue;
        cr_assert_lt(o->offset, u->config_size);
        if (o->type == MR_T_BOOL)
            *(int32_t *)(config + o->offset) = !strcmp(text, "true");
        else if (o->type == MR_T_INT)
            *(int64_t *)(config + o->offset) = strtoll(text, NULL, 10);
        else
            *(const char **)(config + o->offset) = text;
        return;
    }
    cr_assert_fail("no option %s", key);
}

/* options: key, value ... NULL, over the defaults; or NULL */
static inline kit kit_open(const char *name, const char *run_dir, int resumed, int64_t from_step,
                           const char *const *options)
{
    const char *plugins = getenv("MRUN_PLUGIN_PATH");
    cr_assert_not_null(plugins);
    char *path = mri_format("%s/sink/%s/%s.so", plugins, name, name);
    void *lib = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    cr_assert_not_null(lib, "%s", dlerror());
    const mr_plugin *p = dlsym(lib, MR_PLUGIN_SYMBOL_NAME);
    cr_assert_not_null(p);
    cr_assert_eq(memcmp(p->magic, MR_PLUGIN_MAGIC, 8), 0);
    cr_assert_eq(p->n_units, 1);
    const mr_unit *u = p->units;
    cr_assert_str_eq(u->kind, "sink");
    cr_assert_str_eq(u->name, name);
    kit k = { .ops = u->table, .config = mri_alloc(u->config_size) };
    for (uint32_t i = 0; i < u->n_opts; i++) {
        cr_assert(u->opts[i].doc && *u->opts[i].doc);
        kit_option(u, k.config, u->opts[i].key, u->opts[i].def);
    }
    for (; options && *options; options += 2)
        kit_option(u, k.config, options[0], options[1]);
    mr_host host = { .size = sizeof host, .name = "test" };
    mr_sink_env env = { sizeof env, (uint32_t)resumed, run_dir, from_step };
    mr_err err = MR_ERR_INIT;
    cr_assert_eq(k.ops->create(&host, &env, k.config, &k.sink, &err), 0, "%s", err.what);
    free(path);
    return k;
}

static inline void kit_event(kit k, const char *type, int64_t step, int64_t steps, double time,
                             const mr_metric *m, uint32_t n, const char *text)
{
    mr_event e = { sizeof e, n, type, step, steps, time, m, text };
    mr_err err = MR_ERR_INIT;
    cr_assert_eq(k.ops->event(k.sink, &e, &err), 0, "%s", err.what);
}

static inline void kit_close(kit k)
{
    k.ops->destroy(k.sink);
    free(k.config);
}

#endif
