/* SPDX-License-Identifier: Apache-2.0
 *
 * check_life.c - conformance of a plugin's life: opened, made, destroyed, and nothing left
 * behind. Also makes the instances that the kinds' own suites use, with small settings.
 */
#include "check.h"
#include "mrun/backend.h"
#include "mrun/data.h"
#include "mrun/model.h"
#include "mrun/optimizer.h"
#include "mrun/graph.h"
#include "mrun/shard.h"
#include "mrun/sink.h"
#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* ---- small settings ------------------------------------------------------------------------ */

static const mr_model_sizes small_model = {
    .size = sizeof small_model, .layers = 2, .hidden = 32, .heads = 4, .kv_heads = 2, .head_dim = 8,
    .ffn_hidden = 64, .vocab = 256, .max_positions = 64, .norm_eps = 1e-5, .rope_theta = 10000,
    .init_std = 0.02, .seed = 1,
};

static mr_status bytes_info(void *tok, mr_tokenizer_info *out, mr_err *err)
{
    (void)tok;
    (void)err;
    out->vocab = 257;
    out->bos = out->eos = out->pad = -1;
    out->eod = 256;
    return 0;
}

static mr_status bytes_encode(void *tok, const char *text, uint64_t n, int32_t *ids, uint64_t cap,
                              uint64_t *n_ids, mr_err *err)
{
    (void)tok;
    (void)err;
    for (uint64_t i = 0; i < n && i < cap; i++)
        ids[i] = (unsigned char)text[i];
    *n_ids = n;
    return 0;
}

static mr_status bytes_decode(void *tok, const int32_t *ids, uint64_t n, char *text, uint64_t cap,
                              uint64_t *n_text, mr_err *err)
{
    (void)tok;
    (void)err;
    for (uint64_t i = 0; i < n && i < cap; i++)
        text[i] = (char)ids[i];
    *n_text = n;
    return 0;
}

/* what a data plugin gets for a tokenizer; made by nobody, so create is NULL */
static const mr_tokenizer_ops bytes = { sizeof bytes, 0, NULL, NULL, bytes_info, bytes_encode,
                                        bytes_decode };

/* ---- instances ----------------------------------------------------------------------------- */

void *check_config(check *c)
{
    const mr_unit *u = c->unit;
    mr_err err = MR_ERR_INIT;
    mri_profile *p;
    void *config = mri_alloc(u->config_size);
    char *section = mri_format("%s.%s", u->kind, u->name);
    mr_status st = mri_profile_load(NULL, c->args->sets.v, c->args->sets.n, &p, &err);
    if (!st)
        st = mri_profile_fill(p, section, u->opts, u->n_opts, config, u->config_size, &err);
    /* the profile holds the config's strings: it stays until this process ends */
    if (st == MR_E_PROFILE_MISSING)
        check_skip(c, "%s (give it with --set)", err.what);
    else if (st)
        check_fail_err(c, "filling the options", &err);
    free(section);
    if (!st)
        return config;
    free(config);
    return NULL;
}

typedef struct maker {
    const char *kind;
    mr_status (*make)(check *c, const void *config, void **instance, mr_err *err);
    void (*drop)(const mr_unit *u, void *instance);
} maker;

static mr_status make_backend(check *c, const void *config, void **instance, mr_err *err)
{
    const mr_backend_ops *ops = c->unit->table;
    const mr_host *host = mri_registry_host(c->a->registry);
    uint32_t n = 0;
    mr_status st = ops->count(host, config, &n, err);
    if (!st && !n)
        st = mr_fail(err, MR_E_DEVICE, MR_BLAME_ENV, "this machine has no device for it");
    return st ? st : ops->open(host, config, 0, instance, err);
}

static void drop_backend(const mr_unit *u, void *instance)
{
    ((const mr_backend_ops *)u->table)->close(instance);
}

static mr_status make_model(check *c, const void *config, void **instance, mr_err *err)
{
    const mr_model_ops *ops = c->unit->table;
    const mr_host *host = mri_registry_host(c->a->registry);
    mr_model_env env = { sizeof env, 0, &small_model, NULL };
    mr_err refused = MR_ERR_INIT;
    mr_status st = ops->create(host, &env, config, instance, &refused);
    if (!st || refused.blame != MR_BLAME_USER) {
        *err = refused;
        return st;
    }
    /* a family may have no grouped heads, or a head width of its own: those are its to choose */
    mr_model_sizes own = small_model;
    own.kv_heads = own.head_dim = 0;
    env.sizes = &own;
    *instance = NULL;
    return ops->create(host, &env, config, instance, err);
}

static void drop_model(const mr_unit *u, void *instance)
{
    ((const mr_model_ops *)u->table)->destroy(instance);
}

static mr_status make_optimizer(check *c, const void *config, void **instance, mr_err *err)
{
    return ((const mr_optimizer_ops *)c->unit->table)
        ->create(mri_registry_host(c->a->registry), config, instance, err);
}

static void drop_optimizer(const mr_unit *u, void *instance)
{
    ((const mr_optimizer_ops *)u->table)->destroy(instance);
}

static mr_status make_tokenizer(check *c, const void *config, void **instance, mr_err *err)
{
    return ((const mr_tokenizer_ops *)c->unit->table)
        ->create(mri_registry_host(c->a->registry), config, instance, err);
}

static void drop_tokenizer(const mr_unit *u, void *instance)
{
    ((const mr_tokenizer_ops *)u->table)->destroy(instance);
}

static mr_status make_data(check *c, const void *config, void **instance, mr_err *err)
{
    mr_data_env env = { sizeof env, 0, 16, (int64_t)c->seed, 100, 0, &bytes, NULL };
    return ((const mr_data_ops *)c->unit->table)
        ->create(mri_registry_host(c->a->registry), &env, config, instance, err);
}

static void drop_data(const mr_unit *u, void *instance)
{
    ((const mr_data_ops *)u->table)->destroy(instance);
}

static char sink_dir[64]; /* one sink at a time in a test's process */

static mr_status make_sink(check *c, const void *config, void **instance, mr_err *err)
{
    mr_sink_env env = { sizeof env, 0, sink_dir, 0 };
    strcpy(sink_dir, "/tmp/mrun-check-XXXXXX");
    if (!mkdtemp(sink_dir))
        return mr_fail(err, MR_E_STORE_IO, MR_BLAME_ENV, "no folder could be made in /tmp");
    return ((const mr_sink_ops *)c->unit->table)
        ->create(mri_registry_host(c->a->registry), &env, config, instance, err);
}

static void remove_tree(const char *path)
{
    DIR *d = opendir(path);
    for (struct dirent *e; d && (e = readdir(d));) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
            continue;
        char *full = mri_format("%s/%s", path, e->d_name);
        if (unlink(full))
            remove_tree(full);
        free(full);
    }
    if (d)
        closedir(d);
    rmdir(path);
}

static void drop_sink(const mr_unit *u, void *instance)
{
    ((const mr_sink_ops *)u->table)->destroy(instance);
    remove_tree(sink_dir);
}

static mr_status make_graph(check *c, const void *config, void **instance, mr_err *err)
{
    return ((const mr_graph_ops *)c->unit->table)
        ->create(mri_registry_host(c->a->registry), config, instance, err);
}

static void drop_graph(const mr_unit *u, void *instance)
{
    ((const mr_graph_ops *)u->table)->destroy(instance);
}

static mr_status make_shard(check *c, const void *config, void **instance, mr_err *err)
{
    return ((const mr_shard_ops *)c->unit->table)
        ->create(mri_registry_host(c->a->registry), config, instance, err);
}

static void drop_shard(const mr_unit *u, void *instance)
{
    ((const mr_shard_ops *)u->table)->destroy(instance);
}

static const maker makers[] = {
    { "backend", make_backend, drop_backend },
    { "model", make_model, drop_model },
    { "optimizer", make_optimizer, drop_optimizer },
    { "tokenizer", make_tokenizer, drop_tokenizer },
    { "data", make_data, drop_data },
    { "sink", make_sink, drop_sink },
    { "graph", make_graph, drop_graph },
    { "shard", make_shard, drop_shard },
};

static const maker *maker_of(const check *c)
{
    for (size_t i = 0; i < sizeof makers / sizeof *makers; i++)
        if (!strcmp(makers[i].kind, c->unit->kind))
            return &makers[i];
    return NULL;
}

bool check_make(check *c, void **instance)
{
    const maker *m = maker_of(c);
    mr_err err = MR_ERR_INIT;
    *instance = NULL;
    if (!m) {
        check_skip(c, "units of kind %s have no instances", c->unit->kind);
        return false;
    }
    if (mri_unit_needs(mri_registry_host(c->a->registry), c->unit, c->path, &err)) {
        check_skip(c, "%s", err.what);
        return false;
    }
    void *config = check_config(c);
    if (!config)
        return false;
    err = (mr_err)MR_ERR_INIT;
    mr_status st = m->make(c, config, instance, &err);
    if (!st)
        return true; /* the config stays: the instance may point into it */
    free(config);
    if (st != err.code || !err.what[0])
        check_fail(c, "create returned %d and filled the error with %d \"%s\"", st, err.code,
                   err.what);
    else if (err.blame == MR_BLAME_USER || err.blame == MR_BLAME_ENV)
        check_skip(c, "not with these settings: %s", err.what);
    else
        check_fail_err(c, "create", &err);
    return false;
}

void check_drop(check *c, void *instance)
{
    maker_of(c)->drop(c->unit, instance);
}

/* ---- tests --------------------------------------------------------------------------------- */

static void open_twice(check *c)
{
    mr_err err = MR_ERR_INIT;
    if (!MR_CAN(c->plugin, open)) {
        check_skip(c, "it has no open()");
        return;
    }
    mr_status st = c->plugin->open(mri_registry_host(c->a->registry), &err);
    if (st && !err.what[0])
        check_fail(c, "the second open() returned %d and gave no reason", st);
}

static void create_destroy(check *c)
{
    void *one, *two;
    for (int i = 0; i < 3; i++) {
        if (!check_make(c, &one))
            return;
        check_drop(c, one);
    }
    if (!strcmp(c->unit->kind, "sink") || !check_make(c, &one))
        return;
    if (check_make(c, &two)) /* a job may hold two models, optimizers, data sets */
        check_drop(c, two);
    check_drop(c, one);
}

static int count_entries(const char *path)
{
    DIR *d = opendir(path);
    int n = 0;
    while (d && readdir(d))
        n++;
    if (d)
        closedir(d);
    return n;
}

/* The first round may open what stays (a library's own files and pools); the next may not. */
static void no_leak(check *c, const char *path, const char *what)
{
    void *x;
    int before = 0, after = 0;
    for (int round = 0; round < 4; round++) {
        if (!check_make(c, &x))
            return;
        check_drop(c, x);
        /* a thread that was told to end needs a moment */
        for (int wait = 0; wait < 50; wait++) {
            after = count_entries(path);
            if (!round || after <= before)
                break;
            nanosleep(&(struct timespec){ 0, 10000000 }, NULL);
        }
        if (!round)
            before = after;
    }
    if (after > before)
        check_fail(c, "%d more %s after three rounds of create and destroy", after - before, what);
}

static void no_leaked_fds(check *c)
{
    no_leak(c, "/proc/self/fd", "open files");
}

static void no_leaked_threads(check *c)
{
    no_leak(c, "/proc/self/task", "threads");
}

/* Loads the plugin itself, so that constructors and open() are heard too. */
static void no_stdout_writes(check *c)
{
    mr_err err = MR_ERR_INIT;
    int file = memfd_create("stdout", MFD_CLOEXEC), saved = dup(STDOUT_FILENO);
    if (file < 0 || saved < 0) {
        check_skip(c, "no memory file on this machine");
        return;
    }
    fflush(stdout);
    dup2(file, STDOUT_FILENO);
    mr_status st = mri_plugin_load(c->a->registry, c->path, &c->plugin, &err);
    for (uint32_t i = 0; !st && i < c->plugin->n_units; i++) {
        check quiet = *c; /* what cannot be made is another test's matter */
        void *x;
        quiet.said = (mri_str){ 0 };
        quiet.unit = mri_plugin_unit(c->plugin, i);
        if (check_make(&quiet, &x))
            check_drop(&quiet, x);
        mri_str_free(&quiet.said);
    }
    fflush(stdout);
    dup2(saved, STDOUT_FILENO);
    close(saved);
    off_t n = lseek(file, 0, SEEK_END);
    char text[81] = "";
    ssize_t got = n > 0 ? pread(file, text, sizeof text - 1, 0) : 0;
    close(file);
    if (st)
        check_fail_err(c, "loading", &err);
    text[got > 0 ? strcspn(text, "\n") : 0] = 0;
    if (n > 0)
        check_fail(c, "wrote %lld bytes to stdout, where only data goes: \"%s\"; use mr_host.log()",
                   (long long)n, text);
}

static void scan_under_100_ms(check *c)
{
    int best = 1 << 30;
    for (int i = 0; i < 3 && best >= 100; i++) {
        mr_err err = MR_ERR_INIT;
        int ms;
        if (mri_plugin_probe(c->a->registry, c->path, 5000, &ms, &err)) {
            check_fail_err(c, "scanning", &err);
            return;
        }
        if (ms < best)
            best = ms;
    }
    if (best >= 100)
        check_fail(c, "loading and open() took %d ms: open devices and libraries in create()",
                   best);
}

const check_row check_life_rows[] = {
    { "scan-under-100-ms", "loading and open() are quick", CHECK_FILE, NULL, 30,
      scan_under_100_ms },
    { "open-twice-is-ok-or-refused", "a second open() harms nothing", CHECK_PLUGIN, NULL, 10,
      open_twice },
    { "no-stdout-writes", "stdout stays clean from loading to destroy", CHECK_FILE, NULL, 60,
      no_stdout_writes },
    { "create-and-destroy", "instances come and go, also two at once", CHECK_UNIT, NULL, 60,
      create_destroy },
    { "no-leaked-fds", "create and destroy leave no file open", CHECK_UNIT, NULL, 60,
      no_leaked_fds },
    { "no-leaked-threads", "create and destroy leave no thread", CHECK_UNIT, NULL, 60,
      no_leaked_threads },
    { NULL, NULL, 0, NULL, 0, NULL },
};
