/* SPDX-License-Identifier: Apache-2.0
 * Every malformed plugin of the zoo gets its own status and its own sentence, by every way in
 * (listing, finding, probing), and none of them harms the one who asks. */
#include "core/plugin/registry.h"
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct creature {
    const char *name, *word;
    mr_status code;
    const char *text; /* that the message holds */
} creature;

static const creature zoo[] = {
    { "good", "ok", 0, "" },
    { "chatty", "ok", 0, "" },
    { "no-symbol", "malformed", MR_E_PLUGIN_MALFORMED, "does not export mrun_plugin_v1" },
    { "wrong-magic", "malformed", MR_E_PLUGIN_MALFORMED, "magic \"MRUNPLG\"" },
    { "size-zero", "malformed", MR_E_PLUGIN_MALFORMED, "size as 0 bytes" },
    { "size-huge", "malformed", MR_E_PLUGIN_MALFORMED, "size as 1048576 bytes" },
    { "unit-size-zero", "malformed", MR_E_PLUGIN_MALFORMED, "unit 0 gives its size as 0 bytes" },
    { "unit-size-odd", "malformed", MR_E_PLUGIN_MALFORMED, "unit 0 gives its size as 60 bytes" },
    { "table-null", "malformed", MR_E_PLUGIN_MALFORMED, "tokenizer/table-null has no table" },
    { "table-size-zero", "malformed", MR_E_PLUGIN_MALFORMED, "gives its size as 0 bytes" },
    { "table-short", "malformed", MR_E_PLUGIN_MALFORMED, "ends before decode" },
    { "function-null", "malformed", MR_E_PLUGIN_MALFORMED, "has no encode" },
    { "name-null", "malformed", MR_E_PLUGIN_MALFORMED, "unit 0 has no name" },
    { "name-bad", "malformed", MR_E_PLUGIN_MALFORMED, "\"tokenizer/a b\"" },
    { "no-units", "malformed", MR_E_PLUGIN_MALFORMED, "offers no unit" },
    { "duplicate-names", "malformed", MR_E_PLUGIN_MALFORMED,
      "units 0 and 1 are both tokenizer/dup" },
    { "newer-minor", "refused", MR_E_PLUGIN_VERSION, "needs ABI 0.99, this mrun has 0.1" },
    { "older-minor", "refused", MR_E_PLUGIN_VERSION, "was built for ABI 0.0, this mrun has 0.1" },
    { "other-major", "refused", MR_E_PLUGIN_VERSION, "needs ABI 7.1, this mrun has 0.1" },
    { "missing-library", "missing", MR_E_PLUGIN_LOAD,
      "libmrun-zoo-absent.so.9: cannot open shared object file" },
    { "crashing-constructor", "crashed", MR_E_PLUGIN_CRASHED,
      "crashed: SIGSEGV while loading (in a constructor)" },
    { "exiting-constructor", "crashed", MR_E_PLUGIN_CRASHED, "called exit(3) while loading" },
    { "crashing-open", "crashed", MR_E_PLUGIN_CRASHED, "crashed: SIGABRT in open()" },
    { "hanging-open", "timeout", MR_E_PLUGIN_TIMEOUT,
      "did not answer within 2000 ms: stuck in open()" },
    { "refusing-open", "refused", MR_E_PLUGIN_OPEN, "no abacus is plugged in" },
    { "default-outside", "malformed", MR_E_PLUGIN_MALFORMED, "level" },
    { "offset-outside", "malformed", MR_E_PLUGIN_MALFORMED, "level" },
    { "needs-service", "refused", MR_E_PLUGIN_VERSION,
      "needs the host service org.nobody.service/1" },
};
enum { N_ZOO = sizeof zoo / sizeof *zoo };

static char zoo_dir[4096];

static mri_registry *zoo_registry(void)
{
    snprintf(zoo_dir, sizeof zoo_dir, "%s/tests/abi/zoo", getenv("MRUN_BUILD"));
    unsetenv("MRUN_PLUGIN_PATH");
    return mri_registry_create(zoo_dir);
}

static const mri_listing *row_of(const mri_listing *list, size_t n, const char *name)
{
    for (size_t i = 0; i < n; i++)
        if (!strcmp(list[i].name, name) && strstr(list[i].path, zoo_dir))
            return &list[i];
    return NULL;
}

Test(zoo, scan_gives_each_its_word_and_sentence)
{
    mri_registry *r = zoo_registry();
    mri_listing *list;
    size_t n;
    mr_err err = MR_ERR_INIT;
    cr_assert_eq(mri_registry_list(r, true, &list, &n, &err), 0);
    for (int i = 0; i < N_ZOO; i++) {
        const mri_listing *row = row_of(list, n, zoo[i].name);
        cr_assert_not_null(row, "%s is not listed", zoo[i].name);
        cr_assert_str_eq(row->status, zoo[i].word, "%s: %s (%s)", zoo[i].name, row->status,
                         row->reason);
        cr_assert_not_null(strstr(row->reason, zoo[i].text), "%s: %s", zoo[i].name, row->reason);
        cr_assert_str_eq(row->kind, "tokenizer", "%s", zoo[i].name);
    }
    const mri_listing *quiet = row_of(list, n, "good-no-note");
    cr_assert_not_null(quiet);
    cr_assert_str_eq(quiet->status, "ok");
    cr_assert_str_eq(quiet->version, "1.2.3");
    mri_listing_free(list, n);
    mri_registry_free(r);
}

Test(zoo, notes_alone_run_no_code_and_know_the_versions)
{
    mri_registry *r = zoo_registry();
    mri_listing *list;
    size_t n;
    mr_err err = MR_ERR_INIT;
    cr_assert_eq(mri_registry_list(r, false, &list, &n, &err), 0);
    cr_assert_str_eq(row_of(list, n, "good")->status, "ok");
    cr_assert_str_eq(row_of(list, n, "good")->abi, "0.1");
    cr_assert_str_eq(row_of(list, n, "crashing-constructor")->id, "org.example.zoo");
    cr_assert_str_eq(row_of(list, n, "good-no-note.so")->status, "unknown");
    mri_listing_free(list, n);
    mri_registry_free(r);
}

static void check_error(const creature *c, mr_status st, const mr_err *err, const char *way)
{
    cr_assert_eq(st, c->code, "%s by %s: status %d, %s", c->name, way, st, err->what);
    if (!c->code)
        return;
    cr_assert_eq(err->code, c->code);
    cr_assert_not_null(strstr(err->what, c->text), "%s by %s: %s", c->name, way, err->what);
    cr_assert(err->hint[0], "%s by %s has no next step", c->name, way);
    cr_assert_not_null(strstr(err->detail, "/tests/abi/zoo/"), "%s by %s names no file: %s",
                       c->name, way, err->detail);
}

Test(zoo, find_refuses_each_and_survives)
{
    mri_registry *r = zoo_registry();
    for (int i = 0; i < N_ZOO; i++) {
        const mr_unit *unit = NULL;
        mr_err err = MR_ERR_INIT;
        if (!strcmp(zoo[i].name, "chatty"))
            continue; /* a good plugin that is loaded here may talk here */
        mr_status st = mri_registry_find(r, "tokenizer", zoo[i].name, &unit, &err);
        check_error(&zoo[i], st, &err, "find");
        cr_assert_eq(unit != NULL, st == 0);
    }
    mri_registry_free(r);
}

Test(zoo, a_path_refuses_each_and_survives)
{
    mri_registry *r = zoo_registry();
    for (int i = 0; i < N_ZOO; i++) {
        const mr_unit *unit = NULL;
        mr_err err = MR_ERR_INIT;
        char *path = mri_format("%s/%s.so", zoo_dir, zoo[i].name);
        /* hanging costs two seconds each time; chatty is a good plugin and may talk here */
        if (strcmp(zoo[i].name, "hanging-open") && strcmp(zoo[i].name, "chatty"))
            check_error(&zoo[i], mri_registry_find(r, "tokenizer", path, &unit, &err), &err,
                        "path");
        free(path);
    }
    mri_registry_free(r);
}

Test(zoo, a_note_that_promises_too_much_is_found_out)
{
    mri_registry *r = zoo_registry();
    const mr_unit *unit = NULL;
    mr_err err = MR_ERR_INIT;
    cr_assert_eq(mri_registry_find(r, "model", "of-virtue", &unit, &err), MR_E_PLUGIN_NOT_FOUND);
    cr_assert_str_eq(err.what, "lying-note.so offers no model/of-virtue");
    cr_assert_not_null(strstr(err.detail, "it offers: tokenizer/lying-note"), "%s", err.detail);
    mri_registry_free(r);
}

Test(zoo, a_timeout_is_kept)
{
    mri_registry *r = zoo_registry();
    mr_err err = MR_ERR_INIT;
    int ms = 0;
    char *path = mri_format("%s/hanging-open.so", zoo_dir);
    cr_assert_eq(mri_plugin_probe(r, path, 150, &ms, &err), MR_E_PLUGIN_TIMEOUT);
    cr_assert(ms >= 149 && ms < 1500, "%d ms", ms);
    free(path);
    mri_registry_free(r);
}
