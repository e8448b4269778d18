/* SPDX-License-Identifier: Apache-2.0
 *
 * shard_plan.c - which rank writes which part.
 *
 * Every rank is told what all hold, and does the same sums. Per tensor and box the ends of all
 * held ranges cut it into atoms, each with its holders; the atoms go, those of few holders first
 * and large ones before small, to the holder with least to write so far. Neighbouring atoms of one
 * rank are one part again.
 *
 * Invariant: the result depends on what is held and on nothing else, so all ranks have the same.
 */
#include "dtype.h"
#include "shards.h"
#include <inttypes.h>
#include <stdlib.h>

/* ---- what all hold ------------------------------------------------------------------------ */

typedef struct record { /* as one rank tells it to others of the same build; its name follows */
    uint32_t group, name_bytes;
    char dtype[16];
    mri_box box;
    uint64_t from, to;
} record;

typedef struct held {
    uint32_t group, rank;
    mri_share f; /* its name is within the gathered text */
} held;

typedef MRI_VEC(held) helds;

static void tell(const mri_shard_group *group, size_t n, mri_str *out)
{
    for (uint32_t g = 0; g < n; g++)
        for (size_t i = 0; i < group[g].n; i++) {
            const mri_share *f = &group[g].v[i];
            record r = { .group = g, .name_bytes = (uint32_t)strlen(f->name) + 1, .box = f->box,
                         .from = f->from, .to = f->to };
            snprintf(r.dtype, sizeof r.dtype, "%s", f->dtype);
            mri_str_addn(out, (const char *)&r, sizeof r);
            mri_str_addn(out, f->name, r.name_bytes);
        }
}

static mr_status check_own(const mri_shard_group *group, size_t n, mr_err *err)
{
    mr_status st = 0;
    for (size_t g = 0; g < n && !st; g++)
        for (size_t i = 0; i < group[g].n && !st; i++) {
            const mri_share *f = &group[g].v[i];
            st = mri_share_check(f, err);
            if (!st && strlen(f->dtype) >= sizeof ((record *)0)->dtype)
                st = mr_fail(err, MR_E_ARG, MR_BLAME_HOST, "%s: dtype %s", f->name, f->dtype);
        }
    return st;
}

/* Takes the gathered text apart. It is read with suspicion: a rank of another build is possible. */
static mr_status listen(const char *text, const uint64_t *end, uint32_t ranks, size_t groups,
                        helds *out, mr_err *err)
{
    const char *at = text;
    for (uint32_t r = 0; r < ranks; r++)
        for (const char *stop = text + end[r]; at < stop;) {
            record x;
            if ((size_t)(stop - at) < sizeof x)
                goto bad;
            memcpy(&x, at, sizeof x);
            at += sizeof x;
            if (!x.name_bytes || x.name_bytes > (size_t)(stop - at) || at[x.name_bytes - 1] ||
                x.group >= groups || !memchr(x.dtype, 0, sizeof x.dtype))
                goto bad;
            const mri_dtype *known = mri_dtype_of_name(x.dtype);
            held h = { x.group, r, { .name = at, .dtype = known ? known->name : "", .box = x.box,
                                     .from = x.from, .to = x.to } };
            at += x.name_bytes;
            mr_status st = mri_share_check(&h.f, err);
            if (st)
                return st;
            if (h.f.to > h.f.from || !mri_box_full(&h.f.box))
                MRI_PUSH(out, h);
            continue;
        bad:
            return mr_fail(err, MR_E_INTERNAL, MR_BLAME_ENV, "what rank %u says it holds is "
                           "malformed: is it of the same build?", r);
        }
    return 0;
}

static int by_tensor_box_range(const void *a, const void *b)
{
    const held *x = a, *y = b;
    int order = (x->group > y->group) - (x->group < y->group);
    if (!order)
        order = strcmp(x->f.name, y->f.name);
    if (!order)
        order = mri_box_order(&x->f.box, &y->f.box);
    if (!order)
        order = (x->f.from > y->f.from) - (x->f.from < y->f.from);
    return order ? order : (x->rank > y->rank) - (x->rank < y->rank);
}

/* ---- atoms --------------------------------------------------------------------------------- */

typedef struct atom {
    uint64_t from, to, bytes;
    size_t first, n; /* its holders: n of `holders` from first on */
    size_t order;    /* in the order of tensors, boxes, ranges */
    size_t like;     /* a held share of the same tensor and box */
    uint32_t writer;
} atom;

typedef struct plan {
    helds held;
    MRI_VEC(atom) atoms;
    MRI_VEC(uint32_t) holders;
} plan;

static int by_number(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* The atoms of held shares a .. b, all of one tensor and box. */
static void cut(plan *p, size_t a, size_t b)
{
    const held *h = p->held.v;
    size_t width = mr_dtype_bytes(h[a].f.dtype), n = 0;
    uint64_t *end = mri_alloc(2 * (b - a) * sizeof *end);
    for (size_t i = a; i < b; i++) {
        end[n++] = h[i].f.from;
        end[n++] = h[i].f.to;
    }
    qsort(end, n, sizeof *end, by_number);
    for (size_t k = 0; k + 1 < n; k++) {
        bool empty = end[k] == end[k + 1]; /* a tensor without elements is one atom */
        if (empty && (k || end[n - 1]))
            continue;
        atom x = { end[k], end[k + 1], (end[k + 1] - end[k]) * width, p->holders.n, 0,
                   p->atoms.n, a, 0 };
        for (size_t i = a; i < b; i++)
            if (h[i].f.from <= x.from && h[i].f.to >= x.to) {
                MRI_PUSH(&p->holders, h[i].rank);
                x.n++;
            }
        if (x.n)
            MRI_PUSH(&p->atoms, x);
        if (empty)
            break;
    }
    free(end);
}

static int few_holders_first(const void *a, const void *b)
{
    const atom *x = a, *y = b;
    if (x->n != y->n)
        return x->n < y->n ? -1 : 1;
    if (x->bytes != y->bytes)
        return x->bytes > y->bytes ? -1 : 1;
    return (x->order > y->order) - (x->order < y->order);
}

static int in_order(const void *a, const void *b)
{
    const atom *x = a, *y = b;
    return (x->order > y->order) - (x->order < y->order);
}

static void assign(plan *p, uint32_t ranks)
{
    uint64_t *load = mri_alloc(ranks * sizeof *load);
    if (p->atoms.n)
        qsort(p->atoms.v, p->atoms.n, sizeof *p->atoms.v, few_holders_first);
    for (size_t i = 0; i < p->atoms.n; i++) {
        atom *x = &p->atoms.v[i];
        x->writer = p->holders.v[x->first];
        for (size_t k = 1; k < x->n; k++)
            if (load[p->holders.v[x->first + k]] < load[x->writer])
                x->writer = p->holders.v[x->first + k];
        load[x->writer] += x->bytes;
    }
    if (p->atoms.n)
        qsort(p->atoms.v, p->atoms.n, sizeof *p->atoms.v, in_order);
    free(load);
}

/* ---- parts --------------------------------------------------------------------------------- */

static bool same_tensor(const held *a, const held *b)
{
    return a->group == b->group && !strcmp(a->f.name, b->f.name);
}

static int by_group_and_name(const void *a, const void *b)
{
    const mri_shard_tensor *x = a, *y = b;
    int order = strcmp(x->group, y->group);
    return order ? order : strcmp(x->name, y->name);
}

/* One name a file: a second part of a tensor in the same file says where it begins. */
static void name_part(mri_shard_tensor *t, mri_part *p)
{
    bool again = false;
    for (size_t k = 0; k < t->parts.n; k++)
        again |= t->parts.v[k].file == p->file;
    p->as = again ? mri_format("%s@%zu", t->name, t->parts.n) : mri_strdup(t->name);
}

static void make_parts(const plan *p, const mri_shard_group *group, mri_shards *out)
{
    const held *last = NULL;
    for (size_t i = 0; i < p->atoms.n; i++) {
        const atom *x = &p->atoms.v[i];
        const held *h = &p->held.v[x->like];
        if (!last || !same_tensor(last, h)) {
            mri_shard_tensor t = { mri_strdup(group[h->group].name), mri_strdup(h->f.name),
                                   h->f.dtype, h->f.box, { 0 } };
            for (uint32_t d = 0; d < t.whole.rank; d++) {
                t.whole.at[d] = 0;
                t.whole.dim[d] = t.whole.full[d];
            }
            MRI_PUSH(&out->tensors, t);
        }
        mri_shard_tensor *t = &out->tensors.v[out->tensors.n - 1];
        mri_part *before = t->parts.n ? &t->parts.v[t->parts.n - 1] : NULL;
        if (before && before->file == x->writer && before->f.to == x->from &&
            mri_box_same(&before->f.box, &h->f.box)) {
            before->f.to = x->to;
        } else {
            mri_part part = { .file = x->writer, .f = h->f };
            part.f.name = t->name;
            part.f.from = x->from;
            part.f.to = x->to;
            name_part(t, &part);
            MRI_PUSH(&t->parts, part);
        }
        last = h;
    }
    if (out->tensors.n)
        qsort(out->tensors.v, out->tensors.n, sizeof *out->tensors.v, by_group_and_name);
}

/* Sorted, two shares that one rank has of a tensor stand among those of that tensor. */
static mr_status check_single(const plan *p, uint32_t ranks, mr_err *err)
{
    size_t *seen = mri_alloc(ranks * sizeof *seen), tensor = 0;
    mr_status st = 0;
    for (size_t i = 0; i < p->held.n && !st; i++) {
        const held *h = &p->held.v[i];
        tensor += !i || !same_tensor(h, h - 1);
        if (seen[h->rank] == tensor)
            st = mr_fail(err, MR_E_ARG, MR_BLAME_HOST, "rank %u has two shares of %s", h->rank,
                         h->f.name);
        seen[h->rank] = tensor;
    }
    free(seen);
    return st;
}

mr_status mri_shards_plan(const mri_peers *p, const mri_shard_group *group, size_t n,
                          mri_shards *out, mr_err *err)
{
    uint32_t ranks = mri_peers_alone(p) ? 1 : p->n;
    uint64_t *end = mri_alloc(ranks * sizeof *end);
    char *text = NULL;
    mri_str mine = { 0 };
    plan x = { 0 };
    mr_status st = 0;
    memset(out, 0, sizeof *out);
    MR_TRY(mri_peers_agree(p, check_own(group, n, err), err));
    tell(group, n, &mine);
    MR_TRY(mri_peers_gather_text(p, mine.s, mine.n, &text, end, err));
    MR_TRY(listen(text, end, ranks, n, &x.held, err));
    if (x.held.n)
        qsort(x.held.v, x.held.n, sizeof *x.held.v, by_tensor_box_range);
    MR_TRY(check_single(&x, ranks, err));
    for (size_t a = 0, b; a < x.held.n; a = b) {
        for (b = a + 1; b < x.held.n && same_tensor(&x.held.v[a], &x.held.v[b]) &&
                        mri_box_same(&x.held.v[a].f.box, &x.held.v[b].f.box); b++)
            ;
        cut(&x, a, b);
    }
    assign(&x, ranks);
    make_parts(&x, group, out);
    MR_TRY(mri_shards_check(out, err));
out:
    if (st)
        mri_shards_free(out);
    free(x.held.v);
    free(x.atoms.v);
    free(x.holders.v);
    free(text);
    free(end);
    mri_str_free(&mine);
    return st;
}
