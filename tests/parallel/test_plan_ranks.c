/* SPDX-License-Identifier: Apache-2.0
 * `mrun plan --ranks N --rank R` plans one rank of many without the others: what it says of the
 * pipeline, of memory and of messages follows from the profile by arithmetic. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

/* stdout and stderr of mrun; *code its exit code. The caller frees. */
static char *mrun(const char *args, int *code)
{
    char command[2048], *out = calloc(1, 1 << 16);
    snprintf(command, sizeof command, "'%s' plan '%s/profiles/%s 2>&1", getenv("MRUN_EXE"),
             getenv("MRUN_SOURCE"), args);
    FILE *p = popen(command, "r");
    cr_assert(p && out, "%s", command);
    size_t n = fread(out, 1, (1 << 16) - 1, p);
    out[n] = 0;
    *code = WEXITSTATUS(pclose(p));
    return out;
}

static double number_after(const char *text, const char *what)
{
    const char *at = strstr(text, what);
    cr_assert_not_null(at, "no '%s' in:\n%s", what, text);
    return strtod(at + strlen(what), NULL);
}

#define TINY "parity-tiny.ini' --set model.layers=4 --set train.micro_batch=1 "

Test(plan_ranks, tells_the_pipeline)
{
    int code;
    char *out = mrun(TINY "--set mesh.pp=4 --set train.global_batch=8 --ranks 4 --rank 1", &code);
    cr_assert_eq(code, 0, "%s", out);
    cr_expect(strstr(out, "pipeline: 1F1B, 4 stages of 1, 8 micro-batches"), "%s", out);
    cr_expect(strstr(out, "\n  stage   3 "), "%s", out);
    cr_expect(strstr(out, "\n  0               4 "), "%s", out); /* slots */
    cr_expect(strstr(out, "\n  3               1 "), "%s", out);
    cr_expect(strstr(out, "receive, send gradient       pp          4         8 "), "%s", out);
    cr_expect(strstr(out, "send, receive gradient       pp          4         8 "), "%s", out);
    free(out);
}

/* A stage has its layers' parameters and, per slot, their saved values. */
Test(plan_ranks, memory_is_that_of_the_stage)
{
    int code;
    const char *row = "saved for backward";
    char *one = mrun(TINY "--set train.global_batch=1 --ranks 1", &code);
    cr_assert_eq(code, 0, "%s", one);
    char *first = mrun(TINY "--set mesh.pp=2 --set train.global_batch=4 --ranks 2 --rank 0", &code);
    cr_assert_eq(code, 0, "%s", first);
    char *last = mrun(TINY "--set mesh.pp=2 --set train.global_batch=4 --ranks 2 --rank 1", &code);
    cr_assert_eq(code, 0, "%s", last);
    double whole = number_after(one, row);
    cr_expect_eq(number_after(first, row) / 2 + number_after(last, row), whole,
                 "%g and %g of %g", number_after(first, row), number_after(last, row), whole);
    free(one);
    free(first);
    free(last);
}

/* Of experts that all ranks of tp have, each computes its part of the tokens, with sequence
 * parallelism or without: what is left to the latter are the routers and norms of all tokens. */
Test(plan_ranks, work_is_that_of_a_rank)
{
    int code;
    const char *row = "a micro-batch on this rank: ";
    static const char *const args[] = { "--set mesh.tp=1 --ranks 1", "--set mesh.tp=2 --ranks 2",
        "--set mesh.tp=2 --set mesh.sequence_parallel=false --ranks 2" };
    double gflop[3];
    for (int i = 0; i < 3; i++) {
        char *all = NULL;
        cr_assert_gt(asprintf(&all, "%s --set model.plugin=kimi_k2 --set train.global_batch=4 "
                              "--set model.kimi_k2.expert_hidden=256 %s", "parity-tiny.ini'",
                              args[i]), 0);
        char *out = mrun(all, &code);
        cr_assert_eq(code, 0, "%s", out);
        gflop[i] = number_after(out, row);
        free(all);
        free(out);
    }
    cr_expect(gflop[1] > gflop[0] / 2.2 && gflop[1] < gflop[0] / 1.5, "%g of %g", gflop[1],
              gflop[0]);
    cr_expect(gflop[2] >= gflop[1] && gflop[2] < gflop[1] * 1.1, "%g and %g", gflop[2], gflop[1]);
}

Test(plan_ranks, a_model_that_no_machine_here_holds)
{
    int code;
    char *out = mrun("plan-kimi-k2.ini' --ranks 512 --rank 37 --machine h200", &code);
    cr_assert_eq(code, 0, "%s", out);
    cr_expect(strstr(out, "pipeline: interleaved 1F1B, 16 stages of 2, 64 micro-batches"), "%s",
              out);
    cr_expect(strstr(out, "\n  0              47 "), "%s", out); /* 16 * 2 * (1 + 15 / 32) chunks */
    cr_expect(strstr(out, "rank 37 of 512"), "%s", out);
    double ms = number_after(out, "step on h200: ");
    double with = number_after(out, "overlap_moe_expert_parallel_comm: ");
    cr_expect(with > ms / 2 && with < ms, "%g ms of %g", with, ms);
    cr_expect(strstr(out, "\n  links     "), "%s", out);
    cr_expect(ms > 100 && ms < 1e6, "%g ms", ms);
    free(out);
}

/* Passes are printed of one rank's blocks: not silently in place of what was asked for. */
Test(plan_ranks, prints_no_pass_of_many)
{
    int code;
    char *out = mrun(TINY "--ranks 2 --print arena", &code);
    cr_expect_eq(code, 2, "%d: %s", code, out);
    cr_expect(strstr(out, "--print shows the blocks of one rank alone"), "%s", out);
    free(out);
}

Test(plan_ranks, refusals)
{
    int code;
    char *out = mrun(TINY "--ranks 2 --rank 2", &code);
    cr_expect_eq(code, 2, "%s", out);
    free(out);
    out = mrun(TINY "--ranks 2 --machine abacus", &code);
    cr_expect(code == 2 && strstr(out, "h100"), "%s", out);
    free(out);
    out = mrun(TINY "--set mesh.pp=3 --ranks 3", &code);
    cr_expect(code && strstr(out, "do not lie evenly on 3"), "%s", out);
    free(out);
}
