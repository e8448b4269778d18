/* SPDX-License-Identifier: Apache-2.0
 * Every op of the catalogue, alone in a block, with each operand cut in each dim that its rule
 * splits, and with all float operands cut over the tokens: two ranks compute what one does, outputs
 * and gradients, or the cut is refused. */
#include "tensor_rig.h"
#include "core/ops/record.h"

/* ops that refuse a gradient by some float operand */
static bool forward_only(const mr_op_def *def)
{
    return !def->vjp || !strncmp(def->id, "cross_entropy", 13) || !strcmp(def->id, "route_topk");
}

static bool writes(const mr_op_def *def)
{
    mri_sig sig;
    mr_err err = MR_ERR_INIT;
    bool any = mri_sig_parse(def->sig, &sig, &err) != 0;
    for (uint32_t i = 0; i < sig.n_in; i++)
        any |= sig.in[i].mutated;
    return any;
}

/* Does the op add the gradient of operand i where it lies, as to a parameter's? */
static bool parameter(const mr_op_def *def, const mri_case *c, uint32_t i)
{
    mr_err err = MR_ERR_INIT;
    mri_record *r;
    bool is = !forward_only(def) && !mri_record_vjp(def, c, MRI_OUT0, 1u << i, &r, &err);
    if (is) {
        is = r->acc[i] != 0;
        mri_record_free(r);
    }
    return is;
}

/* The op in a block of its own; operand `cut` is a parameter placed along tp in dim `dim`. */
static mr_prog *block(const mr_op_def *def, const mri_case *c, int cut, uint32_t dim)
{
    mr_prog *p = mri_prog_new("op", "f64");
    mr_val in[MRI_MAX_OPERANDS] = { 0 }, out[MRI_MAX_OPERANDS] = { 0 };
    char name[16], placement[16];
    for (uint32_t i = 0; i < c->call.n_in; i++) {
        if (!c->call.in[i])
            continue;
        snprintf(name, sizeof name, "i%u", i);
        snprintf(placement, sizeof placement, (int)i == cut ? "tp:%u" : "-", dim);
        mr_param desc = { sizeof desc, 0, c->in_type[i], placement, "normal", 1, NULL };
        in[i] = (int)i == cut || parameter(def, c, i) ? mri_builder.param(p, name, &desc)
                            : mri_builder.input(p, name, &c->in_type[i]);
    }
    mri_builder.op(p, def->id, in, c->call.n_in, c->call.attr, c->call.n_attr, out, c->call.n_out,
                   NULL, 0);
    for (uint32_t k = 0; k < c->call.n_out; k++) {
        snprintf(name, sizeof name, "o%u", k);
        if (out[k])
            mri_builder.output(p, name, out[k]);
    }
    cr_assert_eq(p->failed, 0, "%s: %s", def->id, p->err.what);
    return p;
}

/* 1: the same as one rank; 0: refused */
static int check(const mr_op_def *def, const mri_case *c, int cut, uint32_t dim, bool sequence)
{
    const char *first[] = { "o0" };
    mr_list streams = { first, 1 };
    mr_prog *one = block(def, c, cut, dim), *ranks[2];
    mr_status st = 0;
    bool train = !forward_only(def);
    for (uint32_t r = 0; r < 2; r++) {
        mri_cfg_mesh cfg = { .tp = 2, .dp = 1, .pp = 1, .vpp = 1, .cp = 1, .ep = 1, .etp = 1,
                             .copies = 1, .sequence_parallel = sequence };
        mri_mesh m;
        mr_err err = MR_ERR_INIT;
        kit_ok(mri_mesh_make(&cfg, 2, r, &m, &err), &err, "mesh");
        ranks[r] = block(def, c, cut, dim);
        st = mri_shard_program(&ranks[r], &m, &streams, &err);
        cr_assert(!st || st == MR_E_PROFILE_CONFLICT, "%s: %s", def->id, err.what);
    }
    if (!st)
        rig_check(one, ranks, 2, &streams, train, 4, 4, c->in);
    for (uint32_t r = 0; r < 2 && st; r++)
        mri_prog_free(ranks[r]);
    if (st)
        mri_prog_free(one);
    return !st;
}

Test(tensor_ops, any_placement)
{
    const mr_op_def *def;
    int right = 0, refused = 0;
    for (uint32_t k = 0; (def = mri_op_at(k)); k++)
        for (const char *const *text = def->cases; def->shard && !writes(def) && text && *text;
             text++) {
            mr_err err = MR_ERR_INIT;
            mri_case c;
            kit_ok(mri_case_make(def, *text, "f64", 5, &c, &err), &err, def->id);
            bool narrow = c.call.n_out && mr_is(c.call.out[0], "bf16"); /* casts */
            for (int cut = -1; cut < (int)c.call.n_in && !narrow; cut++) {
                const mr_type *t = cut < 0 ? NULL : c.call.in[cut];
                if (cut >= 0 && (!t || !mr_is(t, "f64")))
                    continue;
                for (uint32_t d = 0; d < (t ? t->rank : 1); d++)
                    for (int sequence = 0; sequence < 2; sequence++)
                        *(check(def, &c, cut, d, sequence) ? &right : &refused) += 1;
            }
            mri_case_free(&c);
        }
    cr_assert(right > 200, "%d right, %d refused", right, refused);
}
