/* SPDX-License-Identifier: Apache-2.0
 *
 * assign.c - which virtual stage each instance of a model lies on; see stage.h.
 */
#include "stage.h"
#include <stdlib.h>
#include <string.h>

/* ---- letters --------------------------------------------------------------------------------- */

static bool reads(const mr_prog *p, const char *input)
{
    return mri_value_find(p, MRI_INPUT, input) != 0;
}

char *mri_stage_letters(const mri_assembly *a)
{
    size_t n = a->instances.n, embed = 0;
    char *letters = mri_alloc(n + 1);
    for (size_t i = 0; i < n; i++) {
        const mr_prog *p = a->kinds.v[a->instances.v[i].kind].prog;
        bool tokens = reads(p, "tokens"), targets = reads(p, "targets");
        letters[i] = tokens && targets ? 'm' : targets || reads(p, "logit_rows") ? 'L' : 't';
        if ((tokens && !targets) || reads(p, "image_rows") || reads(p, "pixels"))
            embed = i + 1;
    }
    memset(letters, 'E', embed); /* a tower of pictures goes with the embedding that it ends in */
    return letters;
}

static uint32_t count(const char *s, char c)
{
    uint32_t n = 0;
    for (; *s; s++)
        n += *s == c;
    return n;
}

/* ---- a layout -------------------------------------------------------------------------------- */

static mr_status against(mr_err *err, const char *layout, const char *fmt, ...) MR_PRINTF(3, 4);

static mr_status against(mr_err *err, const char *layout, const char *fmt, ...)
{
    char what[200];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    mr_fail(err, MR_E_PROFILE_CONFLICT, MR_BLAME_USER, "[mesh] layout: %s", what);
    mr_detail(err, "written out: %.200s", layout);
    mr_hint(err, "E comes first and L last, once each; all layers t between them, m before L");
    return MR_E_PROFILE_CONFLICT;
}

/* One E and one L stand for all instances that have the letter; m likewise. Modes other than
 * training have no m: it is then passed over. */
static mr_status by_layout(const char *letters, const char *layout, uint32_t pp, uint32_t *of,
                           uint32_t *virtual_stages, mr_err *err)
{
    uint32_t stages = count(layout, '|') + 1, at = 0;
    size_t i = 0, n = strlen(letters);
    if (stages % pp)
        return against(err, layout, "%u stages are no multiple of pp = %u", stages, pp);
    if (count(layout, 't') != count(letters, 't'))
        return against(err, layout, "%u layers, the model has %u", count(layout, 't'),
                       count(letters, 't'));
    for (const char *c = layout; *c; c++) {
        if (*c == '|') {
            at++;
            continue;
        }
        if (*c == 'm' && !strchr(letters, 'm'))
            continue;
        if (i == n || letters[i] != *c)
            return against(err, layout, "%c where the model goes on with %c", *c,
                           i < n ? letters[i] : '-');
        do
            of[i++] = at;
        while (*c != 't' && i < n && letters[i] == *c);
    }
    if (i < n)
        return against(err, layout, "it ends before the model's %c", letters[i]);
    *virtual_stages = stages;
    return 0;
}

/* ---- by numbers ------------------------------------------------------------------------------ */

static mr_status uneven(mr_err *err, const mri_cfg_mesh *c, uint32_t layers, uint32_t stages)
{
    mr_fail(err, MR_E_PROFILE_CONFLICT, MR_BLAME_USER,
            "[mesh] %u layers do not lie evenly on %u virtual stages (pp = %lld, vpp = %lld)",
            layers, stages, (long long)c->pp, (long long)c->vpp);
    mr_hint(err, "set first_stage_layers or last_stage_layers, count_embedding and count_loss, or "
                 "say it with layout = \"Et*3|t*4|t*3L\"");
    return MR_E_PROFILE_CONFLICT;
}

/* Layers of each virtual stage: those that are given for the first and the last, and equal parts of
 * what is left. Where none is given, embedding and loss may count as a layer each. */
static mr_status share(const mri_cfg_mesh *c, uint32_t layers, uint32_t stages, uint32_t *n,
                       mr_err *err)
{
    int64_t first = c->first_stage_layers, last = c->last_stage_layers;
    bool given = first >= 0 || last >= 0;
    bool embedding = !given && c->count_embedding, loss = !given && c->count_loss;
    int64_t equal = (int64_t)stages - (first >= 0) - (last >= 0);
    int64_t rest = layers + (int64_t)embedding + loss - (first > 0 ? first : 0) -
                   (last > 0 ? last : 0);
    if (equal < 0 || rest < 0 || (equal ? rest % equal : rest))
        return uneven(err, c, layers, stages);
    for (uint32_t s = 0; s < stages; s++)
        n[s] = equal ? (uint32_t)(rest / equal) : 0;
    n[0] = first >= 0 ? (uint32_t)first : n[0] - embedding;
    n[stages - 1] = last >= 0 ? (uint32_t)last : n[stages - 1] - loss;
    return 0;
}

static mr_status by_numbers(const char *letters, const mri_cfg_mesh *c, uint32_t *of,
                            uint32_t *virtual_stages, mr_err *err)
{
    uint32_t stages = (uint32_t)(c->pp * c->vpp), at = 0, *n = NULL;
    mr_status st = 0;
    if (c->pp * c->vpp > 1 << 20)
        return uneven(err, c, count(letters, 't'), UINT32_MAX);
    n = mri_alloc((stages + 1u) * sizeof *n);
    MR_TRY(share(c, count(letters, 't'), stages, n, err));
    for (size_t i = 0; letters[i]; i++) {
        while (letters[i] == 't' && !n[at])
            at++;
        n[at] -= letters[i] == 't';
        of[i] = letters[i] == 'E' ? 0 : letters[i] == 't' ? at : stages - 1;
    }
    *virtual_stages = stages;
out:
    free(n);
    return st;
}

mr_status mri_stage_assign(const char *letters, const mri_cfg_mesh *cfg, uint32_t **out,
                           uint32_t *virtual_stages, mr_err *err)
{
    uint32_t *of = mri_alloc((strlen(letters) + 1) * sizeof *of);
    char *layout = NULL;
    mr_status st = 0;
    if (cfg->layout && *cfg->layout) {
        MR_TRY(mri_layout_expand(cfg->layout, &layout, err));
        MR_TRY(by_layout(letters, layout, (uint32_t)cfg->pp, of, virtual_stages, err));
    } else {
        MR_TRY(by_numbers(letters, cfg, of, virtual_stages, err));
    }
out:
    free(layout);
    if (st)
        free(of);
    *out = st ? NULL : of;
    return st;
}
