/* SPDX-License-Identifier: Apache-2.0
 *
 * Greedy continuations of the tiny fixtures are transformers', token for token, from one engine
 * that has all prompts of a fixture at once: more than it has slots, in pages of which there are
 * fewer than all would take, read in chunks that begin and end anywhere. On a GPU a step is one
 * captured graph.
 */
#include "../kit.h"
#include "core/run/engine.h"
#include "core/store/store.h"
#include <unistd.h>

enum { EOS = 2, MAX_PROMPTS = 16 }; /* the fixtures' end-of-text id */

static const int32_t *ints(const mri_safetensors *f, const char *name, int64_t *n)
{
    const mri_tensor *t = mri_safetensors_find(f, name);
    cr_assert(t && mr_is(&t->type, "i32"), "greedy.safetensors has no %s", name);
    *n = mr_numel(&t->type);
    return t->data;
}

typedef struct expected {
    const int32_t *prompt, *next;
    int64_t n_prompt, n_next, seen, handle;
} expected;

static int64_t read_expected(const mri_safetensors *f, expected *x, int64_t *longest)
{
    int64_t n, other, prompts, nexts;
    const int32_t *prompt = ints(f, "prompt", &prompts), *next = ints(f, "next", &nexts);
    const int32_t *prompt_n = ints(f, "prompt_n", &n), *next_n = ints(f, "next_n", &other);
    cr_assert(n == other && n > 2 && n <= MAX_PROMPTS);
    *longest = 0;
    for (int64_t i = 0; i < n; prompt += prompt_n[i], next += next_n[i], i++) {
        x[i] = (expected){ prompt, next, prompt_n[i], next_n[i], 0, -1 };
        *longest = x[i].n_prompt + x[i].n_next > *longest ? x[i].n_prompt + x[i].n_next : *longest;
        prompts -= prompt_n[i];
        nexts -= next_n[i];
    }
    cr_assert(!prompts && !nexts);
    return n;
}

static void take(expected *x, int64_t n, const mri_token *t)
{
    int64_t i = 0;
    while (i < n && x[i].handle != t->request)
        i++;
    cr_assert_lt(i, n);
    expected *e = &x[i];
    cr_assert_lt(e->seen, e->n_next, "prompt %lld goes on", (long long)i);
    cr_assert_eq(t->id, e->next[e->seen], "prompt %lld, token %lld: %d, not %d", (long long)i,
                 (long long)e->seen, t->id, e->next[e->seen]);
    e->seen++;
    enum mri_finish end = t->id == EOS ? MRI_STOPPED : e->seen == e->n_next ? MRI_FULL
                                                                            : MRI_GOES_ON;
    cr_assert_eq(t->finish, end, "prompt %lld, token %lld", (long long)i, (long long)e->seen);
}

static void greedy(const char *fixture, const char *family, const char *backend)
{
    char dir[4200], path[4300], hf[4300], plugin[64], model[4200];
    mr_err err = MR_ERR_INIT;
    mri_safetensors *f = NULL;
    expected x[MAX_PROMPTS];
    static const int32_t stop[] = { EOS };
    snprintf(dir, sizeof dir, "%s/%s", kit_source("tests/parity/fixtures"), fixture);
    snprintf(path, sizeof path, "%s/greedy.safetensors", dir);
    kit_ok(mri_safetensors_open(path, &f, &err), &err, path);
    int64_t longest, n = read_expected(f, x, &longest);
    snprintf(hf, sizeof hf, "model.hf=%s", dir);
    snprintf(plugin, sizeof plugin, "backend.plugin=%s", backend);
    snprintf(model, sizeof model, "model.plugin=%s%s", *family == '/' ? getenv("MRUN_BUILD") : "",
             family);
    const char *graph = strcmp(backend, "cuda") ? "graph.plugin=none" : "graph.plugin=full";
    const char *const sets[] = { hf, plugin, model, graph, "job.run=generate", "train.steps=1",
                                 "train.seq=8", "data.text.path=unused", NULL };
    kit k = kit_open(NULL, sets, (mri_session_options){
        .needs = MRI_NEED_DECODE, .slots = 3, .max_seq = longest, .prefill_tokens = 7, .page = 8,
        .pages = (longest + 7) / 8 + 1 });
    kit_ok(mri_session_init_weights(k.session, &err), &err, "weights");
    mri_engine *e = mri_engine_create(k.session);
    for (int64_t i = 0; i < n; i++) {
        mri_request r = { .prompt = x[i].prompt, .n_prompt = x[i].n_prompt,
                          .max_tokens = x[i].n_next, .stop = stop, .n_stop = 1, .top = -1 };
        kit_ok(mri_engine_add(e, &r, &x[i].handle, &err), &err, "add");
    }
    while (!mri_engine_idle(e)) {
        const mri_token *t;
        size_t given;
        kit_ok(mri_engine_step(e, &t, &given, &err), &err, "step");
        for (size_t i = 0; i < given; i++)
            take(x, n, &t[i]);
    }
    for (int64_t i = 0; i < n; i++)
        cr_assert_eq(x[i].seen, x[i].n_next, "prompt %lld ends early", (long long)i);
    mri_engine_free(e);
    mri_safetensors_close(f);
    kit_close(&k);
}

static void greedy_cuda(const char *fixture, const char *family)
{
#ifdef HAVE_CUDA
    if (!access("/dev/nvidiactl", F_OK)) {
        greedy(fixture, family, "cuda");
        return;
    }
#endif
    (void)fixture, (void)family;
    cr_skip_test("no GPU, or no backend/cuda in this build");
}

#define GREEDY(name, fixture, family) \
    Test(greedy, name##_cuda) { greedy_cuda(fixture, family); } \
    Test(greedy, name##_cpu) { greedy(fixture, family, "cpu"); } \
    Test(greedy, name##_ref) { greedy(fixture, family, "ref"); }

GREEDY(base, "llama4-base", "llama4")
GREEDY(maverick, "llama4-maverick", "llama4")
GREEDY(scout, "llama4-scout", "llama4")
GREEDY(top2, "llama4-top2", "llama4")
GREEDY(tied, "llama4-tied", "llama4")
GREEDY(deepseek_base, "deepseek-base", "kimi_k2")
GREEDY(kimi, "kimi", "kimi_k2")
GREEDY(deepseek_direct, "deepseek-direct", "kimi_k2")
GREEDY(deepseek_shared, "deepseek-shared", "kimi_k2")
GREEDY(deepseek_eps, "deepseek-eps", "kimi_k2")
GREEDY(deepseek_mscale, "deepseek-mscale", "kimi_k2")
GREEDY(deepseek_groups, "deepseek-groups", "kimi_k2")
GREEDY(gpt2, "gpt2", "/tests/unit/model/gpt2.so")
