/* SPDX-License-Identifier: Apache-2.0
 * `mrun bench` runs end to end on small things and prints what it promises; no time is tested. */
#include "core/base/json.h"
#include "tests/unit/config/scratch.h"
#include <sys/wait.h>

TestSuite(bench, .init = scratch_open, .fini = scratch_close);

static const char profile[] =
    "[job]\nrun = bench\n[backend]\nplugin = cpu\n[model]\nplugin = llama4\nlayers = 2\n"
    "hidden = 32\nheads = 2\nkv_heads = 1\nhead_dim = 16\nffn_hidden = 64\nvocab = 64\n"
    "max_positions = 64\n[model.llama4]\nexperts = 2\nexperts_per_token = 1\nexpert_hidden = 32\n"
    "moe_step = 2\n[train]\nsteps = 2\nseq = 16\nmicro_batch = 2\n[data]\nplugin = none\n";

static char *run(const char *arguments, int code)
{
    char *text = NULL,
         *command = mri_format("'%s' %s >out 2>err </dev/null", getenv("MRUN_EXE"), arguments);
    mr_err err = MR_ERR_INIT;
    size_t n = 0;
    int status = system(command);
    free(command);
    cr_assert_eq(mri_read_file("err", 1 << 20, &text, &n, &err), 0);
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == code, "%s: exit %d, %s", arguments,
              WEXITSTATUS(status), text);
    free(text);
    cr_assert_eq(mri_read_file(code ? "err" : "out", 1 << 20, &text, &n, &err), 0);
    return text;
}

/* the number of lines of this kind; every line must be JSON */
static int count(char *lines, const char *kind, const char *positive_key)
{
    char *save = NULL;
    int found = 0;
    for (char *l = strtok_r(lines, "\n", &save); l; l = strtok_r(NULL, "\n", &save)) {
        mr_err err = MR_ERR_INIT;
        mri_json *j = NULL;
        const char *k = NULL;
        double x = 0;
        cr_assert_eq(mri_json_parse(l, strlen(l), "out", &j, &err), 0, "%s in %s", err.what, l);
        cr_assert(mri_json_service.string(j, "kind", &k));
        if (!strcmp(k, kind)) {
            found++;
            cr_assert(mri_json_service.number(j, positive_key, &x) && x > 0, "%s: %s", positive_key,
                      l);
        }
        mri_json_free(j);
    }
    return found;
}

Test(bench, op_measures_forward_and_backward)
{
    char *out = run("bench op rmsnorm --quick --json", 0);
    char *copy = mri_strdup(out);
    cr_assert_eq(count(out, "op", "us"), 2);
    cr_assert_eq(count(copy, "limits", "flops_f32"), 2);
    free(out);
    free(copy);
}

Test(bench, op_pairs_two_devices)
{
    char *out = run("bench op route_plan --quick --json --against backend.plugin=ref", 0);
    cr_assert_eq(count(out, "op", "against_us"), 1);
    free(out);
}

Test(bench, op_has_the_shapes_of_large_devices_too)
{
    char *out = run("bench op route_plan --quick --json --size large", 0);
    cr_assert_not_null(strstr(out, "\"operands\": \"16384x1\""), "%s", out);
    cr_assert_eq(count(out, "op", "us"), 1);
    free(out);
}

Test(bench, op_refuses_what_it_does_not_know)
{
    free(run("bench op route_plan --size medium", 2));
    char *err = run("bench op rmsnrom", 2);
    cr_assert_not_null(strstr(err, "did you mean 'rmsnorm'"), "%s", err);
    free(err);
    err = run("bench op --dtype f16", 2);
    cr_assert_not_null(strstr(err, "f32 or bf16"), "%s", err);
    free(err);
    err = run("bench op --set backend.cpu.thraeds=2", 2);
    cr_assert_not_null(strstr(err, "threads"), "%s", err);
    free(err);
    free(run("bench", 2));
}

Test(bench, step_says_where_the_time_goes_and_writes_a_trace)
{
    char *text = NULL;
    size_t n;
    mr_err err = MR_ERR_INIT;
    mri_json *j = NULL;
    write_text("p.ini", profile);
    char *out = run("bench step p.ini --steps 2 --json --profile trace.json", 0);
    char *copy = mri_strdup(out);
    cr_assert_not_null(strstr(out, "\"by\": \"class\", \"name\": \"expert products\""));
    cr_assert_not_null(strstr(out, "\"by\": \"class\", \"name\": \"optimizer\""));
    cr_assert_eq(count(out, "step", "tokens_per_s"), 1);
    cr_assert_gt(count(copy, "time", "ms"), 20);
    free(out);
    free(copy);
    cr_assert_eq(mri_read_file("trace.json", 1 << 24, &text, &n, &err), 0);
    cr_assert_eq(mri_json_parse(text, n, "trace.json", &j, &err), 0, "%s", err.what);
    cr_assert_gt(mri_json_service.length(j, "traceEvents"), 100);
    cr_assert_not_null(strstr(text, "\"layer\": \"model.layers.1.\", \"region\": \"moe/"));
    cr_assert_not_null(strstr(text, "\"phase\": \"update\""));
    mri_json_free(j);
    free(text);
    cr_assert(access("runs", F_OK) && access("checkpoints", F_OK), "a bench leaves no run behind");
}

Test(bench, a_profile_may_be_a_bench)
{
    write_text("p.ini", profile);
    char *out = run("p.ini --json", 0);
    cr_assert_eq(count(out, "step", "ms"), 1);
    free(out);
}

/* A cached row of the profile's two layers has 2 (16 + 16) floats, and a step at position 20 reads 21
 * and writes 1; of two experts with 6144 floats each a token reads one, four read 1 - 1/16 of all. */
Test(bench, decode_counts_the_bytes_of_a_step)
{
    const struct {
        const char *options, *cache, *experts;
    } row[] = { { "--context 16", "\"cache_bytes\": 5632,", "\"expert_bytes\": 12288," },
                { "--prompt-tokens 16 --skip-prefill --batch 4 --brief",
                  "\"cache_bytes\": 22528,", "\"expert_bytes\": 23040," } };
    write_text("p.ini", profile);
    for (int i = 0; i < 2; i++) {
        char *words = mri_format("bench decode p.ini --json --max-tokens 8 %s", row[i].options);
        char *out = run(words, 0);
        cr_assert(strstr(out, row[i].cache), "%s", out);
        cr_assert(strstr(out, row[i].experts), "%s", out);
        char *copy = mri_strdup(out);
        cr_assert_eq(count(out, "decode", "bytes_per_step"), 1);
        cr_assert_eq(count(copy, "time", "ms") > 10, !i, "where the time goes, unless --brief");
        free(words);
        free(out);
        free(copy);
    }
    free(run("bench decode p.ini --batch 0", 2));
}
