/* SPDX-License-Identifier: Apache-2.0
 *
 * inspect_view.c - opens whatever `mrun inspect` was pointed at.
 * Invariant: what is shown was verified: a checkpoint's checksums match, a set is well formed.
 */
#include "core/base/json.h"
#include "inspect.h"
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { CONFIG_MAX = 16 << 20 };

static bool exists(const char *dir, const char *name)
{
    char *path = mri_format("%s/%s", dir, name);
    bool yes = !access(path, F_OK);
    free(path);
    return yes;
}

static mr_status open_checkpoint(inspect_view *v, mr_err *err)
{
    const char *name;
    mr_status st = mri_checkpoint_open(v->path, &v->checkpoint, err);
    v->kind = "checkpoint";
    for (size_t i = 0; !st && (name = mri_checkpoint_group_name(v->checkpoint, i)); i++) {
        inspect_group g = { name, mri_checkpoint_group(v->checkpoint, name) };
        MRI_PUSH(&v->groups, g);
    }
    return st;
}

/* The newest below DIR or DIR/checkpoints; *found false if there is none. */
static mr_status open_newest(inspect_view *v, bool *found, mr_err *err)
{
    static const char *const below[] = { "", "/checkpoints" };
    *found = false;
    for (size_t i = 0; i < 2; i++) {
        char *dir = mri_format("%s%s", v->path, below[i]);
        mr_status st = mri_checkpoint_list(dir, &v->steps, &v->n_steps, err);
        if (!st && v->n_steps) {
            free(v->path);
            v->path = mri_format("%s/step-%08lld", dir, (long long)v->steps[0]);
            st = open_checkpoint(v, err);
            *found = true;
        }
        free(dir);
        if (st || *found)
            return st;
    }
    return 0;
}

static void read_family(inspect_view *v)
{
    char *path = mri_format("%s/config.json", v->path);
    mri_json *config = NULL;
    const char *family;
    /* a folder without one, or with a bad one, still has its tensors to show */
    if (!mri_json_read(path, CONFIG_MAX, &config, NULL) &&
        mri_json_service.string(config, "model_type", &family))
        v->family = mri_strdup(family);
    mri_json_free(config);
    free(path);
}

static bool has_index(const char *dir)
{
    return exists(dir, "model.safetensors.index.json");
}

static void find_beside(inspect_view *v)
{
    static const char *const files[] = {
        "tokenizer.json",     "tokenizer.model",     "tiktoken.model",      "tokenizer_config.json",
        "vocab.json",         "merges.txt",          "special_tokens_map.json",
        "chat_template.jinja", "chat_template.json", "generation_config.json",
        "preprocessor_config.json",
    };
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        if (exists(v->path, files[i]))
            MRI_PUSH(&v->beside, files[i]);
}

static mr_status open_folder(inspect_view *v, mr_err *err)
{
    bool found = false;
    mr_status st = 0;
    if (exists(v->path, "manifest.json"))
        return open_checkpoint(v, err);
    MR_TRY(open_newest(v, &found, err));
    if (found)
        goto out;
    v->kind = "folder";
    find_beside(v);
    read_family(v);
    v->has_config = exists(v->path, "config.json");
    st = mri_safetensors_open_folder(v->path, &v->set, err);
    if (st == MR_E_STORE_MISSING && v->has_config && !has_index(v->path))
        st = 0; /* a model without weights still has a plan */
    MR_TRY(st);
    v->scheme = (mr_err)MR_ERR_INIT;
    mri_quant_open(v->path, &v->quant, &v->scheme); /* the tensors are shown all the same */
out:
    if (st == MR_E_STORE_MISSING)
        mr_hint(err, "give a .safetensors file, a Hugging Face folder, a checkpoint or a run");
    return st;
}

mr_status inspect_open(const char *path, inspect_view *v, mr_err *err)
{
    struct stat s;
    mr_status st = 0;
    memset(v, 0, sizeof *v);
    v->path = mri_strdup(path);
    for (size_t n = strlen(path); n > 1 && v->path[n - 1] == '/';)
        v->path[--n] = 0;
    if (!stat(path, &s) && S_ISDIR(s.st_mode)) {
        MR_TRY(open_folder(v, err));
    } else {
        v->kind = "file";
        MR_TRY(mri_safetensors_open(path, &v->set, err));
    }
    if (v->set) {
        inspect_group g = { "", v->set };
        MRI_PUSH(&v->groups, g);
    }
out:
    if (st)
        inspect_close(v);
    return st;
}

void inspect_close(inspect_view *v)
{
    mri_checkpoint_close(v->checkpoint);
    mri_safetensors_close(v->set);
    mri_quant_free(v->quant);
    if (v->model) {
        for (size_t i = 0; i < v->model->misfits.n; i++)
            free(v->model->misfits.v[i]);
        free(v->model->misfits.v);
        inspect_list_free(&v->model->extra);
        free(v->model->plugin);
        free(v->model);
    }
    free(v->beside.v);
    free(v->groups.v);
    free(v->steps);
    free(v->family);
    free(v->path);
    memset(v, 0, sizeof *v);
}
