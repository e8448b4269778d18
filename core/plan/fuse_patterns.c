/* SPDX-License-Identifier: Apache-2.0
 *
 * fuse_patterns.c - what the fusion pass looks for, each row matched at the last node of its
 * pattern. Where two rows want one op the upper wins: the one that saves more bytes.
 */
#include "fuse.h"
#include <string.h>

/* ---- something + a product or a gather ------------------------------------------------------ */

/* The operand of an `add` that this op makes and nobody else reads, the one made last if both;
 * *other: the other operand. */
static const mri_node *summand(const mr_prog *p, const mri_node *add, const char *op, mr_val *other)
{
    const mri_node *best = NULL;
    for (uint32_t i = 0; i < 2; i++) {
        const mri_node *m = mri_fuse_maker(p, add->in[i]);
        if (mri_fuse_is(m, op) && add->in[0] != add->in[1] && m->out[0] == add->in[i] &&
            mri_fuse_readers(p, add->in[i], NULL, 0) == 1 && (!best || m > best)) {
            best = m;
            *other = add->in[!i];
        }
    }
    return best;
}

/* `op` with the other summand as its first operand, for the pair (m, add) */
static bool add_into(const mr_prog *p, uint32_t at, mri_fusion *f, const char *from, const char *op)
{
    const mri_node *add = &p->nodes.v[at];
    mr_val in[MRI_MAX_OPERANDS];
    const mri_node *m = summand(p, add, from, &in[0]);
    if (!m || m->n_in + 1 > MRI_MAX_OPERANDS)
        return false;
    memcpy(in + 1, m->in, m->n_in * sizeof *in);
    mri_fuse_set(f, op, in, m->n_in + 1);
    mri_fuse_outputs(f, add);
    mri_fuse_drop(p, f, m);
    mri_fuse_drop(p, f, add);
    return true;
}

/* The sum's dtype is the product's, so out_dtype has said all it had to say. */
static bool linear_add(const mr_prog *p, uint32_t at, mri_fusion *f)
{
    return add_into(p, at, f, "linear", "linear_add");
}

static bool dgrad_add(const mr_prog *p, uint32_t at, mri_fusion *f)
{
    return add_into(p, at, f, "linear.dgrad", "linear_add.dgrad");
}

static bool unpermute_add(const mr_prog *p, uint32_t at, mri_fusion *f)
{
    const mri_node *add = &p->nodes.v[at];
    mr_val a = 0;
    const mri_node *m = summand(p, add, "unpermute", &a);
    if (!m)
        return false;
    mri_fuse_set(f, "unpermute_add", (mr_val[]){ a, 0, m->in[0], m->in[1], m->in[2], m->in[3] }, 6);
    mri_fuse_outputs(f, add);
    mri_fuse_attrs(f, m, NULL);
    mri_fuse_drop(p, f, m);
    mri_fuse_drop(p, f, add);
    return true;
}

static bool unpermute_add_twice(const mr_prog *p, uint32_t at, mri_fusion *f)
{
    const mri_node *add = &p->nodes.v[at];
    mr_val b = 0;
    const mri_node *m = summand(p, add, "unpermute_add", &b);
    if (!m || m->in[1])
        return false;
    mri_fuse_set(f, "unpermute_add",
                 (mr_val[]){ m->in[0], b, m->in[2], m->in[3], m->in[4], m->in[5] }, 6);
    mri_fuse_outputs(f, add);
    mri_fuse_attrs(f, m, NULL);
    mri_fuse_drop(p, f, m);
    mri_fuse_drop(p, f, add);
    return true;
}

/* ---- GELU within the products beside it ----------------------------------------------------- */

/* The fused ops know CLIP's form of GELU not. */
static bool known_gelu(const mri_node *n)
{
    for (uint32_t i = 0; i < n->n_attr; i++)
        if (!strcmp(n->attr[i].key, "approx"))
            return strcmp(n->attr[i].u.s, "quick") != 0;
    return true;
}

/* What goes into GELU stays a value only where the backward, or anybody else, reads it. */
static bool linear_gelu(const mr_prog *p, uint32_t at, mri_fusion *f)
{
    const mri_node *gelu = &p->nodes.v[at], *m = mri_fuse_maker(p, gelu->in[0]);
    if (!mri_fuse_is(m, "linear") || !known_gelu(gelu))
        return false;
    mri_fuse_set(f, "linear_gelu", m->in, m->n_in);
    f->out[0] = gelu->out[0];
    f->out[1] = gelu->in[0];
    f->n_out = mri_fuse_readers(p, gelu->in[0], NULL, 0) > 1 ||
               mri_fuse_is_output(p, gelu->in[0]) ? 2 : 1;
    mri_fuse_attrs(f, gelu, NULL);
    mri_fuse_drop(p, f, m);
    mri_fuse_drop(p, f, gelu);
    return true;
}

static bool linear_gelu_dgrad(const mr_prog *p, uint32_t at, mri_fusion *f)
{
    const mri_node *back = &p->nodes.v[at], *m = mri_fuse_maker(p, back->in[0]);
    if (!mri_fuse_is(m, "linear.dgrad") || !known_gelu(back))
        return false;
    mri_fuse_set(f, "linear_gelu.dgrad", (mr_val[]){ m->in[0], m->in[1], back->in[1] }, 3);
    mri_fuse_outputs(f, back);
    mri_fuse_attrs(f, back, NULL);
    mri_fuse_drop(p, f, m);
    mri_fuse_drop(p, f, back);
    return true;
}

/* ---- permute's two gradients --------------------------------------------------------------- */

/* permute.dprobs(dy, x, rows) beside unpermute(dy, rows, slots, probs), which makes dx of it */
static bool permute_bwd(const mr_prog *p, uint32_t at, mri_fusion *f)
{
    const mri_node *d = &p->nodes.v[at];
    uint32_t reader[8], n = mri_fuse_readers(p, d->in[0], reader, 8);
    for (uint32_t i = 0; i < n && i < 8; i++) {
        const mri_node *u = &p->nodes.v[reader[i]];
        if (!mri_fuse_is(u, "unpermute") || u->in[0] != d->in[0] || u->in[1] != d->in[2] ||
            !u->in[3])
            continue;
        mri_fuse_set(f, "permute.bwd",
                     (mr_val[]){ 0, u->in[0], d->in[1], u->in[1], u->in[2], u->in[3] }, 6);
        f->out[0] = u->out[0];
        f->out[1] = d->out[0];
        f->n_out = 2;
        mri_fuse_drop(p, f, u);
        mri_fuse_drop(p, f, d);
        return true;
    }
    return false;
}

static bool permute_bwd_add(const mr_prog *p, uint32_t at, mri_fusion *f)
{
    const mri_node *add = &p->nodes.v[at];
    mr_val in[MRI_MAX_OPERANDS];
    const mri_node *m = summand(p, add, "permute.bwd", &in[0]);
    if (!m || m->in[0])
        return false;
    memcpy(in + 1, m->in + 1, (m->n_in - 1) * sizeof *in);
    mri_fuse_set(f, "permute.bwd", in, m->n_in);
    f->out[0] = add->out[0];
    f->out[1] = m->out[1];
    f->n_out = 2;
    mri_fuse_drop(p, f, m);
    mri_fuse_drop(p, f, add);
    return true;
}

/* ---- norms ---------------------------------------------------------------------------------- */

/* h = a + b, y = norm(h): h stays, the stream goes on with it */
static bool add_norm(const mr_prog *p, uint32_t at, mri_fusion *f, const char *op)
{
    const mri_node *norm = &p->nodes.v[at], *add = mri_fuse_maker(p, norm->in[0]);
    mr_val in[MRI_MAX_OPERANDS];
    if (!mri_fuse_is(add, "add") || !mri_fuse_whole_row(p, norm, norm->in[0]))
        return false;
    memcpy(in, add->in, 2 * sizeof *in);
    memcpy(in + 2, norm->in + 1, (norm->n_in - 1) * sizeof *in);
    mri_fuse_set(f, op, in, norm->n_in + 1);
    f->out[0] = norm->out[0];
    f->out[1] = add->out[0];
    memcpy(f->out + 2, norm->out + 1, (norm->n_out - 1) * sizeof *in);
    f->n_out = norm->n_out + 1;
    mri_fuse_attrs(f, norm, "group");
    mri_fuse_drop(p, f, norm);
    mri_fuse_drop(p, f, add);
    return true;
}

static bool add_rmsnorm(const mr_prog *p, uint32_t at, mri_fusion *f)
{
    return add_norm(p, at, f, "add_rmsnorm");
}

static bool add_layernorm(const mr_prog *p, uint32_t at, mri_fusion *f)
{
    return add_norm(p, at, f, "add_layernorm");
}

/* the gradient that goes round the norm plus the one that comes through it */
static bool add_rmsnorm_bwd(const mr_prog *p, uint32_t at, mri_fusion *f)
{
    if (!add_into(p, at, f, "rmsnorm.bwd", "add_rmsnorm.bwd"))
        return false;
    const mri_node *m = &p->nodes.v[f->drop[0]];
    return mri_fuse_whole_row(p, m, m->in[1]);
}

static bool add_layernorm_bwd(const mr_prog *p, uint32_t at, mri_fusion *f)
{
    return add_into(p, at, f, "layernorm.bwd", "add_layernorm.bwd");
}

/* ---- rope and the norm of each head after it ------------------------------------------------ */

static bool norm_of_heads(const mr_prog *p, const mri_node *norm, const mri_node *rope)
{
    int64_t C = mri_fuse_attr_i(rope, "head_dim", 0), group = mri_fuse_attr_i(norm, "group", 0);
    return mri_fuse_is(norm, "rmsnorm") && !norm->in[1] &&
           (group ? group : mr_last(&mri_val(p, norm->in[0])->type)) == C;
}

/* Every reader of the rotated values is such a norm (a rerun of it in the backward is one), so
 * that they need not be made at all: each norm turns them itself. */
static bool rope_norm(const mr_prog *p, uint32_t at, mri_fusion *f)
{
    const mri_node *norm = &p->nodes.v[at], *rope = mri_fuse_maker(p, norm->in[0]);
    uint32_t reader[8], n;
    if (!mri_fuse_is(rope, "rope") || mri_fuse_is_output(p, rope->out[0]))
        return false;
    n = mri_fuse_readers(p, rope->out[0], reader, 8);
    for (uint32_t i = 0; i < n; i++)
        if (i >= 8 || !norm_of_heads(p, &p->nodes.v[reader[i]], rope))
            return false;
    mri_fuse_set(f, "rope_norm", rope->in, 2);
    mri_fuse_outputs(f, norm);
    mri_fuse_attrs(f, rope, NULL);
    mri_fuse_attrs(f, norm, "group");
    mri_fuse_drop(p, f, norm);
    return true;
}

/* Do two rope nodes turn by equal angles, one back? */
static bool turns_back(const mri_node *rope, const mri_node *back)
{
    mr_call a = mri_fuse_call(rope), b = mri_fuse_call(back);
    const mr_attr *fa = mr_attr_find(&a, "inv_freq"), *fb = mr_attr_find(&b, "inv_freq");
    return rope->in[1] == back->in[1] && fa && fb && fa->n == fb->n &&
           !memcmp(fa->u.fs, fb->u.fs, fa->n * sizeof(double)) &&
           mr_attr_i(&a, "head_dim", 0) == mr_attr_i(&b, "head_dim", 0) &&
           mr_attr_i(&a, "interleaved", 1) == mr_attr_i(&b, "interleaved", 1) &&
           mr_attr_f(&a, "factor", 1) == mr_attr_f(&b, "factor", 1) &&
           !mr_attr_i(&a, "inverse", 0) == !!mr_attr_i(&b, "inverse", 0);
}

/* rmsnorm.bwd of rotated heads, then the rotation back. The fused op reads the norm's output, so
 * that the rotated values lose a reader: their own fusion comes after this one. */
static bool rope_norm_bwd(const mr_prog *p, uint32_t at, mri_fusion *f)
{
    const mri_node *back = &p->nodes.v[at], *d = mri_fuse_maker(p, back->in[0]);
    const mri_node *rope, *norm;
    if (!mri_fuse_is(d, "rmsnorm.bwd") || d->in[2] || d->in[4])
        return false;
    norm = mri_fuse_maker(p, d->in[3]);
    rope = mri_fuse_maker(p, d->in[1]);
    if (!mri_fuse_is(rope, "rope") || !norm || !norm_of_heads(p, norm, rope) ||
        norm->in[0] != rope->out[0] || d->in[3] != norm->out[1] || !turns_back(rope, back))
        return false;
    mri_fuse_set(f, "rope_norm.bwd",
                 (mr_val[]){ d->in[0], norm->out[0], d->in[3], back->in[1] }, 4);
    mri_fuse_outputs(f, back);
    mri_fuse_attrs(f, rope, NULL);
    mri_fuse_drop(p, f, back);
    mri_fuse_drop(p, f, d);
    return true;
}

const mri_fuse_pattern mri_fuse_patterns[] = {
    { "rope", "rope back of rmsnorm.bwd, by head", rope_norm_bwd },
    { "rmsnorm", "rmsnorm of rope, by head", rope_norm },
    { "add", "a + rmsnorm.bwd", add_rmsnorm_bwd },
    { "add", "a + layernorm.bwd", add_layernorm_bwd },
    { "permute.dprobs", "unpermute and dprobs of one gradient", permute_bwd },
    { "add", "a + permute.bwd", permute_bwd_add },
    { "add", "a + unpermute", unpermute_add },
    { "add", "a + (b + unpermute)", unpermute_add_twice },
    { "gelu", "gelu of linear", linear_gelu },
    { "gelu.bwd", "gelu.bwd of linear.dgrad", linear_gelu_dgrad },
    { "add", "a + linear", linear_add },
    { "add", "a + linear.dgrad", dgrad_add },
    { "rmsnorm", "rmsnorm of a + b", add_rmsnorm },
    { "layernorm", "layernorm of a + b", add_layernorm },
    { NULL, NULL, NULL },
};
