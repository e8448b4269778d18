/* SPDX-License-Identifier: Apache-2.0
 *
 * Checkpoints made of shares, as several ranks write them, by a session that is alone: of every
 * kind, at once or behind training, a session goes on from them as if it had never stopped; and
 * one of another layout, or one that was given up, changes nothing.
 */
#include "../plan/tiny.h"
#include "core/run/local.h"
#include "core/run/saver.h"
#include "tests/unit/store/scratch.h"

static const char *const recipes[][2] = {
    { "precision.recipe=fp32", "precision.masters=f32" },
    { "precision.recipe=bf16", "precision.masters=f32" },
    { "precision.recipe=bf16", "precision.masters=remainder" },
};
enum { RECIPES = 3 };

static kit open_as(int recipe, const char *groups)
{
    const char *sets[64] = { "backend.plugin=cpu", "optimizer.plugin=adamw", "train.micro_batch=2",
                             groups ? groups : "optimizer.groups=*.o_proj.weight:lr_mult=0.5",
                             recipes[recipe][0], recipes[recipe][1], TINY_MODEL };
    mri_session_options o = { .needs = MRI_NEED_TRAIN | MRI_NEED_UPDATE };
    mr_err err = MR_ERR_INIT;
    kit k = kit_open(NULL, sets, o);
    kit_ok(mri_session_init_weights(k.session, &err), &err, "weights");
    return k;
}

/* Updates on made-up gradients: equal for equal steps. */
static void take_steps(mri_session *s, int first, int last)
{
    for (int step = first; step <= last; step++) {
        mr_err err = MR_ERR_INIT;
        mri_update_result u;
        for (size_t i = 0; i < s->params.slots.n; i++) {
            float *g = mri_params_grad(&s->params, &s->params.slots.v[i]); /* cpu: host memory */
            for (uint64_t k = 0; g && k < s->params.slots.v[i].n; k++)
                g[k] = 0.01f * sinf((float)(k * 7 + i * 13 + (uint64_t)step * 31));
        }
        kit_ok(mri_update_run(s->update, 3e-3, 0.1, step, &u, &err), &err, "step");
        cr_assert(u.ok);
        s->done.step = step;
    }
}

/* weights, exact values and states, to the bit */
static void same_state(mri_session *a, mri_session *b)
{
    mr_err err = MR_ERR_INIT;
    const mri_params *p = &a->params, *q = &b->params;
    cr_assert_eq(a->done.step, b->done.step);
    cr_assert(!memcmp(p->weights, q->weights, p->total * mr_dtype_bytes(p->dtype)), "weights");
    for (size_t i = 0; i < p->slots.n; i++) {
        const mri_tensor_slot *s = &p->slots.v[i];
        char *x = mri_alloc(s->n * 8), *y = mri_alloc(s->n * 8);
        kit_ok(mri_params_get(p, &a->device, s, x, &err), &err, s->name);
        kit_ok(mri_params_get(q, &b->device, &q->slots.v[i], y, &err), &err, s->name);
        cr_assert(!memcmp(x, y, s->n * mr_dtype_bytes(mri_params_exact_dtype(p, s))), "%s",
                  s->name);
        free(x);
        free(y);
    }
    cr_assert_gt(a->update->states.n, 0);
    for (size_t i = 0; i < a->update->states.n; i++) {
        const mri_opt_state *x = &a->update->states.v[i], *y = &b->update->states.v[i];
        cr_assert(!memcmp(x->data, y->data, p->groups.v[x->group].n * 4), "%s", x->name);
    }
}

static void save(kit *k, enum mri_shares_kind kind, const char *dir, bool behind)
{
    mr_err err = MR_ERR_INIT;
    if (!k->session->saver)
        k->session->saver = mri_saver_create(k->session);
    kit_ok(mri_saver_begin(k->session->saver, NULL, NULL, kind, dir, 0, behind, &err), &err,
           "save");
}

static void load_newest(kit *k, const char *dir)
{
    mr_err err = MR_ERR_INIT;
    mri_checkpoint *c;
    kit_ok(mri_checkpoint_open_newest(dir, &c, &err), &err, "open");
    cr_assert_not_null(c);
    kit_ok(mri_session_load(k->session, c, false, &err), &err, "load");
    mri_checkpoint_close(c);
}

Test(shared_checkpoints, every_kind_goes_on_as_if_never_stopped)
{
    for (int r = 0; r < RECIPES; r++)
        for (int kind = 0; kind < 3; kind++) {
            char *dir = scratch_make();
            kit a = open_as(r, NULL), b = open_as(r, NULL);
            take_steps(a.session, 1, 3);
            save(&a, kind, dir, false);
            load_newest(&b, dir);
            same_state(a.session, b.session);
            take_steps(a.session, 4, 5);
            take_steps(b.session, 4, 5);
            same_state(a.session, b.session);
            kit_close(&a);
            kit_close(&b);
            scratch_drop(dir);
        }
}

/* f32 masters, whole or as halves, and fp32 weights are the same logical tensors */
Test(shared_checkpoints, logical_tensors_go_from_recipe_to_recipe)
{
    char *dir = scratch_make();
    kit a = open_as(1, NULL), b = open_as(2, NULL);
    mr_err err = MR_ERR_INIT;
    take_steps(a.session, 1, 2);
    save(&a, MRI_SHARES_LOGICAL, dir, false);
    load_newest(&b, dir);
    for (size_t i = 0; i < a.session->params.slots.n; i++) {
        const mri_tensor_slot *s = &a.session->params.slots.v[i];
        float *x = mri_alloc(s->n * sizeof *x), *y = mri_alloc(s->n * sizeof *y);
        kit_ok(mri_params_get(&a.session->params, &a.session->device, s, x, &err), &err, s->name);
        kit_ok(mri_params_get(&b.session->params, &b.session->device,
                              &b.session->params.slots.v[i], y, &err), &err, s->name);
        cr_assert(!memcmp(x, y, s->n * sizeof *x), "%s", s->name);
        free(x);
        free(y);
    }
    kit_close(&a);
    kit_close(&b);
    scratch_drop(dir);
}

/* What a process alone saves in its own format, read share by share. */
Test(shared_checkpoints, a_checkpoint_of_one_process_is_read_by_shares)
{
    char *dir = scratch_make();
    kit a = open_as(0, NULL), b = open_as(0, NULL);
    mr_err err = MR_ERR_INIT;
    mri_checkpoint *c;
    take_steps(a.session, 1, 2);
    kit_ok(mri_session_save(a.session, dir, 0, &err), &err, "save");
    kit_ok(mri_checkpoint_open_newest(dir, &c, &err), &err, "open");
    cr_assert_null(mri_checkpoint_format(c));
    kit_ok(mri_shares_load(b.session, NULL, c, false, &err), &err, "load");
    b.session->done.step = 2;
    same_state(a.session, b.session);
    mri_checkpoint_close(c);
    kit_close(&a);
    kit_close(&b);
    scratch_drop(dir);
}

/* ---- behind training ----------------------------------------------------------------------- */

Test(shared_checkpoints, what_is_saved_behind_is_what_was_there_when_it_began)
{
    for (int r = 0; r < RECIPES; r++) {
        char *dir = scratch_make();
        kit a = open_as(r, NULL), b = open_as(r, NULL), c = open_as(r, NULL);
        mr_err err = MR_ERR_INIT;
        int64_t step;
        take_steps(a.session, 1, 3);
        take_steps(b.session, 1, 3);
        save(&a, MRI_SHARES_LOGICAL, dir, true);
        take_steps(a.session, 4, 5);
        kit_ok(mri_session_saved(a.session, true, &step, &err), &err, "saved");
        cr_assert_eq(step, 3);
        load_newest(&c, dir);
        same_state(b.session, c.session);
        kit_ok(mri_session_saved(a.session, true, &step, &err), &err, "saved");
        cr_assert_eq(step, -1);
        save(&a, MRI_SHARES_LOGICAL, dir, true); /* by the same thread, with the same memory */
        kit_ok(mri_session_saved(a.session, true, &step, &err), &err, "saved");
        cr_assert_eq(step, 5);
        load_newest(&c, dir);
        same_state(a.session, c.session);
        kit_close(&a);
        kit_close(&b);
        kit_close(&c);
        scratch_drop(dir);
    }
}

Test(shared_checkpoints, one_that_is_given_up_hurts_none_before_it)
{
    char *dir = scratch_make();
    kit a = open_as(0, NULL), b = open_as(0, NULL), c = open_as(0, NULL);
    take_steps(a.session, 1, 2);
    take_steps(b.session, 1, 2);
    save(&a, MRI_SHARES_LOGICAL, dir, false);
    take_steps(a.session, 3, 3);
    save(&a, MRI_SHARES_LOGICAL, dir, true);
    mri_saver_abort(a.session->saver);
    load_newest(&c, dir);
    same_state(b.session, c.session);
    take_steps(a.session, 4, 4);
    save(&a, MRI_SHARES_LOGICAL, dir, true);
    kit_close(&a); /* gives up what is under way */
    load_newest(&c, dir);
    same_state(b.session, c.session);
    kit_close(&b);
    kit_close(&c);
    scratch_drop(dir);
}

static void fail_here(const char *what, const char *path, uint64_t n)
{
    (void)n;
    if (!strcmp(what, "create") && strstr(path, "optimizer"))
        scratch_put(path, "in the way", 10); /* must not exist yet: the create fails */
}

Test(shared_checkpoints, an_error_of_a_save_behind_comes_with_the_next_question)
{
    char *dir = scratch_make();
    kit a = open_as(0, NULL);
    mr_err err = MR_ERR_INIT;
    int64_t step, *steps;
    size_t n;
    take_steps(a.session, 1, 1);
    mri_store_fault_hook = fail_here;
    save(&a, MRI_SHARES_LOGICAL, dir, true);
    cr_assert_eq(mri_session_saved(a.session, true, &step, &err), MR_E_STORE_IO, "%s", err.what);
    cr_assert_not_null(strstr(err.what, "optimizer"), "%s", err.what);
    mri_store_fault_hook = NULL;
    cr_assert_eq(mri_checkpoint_list(dir, &steps, &n, &err), 0);
    cr_assert_eq(n, 0);
    free(steps);
    save(&a, MRI_SHARES_LOGICAL, dir, true); /* and the next one goes through */
    kit_ok(mri_session_saved(a.session, true, &step, &err), &err, "saved");
    cr_assert_eq(step, 1);
    kit_close(&a);
    scratch_drop(dir);
}

/* ---- layouts, and local ones ------------------------------------------------------------------ */

Test(shared_checkpoints, ranges_of_another_grouping_are_refused)
{
    for (int kind = MRI_SHARES_FLAT; kind <= MRI_SHARES_LOCAL; kind++) {
        char *dir = scratch_make();
        kit a = open_as(0, NULL), b = open_as(0, "optimizer.groups=*.q_proj.weight:lr_mult=0.5");
        mr_err err = MR_ERR_INIT;
        mri_checkpoint *c;
        take_steps(a.session, 1, 1);
        save(&a, kind, dir, false);
        kit_ok(mri_checkpoint_open_newest(dir, &c, &err), &err, "open");
        cr_assert_eq(mri_session_load(b.session, c, false, &err), MR_E_STORE_LAYOUT, "%s",
                     err.what);
        cr_assert_not_null(strstr(err.detail, mri_checkpoint_layout(c)), "%s", err.detail);
        if (kind == MRI_SHARES_FLAT) /* its weights are logical tensors */
            kit_ok(mri_session_load(b.session, c, true, &err), &err, "weights");
        mri_checkpoint_close(c);
        kit_close(&a);
        kit_close(&b);
        scratch_drop(dir);
    }
}

Test(shared_checkpoints, the_newest_local_one_that_is_whole_counts)
{
    char *dir = scratch_make();
    kit a = open_as(1, NULL), b = open_as(1, NULL), c = open_as(1, NULL);
    mr_err err = MR_ERR_INIT;
    mri_checkpoint *ck;
    take_steps(a.session, 1, 3);
    take_steps(b.session, 1, 3);
    kit_ok(mri_local_save(a.session, NULL, NULL, dir, &err), &err, "save");
    take_steps(a.session, 4, 4);
    kit_ok(mri_local_save(a.session, NULL, NULL, dir, &err), &err, "save");
    kit_ok(mri_local_open(NULL, dir, 2, &ck, &err), &err, "open");
    cr_assert_eq(mri_checkpoint_info(ck)->step, 4);
    mri_checkpoint_close(ck);
    kit_ok(mri_local_open(NULL, dir, 4, &ck, &err), &err, "open");
    cr_assert_null(ck, "an older one than the checkpoint of all");
    char *path = mri_format("%s/rank-00000-of-00001/step-00000004/model-00000.safetensors", dir);
    size_t n;
    char *text = scratch_get(path, &n);
    text[n - 1] ^= 1;
    scratch_put(path, text, n);
    kit_ok(mri_local_open(NULL, dir, 2, &ck, &err), &err, "open");
    cr_assert_eq(mri_checkpoint_info(ck)->step, 3);
    kit_ok(mri_session_load(c.session, ck, false, &err), &err, "load");
    same_state(b.session, c.session);
    mri_checkpoint_close(ck);
    free(path);
    free(text);
    kit_close(&a);
    kit_close(&b);
    kit_close(&c);
    scratch_drop(dir);
}
