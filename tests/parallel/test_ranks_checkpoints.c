/* SPDX-License-Identifier: Apache-2.0
 *
 * Runs of several ranks and their checkpoints: what one layout has saved another goes on from, with
 * the losses of the run that one process made without a stop; and `mrun inspect` and `convert`
 * take such a checkpoint as any other.
 */
#include "../unit/jobs/job.h"
#include "core/store/shards.h"
#include <math.h>

/* sizes that two ranks can share in any way */
#define COMMON "--set", "train.global_batch=4", "--set", "train.micro_batch=1", \
        "--set", "model.kv_heads=2", "--set", "model.llama4.experts=4"
#define RANKS(n) "comm.plugin=sim", "comm.sim.ranks=" #n
enum { WORDS = 32, COMMON_WORDS = 10 };

/* what is set beside COMMON, NULL-ended */
static const struct layout {
    const char *name;
    const char *set[8];
} layouts[] = {
    { "one", { NULL } },
    { "dp2", { RANKS(2), NULL } },
    { "dp4", { RANKS(4), NULL } },
    { "dp2 distopt", { RANKS(2), "shard.plugin=distopt", NULL } },
    { "dp4 fsdp", { RANKS(4), "shard.plugin=fsdp", "shard.fsdp.strategy=optim_grads_params",
                    NULL } },
    { "tp2", { RANKS(2), "mesh.tp=2", NULL } },
    { "tp2 dp2 distopt", { RANKS(4), "mesh.tp=2", "shard.plugin=distopt", NULL } },
    { "pp2", { RANKS(2), "mesh.pp=2", NULL } },
    { "tp2 pp2", { RANKS(4), "mesh.tp=2", "mesh.pp=2", NULL } },
    { "ep2", { RANKS(2), "mesh.ep=2", NULL } },
    { "ep2 tp2 fsdp", { RANKS(4), "mesh.ep=2", "mesh.tp=2", "shard.plugin=fsdp", NULL } },
    { "dp2 fsdp optim", { RANKS(2), "shard.plugin=fsdp", "shard.fsdp.strategy=optim", NULL } },
};
enum { LAYOUTS = sizeof layouts / sizeof *layouts };

static job_result train(const job *j, const struct layout *l, const char *dir, int steps,
                        const char *more)
{
    const char *argv[WORDS] = { "p.ini", "-q", COMMON };
    size_t n = COMMON_WORDS;
    char *words[3] = { mri_format("run.dir=%s", dir), mri_format("train.steps=%d", steps),
                       more ? mri_strdup(more) : NULL };
    for (int i = 0; i < 3; i++)
        if (words[i]) {
            argv[n++] = "--set";
            argv[n++] = words[i];
        }
    for (int i = 0; l->set[i]; i++) {
        argv[n++] = "--set";
        argv[n++] = l->set[i];
    }
    job_result r = job_wait(job_start(j, argv));
    for (int i = 0; i < 3; i++)
        free(words[i]);
    return r;
}

static void must_train(const job *j, const struct layout *l, const char *dir, int steps,
                       const char *more)
{
    job_result r = train(j, l, dir, steps, more);
    cr_assert_eq(r.code, 0, "%s, %d steps: exit code %d\n%s", l->name, steps, r.code, r.err);
}

static void same_losses(const char *a, const char *b, int steps, const char *what)
{
    char *x = job_losses(a), *y = job_losses(b), *p = x, *q = y;
    int n = 0, used;
    for (; n < steps; n++) {
        long step, other;
        double loss[2], norm[2], lr;
        cr_assert_eq(sscanf(p, "%ld loss %lg norm %lg lr %lg\n%n", &step, &loss[0], &norm[0], &lr,
                            &used), 4, "%s: %s", what, x);
        p += used;
        cr_assert_eq(sscanf(q, "%ld loss %lg norm %lg lr %lg\n%n", &other, &loss[1], &norm[1],
                            &lr, &used), 4, "%s: %s", what, y);
        q += used;
        cr_expect(fabs(loss[0] - loss[1]) <= 1e-5 * loss[0], "%s, step %ld: loss %.9g and %.9g",
                  what, step, loss[0], loss[1]);
        cr_expect(fabs(norm[0] - norm[1]) <= 1e-5 * norm[0], "%s, step %ld: norm %.9g and %.9g",
                  what, step, norm[0], norm[1]);
    }
    free(x);
    free(y);
}

/* The same tensors of the same groups, to `tolerance` of the largest element. */
static void same_tensors(mri_checkpoint *a, mri_checkpoint *b, double tolerance, const char *what)
{
    mr_err err = MR_ERR_INIT;
    for (int g = 0; g < 2; g++) {
        const char *group = g ? "optimizer" : "model";
        cr_assert_eq(mri_checkpoint_join(a, group, &err), 0, "%s: %s", what, err.what);
        cr_assert_eq(mri_checkpoint_join(b, group, &err), 0, "%s: %s", what, err.what);
        const mri_safetensors *x = mri_checkpoint_group(a, group);
        const mri_safetensors *y = mri_checkpoint_group(b, group);
        cr_assert_gt(mri_safetensors_count(x), 0);
        cr_assert_eq(mri_safetensors_count(x), mri_safetensors_count(y), "%s", what);
        for (size_t i = 0; i < mri_safetensors_count(x); i++) {
            const mri_tensor *t = mri_safetensors_at(x, i), *u = mri_safetensors_find(y, t->name);
            cr_assert(u && t->type.rank == u->type.rank && mr_is(&t->type, "f32") &&
                      !memcmp(t->type.dim, u->type.dim, t->type.rank * sizeof(int64_t)), "%s",
                      t->name);
            const float *p = t->data, *q = u->data;
            double most = 0, off = 0;
            for (int64_t k = 0; k < mr_numel(&t->type); k++) {
                most = fmax(most, fabs((double)p[k]));
                off = fmax(off, fabs((double)p[k] - (double)q[k]));
            }
            cr_expect(off <= tolerance * most, "%s: %s differs by %g, its largest is %g", what,
                      t->name, off, most);
        }
    }
}

/* from "": `to` goes, and nothing comes */
static void copy_folder(const job *j, const char *from, const char *to)
{
    char *line = mri_format("cd '%s'; rm -rf '%s'; test -z '%s' || cp -r '%s' '%s'", j->dir, to,
                            from, from, to);
    cr_assert_eq(system(line), 0, "%s", line);
    free(line);
}

/* From a run of 2 steps under a, which lies aside, to 4 steps under b. */
static void go_on(const job *j, const struct layout *a, const struct layout *b, const char *more)
{
    char *what = mri_format("%s to %s %s", a->name, b->name, more ? more : "");
    char *whole = job_path(j, "whole"), *run = job_path(j, "run");
    copy_folder(j, "aside", "run");
    must_train(j, b, "run", 4, more);
    same_losses(whole, run, 4, what);
    mri_checkpoint *x = job_checkpoint(whole), *y = job_checkpoint(run);
    cr_assert_eq(mri_checkpoint_info(y)->step, 4);
    if (!more) {
        cr_assert_eq(mri_checkpoint_format(y) != NULL, b->set[0] != NULL, "%s", what);
        same_tensors(x, y, 1e-3, what);
    }
    mri_checkpoint_close(x);
    mri_checkpoint_close(y);
    free(what);
    free(whole);
    free(run);
}

static bool thorough(void)
{
    const char *all = getenv("MRUN_TEST_LONG");
    return all && !strcmp(all, "1");
}

/* To the next layout and to one process; MRUN_TEST_LONG=1: to all. */
Test(ranks_checkpoints, a_run_goes_on_under_other_layouts)
{
    job j = job_new();
    must_train(&j, &layouts[0], "whole", 4, NULL);
    for (size_t a = 0; a < LAYOUTS; a++) {
        must_train(&j, &layouts[a], "run", 2, NULL);
        copy_folder(&j, "run", "aside");
        for (size_t b = 0; b < LAYOUTS; b++)
            if (thorough() || !b || b == (a + 1) % LAYOUTS)
                go_on(&j, &layouts[a], &layouts[b], NULL);
        copy_folder(&j, "", "run");
    }
    job_free(&j);
}

/* Written behind the steps, or as ranges by which another dp goes on: the same run. */
Test(ranks_checkpoints, every_way_to_save_gives_the_same_run)
{
    static const char *const ways[] = { "checkpoint.async=true",
                                        "checkpoint.format=dp_reshardable" };
    job j = job_new();
    must_train(&j, &layouts[0], "whole", 4, NULL);
    for (size_t w = 0; w < 2; w++)
        for (size_t l = 0; l < 3; l++) {
            const size_t from[] = { 0, 1, 3 }, to[] = { 1, 2, 3 };
            must_train(&j, &layouts[from[l]], "run", 2, ways[w]);
            copy_folder(&j, "run", "aside");
            go_on(&j, &layouts[from[l]], &layouts[to[l]], ways[w]);
            copy_folder(&j, "", "run");
        }
    job_free(&j);
}

/* There is none of all here; every rank has its own of each step. */
static void stop_and_go_locally(const char *name, const char *shard, const char *recipe)
{
    job j = job_new();
    char *whole = job_path(&j, "whole"), *run = job_path(&j, "run");
    char *local = mri_format("checkpoint.local_dir=%s/local", j.dir);
    char *path = mri_format("%s/local/rank-00001-of-00002", j.dir);
    const struct layout l = { name, { RANKS(2), recipe, "checkpoint.save_at_end=false",
                                      "checkpoint.local_every=1", shard, NULL } };
    int64_t *steps;
    size_t n;
    must_train(&j, &l, "whole", 4, NULL);
    must_train(&j, &l, "run", 2, local);
    must_train(&j, &l, "run", 4, local);
    same_losses(whole, run, 4, name);
    cr_assert_eq(mri_checkpoint_list(path, &steps, &n, NULL), 0);
    cr_assert_eq(n, 2);
    cr_assert_eq(steps[0], 4);
    free(steps);
    free(path);
    free(local);
    free(whole);
    free(run);
    job_free(&j);
}

Test(ranks_checkpoints, local_ones_are_gone_on_from_when_they_are_newer)
{
    stop_and_go_locally("replicas", NULL, "precision.recipe=fp32");
    stop_and_go_locally("distopt", "shard.plugin=distopt", "precision.recipe=bf16");
    stop_and_go_locally("fsdp", "shard.plugin=fsdp", "precision.recipe=bf16");
}

Test(ranks_checkpoints, inspect_and_convert_take_them_as_any_other)
{
    job j = job_new();
    char *run = job_path(&j, "run"), *made = job_path(&j, "made");
    must_train(&j, &layouts[1], "run", 2, NULL);
    job_result r = job_run(&j, "inspect", "run");
    JOB_EXPECT(&r, 0, NULL);
    cr_expect_not_null(strstr(r.out, "fully_reshardable"), "%s", r.out);
    r = job_run(&j, "convert", "run", "--to", "mrun", "--out", "made");
    JOB_EXPECT(&r, 0, NULL);
    mri_checkpoint *a = job_checkpoint(run), *b = job_checkpoint(made);
    cr_assert_not_null(mri_checkpoint_format(a));
    cr_assert_null(mri_checkpoint_format(b));
    cr_assert_eq(mri_checkpoint_info(b)->step, 2);
    cr_assert_eq(mri_checkpoint_info(b)->samples, mri_checkpoint_info(a)->samples);
    same_tensors(a, b, 0, "converted");
    mri_checkpoint_close(a);
    mri_checkpoint_close(b);
    r = job_run(&j, "convert", "made", "--to", "mrun", "--out", "again");
    JOB_EXPECT(&r, 2, "already");
    must_train(&j, &layouts[0], "made", 3, NULL); /* it goes on */
    free(run);
    free(made);
    job_free(&j);
}
