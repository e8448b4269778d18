/* SPDX-License-Identifier: Apache-2.0
 *
 * memory.c - what a session takes of the device, from its plans: told before any of it is taken,
 * and refused, with who asks for most, where the device has less.
 */
#include "pictures.h"
#include "session.h"
#include <stdlib.h>
#include <string.h>

/* Without its optimizer (gradients alone) a session for training keeps no optimizer states. */
void mri_session_memory(const mri_session *s, mri_memory *m)
{
    const mri_exec *all[] = { s->train, s->eval, s->decode, s->prefill, s->encode };
    memset(m, 0, sizeof *m);
    m->device = s->device.info.memory_bytes;
    m->parameters = mri_params_bytes(&s->params, s->train != NULL) + mri_dp_bytes(s->dp);
    if (s->update)
        m->optimizer = s->update->state_bytes + s->update->scratch_bytes +
                       mri_feed_bytes(&s->feed);
    m->states = mri_pictures_bytes(s);
    for (int i = 0; i < 5; i++) {
        if (!all[i])
            continue;
        m->states += all[i]->state_bytes;
        if (all[i]->bytes > m->arena) {
            m->arena = all[i]->bytes;
            m->saved = all[i]->saved_bytes;
            m->edges = all[i]->edge_bytes + all[i]->grad_bytes;
            m->scratch = all[i]->scratch_bytes;
        }
    }
    if (s->train && s->train->main_bytes) { /* counted with the parameters */
        m->shared = s->train->main_clear < s->train->main_bytes ? s->train->main_clear
                                                                : s->train->main_bytes;
        m->arena -= s->train->main_bytes;
    }
}

/* The four largest buffers of the plans, with the region that asks for each. */
static void largest_buffers(const mri_exec *e, mri_str *out)
{
    uint64_t below = UINT64_MAX;
    for (int shown = 0; e && shown < 4; shown++) {
        const mri_buffer *best = NULL;
        for (size_t k = 0; k < e->plans.n; k++)
            for (size_t i = 0; i < e->plans.v[k]->buffers.n; i++) {
                const mri_buffer *b = &e->plans.v[k]->buffers.v[i];
                if (b->bytes < below && (!best || b->bytes > best->bytes))
                    best = b;
            }
        if (!best)
            return;
        below = best->bytes;
        char *text = mri_bytes_text((double)best->bytes);
        mri_str_fmt(out, "%s%s in %s (%s)", shown ? ", " : "", text,
                    *best->region ? best->region : "the block", best->op);
        free(text);
    }
}

static void largest_parameter(const mri_params *p, mri_str *out)
{
    const mri_tensor_slot *best = NULL;
    for (size_t i = 0; i < p->slots.n; i++)
        if (!best || p->slots.v[i].n > best->n)
            best = &p->slots.v[i];
    if (!best)
        return;
    char *text = mri_bytes_text((double)best->n * (double)mr_dtype_bytes(p->dtype));
    mri_str_fmt(out, "%s%s in parameter %s", out->n ? ", " : "", text, best->name);
    free(text);
}

mr_status mri_session_fits(const mri_session *s, mr_err *err)
{
    mri_memory m;
    mri_session_memory(s, &m);
    uint64_t need = m.parameters + m.optimizer + m.arena + m.states;
    if (!m.device || need <= m.device)
        return 0;
    mri_str top = { 0 };
    const mri_exec *largest = s->train ? s->train : s->eval ? s->eval : s->decode;
    largest_buffers(largest, &top);
    largest_parameter(&s->params, &top);
    char *a = mri_bytes_text((double)need), *b = mri_bytes_text((double)m.device);
    char *p = mri_bytes_text((double)(m.parameters + m.optimizer));
    char *r = mri_bytes_text((double)m.arena), *k = mri_bytes_text((double)m.states);
    mr_fail(err, MR_E_NOMEM, MR_BLAME_USER, "the run needs %s, the device has %s", a, b);
    mr_detail(err, "parameters, gradients and optimizer %s, caches %s, activations %s; largest "
              "buffers: %s", p, k, r, top.s ? top.s : "none");
    mr_hint(err, m.parameters + m.optimizer > m.device
                     ? "the parameters alone do not fit: fewer layers, experts or a smaller hidden"
             : m.parameters + m.optimizer + m.states > m.device
                     ? "the caches do not fit: lower [generate] max_seq or max_tokens"
                     : "lower [train] micro_batch, or recompute regions (recompute = full: all)");
    free(a);
    free(b);
    free(p);
    free(r);
    free(k);
    mri_str_free(&top);
    return MR_E_NOMEM;
}
