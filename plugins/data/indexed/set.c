/* SPDX-License-Identifier: Apache-2.0
 *
 * set.c - the sizes follow Megatron's builder: with weights and a size, each part gets
 * ceil(size x weight) samples and a surplus to draw from; without weights, each part is one
 * epoch and its size is its weight.
 */
#include "set.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

mr_status corpus_open(corpus *c, const char *prefix, const char *weights_suffix,
                      char **weights_prefix, mr_err *err)
{
    mr_status st = token_file_open(prefix, &c->tokens, err);
    if (st || !weights_suffix)
        return st;
    size_t n = strlen(prefix) + strlen(weights_suffix) + 1;
    char *other = *weights_prefix = malloc(n);
    if (!other)
        return mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "data/indexed: out of memory");
    snprintf(other, n, "%s%s", prefix, weights_suffix);
    if ((st = token_file_open(other, &c->weights, err)))
        return st;

    if (strcmp(token_file_dtype(&c->weights), "u8") != 0)
        return mr_fail(err, MR_E_DATA_FORMAT, MR_BLAME_USER, "%s holds %s, loss weights are u8",
                       other, token_file_dtype(&c->weights));
    int64_t i = 0, both = c->tokens.sequences;
    if (c->weights.sequences == both)
        while (i < both && token_file_length(&c->tokens, i) == token_file_length(&c->weights, i))
            i++;
    if (i == both && c->weights.sequences == both)
        return MR_OK;
    mr_fail(err, MR_E_DATA_FORMAT, MR_BLAME_USER, "%s does not run parallel to %s", other, prefix);
    if (c->weights.sequences != both)
        mr_detail(err, "%lld sequences beside %lld", (long long)c->weights.sequences,
                  (long long)both);
    else
        mr_detail(err, "sequence %lld: %d weights beside %d tokens", (long long)i,
                  token_file_length(&c->weights, i), token_file_length(&c->tokens, i));
    return MR_E_DATA_FORMAT;
}

void corpus_close(corpus *c)
{
    token_file_close(&c->tokens);
    token_file_close(&c->weights);
}

static mr_status build_part(set_part *p, const set_request *q, const corpus *from, int64_t samples,
                            mr_err *err)
{
    char warning[400];
    int64_t bounds[SPLITS + 1];
    sampling_plan plan;
    sampling_request r = { .lengths = from->tokens.lengths,
                           .last = from->tokens.sequences,
                           .seq = q->seq,
                           .samples = samples,
                           .seed = q->seed,
                           .partial = !q->train && q->samples == 0 };
    mr_status st = MR_OK;
    if (q->split) {
        MR_TRY(blend_split(q->split, from->tokens.sequences, bounds, err));
        r.first = bounds[q->split_index];
        r.last = bounds[q->split_index + 1];
    }
    p->from = from;
    MR_TRY(sampling_make_plan(&r, from->tokens.prefix, &plan, err));
    MR_TRY(cache_sampling(q->cache, &r, &plan, &p->s, &p->memory, warning, err));
    if (warning[0] && MR_CAN(q->host, log))
        q->host->log(q->host->self, MR_LOG_WARN, "data/indexed", warning);
out:
    return st;
}

/* How many samples to build of a part, and how many to use. */
static int64_t target(const set_request *q, uint32_t i)
{
    return (int64_t)ceil((double)q->samples * q->weights[i]);
}

static mr_status order(data_set *s, const set_request *q, mr_err *err)
{
    uint32_t n = s->n_parts;
    int weighted = q->weights && q->samples > 0;
    int64_t sizes[n], taken[n], total = 0;
    double weights[n];
    for (uint32_t i = 0; i < n; i++) {
        sizes[i] = weighted ? target(q, i) : s->parts[i].s.plan.samples;
        weights[i] = weighted ? q->weights[i] : (double)sizes[i];
        total += sizes[i];
    }
    s->size = !weighted && q->samples > 0 && q->samples < total ? q->samples : total;
    s->which = malloc((size_t)s->size * sizeof *s->which);
    s->sample = malloc((size_t)s->size * sizeof *s->sample);
    if (!s->which || !s->sample)
        return mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV,
                       "data/indexed: no memory for a blend of %lld samples", (long long)s->size);
    if (q->samples > 0) {
        double sum = blend_sum(weights, n);
        for (uint32_t i = 0; i < n; i++)
            weights[i] /= sum;
        blend_weighted(weights, n, s->size, s->which, s->sample, taken);
    } else {
        blend_exhaustive(sizes, n, s->which, s->sample, taken);
    }
    for (uint32_t i = 0; i < n; i++)
        if (taken[i] > s->parts[i].s.plan.samples) {
            mr_fail(err, MR_E_DATA_SHORT, MR_BLAME_USER, "set %s: the blend uses up %s", q->name,
                    q->corpora[i].tokens.prefix);
            mr_detail(err, "%lld samples wanted, %lld built", (long long)taken[i],
                      (long long)s->parts[i].s.plan.samples);
            mr_hint(err, "raise data.indexed.surplus (%g), two- or ten-fold", q->surplus);
            return MR_E_DATA_SHORT;
        }
    return MR_OK;
}

mr_status set_build(data_set *s, const set_request *q, mr_err *err)
{
    mr_status st = MR_OK;
    *s = (data_set) { .n_parts = q->n_corpora, .train = q->train };
    s->name = strdup(q->name);
    s->parts = calloc(q->n_corpora, sizeof *s->parts);
    if (!s->name || !s->parts)
        return mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "data/indexed: out of memory");
    s->info = (mr_data_set) { .size = sizeof s->info, .name = s->name };

    int blend = q->n_corpora > 1 || q->weights;
    if (blend && q->weights && q->train && q->samples == 0)
        return mr_fail(err, MR_E_ARG, MR_BLAME_HOST,
                       "data/indexed: weights need the number of samples that the run takes");
    int64_t per_epoch = 0, tokens = 0;
    for (uint32_t i = 0; i < q->n_corpora; i++) {
        set_part *p = &s->parts[i];
        int64_t samples = !blend ? q->samples : 0;
        if (blend && q->weights && q->samples > 0)
            samples = (int64_t)ceil((double)target(q, i) * (1 + q->surplus));
        if ((st = build_part(p, q, &q->corpora[i], samples, err)))
            return st;
        per_epoch += p->s.plan.per_epoch;
        tokens += p->s.plan.tokens - 1;
    }
    if (blend && (st = order(s, q, err)))
        return st;
    if (!blend)
        s->size = q->samples > 0 && !q->train ? q->samples : s->parts[0].s.plan.samples;
    s->info.samples = q->train ? per_epoch : s->size;
    s->info.tokens = q->train || q->samples > 0 ? s->info.samples * q->seq : tokens;
    return MR_OK;
}

void set_free(data_set *s)
{
    for (uint32_t i = 0; s->parts && i < s->n_parts; i++)
        cache_release(&s->parts[i].memory);
    free(s->parts);
    free(s->name);
    free(s->which);
    free(s->sample);
    *s = (data_set) { 0 };
}

const set_part *set_find(const data_set *s, int64_t i, int64_t *sample)
{
    const set_part *p = &s->parts[s->which ? s->which[i] : 0];
    *sample = p->s.shuffle[s->which ? s->sample[i] : i];
    return p;
}
