/* SPDX-License-Identifier: Apache-2.0
 *
 * bench_step.c - `mrun bench step PROFILE.ini [--steps N] [--warmup N] [--synthetic] [--shapes]
 * [--brief] [--profile FILE]`: the time of a training step, without run folder, sinks or
 * checkpoints.
 *
 * Two passes. The first times whole steps, exactly as training runs them. The second (not with
 * --brief) runs a few steps op by op to say where the time goes; its total stands beside the
 * first's median, so that what watching costs can be seen. Without data, tokens are
 * pseudo-random: an untrained model takes the same time for any tokens, except that experts are
 * then chosen nearly evenly.
 */
#include "bench_ledger.h"
#include "core/base/rng.h"
#include "core/schedule/lr.h"
#include "model_args.h"
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

enum { TRACED_STEPS = 2 };

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
} step_bench;

typedef struct host_batch {
    int32_t *tokens, *targets, *positions, *seq_start;
    float *weight;
    mri_batch batch;
} host_batch;

static mr_status read_batch(mri_session *s, int64_t first, host_batch *h, mr_err *err)
{
    int64_t seq = s->config->train.seq, n = s->train->opt.tokens;
    mr_data_set set;
    uint32_t train = mri_session_find_set(s, "train", &set);
    mr_status st = 0;
    if (train == UINT32_MAX)
        return mr_fail(err, MR_E_DATA_SHORT, MR_BLAME_USER, "the data plugin has no set 'train'");
    h->tokens = mri_alloc((size_t)n * 16);
    h->weight = mri_alloc((size_t)n * sizeof *h->weight);
    h->targets = h->tokens + n;
    h->positions = h->tokens + 2 * n;
    h->seq_start = h->tokens + 3 * n;
    for (int64_t at = 0; at < n && !st; at += seq) {
        mr_sample x = { sizeof x,          0,
                        h->tokens + at,    h->targets + at,
                        h->positions + at, h->seq_start + at,
                        h->weight + at };
        st = s->data_ops->read(s->data, train, first + at / seq, &x, err);
        for (int64_t i = 0; i < seq; i++)
            h->seq_start[at + i] += (int32_t)at;
    }
    h->batch = (mri_batch) { h->tokens, h->positions, h->seq_start, h->targets, NULL, h->weight };
    return st;
}

static mr_status run_watched(step_bench *b, uint32_t instance, uint8_t phase, mr_err *err)
{
    ledger_mark(&b->ledger);
    return mri_exec_run(b->s->train, instance, phase, err);
}

/* The update's ops are not traced: their plans say what they must move. */
static void update_cost(const mri_update *u, double *flops, double *bytes)
{
    const struct {
        mri_plan *const *v;
        size_t n;
    } parts[] = { { u->sumsq.v, u->sumsq.n },
                  { u->update.v, u->update.n },
                  { u->store.v, u->store.n } };
    for (size_t p = 0; p < 3; p++)
        for (size_t i = 0; i < parts[p].n; i++) {
            *flops += parts[p].v[i]->flops[MRI_F];
            *bytes += parts[p].v[i]->bytes[MRI_F];
        }
}

/* One step as mri_session_train_step() does it, every stage on the ledger. */
static mr_status traced_step(step_bench *b, mr_err *err)
{
    mri_session *s = b->s;
    mri_exec *e = s->train;
    int64_t micro = s->config->train.micro_batch;
    int64_t rows = mri_global_batch(&s->config->train, s->done.samples);
    double flops = 0, bytes = 0,
           gradients = (double)s->params.trainable * (double)mr_dtype_bytes(s->params.acc_dtype);
    host_batch h = { 0 };
    mri_update_result u;
    mr_status st = 0;
    ledger_mark(&b->ledger);
    MR_TRY(mri_update_zero_grads(s->update, err));
    MR_TRY(mri_device_sync(&s->device, err));
    ledger_stage(&b->ledger, "zero gradients", 0, gradients);
    for (int64_t at = 0; at < rows; at += micro) {
        ledger_mark(&b->ledger);
        free(h.tokens);
        free(h.weight);
        MR_TRY(read_batch(s, s->done.samples + at, &h, err));
        MR_TRY(mri_scalar_set(&s->scalars, &s->device, MRI_LOSS_SEED,
                              1.0 / (double)(rows * s->config->train.seq), err));
        MR_TRY(mri_exec_upload(e, &h.batch, err));
        ledger_stage(&b->ledger, "load", 0, 0);
        for (uint32_t i = 0; i < e->frames.n; i++)
            MR_TRY(run_watched(b, i, MRI_F, err));
        for (uint32_t i = (uint32_t)e->frames.n; i-- > 0;)
            MR_TRY(run_watched(b, i, MRI_B, err));
        for (uint32_t i = (uint32_t)e->frames.n; e->opt.plan.split_w && i-- > 0;)
            MR_TRY(run_watched(b, i, MRI_W, err));
    }
    ledger_mark(&b->ledger);
    MR_TRY(mri_update_run(s->update,
                          mri_lr(&s->config->optimizer, s->done.step, s->config->train.steps),
                          s->config->optimizer.weight_decay, s->done.step + 1, &u, err));
    update_cost(s->update, &flops, &bytes);
    ledger_stage(&b->ledger, "update", flops, bytes);
    s->done.step++;
    s->done.samples += rows;
    b->ledger.steps++;
out:
    free(h.tokens);
    free(h.weight);
    return st;
}

/* ---- what is printed ----------------------------------------------------------------------- */

static double model_flops(const mri_exec *e) /* of a micro-batch; recomputation does not count */
{
    double f = 0;
    for (uint32_t i = 0; i < e->frames.n; i++) {
        const mri_plan *pl = e->frames.v[i].plan;
        f += pl->flops[MRI_F] + pl->flops[MRI_B] + pl->flops[MRI_W] - pl->recompute_flops;
    }
    return f;
}

static void print_summary(step_bench *b)
{
    const mri_session *s = b->s;
    bench_stat t = bench_summary(&b->times);
    mri_memory m;
    struct rusage usage;
    double per_token = model_flops(s->train) / (double)s->train->opt.tokens;
    double peak =
        (bench_peak(&b->first, s->model_dtype) + bench_peak(&b->last, s->model_dtype)) / 2;
    double rate = b->tokens / t.median, mfu = bench_ratio(per_token * rate, peak);
    mri_session_memory(s, &m);
    getrusage(RUSAGE_SELF, &usage);
    if (b->a->json) {
        printf("{\"kind\": \"step\", \"parameters\": %llu, \"dtype\": \"%s\", \"tokens\": %.0f, "
               "\"steps\": "
               "%zu, \"ms\": %.3f, \"min_ms\": %.3f, \"max_ms\": %.3f, \"tokens_per_s\": %.3f, "
               "\"flops_per_token\": %.6g, \"mfu\": %.4f, \"peak_flops\": %.4g, \"memory_bytes\": "
               "%llu, "
               "\"max_rss_bytes\": %llu, \"traced_ms\": %.3f, \"loss\": %.6f}\n",
               (unsigned long long)s->params.count, s->model_dtype, b->tokens, t.n, t.median * 1e3,
               t.min * 1e3, t.max * 1e3, rate, per_token, mfu, peak,
               (unsigned long long)(m.parameters + m.optimizer + m.arena + m.states),
               (unsigned long long)usage.ru_maxrss * 1024, 1e3 * ledger_total(&b->ledger), b->loss);
        return;
    }
    char *p = mri_bytes_text((double)m.parameters), *o = mri_bytes_text((double)m.optimizer);
    char *r = mri_bytes_text((double)m.arena),
         *rss = mri_bytes_text((double)usage.ru_maxrss * 1024);
    printf("model  : %.2f M parameters, %s, %.0f tokens a step (%lld x %lld), loss %.4f\n",
           (double)s->params.count / 1e6, s->model_dtype, b->tokens,
           (long long)(b->tokens / (double)s->config->train.seq), (long long)s->config->train.seq,
           b->loss);
    printf("step   : median %.1f ms, min %.1f, max %.1f of %zu steps", t.median * 1e3, t.min * 1e3,
           t.max * 1e3, t.n);
    if (!b->brief)
        printf("; op by op %.1f ms", 1e3 * ledger_total(&b->ledger));
    puts("");
    printf("rate   : %.1f tokens/s at the median\n", rate);
    printf("MFU    : %.1f %% = %.1f tokens/s x %.4g model flop a token (forward + backward) / "
           "%.1f GFLOP/s of large products, measured in this run\n",
           100 * mfu, rate, per_token, peak * 1e-9);
    printf("memory : parameters and gradients %s, optimizer %s, arena %s; process at most %s\n", p,
           o, r, rss);
    free(p);
    free(o);
    free(r);
    free(rss);
}

static void print_tables(step_bench *b)
{
    static const enum ledger_key tables[] = { LEDGER_PHASE, LEDGER_REGION, LEDGER_OP,
                                              LEDGER_SHAPE };
    for (size_t i = 0; i < (b->shapes ? 4 : 3); i++)
        ledger_print(&b->ledger, b->a, tables[i], &b->first, b->s->model_dtype);
}

/* ---- the bench ----------------------------------------------------------------------------- */

static mr_status run(step_bench *b, mr_err *err)
{
    mri_session *s = b->s;
    mri_trace trace = { ledger_trace, &b->ledger, false, false };
    mri_step_result r;
    mr_status st = 0;
    MR_TRY(mri_session_init_weights(s, err));
    b->first = bench_probe(&s->device);
    bench_print_peaks(b->a, &s->device, &b->first, "first");
    for (int64_t i = 0; i < b->warmup + b->steps; i++) {
        double start = bench_now();
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
        if (!b->a->quiet)
            fprintf(stderr, "mrun: step %lld of %lld: %.1f ms%s\n", (long long)i + 1,
                    (long long)(b->warmup + b->steps), seconds * 1e3,
                    i < b->warmup ? " (warm-up)" : "");
    }
    b->tokens = (double)r.tokens;
    b->loss = r.loss;
    s->train->trace = &trace;
    for (int i = 0; i < (b->brief ? 0 : TRACED_STEPS); i++)
        MR_TRY(traced_step(b, err));
    s->train->trace = NULL;
    b->last = bench_probe(&s->device);
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
                                       (data ? MRI_NEED_DATA | MRI_NEED_TOKENIZER : 0) };
    mr_status st = mri_session_open(b->a->registry, c, &o, &b->s, err);
    if (st)
        return st;
    if (!data)
        give_synthetic_data(b->s);
    st = run(b, err);
    mri_session_close(b->s);
    free(b->times.v);
    ledger_free(&b->ledger);
    return st;
}

/* [job] run = bench: as many steps as the profile says */
int job_bench(app *a, mri_config *c)
{
    mr_err err = MR_ERR_INIT;
    step_bench b = { .a = a, .steps = c->train.steps, .warmup = 1 };
    return run_config(&b, c, &err) ? app_fail(a, &err) : EXIT_OK;
}

int bench_step(app *a, const app_args *args)
{
    static const char *const extra[] = { "job.run=bench", "data.plugin=none" };
    const char *steps = app_arg(args, "--steps"), *warmup = app_arg(args, "--warmup");
    step_bench b = { .a = a,
                     .steps = steps ? atoll(steps) : 5,
                     .warmup = warmup ? atoll(warmup) : 1,
                     .shapes = app_arg(args, "--shapes") != NULL,
                     .brief = app_arg(args, "--brief") != NULL,
                     .profile = app_arg(args, "--profile") };
    mr_err err = MR_ERR_INIT;
    mri_config *c = NULL;
    if (b.steps < 1 || b.warmup < 0)
        return app_usage(a, "--steps is a number from 1 on, --warmup one from 0 on");
    mr_status st = app_model_config(a, args, extra, app_arg(args, "--synthetic") ? 2 : 1, &c, &err);
    if (!st)
        st = run_config(&b, c, &err);
    mri_config_free(c);
    return st ? app_fail(a, &err) : EXIT_OK;
}
