/* SPDX-License-Identifier: Apache-2.0
 * A safetensors file of any bytes: what opens has tensors that lie inside the file, and a header
 * that is read in one pass is read as the JSON library reads it. */
#include "core/store/dtype.h"
#include "fuzz.h"
#include <jansson.h>

static int64_t number(const json_t *array, size_t i)
{
    const json_t *v = json_array_get(array, i);
    MRI_ASSERT(json_is_integer(v));
    return json_integer_value(v);
}

static void check_header(const char *text, size_t n)
{
    mri_header h;
    mri_json *doc = NULL;
    if (!mri_header_scan(text, n, &h))
        return;
    MRI_ASSERT(!mri_json_parse(text, n, "header", &doc, NULL));
    MRI_ASSERT(json_object_size(doc) == h.spans.n + (h.metadata.n > 0));
    for (size_t i = 0; i < h.spans.n; i++) {
        const mri_span *s = &h.spans.v[i];
        const json_t *t = json_object_get(doc, s->t.name);
        const json_t *shape = json_object_get(t, "shape"), *at = json_object_get(t, "data_offsets");
        const mri_dtype *d = mri_dtype_of_file(json_string_value(json_object_get(t, "dtype")));
        MRI_ASSERT(d && !strcmp(d->name, s->t.type.dtype) && json_object_size(t) == 3);
        MRI_ASSERT(json_array_size(shape) == s->t.type.rank && json_array_size(at) == 2);
        for (uint32_t k = 0; k < s->t.type.rank; k++)
            MRI_ASSERT(number(shape, k) == s->t.type.dim[k]);
        MRI_ASSERT((uint64_t)number(at, 0) == s->begin && (uint64_t)number(at, 1) == s->end);
    }
    for (size_t i = 0; i < h.metadata.n; i += 2) {
        const json_t *m = json_object_get(json_object_get(doc, "__metadata__"), h.metadata.v[i]);
        MRI_ASSERT(json_is_string(m) && !strcmp(json_string_value(m), h.metadata.v[i + 1]));
    }
    mri_json_free(doc);
    mri_header_free(&h);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    mr_err err = MR_ERR_INIT;
    mri_safetensors *f;
    check_header((const char *)data, n); /* as if the file were a header, and as it lies in one */
    if (n > 8)
        check_header((const char *)data + 8, n - 8);
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
