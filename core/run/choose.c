/* SPDX-License-Identifier: Apache-2.0
 *
 * choose.c - see choose.h. Each choice of each sample is a row; rows fill micro-batches one after
 * the other, whatever sample they are of, so no row of a forward is idle but the last ones. Cost:
 * choices x samples sequences; log p of a row is the sum over the tokens that count.
 */
#include "choose.h"
#include "micro.h"
#include <math.h>
#include <stdlib.h>

/* One forward over the micro-batch; score[r] = log p of row r's answer. */
static mr_status score_rows(mri_session *s, const mri_micro *m, int64_t rows, double *score,
                            mr_err *err)
{
    int64_t seq = s->config->train.seq;
    mri_batch b = mri_micro_batch(m, false);
    const mr_type *type;
    float *raw = NULL, *nll = NULL;
    mr_status st = 0;
    MR_TRY(mri_exec_upload(s->eval, &b, err));
    MR_TRY(mri_graphs_forward(&s->graphs, s->eval, err));
    const void *p = mri_exec_output(s->eval, "nll", &type);
    if (!p || mr_numel(type) != m->t) {
        st = mr_fail(err, MR_E_PROGRAM, MR_BLAME_PLUGIN, "no block has the output nll [T] that "
                     "choosing reads");
        goto out;
    }
    raw = mri_alloc(mr_bytes(type));
    nll = mri_alloc((size_t)m->t * sizeof *nll);
    MR_TRY(mri_device_read(&s->device, raw, p, mr_bytes(type), err));
    MR_TRY(mri_convert(nll, "f32", raw, type->dtype, (uint64_t)m->t, err));
    for (int64_t r = 0; r < rows; r++) {
        score[r] = 0;
        for (int64_t t = r * seq; t < (r + 1) * seq; t++)
            if (m->weight[t] > 0)
                score[r] -= (double)m->weight[t] * nll[t];
    }
out:
    free(raw);
    free(nll);
    return st;
}

static void pick(const double *score, int64_t choices, mri_pick *out)
{
    double sum = 0;
    int64_t best = 0;
    for (int64_t c = 1; c < choices; c++)
        if (score[c] > score[best])
            best = c;
    for (int64_t c = 0; c < choices; c++)
        sum += exp(score[c] - score[best]);
    out->choice = best + 1;
    out->p = 1 / sum;
    out->p_answer = out->answer ? exp(score[out->answer - 1] - score[best]) / sum : 0;
}

mr_status mri_session_choose(mri_session *s, uint32_t set, int64_t first, int64_t n, mri_pick *out,
                             mr_err *err)
{
    mr_data_set info = { .size = sizeof info };
    mri_micro m = mri_micro_of(s->eval);
    int64_t rows = m.t / s->config->train.seq, answer = 0, total;
    double *score = NULL;
    mr_status st = 0;
    MR_TRY(s->data_ops->set(s->data, set, &info, err));
    if (info.choices < 2 || n < 0 || __builtin_mul_overflow(n, info.choices, &total)) {
        st = mr_fail(err, MR_E_ARG, MR_BLAME_HOST, "set %s has %lld choices", info.name,
                     (long long)info.choices);
        goto out;
    }
    score = mri_alloc((size_t)total * sizeof *score);
    for (int64_t at = 0; at < total; at += rows) {
        int64_t now = total - at < rows ? total - at : rows;
        for (int64_t r = 0; r < now; r++) {
            int64_t i = (at + r) / info.choices, c = (at + r) % info.choices;
            MR_TRY(mri_micro_read_row(s, &m, r, set, first + i, c + 1, &answer, err));
            if (answer < 0 || answer > info.choices) {
                st = mr_fail(err, MR_E_DATA_FORMAT, MR_BLAME_PLUGIN, "sample %lld answers choice "
                             "%lld of %lld", (long long)(first + i), (long long)answer,
                             (long long)info.choices);
                goto out;
            }
            out[i].answer = answer;
        }
        mri_micro_blank(&m, now * s->config->train.seq, s->whole ? s->config->train.seq : 1);
        MR_TRY(score_rows(s, &m, now, score + at, err));
    }
    for (int64_t i = 0; i < n; i++)
        pick(score + i * info.choices, info.choices, &out[i]);
out:
    mri_micro_free(&m);
    free(score);
    return st;
}
