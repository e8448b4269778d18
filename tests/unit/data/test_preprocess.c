/* SPDX-License-Identifier: Apache-2.0
 * JSON lines become the very files that Megatron would write, or an error that names the line. */
#include "core/store/indexed_write.h"
#include "core/store/preprocess.h"
#include "fixture.h"
#include <unistd.h>

static void expect_file(const char *path, const void *want, size_t n)
{
    char *got;
    size_t size;
    mr_err err = MR_ERR_INIT;
    cr_assert_eq(mri_read_file(path, 1 << 24, &got, &size, &err), 0, "%s", err.what);
    cr_assert_eq(size, n, "%s: %zu bytes, not %zu", path, size, n);
    cr_assert_eq(memcmp(got, want, n), 0, "%s", path);
    free(got);
}

static void expect_same(const char *a, const char *b)
{
    char *want;
    size_t n;
    mr_err err = MR_ERR_INIT;
    cr_assert_eq(mri_read_file(b, 1 << 24, &want, &n, &err), 0, "%s", err.what);
    expect_file(a, want, n);
    free(want);
}

Test(preprocess, the_index_is_written_byte_for_byte)
{
    static const int32_t ids[] = { 1, 2, 3, 65499, 7, 8 };
    const char *dir = temp_dir(),
               *fixtures = mri_format("%s/tests/unit/data/fixtures", getenv("MRUN_SOURCE"));
    mri_indexed_writer *w;
    cr_assert_eq(mri_indexed_create(mri_format("%s/tiny", dir), MRI_INDEXED_U16, &w, NULL), 0);
    mri_indexed_sequence(w, ids, 3, NULL);
    mri_indexed_sequence(w, ids + 3, 1, NULL);
    mri_indexed_end_document(w);
    mri_indexed_sequence(w, NULL, 0, NULL);
    mri_indexed_end_document(w);
    mri_indexed_sequence(w, ids + 4, 2, NULL);
    mri_indexed_end_document(w);
    cr_assert_neq(access(mri_format("%s/tiny.bin", dir), F_OK), 0, "nothing before it is whole");
    cr_assert_eq(mri_indexed_finish(w, NULL), 0);
    expect_same(mri_format("%s/tiny.idx", dir), mri_format("%s/tiny.idx", fixtures));
    expect_same(mri_format("%s/tiny.bin", dir), mri_format("%s/tiny.bin", fixtures));
    temp_clean(dir);
}

Test(preprocess, the_dtype_follows_the_vocabulary)
{
    cr_assert_eq(mri_indexed_dtype_for(65499), MRI_INDEXED_U16);
    cr_assert_eq(mri_indexed_dtype_for(65500), MRI_INDEXED_I32);
    const char *dir = temp_dir();
    mri_indexed_writer *w;
    const int32_t large = 65536, negative = -1;
    cr_assert_eq(mri_indexed_create(mri_format("%s/x", dir), MRI_INDEXED_U16, &w, NULL), 0);
    cr_assert_eq(mri_indexed_sequence(w, &large, 1, NULL), MR_E_STORE_FORMAT);
    cr_assert_eq(mri_indexed_sequence(w, &negative, 1, NULL), MR_E_STORE_FORMAT);
    mri_indexed_abandon(w);
    cr_assert_neq(access(mri_format("%s/x.bin.partial", dir), F_OK), 0);
    temp_clean(dir);
}

static mri_preprocess job_of(const char *dir, const char *input)
{
    static const char *const words[] = { "eod=true", NULL };
    tok_handle tok = tok_open("bytes", words);
    return (mri_preprocess) { .input = temp_write(dir, "in.jsonl", input, strlen(input)),
                              .prefix = mri_format("%s/out", dir),
                              .key = "text",
                              .learn = "assistant",
                              .append_eod = true,
                              .workers = 1,
                              .tokenizer = tok.ops,
                              .tok = tok.tok };
}

Test(preprocess, lines_become_documents)
{
    const char *dir = temp_dir();
    mri_preprocess job = job_of(dir, "{\"text\": \"a\\u00e9\\n\", \"id\": 1}\n\n"
                                     "{\"text\": \"\"}\n{\"id\": 2, \"text\": \"\\u0000z\"}");
    mri_preprocess_count count;
    mr_err err = MR_ERR_INIT;
    cr_assert_eq(mri_preprocess_run(&job, &count, &err), 0, "%s", err.what);
    cr_assert(count.documents == 3 && count.tokens == 8);
    static const uint16_t tokens[] = { 'a', 0xc3, 0xa9, '\n', 256, 0, 'z', 256 };
    expect_file(mri_format("%s/out.bin", dir), tokens, sizeof tokens);
    /* the empty document has a boundary and no sequence */
    static const int64_t boundaries[] = { 0, 1, 1, 2 };
    unsigned char idx[34 + 2 * 12 + 32] = "MMIDIDX\0\0\1";
    idx[17] = 8;
    idx[18] = 2;
    idx[26] = 4;
    idx[34] = 5;
    idx[38] = 3;
    idx[50] = 10;
    memcpy(idx + 58, boundaries, 32);
    expect_file(mri_format("%s/out.idx", dir), idx, sizeof idx);
    temp_clean(dir);
}

Test(preprocess, many_workers_write_the_same_files)
{
    const char *dir = temp_dir();
    mri_str text = { 0 };
    for (int i = 0; i < 3000; i++)
        mri_str_fmt(&text, "{\"text\": \"document %d %.*s\"}\n", i, i % 60,
                    "------------------------------------------------------------");
    mri_preprocess job = job_of(dir, text.s);
    mri_preprocess_count one, four;
    mr_err err = MR_ERR_INIT;
    cr_assert_eq(mri_preprocess_run(&job, &one, &err), 0, "%s", err.what);
    const char *first = job.prefix;
    job.prefix = mri_format("%s/out4", dir);
    job.workers = 4;
    cr_assert_eq(mri_preprocess_run(&job, &four, &err), 0, "%s", err.what);
    cr_assert(one.documents == 3000 && one.tokens == four.tokens);
    cr_assert_eq(one.bytes_read, (int64_t)text.n);
    expect_same(mri_format("%s.bin", job.prefix), mri_format("%s.bin", first));
    expect_same(mri_format("%s.idx", job.prefix), mri_format("%s.idx", first));
    temp_clean(dir);
}

Test(preprocess, chats_are_learnt_by_role)
{
    const char *dir = temp_dir();
    mri_preprocess job = job_of(dir, "{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}, "
                                     "{\"role\": \"assistant\", \"content\": \"Yo!\"}]}\n");
    job.key = "messages";
    job.chat = "<{role}>{content}\n";
    mri_preprocess_count count;
    mr_err err = MR_ERR_INIT;
    cr_assert_eq(mri_preprocess_run(&job, &count, &err), 0, "%s", err.what);
    static const char said[] = "<user>Hi\n<assistant>Yo!\n";
    uint16_t tokens[25];
    unsigned char weights[25] = { 0 };
    for (int i = 0; i < 24; i++)
        tokens[i] = (unsigned char)said[i];
    tokens[24] = 256;
    memset(weights + 20, 1, 5); /* "Yo!", its newline, the end */
    cr_assert_eq(count.learnt, 5);
    expect_file(mri_format("%s/out.bin", dir), tokens, sizeof tokens);
    expect_file(mri_format("%s/out_loss.bin", dir), weights, sizeof weights);

    /* and data/indexed reads the pair */
    const char *const words[] = { mri_format("path=%s/out", dir), "loss_mask=" MRI_LOSS_SUFFIX,
                                  "split=1", NULL };
    mr_data_env env = { .size = sizeof env, .seq = 24, .tokenizer = job.tokenizer, .tok = job.tok };
    data_handle h;
    cr_assert_eq(data_open(&h, "indexed", &env, words, &err), 0, "%s %s", err.what, err.detail);
    mr_sample s = sample_new(24);
    data_read(&h, 0, 0, &s);
    for (int j = 0; j < 24; j++)
        cr_assert_eq(s.loss_weight[j], j + 1 >= 20);
    temp_clean(dir);
}

Test(preprocess, a_bad_line_fails_by_number_and_leaves_nothing)
{
    static const struct {
        const char *line, *says;
    } cases[] = {
        { "{\"text\": \"b\"", ":3: not JSON" },
        { "{\"txt\": \"b\"}", ":3: no key \"text\"" },
        { "[1]", ":3: not a JSON object" },
        { "{\"text\": 5}", ":3: \"text\" is not a text" },
        { "{\"text\": \"\xff\"}", ":3: not JSON" },
        { "{\"text\": \"b\"} x", ":3: not JSON" },
    };
    const char *dir = temp_dir();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        for (int64_t workers = 1; workers < 4; workers += 2) {
            mri_preprocess job =
                job_of(dir, mri_format("{\"text\": \"a\"}\n \n%s\n{\"bad\": 1}\n", cases[i].line));
            job.workers = workers;
            mri_preprocess_count count;
            mr_err err = MR_ERR_INIT;
            cr_assert_eq(mri_preprocess_run(&job, &count, &err), MR_E_DATA_FORMAT);
            cr_assert(strstr(err.what, cases[i].says) && strstr(err.what, job.input), "%s",
                      err.what);
            cr_assert_neq(access(mri_format("%s/out.bin", dir), F_OK), 0);
            cr_assert_neq(access(mri_format("%s/out.bin.partial", dir), F_OK), 0);
        }
    }
    temp_clean(dir);
}

Test(preprocess, what_cannot_work_fails_before_it_starts)
{
    const char *dir = temp_dir();
    mri_preprocess_count count;
    mr_err err = MR_ERR_INIT;
    mri_preprocess job = job_of(dir, "\n\n");
    cr_assert_eq(mri_preprocess_run(&job, &count, &err), MR_E_DATA_SHORT);
    job.chat = "{role}:";
    cr_assert_eq(mri_preprocess_run(&job, &count, &err), MR_E_PROFILE_VALUE);
    job.chat = NULL;
    job.tok = tok_open("bytes", NULL).tok;
    cr_assert_eq(mri_preprocess_run(&job, &count, &err), MR_E_PROFILE_CONFLICT);
    cr_assert(strstr(err.hint, "tokenizer.bytes.eod"));
    job.append_eod = false;
    job.prefix = mri_format("%s/none/out", dir);
    cr_assert_eq(mri_preprocess_run(&job, &count, &err), MR_E_STORE_IO);
    job.input = mri_format("%s/none", dir);
    cr_assert_eq(mri_preprocess_run(&job, &count, &err), MR_E_DATA_OPEN);
    job.input = dir;
    cr_assert_eq(mri_preprocess_run(&job, &count, &err), MR_E_DATA_OPEN);
    temp_clean(dir);
}
