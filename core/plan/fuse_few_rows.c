/* SPDX-License-Identifier: Apache-2.0
 *
 * fuse_few_rows.c - what the fusion pass looks for where a step has few rows, as decoding does:
 * products of one input, gated units, a mixture's router and experts, and the norm before any of
 * them. A backend answers for these ops with few rows only; with many the rows of fuse_patterns.c
 * stay, which were asked first. Not for training: nothing here has a gradient, and what is run
 * again for the backward must give the same bits as the forward.
 */
#include "fuse.h"

/* A product without a bias, in its input's dtype. */
static bool plain_linear(const mr_prog *p, const mri_node *n)
{
    return mri_fuse_is(n, "linear") && (n->n_in < 3 || !n->in[2]) &&
           !strcmp(mri_val(p, n->in[0])->type.dtype, mri_val(p, n->out[0])->type.dtype);
}

static bool linear_swiglu(const mr_prog *p, uint32_t at, mri_fusion *f)
{
    const mri_node *act = &p->nodes.v[at], *gate = mri_fuse_maker(p, act->in[0]);
    const mri_node *up = act->n_in > 1 ? mri_fuse_maker(p, act->in[1]) : NULL;
    if (!gate || !up || gate == up || !plain_linear(p, gate) || !plain_linear(p, up) ||
        gate->in[0] != up->in[0])
        return false;
    mri_fuse_set(f, "linear_swiglu", (mr_val[]){ gate->in[0], 0, gate->in[1], up->in[1] }, 4);
    mri_fuse_outputs(f, act);
    mri_fuse_drop(p, f, gate);
    mri_fuse_drop(p, f, up);
    mri_fuse_drop(p, f, act);
    return true;
}

/* The last of two or three products of one value, or of the norm of one. */
static bool linears(const mr_prog *p, uint32_t at, mri_fusion *f)
{
    const mri_node *last = &p->nodes.v[at], *all[3];
    uint32_t reader[8], n = mri_fuse_readers(p, last->in[0], reader, 8), count = 0;
    for (uint32_t i = 0; i < n && i < 8 && reader[i] <= at; i++) {
        const mri_node *m = &p->nodes.v[reader[i]];
        if (plain_linear(p, m) && m->in[0] == last->in[0]) {
            if (count == 3)
                return false;
            all[count++] = m;
        }
    }
    if (count < 2 || all[count - 1] != last)
        return false;
    mri_fuse_set(f, "linears", (mr_val[]){ last->in[0], 0, 0, 0, 0 }, 5);
    f->n_out = count;
    for (uint32_t i = 0; i < count; i++) {
        f->in[2 + i] = all[i]->in[1];
        f->out[i] = all[i]->out[0];
        mri_fuse_drop(p, f, all[i]);
    }
    return true;
}

/* ---- a mixture ------------------------------------------------------------------------------ */

static bool experts_swiglu(const mr_prog *p, uint32_t at, mri_fusion *f)
{
    const mri_node *act = &p->nodes.v[at], *product = mri_fuse_maker(p, act->in[0]), *from;
    if ((act->n_in > 1 && act->in[1]) || !mri_fuse_is(product, "grouped_linear"))
        return false;
    from = mri_fuse_maker(p, product->in[0]);
    if (!mri_fuse_is(from, "permute"))
        return false;
    mri_fuse_set(f, "experts_swiglu",
                 (mr_val[]){ from->in[0], 0, from->n_in > 3 ? from->in[3] : 0, from->in[1],
                             product->in[1], product->in[2] }, 6);
    mri_fuse_outputs(f, act);
    mri_fuse_attrs(f, product, NULL);
    mri_fuse_drop(p, f, product);
    mri_fuse_drop(p, f, from);
    mri_fuse_drop(p, f, act);
    return true;
}

static bool experts_add(const mr_prog *p, uint32_t at, mri_fusion *f)
{
    const mri_node *sum = &p->nodes.v[at], *product = mri_fuse_maker(p, sum->in[2]);
    if (mri_fuse_attr_i(sum, "k", 0) != 1 || (sum->n_in > 5 && sum->in[5]) ||
        !mri_fuse_is(product, "grouped_linear"))
        return false;
    mri_fuse_set(f, "experts_add",
                 (mr_val[]){ sum->in[0], sum->in[1], product->in[0], sum->in[3], product->in[1],
                             product->in[2] }, 6);
    mri_fuse_outputs(f, sum);
    mri_fuse_attrs(f, product, NULL);
    mri_fuse_drop(p, f, product);
    mri_fuse_drop(p, f, sum);
    return true;
}

static bool router(const mr_prog *p, uint32_t at, mri_fusion *f)
{
    const mri_node *plan = &p->nodes.v[at], *choice = mri_fuse_maker(p, plan->in[0]), *logits;
    if (!mri_fuse_is(choice, "route_topk") || choice->out[1] != plan->in[0])
        return false;
    logits = mri_fuse_maker(p, choice->in[0]);
    if (!mri_fuse_is(logits, "linear") || (logits->n_in > 2 && logits->in[2]) ||
        !mr_is(&mri_val(p, logits->out[0])->type, "f32"))
        return false;
    mri_fuse_set(f, "router",
                 (mr_val[]){ logits->in[0], 0, logits->in[1],
                             choice->n_in > 1 ? choice->in[1] : 0 }, 4);
    memcpy(f->out, choice->out, 2 * sizeof *f->out);
    memcpy(f->out + 2, plan->out, 3 * sizeof *f->out);
    f->n_out = 5;
    mri_fuse_attrs(f, choice, NULL);
    mri_fuse_drop(p, f, logits);
    mri_fuse_drop(p, f, choice);
    mri_fuse_drop(p, f, plan);
    return true;
}

/* ---- attention over a cache ----------------------------------------------------------------- */

/* rope, or rope_norm, of both queries and keys by the same angles, and nobody else reads them */
static bool rope_attention(const mr_prog *p, uint32_t at, mri_fusion *f)
{
    const mri_node *n = &p->nodes.v[at], *q = mri_fuse_maker(p, n->in[0]);
    const mri_node *k = mri_fuse_maker(p, n->in[1]);
    bool norm = mri_fuse_is(q, "rope_norm");
    if (!q || !k || q == k || !mri_fuse_is(q, norm ? "rope_norm" : "rope") ||
        !mri_fuse_is(k, q->def->id) || q->in[1] != n->in[3] || k->in[1] != n->in[3])
        return false;
    mr_call a = mri_fuse_call(q), b = mri_fuse_call(k);
    const mr_attr *fa = mr_attr_find(&a, "inv_freq"), *fb = mr_attr_find(&b, "inv_freq");
    if (!fa || !fb || fa->n != fb->n || memcmp(fa->u.fs, fb->u.fs, fa->n * sizeof *fa->u.fs) ||
        mr_attr_i(&a, "interleaved", 1) != mr_attr_i(&b, "interleaved", 1) ||
        mr_attr_f(&a, "factor", 1) != mr_attr_f(&b, "factor", 1) ||
        mr_attr_f(&a, "eps", 1e-5) != mr_attr_f(&b, "eps", 1e-5) ||
        mr_attr_i(&a, "inverse", 0) || mr_attr_i(&b, "inverse", 0))
        return false;
    mri_fuse_set(f, "rope_attention.paged", n->in, n->n_in);
    f->in[0] = q->in[0];
    f->in[1] = k->in[0];
    mri_fuse_outputs(f, n);
    mri_fuse_attrs(f, n, NULL);
    f->attr[f->n_attr++] = *fa;
    f->attr[f->n_attr++] = mr_ai("interleaved", mr_attr_i(&a, "interleaved", 1));
    f->attr[f->n_attr++] = mr_af("factor", mr_attr_f(&a, "factor", 1));
    f->attr[f->n_attr++] = mr_ai("qk_norm", norm);
    f->attr[f->n_attr++] = mr_af("eps", mr_attr_f(&a, "eps", 1e-5));
    mri_fuse_drop(p, f, n);
    mri_fuse_drop(p, f, q);
    mri_fuse_drop(p, f, k);
    return true;
}

/* ---- the norm before it --------------------------------------------------------------------- */

/* The reader normalises for itself; the norm goes when its last reader has. */
static bool normed(const mr_prog *p, uint32_t at, mri_fusion *f)
{
    const mri_node *n = &p->nodes.v[at], *norm = mri_fuse_maker(p, n->in[0]);
    if (!mri_fuse_is(norm, "rmsnorm") || norm->out[0] != n->in[0] ||
        !mri_fuse_whole_row(p, norm, norm->in[0]) || mri_fuse_attr_i(n, "normed", 0))
        return false;
    mr_call c = mri_fuse_call(norm);
    mri_fuse_set(f, n->def->id, n->in, n->n_in);
    mri_fuse_outputs(f, n);
    for (uint32_t i = 0; i < n->n_attr; i++)
        if (strcmp(n->attr[i].key, "normed") && strcmp(n->attr[i].key, "eps"))
            f->attr[f->n_attr++] = n->attr[i];
    f->attr[f->n_attr++] = mr_ai("normed", 1);
    f->attr[f->n_attr++] = mr_af("eps", mr_attr_f(&c, "eps", 1e-5));
    f->in[0] = norm->in[0];
    f->in[1] = norm->n_in > 1 ? norm->in[1] : 0;
    mri_fuse_drop(p, f, n);
    return true;
}

static bool normed_linear(const mr_prog *p, uint32_t at, mri_fusion *f)
{
    const mri_node *n = &p->nodes.v[at], *norm = mri_fuse_maker(p, n->in[0]);
    if (!plain_linear(p, n) || !mri_fuse_is(norm, "rmsnorm") || norm->out[0] != n->in[0] ||
        !mri_fuse_whole_row(p, norm, norm->in[0]))
        return false;
    mr_call c = mri_fuse_call(norm);
    mri_fuse_set(f, "linears",
                 (mr_val[]){ norm->in[0], norm->n_in > 1 ? norm->in[1] : 0, n->in[1], 0, 0 }, 5);
    mri_fuse_outputs(f, n);
    f->attr[f->n_attr++] = mr_ai("normed", 1);
    f->attr[f->n_attr++] = mr_af("eps", mr_attr_f(&c, "eps", 1e-5));
    mri_fuse_drop(p, f, n);
    return true;
}

const mri_fuse_pattern mri_fuse_few_rows[] = {
    { "swiglu", "swiglu of two products", linear_swiglu },
    { "swiglu", "swiglu of the experts' product of permute", experts_swiglu },
    { "unpermute_add", "a + b + the experts' product, one expert a token", experts_add },
    { "attention.paged", "of rope or rope_norm", rope_attention },
    { "route_plan", "plan of the choice of a product", router },
    { "linear", "products of one value", linears },
    { "linear_swiglu", "of rmsnorm", normed },
    { "experts_swiglu", "of rmsnorm", normed },
    { "router", "of rmsnorm", normed },
    { "linears", "of rmsnorm", normed },
    { "linear", "of rmsnorm", normed_linear },
    { NULL, NULL, NULL },
};
