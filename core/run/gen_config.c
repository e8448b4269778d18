/* SPDX-License-Identifier: Apache-2.0
 * gen_config.c - see gen_config.h. */
#include "gen_config.h"
#include "core/base/json.h"
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_FILE = 16 << 20 };

static mr_status read_member(const json_t *j, const char *path, const char *key, double lo,
                             double hi, bool *has, double *out, mr_err *err)
{
    const json_t *v = json_object_get(j, key);
    if (!v || json_is_null(v))
        return 0;
    if (!json_is_number(v) || json_number_value(v) < lo || json_number_value(v) > hi) {
        mr_fail(err, MR_E_MODEL_CONFIG, MR_BLAME_USER, "%s: %s is no number from %g to %g", path,
                key, lo, hi);
        mr_hint(err, "correct the file, or set %s in [generate] after taking it out of it", key);
        return MR_E_MODEL_CONFIG;
    }
    *has = true;
    *out = json_number_value(v);
    return 0;
}

static mr_status read_eos(const json_t *v, const char *path, mri_gen_config *g, mr_err *err)
{
    size_t n = json_is_array(v) ? json_array_size(v) : json_is_integer(v);
    for (size_t i = 0; i < n; i++) {
        const json_t *id = json_is_array(v) ? json_array_get(v, i) : v;
        json_int_t x = json_integer_value(id);
        if (!json_is_integer(id) || x < 0 || x > INT32_MAX)
            return mr_fail(err, MR_E_MODEL_CONFIG, MR_BLAME_USER,
                           "%s: eos_token_id has something that is no id", path);
        MRI_PUSH(&g->eos, (int32_t)x);
    }
    return 0;
}

static mr_status open_json(const char *dir, const char *name, char **path, mri_json **out,
                           mr_err *err)
{
    *path = mri_format("%s/%s", dir, name);
    *out = NULL;
    return access(*path, R_OK) ? 0 : mri_json_read(*path, MAX_FILE, out, err);
}

static mr_status read_sampling(const json_t *j, const char *path, mri_gen_config *g, mr_err *err)
{
    double top_k = 0, max = 0, min = 0;
    const struct {
        const char *key;
        double lo, hi;
        bool *has;
        double *to;
    } rows[] = {
        { "temperature", 0, 1000, &g->has_temperature, &g->temperature },
        { "top_k", 0, 16777216, &g->has_top_k, &top_k },
        { "top_p", 0, 1, &g->has_top_p, &g->top_p },
        { "min_p", 0, 1, &g->has_min_p, &g->min_p },
        { "repetition_penalty", 1e-6, 1e6, &g->has_repetition, &g->repetition },
        { "max_new_tokens", 1, 1073741824, &g->has_max, &max },
        { "min_new_tokens", 0, 1073741824, &g->has_min, &min },
    };
    mr_status st = 0;
    for (size_t i = 0; i < sizeof rows / sizeof *rows && !st; i++)
        st = read_member(j, path, rows[i].key, rows[i].lo, rows[i].hi, rows[i].has, rows[i].to,
                         err);
    g->top_k = (int64_t)top_k;
    g->max_tokens = (int64_t)max;
    g->min_tokens = (int64_t)min;
    if (!json_is_true(json_object_get(j, "do_sample"))) { /* the likeliest token, always */
        g->has_temperature = true;
        g->temperature = 0;
    } else if (!g->has_top_k) {
        g->has_top_k = true;
        g->top_k = 50;
    }
    return st;
}

mr_status mri_gen_config_read(const char *dir, mri_gen_config *g, mr_err *err)
{
    char *path = NULL, *model = NULL;
    mri_json *own = NULL, *config = NULL;
    mr_status st = 0;
    memset(g, 0, sizeof *g);
    MR_TRY(open_json(dir, "generation_config.json", &path, &own, err));
    if (own) {
        g->there = true;
        MR_TRY(read_sampling(own, path, g, err));
        MR_TRY(read_eos(json_object_get(own, "eos_token_id"), path, g, err));
    } else { /* as if it were empty */
        g->has_temperature = true;
    }
    if (!g->eos.n) {
        MR_TRY(open_json(dir, "config.json", &model, &config, err));
        MR_TRY(read_eos(json_object_get(config, "eos_token_id"), model, g, err));
        if (!g->eos.n) /* of a model that reads pictures too */
            MR_TRY(read_eos(json_object_get(json_object_get(config, "text_config"),
                                            "eos_token_id"), model, g, err));
    }
out:
    if (st)
        mri_gen_config_free(g);
    mri_json_free(own);
    mri_json_free(config);
    free(path);
    free(model);
    return st;
}

void mri_gen_config_free(mri_gen_config *g)
{
    free(g->eos.v);
    g->eos.v = NULL;
    g->eos.n = g->eos.cap = 0;
}
