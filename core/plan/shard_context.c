/* SPDX-License-Identifier: Apache-2.0
 *
 * shard_context.c - a block whose sequences are spread over the ranks of cp. It was built for the
 * tokens of this rank, which lie zig-zag; only attention sees those of others:
 *
 *   attention(q, k, v, seq_start)    k' = zigzag(comm.gather(k)), v' likewise
 *                                    attention.cp(q, k', v', seq_start)
 *
 *          of latents (MLA), where   c', kr', positions' as k' above
 *          that are fewer bytes      k', v' = mla_kv(linear(c', w), kr', positions')
 *
 *                   or, round a ring   k[s+1], v[s+1] = comm.shift(k[s]), comm.shift(v[s])
 *                                      o[s], l[s] = attention.part(q, k[s], v[s], seq_start)
 *                                      acc, lse = attention.merge(acc, lse, o[s], l[s])
 *                                      attention.ring(q, k, v, seq_start, acc, lse)
 *                   of latents         c, kr, positions pass round; k[s], v[s] as above
 *                                      mla_attention.ring(q, c, kr, w, seq_start, positions, ..)
 *
 *   moe_aux_loss(logits, seq_start)  f = comm.reduce(moe_counts(logits, seq_start))
 *                                    moe_balance_loss(logits, seq_start, f)
 *
 * seq_start holds rows of the whole micro-batch. The gradients of k' and v' are partial sums, and
 * go back by reduce_scatter; the counts are constant.
 */
#include "shard_experts.h"
#include <stdlib.h>
#include <string.h>

static mr_status refuse(const mr_prog *p, const mri_mesh *mesh, mr_err *err, const char *hint,
                        const char *why, long long n)
{
    mr_fail(err, MR_E_PROFILE_CONFLICT, MR_BLAME_USER, "block %s over cp = %u ranks: %s %lld",
            p->name, mesh->cp, why, n);
    mr_hint(err, "%s", hint);
    return MR_E_PROFILE_CONFLICT;
}

static mr_val gathered(mri_rewrite *w, const mri_mesh *m, const mri_node *n, mr_val v, int64_t seq,
                       const char *grad)
{
    mr_val all = mri_rewrite_op(w, n, "comm.gather", MR_IN(*mri_rewrite_at(w, v)),
                                MR_AT(mr_as("group", mri_group_name(MRI_GROUP_CP)),
                                      mr_ai("ranks", m->cp), mr_ai("index", m->i_cp),
                                      mr_as("grad", grad)), NULL, 1);
    return mri_rewrite_op(w, n, "zigzag", MR_IN(all),
                          MR_AT(mr_ai("ranks", m->cp), mr_ai("seq", seq)), NULL, 1);
}

/* ---- latents --------------------------------------------------------------------------------- */

static const mri_node *maker(const mr_prog *p, mr_val v, const char *id)
{
    const mri_value *x = v ? mri_val(p, v) : NULL;
    const mri_node *n = x && x->kind == MRI_TEMP ? &p->nodes.v[x->node] : NULL;
    return n && !strcmp(n->def->id, id) ? n : NULL;
}

static bool only_for(const mr_prog *p, mr_val v, const mri_node *reader)
{
    for (size_t i = 0; i < p->nodes.n; i++)
        for (uint32_t k = 0; k < p->nodes.v[i].n_in; k++)
            if (p->nodes.v[i].in[k] == v && &p->nodes.v[i] != reader)
                return false;
    for (size_t i = 0; i < p->outputs.n; i++)
        if (p->outputs.v[i].value == v)
            return false;
    return true;
}

static size_t row_bytes(const mr_prog *p, mr_val v)
{
    const mr_type *t = &mri_val(p, v)->type;
    return mr_bytes(t) / (size_t)t->dim[0];
}

/* The nodes that make attention's keys and values of latents which are fewer bytes, if that is all
 * that they are for. */
static bool from_latents(const mr_prog *p, const mri_node *n, const mri_node **kv,
                         const mri_node **up)
{
    *kv = maker(p, n->in[1], "mla_kv");
    if (!*kv || (*kv)->out[0] != n->in[1] || (*kv)->out[1] != n->in[2])
        return false;
    *up = maker(p, (*kv)->in[0], "linear");
    if (!*up || ((*up)->n_in > 2 && (*up)->in[2]) || !only_for(p, (*kv)->in[0], *kv) ||
        !only_for(p, n->in[1], n) || !only_for(p, n->in[2], n))
        return false;
    size_t latent = row_bytes(p, (*up)->in[0]) + row_bytes(p, (*kv)->in[1]) +
                    row_bytes(p, (*kv)->in[2]);
    return latent < row_bytes(p, n->in[1]) + row_bytes(p, n->in[2]);
}

/* Is this node made again of other ranks' latents, where attention wants it? */
static bool comes_later(const mr_prog *p, const mri_node *n)
{
    const mri_node *kv, *up;
    for (size_t i = 0; i < p->nodes.n; i++)
        if (!strcmp(p->nodes.v[i].def->id, "attention") &&
            from_latents(p, &p->nodes.v[i], &kv, &up) && (n == kv || n == up))
            return true;
    return false;
}

/* x: latents, the shared part of keys, positions -> kv */
static void expand(mri_rewrite *w, const mri_node *kv, const mri_node *up, const mr_val x[3],
                   mr_val out[2])
{
    mr_val in[3] = { x[0], *mri_rewrite_at(w, up->in[1]) };
    in[0] = mri_rewrite_op(w, up, "linear", in, 2, up->attr, up->n_attr, NULL, 1);
    in[1] = x[1];
    in[2] = x[2];
    mri_rewrite_op(w, kv, "mla_kv", in, 3, kv->attr, kv->n_attr, out, 2);
}

/* ---- attention ------------------------------------------------------------------------------- */

/* the gathered form; out: o, lse */
static void attend_all(mri_rewrite *w, const mri_mesh *m, const mri_node *n, int64_t seq,
                       mr_attr *at, uint32_t n_at, mr_val *out)
{
    const mri_node *kv, *up;
    mr_val all[3];
    if (from_latents(w->from, n, &kv, &up)) {
        all[0] = gathered(w, m, up, up->in[0], seq, "sum");
        all[1] = gathered(w, m, kv, kv->in[1], seq, "sum");
        all[2] = gathered(w, m, kv, kv->in[2], seq, "slice"); /* positions */
        expand(w, kv, up, all, all);
    } else {
        for (uint32_t i = 0; i < 2; i++)
            all[i] = gathered(w, m, n, n->in[1 + i], seq, "sum");
    }
    mri_rewrite_op(w, n, "attention.cp",
                   MR_IN(*mri_rewrite_at(w, n->in[0]), all[0], all[1],
                         *mri_rewrite_at(w, n->in[3])), at, n_at, out, 2);
}

/* what rank index - 1 has of x */
static mr_val passed(mri_rewrite *w, const mri_mesh *m, const mri_node *n, mr_val x)
{
    return mri_rewrite_op(w, n, "comm.shift", &x, 1,
                          MR_AT(mr_as("group", mri_group_name(MRI_GROUP_CP)),
                                mr_ai("ranks", m->cp), mr_ai("index", m->i_cp), mr_ai("by", 1)),
                          NULL, 1);
}

/* What joins the steps, of what passed round: keys and values, or latents. */
static mr_val ring_end(mri_rewrite *w, const mri_node *n, const mri_node *kv, const mri_node *up,
                       const mr_val *own, const mr_val acc[2], mr_attr *at, uint32_t n_at)
{
    static const char *const turn[] = { "nope_dim", "inv_freq", "factor" };
    mr_val q = *mri_rewrite_at(w, n->in[0]), start = *mri_rewrite_at(w, n->in[3]);
    at[n_at++] = mr_as("group", mri_group_name(MRI_GROUP_CP));
    if (!kv)
        return mri_rewrite_op(w, n, "attention.ring",
                              MR_IN(q, own[0], own[1], start, acc[0], acc[1]), at, n_at, NULL, 1);
    for (uint32_t i = 0; i < kv->n_attr; i++)
        for (size_t k = 0; k < sizeof turn / sizeof *turn; k++)
            if (!strcmp(kv->attr[i].key, turn[k]))
                at[n_at++] = kv->attr[i];
    return mri_rewrite_op(w, n, "mla_attention.ring",
                          MR_IN(q, own[0], own[1], *mri_rewrite_at(w, up->in[1]), start, own[2],
                                acc[0], acc[1]), at, n_at, NULL, 1);
}

/* The ring: a transfer is submitted before the step that runs beside it. */
static void attend_in_turn(mri_rewrite *w, const mri_mesh *m, const mri_node *n, mr_attr *at,
                           uint32_t n_at, mr_val *out)
{
    const mri_node *kv = NULL, *up = NULL;
    bool latents = from_latents(w->from, n, &kv, &up);
    uint32_t n_own = latents ? 3 : 2;
    mr_val q = *mri_rewrite_at(w, n->in[0]), start = *mri_rewrite_at(w, n->in[3]);
    mr_val own[3], x[3], next[3] = { 0 }, acc[2] = { 0 };
    for (uint32_t i = 0; i < n_own; i++)
        x[i] = own[i] = *mri_rewrite_at(w, !latents ? n->in[1 + i] : i ? kv->in[i] : up->in[0]);
    for (uint32_t s = 0; s < m->cp; s++) {
        mr_val part[2] = { 0 }, keys[2] = { x[0], x[1] };
        for (uint32_t i = 0; i < n_own && s + 1 < m->cp; i++)
            next[i] = passed(w, m, n, x[i]);
        if (latents)
            expand(w, kv, up, x, keys);
        at[n_at] = mr_ai("from", (m->i_cp + m->cp - s) % m->cp);
        mri_rewrite_op(w, n, "attention.part", MR_IN(q, keys[0], keys[1], start), at, n_at + 1,
                       s ? part : acc, 2);
        if (s)
            mri_rewrite_op(w, n, "attention.merge", MR_IN(acc[0], acc[1], part[0], part[1]), NULL,
                           0, acc, 2);
        memcpy(x, next, sizeof x);
    }
    out[0] = ring_end(w, n, latents ? kv : NULL, up, own, acc, at, n_at);
    out[1] = acc[1];
}

static mr_status attend(mri_rewrite *w, const mri_mesh *m, const mri_node *n, mr_err *err)
{
    const mr_type *types[2 * MRI_MAX_OPERANDS];
    mr_call c = mri_node_call(w->from, n, types);
    int64_t seq = mr_attr_i(&c, "seq", 0);
    mr_attr at[MRI_MAX_ATTRS];
    mr_val out[2] = { 0, 0 };
    uint32_t k = 0;
    if (!mr_attr_i(&c, "causal", 1))
        return refuse(w->from, m, err, "set cp = 1", "its attention is not causal; tokens", seq);
    if (seq < 1 || seq % (2 * m->cp))
        return refuse(w->from, m, err, "[train] seq must be a multiple of 2*cp",
                      "sequences cannot be cut in 2*cp equal pieces, they have", seq);
    for (uint32_t i = 0; i < n->n_attr; i++)
        if (strcmp(n->attr[i].key, "packed") && strcmp(n->attr[i].key, "causal"))
            at[k++] = n->attr[i];
    at[k++] = mr_ai("ranks", m->cp);
    at[k++] = mr_ai("index", m->i_cp);
    if (m->ring)
        attend_in_turn(w, m, n, at, k, out);
    else
        attend_all(w, m, n, seq, at, k, out);
    for (uint32_t i = 0; i < n->n_out && i < 2; i++)
        if (n->out[i])
            *mri_rewrite_at(w, n->out[i]) = out[i];
    return 0;
}

/* Megatron's statistics are of a micro-batch: the ranks that share one add their counts up. */
static void balance(mri_rewrite *w, const mri_mesh *m, const mri_node *n)
{
    const mr_type *types[2 * MRI_MAX_OPERANDS];
    mr_call c = mri_node_call(w->from, n, types);
    mr_attr at[MRI_MAX_ATTRS];
    uint32_t k = 0;
    bool by_sequence = !strcmp(mr_attr_s(&c, "type", "aux"), "seq_aux");
    mr_val in[3] = { *mri_rewrite_at(w, n->in[0]), *mri_rewrite_at(w, n->in[1]) };
    for (uint32_t i = 0; i < n->n_attr; i++)
        if (strcmp(n->attr[i].key, "coeff"))
            at[k++] = n->attr[i];
    at[k++] = mr_ai("rows", by_sequence ? types[0]->dim[0] * m->cp : 1);
    in[2] = mri_rewrite_op(w, n, "moe_counts", in, 2, at, k, NULL, 1);
    in[2] = mri_rewrite_op(w, n, "comm.reduce", &in[2], 1,
                           MR_AT(mr_as("group", mri_group_name(MRI_GROUP_CP)),
                                 mr_ai("ranks", m->cp), mr_ai("index", m->i_cp)), NULL, 1);
    *mri_rewrite_at(w, n->out[0]) =
        mri_rewrite_op(w, n, "moe_balance_loss", in, 3, n->attr, n->n_attr, NULL, 1);
}

mr_status mri_shard_context(mr_prog **p, const mri_mesh *mesh, mr_err *err)
{
    mri_rewrite w;
    mr_status st = 0;
    if (mesh->cp == 1)
        return 0;
    mri_rewrite_begin(&w, *p);
    for (size_t i = 0; i < w.from->nodes.n && !st; i++) {
        const mri_node *n = &w.from->nodes.v[i];
        mr_val in[MRI_MAX_OPERANDS] = { 0 };
        for (uint32_t k = 0; k < n->n_in; k++)
            in[k] = n->in[k] ? *mri_rewrite_at(&w, n->in[k]) : 0;
        if (comes_later(w.from, n))
            continue;
        if (!strcmp(n->def->id, "attention"))
            st = attend(&w, mesh, n, err);
        else if (!strcmp(n->def->id, "moe_aux_loss"))
            balance(&w, mesh, n);
        else if (!strcmp(n->def->id, "ahead")) /* across the cuts, the next token is another rank's */
            st = refuse(w.from, mesh, err, "set cp = 1, or predict one token (mtp_layers = 0)",
                        "what stands further on is predicted too, and may be another rank's; "
                        "tokens of one", mr_rows(&mri_val(w.from, n->in[0])->type));
        else
            mri_rewrite_node(&w, n, in);
    }
    if (!st)
        return mri_rewrite_end(&w, p, err);
    mri_prog_free(w.to);
    free(w.map);
    return st;
}
