/* SPDX-License-Identifier: Apache-2.0
 *
 * `mrun generate` on a small trained model of bytes: a batch says what single runs say, answers end
 * where they are told to, chats are what their template makes of them, and a folder's
 * generation_config.json holds until someone says otherwise.
 */
#include "job.h"
#include <math.h>

static job trained(void)
{
    job j = job_new();
    job_result r = job_run(&j, "p.ini", "--set", "run.dir=run", "--set", "train.steps=30");
    job_expect(&r, 0, NULL);
    return j;
}

static json_t *line_of(const char *out, size_t at) /* the at-th line of JSON */
{
    for (; at; at--)
        out = strchr(out, '\n') + 1;
    json_t *o = json_loadb(out, strcspn(out, "\n"), JSON_ALLOW_NUL, NULL);
    cr_assert_not_null(o, "no JSON: %s", out);
    return o;
}

static const char *text_of(const json_t *o)
{
    return json_string_value(json_object_get(o, "text"));
}

static void is_reason(const json_t *o, const char *reason)
{
    cr_assert_str_eq(json_string_value(json_object_get(o, "finish_reason")), reason);
}

Test(generate, a_batch_says_what_single_runs_say)
{
    static const char *const prompts[] = { "the ", "cat sat on a mat, and then it ", "s" };
    static const char *const how[][2] = { { "--temperature", "0" }, { "--top-p", "0.9" },
                                          { "--repetition-penalty", "1.2" } };
    job j = trained();
    mri_str lines = { 0 };
    for (int i = 0; i < 3; i++)
        mri_str_fmt(&lines, "{\"prompt\": \"%s\"}\n%s", prompts[i], i == 1 ? "\n" : "");
    mri_str_add(&lines, "{\"ids\": [116, 104, 101, 32]}\n");
    job_write(job_path(&j, "in.jsonl"), lines.s, lines.n);
    for (int h = 0; h < 3; h++) {
        job_result all = job_run(&j, "generate", "run", "--jsonl", "in.jsonl", "--max-tokens", "40",
                                 how[h][0], how[h][1], "--seed", "5", "--batch", "2");
        job_expect(&all, 0, NULL);
        for (size_t i = 0; i < 4; i++) {
            json_t *o = line_of(all.out, i);
            job_result one = job_run(&j, "generate", "run", "--prompt", prompts[i % 3],
                                     "--max-tokens", "40", how[h][0], how[h][1], "--seed", "5",
                                     "--json");
            cr_assert(json_equal(o, line_of(one.out, 0)), "%s, prompt %zu: %s\nnot %s",
                      how[h][0], i, all.out, one.out);
            cr_assert_eq(json_array_size(json_object_get(o, "ids")), 40);
            is_reason(o, "length");
            json_decref(o);
        }
    }
    job_free(&j);
}

Test(generate, answers_end_where_they_are_told_to)
{
    job j = trained();
    job_result r = job_run(&j, "generate", "run", "--prompt", "the ", "--max-tokens", "60",
                           "--temperature", "0", "--json");
    json_t *whole = line_of(r.out, 0);
    const char *text = text_of(whole);
    char word[4] = { text[20], text[21], text[22], 0 }, id[8];
    size_t at = (size_t)(strstr(text, word) - text);
    snprintf(id, sizeof id, "%d", text[30]);
    size_t at_id = strcspn(text, (char[]){ text[30], 0 });

    /* a byte is a token: the word lies across three */
    r = job_run(&j, "generate", "run", "--prompt", "the ", "--max-tokens", "60", "--temperature",
                "0", "--stop", word, "--stop", "never there");
    char *want = mri_format("the %.*s\n", (int)at, text);
    cr_assert_str_eq(r.out, want);
    r = job_run(&j, "generate", "run", "--prompt", "the ", "--max-tokens", "60", "--temperature",
                "0", "--stop", word, "--json");
    json_t *o = line_of(r.out, 0);
    is_reason(o, "stop");
    cr_assert_str_eq(json_string_value(json_object_get(o, "stop")), word);
    cr_assert_eq(json_array_size(json_object_get(o, "ids")), at + 3, "those of the word are drawn");
    r = job_run(&j, "generate", "run", "--prompt", "the ", "--max-tokens", "60", "--temperature",
                "0", "--stop-id", id, "--stop-id", "255", "--json");
    o = line_of(r.out, 0);
    is_reason(o, "stop");
    cr_assert_eq(strlen(text_of(o)), at_id);
    cr_assert_eq(json_array_size(json_object_get(o, "ids")), at_id + 1);
    /* not before so many tokens: neither by a word nor by an id */
    r = job_run(&j, "generate", "run", "--prompt", "the ", "--max-tokens", "60", "--temperature",
                "0", "--stop", word, "--min-tokens", "50", "--json");
    o = line_of(r.out, 0);
    cr_assert_geq(json_array_size(json_object_get(o, "ids")), 50);
    cr_assert_eq(strncmp(text_of(o), text, 49), 0);
    r = job_run(&j, "generate", "run", "--prompt", "the ", "--max-tokens", "60", "--temperature",
                "0", "--stop-id", id, "--min-tokens", "50", "--json");
    o = line_of(r.out, 0);
    cr_assert_geq(json_array_size(json_object_get(o, "ids")), 50);
    cr_assert(!memchr(text_of(o), text[30], 50), "the banned id is drawn");
    job_free(&j);
}

Test(generate, log_probabilities_are_those_of_score)
{
    job j = trained();
    job_result r = job_run(&j, "generate", "run", "--prompt", "the ", "--max-tokens", "12",
                           "--logprobs", "3", "--seed", "4");
    json_t *o = line_of(r.out, 0), *p = json_object_get(o, "logprobs");
    json_t *top = json_object_get(o, "top_logprobs");
    mri_str all = { 0 };
    mri_str_add(&all, "116 104 101 32");
    for (size_t i = 0; i < 12; i++)
        mri_str_fmt(&all, " %d", (int)json_integer_value(
                                     json_array_get(json_object_get(o, "ids"), i)));
    r = job_run(&j, "score", "run", "--ids", all.s);
    json_t *scored = json_object_get(line_of(r.out, 0), "logprobs");
    cr_assert_eq(json_array_size(p), 12);
    for (size_t i = 0; i < 12; i++) {
        double x = json_number_value(json_array_get(p, i));
        json_t *row = json_array_get(top, i);
        cr_assert_float_eq(x, json_number_value(json_array_get(scored, 3 + i)), 1e-4);
        cr_assert_eq(json_array_size(row), 3);
        for (size_t k = 1; k < 3; k++)
            cr_assert_geq(json_number_value(json_array_get(json_array_get(row, k - 1), 1)),
                          json_number_value(json_array_get(json_array_get(row, k), 1)));
        cr_assert_leq(x, json_number_value(json_array_get(json_array_get(row, 0), 1)));
    }
    job_free(&j);
}

Test(generate, several_answers_have_seeds_of_their_own)
{
    job j = trained();
    job_result r = job_run(&j, "generate", "run", "--prompt", "the ", "--max-tokens", "30", "--n",
                           "3", "--seed", "8", "--json");
    job_result ids = job_run(&j, "generate", "run", "--ids", "116 104,101 32", "--max-tokens", "30",
                             "--seed", "8");
    json_t *answer[3];
    for (size_t i = 0; i < 3; i++) {
        json_t *o = line_of(r.out, i);
        char *seed = mri_format("%zu", 8 + i);
        job_result one = job_run(&j, "generate", "run", "--prompt", "the ", "--max-tokens", "30",
                                 "--seed", seed, "--json");
        answer[i] = json_object_get(o, "ids");
        cr_assert(json_equal(answer[i], json_object_get(line_of(one.out, 0), "ids")));
        cr_assert_eq(json_integer_value(json_object_get(o, "sample")), (json_int_t)i);
    }
    cr_assert(!json_equal(answer[0], answer[1]) && !json_equal(answer[1], answer[2]));
    mri_str want = { 0 }; /* ids come as ids */
    for (size_t i = 0; i < 30; i++)
        mri_str_fmt(&want, "%s%d", i ? " " : "",
                    (int)json_integer_value(json_array_get(answer[0], i)));
    cr_assert_str_eq(ids.out, mri_format("%s\n", want.s));
    job_free(&j);
}

Test(generate, a_chat_is_what_its_template_makes_of_it)
{
    static const char template[] =
        "{% for m in messages %}{{ m.role[0] }}: {{ m.content }}\n{% endfor %}"
        "{{ tools|tojson if tools }}{{ 'a: ' if add_generation_prompt }}";
    static const char messages[] = "{\"messages\": [{\"role\": \"system\", \"content\": \"be\"},"
                                   "{\"role\": \"user\", \"content\": \"the\"}], \"tools\": null}";
    job j = trained();
    job_write(job_path(&j, "t.jinja"), template, sizeof template - 1);
    job_write(job_path(&j, "m.json"), messages, sizeof messages - 1);
    job_result chat = job_run(&j, "generate", "run", "--chat", "--chat-template", "t.jinja",
                              "--system", "be", "--prompt", "the", "--max-tokens", "20");
    job_result file = job_run(&j, "generate", "run", "--chat-template", "t.jinja", "--messages",
                              "m.json", "--max-tokens", "20");
    job_result plain = job_run(&j, "generate", "run", "--prompt", "s: be\nu: the\na: ",
                               "--max-tokens", "20");
    job_expect(&chat, 0, NULL);
    cr_assert_str_eq(plain.out, mri_format("s: be\nu: the\na: %s", chat.out));
    cr_assert_str_eq(file.out, chat.out);

    char *command = mri_format("printf 'the\\n' | '%s' generate '%s/run' --interactive -q "
                               "--chat-template '%s/t.jinja' --system be --max-tokens 20",
                               getenv("MRUN_EXE"), j.dir, j.dir), talk[256] = "";
    FILE *f = popen(command, "r");
    size_t n = fread(talk, 1, sizeof talk - 1, f);
    cr_assert(!pclose(f) && n > 5);
    cr_assert_str_eq(talk, chat.out);

    job_result r = job_run(&j, "generate", "run", "--chat", "--prompt", "x");
    JOB_EXPECT(&r, 2, "no folder to take a chat template from", "--chat-template");
    job_write(job_path(&j, "t.jinja"), "\n{{ messages.x.y }}", 19);
    r = job_run(&j, "generate", "run", "--chat", "--chat-template", "t.jinja", "--prompt", "x");
    JOB_EXPECT(&r, 2, "error E0308", "t.jinja:2:", "is undefined");
    job_free(&j);
}

/* A folder of Hugging Face with a generation_config.json of our own. */
static job_result from_folder(const job *j, const char *config, const char *option,
                              const char *value)
{
    if (config)
        job_write(job_path(j, "hf/generation_config.json"), config, strlen(config));
    return job_run(j, "generate", "--hf", "hf", "--ids", "3 1 4 1 5", "--seed", "3", option, value);
}

Test(generate, a_folders_own_settings_hold_until_someone_says_otherwise)
{
    job j = job_new();
    char *copy = mri_format("cp -r '%s/tests/parity/fixtures/llama4-base' '%s/hf'",
                            getenv("MRUN_SOURCE"), j.dir);
    cr_assert_eq(system(copy), 0);
    job_result greedy = from_folder(&j, NULL, "--temperature", "0");
    job_result drawn = from_folder(&j, NULL, "--temperature", "1");
    job_expect(&greedy, 0, NULL);
    cr_assert_str_neq(greedy.out, drawn.out);
    cr_assert_str_eq(from_folder(&j, NULL, "--batch", "1").out, greedy.out, "as transformers does");
    job_result r = from_folder(&j, "{\"temperature\": 0.6}", "--batch", "1");
    cr_assert_str_eq(r.out, greedy.out, "without do_sample nothing is drawn");
    r = from_folder(&j, NULL, "--temperature", "1");
    cr_assert_str_eq(r.out, drawn.out);
    r = from_folder(&j, "{\"do_sample\": true, \"top_k\": 1}", "--batch", "1");
    cr_assert_str_eq(r.out, greedy.out);
    r = from_folder(&j, "{\"do_sample\": true, \"top_k\": 1}", "--top-k", "0");
    cr_assert_str_eq(r.out, drawn.out);
    r = from_folder(&j, "{\"max_new_tokens\": 3, \"eos_token_id\": [7000]}", "--batch", "1");
    cr_assert(!strncmp(r.out, greedy.out, strlen(r.out) - 1) && strlen(r.out) < 12, "%s", r.out);

    int first[2];
    cr_assert_eq(sscanf(greedy.out, "%d %d", &first[0], &first[1]), 2);
    char *eos = mri_format("{\"eos_token_id\": [%d, 49]}", first[1]);
    r = from_folder(&j, eos, "--logprobs", "0");
    json_t *o = line_of(r.out, 0);
    size_t n = first[0] == first[1] ? 1 : 2;
    cr_assert_eq(json_array_size(json_object_get(o, "ids")), n);
    is_reason(o, "stop");
    r = job_run(&j, "generate", "--hf", "hf", "--ids", "3 1 4 1 5", "--ignore-eos");
    cr_assert_str_eq(r.out, greedy.out);
    r = from_folder(&j, "{\"top_p\": 3}", "--batch", "1");
    JOB_EXPECT(&r, 2, "generation_config.json: top_p is no number from 0 to 1");
    r = from_folder(&j, "{\"eos_token_id\": [\"x\"]}", "--batch", "1");
    JOB_EXPECT(&r, 2, "eos_token_id has something that is no id");
    job_free(&j);
}

Test(generate, ctrl_c_ends_an_answer_where_it_is)
{
    job j = trained();
    job_child c = job_start(&j, JOB_ARGS("generate", "run", "--prompt", "the ", "--max-tokens",
                                         "900000", "--set", "model.max_positions=1000000"));
    double end = job_now() + 30;
    while (strlen(job_read(c.out)) < 10) {
        cr_assert_lt(job_now(), end, "it never writes");
        job_sleep(0.01);
    }
    kill(c.pid, SIGINT);
    job_result r = job_wait(c);
    cr_assert_eq(r.code, 130, "%d: %s", r.code, r.err);
    cr_assert(!strncmp(r.out, "the ", 4) && r.out[strlen(r.out) - 1] == '\n');
    job_free(&j);
}

Test(generate, what_cannot_be_is_refused)
{
    static const struct {
        const char *arg[4];
        const char *says;
    } row[] = {
        { { "--prompt", "x", "--ids", "1" }, "more than one of prompt, ids, messages and jsonl" },
        { { "--ids", "1 x" }, "'x' is no id" },
        { { "--ids", "1 300" }, "'300' is no id below the vocabulary's 256" },
        { { "--prompt", "x", "--max-tokens", "300" }, "do not fit the model's context of 256" },
        { { "--prompt", "x", "--logit-bias", "3" }, "logit_bias: '3' is no ID:X" },
        { { "--prompt", "x", "--logit-bias", "256:1" }, "256 is no id below" },
        { { "--prompt", "x", "--stop", "" }, "a stop text is empty" },
        { { "--prompt", "x", "--stop-id", "y" }, "stop_ids: 'y' is no id" },
        { { "--prompt", "x", "--min-tokens", "200" }, "max_tokens = 128 is below min_tokens" },
        { { "--prompt", "" }, "the prompt is empty" },
        { { "--jsonl", "none.jsonl" }, "none.jsonl" },
        { { "--jsonl", "bad.jsonl" }, "bad.jsonl:2: the object must have one of" },
    };
    job j = trained();
    char *big = job_text(400);
    job_write(job_path(&j, "bad.jsonl"), "{\"prompt\": \"x\"}\n{\"text\": 3}\n", 28);
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        job_result r = job_run(&j, "generate", "run", row[i].arg[0], row[i].arg[1], row[i].arg[2],
                               row[i].arg[3]);
        JOB_EXPECT(&r, 2, row[i].says);
    }
    job_result r = job_run(&j, "generate", "run", "--prompt", big);
    JOB_EXPECT(&r, 2, "the prompt has 400 tokens, the model's context is 256", "255 at most");
    job_free(&j);
}
