/* SPDX-License-Identifier: Apache-2.0
 *
 * Cached decoding computes what one forward over the whole sequence does, however the tokens
 * come: one by one, in chunks of any size, across chunks of attention, after a restart at
 * position 0 over an old cache; from keys and values, or from latents.
 */
#include "tests/kit.h"

enum { N = 41, VOCAB = 31 };

static const char *const llama4[] = {
    "model.plugin=llama4", "model.layers=4", "model.hidden=16", "model.heads=2",
    "model.kv_heads=1", "model.head_dim=8", "model.ffn_hidden=20", "model.llama4.experts=3",
    "model.llama4.experts_per_token=2", "model.llama4.expert_hidden=12",
    "model.llama4.moe_step=2", "model.llama4.nope_interval=4", "model.llama4.attention_chunk=7",
    "model.llama4.floor_scale=8", NULL
};

/* forward expands the latents, decoding does not: equal logits show that both are the same map */
static const char *const kimi_k2[] = {
    "model.plugin=kimi_k2", "model.layers=3", "model.hidden=16", "model.heads=3",
    "model.ffn_hidden=20", "model.kimi_k2.q_lora_rank=9", "model.kimi_k2.kv_lora_rank=10",
    "model.kimi_k2.nope_dim=6", "model.kimi_k2.rope_dim=4", "model.kimi_k2.value_dim=5",
    "model.kimi_k2.experts=4", "model.kimi_k2.expert_hidden=12", "model.kimi_k2.rope_factor=4",
    "model.kimi_k2.rope_original_max_positions=16", "model.kimi_k2.mscale=0.7", NULL
};

static kit open_with(const char *backend, const char *const *family, int64_t prefill)
{
    char *plugin = mri_format("backend.plugin=%s", backend);
    const char *sets[32] = { plugin, "model.vocab=31", "model.max_positions=64",
                             "model.init_std=0.3", "train.steps=1", "train.seq=16",
                             "data.text.path=unused", "backend.cpu.threads=1" };
    for (size_t n = 8; *family; family++)
        sets[n++] = *family;
    kit k = kit_open(NULL, sets, (mri_session_options){ .needs = MRI_NEED_EVAL | MRI_NEED_DECODE,
                                                        .eval_tokens = N, .slots = 1,
                                                        .max_seq = N, .prefill_tokens = prefill });
    mr_err err = MR_ERR_INIT;
    kit_ok(mri_session_init_weights(k.session, &err), &err, "weights");
    free(plugin);
    return k;
}

static void compare(const float *got, const float *want, const char *what, int64_t pos)
{
    float scale = 0;
    int best = 0, top = 0;
    for (int v = 0; v < VOCAB; v++) {
        scale = fmaxf(scale, fabsf(want[v]));
        best = want[v] > want[best] ? v : best;
        top = got[v] > got[top] ? v : top;
    }
    for (int v = 0; v < VOCAB; v++)
        cr_assert(fabsf(got[v] - want[v]) <= 2e-5f * scale,
                  "%s, position %lld: logit %d is %g, not %g", what, (long long)pos, v, (double)got[v], (double)want[v]);
    cr_assert_eq(best, top, "%s, position %lld: argmax %d, not %d", what, (long long)pos, top,
                 best);
}

/* feeds ids in pieces of `piece` tokens and checks the logits of each piece's last */
static void feed(mri_session *s, const int32_t *ids, int64_t piece, const float *want,
                 const char *what)
{
    float logits[VOCAB];
    mr_err err = MR_ERR_INIT;
    for (int64_t at = 0; at < N; at += piece) {
        int64_t n = N - at < piece ? N - at : piece;
        kit_ok(mri_session_decode(s, ids + at, n, at, logits, &err), &err, what);
        compare(logits, want + (at + n - 1) * VOCAB, what, at + n - 1);
    }
}

static void all_ways(const char *backend, const char *const *family, int64_t prefill)
{
    kit k = open_with(backend, family, prefill);
    int32_t ids[2][N];
    float nll[N], *want = mri_alloc(N * VOCAB * sizeof *want), logits[VOCAB];
    mr_err err = MR_ERR_INIT;
    for (uint32_t i = 0, x = 7; i < 2 * N; i++) {
        x = x * 1664525u + 1013904223u;
        ids[i / N][i % N] = (int32_t)((x >> 8) % VOCAB);
    }
    static const int64_t pieces[] = { 1, 2, 5, 13, N };
    for (size_t p = 0; p < sizeof pieces / sizeof *pieces; p++) {
        char *what = mri_format("%s, prefill by %lld, pieces of %lld", backend, (long long)prefill,
                                (long long)pieces[p]);
        const int32_t *now = ids[p % 2]; /* another text over the old cache each time */
        kit_ok(mri_session_score(k.session, now, N, nll, want, &err), &err, "score");
        feed(k.session, now, pieces[p], want, what);
        free(what);
    }
    cr_assert_eq(mri_session_decode(k.session, ids[0], 2, N - 1, logits, &err), MR_E_ARG);
    cr_assert_not_null(strstr(err.what, "the cache holds 41"), "%s", err.what);
    free(want);
    kit_close(&k);
}

Test(decode, ref_token_by_token) { all_ways("ref", llama4, 0); }
Test(decode, ref_in_chunks_of_4) { all_ways("ref", llama4, 4); }
Test(decode, cpu_token_by_token) { all_ways("cpu", llama4, 0); }
Test(decode, cpu_in_chunks_of_3) { all_ways("cpu", llama4, 3); }
Test(decode, cpu_in_chunks_of_16) { all_ways("cpu", llama4, 16); }
Test(decode, cpu_in_one_chunk) { all_ways("cpu", llama4, 64); }
Test(decode, latent_ref_token_by_token) { all_ways("ref", kimi_k2, 0); }
Test(decode, latent_ref_in_chunks_of_4) { all_ways("ref", kimi_k2, 4); }
Test(decode, latent_cpu_token_by_token) { all_ways("cpu", kimi_k2, 0); }
Test(decode, latent_cpu_in_chunks_of_3) { all_ways("cpu", kimi_k2, 3); }
Test(decode, latent_cpu_in_chunks_of_16) { all_ways("cpu", kimi_k2, 16); }
Test(decode, latent_cpu_in_one_chunk) { all_ways("cpu", kimi_k2, 64); }
