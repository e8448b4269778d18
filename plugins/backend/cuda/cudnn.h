/* SPDX-License-Identifier: Apache-2.0
 *
 * cudnn.h - cuDNN as this plugin uses it: the library, loaded when the first kernel asks for it
 * and owned by the device, and plans of graphs, ready to run. Plans are kept by shape: calls of
 * equal shape share one.
 */
#ifndef MRUN_CUDA_CUDNN_H
#define MRUN_CUDA_CUDNN_H
#include "cuda.h"
#include "cudnn_graph.h"

struct cuda_dnn;

/* Nothing is loaded yet unless `insist`. `path` NULL: the usual names and places. */
mr_status cuda_dnn_open(const mr_host *, const char *path, int insist, struct cuda_dnn **,
                        mr_err *);
void cuda_dnn_close(struct cuda_dnn *);
/* Loads the library at the first call; a failure is told once in the log, and is the answer to
 * every later call. *version: 91400 for 9.14.0. */
mr_status cuda_dnn_ready(struct cuda_dnn *, size_t *version, mr_err *);

/* ---- plans ------------------------------------------------------------------------------ */
struct dnn_plan {
    void *plan;
    uint64_t workspace;
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
