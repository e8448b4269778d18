/* SPDX-License-Identifier: Apache-2.0
 *
 * The file of timed choices: what was kept comes back, for its own machine and key; damage costs
 * the damaged lines and a warning; what is not ours is left as it is. No GPU is needed.
 */
#include "plugins/backend/cuda/tuning.h"
#include "tests/unit/config/scratch.h"

TestSuite(tuning, .init = scratch_open, .fini = scratch_close);

static int warnings;
static char warned[600];

static void count(void *self, const char *line)
{
    (void)self;
    warnings++;
    snprintf(warned, sizeof warned, "%s", line);
}

static struct cuda_tuning *open_as(const char *machine)
{
    warnings = 0;
    struct cuda_tuning *t = cuda_tuning_open("deep/er/choices.txt", machine, count, NULL);
    cr_assert_not_null(t);
    return t;
}

static struct cuda_choice choice(int seed)
{
    struct cuda_choice c = { .us = 100.5 + seed };
    for (int i = 0; i < CUDA_CHOICE_BYTES; i++)
        c.algo[i] = (uint8_t)(seed * 37 + i * 11);
    return c;
}

static void expect(const struct cuda_tuning *t, const char *key, int seed)
{
    struct cuda_choice c, want = choice(seed);
    memset(&c, 0, sizeof c);
    cr_assert(cuda_tuning_find(t, key, &c), "%s is lost", key);
    cr_assert_arr_eq(c.algo, want.algo, CUDA_CHOICE_BYTES);
    cr_assert_float_eq(c.us, want.us, 1e-3);
}

static void keep(struct cuda_tuning *t, const char *key, int seed)
{
    struct cuda_choice c = choice(seed);
    cuda_tuning_keep(t, key, &c);
}

static void write_three(void)
{
    struct cuda_tuning *t = open_as("a GPU, 1");
    keep(t, "one", 1);
    keep(t, "two", 2);
    keep(t, "three", 3);
    cuda_tuning_close(t);
    cr_assert_eq(warnings, 0, "%s", warned);
}

static char *content(size_t *n)
{
    char *text = NULL;
    mr_err err = MR_ERR_INIT;
    cr_assert_eq(mri_read_file("deep/er/choices.txt", 1 << 20, &text, n, &err), 0, "%s", err.what);
    return text;
}

Test(tuning, comes_back_for_its_machine_and_key)
{
    struct cuda_choice c;
    write_three();
    struct cuda_tuning *t = open_as("a GPU, 1"), *other = open_as("a GPU, 2");
    expect(t, "one", 1);
    expect(t, "three", 3);
    cr_assert_not(cuda_tuning_find(t, "four", &c));
    cr_assert_not(cuda_tuning_find(other, "one", &c));
    keep(t, "one", 9); /* in place of the old one */
    keep(other, "one", 5);
    cuda_tuning_close(t);
    cuda_tuning_close(other);
    t = open_as("a GPU, 1");
    other = open_as("a GPU, 2");
    expect(t, "one", 9);
    expect(t, "two", 2);
    expect(other, "one", 5);
    cr_assert_eq(warnings, 0, "%s", warned);
    cuda_tuning_close(t);
    cuda_tuning_close(other);
}

Test(tuning, two_processes_keep_each_others_choices)
{
    struct cuda_tuning *a = open_as("a GPU, 1"), *b = open_as("a GPU, 1");
    keep(a, "of a", 1);
    keep(b, "of b", 2);
    keep(a, "of a, later", 3);
    cuda_tuning_close(a);
    cuda_tuning_close(b);
    a = open_as("a GPU, 1");
    expect(a, "of a", 1);
    expect(a, "of b", 2);
    expect(a, "of a, later", 3);
    cuda_tuning_close(a);
}

/* Any byte changed, or the file cut anywhere: never a wrong choice, always a warning. */
Test(tuning, survives_damage)
{
    size_t n;
    write_three();
    char *good = content(&n), *bad = mri_alloc(n + 1);
    const char *keys[] = { "one", "two", "three" };
    for (size_t at = 0; at < 2 * n; at++) {
        bool cut = at >= n;
        size_t len = cut ? at - n : n;
        memcpy(bad, good, n + 1);
        if (!cut)
            bad[at] = (char)(bad[at] ^ (at % 3 ? 1 : 0x80));
        write_bytes("deep/er/choices.txt", bad, len);
        struct cuda_tuning *t = open_as("a GPU, 1");
        struct cuda_choice c;
        int found = 0;
        for (int i = 0; i < 3; i++)
            if (cuda_tuning_find(t, keys[i], &c)) {
                expect(t, keys[i], i + 1);
                found++;
            }
        cr_assert(found < 3 || len == n, "cut to %zu", len);
        bool whole_lines = cut && (!len || (bad[len - 1] == '\n'));
        cr_assert(warnings == 1 || whole_lines, "nothing said of byte %zu, cut %d", at, cut);
        cuda_tuning_close(t);
    }
    free(good);
    free(bad);
}

Test(tuning, leaves_a_foreign_file_alone)
{
    const char *text = "my shopping list\n";
    write_three();
    size_t n;
    write_text("deep/er/choices.txt", text);
    struct cuda_tuning *t = open_as("a GPU, 1");
    cr_assert_eq(warnings, 1);
    cr_assert_not_null(strstr(warned, "left alone"), "%s", warned);
    keep(t, "one", 1);
    expect(t, "one", 1); /* in memory */
    cuda_tuning_close(t);
    char *now = content(&n);
    cr_assert_str_eq(now, text);
    free(now);
}

Test(tuning, does_without_a_file)
{
    struct cuda_tuning *t = cuda_tuning_open(NULL, "a GPU, 1", count, NULL);
    keep(t, "one", 1);
    expect(t, "one", 1);
    cuda_tuning_close(t);
    warnings = 0;
    write_text("blocker", "a file where a folder is wanted");
    t = cuda_tuning_open("blocker/choices.txt", "a GPU, 1", count, NULL);
    keep(t, "one", 1);
    keep(t, "two", 2);
    expect(t, "one", 1);
    cr_assert_eq(warnings, 1, "once is enough");
    cr_assert_not_null(strstr(warned, "cannot be written"), "%s", warned);
    cuda_tuning_close(t);
}

Test(tuning, finds_the_users_cache)
{
    cr_assert_null(cuda_tuning_path("off"));
    cr_assert_null(cuda_tuning_path(NULL));
    char *p = cuda_tuning_path("a/file");
    cr_assert_str_eq(p, "a/file");
    free(p);
    setenv("XDG_CACHE_HOME", "/some/where", 1);
    p = cuda_tuning_path("auto");
    cr_assert_str_eq(p, "/some/where/mrun/cublaslt-choices.txt");
    free(p);
    unsetenv("XDG_CACHE_HOME");
    setenv("HOME", "/home/me", 1);
    p = cuda_tuning_path("auto");
    cr_assert_str_eq(p, "/home/me/.cache/mrun/cublaslt-choices.txt");
    free(p);
    unsetenv("HOME");
    cr_assert_null(cuda_tuning_path("auto"));
}
