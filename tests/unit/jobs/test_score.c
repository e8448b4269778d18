/* SPDX-License-Identifier: Apache-2.0
 *
 * `mrun score` against the fixtures that transformers made: logits and gradients of several
 * sequences, under the names and in the layout of the folder; without router losses; and what it
 * says of input that makes no sense.
 */
#include "job.h"
#include <math.h>

static mri_safetensors *open_file(const char *path)
{
    mri_safetensors *f;
    mr_err err = MR_ERR_INIT;
    cr_assert_eq(mri_safetensors_open(path, &f, &err), 0, "%s", err.what);
    return f;
}

static const mri_tensor *find(const mri_safetensors *f, const char *name)
{
    const mri_tensor *t = mri_safetensors_find(f, name);
    cr_assert_not_null(t, "no tensor %s", name);
    return t;
}

static double largest(const float *x, int64_t n)
{
    double m = 0;
    for (int64_t i = 0; i < n; i++)
        m = fmax(m, fabs(x[i]));
    return m;
}

static void near(const char *name, const float *got, const float *want, int64_t n, double scale)
{
    for (int64_t i = 0; i < n; i++)
        cr_assert(fabs(got[i] - want[i]) <= 1e-5 * scale, "%s[%lld] is %.9g, expected %.9g", name,
                  (long long)i, got[i], want[i]);
}

/* The expected gradient of a tensor of the folder: its own, or a stretch of its expert's. */
static const float *expected(const mri_safetensors *f, const mri_tensor *t)
{
    char *name = mri_format("grad.%s", t->name), *dot = strstr(name, ".experts.");
    const mri_tensor *whole = mri_safetensors_find(f, name);
    if (whole)
        return whole->data;
    cr_assert_not_null(dot, "no %s", name);
    int e = atoi(dot + 9);
    bool down = strstr(dot, "down_proj") != NULL, up = strstr(dot, "up_proj.weight") != NULL;
    snprintf(dot + 9, strlen(dot + 9) + 1, "%s", down ? "down_proj" : "gate_up_proj");
    whole = find(f, name);
    int64_t one = mr_numel(&t->type);
    return (const float *)whole->data + (down ? e : 2 * e + up) * one;
}

static void fixture(const char *name)
{
    job j = job_new();
    char *dir = mri_format("%s/tests/parity/fixtures/%s", getenv("MRUN_SOURCE"), name);
    mri_safetensors *want = open_file(mri_format("%s/expect.safetensors", dir));
    const mri_tensor *ids = find(want, "ids"), *logits = find(want, "logits");
    const int32_t *id = ids->data, *target = find(want, "targets")->data;
    int64_t n = ids->type.dim[0], vocab = logits->type.dim[1], sequences = 0, predicted = 0;
    mri_str lines = { 0 };
    for (int64_t i = 0; i < n; i++) {
        mri_str_fmt(&lines, "%s%d", i && target[i - 1] >= 0 ? "," : "{\"ids\":[", id[i]);
        mri_str_add(&lines, target[i] < 0 ? "]}\n\n" : "");
        sequences += target[i] < 0;
        predicted += target[i] >= 0;
    }
    job_write(job_path(&j, "in.jsonl"), lines.s, lines.n);
    job_result r = job_run(&j, "score", "--hf", dir, "--jsonl", "in.jsonl", "--logits", "l.st",
                           "--grad", "g.st");
    job_expect(&r, 0, NULL);

    mri_safetensors *l = open_file(job_path(&j, "l.st")), *g = open_file(job_path(&j, "g.st"));
    cr_assert_eq(mri_safetensors_count(l), sequences);
    int64_t at = 0;
    double sum = 0, all = 0;
    for (int64_t s = 0; s < sequences; s++) {
        const mri_tensor *t = find(l, mri_format("logits.%lld", (long long)s));
        near(t->name, t->data, (const float *)logits->data + at, mr_numel(&t->type),
             largest(logits->data, n * vocab));
        at += mr_numel(&t->type);
    }
    cr_assert_eq(at, n * vocab);
    for (char *line = strtok(r.out, "\n"); line; line = strtok(NULL, "\n"))
        sum += atof(strstr(line, "\"sum\":") + 6);
    cr_assert_float_eq(-sum / (double)predicted, *(const float *)find(want, "loss")->data, 1e-5);

    for (size_t i = 0; i < mri_safetensors_count(g); i++) {
        const mri_tensor *t = mri_safetensors_at(g, i);
        all = fmax(all, largest(expected(want, t), mr_numel(&t->type)));
    }
    mri_safetensors *folder;
    mr_err err = MR_ERR_INIT;
    cr_assert_eq(mri_safetensors_open_folder(dir, &folder, &err), 0, "%s", err.what);
    size_t trained = 0;
    for (size_t i = 0; i < mri_safetensors_count(folder); i++) {
        const mri_tensor *w = mri_safetensors_at(folder, i);
        if (strstr(w->name, "e_score_correction_bias")) /* a buffer */
            continue;
        const mri_tensor *t = find(g, w->name);
        cr_assert(mr_same_type(&t->type, &w->type), "%s has the folder's layout", t->name);
        const float *x = expected(want, t);
        double own = largest(x, mr_numel(&t->type));
        near(t->name, t->data, x, mr_numel(&t->type), own < 1e-9 * all ? all : own);
        trained++;
    }
    cr_assert_eq(mri_safetensors_count(g), trained);
    job_free(&j);
}

Test(score, llama4_gradients_are_those_of_transformers)
{
    fixture("llama4-scout");
}

Test(score, kimi_gradients_come_expert_by_expert)
{
    fixture("kimi");
}

/* A run with router losses, and frozen tensors: the gradient is that of the text's loss alone. */
Test(score, gradients_leave_router_losses_out_and_no_tensor)
{
    job j = job_new();
    job_result r = job_run(&j, "p.ini", "--set", "run.dir=run", "--set", "train.steps=3", "--set",
                           "optimizer.groups=lm_head.*:frozen");
    job_expect(&r, 0, NULL);
    r = job_run(&j, "score", "run", "--text", "the cat sat on a mat", "--grad", "a.st");
    job_expect(&r, 0, NULL);
    r = job_run(&j, "score", "run", "--text", "the cat sat on a mat", "--grad", "b.st", "--set",
                "model.llama4.aux_loss=0", "--set", "model.llama4.z_loss=0");
    job_expect(&r, 0, NULL);
    mri_safetensors *a = open_file(job_path(&j, "a.st")), *b = open_file(job_path(&j, "b.st"));
    find(a, "lm_head.weight");
    cr_assert_eq(mri_safetensors_count(a), mri_safetensors_count(b));
    for (size_t i = 0; i < mri_safetensors_count(a); i++) {
        const mri_tensor *t = mri_safetensors_at(a, i);
        cr_assert_arr_eq(t->data, find(b, t->name)->data, mr_bytes(&t->type), "%s", t->name);
        cr_assert_gt(largest(t->data, mr_numel(&t->type)), 0, "%s", t->name);
    }
    job_free(&j);
}

Test(score, texts_begin_with_the_tokenizers_own_id_unless_told_otherwise)
{
    job j = job_new();
    const char *bos = "tokenizer.bytes.bos=true", *vocab = "model.vocab=257";
    job_result r = job_run(&j, "p.ini", "--set", "run.dir=run", "--set", "train.steps=1", "--set",
                           bos, "--set", vocab);
    job_expect(&r, 0, NULL);
    r = job_run(&j, "score", "run", "--text", "ab");
    cr_assert(strstr(r.out, "\"ids\":[256,97,98]"), "%s%s", r.out, r.err);
    r = job_run(&j, "score", "run", "--text", "ab", "--no-special");
    cr_assert(strstr(r.out, "\"ids\":[97,98]"), "%s%s", r.out, r.err);
    r = job_run(&j, "score", "run", "--ids", "97, 98");
    cr_assert(strstr(r.out, "\"ids\":[97,98]"), "%s%s", r.out, r.err);
    job_free(&j);
}

Test(score, says_what_is_wrong_with_its_input)
{
    job j = job_new();
    char *dir = mri_format("%s/tests/parity/fixtures/llama4-tied", getenv("MRUN_SOURCE"));
    static const struct {
        const char *line, *says;
    } bad[] = {
        { "{\"ids\":[1,50]}", "bad.jsonl:2: id 50 at position 1, the vocabulary has 50" },
        { "{\"ids\":[]}", "bad.jsonl:2: the sequence is empty" },
        { "{\"ids\":[1,2.5]}", "bad.jsonl:2: ids[1] is no whole number" },
        { "{\"ids\":[-1]}", "bad.jsonl:2: ids[0] is no whole number" },
        { "{\"ids\":[1],\"text\":\"a\"}", "both \"ids\" and \"text\"" },
        { "{\"id\":[1]}", "no object with an array \"ids\"" },
        { "[1]", "no object with an array \"ids\"" },
        { "{\"ids\":[1}", "bad.jsonl:2: " },
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char *text = mri_format("{\"ids\":[1,2]}\n%s\n", bad[i].line);
        job_write(job_path(&j, "bad.jsonl"), text, strlen(text));
        job_result r = job_run(&j, "score", "--hf", dir, "--jsonl", "bad.jsonl");
        JOB_EXPECT(&r, 2, bad[i].says);
        cr_assert_eq(*r.out, 0, "%s", r.out);
    }
    static const struct {
        const char *ids, *says;
    } odd[] = { { "", "--ids: the sequence is empty" },
                { "1 x", "--ids: 'x' is no token id" },
                { "1 2x", "--ids: '2x' is no token id" },
                { "99999999999999999999", "is no token id" },
                { "1 50", "--ids: id 50 at position 1" } };
    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) {
        job_result r = job_run(&j, "score", "--hf", dir, "--ids", odd[i].ids);
        JOB_EXPECT(&r, 2, odd[i].says);
    }
    job_result r = job_run(&j, "score", "--hf", dir, "--ids", "1 2 3 4 5", "--set",
                           "model.max_positions=4");
    JOB_EXPECT(&r, 2, "5 tokens, the model's context has 4 positions", "model.max_positions=5");
    r = job_run(&j, "score", "--hf", dir, "--ids", "7", "--grad", "g.st");
    JOB_EXPECT(&r, 2, "predict nothing");
    job_free(&j);
}
