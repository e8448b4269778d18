/* SPDX-License-Identifier: Apache-2.0
 *
 * sampling.c - the plan first, in 64 bits, refusing what the 32-bit arrays cannot hold; then
 * the arrays, drawn from one random stream in Megatron's order: documents, then samples.
 */
#include "sampling.h"
#include "numpy_random.h"
#include "token_file.h"

static int64_t length_of(const sampling_request *q, int64_t document)
{
    return token_file_i32(q->lengths, document);
}

mr_status sampling_make_plan(const sampling_request *q, const char *who, sampling_plan *plan,
                             mr_err *err)
{
    int64_t S = q->seq, N = q->samples, T = 0, documents = q->last - q->first;
    for (int64_t i = q->first; i < q->last; i++)
        T += length_of(q, i);
    int64_t need = q->partial ? 2 : S + 1;
    if (T < need) {
        mr_fail(err, MR_E_DATA_SHORT, MR_BLAME_USER, "%s is too short: %lld tokens", who,
                (long long)T);
        mr_detail(
            err, "its documents [%lld, %lld) hold %lld tokens; %lld are needed (train.seq = %lld)",
            (long long)q->first, (long long)q->last, (long long)T, (long long)need, (long long)S);
        mr_hint(err, "add documents, give this set a larger share in data.indexed.split, or lower "
                     "train.seq");
        return MR_E_DATA_SHORT;
    }
    *plan = (sampling_plan) { .tokens = T, .epochs = 1 };
    if (N > (INT64_MAX / 4 - 1) / S)
        goto large;
    if (N > 0) /* the fewest that hold N samples and one more token */
        plan->epochs = (N * S + T) / T;
    if (plan->epochs > UINT32_MAX / documents)
        goto large;
    plan->documents = plan->epochs * documents;
    plan->per_epoch = (T - 1) / S;
    int64_t targets = plan->epochs * T - 1;
    plan->samples = plan->apart = q->partial ? (targets + S - 1) / S : targets / S;
    if (plan->epochs > 1) {
        int64_t before = (targets - T) / S;
        if (N - before < (int64_t)(0.80 * (double)plan->per_epoch))
            plan->apart = before;
    }
    if (plan->documents < UINT32_MAX && plan->samples < UINT32_MAX - 1)
        return MR_OK;
large:
    mr_fail(err, MR_E_UNSUPPORTED, MR_BLAME_USER, "%s: %lld samples of %lld tokens are too many",
            who, (long long)N, (long long)S);
    mr_detail(err, "%lld epochs of %lld documents; an index counts to 2^32 - 2",
              (long long)plan->epochs, (long long)documents);
    return MR_E_UNSUPPORTED;
}

uint64_t sampling_bytes(const sampling_plan *p)
{
    return (uint64_t)p->documents * sizeof(uint32_t) +
           ((uint64_t)p->samples + 1) * sizeof(sampling_start) +
           (uint64_t)p->samples * sizeof(uint32_t);
}

void sampling_place(sampling *s, const sampling_plan *p, void *block)
{
    s->plan = *p;
    s->documents = block;
    s->starts = (sampling_start *)(s->documents + p->documents);
    s->shuffle = (uint32_t *)(s->starts + p->samples + 1);
}

static void cut(sampling *s, const sampling_request *q)
{
    int64_t place = 0, token = 0, last = s->plan.documents - 1;
    s->starts[0] = (sampling_start) { 0, 0 };
    for (int64_t i = 1; i <= s->plan.samples; i++) {
        int64_t left = q->seq + 1;
        for (;;) {
            int64_t here = length_of(q, s->documents[place]) - token;
            if (left <= here) { /* the last of these tokens is read again by the next sample */
                token += left - 1;
                break;
            }
            if (place == last) { /* a partial last sample ends with the documents */
                token += here - 1;
                break;
            }
            left -= here;
            place++;
            token = 0;
        }
        s->starts[i] = (sampling_start) { (uint32_t)place, (int32_t)token };
    }
}

void sampling_build(sampling *s, const sampling_request *q)
{
    const sampling_plan *p = &s->plan;
    int64_t per_epoch = q->last - q->first;
    numpy_random random;
    numpy_random_seed(&random, q->seed);

    for (int64_t i = 0; i < p->documents; i++)
        s->documents[i] = (uint32_t)(q->first + i % per_epoch);
    uint64_t together = (uint64_t)(p->apart < p->samples ? p->documents - per_epoch : p->documents);
    numpy_random_shuffle(&random, s->documents, together);
    numpy_random_shuffle(&random, s->documents + together, (uint64_t)p->documents - together);

    cut(s, q);

    for (int64_t i = 0; i < p->samples; i++)
        s->shuffle[i] = (uint32_t)i;
    numpy_random_shuffle(&random, s->shuffle, (uint64_t)p->apart);
    numpy_random_shuffle(&random, s->shuffle + p->apart, (uint64_t)(p->samples - p->apart));
}

int sampling_check(const sampling *s, const sampling_request *q)
{
    const sampling_plan *p = &s->plan;
    for (int64_t i = 0; i < p->documents; i++)
        if (s->documents[i] < q->first || s->documents[i] >= q->last)
            return 0;
    for (int64_t i = 0; i <= p->samples; i++) {
        sampling_start a = s->starts[i];
        if (i == 0 && (a.place || a.token))
            return 0;
        if (i == 0) /* the first document may be empty */
            continue;
        sampling_start b = s->starts[i - 1];
        if (a.place >= p->documents || a.token < -1 ||
            a.token >= length_of(q, s->documents[a.place]))
            return 0;
        if (a.place < b.place || (a.place == b.place && a.token < b.token))
            return 0;
    }
    for (int64_t i = 0; i < p->samples; i++)
        if (s->shuffle[i] >= p->samples)
            return 0;
    return 1;
}
