/* SPDX-License-Identifier: Apache-2.0
 *
 * plugin.c - the plugin's descriptor: backend/cuda and its options. docs/cuda-backend.md tells
 * what they are good for. Nothing here needs a driver: without one the plugin is listed,
 * explained and checked, and open() says what is missing.
 */
#include "device.h"

MR_PLUGIN_NOTE("org.mrun.cuda", "0.1.0", "backend/cuda");

static const mr_opt options[] = {
    MR_OPT_CHOICE(struct cuda_config, matmul, "matmul", "auto", "auto|cublaslt|own",
                  "who multiplies matrices; auto: cuBLASLt if it is there, else own kernels"),
    MR_OPT(struct cuda_config, MR_T_BOOL, tf32, "tf32", "false",
           "f32 products on tensor cores, with 10-bit fractions; false: full f32"),
    MR_OPT(struct cuda_config, MR_T_PATH, cublaslt, "cublaslt", NULL,
           "the cuBLASLt library to load; unset: looked for where the system has libraries"),
    MR_OPT(struct cuda_config, MR_T_STR, tuning, "tuning", "auto",
           "where timed choices of cuBLASLt's algorithms are kept: auto (the user's cache folder), "
           "a path, or off (nothing is timed)"),
    MR_OPT_CHOICE(struct cuda_config, attention, "attention", "auto", "auto|cudnn|own",
                  "who does attention over whole sequences; auto: cuDNN if it is there, else own "
                  "kernels, which also do all other attention"),
    MR_OPT(struct cuda_config, MR_T_PATH, cudnn, "cudnn", NULL,
           "the cuDNN 9 library to load; unset: looked for where the system has libraries"),
};

static const mr_unit units[] = { {
    .size = sizeof(mr_unit),
    .kind = "backend",
    .name = "cuda",
    .doc = "NVIDIA GPUs: f32 and bf16, fp32 accumulation, kernels for " CUDA_ARCH_TEXT,
    .opts = options,
    .n_opts = sizeof options / sizeof options[0],
    .config_size = sizeof(struct cuda_config),
    .table = &cuda_backend,
} };

extern const mr_plugin MR_PLUGIN_SYMBOL;
MR_EXPORT const mr_plugin MR_PLUGIN_SYMBOL = {
    MR_PLUGIN_HEADER,
    .id = "org.mrun.cuda",
    .version = "0.1.0",
    .license = "Apache-2.0",
    .doc = "the CUDA backend",
    .units = units,
    .n_units = 1,
};
