/* SPDX-License-Identifier: Apache-2.0
 *
 * bench_decode.c - `mrun bench decode PROFILE.ini|RUN_DIR|--hf DIR [--prompt-tokens N]
 * [--max-tokens N]`: reading a prompt and writing one token after the other, with random weights
 * unless [model] hf gives some.
 *
 * Decoding is bound by memory: every weight is read once a token. So what is quoted is the ratio
 * of (bytes that a token must read) / time to the read rate, which is probed before, between and
 * after, because memory's rate changes within minutes. Prefill is bound by products.
 */
#include "bench.h"
#include "core/base/rng.h"
#include "model_args.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNK = 128, ROUNDS = 4 }; /* prefill's tokens at a time; probes between rounds */

typedef struct decode_bench {
    app *a;
    mri_session *s;
    int64_t prompt, tokens;
    bench_peaks peaks;
    bench_times prefill, token;
    double read;                      /* mean of the probes */
    double weight_bytes, cache_bytes; /* a token, at the middle position */
} decode_bench;

/* Of a step with one token: grouped products read the experts that have rows (at most one a row),
 * cached attention the positions so far; everything else what its cost says. */
static void step_bytes(decode_bench *b, const mri_plan *pl, const mri_step *s, double position)
{
    const mri_node *n = &pl->prog->nodes.v[s->node];
    const mr_type *types[2 * MRI_MAX_OPERANDS];
    mr_call c = mri_node_call(pl->prog, n, types);
    const char *id = n->def->id;
    double bytes = s->cost.bytes;
    if (!strcmp(id, "grouped_linear")) {
        double rows = (double)mr_rows(c.in[0]), experts = (double)c.in[1]->dim[0];
        bytes -= (double)mr_bytes(c.in[1]) * (1 - fmin(1, rows / experts));
    } else if (!strcmp(id, "attention.cached")) {
        double room = (double)c.in[5]->dim[1] * (double)c.in[5]->dim[0];
        double row = (double)(mr_bytes(c.in[5]) + mr_bytes(c.in[6])) / room;
        int64_t chunk = mr_attr_i(&c, "chunk", 0);
        double seen = chunk ? fmod(position, (double)chunk) + 1 : position + 1;
        b->cache_bytes += row * (seen + 1); /* read so far, one written */
        return;
    } else if (!strcmp(id, "mla_attention.cached")) {
        double room = (double)c.in[6]->dim[1] * (double)c.in[6]->dim[0];
        double cache = (double)mr_bytes(c.in[6]);
        b->cache_bytes += cache / room * (position + 2);
        bytes -= cache;
    }
    b->weight_bytes += bytes;
}

static void count_bytes(decode_bench *b)
{
    const mri_exec *e = b->s->decode;
    double position = (double)b->prompt + (double)b->tokens / 2;
    for (uint32_t i = 0; i < e->frames.n; i++) {
        const mri_plan *pl = e->frames.v[i].plan;
        for (size_t k = 0; k < pl->steps[MRI_F].n; k++)
            step_bytes(b, pl, &pl->steps[MRI_F].v[k], position);
    }
}

static double forward_flops(const mri_exec *e)
{
    return e ? mri_exec_flops(e, MRI_F) / (double)e->opt.tokens : 0;
}

static mr_status measure(decode_bench *b, mr_err *err)
{
    mri_session *s = b->s;
    int64_t n = b->prompt + b->tokens;
    int32_t *ids = mri_alloc((size_t)n * sizeof *ids);
    float *logits = mri_alloc((size_t)s->info.vocab * sizeof *logits);
    mri_rng rng = mri_rng_named((uint64_t)s->config->run.seed, "bench decode");
    double start, probes = 1;
    mr_status st = 0;
    for (int64_t i = 0; i < n; i++)
        ids[i] = (int32_t)(mri_rng_bits(rng, (uint64_t)i) % (uint64_t)s->info.vocab);
    b->read = b->peaks.read;
    MR_TRY(mri_session_decode(s, ids, b->prompt < 8 ? b->prompt : 8, 0, logits, err)); /* warm-up */
    MR_TRY(mri_session_decode(s, ids, 1, 0, logits, err));
    for (int round = 0; round < ROUNDS; round++) {
        start = bench_now();
        MR_TRY(mri_session_decode(s, ids, b->prompt, 0, logits, err));
        MRI_PUSH(&b->prefill, bench_now() - start);
        int64_t from = b->tokens * round / ROUNDS, to = b->tokens * (round + 1) / ROUNDS;
        for (int64_t i = from; i < to; i++) {
            start = bench_now();
            MR_TRY(mri_session_decode(s, ids + b->prompt + i, 1, b->prompt + i, logits, err));
            MRI_PUSH(&b->token, bench_now() - start);
        }
        b->read += bench_probe(&s->device).read;
        probes++;
    }
    b->read /= probes;
out:
    free(ids);
    free(logits);
    return st;
}

static void print(decode_bench *b)
{
    const mri_session *s = b->s;
    bench_stat p = bench_summary(&b->prefill), t = bench_summary(&b->token);
    double bytes = b->weight_bytes + b->cache_bytes, rate = bytes / t.median;
    double flops =
        forward_flops(s->prefill ? s->prefill : s->decode) * (double)b->prompt / p.median;
    double peak = bench_peak(&b->peaks, s->model_dtype);
    if (b->a->json) {
        printf(
            "{\"kind\": \"decode\", \"parameters\": %llu, \"dtype\": \"%s\", \"prompt_tokens\": "
            "%lld, "
            "\"prefill_tokens_per_s\": %.3f, \"prefill_flops_per_s\": %.4g, \"prefill_of_peak\": "
            "%.4f, \"decode_tokens_per_s\": %.3f, \"token_ms\": %.4f, \"min_ms\": %.4f, "
            "\"max_ms\": "
            "%.4f, \"bytes_per_token\": %.6g, \"cache_bytes\": %.6g, \"bytes_per_s\": %.4g, "
            "\"read_bytes_per_s\": %.4g, \"of_read\": %.4f}\n",
            (unsigned long long)s->params.count, s->model_dtype, (long long)b->prompt,
            (double)b->prompt / p.median, flops, bench_ratio(flops, peak), 1 / t.median,
            t.median * 1e3, t.min * 1e3, t.max * 1e3, bytes, b->cache_bytes, rate, b->read,
            bench_ratio(rate, b->read));
        return;
    }
    printf("model  : %.2f M parameters, %s\n", (double)s->params.count / 1e6, s->model_dtype);
    printf(
        "prefill: %lld tokens in %.1f ms (%.1f to %.1f): %.1f tokens/s, %.1f GFLOP/s = %.1f %% of "
        "products' peak\n",
        (long long)b->prompt, p.median * 1e3, p.min * 1e3, p.max * 1e3,
        (double)b->prompt / p.median, flops * 1e-9, 100 * bench_ratio(flops, peak));
    printf("decode : %.2f ms a token (%.2f to %.2f): %.2f tokens/s\n", t.median * 1e3, t.min * 1e3,
           t.max * 1e3, 1 / t.median);
    char *w = mri_bytes_text(b->weight_bytes), *c = mri_bytes_text(b->cache_bytes);
    printf(
        "         reads %s of weights and %s of cache a token: %.2f GB/s = %.2f of the %.2f GB/s "
        "that were read in this run\n",
        w, c, rate * 1e-9, bench_ratio(rate, b->read), b->read * 1e-9);
    free(w);
    free(c);
}

int bench_decode(app *a, const app_args *args)
{
    static const char *const extra[] = { "job.run=generate" };
    const char *prompt = app_arg(args, "--prompt-tokens"), *tokens = app_arg(args, "--max-tokens");
    decode_bench b = { .a = a,
                       .prompt = prompt ? atoll(prompt) : 256,
                       .tokens = tokens ? atoll(tokens) : 32 };
    mri_session_options o = { .needs = MRI_NEED_DECODE, .slots = 1 };
    mr_err err = MR_ERR_INIT;
    mri_config *c = NULL;
    mr_status st = 0;
    if (b.prompt < 1 || b.tokens < ROUNDS || b.prompt > 1 << 24 || b.tokens > 1 << 24)
        return app_usage(a, "--prompt-tokens is a number from 1 on, --max-tokens one from %d on",
                         ROUNDS);
    o.max_seq = b.prompt + b.tokens;
    o.prefill_tokens = b.prompt < CHUNK ? b.prompt : CHUNK;
    MR_TRY(app_model_config(a, args, extra, 1, &c, &err));
    MR_TRY(mri_session_open(a->registry, c, &o, &b.s, &err));
    MR_TRY(mri_session_init_weights(b.s, &err));
    b.peaks = bench_probe(&b.s->device);
    bench_print_peaks(a, &b.s->device, &b.peaks, "first");
    count_bytes(&b);
    MR_TRY(measure(&b, &err));
    print(&b);
    b.peaks = bench_probe(&b.s->device);
    bench_print_peaks(a, &b.s->device, &b.peaks, "last");
out:
    free(b.prefill.v);
    free(b.token.v);
    mri_session_close(b.s);
    mri_config_free(c);
    return st ? app_fail(a, &err) : EXIT_OK;
}
