/* SPDX-License-Identifier: Apache-2.0
 *
 * Experts on the ranks of ep: blocks in which each of 2 or 4 ranks has its own tokens and a part
 * of the experts give the outputs and gradients of the block with all experts, for every place
 * where models put the probabilities, in both layouts, and however the router decides.
 */
#include "core/plan/shard_experts.h"
#include "lockstep.h"

enum { T = 6, D = 4, F = 3, E = 4, K = 2 };

typedef enum form { ON_INPUT, ON_OUTPUT, INSIDE, FORMS } form;

static mr_val param(mr_net n, const char *name, mr_type t, const char *placement)
{
    mr_param p = { .size = sizeof p, .type = t, .placement = placement, .scale = 1 };
    return n.b->param(n.p, name, &p);
}

static mr_prog *block(form f)
{
    mr_net n = { &mri_builder, mri_prog_new("moe", "f64") };
    mr_type tx = mr_type2("f64", T, D), tl = mr_type2("f64", T, E);
    bool io = f == ON_INPUT;
    const mr_attr layout = mr_as("layout", io ? "io" : "oi");
    mr_val x = n.b->input(n.p, "x", &tx), logits = n.b->input(n.p, "logits", &tl);
    mr_val route[2], plan[3];
    mr_val up = param(n, "up", io ? mr_type3("f64", E, D, 2 * F) : mr_type3("f64", E, 2 * F, D),
                      "ep:0 fsdp:1");
    mr_val down = param(n, "down", io ? mr_type3("f64", E, F, D) : mr_type3("f64", E, D, F),
                        "ep:0");
    MR_OPN(n, "route_topk", route, 2, MR_IN(logits, 0),
           MR_AT(mr_ai("k", K), mr_as("score", "sigmoid"), mr_ai("norm", f == ON_OUTPUT)));
    MR_OPN(n, "route_plan", plan, 3, MR_IN(route[1]), MR_AT(mr_ai("experts", E)));
    mr_val h = MR_OP(n, "permute", MR_IN(x, plan[0], plan[1], f == ON_INPUT ? route[0] : 0),
                     MR_NOAT);
    h = MR_OP(n, "grouped_linear", MR_IN(h, up, plan[2]), MR_AT(layout));
    if (f == INSIDE) { /* a probability a row, as rows of one value: sent after the rows */
        mr_type one = mr_type2("f64", T, 1);
        mr_val ones = n.b->input(n.p, "ones", &one);
        mr_val p = MR_OP(n, "permute", MR_IN(ones, plan[0], plan[1], route[0]), MR_NOAT);
        mr_val spread = param(n, "spread", mr_type2("f64", F, 1), "-");
        p = MR_OP(n, "linear", MR_IN(p, spread, 0), MR_NOAT);
        h = MR_OP(n, "swiglu", MR_IN(h, 0), MR_NOAT);
        h = MR_OP(n, "add", MR_IN(h, p), MR_NOAT);
    } else {
        h = MR_OP(n, "swiglu", MR_IN(h, 0), MR_NOAT);
    }
    h = MR_OP(n, "grouped_linear", MR_IN(h, down, plan[2]), MR_AT(layout));
    h = MR_OP(n, "unpermute", MR_IN(h, plan[0], plan[1], f == ON_OUTPUT ? route[0] : 0),
              MR_AT(mr_ai("k", K)));
    n.b->output(n.p, "y", h);
    return n.p;
}

static mri_mesh mesh_of(uint32_t rank, uint32_t ranks)
{
    mri_mesh m;
    mr_err err = MR_ERR_INIT;
    mri_cfg_mesh c = { .dp = ranks, .tp = 1, .pp = 1, .vpp = 1, .cp = 1, .ep = ranks, .etp = 1,
                       .copies = 1 };
    ls_ok(mri_mesh_make(&c, ranks, rank, &m, &err), &err);
    return m;
}

/* inputs of a rank; favour: an expert that is always chosen, shun: one that never is, -1: none */
static void fill_inputs(lockstep *l, uint32_t at, uint32_t rank, int favour, int shun)
{
    int64_t n;
    static const char *const names[] = { "x", "logits", "d:y", "ones" };
    for (uint32_t i = 0; i < 4; i++) {
        if (!mri_value_find(l->p[at], MRI_INPUT, names[i]))
            continue;
        double *x = ls_named(l, at, MRI_INPUT, names[i], &n);
        ls_fill(x, n, 100 * rank + i);
        for (int64_t t = 0; i == 1 && t < T; t++) {
            if (favour >= 0)
                x[t * E + favour] += 5;
            if (shun >= 0)
                x[t * E + shun] -= 5;
        }
    }
}

static void fill_params(lockstep *l, uint32_t at)
{
    for (size_t i = 0; i < l->p[at]->values.n; i++) {
        const mri_value *v = &l->p[at]->values.v[i];
        if (v->kind != MRI_PARAM)
            continue;
        int64_t n = mr_numel(&v->type);
        int64_t parts = v->place.rank ? v->place.full[0] / v->type.dim[0] : 1;
        double *all = malloc((size_t)(n * parts) * sizeof *all);
        ls_fill(all, n * parts, 7 + strlen(v->name));
        memcpy(l->value[at][i].data, all + v->place.at[0] * (n / v->type.dim[0]),
               (size_t)n * sizeof *all);
        free(all);
    }
}

typedef enum how { SENT, GATHERED, BLOCKS, PADDED, PADDED_BLOCKS } how;

/* capacity: the factor by which experts drop tokens, in the whole block too; 0: none. What is
 * padded to its capacity is compared with the whole block without padding. */
static void compare_by(how by, form f, uint32_t ranks, int favour, int shun, double capacity)
{
    lockstep whole, parts;
    mr_prog *one[] = { block(f) }, *p[LS_RANKS];
    int64_t n, m;
    for (uint32_t r = 0; r < ranks; r++) {
        mri_mesh mesh = mesh_of(r, ranks);
        mr_err err = MR_ERR_INIT;
        p[r] = block(f);
        mesh.capacity_factor = capacity;
        mesh.gather_experts = by == GATHERED;
        mesh.equal_blocks = by == BLOCKS || by == PADDED_BLOCKS;
        mesh.pad_to_capacity = by >= PADDED;
        ls_ok(mri_shard_capacity(&p[r], &mesh, &err), &err);
        if (!r)
            ls_ok(mri_shard_capacity(&one[0], &mesh, &err), &err);
        ls_ok(mri_shard_experts(&p[r], &mesh, &err), &err);
    }
    ls_open(&whole, one, 1);
    ls_open(&parts, p, ranks);
    fill_params(&whole, 0);
    for (uint32_t r = 0; r < ranks; r++) {
        fill_params(&parts, r);
        fill_inputs(&parts, r, r, favour, shun);
    }
    ls_run(&parts);
    for (uint32_t r = 0; r < ranks; r++) { /* main gradients add up over the ranks' tokens */
        static const char *const outputs[] = { "y", "d:x", "d:logits" };
        fill_inputs(&whole, 0, r, favour, shun);
        ls_run(&whole);
        for (uint32_t i = 0; i < 3; i++) {
            double *a = ls_output(&parts, r, outputs[i], &n);
            double *b = ls_output(&whole, 0, outputs[i], &m);
            cr_assert_eq(n, m);
            ls_equal(a, b, n, outputs[i]);
        }
    }
    for (uint32_t r = 0; r < ranks; r++) {
        static const char *const weights[] = { "up", "down" };
        for (uint32_t i = 0; i < 2; i++) {
            double *a = ls_named(&parts, r, MRI_GRAD, weights[i], &n);
            double *b = ls_named(&whole, 0, MRI_GRAD, weights[i], &m);
            cr_assert_eq(n * ranks, m);
            ls_equal(a, b + r * n, n, weights[i]);
        }
    }
    ls_close(&parts);
    ls_close(&whole);
}

static void compare(form f, uint32_t ranks, int favour, int shun, double capacity)
{
    compare_by(SENT, f, ranks, favour, shun, capacity);
}

Test(experts, of_other_ranks_give_the_same_outputs_and_gradients)
{
    for (form f = 0; f < FORMS; f++)
        for (uint32_t ranks = 2; ranks <= 4; ranks *= 2)
            compare(f, ranks, -1, -1, 0);
}

Test(experts, that_receive_nothing_or_all)
{
    for (uint32_t ranks = 2; ranks <= 4; ranks *= 2) {
        compare(ON_INPUT, ranks, 3, -1, 0);
        compare(ON_OUTPUT, ranks, 0, 1, 0);
        compare(INSIDE, ranks, -1, 2, 0);
    }
}

Test(experts, of_other_ranks_give_the_same_by_gathered_tokens)
{
    for (form f = 0; f < FORMS; f++) {
        compare_by(GATHERED, f, 2, -1, -1, 0);
        compare_by(GATHERED, f, 4, 1, 2, 0);
    }
}

Test(experts, of_other_ranks_give_the_same_in_blocks_of_equal_size)
{
    for (form f = 0; f < FORMS; f++) {
        compare_by(BLOCKS, f, 2, -1, -1, 0);
        compare_by(BLOCKS, f, 4, 1, 2, 0);
        compare_by(BLOCKS, f, 2, 0, 3, 0.7);
    }
}

Test(experts, give_the_same_with_rows_up_to_their_capacity)
{
    for (form f = 0; f < FORMS; f++) {
        compare_by(PADDED, f, 1, -1, 2, 1.2);
        compare_by(PADDED, f, 2, 1, -1, 0.7);
        compare_by(PADDED_BLOCKS, f, 2, 1, 0, 1);
        compare_by(PADDED_BLOCKS, f, 4, -1, -1, 0.7);
    }
}

Test(experts, that_drop_tokens)
{
    for (form f = 0; f < FORMS; f++) {
        compare(f, 2, 1, -1, 0.7);
        compare(f, 4, -1, -1, 1);
    }
}

/* Of four tokens that choose expert 0, two stay: the most probable, or the first; the other two's
 * rows are behind all others and their probabilities are nothing. */
Test(experts, keep_the_most_probable_or_the_first)
{
    static const struct {
        const char *policy;
        int32_t rows[6];
    } want[] = { { "probs", { 1, 3, 2, 0, 4, 5 } }, { "position", { 0, 1, 2, 3, 4, 5 } } };
    const mr_op_def *def = mri_op_find("route_drop");
    double probs[6] = { 0.1, 0.9, 0.3, 0.5, 0.2, 0.4 }, kept[6];
    int32_t index[6] = { 0, 0, 1, 0, 0, 0 }, rows[6], slots[6], offsets[3];
    mr_type tp = mr_type2("f64", 6, 1), ti = mr_type2("i32", 6, 1), tr = mr_type1("i32", 6);
    mr_type to = mr_type1("i32", 3);
    for (int i = 0; i < 2; i++) {
        mr_attr at[] = { mr_ai("experts", 2), mr_ai("capacity", 2),
                         mr_as("policy", want[i].policy) };
        mr_call c = { sizeof c, 2, 4, 3, (const mr_type *[]){ &tp, &ti },
                      (const mr_type *[]){ &tp, &tr, &tr, &to }, at };
        mr_buf in[] = { { probs, NULL }, { index, NULL } };
        mr_buf out[] = { { kept, NULL }, { rows, NULL }, { slots, NULL }, { offsets, NULL } };
        mr_err err = MR_ERR_INIT;
        ls_ok(def->ref(&c, in, out, &err), &err);
        cr_assert(offsets[0] == 0 && offsets[1] == 2 && offsets[2] == 3);
        for (int r = 0; r < 6; r++) {
            cr_assert_eq(rows[r], want[i].rows[r], "%s: row %d is pair %d", want[i].policy, r,
                         rows[r]);
            cr_assert_eq(slots[rows[r]], r);
            cr_assert_eq(kept[rows[r]], r < 3 ? probs[rows[r]] : 0);
        }
    }
}

static uint32_t count(const mr_prog *p, const char *id)
{
    uint32_t n = 0;
    for (size_t i = 0; i < p->nodes.n; i++)
        n += !strcmp(p->nodes.v[i].def->id, id);
    return n;
}

/* An activation between two products does not make the rows travel. */
Test(experts, rows_travel_once_each_way)
{
    mri_mesh mesh = mesh_of(1, 4);
    mr_err err = MR_ERR_INIT;
    mr_prog *p = block(ON_OUTPUT);
    ls_ok(mri_shard_experts(&p, &mesh, &err), &err);
    cr_assert_eq(count(p, "ep_counts"), 1);
    cr_assert_eq(count(p, "ep_plan"), 1);
    cr_assert_eq(count(p, "ep_send"), 1);
    cr_assert_eq(count(p, "ep_return"), 1);
    const mri_value *up = mri_val(p, mri_value_find(p, MRI_PARAM, "up"));
    cr_assert_eq(up->type.dim[0], 1);
    cr_assert_eq(up->param.type.dim[0], 1);
    cr_assert(up->place.expert && up->place.split == MRI_AXIS_EP);
    cr_assert_eq(up->place.full[0], E);
    cr_assert_eq(up->place.at[0], 1);
    mri_prog_free(p);
}

Test(experts, stay_where_they_are_without_ep)
{
    mri_mesh mesh;
    mr_err err = MR_ERR_INIT;
    mr_prog *p = block(ON_INPUT);
    uint64_t before = mri_prog_hash(p);
    mesh = mesh_of(0, 2);
    mesh.ep = 1;
    mesh.edp = 2;
    ls_ok(mri_shard_experts(&p, &mesh, &err), &err);
    cr_assert_eq(mri_prog_hash(p), before);
    mri_prog_free(p);
}

Test(experts, that_ep_does_not_divide_are_refused_by_name)
{
    mri_mesh mesh = mesh_of(0, 3);
    mr_err err = MR_ERR_INIT;
    mr_prog *p = block(ON_INPUT);
    cr_assert_eq(mri_shard_experts(&p, &mesh, &err), MR_E_PROFILE_CONFLICT);
    cr_assert(strstr(err.what, "up") && strstr(err.what, "4"), "%s", err.what);
    mri_prog_free(p);
}

/* A rank sends 6 of its 8 rows to the other, which has 4 in a block: 4 x 2 / 8 = 1 would have been
 * enough for an even spread, 1.5 for this one. */
Test(experts, a_block_with_too_little_room_is_noted_on_all_ranks)
{
    static int32_t all[2 * (E + 1)] = { 0, 1, 2, 5, 8, 0, 2, 4, 6, 8 };
    const mr_op_def *room = mri_op_find("ep_room"), *blocks = mri_op_find("ep_blocks");
    mr_type in = mr_type1("i32", 2 * (E + 1)), one = mr_type1("f32", 1);
    mr_type o[5] = { mr_type1("i32", E / 2 + 1), mr_type1("i32", 8), mr_type1("i32", 8),
                     mr_type1("i32", 8), mr_type1("i32", 8) };
    for (int64_t r = 0; r < 2; r++) {
        float ok = 1, wanted = 0;
        int32_t got[5][8];
        mr_attr at[] = { mr_ai("ranks", 2), mr_ai("index", r), mr_ai("block", 4), mr_ai("rows", 8) };
        mr_call c = { sizeof c, 3, 0, 4, (const mr_type *[]){ &in, &one, &one }, NULL, at };
        mr_buf x[] = { { all, NULL }, { &ok, NULL }, { &wanted, NULL } }, y[5];
        mr_err err = MR_ERR_INIT;
        ls_ok(room->ref(&c, x, NULL, &err), &err);
        cr_assert(ok == 0 && wanted == 1.5f, "ok %g, wanted %g", ok, wanted);
        mr_call b = { sizeof b, 1, 5, 4, (const mr_type *[]){ &in },
                      (const mr_type *[]){ &o[0], &o[1], &o[2], &o[3], &o[4] }, at };
        for (int i = 0; i < 5; i++)
            y[i] = (mr_buf){ got[i], NULL };
        ls_ok(blocks->ref(&b, x, y, &err), &err);
        cr_assert_eq(got[0][E / 2], r ? 8 : 6); /* two of six rows stayed behind */
        for (int i = 0; i < 8; i++)
            cr_assert(got[3][i] < 0 || got[4][got[3][i]] == i);
    }
}

/* Every rank of the group finds out, by the same numbers. */
Test(experts, more_rows_than_the_bound_are_an_error_on_all_ranks)
{
    static int32_t all[2][E + 1] = { { 0, 5, 10, 11, 12 }, { 0, 4, 9, 10, 12 } };
    const mr_op_def *def = mri_op_find("ep_plan");
    mr_type in = mr_type2("i32", 2, E + 1), o[3] = { mr_type1("i32", 3), mr_type1("i32", 18),
                                                     mr_type1("i32", 18) };
    int32_t offsets[3], order[18], back[18];
    for (int64_t r = 0; r < 2; r++) {
        mr_attr at[] = { mr_ai("ranks", 2), mr_ai("index", r), mr_ai("bound", 18) };
        mr_call c = { sizeof c, 1, 3, 3, (const mr_type *[]){ &in },
                      (const mr_type *[]){ &o[0], &o[1], &o[2] }, at };
        mr_buf out[] = { { offsets, NULL }, { order, NULL }, { back, NULL } };
        mr_err err = MR_ERR_INIT;
        cr_assert_eq(def->ref(&c, &(mr_buf){ all, NULL }, out, &err), MR_E_EXPERT_ROOM);
        cr_assert(strstr(err.what, "rank 0") && strstr(err.what, "19") && strstr(err.what, "18"),
                  "%s", err.what);
    }
}
