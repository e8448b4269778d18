/* SPDX-License-Identifier: Apache-2.0
 *
 * tensor_rig.h - a block as one rank has it beside the same block as each of n tp ranks has it: all
 * are run in f64 by the reference loops, collectives are copied here in the plainest
 * way, and what the ranks have must be parts of what the one has: outputs, gradients of inputs,
 * main gradients (summed where place says partial).
 */
#ifndef TEST_TENSOR_RIG_H
#define TEST_TENSOR_RIG_H
#include "core/plan/plan.h"
#include "core/plan/shard.h"
#include "tests/kit.h"

enum { RIG_RANKS = 8 };

typedef struct rig_side { /* one program and the memory of all its values */
    mr_prog *p;
    mr_buf *value; /* by id - 1 */
} rig_side;

typedef struct rig {
    uint32_t n;
    rig_side one, rank[RIG_RANKS];
    const mr_buf *given; /* data of what is called i0, i1, ...; or NULL: all is random */
} rig;

static inline double rig_random(uint64_t *state) /* in (-1, 1) */
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return ((double)(*state >> 11) / 9007199254740992.0) * 2 - 1;
}

static inline void rig_side_open(rig_side *s)
{
    s->value = calloc(s->p->values.n, sizeof *s->value);
    for (size_t v = 0; v < s->p->values.n; v++)
        s->value[v].data = calloc(1, mr_bytes(&s->p->values.v[v].type) + 64);
}

static inline void rig_side_close(rig_side *s)
{
    for (size_t v = 0; v < s->p->values.n; v++)
        free(s->value[v].data);
    free(s->value);
    mri_prog_free(s->p);
}

/* Part `r` of n of `whole`, in the dim in which `part` has another size (none: all of it); or the
 * other way round. */
static inline void rig_cut(const mr_type *whole, void *w, const mr_type *part, void *p, uint32_t r,
                           bool into_part)
{
    size_t outer = 1, inner = mr_dtype_bytes(whole->dtype), n = 1, len = 1;
    uint32_t dim = UINT32_MAX;
    cr_assert_eq(whole->rank, part->rank);
    for (uint32_t d = 0; d < whole->rank; d++) {
        if (whole->dim[d] == part->dim[d]) {
            *(dim == UINT32_MAX ? &outer : &inner) *= (size_t)whole->dim[d];
            continue;
        }
        cr_assert_eq(dim, UINT32_MAX, "cut in two dims");
        dim = d;
        n = (size_t)whole->dim[d];
        len = (size_t)part->dim[d];
    }
    if (dim == UINT32_MAX) {
        memcpy(into_part ? p : w, into_part ? w : p, mr_bytes(whole));
        return;
    }
    for (size_t o = 0; o < outer; o++) {
        char *a = (char *)w + (o * n + r * len) * inner, *b = (char *)p + o * len * inner;
        memcpy(into_part ? b : a, into_part ? a : b, len * inner);
    }
}

static inline void *rig_data(const rig_side *s, mr_val v)
{
    return v ? s->value[v - 1].data : NULL;
}

/* ---- running ------------------------------------------------------------------------------- */

static inline void rig_node(const rig_side *s, size_t i)
{
    const mri_node *n = &s->p->nodes.v[i];
    const mr_type *types[2 * MRI_MAX_OPERANDS];
    mr_buf in[MRI_MAX_OPERANDS], out[MRI_MAX_OPERANDS];
    mr_err err = MR_ERR_INIT;
    mr_call c = mri_node_call(s->p, n, types);
    for (uint32_t j = 0; j < n->n_in; j++)
        in[j] = (mr_buf){ rig_data(s, n->in[j]), NULL };
    for (uint32_t j = 0; j < n->n_out; j++)
        out[j] = (mr_buf){ rig_data(s, n->out[j]), NULL };
    kit_ok(n->def->ref(&c, in, out, &err), &err, n->def->id);
}

static inline bool rig_sends(const rig_side *s, size_t i)
{
    uint8_t kind = mri_step_comm(&s->p->nodes.v[i]);
    return kind && kind != MRI_STEP_SLICE;
}

/* at[r]: the node of rank r; all are the same collective */
static inline void rig_collective(rig *g, const size_t *at_node)
{
    const mri_node *first = &g->rank[0].p->nodes.v[at_node[0]];
    uint8_t kind = mri_step_comm(first);
    size_t in = (size_t)mr_numel(&mri_val(g->rank[0].p, first->in[0])->type);
    size_t out = (size_t)mr_numel(&mri_val(g->rank[0].p, first->out[0])->type);
    size_t width = mr_dtype_bytes(mri_val(g->rank[0].p, first->in[0])->type.dtype);
    for (uint32_t r = 0; r < g->n; r++) {
        const mri_node *n = &g->rank[r].p->nodes.v[at_node[r]];
        char *to = rig_data(&g->rank[r], n->out[0]);
        cr_assert_str_eq(n->def->id, first->def->id, "ranks differ at node %zu",
                         at_node[r]);
        for (uint32_t q = 0; q < g->n; q++) {
            const char *from = rig_data(&g->rank[q], g->rank[q].p->nodes.v[at_node[q]].in[0]);
            if (kind == MRI_STEP_GATHER) {
                memcpy(to + q * in * width, from, in * width);
                continue;
            }
            cr_assert_eq(width, sizeof(double));
            size_t at = kind == MRI_STEP_SCATTER ? r * out : 0;
            for (size_t k = 0; k < out; k++)
                ((double *)to)[k] = (q ? ((double *)to)[k] : 0) + ((const double *)from)[at + k];
        }
    }
}

static inline void rig_run(rig *g)
{
    for (size_t i = 0; i < g->one.p->nodes.n; i++)
        rig_node(&g->one, i);
    size_t at[RIG_RANKS] = { 0 };
    for (;;) { /* ranks differ between collectives: one alone adds a bias */
        uint32_t ended = 0;
        for (uint32_t r = 0; r < g->n; r++) {
            while (at[r] < g->rank[r].p->nodes.n && !rig_sends(&g->rank[r], at[r]))
                rig_node(&g->rank[r], at[r]++);
            ended += at[r] == g->rank[r].p->nodes.n;
        }
        if (ended) {
            cr_assert_eq(ended, g->n, "some ranks have more collectives than others");
            return;
        }
        rig_collective(g, at);
        for (uint32_t r = 0; r < g->n; r++)
            at[r]++;
    }
}

/* ---- values that go in --------------------------------------------------------------------- */

static inline void rig_fill(const mri_value *v, void *data, int64_t vocab, int64_t seq,
                            uint64_t *state)
{
    int64_t n = mr_numel(&v->type);
    bool ids = v->name && (!strcmp(v->name, "tokens") || !strcmp(v->name, "targets"));
    bool pictures = v->name && !strcmp(v->name, "image_rows");
    for (int64_t i = 0; i < n; i++) {
        double x = rig_random(state);
        int64_t whole = ids ? (int64_t)(fabs(x) * (double)vocab)
                      : pictures ? i % 3 - 1
                      : v->name && !strcmp(v->name, "seq_start") ? i / seq * seq : i % seq;
        if (mr_is(&v->type, "i32"))
            ((int32_t *)data)[i] = (int32_t)whole;
        else if (mr_is(&v->type, "f32"))
            ((float *)data)[i] = v->kind == MRI_SCALAR ? 0.125f : fabsf((float)x);
        else
            ((double *)data)[i] = v->kind == MRI_SCALAR ? 0.125 : x;
    }
}

/* Everything that is given to the one, and the ranks' parts of it. */
static inline void rig_feed(rig *g, int64_t vocab, int64_t seq, uint64_t state)
{
    for (size_t i = 0; i < g->one.p->values.n; i++) {
        const mri_value *v = &g->one.p->values.v[i];
        if (v->kind == MRI_TEMP || v->kind == MRI_GRAD)
            continue;
        if (g->given && v->name[0] == 'i' && v->name[1] >= '0' && v->name[1] <= '9')
            memcpy(g->one.value[i].data, g->given[atoi(v->name + 1)].data, mr_bytes(&v->type));
        else
            rig_fill(v, g->one.value[i].data, vocab, seq, &state);
        for (uint32_t r = 0; r < g->n; r++) {
            mr_val w = mri_value_find(g->rank[r].p, v->kind, v->name);
            cr_assert(w, "rank %u has no %s", r, v->name);
            rig_cut(&v->type, g->one.value[i].data, &mri_val(g->rank[r].p, w)->type,
                    rig_data(&g->rank[r], w), r, true);
        }
    }
}

/* ---- comparing ------------------------------------------------------------------------------ */

static inline double rig_at(const mr_type *t, const void *data, int64_t i)
{
    return mr_is(t, "f64") ? ((const double *)data)[i]
         : mr_is(t, "i32") ? ((const int32_t *)data)[i] : (double)((const float *)data)[i];
}

static inline void rig_same(const char *what, const char *name, uint32_t r, const mr_type *t,
                            const void *want, const void *got)
{
    double scale = 1e-3;
    for (int64_t i = 0; i < mr_numel(t); i++)
        scale = fmax(scale, fabs(rig_at(t, want, i)));
    for (int64_t i = 0; i < mr_numel(t); i++)
        cr_assert(fabs(rig_at(t, want, i) - rig_at(t, got, i)) <= 1e-10 * scale,
                  "%s %s of rank %u: element %lld is %g, of one rank %g", what, name, r,
                  (long long)i, rig_at(t, got, i), rig_at(t, want, i));
}

static inline void rig_outputs(rig *g)
{
    for (size_t o = 0; o < g->one.p->outputs.n; o++) {
        const mri_port *port = &g->one.p->outputs.v[o];
        const mr_type *whole = &mri_val(g->one.p, port->value)->type;
        for (uint32_t r = 0; r < g->n; r++) {
            mr_val v = mri_port_find(&g->rank[r].p->outputs, port->name);
            cr_assert(v, "rank %u has no output %s", r, port->name);
            const mr_type *t = &mri_val(g->rank[r].p, v)->type;
            void *want = calloc(1, mr_bytes(t) + 8);
            rig_cut(whole, rig_data(&g->one, port->value), t, want, r, true);
            rig_same("output", port->name, r, t, want, rig_data(&g->rank[r], v));
            free(want);
        }
    }
}

/* caches, which decoding writes */
static inline void rig_states(rig *g)
{
    for (size_t i = 0; i < g->one.p->values.n; i++) {
        const mri_value *v = &g->one.p->values.v[i];
        for (uint32_t r = 0; r < g->n && v->kind == MRI_STATE; r++) {
            mr_val w = mri_value_find(g->rank[r].p, MRI_STATE, v->name);
            const mr_type *t = &mri_val(g->rank[r].p, w)->type;
            void *want = calloc(1, mr_bytes(t) + 8);
            rig_cut(&v->type, g->one.value[i].data, t, want, r, true);
            rig_same("state", v->name, r, t, want, rig_data(&g->rank[r], w));
            free(want);
        }
    }
}

static inline void rig_gradients(rig *g)
{
    for (size_t i = 0; i < g->one.p->values.n; i++) {
        const mri_value *v = &g->one.p->values.v[i];
        if (v->kind != MRI_GRAD)
            continue;
        double *sum = calloc((size_t)mr_numel(&v->type), sizeof *sum);
        bool partial = false;
        for (uint32_t r = 0; r < g->n; r++) {
            mr_val w = mri_value_find(g->rank[r].p, MRI_GRAD, v->name);
            mr_val q = mri_value_find(g->rank[r].p, MRI_PARAM, v->name);
            const mri_place *place = &mri_val(g->rank[r].p, q)->place;
            const mr_type *t = &mri_val(g->rank[r].p, q)->type;
            partial = place->partial & MRI_AXIS_TP || place->expert;
            if (!w) { /* this rank adds nothing to it */
                cr_assert(partial, "rank %u has no gradient of %s", r, v->name);
                continue;
            }
            if (partial)
                for (int64_t k = 0; k < mr_numel(t); k++)
                    sum[k] += ((double *)rig_data(&g->rank[r], w))[k];
            else {
                void *want = calloc(1, mr_bytes(t) + 8);
                rig_cut(&v->type, g->one.value[i].data, t, want, r, true);
                rig_same("gradient", v->name, r, t, want, rig_data(&g->rank[r], w));
                free(want);
            }
        }
        if (partial)
            rig_same("summed gradient", v->name, 0, &v->type, g->one.value[i].data, sum);
        free(sum);
    }
}

/* One kind of two assemblies of one model: whole, and cut for each rank. Takes the programs. */
static inline void rig_check(mr_prog *one, mr_prog *const *ranks, uint32_t n, const mr_list *streams,
                             bool train, int64_t vocab, int64_t seq, const mr_buf *given)
{
    rig g = { .n = n, .one = { .p = one }, .given = given };
    mr_err err = MR_ERR_INIT;
    for (uint32_t r = 0; r <= n; r++) {
        rig_side *s = r < n ? &g.rank[r] : &g.one;
        if (r < n)
            s->p = ranks[r];
        if (train)
            kit_ok(mri_pass_vjp(s->p, streams, NULL, NULL, &err), &err, "vjp");
        rig_side_open(s);
    }
    rig_feed(&g, vocab, seq, 7);
    rig_run(&g);
    rig_outputs(&g);
    rig_states(&g);
    rig_gradients(&g);
    for (uint32_t r = 0; r < n; r++)
        rig_side_close(&g.rank[r]);
    rig_side_close(&g.one);
}

#endif
