/* SPDX-License-Identifier: Apache-2.0
 * host.c - the other half of fake.h: opening a plugin, options, config.json, assemblies. */
#include "fake.h"
#include <criterion/criterion.h>
#include <dlfcn.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

/* ---- mrun.json/1 over jansson ---------------------------------------------------------- */
static const json_t *look(const void *json, const char *path)
{
    const json_t *at = json;
    char part[64];
    while (at && *path) {
        size_t n = strcspn(path, ".");
        snprintf(part, sizeof part, "%.*s", (int)n, path);
        at =
            json_is_array(at) ? json_array_get(at, (size_t)atoll(part)) : json_object_get(at, part);
        path += n + (path[n] == '.');
    }
    return at;
}

static int32_t js_number(const void *json, const char *path, double *out)
{
    const json_t *v = look(json, path);
    if (!json_is_number(v) && !json_is_boolean(v))
        return 0;
    *out = json_is_boolean(v) ? json_is_true(v) : json_number_value(v);
    return 1;
}

static int32_t js_string(const void *json, const char *path, const char **out)
{
    const json_t *v = look(json, path);
    if (!json_is_string(v))
        return 0;
    *out = json_string_value(v);
    return 1;
}

static int64_t js_length(const void *json, const char *path)
{
    const json_t *v = look(json, path);
    return json_is_array(v) ? (int64_t)json_array_size(v) : -1;
}

static int32_t js_has(const void *json, const char *path)
{
    const json_t *v = look(json, path);
    return v && !json_is_null(v);
}

static int32_t js_is_null(const void *json, const char *path)
{
    return json_is_null(look(json, path));
}

static const mr_json_service js = { sizeof js, 0, js_number, js_string, js_length, js_has,
                                    js_is_null };

static const void *host_ext(void *self, const char *id)
{
    (void)self;
    return strcmp(id, MR_EXT_JSON) ? NULL : &js;
}

static void host_log(void *self, uint32_t level, const char *unit, const char *msg)
{
    (void)self, (void)level, (void)unit, (void)msg;
}

static const mr_host host = { sizeof host, MR_ABI_MAJOR, MR_ABI_MINOR, 0,        "fake",
                              "0",         NULL,         host_log,     host_ext, NULL };

/* ---- options ---------------------------------------------------------------------------- */
static void set_option(fk_model *m, const mr_opt *o, const char *text)
{
    void *at = (char *)m->config + o->offset;
    if (!text)
        return;
    switch (o->type) {
    case MR_T_BOOL: *(int32_t *)at = !strcmp(text, "true"); break;
    case MR_T_INT:
    case MR_T_SIZE: *(int64_t *)at = atoll(text); break;
    case MR_T_FLOAT: *(double *)at = atof(text); break;
    case MR_T_LIST: {
        mr_list *l = at;
        const char **v = mri_alloc(16 * sizeof *v);
        char *copy = mri_strdup(text), *save = NULL;
        MRI_PUSH(&m->pool, (void *)v);
        MRI_PUSH(&m->pool, (void *)copy);
        for (char *w = strtok_r(copy, ",", &save); w && l->n < 16; w = strtok_r(NULL, ",", &save))
            v[l->n++] = w;
        l->v = v;
        break;
    }
    default: *(const char **)at = text;
    }
}

static bool set_size(mr_model_sizes *s, const char *key, const char *value)
{
    const struct {
        const char *key;
        int64_t *i;
        double *f;
    } row[] = {
        { "layers", &s->layers, 0 },     { "hidden", &s->hidden, 0 },
        { "heads", &s->heads, 0 },       { "kv_heads", &s->kv_heads, 0 },
        { "head_dim", &s->head_dim, 0 }, { "ffn_hidden", &s->ffn_hidden, 0 },
        { "vocab", &s->vocab, 0 },       { "max_positions", &s->max_positions, 0 },
        { "norm_eps", 0, &s->norm_eps }, { "rope_theta", 0, &s->rope_theta },
        { "init_std", 0, &s->init_std },
    };
    for (size_t i = 0; i < sizeof row / sizeof *row; i++)
        if (!strcmp(key, row[i].key)) {
            if (row[i].i)
                *row[i].i = atoll(value);
            else
                *row[i].f = atof(value);
            return true;
        }
    return false;
}

/* "key=value key=value": a later one wins, so a test can append to a common text */
static void set_all(fk_model *m, mr_model_sizes *s, const char *sizes)
{
    char *copy = mri_strdup(sizes ? sizes : ""), *save = NULL;
    MRI_PUSH(&m->pool, (void *)copy);
    for (uint32_t i = 0; i < m->unit->n_opts; i++)
        set_option(m, &m->unit->opts[i], m->unit->opts[i].def);
    for (char *w = strtok_r(copy, " ", &save); w; w = strtok_r(NULL, " ", &save)) {
        char *value = strchr(w, '=');
        cr_assert(value);
        *value++ = 0;
        bool known = set_size(s, w, value);
        for (uint32_t i = 0; i < m->unit->n_opts && !known; i++)
            if (!strcmp(m->unit->opts[i].key, w)) {
                set_option(m, &m->unit->opts[i], value);
                known = true;
            }
        cr_assert(known, "no option %s", w);
    }
}

/* ---- the assembly ------------------------------------------------------------------------ */
static int32_t a_instance(mr_asm *a, const char *kind, const char *prefix)
{
    fk_instance in;
    snprintf(in.kind, sizeof in.kind, "%s", kind);
    snprintf(in.prefix, sizeof in.prefix, "%s", prefix);
    MRI_PUSH(&a->at, in);
    return (int32_t)a->at.n - 1;
}

static void a_edge(mr_asm *a, int32_t from, const char *out, int32_t to, const char *in)
{
    (void)a, (void)from, (void)out, (void)to, (void)in;
}

static void a_bind(mr_asm *a, int32_t instance, const char *name, const char *full_name)
{
    fk_named b = { .v = (mr_val)instance };
    snprintf(b.name, sizeof b.name, "%s", name);
    MRI_PUSH(&a->binds, b);
    MRI_PUSH(&a->bound_to, mri_strdup(full_name));
}

static const mr_assembler assembler = { sizeof assembler, 0, a_instance, a_edge, a_bind };

static const char *built(const char *name)
{
    static char path[512];
    const char *build = getenv("MRUN_BUILD");
    cr_assert(build, "run through meson test: MRUN_BUILD is not set");
    snprintf(path, sizeof path, "%s/plugins/model/%s/%s.so", build, name, name);
    return path;
}

const char *fk_llama4(void)
{
    return built("llama4");
}

const char *fk_kimi_k2(void)
{
    return built("kimi_k2");
}

mr_status fk_open(fk_model *m, const char *so, const char *sizes, const char *json, mr_err *err)
{
    memset(m, 0, sizeof *m);
    void *lib = dlopen(so, RTLD_NOW | RTLD_LOCAL);
    cr_assert(lib, "%s", dlerror());
    const mr_plugin *plugin = dlsym(lib, MR_PLUGIN_SYMBOL_NAME);
    cr_assert(plugin && !strcmp(plugin->magic, MR_PLUGIN_MAGIC));
    m->unit = &plugin->units[0];
    cr_assert_str_eq(m->unit->kind, "model");
    m->ops = m->unit->table;
    m->config = mri_alloc(m->unit->config_size);
    mr_model_sizes s = { .size = sizeof s };
    set_all(m, &s, sizes);
    json_error_t je;
    m->json = json ? json_loads(json, 0, &je) : NULL;
    cr_assert(!json || m->json, "test's own JSON: %s", json ? je.text : "");
    mr_model_env env = { sizeof env, 0, &s, m->json };
    mr_status st = m->ops->create(&host, &env, m->config, &m->model, err);
    if (!st)
        st = m->ops->assemble(m->model, &assembler, &m->as, err);
    return st;
}

void fk_close(fk_model *m)
{
    if (m->model)
        m->ops->destroy(m->model);
    json_decref(m->json);
    free(m->config);
    for (size_t i = 0; i < m->pool.n; i++)
        free(m->pool.v[i]);
    free(m->pool.v);
    for (size_t i = 0; i < m->as.bound_to.n; i++)
        free(m->as.bound_to.v[i]);
    free(m->as.bound_to.v);
    free(m->as.binds.v);
    free(m->as.at.v);
    memset(m, 0, sizeof *m);
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static bool is_bound(const fk_model *m, size_t instance, const char *name)
{
    for (size_t i = 0; i < m->as.binds.n; i++)
        if (m->as.binds.v[i].v == instance && !strcmp(m->as.binds.v[i].name, name))
            return true;
    return false;
}

typedef MRI_VEC(char *) line_list;

static char *line_of(const char *folder, int n, const char *name, const mr_type *t, uint32_t first)
{
    mri_str s = { 0 };
    mri_str_fmt(&s, "%.*s%s [", n, folder, name);
    for (uint32_t d = first; d < t->rank; d++)
        mri_str_fmt(&s, "%s%lld", d > first ? "," : "", (long long)t->dim[d]);
    mri_str_add(&s, "]\n");
    return mri_str_take(&s);
}

/* The tensors of an [E, ...] parameter, `tensors` being "#.a #.b": each has an equal share of
 * the second dim. */
static void add_tensors(line_list *to, const char *full, const fk_param *q)
{
    const char *dot = strrchr(full, '.');
    mr_type t = q->type;
    int64_t n = 1;
    for (const char *s = q->tensors; *s; s++)
        n += *s == ' ';
    t.dim[1] /= n;
    for (int64_t e = 0; e < t.dim[0]; e++) {
        char *copy = mri_strdup(q->tensors), *save = NULL;
        for (char *w = strtok_r(copy, " ", &save); w; w = strtok_r(NULL, " ", &save)) {
            cr_assert_eq(*w, '#');
            char *name = mri_format("%lld%s", (long long)e, w + 1);
            MRI_PUSH(to, line_of(full, (int)(dot + 1 - full), name, &t, 1));
            free(name);
        }
        free(copy);
    }
}

static char *parameters(fk_model *m, bool stored)
{
    line_list lines = { 0 };
    mri_str all = { 0 };
    for (size_t i = 0; i < m->as.at.n; i++) {
        mr_prog *p = fk_build(m, m->as.at.v[i].kind, "train", 4);
        for (size_t j = 0; j < p->params.n; j++) {
            const fk_param *q = &p->params.v[j];
            if (is_bound(m, i, q->name))
                continue;
            char *full = mri_format("%s%s", m->as.at.v[i].prefix, q->name);
            if (stored && *q->tensors && !(q->flags & MR_PARAM_WHOLE))
                add_tensors(&lines, full, q);
            else
                MRI_PUSH(&lines, line_of("", 0, full, &q->type, 0));
            free(full);
        }
        fk_free(p);
    }
    qsort(lines.v, lines.n, sizeof *lines.v, by_text);
    for (size_t i = 0; i < lines.n; i++) {
        mri_str_add(&all, lines.v[i]);
        free(lines.v[i]);
    }
    free(lines.v);
    return mri_str_take(&all);
}

char *fk_parameters(fk_model *m)
{
    return parameters(m, false);
}

char *fk_tensors(fk_model *m)
{
    return parameters(m, true);
}

char *fk_describe(fk_model *m, const char *mode)
{
    mri_str all = { 0 };
    for (size_t i = 0; i < m->as.at.n; i++) {
        mr_prog *p = fk_build(m, m->as.at.v[i].kind, mode, 4);
        char *text = fk_text(p);
        mri_str_fmt(&all, "%s as %s\n%s", m->as.at.v[i].prefix, m->as.at.v[i].kind, text);
        free(text);
        fk_free(p);
    }
    for (size_t i = 0; i < m->as.binds.n; i++)
        mri_str_fmt(&all, "%s is %s\n", m->as.binds.v[i].name, m->as.bound_to.v[i]);
    return mri_str_take(&all);
}
