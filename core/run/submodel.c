/* SPDX-License-Identifier: Apache-2.0
 *
 * submodel.c - see submodel.h. A part's options are filled as a profile's are, from a profile of
 * their own, which lives as long as the part: units keep pointers into it.
 */
#include "submodel.h"
#include "core/config/profile.h"
#include "core/plugin/registry.h"
#include <stdlib.h>

typedef struct part {
    mri_profile *profile;
    void *config;
} part;

static void part_free(part *p)
{
    mri_profile_free(p->profile);
    free(p->config);
    free(p);
}

static mr_status fill(part *p, const mr_unit *u, const mr_list *set, mr_err *err)
{
    char *section = mri_format("model.%s", u->name);
    mr_status st = mri_profile_load(NULL, NULL, 0, &p->profile, err);
    for (uint64_t i = 0; !st && set && i < set->n; i++) {
        char *line = mri_format("%s.%s", section, set->v[i]);
        st = mri_profile_set(p->profile, line, err);
        free(line);
    }
    p->config = mri_alloc(u->config_size + 1);
    if (!st)
        st = mri_profile_fill(p->profile, section, u->opts, u->n_opts, p->config, u->config_size,
                              err);
    if (!st)
        st = mri_profile_finish(p->profile, NULL, 0, err);
    free(section);
    return st;
}

static mr_status open(const mr_host *host, const char *name, const mr_list *set,
                      const mr_model_env *env, mr_model_part *out, mr_err *err)
{
    mri_registry *r = host->self;
    const mr_unit *u = NULL;
    part *p = NULL;
    mr_status st = mri_registry_find(r, "model", name, &u, err);
    if (st)
        return st;
    p = mri_alloc(sizeof *p);
    MR_TRY(fill(p, u, set, err));
    out->ops = u->table;
    MR_TRY(out->ops->create(host, env, p->config, &out->model, err));
    out->own = p;
    p = NULL;
out:
    if (p)
        part_free(p);
    return st;
}

static void close(mr_model_part *m)
{
    if (!m->own)
        return;
    m->ops->destroy(m->model);
    part_free(m->own);
    m->model = m->own = NULL;
}

const mr_model_service mri_model_service = { sizeof(mr_model_service), 0, open, close };
