/* SPDX-License-Identifier: Apache-2.0
 *
 * cudnn_graph.c - see cudnn_graph.h. Every descriptor is made, set and finalised here, noted in
 * the graph, and destroyed with it, last made first. An engine is the first of heuristics A that
 * makes a plan.
 */
#include "cudnn_graph.h"
#include <string.h>

enum { MAX_CONFIGS = 16, FIRST_VIRTUAL_UID = 100 };

void dnn_graph_start(struct dnn_graph *g, const struct dnn_calls *call)
{
    memset(g, 0, sizeof *g);
    g->call = call;
    g->virtual_uid = FIRST_VIRTUAL_UID - 1;
}

void dnn_graph_free(struct dnn_graph *g)
{
    while (g->n_parts > 0)
        g->call->cudnnBackendDestroyDescriptor(g->part[--g->n_parts]);
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
        note(g, DNN_TOO_LARGE, "too many descriptors");
        return NULL;
    }
    note(g, g->call->cudnnBackendCreateDescriptor(kind, &d), where);
    if (g->bad)
        return NULL;
    return g->part[g->n_parts++] = d;
}

static void set(struct dnn_graph *g, void *d, int attr, int type, int64_t n, const void *value,
                const char *where)
{
    if (!g->bad)
        note(g, g->call->cudnnBackendSetAttribute(d, attr, type, n, value), where);
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
        note(g, g->call->cudnnBackendFinalize(d), where);
}

static dnn_tensor tensor(struct dnn_graph *g, int64_t uid, int type, int64_t align,
                         const int64_t *dim, const int64_t *stride, int flag)
{
    static const char where[] = "a tensor";
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
        note(g, DNN_TOO_LARGE, "too many operands");
    else
        g->end[g->n_ends++] = uid;
}

dnn_tensor dnn_end(struct dnn_graph *g, int64_t uid, int type, int64_t align, const int64_t *dim,
                   const int64_t *stride)
{
    add_end(g, uid);
    return tensor(g, uid, type, align, dim, stride, 0);
}

dnn_tensor dnn_scalar(struct dnn_graph *g, int64_t uid)
{
    static const int64_t one[DNN_RANK] = { 1, 1, 1, 1 };
    add_end(g, uid);
    return tensor(g, uid, DNN_DATA_FLOAT, 16, one, one, DNN_ATTR_TENSOR_IS_BY_VALUE);
}

dnn_tensor dnn_between(struct dnn_graph *g, int type, const int64_t *dim, const int64_t *stride)
{
    return tensor(g, ++g->virtual_uid, type, 16, dim, stride, DNN_ATTR_TENSOR_IS_VIRTUAL);
}

static void *make_op(struct dnn_graph *g, int kind, const char *where)
{
    if (g->n_ops == DNN_MAX_OPS)
        note(g, DNN_TOO_LARGE, "too many operations");
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

/* ---- planning --------------------------------------------------------------------------- */
static void *try_engine(struct dnn_graph *g, void *handle, void *config, int64_t *workspace)
{
    const struct dnn_calls *c = g->call;
    int64_t n = 0;
    void *plan = make(g, DNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR, "a plan");
    if (!plan ||
        c->cudnnBackendSetAttribute(plan, DNN_ATTR_EXECUTION_PLAN_HANDLE, DNN_TYPE_HANDLE, 1,
                                    &handle) ||
        c->cudnnBackendSetAttribute(plan, DNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG,
                                    DNN_TYPE_BACKEND_DESCRIPTOR, 1, &config) ||
        c->cudnnBackendFinalize(plan) ||
        c->cudnnBackendGetAttribute(plan, DNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, DNN_TYPE_INT64, 1,
                                    &n, workspace))
        return NULL; /* another engine may do */
    return plan;
}

void *dnn_graph_plan(struct dnn_graph *g, void *handle, int64_t *workspace)
{
    static const char graph[] = "the graph", choice[] = "the choice of an engine";
    void *config[MAX_CONFIGS] = { 0 }, *plan = NULL;
    int64_t n = 0;
    void *ops = make(g, DNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR, graph);
    set(g, ops, DNN_ATTR_OPERATIONGRAPH_HANDLE, DNN_TYPE_HANDLE, 1, &handle, graph);
    set(g, ops, DNN_ATTR_OPERATIONGRAPH_OPS, DNN_TYPE_BACKEND_DESCRIPTOR, g->n_ops, g->op, graph);
    finish(g, ops, graph);
    void *heuristics = make(g, DNN_BACKEND_ENGINEHEUR_DESCRIPTOR, choice);
    set_part(g, heuristics, DNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, ops, choice);
    set_int(g, heuristics, DNN_ATTR_ENGINEHEUR_MODE, DNN_TYPE_HEUR_MODE, DNN_HEUR_MODE_A, choice);
    finish(g, heuristics, choice);
    for (int i = 0; i < MAX_CONFIGS; i++)
        config[i] = make(g, DNN_BACKEND_ENGINECFG_DESCRIPTOR, "an engine");
    if (!g->bad)
        note(g, g->call->cudnnBackendGetAttribute(heuristics, DNN_ATTR_ENGINEHEUR_RESULTS,
                                                  DNN_TYPE_BACKEND_DESCRIPTOR, MAX_CONFIGS, &n,
                                                  config), choice);
    for (int64_t i = 0; i < n && i < MAX_CONFIGS && !plan && !g->bad; i++)
        plan = try_engine(g, handle, config[i], workspace);
    if (!plan)
        note(g, DNN_NO_ENGINE, "every engine");
    return plan;
}
