/* SPDX-License-Identifier: Apache-2.0
 *
 * Pictures through a session: what decoding in chunks and scoring make of a prompt with pictures is
 * what transformers makes of it (the fixtures of tests/parity); placeholders and pictures must
 * match; frozen parts take no gradient, no memory for one and no backward work, and the others'
 * gradients stay what they were.
 */
#include "core/store/store.h"
#include "tests/kit.h"
#include <ftw.h>
#include <unistd.h>

typedef struct fixture {
    mri_safetensors *f;
    kit k;
    int64_t n, vocab, tiles, first; /* of the last sequence: ids; its pictures; its first row */
    const int32_t *ids;
    const float *pixels, *logits;
} fixture;

static const mri_tensor *want(const fixture *x, const char *name)
{
    const mri_tensor *t = mri_safetensors_find(x->f, name);
    cr_assert_not_null(t, "expect.safetensors has no %s", name);
    return t;
}

static fixture open_fixture(const char *name, const char *const *more, mri_session_options o)
{
    fixture x = { 0 };
    mr_err err = MR_ERR_INIT;
    char *dir = mri_format("%s/%s", kit_source("tests/parity/fixtures"), name), *path, *hf, *seq;
    char *images;
    const char *sets[24];
    size_t n = 0;
    path = mri_format("%s/expect.safetensors", dir);
    kit_ok(mri_safetensors_open(path, &x.f, &err), &err, path);
    const mri_tensor *ids = want(&x, "ids"), *pixels = want(&x, "pixels");
    int64_t t = ids->type.dim[0], all = pixels->type.dim[0];
    const int32_t *start = want(&x, "seq_start")->data;
    x.first = start[t - 1];
    x.n = t - x.first;
    x.ids = (const int32_t *)ids->data + x.first;
    x.vocab = want(&x, "logits")->type.dim[1];
    x.logits = (const float *)want(&x, "logits")->data + x.first * x.vocab;
    hf = mri_format("model.hf=%s", dir);
    seq = mri_format("train.seq=%lld", (long long)t);
    images = mri_format("train.images=%lld", (long long)(o.needs & MRI_NEED_TRAIN ? all : 0));
    sets[n++] = hf, sets[n++] = seq, sets[n++] = images;
    sets[n++] = "model.plugin=vlm", sets[n++] = "train.steps=1", sets[n++] = "backend.plugin=cpu";
    sets[n++] = "data.text.path=unused", sets[n++] = "backend.cpu.threads=1";
    for (; more && *more; more++)
        sets[n++] = *more;
    sets[n] = NULL;
    x.k = kit_open(NULL, sets, o);
    const mr_model_info *info = &x.k.session->info;
    for (int64_t i = 0; i < x.n; i++)
        x.tiles += x.ids[i] == info->image_token;
    x.tiles /= info->image_tokens;
    x.pixels = (const float *)pixels->data +
               (all - x.tiles) * 3 * info->image_size * info->image_size;
    kit_ok(mri_session_init_weights(x.k.session, &err), &err, "weights");
    free(dir), free(path), free(hf), free(seq), free(images);
    return x;
}

static void close_fixture(fixture *x)
{
    kit_close(&x->k);
    mri_safetensors_close(x->f);
}

static void near(const float *got, const float *expect, int64_t n, const char *what)
{
    float scale = 0;
    for (int64_t i = 0; i < n; i++)
        scale = fmaxf(scale, fabsf(expect[i]));
    for (int64_t i = 0; i < n; i++)
        cr_assert(fabsf(got[i] - expect[i]) <= 1e-5f * scale, "%s: %lld is %g, not %g", what,
                  (long long)i, (double)got[i], (double)expect[i]);
}

static int32_t best_of(const float *x, int64_t n)
{
    int32_t best = 0;
    for (int64_t i = 1; i < n; i++)
        best = x[i] > x[best] ? (int32_t)i : best;
    return best;
}

static const char *const fixtures[] = { "llama4-vlm-tile", "llama4-vlm-tiles", "llava-clip",
                                        "llava-siglip" };

Test(pictures, decode_as_transformers_does)
{
    for (size_t k = 0; k < sizeof fixtures / sizeof *fixtures; k++) {
        mr_err err = MR_ERR_INIT;
        fixture x = open_fixture(fixtures[k], NULL,
                                 (mri_session_options){ .needs = MRI_NEED_DECODE, .slots = 1,
                                                        .max_seq = 64, .images = 4,
                                                        .prefill_tokens = 5 });
        mri_session *s = x.k.session;
        const int32_t *greedy = want(&x, "greedy")->data;
        int64_t more = want(&x, "greedy")->type.dim[0];
        float *logits = mri_alloc((size_t)x.vocab * sizeof *logits);
        cr_assert_gt(x.tiles, 0);
        for (int64_t piece = 1; piece <= x.n; piece = piece == 1 ? 7 : x.n + 1) {
            kit_ok(mri_session_pictures(s, x.pixels, x.tiles, &err), &err, "pictures");
            for (int64_t at = 0; at < x.n; at += piece) {
                int64_t now = x.n - at < piece ? x.n - at : piece;
                kit_ok(mri_session_decode(s, x.ids + at, now, at, logits, &err), &err, "prompt");
                near(logits, x.logits + (at + now - 1) * x.vocab, x.vocab, fixtures[k]);
            }
            for (int64_t i = 0; i < more; i++) {
                int32_t id = best_of(logits, x.vocab);
                cr_assert_eq(id, greedy[i], "%s goes on with %d at %lld, not with %d", fixtures[k],
                             id, (long long)i, greedy[i]);
                kit_ok(mri_session_decode(s, &id, 1, x.n + i, logits, &err), &err, "greedy");
            }
        }
        free(logits);
        close_fixture(&x);
    }
}

Test(pictures, are_scored_and_must_match_their_placeholders)
{
    mr_err err = MR_ERR_INIT;
    fixture x = open_fixture("llama4-vlm-tiles", NULL,
                             (mri_session_options){ .needs = MRI_NEED_EVAL, .eval_tokens = 40,
                                                    .images = 3 });
    mri_session *s = x.k.session;
    float *nll = mri_alloc((size_t)x.n * sizeof *nll);
    float *logits = mri_alloc((size_t)(x.n * x.vocab) * sizeof *logits);
    kit_ok(mri_session_pictures(s, x.pixels, x.tiles, &err), &err, "pictures");
    kit_ok(mri_session_score(s, x.ids, x.n, nll, logits, &err), &err, "score");
    near(nll, (const float *)want(&x, "nll")->data + x.first, x.n - 1, "nll");
    near(logits, x.logits, x.n * x.vocab, "logits");
    cr_expect_eq(mri_session_pictures(s, x.pixels, 4, &err), MR_E_ARG);
    kit_ok(mri_session_pictures(s, x.pixels, x.tiles - 1, &err), &err, "one fewer");
    cr_expect_eq(mri_session_score(s, x.ids, x.n, nll, logits, &err), MR_E_ARG);
    kit_ok(mri_session_pictures(s, x.pixels, x.tiles, &err), &err, "again");
    cr_expect_eq(mri_session_score(s, x.ids, 3, nll, logits, &err), MR_E_ARG, "no placeholder");
    kit_ok(mri_session_pictures(s, NULL, 0, &err), &err, "none");
    kit_ok(mri_session_score(s, x.ids, 3, nll, logits, &err), &err, "text alone");
    near(logits, x.logits, 3 * x.vocab, "text before the pictures");
    free(nll), free(logits);
    close_fixture(&x);
}

Test(pictures, are_refused_by_a_model_of_text)
{
    const char *const sets[] = { "model.plugin=llama", "model.layers=1", "model.hidden=8",
                                 "model.heads=1", "model.ffn_hidden=8", "model.vocab=9",
                                 "backend.plugin=cpu", "train.steps=1", "train.images=2",
                                 "data.text.path=unused", NULL };
    mr_err err = MR_ERR_INIT;
    kit k = { 0 };
    k.registry = mri_registry_create(NULL);
    kit_ok(mri_config_load(k.registry, NULL, sets, 10, &k.config, &err), &err, "config");
    mri_session_options o = { .needs = MRI_NEED_TRAIN };
    cr_expect_eq(mri_session_open(k.registry, k.config, &o, &k.session, &err),
                 MR_E_PROFILE_CONFLICT, "%s", err.what);
    kit_close(&k);
}

/* ---- folders -------------------------------------------------------------------------------- */

/* a tensor's name where all lies below "model." but the head */
static char *newest_name(const char *name)
{
    if (!strncmp(name, "language_model.model.", 21))
        return mri_format("model.language_model.%s", name + 21);
    if (!strncmp(name, "language_model.", 15))
        return mri_strdup(name + 15);
    return mri_format("model.%s", name);
}

static int discard(const char *path, const struct stat *s, int type, struct FTW *f)
{
    (void)s, (void)type, (void)f;
    return remove(path);
}

/* The config.json that the model writes, beside its weights as they were or renamed, is a folder
 * that says the same. */
static void reopened(const char *name, bool rename)
{
    mr_err err = MR_ERR_INIT;
    mri_session_options o = { .needs = MRI_NEED_EVAL, .eval_tokens = 40, .images = 3 };
    fixture x = open_fixture(name, NULL, o);
    mri_session *s = x.k.session;
    char *dir = mri_strdup("/tmp/mrun-pictures-XXXXXX"), json[1 << 14], *path, *weights;
    mri_safetensors *f;
    cr_assert_not_null(mkdtemp(dir));
    kit_ok(s->model_ops->hf_config(s->model, json, sizeof json, &err), &err, "config.json");
    path = mri_format("%s/config.json", dir);
    kit_ok(mri_write_file_atomic(path, json, strlen(json), &err), &err, path);
    weights = mri_format("%s/%s", kit_source("tests/parity/fixtures"), name);
    kit_ok(mri_safetensors_open_folder(weights, &f, &err), &err, weights);
    size_t n = mri_safetensors_count(f);
    mri_tensor *t = mri_alloc(n * sizeof *t);
    for (size_t i = 0; i < n; i++) {
        t[i] = *mri_safetensors_at(f, i);
        t[i].name = rename ? newest_name(t[i].name) : mri_strdup(t[i].name);
    }
    free(path);
    path = mri_format("%s/model.safetensors", dir);
    kit_ok(mri_safetensors_write(path, t, n, NULL, &err), &err, path);
    char *hf = mri_format("model.hf=%s", dir);
    const char *const sets[] = { hf, "model.plugin=vlm", "backend.plugin=cpu", "train.steps=1",
                                 "data.text.path=unused", NULL };
    kit again = kit_open(NULL, sets, o);
    kit_ok(mri_session_init_weights(again.session, &err), &err, "weights");
    float *logits = mri_alloc((size_t)(x.n * x.vocab) * sizeof *logits);
    float *nll = mri_alloc((size_t)x.n * sizeof *nll);
    kit_ok(mri_session_pictures(again.session, x.pixels, x.tiles, &err), &err, "pictures");
    kit_ok(mri_session_score(again.session, x.ids, x.n, nll, logits, &err), &err, "score");
    near(logits, x.logits, x.n * x.vocab, name);
    for (size_t i = 0; i < n; i++)
        free((void *)(uintptr_t)t[i].name);
    kit_close(&again);
    close_fixture(&x);
    mri_safetensors_close(f);
    nftw(dir, discard, 8, FTW_DEPTH | FTW_PHYS);
    free(t), free(path), free(weights), free(hf), free(logits), free(nll), free(dir);
}

Test(pictures, models_write_a_config_that_reads_back_under_all_names)
{
    for (size_t k = 0; k < sizeof fixtures / sizeof *fixtures; k++)
        reopened(fixtures[k], false);
    reopened("llava-clip", true);
    reopened("llava-siglip", true);
}

/* a changed config.json alone, and a word of the message that refuses it */
Test(pictures, contradictions_are_refused_by_name)
{
    static const struct {
        const char *fixture, *from, *to, *word;
    } bad[] = {
        { "llama4-vlm-tile", "\"pixel_shuffle_ratio\": 0.5", "\"pixel_shuffle_ratio\": 0.4",
          "pixel_shuffle_ratio" },
        { "llama4-vlm-tile", "\"pixel_shuffle_ratio\": 0.5", "\"pixel_shuffle_ratio\": 1e-300",
          "pixel_shuffle_ratio" },
        { "llama4-vlm-tile", "\"intermediate_size\": 64", "\"intermediate_size\": 60",
          "intermediate_size" },
        { "llama4-vlm-tile", "\"projector_output_dim\": 20", "\"projector_output_dim\": 21",
          "adapter" },
        { "llama4-vlm-tile", "\"patch_size\": 4", "\"patch_size\": 5", "patch_size" },
        { "llama4-vlm-tile", "\"patch_size\": 4", "\"patch_size\": 0", "patch_size" },
        { "llama4-vlm-tile", "\"hidden_size\": 16", "\"hidden_size\": 9007199254740992",
          "tower_hidden" },
        { "llama4-vlm-tile", "\"image_token_index\": 5", "\"image_token_index\": 50",
          "image_token" },
        { "llama4-vlm-tile", "llama4_vision_model", "clip_vision_model", "vision_config" },
        { "llava-clip", "\"num_attention_heads\": 2", "\"num_attention_heads\": 3", "heads" },
        { "llava-clip", "\"vision_feature_layer\": -2", "\"vision_feature_layer\": -9",
          "features" },
        { "llava-clip", "\"quick_gelu\"", "\"relu\"", "relu" },
        { "llava-clip", "\"num_channels\": 3", "\"num_channels\": 1", "num_channels" },
        { "llava-siglip", "\"full\"", "\"default\"", "class row" },
        { "llava-siglip", "\"model_type\": \"llava\"", "\"model_type\": \"blip\"", "blip" },
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        mr_err err = MR_ERR_INIT;
        char *dir = mri_strdup("/tmp/mrun-pictures-XXXXXX"), *path, *text;
        size_t n;
        cr_assert_not_null(mkdtemp(dir));
        path = mri_format("%s/%s/config.json", kit_source("tests/parity/fixtures"),
                          bad[i].fixture);
        kit_ok(mri_read_file(path, 1 << 20, &text, &n, &err), &err, path);
        const char *part = strstr(text, "\"vision_config\""); /* last, and what is meant if in both */
        const char *at = strstr(part, bad[i].from);
        at = at ? at : strstr(text, bad[i].from);
        cr_assert(at, "%s has no %s", bad[i].fixture, bad[i].from);
        char *changed = mri_format("%.*s%s%s", (int)(at - text), text, bad[i].to,
                                   at + strlen(bad[i].from));
        free(path);
        path = mri_format("%s/config.json", dir);
        kit_ok(mri_write_file_atomic(path, changed, strlen(changed), &err), &err, path);
        char *hf = mri_format("model.hf=%s", dir);
        const char *const sets[] = { hf, "model.plugin=vlm", "backend.plugin=cpu", "train.steps=1",
                                     "data.text.path=unused" };
        kit k = { .registry = mri_registry_create(NULL) };
        mri_registry_offer(k.registry, MR_EXT_JSON, &mri_json_service);
        kit_ok(mri_config_load(k.registry, NULL, sets, 5, &k.config, &err), &err, "config");
        mri_session_options o = { .needs = MRI_NEED_EVAL, .eval_tokens = 8, .images = 1 };
        cr_expect_eq(mri_session_open(k.registry, k.config, &o, &k.session, &err),
                     MR_E_MODEL_CONFIG, "%s: %s", bad[i].to, err.what);
        cr_expect(strstr(err.what, bad[i].word), "\"%s\" does not name %s", err.what,
                  bad[i].word);
        kit_close(&k);
        nftw(dir, discard, 8, FTW_DEPTH | FTW_PHYS);
        free(dir), free(path), free(text), free(changed), free(hf);
    }
}

/* ---- frozen parts --------------------------------------------------------------------------- */

static mri_step_result gradients(fixture *x)
{
    mr_err err = MR_ERR_INIT;
    mri_step_result r;
    mri_batch b = { want(x, "ids")->data, want(x, "positions")->data, want(x, "seq_start")->data,
                    want(x, "targets")->data, NULL, want(x, "loss_weight")->data,
                    want(x, "image_rows")->data, want(x, "pixels")->data };
    kit_ok(mri_session_gradients_of(x->k.session, &b, &r, &err), &err, "gradients");
    return r;
}

static bool in_part(const char *name, const char *part)
{
    bool text = strstr(name, "language_model") != NULL;
    bool project = strstr(name, "multi_modal_projector") != NULL;
    return !strcmp(part, "text") ? text : !strcmp(part, "projector") ? project : !text && !project;
}

static size_t backward_steps(const mri_exec *e, const char *kind)
{
    size_t n = 0;
    for (size_t k = 0; k < e->plans.n; k++)
        if (!strncmp(e->plans.v[k]->name, kind, strlen(kind)))
            n += e->plans.v[k]->steps[MRI_B].n + e->plans.v[k]->steps[MRI_W].n;
    return n;
}

static void check_frozen(const char *name, const char *freeze, const char *const *parts, size_t n)
{
    char *set = mri_format("model.vlm.freeze=%s", freeze);
    const char *const more[] = { set, NULL };
    fixture all = open_fixture(name, NULL, (mri_session_options){ .needs = MRI_NEED_TRAIN });
    fixture some = open_fixture(name, more, (mri_session_options){ .needs = MRI_NEED_TRAIN });
    mri_params *p = &all.k.session->params, *q = &some.k.session->params;
    mri_step_result a = gradients(&all), b = gradients(&some);
    uint64_t kept = 0;
    cr_expect_eq(a.loss, b.loss);
    cr_assert_eq(p->slots.n, q->slots.n);
    for (size_t i = 0; i < p->slots.n; i++) {
        const mri_tensor_slot *s = &p->slots.v[i];
        int64_t at = mri_params_find(q, s->name);
        bool frozen = false;
        cr_assert_geq(at, 0);
        for (size_t k = 0; k < n; k++)
            frozen |= in_part(s->name, parts[k]);
        cr_assert_eq(q->groups.v[q->slots.v[at].group].frozen, frozen, "%s", s->name);
        if (frozen)
            continue;
        kept += s->n;
        double *x = kit_grad(all.k.session, s), *y = kit_grad(some.k.session, &q->slots.v[at]);
        double scale = 0;
        for (uint64_t e = 0; e < s->n; e++)
            scale = fmax(scale, fabs(x[e]));
        for (uint64_t e = 0; e < s->n; e++)
            cr_assert(fabs(x[e] - y[e]) <= 1e-6 * scale + 1e-12, "%s[%llu]: %g, not %g", s->name,
                      (unsigned long long)e, y[e], x[e]);
        free(x), free(y);
    }
    cr_expect(kept > 0 && q->trainable < p->trainable);
    if (in_part("vision", parts[0])) { /* a frozen tower has no backward at all */
        cr_expect_gt(backward_steps(all.k.session->train, "tower."), 0);
        cr_expect_eq(backward_steps(some.k.session->train, "tower."), 0);
    }
    cr_expect_gt(backward_steps(some.k.session->train, "text."), 0, "gradients pass through");
    close_fixture(&all);
    close_fixture(&some);
    free(set);
}

Test(pictures, frozen_parts_take_no_gradient_and_pass_it_on)
{
    check_frozen("llama4-vlm-tile", "tower", (const char *const[]){ "tower" }, 1);
    check_frozen("llama4-vlm-tile", "text", (const char *const[]){ "text" }, 1);
    check_frozen("llava-clip", "tower, text", (const char *const[]){ "tower", "text" }, 2);
    check_frozen("llava-siglip", "projector, text", (const char *const[]){ "projector", "text" },
                 2);
}
