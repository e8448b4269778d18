/* SPDX-License-Identifier: Apache-2.0
 *
 * Planning grows with block kinds, not with layers or weights: 61 layers of 384 experts, two
 * trillion parameters, are planned in seconds and little memory, and nothing is allocated.
 */
#include <criterion/criterion.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const char profile[] =
    "[backend]\nplugin = ref\n[tokenizer]\nplugin = bytes\n[data]\nplugin = text\n[data.text]\n"
    "path = unused\n[model]\nplugin = llama4\nlayers = 61\nhidden = 7168\nheads = 64\n"
    "kv_heads = 8\nhead_dim = 128\nffn_hidden = 18432\nvocab = 163840\nmax_positions = 262144\n"
    "[model.llama4]\nexperts = 384\nexperts_per_token = 8\nexpert_hidden = 2048\nmoe_step = 1\n"
    "[train]\nsteps = 1\nseq = 4096\nmicro_batch = 1\nglobal_batch = 8\n"
    "recompute = moe_act,core_attn\n"
    "[optimizer]\nplugin = adamw\n";

Test(scale, a_61_layer_384_expert_model_is_planned_in_no_time)
{
    char dir[] = "/tmp/mrun-scale-XXXXXX", ini[64], out[64], line[4096];
    cr_assert_not_null(mkdtemp(dir));
    snprintf(ini, sizeof ini, "%s/p.ini", dir);
    snprintf(out, sizeof out, "%s/out", dir);
    FILE *f = fopen(ini, "w");
    cr_assert(f && fputs(profile, f) >= 0 && !fclose(f));
    struct timespec a, b;
    struct rusage use;
    int status;
    clock_gettime(CLOCK_MONOTONIC, &a);
    pid_t pid = fork();
    if (!pid) {
        if (!freopen(out, "w", stdout) || !freopen(out, "a", stderr))
            _exit(99);
        execl(getenv("MRUN_EXE"), "mrun", "plan", ini, (char *)NULL);
        _exit(98);
    }
    cr_assert_eq(wait4(pid, &status, 0, &use), pid);
    clock_gettime(CLOCK_MONOTONIC, &b);
    double wall = (double)(b.tv_sec - a.tv_sec) + 1e-9 * (double)(b.tv_nsec - a.tv_nsec);
    double cpu = (double)(use.ru_utime.tv_sec + use.ru_stime.tv_sec) +
                 1e-6 * (double)(use.ru_utime.tv_usec + use.ru_stime.tv_usec);
    fprintf(stderr, "planned in %.3f s (%.3f s of a core), %ld kB\n", wall, cpu, use.ru_maxrss);
    f = fopen(out, "r");
    bool peak = false, kind = false;
    cr_assert_not_null(f);
    while (fgets(line, sizeof line, f)) {
        unsigned long long bytes;
        if (sscanf(line, " predicted peak %llu", &bytes) == 1)
            peak = bytes > 15ull << 40; /* weights, gradients, two moments: 16 bytes of 1e12 */
        kind |= strstr(line, "layer.moe.rope") != NULL;
    }
    fclose(f);
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "see %s", out);
    cr_assert(peak && kind, "see %s", out);
    cr_assert_lt(use.ru_maxrss, 200 << 10, "%ld kB", use.ru_maxrss);
    unlink(ini);
    unlink(out);
    rmdir(dir);
}
