/* SPDX-License-Identifier: Apache-2.0
 *
 * quant_config.c - which scheme a folder is quantised by: quantization_config of config.json (at
 * the top or in text_config), else hf_quant_config.json. Invariant: every rule that is made has
 * a format of the table and numbers within their ranges; what a scheme asks beyond that (other
 * codes, scales of activations inside weights) is refused by name, never left out.
 */
#include "core/base/json.h"
#include "quant.h"
#include <jansson.h>
#include <stdlib.h>
#include <unistd.h>

enum { CONFIG_MAX = 16 << 20, BLOCK_MAX = 1 << 30 };

/* weight and scale names stand after the stem; the rules of a scheme are tried in order */
static const mri_quant_format table[] = {
    { "fp8", "block", MRI_CODES_E4M3, "weight", "weight_scale_inv", NULL, false, "f32" },
    { "fp8", "tensor", MRI_CODES_E4M3, "weight", "weight_scale", NULL, false, "f32" },
    { "compressed-tensors", "pack-quantized", MRI_CODES_BITS, "weight_packed", "weight_scale", NULL,
      false, NULL },
    { "compressed-tensors", "float-quantized", MRI_CODES_E4M3, "weight", "weight_scale", NULL,
      false, NULL },
    { "compressed-tensors", "int-quantized", MRI_CODES_I8, "weight", "weight_scale", NULL, false,
      NULL },
    { "compressed-tensors", "nvfp4-pack-quantized", MRI_CODES_E2M1, "weight_packed", "weight_scale",
      "weight_global_scale", true, "bf16" },
    { "modelopt", "FP8", MRI_CODES_E4M3, "weight", "weight_scale", NULL, false, "f32" },
    { "modelopt", "NVFP4", MRI_CODES_E2M1, "weight", "weight_scale", "weight_scale_2", false,
      "f32" },
    { "modelopt", "NVFP4 by rows", MRI_CODES_E2M1_ROWS, "weight", "weight_scale", "weight_scale_2",
      false, "f32" },
};
enum { ROWS = sizeof table / sizeof *table };

const mri_quant_format *mri_quant_format_at(size_t i)
{
    return i < ROWS ? &table[i] : NULL;
}

static const mri_quant_format *format_of(const char *method, const char *name)
{
    for (size_t i = 0; i < ROWS; i++)
        if (!strcmp(table[i].method, method) && !strcmp(table[i].name, name))
            return &table[i];
    return NULL;
}

static void add_rule(mri_quant *q, const char *name, int64_t rows, int64_t cols, uint32_t bits,
                     bool zeros)
{
    mri_quant_rule r = { format_of(q->method, name), { rows, cols }, bits, zeros };
    MRI_ASSERT(r.format);
    MRI_PUSH(&q->rules, r);
}

static mr_status unknown(const char *where, const char *what, const char *value, mr_err *err)
{
    mri_str known = { 0 };
    for (size_t i = 0; i < ROWS; i++)
        mri_str_fmt(&known, "%s%s %s", i ? ", " : "", table[i].method, table[i].name);
    mr_fail(err, MR_E_UNSUPPORTED, MR_BLAME_USER, "%s: the %s \"%.64s\" is not one that mrun reads",
            where, what, value ? value : "(none)");
    mr_detail(err, "known: %s", known.s);
    mr_hint(err, "take the model's unquantised folder, or one in a scheme of these");
    mri_str_free(&known);
    return MR_E_UNSUPPORTED;
}

#define BAD(...) mr_fail(err, MR_E_STORE_FORMAT, MR_BLAME_USER, __VA_ARGS__)

/* Array [rows, columns] under `key`; *given false if it is not there. */
static mr_status read_block(const json_t *o, const char *key, const char *where, bool *given,
                            int64_t block[2], mr_err *err)
{
    const json_t *v = json_object_get(o, key);
    *given = v && !json_is_null(v);
    for (size_t i = 0; *given && i < 2; i++) {
        const json_t *n = json_array_get(v, i);
        if (json_array_size(v) != 2 || !json_is_integer(n) || json_integer_value(n) < 1 ||
            json_integer_value(n) > BLOCK_MAX)
            return BAD("%s: %s must be two whole numbers from 1 to %d", where, key, BLOCK_MAX);
        block[i] = json_integer_value(n);
    }
    return 0;
}

/* ---- fp8: DeepSeek's ---------------------------------------------------------------------- */
static mr_status read_fp8(mri_quant *q, const json_t *o, const char *where, mr_err *err)
{
    const char *fmt = json_string_value(json_object_get(o, "fmt"));
    int64_t block[2] = { 0, 0 };
    bool given;
    mr_status st = read_block(o, "weight_block_size", where, &given, block, err);
    if (st)
        return st;
    if (fmt && strcmp(fmt, "e4m3"))
        return unknown(where, "fp8 fmt", fmt, err);
    add_rule(q, "block", block[0], block[1], 8, false);
    if (!given)
        add_rule(q, "tensor", 0, 0, 8, false);
    q->name = given ? mri_format("e4m3, %lld x %lld blocks", (long long)block[0],
                                 (long long)block[1])
                    : mri_strdup("e4m3, a scale a tensor");
    return 0;
}

/* ---- compressed-tensors --------------------------------------------------------------------- */
/* the rules of one group of modules; `format` stands for the whole folder */
static mr_status read_group(mri_quant *q, const json_t *g, const char *format, const char *where,
                            mr_err *err)
{
    const json_t *w = json_object_get(g, "weights");
    const char *own = json_string_value(json_object_get(g, "format"));
    const char *type = json_string_value(json_object_get(w, "type"));
    const char *strategy = json_string_value(json_object_get(w, "strategy"));
    const json_t *bits = json_object_get(w, "num_bits"), *size = json_object_get(w, "group_size");
    int64_t n = json_is_integer(bits) ? json_integer_value(bits) : 0, block[2] = { 0, 0 };
    bool ints = !type || !strcmp(type, "int");
    bool zeros = json_is_false(json_object_get(w, "symmetric"));
    bool given = false;
    if (!w || json_is_null(w))
        return 0; /* activations alone */
    format = own ? own : format;
    if (format && !strcmp(format, "dense"))
        return 0; /* weights as they are */
    if (format && !strcmp(format, "naive-quantized"))
        format = ints ? "int-quantized" : "float-quantized";
    const mri_quant_format *f = format ? format_of(q->method, format) : NULL;
    if (!f)
        return unknown(where, "compressed-tensors format", format, err);
    bool packed = f->codes == MRI_CODES_BITS, fp4 = f->codes == MRI_CODES_E2M1;
    if (ints != (packed || f->codes == MRI_CODES_I8) ||
        (packed ? n != 4 && n != 8 && n != 2 : n != (fp4 ? 4 : 8)) || (zeros && !ints)) {
        char *what = mri_format("%lld-bit %s%s of %s", (long long)n, type ? type : "int",
                                zeros ? ", asymmetric" : "", format);
        unknown(where, "kind of codes", what, err);
        free(what);
        return MR_E_UNSUPPORTED;
    }
    int64_t group = json_is_integer(size) ? json_integer_value(size) : fp4 ? 16 : 0;
    if (group > BLOCK_MAX)
        return BAD("%s: group_size %lld is above %d", where, (long long)group, BLOCK_MAX);
    if (!strategy)
        strategy = group > 0 ? "group" : group < 0 ? "channel" : "tensor";
    if (!strcmp(strategy, "group") || !strcmp(strategy, "tensor_group")) {
        if (group < 1)
            return BAD("%s: strategy %s needs a group_size of 1 or more", where, strategy);
        block[0] = 1;
        block[1] = group;
    } else if (!strcmp(strategy, "channel")) {
        block[0] = 1;
    } else if (!strcmp(strategy, "block")) {
        mr_status st = read_block(w, "block_structure", where, &given, block, err);
        if (!st && !given)
            st = BAD("%s: strategy block needs a block_structure", where);
        if (st)
            return st;
    } else if (strcmp(strategy, "tensor")) {
        return unknown(where, "compressed-tensors strategy", strategy, err);
    }
    add_rule(q, format, block[0], block[1], (uint32_t)n, zeros);
    return 0;
}

static mr_status read_compressed(mri_quant *q, const json_t *o, const char *where, mr_err *err)
{
    json_t *groups = json_object_get(o, "config_groups"), *g;
    const char *format = json_string_value(json_object_get(o, "format")), *key;
    const char *sparse =
        json_string_value(json_object_get(json_object_get(o, "sparsity_config"), "format"));
    mr_status st = 0;
    if (sparse && strcmp(sparse, "dense"))
        return unknown(where, "compressed-tensors sparsity format", sparse, err);
    if (!json_is_object(groups))
        return BAD("%s has no object \"config_groups\"", where);
    json_object_foreach(groups, key, g)
        if (!st)
            st = read_group(q, g, format, where, err);
    q->name = mri_strdup(format ? format : "by group");
    return st;
}

/* ---- ModelOpt ------------------------------------------------------------------------------- */
static const struct {
    const char *algo;   /* NULL: the end */
    const char *format; /* of the table */
    int64_t rows, cols;
} algos[] = {
    { "FP8", "FP8", 0, 0 },
    { "FP8_PER_CHANNEL_PER_TOKEN", "FP8", 1, 0 },
    { "FP8_PB_WO", "FP8", 128, 128 },
    { "NVFP4", "NVFP4", 1, 16 },
    { "W4A16_NVFP4", "NVFP4", 1, 16 },
};

static mr_status add_algo(mri_quant *q, const char *algo, const json_t *o, const char *where,
                          mr_err *err)
{
    const json_t *size = json_object_get(o, "group_size");
    for (size_t i = 0; algo && i < sizeof algos / sizeof *algos; i++) {
        int64_t cols = algos[i].cols;
        if (strcasecmp(algo, algos[i].algo))
            continue;
        if (cols == 16 && json_is_integer(size)) {
            cols = json_integer_value(size);
            if (cols < 1 || cols > BLOCK_MAX)
                return BAD("%s: group_size %lld is outside 1..%d", where, (long long)cols,
                           BLOCK_MAX);
        }
        for (size_t k = 0; k < q->rules.n; k++)
            if (!strcmp(q->rules.v[k].format->name, algos[i].format) &&
                q->rules.v[k].block[0] == algos[i].rows && q->rules.v[k].block[1] == cols)
                return 0; /* said before, by another layer */
        add_rule(q, algos[i].format, algos[i].rows, cols, 8, false);
        if (algos[i].cols == 16) /* fused experts that are kept [in, out] */
            add_rule(q, "NVFP4 by rows", cols, 1, 8, false);
        return 0;
    }
    return unknown(where, "ModelOpt quant_algo", algo, err);
}

static mr_status read_modelopt(mri_quant *q, const json_t *o, const char *where, mr_err *err)
{
    const char *algo = json_string_value(json_object_get(o, "quant_algo")), *layer;
    json_t *layers = json_object_get(o, "quantized_layers"), *v;
    mr_status st = 0;
    bool none = json_is_null(json_object_get(o, "quant_algo")); /* of caches alone, it may be */
    q->name = mri_strdup(algo ? algo : "no weights");
    if (none)
        return 0;
    if (!algo || strcasecmp(algo, "MIXED_PRECISION"))
        return add_algo(q, algo, o, where, err);
    json_object_foreach(layers, layer, v)
        if (!st)
            st = add_algo(q, json_string_value(json_object_get(v, "quant_algo")), v, where, err);
    return st;
}

/* ---- the scheme of a folder ----------------------------------------------------------------- */
static const struct {
    const char *method, *as;
    mr_status (*read)(mri_quant *, const json_t *, const char *where, mr_err *);
} methods[] = {
    { "fp8", "fp8", read_fp8 },
    { "compressed-tensors", "compressed-tensors", read_compressed },
    { "modelopt", "modelopt", read_modelopt },
    { "modelopt_fp4", "modelopt", read_modelopt },
};

static mr_status read_config(const json_t *o, const char *where, mri_quant **out, mr_err *err)
{
    const char *method = json_string_value(json_object_get(o, "quant_method"));
    if (!json_is_object(o))
        return BAD("%s is not an object", where);
    if (!method && json_object_get(o, "quant_algo")) /* null too */
        method = "modelopt"; /* hf_quant_config.json says it by its name */
    for (size_t i = 0; method && i < sizeof methods / sizeof *methods; i++) {
        if (strcmp(method, methods[i].method))
            continue;
        mri_quant *q = mri_alloc(sizeof *q);
        mri_quant_tables();
        q->method = mri_strdup(methods[i].as);
        mr_status st = methods[i].read(q, o, where, err);
        if (st) {
            mri_quant_free(q);
            q = NULL;
        }
        *out = q;
        return st;
    }
    return unknown(where, "quant_method", method, err);
}

mr_status mri_quant_parse(const char *text, size_t n, const char *where, mri_quant **out,
                          mr_err *err)
{
    json_t *doc = NULL;
    *out = NULL;
    mr_status st = mri_json_parse(text, n, where, &doc, err);
    if (!st)
        st = read_config(doc, where, out, err);
    json_decref(doc);
    return st;
}

/* The object under `path` of DIR/FILE, if both are there. */
static mr_status from_file(const char *dir, const char *file, const char *const *keys,
                           mri_quant **out, mr_err *err)
{
    char *path = mri_format("%s/%s", dir, file), *where = NULL;
    json_t *doc = NULL;
    mr_status st = 0;
    if (access(path, F_OK))
        goto out;
    MR_TRY(mri_json_read(path, CONFIG_MAX, &doc, err));
    for (; *keys && !*out && !where; keys++) {
        const json_t *o = doc;
        for (const char *k = *keys; o && *k;) {
            char *word = mri_strndup(k, strcspn(k, "."));
            k += strlen(word);
            k += *k == '.';
            o = json_object_get(o, word);
            free(word);
        }
        if (!o || json_is_null(o))
            continue;
        where = mri_format("%s: %s", path, *keys);
        st = read_config(o, where, out, err);
    }
out:
    json_decref(doc);
    free(where);
    free(path);
    return st;
}

mr_status mri_quant_open(const char *dir, mri_quant **out, mr_err *err)
{
    static const char *const config[] = { "quantization_config", "text_config.quantization_config",
                                          NULL };
    static const char *const own[] = { "quantization", NULL };
    *out = NULL;
    mr_status st = from_file(dir, "config.json", config, out, err);
    return st || *out ? st : from_file(dir, "hf_quant_config.json", own, out, err);
}

void mri_quant_free(mri_quant *q)
{
    if (!q)
        return;
    free(q->method);
    free(q->name);
    free(q->rules.v);
    free(q);
}
