/* SPDX-License-Identifier: Apache-2.0
 *
 * What a run does about wrong input and an unkind system: one error that names the thing, the
 * documented exit code, and nothing lost.
 */
#include "job.h"
#include <sys/resource.h>

typedef struct bad_case {
    const char *set;
    int code;
    const char *says[4];
} bad_case;

Test(bad_runs, each_wrong_input_has_its_error)
{
    static const bad_case cases[] = {
        { "data.text.path=nowhere.txt", 2, { "error E0301", "nowhere.txt" } },
        { "data.text.path=empty.txt", 2, { "error E03", "empty.txt" } },
        { "data.text.path=binary.txt", 2, { "error E0302", "binary.txt" } },
        { "data.text.path=short.txt", 2, { "error E0303" } },
        { "backend.plugin=cpux", 3, { "error E0201", "cpux", "did you mean 'cpu'" } },
        { "optimizer.plugin=adamx", 3, { "error E0201", "adamx" } },
        { "run.dir=text.txt/run", 3, { "error E0601", "text.txt/run" } },
        { "model.vocab=100", 2, { "error E0107", "256", "100" } },
        { "train.global_batch=3", 2, { "error E01", "global_batch" } },
        { "train.recompute=core_atn", 2, { "error E0103", "core_atn", "core_attn" } },
        { "optimizer.groups=*.no_such_weight:frozen", 2,
          { "error E0103", "'*.no_such_weight' matches none of the", "globs over full names" } },
        { "train.recompute=nonsense", 2, { "error E0103", "nonsense", "moe_act" } },
        { "precision.recipe=fp64", 2, { "error E0107", "fp64", "grad-check" } },
        { "optimizer.groups=*:speed=3", 2, { "error E0103", "speed=3" } },
    };
    job j = job_new();
    job_write(job_path(&j, "empty.txt"), "", 0);
    job_write(job_path(&j, "binary.txt"), "a\0b\0c\0d\0e\0f\0", 12);
    job_write(job_path(&j, "short.txt"), "short", 5);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const bad_case *c = &cases[i];
        char *dir = mri_format("run.dir=run%zu", i);
        job_result r = job_run(&j, "p.ini", "--set", dir, "--set", c->set);
        cr_assert_eq(r.code, c->code, "%s: exit code %d\n%s", c->set, r.code, r.err);
        for (int k = 0; k < 4 && c->says[k]; k++)
            cr_assert_not_null(strstr(r.err, c->says[k]), "%s: no '%s' in\n%s", c->set, c->says[k],
                               r.err);
    }
    job_free(&j);
}

/* A mistake in the first start must not bind the folder to the mistaken profile. */
Test(bad_runs, a_start_that_failed_does_not_claim_the_folder)
{
    job j = job_new();
    job_result r = job_run(&j, "p.ini", "--set", "run.dir=run", "--set",
                           "data.text.path=nowhere.txt");
    JOB_EXPECT(&r, 2, "E0301");
    r = job_run(&j, "p.ini", "--set", "run.dir=run", "--set", "train.steps=3");
    job_expect(&r, 0, NULL);
    job_free(&j);
}

Test(bad_runs, another_profile_s_folder_is_refused_by_key)
{
    job j = job_new();
    job_result r = job_run(&j, "p.ini", "--set", "run.dir=run");
    job_expect(&r, 0, NULL);
    char *before = job_losses(job_path(&j, "run"));
    r = job_run(&j, "p.ini", "--set", "run.dir=run", "--set", "optimizer.lr=1e-3", "--set",
                "train.seq=8");
    JOB_EXPECT(&r, 2, "E0504", "optimizer.lr", "train.seq", "run.fork=true");
    cr_assert_str_eq(before, job_losses(job_path(&j, "run")));
    job_free(&j);
}

/* A fork starts at step 0 from the old weights, and is a run of its own from then on: stopped
 * and started again it goes on with itself, not with the run that it came from. */
Test(bad_runs, a_fork_starts_from_the_weights_and_then_stands_alone)
{
    job j = job_new();
    char *run = job_path(&j, "run"), *other = job_path(&j, "other");
    job_result r = job_run(&j, "p.ini", "--set", "run.dir=run");
    job_expect(&r, 0, NULL);
    char *copy = mri_format("cp -r '%s' '%s'", run, other);
    cr_assert_eq(system(copy), 0);
#define FORKED "--set", "run.fork=true", "--set", "optimizer.lr=1e-4", "--set"
    r = job_run(&j, "p.ini", "--set", "run.dir=other", FORKED, "train.steps=20");
    job_expect(&r, 0, NULL);
    r = job_run(&j, "p.ini", "--set", "run.dir=run", FORKED, "train.steps=9");
    job_expect(&r, 0, NULL);
    r = job_run(&j, "p.ini", "--set", "run.dir=run", FORKED, "train.steps=20");
    job_expect(&r, 0, NULL);
    job_same_run(other, run);
    r = job_run(&j, "p.ini", "--set", "run.dir=run", FORKED, "train.steps=20");
    JOB_EXPECT(&r, 0, "is finished: 20 of 20 steps");

    double first = 0, fresh = 0; /* it did not start from fresh weights */
    sscanf(job_losses(run), "1 loss %lf", &first);
    r = job_run(&j, "p.ini", "--set", "run.dir=fresh", "--set", "train.steps=1");
    job_expect(&r, 0, NULL);
    sscanf(job_losses(job_path(&j, "fresh")), "1 loss %lf", &fresh);
    cr_assert(first > 0 && first < fresh - 0.2, "a fork begins with loss %g, a fresh run with %g",
              first, fresh);
    job_free(&j);
}

/* A rate that blows the weights up: the run ends with the op and layer that made the first
 * NaN or Inf, keeps its last checkpoint, and started again fails in the same way. */
Test(bad_runs, a_nan_names_its_op_and_keeps_the_checkpoint)
{
    job j = job_new();
    char *run = job_path(&j, "run");
    const char *const argv[] = { "p.ini", "--set", "run.dir=run", "--set", "checkpoint.every=1",
                                 "--set", "optimizer.plugin=sgd", "--set", "optimizer.lr=1e6",
                                 "--set", "optimizer.clip_grad=0", NULL };
    job_result r = job_wait(job_start(&j, argv));
    JOB_EXPECT(&r, 1, "error E0502", "NaN or Inf in", " of op ", "model.layers.");
    mri_checkpoint *before = job_checkpoint(run);
    r = job_wait(job_start(&j, argv));
    JOB_EXPECT(&r, 1, "error E0502");
    mri_checkpoint *after = job_checkpoint(run);
    cr_assert_gt(mri_checkpoint_info(before)->step, 0);
    cr_assert_eq(mri_checkpoint_info(before)->step, mri_checkpoint_info(after)->step);
    job_same_group(before, after, "model");
    mri_checkpoint_close(before);
    mri_checkpoint_close(after);
    job_free(&j);
}

/* Files may not grow past 30 kB, which the log stays under and a checkpoint does not. */
Test(bad_runs, a_full_disk_keeps_the_last_checkpoint)
{
    job j = job_new();
    char *run = job_path(&j, "run");
    job_result r = job_run(&j, "p.ini", "--set", "run.dir=run", "--set", "train.steps=10");
    job_expect(&r, 0, NULL);
    struct rlimit all, small;
    getrlimit(RLIMIT_FSIZE, &all);
    small = all;
    small.rlim_cur = 30000;
    setrlimit(RLIMIT_FSIZE, &small);
    job_child c = job_start(&j, JOB_ARGS("p.ini", "--set", "run.dir=run", "--set",
                                         "checkpoint.every=10"));
    setrlimit(RLIMIT_FSIZE, &all);
    r = job_wait(c);
    JOB_EXPECT(&r, 3, "error E060", "step-0000");
    mri_checkpoint *ck = job_checkpoint(run);
    cr_assert_eq(mri_checkpoint_info(ck)->step, 10);
    mri_checkpoint_close(ck);
    r = job_run(&j, "p.ini", "--set", "run.dir=run", "--set", "checkpoint.every=10");
    job_expect(&r, 0, NULL);
    r = job_run(&j, "p.ini", "--set", "run.dir=whole");
    job_expect(&r, 0, NULL);
    job_same_run(job_path(&j, "whole"), run);
    job_free(&j);
}

/* 1.6 TB of weights: refused from the plan, before a byte of them is taken. */
Test(bad_runs, what_does_not_fit_is_refused_before_it_is_taken)
{
    job j = job_new();
    struct rusage use;
    job_result r = job_run(&j, "p.ini", "--set", "run.dir=run", "--set", "model.hidden=131072",
                           "--set", "model.ffn_hidden=1048576");
    JOB_EXPECT(&r, 2, "error E0501", "the run needs", "largest buffers",
               "in parameter model.layers.0.feed_forward", "the parameters alone do not fit");
    r = job_run(&j, "p.ini", "--set", "run.dir=run", "--set", "train.micro_batch=1000000", "--set",
                "train.global_batch=1000000", "--set", "train.seq=512");
    JOB_EXPECT(&r, 2, "error E0501", "largest buffers", "micro_batch", "recompute");
    r = job_run(&j, "p.ini", "--set", "run.dir=run", "--set", "train.steps=1");
    job_expect(&r, 0, NULL); /* nothing of the refused starts is in the way */
    r = job_run(&j, "generate", "run", "--prompt", "the", "--max-tokens", "1000000000", "--set",
                "model.max_positions=1073741824");
    JOB_EXPECT(&r, 2, "error E0501", "caches 1", "the caches do not fit");
    getrusage(RUSAGE_CHILDREN, &use);
    cr_assert_lt(use.ru_maxrss, 300 << 10, "it took %ld kB to say so", use.ru_maxrss);
    job_free(&j);
}

Test(bad_runs, score_refuses_what_is_no_sequence_of_ids)
{
    static const struct {
        const char *option, *value;
        int code;
        const char *says;
    } row[] = {
        { "--ids", "1 2 256", 2, "id 256 at position 2, the vocabulary has 256" },
        { "--ids", "1 x", 2, "'x' is no token id" },
        { "--ids", " ", 2, "--ids: the sequence is empty" },
        { "--jsonl", "word.jsonl", 2, "word.jsonl:2: ids[1] is no whole number" },
        { "--jsonl", "large.jsonl", 2, "large.jsonl:1: id 999 at position 1, the vocab" },
        { "--jsonl", "torn.jsonl", 2, "torn.jsonl:1:" },
        { "--jsonl", "other.jsonl", 2, "no object with an array \"ids\" or a string \"text\"" },
        { "--jsonl", "nowhere.jsonl", 2, "nowhere.jsonl" },
    };
    static const char *const files[][2] = {
        { "word.jsonl", "{\"ids\":[1,2]}\n{\"ids\":[1,\"two\"]}\n" },
        { "large.jsonl", "{\"ids\":[1,999]}\n" },
        { "torn.jsonl", "{\"ids\":[1,\n" },
        { "other.jsonl", "{\"tokens\":[1]}\n" },
    };
    job j = job_new();
    for (size_t i = 0; i < 4; i++)
        job_write(job_path(&j, files[i][0]), files[i][1], strlen(files[i][1]));
    job_result r = job_run(&j, "p.ini", "--set", "run.dir=run", "--set", "train.steps=1");
    job_expect(&r, 0, NULL);
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        r = job_run(&j, "score", "run", row[i].option, row[i].value);
        cr_assert_eq(r.code, row[i].code, "%s: exit code %d\n%s", row[i].value, r.code, r.err);
        cr_assert_not_null(strstr(r.err, row[i].says), "%s: no '%s' in\n%s", row[i].value,
                           row[i].says, r.err);
    }
    job_free(&j);
}
