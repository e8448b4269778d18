/* SPDX-License-Identifier: Apache-2.0
 *
 * config.c - a whole profile resolved: core's sections, the chosen plugins and their rows,
 * then what no single row can check.
 *
 * Invariant: mri_config_load() either returns a config in which every value of the profile
 * was read by someone (or belongs to a plugin that is not chosen), or an error.
 */
#include "core/plugin/registry.h"
#include "place.h"
#include "sections.h"
#include "slots.h"
#include <stdlib.h>
#include <string.h>

typedef struct whole {
    mri_config c; /* first: the public part is the whole's address */
    MRI_VEC(mri_choice) choices;
} whole;

typedef struct plugin_key { /* `plugin =` of one kind */
    const char *one;
    mr_list many;
} plugin_key;

typedef struct loader {
    whole *w;
    mri_profile *p;
    mri_registry *reg;
    const mri_job_needs *job;
    MRI_VEC(char *) unread; /* sections of plugins that are not chosen */
    mr_err *err;
} loader;

static bool has_word(const char *words, const char *word)
{
    size_t n = strlen(word);
    for (const char *w = words; (w = strstr(w, word)); w += n)
        if ((w == words || w[-1] == ' ') && (!w[n] || w[n] == ' '))
            return true;
    return false;
}

MR_PRINTF(4, 5) static mr_status conflict(loader *l, const char *section, const char *key,
                                          const char *fmt, ...)
{
    const mri_entry *e = mri_profile_get(l->p, section, key);
    mri_origin none = { NULL, 0, "default", NULL };
    const mri_origin *o = e ? &e->origin : &none;
    mri_str what = { 0 };
    va_list ap;
    va_start(ap, fmt);
    mri_str_vfmt(&what, fmt, ap);
    va_end(ap);
    mri_place_fail(l->err, MR_E_PROFILE_CONFLICT, o, mri_place_value(o), NULL, "[%s] %s", section,
                   what.s);
    mri_str_free(&what);
    mr_hint(l->err, "run: mrun explain %s.%s", section, key);
    return MR_E_PROFILE_CONFLICT;
}

/* ---- core's sections ------------------------------------------------------------------ */

/* runs/NAME for NAME.ini, and its checkpoints inside: defaults that depend on other values */
static void derive_run_dir(mri_profile *p, const char *path)
{
    if (!path)
        return;
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    size_t n = strlen(name);
    if (n > 4 && !strcmp(name + n - 4, ".ini"))
        n -= 4;
    char *dir = mri_format("runs/%.*s", (int)n, name);
    mri_profile_default(p, "run", "dir", dir);
    free(dir);
}

static void derive_checkpoint_dir(mri_profile *p, const char *run_dir)
{
    if (!run_dir)
        return;
    char *dir = mri_format("%s/checkpoints", run_dir);
    mri_profile_default(p, "checkpoint", "dir", dir);
    free(dir);
}

static mr_status fill_core(loader *l, const char *path)
{
    size_t n;
    const mri_section *s = mri_sections(&n);
    derive_run_dir(l->p, path);
    for (size_t i = 0; i < n; i++) {
        if (!strcmp(s[i].name, "checkpoint"))
            derive_checkpoint_dir(l->p, l->w->c.run.dir);
        mr_status st = mri_profile_fill(l->p, s[i].name, s[i].opts, s[i].n_opts,
                                        (char *)&l->w->c + s[i].offset, s[i].size, l->err);
        if (st)
            return st;
    }
    l->w->c.model.sizes.size = sizeof l->w->c.model.sizes;
    if (!mri_profile_get(l->p, "model", "seed"))
        l->w->c.model.sizes.seed = l->w->c.run.seed;
    return 0;
}

/* ---- the plugins ------------------------------------------------------------------------ */

static mr_status not_found(loader *l, const mri_kind *k, const mri_entry *e, const char *name,
                           mr_status st, const mr_err *inner)
{
    mri_origin none = { NULL, 0, "default", NULL };
    mri_place_fail(l->err, st, e ? &e->origin : &none, (mri_span){ 0, 0 }, NULL,
                   "[%s] plugin = %s : %s", k->name, name, inner->what);
    if (l->err) {
        l->err->blame = inner->blame;
        l->err->native = inner->native;
    }
    mr_detail(l->err, "%s", inner->detail);
    mr_hint(l->err, "%s", inner->hint);
    if (st != MR_E_PLUGIN_NOT_FOUND)
        return st;
    size_t n = 0;
    const char **names = mri_registry_names(l->reg, k->name, &n);
    const char *near = mri_nearest(name, names, n);
    if (near)
        mr_hint(l->err, "did you mean '%s'?", near);
    free(names);
    return st;
}

/* A name with '/' is a file, found from the profile that names it. */
static char *plugin_name(const mri_entry *e, const char *name)
{
    if (!strchr(name, '/'))
        return mri_strdup(name);
    char *dir = e ? mri_origin_dir(&e->origin) : NULL, *why;
    char *path = mri_path_resolve(name, dir, &why);
    free(dir);
    if (path)
        return path;
    free(why);
    return mri_strdup(name); /* the registry says what is wrong with it */
}

/* [run] threads is the wish of the whole run: it stands where the backend that takes threads
 * has none of its own. */
static mr_status pass_threads(loader *l, const mri_kind *k, const mr_unit *u, const char *section)
{
    const mri_entry *run = mri_profile_get(l->p, "run", "threads");
    if (strcmp(k->name, "backend") || !l->w->c.run.threads || !run ||
        mri_profile_get(l->p, section, "threads"))
        return 0;
    const char *row = (const char *)u->opts;
    for (uint32_t i = 0; i < u->n_opts; i++, row += ((const mr_opt *)(const void *)row)->size) {
        if (strcmp(((const mr_opt *)(const void *)row)->key, "threads"))
            continue;
        char *set = mri_format("%s.threads=%s", section, run->value);
        mr_status st = mri_profile_set(l->p, set, l->err);
        free(set);
        return st;
    }
    return 0;
}

static mr_status choose(loader *l, const mri_kind *k, const char *name)
{
    const mri_entry *e = mri_profile_get(l->p, k->name, "plugin");
    const mr_unit *u = NULL;
    mr_err inner = MR_ERR_INIT;
    char *full = plugin_name(e, name);
    mr_status st = mri_registry_find(l->reg, k->name, full, &u, &inner);
    free(full);
    if (st)
        return not_found(l, k, e, name, st, &inner);
    for (size_t i = 0; i < l->w->choices.n; i++)
        if (l->w->choices.v[i].unit == u)
            return conflict(l, k->name, "plugin", "plugin '%s' is listed twice", u->name);

    mri_choice choice = { k->name, u, mri_alloc(u->config_size) };
    MRI_PUSH(&l->w->choices, choice);
    char *section = mri_format("%s.%s", k->name, u->name);
    st = pass_threads(l, k, u, section);
    if (!st)
        st = mri_profile_fill(l->p, section, u->opts, u->n_opts, choice.config, u->config_size,
                              l->err);
    free(section);
    return st;
}

static mr_status no_plugin(loader *l, const mri_kind *k)
{
    mr_fail(l->err, MR_E_PROFILE_MISSING, MR_BLAME_USER,
            "[%s] plugin is not set, and job '%s' needs a %s", k->name, l->job->name, k->name);
    mr_detail(l->err, "%s: %s", k->name, k->doc);
    mr_hint(l->err, "run: mrun explain %s", k->name);
    return MR_E_PROFILE_MISSING;
}

static mr_status load_kind(loader *l, const mri_kind *k)
{
    mr_opt row = { sizeof row, k->many ? MR_T_LIST : MR_T_STR, 0, 0, "plugin", k->default_plugin,
                   k->doc, "none", 0, 0, NULL };
    row.offset = k->many ? (uint32_t)offsetof(plugin_key, many) : 0;
    mr_opt *kept = mri_profile_own(l->p, mri_alloc(sizeof row));
    *kept = row; /* the profile keeps rows for its advice */
    plugin_key key;
    mr_status st = mri_profile_fill(l->p, k->name, kept, 1, &key, sizeof key, l->err);
    bool needed = has_word(l->job->needs, k->name);
    if (st || (!needed && !has_word(l->job->takes, k->name)))
        return st;

    if (!k->many) {
        bool none = !key.one || !strcmp(key.one, "none");
        return !none ? choose(l, k, key.one) : needed ? no_plugin(l, k) : 0;
    }
    for (uint64_t i = 0; i < key.many.n && !st; i++)
        st = choose(l, k, key.many.v[i]);
    return st;
}

static bool same_but_digits(const char *a, const char *b)
{
    for (;;) {
        a += strspn(a, "0123456789");
        b += strspn(b, "0123456789");
        if (!*a || *a != *b)
            return *a == *b;
        a++;
        b++;
    }
}

/* [backend.cuda] may stay when backend is cpu, even where cuda is not built; [backend.cpuu]
 * is a slip of the pen. (llama3 beside llama4 is no slip.) */
static mr_status check_unread(loader *l, const char *kind, const char *section, const char *name)
{
    size_t n = 0;
    const char **names = mri_registry_names(l->reg, kind, &n);
    const char *near = mri_nearest(name, names, n);
    mr_status st = 0;
    if (near && strcmp(near, name) && !same_but_digits(near, name)) {
        for (size_t i = 0; !st && i < mri_profile_count(l->p); i++) {
            const mri_entry *e = mri_profile_at(l->p, i);
            if (strcmp(e->section, section))
                continue;
            st = mri_place_fail(l->err, MR_E_PROFILE_KEY, &e->origin, mri_place_key(&e->origin),
                                NULL, "[%s]: there is no %s '%s', did you mean [%s.%s]?", section,
                                kind, name, kind, near);
            mr_hint(l->err, "run: mrun plugins");
        }
    }
    free(names);
    return st;
}

static mr_status collect_unread(loader *l)
{
    size_t n;
    const mri_kind *k = mri_kinds(&n);
    const char *section;
    for (size_t i = 0; (section = mri_profile_section(l->p, i)); i++)
        for (size_t j = 0; j < n; j++) {
            size_t len = strlen(k[j].name);
            if (strncmp(section, k[j].name, len) || section[len] != '.' || !section[len + 1] ||
                strchr(section, '@') || mri_profile_was_filled(l->p, section))
                continue;
            MRI_PUSH(&l->unread, mri_strdup(section));
            mr_status st = check_unread(l, k[j].name, section, section + len + 1);
            if (st)
                return st;
        }
    return 0;
}

/* ---- what no single row can check --------------------------------------------------------- */

static mr_status check_mesh(loader *l)
{
    mri_cfg_mesh *m = &l->w->c.mesh;
    const struct {
        const char *name;
        int64_t n;
    } axis[] = { { "dp", m->dp }, { "tp", m->tp }, { "pp", m->pp }, { "cp", m->cp },
                 { "ep", m->ep } };
    bool alone = !mri_config_choice(&l->w->c, "comm", 0);
    for (size_t i = 0; alone && i < sizeof axis / sizeof *axis; i++)
        if (axis[i].n > 1)
            return conflict(l, "mesh", axis[i].name,
                            "%s = %lld needs more than one process, and [comm] plugin = none",
                            axis[i].name, (long long)axis[i].n);
    if (m->vpp > 1 && m->pp == 1)
        return conflict(l, "mesh", "vpp", "vpp = %lld divides pipeline stages, and pp = 1",
                        (long long)m->vpp);
    if (alone)
        m->dp = 1;
    return 0;
}

static mr_status check_batch(loader *l)
{
    mri_cfg_train *t = &l->w->c.train;
    int64_t dp = l->w->c.mesh.dp, unit = t->micro_batch * (dp ? dp : 1);
    if (!t->global_batch)
        t->global_batch = dp ? unit : 0;
    if (t->global_batch % unit)
        return conflict(l, "train", "global_batch",
                        "global_batch = %lld is not a multiple of micro_batch x dp = %lld x %lld",
                        (long long)t->global_batch, (long long)t->micro_batch,
                        (long long)(dp ? dp : 1));
    if (!t->rampup_start)
        return 0;
    int64_t rise = t->global_batch - t->rampup_start;
    if (!t->rampup_increment || t->rampup_start % unit || t->rampup_increment % unit || rise < 0 ||
        rise % t->rampup_increment)
        return conflict(l, "train", "rampup_start",
                        "ramp-up from %lld by %lld does not meet global_batch = %lld in steps of "
                        "micro_batch x dp = %lld", (long long)t->rampup_start,
                        (long long)t->rampup_increment, (long long)t->global_batch,
                        (long long)unit);
    return 0;
}

static mr_status check_optimizer(loader *l)
{
    const mri_cfg_optimizer *o = &l->w->c.optimizer;
    int64_t steps = o->decay_steps ? o->decay_steps : l->w->c.train.steps;
    if (o->min_lr > o->lr)
        return conflict(l, "optimizer", "min_lr", "min_lr = %g is above lr = %g", o->min_lr, o->lr);
    if (o->init_lr > o->lr)
        return conflict(l, "optimizer", "init_lr", "init_lr = %g is above lr = %g", o->init_lr,
                        o->lr);
    if (o->warmup > steps)
        return conflict(l, "optimizer", "warmup", "warmup = %lld is longer than the %lld steps",
                        (long long)o->warmup, (long long)steps);
    if (!strcmp(o->schedule, "wsd") && (!o->wsd_steps || o->warmup + o->wsd_steps > steps))
        return conflict(l, "optimizer", "wsd_steps",
                        "wsd_steps = %lld and warmup = %lld must fit the %lld steps, and wsd_steps "
                        "not be 0", (long long)o->wsd_steps, (long long)o->warmup,
                        (long long)steps);
    return 0;
}

static mr_status check_key(loader *l)
{
    const mri_job_needs *j = l->job;
    if (!j->key || mri_profile_get(l->p, j->section, j->key))
        return 0;
    mr_fail(l->err, MR_E_PROFILE_MISSING, MR_BLAME_USER,
            "[%s] %s is not set, and job '%s' needs it", j->section, j->key, j->name);
    mr_hint(l->err, "run: mrun explain %s.%s", j->section, j->key);
    return MR_E_PROFILE_MISSING;
}

static mr_status cross_check(loader *l)
{
    mr_status st = check_key(l);
    if (!st)
        st = check_mesh(l);
    if (!st && l->job->section && !strcmp(l->job->section, "train")) {
        st = check_batch(l);
        if (!st)
            st = check_optimizer(l);
    }
    return st;
}

/* ---- all of it ------------------------------------------------------------------------------ */

static const mri_job_needs *find_job(const char *name)
{
    size_t n;
    const mri_job_needs *j = mri_jobs(&n);
    for (size_t i = 0; i < n; i++)
        if (!strcmp(j[i].name, name))
            return &j[i];
    MRI_ASSERT(!"job.run's choices and the job table differ");
    return NULL;
}

static mr_status load_kinds(loader *l)
{
    size_t n;
    const mri_kind *k = mri_kinds(&n);
    for (size_t i = 0; i < n; i++) {
        mr_status st = load_kind(l, &k[i]);
        if (st)
            return st;
    }
    return 0;
}

mr_status mri_config_load(struct mri_registry *reg, const char *path, const char *const *sets,
                          size_t n_sets, mri_config **out, mr_err *err)
{
    loader l = { .w = mri_alloc(sizeof(whole)), .reg = reg, .err = err };
    mr_status st = 0;
    *out = NULL;
    MR_TRY(mri_profile_load(path, sets, n_sets, &l.w->c.profile, err));
    l.p = l.w->c.profile;
    MR_TRY(fill_core(&l, path));
    l.job = find_job(l.w->c.job.run);
    MR_TRY(load_kinds(&l));
    MR_TRY(collect_unread(&l));
    MR_TRY(mri_profile_finish(l.p, (const char *const *)l.unread.v, l.unread.n, err));
    MR_TRY(cross_check(&l));
    *out = &l.w->c;
out:
    for (size_t i = 0; i < l.unread.n; i++)
        free(l.unread.v[i]);
    free(l.unread.v);
    if (st)
        mri_config_free(&l.w->c);
    return st;
}

void mri_config_free(mri_config *c)
{
    whole *w = (whole *)c;
    if (!w)
        return;
    for (size_t i = 0; i < w->choices.n; i++)
        free(w->choices.v[i].config);
    free(w->choices.v);
    mri_profile_free(w->c.profile);
    free(w);
}

const mri_choice *mri_config_choice(const mri_config *c, const char *kind, size_t i)
{
    const whole *w = (const whole *)c;
    for (size_t j = 0; j < w->choices.n; j++)
        if (!strcmp(w->choices.v[j].kind, kind) && !i--)
            return &w->choices.v[j];
    return NULL;
}
