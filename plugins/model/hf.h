/* SPDX-License-Identifier: Apache-2.0
 *
 * hf.h - reading and writing Hugging Face's config.json, for the model families: a reader that
 * keeps the first bad value as the error and gives defaults after it, and a writer that counts on
 * past its buffer, so that one check at the end suffices.
 */
#ifndef MODEL_HF_H
#define MODEL_HF_H
#include "mrun/model.h"
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- reading ------------------------------------------------------------------------------ */
typedef struct hf_reader {
    const mr_json_service *js;
    const void *json;
    const char *family; /* for messages */
    const char *at;     /* before every key: "" or "text_config." */
    mr_err *err;
    mr_status st; /* of the first bad value */
} hf_reader;

MR_UNUSED static const char *hf_path(const hf_reader *r, const char *key, char *buf, size_t cap)
{
    snprintf(buf, cap, "%s%s", r->at, key);
    return buf;
}

MR_UNUSED static bool hf_has(const hf_reader *r, const char *key) /* present and not null */
{
    char p[128];
    return r->js->has(r->json, hf_path(r, key, p, sizeof p));
}

MR_UNUSED static bool hf_null(const hf_reader *r, const char *key) /* present and null */
{
    char p[128];
    return MR_CAN(r->js, is_null) && r->js->is_null(r->json, hf_path(r, key, p, sizeof p));
}

MR_UNUSED static const char *hf_text(const hf_reader *r, const char *key) /* NULL: no text */
{
    char p[128];
    const char *s = NULL;
    return r->js->string(r->json, hf_path(r, key, p, sizeof p), &s) ? s : NULL;
}

MR_UNUSED static int64_t hf_length(const hf_reader *r, const char *key) /* -1: no array */
{
    char p[128];
    return hf_has(r, key) ? r->js->length(r->json, hf_path(r, key, p, sizeof p)) : -1;
}

MR_UNUSED static double hf_number(hf_reader *r, const char *key, double otherwise)
{
    char p[128];
    double v = otherwise;
    if (!r->st && hf_has(r, key) && !r->js->number(r->json, hf_path(r, key, p, sizeof p), &v))
        r->st = mr_fail(r->err, MR_E_MODEL_CONFIG, MR_BLAME_USER,
                        "%s: %s in config.json is not a number", r->family, p);
    return v;
}

MR_UNUSED static int64_t hf_integer(hf_reader *r, const char *key, int64_t otherwise)
{
    double v = hf_number(r, key, (double)otherwise);
    if (r->st)
        return otherwise;
    if (!(v >= -0x1p53 && v <= 0x1p53) || v != floor(v)) {
        r->st = mr_fail(r->err, MR_E_MODEL_CONFIG, MR_BLAME_USER,
                        "%s: %s%s = %g in config.json is not a whole number", r->family, r->at,
                        key, v);
        return otherwise;
    }
    return (int64_t)v;
}

MR_UNUSED static void hf_refuse(hf_reader *r, const char *key, const char *value, const char *hint)
{
    if (r->st)
        return;
    r->st = mr_fail(r->err, MR_E_MODEL_CONFIG, MR_BLAME_USER,
                    "%s: %s = %s in config.json is not one that this family has", r->family, key,
                    value);
    mr_hint(r->err, "%s", hint);
}

MR_UNUSED static void hf_refuse_number(hf_reader *r, const char *key, double value,
                                       const char *hint)
{
    char text[40];
    snprintf(text, sizeof text, "%g", value);
    hf_refuse(r, key, text, hint);
}

/* A number with one value that the family computes, which is that of a file without the key. */
MR_UNUSED static void hf_only(hf_reader *r, const char *key, double only, const char *hint)
{
    double v = hf_number(r, key, only);
    if (!r->st && v != only)
        hf_refuse_number(r, key, v, hint);
}

/* The row of the embedding that is padding's and never trained, as in transformers: counted from
 * the end if it is negative. -1: none */
MR_UNUSED static int64_t hf_pad(hf_reader *r, int64_t vocab)
{
    int64_t pad = hf_integer(r, "pad_token_id", 0);
    if (r->st || !hf_has(r, "pad_token_id"))
        return -1;
    if (pad < -vocab || pad >= vocab)
        hf_refuse_number(r, "pad_token_id", (double)pad, "it must be a row of the embedding");
    return pad < 0 ? pad + vocab : pad;
}

/* Where the file has its rotary positions: 4.x says rope_scaling and rope_theta, 5.x
 * rope_parameters, and takes rope_scaling where it is there. */
MR_UNUSED static const char *hf_rope(hf_reader *r)
{
    char key[64];
    const char *in = hf_has(r, "rope_scaling") ? "rope_scaling" : "rope_parameters";
    snprintf(key, sizeof key, "%s.partial_rotary_factor", in);
    hf_only(r, "partial_rotary_factor", 1, "all of a head's rotary part is turned");
    hf_only(r, key, 1, "all of a head's rotary part is turned");
    return in;
}

/* The context that scaled frequencies start from: beside the other sizes it goes before the rope's
 * own, and it is the model's where neither is there. */
MR_UNUSED static int64_t hf_original_context(hf_reader *r, const char *in, int64_t context)
{
    static const char name[] = "original_max_position_embeddings";
    char key[96];
    snprintf(key, sizeof key, "%s.%s", in, name);
    return hf_integer(r, name, hf_integer(r, key, context));
}

/* ---- writing ------------------------------------------------------------------------------ */
typedef struct hf_writer {
    char *s;
    uint64_t cap, n; /* n counts on past cap, so that the error can say what is needed */
} hf_writer;

MR_UNUSED static void hf_put(hf_writer *w, const char *fmt, ...) MR_PRINTF(2, 3);

MR_UNUSED static void hf_put(hf_writer *w, const char *fmt, ...)
{
    bool room = w->n < w->cap;
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(room ? w->s + w->n : NULL, room ? w->cap - w->n : 0, fmt, ap);
    va_end(ap);
    w->n += n > 0 ? (uint64_t)n : 0;
}

/* the shortest text that reads back as v, and that reads as a real number */
MR_UNUSED static void hf_put_real(hf_writer *w, const char *key, double v, const char *end)
{
    char text[40];
    for (int digits = 6; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, v);
        if (strtod(text, NULL) == v)
            break;
    }
    hf_put(w, "\"%s\": %s%s%s", key, text, strpbrk(text, ".e") ? "" : ".0", end);
}

MR_UNUSED static const char *hf_boolean(bool b)
{
    return b ? "true" : "false";
}

MR_UNUSED static mr_status hf_written(const hf_writer *w, const char *family, mr_err *err)
{
    if (w->n < w->cap)
        return 0;
    return mr_fail(err, MR_E_ARG, MR_BLAME_HOST,
                   "%s: config.json takes %llu bytes, the buffer has %llu", family,
                   (unsigned long long)w->n + 1, (unsigned long long)w->cap);
}

#endif
