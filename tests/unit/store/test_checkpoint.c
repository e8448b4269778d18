/* SPDX-License-Identifier: Apache-2.0
 * A checkpoint comes back bit for bit or not at all. */
#include "core/store/digest.h"
#include "core/store/store.h"
#include "scratch.h"
#include <math.h>
#include <sys/file.h>
#include <fcntl.h>

static float weights[1000];
static int64_t moments[7] = { 1, -2, 3, -4, 5, -6, 7 };
static const char profile[] = "[run]\nseed = 1\n";

static mri_checkpoint_meta meta_at(int64_t step)
{
    mri_checkpoint_meta m = { .step = step, .samples = 4 * step, .tokens = 256 * step };
    m.profile_text = profile;
    MRI_PUSH(&m.counters, mr_ai("epoch", INT64_MIN));
    MRI_PUSH(&m.counters, mr_af("scale", 0.1));
    MRI_PUSH(&m.counters, mr_af("whole", 65536));
    MRI_PUSH(&m.counters, mr_af("minus_zero", -0.0));
    MRI_PUSH(&m.counters, mr_af("tiny", 4.9406564584124654e-324));
    MRI_PUSH(&m.counters, mr_af("inf", INFINITY));
    MRI_PUSH(&m.counters, mr_af("nan", NAN));
    return m;
}

static mr_status save(const char *dir, int64_t step, int64_t keep, mr_err *err)
{
    for (size_t i = 0; i < 1000; i++)
        weights[i] = (float)step + (float)i / 7;
    moments[0] = step;
    const mri_tensor w[] = { { "layer.weight", mr_type2("f32", 10, 100), weights } };
    const mri_tensor o[] = { { "layer.weight.m", mr_type1("i64", 7), moments } };
    const mri_checkpoint_file files[] = { { "model", w, 1 }, { "optimizer", o, 1 } };
    mri_checkpoint_meta m = meta_at(step);
    mr_status st = mri_checkpoint_save(dir, &m, files, 2, keep, err);
    free(m.counters.v);
    return st;
}

static void must_save(const char *dir, int64_t step, int64_t keep)
{
    mr_err err = MR_ERR_INIT;
    cr_assert_eq(save(dir, step, keep, &err), 0, "%s; %s", err.what, err.detail);
}

static int64_t newest(const char *dir)
{
    mri_checkpoint *c;
    mr_err err = MR_ERR_INIT;
    cr_assert_eq(mri_checkpoint_open_newest(dir, &c, &err), 0, "%s", err.what);
    int64_t step = c ? mri_checkpoint_info(c)->step : -1;
    mri_checkpoint_close(c);
    return step;
}

Test(checkpoint, everything_comes_back_bit_for_bit)
{
    char *dir = scratch_make(), *sub = mri_format("%s/deep/er", dir);
    mri_checkpoint *c;
    mr_err err = MR_ERR_INIT;
    cr_assert_eq(newest(sub), -1);
    must_save(sub, 400, 0);
    cr_assert_eq(mri_checkpoint_open_newest(sub, &c, &err), 0, "%s", err.what);
    const mri_checkpoint_meta *m = mri_checkpoint_info(c);
    mri_checkpoint_meta want = meta_at(400);
    cr_assert_eq(m->step, 400);
    cr_assert_eq(m->samples, 1600);
    cr_assert_eq(m->tokens, 102400);
    cr_assert_str_eq(m->profile_text, profile);
    cr_assert_eq(m->counters.n, want.counters.n);
    for (size_t i = 0; i < want.counters.n; i++) {
        const mr_attr *a = &m->counters.v[i], *b = &want.counters.v[i];
        cr_assert_str_eq(a->key, b->key);
        cr_assert_eq(a->type, b->type, "%s", a->key);
        if (!strcmp(a->key, "nan"))
            cr_assert(isnan(a->u.f));
        else
            cr_assert_eq(a->u.i, b->u.i, "%s", a->key); /* the bits of a double, too */
    }
    const mri_tensor *w = mri_safetensors_find(mri_checkpoint_group(c, "model"), "layer.weight");
    cr_assert_arr_eq(w->data, weights, sizeof weights);
    const mri_tensor *o =
        mri_safetensors_find(mri_checkpoint_group(c, "optimizer"), "layer.weight.m");
    cr_assert_arr_eq(o->data, moments, sizeof moments);
    cr_assert_null(mri_checkpoint_group(c, "other"));
    mri_checkpoint_close(c);
    free(want.counters.v);
    free(sub);
    scratch_drop(dir);
}

Test(checkpoint, keep_counts_and_never_takes_the_one_just_saved)
{
    char *dir = scratch_make();
    mr_err err = MR_ERR_INIT;
    int64_t *steps;
    size_t n;
    for (int64_t s = 100; s <= 500; s += 100)
        must_save(dir, s, 2);
    cr_assert_eq(mri_checkpoint_list(dir, &steps, &n, &err), 0);
    cr_assert_eq(n, 2);
    cr_assert_eq(steps[0], 500);
    cr_assert_eq(steps[1], 400);
    free(steps);
    must_save(dir, 450, 1); /* a run that went back: the newer-numbered ones go */
    cr_assert_eq(mri_checkpoint_list(dir, &steps, &n, &err), 0);
    cr_assert_eq(n, 1);
    cr_assert_eq(steps[0], 450);
    free(steps);
    must_save(dir, 123456789012, 0);
    cr_assert_eq(newest(dir), 123456789012);
    scratch_drop(dir);
}

Test(checkpoint, the_same_step_again_replaces_it)
{
    char *dir = scratch_make();
    must_save(dir, 7, 1);
    must_save(dir, 7, 1);
    cr_assert_eq(newest(dir), 7);
    char *list = mri_format("ls -A %s | wc -l", dir);
    FILE *p = popen(list, "r");
    int entries = 0;
    cr_assert_eq(fscanf(p, "%d", &entries), 1);
    pclose(p);
    cr_assert_eq(entries, 1, "temporary folders are left");
    free(list);
    scratch_drop(dir);
}

Test(checkpoint, stale_temporary_folders_go_and_living_ones_stay)
{
    char *dir = scratch_make();
    char *dead = mri_format("%s/.tmp-step-00000009-1", dir);
    char *alive = mri_format("%s/.tmp-step-00000010-2", dir);
    char *inside = mri_format("%s/model.safetensors", dead);
    must_save(dir, 8, 0);
    mkdir(dead, 0777);
    mkdir(alive, 0777);
    scratch_put(inside, "x", 1);
    int lock = open(alive, O_RDONLY);
    cr_assert_eq(flock(lock, LOCK_EX), 0);
    cr_assert_eq(newest(dir), 8);
    cr_assert_neq(access(dead, F_OK), 0);
    cr_assert_eq(access(alive, F_OK), 0);
    close(lock);
    cr_assert_eq(newest(dir), 8);
    cr_assert_neq(access(alive, F_OK), 0);
    free(inside);
    free(alive);
    free(dead);
    scratch_drop(dir);
}

/* Flips one bit of every byte in turn (every 97th of the large file): all are noticed. */
Test(checkpoint, any_flipped_bit_is_noticed_and_the_older_one_named)
{
    static const char *const files[] = { "manifest.json", "model.safetensors",
                                         "optimizer.safetensors", "profile.resolved.ini" };
    char *dir = scratch_make();
    must_save(dir, 1, 0);
    must_save(dir, 2, 0);
    for (size_t i = 0; i < 4; i++) {
        char *path = mri_format("%s/step-00000002/%s", dir, files[i]);
        size_t n;
        char *text = scratch_get(path, &n);
        for (size_t at = 0; at < n; at += n > 2000 ? 97 : 1) {
            mri_checkpoint *c;
            mr_err err = MR_ERR_INIT;
            text[at] ^= 1 << (at % 8);
            scratch_put(path, text, n);
            cr_assert_eq(mri_checkpoint_open_newest(dir, &c, &err), MR_E_STORE_CHECKSUM,
                         "%s, byte %zu", files[i], at);
            cr_assert_null(c);
            cr_assert_not_null(strstr(err.what, files[i]), "%s", err.what);
            cr_assert_not_null(strstr(err.hint, "step-00000001 is whole"), "%s", err.hint);
            text[at] ^= 1 << (at % 8);
        }
        scratch_put(path, text, n);
        cr_assert_eq(newest(dir), 2);
        free(text);
        free(path);
    }
    scratch_drop(dir);
}

Test(checkpoint, cut_or_missing_files_are_damage)
{
    static const char *const files[] = { "manifest.json", "model.safetensors",
                                         "profile.resolved.ini" };
    char *dir = scratch_make();
    must_save(dir, 2, 0);
    for (size_t i = 0; i < 3; i++) {
        char *path = mri_format("%s/step-00000002/%s", dir, files[i]);
        size_t n;
        char *text = scratch_get(path, &n);
        for (int how = 0; how < 3; how++) {
            mri_checkpoint *c;
            mr_err err = MR_ERR_INIT;
            if (how == 0)
                cr_assert_eq(truncate(path, (off_t)n - 1), 0);
            else if (how == 1)
                cr_assert_eq(truncate(path, 0), 0);
            else
                remove(path);
            cr_assert_eq(mri_checkpoint_open_newest(dir, &c, &err), MR_E_STORE_CHECKSUM);
            cr_assert_not_null(strstr(err.what, files[i]), "%s", err.what);
            cr_assert_not_null(strstr(err.hint, "no older checkpoint"), "%s", err.hint);
        }
        scratch_put(path, text, n);
        free(text);
        free(path);
    }
    scratch_drop(dir);
}

Test(checkpoint, bad_arguments_are_named_and_leave_nothing)
{
    char *dir = scratch_make();
    const mri_tensor w[] = { { "w", mr_type1("f32", 4), weights } };
    const mri_tensor none[] = { { "w", mr_type1("f32", 4), NULL } };
    const mri_checkpoint_file slash[] = { { "a/b", w, 1 } };
    const mri_checkpoint_file twice[] = { { "a", w, 1 }, { "a", w, 1 } };
    const mri_checkpoint_file null[] = { { "a", w, 1 }, { "b", none, 1 } };
    mri_checkpoint_meta m = { .step = 1 };
    mr_err err = MR_ERR_INIT;
    cr_assert_eq(mri_checkpoint_save(dir, &m, slash, 1, 0, &err), MR_E_ARG);
    cr_assert_eq(mri_checkpoint_save(dir, &m, twice, 2, 0, &err), MR_E_ARG);
    cr_assert_eq(mri_checkpoint_save(dir, &m, null, 2, 0, &err), MR_E_ARG);
    cr_assert_not_null(strstr(err.what, "no data"));
    m.step = -1;
    cr_assert_eq(mri_checkpoint_save(dir, &m, twice, 1, 0, &err), MR_E_ARG);
    cr_assert_eq(rmdir(dir), 0, "something was left");
    free(dir);
}

Test(checkpoint, small_files_are_replaced_whole)
{
    char *dir = scratch_make(), *path = mri_format("%s/f", dir);
    mr_err err = MR_ERR_INIT;
    size_t n;
    cr_assert_eq(mri_write_file_atomic(path, "one", 3, &err), 0, "%s", err.what);
    cr_assert_eq(mri_write_file_atomic(path, "twotwo", 6, &err), 0, "%s", err.what);
    char *text = scratch_get(path, &n);
    cr_assert_str_eq(text, "twotwo");
    free(text);
    free(path);
    path = mri_format("%s/none/f", dir);
    cr_assert_eq(mri_write_file_atomic(path, "x", 1, &err), MR_E_STORE_IO);
    cr_assert_not_null(strstr(err.what, "none/"));
    free(path);
    scratch_drop(dir);
}

Test(checkpoint, the_checksum_is_the_published_xxh64)
{
    const char text[] = "Nobody inspects the spammish repetition";
    cr_assert_eq(mri_digest_of("", 0), 0xef46db3751d8e999u);
    cr_assert_eq(mri_digest_of(text, sizeof text - 1), 0xfbcea83c8a378bf1u);
    mri_digest *d = mri_digest_begin();
    for (size_t i = 0; i < sizeof text - 1; i++)
        mri_digest_add(d, text + i, 1);
    cr_assert_eq(mri_digest_end(d), 0xfbcea83c8a378bf1u);
}
