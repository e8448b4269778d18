/* SPDX-License-Identifier: Apache-2.0
 *
 * family.c - see family.h. A family's plugin has a unit by the name of every model_type that it
 * takes, "_text" left off; a folder that has no model_type is known by its architectures, where
 * "DeepseekV3ForCausalLM" stands for deepseek_v3. Before all that goes a unit that its note marks
 * with a key that config.json has: one that is composed of others, as for pictures. Names and marks
 * come from the plugins' notes: none is loaded to find the one that is right.
 */
#include "family.h"
#include "core/base/json.h"
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

enum { CONFIG_MAX = 16 << 20 };

typedef struct words {
    MRI_VEC(char *) list;
} words;

static void add_type(words *w, const mri_json *json, const char *path)
{
    const char *type;
    if (!mri_json_service.string(json, path, &type) || !*type)
        return;
    size_t n = strlen(type), t = strlen("_text");
    if (n > t && !strcmp(type + n - t, "_text"))
        n -= t;
    MRI_PUSH(&w->list, mri_strndup(type, n));
}

/* "DeepseekV3ForCausalLM" -> "deepseek_v3": a new word at each capital */
static void add_architecture(words *w, const mri_json *json, const char *path)
{
    const char *name;
    mri_str s = { 0 };
    if (!mri_json_service.string(json, path, &name))
        return;
    const char *end = strstr(name, "For");
    for (const char *c = name; *c && c != end; c++) {
        if (isupper((unsigned char)*c) && c > name && !isupper((unsigned char)c[-1]))
            mri_str_add(&s, "_");
        char low = (char)tolower((unsigned char)*c);
        mri_str_addn(&s, &low, 1);
    }
    if (s.n)
        MRI_PUSH(&w->list, mri_str_take(&s));
    mri_str_free(&s);
}

static mr_status unknown(const words *w, const char *const *names, size_t n, const char *path,
                         mr_err *err)
{
    mri_str known = { 0 };
    size_t best = 0;
    for (size_t i = 0; i < n; i++) {
        mri_str_fmt(&known, "%s%s", i ? ", " : "", names[i]);
        if (mri_distance(w->list.v[0], names[i]) < mri_distance(w->list.v[0], names[best]))
            best = i;
    }
    mr_fail(err, MR_E_PLUGIN_NOT_FOUND, MR_BLAME_USER, "no plugin takes models of type \"%.64s\" "
            "(%s)", w->list.v[0], path);
    mr_detail(err, "families: %s", known.s ? known.s : "none");
    if (n)
        mr_hint(err, "the nearest family is %s; name a plugin of your own with --set "
                     "model.plugin=NAME|PATH.so", names[best]);
    mri_str_free(&known);
    return MR_E_PLUGIN_NOT_FOUND;
}

static bool has_key(const void *json, const char *mark)
{
    return mri_json_service.has(json, mark);
}

mr_status mri_family_of(mri_registry *reg, const char *dir, char **name, mr_err *err)
{
    char *path = mri_format("%s/config.json", dir);
    mri_json *json = NULL;
    words w = { 0 };
    const char **names = NULL;
    const mr_unit *unit;
    size_t n = 0;
    mr_status st = 0;
    *name = NULL;
    MR_TRY(mri_json_read(path, CONFIG_MAX, &json, err));
    if ((*name = mri_registry_marked(reg, "model", has_key, json)))
        goto out;
    add_type(&w, json, "model_type");
    add_type(&w, json, "text_config.model_type");
    add_architecture(&w, json, "architectures.0");
    add_architecture(&w, json, "text_config.architectures.0");
    if (!w.list.n) {
        st = mr_fail(err, MR_E_MODEL_CONFIG, MR_BLAME_USER, "%s has no model_type", path);
        mr_hint(err, "it is no config.json of a model, or of a very old one");
        goto out;
    }
    names = mri_registry_names(reg, "model", &n);
    for (size_t i = 0; i < w.list.n && !*name; i++)
        for (size_t k = 0; k < n && !*name; k++)
            if (!strcmp(w.list.v[i], names[k]))
                *name = mri_strdup(names[k]);
    if (!*name && !strchr(w.list.v[0], '/') &&
        !mri_registry_find(reg, "model", w.list.v[0], &unit, NULL))
        *name = mri_strdup(w.list.v[0]); /* a plugin without a note */
    if (!*name)
        st = unknown(&w, names, n, path, err);
out:
    for (size_t i = 0; i < w.list.n; i++)
        free(w.list.v[i]);
    free(w.list.v);
    free(names);
    mri_json_free(json);
    free(path);
    return st;
}
