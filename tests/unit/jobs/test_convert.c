/* SPDX-License-Identifier: Apache-2.0
 *
 * `mrun convert`: what goes in comes back. Tensors of an untouched folder byte for byte, keys of
 * config.json that mrun does not know, tensors that the family does not compute with, a run's
 * trained weights under their Hugging Face names; and nothing appears half, or over something else.
 */
#include "core/run/turned.h"
#include "job.h"
#include <math.h>

static char *fixture(const char *name)
{
    return mri_format("%s/tests/parity/fixtures/%s", getenv("MRUN_SOURCE"), name);
}

static mri_safetensors *open_folder(const job *j, const char *name)
{
    mri_safetensors *f;
    mr_err err = MR_ERR_INIT;
    char *dir = *name == '/' ? mri_strdup(name) : job_path(j, name);
    cr_assert_eq(mri_safetensors_open_folder(dir, &f, &err), 0, "%s: %s", err.what, err.detail);
    return f;
}

static const mri_tensor *find(const mri_safetensors *f, const char *name)
{
    const mri_tensor *t = mri_safetensors_find(f, name);
    cr_assert_not_null(t, "no tensor %s", name);
    return t;
}

static bool same(const mri_tensor *a, const mri_tensor *b)
{
    return mr_same_type(&a->type, &b->type) && !memcmp(a->data, b->data, mr_bytes(&a->type));
}

static void same_folder(const job *j, const char *a, const char *b)
{
    mri_safetensors *x = open_folder(j, a), *y = open_folder(j, b);
    cr_assert_eq(mri_safetensors_count(x), mri_safetensors_count(y));
    for (size_t i = 0; i < mri_safetensors_count(x); i++) {
        const mri_tensor *t = mri_safetensors_at(x, i);
        cr_assert(same(t, find(y, t->name)), "%s differs", t->name);
    }
    mri_safetensors_close(x);
    mri_safetensors_close(y);
}

static json_t *config(const job *j, const char *dir)
{
    json_t *o = json_load_file(job_path(j, mri_format("%s/config.json", dir)), 0, NULL);
    cr_assert_not_null(o, "%s has no config.json", dir);
    return o;
}

/* A copy of a folder with `more` tensors, its config with a key that nobody knows. */
static void make_folder(const job *j, const char *source, const char *to, const mri_tensor *more,
                        size_t n_more)
{
    char *dir = job_path(j, to);
    mri_safetensors *f = open_folder(j, source);
    size_t n = mri_safetensors_count(f);
    mri_tensor *t = mri_alloc((n + n_more) * sizeof *t);
    mr_err err = MR_ERR_INIT;
    for (size_t i = 0; i < n + n_more; i++)
        t[i] = i < n ? *mri_safetensors_at(f, i) : more[i - n];
    cr_assert_eq(mkdir(dir, 0777), 0);
    cr_assert_eq(mri_safetensors_write(mri_format("%s/model.safetensors", dir), t, n + n_more, NULL,
                                       &err), 0, "%s", err.what);
    json_t *o = json_load_file(mri_format("%s/config.json", source), 0, NULL);
    json_object_set_new(o, "a_key_of_tomorrow", json_pack("{s:[i,f]}", "deep", 1, 0.1));
    json_dump_file(o, mri_format("%s/config.json", dir), JSON_INDENT(2));
    job_write(mri_format("%s/chat_template.jinja", dir), "{{ x }}", 7);
    job_write(mri_format("%s/pytorch_model.bin", dir), "old", 3);
    free(t);
    mri_safetensors_close(f);
}

static bool there(const job *j, const char *name)
{
    return access(job_path(j, name), F_OK) == 0;
}

static char *score(const job *j, const char *a, const char *b)
{
    job_result r = b ? job_run(j, "score", a, b, "--ids", "1 2 3 4 5 6 7")
                     : job_run(j, "score", a, "--ids", "1 2 3 4 5 6 7");
    job_expect(&r, 0, NULL);
    return r.out;
}

Test(convert, untouched_folder_comes_back_in_shards_and_whole)
{
    job j = job_new();
    make_folder(&j, fixture("kimi"), "hf", NULL, 0);
    job_result r = job_run(&j, "convert", "hf", "--to", "hf", "--out", "shards",
                           "--max-shard-size", "10KB");
    job_expect(&r, 0, NULL);
    cr_assert(!there(&j, "shards/model.safetensors") && there(&j, "shards/chat_template.jinja"));
    cr_assert(!there(&j, "shards/pytorch_model.bin"), "other formats' weights stay behind");
    same_folder(&j, "hf", "shards");
    json_t *index = json_load_file(job_path(&j, "shards/model.safetensors.index.json"), 0, NULL);
    json_t *meta = json_object_get(index, "metadata");
    json_int_t size = json_integer_value(json_object_get(meta, "total_size"));
    cr_assert_eq(size, 4 * json_integer_value(json_object_get(meta, "total_parameters")));
    cr_assert_geq(size, 60000);

    r = job_run(&j, "convert", "--hf", "shards", "--to", "hf", "--out", "whole");
    job_expect(&r, 0, NULL);
    cr_assert(there(&j, "whole/model.safetensors"));
    same_folder(&j, "hf", "whole");
    json_t *old = config(&j, "hf"), *new = config(&j, "whole"), *v;
    const char *key;
    json_object_foreach(old, key, v)
        cr_assert(json_equal(v, json_object_get(new, key)), "%s changed", key);
    cr_assert(json_equal(json_object_get(json_object_get(old, "rope_parameters"), "rope_theta"),
                         json_object_get(new, "rope_theta")), "4.x's spelling is added");
    cr_assert_str_eq(job_read(job_path(&j, "shards/config.json")),
                     job_read(job_path(&j, "whole/config.json")), "then nothing more to change");
    job_free(&j);
}

/* The profile's run in `dir`, trained for so many steps; `more` is one further setting. */
static void train(const job *j, const char *dir, const char *steps, const char *more)
{
    char *run = mri_format("run.dir=%s", dir), *n = mri_format("train.steps=%s", steps);
    job_result r = job_run(j, "p.ini", "--set", run, "--set", n, "--set", more);
    job_expect(&r, 0, NULL);
}

static const char from_hf[] =
    "[run]\ndir = tuned\n[data]\nplugin = text\n[data.text]\npath = text.txt\n"
    "[sink]\nplugin = jsonl\n"
    "[model]\nplugin = llama4\nhf = hf\nmax_positions = 64\n[optimizer]\nschedule = constant\n"
    "lr = 1e-2\n[train]\nsteps = 3\nseq = 16\n";

Test(convert, trained_weights_come_back_and_score_as_the_run_does)
{
    job j = job_new();
    train(&j, "run", "3", "run.seed=7");
    job_result r = job_run(&j, "convert", "run", "--to", "hf", "--out", "hf");
    job_expect(&r, 0, NULL);
    char *own = score(&j, "run", NULL);
    cr_assert_str_eq(own, score(&j, "--hf", "hf"));

    /* went on from that folder: the run's weights are its own, not the folder's */
    job_write(job_path(&j, "tune.ini"), from_hf, sizeof from_hf - 1);
    r = job_run(&j, "tune.ini");
    job_expect(&r, 0, NULL);
    char *tuned = score(&j, "tuned", NULL);
    cr_assert_str_neq(tuned, own, "the run is scored by the weights that it began with");
    cr_assert_str_eq(tuned, score(&j, "tune.ini", NULL));
    cr_assert_str_eq(tuned, score(&j, "tuned/checkpoints/step-00000003", NULL));
    r = job_run(&j, "convert", "tuned", "--to", "hf", "--out", "back");
    job_expect(&r, 0, NULL);
    cr_assert_str_eq(tuned, score(&j, "--hf", "back"));
    cr_assert_eq(json_integer_value(json_object_get(config(&j, "back"),
                                                    "max_position_embeddings")), 64);
    cr_assert_eq(rename(job_path(&j, "tuned"), job_path(&j, "moved")), 0);
    cr_assert_str_eq(tuned, score(&j, "moved", NULL), "a run may be moved");
    job_free(&j);
}

/* Modules that a family has no blocks for are carried along. Their copy of the embedding follows
 * the embedding. */
Test(convert, tensors_beside_the_model_survive_training)
{
    job j = job_new();
    static float eh[6] = { 1, 2, 3, 4, 5, 6 };
    train(&j, "run", "1", "run.seed=7");
    job_result r = job_run(&j, "convert", "run", "--to", "hf", "--out", "first");
    job_expect(&r, 0, NULL);
    mri_tensor more[] = { { "model.layers.2.eh_proj.weight", mr_type2("f32", 2, 3), eh },
                          *find(open_folder(&j, "first"), "model.embed_tokens.weight") };
    more[1].name = "model.layers.2.embed_tokens.weight";
    make_folder(&j, job_path(&j, "first"), "hf", more, 2);
    r = job_run(&j, "convert", "hf", "--to", "hf", "--out", "same");
    JOB_EXPECT(&r, 0, "2 tensors that the family does not", "model.layers.2.eh_proj.weight");
    same_folder(&j, "hf", "same");

    job_write(job_path(&j, "tune.ini"), from_hf, sizeof from_hf - 1);
    r = job_run(&j, "tune.ini");
    job_expect(&r, 0, NULL);
    r = job_run(&j, "convert", "tuned", "--to", "hf", "--out", "back");
    job_expect(&r, 0, NULL);
    mri_safetensors *back = open_folder(&j, "back");
    cr_assert(same(find(back, more[0].name), &more[0]));
    const mri_tensor *embed = find(back, "model.embed_tokens.weight");
    cr_assert(!same(embed, &more[1]), "the embedding was trained");
    cr_assert(same(find(back, more[1].name), embed), "its copy is the new embedding");
    cr_assert_not_null(json_object_get(config(&j, "back"), "a_key_of_tomorrow"));
    cr_assert(there(&j, "back/chat_template.jinja"));
    job_free(&j);
}

static double sum_of_squares(const mri_tensor *t)
{
    double sum = 0;
    for (int64_t i = 0; i < mr_numel(&t->type); i++)
        sum += pow(((const float *)t->data)[i], 2);
    return sum;
}

/* Multi-token prediction: its modules go out under their names and come in again, are trained, and
 * change neither scores nor the gradient of the text's loss. */
Test(convert, modules_that_predict_further_tokens_are_trained)
{
    static const char tune[] =
        "[run]\ndir = tuned\n[data]\nplugin = text\n[data.text]\npath = text.txt\n"
        "[sink]\nplugin = jsonl\n[model]\nplugin = kimi_k2\nhf = hf\nmax_positions = 64\n"
        "[optimizer]\nlr = 1e-2\nschedule = constant\n[train]\nsteps = 3\nseq = 16\n";
    static const char profile[] =
        "[run]\ndir = run\n[data]\nplugin = text\n[data.text]\npath = text.txt\n"
        "[tokenizer]\nplugin = bytes\n[model]\nplugin = kimi_k2\nlayers = 2\nhidden = 16\n"
        "heads = 2\nffn_hidden = 24\nvocab = 256\nmax_positions = 64\n"
        "[model.kimi_k2]\nkv_lora_rank = 8\nnope_dim = 4\nrope_dim = 4\nvalue_dim = 4\n"
        "experts = 4\nexperts_per_token = 2\nexpert_hidden = 8\nmtp_layers = 1\n"
        "[train]\nsteps = 1\nseq = 16\n";
    static const char *const own[] = { "eh_proj.weight", "enorm.weight", "shared_head.norm.weight",
                                       "mlp.experts.3.up_proj.weight", "mlp.gate.weight" };
    job j = job_new();
    job_write(job_path(&j, "mtp.ini"), profile, sizeof profile - 1);
    job_write(job_path(&j, "tune.ini"), tune, sizeof tune - 1);
    job_result r = job_run(&j, "mtp.ini");
    job_expect(&r, 0, NULL);
    r = job_run(&j, "convert", "run", "--to", "hf", "--out", "hf");
    job_expect(&r, 0, NULL);
    cr_assert_eq(json_integer_value(json_object_get(config(&j, "hf"),
                                                    "num_nextn_predict_layers")), 1);
    r = job_run(&j, "tune.ini");
    job_expect(&r, 0, NULL);
    cr_assert(strstr(job_read(job_path(&j, "tuned/log.jsonl")), "\"mtp_loss\":"));
    r = job_run(&j, "convert", "tuned", "--to", "hf", "--out", "back");
    job_expect(&r, 0, NULL);
    cr_assert_str_eq(score(&j, "tuned", NULL), score(&j, "--hf", "back"));
    r = job_run(&j, "score", "--hf", "back", "--ids", "1 2 3 4 5 6 7", "--grad", "a.st");
    job_expect(&r, 0, NULL);
    r = job_run(&j, "score", "--hf", "back", "--ids", "1 2 3 4 5 6 7", "--grad", "b.st", "--set",
                "model.deepseek_v3.mtp_loss=0");
    job_expect(&r, 0, NULL);

    mri_safetensors *before = open_folder(&j, "hf"), *after = open_folder(&j, "back"), *a, *b;
    mr_err err = MR_ERR_INIT;
    cr_assert_eq(mri_safetensors_open(job_path(&j, "a.st"), &a, &err), 0, "%s", err.what);
    cr_assert_eq(mri_safetensors_open(job_path(&j, "b.st"), &b, &err), 0, "%s", err.what);
    for (size_t i = 0; i < sizeof own / sizeof *own; i++) {
        char *name = mri_format("model.layers.2.%s", own[i]);
        cr_assert(!same(find(before, name), find(after, name)), "%s is not trained", name);
        cr_assert_eq(sum_of_squares(find(a, name)), 0, "%s", name);
        cr_assert_null(mri_safetensors_find(b, name), "%s", name);
    }
    for (size_t i = 0; i < mri_safetensors_count(b); i++) {
        const mri_tensor *t = mri_safetensors_at(b, i);
        cr_assert(same(t, find(a, t->name)), "%s", t->name);
    }
    job_free(&j);
}

Test(convert, dtypes_change_but_for_what_chooses_experts)
{
    job j = job_new();
    static float big = 1e6f;
    make_folder(&j, fixture("kimi"), "hf", NULL, 0);
    job_result r = job_run(&j, "convert", "hf", "--out", "half", "--dtype", "bf16");
    job_expect(&r, 0, NULL);
    mri_safetensors *f = open_folder(&j, "half");
    for (size_t i = 0; i < mri_safetensors_count(f); i++) {
        const mri_tensor *t = mri_safetensors_at(f, i);
        bool bias = strstr(t->name, "e_score_correction_bias");
        cr_assert_str_eq(t->type.dtype, bias ? "f32" : "bf16", "%s", t->name);
    }
    json_t *c = config(&j, "half");
    cr_assert_str_eq(json_string_value(json_object_get(c, "torch_dtype")), "bfloat16");
    cr_assert_str_eq(json_string_value(json_object_get(c, "dtype")), "bfloat16");
    r = job_run(&j, "convert", "half", "--out", "again", "--dtype", "fp32");
    job_expect(&r, 0, NULL);
    r = job_run(&j, "convert", "again", "--out", "f16", "--dtype", "fp16");
    job_expect(&r, 0, NULL);
    r = job_run(&j, "convert", "f16", "--out", "f32", "--dtype", "fp32");
    job_expect(&r, 0, NULL); /* bf16's 8 digits fit into half's 11, but for what underflows */
    mri_safetensors *a = open_folder(&j, "again"), *b = open_folder(&j, "f32");
    for (size_t i = 0; i < mri_safetensors_count(a); i++) {
        const mri_tensor *t = mri_safetensors_at(a, i);
        const float *x = t->data, *y = find(b, t->name)->data;
        for (int64_t k = 0; k < mr_numel(&t->type); k++)
            cr_assert(x[k] == y[k] || fabsf(x[k] - y[k]) <= 0x1p-25f, "%s: %g %g", t->name, x[k],
                      y[k]);
    }
    mri_tensor more = { "x", mr_type1("f32", 1), &big };
    make_folder(&j, fixture("kimi"), "large", &more, 1);
    r = job_run(&j, "convert", "large", "--out", "never", "--dtype", "fp16");
    JOB_EXPECT(&r, 2, "tensor x has the value 1e+06", "--dtype bf16");
    cr_assert(!there(&j, "never"), "a folder that failed half-way is not there");
    job_free(&j);
}

Test(convert, to_a_run_and_back)
{
    job j = job_new();
    make_folder(&j, fixture("kimi"), "hf", NULL, 0);
    job_result r = job_run(&j, "convert", "hf", "--to", "mrun", "--out", "run");
    job_expect(&r, 0, NULL);
    cr_assert_str_eq(score(&j, "run", NULL), score(&j, "--hf", "hf"));
    r = job_run(&j, "convert", "run", "--to", "hf", "--out", "back");
    job_expect(&r, 0, NULL);
    same_folder(&j, "hf", "back");
    r = job_run(&j, "convert", "run", "--to", "mrun", "--out", "twice");
    JOB_EXPECT(&r, 2, "a run of mrun's already");
    job_free(&j);
}

static bool quantised(const job *j, const char *dir)
{
    return json_object_get(config(j, dir), "quantization_config") != NULL;
}

/* Llama 4 with experts in fp8, a tensor each and transposed: as it is, as plain numbers, stacked as
 * transformers has them, and through a run of mrun's. */
Test(convert, transposed_and_quantised_experts_come_back_or_become_plain_and_stacked)
{
    job j = job_new();
    const char *gate = "model.layers.1.feed_forward.experts.2.gate_proj.weight";
    char *scale = mri_format("%s_scale", gate), *own, *dir = fixture("llama4-split");
    own = score(&j, "--hf", dir);
    job_result r = job_run(&j, "convert", dir, "--out", "same");
    job_expect(&r, 0, NULL);
    cr_assert_null(strstr(r.err, "does not compute"), "%s", r.err);
    same_folder(&j, dir, "same");
    cr_assert(quantised(&j, "same"));

    r = job_run(&j, "convert", dir, "--out", "plain", "--dtype", "fp32");
    job_expect(&r, 0, NULL);
    cr_assert(!quantised(&j, "plain"));
    cr_assert_str_eq(own, score(&j, "--hf", "plain"));
    mri_safetensors *f = open_folder(&j, "plain");
    for (size_t i = 0; i < mri_safetensors_count(f); i++)
        cr_assert_str_eq(mri_safetensors_at(f, i)->type.dtype, "f32");
    cr_assert_eq(find(f, "model.layers.1.feed_forward.experts.gate_up_proj")->type.dim[2], 40);
    cr_assert(!mri_safetensors_find(f, gate) && !mri_safetensors_find(f, scale),
              "plain weights are as transformers has them");

    r = job_run(&j, "convert", dir, "--to", "mrun", "--out", "run", "--dtype", "fp32");
    job_expect(&r, 0, NULL);
    cr_assert_str_eq(own, score(&j, "run", NULL));
    r = job_run(&j, "convert", "run", "--to", "hf", "--out", "back", "--dtype", "fp32");
    job_expect(&r, 0, NULL);
    same_folder(&j, "plain", "back");
    cr_assert(!quantised(&j, "back"));
    job_free(&j);
}

/* A copy of Llama 4's folder with the experts apart, their matrices transposed. */
static void split_experts(const job *j, const char *from, const char *to)
{
    mri_safetensors *f = open_folder(j, from);
    MRI_VEC(mri_tensor) t = { 0 };
    mr_err err = MR_ERR_INIT;
    for (size_t i = 0; i < mri_safetensors_count(f); i++) {
        const mri_tensor *x = mri_safetensors_at(f, i);
        const char *at = strstr(x->name, ".experts.");
        if (!at) {
            MRI_PUSH(&t, *x);
            continue;
        }
        static const char *const in[] = { "gate_proj", "up_proj" }, *const out[] = { "down_proj" };
        bool up = strstr(at, "gate_up_proj") != NULL;
        int64_t rows = x->type.dim[1], cols = x->type.dim[2], n = up ? cols / 2 : cols;
        for (int64_t e = 0; e < x->type.dim[0]; e++)
            for (int64_t k = 0; k < (up ? 2 : 1); k++) {
                float *w = mri_alloc((size_t)(n * rows) * sizeof *w);
                mri_turn(w, (const float *)x->data + e * rows * cols + k * n, n, rows, cols, 4);
                mri_tensor p = { mri_format("%.*s.experts.%lld.%s.weight", (int)(at - x->name),
                                            x->name, (long long)e, (up ? in : out)[k]),
                                 mr_type2("f32", n, rows), w };
                MRI_PUSH(&t, p);
            }
    }
    cr_assert_eq(mkdir(job_path(j, to), 0777), 0);
    cr_assert_eq(mri_safetensors_write(job_path(j, mri_format("%s/model.safetensors", to)), t.v,
                                       t.n, NULL, &err), 0, "%s", err.what);
    json_dump_file(config(j, from), job_path(j, mri_format("%s/config.json", to)), 0);
}

Test(convert, a_run_gives_transposed_experts_back_to_the_folder_that_has_them)
{
    job j = job_new();
    train(&j, "run", "1", "run.seed=7");
    job_result r = job_run(&j, "convert", "run", "--to", "hf", "--out", "whole");
    job_expect(&r, 0, NULL);
    find(open_folder(&j, "whole"), "model.layers.1.feed_forward.experts.gate_up_proj");
    split_experts(&j, "whole", "hf");
    cr_assert_str_eq(score(&j, "--hf", "whole"), score(&j, "--hf", "hf"));
    job_write(job_path(&j, "tune.ini"), from_hf, sizeof from_hf - 1);
    r = job_run(&j, "tune.ini");
    job_expect(&r, 0, NULL);
    r = job_run(&j, "convert", "tuned", "--to", "hf", "--out", "back");
    job_expect(&r, 0, NULL);
    mri_safetensors *a = open_folder(&j, "hf"), *b = open_folder(&j, "back");
    cr_assert_eq(mri_safetensors_count(a), mri_safetensors_count(b));
    find(b, "model.layers.1.feed_forward.experts.2.down_proj.weight");
    cr_assert_str_eq(score(&j, "tuned", NULL), score(&j, "--hf", "back"));
    r = job_run(&j, "score", "--hf", "back", "--ids", "1 2 3 4 5", "--grad", "g.st");
    job_expect(&r, 0, NULL);
    mri_safetensors *g;
    mr_err err = MR_ERR_INIT;
    cr_assert_eq(mri_safetensors_open(job_path(&j, "g.st"), &g, &err), 0);
    for (size_t i = 0; i < mri_safetensors_count(b); i++) {
        const mri_tensor *w = mri_safetensors_at(b, i);
        cr_assert(mr_same_type(&find(g, w->name)->type, &w->type), "%s", w->name);
    }
    job_free(&j);
}

/* Codes of another name than the weight's, of a parameter and of a module without blocks. */
Test(convert, packed_weights_become_numbers_of_the_weights_name)
{
    static const char scheme[] =
        "{\"quant_method\": \"compressed-tensors\", \"format\": \"pack-quantized\", "
        "\"config_groups\": {\"g\": {\"targets\": [\"Linear\"], \"weights\": {\"num_bits\": 4, "
        "\"type\": \"int\", \"strategy\": \"group\", \"group_size\": 12, \"symmetric\": true}}}}";
    static const char *const of[] = { "model.layers.0.mlp.down_proj.weight", "other.weight" };
    static uint32_t codes[24 * 5];
    static float scales[24 * 3];
    static const int64_t shape[2] = { 24, 36 };
    job j = job_new();
    MRI_VEC(mri_tensor) t = { 0 };
    mri_safetensors *f = open_folder(&j, fixture("kimi"));
    mr_err err = MR_ERR_INIT;
    for (int i = 0; i < 24 * 5; i++)
        codes[i] = 0xdcba9876; /* from -2 to 5 */
    for (int i = 0; i < 24 * 3; i++)
        scales[i] = 0.5f + (float)i;
    for (size_t i = 0; i < mri_safetensors_count(f); i++)
        if (strcmp(mri_safetensors_at(f, i)->name, of[0]))
            MRI_PUSH(&t, *mri_safetensors_at(f, i));
    for (int i = 0; i < 2; i++) {
        mri_tensor parts[] = {
            { mri_format("%s_packed", of[i]), mr_type2("i32", 24, 5), codes },
            { mri_format("%s_scale", of[i]), mr_type2("f32", 24, 3), scales },
            { mri_format("%s_shape", of[i]), mr_type1("i64", 2), shape },
        };
        for (int k = 0; k < 3; k++)
            MRI_PUSH(&t, parts[k]);
    }
    cr_assert_eq(mkdir(job_path(&j, "hf"), 0777), 0);
    cr_assert_eq(mri_safetensors_write(job_path(&j, "hf/model.safetensors"), t.v, t.n, NULL, &err),
                 0, "%s", err.what);
    json_t *o = json_load_file(mri_format("%s/config.json", fixture("kimi")), 0, NULL);
    json_object_set_new(o, "quantization_config", json_loads(scheme, 0, NULL));
    json_dump_file(o, job_path(&j, "hf/config.json"), 0);

    job_result r = job_run(&j, "convert", "hf", "--out", "same");
    JOB_EXPECT(&r, 0, "1 tensors that the family does not", "other.weight");
    same_folder(&j, "hf", "same");
    r = job_run(&j, "convert", "hf", "--out", "plain", "--dtype", "fp32");
    job_expect(&r, 0, NULL);
    mri_safetensors *plain = open_folder(&j, "plain");
    cr_assert_eq(mri_safetensors_count(plain), mri_safetensors_count(f) + 1);
    for (int i = 0; i < 2; i++) {
        const mri_tensor *w = find(plain, of[i]);
        const float *x = w->data;
        cr_assert(w->type.dim[0] == 24 && w->type.dim[1] == 36 && mr_is(&w->type, "f32"));
        for (int k = 0; k < 24 * 36; k++)
            cr_assert_eq(x[k], (float)(k % 36 % 8 - 2) * scales[k / 36 * 3 + k % 36 / 12]);
    }
    cr_assert(!quantised(&j, "plain"));
    cr_assert_str_eq(score(&j, "--hf", "hf"), score(&j, "--hf", "plain"));
    job_free(&j);
}

Test(convert, refuses_what_it_cannot_do_and_leaves_nothing)
{
    job j = job_new();
    make_folder(&j, fixture("kimi"), "hf", NULL, 0);
    cr_assert_eq(mkdir(job_path(&j, "full"), 0777) | mkdir(job_path(&j, "empty"), 0777), 0);
    job_write(job_path(&j, "full/letter.txt"), "dear", 4);
    job_result r = job_run(&j, "convert", "hf", "--out", "full");
    JOB_EXPECT(&r, 2, "full exists already", "--force");
    r = job_run(&j, "convert", "hf", "--out", "full", "--force");
    JOB_EXPECT(&r, 2, "is no model folder");
    cr_assert(there(&j, "full/letter.txt"));
    r = job_run(&j, "convert", "hf", "--out", "empty");
    job_expect(&r, 0, NULL);
    r = job_run(&j, "convert", "hf", "--out", "empty", "--dtype", "bf16", "--force");
    job_expect(&r, 0, NULL);
    cr_assert_str_eq(find(open_folder(&j, "empty"), "lm_head.weight")->type.dtype, "bf16");

    static const char *const sizes[] = { "0", "-1", "5 apples", "GB", "99999999999999999TB" };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        r = job_run(&j, "convert", "hf", "--out", "x", "--max-shard-size", sizes[i]);
        JOB_EXPECT(&r, 2, "is no size");
    }
    r = job_run(&j, "convert", "hf", "--to", "gguf", "--out", "x");
    JOB_EXPECT(&r, 2, "gguf");
    r = job_run(&j, "convert", "hf");
    JOB_EXPECT(&r, 2, "--out DIR");

    mri_safetensors *f = open_folder(&j, "hf");
    mri_tensor *t = mri_alloc(mri_safetensors_count(f) * sizeof *t);
    size_t n = 0;
    for (size_t i = 0; i < mri_safetensors_count(f); i++) {
        const mri_tensor *x = mri_safetensors_at(f, i);
        if (!strstr(x->name, "experts.3.") && strcmp(x->name, "model.norm.weight"))
            t[n++] = *x;
    }
    mr_err err = MR_ERR_INIT;
    cr_assert_eq(mri_safetensors_write(job_path(&j, "hf/new"), t, n, NULL, &err), 0);
    cr_assert_eq(rename(job_path(&j, "hf/new"), job_path(&j, "hf/model.safetensors")), 0);
    static const char *const to[] = { "hf", "mrun" };
    for (int i = 0; i < 2; i++) {
        r = job_run(&j, "convert", "hf", "--out", "x", "--to", to[i]);
        JOB_EXPECT(&r, 2, "lacks 4 of the tensors", "model.norm.weight", "experts.3.down_proj");
    }
    cr_assert(!there(&j, "x"));
    r = job_run(&j, "convert", "p.ini", "--out", "x", "--set", "run.dir=none");
    JOB_EXPECT(&r, 2, "there is no checkpoint");
    job_free(&j);
}
