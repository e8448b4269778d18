/* SPDX-License-Identifier: Apache-2.0
 *
 * storage.c - where the elements of the flat space lie: memory for every form of the parameters
 * (weights, masters, rests, gradients), whole or as this rank's pieces of buckets; see params.h.
 *
 * Invariant: each form of a bucket is kept as one run of its storage, the whole bucket or its
 * piece, in the order of buckets; frozen parameters, whole, follow behind. Without buckets an
 * element's place is `at`.
 */
#include "mrun/shard.h"
#include "params.h"

static size_t width(const char *dtype)
{
    return mr_dtype_bytes(dtype);
}

bool mri_params_one_copy(const mri_params *p)
{
    return !strcmp(p->dtype, p->acc_dtype);
}

const mri_bucket *mri_params_bucket(const mri_params *p, uint64_t at)
{
    size_t low = 0, high = p->buckets.n;
    while (low < high) {
        size_t mid = (low + high) / 2;
        const mri_bucket *b = &p->buckets.v[mid];
        if (at < b->at)
            high = mid;
        else if (at >= b->at + b->n)
            low = mid + 1;
        else
            return b;
    }
    return NULL;
}

/* ---- what of a bucket is here --------------------------------------------------------------- */

enum form { WEIGHTS, MASTERS, RESTS, GRADS, STATES };

/* Blocks read the masters of f32 groups, which are whole where weights would be. */
static bool as_piece(const mri_params *p, const mri_bucket *b, enum form form)
{
    bool f32 = p->groups.v[b->group].f32;
    uint32_t from = form == WEIGHTS || (form == MASTERS && f32) ? MR_SHARD_OPTIM_GRADS_PARAMS
                  : form == GRADS                               ? MR_SHARD_OPTIM_GRADS
                                                                : MR_SHARD_OPTIM;
    return b->strategy >= from;
}

static bool exists(const mri_params *p, const mri_bucket *b, enum form form)
{
    bool f32 = p->groups.v[b->group].f32;
    return form == MASTERS ? !mri_params_one_copy(p) && (f32 || !p->split)
         : form == RESTS   ? p->split && !f32
                           : true;
}

static uint64_t kept(const mri_params *p, const mri_bucket *b, enum form form)
{
    return !exists(p, b, form) ? 0 : as_piece(p, b, form) ? b->own_n : b->n;
}

/* Elements of a form's storage before element `at`; UINT64_MAX: it is on other ranks. */
static uint64_t place(const mri_params *p, uint64_t at, enum form form)
{
    const mri_bucket *b = mri_params_bucket(p, at);
    if (!p->buckets.n)
        return at;
    if (!b) { /* frozen: behind all buckets */
        uint64_t before = form == WEIGHTS   ? p->weights_n
                        : form == MASTERS ? p->masters_n
                                          : p->rest_n;
        uint64_t end = form == MASTERS ? p->master_at + p->master_n : p->total;
        return before - (end - p->trainable) + (at - p->trainable);
    }
    if (!exists(p, b, form))
        return UINT64_MAX;
    uint64_t from = as_piece(p, b, form) ? b->own : b->at;
    uint64_t before = form == WEIGHTS ? b->weights
                    : form == GRADS   ? b->grads
                    : form == STATES  ? b->states
                                      : b->masters;
    return at < from || at - from >= kept(p, b, form) ? UINT64_MAX : before + (at - from);
}

/* Which elements have a master beside their weight, as a range of the flat space. */
static void plan_masters(mri_params *p, bool train)
{
    bool all = train && !p->split;
    p->master_at = all || mri_params_one_copy(p) ? 0 : p->f32_at;
    p->master_n = mri_params_one_copy(p) ? 0 : all ? p->total : p->f32_n;
}

static void count(mri_params *p, bool train)
{
    plan_masters(p, train);
    p->weights_n = p->total;
    p->masters_n = p->master_n;
    p->rest_n = train && p->split ? p->total : 0;
    p->grads_n = train ? p->trainable : 0;
    if (!p->buckets.n)
        return;
    uint64_t end = p->master_at + p->master_n;
    p->weights_n = p->masters_n = p->rest_n = p->grads_n = 0;
    for (size_t i = 0; i < p->buckets.n; i++) {
        mri_bucket *b = &p->buckets.v[i];
        bool first = !i || b[-1].group != b->group;
        b->weights = p->weights_n;
        b->masters = exists(p, b, RESTS) ? p->rest_n : p->masters_n;
        b->grads = p->grads_n;
        b->states = first ? 0 : b[-1].states + kept(p, &b[-1], STATES);
        p->weights_n += kept(p, b, WEIGHTS);
        p->masters_n += kept(p, b, MASTERS);
        p->rest_n += kept(p, b, RESTS);
        p->grads_n += kept(p, b, GRADS);
    }
    p->weights_n += p->total - p->trainable;
    p->masters_n += end > p->trainable ? end - p->trainable : 0;
    p->rest_n += p->split ? p->total - p->trainable : 0;
}

uint64_t mri_params_bytes(const mri_params *p, bool train)
{
    mri_params x = *p;
    if (!p->slots.n) /* a session without a model's plan, for its tokenizer alone */
        return 0;
    count(&x, train);
    return x.weights_n * width(p->dtype) + x.masters_n * width(p->acc_dtype) +
           x.rest_n * width("i16") + x.grads_n * width(p->acc_dtype);
}

/* ---- memory --------------------------------------------------------------------------------- */

static mr_status take(mri_device *d, uint64_t n, const char *dtype, char **out, mr_err *err)
{
    return n ? d->ops->alloc(d->dev, n * width(dtype), MR_MEM_WEIGHTS, (void **)out, err) : 0;
}

mr_status mri_params_alloc(mri_params *p, mri_device *d, bool train, bool lent, mr_err *err)
{
    mr_status st = 0;
    count(p, train);
    MR_TRY(take(d, p->weights_n, p->dtype, &p->weights, err));
    MR_TRY(take(d, p->masters_n, p->acc_dtype, &p->master, err));
    MR_TRY(take(d, p->rest_n, "i16", &p->rest, err));
    p->grads_lent = lent;
    if (!lent)
        MR_TRY(take(d, p->grads_n, p->acc_dtype, &p->grads, err));
    if (mri_params_one_copy(p)) {
        p->master = p->weights;
        p->master_n = p->total;
    }
out:
    return st;
}

void mri_params_release(mri_params *p, mri_device *d)
{
    if (p->grads && !p->grads_lent)
        d->ops->free(d->dev, p->grads, p->grads_n * width(p->acc_dtype));
    if (p->rest)
        d->ops->free(d->dev, p->rest, p->rest_n * width("i16"));
    if (p->master && p->master != p->weights)
        d->ops->free(d->dev, p->master, p->masters_n * width(p->acc_dtype));
    if (p->weights)
        d->ops->free(d->dev, p->weights, p->weights_n * width(p->dtype));
}

/* ---- addresses ------------------------------------------------------------------------------ */

static void *address(char *base, uint64_t place, const char *dtype)
{
    return base && place != UINT64_MAX ? base + place * width(dtype) : NULL;
}

void *mri_params_kept_weight(const mri_params *p, uint64_t at)
{
    return address(p->weights, place(p, at, WEIGHTS), p->dtype);
}

void *mri_params_master(const mri_params *p, uint64_t at)
{
    if (!p->master || at < p->master_at || at - p->master_at >= p->master_n)
        return NULL;
    if (p->master == p->weights) {
        const mri_bucket *b = mri_params_bucket(p, at);
        bool mine = !b || !as_piece(p, b, STATES) || (at >= b->own && at - b->own < b->own_n);
        return mine ? mri_params_kept_weight(p, at) : NULL;
    }
    return p->buckets.n ? address(p->master, place(p, at, MASTERS), p->acc_dtype)
                        : p->master + (at - p->master_at) * width(p->acc_dtype);
}

static void *rest_at(const mri_params *p, uint64_t at)
{
    return address(p->rest, place(p, at, RESTS), "i16");
}

void *mri_params_masters(const mri_params *p, uint64_t at)
{
    void *m = mri_params_master(p, at);
    return m ? m : rest_at(p, at);
}

void *mri_params_kept_grad(const mri_params *p, uint64_t at)
{
    return at < p->trainable ? address(p->grads, place(p, at, GRADS), p->acc_dtype) : NULL;
}

void *mri_params_weight(const mri_params *p, const mri_tensor_slot *s)
{
    const mri_bucket *b = mri_params_bucket(p, s->at);
    if (s->f32 && !mri_params_one_copy(p))
        return b ? address(p->master, place(p, s->at, MASTERS), p->acc_dtype)
                 : mri_params_master(p, s->at);
    if (b && as_piece(p, b, WEIGHTS))
        return address(b->unit_weights, s->at - b->at, p->dtype);
    return mri_params_kept_weight(p, s->at);
}

void *mri_params_grad_at(const mri_params *p, uint64_t at)
{
    const mri_bucket *b = mri_params_bucket(p, at);
    if (b && as_piece(p, b, GRADS))
        return address(b->unit_grads, at - b->at, p->acc_dtype);
    return mri_params_kept_grad(p, at);
}

void *mri_params_grad(const mri_params *p, const mri_tensor_slot *s)
{
    return mri_params_grad_at(p, s->at);
}

const char *mri_params_exact_dtype(const mri_params *p, const mri_tensor_slot *s)
{
    bool f32 = s->f32 || p->rest_n || (s->at >= p->master_at && s->at - p->master_at < p->master_n);
    return f32 ? p->acc_dtype : p->dtype;
}

const void *mri_params_exact(const mri_params *p, const mri_tensor_slot *s, const char **dtype)
{
    void *m = mri_params_master(p, s->at);
    bool held;
    *dtype = mri_params_exact_dtype(p, s);
    if (mri_params_span(p, s, 0, &held) < s->n || !held || (!m && p->rest))
        return NULL;
    return m ? m : mri_params_kept_weight(p, s->at);
}

uint64_t mri_params_state_at(const mri_params *p, uint64_t at)
{
    const mri_bucket *b = mri_params_bucket(p, at);
    for (uint32_t g = 0; !b && g < p->groups.n; g++)
        if (at >= p->groups.v[g].at && at - p->groups.v[g].at < p->groups.v[g].n)
            return at - p->groups.v[g].at;
    return place(p, at, STATES);
}

uint64_t mri_params_states(const mri_params *p, uint32_t group)
{
    uint64_t n = 0;
    for (size_t i = 0; i < p->buckets.n; i++)
        n += p->buckets.v[i].group == group ? kept(p, &p->buckets.v[i], STATES) : 0;
    return p->buckets.n && !p->groups.v[group].frozen ? n : p->groups.v[group].n;
}

uint64_t mri_params_span(const mri_params *p, const mri_tensor_slot *s, uint64_t i, bool *held)
{
    const mri_bucket *b = mri_params_bucket(p, s->at + i);
    uint64_t at = s->at + i, left = s->n - i, n = left;
    *held = true;
    if (!b || b->strategy == MR_SHARD_NONE)
        return n;
    if (at < b->own)
        n = b->own - at;
    else if (at - b->own < b->own_n)
        n = b->own + b->own_n - at;
    bool mine = at >= b->own && at - b->own < b->own_n;
    *held = mine || !as_piece(p, b, WEIGHTS);
    return n < left ? n : left;
}
