/* SPDX-License-Identifier: Apache-2.0
 *
 * plugin.c - the plugin's descriptor: backend/cpu and its options. docs/cpu-backend.md tells
 * what they are good for.
 */
#include "device.h"

MR_PLUGIN_NOTE("org.mrun.cpu", "0.1.0", "backend/cpu");

#define WORD(field, key, def, words, doc) \
    MR_OPT_CHOICE(struct cpu_config, field, key, def, words, doc)

static const mr_opt options[] = {
    { sizeof(mr_opt), MR_T_INT, 0, (uint32_t)offsetof(struct cpu_config, threads), "threads",
      "auto", "threads of the one pool, library included; auto: the cores this process may use",
      "auto", 1, 4096, NULL },
    WORD(affinity, "affinity", "none", "none|close",
         "close: each worker thread stays on a core of its own"),
    WORD(isa, "isa", "auto", "auto|x86-64-v2|avx2|avx512",
         "instructions of this plugin's kernels; auto: the best that the CPU has"),
    WORD(matmul, "matmul", "auto", "auto|onednn|own",
         "who multiplies matrices; auto: the faster one for each shape and dtype"),
};

static const mr_unit units[] = { {
    .size = sizeof(mr_unit),
    .kind = "backend",
    .name = "cpu",
    .doc = "x86-64 processors: f32 and bf16, OpenMP threads, kernels by instruction set",
    .opts = options,
    .n_opts = sizeof options / sizeof options[0],
    .config_size = sizeof(struct cpu_config),
    .table = &cpu_backend,
} };

extern const mr_plugin MR_PLUGIN_SYMBOL;
MR_EXPORT const mr_plugin MR_PLUGIN_SYMBOL = {
    MR_PLUGIN_HEADER,
    .id = "org.mrun.cpu",
    .version = "0.1.0",
    .license = "Apache-2.0",
    .doc = "the CPU backend",
    .units = units,
    .n_units = 1,
};
