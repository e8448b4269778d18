/* SPDX-License-Identifier: Apache-2.0
 * Every error number has a useful page, and docs/errors holds exactly those pages. */
#include "core/config/errors.h"
#include <criterion/criterion.h>
#include <dirent.h>
#include <stdlib.h>
#include <string.h>

static const int numbers[] = {
#define NUMBER(name, number) number,
    MR_ERR_MAP(NUMBER)
#undef NUMBER
};
enum { N = sizeof numbers / sizeof *numbers };

Test(pages, every_number_has_a_title_and_four_to_twelve_lines)
{
    for (size_t i = 0; i < N; i++) {
        const mri_error_info *e = mri_error_find(numbers[i]);
        cr_assert_not_null(e, "E%04d", numbers[i]);
        cr_assert(*e->title && strlen(e->title) <= 80 && !strchr(e->title, '\n'));
        const char *page = mri_error_page(numbers[i]);
        int lines = 0;
        for (const char *c = page; *c; c += strcspn(c, "\n") + 1) {
            cr_assert_leq(strcspn(c, "\n"), 100, "E%04d: %s", numbers[i], c);
            lines++;
        }
        cr_assert(lines >= 3 && lines <= 12, "E%04d has %d lines", numbers[i], lines);
        cr_assert_not_null(strstr(page, "What to do"), "E%04d says no next step", numbers[i]);
    }
    cr_assert_null(mri_error_page(0));
    cr_assert_null(mri_error_page(999));
}

Test(pages, docs_errors_is_what_the_table_says)
{
    const char *source = getenv("MRUN_SOURCE");
    cr_assert_not_null(source, "MRUN_SOURCE names the source tree");
    size_t n, files = 0;
    const mri_error_info *e = mri_errors(&n);
    for (size_t i = 0; i < n; i++) {
        char *path = mri_format("%s/docs/errors/E%04d.md", source, e[i].number), *text;
        mri_str want = { 0 };
        size_t len;
        mr_err err = MR_ERR_INIT;
        mri_error_markdown(&e[i], &want);
        cr_assert_eq(mri_read_file(path, 1 << 16, &text, &len, &err), 0, "%s", err.what);
        cr_assert_str_eq(text, want.s, "%s differs; run: mrun explain --write-errors docs/errors",
                         path);
        free(text);
        free(path);
        mri_str_free(&want);
    }
    char *dir = mri_format("%s/docs/errors", source);
    DIR *d = opendir(dir);
    cr_assert_not_null(d);
    for (struct dirent *f; (f = readdir(d));)
        files += f->d_name[0] == 'E';
    closedir(d);
    free(dir);
    cr_assert_eq(files, n, "docs/errors has %zu pages, the table %zu", files, n);
}
