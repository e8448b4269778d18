/* SPDX-License-Identifier: Apache-2.0
 * A checkpoint of several ranks: what one layout saves any other loads, each byte is written once,
 * and nothing that is incomplete, damaged or another model's is taken for one. */
#include "core/store/digest.h"
#include "core/store/internal.h"
#include "ranks.h"

typedef struct job {
    const char *dir;
    const layout *l;
    int64_t step;
    uint32_t lost; /* this rank has nothing; UINT32_MAX: all have theirs */
    _Atomic uint64_t wrong;
} job;

static mr_status save_job(const mri_peers *p, void *arg, mr_err *err)
{
    const job *j = arg;
    return ranks_save(p, j->dir, j->l, j->step, 0, err);
}

static mr_status load_job(const mri_peers *p, void *arg, mr_err *err)
{
    job *j = arg;
    mri_checkpoint *c = NULL;
    uint64_t wrong = 0;
    mr_status st = mri_checkpoint_open_newest_with(p, j->dir, &c, err);
    if (!st)
        st = ranks_read(c, j->l, p->rank, j->step, &wrong, err);
    j->wrong += wrong;
    mri_checkpoint_close(c);
    return st;
}

static void save(const char *dir, const layout *l, int64_t step)
{
    mr_err err = MR_ERR_INIT;
    job j = { dir, l, step, UINT32_MAX, 0 };
    cr_assert_eq(ranks_run(layout_ranks(l), save_job, &j, &err), 0, "%s: %s | %s", l->name,
                 err.what, err.detail);
}

Test(shards, what_any_layout_saves_every_other_loads)
{
    for (size_t a = 0; a < LAYOUTS; a++) {
        char *dir = scratch_make();
        save(dir, &layouts[a], 100 + (int64_t)a);
        for (size_t b = 0; b < LAYOUTS; b++) {
            mr_err err = MR_ERR_INIT;
            job j = { dir, &layouts[b], 100 + (int64_t)a, UINT32_MAX, 0 };
            mr_status st = ranks_run(layout_ranks(&layouts[b]), load_job, &j, &err);
            cr_assert_eq(st, 0, "%s to %s: %s | %s", layouts[a].name, layouts[b].name, err.what,
                         err.detail);
            cr_assert_eq(j.wrong, 0, "%s to %s: %d tensors are wrong", layouts[a].name,
                         layouts[b].name, (int)j.wrong);
        }
        scratch_drop(dir);
    }
}

Test(shards, a_checkpoint_of_one_process_loads_under_every_layout)
{
    char *dir = scratch_make();
    holding *h = hold(&layouts[0], 0, 7);
    mri_checkpoint_file files[2];
    mri_tensor t[2][SHAPES];
    mri_checkpoint_meta m = { .step = 7 };
    mr_err err = MR_ERR_INIT;
    for (int g = 0; g < 2; g++) {
        for (size_t i = 0; i < h->group[g].n; i++) {
            const mri_share *f = &h->f[g][i];
            mr_type type = { .size = sizeof type, .dtype = f->dtype, .rank = f->box.rank };
            memcpy(type.dim, f->box.dim, sizeof type.dim);
            t[g][i] = (mri_tensor){ f->name, type, f->data };
        }
        files[g] = (mri_checkpoint_file){ h->group[g].name, t[g], h->group[g].n };
    }
    cr_assert_eq(mri_checkpoint_save(dir, &m, files, 2, 0, &err), 0, "%s", err.what);
    for (size_t b = 0; b < LAYOUTS; b++) {
        job j = { dir, &layouts[b], 7, UINT32_MAX, 0 };
        cr_assert_eq(ranks_run(layout_ranks(&layouts[b]), load_job, &j, &err), 0, "%s", err.what);
        cr_assert_eq(j.wrong, 0, "%s", layouts[b].name);
    }
    let_go(h);
    scratch_drop(dir);
}

Test(shards, whole_tensors_come_back_from_parts)
{
    char *dir = scratch_make(), *step;
    mri_checkpoint *c;
    mr_err err = MR_ERR_INIT;
    save(dir, &layouts[LAYOUTS - 1], 5);
    step = mri_format("%s/step-00000005", dir);
    cr_assert_eq(mri_checkpoint_open(step, &c, &err), 0, "%s", err.what);
    cr_assert_str_eq(mri_checkpoint_format(c), "fully_reshardable");
    for (int g = 0; g < 2; g++) {
        const char *group = g ? "optimizer" : "model";
        cr_assert_eq(mri_checkpoint_join(c, group, &err), 0, "%s", err.what);
        const mri_safetensors *set = mri_checkpoint_group(c, group);
        cr_assert_eq(mri_safetensors_count(set), SHAPES);
        for (size_t i = 0; i < SHAPES; i++) {
            const mri_tensor *t = mri_safetensors_at(set, i);
            mri_share all = { .name = t->name, .dtype = t->type.dtype,
                                 .box = mri_box_whole(&t->type),
                                 .to = (uint64_t)mr_numel(&t->type) };
            char *want = mri_alloc(mr_bytes(&t->type) + 1);
            fill_share(&all, 5, want);
            cr_assert(!all.to || !memcmp(want, t->data, mr_bytes(&t->type)), "%s", t->name);
            free(want);
        }
    }
    mri_checkpoint_close(c);
    free(step);
    scratch_drop(dir);
}

/* ---- who writes ---------------------------------------------------------------------------- */

static mr_status replicas_job(const mri_peers *p, void *arg, mr_err *err)
{
    uint64_t *bytes = arg;
    layout l = { "dp4", 1, 1, 1, 4, false, false };
    holding *h = hold(&l, p->rank, 3);
    mri_shards plan;
    mr_status st = mri_shards_plan(p, h->group, 2, &plan, err);
    for (size_t i = 0; i < plan.tensors.n; i++)
        for (size_t k = 0; k < plan.tensors.v[i].parts.n; k++) {
            const mri_part *x = &plan.tensors.v[i].parts.v[k];
            if (x->file == p->rank)
                bytes[p->rank] += (x->f.to - x->f.from) * mr_dtype_bytes(x->f.dtype);
        }
    mri_shards_free(&plan);
    let_go(h);
    return st;
}

Test(shards, replicas_share_the_writing_and_nothing_is_written_twice)
{
    uint64_t bytes[4] = { 0 }, all = 0, most = 0, largest = 0;
    mr_err err = MR_ERR_INIT;
    holding *h = hold(&layouts[0], 0, -1);
    cr_assert_eq(ranks_run(4, replicas_job, bytes, &err), 0, "%s", err.what);
    for (int g = 0; g < 2; g++)
        for (size_t i = 0; i < h->group[g].n; i++) {
            const mri_share *f = &h->f[g][i];
            uint64_t n = (f->to - f->from) * mr_dtype_bytes(f->dtype);
            all += n;
            largest = n > largest ? n : largest;
        }
    for (int r = 0; r < 4; r++)
        most = bytes[r] > most ? bytes[r] : most;
    cr_assert_eq(bytes[0] + bytes[1] + bytes[2] + bytes[3], all);
    cr_assert_leq(most, all / 4 + largest);
    let_go(h);
}

static mr_status files_job(const mri_peers *p, void *arg, mr_err *err)
{
    return ranks_save(p, arg, &layouts[7], 1, 0, err);
}

Test(shards, a_file_of_a_rank_has_one_part_of_a_tensor)
{
    char *dir = scratch_make(), *step = mri_format("%s/step-00000001", dir);
    mri_checkpoint *c;
    mr_err err = MR_ERR_INIT;
    cr_assert_eq(ranks_run(8, files_job, dir, &err), 0, "%s", err.what);
    cr_assert_eq(mri_checkpoint_open(step, &c, &err), 0, "%s", err.what);
    const mri_shards *s = mri_checkpoint_shards(c);
    for (size_t i = 0; i < s->tensors.n; i++)
        for (size_t k = 0; k < s->tensors.v[i].parts.n; k++)
            for (size_t j = 0; j < k; j++)
                cr_assert_neq(s->tensors.v[i].parts.v[k].file, s->tensors.v[i].parts.v[j].file,
                              "%s", s->tensors.v[i].name);
    mri_checkpoint_close(c);
    free(step);
    scratch_drop(dir);
}

/* ---- refusals ------------------------------------------------------------------------------ */

static mr_status lossy_job(const mri_peers *p, void *arg, mr_err *err)
{
    const job *j = arg;
    holding *h = hold(j->l, p->rank, 3);
    mri_checkpoint_meta m = { .step = 3 };
    mri_shards_save *s;
    if (p->rank == j->lost) /* the second half of a.column, which no other rank has */
        h->f[0][1].to--;
    cr_assert_str_eq(h->f[0][1].name, "a.column");
    mr_status st = mri_shards_begin(p, j->dir, &m, h->group, 2, "fully_reshardable", NULL, &s, err);
    let_go(h);
    return st;
}

Test(shards, a_tensor_of_which_elements_are_missing_is_not_saved)
{
    char *dir = scratch_make();
    mr_err err = MR_ERR_INIT;
    job j = { dir, &layouts[1], 3, 1, 0 };
    int64_t *steps;
    size_t n;
    cr_assert_eq(ranks_run(2, lossy_job, &j, &err), MR_E_STORE_FORMAT);
    cr_assert_not_null(strstr(err.what, "1 of 120 elements of tensor a.column"), "%s", err.what);
    cr_assert_eq(mri_checkpoint_list(dir, &steps, &n, &err), 0);
    cr_assert_eq(n, 0);
    free(steps);
    scratch_drop(dir);
}

/* flips a byte of every file, cuts every file, and takes every file away */
Test(shards, damage_to_any_file_is_noticed_and_the_file_is_named)
{
    char *dir = scratch_make();
    mri_checkpoint *c;
    mr_err err = MR_ERR_INIT;
    save(dir, &layouts[6], 1);
    save(dir, &layouts[6], 2);
    char *step = mri_format("%s/step-00000002", dir);
    char *manifest_path = mri_format("%s/" MRI_MANIFEST, step);
    mri_manifest m;
    cr_assert_eq(mri_manifest_read(manifest_path, &m, &err), 0, "%s", err.what);
    cr_assert_gt(m.files.n, 4);
    for (size_t i = 0; i <= m.files.n; i++)
        for (int how = 0; how < 3; how++) {
            const char *name = i < m.files.n ? m.files.v[i].file : MRI_MANIFEST;
            char *path = mri_format("%s/%s", step, name);
            size_t n;
            char *was = scratch_get(path, &n);
            was[n / 2] ^= how == 0 ? 4 : 0;
            unlink(path);
            if (how < 2)
                scratch_put(path, was, how ? n - 1 : n);
            cr_assert_eq(mri_checkpoint_open_newest(dir, &c, &err), MR_E_STORE_CHECKSUM,
                         "%s, damage %d", name, how);
            cr_assert_not_null(strstr(err.what, name), "%s", err.what);
            cr_assert_not_null(strstr(err.hint, "step-00000001 is whole"), "%s", err.hint);
            job j = { dir, &layouts[4], 2, UINT32_MAX, 0 };
            cr_assert_eq(ranks_run(2, load_job, &j, &err), MR_E_STORE_CHECKSUM);
            cr_assert_not_null(strstr(err.what, name), "%s", err.what);
            was[n / 2] ^= how == 0 ? 4 : 0;
            scratch_put(path, was, n);
            free(was);
            free(path);
        }
    cr_assert_eq(mri_checkpoint_open_newest(dir, &c, &err), 0, "%s", err.what);
    mri_checkpoint_close(c);
    mri_manifest_free(&m);
    free(manifest_path);
    free(step);
    scratch_drop(dir);
}

/* A manifest that somebody made, its own checksum right: `from` replaced by `to`. */
static void remake(const char *path, const char *text, const char *from, const char *to)
{
    static const char seal[] = "  \"manifest_xxh64\": \"";
    const char *at = strstr(text, from), *end = strstr(text, seal);
    mri_str s = { 0 };
    cr_assert(at && end, "%s is not in %s", from, text);
    mri_str_addn(&s, text, (size_t)(at - text));
    mri_str_add(&s, to);
    mri_str_addn(&s, at + strlen(from), (size_t)(end - at) - strlen(from));
    mri_str_fmt(&s, "%s%016llx\"\n}\n", seal, (unsigned long long)mri_digest_of(s.s, s.n));
    scratch_put(path, s.s, s.n);
    mri_str_free(&s);
}

Test(shards, an_impossible_list_of_parts_is_refused)
{
    static const char *const changes[][3] = {
        { "[{\"file\": 0, \"at\": [0, 0], \"dims\": [6, 10]},", "[{\"file\": 0, \"at\": [0, 0], "
          "\"dims\": [5, 10]},", "10 of 120 elements of tensor a.column" },
        { "\"at\": [6, 0], \"dims\": [6, 10]}", "\"at\": [5, 0], \"dims\": [7, 10]}",
          "a.column are there twice" },
        { "\"at\": [6, 0], \"dims\": [6, 10]}", "\"at\": [6, 0], \"dims\": [7, 10]}",
          "part 1 of tensor a.column" },
        { "\"at\": [6, 0], \"dims\": [6, 10]}", "\"at\": [6], \"dims\": [6, 10]}",
          "part 1 of tensor a.column" },
        { "\"dims\": [6, 10]}", "\"dims\": [6, 10], \"range\": [0, 61]}",
          "part 0 of tensor a.column" },
        { "\"dims\": [6, 10]}", "\"dims\": [6, 10], \"range\": [4, 60]}",
          "4 of 120 elements of tensor a.column" },
        { "[{\"file\": 0, \"at\": [0, 0], \"dims\": [6, 10]},", "[{\"file\": 99},", "part 0 of" },
        { "\"shape\": [12, 10]", "\"shape\": [4611686018427387904, 4]", "impossible shape" },
        { "\"name\": \"a.column\"", "\"name\": \"zzz\"", "out of order" },
        { "\"name\": \"a.column\", \"dtype\": \"f32\"",
          "\"name\": \"a.column\", \"dtype\": \"f64\"", "a.column is not what its manifest says" },
        { "\"name\": \"a.column\"", "\"name\": \"a.columm\"", "does not have a.columm" },
    };
    char *dir = scratch_make(), *step = mri_format("%s/step-00000001", dir);
    char *path = mri_format("%s/" MRI_MANIFEST, step);
    mri_checkpoint *c;
    mr_err err = MR_ERR_INIT;
    size_t n;
    save(dir, &layouts[1], 1);
    char *text = scratch_get(path, &n);
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        remake(path, text, changes[i][0], changes[i][1]);
        cr_expect_neq(mri_checkpoint_open(step, &c, &err), 0, "change %zu", i);
        cr_expect_not_null(strstr(err.what, changes[i][2]), "change %zu: %s", i, err.what);
    }
    remake(path, text, "\"format\"", "\"format\""); /* none: it is the making that is right */
    cr_assert_eq(mri_checkpoint_open(step, &c, &err), 0, "%s", err.what);
    mri_checkpoint_close(c);
    free(text);
    free(path);
    free(step);
    scratch_drop(dir);
}

Test(shards, another_models_tensor_is_refused_by_name)
{
    char *dir = scratch_make();
    mri_checkpoint *c;
    mr_err err = MR_ERR_INIT;
    double out[400];
    save(dir, &layouts[1], 1);
    cr_assert_eq(mri_checkpoint_open_newest(dir, &c, &err), 0, "%s", err.what);
    mri_share f = { .name = "a.column", .dtype = "f32", .to = 130 };
    mr_type other = mr_type2("f32", 13, 10);
    f.box = mri_box_whole(&other);
    cr_assert_eq(mri_checkpoint_read(c, "model", &f, 0, 130, out, &err), MR_E_STORE_FORMAT);
    cr_assert_not_null(strstr(err.what, "a.column"), "%s", err.what);
    cr_assert_not_null(strstr(err.detail, "[12,10]"), "%s", err.detail);
    f.name = "c.column";
    cr_assert_eq(mri_checkpoint_read(c, "model", &f, 0, 130, out, &err), MR_E_STORE_MISSING);
    cr_assert_not_null(strstr(err.what, "c.column"), "%s", err.what);
    mri_checkpoint_close(c);
    scratch_drop(dir);
}
