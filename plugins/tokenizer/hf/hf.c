/* SPDX-License-Identifier: Apache-2.0
 *
 * hf.c - unit "tokenizer/hf": byte-level BPE from a tokenizer.json, id for id what the library
 * `tokenizers` gives. What the file asks for and this does not have is refused by name when the
 * file is read, never passed over.
 */
#include "hf.h"
#include <stdlib.h>

#define UNIT "tokenizer/hf"

typedef struct config {
    const char *dir, *file;
    bp_special_options names;
    int32_t special;
} config;

static const mr_opt options[] = {
    MR_OPT(config, MR_T_PATH, dir, "dir", NULL, "a model's folder with tokenizer.json in it"),
    MR_OPT(config, MR_T_PATH, file, "file", NULL, "a tokenizer.json by its own name"),
    MR_OPT(config, MR_T_BOOL, special, "special", "true",
           "the words of a special token in a text are that token"),
    MR_OPT(config, MR_T_STR, names.bos, "bos", NULL,
           "token that begins a text, or none (default: as the files say)"),
    MR_OPT(config, MR_T_STR, names.eos, "eos", NULL, "token that ends a reply, or none"),
    MR_OPT(config, MR_T_STR, names.pad, "pad", NULL, "token that fills up, or none"),
    MR_OPT(config, MR_T_STR, names.eod, "eod", NULL,
           "token that ends a document in a data set, or none (default: eos)"),
};

mr_status hf_bad(const hf_reader *r, const char *hint, const char *key, const char *why, ...)
{
    char text[160];
    va_list ap;
    va_start(ap, why);
    vsnprintf(text, sizeof text, why, ap);
    va_end(ap);
    mr_fail(r->err, MR_E_STORE_FORMAT, MR_BLAME_USER, "%s: %.40s %s", r->unit, key, text);
    mr_detail(r->err, "in %s", r->file);
    mr_hint(r->err, "%s", hint ? hint : "the file is broken: fetch it again from where it came");
    return MR_E_STORE_FORMAT;
}

static mr_status open_file(const config *c, char **path, mr_err *err)
{
    if (!c->dir == !c->file) {
        mr_fail(err, MR_E_PROFILE_MISSING, MR_BLAME_USER, UNIT ": give %s",
                c->dir ? "`dir` or `file`, not both" : "`dir` or `file`");
        mr_hint(err, "[tokenizer.hf] dir = FOLDER, where FOLDER holds tokenizer.json");
        return MR_E_PROFILE_MISSING;
    }
    size_t n = strlen(c->dir ? c->dir : c->file) + sizeof "/tokenizer.json";
    *path = malloc(n);
    if (!*path)
        return bp_nomem(err, "a path", n);
    snprintf(*path, n, "%s%s", c->dir ? c->dir : c->file, c->dir ? "/tokenizer.json" : "");
    return MR_OK;
}

static mr_status create(const mr_host *host, const void *config_, void **tok, mr_err *err)
{
    (void)host;
    const config *c = config_;
    char *path = NULL, *beside = NULL;
    json_t *root = NULL, *names = NULL;
    bp_tok *t = NULL;
    mr_status st = open_file(c, &path, err);
    if (st)
        return st;
    t = bp_new(UNIT);
    beside = bp_beside(path, "tokenizer_config.json");
    if (!t || !beside) {
        st = bp_nomem(err, "a tokenizer", sizeof *t);
        goto out;
    }
    MR_TRY(bp_json_read(UNIT, path, &root, err));
    hf_reader r = { UNIT, path, root, t, false, BP_NONE, err };
    MR_TRY(hf_read_model(&r));
    MR_TRY(hf_read_normalizer(&r));
    MR_TRY(hf_read_cuts(&r));
    MR_TRY(hf_read_added(&r));
    MR_TRY(hf_read_ends(&r));
    MR_TRY(bp_seal(t, err));
    t->special = c->special;
    if (bp_exists(beside))
        MR_TRY(bp_json_read(UNIT, beside, &names, err));
    MR_TRY(bp_name_specials(t, &c->names, names, r.begins, err));
    *tok = t;
    t = NULL;
out:
    bp_destroy(t);
    json_decref(root);
    json_decref(names);
    free(path);
    free(beside);
    return st;
}

static const mr_tokenizer_ops ops = {
    .size = sizeof ops,
    .create = create,
    .destroy = bp_destroy,
    .info = bp_info,
    .encode = bp_encode,
    .decode = bp_decode,
    .encode_as = bp_encode_as,
    .decode_as = bp_decode_as,
};

static const mr_unit units[] = { {
    .size = sizeof(mr_unit),
    .kind = "tokenizer",
    .name = "hf",
    .doc = "byte-level BPE from a Hugging Face tokenizer.json",
    .opts = options,
    .n_opts = sizeof options / sizeof *options,
    .config_size = sizeof(config),
    .table = &ops,
} };

MR_PLUGIN_NOTE("org.mrun.tokenizer.hf", "0.1.0", "tokenizer/hf@tokenizer.json");

MR_EXPORT const mr_plugin MR_PLUGIN_SYMBOL = {
    MR_PLUGIN_HEADER,
    .id = "org.mrun.tokenizer.hf",
    .version = "0.1.0",
    .license = "Apache-2.0",
    .doc = "tokenizer.json of Hugging Face folders",
    .units = units,
    .n_units = 1,
};
