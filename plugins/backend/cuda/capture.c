/* SPDX-License-Identifier: Apache-2.0
 *
 * capture.c - "mrun.capture/1" by CUDA graphs: a stream is captured, the graph instantiated and
 * uploaded, so that its first launch costs what the later ones cost. Kernels get their addresses
 * at capture; nothing of a graph is updated afterwards.
 */
#include "device.h"

static mr_status begin(void *dev, void *stream, mr_err *err)
{
    const struct cuda_dev *d = dev;
    cudaError_t e = cudaSetDevice(d->index);
    if (!e) /* what other threads do (a data reader's pinned memory, say) is none of its business */
        e = cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
    return e ? cuda_fail(err, e, "capturing a graph") : MR_OK;
}

static mr_status end(void *dev, void *stream, void **graph, mr_err *err)
{
    const struct cuda_dev *d = dev;
    cudaGraph_t g = NULL;
    cudaGraphExec_t exec = NULL;
    cudaError_t e = cudaSetDevice(d->index), ended = cudaStreamEndCapture(stream, &g);
    *graph = NULL;
    e = e ? e : ended;
    if (!e)
        e = cudaGraphInstantiate(&exec, g, 0);
    if (!e)
        e = cudaGraphUpload(exec, stream);
    if (g)
        cudaGraphDestroy(g);
    if (e && exec)
        cudaGraphExecDestroy(exec);
    if (e)
        return cuda_fail(err, e, "making a graph of what was captured");
    *graph = exec;
    return MR_OK;
}

static mr_status launch(void *dev, void *graph, void *stream, mr_err *err)
{
    const struct cuda_dev *d = dev;
    cudaError_t e = cudaSetDevice(d->index);
    if (!e)
        e = cudaGraphLaunch(graph, stream);
    return e ? cuda_fail(err, e, "launching a graph") : MR_OK;
}

static void destroy(void *dev, void *graph)
{
    const struct cuda_dev *d = dev;
    if (graph && !cudaSetDevice(d->index))
        cudaGraphExecDestroy(graph);
}

const mr_capture cuda_capture = {
    .size = sizeof(mr_capture), .begin = begin, .end = end, .launch = launch, .destroy = destroy,
};
