/* SPDX-License-Identifier: Apache-2.0
 * source.c - see source.h. */
#include "source.h"
#include "family.h"
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static bool exists(const char *dir, const char *name)
{
    struct stat sb;
    char *path = mri_format("%s/%s", dir, name);
    bool found = !stat(path, &sb);
    free(path);
    return found;
}

static bool has_file(const void *dir, const char *mark)
{
    return exists(dir, mark);
}

bool mri_source_tokenizer(mri_registry *reg, const char *dir, char *sets[2])
{
    char *plugin = mri_registry_marked(reg, "tokenizer", has_file, dir);
    sets[0] = plugin ? mri_format("tokenizer.plugin=%s", plugin) : NULL;
    sets[1] = plugin ? mri_format("tokenizer.%s.dir=%s", plugin, dir) : NULL;
    free(plugin);
    return sets[0] != NULL;
}

/* The setting that keeps to the folder that was named, wherever it was made: a checkpoint itself,
 * or a run with its checkpoints inside. NULL: they are where the profile says. */
static char *checkpoints_of(const char *dir)
{
    if (exists(dir, "manifest.json"))
        return mri_format("checkpoint.dir=%s", dir);
    return exists(dir, "checkpoints") ? mri_format("checkpoint.dir=%s/checkpoints", dir) : NULL;
}

/* Is the family chosen by hand? */
static bool names_model(const char *const *given, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!strncmp(given[i], "model.plugin=", 13))
            return true;
    return false;
}

mr_status mri_source_config(mri_registry *reg, const char *path, const char *hf,
                            const char *const *given, size_t n_given, mri_config **out, mr_err *err)
{
    char *resolved = NULL, *name = NULL, *family = NULL, *folder = NULL, *tokenizer[2] = { NULL };
    char *checkpoints = NULL;
    MRI_VEC(const char *) sets = { 0 };
    struct stat sb;
    mr_status st = 0;
    if (!path && !hf) {
        st = mr_fail(err, MR_E_USAGE, MR_BLAME_USER, "no model: give a profile, a run folder, or "
                                                     "--hf DIR");
        goto out;
    }
    if (path && !stat(path, &sb) && S_ISDIR(sb.st_mode)) {
        if ((checkpoints = checkpoints_of(path)))
            MRI_PUSH(&sets, checkpoints);
        path = resolved = mri_format("%s/profile.resolved.ini", path);
    }
    if (hf) {
        folder = mri_format("model.hf=%s", hf);
        MRI_PUSH(&sets, folder);
        if (!names_model(given, n_given)) {
            MR_TRY(mri_family_of(reg, hf, &name, err));
            family = mri_format("model.plugin=%s", name);
            MRI_PUSH(&sets, family);
        }
        if (mri_source_tokenizer(reg, hf, tokenizer)) {
            MRI_PUSH(&sets, tokenizer[0]);
            MRI_PUSH(&sets, tokenizer[1]);
        }
    }
    for (size_t i = 0; i < n_given; i++)
        MRI_PUSH(&sets, given[i]);
    MR_TRY(mri_config_load(reg, path, sets.v, sets.n, out, err));
out:
    free(resolved);
    free(checkpoints);
    free(name);
    free(family);
    free(folder);
    free(tokenizer[0]);
    free(tokenizer[1]);
    free(sets.v);
    return st;
}

mr_status mri_source_checkpoint(const mri_config *c, mri_checkpoint **out, mr_err *err)
{
    const mri_entry *hf = c->model.hf ? mri_profile_get(c->profile, "model", "hf") : NULL;
    bool told = hf && !strcmp(hf->origin.how, "--set");
    char *dir = c->checkpoint.dir ? mri_strdup(c->checkpoint.dir)
              : c->run.dir        ? mri_format("%s/checkpoints", c->run.dir)
                                  : NULL;
    mr_status st = 0;
    *out = NULL;
    if (told || (hf && !dir))
        goto out;
    if (dir && exists(dir, "manifest.json"))
        MR_TRY(mri_checkpoint_open(dir, out, err));
    else if (dir)
        MR_TRY(mri_checkpoint_open_newest(dir, out, err));
    if (!*out && !hf) {
        st = mr_fail(err, MR_E_STORE_MISSING, MR_BLAME_USER, "there is no checkpoint in %s",
                     dir ? dir : "the working folder: no run is named");
        mr_hint(err, "train first (mrun PROFILE.ini), or give --hf DIR");
    }
out:
    free(dir);
    return st;
}

mr_status mri_source_weights(mri_session *s, mr_err *err)
{
    mri_checkpoint *ck = NULL;
    mr_status st = mri_source_checkpoint(s->config, &ck, err);
    if (!st)
        st = ck ? mri_session_load(s, ck, true, err) : mri_session_init_weights(s, err);
    mri_checkpoint_close(ck);
    return st;
}
