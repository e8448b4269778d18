/* SPDX-License-Identifier: Apache-2.0
 *
 * cudnn.c - see cudnn.h. The library is large, so it is loaded only when an op that it may serve
 * is first asked for. Its handle carries the stream: one lock covers setting it and the launch.
 * An engine is the first of heuristics A that makes a plan. Descriptors are destroyed at close,
 * last made first.
 */
#include "cudnn.h"
#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>

enum { MAX_CONFIGS = 16, OLDEST = 90500, WORKSPACE_ALIGN = 256 };

#define DNN_FIELD(name, result, args) result(*name) args;
struct cuda_dnn {
    const mr_host *host;
    char *path;
    void *so, *handle;
    size_t version;
    int tried;
    mr_err why; /* if it is not there */
    pthread_mutex_t lock;
    struct made *made;
    DNN_FUNCTIONS(DNN_FIELD)
};
#undef DNN_FIELD

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
    if (!(*(void **)&d->name = dlsym(d->so, #name))) \
        missing = #name;
    DNN_FUNCTIONS(FIND)
#undef FIND
    if (missing)
        return not_found(err, d->path, missing);
    d->version = d->cudnnGetVersion();
    if (d->version < OLDEST || d->version / 10000 != OLDEST / 10000) {
        mr_fail(err, MR_E_UNSUPPORTED, MR_BLAME_ENV, "backend/cuda: cuDNN is version %zu, %d or a "
                "later 9 is needed", d->version, OLDEST);
        mr_hint(err, "set [backend.cuda] cudnn = the path of a newer one");
        return MR_E_UNSUPPORTED;
    }
    int bad = d->cudnnCreate(&d->handle);
    if (!bad)
        return MR_OK;
    d->handle = NULL;
    return not_found(err, d->path, d->cudnnGetErrorString(bad));
}

mr_status cuda_dnn_open(const mr_host *host, const char *path, int insist, struct cuda_dnn **out,
                        mr_err *err)
{
    struct cuda_dnn *d = calloc(1, sizeof *d);
    mr_status st = MR_OK;
    if (!d || (path && *path && !(d->path = strdup(path)))) {
        st = mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "no memory for cuDNN's functions");
        goto out;
    }
    d->host = host;
    d->why = (mr_err)MR_ERR_INIT;
    if (pthread_mutex_init(&d->lock, NULL)) {
        st = mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "no memory for cuDNN's lock");
        goto out;
    }
    *out = d;
    if (!insist)
        return MR_OK;
    d->tried = 1;
    MR_TRY(load(d, &d->why));
    return MR_OK;
out:
    if (d && d->tried) {
        *err = d->why;
        cuda_dnn_close(d);
    } else if (d) {
        free(d->path);
        free(d);
    }
    *out = NULL;
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

static void graph_free(struct dnn_graph *g)
{
    while (g->n_parts > 0)
        g->lib->cudnnBackendDestroyDescriptor(g->part[--g->n_parts]);
}

void cuda_dnn_close(struct cuda_dnn *d)
{
    if (!d)
        return;
    while (d->made) {
        struct made *m = d->made;
        d->made = m->next;
        graph_free(&m->plan.graph);
        free(m);
    }
    if (d->handle)
        d->cudnnDestroy(d->handle);
    if (d->so)
        dlclose(d->so);
    pthread_mutex_destroy(&d->lock);
    free(d->path);
    free(d);
}

/* ---- descriptors ------------------------------------------------------------------------ */
void dnn_graph_start(struct dnn_graph *g, struct cuda_dnn *lib)
{
    memset(g, 0, sizeof *g);
    g->lib = lib;
    g->virtual_uid = 99;
}

static void note(struct dnn_graph *g, int status, const char *where)
{
    if (status && !g->bad) {
        g->bad = status;
        g->where = where;
    }
}

static void *make(struct dnn_graph *g, int kind, const char *where)
{
    void *d = NULL;
    if (g->bad)
        return NULL;
    if (g->n_parts == DNN_MAX_PARTS) {
        note(g, -1, "too many descriptors");
        return NULL;
    }
    note(g, g->lib->cudnnBackendCreateDescriptor(kind, &d), where);
    if (g->bad)
        return NULL;
    return g->part[g->n_parts++] = d;
}

static void set(struct dnn_graph *g, void *d, int attr, int type, int64_t n, const void *value,
                const char *where)
{
    if (!g->bad)
        note(g, g->lib->cudnnBackendSetAttribute(d, attr, type, n, value), where);
}

static void set_int(struct dnn_graph *g, void *d, int attr, int type, int value, const char *where)
{
    set(g, d, attr, type, 1, &value, where); /* enumerations are ints */
}

static void set_part(struct dnn_graph *g, void *d, int attr, void *part, const char *where)
{
    set(g, d, attr, DNN_TYPE_BACKEND_DESCRIPTOR, 1, &part, where);
}

static void finish(struct dnn_graph *g, void *d, const char *where)
{
    if (!g->bad)
        note(g, g->lib->cudnnBackendFinalize(d), where);
}

static dnn_tensor tensor(struct dnn_graph *g, int64_t uid, int type, const int64_t *dim,
                         const int64_t *stride, int flag)
{
    static const char where[] = "a tensor";
    const int64_t align = 16;
    const char yes = 1;
    void *d = make(g, DNN_BACKEND_TENSOR_DESCRIPTOR, where);
    set_int(g, d, DNN_ATTR_TENSOR_DATA_TYPE, DNN_TYPE_DATA_TYPE, type, where);
    set(g, d, DNN_ATTR_TENSOR_DIMENSIONS, DNN_TYPE_INT64, DNN_RANK, dim, where);
    set(g, d, DNN_ATTR_TENSOR_STRIDES, DNN_TYPE_INT64, DNN_RANK, stride, where);
    set(g, d, DNN_ATTR_TENSOR_UNIQUE_ID, DNN_TYPE_INT64, 1, &uid, where);
    set(g, d, DNN_ATTR_TENSOR_BYTE_ALIGNMENT, DNN_TYPE_INT64, 1, &align, where);
    if (flag)
        set(g, d, flag, DNN_TYPE_BOOLEAN, 1, &yes, where);
    finish(g, d, where);
    return g->bad ? NULL : d;
}

static void add_end(struct dnn_graph *g, int64_t uid)
{
    if (g->n_ends == DNN_MAX_ENDS)
        note(g, -1, "too many operands");
    else
        g->end[g->n_ends++] = uid;
}

dnn_tensor dnn_end(struct dnn_graph *g, int64_t uid, int type, const int64_t *dim,
                   const int64_t *stride)
{
    add_end(g, uid);
    return tensor(g, uid, type, dim, stride, 0);
}

dnn_tensor dnn_scalar(struct dnn_graph *g, int64_t uid)
{
    static const int64_t one[DNN_RANK] = { 1, 1, 1, 1 };
    add_end(g, uid);
    return tensor(g, uid, DNN_DATA_FLOAT, one, one, DNN_ATTR_TENSOR_IS_BY_VALUE);
}

dnn_tensor dnn_between(struct dnn_graph *g, int type, const int64_t *dim, const int64_t *stride)
{
    return tensor(g, ++g->virtual_uid, type, dim, stride, DNN_ATTR_TENSOR_IS_VIRTUAL);
}

static void *make_op(struct dnn_graph *g, int kind, const char *where)
{
    if (g->n_ops == DNN_MAX_OPS)
        note(g, -1, "too many operations");
    void *d = make(g, kind, where);
    if (d)
        g->op[g->n_ops++] = d;
    return d;
}

static void pointwise(struct dnn_graph *g, int mode, int prec, int64_t axis, dnn_tensor x,
                      dnn_tensor b, dnn_tensor t, dnn_tensor y)
{
    static const char where[] = "a pointwise operation";
    void *how = make(g, DNN_BACKEND_POINTWISE_DESCRIPTOR, where), *d;
    set_int(g, how, DNN_ATTR_POINTWISE_MODE, DNN_TYPE_POINTWISE_MODE, mode, where);
    set_int(g, how, DNN_ATTR_POINTWISE_MATH_PREC, DNN_TYPE_DATA_TYPE, prec, where);
    if (axis >= 0)
        set(g, how, DNN_ATTR_POINTWISE_AXIS, DNN_TYPE_INT64, 1, &axis, where);
    finish(g, how, where);
    d = make_op(g, DNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR, where);
    set_part(g, d, DNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, how, where);
    set_part(g, d, DNN_ATTR_OPERATION_POINTWISE_XDESC, x, where);
    if (b)
        set_part(g, d, DNN_ATTR_OPERATION_POINTWISE_BDESC, b, where);
    if (t)
        set_part(g, d, DNN_ATTR_OPERATION_POINTWISE_TDESC, t, where);
    set_part(g, d, DNN_ATTR_OPERATION_POINTWISE_YDESC, y, where);
    finish(g, d, where);
}

void dnn_pointwise(struct dnn_graph *g, int mode, int prec, dnn_tensor x, dnn_tensor b,
                   dnn_tensor t, dnn_tensor y)
{
    pointwise(g, mode, prec, -1, x, b, t, y);
}

void dnn_index(struct dnn_graph *g, int64_t axis, dnn_tensor like, dnn_tensor y)
{
    pointwise(g, DNN_POINTWISE_GEN_INDEX, DNN_DATA_FLOAT, axis, like, NULL, NULL, y);
}

void dnn_matmul(struct dnn_graph *g, dnn_tensor a, dnn_tensor b, dnn_tensor c)
{
    static const char where[] = "a product";
    void *how = make(g, DNN_BACKEND_MATMUL_DESCRIPTOR, where), *d;
    set_int(g, how, DNN_ATTR_MATMUL_COMP_TYPE, DNN_TYPE_DATA_TYPE, DNN_DATA_FLOAT, where);
    finish(g, how, where);
    d = make_op(g, DNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR, where);
    set_part(g, d, DNN_ATTR_OPERATION_MATMUL_ADESC, a, where);
    set_part(g, d, DNN_ATTR_OPERATION_MATMUL_BDESC, b, where);
    set_part(g, d, DNN_ATTR_OPERATION_MATMUL_CDESC, c, where);
    set_part(g, d, DNN_ATTR_OPERATION_MATMUL_DESC, how, where);
    finish(g, d, where);
}

void dnn_reduce(struct dnn_graph *g, int kind, dnn_tensor x, dnn_tensor y)
{
    static const char where[] = "a reduction";
    void *how = make(g, DNN_BACKEND_REDUCTION_DESCRIPTOR, where), *d;
    set_int(g, how, DNN_ATTR_REDUCTION_OPERATOR, DNN_TYPE_REDUCTION_OPERATOR_TYPE, kind, where);
    set_int(g, how, DNN_ATTR_REDUCTION_COMP_TYPE, DNN_TYPE_DATA_TYPE, DNN_DATA_FLOAT, where);
    finish(g, how, where);
    d = make_op(g, DNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR, where);
    set_part(g, d, DNN_ATTR_OPERATION_REDUCTION_XDESC, x, where);
    set_part(g, d, DNN_ATTR_OPERATION_REDUCTION_YDESC, y, where);
    set_part(g, d, DNN_ATTR_OPERATION_REDUCTION_DESC, how, where);
    finish(g, d, where);
}

void dnn_reshape(struct dnn_graph *g, dnn_tensor x, dnn_tensor y)
{
    static const char where[] = "a reshape";
    void *d = make_op(g, DNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR, where);
    set_part(g, d, DNN_ATTR_OPERATION_RESHAPE_XDESC, x, where);
    set_part(g, d, DNN_ATTR_OPERATION_RESHAPE_YDESC, y, where);
    finish(g, d, where);
}

/* ---- plans ------------------------------------------------------------------------------ */
static mr_status refused(struct cuda_dnn *d, int status, const char *where, mr_err *err)
{
    char text[400] = "";
    if (status > 0)
        d->cudnnGetLastErrorString(text, sizeof text);
    mr_fail(err, MR_E_UNSUPPORTED, MR_BLAME_ENV, "cuDNN %zu refuses %s: %s", d->version, where,
            status > 0 ? d->cudnnGetErrorString(status) : "see mr_detail");
    mr_detail(err, "%s", text);
    return MR_E_UNSUPPORTED;
}

/* The first engine that makes a plan; those that do not are skipped. */
static int plan_from(struct dnn_graph *g, void *heuristics, struct dnn_plan *p)
{
    struct cuda_dnn *d = g->lib;
    void *config[MAX_CONFIGS];
    int64_t n = 0, bytes = 0;
    int bad = 0, n_made = 0;
    for (; n_made < MAX_CONFIGS && !g->bad; n_made++)
        config[n_made] = make(g, DNN_BACKEND_ENGINECFG_DESCRIPTOR, "an engine");
    if (g->bad || (bad = d->cudnnBackendGetAttribute(heuristics, DNN_ATTR_ENGINEHEUR_RESULTS,
                                                     DNN_TYPE_BACKEND_DESCRIPTOR, MAX_CONFIGS, &n,
                                                     config)))
        return bad ? bad : g->bad;
    for (int64_t i = 0; i < n && i < MAX_CONFIGS; i++) {
        void *plan = make(g, DNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR, "a plan");
        if (!plan)
            return g->bad;
        bad = d->cudnnBackendSetAttribute(plan, DNN_ATTR_EXECUTION_PLAN_HANDLE, DNN_TYPE_HANDLE, 1,
                                          &d->handle);
        if (!bad)
            bad = d->cudnnBackendSetAttribute(plan, DNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG,
                                              DNN_TYPE_BACKEND_DESCRIPTOR, 1, &config[i]);
        if (!bad)
            bad = d->cudnnBackendFinalize(plan);
        if (!bad)
            bad = d->cudnnBackendGetAttribute(plan, DNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE,
                                              DNN_TYPE_INT64, 1, NULL, &bytes);
        if (bad)
            continue;
        p->plan = plan;
        p->workspace = bytes > 0 ? (uint64_t)bytes + WORKSPACE_ALIGN : 0;
        return 0;
    }
    return bad ? bad : -1;
}

static mr_status plan_make(struct cuda_dnn *d, struct dnn_plan *p, mr_err *err)
{
    struct dnn_graph *g = &p->graph;
    void *ops, *heuristics;
    ops = make(g, DNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR, "the graph");
    set(g, ops, DNN_ATTR_OPERATIONGRAPH_HANDLE, DNN_TYPE_HANDLE, 1, &d->handle, "the graph");
    set(g, ops, DNN_ATTR_OPERATIONGRAPH_OPS, DNN_TYPE_BACKEND_DESCRIPTOR, g->n_ops, g->op,
        "the graph");
    finish(g, ops, "the graph");
    heuristics = make(g, DNN_BACKEND_ENGINEHEUR_DESCRIPTOR, "the choice of an engine");
    set_part(g, heuristics, DNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, ops, "the choice of an engine");
    set_int(g, heuristics, DNN_ATTR_ENGINEHEUR_MODE, DNN_TYPE_HEUR_MODE, DNN_HEUR_MODE_A,
            "the choice of an engine");
    finish(g, heuristics, "the choice of an engine");
    if (g->bad)
        return refused(d, g->bad, g->where, err);
    int bad = plan_from(g, heuristics, p);
    if (bad)
        return refused(d, bad, "a plan", err);
    p->n = g->n_ends;
    memcpy(p->uid, g->end, sizeof p->uid);
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
        dnn_graph_start(&m->plan.graph, d);
        build(&m->plan.graph, m->key);
        m->st = plan_make(d, &m->plan, &m->why);
        if (m->st)
            graph_free(&m->plan.graph);
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
    void *at = (void *)room, *pack = NULL;
    pthread_mutex_lock(&d->lock);
    int bad = d->cudnnBackendCreateDescriptor(DNN_BACKEND_VARIANT_PACK_DESCRIPTOR, &pack);
    if (!bad)
        bad = d->cudnnBackendSetAttribute(pack, DNN_ATTR_VARIANT_PACK_DATA_POINTERS,
                                          DNN_TYPE_VOID_PTR, p->n, data);
    if (!bad)
        bad = d->cudnnBackendSetAttribute(pack, DNN_ATTR_VARIANT_PACK_UNIQUE_IDS, DNN_TYPE_INT64,
                                          p->n, p->uid);
    if (!bad)
        bad = d->cudnnBackendSetAttribute(pack, DNN_ATTR_VARIANT_PACK_WORKSPACE, DNN_TYPE_VOID_PTR,
                                          1, &at);
    if (!bad)
        bad = d->cudnnBackendFinalize(pack);
    if (!bad)
        bad = d->cudnnSetStream(d->handle, stream);
    if (!bad)
        bad = d->cudnnBackendExecute(d->handle, p->plan, pack);
    if (pack)
        d->cudnnBackendDestroyDescriptor(pack);
    pthread_mutex_unlock(&d->lock);
    return bad ? mr_fail(err, MR_E_DEVICE, MR_BLAME_ENV, "cudnnBackendExecute: %s",
                         d->cudnnGetErrorString(bad))
               : MR_OK;
}
