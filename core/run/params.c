/* SPDX-License-Identifier: Apache-2.0
 * params.c - which parameters there are, their groups and their order; see params.h. Where they
 * lie: storage.c. Their values: values.c. */
#include "params.h"
#include "mrun/shard.h"
#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>

/* One rule of [optimizer] groups: "PATTERN:lr_mult=0.1:decay_mult=0:frozen". */
typedef struct rule {
    char *pattern;
    double lr_mult, decay_mult;
    bool frozen, decay_given, used;
} rule;

static mr_status parse_rule(const char *text, rule *r, mr_err *err)
{
    mr_status st = 0;
    char *copy = mri_strdup(text), *save = NULL, *end;
    char *word = strtok_r(copy, ":", &save);
    *r = (rule){ .lr_mult = 1, .decay_mult = 1 };
    r->pattern = mri_strdup(word ? word : "");
    while ((word = strtok_r(NULL, ":", &save)) && !st) {
        double *to = NULL;
        if (!strncmp(word, "lr_mult=", 8))
            to = &r->lr_mult;
        else if (!strncmp(word, "decay_mult=", 11)) {
            to = &r->decay_mult;
            r->decay_given = true;
        } else if (!strcmp(word, "frozen")) {
            r->frozen = true;
            continue;
        }
        if (to)
            *to = strtod(strchr(word, '=') + 1, &end);
        if (!to || *end || *to < 0) {
            st = mr_fail(err, MR_E_PROFILE_VALUE, MR_BLAME_USER,
                         "[optimizer] groups: '%s' in '%s' is no lr_mult=, decay_mult= (0 or more) "
                         "or frozen", word, text);
            mr_hint(err, "groups = *.bias:decay_mult=0, model.embed*:lr_mult=0.1");
        }
    }
    free(copy);
    return st;
}

/* Megatron: no decay for biases and other one-dimensional parameters. */
static void default_group(const mri_cfg_optimizer *cfg, const mri_tensor_slot *s, mri_pgroup *g)
{
    g->lr_mult = 1;
    g->decay_mult = 1;
    g->frozen = (s->desc.flags & MR_PARAM_FROZEN) != 0;
    if ((s->desc.flags & MR_PARAM_NO_DECAY) || (s->desc.type.rank < 2 && !cfg->decay_1d))
        g->decay_mult = 0;
}

static uint32_t find_group(mri_params *p, const mri_pgroup *g)
{
    for (uint32_t i = 0; i < p->groups.n; i++) {
        const mri_pgroup *h = &p->groups.v[i];
        if (h->frozen == g->frozen && h->f32 == g->f32 && h->expert == g->expert &&
            h->split == g->split && h->partial == g->partial &&
            (g->frozen || (h->lr_mult == g->lr_mult && h->decay_mult == g->decay_mult)))
            return i;
    }
    MRI_PUSH(&p->groups, *g);
    return (uint32_t)p->groups.n - 1;
}

static mr_status add_slot(mri_params *p, char *name, uint32_t instance, const mri_value *v,
                          mr_err *err)
{
    const mr_param *desc = &v->param;
    int64_t old = mri_params_find(p, name);
    if (old >= 0) {
        const mr_type *a = &p->slots.v[old].desc.type, *b = &desc->type;
        bool same = a->rank == b->rank && !memcmp(a->dim, b->dim, a->rank * sizeof a->dim[0]);
        mr_status st = 0;
        p->slots.v[old].shared = true;
        p->slots.v[old].instance = MRI_SHARED;
        if (!same)
            st = mr_fail(err, MR_E_PROGRAM, MR_BLAME_PLUGIN,
                         "parameter %s is shared by blocks that disagree on its shape", name);
        free(name);
        return st;
    }
    mri_tensor_slot s = { .name = name, .desc = *desc, .n = (uint64_t)mr_numel(&desc->type),
                          .f32 = (desc->flags & MR_PARAM_F32) != 0, .place = v->place,
                          .instance = instance };
    MRI_PUSH(&p->slots, s);
    p->count += s.n;
    return 0;
}

/* Trainable groups get the low indices: plans and scalars of updates go by them. Those that are
 * read in f32 stand where trainable and frozen ones meet, so that their masters are one range. */
static void sort_groups(mri_params *p)
{
    uint32_t to[64], next = 0;
    mri_pgroup sorted[64];
    MRI_ASSERT(p->groups.n <= 64);
    for (int place = 0; place < 4; place++)
        for (uint32_t g = 0; g < p->groups.n; g++) {
            const mri_pgroup *x = &p->groups.v[g];
            if ((x->frozen ? 3 - x->f32 : x->f32) == place) {
                to[g] = next;
                sorted[next++] = *x;
            }
        }
    memcpy(p->groups.v, sorted, p->groups.n * sizeof *sorted);
    for (size_t i = 0; i < p->slots.n; i++)
        p->slots.v[i].group = to[p->slots.v[i].group];
}

static void lay_slots(mri_params *p, uint32_t group, const mri_bucket *b)
{
    for (size_t i = 0; i < 2 * p->slots.n; i++) {
        mri_tensor_slot *s = &p->slots.v[i % p->slots.n];
        if (s->group != group || s->shared != (i >= p->slots.n) ||
            (b && (s->instance < b->first || s->instance > b->last)))
            continue;
        s->at = p->total;
        p->total += (s->n + MRI_PARAM_ALIGN - 1) / MRI_PARAM_ALIGN * MRI_PARAM_ALIGN;
    }
}

static void lay_bucket(mri_params *p, mri_bucket *b)
{
    uint64_t unit = (uint64_t)b->ranks * MRI_PARAM_ALIGN;
    b->at = p->total;
    lay_slots(p, b->group, b);
    b->n = (p->total - b->at + unit - 1) / unit * unit;
    p->total = b->at + b->n;
    b->own = b->strategy == MR_SHARD_NONE ? b->at : b->at + b->n / b->ranks * b->index;
    b->own_n = b->strategy == MR_SHARD_NONE ? b->n : b->n / b->ranks;
}

/* Gives every parameter its range, group by group. */
static void lay_out(mri_params *p)
{
    p->total = p->trainable = p->f32_at = p->f32_n = 0;
    for (uint32_t g = 0; g < p->groups.n; g++) {
        mri_pgroup *x = &p->groups.v[g];
        x->at = p->total;
        for (size_t i = 0; i < p->buckets.n; i++)
            if (p->buckets.v[i].group == g)
                lay_bucket(p, &p->buckets.v[i]);
        if (x->frozen || !p->buckets.n)
            lay_slots(p, g, NULL);
        x->n = p->total - x->at;
        if (!x->frozen)
            p->trainable = p->total;
        if (x->f32 && !p->f32_n)
            p->f32_at = x->at;
        p->f32_n += x->f32 ? x->n : 0;
    }
}

void mri_params_cut(mri_params *p, mri_bucket *buckets, size_t n)
{
    free(p->buckets.v);
    p->buckets.v = buckets;
    p->buckets.n = p->buckets.cap = n;
    lay_out(p);
}

mr_status mri_params_plan(const mri_assembly *a, const mri_cfg_optimizer *cfg, const char *dtype,
                          bool split, mri_params *out, mr_err *err)
{
    mr_status st = 0;
    MRI_VEC(rule) rules = { 0 };
    memset(out, 0, sizeof *out);
    out->dtype = dtype;
    out->acc_dtype = strcmp(dtype, "f64") ? "f32" : "f64";
    out->split = split && !strcmp(dtype, "bf16");
    for (uint64_t i = 0; i < cfg->groups.n; i++) {
        rule r;
        st = parse_rule(cfg->groups.v[i], &r, err);
        MRI_PUSH(&rules, r);
        if (st)
            goto out;
    }
    for (uint32_t i = 0; i < a->instances.n; i++) {
        const mr_prog *p = a->kinds.v[a->instances.v[i].kind].prog;
        for (size_t v = 0; v < p->values.n; v++)
            if (p->values.v[v].kind == MRI_PARAM)
                MR_TRY(add_slot(out, mri_assembly_full_name(a, i, p->values.v[v].name), i,
                                &p->values.v[v], err));
    }
    for (size_t i = 0; i < out->slots.n; i++) {
        mri_pgroup g = { .f32 = out->slots.v[i].f32 && !mri_params_one_copy(out) };
        const mri_place *place = &out->slots.v[i].place;
        g.expert = place->expert;
        g.split = place->split;
        g.partial = place->partial;
        default_group(cfg, &out->slots.v[i], &g);
        for (size_t r = 0; r < rules.n; r++)
            if (!fnmatch(rules.v[r].pattern, out->slots.v[i].name, 0)) {
                rules.v[r].used = true;
                g.lr_mult *= rules.v[r].lr_mult;
                g.decay_mult = rules.v[r].decay_given ? rules.v[r].decay_mult : g.decay_mult;
                g.frozen |= rules.v[r].frozen;
            }
        out->slots.v[i].group = find_group(out, &g);
        if (out->groups.n > 64) {
            st = mr_fail(err, MR_E_PROFILE_VALUE, MR_BLAME_USER,
                         "[optimizer] groups make more than 64 groups of parameters");
            goto out;
        }
    }
    for (size_t r = 0; r < rules.n; r++)
        if (!rules.v[r].used && out->slots.n) {
            st = mr_fail(err, MR_E_PROFILE_VALUE, MR_BLAME_USER,
                         "[optimizer] groups: '%s' matches none of the %zu parameters",
                         rules.v[r].pattern, out->slots.n);
            mr_detail(err, "the first is %s, the last %s", out->slots.v[0].name,
                      out->slots.v[out->slots.n - 1].name);
            mr_hint(err, "patterns are globs over full names: *.self_attn.*, model.embed*");
            goto out;
        }
    sort_groups(out);
    lay_out(out);
out:
    for (size_t i = 0; i < rules.n; i++)
        free(rules.v[i].pattern);
    free(rules.v);
    if (st)
        mri_params_free(out, NULL);
    return st;
}

void mri_params_free(mri_params *p, mri_device *d)
{
    if (d && d->ops)
        mri_params_release(p, d);
    for (size_t i = 0; i < p->slots.n; i++)
        free((char *)p->slots.v[i].name);
    free(p->slots.v);
    free(p->groups.v);
    free(p->buckets.v);
    memset(p, 0, sizeof *p);
}

int64_t mri_params_find(const mri_params *p, const char *name)
{
    for (size_t i = 0; i < p->slots.n; i++)
        if (!strcmp(p->slots.v[i].name, name))
            return (int64_t)i;
    return -1;
}

bool mri_params_frozen(const void *params, const char *name)
{
    const mri_params *p = params;
    int64_t i = mri_params_find(p, name);
    return i >= 0 && p->groups.v[p->slots.v[i].group].frozen;
}
