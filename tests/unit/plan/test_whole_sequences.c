/* SPDX-License-Identifier: Apache-2.0
 *
 * Data that promise samples of one sequence let the model promise attention whole sequences
 * (packed = 0), in training and validation, when planning as when running; the reference loops
 * hold every batch to it, rows without a sample included. Other data and other batches promise
 * nothing.
 */
#include "tiny.h"
#include <unistd.h>

static char *text_file(void) /* enough for some samples of TINY_SEQ tokens below TINY_VOCAB */
{
    char *path = mri_strdup("/tmp/mrun-whole-XXXXXX");
    int fd = mkstemp(path);
    cr_assert_geq(fd, 0);
    for (int i = 0; i < 40 * TINY_SEQ; i++) {
        char byte = (char)(1 + i * i % 7);
        cr_assert_eq(write(fd, &byte, 1), 1);
    }
    close(fd);
    return path;
}

static size_t count(const char *text, const char *word)
{
    size_t n = 0;
    while ((text = strstr(text, word))) {
        n++;
        text += strlen(word);
    }
    return n;
}

/* attention calls in the exec's programs, and those of them that promise */
static void calls(const mri_exec *e, size_t *all, size_t *promising)
{
    mri_str s = { 0 };
    for (size_t k = 0; k < e->plans.n; k++)
        mri_prog_print(e->plans.v[k]->prog, &s);
    *all = count(s.s, "packed=");
    *promising = count(s.s, "packed=0");
    mri_str_free(&s);
}

static kit open_with(const char *path, const char *plugin, const char *more, mri_session_options o)
{
    char *text = mri_format("data.text.path=%s", path);
    const char *sets[] = { "backend.plugin=ref", TINY_MODEL, "model.vocab=256",
                           "data.text.binary=true", "tokenizer.plugin=bytes",
                           "data.text.valid_fraction=0.11", "data.indexed.path=unused",
                           "train.micro_batch=2", text, plugin, more, NULL };
    o.needs |= MRI_NEED_TRAIN | MRI_NEED_EVAL;
    kit k = kit_open(NULL, sets, o);
    free(text);
    return k;
}

Test(whole_sequences, training_and_validation_promise_them)
{
    char *path = text_file();
    kit k = open_with(path, "data.plugin=text", NULL, (mri_session_options){
        .needs = MRI_NEED_UPDATE | MRI_NEED_DATA | MRI_NEED_TOKENIZER });
    mri_session *s = k.session;
    mri_step_result r;
    mr_err err = MR_ERR_INIT;
    mr_data_set set;
    double nll, bits;
    size_t all, promising;
    float one[2 * TINY_SEQ];
    int32_t ids[2 * TINY_SEQ] = { 0 };
    calls(s->train, &all, &promising);
    cr_expect(all > 0 && promising == all, "%zu of %zu", promising, all);
    calls(s->eval, &all, &promising);
    cr_expect(all > 0 && promising == all, "%zu of %zu", promising, all);
    kit_ok(mri_session_init_weights(s, &err), &err, "weights");
    kit_ok(mri_session_train_step(s, &r, &err), &err, "step");
    uint32_t valid = mri_session_find_set(s, "valid", &set);
    cr_assert_eq(set.samples % 2, 1, "%lld samples leave no row blank", (long long)set.samples);
    kit_ok(mri_session_evaluate(s, valid, 0, &nll, &bits, &err), &err, "validation");
    kit_ok(mri_session_score(s, ids, TINY_SEQ - 1, one, NULL, &err), &err, "score");
    cr_expect_eq(mri_session_score(s, ids, TINY_SEQ + 1, one, NULL, &err), MR_E_ARG);
    kit_close(&k);
    unlink(path);
    free(path);
}

static const mr_data_ops *honest;

static mr_status read_two_documents(void *data, uint32_t set, int64_t i, mr_sample *out, mr_err *err)
{
    mr_status st = honest->read(data, set, i, out, err);
    for (int k = TINY_SEQ / 2; k < TINY_SEQ; k++)
        out->seq_start[k] = TINY_SEQ / 2;
    return st;
}

Test(whole_sequences, a_sample_that_breaks_the_promise_is_refused)
{
    char *path = text_file();
    kit k = open_with(path, "data.plugin=text", NULL, (mri_session_options){
        .needs = MRI_NEED_UPDATE | MRI_NEED_DATA | MRI_NEED_TOKENIZER });
    mri_step_result r;
    mr_err err = MR_ERR_INIT;
    honest = k.session->data_ops;
    mr_data_ops broken = *honest;
    broken.read = read_two_documents;
    k.session->data_ops = &broken;
    kit_ok(mri_session_init_weights(k.session, &err), &err, "weights");
    cr_expect_eq(mri_session_train_step(k.session, &r, &err), MR_E_DATA_FORMAT);
    cr_expect(strstr(err.what, "starts a sequence at 6"), "%s", err.what);
    kit_close(&k);
    unlink(path);
    free(path);
}

Test(whole_sequences, planning_says_what_the_run_does)
{
    size_t all, promising;
    kit k = open_with("unused", "data.plugin=text", NULL, (mri_session_options){ .dry = true });
    calls(k.session->train, &all, &promising);
    cr_expect(all > 0 && promising == all);
    kit_close(&k);
    k = open_with("unused", "data.plugin=indexed", NULL, (mri_session_options){ .dry = true });
    calls(k.session->train, &all, &promising);
    cr_expect(all > 0 && promising == all);
    kit_close(&k);
}

Test(whole_sequences, nothing_is_promised_of_other_batches)
{
    size_t all, promising;
    kit k = open_with("unused", "data.plugin=text", NULL, (mri_session_options){ 0 });
    calls(k.session->train, &all, &promising);
    cr_expect(all > 0 && promising == 0);
    kit_close(&k);
    k = open_with("unused", "data.plugin=text", NULL,
                  (mri_session_options){ .dry = true, .eval_tokens = TINY_SEQ });
    calls(k.session->eval, &all, &promising);
    cr_expect(all > 0 && promising == 0);
    kit_close(&k);
    k = open_with("unused", "data.plugin=indexed", "data.indexed.reset_attention=true",
                  (mri_session_options){ .dry = true });
    calls(k.session->train, &all, &promising);
    cr_expect(all > 0 && promising == 0);
    kit_close(&k);
}
