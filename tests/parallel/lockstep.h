/* SPDX-License-Identifier: Apache-2.0
 *
 * lockstep.h - the programs of all ranks of a group run node by node, side by side, by the
 * reference loops in f64; what goes between ranks is copied here, in the plainest way. So a pass
 * that splits a program is tested without a world, a session or a backend.
 */
#ifndef TEST_LOCKSTEP_H
#define TEST_LOCKSTEP_H
#include "core/plan/plan.h"
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { LS_RANKS = 8 };

typedef struct lockstep {
    uint32_t n;
    mr_prog *p[LS_RANKS];
    mr_buf *value[LS_RANKS]; /* by id - 1; all exist, zeroed */
} lockstep;

static inline void ls_ok(mr_status st, const mr_err *err)
{
    cr_assert_eq(st, 0, "%s | %s", err->what, err->detail);
}

/* Takes the programs: gradients through output y, then memory for every value. */
static inline void ls_open(lockstep *l, mr_prog **p, uint32_t n)
{
    const char *consumed[] = { "y" };
    mr_list outputs = { consumed, 1 };
    l->n = n;
    for (uint32_t r = 0; r < n; r++) {
        mr_err err = MR_ERR_INIT;
        l->p[r] = p[r];
        ls_ok(p[r]->failed, &p[r]->err);
        ls_ok(mri_prog_verify(p[r], "types", &err), &err);
        ls_ok(mri_pass_vjp(p[r], &outputs, NULL, NULL, &err), &err);
        ls_ok(mri_prog_verify(p[r], "vjp", &err), &err);
        l->value[r] = calloc(p[r]->values.n, sizeof(mr_buf));
        for (size_t v = 0; v < p[r]->values.n; v++)
            l->value[r][v].data = calloc(1, mr_bytes(&p[r]->values.v[v].type) + 64);
    }
}

static inline void ls_close(lockstep *l)
{
    for (uint32_t r = 0; r < l->n; r++) {
        for (size_t v = 0; v < l->p[r]->values.n; v++)
            free(l->value[r][v].data);
        free(l->value[r]);
        mri_prog_free(l->p[r]);
    }
}

/* data of a value by name, and how many elements; `kind` of enum mri_value_kind */
static inline void *ls_named(const lockstep *l, uint32_t rank, uint8_t kind, const char *name,
                             int64_t *n)
{
    mr_val v = mri_value_find(l->p[rank], kind, name);
    cr_assert(v, "rank %u has no %s", rank, name);
    *n = mr_numel(&mri_val(l->p[rank], v)->type);
    return l->value[rank][v - 1].data;
}

static inline double *ls_output(const lockstep *l, uint32_t rank, const char *name, int64_t *n)
{
    mr_val v = mri_port_find(&l->p[rank]->outputs, name);
    cr_assert(v, "rank %u has no output %s", rank, name);
    *n = mr_numel(&mri_val(l->p[rank], v)->type);
    return l->value[rank][v - 1].data;
}

static inline void *ls_in(const lockstep *l, uint32_t r, size_t node, uint32_t i)
{
    return l->value[r][l->p[r]->nodes.v[node].in[i] - 1].data;
}

static inline void *ls_out(const lockstep *l, uint32_t r, size_t node, uint32_t i)
{
    return l->value[r][l->p[r]->nodes.v[node].out[i] - 1].data;
}

static inline const mr_type *ls_type(const lockstep *l, uint32_t r, mr_val v)
{
    return &mri_val(l->p[r], v)->type;
}

/* rank after rank, end to end */
static inline void ls_gather(lockstep *l, size_t node)
{
    for (uint32_t to = 0; to < l->n; to++) {
        char *at = ls_out(l, to, node, 0);
        for (uint32_t from = 0; from < l->n; from++) {
            size_t bytes = mr_bytes(ls_type(l, from, l->p[from]->nodes.v[node].in[0]));
            memcpy(at, ls_in(l, from, node, 0), bytes);
            at += bytes;
        }
    }
}

/* each rank's part of the sum of all */
static inline void ls_reduce_scatter(lockstep *l, size_t node)
{
    for (uint32_t to = 0; to < l->n; to++) {
        double *y = ls_out(l, to, node, 0);
        int64_t n = mr_numel(ls_type(l, to, l->p[to]->nodes.v[node].out[0]));
        for (int64_t i = 0; i < n; i++) {
            y[i] = 0;
            for (uint32_t from = 0; from < l->n; from++)
                y[i] += ((double *)ls_in(l, from, node, 0))[to * n + i];
        }
    }
}

static inline void ls_reduce(lockstep *l, size_t node)
{
    int64_t n = mr_numel(ls_type(l, 0, l->p[0]->nodes.v[node].out[0]));
    for (int64_t i = 0; i < n; i++) {
        double sum = 0;
        for (uint32_t r = 0; r < l->n; r++)
            sum += ((double *)ls_in(l, r, node, 0))[i];
        for (uint32_t r = 0; r < l->n; r++)
            ((double *)ls_out(l, r, node, 0))[i] = sum;
    }
}

/* ep_send: row by row, of each sender in turn, those whose expert the receiver has. `back`: the
 * same walk, but rows are carried from the receiver to the sender. */
static inline void ls_exchange(lockstep *l, size_t node, bool back)
{
    for (uint32_t r = 0; r < l->n; r++)
        memset(ls_out(l, r, node, 0), 0, mr_bytes(ls_type(l, r, l->p[r]->nodes.v[node].out[0])));
    for (uint32_t owner = 0; owner < l->n; owner++) {
        int64_t at = 0;
        for (uint32_t sender = 0; sender < l->n; sender++) {
            const mr_type *all = ls_type(l, sender, l->p[sender]->nodes.v[node].in[1]);
            const int32_t *own = (int32_t *)ls_in(l, sender, node, 1) + sender * all->dim[1];
            const mr_type *t = ls_type(l, sender, l->p[sender]->nodes.v[node].in[0]);
            size_t row = mr_bytes(t) / (size_t)t->dim[0];
            for (int64_t e = 0; e + 1 < all->dim[1]; e++)
                for (int64_t i = own[e]; i < own[e + 1]; i++) {
                    if (e / ((all->dim[1] - 1) / l->n) != owner)
                        continue;
                    if (back)
                        memcpy((char *)ls_out(l, sender, node, 0) + (size_t)i * row,
                               (char *)ls_in(l, owner, node, 0) + (size_t)at * row, row);
                    else
                        memcpy((char *)ls_out(l, owner, node, 0) + (size_t)at * row,
                               (char *)ls_in(l, sender, node, 0) + (size_t)i * row, row);
                    at++;
                }
        }
    }
}

/* each rank's to the one `by` places further */
static inline void ls_shift(lockstep *l, size_t node)
{
    for (uint32_t r = 0; r < l->n; r++) {
        const mri_node *n = &l->p[r]->nodes.v[node];
        const mr_call c = { .size = sizeof c, .n_attr = n->n_attr, .attr = n->attr };
        uint32_t to = (r + (uint32_t)mr_attr_i(&c, "by", 1)) % l->n;
        memcpy(ls_out(l, to, node, 0), ls_in(l, r, node, 0), mr_bytes(ls_type(l, r, n->in[0])));
    }
}

/* comm.exchange: block n of rank r is block r of rank n */
static inline void ls_blocks(lockstep *l, size_t node)
{
    size_t block = mr_bytes(ls_type(l, 0, l->p[0]->nodes.v[node].in[0])) / l->n;
    for (uint32_t to = 0; to < l->n; to++)
        for (uint32_t from = 0; from < l->n; from++)
            memcpy((char *)ls_out(l, to, node, 0) + from * block,
                   (char *)ls_in(l, from, node, 0) + to * block, block);
}

static inline void ls_run(lockstep *l)
{
    for (size_t i = 0; i < l->p[0]->nodes.n; i++) {
        const char *id = l->p[0]->nodes.v[i].def->id;
        for (uint32_t r = 1; r < l->n; r++)
            cr_assert_str_eq(l->p[r]->nodes.v[i].def->id, id, "node %zu of rank %u", i, r);
        if (!strcmp(id, "ep_counts") || !strcmp(id, "comm.gather"))
            ls_gather(l, i);
        else if (!strcmp(id, "comm.reduce_scatter"))
            ls_reduce_scatter(l, i);
        else if (!strcmp(id, "comm.shift"))
            ls_shift(l, i);
        else if (!strcmp(id, "comm.reduce"))
            ls_reduce(l, i);
        else if (!strcmp(id, "ep_send") || !strcmp(id, "ep_return"))
            ls_exchange(l, i, !strcmp(id, "ep_return"));
        else if (!strcmp(id, "comm.exchange"))
            ls_blocks(l, i);
        else
            for (uint32_t r = 0; r < l->n; r++) {
                const mri_node *n = &l->p[r]->nodes.v[i];
                const mr_type *types[2 * MRI_MAX_OPERANDS];
                mr_call c = mri_node_call(l->p[r], n, types);
                mr_buf in[MRI_MAX_OPERANDS] = { 0 }, out[MRI_MAX_OPERANDS] = { 0 };
                mr_err err = MR_ERR_INIT;
                for (uint32_t k = 0; k < n->n_in; k++)
                    if (n->in[k])
                        in[k] = l->value[r][n->in[k] - 1];
                for (uint32_t k = 0; k < n->n_out; k++)
                    if (n->out[k])
                        out[k] = l->value[r][n->out[k] - 1];
                ls_ok(n->def->ref(&c, in, out, &err), &err);
            }
    }
}

/* pseudo-random numbers in (-1, 1), the same for the same seed */
static inline void ls_fill(double *x, int64_t n, uint64_t seed)
{
    for (int64_t i = 0; i < n; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        x[i] = (double)(int32_t)(seed >> 33) / 0x1p30 - 1;
    }
}

static inline void ls_equal(const double *a, const double *b, int64_t n, const char *what)
{
    for (int64_t i = 0; i < n; i++)
        cr_assert(fabs(a[i] - b[i]) <= 1e-10 * (1 + fabs(b[i])), "%s[%lld] is %.15g, not %.15g",
                  what, (long long)i, a[i], b[i]);
}

#endif
