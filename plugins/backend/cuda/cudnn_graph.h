/* SPDX-License-Identifier: Apache-2.0
 *
 * cudnn_graph.h - writing down a graph for cuDNN: tensors and the operations between them. A
 * builder keeps the first error and makes what follows a no-op, so a graph is written in one go
 * and asked once, when it is planned. It owns its descriptors.
 */
#ifndef MRUN_CUDA_CUDNN_GRAPH_H
#define MRUN_CUDA_CUDNN_GRAPH_H
#include "cudnn_abi.h"

#define DNN_FIELD(name, result, args) result(*name) args;
struct dnn_calls { /* the library's functions */
    DNN_FUNCTIONS(DNN_FIELD)
};
#undef DNN_FIELD

enum { DNN_NO_ENGINE = -1, DNN_TOO_LARGE = -2 }; /* beside cuDNN's own, positive, in `bad` */
enum { DNN_MAX_PARTS = 128, DNN_MAX_OPS = 32, DNN_MAX_ENDS = 16, DNN_RANK = 4 };

typedef void *dnn_tensor; /* NULL after an error */

struct dnn_graph {
    const struct dnn_calls *call;
    int bad;             /* cuDNN's status, the first that was not 0 */
    const char *where;   /* what it was the answer to                */
    int64_t virtual_uid; /* of the latest                            */
    void *part[DNN_MAX_PARTS], *op[DNN_MAX_OPS];
    int n_parts, n_ops, n_ends;
    int64_t end[DNN_MAX_ENDS]; /* uids of what run() is given the memory of */
};

void dnn_graph_start(struct dnn_graph *, const struct dnn_calls *);
void dnn_graph_free(struct dnn_graph *);
/* memory that run() is given, at a multiple of `align` bytes; uids from 1 to 99 */
dnn_tensor dnn_end(struct dnn_graph *, int64_t uid, int type, int64_t align, const int64_t *dim,
                   const int64_t *stride);
dnn_tensor dnn_scalar(struct dnn_graph *, int64_t uid); /* f32, read on the host by run() */
dnn_tensor dnn_between(struct dnn_graph *, int type, const int64_t *dim,
                       const int64_t *stride); /* never in memory */

/* Each writes y (or c). b, t: NULL where the mode has none. prec: the type of the arithmetic. */
void dnn_pointwise(struct dnn_graph *, int mode, int prec, dnn_tensor x, dnn_tensor b, dnn_tensor t,
                   dnn_tensor y);
void dnn_index(struct dnn_graph *, int64_t axis, dnn_tensor like, dnn_tensor y);
void dnn_matmul(struct dnn_graph *, dnn_tensor a, dnn_tensor b, dnn_tensor c);
void dnn_reduce(struct dnn_graph *, int how, dnn_tensor x, dnn_tensor y);
void dnn_reshape(struct dnn_graph *, dnn_tensor x, dnn_tensor y);

/* The execution plan of the first engine that makes one, kept by the graph, and the bytes that it
 * works in. NULL: g->bad and g->where say why not. */
void *dnn_graph_plan(struct dnn_graph *, void *handle, int64_t *workspace);

#endif
