/* SPDX-License-Identifier: Apache-2.0
 *
 * convert.h - what the files of `mrun convert` share: a source opened, the list of tensors that
 * are written, and the files beside them.
 *
 * Invariant: nothing of the size of the model is in memory; what a tensor is made of is a mapped
 * file, and one tensor at a time is converted. But tensors of a checkpoint of several ranks that
 * lie in several parts are put together in memory first.
 */
#ifndef MRUN_CONVERT_H
#define MRUN_CONVERT_H
#include "app.h"
#include "core/run/session.h"
#include "core/store/quant.h"

typedef struct convert_source {
    mri_session *model;        /* that only describes: parameters, config.json                  */
    mri_checkpoint *checkpoint; /* of a run; NULL: the folder itself is converted               */
    const mri_safetensors *weights; /* the checkpoint's                                         */
    mri_safetensors *folder;   /* [model] hf's, which a run may have begun with; or NULL        */
    mri_quant *quant;          /* what its quantised tensors are read by, or NULL               */
    bool plain;                /* no tensor is written quantised, but as its numbers            */
    const char *dir;           /* that folder's path, also where it has no weights; or NULL     */
} convert_source;

mr_status convert_open(app *a, const mri_config *c, convert_source *s, mr_err *err);
void convert_close(convert_source *s);

/* ---- convert_tensors.c -------------------------------------------------------------------- */
typedef struct convert_from { /* where an outgoing tensor comes from */
    mri_stored stored; /* elements `at` .. of it, plain or quantised; data NULL: the pieces of
                          `slot`, joined */
    uint64_t at;
    int64_t ld; /* of mri_export */
    size_t slot;
} convert_from;

typedef struct convert_list {
    const convert_source *source;
    MRI_VEC(mri_tensor) out; /* names are owned, data is NULL */
    MRI_VEC(convert_from) from;
    void *room;       /* the tensor that was converted last */
    mri_str others;   /* names of tensors that no parameter of the family is, for talk */
    size_t n_others, left_out; /* copied as they are; not copied */
} convert_list;

/* dtype NULL: see [convert] dtype = auto. Every parameter of the family must be there, in its
 * shape, and no name twice; else the error lists what is missing. */
mr_status convert_to_hf(const convert_source *s, const char *dtype, convert_list *l, mr_err *err);
/* the parameters as mrun's checkpoints hold them */
mr_status convert_to_mrun(const convert_source *s, const char *dtype, convert_list *l, mr_err *err);
uint64_t convert_bytes(const convert_list *l);
mri_tensor_source convert_bytes_of(convert_list *l);
void convert_list_free(convert_list *l);

/* ---- convert_config.c --------------------------------------------------------------------- */
/* config.json, generation_config.json, tokenizer and other small files. dtype: of the weights
 * that were written, NULL as they were. */
mr_status convert_config(const convert_source *s, const mri_new_folder *f, const char *dtype,
                         mr_err *err);
/* small files of the source's folder, config.json among them */
mr_status convert_copy_files(const convert_source *s, const mri_new_folder *f, bool config,
                             mr_err *err);

#endif
