/* SPDX-License-Identifier: Apache-2.0
 * dtype.c - see dtype.h. */
#include "dtype.h"
#include <string.h>

static const mri_dtype table[] = {
    { "BOOL", "bool", 8 },      { "F4", "f4", 4 },          { "F6_E2M3", "f6e2m3", 6 },
    { "F6_E3M2", "f6e3m2", 6 }, { "U8", "u8", 8 },          { "I8", "i8", 8 },
    { "F8_E5M2", "f8e5m2", 8 }, { "F8_E4M3", "f8e4m3", 8 }, { "F8_E8M0", "f8e8m0", 8 },
    { "I16", "i16", 16 },       { "U16", "u16", 16 },       { "F16", "f16", 16 },
    { "BF16", "bf16", 16 },     { "I32", "i32", 32 },       { "U32", "u32", 32 },
    { "F32", "f32", 32 },       { "C64", "c64", 64 },       { "F64", "f64", 64 },
    { "I64", "i64", 64 },       { "U64", "u64", 64 },
};
enum { ROWS = sizeof table / sizeof *table };

const mri_dtype *mri_dtype_of_file(const char *file)
{
    for (size_t i = 0; i < ROWS; i++)
        if (!strcmp(table[i].file, file))
            return &table[i];
    return NULL;
}

const mri_dtype *mri_dtype_of_name(const char *name)
{
    for (size_t i = 0; i < ROWS; i++) /* most names that are asked for are the table's own */
        if (table[i].name == name)
            return &table[i];
    for (size_t i = 0; i < ROWS; i++)
        if (!strcmp(table[i].name, name))
            return &table[i];
    return NULL;
}

const mri_dtype *mri_dtype_at(size_t i)
{
    return i < ROWS ? &table[i] : NULL;
}

char *mri_dtype_list(void)
{
    mri_str b = { 0 };
    for (size_t i = 0; i < ROWS; i++)
        mri_str_fmt(&b, "%s%s", i ? " " : "", table[i].file);
    return mri_str_take(&b);
}

bool mri_type_bytes(const mr_type *t, uint64_t *bytes)
{
    const mri_dtype *d = t->dtype ? mri_dtype_of_name(t->dtype) : NULL;
    uint64_t bits = d ? d->bits : 0;
    if (!d || t->rank > MR_MAX_RANK)
        return false;
    for (uint32_t i = 0; i < t->rank; i++)
        if (t->dim[i] < 0 || __builtin_mul_overflow(bits, (uint64_t)t->dim[i], &bits))
            return false;
    *bytes = bits / 8;
    return bits % 8 == 0 && *bytes <= INT64_MAX;
}
