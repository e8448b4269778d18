/* SPDX-License-Identifier: Apache-2.0
 * A tokenizer.json that is broken, or asks for what there is not, is one error that names the
 * unit, the key and the value, and the file. */
#include "rig.h"

#define VOCAB  "\"vocab\":{\"a\":0,\"b\":1,\"ab\":2}"
#define MERGES "\"merges\":[\"a b\"]"
#define MODEL  "\"model\":{\"type\":\"BPE\"," VOCAB "," MERGES "}"
#define CUTS   "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false}"
#define SPLIT(what)                                                                                \
    "{" MODEL ",\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":["                      \
    "{\"type\":\"Split\"," what "},{\"type\":\"ByteLevel\",\"use_regex\":false}]}}"
#define ADDED(what) "{" MODEL "," CUTS ",\"added_tokens\":[" what "]}"

static const struct {
    const char *json;
    mr_status code;
    const char *what, *more; /* that the message and its detail hold */
} cases[] = {
    { "", MR_E_STORE_FORMAT, ":1:0:", "byte 0 of 0" },
    { "{\"model\":", MR_E_STORE_FORMAT, "tokenizer.json:1:", "byte" },
    { "{\"a\":1,\"a\":2}", MR_E_STORE_FORMAT, "duplicate", "byte" },
    { "[]", MR_E_STORE_FORMAT, "model is missing", "tokenizer.json" },
    { "{}", MR_E_STORE_FORMAT, "model is missing", "tokenizer.json" },
    { "{\"model\":7}", MR_E_STORE_FORMAT, "model is no object", "" },
    { "{\"model\":{\"type\":\"Unigram\"}}", MR_E_STORE_FORMAT, "model.type is Unigram, not BPE",
      "" },
    { "{\"model\":{\"type\":\"BPE\",\"byte_fallback\":true," VOCAB "," MERGES "}," CUTS "}",
      MR_E_STORE_FORMAT, "model.byte_fallback = true is not supported", "" },
    { "{\"model\":{\"dropout\":0.1," VOCAB "," MERGES "}," CUTS "}", MR_E_STORE_FORMAT,
      "model.dropout", "" },
    { "{\"model\":{\"end_of_word_suffix\":\"</w>\"," VOCAB "," MERGES "}," CUTS "}",
      MR_E_STORE_FORMAT, "model.end_of_word_suffix is \"</w>\"", "" },
    { "{\"model\":{" MERGES "}," CUTS "}", MR_E_STORE_FORMAT, "model.vocab is missing", "" },
    { "{\"model\":{\"vocab\":[]," MERGES "}," CUTS "}", MR_E_STORE_FORMAT,
      "model.vocab is no object", "" },
    { "{\"model\":{\"vocab\":{}," MERGES "}," CUTS "}", MR_E_STORE_FORMAT,
      "model.vocab is no object", "" },
    { "{\"model\":{\"vocab\":{\"a\":\"0\"}," MERGES "}," CUTS "}", MR_E_STORE_FORMAT,
      "the token \"a\" the id \"0\"", "" },
    { "{\"model\":{\"vocab\":{\"a\":-1}," MERGES "}," CUTS "}", MR_E_STORE_FORMAT, "the id -1",
      "" },
    { "{\"model\":{\"vocab\":{\"a\":1.5}," MERGES "}," CUTS "}", MR_E_STORE_FORMAT, "the id 1.5",
      "" },
    { "{\"model\":{\"vocab\":{\"a\":99999999999}," MERGES "}," CUTS "}", MR_E_STORE_FORMAT,
      "the id 99999999999; ids are whole numbers below 16777215", "" },
    { "{\"model\":{\"vocab\":{\"a\":0,\"b\":16000000}," MERGES "}," CUTS "}", MR_E_STORE_FORMAT,
      "reach id 16000000 with 2 tokens", "" },
    { "{\"model\":{\"vocab\":{\"a\":0,\"b\":0,\"ab\":1}," MERGES "}," CUTS "}", MR_E_STORE_FORMAT,
      "gives the id 0 to \"b\"; \"a\" has it already", "" },
    { "{\"model\":{\"vocab\":{\"a\":0,\"b\":2,\"ab\":3}," MERGES "}," CUTS
      ",\"added_tokens\":[{\"id\":0,\"content\":\"a\"}]}",
      MR_E_STORE_FORMAT, "give no token the id 1", "" },
    { "{\"model\":{\"vocab\":{\"\":0}," MERGES "}," CUTS "}", MR_E_STORE_FORMAT,
      "a token of 0 bytes", "" },
    { "{\"model\":{" VOCAB "}," CUTS "}", MR_E_STORE_FORMAT, "model.merges is missing", "" },
    { "{\"model\":{" VOCAB ",\"merges\":{}}," CUTS "}", MR_E_STORE_FORMAT,
      "model.merges is no array", "" },
    { "{\"model\":{" VOCAB ",\"merges\":[\"ab\"]}," CUTS "}", MR_E_STORE_FORMAT,
      "model.merges [0] is neither", "" },
    { "{\"model\":{" VOCAB ",\"merges\":[\"a b\",[\"a\",7]]}," CUTS "}", MR_E_STORE_FORMAT,
      "model.merges [1] is neither", "" },
    { "{\"model\":{" VOCAB ",\"merges\":[\"a c\"]}," CUTS "}", MR_E_STORE_FORMAT,
      "[0] makes \"ac\" of \"a\" and \"c\"; the second is no token", "" },
    { "{\"model\":{" VOCAB ",\"merges\":[[\"b\",\"a\"]]}," CUTS "}", MR_E_STORE_FORMAT,
      "[0] makes \"ba\" of \"b\" and \"a\"; the whole is no token", "" },
    { "{\"model\":{\"unk_token\":\"?\"," VOCAB "," MERGES "}," CUTS "}", MR_E_STORE_FORMAT,
      "model.unk_token \"?\" is no token", "" },
    { "{" MODEL "}", MR_E_STORE_FORMAT, "pre_tokenizer has no ByteLevel in it", "" },
    { "{" MODEL ",\"pre_tokenizer\":{\"type\":\"Metaspace\"}}", MR_E_STORE_FORMAT,
      "pre_tokenizer is of type \"Metaspace\"", "" },
    { "{" MODEL ",\"pre_tokenizer\":{\"type\":7}}", MR_E_STORE_FORMAT,
      "pre_tokenizer is no object with", "" },
    { "{" MODEL ",\"pre_tokenizer\":{\"type\":\"Sequence\"}}", MR_E_STORE_FORMAT,
      "Sequence without an array \"pretokenizers\"", "" },
    { "{" MODEL ",\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":true}}",
      MR_E_STORE_FORMAT, "add_prefix_space = true", "" },
    { SPLIT("\"behavior\":\"Isolated\""), MR_E_STORE_FORMAT,
      "pre_tokenizer[0] has no pattern.Regex or pattern.String", "" },
    { SPLIT("\"behavior\":\"MergedWithNext\",\"pattern\":{\"Regex\":\"a\"}"), MR_E_STORE_FORMAT,
      "pre_tokenizer[0] has the behavior \"MergedWithNext\"", "" },
    { SPLIT("\"behavior\":\"Isolated\",\"pattern\":{\"Regex\":\"a(b\"}"), MR_E_TOKENIZER,
      "pre_tokenizer[0] in /tokenizer.json does not compile", "byte 3 of a(b" },
    { SPLIT("\"behavior\":\"Isolated\",\"pattern\":{\"Regex\":\"[\\\\p{L}\"}"), MR_E_TOKENIZER,
      "a class without its ]", "[\\p{L}" },
    { SPLIT("\"behavior\":\"Isolated\",\"pattern\":{\"Regex\":\"\\\\p{Klingon}\"}"), MR_E_TOKENIZER,
      "does not compile", "Klingon" },
    { SPLIT("\"behavior\":\"Isolated\",\"pattern\":{\"Regex\":\"\\\\d{1,3}+\"}"), MR_E_TOKENIZER,
      "{m,n}+", "\\d{1,3}+" },
    { SPLIT("\"behavior\":\"Isolated\",\"pattern\":{\"Regex\":\"(?m:a.b)\"}"), MR_E_TOKENIZER,
      "the flag m", "(?m:a.b)" },
    { "{" MODEL "," CUTS ",\"normalizer\":{\"type\":\"NFKC\"}}", MR_E_STORE_FORMAT,
      "normalizer is of type \"NFKC\"", "" },
    { "{" MODEL "," CUTS
      ",\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"},"
      "{\"type\":\"Lowercase\"}]}}",
      MR_E_STORE_FORMAT, "normalizer[1] is of type \"Lowercase\"", "" },
    { "{" MODEL "," CUTS ",\"decoder\":{\"type\":\"Metaspace\"}}", MR_E_STORE_FORMAT,
      "decoder is of type \"Metaspace\"", "" },
    { "{" MODEL "," CUTS ",\"post_processor\":{\"type\":\"BertProcessing\"}}", MR_E_STORE_FORMAT,
      "post_processor is of type \"BertProcessing\"", "" },
    { "{" MODEL "," CUTS ",\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":["
      "{\"SpecialToken\":{\"id\":\"<s>\"}},{\"Sequence\":{\"id\":\"A\"}}]}}",
      MR_E_STORE_FORMAT, "puts \"<s>\" in, which has no id", "" },
    { "{" MODEL "," CUTS ",\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":["
      "{\"Sequence\":{\"id\":\"A\"}},{\"SpecialToken\":{\"id\":\"b\"}}],\"special_tokens\":{\"b\":{"
      "\"ids\":[1]}}}}",
      MR_E_STORE_FORMAT, "puts \"b\" behind the text", "" },
    { ADDED("7"), MR_E_STORE_FORMAT, "added_tokens [0] has no text \"content\"", "" },
    { ADDED("{\"content\":\"<s>\"}"), MR_E_STORE_FORMAT, "added_tokens gives the token \"<s>\"",
      "" },
    { ADDED("{\"id\":1,\"content\":\"<s>\"}"), MR_E_STORE_FORMAT,
      "added_tokens gives the id 1 to \"<s>\"; \"b\" has it already", "" },
    { ADDED("{\"id\":3,\"content\":\"a\"}"), MR_E_STORE_FORMAT,
      "gives \"a\" the id 3, model.vocab 0", "" },
    { ADDED("{\"id\":3,\"content\":\"<s>\"},{\"id\":3,\"content\":\"</s>\"}"), MR_E_STORE_FORMAT,
      "gives the id 3 to \"</s>\"; \"<s>\" has it already", "" },
    { ADDED("{\"id\":5,\"content\":\"<s>\"}"), MR_E_STORE_FORMAT, "reach id 5 with 4 tokens", "" },
    { ADDED("{\"id\":3,\"content\":\"<s>\",\"single_word\":true}"), MR_E_STORE_FORMAT,
      "single_word = true", "" },
    { ADDED("{\"id\":3,\"content\":\"<s>\",\"special\":\"yes\"}"), MR_E_STORE_FORMAT,
      "[0].special is neither true nor false", "" },
};

static mr_status open_in(const char *dir, const char *plugin, const char *one, mr_err *err)
{
    const mr_unit *u = unit_load("tokenizer", plugin);
    const mr_tokenizer_ops *ops = u->table;
    const char *words[] = { mri_format("dir=%s", dir), one, NULL };
    void *tok = NULL;
    mr_status st = ops->create(&unit_host, unit_config(u, words), &tok, err);
    cr_assert(st || tok);
    if (!st)
        ops->destroy(tok);
    return st;
}

Test(bad_json, each_fault_is_one_clear_error)
{
    const char *dir = temp_dir();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        mr_err err = MR_ERR_INIT;
        temp_write(dir, "tokenizer.json", cases[i].json, strlen(cases[i].json));
        mr_status st = open_in(dir, "hf", NULL, &err);
        cr_assert_eq(st, cases[i].code, "case %zu (%s): %d %s", i, cases[i].what, st, err.what);
        cr_assert(strstr(err.what, cases[i].what), "case %zu: '%s' lacks '%s'", i, err.what,
                  cases[i].what);
        cr_assert(strstr(err.what, "tokenizer/hf"), "%s", err.what);
        cr_assert(strstr(err.detail, cases[i].more), "case %zu: '%s' lacks '%s'", i, err.detail,
                  cases[i].more);
        cr_assert(*err.hint, "case %zu has no next step", i);
    }
    temp_clean(dir);
}

Test(bad_json, a_file_that_is_cut_anywhere_is_an_error)
{
    char *text;
    size_t n;
    const char *dir = temp_dir();
    cr_assert_eq(mri_read_file(fixture_path("llama4.json"), 1 << 20, &text, &n, NULL), 0);
    for (size_t cut = 0; cut < n; cut += 97) {
        mr_err err = MR_ERR_INIT;
        temp_write(dir, "tokenizer.json", text, cut);
        cr_assert_eq(open_in(dir, "hf", NULL, &err), MR_E_STORE_FORMAT, "cut at %zu", cut);
    }
    temp_write(dir, "tokenizer.json", text, n);
    mr_err err = MR_ERR_INIT;
    cr_assert_eq(open_in(dir, "hf", NULL, &err), 0, "%s", err.what);
    cr_assert_eq(open_in(dir, "hf", "eos=<none>", &err), MR_E_TOKENIZER);
    cr_assert(strstr(err.what, "eos = <none> is no token"), "%s", err.what);
    temp_clean(dir);
}

Test(bad_json, a_file_that_is_not_there_or_no_file)
{
    const mr_unit *u = unit_load("tokenizer", "hf");
    const mr_tokenizer_ops *ops = u->table;
    const char *dir = temp_dir();
    mr_err err = MR_ERR_INIT;
    void *tok;
    cr_assert_eq(open_in(dir, "hf", NULL, &err), MR_E_STORE_IO);
    cr_assert(strstr(err.what, "cannot read") && strstr(err.hint, "[tokenizer.hf]"), "%s",
              err.hint);
    cr_assert_eq(open_in(dir, "hf", mri_format("file=%s", dir), &err), MR_E_PROFILE_MISSING);
    const char *words[] = { mri_format("file=%s", dir), NULL };
    cr_assert_eq(ops->create(&unit_host, unit_config(u, words), &tok, &err), MR_E_STORE_IO);
    cr_assert(strstr(err.what, "is no file"), "%s", err.what);
    cr_assert_eq(ops->create(&unit_host, unit_config(u, NULL), &tok, &err), MR_E_PROFILE_MISSING);
    /* a file far too large is not read: sparse, so nothing is written either */
    char *big = mri_format("%s/tokenizer.json", dir);
    cr_assert_eq(fclose(fopen(big, "w")), 0);
    cr_assert_eq(truncate(big, (off_t)1 << 31), 0);
    cr_assert_eq(open_in(dir, "hf", NULL, &err), MR_E_STORE_FORMAT);
    cr_assert(strstr(err.what, "2147483648 bytes") && strstr(err.detail, "536870912"), "%s",
              err.what);
    temp_clean(dir);
}
