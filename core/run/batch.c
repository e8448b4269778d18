/* SPDX-License-Identifier: Apache-2.0
 *
 * batch.c - samples into micro-batches, and what is computed from them: a training step,
 * gradients alone, validation, scores, cached decoding.
 */
#include "core/schedule/lr.h"
#include "core/schedule/schedule.h"
#include "session.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Host arrays of one micro-batch of up to B samples of S tokens, flattened to T = B*S. */
typedef struct micro {
    int32_t *tokens, *targets, *positions, *seq_start, *slot;
    float *weight;
    int64_t t;
} micro;

static micro micro_new(int64_t t)
{
    micro m = { .t = t };
    m.tokens = mri_alloc((size_t)t * 4);
    m.targets = mri_alloc((size_t)t * 4);
    m.positions = mri_alloc((size_t)t * 4);
    m.seq_start = mri_alloc((size_t)t * 4);
    m.slot = mri_alloc((size_t)t * 4);
    m.weight = mri_alloc((size_t)t * 4);
    return m;
}

static void micro_free(micro *m)
{
    free(m->tokens);
    free(m->targets);
    free(m->positions);
    free(m->seq_start);
    free(m->slot);
    free(m->weight);
}

static mri_batch micro_batch(const micro *m, bool decode)
{
    return (mri_batch){ m->tokens, m->positions, m->seq_start, m->targets,
                        decode ? m->slot : NULL, m->weight };
}

/* Rows without a sample: single-token sequences that count for nothing. */
static void micro_blank(micro *m, int64_t from)
{
    for (int64_t i = from; i < m->t; i++) {
        m->tokens[i] = m->targets[i] = m->positions[i] = 0;
        m->seq_start[i] = (int32_t)i;
        m->weight[i] = 0;
        m->slot[i] = -1;
    }
}

/* Samples first, first+1, ... of a set, one a row; rows past `limit` stay blank. */
static mr_status micro_read(mri_session *s, micro *m, uint32_t set, int64_t first, int64_t limit,
                            double *weight, mr_err *err)
{
    int64_t seq = s->config->train.seq, rows = m->t / seq;
    for (int64_t r = 0; r < rows; r++) {
        int64_t at = r * seq;
        if (limit >= 0 && first + r >= limit) {
            micro_blank(m, at);
            return 0;
        }
        mr_sample x = { sizeof x, 0, m->tokens + at, m->targets + at, m->positions + at,
                        m->seq_start + at, m->weight + at };
        mr_status st = s->data_ops->read(s->data, set, first + r, &x, err);
        if (st)
            return st;
        for (int64_t i = 0; i < seq; i++) {
            m->seq_start[at + i] += (int32_t)at;
            *weight += m->weight[at + i];
            if (m->tokens[at + i] < 0 || m->tokens[at + i] >= s->info.vocab)
                return mr_fail(err, MR_E_DATA_FORMAT, MR_BLAME_USER,
                               "sample %lld has token %d, the model's vocabulary is %lld",
                               (long long)(first + r), m->tokens[at + i], (long long)s->info.vocab);
        }
    }
    return 0;
}

uint32_t mri_session_find_set(mri_session *s, const char *name, mr_data_set *out)
{
    for (uint32_t i = 0;; i++) {
        mr_err e = MR_ERR_INIT;
        memset(out, 0, sizeof *out);
        out->size = sizeof *out;
        if (s->data_ops->set(s->data, i, out, &e))
            return UINT32_MAX;
        if (!strcmp(out->name, name))
            return i;
    }
}

/* Adds one micro-batch's losses to the step's: the block that has "lm_loss" is the loss, all
 * others are reported by name, averaged over the instances that have them. */
static mr_status add_losses(const mri_exec *e, mri_step_result *r, mr_err *err)
{
    float *x = mri_alloc((e->losses.n + 1) * sizeof *x);
    mr_status st = mri_exec_losses((mri_exec *)(uintptr_t)e, x, err);
    for (size_t i = 0; i < e->losses.n && !st; i++) {
        const char *name = e->losses.v[i].name;
        if (!strcmp(name, "lm_loss")) {
            r->loss += x[i];
            continue;
        }
        uint32_t k = 0, instances = 0;
        while (k < r->n_aux && strcmp(r->aux_name[k], name))
            k++;
        if (k == 8)
            continue;
        if (k == r->n_aux)
            r->aux_name[r->n_aux++] = name;
        for (size_t j = 0; j < e->losses.n; j++)
            instances += !strcmp(e->losses.v[j].name, name);
        r->aux[k] += x[i] / instances;
    }
    free(x);
    return st;
}

/* Forward and backward of a whole global batch, gradients summed into the main gradients. */
static mr_status accumulate(mri_session *s, int64_t rows, mri_step_result *r, mr_err *err)
{
    const mri_cfg_train *t = &s->config->train;
    int64_t n = (rows + t->micro_batch - 1) / t->micro_batch, first = s->done.samples;
    bool per_token = strcmp(t->loss, "per_micro_batch") != 0;
    micro *m = mri_alloc((size_t)n * sizeof *m);
    double *weight = mri_alloc((size_t)n * sizeof *weight);
    static const uint8_t phase_of[] = { 0, MRI_F, MRI_B, MRI_W, 0 };
    mri_schedule plan = { 0 };
    mr_data_set set;
    mr_status st = 0;
    uint32_t train = mri_session_find_set(s, "train", &set);
    if (train == UINT32_MAX) {
        st = mr_fail(err, MR_E_DATA_SHORT, MR_BLAME_USER, "the data plugin has no set 'train'");
        goto out;
    }
    for (int64_t i = 0; i < n; i++) {
        m[i] = micro_new(t->micro_batch * t->seq);
        MR_TRY(micro_read(s, &m[i], train, first + i * t->micro_batch, first + rows, &weight[i],
                          err));
        r->weight += weight[i];
    }
    r->samples = rows;
    r->tokens = rows * t->seq;
    MR_TRY(mri_update_zero_grads(s->update, err));
    mri_schedule_single(&plan, (uint32_t)s->train->frames.n, (uint32_t)n,
                        s->train->opt.plan.split_w);
    for (size_t k = 0; k < plan.items.n; k++) {
        const mri_item *it = &plan.items.v[k];
        uint32_t i = it->micro_batch;
        if (it->kind == MRI_ITEM_LOAD) {
            mri_batch b = micro_batch(&m[i], false);
            double scale = per_token ? r->weight : (weight[i] > 1 ? weight[i] : 1) * (double)n;
            MR_TRY(mri_scalar_set(&s->scalars, &s->device, MRI_LOSS_SEED,
                                  scale > 0 ? 1 / scale : 0, err));
            MR_TRY(mri_exec_upload(s->train, &b, err));
        } else if (it->kind == MRI_ITEM_LOSS) {
            MR_TRY(add_losses(s->train, r, err));
        } else {
            MR_TRY(mri_exec_run(s->train, it->instance, phase_of[it->kind], err));
        }
    }
    double tokens = r->weight > 0 ? r->weight : 1;
    r->loss /= tokens;
    for (uint32_t k = 0; k < r->n_aux; k++)
        r->aux[k] /= tokens;
out:
    mri_schedule_free(&plan);
    for (int64_t i = 0; i < n; i++)
        micro_free(&m[i]);
    free(m);
    free(weight);
    return st;
}

mr_status mri_session_gradients(mri_session *s, mri_step_result *out, mr_err *err)
{
    memset(out, 0, sizeof *out);
    return accumulate(s, mri_global_batch(&s->config->train, s->done.samples), out, err);
}

/* One sequence from the first row on, each token predicting the next. */
static void micro_sequence(micro *m, const int32_t *ids, int64_t n)
{
    micro_blank(m, 0);
    for (int64_t i = 0; i < n; i++) {
        m->tokens[i] = ids[i];
        m->targets[i] = i + 1 < n ? ids[i + 1] : 0;
        m->positions[i] = (int32_t)i;
        m->seq_start[i] = 0;
        m->weight[i] = i + 1 < n;
    }
}

mr_status mri_session_gradients_of(mri_session *s, const mri_batch *b, mri_step_result *out,
                                   mr_err *err)
{
    mri_params *p = &s->params;
    mr_status st = 0;
    memset(out, 0, sizeof *out);
    for (int64_t i = 0; i < s->train->opt.tokens; i++)
        out->weight += b->loss_weight[i];
    double weight = out->weight > 0 ? out->weight : 1;
    MR_TRY(s->device.ops->fill(s->device.dev, s->device.stream, p->grads, 0,
                               p->trainable * mr_dtype_bytes(p->acc_dtype), err));
    MR_TRY(mri_scalar_set(&s->scalars, &s->device, MRI_LOSS_SEED, 1 / weight, err));
    MR_TRY(mri_exec_upload(s->train, b, err));
    MR_TRY(mri_exec_forward(s->train, err));
    MR_TRY(mri_exec_backward(s->train, err));
    MR_TRY(add_losses(s->train, out, err));
    out->loss /= weight;
    for (uint32_t k = 0; k < out->n_aux; k++)
        out->aux[k] /= weight;
out:
    return st;
}

mr_status mri_session_train_step(mri_session *s, mri_step_result *out, mr_err *err)
{
    const mri_cfg_optimizer *o = &s->config->optimizer;
    mri_update_result u = { 0 };
    mr_status st = mri_session_gradients(s, out, err);
    if (st)
        return st;
    out->lr = mri_lr(o, s->done.step, s->config->train.steps);
    st = mri_update_run(s->update, out->lr, o->weight_decay, s->done.step + 1, &u, err);
    out->grad_norm = u.grad_norm;
    out->ok = u.ok;
    if (!st && out->ok) {
        s->done.step++;
        s->done.samples += out->samples;
        s->done.tokens += out->tokens;
    }
    return st;
}

mr_status mri_session_evaluate(mri_session *s, uint32_t set, int64_t steps, double *nll,
                               double *bits_per_byte, mr_err *err)
{
    mr_data_set info = { .size = sizeof info };
    int64_t rows = s->eval->opt.tokens / s->config->train.seq;
    micro m = micro_new(s->eval->opt.tokens);
    double *x = mri_alloc((size_t)m.t * sizeof *x), *raw = mri_alloc((size_t)m.t * sizeof *raw);
    double sum = 0, weight = 0;
    mr_status st = 0;
    const mr_type *type;
    MR_TRY(s->data_ops->set(s->data, set, &info, err));
    int64_t n = (info.samples + rows - 1) / rows;
    if (steps > 0 && steps < n)
        n = steps;
    for (int64_t i = 0; i < n; i++) {
        MR_TRY(micro_read(s, &m, set, i * rows, info.samples, &weight, err));
        mri_batch b = micro_batch(&m, false);
        MR_TRY(mri_exec_upload(s->eval, &b, err));
        MR_TRY(mri_exec_forward(s->eval, err));
        const void *p = mri_exec_output(s->eval, "nll", &type);
        if (!p || mr_numel(type) != m.t) {
            st = mr_fail(err, MR_E_PROGRAM, MR_BLAME_PLUGIN,
                         "no block has the output nll [T] that validation reads");
            goto out;
        }
        MR_TRY(mri_device_read(&s->device, raw, p, mr_bytes(type), err));
        MR_TRY(mri_convert(x, "f64", raw, type->dtype, (uint64_t)m.t, err));
        for (int64_t t = 0; t < m.t; t++)
            if (m.weight[t] > 0)
                sum += (double)m.weight[t] * x[t];
    }
    *nll = weight > 0 ? sum / weight : 0;
    *bits_per_byte = info.bytes_per_token > 0 ? *nll / log(2) / info.bytes_per_token : 0;
out:
    micro_free(&m);
    free(x);
    free(raw);
    return st;
}

mr_status mri_session_score(mri_session *s, const int32_t *ids, int64_t n, float *nll, float *logits,
                            mr_err *err)
{
    micro m = micro_new(s->eval->opt.tokens);
    float *x = NULL;
    void *raw = NULL;
    mr_status st = 0;
    const mr_type *type;
    if (n > m.t) {
        st = mr_fail(err, MR_E_ARG, MR_BLAME_USER, "%lld tokens, the plan holds %lld", (long long)n,
                     (long long)m.t);
        goto out;
    }
    micro_sequence(&m, ids, n);
    mri_batch b = micro_batch(&m, false);
    MR_TRY(mri_exec_upload(s->eval, &b, err));
    MR_TRY(mri_exec_forward(s->eval, err));
    const void *p = mri_exec_output(s->eval, "nll", &type);
    if (p && n > 1) {
        x = mri_alloc(mr_bytes(type));
        MR_TRY(mri_device_read(&s->device, x, p, mr_bytes(type), err));
        MR_TRY(mri_convert(nll, "f32", x, type->dtype, (uint64_t)n - 1, err));
    }
    if (logits) {
        p = mri_exec_output(s->eval, "logits", &type);
        size_t row = (size_t)mr_last(type);
        raw = mri_alloc((size_t)n * row * mr_dtype_bytes(type->dtype));
        MR_TRY(mri_device_read(&s->device, raw, p, (size_t)n * row * mr_dtype_bytes(type->dtype),
                               err));
        MR_TRY(mri_convert(logits, "f32", raw, type->dtype, (uint64_t)n * row, err));
    }
out:
    micro_free(&m);
    free(x);
    free(raw);
    return st;
}

mr_status mri_session_decode(mri_session *s, const int32_t *ids, int64_t n, int64_t pos,
                             float *logits, mr_err *err)
{
    mr_status st = 0;
    void *raw = NULL;
    micro m[2] = { micro_new(1), { 0 } };
    if (s->prefill)
        m[1] = micro_new(s->prefill->opt.tokens);
    if (n < 1 || pos < 0 || pos + n > s->decode->opt.max_seq) {
        st = mr_fail(err, MR_E_ARG, MR_BLAME_USER, "positions %lld to %lld, the cache holds %lld",
                     (long long)pos, (long long)(pos + n), (long long)s->decode->opt.max_seq);
        goto out;
    }
    for (int64_t at = 0; at < n;) {
        bool chunk = s->prefill && n - at > 1;
        mri_exec *e = chunk ? s->prefill : s->decode;
        micro *x = &m[chunk];
        int64_t now = n - at < x->t ? n - at : x->t;
        micro_blank(x, 0);
        for (int64_t i = 0; i < now; i++) {
            x->tokens[i] = ids[at + i];
            x->positions[i] = (int32_t)(pos + at + i);
            x->seq_start[i] = 0;
            x->slot[i] = 0;
        }
        mri_batch b = micro_batch(x, true);
        MR_TRY(mri_exec_upload(e, &b, err));
        MR_TRY(mri_exec_forward(e, err));
        at += now;
        if (at < n)
            continue;
        const mr_type *type;
        const char *p = mri_exec_output(e, "logits", &type);
        size_t row = (size_t)mr_last(type) * mr_dtype_bytes(type->dtype);
        raw = mri_alloc(row);
        MR_TRY(mri_device_read(&s->device, raw, p + (size_t)(now - 1) * row, row, err));
        MR_TRY(mri_convert(logits, "f32", raw, type->dtype, (uint64_t)mr_last(type), err));
    }
out:
    micro_free(&m[0]);
    micro_free(&m[1]);
    free(raw);
    return st;
}
