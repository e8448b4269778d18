/* SPDX-License-Identifier: Apache-2.0
 * Which ABI loads where: before 1.0 only the same minor, from 1.0 on any plugin that needs no
 * newer minor than ours; each refusal gives both numbers and the remedy. */
#include "core/plugin/registry.h"
#include <criterion/criterion.h>
#include <string.h>

typedef struct row {
    uint32_t host_major, host_minor, major, built, needed;
    const char *what, *hint; /* NULL: it loads */
} row;

static const row rows[] = {
    { 0, 1, 0, 1, 1, NULL, NULL },
    { 0, 1, 0, 1, 0, NULL, NULL },
    { 0, 1, 0, 2, 2, "p.so needs ABI 0.2, this mrun has 0.1", "update mrun, or rebuild" },
    { 0, 1, 0, 2, 0, "p.so needs ABI 0.2, this mrun has 0.1", "update mrun, or rebuild" },
    { 0, 1, 0, 1, 2, "p.so needs ABI 0.2, this mrun has 0.1", "update mrun" },
    { 0, 3, 0, 1, 1, "p.so was built for ABI 0.1, this mrun has 0.3", "rebuild the plugin" },
    { 0, 3, 1, 0, 0, "p.so needs ABI 1.0, this mrun has 0.3", "update mrun" },
    { 1, 2, 1, 2, 2, NULL, NULL },
    { 1, 2, 1, 0, 0, NULL, NULL },
    { 1, 2, 1, 9, 0, NULL, NULL }, /* built with newer headers, uses nothing new */
    { 1, 2, 1, 9, 2, NULL, NULL },
    { 1, 2, 1, 9, 9, "p.so needs ABI 1.9, this mrun has 1.2", "-DMR_ABI_TARGET=2" },
    { 1, 2, 0, 2, 2, "p.so was built for ABI 0.2, this mrun has 1.2", "rebuild the plugin" },
    { 1, 2, 2, 0, 0, "p.so needs ABI 2.0, this mrun has 1.2", "update mrun" },
    { 1, 2, 0xffffffff, 0, 0, "p.so needs ABI 4294967295.0, this mrun has 1.2", "update mrun" },
};

Test(version, table)
{
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const row *r = &rows[i];
        mr_err err = MR_ERR_INIT;
        mr_status st = mri_abi_check(r->host_major, r->host_minor, r->major, r->built, r->needed,
                                     "/a/p.so", &err);
        cr_assert_eq(st, r->what ? MR_E_PLUGIN_VERSION : 0, "row %zu: %s", i, err.what);
        if (r->what) {
            cr_assert_str_eq(err.what, r->what);
            cr_assert_not_null(strstr(err.hint, r->hint), "row %zu: %s", i, err.hint);
            cr_assert_not_null(strstr(err.detail, "/a/p.so"));
        }
    }
}
