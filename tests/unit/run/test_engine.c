/* SPDX-License-Identifier: Apache-2.0
 *
 * The engine gives every request what it would be given alone: however many run beside it, in
 * whatever order they came, with prompts read in chunks of any size, with pages scattered, used
 * again and taken away; and what can never run is refused.
 */
#include "core/run/engine.h"
#include "tests/kit.h"

enum { VOCAB = 31, MAX_SEQ = 48, REQUESTS = 7 };

static const char *const llama4[] = {
    "model.plugin=llama4", "model.layers=4", "model.hidden=16", "model.heads=2",
    "model.kv_heads=1", "model.head_dim=8", "model.ffn_hidden=20", "model.llama4.experts=3",
    "model.llama4.experts_per_token=2", "model.llama4.expert_hidden=12",
    "model.llama4.moe_step=2", "model.llama4.nope_interval=4", "model.llama4.attention_chunk=7",
    "model.llama4.floor_scale=8", NULL
};

static const char *const kimi_k2[] = {
    "model.plugin=kimi_k2", "model.layers=3", "model.hidden=16", "model.heads=3",
    "model.ffn_hidden=20", "model.kimi_k2.q_lora_rank=9", "model.kimi_k2.kv_lora_rank=10",
    "model.kimi_k2.nope_dim=6", "model.kimi_k2.rope_dim=4", "model.kimi_k2.value_dim=5",
    "model.kimi_k2.experts=4", "model.kimi_k2.expert_hidden=12", NULL
};

typedef struct shape {
    int64_t slots, prefill, page, pages;
} shape;

static kit open_with(const char *backend, const char *const *family, shape x)
{
    char *plugin = mri_format("backend.plugin=%s", backend);
    const char *sets[32] = { plugin, "model.vocab=31", "model.max_positions=64",
                             "model.init_std=0.3", "train.steps=1", "train.seq=16",
                             "data.text.path=unused", "backend.cpu.threads=1" };
    for (size_t n = 8; *family; family++)
        sets[n++] = *family;
    kit k = kit_open(NULL, sets, (mri_session_options){
        .needs = MRI_NEED_EVAL | MRI_NEED_DECODE, .eval_tokens = MAX_SEQ, .slots = x.slots,
        .max_seq = MAX_SEQ, .prefill_tokens = x.prefill, .page = x.page, .pages = x.pages });
    mr_err err = MR_ERR_INIT;
    kit_ok(mri_session_init_weights(k.session, &err), &err, "weights");
    free(plugin);
    return k;
}

/* ---- requests of unequal length, what they are given, and in what order they come ------------ */

static const struct {
    int64_t prompt, write;
} sizes[REQUESTS] = { { 1, 9 }, { 17, 6 }, { 5, 20 }, { 30, 1 }, { 2, 3 }, { 11, 30 }, { 23, 8 } };

typedef struct given {
    int32_t id[MAX_SEQ];
    float logprob[MAX_SEQ];
    int64_t n;
    enum mri_finish finish;
} given;

static mri_request make_request(int32_t *ids, int i, double temperature)
{
    for (uint32_t k = 0, x = 7u + (uint32_t)i; k < (uint32_t)sizes[i].prompt; k++) {
        x = x * 1664525u + 1013904223u;
        ids[k] = (int32_t)((x >> 8) % VOCAB);
    }
    return (mri_request){ .prompt = ids, .n_prompt = sizes[i].prompt, .max_tokens = sizes[i].write,
                          .how = { temperature, 0, 1, 5u + (uint64_t)i }, .top = 2 };
}

static void step(mri_engine *e, given *out, const int64_t *handle)
{
    const mri_token *t;
    size_t n;
    mr_err err = MR_ERR_INIT;
    kit_ok(mri_engine_step(e, &t, &n, &err), &err, "step");
    for (; n > 0; n--, t++)
        for (int i = 0; i < REQUESTS; i++) {
            if (handle[i] != t->request)
                continue;
            given *g = &out[i];
            cr_assert_eq(t->position, sizes[i].prompt + g->n);
            cr_assert_eq(g->finish, MRI_GOES_ON, "nothing comes after the end");
            cr_assert(t->n_top == 2 && t->top[0].logprob >= t->top[1].logprob);
            cr_assert_leq(t->logprob, t->top[0].logprob);
            g->id[g->n] = t->id;
            g->logprob[g->n++] = t->logprob;
            g->finish = t->finish;
        }
}

/* All requests, number first + i * stride of them every `pause` steps. */
static void generate(mri_session *s, double temperature, int first, int stride, int pause,
                     given *out)
{
    mri_engine *e = mri_engine_create(s);
    int64_t handle[REQUESTS];
    int32_t ids[MAX_SEQ];
    mr_err err = MR_ERR_INIT;
    memset(handle, 0xff, sizeof handle);
    memset(out, 0, REQUESTS * sizeof *out);
    for (int i = 0; i < REQUESTS; i++) {
        int at = (first + i * stride) % REQUESTS;
        mri_request r = make_request(ids, at, temperature);
        kit_ok(mri_engine_add(e, &r, &handle[at], &err), &err, "add");
        memset(ids, 0xff, sizeof ids); /* the engine has its own */
        for (int p = 0; p < pause; p++)
            step(e, out, handle);
    }
    for (int most = 2000; !mri_engine_idle(e); most--) {
        cr_assert_gt(most, 0, "it does not end");
        step(e, out, handle);
    }
    cr_assert_eq(s->pages.n_free, s->pages.pages, "pages are lost");
    mri_engine_free(e);
}

static void same(const given *got, const given *want, float tolerance, const char *what)
{
    for (int i = 0; i < REQUESTS; i++) {
        cr_assert_eq(got[i].n, sizes[i].write, "%s, request %d", what, i);
        cr_assert_eq(got[i].finish, MRI_FULL);
        for (int64_t k = 0; k < got[i].n; k++) {
            cr_assert_eq(got[i].id[k], want[i].id[k], "%s, request %d, token %lld: %d, not %d",
                         what, i, (long long)k, got[i].id[k], want[i].id[k]);
            cr_assert(fabsf(got[i].logprob[k] - want[i].logprob[k]) <= tolerance,
                      "%s, request %d, token %lld: %g, not %g", what, i, (long long)k,
                      (double)got[i].logprob[k], (double)want[i].logprob[k]);
        }
    }
}

/* Each alone, one slot, one row at a time. */
static void alone(const char *backend, const char *const *family, double temperature, given *out)
{
    kit k = open_with(backend, family, (shape){ 1, 0, 64, 0 });
    generate(k.session, temperature, 0, 1, 40, out);
    kit_close(&k);
}

static void every_shape(const char *backend, const char *const *family, double temperature,
                        float tolerance)
{
    static const shape shapes[] = { { 1, 3, 16, 0 },  { 3, 0, 16, 0 },  { 3, 64, 16, 0 },
                                    { 7, 8, 5, 0 },   { 4, 64, 16, 3 }, { 7, 16, 1, 41 },
                                    { 7, 0, 16, 5 },  { 5, 64, 64, 1 } };
    given want[REQUESTS], got[REQUESTS];
    alone(backend, family, temperature, want);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        const shape *x = &shapes[i];
        char *what = mri_format("%s, %lld slots, chunks of %lld, %lld pages of %lld", backend,
                                (long long)x->slots, (long long)x->prefill, (long long)x->pages,
                                (long long)x->page);
        kit k = open_with(backend, family, *x);
        generate(k.session, temperature, 0, 1, 0, got);
        same(got, want, tolerance, what);
        generate(k.session, temperature, 3, 5, 2, got); /* over the old pages, as they lie now */
        same(got, want, tolerance, what);
        free(what);
        kit_close(&k);
    }
}

/* The reference loops sum alike whatever the rows: equal to the bit. */
Test(engine, ref_gives_the_same_bits_in_any_company) { every_shape("ref", llama4, 0, 0); }
Test(engine, ref_draws_the_same_in_any_company) { every_shape("ref", llama4, 1.2, 0); }
Test(engine, ref_latents_the_same_bits) { every_shape("ref", kimi_k2, 0, 0); }
Test(engine, cpu_gives_the_same_in_any_company) { every_shape("cpu", llama4, 0, 1e-4f); }
Test(engine, cpu_latents_the_same) { every_shape("cpu", kimi_k2, 0, 1e-4f); }

/* ---- what is reported ---------------------------------------------------------------------- */

Test(engine, log_probabilities_are_those_of_a_whole_forward)
{
    kit k = open_with("cpu", llama4, (shape){ 7, 16, 16, 6 });
    given got[REQUESTS];
    mr_err err = MR_ERR_INIT;
    generate(k.session, 0.8, 0, 1, 0, got);
    for (int i = 0; i < REQUESTS; i++) {
        int32_t ids[MAX_SEQ];
        float nll[MAX_SEQ];
        int64_t p = make_request(ids, i, 0).n_prompt, n = p + got[i].n;
        memcpy(ids + p, got[i].id, (size_t)got[i].n * sizeof *ids);
        kit_ok(mri_session_score(k.session, ids, n, nll, NULL, &err), &err, "score");
        for (int64_t t = 0; t < got[i].n; t++)
            cr_assert_float_eq(got[i].logprob[t], -nll[p + t - 1], 2e-4, "request %d, %lld", i,
                               (long long)t);
    }
    kit_close(&k);
}

Test(engine, a_stop_id_ends_a_request_and_is_its_last)
{
    kit k = open_with("ref", llama4, (shape){ 2, 8, 16, 0 });
    given want[REQUESTS];
    int32_t ids[MAX_SEQ];
    mr_err err = MR_ERR_INIT;
    const mri_token *t;
    size_t n;
    int64_t handle, seen = 0, first = 0;
    generate(k.session, 0, 0, 1, 0, want);
    while (want[5].id[first] != want[5].id[4]) /* where that id comes first */
        first++;
    int32_t stop[2] = { VOCAB + 5, want[5].id[4] };
    mri_request r = make_request(ids, 5, 0);
    r.stop = stop;
    r.n_stop = 2;
    mri_engine *e = mri_engine_create(k.session);
    kit_ok(mri_engine_add(e, &r, &handle, &err), &err, "add");
    while (!mri_engine_idle(e)) {
        kit_ok(mri_engine_step(e, &t, &n, &err), &err, "step");
        for (size_t i = 0; i < n; i++, seen++) {
            cr_assert_eq(t[i].id, want[5].id[seen]);
            cr_assert_eq(t[i].finish, seen == first ? MRI_STOPPED : MRI_GOES_ON);
        }
    }
    cr_assert_eq(seen, first + 1);
    mri_engine_free(e);
    kit_close(&k);
}

Test(engine, a_cancelled_request_gives_its_pages_to_those_that_wait)
{
    kit k = open_with("ref", llama4, (shape){ 2, 8, 16, 2 });
    mri_engine *e = mri_engine_create(k.session);
    int32_t ids[MAX_SEQ];
    int64_t handle[2];
    mr_err err = MR_ERR_INIT;
    const mri_token *t;
    size_t n;
    mri_request r = make_request(ids, 6, 0); /* 23 ids: both pages */
    for (int i = 0; i < 2; i++)
        kit_ok(mri_engine_add(e, &r, &handle[i], &err), &err, "add");
    for (int i = 0; i < 4; i++) {
        kit_ok(mri_engine_step(e, &t, &n, &err), &err, "step");
        for (size_t x = 0; x < n; x++)
            cr_assert_eq(t[x].request, handle[0]);
    }
    mri_engine_cancel(e, handle[0]);
    mri_engine_cancel(e, 99);
    for (size_t all = 0; !mri_engine_idle(e); all += n) {
        kit_ok(mri_engine_step(e, &t, &n, &err), &err, "step");
        for (size_t x = 0; x < n; x++)
            cr_assert_eq(t[x].request, handle[1]);
        cr_assert_lt(all, 8);
    }
    cr_assert_eq(k.session->pages.n_free, 2);
    mri_engine_free(e);
    kit_close(&k);
}

/* Two grow past what there is: the younger stops, waits until the older is done, and goes on as if
 * nothing had been. */
Test(engine, the_youngest_gives_its_pages_to_the_oldest)
{
    enum { OLD = 2, YOUNG = 5 }; /* 5 ids and 20 to write: 2 pages; 11 and 30: 3 */
    given want[REQUESTS], got[2] = { 0 };
    int64_t handle[2];
    int32_t ids[MAX_SEQ];
    mr_err err = MR_ERR_INIT;
    int stopped = 0;
    bool old_ended = false;
    alone("ref", llama4, 0, want);
    kit k = open_with("ref", llama4, (shape){ 2, 16, 16, 3 });
    mri_engine *e = mri_engine_create(k.session);
    for (int i = 0; i < 2; i++) {
        mri_request r = make_request(ids, i ? YOUNG : OLD, 0);
        kit_ok(mri_engine_add(e, &r, &handle[i], &err), &err, "add");
    }
    while (!mri_engine_idle(e)) {
        const mri_token *t;
        size_t n;
        kit_ok(mri_engine_step(e, &t, &n, &err), &err, "step");
        bool wrote[2] = { false, false };
        for (size_t i = 0; i < n; i++) {
            int who = t[i].request == handle[1];
            wrote[who] = true;
            got[who].id[got[who].n++] = t[i].id;
            old_ended |= !who && t[i].finish;
        }
        cr_assert(wrote[0] || old_ended, "the older writes in every step");
        stopped += wrote[0] && !wrote[1] && got[1].n > 0;
    }
    cr_assert_gt(stopped, 0, "the younger was not stopped: this tests nothing");
    for (int i = 0; i < 2; i++) {
        const given *w = &want[i ? YOUNG : OLD];
        cr_assert_eq(got[i].n, w->n);
        cr_assert_arr_eq(got[i].id, w->id, (size_t)w->n * sizeof *w->id);
    }
    mri_engine_free(e);
    kit_close(&k);
}

Test(engine, what_can_never_run_is_refused)
{
    kit k = open_with("ref", llama4, (shape){ 2, 8, 16, 2 });
    mri_engine *e = mri_engine_create(k.session);
    int32_t ids[MAX_SEQ + 1] = { 0 };
    const struct {
        int64_t n, write;
        int32_t id;
        const char *said;
    } row[] = { { 0, 4, 0, "both must be 1 or more" },
                { 4, 0, 0, "both must be 1 or more" },
                { MAX_SEQ + 1, 1, 0, "do not fit 48 positions" },
                { 2, MAX_SEQ, 0, "do not fit 48 positions" },
                { 2, INT64_MAX, 0, "do not fit 48 positions" },
                { 30, 4, 0, "need 3 pages of 16 positions, the cache has 2" },
                { 1, 1, VOCAB, "id 31 at 0" },
                { 1, 1, -1, "id -1 at 0" } };
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        mr_err err = MR_ERR_INIT;
        int64_t handle;
        ids[0] = row[i].id;
        mri_request r = { .prompt = ids, .n_prompt = row[i].n, .max_tokens = row[i].write };
        cr_assert_eq(mri_engine_add(e, &r, &handle, &err), MR_E_ARG);
        cr_assert(strstr(err.what, row[i].said), "%s", err.what);
    }
    cr_assert(mri_engine_idle(e));
    mri_engine_free(e);
    kit_close(&k);
}
