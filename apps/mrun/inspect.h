/* SPDX-License-Identifier: Apache-2.0
 *
 * inspect.h - what a folder of tensors holds: a view of it (inspect_view.c), what a family makes
 * of it (inspect_model.c), its names in short (inspect_names.c), printed for people or as JSON
 * (inspect_print.c, inspect_json.c).
 */
#ifndef MRUN_INSPECT_H
#define MRUN_INSPECT_H
#include "core/plugin/registry.h"
#include "core/store/quant.h"

typedef struct inspect_group {
    const char *name; /* "model"; "" for a set that is no checkpoint's group */
    const mri_safetensors *tensors;
} inspect_group;

/* Tensors whose names differ in numbers only, of one type: "layers.[0-3].up.weight". */
typedef struct inspect_names {
    char *text;
    const mri_tensor *first;
    uint64_t count, bytes;
} inspect_names;
typedef MRI_VEC(inspect_names) inspect_list;

typedef struct inspect_memory { /* bytes; no activations */
    const char *recipe;
    uint64_t generate, train, cache; /* cache: a token of one sequence */
} inspect_memory;

typedef struct inspect_model { /* what the family's plugin makes of a Hugging Face folder */
    char *plugin;   /* or NULL: none takes it, problem says why */
    mr_err problem; /* code 0: it was planned */
    uint64_t parameters, tensors;
    inspect_memory memory[2];
    size_t n_memory;
    MRI_VEC(char *) misfits; /* tensors that are missing or do not fit: a line each */
    inspect_list extra;      /* tensors that the family does not read */
} inspect_model;

typedef struct inspect_view {
    const char *kind; /* "checkpoint", "folder", "file" */
    char *path;       /* of what was opened: the step's folder if a run's was given */
    char *family;     /* config.json's model_type, or NULL */
    bool has_config;  /* a folder with a config.json */
    mri_checkpoint *checkpoint; /* or NULL */
    mri_safetensors *set;       /* or NULL */
    mri_quant *quant;           /* or NULL */
    mr_err scheme;              /* code 0, or why the folder's scheme cannot be read */
    MRI_VEC(inspect_group) groups;
    MRI_VEC(const char *) beside; /* files of a tokenizer and the like that are there */
    int64_t *steps; /* all checkpoints beside it, newest first */
    size_t n_steps;
    inspect_model *model; /* of a folder, if it was asked for; or NULL */
} inspect_view;

/* path: a .safetensors file, a Hugging Face folder (or its config.json alone), a checkpoint's step
 * folder, or a folder (or a run's) with checkpoints, of which the newest is taken. Nothing is
 * changed on disk, no weights are read. */
mr_status inspect_open(const char *path, inspect_view *v, mr_err *err);
void inspect_close(inspect_view *v);

/* Plans the folder's model by the plugin of its family, compares names and shapes both ways. What
 * goes wrong is the model's problem, not a failure. */
void inspect_plan(inspect_view *v, mri_registry *reg);

/* The tensors of a set, or those that are marked in `only` (NULL: all), by pattern in the order of
 * their files. */
void inspect_collapse(const mri_safetensors *f, const uint8_t *only, inspect_list *out);
void inspect_list_free(inspect_list *l);

typedef struct inspect_how {
    const char *differences; /* lines of the profile's differences from its run's, or NULL */
    bool json, all;          /* all: each tensor by itself */
} inspect_how;
void inspect_print(const inspect_view *v, const inspect_how *how, mri_str *out);
void inspect_json(const inspect_view *v, const inspect_how *how, mri_str *out);

/* what both are made from, so that they cannot disagree */
typedef struct inspect_total {
    const char *dtype; /* NULL: of all */
    uint64_t tensors, elements, bytes;
} inspect_total;
inspect_total inspect_total_of(const inspect_view *v, const char *dtype);
void inspect_shape(mri_str *out, const mr_type *t); /* "[512, 64]" */
uint64_t inspect_bytes(const mri_tensor *t);

#endif
