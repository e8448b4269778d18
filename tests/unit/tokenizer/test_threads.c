/* SPDX-License-Identifier: Apache-2.0
 * One tokenizer serves many threads at once: each gets the ids that it would get alone. */
#include "rig.h"
#include <pthread.h>

enum { THREADS = 6, TEXTS = 40, ROUNDS = 30 };

static tok_handle h;
static char *texts[TEXTS];
static ids alone[TEXTS];

static void *work(void *arg)
{
    long at = (long)arg, wrong = 0;
    int32_t *got = mri_alloc(4096 * sizeof *got);
    for (int r = 0; r < ROUNDS; r++)
        for (int i = 0; i < TEXTS; i++) {
            int k = (int)((i * 7 + at * 11 + r) % TEXTS);
            uint64_t n = 0;
            if (h.ops->encode(h.tok, texts[k], strlen(texts[k]), got, 4096, &n, NULL) ||
                n != alone[k].n || memcmp(got, alone[k].v, n * sizeof *got))
                wrong++;
        }
    free(got);
    return (void *)wrong;
}

Test(threads, each_gets_the_ids_it_would_get_alone)
{
    static const char *const words[] = { "the quick fox ",   "\xe4\xb8\xad\xe6\x96\x87 ",
                                         "12345 ",           "don't\n",
                                         "  \n\n",           "<|end|>",
                                         "\xff\xfe",         "return x; ",
                                         "\xf0\x9f\x99\x82", "a\xcc\x81 " };
    pthread_t t[THREADS];
    h = fixture_tok("hf", "deepseek.json", NULL, NULL);
    for (int i = 0; i < TEXTS; i++) {
        mri_str b = { 0 };
        for (int k = 0; k < 30; k++)
            mri_str_add(&b, words[(i * 31 + k * k * 7 + k) % 10]);
        texts[i] = mri_str_take(&b);
        alone[i] = ids_of(h, 0, texts[i], strlen(texts[i]));
    }
    for (long i = 0; i < THREADS; i++)
        cr_assert_eq(pthread_create(&t[i], NULL, work, (void *)i), 0);
    for (int i = 0; i < THREADS; i++) {
        void *wrong = NULL;
        pthread_join(t[i], &wrong);
        cr_assert_null(wrong, "thread %d: %ld texts differ", i, (long)wrong);
    }
    h.ops->destroy(h.tok);
}
