/* SPDX-License-Identifier: Apache-2.0
 *
 * files.c - the files of a tokenizer: read whole, within a limit that is checked before memory
 * is taken; JSON through jansson; and the names that tokenizer_config.json gives to ids.
 */
#include "bpe.h"
#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

mr_status bp_nomem(mr_err *err, const char *what, uint64_t bytes)
{
    mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "a tokenizer finds no memory for %s", what);
    mr_detail(err, "%llu bytes were asked for", (unsigned long long)bytes);
    return MR_E_NOMEM;
}

bool bp_exists(const char *path)
{
    return access(path, F_OK) == 0;
}

char *bp_beside(const char *path, const char *name)
{
    const char *slash = strrchr(path, '/');
    size_t n = slash ? (size_t)(slash - path) + 1 : 0, m = strlen(name);
    char *out = malloc(n + m + 1);
    if (out) {
        memcpy(out, path, n);
        memcpy(out + n, name, m + 1);
    }
    return out;
}

mr_status bp_read(const char *unit, const char *path, char **text, uint64_t *n, mr_err *err)
{
    mr_status st = MR_OK;
    struct stat sb;
    char *p = NULL;
    FILE *f = fopen(path, "rb");
    if (!f || fstat(fileno(f), &sb)) {
        st = mr_fail(err, MR_E_STORE_IO, MR_BLAME_USER, "%s: cannot read %s: %s", unit, path,
                     strerror(errno));
        mr_hint(err, "give a folder with `dir` or a file with `file` in section [%s.%s]",
                "tokenizer", strrchr(unit, '/') + 1);
        goto out;
    }
    if (!S_ISREG(sb.st_mode)) {
        st = mr_fail(err, MR_E_STORE_IO, MR_BLAME_USER, "%s: %s is no file", unit, path);
        mr_hint(err, "a folder goes with `dir`, a file with `file`");
        goto out;
    }
    if ((uint64_t)sb.st_size > BP_MAX_FILE) {
        st = mr_fail(err, MR_E_STORE_FORMAT, MR_BLAME_USER, "%s: %s has %lld bytes", unit, path,
                     (long long)sb.st_size);
        mr_detail(err, "the limit is %llu bytes", (unsigned long long)BP_MAX_FILE);
        mr_hint(err, "name the tokenizer's own file; the weights lie beside it");
        goto out;
    }
    p = malloc((size_t)sb.st_size + 1);
    if (!p) {
        st = bp_nomem(err, path, (uint64_t)sb.st_size);
        goto out;
    }
    *n = fread(p, 1, (size_t)sb.st_size, f);
    if (*n != (uint64_t)sb.st_size) {
        st = mr_fail(err, MR_E_STORE_IO, MR_BLAME_ENV, "%s: %s: %llu of %lld bytes could be read",
                     unit, path, (unsigned long long)*n, (long long)sb.st_size);
        goto out;
    }
    p[*n] = 0;
    *text = p;
    p = NULL;
out:
    free(p);
    if (f)
        fclose(f);
    return st;
}

mr_status bp_json_read(const char *unit, const char *path, bp_json **out, mr_err *err)
{
    json_error_t je;
    char *text = NULL;
    uint64_t n = 0;
    mr_status st = bp_read(unit, path, &text, &n, err);
    if (st)
        return st;
    *out = json_loadb(text, n, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &je);
    if (!*out && json_error_code(&je) == json_error_numeric_overflow) /* model_max_length: 1e30 */
        *out = json_loadb(text, n,
                          JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL | JSON_DECODE_INT_AS_REAL, &je);
    free(text);
    if (*out)
        return MR_OK;
    mr_fail(err, MR_E_STORE_FORMAT, MR_BLAME_USER, "%s: %s:%d:%d: %s", unit, path, je.line,
            je.column, je.text);
    mr_detail(err, "at byte %d of %llu", je.position, (unsigned long long)n);
    mr_hint(err, "the file must be one JSON document in UTF-8 without duplicate keys; a cut copy "
                 "is not: fetch it again");
    return MR_E_STORE_FORMAT;
}

/* ---- special tokens by name ------------------------------------------------------------------ */

static int32_t added_id(const bp_tok *t, const char *text, uint64_t n)
{
    for (int64_t id = t->model.vocab.n; id-- > 0;) {
        const bp_entry *e = &t->model.vocab.v[id];
        if ((e->flags & BP_TOKEN) && !(e->flags & BP_PIECE) && e->n == n &&
            !memcmp(t->model.vocab.pool + e->at, text, n))
            return (int32_t)id;
    }
    return bp_vocab_find(&t->model.vocab, text, n);
}

/* "bos_token": "<s>", or an object whose "content" is the text */
static const json_t *named(const json_t *config, const char *key)
{
    const json_t *v = json_object_get(config, key);
    return json_is_object(v) ? json_object_get(v, "content") : v;
}

mr_status bp_name_specials(bp_tok *t, const bp_special_options *o, const bp_json *config,
                           int32_t begins, mr_err *err)
{
    mr_tokenizer_info *info = &t->info;
    bool adds_bos = json_is_true(json_object_get(config, "add_bos_token"));
    const struct {
        const char *option, *text, *key;
        int32_t *id, otherwise;
        bool use; /* tokenizer_config.json's word */
    } names[] = {
        { "bos", o->bos, "bos_token", &info->bos, begins, begins == BP_NONE && adds_bos },
        { "eos", o->eos, "eos_token", &info->eos, BP_NONE, true },
        { "pad", o->pad, "pad_token", &info->pad, BP_NONE, true },
        { "eod", o->eod, "eos_token", &info->eod, BP_NONE, true },
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const json_t *v = names[i].use ? named(config, names[i].key) : NULL;
        *names[i].id = names[i].otherwise;
        if (names[i].text) {
            *names[i].id = strcmp(names[i].text, "none")
                               ? added_id(t, names[i].text, strlen(names[i].text))
                               : BP_NONE;
            if (*names[i].id == BP_NONE && strcmp(names[i].text, "none")) {
                mr_fail(err, MR_E_TOKENIZER, MR_BLAME_USER, "%s: %s = %.80s is no token", t->unit,
                        names[i].option, names[i].text);
                mr_detail(err, "the vocabulary has %lld ids", (long long)t->model.vocab.n);
                mr_hint(err, "name a token as the tokenizer's files spell it, or `none`");
                return MR_E_TOKENIZER;
            }
        } else if (json_is_string(v)) { /* an unknown name there is a name that nobody uses */
            *names[i].id = added_id(t, json_string_value(v), json_string_length(v));
        }
    }
    if (!o->eod && o->eos)
        info->eod = info->eos;
    return MR_OK;
}
