/* SPDX-License-Identifier: Apache-2.0
 *
 * variants.c - instances of one kind that must differ get kinds of their own, built again: layers
 * that keep the model dtype under a narrow recipe, and those whose parameters are frozen.
 */
#include "assembly.h"
#include <stdlib.h>
#include <string.h>

/* ---- layers that keep the model dtype ------------------------------------------------------- */

/* not what reads tokens or pictures, nor what reads targets or gives logits */
static bool is_layer(const mr_prog *p)
{
    static const char *const ends[] = { "tokens", "pixels", "targets" };
    bool parameters = false;
    for (size_t v = 0; v < p->values.n; v++)
        parameters |= p->values.v[v].kind == MRI_PARAM;
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++)
        parameters &= !mri_value_find(p, MRI_INPUT, ends[i]);
    return parameters && !mri_port_find(&p->outputs, "logits");
}

mr_status mri_assembly_exact(mri_assembly *a, const mr_model_ops *ops, void *model,
                             const mr_block_env *env, const char *model_dtype, int64_t start,
                             int64_t end, mr_err *err)
{
    uint32_t *twin = mri_alloc((a->kinds.n + 1) * sizeof *twin); /* its exact kind + 1, 0: none */
    int64_t layers = 0, at = 0;
    mr_status st = 0;
    for (uint32_t i = 0; i < a->instances.n; i++)
        layers += is_layer(a->kinds.v[a->instances.v[i].kind].prog);
    for (uint32_t i = 0; i < a->instances.n && !st; i++) {
        uint32_t own = a->instances.v[i].kind;
        if (!is_layer(a->kinds.v[own].prog))
            continue;
        bool exact = at < start || at >= layers - end;
        at++;
        if (!exact)
            continue;
        if (!twin[own]) {
            mri_kind_prog kp = { a->kinds.v[own].name, NULL };
            st = mri_assembly_build_kind(ops, model, kp.name, env, model_dtype, &kp.prog, err);
            if (kp.prog)
                kp.prog->exact = true;
            MRI_PUSH(&a->kinds, kp);
            twin[own] = (uint32_t)a->kinds.n;
        }
        a->instances.v[i].kind = twin[own] - 1;
    }
    free(twin);
    return st;
}

/* ---- frozen parameters ---------------------------------------------------------------------- */

/* Does the program mark just those parameters that are frozen in instance i? With `mark`: it
 * does from now on. */
static bool frozen_alike(const mri_assembly *a, uint32_t i, const mr_prog *p, bool mark,
                         bool (*frozen)(const void *, const char *), const void *ctx)
{
    bool alike = true;
    for (size_t v = 0; v < p->values.n; v++) {
        mri_value *x = &p->values.v[v];
        if (x->kind != MRI_PARAM)
            continue;
        char *name = mri_assembly_full_name(a, i, x->name);
        uint32_t flag = frozen(ctx, name) ? MR_PARAM_FROZEN : 0;
        free(name);
        alike &= (x->flags & MR_PARAM_FROZEN) == flag;
        if (mark)
            x->flags = (x->flags & ~(uint32_t)MR_PARAM_FROZEN) | flag;
    }
    return alike;
}

mr_status mri_assembly_freeze(mri_assembly *a, const mr_model_ops *ops, void *model,
                              const mr_block_env *env, const char *model_dtype,
                              bool (*frozen)(const void *ctx, const char *full_name),
                              const void *ctx, mr_err *err)
{
    bool *marked = mri_alloc((a->kinds.n + a->instances.n) * sizeof *marked);
    mr_status st = 0;
    for (uint32_t i = 0; i < a->instances.n && !st; i++) {
        uint32_t own = a->instances.v[i].kind, k = own;
        const char *name = a->kinds.v[own].name;
        if (!marked[own]) { /* the first instance of a kind shapes it */
            frozen_alike(a, i, a->kinds.v[own].prog, true, frozen, ctx);
            marked[own] = true;
        }
        for (k = 0; k < a->kinds.n; k++)
            if (marked[k] && !strcmp(a->kinds.v[k].name, name) &&
                a->kinds.v[k].prog->exact == a->kinds.v[own].prog->exact &&
                frozen_alike(a, i, a->kinds.v[k].prog, false, frozen, ctx))
                break;
        if (k == a->kinds.n) {
            mri_kind_prog kp = { name, NULL };
            st = mri_assembly_build_kind(ops, model, name, env, model_dtype, &kp.prog, err);
            MRI_PUSH(&a->kinds, kp);
            if (!st)
                kp.prog->exact = a->kinds.v[own].prog->exact;
            if (!st)
                frozen_alike(a, i, kp.prog, true, frozen, ctx);
            marked[k] = true;
        }
        a->instances.v[i].kind = k;
    }
    free(marked);
    return st;
}
