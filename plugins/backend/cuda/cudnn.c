/* SPDX-License-Identifier: Apache-2.0
 *
 * cudnn.c - see cudnn.h. The library is large, so it is loaded only when an op that it may serve
 * is first asked for. Its handle carries the stream: one lock covers setting it and the launch, and
 * the list of plans.
 */
#include "cudnn.h"
#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>

enum { OLDEST = 90500, WORKSPACE_ALIGN = 256 };

struct cuda_dnn {
    const mr_host *host;
    char *path;
    void *so, *handle;
    size_t version;
    int tried;
    mr_err why; /* if it is not there */
    pthread_mutex_t lock;
    struct made *made;
    struct dnn_calls call;
};

/* a plan, or cuDNN's refusal, by its key */
struct made {
    struct made *next;
    mr_status st;
    mr_err why;
    struct dnn_plan plan;
    size_t n_key;
    unsigned char key[];
};

static const char *const places[] = {
    "libcudnn.so.9",
    "/usr/local/cuda/lib64/libcudnn.so.9",
    "/opt/cuda/lib64/libcudnn.so.9",
};

/* ---- the library ------------------------------------------------------------------------ */
static mr_status not_found(mr_err *err, const char *path, const char *why)
{
    mr_fail(err, MR_E_UNSUPPORTED, MR_BLAME_ENV, "backend/cuda: cuDNN 9 could not be loaded");
    mr_detail(err, "%s: %s", path ? path : "tried libcudnn.so.9 on the library path and in "
              "/usr/local/cuda and /opt/cuda", why ? why : "");
    mr_hint(err, "install it, or set [backend.cuda] cudnn = its path");
    return MR_E_UNSUPPORTED;
}

static mr_status load(struct cuda_dnn *d, mr_err *err)
{
    const char *missing = NULL;
    if (d->path)
        d->so = dlopen(d->path, RTLD_NOW | RTLD_LOCAL);
    for (size_t i = 0; !d->path && !d->so && i < sizeof places / sizeof places[0]; i++)
        d->so = dlopen(places[i], RTLD_NOW | RTLD_LOCAL);
    if (!d->so)
        return not_found(err, d->path, dlerror());
#define FIND(name, result, args) \
    if (!(*(void **)&d->call.name = dlsym(d->so, #name))) \
        missing = #name;
    DNN_FUNCTIONS(FIND)
#undef FIND
    if (missing)
        return not_found(err, d->path, missing);
    d->version = d->call.cudnnGetVersion();
    if (d->version < OLDEST || d->version / 10000 != OLDEST / 10000) {
        mr_fail(err, MR_E_UNSUPPORTED, MR_BLAME_ENV, "backend/cuda: cuDNN is version %zu, %d or a "
                "later 9 is needed", d->version, OLDEST);
        mr_hint(err, "set [backend.cuda] cudnn = the path of a newer one");
        return MR_E_UNSUPPORTED;
    }
    int bad = d->call.cudnnCreate(&d->handle);
    if (!bad)
        return MR_OK;
    d->handle = NULL;
    return not_found(err, d->path, d->call.cudnnGetErrorString(bad));
}

mr_status cuda_dnn_open(const mr_host *host, const char *path, int insist, struct cuda_dnn **out,
                        mr_err *err)
{
    struct cuda_dnn *d = calloc(1, sizeof *d);
    mr_status st = MR_OK;
    if (!d || (path && *path && !(d->path = strdup(path)))) {
        free(d);
        return mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "no memory for cuDNN's functions");
    }
    d->host = host;
    d->why = (mr_err)MR_ERR_INIT;
    d->lock = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
    d->tried = insist;
    if (insist && (st = load(d, err))) {
        cuda_dnn_close(d);
        d = NULL;
    }
    *out = d;
    return st;
}

mr_status cuda_dnn_ready(struct cuda_dnn *d, size_t *version, mr_err *err)
{
    pthread_mutex_lock(&d->lock);
    if (!d->tried) {
        d->tried = 1;
        if (load(d, &d->why) && d->host && MR_CAN(d->host, log)) {
            char line[600];
            snprintf(line, sizeof line, "%s: attention by own, slower kernels. %s", d->why.what,
                     d->why.hint);
            d->host->log(d->host->self, MR_LOG_WARN, "backend/cuda", line);
        }
    }
    pthread_mutex_unlock(&d->lock);
    *version = d->version;
    if (d->handle)
        return MR_OK;
    if (err)
        *err = d->why;
    return MR_E_UNSUPPORTED;
}

void cuda_dnn_close(struct cuda_dnn *d)
{
    if (!d)
        return;
    while (d->made) {
        struct made *m = d->made;
        d->made = m->next;
        dnn_graph_free(&m->plan.graph);
        free(m);
    }
    if (d->handle)
        d->call.cudnnDestroy(d->handle);
    if (d->so)
        dlclose(d->so);
    pthread_mutex_destroy(&d->lock);
    free(d->path);
    free(d);
}

/* ---- plans ------------------------------------------------------------------------------ */
static mr_status refused(const struct cuda_dnn *d, const struct dnn_graph *g, mr_err *err)
{
    char text[400] = "";
    d->call.cudnnGetLastErrorString(text, sizeof text);
    mr_fail(err, MR_E_UNSUPPORTED, MR_BLAME_ENV, "cuDNN %zu refuses %s: %s", d->version, g->where,
            g->bad > 0 ? d->call.cudnnGetErrorString(g->bad) : "none is left");
    mr_detail(err, "%s", text);
    return MR_E_UNSUPPORTED;
}

static mr_status plan_make(struct cuda_dnn *d, struct dnn_plan *p, mr_err *err)
{
    int64_t bytes = 0;
    p->plan = dnn_graph_plan(&p->graph, d->handle, &bytes);
    if (!p->plan)
        return refused(d, &p->graph, err);
    p->workspace = bytes > 0 ? (uint64_t)bytes + WORKSPACE_ALIGN : 0;
    return MR_OK;
}

mr_status cuda_dnn_plan(struct cuda_dnn *d, const void *key, size_t n_key,
                        void (*build)(struct dnn_graph *, const void *key),
                        const struct dnn_plan **out, mr_err *err)
{
    struct made *m;
    pthread_mutex_lock(&d->lock);
    for (m = d->made; m && (m->n_key != n_key || memcmp(m->key, key, n_key)); m = m->next)
        ;
    if (!m && (m = calloc(1, sizeof *m + n_key))) {
        m->n_key = n_key;
        m->why = (mr_err)MR_ERR_INIT;
        memcpy(m->key, key, n_key);
        dnn_graph_start(&m->plan.graph, &d->call);
        build(&m->plan.graph, m->key);
        m->st = plan_make(d, &m->plan, &m->why);
        if (m->st)
            dnn_graph_free(&m->plan.graph);
        m->next = d->made;
        d->made = m;
    }
    pthread_mutex_unlock(&d->lock);
    if (!m)
        return mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "no memory for a plan of cuDNN");
    if (m->st && err)
        *err = m->why;
    *out = &m->plan;
    return m->st;
}

mr_status cuda_dnn_run(struct cuda_dnn *d, const struct dnn_plan *p, void *const *data, void *ws,
                       cudaStream_t stream, mr_err *err)
{
    uintptr_t room = ((uintptr_t)ws + WORKSPACE_ALIGN - 1) / WORKSPACE_ALIGN * WORKSPACE_ALIGN;
    const struct dnn_calls *c = &d->call;
    void *at = (void *)room, *pack = NULL;
    pthread_mutex_lock(&d->lock);
    int bad = c->cudnnBackendCreateDescriptor(DNN_BACKEND_VARIANT_PACK_DESCRIPTOR, &pack);
    if (!bad)
        bad = c->cudnnBackendSetAttribute(pack, DNN_ATTR_VARIANT_PACK_DATA_POINTERS,
                                          DNN_TYPE_VOID_PTR, p->graph.n_ends, data);
    if (!bad)
        bad = c->cudnnBackendSetAttribute(pack, DNN_ATTR_VARIANT_PACK_UNIQUE_IDS, DNN_TYPE_INT64,
                                          p->graph.n_ends, p->graph.end);
    if (!bad)
        bad = c->cudnnBackendSetAttribute(pack, DNN_ATTR_VARIANT_PACK_WORKSPACE, DNN_TYPE_VOID_PTR,
                                          1, &at);
    if (!bad)
        bad = c->cudnnBackendFinalize(pack);
    if (!bad)
        bad = c->cudnnSetStream(d->handle, stream);
    if (!bad)
        bad = c->cudnnBackendExecute(d->handle, p->plan, pack);
    if (pack)
        c->cudnnBackendDestroyDescriptor(pack);
    pthread_mutex_unlock(&d->lock);
    return bad ? mr_fail(err, MR_E_DEVICE, MR_BLAME_ENV, "cudnnBackendExecute: %s",
                         c->cudnnGetErrorString(bad))
               : MR_OK;
}
