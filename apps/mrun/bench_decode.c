/* SPDX-License-Identifier: Apache-2.0
 *
 * bench_decode.c - `mrun bench decode PROFILE.ini|RUN_DIR|--hf DIR [--batch N] [--context N]
 * [--skip-prefill] [--chunk N] [--max-tokens N] [--brief] [--shapes] [--profile FILE]`: reading a
 * prompt, by N tokens at a time, and writing one token after the other of N sequences that have
 * `context` positions behind them, greedily, with random weights unless [model] hf gives some.
 * --skip-prefill only says that the positions are there. Where a step's time goes is watched after the rest: --brief leaves it out,
 * --shapes tells it by shape too, --profile writes the last step as a timeline.
 *
 * Decoding is bound by memory: every weight is read once a step, and of every sequence its cache.
 * So what is quoted is the floor, the bytes that a step must read over the read rate, which is
 * probed before, between and after, because memory's rate changes within minutes. Prefill is
 * bound by products.
 */
#include "bench_ledger.h"
#include "core/base/rng.h"
#include "model_args.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ROUNDS = 4, WATCHED = 5 }; /* probes are between rounds; steps that are watched */

typedef struct decode_bench {
    app *a;
    mri_session *s;
    int64_t batch, context, tokens, chunk;
    bool skip_prefill;
    bench_peaks peaks;
    bench_times prefill, step;
    double read; /* mean of the probes */
    /* bytes of a step at the middle position: all weights, the experts' among them, the cache */
    double weight_bytes, expert_bytes, all_expert_bytes, cache_bytes;
    ledger ledger;
} decode_bench;

/* ---- bytes ----------------------------------------------------------------------------------- */

/* Of a matrix for each of E experts: each of B tokens goes to K of them, and if it may be any, an
 * expert is read with probability 1 - (1 - K/E)^B. K is the router's, who stands in the block. */
static double experts_read(const decode_bench *b, const mr_prog *p, const mr_type *w)
{
    double k = 1;
    for (size_t i = 0; i < p->nodes.n; i++)
        for (uint32_t a = 0; a < p->nodes.v[i].n_attr; a++)
            if (!strcmp(p->nodes.v[i].attr[a].key, "k"))
                k = (double)p->nodes.v[i].attr[a].u.i;
    return 1 - pow(1 - fmin(1, k / (double)w->dim[0]), (double)b->batch);
}

/* Of a cache [N,P,..], what B sequences at `position` read of it, and the row that each writes. */
static double cache_read(const decode_bench *b, const mri_node *n, const mr_type *cache,
                         double position)
{
    double row = (double)mr_bytes(cache) / ((double)cache->dim[0] * (double)cache->dim[1]);
    double seen = position + 1;
    for (uint32_t a = 0; a < n->n_attr; a++)
        if (!strcmp(n->attr[a].key, "chunk") && n->attr[a].u.i)
            seen = fmod(position, (double)n->attr[a].u.i) + 1;
    return (double)b->batch * row * (seen + 1);
}

/* Weights and caches alone, whatever ops read them: what is written between ops is little beside
 * them, and need not reach memory. Of an embedding only its rows are read. */
static void step_bytes(decode_bench *b, const mr_prog *p, const mri_node *n, double position)
{
    for (uint32_t i = 0; i < n->n_in; i++) {
        const mri_value *v = n->in[i] ? mri_val(p, n->in[i]) : NULL;
        double bytes = v ? (double)mr_bytes(&v->type) : 0;
        if (v && v->kind == MRI_STATE && v->flags & MR_STATE_PAGED)
            b->cache_bytes += cache_read(b, n, &v->type, position);
        if (!v || v->kind != MRI_PARAM)
            continue;
        if (!strcmp(n->def->id, "embedding"))
            bytes *= (double)b->batch / (double)v->type.dim[0];
        if (v->type.rank == 3) {
            b->all_expert_bytes += bytes;
            bytes *= experts_read(b, p, &v->type);
            b->expert_bytes += bytes;
        }
        b->weight_bytes += bytes;
    }
}

static void count_bytes(decode_bench *b)
{
    const mri_exec *e = b->s->decode;
    double position = (double)b->context + (double)b->tokens / 2;
    for (uint32_t i = 0; i < mri_exec_instances(e); i++) {
        const mri_plan *pl = mri_exec_frame(e, 0, i)->plan;
        for (size_t k = 0; k < pl->steps[MRI_F].n; k++)
            step_bytes(b, pl->prog, &pl->prog->nodes.v[pl->steps[MRI_F].v[k].node], position);
    }
}

/* ---- time ------------------------------------------------------------------------------------ */

/* Any ids do, as no weight is chosen by them but the experts', and those should differ. */
static int32_t id_at(const decode_bench *b, int64_t sequence, int64_t position)
{
    mri_rng rng = mri_rng_named((uint64_t)b->s->config->run.seed, "bench decode");
    uint64_t i = (uint64_t)(sequence * (b->context + b->tokens) + position);
    return (int32_t)(mri_rng_bits(rng, i) % (uint64_t)b->s->info.vocab);
}

static mr_status read_prompt(const decode_bench *b, int64_t sequence, mr_err *err)
{
    mri_session *s = b->s;
    mri_rows *r = &s->rows[s->prefill != NULL];
    mr_status st = 0;
    for (int64_t at = 0; at < b->context;) {
        MR_TRY(mri_rows_begin(r, err));
        for (; at < b->context && r->n < r->room; at++)
            mri_rows_add(r, id_at(b, sequence, at), at, sequence, at == b->context - 1);
        MR_TRY(mri_rows_run(r, &s->pages, err));
    }
    MR_TRY(mri_rows_next(r, err));
out:
    return st;
}

static mr_status write_tokens(const decode_bench *b, int64_t position, mr_err *err)
{
    mri_rows *r = &b->s->rows[0];
    mr_status st = 0;
    MR_TRY(mri_rows_begin(r, err));
    for (int64_t i = 0; i < b->batch; i++)
        mri_rows_add(r, id_at(b, i, position), position, i, true);
    MR_TRY(mri_rows_run(r, &b->s->pages, err));
    MR_TRY(mri_rows_next(r, err));
out:
    return st;
}

static mr_status measure(decode_bench *b, mr_err *err)
{
    double start, probes = 1;
    mr_status st = 0;
    b->read = b->peaks.read;
    for (int64_t i = 0; i < b->batch; i++) {
        mri_pages_reach(&b->s->pages, i, b->context + b->tokens); /* there are enough for all */
        if (!b->skip_prefill)
            MR_TRY(read_prompt(b, i, err)); /* the first warms up, too */
    }
    for (int i = 0; i < 3; i++) /* warm-up; a graph plugin records */
        MR_TRY(write_tokens(b, b->context, err));
    for (int round = 0; round < ROUNDS; round++) {
        start = bench_now();
        if (!b->skip_prefill) {
            MR_TRY(read_prompt(b, round % b->batch, err));
            MRI_PUSH(&b->prefill, bench_now() - start);
        }
        int64_t from = b->tokens * round / ROUNDS, to = b->tokens * (round + 1) / ROUNDS;
        for (int64_t i = from; i < to; i++) {
            start = bench_now();
            MR_TRY(write_tokens(b, b->context + i, err));
            MRI_PUSH(&b->step, bench_now() - start);
        }
        b->read += bench_probe(&b->s->device).read;
        probes++;
    }
    b->read /= probes;
out:
    return st;
}

static mr_status watch(decode_bench *b, mr_err *err)
{
    mri_trace trace = { .fn = ledger_trace, .ctx = &b->ledger, .timing = true };
    mri_device *d = &b->s->device;
    mr_status st = 0;
    b->ledger.train = b->s->decode;
    for (int i = 0; i < WATCHED; i++) {
        MR_TRY(ledger_begin(&b->ledger, d, err));
        d->watch = &trace;
        MR_TRY(write_tokens(b, b->context + b->tokens / 2, err));
        d->watch = NULL;
        MR_TRY(ledger_end(&b->ledger, err));
    }
out:
    d->watch = NULL;
    return st;
}

/* ---- what is said ---------------------------------------------------------------------------- */

static void print_json(decode_bench *b, bench_stat p, bench_stat t, double flops)
{
    const mri_session *s = b->s;
    double bytes = b->weight_bytes + b->cache_bytes;
    printf("{\"kind\": \"decode\", \"parameters\": %llu, \"dtype\": \"%s\", \"batch\": %lld, "
           "\"context\": %lld, \"prefill_tokens_per_s\": %.3f, \"prefill_flops_per_s\": %.4g, "
           "\"prefill_of_peak\": %.4f, ",
           (unsigned long long)s->params.count, s->model_dtype, (long long)b->batch,
           (long long)b->context, bench_ratio((double)b->context, p.median), flops,
           bench_ratio(flops, bench_peak(&b->peaks, s->model_dtype)));
    printf("\"decode_tokens_per_s\": %.3f, \"step_ms\": %.4f, \"min_ms\": %.4f, \"max_ms\": %.4f, "
           "\"bytes_per_step\": %.6g, \"expert_bytes\": %.6g, \"cache_bytes\": %.6g, "
           "\"bytes_per_s\": %.4g, \"read_bytes_per_s\": %.4g, \"floor_ms\": %.4f, "
           "\"of_read\": %.4f}\n",
           (double)b->batch / t.median, t.median * 1e3, t.min * 1e3, t.max * 1e3, bytes,
           b->expert_bytes, b->cache_bytes, bytes / t.median, b->read,
           1e3 * bench_ratio(bytes, b->read), bench_ratio(bytes / t.median, b->read));
}

static void print_bytes(const decode_bench *b)
{
    char *w = mri_bytes_text(b->weight_bytes), *c = mri_bytes_text(b->cache_bytes);
    char *e = mri_bytes_text(b->expert_bytes);
    printf("         a step reads %s of weights", w);
    if (b->all_expert_bytes > 0)
        printf(" (%s of them are experts', %.1f %% of all)", e,
               100 * b->expert_bytes / b->all_expert_bytes);
    printf(" and %s of cache\n", c);
    free(w);
    free(c);
    free(e);
}

static void print(decode_bench *b)
{
    const mri_session *s = b->s;
    bench_stat p = bench_summary(&b->prefill), t = bench_summary(&b->step);
    const mri_exec *e = s->prefill ? s->prefill : s->decode;
    double bytes = b->weight_bytes + b->cache_bytes, rate = bytes / t.median;
    double flops = mri_exec_flops(e, MRI_F) / (double)e->opt.tokens *
                   bench_ratio((double)b->context, p.median);
    if (b->a->json) {
        print_json(b, p, t, flops);
        return;
    }
    printf("model  : %.2f M parameters, %s\n", (double)s->params.count / 1e6, s->model_dtype);
    if (p.n)
        printf("prefill: %lld tokens in %.1f ms (%.1f to %.1f): %.1f tokens/s, %.1f GFLOP/s = %.1f "
               "%% of products' peak\n",
               (long long)b->context, p.median * 1e3, p.min * 1e3, p.max * 1e3,
               (double)b->context / p.median, flops * 1e-9,
               100 * bench_ratio(flops, bench_peak(&b->peaks, s->model_dtype)));
    printf("decode : %lld at a time, from position %lld: %.3f ms a step (%.3f to %.3f): %.2f "
           "tokens/s\n", (long long)b->batch, (long long)b->context, t.median * 1e3, t.min * 1e3,
           t.max * 1e3, (double)b->batch / t.median);
    print_bytes(b);
    printf("         %.2f GB/s; floor %.3f ms at the %.2f GB/s that were read in this run, ratio "
           "%.2f\n", rate * 1e-9, 1e3 * bench_ratio(bytes, b->read), b->read * 1e-9,
           bench_ratio(rate, b->read));
}

/* Watched op by op a step is longer; what each op takes is the device's own time. */
static mr_status print_times(decode_bench *b, const app_args *args, mr_err *err)
{
    const char *profile = app_arg(args, "--profile");
    mr_status st = 0;
    if (app_arg(args, "--brief") && !profile)
        return 0;
    MR_TRY(watch(b, err));
    if (!app_arg(args, "--brief"))
        ledger_print(&b->ledger, b->a, LEDGER_OP, &b->peaks, b->s->model_dtype);
    if (app_arg(args, "--shapes"))
        ledger_print(&b->ledger, b->a, LEDGER_SHAPE, &b->peaks, b->s->model_dtype);
    if (profile)
        MR_TRY(ledger_write_trace(&b->ledger, profile, err));
out:
    return st;
}

/* ---- the command ----------------------------------------------------------------------------- */

/* the number that an option gives, or what it is without; -1: not from 1 to 2^24 */
static int64_t number(const app_args *args, const char *option, int64_t without)
{
    const char *s = app_arg(args, option);
    int64_t n = s ? atoll(s) : without;
    return n < 1 || n > 1 << 24 ? -1 : n;
}

static mr_status check_alone(const mri_config *c, mr_err *err)
{
    if (!mri_config_choice(c, "comm", 0))
        return 0;
    mr_fail(err, MR_E_PROFILE_CONFLICT, MR_BLAME_USER, "bench decode measures one rank, and the "
            "profile names a [comm] plugin");
    mr_hint(err, "add --set comm.plugin=none; mrun generate says what many ranks reach");
    return MR_E_PROFILE_CONFLICT;
}

int bench_decode(app *a, const app_args *args)
{
    static const char *const extra[] = { "job.run=generate" };
    decode_bench b = { .a = a,
                       .batch = number(args, "--batch", 1),
                       .context = number(args, "--context", number(args, "--prompt-tokens", 256)),
                       .tokens = number(args, "--max-tokens", 32),
                       .chunk = number(args, "--chunk", 128),
                       .skip_prefill = app_arg(args, "--skip-prefill") };
    mri_session_options o = { .needs = MRI_NEED_DECODE };
    mr_err err = MR_ERR_INIT;
    mri_config *c = NULL;
    mr_status st = 0;
    if (b.batch < 1 || b.context < 1 || b.chunk < 1 || b.tokens < ROUNDS)
        return app_usage(a, "--batch, --context (or --prompt-tokens), --chunk and --max-tokens are "
                            "numbers from 1 on, the last from %d on", ROUNDS);
    o.slots = b.batch;
    o.max_seq = b.context + b.tokens;
    if (!b.skip_prefill)
        o.prefill_tokens = b.context < b.chunk ? b.context : b.chunk; /* or batch, if larger */
    MR_TRY(app_model_config(a, args, extra, 1, &c, &err));
    MR_TRY(check_alone(c, &err));
    MR_TRY(mri_session_open(a->registry, c, &o, &b.s, &err));
    MR_TRY(mri_session_init_weights(b.s, &err));
    b.peaks = bench_probe(&b.s->device);
    bench_print_peaks(a, &b.s->device, &b.peaks, "first");
    count_bytes(&b);
    MR_TRY(measure(&b, &err));
    print(&b);
    MR_TRY(print_times(&b, args, &err));
    b.peaks = bench_probe(&b.s->device);
    bench_print_peaks(a, &b.s->device, &b.peaks, "last");
out:
    free(b.prefill.v);
    free(b.step.v);
    ledger_free(&b.ledger); /* its marks are the device's */
    mri_session_close(b.s);
    mri_config_free(c);
    return st ? app_fail(a, &err) : EXIT_OK;
}
