/* SPDX-License-Identifier: Apache-2.0
 * masters.c - see masters.h. */
#include "masters.h"
#include <string.h>

static bool touches(const mr_prog *p, const mri_node *n, const char *state, uint32_t *operand)
{
    mr_val v = mri_value_find(p, MRI_STATE, state);
    for (*operand = 0; *operand < n->n_in; ++*operand)
        if (v && n->in[*operand] == v)
            return true;
    return false;
}

/* index of the operand "weights" that the plugin left out; MRI_MAX_OPERANDS: there is none */
static uint32_t weights_operand(const mri_node *n)
{
    mri_sig sig;
    mr_err ignored = MR_ERR_INIT;
    if (mri_sig_parse(n->def->sig, &sig, &ignored))
        return MRI_MAX_OPERANDS;
    for (uint32_t i = 0; i < sig.n_in; i++)
        if (!strcmp(sig.in[i].name, "weights") && sig.in[i].optional && sig.in[i].mutated)
            return i < n->n_in && n->in[i] ? MRI_MAX_OPERANDS : i;
    return MRI_MAX_OPERANDS;
}

bool mri_masters_can(const mr_prog *p, const char **op)
{
    bool any = false;
    *op = "none";
    for (size_t i = 0; i < p->nodes.n; i++) {
        const mri_node *n = &p->nodes.v[i];
        uint32_t master;
        if (!touches(p, n, "master", &master))
            continue;
        any = true;
        *op = n->def->id;
        if (!(n->written >> master & 1) || weights_operand(n) == MRI_MAX_OPERANDS)
            return false;
    }
    return any;
}

static mr_status give(mr_prog *p, mri_node *n, mr_val weights, mr_err *err)
{
    const mr_type *types[2 * MRI_MAX_OPERANDS];
    mr_type out[MRI_MAX_OPERANDS], *outs[MRI_MAX_OPERANDS];
    uint32_t at = weights_operand(n);
    for (; n->n_in <= at; n->n_in++)
        n->in[n->n_in] = 0;
    n->in[at] = weights;
    n->written |= 1u << at;
    for (uint32_t i = 0; i < MRI_MAX_OPERANDS; i++)
        outs[i] = &out[i];
    mr_call call = mri_node_call(p, n, types);
    return mri_op_check_call(n->def, &call, outs, err);
}

mr_status mri_masters_fit(mr_prog *p, enum mri_masters how, mr_err *err)
{
    mr_status st = 0;
    uint32_t master;
    if (how == MRI_MASTERS_SEPARATE)
        return 0;
    mr_type t = mri_val(p, mri_value_find(p, MRI_STATE, "master"))->type;
    t.dtype = "bf16";
    mr_val weights = mri_prog_value(p, MRI_STATE, "weights", &t);
    if (how == MRI_MASTERS_SPLIT)
        mri_val(p, mri_value_find(p, MRI_STATE, "master"))->type.dtype = "i16";
    for (size_t i = 0; i < p->nodes.n && !st; i++)
        if (touches(p, &p->nodes.v[i], "master", &master))
            st = give(p, &p->nodes.v[i], weights, err);
    return st;
}
