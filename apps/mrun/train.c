/* SPDX-License-Identifier: Apache-2.0
 *
 * train.c - job `train`: the loop around mri_step_begin() and mri_step_end(). Order of a step (as
 * Megatron's): train, log, validate, save and stop decisions.
 *
 * Started again in its folder (run_folder.h) a run resumes from the newest checkpoint, with the
 * loss curve that it would have had; finished, it says so.
 */
#include "answers.h"
#include "core/run/step.h"
#include "core/run/replicas.h"
#include "ranks.h"
#include "run_folder.h"
#include "trace.h"
#include "train.h"
#include "train_run.h"
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- signals: SIGINT finishes the step and saves, twice stops; SIGTERM is pre-emption ------ */

static volatile sig_atomic_t stop_signal, save_signal;

static void on_signal(int n)
{
    if (n == SIGUSR1) {
        save_signal = 1;
        return;
    }
    if (n == SIGINT && stop_signal == SIGINT)
        _exit(EXIT_INT);
    stop_signal = n;
}

/* The handler gets a stack of its own: a product library's generated kernels move the stack
 * pointer into their workspace, and a signal frame pushed there overwrites the heap. */
static void catch_signals(void)
{
    static char stack[1 << 16];
    stack_t alternate = { .ss_sp = stack, .ss_size = sizeof stack };
    struct sigaction sa = { .sa_handler = on_signal, .sa_flags = SA_RESTART | SA_ONSTACK };
    sigaltstack(&alternate, NULL);
    sigaction(SIGINT, &sa, NULL);
    sigaction(SIGTERM, &sa, NULL);
    sigaction(SIGUSR1, &sa, NULL);
    signal(SIGXFSZ, SIG_IGN); /* a file at its limit is an error of write(), as a full disk is */
}

/* ---- one run --------------------------------------------------------------------------------- */

static bool first_rank(const train_run *r)
{
    return mri_world_first(r->a->world);
}

/* Signals reach each rank at a time of its own: all do what any of them was told. */
static mr_status hear(train_run *r, mr_err *err)
{
    mri_world *w = r->a->world;
    int32_t mine[2] = { stop_signal, save_signal };
    r->stop = mine[0];
    r->save_now = mine[1];
    if (mri_world_alone(w))
        return 0;
    int32_t *all = mri_alloc(w->mesh.world * sizeof mine);
    mr_status st = mri_world_gather(w, mine, sizeof mine, all, err);
    for (uint32_t i = 0; i < w->mesh.world && !st; i++) {
        r->stop = all[2 * i] > r->stop ? all[2 * i] : r->stop;
        r->save_now |= all[2 * i + 1];
    }
    free(all);
    return st;
}

mr_status train_save(train_run *r, mr_err *err)
{
    if (r->saved_at == r->s->done.step)
        return 0;
    bool behind = r->c->checkpoint.async != 0;
    int64_t keep = r->c->checkpoint.keep;
    mr_status st = behind ? mri_session_save_behind(r->s, r->checkpoints, keep, err)
                          : mri_session_save(r->s, r->checkpoints, keep, err);
    if (!st)
        r->saved_at = r->s->done.step;
    if (!st && !behind)
        app_sinks_event(&r->sinks, "checkpoint", r->s->done.step, NULL, 0, NULL);
    return st;
}

/* Tells of a checkpoint that was written behind the steps; `wait`: of the one under way too. */
mr_status train_hear_of_saved(train_run *r, bool wait, mr_err *err)
{
    int64_t step;
    mr_status st = mri_session_saved(r->s, wait, &step, err);
    if (!st && step >= 0)
        app_sinks_event(&r->sinks, "checkpoint", step, NULL, 0, NULL);
    return st;
}

/* Every validation set, whole or eval_steps micro-batches of it. */
static mr_status validate(train_run *r, mr_err *err)
{
    for (uint32_t i = 0;; i++) {
        mr_data_set set = { .size = sizeof set };
        mr_err past = MR_ERR_INIT;
        double nll, bpb;
        uint32_t n = 0;
        answers x = { 0 };
        if (r->s->data_ops->set(r->s->data, i, &set, &past))
            return 0;
        if (strncmp(set.name, "valid", 5))
            continue;
        const mri_cfg_train *t = &r->c->train;
        mr_status st = mri_session_evaluate(r->s, i, t->eval_steps, &nll, &bpb, err);
        if (!st && set.choices > 1)
            st = answers_choose(r->s, i, t->eval_steps * t->micro_batch, &x, err);
        if (st)
            return st;
        mr_metric m[3] = { { "val_loss", nll } };
        n = 1;
        if (bpb > 0)
            m[n++] = (mr_metric){ "bits_per_byte", bpb };
        if (set.choices > 1)
            m[n++] = (mr_metric){ "accuracy", x.accuracy };
        answers_free(&x);
        app_sinks_event(&r->sinks, "eval", r->s->done.step, m, n,
                        strcmp(set.name, "valid") ? set.name : NULL);
    }
}

void train_log_step(train_run *r, const mri_step_result *x, double seconds)
{
    mr_metric m[24];
    uint32_t n = 0;
    m[n++] = (mr_metric){ "loss", x->loss };
    m[n++] = (mr_metric){ "grad_norm", x->grad_norm };
    m[n++] = (mr_metric){ "lr", x->lr };
    m[n++] = (mr_metric){ "ms", 1e3 * seconds };
    m[n++] = (mr_metric){ "tokens_per_s", (double)x->tokens / seconds };
    if (r->peak_flops > 0)
        m[n++] = (mr_metric){ "mfu", r->step_flops * (double)x->tokens / seconds / r->peak_flops };
    m[n++] = (mr_metric){ "memory_bytes", (double)r->memory };
    m[n++] = (mr_metric){ "samples", (double)x->samples_done };
    for (uint32_t k = 0; k < x->n_aux; k++)
        m[n++] = (mr_metric){ x->aux_name[k], x->aux[k] };
    app_sinks_event(&r->sinks, "step", x->step, m, n, NULL);
}

/* Awaits the oldest step under way. A step's time is that between two such ends. */
static mr_status end_step(train_run *r, mr_err *err)
{
    const mri_cfg_train *t = &r->c->train;
    mri_step_result x;
    mr_status st = mri_step_end(r->s, &x, err);
    double now = app_now(), seconds = now - r->clock;
    r->clock = now;
    if (st)
        return st;
    bool judged;
    if (x.ok && (x.step == t->steps || x.step % t->log_every == 0 || x.step == r->record.step))
        train_log_step(r, &x, seconds);
    if ((st = train_judge(r, &x, &judged, err)) || judged)
        return st;
    return x.ok ? 0 : train_bad_step(r, &x, err);
}

static bool due(int64_t step, int64_t every)
{
    return every && step % every == 0;
}

/* On a device that computes by itself one step is always under way while the host reads the
 * next batch and logs the last one; where something looks at the weights all are awaited. */
static mr_status loop(train_run *r, mr_err *err)
{
    const mri_cfg_train *t = &r->c->train;
    uint32_t ahead = r->s->device.host_memory || r->s->train->trace ? 0 : 1;
    mr_status st = 0;
    r->clock = app_now();
    while (r->s->done.step < t->steps) {
        MR_TRY(hear(r, err));
        if (r->stop)
            break;
        MR_TRY(train_hear_of_saved(r, false, err));
        MR_TRY(app_spoil(r->c, r->s->done.step + 1, &r->spoilt, &r->s->spoil, err));
        MR_TRY(mri_step_begin(r->s, err));
        int64_t step = r->s->done.step;
        bool last = step == t->steps, eval = t->eval_every && (last || due(step, t->eval_every));
        bool keep = due(step, r->c->checkpoint.every);
        bool local = due(step, r->c->checkpoint.local_every) && r->c->checkpoint.local_dir;
        bool look = due(step, r->c->run.check_replicas);
        bool settle = eval || keep || local || look || r->save_now || last ||
                      step == r->record.step;
        while (mri_steps_pending(r->s) > (settle ? 0 : ahead))
            MR_TRY(end_step(r, err));
        if (look) /* before what is wrong is saved */
            MR_TRY(mri_world_agree(r->a->world, mri_replicas_check(r->s, err), err));
        if (eval)
            MR_TRY(validate(r, err));
        if (keep || (r->save_now && !mri_steps_pending(r->s))) {
            save_signal = 0;
            MR_TRY(train_hear_of_saved(r, true, err));
            MR_TRY(train_save(r, err));
        } else if (local) {
            MR_TRY(mri_session_save_local(r->s, err));
        }
        if (eval || keep || local || look)
            r->clock = app_now();
    }
    while (mri_steps_pending(r->s))
        MR_TRY(end_step(r, err));
    MR_TRY(train_hear_of_saved(r, true, err));
    if (r->stop || r->c->checkpoint.save_at_end)
        MR_TRY(train_save(r, err));
    MR_TRY(train_hear_of_saved(r, true, err));
out:
    return st;
}

/* What the device's products reach at best: as it declares, else measured (0.1 s). The model-
 * flop utilisation is flops a token x tokens a second / this. */
static double peak_flops(const mri_session *s)
{
    const mr_device_info *i = &s->device.info;
    const mr_backend_ops *ops = s->device.ops;
    bool bf16 = !strcmp(s->model_dtype, "bf16");
    double declared = bf16 ? i->peak_flops_bf16 : i->peak_flops_f32;
    const mr_probe *probe = MR_CAN(ops, ext) ? ops->ext(s->device.dev, MR_EXT_PROBE) : NULL;
    if (declared > 0 || !probe)
        return declared;
    return bf16 ? probe->flops_bf16(s->device.dev) : probe->flops_f32(s->device.dev);
}

static mr_status resume(train_run *r, mr_err *err)
{
    bool found;
    mr_status st = mri_session_resume(r->s, r->checkpoints, &found, &r->saved_at, err);
    return st || found ? st : mri_session_init_weights(r->s, err);
}

static void say_start(train_run *r)
{
    mri_memory m;
    mri_session_memory(r->s, &m);
    r->memory = m.parameters + m.optimizer + m.arena + m.states;
    char *mem = mri_bytes_text((double)r->memory);
    char *text = mri_format("%.3f M parameters in %zu tensors, %s (%s), %s of memory, "
                            "%.2f Mflop a token (model flops: forward + backward)",
                            (double)r->s->params.count / 1e6, r->s->params.slots.n,
                            r->s->device.info.name ? r->s->device.info.name : "device",
                            r->s->model_dtype, mem, r->step_flops / 1e6);
    app_sinks_event(&r->sinks, "start", r->s->done.step, NULL, 0, text);
    free(text);
    free(mem);
}

/* Where a validation set has choices: RUN_DIR/answers.html, of as many samples as validation. */
static mr_status write_answers(train_run *r, mr_err *err)
{
    const mri_cfg_train *t = &r->c->train;
    mri_str html = { 0 };
    answers x = { 0 };
    char *path = mri_format("%s/answers.html", r->c->run.dir);
    mr_status st = answers_find(r->s, t->eval_steps * t->micro_batch, &x, err);
    if (!first_rank(r))
        x.n = 0;
    if (!st && x.n)
        st = answers_page(r->s, &x, &html, err);
    if (!st && x.n)
        st = mri_write_file_atomic(path, html.s, html.n, err);
    if (!st && x.n && !r->a->quiet)
        fprintf(stderr, "mrun: %lld of %lld held-out pictures named rightly; %s shows them\n",
                (long long)x.right, (long long)x.n, path);
    answers_free(&x);
    mri_str_free(&html);
    free(path);
    return st;
}

static bool has_sample(const mri_config *c)
{
    return c->train.sample_prompt && *c->train.sample_prompt;
}

mri_session_options app_train_options(const mri_config *c)
{
    mri_session_options o = { .needs = MRI_NEED_TRAIN | MRI_NEED_UPDATE | MRI_NEED_DATA |
                                       MRI_NEED_TOKENIZER | MRI_NEED_EVAL,
                              .slots = 1,
                              .guard = !strcmp(c->debug.mode, "step") };
    if (has_sample(c)) {
        o.needs |= MRI_NEED_DECODE;
        o.prefill_tokens = 32;
        o.max_seq = (int64_t)strlen(c->train.sample_prompt) + 8 + c->train.sample_tokens;
    }
    return o;
}

int job_train(app *a, mri_config *c)
{
    mr_err err = MR_ERR_INIT;
    mr_status st = 0;
    train_run r = { .a = a, .c = c, .saved_at = -1 };
    app_trace trace_ctx = { true };
    mri_trace trace = { app_trace_step, &trace_ctx, true, c->debug.poison != 0 };
    bool fork = false, finished = false, first = first_rank(&r);
    mri_session_options o = app_train_options(c);
    o.world = a->world;
    r.checkpoints = c->checkpoint.dir ? mri_strdup(c->checkpoint.dir)
                                      : mri_format("%s/checkpoints", c->run.dir);
    if (first || !mri_world_threads(a->world))
        catch_signals();
    if (first)
        st = run_folder_check(c, &fork, &err);
    if (first && !st)
        st = run_folder_make(r.checkpoints, &err);
    MR_TRY(mri_world_agree(a->world, st, &err));
    MR_TRY(mri_world_agree(a->world, mri_session_open(a->registry, c, &o, &r.s, &err), &err));
    MR_TRY(app_as_first(a->world, &fork, sizeof fork, &err));
    st = fork ? run_folder_fork(r.s, r.checkpoints, &r.saved_at, &err) : resume(&r, &err);
    MR_TRY(mri_world_agree(a->world, st, &err));
    /* what only a local checkpoint has is saved for all yet */
    finished = r.s->done.step >= c->train.steps && r.saved_at == r.s->done.step;
    if (finished && !first)
        goto out;
    if (finished) {
        fprintf(stderr, "mrun: %s is finished: %lld of %lld steps; choose another run.dir to start "
                "anew\n", c->run.dir, (long long)r.s->done.step,
                (long long)c->train.steps);
        goto out;
    }
    if (first)
        st = run_folder_claim(c, &err);
    if (first && !st)
        st = app_sinks_open(&r.sinks, a, c, r.s->done.step, &err);
    MR_TRY(mri_world_agree(a->world, st, &err));
    if (o.guard)
        r.s->train->trace = &trace;
    else if (c->debug.poison) {
        trace.fn = NULL;
        trace.guard = false;
        r.s->train->trace = &trace;
    }
    r.peak_flops = peak_flops(r.s);
    r.step_flops = mri_exec_model_flops(r.s->train) / (double)r.s->train->opt.tokens;
    say_start(&r);
    MR_TRY(app_record_read(r.s, &r.record, &err));
    MR_TRY(loop(&r, &err));
    app_sinks_event(&r.sinks, "end", r.s->done.step, NULL, 0, NULL);
    if (!r.stop)
        MR_TRY(write_answers(&r, &err));
    if (has_sample(c) && !r.stop)
        st = app_print_sample(r.s, c->train.sample_prompt, c->train.sample_tokens, &err);
out:
    st = st ? mri_world_fail(a->world, st, &err) : mri_world_agree(a->world, 0, &err);
    app_sinks_close(&r.sinks);
    mri_session_close(r.s);
    free(r.checkpoints);
    if (st)
        return app_fail(a, &err);
    return r.stop == SIGTERM ? EXIT_TERM : r.stop == SIGINT ? EXIT_INT : EXIT_OK;
}
