/* SPDX-License-Identifier: Apache-2.0
 *
 * shard_node.c - one op over the tp ranks: which of its axes is split, by its sharding rule, and
 * what that makes of operands and outputs.
 *
 * The axis is that of a parameter that is cut; else that of an activation cut in another dim than
 * its first; else the tokens, if an activation is cut there; else none, and every rank does the
 * whole of it. Two ops have forms of their own where the vocabulary is cut (vocab_parts.c).
 */
#include "shard_state.h"
#include <stdlib.h>
#include <string.h>

typedef struct use { /* of an op in the old program */
    const mri_node *n;
    const mr_type *types[2 * MRI_MAX_OPERANDS];
    mr_call call;
    mri_shard rule;
    mri_sig sig;
} use;

static bool is_named(const mri_sharding *s, mr_val v) /* cut where it lies, not by an op */
{
    uint8_t k = mri_val(s->old, v)->kind;
    return k == MRI_PARAM || k == MRI_STATE;
}

static int axis_at(const use *u, bool out, uint32_t i, int32_t dim)
{
    const mr_type *t = out ? u->call.out[i] : u->call.in[i];
    int a = t && dim >= 0 && dim < MR_MAX_RANK
                ? mri_shard_at(&u->rule, out, i, (uint32_t)dim, t->rank) : -1;
    return a >= 0 && a < (int)u->rule.n_axes ? a : -1;
}

static int32_t dim_of(const use *u, bool out, uint32_t i, int axis)
{
    const mr_type *t = out ? u->call.out[i] : u->call.in[i];
    for (uint32_t d = 0; t && axis >= 0 && d < t->rank; d++)
        if (mri_shard_at(&u->rule, out, i, d, t->rank) == axis)
            return (int32_t)d;
    return MRI_WHOLE;
}

static mr_val operand(const use *u, const char *name) /* 0: absent */
{
    for (uint32_t i = 0; i < u->sig.n_in && i < u->n->n_in; i++)
        if (!strcmp(u->sig.in[i].name, name))
            return u->n->in[i];
    return 0;
}

/* Do the sizes and the operands allow to split this axis? */
static bool splits(const mri_sharding *s, const use *u, int axis)
{
    const mri_shard_axis *a = &u->rule.axis[axis];
    if (*a->present && !operand(u, a->present))
        return false;
    if (*a->absent && operand(u, a->absent) && a->mode != 's')
        return false;
    for (uint32_t o = 0; o < 2; o++)
        for (uint32_t i = 0; i < (o ? u->call.n_out : u->call.n_in); i++) {
            int32_t d = dim_of(u, o, i, axis);
            if (d >= 0 && (o ? u->call.out[i] : u->call.in[i])->dim[d] % s->n)
                return false;
        }
    return true;
}

static mr_status indivisible(mri_sharding *s, const use *u, int axis)
{
    const mri_shard_axis *a = &u->rule.axis[axis];
    return mri_shard_fail(s, "%s cannot be split along its axis %s%s%s", u->n->def->id, a->name,
                          *a->present ? " without operand " : "", a->present);
}

/* -> the axis to split, -1: none */
static mr_status choose(mri_sharding *s, const use *u, int *axis)
{
    *axis = -1;
    for (uint32_t i = 0; i < u->n->n_in; i++) {
        mr_val v = u->n->in[i];
        if (!v || !is_named(s, v) || s->at[v - 1] < 0)
            continue;
        int a = axis_at(u, false, i, s->at[v - 1]);
        if (a < 0)
            return mri_shard_fail(s, "%s is cut along dim %d, which %s cannot split",
                                  mri_val(s->old, v)->name, s->at[v - 1], u->n->def->id);
        if (*axis >= 0 && a != *axis)
            return mri_shard_fail(s, "operands of %s are cut along different axes", u->n->def->id);
        if (!splits(s, u, a))
            return indivisible(s, u, a);
        *axis = a;
    }
    for (int first = 0; first < 2 && *axis < 0; first++) /* other dims before the first one */
        for (uint32_t i = 0; i < u->n->n_in && *axis < 0; i++) {
            mr_val v = u->n->in[i];
            int32_t at = v ? s->at[v - 1] : MRI_WHOLE;
            int a = at >= 0 && (at == 0) == first ? axis_at(u, false, i, at) : -1;
            if (a >= 0 && splits(s, u, a))
                *axis = a;
        }
    return 0;
}

/* ---- operands -------------------------------------------------------------------------------- */

static mr_status take_named(mri_sharding *s, const use *u, mr_val v, int32_t d, bool split)
{
    uint8_t *used = &s->used[v - 1];
    const char *name = mri_val(s->old, v)->name;
    if (d >= 0 && s->at[v - 1] < 0) {
        if (*used)
            return mri_shard_fail(s, "%s is used whole by one op and cut by %s", name,
                                  u->n->def->id);
        return mri_shard_cut_named(s, v, (uint32_t)d);
    }
    if (d != s->at[v - 1])
        return mri_shard_fail(s, "%s is cut along dim %d, %s needs %s", name, s->at[v - 1],
                              u->n->def->id, d < 0 ? "all of it" : "another cut");
    if (d >= 0)
        return 0;
    *used |= split ? MRI_USED_PARTIAL : MRI_USED_WHOLE;
    if ((*used & MRI_USED_PARTIAL) && (*used & MRI_USED_WHOLE))
        return mri_shard_fail(s, "%s is read by ops that see all tokens and by ops that see a part",
                              name);
    return 0;
}

static mr_status take_operands(mri_sharding *s, const use *u, int axis, mr_val *in)
{
    const char *once = axis >= 0 && u->rule.axis[axis].mode == 's' ? u->rule.axis[axis].absent : "";
    mr_status st = 0;
    for (uint32_t i = 0; i < u->n->n_in; i++) {
        mr_val v = u->n->in[i];
        int32_t d = dim_of(u, false, i, axis);
        in[i] = 0;
        if (!v)
            continue;
        if (is_named(s, v)) {
            MR_TRY(take_named(s, u, v, d, axis >= 0));
            in[i] = s->to[v - 1];
        } else
            MR_TRY(mri_shard_move(s, v, d, axis < 0 ? MRI_FOR_ALL : MRI_FOR_PART, &in[i]));
        if (*once && s->index && !strcmp(u->sig.in[i].name, once))
            in[i] = 0; /* it is in the sum once: the first rank adds it */
    }
out:
    return st;
}

/* The op's attributes, those of the split axis divided. */
static mr_status take_attrs(mri_sharding *s, const use *u, int axis, mr_attr *at)
{
    const mri_shard_axis *a = axis < 0 ? NULL : &u->rule.axis[axis];
    memcpy(at, u->n->attr, u->n->n_attr * sizeof *at);
    for (uint32_t k = 0; a && k < a->n_attrs; k++)
        for (uint32_t i = 0; i < u->n->n_attr; i++) {
            if (strcmp(at[i].key, a->attrs[k]))
                continue;
            if (at[i].u.i % s->n)
                return mri_shard_fail(s, "%s of %s is %lld, tp must divide it", at[i].key,
                                      u->n->def->id, (long long)at[i].u.i);
            at[i].u.i /= s->n;
        }
    return 0;
}

/* ---- making the op --------------------------------------------------------------------------- */

static mr_status emit(mri_sharding *s, const use *u, const char *id, const mr_val *in,
                      uint32_t n_in, const mr_attr *at, uint32_t n_at, mr_val *out)
{
    mr_status st = mri_prog_node(s->p, id, in, n_in, at, n_at, out, u->n->n_out, u->n->file,
                                 u->n->line);
    if (st) {
        char *why = mri_strdup(s->p->err.what);
        st = mri_shard_fail(s, "%s", why);
        free(why);
    }
    return st;
}

static void place(mri_sharding *s, mr_val old, mr_val made, int32_t at)
{
    s->to[old - 1] = made;
    s->at[old - 1] = at;
}

static mr_status split_op(mri_sharding *s, const use *u, int axis)
{
    mr_val in[MRI_MAX_OPERANDS], out[MRI_MAX_OPERANDS] = { 0 };
    mr_attr at[MRI_MAX_ATTRS];
    mr_status st = 0;
    MR_TRY(take_operands(s, u, axis, in));
    MR_TRY(take_attrs(s, u, axis, at));
    MR_TRY(emit(s, u, u->n->def->id, in, u->n->n_in, at, u->n->n_attr, out));
    for (uint32_t k = 0; k < u->n->n_out; k++) {
        mr_val old = u->n->out[k];
        int32_t d = dim_of(u, true, k, axis);
        if (!old)
            continue;
        if (d < 0 && axis >= 0 && u->rule.axis[axis].mode == 's') { /* a partial sum */
            bool cut = mri_shard_streams(s, &mri_val(s->old, old)->type);
            MR_TRY(mri_shard_resolve(s, out[k], cut, &out[k]));
            d = cut ? 0 : MRI_WHOLE;
        }
        place(s, old, out[k], d);
    }
out:
    return st;
}

/* ---- mixture of experts under sequence parallelism ------------------------------------------- */

static bool is_routed(const mri_sharding *s, const mri_node *n)
{
    if (!strcmp(n->def->id, "route_plan"))
        return s->at[n->in[0] - 1] == 0;
    for (uint32_t i = 0; i < n->n_in; i++)
        if (n->in[i] && s->at[n->in[i] - 1] == MRI_ROUTED)
            return true;
    return false;
}

/* Does an operand with axis a in its first dim carry routed rows? */
static bool rows_are_routed(const mri_sharding *s, const use *u, int a)
{
    for (uint32_t i = 0; i < u->n->n_in; i++)
        if (u->n->in[i] && s->at[u->n->in[i] - 1] == MRI_ROUTED &&
            mri_shard_at(&u->rule, false, i, 0, u->call.in[i]->rank) == a)
            return true;
    return false;
}

/* Each rank sorts, computes and brings back its own tokens. */
static mr_status routed_op(mri_sharding *s, const use *u)
{
    mr_val in[MRI_MAX_OPERANDS] = { 0 }, out[MRI_MAX_OPERANDS] = { 0 };
    mr_status st = 0;
    for (uint32_t i = 0; i < u->n->n_in; i++) {
        mr_val v = u->n->in[i];
        if (!v)
            continue;
        int32_t at = s->at[v - 1];
        in[i] = s->to[v - 1];
        if (is_named(s, v))
            MR_TRY(take_named(s, u, v, at >= 0 ? -2 : MRI_WHOLE, true));
        else if (at != MRI_ROUTED)
            MR_TRY(mri_shard_move(s, v, 0, MRI_FOR_PART, &in[i]));
    }
    MR_TRY(emit(s, u, u->n->def->id, in, u->n->n_in, u->n->attr, u->n->n_attr, out));
    for (uint32_t k = 0; k < u->n->n_out; k++) {
        if (!u->n->out[k])
            continue;
        int a = mri_shard_at(&u->rule, true, k, 0, u->call.out[k]->rank);
        place(s, u->n->out[k], out[k], a < 0 || rows_are_routed(s, u, a) ? MRI_ROUTED : 0);
    }
    for (uint32_t k = 0; k < u->n->n_out && !u->rule.n_in; k++) /* route_plan, or one like it */
        if (u->n->out[k])
            s->at[u->n->out[k] - 1] = MRI_ROUTED;
    if (!strcmp(u->n->def->id, "unpermute"))
        s->at[u->n->out[0] - 1] = 0;
out:
    return st;
}

/* ---- a vocabulary that is cut ------------------------------------------------------------------ */

static mr_status embedding(mri_sharding *s, const use *u)
{
    mr_val in[2] = { 0, s->to[u->n->in[1] - 1] }, out[1] = { 0 };
    const mr_type *table = u->call.in[1];
    mr_attr at[] = { mr_ai("first", s->index * (table->dim[0] / s->n)),
                     mr_ai("vocab", table->dim[0]), mr_ai("skip", mr_attr_i(&u->call, "skip", -1)) };
    mr_status st = 0;
    bool cut = mri_shard_streams(s, u->call.out[0]);
    MR_TRY(mri_shard_move(s, u->n->in[0], MRI_WHOLE, MRI_FOR_PART, &in[0]));
    MR_TRY(emit(s, u, "embedding.part", in, 2, at, 3, out));
    MR_TRY(mri_shard_resolve(s, out[0], cut, &out[0]));
    place(s, u->n->out[0], out[0], cut ? 0 : MRI_WHOLE);
out:
    return st;
}

static mr_status cross_entropy(mri_sharding *s, const use *u)
{
    mr_val logits[2] = { s->to[u->n->in[0] - 1] }, in[3] = { 0 }, out[3] = { 0 };
    int64_t V = u->call.in[0]->dim[1];
    mr_attr part[] = { mr_ai("first", s->index * (V / s->n)), mr_ai("vocab", V) };
    mr_attr merge[] = { mr_ai("ranks", s->n), mr_ai("vocab", V) };
    mr_status st = 0;
    for (uint32_t i = 1; i < 3; i++)
        MR_TRY(mri_shard_move(s, u->n->in[i], MRI_WHOLE, MRI_FOR_ALL, &in[i]));
    logits[1] = in[1];
    st = mri_prog_node(s->p, "cross_entropy.part", logits, 2, part, 2, in, 1, u->n->file,
                       u->n->line);
    if (st) {
        *s->err = s->p->err;
        goto out;
    }
    MR_TRY(mri_shard_comm(s, "comm.gather", "slice", in[0], &in[0]));
    MR_TRY(emit(s, u, "cross_entropy.merge", in, 3, merge, 2, out));
    for (uint32_t k = 0; k < u->n->n_out; k++)
        place(s, u->n->out[k], out[k], MRI_WHOLE);
out:
    return st;
}

/* by op, operand and dim that is cut */
static const struct {
    const char *id;
    uint32_t operand;
    int32_t at;
    mr_status (*make)(mri_sharding *, const use *);
} forms[] = {
    { "embedding", 1, 0, embedding },
    { "cross_entropy", 0, 1, cross_entropy },
};

mr_status mri_shard_node(mri_sharding *s, const mri_node *n)
{
    mr_status st = 0;
    int axis;
    use u = { .n = n };
    u.call = mri_node_call(s->old, n, u.types);
    s->p->open.v[s->p->open.n - 1] = n->region;
    MR_TRY(mri_shard_of(n->def, &u.call, &u.rule, s->err));
    MR_TRY(mri_sig_parse(n->def->sig, &u.sig, s->err));
    if (is_routed(s, n)) {
        st = routed_op(s, &u);
        goto out;
    }
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        mr_val v = !strcmp(n->def->id, forms[i].id) ? n->in[forms[i].operand] : 0;
        if (v && s->at[v - 1] == forms[i].at && (forms[i].at || is_named(s, v))) {
            st = forms[i].make(s, &u);
            goto out;
        }
    }
    MR_TRY(choose(s, &u, &axis));
    MR_TRY(split_op(s, &u, axis));
out:
    s->p->open.v[s->p->open.n - 1] = 0;
    return st;
}
