/* SPDX-License-Identifier: Apache-2.0
 * sinks.c - see sinks.h. */
#include "sinks.h"
#include <stdlib.h>
#include <string.h>
#include <time.h>

mr_status app_sinks_open(app_sinks *s, app *a, const mri_config *c, int64_t from_step, mr_err *err)
{
    const mri_choice *choice;
    s->steps = c->train.steps;
    for (size_t i = 0; (choice = mri_config_choice(c, "sink", i)); i++) {
        app_sink x = { choice->unit->table, NULL, choice->unit->name };
        mr_sink_env env = { sizeof env, from_step > 0, c->run.dir, from_step };
        mr_status st = x.ops->create(mri_registry_host(a->registry), &env, choice->config, &x.sink,
                                     err);
        if (st)
            return st;
        MRI_PUSH(&s->all, x);
    }
    return 0;
}

void app_sinks_event(app_sinks *s, const char *type, int64_t step, const mr_metric *m, uint32_t n,
                     const char *text)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    mr_event e = { sizeof e, n, type, step, s->steps, (double)t.tv_sec + 1e-9 * (double)t.tv_nsec,
                   m, text };
    for (size_t i = 0; i < s->all.n; i++) {
        app_sink *x = &s->all.v[i];
        mr_err err = MR_ERR_INIT;
        if (!x->sink || !x->ops->event(x->sink, &e, &err))
            continue;
        fprintf(stderr, "mrun: sink %s is dropped: %s\n", x->name, err.what);
        x->ops->destroy(x->sink);
        x->sink = NULL;
    }
}

void app_sinks_close(app_sinks *s)
{
    for (size_t i = 0; i < s->all.n; i++)
        if (s->all.v[i].sink)
            s->all.v[i].ops->destroy(s->all.v[i].sink);
    free(s->all.v);
    memset(s, 0, sizeof *s);
}
