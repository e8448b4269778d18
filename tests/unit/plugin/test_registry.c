/* SPDX-License-Identifier: Apache-2.0
 * The registry finds, loads once, offers services, hands ops on, and says what it tried. */
#include "core/plugin/registry.h"
#include "mrun/sink.h"
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char dir[4096];

static mri_registry *make(void)
{
    snprintf(dir, sizeof dir, "%s/tests/unit/plugin/trio", getenv("MRUN_BUILD"));
    unsetenv("MRUN_PLUGIN_PATH");
    setenv("XDG_DATA_HOME", "/nonexistent/data", 1);
    return mri_registry_create(dir);
}

static char said[200];
static void keep(void *user, uint32_t level, const char *unit, const char *msg)
{
    snprintf(said, sizeof said, "%s%u %s %s", (const char *)user, level, unit, msg);
}

static int32_t yes(void *user)
{
    return *(int32_t *)user;
}

Test(registry, a_unit_gets_the_hosts_services)
{
    static const int answer = 42;
    mri_registry *r = make();
    const mr_unit *u;
    mr_err err = MR_ERR_INIT;
    int32_t stop = 1;
    void *got = NULL;
    mri_registry_offer(r, "org.example.answer/1", &answer);
    mri_registry_set_log(r, keep, "log ");
    mri_registry_set_cancelled(r, yes, &stop);
    cr_assert_eq(mri_registry_find(r, "sink", "one", &u, &err), 0, "%s", err.what);
    const mr_sink_ops *ops = u->table;
    cr_assert_eq(ops->create(mri_registry_host(r), NULL, NULL, &got, &err), 0);
    cr_assert_eq(got, &answer);
    cr_assert_str_eq(said, "log 1 sink/one stopping");
    mri_registry_free(r);
}

Test(registry, a_service_that_is_lacking_refuses_that_unit_only)
{
    static const int answer = 42;
    mri_registry *r = make();
    const mr_unit *u = NULL;
    mr_err err = MR_ERR_INIT;
    cr_assert_eq(mri_registry_find(r, "sink", "one", &u, &err), 0);
    u = NULL;
    cr_assert_eq(mri_registry_find(r, "sink", "two", &u, &err), MR_E_PLUGIN_VERSION);
    cr_assert_null(u);
    cr_assert_not_null(strstr(err.what, "sink/two needs the host service org.example.answer/1"));
    mri_registry_offer(r, "org.example.answer/1", &answer);
    cr_assert_eq(mri_registry_find(r, "sink", "two", &u, &err), 0);
    mri_registry_free(r);
}

/* trio's open() fails the second time */
Test(registry, a_library_is_loaded_once_by_whatever_name)
{
    mri_registry *r = make();
    const mr_unit *a, *b, *c;
    mr_err err = MR_ERR_INIT;
    char link[] = "/tmp/mrun-trio-XXXXXX", *path = mri_format("%s/trio.so", dir);
    cr_assert_eq(mri_registry_find(r, "sink", "one", &a, &err), 0, "%s", err.what);
    cr_assert_eq(mri_registry_find(r, "op", path, &b, &err), 0, "%s", err.what);
    close(mkstemp(link));
    remove(link);
    cr_assert_eq(symlink(path, link), 0);
    char *named = mri_format("%s:one", link);
    cr_assert_eq(mri_registry_find(r, "sink", named, &c, &err), 0, "%s", err.what);
    cr_assert_eq(a, c);
    remove(link);
    free(named);
    free(path);
    mri_registry_free(r);
}

Test(registry, a_path_with_two_units_of_the_kind_wants_a_name)
{
    mri_registry *r = make();
    const mr_unit *u;
    mr_err err = MR_ERR_INIT;
    char *path = mri_format("%s/trio.so", dir);
    cr_assert_eq(mri_registry_find(r, "sink", path, &u, &err), MR_E_PLUGIN_NOT_FOUND);
    cr_assert_str_eq(err.what, "trio.so offers both sink/one and sink/two");
    cr_assert_not_null(strstr(err.hint, "trio.so:one"));
    cr_assert_eq(mri_registry_find(r, "model", path, &u, &err), MR_E_PLUGIN_NOT_FOUND);
    cr_assert_str_eq(err.what, "trio.so offers no model");
    free(path);
    mri_registry_free(r);
}

static const mr_op_def *op_seen;
static int ops_seen;
static mr_status keep_op(const mr_op_def *op, mr_err *err)
{
    (void)err;
    op_seen = op;
    ops_seen++;
    return 0;
}

static mr_status refuse_op(const mr_op_def *op, mr_err *err)
{
    return mr_fail(err, MR_E_PROGRAM, MR_BLAME_PLUGIN, "op %s exists", op->id);
}

Test(registry, ops_go_to_the_hook_and_short_definitions_are_widened)
{
    mri_registry *r = make();
    const mr_unit *u;
    mr_err err = MR_ERR_INIT;
    cr_assert_eq(mri_registry_set_op_hook(r, keep_op, &err), 0);
    cr_assert_eq(mri_registry_find(r, "sink", "one", &u, &err), 0);
    cr_assert_eq(ops_seen, 1);
    cr_assert_str_eq(op_seen->id, "org.example.same");
    cr_assert_not_null(op_seen->ref);
    cr_assert_null(op_seen->cost);
    cr_assert_null(op_seen->shard, "a field behind the definition's size was read");
    /* a hook that comes later gets what was loaded before */
    cr_assert_eq(mri_registry_set_op_hook(r, refuse_op, &err), MR_E_PROGRAM);
    cr_assert_str_eq(err.what, "op org.example.same exists");
    mri_registry_free(r);
}

Test(registry, a_refused_op_is_the_finds_error)
{
    mri_registry *r = make();
    const mr_unit *u = NULL;
    mr_err err = MR_ERR_INIT;
    mri_registry_set_op_hook(r, refuse_op, NULL);
    cr_assert_eq(mri_registry_find(r, "sink", "one", &u, &err), MR_E_PROGRAM);
    cr_assert_null(u);
    mri_registry_free(r);
}

Test(registry, a_miss_names_every_path_tried_and_the_nearest_word)
{
    mri_registry *r = make();
    const mr_unit *u;
    mr_err err = MR_ERR_INIT;
    cr_assert_eq(mri_registry_find(r, "sink", "onne", &u, &err), MR_E_PLUGIN_NOT_FOUND);
    cr_assert_str_eq(err.what, "no plugin offers sink/onne");
    cr_assert_not_null(
        strstr(err.detail, "/tests/unit/plugin/trio (--plugin-path): 1 plugin file\n"), "%s",
        err.detail);
    cr_assert_not_null(strstr(err.detail, "/nonexistent/data/mrun/plugins-1 (XDG_DATA_HOME): "
                                          "no such folder"), "%s", err.detail);
    cr_assert_not_null(strstr(err.detail, "/../lib/mrun/plugins-1 (beside mrun)"));
    cr_assert_not_null(strstr(err.detail, "(built in)"));
    cr_assert_not_null(strstr(err.hint, "did you mean 'one'?"), "%s", err.hint);
    mri_registry_free(r);
}

Test(registry, names_come_from_notes)
{
    mri_registry *r = make();
    size_t n;
    const char **names = mri_registry_names(r, "sink", &n);
    cr_assert_geq(n, 2); /* an installed mrun may have more, in folders that are searched later */
    cr_assert_str_eq(names[0], "one");
    cr_assert_str_eq(names[1], "two");
    free(names);
    names = mri_registry_names(r, "no such kind", &n);
    cr_assert_eq(n, 0);
    free(names);
    mri_registry_free(r);
}
