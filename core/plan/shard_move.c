/* SPDX-License-Identifier: Apache-2.0
 *
 * shard_move.c - from one placement to another, by collectives along dim 0; what is cut along its
 * last dim is packed before, or unpacked behind. */
#include "shard_state.h"
#include <string.h>

bool mri_shard_streams(const mri_sharding *s, const mr_type *t)
{
    bool real = !strcmp(t->dtype, "f32") || !strcmp(t->dtype, "bf16") || !strcmp(t->dtype, "f64");
    return s->mesh->sequence && real && t->rank >= 2 && t->dim[0] % s->n == 0;
}

static mr_status node(mri_sharding *s, const char *id, const mr_attr *at, uint32_t n_at, mr_val x,
                      mr_val *out)
{
    mr_status st = mri_prog_node(s->p, id, &x, 1, at, n_at, out, 1, NULL, 0);
    if (st)
        *s->err = s->p->err;
    return st;
}

mr_status mri_shard_comm(mri_sharding *s, const char *id, const char *grad, mr_val x, mr_val *out)
{
    mr_attr at[4] = { mr_as("group", "tp"), mr_ai("ranks", s->n), mr_ai("index", s->index) };
    if (grad)
        at[3] = mr_as("grad", grad);
    return node(s, id, at, grad ? 4 : 3, x, out);
}

static mr_status pack(mri_sharding *s, const char *id, mr_val x, mr_val *out)
{
    mr_attr at = mr_ai("ranks", s->n);
    if (mri_val(s->p, x)->type.rank != 2)
        return mri_shard_fail(s, "a value of %u dims is cut along its last one",
                              mri_val(s->p, x)->type.rank);
    return node(s, id, &at, 1, x, out);
}

/* S(d) -> R */
static mr_status gather(mri_sharding *s, mr_val x, int32_t d, const char *grad, mr_val *out)
{
    mr_status st = mri_shard_comm(s, "comm.gather", grad, x, out);
    return st || !d ? st : pack(s, "comm.unpack", *out, out);
}

/* R -> S(d) */
static mr_status slice(mri_sharding *s, mr_val x, int32_t d, mr_val *out)
{
    mr_status st = d ? pack(s, "comm.pack", x, &x) : 0;
    return st ? st : mri_shard_comm(s, "comm.slice", NULL, x, out);
}

mr_status mri_shard_resolve(mri_sharding *s, mr_val x, bool cut, mr_val *out)
{
    return mri_shard_comm(s, cut ? "comm.reduce_scatter" : "comm.reduce", NULL, x, out);
}

static bool has_gradient(const mri_value *v)
{
    return (v->kind == MRI_TEMP || (v->kind == MRI_INPUT && !mri_is_batch_input(v->name))) &&
           v->type.dtype[0] != 'i' && v->type.dtype[0] != 'u';
}

mr_status mri_shard_move(mri_sharding *s, mr_val v, int32_t want, uint32_t gradient, mr_val *out)
{
    int32_t have = s->at[v - 1];
    mr_val x = s->to[v - 1];
    const mri_value *old = mri_val(s->old, v);
    uint32_t way = gradient;
    mr_status st = 0;
    *out = x;
    if (have == want && (have != MRI_WHOLE || gradient == MRI_FOR_ALL || !has_gradient(old)))
        return 0;
    if (have == MRI_ROUTED || want == MRI_ROUTED)
        return mri_shard_fail(s, "routed rows are read by an op that cannot take them");
    if (want >= 0)
        way = MRI_FOR_ALL; /* a part has the gradient of that part, whoever reads it */
    for (size_t i = 0; i < s->moved.n; i++)
        if (s->moved.v[i].from == v && s->moved.v[i].at == want && s->moved.v[i].way == way) {
            *out = s->moved.v[i].to;
            return 0;
        }
    if (have >= 0 && want == MRI_WHOLE)
        st = gather(s, x, have, gradient == MRI_FOR_PART ? "sum" : "slice", out);
    else if (have >= 0) { /* from one dim to another: all of it, then the part */
        st = mri_shard_move(s, v, MRI_WHOLE, MRI_FOR_ALL, &x);
        if (!st)
            st = slice(s, x, want, out);
    } else if (want >= 0)
        st = slice(s, x, want, out);
    else
        st = mri_shard_comm(s, "comm.copy", NULL, x, out);
    if (!st) {
        mri_moved m = { v, *out, want, way };
        MRI_PUSH(&s->moved, m);
    }
    return st;
}

mr_status mri_shard_cut_named(mri_sharding *s, mr_val v, uint32_t dim)
{
    mri_value *x = mri_val(s->p, s->to[v - 1]);
    const mr_type *full = &mri_val(s->old, v)->type;
    if (full->dim[dim] % s->n)
        return mri_shard_fail(s, "dim %u of %s is %lld, tp must divide it", dim, x->name,
                              (long long)full->dim[dim]);
    x->type.dim[dim] = full->dim[dim] / s->n;
    s->at[v - 1] = (int32_t)dim;
    s->used[v - 1] |= MRI_USED_CUT;
    if (x->kind != MRI_PARAM)
        return 0;
    x->param.type = x->type;
    x->place.rank = full->rank;
    x->place.split |= MRI_AXIS_TP;
    memcpy(x->place.full, full->dim, sizeof x->place.full);
    x->place.at[dim] = s->index * x->type.dim[dim];
    return 0;
}
