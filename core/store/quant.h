/* SPDX-License-Identifier: Apache-2.0
 *
 * quant.h - tensors of a folder as the model means them: plain ones as they are, quantised ones
 * as the numbers that their codes and scales stand for.
 *
 * A folder's config.json (quantization_config) or hf_quant_config.json names its scheme; the
 * scheme gives rules (which tensors belong together, how scales lie over codes), and a rule meets
 * a weight by the tensors that are there, so that modules which were left unquantised need no
 * list. Invariant: a mri_stored that was found has codes and scales whose shapes agree with each
 * other and with the rule, so that reading it needs no checks and touches no other memory.
 *
 * The numbers are those of the library that wrote the scheme, to the last bit: code x scale in
 * f32, rounded once to the type that the library computes in (mri_quant_format.result). A zero
 * keeps the sign of its code, which ModelOpt's reader drops.
 */
#ifndef MRI_QUANT_H
#define MRI_QUANT_H
#include "store.h"

typedef enum mri_codes { /* how rows of codes lie in their bytes */
    MRI_CODES_E4M3,      /* a byte each, 1-4-3 bits, finite and NaN */
    MRI_CODES_I8,        /* a byte each, two's complement */
    MRI_CODES_BITS,      /* rule.bits each, lowest bits first, offset binary; rows of i32 words */
    MRI_CODES_E2M1,      /* two a byte, low half first, 1-2-1 bits */
    MRI_CODES_E2M1_ROWS  /* the same, a byte for two rows of one column */
} mri_codes;

/* A row of the table: the names after a weight's stem ("model.layers.0.mlp.up_proj."). */
typedef struct mri_quant_format {
    const char *method, *name; /* "compressed-tensors", "pack-quantized" */
    mri_codes codes;
    const char *data, *scale;
    const char *global; /* f32, one for the tensor; or NULL */
    bool divide;        /* by the global, else it multiplies */
    const char *result; /* dtype the product is rounded to; NULL: that of the scales */
} mri_quant_format;

typedef struct mri_quant_rule {
    const mri_quant_format *format;
    int64_t block[2]; /* codes a scale: rows, columns; 0: all of them */
    uint32_t bits;    /* of MRI_CODES_BITS */
    bool zeros;       /* asymmetric: a zero point beside each scale */
} mri_quant_rule;

typedef struct mri_quant {
    char *method, *name; /* as the folder calls it: "modelopt", "NVFP4" */
    MRI_VEC(mri_quant_rule) rules;
} mri_quant;

/* *out NULL: the folder says nothing of a quantisation. A scheme that is not known is an error
 * with its name and the known ones. */
mr_status mri_quant_open(const char *dir, mri_quant **out, mr_err *err);
/* The same from the text of a quantization_config; `where` names it in messages. */
mr_status mri_quant_parse(const char *text, size_t n, const char *where, mri_quant **out,
                          mr_err *err);
void mri_quant_free(mri_quant *q);
void mri_quant_tables(void); /* what reading looks up; a scheme that was read has them made */
const mri_quant_format *mri_quant_format_at(size_t i); /* NULL past the last */

typedef struct mri_stored {
    const char *name;       /* as it was asked for; borrowed */
    mr_type type;           /* of the numbers; its dtype is what mri_stored_read() writes */
    const mri_tensor *data; /* plain: the tensor itself */
    const mri_quant_rule *rule; /* NULL: plain */
    const mri_tensor *scale, *zero;
    float global;
    int64_t rows, cols;                  /* of one matrix */
    int64_t block[2], grid[2];           /* codes a scale; scales a matrix */
    int64_t row_bytes, zero_row_bytes;
    bool one_scale;                      /* for all matrices */
} mri_stored;

/* The weight that a model calls `name`. *found false, and no error, if nothing in the folder
 * goes by that name; q may be NULL. */
mr_status mri_stored_find(const mri_safetensors *f, const mri_quant *q, const char *name,
                          mri_stored *out, bool *found, mr_err *err);
/* Elements [first, first + n) of a quantised one, row-major. */
void mri_stored_read(const mri_stored *s, int64_t first, int64_t n, float *out);
/* the element of data where element `first` starts, and bytes up to element first + n: for
 * reading ahead */
const uint8_t *mri_stored_bytes(const mri_stored *s, int64_t first, int64_t n, uint64_t *bytes);
/* Does a tensor of this name stand beside codes (a scale, a shape, an activation's scale)? */
bool mri_quant_companion(const mri_quant *q, const char *name);

#endif
