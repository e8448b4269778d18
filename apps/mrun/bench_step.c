/* SPDX-License-Identifier: Apache-2.0
 *
 * bench_step.c - `mrun bench step PROFILE.ini [--steps N] [--warmup N] [--synthetic] [--shapes]
 * [--brief] [--profile FILE]`: the time of a training step, without run folder, sinks or
 * checkpoints.
 *
 * Two passes. The first times whole steps, exactly as training runs them. The second (not with
 * --brief) watches a few steps op by op to say where the time goes; its total stands beside the
 * first's median, so that what watching costs can be seen. Floors are of each op alone: the
 * larger of its flops at the measured product rate and its bytes at the measured memory rate.
 * Over ranks all run the same steps, and rank 0 prints its own times, of steps that end together;
 * what is watched op by op and the memory are rank 0's, the model and its rate those of all.
 * Without data, tokens are pseudo-random: an untrained model takes the same time for any tokens,
 * except that experts are then chosen nearly evenly.
 */
#include "bench_ledger.h"
#include "bench_mfu.h"
#include "core/base/rng.h"
#include "model_args.h"
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

enum { WATCHED_STEPS = 2 };

/* ---- tokens without data: sample i is a function of the seed and i, as data plugins promise  */

typedef struct synthetic {
    int64_t vocab, seq;
    mri_rng rng;
} synthetic;

static void synthetic_destroy(void *data)
{
    free(data);
}

static mr_status synthetic_set(void *data, uint32_t i, mr_data_set *set, mr_err *err)
{
    (void)data;
    if (i)
        return mr_fail(err, MR_E_ARG, MR_BLAME_UNKNOWN, "synthetic data has one set");
    set->name = "train";
    set->samples = INT64_MAX;
    return 0;
}

static mr_status synthetic_read(void *data, uint32_t set, int64_t sample, mr_sample *x, mr_err *err)
{
    const synthetic *s = data;
    (void)set, (void)err;
    for (int64_t i = 0; i <= s->seq; i++) {
        uint64_t n = (uint64_t)sample * (uint64_t)(s->seq + 1) + (uint64_t)i;
        int32_t id = (int32_t)(mri_rng_bits(s->rng, n) % (uint64_t)s->vocab);
        if (i)
            x->targets[i - 1] = id;
        if (i == s->seq)
            break;
        x->tokens[i] = id;
        x->positions[i] = (int32_t)i;
        x->seq_start[i] = 0;
        x->loss_weight[i] = 1;
    }
    return 0;
}

static const mr_data_ops synthetic_ops = { .size = sizeof(mr_data_ops),
                                           .destroy = synthetic_destroy,
                                           .set = synthetic_set,
                                           .read = synthetic_read };

static void give_synthetic_data(mri_session *s)
{
    synthetic *x = mri_alloc(sizeof *x);
    *x = (synthetic) { s->info.vocab, s->config->train.seq,
                       mri_rng_named((uint64_t)s->config->run.seed, "bench") };
    s->data_ops = &synthetic_ops;
    s->data = x; /* mri_session_close() destroys it */
}

/* ---- the step, op by op -------------------------------------------------------------------- */

typedef struct step_bench {
    app *a;
    mri_session *s;
    int64_t steps, warmup;
    bool shapes, brief;
    const char *profile;
    bench_times times;
    ledger ledger;
    bench_peaks first, last;
    double tokens, loss;
    double opened, ready; /* seconds: to open and plan; then to have weights */
    bench_work work;      /* of the whole model, which a rank of several has a part of */
    uint64_t parameters;
} step_bench;

static mr_status watched_step(step_bench *b, mr_err *err)
{
    mri_trace trace = { .fn = ledger_trace, .ctx = &b->ledger, .timing = true };
    mri_device *d = &b->s->device;
    mri_step_result r;
    mr_status st;
    MR_TRY(ledger_begin(&b->ledger, d, err));
    d->watch = &trace;
    MR_TRY(mri_session_train_step(b->s, &r, err));
    d->watch = NULL;
    MR_TRY(ledger_end(&b->ledger, err));
out:
    d->watch = NULL;
    return st;
}

/* ---- what is printed ----------------------------------------------------------------------- */

static void print_memory(const step_bench *b)
{
    mri_memory m;
    struct rusage usage;
    mri_session_memory(b->s, &m);
    getrusage(RUSAGE_SELF, &usage);
    uint64_t all = m.parameters + m.optimizer + m.arena + m.states;
    double rss = (double)usage.ru_maxrss * 1024;
    if (b->a->json) {
        printf(", \"memory_bytes\": %llu, \"max_rss_bytes\": %.0f", (unsigned long long)all, rss);
        return;
    }
    char *t[] = { mri_bytes_text((double)all), mri_bytes_text((double)m.parameters),
                  mri_bytes_text((double)m.optimizer), mri_bytes_text((double)m.arena),
                  mri_bytes_text(rss) };
    printf("memory : %s at most: parameters and gradients %s, optimizer %s, arena %s; the process "
           "on the host %s\n", t[0], t[1], t[2], t[3], t[4]);
    for (size_t i = 0; i < sizeof t / sizeof *t; i++)
        free(t[i]);
}

static void print_summary(step_bench *b)
{
    const mri_session *s = b->s;
    const bench_unit u = bench_unit_of(&s->device);
    bench_stat t = bench_summary(&b->times);
    bench_work w = b->work;
    uint32_t ranks = s->world ? s->world->mesh.world : 1;
    double peak =
        (bench_peak(&b->first, s->model_dtype) + bench_peak(&b->last, s->model_dtype)) / 2;
    double stated = !strcmp(s->model_dtype, "bf16") ? bench_stated_peak(s->device.info.name) : 0;
    double rate = b->tokens / t.median, work = w.flops * rate; /* of all ranks */
    double share = work / ranks;
    if (b->a->json) {
        printf("{\"kind\": \"step\", \"ranks\": %u, \"parameters\": %llu, \"active\": %.0f, \"dtype\": \"%s\", "
               "\"tokens\": %.0f, \"steps\": %zu, \"ms\": %.3f, \"min_ms\": %.3f, "
               "\"max_ms\": %.3f, \"tokens_per_s\": %.3f, \"flops_per_token\": %.6g, "
               "\"flops_per_s\": %.4g, \"mfu\": %.4f, "
               "\"peak_flops\": %.4g, \"stated_peak_flops\": %.4g, "
               "\"traced_ms\": %.3f, \"open_s\": %.3f, \"weights_s\": %.3f, \"loss\": %.6f",
               ranks, (unsigned long long)b->parameters, w.active, s->model_dtype, b->tokens, t.n,
               t.median * 1e3, t.min * 1e3, t.max * 1e3, rate, w.flops, work,
               bench_ratio(share, peak), peak, stated, 1e3 * ledger_total(&b->ledger),
               b->opened, b->ready, b->loss);
        print_memory(b);
        puts("}");
        return;
    }
    printf("model  : %.2f M parameters, %.2f M of them active, %s, %.0f tokens a step (%lld x "
           "%lld), loss %.4f\n", (double)b->parameters / 1e6, w.active / 1e6, s->model_dtype,
           b->tokens, (long long)(b->tokens / (double)s->config->train.seq),
           (long long)s->config->train.seq, b->loss);
    printf("step   : median %.*f ms, min %.*f, max %.*f of %zu steps", t.median < 1 ? 2 : 1,
           t.median * 1e3, t.median < 1 ? 2 : 1, t.min * 1e3, t.median < 1 ? 2 : 1, t.max * 1e3,
           t.n);
    if (!b->brief)
        printf("; watched op by op %.2f ms", 1e3 * ledger_total(&b->ledger));
    printf("\nrate   : %.1f tokens/s, %.2f %s of %.4g flop a token = 6 x active parameters + "
           "causal attention %.4g\n", rate, work * u.scale, u.flops, w.flops, w.attention);
    printf("MFU    : %.1f %% of %.1f %s, large products measured in this run",
           100 * bench_ratio(share, peak), peak * u.scale, u.flops);
    if (stated > 0)
        printf("; %.1f %% of the %.0f %s that the maker states", 100 * share / stated,
               stated * u.scale, u.flops);
    if (ranks > 1)
        printf("; of each of %u ranks", ranks);
    puts("");
    print_memory(b);
    printf("start  : %.1f s to open and plan, %.1f s to fill weights\n", b->opened, b->ready);
}

static void print_tables(step_bench *b)
{
    static const enum ledger_key tables[] = { LEDGER_CLASS, LEDGER_PHASE, LEDGER_REGION, LEDGER_OP,
                                              LEDGER_SHAPE };
    for (size_t i = 0; i < (b->shapes ? 5 : 4); i++)
        ledger_print(&b->ledger, b->a, tables[i], &b->first, b->s->model_dtype);
}

/* ---- the bench ----------------------------------------------------------------------------- */

/* A mesh cuts blocks, so what a token costs is that of one rank's plan, which nobody runs. */
static mr_status weigh_model(step_bench *b, mri_session_options o, mr_err *err)
{
    mri_session *whole = NULL;
    if (!mri_world_alone(b->a->world)) {
        o.world = NULL;
        o.dry = true;
        mr_status st = mri_session_open(b->a->registry, b->s->config, &o, &whole, err);
        if (st)
            return st;
    }
    const mri_session *s = whole ? whole : b->s;
    b->work = bench_work_of(s->train, s->config->train.seq);
    b->parameters = s->params.count;
    mri_session_close(whole);
    return 0;
}

static mr_status run(step_bench *b, mr_err *err)
{
    mri_session *s = b->s;
    bool first = mri_world_first(b->a->world);
    mri_step_result r;
    mr_status st = 0;
    b->ledger.train = s->train;
    double start = bench_now();
    MR_TRY(mri_session_init_weights(s, err));
    b->ready = bench_now() - start;
    b->first = bench_probe(&s->device);
    if (first)
        bench_print_peaks(b->a, &s->device, &b->first, "first");
    for (int64_t i = 0; i < b->warmup + b->steps; i++) {
        start = bench_now();
        MR_TRY(mri_session_train_step(s, &r, err));
        double seconds = bench_now() - start;
        if (!r.ok) {
            st = mr_fail(err, MR_E_NONFINITE, MR_BLAME_UNKNOWN,
                         "the gradients of step %lld are not finite", (long long)i + 1);
            mr_hint(err, "lower [optimizer] lr; run the profile itself to find the op");
            goto out;
        }
        if (i >= b->warmup)
            MRI_PUSH(&b->times, seconds);
        if (!b->a->quiet && first)
            fprintf(stderr, "mrun: step %lld of %lld: %.1f ms%s\n", (long long)i + 1,
                    (long long)(b->warmup + b->steps), seconds * 1e3,
                    i < b->warmup ? " (warm-up)" : "");
    }
    b->tokens = (double)r.tokens;
    b->loss = r.loss;
    for (int i = 0; i < (b->brief ? 0 : WATCHED_STEPS); i++)
        MR_TRY(watched_step(b, err));
    b->last = bench_probe(&s->device);
    if (!first)
        goto out;
    print_summary(b);
    if (!b->brief)
        print_tables(b);
    bench_print_peaks(b->a, &s->device, &b->last, "last");
    if (b->profile)
        MR_TRY(ledger_write_trace(&b->ledger, b->profile, err));
out:
    return st;
}

static mr_status run_config(step_bench *b, mri_config *c, mr_err *err)
{
    bool data = mri_config_choice(c, "data", 0) != NULL;
    mri_session_options o = { .needs = MRI_NEED_TRAIN | MRI_NEED_UPDATE |
                                       (data ? MRI_NEED_DATA | MRI_NEED_TOKENIZER : 0),
                              .whole = !data, .world = b->a->world };
    double start = bench_now();
    mr_status st = mri_session_open(b->a->registry, c, &o, &b->s, err);
    b->opened = bench_now() - start;
    if (!st && !data)
        give_synthetic_data(b->s);
    o.needs = MRI_NEED_TRAIN;
    st = st ? st : weigh_model(b, o, err);
    st = st ? st : run(b, err);
    st = st ? mri_world_fail(b->a->world, st, err) : mri_world_agree(b->a->world, 0, err);
    ledger_free(&b->ledger); /* its marks are the device's */
    mri_session_close(b->s);
    free(b->times.v);
    return st;
}

/* [job] run = bench: as many steps as the profile says */
int job_bench(app *a, mri_config *c)
{
    mr_err err = MR_ERR_INIT;
    step_bench b = { .a = a, .steps = c->train.steps, .warmup = 1 };
    return run_config(&b, c, &err) ? app_fail(a, &err) : EXIT_OK;
}

/* On each rank; `user` is the bench as the command line wants it. */
static int run_args(app *a, mri_config *c, const void *user)
{
    step_bench b = *(const step_bench *)user;
    mr_err err = MR_ERR_INIT;
    b.a = a;
    return run_config(&b, c, &err) ? app_fail(a, &err) : EXIT_OK;
}

int bench_step(app *a, const app_args *args)
{
    static const char *const extra[] = { "job.run=bench", "data.plugin=none" };
    const char *steps = app_arg(args, "--steps"), *warmup = app_arg(args, "--warmup");
    step_bench b = { .steps = steps ? atoll(steps) : 5,
                     .warmup = warmup ? atoll(warmup) : 1,
                     .shapes = app_arg(args, "--shapes") != NULL,
                     .brief = app_arg(args, "--brief") != NULL,
                     .profile = app_arg(args, "--profile") };
    if (b.steps < 1 || b.warmup < 0)
        return app_usage(a, "--steps is a number from 1 on, --warmup one from 0 on");
    return app_model_run(a, args, extra, app_arg(args, "--synthetic") ? 2 : 1, run_args, &b);
}
