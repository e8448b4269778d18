/* SPDX-License-Identifier: Apache-2.0
 * `mrun tokenize`: a line of ids for each line of text, and back. */
#include "rig.h"

static const char *dir;

/* stdout and stderr of a shell line in which $M is mrun; *code: its exit code */
static char *run(const char *line, int *code)
{
    char *cmd = mri_format("export M='%s'; cd '%s' && { %s; } 2>&1", getenv("MRUN_EXE"), dir, line);
    FILE *p = popen(cmd, "r");
    mri_str out = { 0 };
    char part[4096];
    size_t n;
    mri_str_add(&out, "");
    while ((n = fread(part, 1, sizeof part, p)) > 0)
        mri_str_addn(&out, part, n);
    *code = pclose(p) >> 8;
    free(cmd);
    return mri_str_take(&out);
}

static void copy(const char *fixture, const char *name)
{
    char *text;
    size_t n;
    cr_assert_eq(mri_read_file(fixture_path(fixture), 1 << 20, &text, &n, NULL), 0);
    temp_write(dir, name, text, n);
    free(text);
}

static void setup(void)
{
    dir = temp_dir();
    copy("llama4.json", "tokenizer.json");
    copy("tokenizer_config.json", "tokenizer_config.json");
    mkdir(mri_format("%s/kimi", dir), 0700);
    copy("ranks.txt", "kimi/tiktoken.model");
    copy("tokenizer_config.json", "kimi/tokenizer_config.json");
}

static void teardown(void)
{
    temp_clean(dir);
}

TestSuite(tokenize, .init = setup, .fini = teardown);

static void says(const char *line, int code, const char *out)
{
    int got;
    char *text = run(line, &got);
    cr_assert(got == code && !strcmp(text, out), "%s\nexit %d, wants %d\n%s\nwants\n%s", line, got,
              code, text, out);
    free(text);
}

static void holds(const char *line, int code, const char *out)
{
    int got;
    char *text = run(line, &got);
    cr_assert(got == code && strstr(text, out), "%s\nexit %d, wants %d\n%s\nlacks\n%s", line, got,
              code, text, out);
    free(text);
}

Test(tokenize, a_line_of_ids_for_each_line_of_text)
{
    says("printf 'a\\n\\n<|end|>' | \"$M\" tokenize --hf .", 0, "560 64\n560\n560 561\n");
    says("printf 'a\\n\\n<|end|>' | \"$M\" tokenize --hf . --no-special", 0, "64\n\n561\n");
    says("printf '' | \"$M\" tokenize --hf .", 0, "");
    says("echo a | \"$M\" --json tokenize --hf .", 0, "[560,64]\n");
    says("echo '<|end|>' | \"$M\" tokenize --hf kimi", 0, "561\n");
    holds("echo '<|end|>' | \"$M\" tokenize --hf kimi --set tokenizer.tiktoken.special=false", 0,
          " ");
}

Test(tokenize, decode_undoes_it)
{
    static const char text[] =
        "printf 'The fox\\n\\n\\347\\232\\204 \\377 <|begin|>x<|end|>\\n\\000 tab\\t\\n'";
    const char *hf[] = { ".", "kimi" };
    for (int i = 0; i < 2; i++) {
        char *line =
            mri_format("%s > in; \"$M\" tokenize --hf %s < in > ids && \"$M\" tokenize --decode "
                       "--hf %s < ids | cmp - in && wc -l < ids",
                       text, hf[i], hf[i]);
        says(line, 0, "4\n");
    }
    says("echo '[560, 64]' | \"$M\" --json tokenize --decode --hf .", 0, "\"a\"\n");
    says("echo 560 64 561 | \"$M\" tokenize --decode --hf . --no-special", 0,
         "<|begin|>a<|end|>\n");
}

Test(tokenize, what_is_wrong_is_said_with_its_line)
{
    holds("printf '1\\n2 x\\n' | \"$M\" tokenize --decode --hf .", 2,
          "line 2 of stdin: 'x' is no token id");
    holds("echo 566 | \"$M\" tokenize --decode --hf .", 2,
          "line 1 of stdin: tokenizer/hf: 566 is not");
    holds("echo 99999999999 | \"$M\" tokenize --decode --hf .", 2, "is no token id");
    holds("mkdir none; \"$M\" tokenize --hf none </dev/null", 2,
          "none holds neither tokenizer.json nor tiktoken.model");
    holds("\"$M\" tokenize </dev/null", 2, "tokenize needs --hf DIR");
    holds("echo '{' > tokenizer.json; \"$M\" tokenize --hf . </dev/null", 2, "tokenizer.json:");
}

Test(tokenize, both_plugins_conform)
{
    holds("\"$M\" check tokenizer/hf --set tokenizer.hf.dir=.", 0, "0 failed, 1 skipped");
    holds("\"$M\" check tokenizer/tiktoken --set tokenizer.tiktoken.dir=kimi", 0,
          "0 failed, 1 skipped");
}

Test(tokenize, a_profile_chooses_any_tokenizer)
{
    static const char profile[] = "[tokenizer]\nplugin = hf\n[tokenizer.hf]\ndir = .\nbos = none\n";
    temp_write(dir, "p.ini", profile, sizeof profile - 1);
    says("echo a | \"$M\" tokenize p.ini", 0, "64\n");
    says("echo a | \"$M\" p.ini --set job.run=tokenize", 0, "64\n");
    says("echo a | \"$M\" tokenize --set tokenizer.plugin=bytes", 0, "97\n");
}
