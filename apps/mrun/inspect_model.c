/* SPDX-License-Identifier: Apache-2.0
 *
 * inspect_model.c - a Hugging Face folder as the plugin of its family takes it: what is missing,
 * what is not read, what it needs in memory. Sessions are planned, not opened: no weights are
 * read and no device memory is taken. Invariant: the names come from the same assembly, and are
 * sought by the same rules, as when the folder is loaded.
 */
#include "core/run/family.h"
#include "core/run/pieces.h"
#include "core/run/source.h"
#include "inspect.h"
#include <stdlib.h>
#include <string.h>

enum { CACHE_POSITIONS = 1024, MISFITS = 64 };

static mr_status plan(mri_registry *reg, const char *dir, const char *recipe, uint32_t needs,
                      mri_config **c, mri_session **s, mr_err *err)
{
    char *precision = mri_format("precision.recipe=%s", recipe);
    const char *sets[] = { precision, "train.steps=1", "train.seq=16", "train.micro_batch=1",
                           "data.plugin=text", "data.text.path=unused" };
    mri_session_options o = { .needs = needs, .slots = 1, .max_seq = CACHE_POSITIONS, .dry = true };
    mr_status st = mri_source_config(reg, NULL, dir, sets, sizeof sets / sizeof *sets, c, err);
    if (!st)
        st = mri_session_open(reg, *c, &o, s, err);
    free(precision);
    return st;
}

/* Parameters without activations; a step's fixed scratch is left out with them. */
static mr_status measure(inspect_model *m, mri_registry *reg, const char *dir, const char *recipe,
                         mr_err *err)
{
    static const uint32_t needs[] = { MRI_NEED_DECODE, MRI_NEED_TRAIN | MRI_NEED_UPDATE };
    inspect_memory row = { .recipe = recipe };
    mr_status st = 0;
    for (int i = 0; i < 2 && !st; i++) {
        mri_config *c = NULL;
        mri_session *s = NULL;
        mri_memory need = { 0 };
        st = plan(reg, dir, recipe, needs[i], &c, &s, err);
        if (!st)
            mri_session_memory(s, &need);
        if (!i) {
            row.generate = need.parameters;
            row.cache = need.states / CACHE_POSITIONS;
        } else {
            row.train = need.parameters + need.optimizer;
        }
        mri_session_close(s);
        mri_config_free(c);
    }
    if (!st)
        m->memory[m->n_memory++] = row;
    return st;
}

static void mark(const mri_safetensors *f, uint8_t *used, const mri_tensor *t)
{
    if (t)
        used[t - mri_safetensors_at(f, 0)] = 1;
}

static void compare(inspect_view *v, const mri_session *s)
{
    inspect_model *m = v->model;
    size_t n = mri_safetensors_count(v->set), missing = 0;
    uint8_t *used = mri_alloc(n);
    for (size_t i = 0; i < s->params.slots.n; i++) {
        mri_pieces pieces = { 0 };
        mr_err err = MR_ERR_INIT;
        if (mri_pieces_find(v->set, v->quant, &s->params.slots.v[i], "the folder", &pieces, &err) &&
            missing++ < MISFITS)
            MRI_PUSH(&m->misfits, mri_strdup(err.what));
        for (size_t k = 0; k < pieces.list.n; k++) {
            const mri_stored *from = &pieces.list.v[k].from;
            mark(v->set, used, from->data);
            mark(v->set, used, from->scale);
            mark(v->set, used, from->zero);
        }
        free(pieces.list.v);
    }
    if (missing > MISFITS)
        MRI_PUSH(&m->misfits, mri_format("and %zu parameters more", missing - MISFITS));
    for (size_t i = 0; i < n; i++) /* now: what is left over */
        used[i] = !used[i] && !mri_quant_companion(v->quant, mri_safetensors_at(v->set, i)->name);
    inspect_collapse(v->set, used, &m->extra);
    free(used);
}

void inspect_plan(inspect_view *v, mri_registry *reg)
{
    static const char *const recipes[] = { "bf16", "fp32" };
    inspect_model *m = v->model = mri_alloc(sizeof *m);
    mr_err *err = &m->problem;
    mri_config *c = NULL;
    mri_session *s = NULL;
    mr_status st = 0;
    *err = (mr_err)MR_ERR_INIT;
    MR_TRY(mri_family_of(reg, v->path, &m->plugin, err));
    MR_TRY(plan(reg, v->path, "bf16", MRI_NEED_DECODE, &c, &s, err));
    m->parameters = s->params.count;
    m->tensors = s->params.slots.n;
    if (v->set)
        compare(v, s);
    for (size_t i = 0; i < sizeof recipes / sizeof *recipes; i++)
        MR_TRY(measure(m, reg, v->path, recipes[i], err));
out:
    mri_session_close(s);
    mri_config_free(c);
}
