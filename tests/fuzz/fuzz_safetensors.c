/* SPDX-License-Identifier: Apache-2.0
 * A safetensors file of any bytes: what opens has tensors that lie inside the file. */
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    mr_err err = MR_ERR_INIT;
    mri_safetensors *f;
    mr_status st = mri_safetensors_from_map("file", fuzz_map(data, n), &f, &err);
    fuzz_told(st, &err);
    MRI_ASSERT(!f == (st != 0));
    volatile uint8_t sum = 0;
    for (size_t i = 0; f && i < mri_safetensors_count(f); i++) {
        const mri_tensor *t = mri_safetensors_at(f, i);
        size_t bytes = mr_bytes(&t->type); /* 0 for dtypes that nothing computes with */
        for (size_t k = 0; k < bytes; k++)
            sum ^= ((const uint8_t *)t->data)[k];
        MRI_ASSERT(mri_safetensors_find(f, t->name) == t);
    }
    mri_safetensors_close(f);
    return 0;
}
