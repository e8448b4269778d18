/* SPDX-License-Identifier: Apache-2.0
 * Files are read as text and tables that may lie: cut, mutated and foreign files give an
 * answer or an error, never a fault. */
#include "core/plugin/internal.h"
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char *trio(void)
{
    return mri_format("%s/tests/unit/plugin/trio/trio.so", getenv("MRUN_BUILD"));
}

Test(note, is_read_in_parts)
{
    char *path = trio(), kind[16], name[16];
    mri_note n;
    cr_assert(mri_note_parse(path, &n));
    cr_assert_str_eq(n.id, "org.example.trio");
    cr_assert_str_eq(n.version, "3.0");
    cr_assert(n.major == MR_ABI_MAJOR && n.minor == MR_ABI_MINOR);
    cr_assert(mri_note_has(&n, "sink", "two"));
    cr_assert(!mri_note_has(&n, "sink", "tw"));
    cr_assert(!mri_note_has(&n, "model", "two"));
    const char *rest = " //  x /y z/ verylongkindindeed12345/a op/b ";
    cr_assert(mri_note_next(&rest, kind, sizeof kind, name, sizeof name));
    cr_assert_str_eq(kind, "op");
    cr_assert_str_eq(name, "b");
    cr_assert(!mri_note_next(&rest, kind, sizeof kind, name, sizeof name));
    char mark[MRI_NOTE_MARK];
    rest = "model/a@key.of_it model/b@ @x model/c";
    static const char *const want[][2] = { { "a", "key.of_it" }, { "b", "" }, { "c", "" } };
    for (int i = 0; i < 3; i++) {
        cr_assert(mri_note_next_marked(&rest, kind, sizeof kind, name, sizeof name, mark));
        cr_assert(!strcmp(name, want[i][0]) && !strcmp(mark, want[i][1]), "%s@%s", name, mark);
    }
    mri_note_free(&n);
    free(path);
}

Test(note, exports_are_the_defined_symbols)
{
    char *path = trio(), **names;
    size_t n;
    mr_err err = MR_ERR_INIT;
    cr_assert_eq(mri_elf_exports(path, &names, &n, &err), 0, "%s", err.what);
    cr_assert_eq(n, 1);
    cr_assert_str_eq(names[0], "mrun_plugin_v1");
    free(names[0]);
    free(names);
    free(path);
}

static void all_ways(const char *path)
{
    mr_err err = MR_ERR_INIT;
    char **names;
    size_t n;
    mri_note note;
    free(mri_note_read(path));
    if (mri_note_parse(path, &note))
        mri_note_free(&note);
    mri_elf_is_plugin(path, &err);
    mri_elf_exports(path, &names, &n, &err);
    for (size_t i = 0; i < n; i++)
        free(names[i]);
    free(names);
}

static void put(const char *path, const char *bytes, size_t n)
{
    FILE *f = fopen(path, "wb");
    cr_assert_not_null(f);
    cr_assert_eq(fwrite(bytes, 1, n, f), n);
    fclose(f);
}

Test(note, cut_and_mutated_files_are_survived)
{
    char *path = trio(), *bytes, tmp[] = "/tmp/mrun-note-XXXXXX";
    size_t n;
    mr_err err = MR_ERR_INIT;
    cr_assert_eq(mri_read_file(path, 1 << 24, &bytes, &n, &err), 0);
    close(mkstemp(tmp));
    for (size_t cut = 0; cut < n; cut += 1 + cut / 16) {
        put(tmp, bytes, cut);
        all_ways(tmp);
    }
    /* the header and the section table hold every offset and count */
    uint64_t shoff, seed = 1;
    memcpy(&shoff, bytes + 40, sizeof shoff);
    cr_assert_lt(shoff, n);
    for (int i = 0; i < 500; i++) {
        char *copy = mri_alloc(n);
        memcpy(copy, bytes, n);
        for (int k = 0; k < 3; k++) {
            seed = seed * 6364136223846793005u + 1442695040888963407u;
            size_t span = i % 2 ? 64 : n - shoff, at = (seed >> 33) % span;
            copy[(i % 2 ? 0 : shoff) + at] = (char)(seed >> 24);
        }
        put(tmp, copy, n);
        all_ways(tmp);
        free(copy);
    }
    remove(tmp);
    free(bytes);
    free(path);
}

Test(note, what_is_no_plugin_is_told_apart)
{
    mr_err err = MR_ERR_INIT;
    char tmp[] = "/tmp/mrun-note-XXXXXX";
    close(mkstemp(tmp));
    put(tmp, "", 0);
    cr_assert_eq(mri_elf_is_plugin(tmp, &err), MR_E_PLUGIN_MALFORMED);
    cr_assert_not_null(strstr(err.what, "is not an ELF file"), "%s", err.what);
    put(tmp, "#!/bin/sh\necho hello, this is long enough to be a header, or is it? surely.\n", 75);
    cr_assert_eq(mri_elf_is_plugin(tmp, &err), MR_E_PLUGIN_MALFORMED);
    cr_assert_not_null(strstr(err.what, "is not an ELF file"), "%s", err.what);
    remove(tmp);
    cr_assert_eq(mri_elf_is_plugin(tmp, &err), MR_E_PLUGIN_NOT_FOUND);
    cr_assert_not_null(strstr(err.what, "No such file"), "%s", err.what);
    cr_assert_eq(mri_elf_is_plugin("/proc/self/exe", &err), MR_E_PLUGIN_MALFORMED);
    cr_assert_null(mri_note_read("/"));
}
