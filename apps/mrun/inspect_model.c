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

static void misfit(inspect_model *m, size_t *n, char *line) /* takes the line over */
{
    if ((*n)++ < MISFITS)
        MRI_PUSH(&m->misfits, line);
    else
        free(line);
}

static void mark(const mri_safetensors *f, uint8_t *used, const mri_tensor *t)
{
    if (t)
        used[t - mri_safetensors_at(f, 0)] = 1;
}

/* All that one weight is read from. */
static void mark_stored(const mri_safetensors *f, uint8_t *used, const mri_stored *s)
{
    mark(f, used, s->data);
    mark(f, used, s->scale);
    mark(f, used, s->zero);
}

/* One weight of a parameter that is not whole. False: nothing stands in the folder for it. */
static bool read_name(inspect_view *v, const char *name, uint8_t *used, size_t *n)
{
    mri_stored s;
    mr_err err = MR_ERR_INIT;
    bool found;
    if (mri_stored_find(v->set, v->quant, name, &s, &found, &err)) {
        misfit(v->model, n, mri_strdup(err.what));
        mark(v->set, used, mri_safetensors_find(v->set, name));
        return true;
    }
    if (found)
        mark_stored(v->set, used, &s);
    return found;
}

/* What a parameter lacks, by the names of all that stand in its stead; `why`: what the first
 * thing is that is wrong, which is told if nothing is missing. */
static void read_broken(inspect_view *v, const mri_tensor_slot *s, const char *why, uint8_t *used,
                        size_t *n)
{
    size_t before = *n;
    const char *words = s->desc.tensors;
    int64_t count = words && strchr(words, '#') ? s->desc.type.dim[0] : 1;
    if (read_name(v, s->name, used, n))
        count = 0;
    else if (!words)
        misfit(v->model, n, mri_format("no tensor %s", s->name));
    for (int64_t i = 0; words && i < count; i++)
        for (const char *w = words; *(w += strspn(w, " ")); w += strcspn(w, " ")) {
            char *name = mri_piece_name(s, w, strcspn(w, " "), i);
            if (!read_name(v, name, used, n))
                misfit(v->model, n, mri_format("no tensor %s", name));
            free(name);
        }
    if (*n == before)
        misfit(v->model, n, mri_strdup(why));
}

static void read_slot(inspect_view *v, const mri_tensor_slot *s, uint8_t *used, size_t *n)
{
    mri_pieces p = { 0 };
    const mri_stored *part;
    mr_err err = MR_ERR_INIT;
    if (mri_pieces_find(v->set, v->quant, s, "the folder", &p, &err))
        read_broken(v, s, err.what, used, n);
    else
        for (size_t i = 0; i < p.list.n; i++)
            for (uint32_t k = 0; (part = mri_stretch_part(&p.list.v[i], k)); k++)
                mark_stored(v->set, used, part);
    mri_pieces_free(&p);
}

static void compare(inspect_view *v, const mri_session *s)
{
    size_t n = mri_safetensors_count(v->set), misfits = 0;
    uint8_t *used = mri_alloc(n);
    for (size_t i = 0; i < s->params.slots.n; i++)
        read_slot(v, &s->params.slots.v[i], used, &misfits);
    if (misfits > MISFITS)
        MRI_PUSH(&v->model->misfits, mri_format("and %zu more", misfits - MISFITS));
    for (size_t i = 0; i < n; i++) /* now: what is left over */
        used[i] = !used[i] && !mri_quant_companion(v->quant, mri_safetensors_at(v->set, i)->name);
    inspect_collapse(v->set, used, &v->model->extra);
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
