/* SPDX-License-Identifier: Apache-2.0
 * The ABI's structs lie in memory as they did: the golden text is the gate, and it is
 * append only. Run with MRUN_WRITE_GOLDEN=1 to write it after a deliberate change. */
#include "layout.h"
#include "core/base/base.h"
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

typedef struct row {
    const char *type, *field; /* field NULL: the struct itself */
    size_t offset, size;
} row;

#define STRUCT_ROW(t) { #t, NULL, 0, sizeof(t) },
#define FIELD_ROW(t, f) { #t, #f, offsetof(t, f), sizeof(((t *)0)->f) },
static const row rows[] = { ABI_LAYOUT(STRUCT_ROW, FIELD_ROW) };
enum { N_ROWS = sizeof rows / sizeof *rows };

static char *layout(void)
{
    mri_str b = { 0 };
    mri_str_fmt(&b, "mrun ABI %d.%d, %zu-bit: struct field offset size\n", MR_ABI_MAJOR,
                MR_ABI_MINOR, 8 * sizeof(void *));
    for (int i = 0; i < N_ROWS; i++) {
        if (rows[i].field)
            mri_str_fmt(&b, "%s %s %zu %zu\n", rows[i].type, rows[i].field, rows[i].offset,
                        rows[i].size);
        else
            mri_str_fmt(&b, "%s - - %zu\n", rows[i].type, rows[i].size);
    }
    return mri_str_take(&b);
}

static char *golden_path(void)
{
    return mri_format("%s/tests/abi/abi-%d.%d.txt", getenv("MRUN_SOURCE"), MR_ABI_MAJOR,
                      MR_ABI_MINOR);
}

/* Prints lines that only one of the texts has; line order matters little for reading it. */
static size_t diff(const char *golden, const char *now)
{
    size_t n = 0;
    for (int side = 0; side < 2; side++) {
        const char *a = side ? now : golden, *b = side ? golden : now;
        while (*a) {
            size_t len = strcspn(a, "\n");
            char *line = mri_format("\n%.*s\n", (int)len, a), *hay = mri_format("\n%s", b);
            if (!strstr(hay, line)) {
                fprintf(stderr, "%c %.*s\n", side ? '+' : '-', (int)len, a);
                n++;
            }
            free(line);
            free(hay);
            a += len + (a[len] == '\n');
        }
    }
    return n;
}

Test(layout, is_the_golden_one)
{
    mr_err err = MR_ERR_INIT;
    char *path = golden_path(), *now = layout(), *golden = NULL;
    size_t n;
    if (sizeof(void *) != 8)
        cr_skip_test("the golden text is of 64-bit machines");
    if (getenv("MRUN_WRITE_GOLDEN")) {
        FILE *f = fopen(path, "w");
        cr_assert_not_null(f);
        fputs(now, f);
        fclose(f);
    }
    cr_assert_eq(mri_read_file(path, 1 << 20, &golden, &n, &err), 0, "%s", err.what);
    if (strcmp(golden, now)) {
        size_t lines = diff(golden, now);
        fprintf(stderr, "The ABI is append only: put new fields at the end of a struct and new "
                        "lines (+) into %s; any line lost (-) is a break, which before 1.0 bumps "
                        "MR_ABI_MINOR, regenerates the fixtures and is listed in NEWS.\n", path);
        cr_assert(false, "the layout differs from %s in %zu lines", path, lines);
    }
    free(golden);
    free(now);
    free(path);
}

/* No padding, so each field begins where the one before it ends: the list is complete. */
Test(layout, lists_every_field_and_no_struct_has_holes)
{
    size_t end = 0, size = 0;
    for (int i = 0; i < N_ROWS; i++) {
        if (!rows[i].field) {
            cr_assert_eq(end, size, "%s: listed fields end at %zu of %zu", rows[i ? i - 1 : 0].type,
                         end, size);
            size = rows[i].size;
            end = 0;
            continue;
        }
        cr_assert_eq(rows[i].offset, end, "%s.%s lies at %zu, the field before it ends at %zu",
                     rows[i].type, rows[i].field, rows[i].offset, end);
        end = rows[i].offset + rows[i].size;
    }
    cr_assert_eq(end, size);
}

static const char *const headers[] = { "plugin", "program", "op", "backend", "model", "optimizer",
                                       "tokenizer", "data", "sink", "graph" };

Test(layout, lists_every_struct_of_the_headers)
{
    size_t found = 0;
    for (size_t h = 0; h < sizeof headers / sizeof *headers; h++) {
        mr_err err = MR_ERR_INIT;
        char *path = mri_format("%s/include/mrun/%s.h", getenv("MRUN_SOURCE"), headers[h]);
        char *text;
        size_t n;
        cr_assert_eq(mri_read_file(path, 1 << 20, &text, &n, &err), 0, "%s", err.what);
        for (const char *p = text; (p = strstr(p, "struct mr_")); p++) {
            char name[64];
            size_t len = strcspn(p + 7, " ;,)\n");
            if (len >= sizeof name || strncmp(p + 7 + len, " {", 2))
                continue; /* a use or an opaque type, not a definition */
            memcpy(name, p + 7, len);
            name[len] = 0;
            bool listed = !strcmp(name, "mr_net"); /* stays on the plugin's side of the border */
            for (int i = 0; i < N_ROWS; i++)
                listed |= !rows[i].field && !strcmp(rows[i].type, name);
            cr_assert(listed, "%s of %s is not in tests/abi/layout.h", name, path);
            found++;
        }
        free(text);
        free(path);
    }
    cr_assert_gt(found, 25);
}
