/* SPDX-License-Identifier: Apache-2.0
 * A model folder is there as a whole or not at all: no death at any step of writing it leaves a
 * half one under its name, or takes one that was there; the next writer sweeps what is left. */
#include "core/store/store.h"
#include "scratch.h"
#include <dirent.h>
#include <sys/wait.h>

static float values[2][6] = { { 1, 2, 3, 4, 5, 6 }, { 7, 8, 9, 10, 11, 12 } };

/* a folder of two shards whose values are `version`'s */
static mr_status make(const char *path, int version, bool force, mr_err *err)
{
    mri_tensor t[2] = { { "a", mr_type1("f32", 6), values[version] },
                        { "b", mr_type2("f32", 2, 3), values[version] } };
    mri_new_folder f;
    mr_status st = 0;
    MR_TRY(mri_new_folder_begin(&f, path, 1000, force, err));
    MR_TRY(mri_new_folder_text(&f, "config.json", "{}", err));
    MR_TRY(mri_new_folder_tensors(&f, t, 2, NULL, 24, err));
    MR_TRY(mri_new_folder_commit(&f, err));
out:
    mri_new_folder_end(&f);
    return st;
}

/* 0, 1: the version that is there, whole; -1: nothing */
static int there(const char *path)
{
    mri_safetensors *f;
    mr_err err = MR_ERR_INIT;
    if (access(path, F_OK))
        return -1;
    cr_assert_eq(mri_safetensors_open_folder(path, &f, &err), 0, "%s", err.what);
    const mri_tensor *a = mri_safetensors_find(f, "a"), *b = mri_safetensors_find(f, "b");
    cr_assert(a && b && mri_safetensors_count(f) == 2);
    int version = memcmp(a->data, values[1], sizeof values[1]) == 0;
    cr_assert_arr_eq(a->data, values[version], sizeof values[0]);
    cr_assert_arr_eq(b->data, values[version], sizeof values[0]);
    mri_safetensors_close(f);
    return version;
}

static size_t entries(const char *dir)
{
    size_t n = 0;
    DIR *d = opendir(dir);
    while (readdir(d))
        n++;
    closedir(d);
    return n - 2;
}

static uint64_t die_at, calls;

static void die(const char *what, const char *path, uint64_t n)
{
    (void)what, (void)path, (void)n;
    if (calls++ == die_at)
        _exit(9);
}

/* makes version 1 in a child that dies at its k-th operation; did it get through? */
static bool killed_at(const char *path, uint64_t k, bool force)
{
    int status;
    pid_t pid = fork();
    cr_assert_geq(pid, 0);
    if (!pid) {
        mr_err err = MR_ERR_INIT;
        die_at = k;
        mri_store_fault_hook = die;
        _exit(make(path, 1, force, &err) ? 1 : 0);
    }
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    cr_assert(WIFEXITED(status) && (WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == 9));
    return WEXITSTATUS(status) == 0;
}

Test(new_folder, is_whole_or_not_there_whenever_its_writer_dies)
{
    char *dir = scratch_make(), *path = mri_format("%s/model", dir);
    mr_err err = MR_ERR_INIT;
    uint64_t k = 0;
    for (bool through = false; !through; k++) {
        through = killed_at(path, k, false);
        int now = there(path);
        cr_assert(now == -1 || now == 1);
        cr_assert(!through || now == 1);
        if (now == 1 && !through)
            break; /* died after the rename */
    }
    cr_assert_gt(k, 8, "only %llu operations seen", (unsigned long long)k);
    cr_assert_eq(make(path, 0, true, &err), 0, "%s", err.what);
    cr_assert_eq(entries(dir), 1, "the next writer sweeps what the dead left");

    for (k = 0;; k++) { /* over one that is there */
        bool through = killed_at(path, k, true);
        int now = there(path);
        cr_assert_neq(now, -1, "death at operation %llu took the old one", (unsigned long long)k);
        if (now == 1 || through)
            break;
    }
    cr_assert_gt(k, 8);
    cr_assert_eq(make(path, 0, true, &err), 0, "%s", err.what);
    cr_assert_eq(entries(dir), 1);
    free(path);
    scratch_drop(dir);
}

Test(new_folder, only_its_own_remains_are_swept)
{
    char *dir = scratch_make(), *path = mri_format("%s/model", dir);
    static const char *const others[] = { ".tmp-modell-12", ".tmp-model-12x", ".tmp-model-",
                                          "tmp-model-12" };
    mr_err err = MR_ERR_INIT;
    for (size_t i = 0; i < 4; i++)
        cr_assert_eq(mkdir(mri_format("%s/%s", dir, others[i]), 0777), 0);
    cr_assert_eq(mkdir(mri_format("%s/.tmp-model-12", dir), 0777), 0);
    cr_assert_eq(make(path, 0, false, &err), 0, "%s", err.what);
    cr_assert_eq(entries(dir), 5);
    free(path);
    scratch_drop(dir);
}

Test(new_folder, does_not_begin_where_it_may_not)
{
    char *dir = scratch_make(), *path = mri_format("%s/model", dir);
    mr_err err = MR_ERR_INIT;
    mri_new_folder f;
    cr_assert_eq(make(path, 0, false, &err), 0, "%s", err.what);
    cr_assert_eq(make(path, 1, false, &err), MR_E_ARG);
    cr_assert_eq(there(path), 0);
    cr_assert_eq(make(dir, 1, true, &err), MR_E_ARG, "a folder of other things is not replaced");
    cr_assert_eq(make("..", 1, true, &err), MR_E_ARG);
    err = (mr_err)MR_ERR_INIT;
    char *other = mri_format("%s/huge", dir);
    cr_assert_eq(mri_new_folder_begin(&f, other, UINT64_MAX / 2, false, &err), MR_E_STORE_FULL);
    cr_assert_not_null(strstr(err.detail, "needed: "));
    mri_new_folder_end(&f);
    cr_assert_eq(entries(dir), 1);
    free(other);
    free(path);
    scratch_drop(dir);
}
