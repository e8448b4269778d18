/* SPDX-License-Identifier: Apache-2.0
 * The first micro-batch writes the weight gradients that nobody else adds to, so they need no
 * zeroing: whatever stood there before, a step's gradients are those that adding to zeros gives. */
#include "../plan/tiny.h"
#include <unistd.h>

static char *text_file(void)
{
    char *path = mri_format("/tmp/mrun-first-%d.txt", (int)getpid());
    FILE *f = fopen(path, "w");
    cr_assert_not_null(f);
    for (int i = 0; i < 2000; i++)
        fputc('a' + (i * i / 7 + i) % 23, f);
    fclose(f);
    return path;
}

static float *gradients(mri_session *s)
{
    mri_step_result r;
    mr_err err = MR_ERR_INIT;
    size_t n = s->params.trainable * sizeof(float);
    float *g = mri_alloc(n);
    kit_ok(mri_session_gradients(s, &r, &err), &err, "gradients");
    kit_ok(mri_device_read(&s->device, g, s->params.grads, n, &err), &err, "read");
    return g;
}

/* split: weight gradients in a phase of their own; tied: the embedding is the head too, so two
 * blocks add to one gradient, which therefore must not be written */
static void check(bool split, bool tied, const char *micro_batches, bool poison)
{
    char *path = text_file(), *data = mri_format("data.text.path=%s", path);
    char *batch = mri_format("train.global_batch=%s", micro_batches);
    const char *sets[] = { "model.vocab=256", data, batch,
                           split ? "train.split_weight_gradient=true"
                                 : "train.split_weight_gradient=false",
                           tied ? "model.llama4.tie=true" : "model.llama4.tie=false", NULL };
    mri_session_options o = { .needs = MRI_NEED_UPDATE | MRI_NEED_DATA };
    tiny t = tiny_open("ref", o, sets);
    mri_session *s = t.s;
    uint64_t zeroed = 0, gaps = s->params.trainable;
    for (size_t i = 0; i < s->train->zeroed.n; i++)
        zeroed += s->train->zeroed.v[i].n;
    cr_assert(zeroed < s->params.trainable / 2, "%llu of %llu elements are still zeroed",
              (unsigned long long)zeroed, (unsigned long long)gaps);
    float *clean = gradients(s); /* memory comes zeroed */
    if (poison)
        for (size_t i = 0; i < s->params.slots.n; i++) {
            const mri_tensor_slot *x = &s->params.slots.v[i];
            mr_err err = MR_ERR_INIT;
            kit_ok(s->device.ops->fill(s->device.dev, s->device.stream,
                                       mri_params_grad(&s->params, x), 0xff, x->n * sizeof(float),
                                       &err), &err, "poison");
        }
    float *again = gradients(s);
    for (uint64_t i = 0; i < s->params.trainable; i++)
        cr_assert(clean[i] == again[i], "element %llu: %.9g, then %.9g", (unsigned long long)i,
                  (double)clean[i], (double)again[i]);
    free(clean);
    free(again);
    tiny_close(&t);
    remove(path);
    free(path);
    free(data);
    free(batch);
}

Test(first_gradients, do_not_depend_on_what_was_there)
{
    check(false, false, "2", true);
    check(false, false, "6", true);
}

Test(first_gradients, nor_where_weight_gradients_come_later)
{
    check(true, false, "4", true);
}

Test(first_gradients, shared_by_two_blocks_are_zeroed)
{
    check(false, true, "4", true);
}
