/* SPDX-License-Identifier: Apache-2.0
 *
 * The commands on one small trained model say the same thing: score and validation, greedy
 * generation and the argmax of scores, two backends, gradients and finite differences.
 */
#include "job.h"
#include <math.h>

static void train(const job *j, const char *more)
{
    job_result r = job_run(j, "p.ini", "--set", "run.dir=run", "--set", more);
    job_expect(&r, 0, NULL);
}

/* the last value of `key` in the run's log */
static double logged(const job *j, const char *key)
{
    char *text = job_read(job_path(j, "run/log.jsonl")), *at = NULL;
    char *word = mri_format("\"%s\":", key);
    for (char *p = text; (p = strstr(p, word)); p++)
        at = p;
    cr_assert_not_null(at, "no %s in:\n%s", key, text);
    return atof(at + strlen(word));
}

/* The log's val_loss is the mean of what `mrun score` says about the same windows. */
Test(commands, score_gives_the_nll_of_validation)
{
    enum { SEQ = 16, WINDOWS = 6, SPLIT = 18000 };
    job j = job_new();
    mri_str lines = { 0 };
    double sum = 0;
    int n = 0;
    train(&j, "train.eval_every=40");
    double whole = logged(&j, "val_loss");
    job_result r = job_run(&j, "p.ini", "--set", "run.dir=again", "--set", "train.eval_every=40",
                           "--set", "train.eval_steps=3");
    job_expect(&r, 0, NULL);
    char *again = job_path(&j, "again"), *run = job_path(&j, "run");
    cr_assert_eq(rename(run, job_path(&j, "first")) | rename(again, run), 0);
    double three = logged(&j, "val_loss");
    cr_assert_neq(whole, three, "validating 3 micro-batches of 125 gives the whole set's loss");

    char *text = job_text(20000);
    for (int w = 0; w < WINDOWS; w++) {
        mri_str_add(&lines, "{\"ids\":[");
        for (int i = 0; i <= SEQ; i++)
            mri_str_fmt(&lines, "%s%d", i ? "," : "", text[SPLIT + w * SEQ + i]);
        mri_str_add(&lines, "]}\n");
    }
    job_write(job_path(&j, "valid.jsonl"), lines.s, lines.n);
    r = job_run(&j, "score", "first", "--jsonl", "valid.jsonl");
    job_expect(&r, 0, NULL);
    for (char *line = strtok(r.out, "\n"); line; line = strtok(NULL, "\n")) {
        json_t *o = json_loads(line, 0, NULL), *p = json_object_get(o, "logprobs");
        double own = 0;
        cr_assert_eq(json_array_size(p), SEQ);
        for (size_t i = 0; i < SEQ; i++)
            own += json_number_value(json_array_get(p, i));
        cr_assert_float_eq(own, json_number_value(json_object_get(o, "sum")), 1e-4);
        sum -= own;
        n += SEQ;
        json_decref(o);
    }
    cr_assert_eq(n, WINDOWS * SEQ);
    cr_assert_float_eq(sum / n, three, 2e-6 * three, "score %.9g, validation %.9g", sum / n, three);
    job_free(&j);
}

/* Backends and precisions validate alike after the same few steps. */
Test(commands, validation_agrees_between_backends_and_precisions)
{
    static const char *const how[][2] = { { "precision.recipe=fp32", "backend.plugin=cpu" },
                                          { "precision.recipe=fp32", "backend.plugin=ref" },
                                          { "precision.recipe=bf16", "backend.plugin=cpu" } };
    static const double within[] = { 0, 1e-5, 1e-2 };
    job j = job_new();
    double loss[3];
    for (int i = 0; i < 3; i++) {
        job_result r = job_run(&j, "p.ini", "--set", "run.dir=run", "--set", how[i][0], "--set",
                               how[i][1], "--set", "train.steps=3", "--set", "train.eval_every=3",
                               "--set", "train.eval_steps=4");
        job_expect(&r, 0, NULL);
        loss[i] = logged(&j, "val_loss");
        cr_assert_eq(rename(job_path(&j, "run"), mri_format("%s/done%d", j.dir, i)), 0);
        cr_assert(loss[i] > 1 && fabs(loss[i] - loss[0]) <= within[i] * loss[0],
                  "%s, %s: %.9g, not %.9g", how[i][0], how[i][1], loss[i], loss[0]);
    }
    job_free(&j);
}

/* Text from the cache, token by token, is the argmax of one forward over that text; the prompt
 * is longer than the prefill's chunk of 64 and both cross chunks of attention. */
Test(commands, greedy_generation_is_the_argmax_of_scores)
{
    enum { NEW = 60 };
    job j = job_new();
    char *prompt = job_text(150);
    train(&j, "train.steps=60");
    job_result r = job_run(&j, "generate", "run", "--prompt", prompt, "--max-tokens", "60",
                           "--temperature", "0");
    job_expect(&r, 0, NULL);
    size_t n = strlen(r.out);
    cr_assert_gt(n, NEW, "generated: %s", r.out);
    r.out[n - 1] = 0; /* the newline that ends it */
    char *made = r.out + n - 1 - NEW, *all = mri_format("%s%s", prompt, made);
    r = job_run(&j, "score", "run", "--text", all, "--logits", "l.safetensors");
    job_expect(&r, 0, NULL);
    mri_safetensors *f;
    mr_err err = MR_ERR_INIT;
    cr_assert_eq(mri_safetensors_open(job_path(&j, "l.safetensors"), &f, &err), 0, "%s", err.what);
    const mri_tensor *t = mri_safetensors_find(f, "logits");
    cr_assert(t && t->type.dim[0] == 150 + NEW && t->type.dim[1] == 256);
    for (int i = 0; i < NEW; i++) {
        const float *row = (const float *)t->data + (150 + i - 1) * 256;
        int best = 0;
        for (int v = 1; v < 256; v++)
            best = row[v] > row[best] ? v : best;
        cr_assert(best == (unsigned char)made[i] ||
                      row[best] - row[(unsigned char)made[i]] < 1e-4,
                  "token %d is %d, the argmax %d", i, made[i], best);
    }
    mri_safetensors_close(f);
    job_free(&j);
}

Test(commands, sampling_repeats_with_its_seed)
{
    static const char *const how[][2] = { { "--top-k", "5" }, { "--top-p", "0.8" },
                                          { "--temperature", "0.7" } };
    job j = job_new();
    train(&j, "train.steps=60");
    for (size_t i = 0; i < 3; i++) {
        char *text[3];
        const char *const seeds[3] = { "11", "11", "12" };
        for (int k = 0; k < 3; k++) {
            job_result r = job_run(&j, "generate", "run", "--prompt", "the ", "--max-tokens", "80",
                                   how[i][0], how[i][1], "--seed", seeds[k]);
            job_expect(&r, 0, NULL);
            text[k] = r.out;
        }
        cr_assert_str_eq(text[0], text[1], "%s", how[i][0]);
        cr_assert_str_neq(text[0], text[2], "%s: another seed gives the same text", how[i][0]);
    }
    job_result greedy = job_run(&j, "generate", "run", "--prompt", "the ", "--max-tokens", "40",
                                "--temperature", "0");
    job_result one = job_run(&j, "generate", "run", "--prompt", "the ", "--max-tokens", "40",
                             "--top-k", "1", "--seed", "3");
    cr_assert_str_eq(greedy.out, one.out, "top-k 1 is greedy");
    job_free(&j);
}

/* `mrun plan` and the run agree on the bytes and on the flops, whatever the profile asks for. */
Test(commands, plan_predicts_what_the_run_reports)
{
    static const char *const sets[] = { "train.log_every=1", "optimizer.plugin=sgd",
                                        "train.recompute=full", "train.sample_prompt=the cat",
                                        "optimizer.groups=model.layers.0.*:frozen" };
    job j = job_new();
    for (size_t i = 0; i < sizeof sets / sizeof *sets; i++) {
        char *name = mri_format("run%zu", i), *dir = mri_format("run.dir=%s", name), *at;
        unsigned long long predicted = 0;
        job_result r = job_run(&j, "plan", "p.ini", "--set", sets[i], "--set",
                               "train.sample_tokens=400");
        job_expect(&r, 0, NULL);
        at = strstr(r.out, "predicted peak");
        cr_assert(at && sscanf(at, "predicted peak %llu", &predicted) == 1, "%s", r.out);
        r = job_run(&j, "p.ini", "--set", dir, "--set", sets[i], "--set", "train.sample_tokens=400",
                    "--set", "train.steps=2");
        job_expect(&r, 0, NULL);
        at = strstr(job_read(mri_format("%s/%s/log.jsonl", j.dir, name)), "\"memory_bytes\":");
        cr_assert_not_null(at);
        cr_assert_eq(strtoull(at + strlen("\"memory_bytes\":"), NULL, 10), predicted, "%s: %s, "
                     "predicted %llu", sets[i], at, predicted);
    }
    job_free(&j);
}

/* Recomputation is not the model's work: flops a token do not grow by it. */
Test(commands, plan_counts_the_model_s_flops_alone)
{
    job j = job_new();
    job_result a = job_run(&j, "plan", "p.ini");
    job_result b = job_run(&j, "plan", "p.ini", "--set", "train.recompute=full");
    char *x = strstr(a.out, "model flops:"), *y = strstr(b.out, "model flops:");
    cr_assert(x && y, "%s%s", a.out, b.out);
    cr_assert_eq(strncmp(x, y, strcspn(x, "\n")), 0, "%.40s and %.40s", x, y);
    job_free(&j);
}

Test(commands, grad_check_agrees_and_can_disagree)
{
    job j = job_new();
    job_result r = job_run(&j, "grad-check", "p.ini", "--samples", "2", "--set",
                           "train.micro_batch=1", "--set", "train.global_batch=1");
    job_expect(&r, 0, NULL);
    cr_assert_not_null(strstr(r.out, "derivatives agree"), "%s", r.out);
    r = job_run(&j, "grad-check", "p.ini", "--samples", "1", "--tolerance", "1e-15", "--set",
                "train.micro_batch=1", "--set", "train.global_batch=1");
    cr_assert_eq(r.code, 1, "%s", r.err);
    cr_assert_not_null(strstr(r.out, "WRONG"));
    job_free(&j);
}

Test(commands, diff_agrees_and_names_the_first_op_that_does_not)
{
    job j = job_new();
    static const char ref[] = "include = p.ini\n[backend]\nplugin = ref\n";
    static const char split[] = "include = p.ini\n[train]\nsplit_weight_gradient = true\n";
    job_write(job_path(&j, "ref.ini"), ref, sizeof ref - 1);
    job_write(job_path(&j, "split.ini"), split, sizeof split - 1);
    job_result r = job_run(&j, "diff", "p.ini", "ref.ini", "--tolerance", "1e-4", "--steps", "2");
    job_expect(&r, 0, NULL);
    cr_assert_not_null(strstr(r.out, "op outputs agree within"), "%s", r.out);
    long ops = atol(r.out);
    r = job_run(&j, "diff", "p.ini", "ref.ini", "--tolerance", "1e-12");
    JOB_EXPECT(&r, 1, "error E0506", " of op ", "block ", "differs by");
    r = job_run(&j, "diff", "split.ini", "split.ini", "--steps", "2");
    job_expect(&r, 0, NULL);
    cr_assert_eq(atol(r.out), ops, "weight gradients in a phase of their own are compared too: %s",
                 r.out);
    job_free(&j);
}
