/* SPDX-License-Identifier: Apache-2.0
 *
 * embed.c - a program that links libmrun and includes nothing but mrun/mrun.h. Built twice: in
 * the tree, and against the installation by pkg-config alone (run.sh).
 *   embed SOURCE      a run folder or a Hugging Face folder
 * Claims: scores of a whole sequence and of the cache agree token by token, a draw repeats
 * itself, text survives its tokenizer, and what is wrong is refused with a status and words.
 */
#include <math.h>
#include <mrun/mrun.h>
#include <stdlib.h>
#include <string.h>

enum { TOKENS = 24 };

static int failures;

#define EXPECT(cond, ...) \
    do { \
        if (!(cond)) { \
            failures++; \
            fprintf(stderr, "embed.c:%d: %s: ", __LINE__, #cond); \
            fprintf(stderr, __VA_ARGS__); \
            fputc('\n', stderr); \
        } \
    } while (0)

static float log_prob(const float *logits, int64_t vocab, int32_t id)
{
    double top = logits[0], sum = 0;
    for (int64_t i = 1; i < vocab; i++)
        top = logits[i] > top ? logits[i] : top;
    for (int64_t i = 0; i < vocab; i++)
        sum += exp(logits[i] - top);
    return (float)(logits[id] - top - log(sum));
}

static void whole_equals_cached(mr_model *m, const int32_t *ids)
{
    int64_t vocab = mr_model_vocab(m);
    float *logits = calloc((size_t)vocab, sizeof *logits), whole[TOKENS] = { 0 };
    mr_err err = MR_ERR_INIT;
    EXPECT(!mr_model_score(m, ids, TOKENS, whole, &err), "%s", err.what);
    /* a prefix at once, then one by one; then back to the middle, as an editor would */
    EXPECT(!mr_model_next(m, ids, 5, 0, logits, &err), "%s", err.what);
    for (int64_t i = 5; i < TOKENS; i++) {
        float p = log_prob(logits, vocab, ids[i]);
        EXPECT(fabsf(p - whole[i - 1]) < 1e-4f, "id %d: %g cached, %g whole", (int)i, p, whole[i - 1]);
        EXPECT(!mr_model_next(m, ids + i, 1, i, logits, &err), "%s", err.what);
    }
    EXPECT(!mr_model_next(m, ids + 5, 3, 5, logits, &err), "%s", err.what);
    float p = log_prob(logits, vocab, ids[8]);
    EXPECT(fabsf(p - whole[7]) < 1e-4f, "after going back: %g cached, %g whole", p, whole[7]);

    mr_sampling how = { sizeof how, 0, 0, 1, 0, 1 };
    int32_t best = mr_draw(logits, vocab, &how, 8);
    for (int64_t i = 0; i < vocab; i++)
        EXPECT(logits[i] <= logits[best], "id %d is likelier than the draw %d", (int)i, best);
    how.temperature = 1;
    EXPECT(mr_draw(logits, vocab, &how, 8) == mr_draw(logits, vocab, &how, 8), "a draw varies");
    free(logits);
}

static void the_wrong_is_refused(mr_runtime *r, mr_model *m, const char *source)
{
    mr_err err = MR_ERR_INIT;
    float out[TOKENS + 1];
    int32_t ids[TOKENS + 1] = { 0 };
    EXPECT(mr_model_score(m, ids, TOKENS + 1, out, &err) == MR_E_ARG && *err.hint,
           "a sequence that is too long: %s", err.what);
    EXPECT(mr_model_next(m, ids, 1, TOKENS, out, &err) == MR_E_ARG, "a position past the end");
    ids[3] = (int32_t)mr_model_vocab(m);
    EXPECT(mr_model_score(m, ids, 5, out, &err) == MR_E_ARG, "an id past the vocabulary");

    const char *const sets[] = { "backend.plugin=nowhere" };
    mr_model_options o = { sizeof o, 0, TOKENS };
    mr_model *none = m;
    EXPECT(mr_model_open(r, source, sets, 1, &o, &none, &err) == MR_E_PLUGIN_NOT_FOUND && !none,
           "a backend that is not there: %s", err.what);
    EXPECT(mr_model_open(r, "/nonexistent.ini", NULL, 0, &o, &none, &err) && !none,
           "a source that is not there");
    char *text = NULL;
    const char *const odd[] = { "job.run=score", "model.plugin=llama4", "train.stepps=5" };
    EXPECT(mr_profile_check(r, NULL, odd, 3, &text, &err) == MR_E_PROFILE_KEY && !text &&
               strstr(err.detail, "'steps'"),
           "a key that nobody knows: %s, %s", err.what, err.detail);
    EXPECT(!mr_profile_check(r, NULL, odd, 2, &text, &err) && strstr(text, "plugin = llama4") &&
               strstr(text, "; --set"),
           "%s", text ? text : err.what);
    mr_free(text);
}

static void text_survives(mr_runtime *r, const char *source)
{
    static const char words[] = "It is a truth";
    mr_model_options o = { sizeof o, MR_MODEL_TEXT, TOKENS };
    mr_err err = MR_ERR_INIT;
    mr_model *m;
    int32_t ids[TOKENS];
    char back[64] = "";
    uint64_t n = 0, chars = 0;
    EXPECT(!mr_model_open(r, source, NULL, 0, &o, &m, &err), "%s", err.what);
    if (!m)
        return;
    EXPECT(!mr_model_encode(m, words, strlen(words), NULL, 0, &n, &err) && n >= 1, "measuring");
    EXPECT(n <= TOKENS && !mr_model_encode(m, words, strlen(words), ids, TOKENS, &n, &err),
           "%llu ids", (unsigned long long)n);
    EXPECT(!mr_model_text(m, ids, n, back, sizeof back - 1, &chars, &err), "%s", err.what);
    EXPECT(chars == strlen(words) && !strcmp(back, words), "'%s'", back);
    mr_model_close(m);
}

int main(int argc, char **argv)
{
    if (argc != 2)
        return 2;
    uint32_t major, minor;
    mr_abi(&major, &minor);
    EXPECT(major == MR_ABI_MAJOR && minor == MR_ABI_MINOR, "ABI %u.%u", major, minor);
    mr_runtime *r = mr_open(NULL);
    mr_model_options o = { sizeof o, 0, TOKENS };
    mr_err err = MR_ERR_INIT;
    mr_model *m;
    if (mr_model_open(r, argv[1], NULL, 0, &o, &m, &err)) {
        fprintf(stderr, "embed: %s\n%s\n%s\n", err.what, err.detail, err.hint);
        mr_close(r);
        return 1;
    }
    int32_t ids[TOKENS];
    int64_t vocab = mr_model_vocab(m);
    for (int i = 0; i < TOKENS; i++)
        ids[i] = (int32_t)(2 + (i * i + 7 * i) % (vocab - 2));
    whole_equals_cached(m, ids);
    the_wrong_is_refused(r, m, argv[1]);
    mr_model_close(m);
    if (vocab >= 256) /* bytes fit */
        text_survives(r, argv[1]);
    mr_close(r);
    printf("mrun %s: %d failed\n", mr_version(), failures);
    return failures != 0;
}
