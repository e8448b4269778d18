/* SPDX-License-Identifier: Apache-2.0
 *
 * shard_experts.c - a block whose experts are spread over the ranks of ep. Each rank routes its own
 * tokens; its rows, sorted by expert, go to the ranks that have the experts:
 *
 *   route_plan -> offsets              all = ep_counts(offsets)
 *                                      offsets', order, back = ep_plan(all)
 *   permute -> x [R, D]                x' = take_rows(ep_send(x, all), order, back)        [R', D]
 *   grouped_linear(x, w, offsets)      grouped_linear(x', w', offsets'), w' = E/ep experts of w
 *   what works row by row              the same of x'
 *   anything else                      x = ep_return(take_rows(x', back, order), all)
 *
 * That is the trip of ragged rows; the others, and what they have room for: trip.h. Rows stay with
 * the experts as long as ops read them that go row by row: so an activation between two products
 * runs there, on the rows that came, and its probabilities are sent after the rows.
 */
#include "shard_experts.h"
#include "trip.h"
#include <stdlib.h>
#include <string.h>

typedef struct experts {
    mri_rewrite w;
    const mri_mesh *mesh;
    mr_val *there;     /* by old value: its rows as they lie with the experts; 0 */
    uint32_t *with;    /* of these: which trip */
    MRI_VEC(mri_trip) trips;
    mri_trip_kind kind;
} experts;

static mr_val *there(const experts *x, mr_val v)
{
    return &x->there[v - 1];
}

static bool away(const experts *x, mr_val v) /* known as rows with the experts only */
{
    return v && *there(x, v) && !*mri_rewrite_at(&x->w, v);
}

static mr_status refuse(const experts *x, mr_err *err, const char *hint, const char *fmt, ...)
    MR_PRINTF(4, 5);

static mr_status refuse(const experts *x, mr_err *err, const char *hint, const char *fmt, ...)
{
    char why[180];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(why, sizeof why, fmt, ap);
    va_end(ap);
    mr_fail(err, MR_E_PROFILE_CONFLICT, MR_BLAME_USER, "block %s over ep = %u ranks: %s",
            x->w.from->name, x->mesh->ep, why);
    mr_hint(err, "%s", hint);
    return MR_E_PROFILE_CONFLICT;
}

/* ---- parameters ----------------------------------------------------------------------------- */

/* The dim that the placement cuts over ep, or -1: "ep:0 fsdp:1". */
static int32_t expert_dim(const mri_value *v)
{
    const char *s = v->kind == MRI_PARAM ? v->param.placement : NULL;
    for (; s && *s; s += strcspn(s, " "), s += strspn(s, " "))
        if (!strncmp(s, "ep:", 3) && s[3] >= '0' && s[3] < '0' + MR_MAX_RANK)
            return s[3] - '0';
    return -1;
}

bool mri_is_expert(const mri_value *v)
{
    return expert_dim(v) >= 0;
}

static mr_status cut_param(const experts *x, mri_value *v, mr_err *err)
{
    int32_t d = expert_dim(v);
    int64_t n = x->mesh->ep;
    mri_place *p = &v->place;
    if (d < 0)
        return 0;
    p->expert = true;
    if (d || v->type.rank < 1 || v->type.dim[0] % n)
        return refuse(x, err, "ep must divide the experts", "parameter %s has %lld in dim %d",
                      v->name, (long long)v->type.dim[d], d);
    if (!p->rank) {
        p->rank = v->type.rank;
        memcpy(p->full, v->type.dim, sizeof p->full);
    }
    v->type.dim[0] /= n;
    v->param.type.dim[0] = v->type.dim[0];
    p->split |= MRI_AXIS_EP;
    p->at[0] += v->type.dim[0] * x->mesh->i_ep;
    return 0;
}

/* ---- journeys ------------------------------------------------------------------------------ */

static uint32_t trip_of(experts *x, const mri_node *n, mr_val offsets, int64_t rows)
{
    for (uint32_t i = 0; i < x->trips.n; i++)
        if (x->trips.v[i].of == offsets)
            return i;
    MRI_PUSH(&x->trips, mri_trip_make(&x->w, x->mesh, x->kind, n, offsets, rows));
    return (uint32_t)x->trips.n - 1;
}

/* The region of whoever made the value: so that recomputing the experts does not send again. */
static const mri_node *maker(const experts *x, mr_val v, const mri_node *reader)
{
    const mri_value *old = mri_val(x->w.from, v);
    return old->kind == MRI_TEMP ? &x->w.from->nodes.v[old->node] : reader;
}

static mr_val go(experts *x, const mri_node *n, mr_val v, uint32_t with)
{
    if (*there(x, v))
        return *there(x, v);
    x->with[v - 1] = with;
    return *there(x, v) = mri_trip_go(&x->w, x->mesh, x->kind, &x->trips.v[with], maker(x, v, n),
                                      *mri_rewrite_at(&x->w, v));
}

static mr_val come(experts *x, const mri_node *n, mr_val v)
{
    if (!away(x, v))
        return *mri_rewrite_at(&x->w, v);
    return *mri_rewrite_at(&x->w, v) = mri_trip_come(&x->w, x->mesh, x->kind,
                                                     &x->trips.v[x->with[v - 1]], n,
                                                     *there(x, v));
}

/* ---- ops ----------------------------------------------------------------------------------- */

static mr_status products(experts *x, const mri_node *n, mr_err *err)
{
    const mri_value *w = mri_val(x->w.from, n->in[1]);
    if (strcmp(n->def->id, "grouped_linear"))
        return refuse(x, err, "only grouped_linear reads experts of other ranks' tokens",
                      "op %s reads the experts %s", n->def->id, w->name ? w->name : "");
    const mri_value *offsets = mri_val(x->w.from, n->in[2]);
    if (x->kind == MRI_TRIP_PADDED &&
        (offsets->kind != MRI_TEMP ||
         strcmp(x->w.from->nodes.v[offsets->node].def->id, "route_drop")))
        return refuse(x, err, "set [mesh] pad_to_capacity = false",
                      "op %s reads rows that no route_topk and route_plan sorted: their experts have "
                      "no capacity", n->def->id);
    uint32_t with = away(x, n->in[0]) ? x->with[n->in[0] - 1]
                                      : trip_of(x, n, n->in[2],
                                                mri_val(x->w.from, n->in[0])->type.dim[0]);
    mr_val in[3] = { go(x, n, n->in[0], with), *mri_rewrite_at(&x->w, n->in[1]),
                     x->trips.v[with].offsets };
    mri_rewrite_node(&x->w, n, in);
    *there(x, n->out[0]) = *mri_rewrite_at(&x->w, n->out[0]);
    *mri_rewrite_at(&x->w, n->out[0]) = 0;
    x->with[n->out[0] - 1] = with;
    return 0;
}

bool mri_goes_by_row(const mr_prog *p, const mri_node *n, const bool *moved, uint32_t first,
                     bool *rows)
{
    const mr_type *types[2 * MRI_MAX_OPERANDS];
    mr_call c = mri_node_call(p, n, types);
    mri_shard s;
    mr_err ignored = MR_ERR_INIT;
    if (!n->def->shard || n->written || mri_shard_of(n->def, &c, &s, &ignored))
        return false;
    int axis = mri_shard_at(&s, false, first, 0, c.in[first]->rank);
    if (axis < 0 || axis >= (int)s.n_axes)
        return false;
    const mri_shard_axis *a = &s.axis[axis];
    bool plain = a->mode == 'm' && !a->n_attrs && !*a->absent && !*a->present;
    for (uint32_t i = 0; i < n->n_in; i++) {
        rows[i] = n->in[i] && mri_shard_at(&s, false, i, 0, c.in[i]->rank) == axis;
        if (n->in[i] && (moved[i] || mri_val(p, n->in[i])->kind == MRI_PARAM))
            plain &= rows[i] == moved[i];
    }
    for (uint32_t i = 0; i < n->n_out; i++)
        plain &= !n->out[i] || mri_shard_at(&s, true, i, 0, c.out[i]->rank) == axis;
    return plain;
}

static void other(experts *x, const mri_node *n)
{
    bool rows[MRI_MAX_OPERANDS] = { false }, moved[MRI_MAX_OPERANDS] = { false };
    mr_val in[MRI_MAX_OPERANDS] = { 0 };
    uint32_t first = n->n_in, with = 0;
    for (uint32_t i = n->n_in; i-- > 0;)
        if ((moved[i] = away(x, n->in[i])))
            first = i;
    bool stay = first < n->n_in && mri_goes_by_row(x->w.from, n, moved, first, rows);
    if (stay)
        with = x->with[n->in[first] - 1];
    for (uint32_t i = 0; i < n->n_in; i++)
        if (n->in[i])
            in[i] = stay && rows[i] ? go(x, n, n->in[i], with) : come(x, n, n->in[i]);
    mri_rewrite_node(&x->w, n, in);
    for (uint32_t i = 0; i < n->n_out && stay; i++) {
        if (!n->out[i])
            continue;
        *there(x, n->out[i]) = *mri_rewrite_at(&x->w, n->out[i]);
        *mri_rewrite_at(&x->w, n->out[i]) = 0;
        x->with[n->out[i] - 1] = with;
    }
}

static mr_status rewrite(experts *x, mr_err *err)
{
    const mr_prog *from = x->w.from;
    mr_status st = 0;
    for (size_t i = 0; i < from->nodes.n && !st; i++) {
        const mri_node *n = &from->nodes.v[i];
        bool expert = false;
        for (uint32_t k = 0; k < n->n_in; k++)
            expert |= n->in[k] && mri_is_expert(mri_val(from, n->in[k]));
        if (expert)
            st = products(x, n, err);
        else
            other(x, n);
    }
    const mri_node *last = from->nodes.n ? &from->nodes.v[from->nodes.n - 1] : NULL;
    for (size_t i = 0; i < from->outputs.n && !st; i++)
        come(x, last, from->outputs.v[i].value);
    return st;
}

/* `cut`: over the ranks of ep */
static mr_status walk(mr_prog **p, const mri_mesh *mesh, mri_trip_kind kind, bool cut, mr_err *err)
{
    size_t n = (*p)->values.n;
    bool gather = cut && mesh->gather_experts;
    mr_status st = 0;
    experts x = { .mesh = mesh, .kind = kind };
    mri_rewrite_begin(&x.w, *p);
    x.there = mri_alloc((n + 1) * sizeof *x.there);
    x.with = mri_alloc((n + 1) * sizeof *x.with);
    for (mr_val v = 1; cut && v <= x.w.to->values.n && !st; v++)
        st = cut_param(&x, mri_val(x.w.to, v), err);
    if (!st)
        st = gather ? mri_gather_experts(&x.w, mesh, err) : rewrite(&x, err);
    if (!st) {
        st = mri_rewrite_end(&x.w, p, err);
    } else {
        mri_prog_free(x.w.to);
        free(x.w.map);
    }
    free(x.there);
    free(x.with);
    free(x.trips.v);
    return st;
}

mr_status mri_shard_experts(mr_prog **p, const mri_mesh *mesh, mr_err *err)
{
    bool any = false;
    mr_status st = 0;
    for (mr_val v = 1; v <= (*p)->values.n; v++)
        any |= mri_is_expert(mri_val(*p, v));
    if (any && mesh->pad_to_capacity && mesh->capacity_factor > 0)
        st = walk(p, mesh, MRI_TRIP_PADDED, false, err);
    if (!st && any && mesh->ep > 1)
        st = walk(p, mesh, mesh->equal_blocks ? MRI_TRIP_BLOCKS : MRI_TRIP_RAGGED, true, err);
    return st;
}
