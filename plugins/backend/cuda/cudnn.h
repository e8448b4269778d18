/* SPDX-License-Identifier: Apache-2.0
 *
 * cudnn.h - cuDNN's graph API as this plugin uses it: the library, loaded when the first kernel
 * asks for it and owned by the device; a small graph builder; and plans, ready to run. A builder
 * keeps the first error and makes what follows a no-op, so a graph is written down in one go and
 * asked once. Plans are kept by shape: calls of equal shape share one.
 */
#ifndef MRUN_CUDA_CUDNN_H
#define MRUN_CUDA_CUDNN_H
#include "cuda.h"
#include "cudnn_abi.h"

struct cuda_dnn;

/* Nothing is loaded yet unless `insist`. `path` NULL: the usual names and places. */
mr_status cuda_dnn_open(const mr_host *, const char *path, int insist, struct cuda_dnn **,
                        mr_err *);
void cuda_dnn_close(struct cuda_dnn *);
/* Loads the library at the first call; a failure is told once in the log, and is the answer to
 * every later call. *version: 91400 for 9.14.0. */
mr_status cuda_dnn_ready(struct cuda_dnn *, size_t *version, mr_err *);

/* ---- graphs ----------------------------------------------------------------------------- */
enum { DNN_MAX_PARTS = 128, DNN_MAX_OPS = 32, DNN_MAX_ENDS = 16, DNN_RANK = 4 };

typedef void *dnn_tensor; /* NULL after an error */

struct dnn_plan;
struct dnn_graph {
    struct cuda_dnn *lib;
    int bad;             /* cuDNN's status, the first that was not 0 */
    const char *where;   /* what it was the answer to                */
    int64_t virtual_uid; /* of the latest                            */
    void *part[DNN_MAX_PARTS], *op[DNN_MAX_OPS];
    int n_parts, n_ops, n_ends;
    int64_t end[DNN_MAX_ENDS]; /* uids of what run() is given the memory of */
};

void dnn_graph_start(struct dnn_graph *, struct cuda_dnn *);
/* memory that run() is given; uids from 1 to 99 */
dnn_tensor dnn_end(struct dnn_graph *, int64_t uid, int type, const int64_t *dim,
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

/* ---- plans ------------------------------------------------------------------------------ */
struct dnn_plan {
    void *plan;
    uint64_t workspace;
    int64_t uid[DNN_MAX_ENDS];
    int n;
    struct dnn_graph graph; /* its descriptors live as long */
};

/* The plan of `key` (bytes without holes), made by build() if there is none yet; the library
 * owns it. MR_E_UNSUPPORTED where cuDNN knows no way, remembered as well. */
mr_status cuda_dnn_plan(struct cuda_dnn *, const void *key, size_t n_key,
                        void (*build)(struct dnn_graph *, const void *key),
                        const struct dnn_plan **, mr_err *);

/* `data`: memory of the ends in the order in which the graph made them. */
mr_status cuda_dnn_run(struct cuda_dnn *, const struct dnn_plan *, void *const *data, void *ws,
                       cudaStream_t, mr_err *);

#endif
