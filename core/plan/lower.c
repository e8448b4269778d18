/* SPDX-License-Identifier: Apache-2.0
 *
 * lower.c - a kernel for every node. The backend is asked once a node; an op that it lacks
 * runs by its reference loops on the host where that is allowed (always on a backend whose
 * memory the host reads), and is an error that names op and types otherwise.
 */
#include "core/ops/catalogue.h"
#include "core/ops/experts_parallel.h"
#include "plan.h"
#include <stdlib.h>
#include <string.h>

static mr_status unsupported(const mri_plan *plan, const mri_node *n, const mr_call *c,
                             const mr_err *why, mr_err *err)
{
    mri_str s = { 0 };
    for (uint32_t i = 0; i < c->n_in; i++)
        if (c->in[i]) {
            mri_str_add(&s, i ? ", " : "");
            mri_type_print(c->in[i], &s);
        }
    mr_fail(err, MR_E_UNSUPPORTED, MR_BLAME_PLUGIN, "block %s: the backend has no kernel for %s(%s)",
            plan->name, n->def->id, s.s ? s.s : "");
    mr_detail(err, "%s", why->what);
    mr_hint(err, "backend/ref runs every op, slowly; a plugin may bring the kernel");
    mri_str_free(&s);
    return MR_E_UNSUPPORTED;
}

/* The parameter's main gradient if this node alone adds to it, else 0. */
static mr_val sole_gradient(const mr_prog *p, const mri_node *n)
{
    uint32_t last = n->n_in - 1, writers = 0;
    if (!n->n_in || !(n->written >> last & 1) || mri_val(p, n->in[last])->kind != MRI_GRAD)
        return 0;
    for (size_t i = 0; i < p->nodes.n; i++)
        for (uint32_t k = 0; k < p->nodes.v[i].n_in; k++)
            writers += p->nodes.v[i].in[k] == n->in[last];
    return writers == 1 ? n->in[last] : 0;
}

/* Does the op take, as its last operand, a sum of squares to add to? */
static bool sums_squares(const mr_op_def *def, uint32_t n_in)
{
    mri_sig sig;
    mr_err ignored = MR_ERR_INIT;
    return !mri_sig_parse(def->sig, &sig, &ignored) && sig.n_in == n_in &&
           !strcmp(sig.in[n_in - 1].name, "sumsq") && sig.in[n_in - 1].mutated;
}

static bool query_first(mri_plan *plan, const mri_plan_options *opt, const char *id,
                        const mr_call *c, mri_step *s)
{
    mr_err why = MR_ERR_INIT;
    if (!plan->backend->query(plan->dev, id, c, opt->deterministic ? MR_QUERY_DETERMINISTIC : 0,
                              &s->first, &s->first_info, &why))
        return true;
    s->first = NULL; /* a refusal leaves there what it likes */
    return false;
}

/* A backend that has no such kernel is no error: the gradient is zeroed and added to. */
static void lower_first(mri_plan *plan, const mri_plan_options *opt, const mri_node *n,
                        const mr_call *call, mri_step *s)
{
    char *id = mri_format("%s.first", n->def->id);
    const mr_op_def *def = mri_op_find(id);
    bool wanted = def && plan->backend && sole_gradient(plan->prog, n);
    const mr_type *in[MRI_MAX_OPERANDS], sum = mr_type1(plan->prog->acc_dtype, 1);
    mr_call c = *call;
    s->first_info.size = sizeof s->first_info;
    s->first_cost.size = sizeof s->first_cost;
    if (wanted) {
        memcpy(in, call->in, c.n_in * sizeof *in);
        in[c.n_in - 1] = &sum;
        c.in = in;
        c.n_out = 1;
        c.out = &call->in[c.n_in - 1];
        s->first_sums = opt->sum_squares && sums_squares(def, c.n_in) &&
                        query_first(plan, opt, id, &c, s);
        c.n_in -= !s->first_sums;
        if (!s->first_sums)
            query_first(plan, opt, id, &c, s);
    }
    if (s->first) {
        def->cost(&c, &s->first_cost);
        if (s->first_info.workspace > s->info.workspace)
            s->info.workspace = s->first_info.workspace;
    }
    free(id);
}

/* The world's, or a copy: no kernel. */
static bool lower_comm(const mri_plan_options *opt, const mri_node *n, const mr_call *c,
                       mri_step *s)
{
    s->comm = mri_step_comm(n);
    if (!s->comm)
        return false;
    int32_t group = mri_group_find(mr_attr_s(c, "group", "tp"));
    MRI_ASSERT(group >= 0);
    s->group = (uint32_t)group;
    s->index = !strcmp(n->def->id, "comm.copy") ? 0 : (uint32_t)mr_attr_i(c, "index", 0);
    s->by = s->comm == MRI_STEP_SHIFT ? (uint32_t)mr_attr_i(c, "by", 1) : 0;
    s->info.impl = s->comm == MRI_STEP_SLICE ? "copy" : "collective";
    bool recorded = s->comm == MRI_STEP_SLICE || opt->record_comm;
    s->info.flags = MR_K_DETERMINISTIC | (recorded ? MR_K_CAPTURABLE : 0);
    return true;
}

mr_status mri_pass_lower(mri_plan *plan, const mri_plan_options *opt, mr_err *err)
{
    const mr_prog *p = plan->prog;
    for (uint32_t i = 0; i < p->nodes.n; i++) {
        const mri_node *n = &p->nodes.v[i];
        mri_step s = { .node = i };
        const mr_type *types[2 * MRI_MAX_OPERANDS];
        mr_call call = mri_node_call(p, n, types);
        s.info.size = sizeof s.info;
        s.cost.size = sizeof s.cost;
        if (n->def->cost)
            n->def->cost(&call, &s.cost);
        if (mri_exchange_is(n->def, &call)) {
            s.ref = n->def;
            s.comm = MRI_STEP_EXCHANGE;
            s.group = MRI_GROUP_EP;
            s.info.impl = "exchange";
            s.info.flags = MR_K_HOST_SYNC | MR_K_DETERMINISTIC;
        } else if (!lower_comm(opt, n, &call, &s) && plan->backend) {
            mr_err why = MR_ERR_INIT;
            mr_status st = plan->backend->query(plan->dev, n->def->id, &call,
                                                opt->deterministic ? MR_QUERY_DETERMINISTIC : 0,
                                                &s.kernel, &s.info, &why);
            if (st == MR_E_UNSUPPORTED) {
                if (!opt->host_fallback || !n->def->ref)
                    return unsupported(plan, n, &call, &why, err);
                s.ref = n->def;
                s.info.impl = "reference";
                s.info.flags = MR_K_HOST_SYNC | MR_K_DETERMINISTIC |
                               (n->def->flags & MR_OP_INPLACE0 ? MR_K_INPLACE0 : 0);
            } else if (st) {
                *err = why;
                return st;
            }
        }
        if (plan->train && !s.ref && !s.comm)
            lower_first(plan, opt, n, &call, &s);
        int phase = n->phase == MRI_W && !opt->split_w ? MRI_B : n->phase;
        plan->flops[n->phase] += s.cost.flops;
        plan->bytes[n->phase] += s.cost.bytes;
        if (n->recomputed)
            plan->recompute_flops += s.cost.flops;
        MRI_PUSH(&plan->steps[phase], s);
    }
    return 0;
}
