/* SPDX-License-Identifier: Apache-2.0
 *
 * vjp.c - reverse mode over one block. Walks the forward nodes backwards, asks each op's
 * vjp to emit its backward ops, and sums where a value was used more than once.
 *
 * Borders: the gradient of output y is the input "d:y" where a later block reads y, that of
 * an input x the output "d:x", unless x is constant. Each loss, or the one that is asked for, is
 * seeded with the scalar "loss_seed". A parameter's gradient goes straight into its main gradient
 * (GRAD value), which B and W ops write in place, so that accumulation over micro-batches costs no
 * extra op.
 *
 * A node is W (may be delayed) when it only writes main gradients; else B.
 */
#include "plan.h"
#include "core/program/assembly.h"
#include <stdlib.h>
#include <string.h>

typedef struct vjp_state {
    mr_prog *p;
    mr_val *grad; /* summed gradient so far of each value (index id - 1), forward values only */
    size_t n;     /* of forward values */
    const mri_node *node;
    mr_status st;
} vjp_state;

static bool is_float(const mr_type *t)
{
    return !strcmp(t->dtype, "f32") || !strcmp(t->dtype, "bf16") || !strcmp(t->dtype, "f64") ||
           !strcmp(t->dtype, "f16");
}

static bool listed(const mr_list *l, const char *name)
{
    for (uint64_t i = 0; l && i < l->n; i++)
        if (!strcmp(l->v[i], name))
            return true;
    return false;
}

/* Which values lie on a path from something that wants a gradient? */
static void mark_trainable(mr_prog *p, const mr_list *constant)
{
    for (size_t i = 0; i < p->values.n; i++) {
        mri_value *v = &p->values.v[i];
        if (v->kind == MRI_PARAM)
            v->trainable = !(v->flags & MR_PARAM_FROZEN);
        else if (v->kind == MRI_INPUT)
            v->trainable = is_float(&v->type) && !mri_is_batch_input(v->name) &&
                           !listed(constant, v->name);
    }
    for (size_t i = 0; i < p->nodes.n; i++) {
        const mri_node *n = &p->nodes.v[i];
        bool any = false;
        for (uint32_t j = 0; j < n->n_in; j++)
            any |= n->in[j] && mri_val(p, n->in[j])->trainable;
        for (uint32_t j = 0; j < n->n_out; j++)
            if (n->out[j])
                mri_val(p, n->out[j])->trainable = any && !(n->def->flags & MR_OP_NO_VJP) &&
                                                   is_float(&mri_val(p, n->out[j])->type);
    }
}

static mr_val grad_of_param(mr_prog *p, mr_val param)
{
    for (size_t i = 0; i < p->values.n; i++)
        if (p->values.v[i].kind == MRI_GRAD && p->values.v[i].of == param)
            return (mr_val)(i + 1);
    mr_type t = mri_val(p, param)->type;
    t.dtype = p->acc_dtype;
    char name[300];
    snprintf(name, sizeof name, "%s", mri_val(p, param)->name);
    mr_val g = mri_prog_value(p, MRI_GRAD, name, &t);
    mri_val(p, g)->of = param;
    return g;
}

static mr_val emit(const mr_vjp *v, const char *id, const mr_val *in, uint32_t n_in,
                   const mr_attr *attr, uint32_t n_attr, mr_val *out, uint32_t n_out)
{
    vjp_state *s = v->self;
    if (n_out && out)
        memset(out, 0, n_out * sizeof *out);
    if (s->st)
        return 0;
    s->st = mri_prog_node(s->p, id, in, n_in, attr, n_attr, out, n_out, s->node->file,
                          s->node->line);
    if (s->st)
        return 0;
    mri_node *made = &s->p->nodes.v[s->p->nodes.n - 1];
    made->region = s->node->region;
    return n_out && out ? out[0] : 0;
}

static mr_val accumulator(const mr_vjp *v, uint32_t i)
{
    vjp_state *s = v->self;
    mr_val x = i < v->call->n_in ? v->in[i] : 0;
    if (s->st)
        return 0;
    if (!x || mri_val(s->p, x)->kind != MRI_PARAM) {
        s->st = mr_fail(&s->p->err, MR_E_NO_GRADIENT, MR_BLAME_PLUGIN,
                        "block %s: operand %u of %s must be a parameter, its gradient accumulates "
                        "in place", s->p->name, i, s->node->def->id);
        return 0;
    }
    return grad_of_param(s->p, x);
}

static mr_status add_grad(vjp_state *s, mr_val value, mr_val g)
{
    mr_prog *p = s->p;
    mri_value *v = mri_val(p, value);
    if (v->kind == MRI_PARAM) {
        mr_val in[2] = { g, grad_of_param(p, value) };
        return mri_prog_node(p, "accumulate", in, 2, NULL, 0, NULL, 0, s->node->file, s->node->line);
    }
    if (!s->grad[value - 1]) {
        s->grad[value - 1] = g;
        return 0;
    }
    mr_val in[2] = { s->grad[value - 1], g };
    return mri_prog_node(p, "add", in, 2, NULL, 0, &s->grad[value - 1], 1, s->node->file,
                         s->node->line);
}

/* One forward node: gather its output gradients, call its vjp, spread its input gradients. */
static mr_status back_node(vjp_state *s, uint32_t index, mr_err *err)
{
    mr_prog *p = s->p;
    mri_node n = p->nodes.v[index]; /* by value: the array grows below */
    mr_val dout[MRI_MAX_OPERANDS] = { 0 }, din[MRI_MAX_OPERANDS] = { 0 };
    uint8_t need[MRI_MAX_OPERANDS] = { 0 };
    bool flows = false, wanted = false;
    for (uint32_t j = 0; j < n.n_out; j++)
        if (n.out[j]) {
            dout[j] = s->grad[n.out[j] - 1];
            flows |= dout[j] != 0;
        }
    for (uint32_t j = 0; j < n.n_in; j++) {
        need[j] = n.in[j] && mri_val(p, n.in[j])->trainable;
        wanted |= need[j];
    }
    if (!flows || !wanted || (n.def->flags & MR_OP_NO_VJP))
        return 0;
    if (!n.def->vjp) {
        mr_fail(err, MR_E_NO_GRADIENT, MR_BLAME_PLUGIN, "block %s: op %s has no vjp, but a gradient "
                "must flow through it", p->name, n.def->id);
        mr_hint(err, "give the op a vjp, or freeze the parameters before it");
        return MR_E_NO_GRADIENT;
    }
    const mr_type *types[2 * MRI_MAX_OPERANDS];
    mr_call call = mri_node_call(p, &n, types);
    /* the value array may move while nodes are added: the call gets copies of the types */
    mr_type copy[2 * MRI_MAX_OPERANDS];
    for (uint32_t j = 0; j < 2 * MRI_MAX_OPERANDS; j++) {
        bool have = j < MRI_MAX_OPERANDS ? j < n.n_in : j - MRI_MAX_OPERANDS < n.n_out;
        if (have && types[j]) {
            copy[j] = *types[j];
            types[j] = &copy[j];
        }
    }
    s->node = &n;
    mr_vjp v = { sizeof v, 0, &call, n.in, n.out, dout, need, din, s, emit, accumulator };
    mr_status st = n.def->vjp(&v, err);
    if (!st && s->st) {
        st = s->st;
        *err = p->err;
    }
    for (uint32_t j = 0; j < n.n_in && !st; j++)
        if (din[j] && need[j]) {
            st = add_grad(s, n.in[j], din[j]);
            if (st)
                *err = p->err;
        }
    return st;
}

static mr_status port(mr_prog *p, mri_ports *ports, const char *name, mr_val v)
{
    mri_port x = { mri_prog_string(p, name), v };
    MRI_PUSH(ports, x);
    return 0;
}

/* W: nodes that only write main gradients and whose outputs nobody needs. */
static void mark_w(mr_prog *p, size_t first)
{
    for (size_t i = first; i < p->nodes.n; i++) {
        mri_node *n = &p->nodes.v[i];
        bool only_writes = n->written != 0;
        for (uint32_t j = 0; j < n->n_out; j++)
            only_writes &= !n->out[j];
        for (uint32_t j = 0; j < n->n_in; j++)
            if (n->written >> j & 1)
                only_writes &= mri_val(p, n->in[j])->kind == MRI_GRAD;
        if (only_writes)
            n->phase = MRI_W;
    }
}

mr_status mri_pass_vjp(mr_prog *p, const mr_list *consumed, const mr_list *constant,
                       const char *only, mr_err *err)
{
    mr_status st = 0;
    size_t forward = p->nodes.n;
    vjp_state s = { .p = p, .n = p->values.n };
    s.grad = mri_alloc(s.n * sizeof *s.grad);
    mark_trainable(p, constant);
    p->phase = MRI_B;
    p->open.n = 1;

    mr_type one = mr_type1("f32", 1);
    for (size_t i = 0; i < p->losses.n; i++) {
        mr_val loss = p->losses.v[i].value;
        mr_val seed = mri_value_find(p, MRI_SCALAR, MRI_LOSS_SEED);
        if (!mri_val(p, loss)->trainable || (only && strcmp(p->losses.v[i].name, only)))
            continue;
        if (!seed)
            seed = mri_prog_value(p, MRI_SCALAR, MRI_LOSS_SEED, &one);
        if (strcmp(mri_val(p, loss)->type.dtype, "f32")) { /* f64 programs: seed in their dtype */
            mr_attr a = mr_as("dtype", mri_val(p, loss)->type.dtype);
            st = mri_prog_node(p, "cast", &seed, 1, &a, 1, &seed, 1, __FILE__, __LINE__);
            if (st)
                goto fail;
        }
        s.grad[loss - 1] = seed;
    }
    for (size_t i = 0; i < p->outputs.n; i++) {
        mr_val y = p->outputs.v[i].value;
        if (!mri_val(p, y)->trainable || !listed(consumed, p->outputs.v[i].name))
            continue;
        char name[128];
        snprintf(name, sizeof name, "d:%s", p->outputs.v[i].name);
        mr_type t = mri_val(p, y)->type;
        mr_val d = mri_prog_value(p, MRI_INPUT, name, &t);
        if (s.grad[y - 1]) { /* a value that is two outputs */
            mr_val in[2] = { s.grad[y - 1], d };
            st = mri_prog_node(p, "add", in, 2, NULL, 0, &d, 1, __FILE__, __LINE__);
            if (st)
                goto fail;
        }
        s.grad[y - 1] = d;
    }
    for (size_t i = forward; i-- > 0;)
        MR_TRY(back_node(&s, (uint32_t)i, err));
    for (size_t i = 0; i < s.n; i++) {
        const mri_value *v = &p->values.v[i];
        if (v->kind != MRI_INPUT || !v->trainable)
            continue;
        char name[128];
        snprintf(name, sizeof name, "d:%s", v->name);
        if (s.grad[i])
            port(p, &p->outputs, name, s.grad[i]);
    }
    mark_w(p, forward);
    goto out;
fail:
    *err = p->err;
out:
    p->phase = MRI_F;
    free(s.grad);
    return st;
}
