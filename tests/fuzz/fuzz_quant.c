/* SPDX-License-Identifier: Apache-2.0
 * A line of any quantization_config, then any safetensors file: a weight that is found can be read
 * from its first element to its last. */
#include "core/store/quant.h"
#include "fuzz.h"

enum { READ_MAX = 1 << 16 };

static void read_weight(const mri_safetensors *f, const mri_quant *q, const char *name)
{
    mr_err err = MR_ERR_INIT;
    mri_stored s;
    bool found;
    float part[128];
    fuzz_told(mri_stored_find(f, q, name, &s, &found, &err), &err);
    if (!found || !s.rule)
        return;
    int64_t n = mr_numel(&s.type), step = 100;
    for (int64_t i = 0; i < n && i < READ_MAX; i += step)
        mri_stored_read(&s, i, n - i < step ? n - i : step, part);
    if (n > READ_MAX) /* the end as well */
        mri_stored_read(&s, n - step, step, part);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    const uint8_t *end = n ? memchr(data, '\n', n) : NULL;
    mr_err err = MR_ERR_INIT;
    mri_quant *q = NULL;
    mri_safetensors *f = NULL;
    size_t line = end ? (size_t)(end - data) : n;
    fuzz_told(mri_quant_parse((const char *)data, line, "config", &q, &err), &err);
    if (end && q)
        mri_safetensors_from_map("file", fuzz_map(end + 1, n - line - 1), &f, NULL);
    for (size_t i = 0; f && i < mri_safetensors_count(f); i++) {
        const char *name = mri_safetensors_at(f, i)->name, *tail = "_packed";
        size_t length = strlen(name), k = strlen(tail);
        read_weight(f, q, name);
        if (length > k && !strcmp(name + length - k, tail)) {
            char *weight = mri_strndup(name, length - k);
            read_weight(f, q, weight);
            free(weight);
        }
    }
    mri_safetensors_close(f);
    mri_quant_free(q);
    return 0;
}
