/* SPDX-License-Identifier: Apache-2.0
 *
 * unit.h - what the data tests share: a unit taken straight from its plugin (no registry, so
 * that a fault here is the plugin's), its config struct filled from "key=value" words over
 * the option rows' defaults, samples with their arrays, temporary folders.
 * Small things that a test creates live until its process ends; Criterion gives each test one.
 */
#ifndef TEST_UNIT_H
#define TEST_UNIT_H
#include "core/base/base.h"
#include "mrun/data.h"
#include <criterion/criterion.h>
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static inline const mr_unit *unit_load(const char *kind, const char *name)
{
    char *path =
        mri_format("%s/plugins/%s/%s/%s-%s.so", getenv("MRUN_BUILD"), kind, name, kind, name);
    void *lib = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    cr_assert_not_null(lib, "%s", dlerror());
    const mr_plugin *p = dlsym(lib, MR_PLUGIN_SYMBOL_NAME);
    cr_assert_not_null(p, "%s exports no " MR_PLUGIN_SYMBOL_NAME, path);
    for (uint32_t i = 0; i < p->n_units; i++)
        if (!strcmp(p->units[i].kind, kind) && !strcmp(p->units[i].name, name))
            return &p->units[i];
    cr_assert_fail("%s holds no %s/%s", path, kind, name);
    return NULL;
}

static inline void unit_parse(const mr_opt *o, char *config, const char *value)
{
    void *at = config + o->offset;
    if (!value)
        return;
    switch (o->type) {
    case MR_T_BOOL: *(int32_t *)at = !strcmp(value, "true"); break;
    case MR_T_INT:
    case MR_T_SIZE: *(int64_t *)at = atoll(value); break;
    case MR_T_FLOAT:
    case MR_T_TIME: *(double *)at = atof(value); break;
    case MR_T_LIST: {
        MRI_VEC(const char *) words = { 0 };
        char *copy = mri_strdup(value), *save = NULL;
        for (char *w = strtok_r(copy, " ,", &save); w; w = strtok_r(NULL, " ,", &save))
            MRI_PUSH(&words, w);
        *(mr_list *)at = (mr_list) { words.v, words.n };
        break;
    }
    default: *(const char **)at = mri_strdup(value);
    }
}

/* words: "key=value" ..., NULL */
static inline void *unit_config(const mr_unit *u, const char *const *words)
{
    char *config = mri_alloc(u->config_size);
    for (uint32_t i = 0; i < u->n_opts; i++)
        unit_parse(&u->opts[i], config, u->opts[i].def);
    for (; words && *words; words++) {
        uint32_t i = 0;
        size_t n = strcspn(*words, "=");
        while (i < u->n_opts && (strlen(u->opts[i].key) != n || strncmp(u->opts[i].key, *words, n)))
            i++;
        cr_assert_lt(i, u->n_opts, "%s/%s has no option %s", u->kind, u->name, *words);
        unit_parse(&u->opts[i], config, *words + n + 1);
    }
    return config;
}

static const mr_host unit_host = { .size = sizeof(mr_host), .name = "test", .version = "0" };

typedef struct tok_handle {
    const mr_tokenizer_ops *ops;
    void *tok;
} tok_handle;

static inline tok_handle tok_open(const char *name, const char *const *words)
{
    const mr_unit *u = unit_load("tokenizer", name);
    tok_handle h = { u->table, NULL };
    mr_err err = MR_ERR_INIT;
    cr_assert_eq(h.ops->create(&unit_host, unit_config(u, words), &h.tok, &err), 0, "%s", err.what);
    return h;
}

typedef struct data_handle {
    const mr_data_ops *ops;
    void *data;
    int64_t seq;
} data_handle;

static inline mr_status data_open(data_handle *h, const char *name, const mr_data_env *env,
                                  const char *const *words, mr_err *err)
{
    const mr_unit *u = unit_load("data", name);
    *h = (data_handle) { u->table, NULL, env->seq };
    return h->ops->create(&unit_host, env, unit_config(u, words), &h->data, err);
}

static inline mr_data_set data_set(const data_handle *h, uint32_t i)
{
    mr_data_set set = { .size = sizeof set };
    mr_err err = MR_ERR_INIT;
    cr_assert_eq(h->ops->set(h->data, i, &set, &err), 0, "%s", err.what);
    return set;
}

static inline mr_sample sample_new(int64_t seq)
{
    size_t n = (size_t)seq * 4;
    return (mr_sample) { sizeof(mr_sample), 0,           mri_alloc(n), mri_alloc(n), mri_alloc(n),
                         mri_alloc(n),      mri_alloc(n) };
}

static inline void data_read(const data_handle *h, uint32_t set, int64_t i, mr_sample *out)
{
    mr_err err = MR_ERR_INIT;
    cr_assert_eq(h->ops->read(h->data, set, i, out, &err), 0, "%s", err.what);
}

static inline bool sample_equal(const mr_sample *a, const mr_sample *b, int64_t seq)
{
    size_t n = (size_t)seq * 4;
    return !memcmp(a->tokens, b->tokens, n) && !memcmp(a->targets, b->targets, n) &&
           !memcmp(a->positions, b->positions, n) && !memcmp(a->seq_start, b->seq_start, n) &&
           !memcmp(a->loss_weight, b->loss_weight, n);
}

static inline const char *temp_dir(void)
{
    char path[] = "/tmp/mrun-data-XXXXXX";
    cr_assert_not_null(mkdtemp(path));
    return mri_strdup(path);
}

static inline void temp_clean(const char *dir)
{
    char *cmd = mri_format("rm -rf '%s'", dir);
    cr_assert_eq(system(cmd), 0);
}

static inline const char *temp_write(const char *dir, const char *name, const void *p, size_t n)
{
    char *path = mri_format("%s/%s", dir, name);
    unlink(path); /* a file that is truncated and written again waits for the disk */
    FILE *f = fopen(path, "wb");
    cr_assert_not_null(f, "%s", path);
    cr_assert_eq(fwrite(p, 1, n, f), n);
    cr_assert_eq(fclose(f), 0);
    return path;
}

#endif
