/* SPDX-License-Identifier: Apache-2.0
 *
 * fake_registry.c - a registry of a few units in memory, so that the tests of core/config need
 * no plugin files and see the same options on every machine. */
#include "core/plugin/registry.h"
#include <stdlib.h>
#include <string.h>

typedef struct cpu_config {
    int64_t arena, threads;
    double timeout;
    const char *isa;
    mr_list cores;
    int32_t pin, pad;
} cpu_config;
static const mr_opt cpu_opts[] = {
    MR_OPT_RANGE(cpu_config, MR_T_SIZE, arena, "arena", "64MiB", 1048576, 1099511627776,
                 "memory reserved"),
    { sizeof(mr_opt), MR_T_INT, 0, offsetof(cpu_config, threads), "threads", "auto", "workers",
      "auto", 1, 64, "workers" },
    MR_OPT(cpu_config, MR_T_TIME, timeout, "timeout", "30s", "patience"),
    MR_OPT_CHOICE(cpu_config, isa, "isa", "auto", "auto|avx2|avx512", "instructions"),
    MR_OPT(cpu_config, MR_T_LIST, cores, "cores", NULL, "cores to use"),
    MR_OPT(cpu_config, MR_T_BOOL, pin, "pin", "no", "pin workers to cores"),
};

typedef struct text_config {
    const char *path;
    int64_t validation;
} text_config;
static const mr_opt text_opts[] = {
    { sizeof(mr_opt), MR_T_PATH, MR_OPT_REQUIRED, offsetof(text_config, path), "path", NULL,
      "text file or folder", NULL, 0, 0, NULL },
    MR_OPT_RANGE(text_config, MR_T_INT, validation, "validation", "5", 0, 50, "held out (percent)"),
};

typedef struct adamw_config {
    double beta1, beta2, eps;
} adamw_config;
static const mr_opt adamw_opts[] = {
    MR_OPT_RANGE(adamw_config, MR_T_FLOAT, beta1, "beta1", "0.9", 0, 1, "decay of the mean"),
    MR_OPT_RANGE(adamw_config, MR_T_FLOAT, beta2, "beta2", "0.95", 0, 1, "decay of the square"),
    MR_OPT(adamw_config, MR_T_FLOAT, eps, "eps", "1e-8", "epsilon"),
};

#define ROWS(opts, kind) opts, sizeof opts / sizeof *opts, sizeof(kind), NULL, NULL
#define NONE NULL, 0, 0, NULL, NULL
static const mr_unit units[] = {
    { sizeof(mr_unit), 0, "backend", "cpu", "the CPU", ROWS(cpu_opts, cpu_config) },
    { sizeof(mr_unit), 0, "backend", "cuda", "a GPU", ROWS(cpu_opts, cpu_config) },
    { sizeof(mr_unit), 0, "comm", "sim", "ranks as threads", NONE },
    { sizeof(mr_unit), 0, "model", "llama4", "Llama 4", NONE },
    { sizeof(mr_unit), 0, "optimizer", "adamw", "AdamW", ROWS(adamw_opts, adamw_config) },
    { sizeof(mr_unit), 0, "data", "text", "a text", ROWS(text_opts, text_config) },
    { sizeof(mr_unit), 0, "tokenizer", "bytes", "bytes", NONE },
    { sizeof(mr_unit), 0, "sink", "console", "the terminal", NONE },
    { sizeof(mr_unit), 0, "sink", "jsonl", "log.jsonl", NONE },
};
enum { N_UNITS = sizeof units / sizeof *units };

struct mri_registry {
    int unused;
};

mri_registry *mri_registry_create(const char *paths)
{
    (void)paths;
    return mri_alloc(sizeof(mri_registry));
}

void mri_registry_free(mri_registry *r)
{
    free(r);
}

mr_status mri_registry_find(mri_registry *r, const char *kind, const char *name,
                            const mr_unit **unit, mr_err *err)
{
    (void)r;
    for (size_t i = 0; i < N_UNITS; i++)
        if (!strcmp(units[i].kind, kind) && !strcmp(units[i].name, name)) {
            *unit = &units[i];
            return 0;
        }
    mr_fail(err, MR_E_PLUGIN_NOT_FOUND, MR_BLAME_USER, "no plugin %s/%s on the search path", kind,
            name);
    mr_detail(err, "tried nowhere: this registry is in memory");
    return MR_E_PLUGIN_NOT_FOUND;
}

const char **mri_registry_names(mri_registry *r, const char *kind, size_t *n)
{
    (void)r;
    const char **names = mri_alloc(N_UNITS * sizeof *names);
    *n = 0;
    for (size_t i = 0; i < N_UNITS; i++)
        if (!strcmp(units[i].kind, kind))
            names[(*n)++] = units[i].name;
    return names;
}

mr_status mri_registry_list(mri_registry *r, bool deep, mri_listing **list, size_t *n, mr_err *err)
{
    (void)r;
    (void)deep;
    (void)err;
    *list = NULL;
    *n = 0;
    return 0;
}

void mri_listing_free(mri_listing *list, size_t n)
{
    (void)list;
    (void)n;
}
