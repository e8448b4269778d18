/* SPDX-License-Identifier: Apache-2.0
 * Binaries that were built with the headers of a released minor still work: an old plugin
 * loads and runs in today's host, and today's plugins load in an old host. */
#include "core/plugin/registry.h"
#include "mrun/tokenizer.h"
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

static char dir[] = "/tmp/mrun-old-XXXXXX";

#if defined(__SANITIZE_ADDRESS__)
enum { SANITIZED = 1 }; /* plugins of this build want a runtime that the old host lacks */
#else
enum { SANITIZED = 0 };
#endif

/* Unpacks a fixture into `dir`; NULL where this kind of machine has none. */
static char *unpack(const char *name, const char *suffix)
{
    struct utsname u;
    cr_assert_eq(uname(&u), 0);
    cr_assert_not_null(mkdtemp(dir));
    char *from = mri_format("%s/tests/abi/fixtures/%s-%d.%d-%s%s.xz", getenv("MRUN_SOURCE"), name,
                            MR_ABI_MAJOR, MR_ABI_MINOR, u.machine, suffix);
    char *to = mri_format("%s/%s%s", dir, name, suffix);
    char *command = mri_format("xz -dc '%s' >'%s'", from, to);
    if (access(from, R_OK) && strcmp(u.machine, "x86_64"))
        cr_skip_test("no binary was kept for this kind of machine");
    cr_assert_eq(access(from, R_OK), 0, "%s is missing: run tests/abi/fixtures/make.sh", from);
    cr_assert_eq(system(command), 0, "%s", command);
    chmod(to, 0755);
    free(command);
    free(from);
    return to;
}

static void clean(char *path)
{
    remove(path);
    rmdir(dir);
    free(path);
}

static char logged[200];

static void keep_log(void *user, uint32_t level, const char *unit, const char *msg)
{
    (void)user;
    snprintf(logged, sizeof logged, "%u %s %s", level, unit, msg);
}

static const mr_op_def *op_seen;

static mr_status keep_op(const mr_op_def *op, mr_err *err)
{
    (void)err;
    op_seen = op;
    return 0;
}

Test(old, plugin_loads_and_runs)
{
    char *path = unpack("old-plugin", ".so");
    mri_registry *r = mri_registry_create(dir);
    const mr_unit *u;
    mr_err err = MR_ERR_INIT;
    mri_registry_set_log(r, keep_log, NULL);
    cr_assert_eq(mri_registry_set_op_hook(r, keep_op, &err), 0);
    cr_assert_eq(mri_registry_find(r, "tokenizer", "shift", &u, &err), 0, "%s", err.what);
    cr_assert_eq(u->n_opts, 2);
    struct {
        int64_t shift;
        const char *label;
    } config = { 3, NULL };
    cr_assert_eq(u->config_size, sizeof config);
    const mr_tokenizer_ops *t = u->table;
    void *tok;
    int32_t ids[3];
    char text[3];
    uint64_t n;
    cr_assert_eq(t->create(mri_registry_host(r), &config, &tok, &err), 0);
    cr_assert_str_eq(logged, "2 tokenizer/shift created");
    cr_assert_eq(t->encode(tok, "ab\xff", 3, ids, 3, &n, &err), 0);
    cr_assert(n == 3 && ids[0] == 'd' && ids[1] == 'e' && ids[2] == 2);
    cr_assert_eq(t->decode(tok, ids, 3, text, 3, &n, &err), 0);
    cr_assert(n == 3 && !memcmp(text, "ab\xff", 3));
    t->destroy(tok);
    /* its op came along, and computes */
    cr_assert_not_null(op_seen);
    cr_assert_str_eq(op_seen->id, "org.example.twice");
    float x[2] = { 1.5f, -2 }, y[2];
    mr_type type = mr_type1("f32", 2);
    const mr_type *in = &type, *out = &type;
    mr_call call = { sizeof call, 1, 1, 0, &in, &out, NULL };
    mr_buf xb = { x, NULL }, yb = { y, NULL };
    cr_assert_eq(op_seen->ref(&call, &xb, &yb, &err), 0);
    cr_assert(y[0] == 3 && y[1] == -4);
    mri_registry_free(r);
    clean(path);
}

Test(old, plugin_is_listed_by_its_note)
{
    char *path = unpack("old-plugin", ".so");
    mri_registry *r = mri_registry_create(dir);
    mri_listing *list;
    size_t n;
    mr_err err = MR_ERR_INIT;
    bool found = false;
    cr_assert_eq(mri_registry_list(r, false, &list, &n, &err), 0);
    for (size_t i = 0; i < n; i++)
        found |= !strcmp(list[i].path, path) && !strcmp(list[i].name, "shift") &&
                 !strcmp(list[i].version, "0.0.1") && !strcmp(list[i].status, "ok");
    cr_assert(found);
    mri_listing_free(list, n);
    mri_registry_free(r);
    clean(path);
}

Test(old, host_runs_a_plugin_of_today)
{
    if (SANITIZED)
        cr_skip_test("a sanitizer build");
    char *path = unpack("old-host", ""), line[200] = "";
    char *command = mri_format("'%s' '%s/tests/abi/zoo/good.so'", path, getenv("MRUN_BUILD"));
    FILE *f = popen(command, "r");
    cr_assert_not_null(f);
    cr_assert_not_null(fgets(line, sizeof line, f));
    cr_assert_eq(pclose(f), 0);
    cr_assert_str_eq(line, "ran tokenizer/good\n");
    free(command);
    clean(path);
}

/* every plugin of this build that needs no vendor library */
Test(old, host_loads_every_plugin_of_the_build)
{
    if (SANITIZED)
        cr_skip_test("a sanitizer build");
    char *path = unpack("old-host", "");
    char *plugins = mri_format("%s/plugins", getenv("MRUN_BUILD"));
    mri_registry *r = mri_registry_create(plugins);
    mri_listing *list;
    size_t n;
    mr_err err = MR_ERR_INIT;
    cr_assert_eq(mri_registry_list(r, true, &list, &n, &err), 0);
    for (size_t i = 0; i < n; i++) {
        if (strncmp(list[i].path, plugins, strlen(plugins)) || strcmp(list[i].status, "ok"))
            continue;
        char *command = mri_format("'%s' '%s' >/dev/null", path, list[i].path);
        cr_expect_eq(system(command), 0, "%s does not load in the old host", list[i].path);
        free(command);
    }
    mri_listing_free(list, n);
    mri_registry_free(r);
    free(plugins);
    clean(path);
}
