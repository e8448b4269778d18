/* SPDX-License-Identifier: Apache-2.0
 *
 * convert.c - `mrun convert` and job `convert`: a run's checkpoint, or a Hugging Face folder, as a
 * folder that transformers opens; or such a folder as a run with one checkpoint. The new folder is
 * there when it is whole. An untouched folder's tensors come back byte for byte.
 */
#include "convert.h"
#include "core/store/shards.h"
#include "core/run/source.h"
#include "model_args.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

/* ---- what is converted --------------------------------------------------------------------- */

mr_status convert_open(app *a, const mri_config *c, convert_source *s, mr_err *err)
{
    const mri_session_options o = { .describe = true };
    mr_err none = MR_ERR_INIT;
    mr_status st = 0;
    memset(s, 0, sizeof *s);
    MR_TRY(mri_session_open(a->registry, c, &o, &s->model, err));
    MR_TRY(mri_source_checkpoint(c, &s->checkpoint, err));
    s->dir = c->model.hf;
    if (s->checkpoint) {
        if (mri_checkpoint_format(s->checkpoint)) /* of several ranks */
            MR_TRY(mri_checkpoint_join(s->checkpoint, "model", err));
        s->weights = mri_checkpoint_group(s->checkpoint, "model");
        if (!s->weights)
            MR_TRY(mr_fail(err, MR_E_STORE_FORMAT, MR_BLAME_USER,
                           "the checkpoint has no group 'model'"));
    }
    /* a run may have begun from config.json alone */
    if (s->dir && mri_safetensors_open_folder(s->dir, &s->folder, &none)) {
        s->folder = NULL;
        if (!s->checkpoint || none.code != MR_E_STORE_MISSING) {
            *err = none;
            st = none.code;
        }
        goto out;
    }
    if (s->dir)
        MR_TRY(mri_quant_open(s->dir, &s->quant, err));
out:
    return st;
}

void convert_close(convert_source *s)
{
    mri_quant_free(s->quant);
    mri_safetensors_close(s->folder);
    mri_checkpoint_close(s->checkpoint);
    mri_session_close(s->model);
    memset(s, 0, sizeof *s);
}

/* ---- settings ------------------------------------------------------------------------------ */

/* "5GB" as transformers reads it: decimal, unless an i stands in it */
static mr_status parse_size(const char *text, uint64_t *bytes, mr_err *err)
{
    static const struct {
        const char *unit;
        uint64_t bytes;
    } units[] = { { "", 1 },          { "B", 1 },           { "KB", 1000 },
                  { "MB", 1000000 },  { "GB", 1000000000 }, { "TB", 1000000000000 },
                  { "KIB", 1 << 10 }, { "MIB", 1 << 20 },   { "GIB", 1 << 30 },
                  { "TIB", 1ull << 40 } };
    char *end;
    errno = 0;
    unsigned long long v = strtoull(text, &end, 10);
    bool number = end != text && *text != '-' && !errno;
    while (*end == ' ')
        end++;
    for (size_t i = 0; number && i < sizeof units / sizeof *units; i++)
        if (!strcasecmp(end, units[i].unit) && v &&
            !__builtin_mul_overflow(v, units[i].bytes, bytes))
            return 0;
    mr_fail(err, MR_E_ARG, MR_BLAME_USER, "max_shard_size: '%.40s' is no size", text);
    mr_hint(err, "a whole number above 0 with B, KB, MB, GB, TB, KiB, MiB, GiB or TiB: 5GB");
    return MR_E_ARG;
}

/* NULL: auto */
static const char *dtype_of(const char *word)
{
    return !strcmp(word, "fp32") ? "f32" : !strcmp(word, "bf16") ? "bf16"
         : !strcmp(word, "auto") ? NULL : "f16";
}

/* ---- what is made -------------------------------------------------------------------------- */

static mr_status to_hf(convert_source *s, const mri_cfg_convert *d, convert_list *l,
                       mri_new_folder *f, mr_err *err)
{
    const char *dtype = dtype_of(d->dtype);
    mri_tensor_source bytes = convert_bytes_of(l);
    uint64_t most = 0;
    mr_status st = 0;
    s->plain = s->checkpoint || (s->quant && dtype);
    MR_TRY(parse_size(d->max_shard_size, &most, err));
    MR_TRY(convert_to_hf(s, dtype, l, err));
    MR_TRY(mri_new_folder_begin(f, d->out, convert_bytes(l), d->force, err));
    MR_TRY(convert_config(s, f, dtype || !s->checkpoint ? dtype : s->model->model_dtype, err));
    MR_TRY(mri_new_folder_tensors(f, l->out.v, l->out.n, &bytes, most, err));
    MR_TRY(mri_new_folder_commit(f, err));
out:
    return st;
}

/* The profile of the new run: the folder itself has config.json and the tokenizer. */
static mr_status write_profile(const convert_source *s, const mri_new_folder *f, mri_str *text,
                               mr_err *err)
{
    const mri_choice *tokenizer = mri_config_choice(s->model->config, "tokenizer", 0);
    char *reads = tokenizer ? mri_format("tokenizer.%s.dir", tokenizer->unit->name) : NULL;
    const char *const here[] = { "run.dir", "model.hf", reads };
    mri_profile *p = s->model->config->profile;
    mr_status st = mri_profile_set(p, "job.run=score", err);
    for (size_t i = 0; i < sizeof here / sizeof *here && here[i] && !st; i++) {
        const char *dot = strrchr(here[i], '.');
        char *section = mri_strndup(here[i], (size_t)(dot - here[i]));
        const mri_entry *e = mri_profile_get(p, section, dot + 1);
        if (i < 2 || (e && e->used)) {
            char *set = mri_format("%s=%s", here[i], f->path);
            st = mri_profile_set(p, set, err);
            free(set);
        }
        free(section);
    }
    free(reads);
    if (!st) {
        mri_profile_print(p, false, text);
        st = mri_new_folder_text(f, "profile.resolved.ini", text->s, err);
    }
    return st;
}

/* A resolved profile, as printed, of a run that is now in `dir`. */
static void move_profile(const char *text, const char *dir, mri_str *out)
{
    char section[64] = "";
    for (size_t n; *text; text += n) {
        n = strcspn(text, "\n");
        n += text[n] == '\n';
        if (*text == '[')
            snprintf(section, sizeof section, "%.*s", (int)strcspn(text + 1, "]"), text + 1);
        bool run = !strcmp(section, "run"), checkpoint = !strcmp(section, "checkpoint");
        if ((run || checkpoint) && !strncmp(text, "dir = ", 6))
            mri_str_fmt(out, "dir = %s%s\n", dir, run ? "" : "/checkpoints");
        else
            mri_str_addn(out, text, n);
    }
}

/* A checkpoint of several ranks as one of one process: weights, states and progress. */
static mr_status join_ranks(const convert_source *s, const mri_cfg_convert *d, mri_new_folder *f,
                            mr_err *err)
{
    mri_checkpoint_meta meta = *mri_checkpoint_info(s->checkpoint);
    mri_checkpoint_file file[8] = { 0 };
    mri_str profile = { 0 };
    char *checkpoints = NULL;
    const char *name;
    uint64_t need = 0;
    size_t n = 0;
    mr_status st = 0;
    for (; n < 8 && (name = mri_checkpoint_group_name(s->checkpoint, n)); n++) {
        MR_TRY(mri_checkpoint_join(s->checkpoint, name, err));
        const mri_safetensors *t = mri_checkpoint_group(s->checkpoint, name);
        file[n] = (mri_checkpoint_file){ name, mri_safetensors_at(t, 0), mri_safetensors_count(t),
                                         NULL };
        for (size_t i = 0; i < file[n].n; i++)
            need += mr_bytes(&file[n].tensors[i].type);
    }
    MR_TRY(mri_new_folder_begin(f, d->out, need, d->force, err));
    move_profile(meta.profile_text ? meta.profile_text : "", f->path, &profile);
    meta.profile_text = profile.s ? profile.s : "";
    MR_TRY(mri_new_folder_text(f, "profile.resolved.ini", meta.profile_text, err));
    checkpoints = mri_format("%s/checkpoints", f->tmp);
    MR_TRY(mri_checkpoint_save(checkpoints, &meta, file, n, 0, err));
    MR_TRY(mri_new_folder_commit(f, err));
out:
    free(checkpoints);
    mri_str_free(&profile);
    return st;
}

static mr_status to_mrun(const convert_source *s, const mri_cfg_convert *d, convert_list *l,
                         mri_new_folder *f, mr_err *err)
{
    mri_tensor_source bytes = convert_bytes_of(l);
    mri_str profile = { 0 };
    char *checkpoints = NULL;
    mr_status st = 0;
    if (s->checkpoint && mri_checkpoint_format(s->checkpoint)) {
        st = join_ranks(s, d, f, err);
        goto out;
    }
    if (s->checkpoint) {
        st = mr_fail(err, MR_E_ARG, MR_BLAME_USER, "the source is a run of mrun's already");
        mr_hint(err, "--to hf makes a Hugging Face folder of it");
        goto out;
    }
    MR_TRY(convert_to_mrun(s, dtype_of(d->dtype), l, err));
    MR_TRY(mri_new_folder_begin(f, d->out, convert_bytes(l), d->force, err));
    MR_TRY(convert_copy_files(s, f, true, err));
    MR_TRY(write_profile(s, f, &profile, err));
    mri_checkpoint_meta meta = { .profile_text = profile.s };
    mri_checkpoint_file file = { "model", l->out.v, l->out.n, &bytes };
    checkpoints = mri_format("%s/checkpoints", f->tmp);
    MR_TRY(mri_checkpoint_save(checkpoints, &meta, &file, 1, 0, err));
    MR_TRY(mri_new_folder_commit(f, err));
out:
    free(checkpoints);
    mri_str_free(&profile);
    return st;
}

static void say(const app *a, const convert_list *l, const char *out)
{
    char *size = mri_bytes_text((double)convert_bytes(l));
    if (a->quiet)
        goto out;
    fprintf(stderr, "mrun: %s: %zu tensors, %s\n", out, l->out.n, size);
    if (l->n_others)
        fprintf(stderr, "mrun: %zu tensors that the family does not compute with are copied as "
                "they are: %s%s\n", l->n_others, l->others.s, l->n_others > 8 ? ", ..." : "");
    if (l->left_out)
        fprintf(stderr, "mrun: %zu tensors of the source folder are left out: scales of weights "
                "that are no longer quantised, heads that are not read\n",
                l->left_out);
out:
    free(size);
}

int job_convert(app *a, mri_config *c)
{
    const mri_cfg_convert *d = &c->convert;
    mr_err err = MR_ERR_INIT;
    convert_source s = { 0 };
    convert_list l = { 0 };
    mri_new_folder f = { 0 };
    mr_status st = 0;
    MR_TRY(convert_open(a, c, &s, &err));
    MR_TRY(!strcmp(d->to, "hf") ? to_hf(&s, d, &l, &f, &err) : to_mrun(&s, d, &l, &f, &err));
    say(a, &l, d->out);
out:
    mri_new_folder_end(&f);
    convert_list_free(&l);
    convert_close(&s);
    return st ? app_fail(a, &err) : EXIT_OK;
}

/* ---- the command --------------------------------------------------------------------------- */

/* A positional folder that has config.json and is no run is a Hugging Face folder. */
static bool is_hf_folder(const char *dir)
{
    char *config = mri_format("%s/config.json", dir);
    char *profile = mri_format("%s/profile.resolved.ini", dir);
    bool is = !access(config, F_OK) && access(profile, F_OK);
    free(config);
    free(profile);
    return is;
}

int cmd_convert(app *a, int argc, char **argv)
{
    static const struct {
        const char *option, *key;
    } map[] = { { "--to", "convert.to" }, { "--out", "convert.out" },
                { "--dtype", "convert.dtype" },
                { "--max-shard-size", "convert.max_shard_size" } };
    static const char *const takes[] = { "--hf", "--to", "--out", "--dtype", "--max-shard-size",
                                         NULL };
    static const char *const flags[] = { "--force", NULL };
    app_args args = { 0 };
    mr_err err = MR_ERR_INIT;
    mri_config *c = NULL;
    char *extra[APP_ALONE + 7] = { mri_strdup("job.run=convert"), mri_strdup("optimizer.groups=") };
    size_t n = 2;
    for (size_t i = 0; i < APP_ALONE; i++)
        extra[n++] = mri_strdup(app_alone[i]);
    int code = app_args_parse(a, argc, argv, takes, flags, &args);
    for (size_t i = 0; i < sizeof map / sizeof *map && !code; i++)
        if (app_arg(&args, map[i].option))
            extra[n++] = mri_format("%s=%s", map[i].key, app_arg(&args, map[i].option));
    if (!code && app_arg(&args, "--force"))
        extra[n++] = mri_strdup("convert.force=true");
    if (!code && !app_arg(&args, "--out"))
        code = app_usage(a, "convert needs --out DIR, the folder that is made");
    if (!code && args.positional.n == 1 && !app_arg(&args, "--hf") &&
        is_hf_folder(args.positional.v[0])) {
        MRI_PUSH(&args.names, takes[0]);
        MRI_PUSH(&args.values, args.positional.v[0]);
        args.positional.n = 0;
    }
    if (!code && app_model_config(a, &args, (const char *const *)extra, n, &c, &err))
        code = app_fail(a, &err);
    if (!code)
        code = job_convert(a, c);
    while (n)
        free(extra[--n]);
    mri_config_free(c);
    app_args_free(&args);
    return code;
}
