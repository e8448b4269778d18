/* SPDX-License-Identifier: Apache-2.0
 * The ops of a mixture of experts give what their equations say. */
#include "op_run.h"

static double sigmoid(double x)
{
    return 1 / (1 + exp(-x));
}

/* ---- route_topk -------------------------------------------------------------------------- */
Test(route, ties_go_to_the_lower_index)
{
    mri_case *c = run("route_topk", "logits=F[2,4]{1,3,3,0,2,2,2,2} @k=2");
    EXPECT_OUT(c, 1, 1, 2, 0, 1);
    EXPECT_OUT(c, 0, sigmoid(3), sigmoid(3), sigmoid(2), sigmoid(2));
    drop(c);
}

Test(route, index_is_in_falling_order_of_choice)
{
    mri_case *c = run("route_topk", "logits=F[1,5]{-1,4,0,5,2} @k=4");
    EXPECT_OUT(c, 1, 3, 1, 4, 2);
    drop(c);
}

Test(route, bias_chooses_but_does_not_weigh)
{
    mri_case *c = run("route_topk", "logits=F[1,3]{2,1,0} bias=F[3]{0,0,5} @k=2");
    EXPECT_OUT(c, 1, 2, 0);
    EXPECT_OUT(c, 0, 0.5, sigmoid(2));
    drop(c);
}

Test(route, norm_divides_by_the_chosen_and_scale_multiplies)
{
    /* sigmoid(ln 3) = 3/4, sigmoid(0) = 1/2 */
    mri_case *c = run("route_topk",
                     "logits=F[1,3]{0,1.0986122886681098,-9} @k=2 @norm=1 @scale=2.5");
    EXPECT_OUT(c, 1, 1, 0);
    EXPECT_OUT(c, 0, 2.5 * 0.6, 2.5 * 0.4);
    drop(c);
    c = run("route_topk", "logits=F[1,3]{0,1.0986122886681098,-9} @k=1 @norm=1");
    EXPECT_OUT(c, 0, 0.75); /* one expert keeps its score */
    drop(c);
}

/* logits are the logarithms of 1 2 3 4 */
#define LOGS \
    "logits=F[1,4]{0,0.69314718055994531,1.0986122886681098,1.3862943611198906} @score=softmax "

Test(route, softmax_is_taken_before_or_after_the_choice)
{
    mri_case *c = run("route_topk", LOGS "@k=2");
    EXPECT_OUT(c, 1, 3, 2);
    EXPECT_OUT(c, 0, 4.0 / 7, 3.0 / 7);
    drop(c);
    c = run("route_topk", LOGS "@k=2 @pre_softmax=1 @scale=2");
    EXPECT_OUT(c, 0, 0.8, 0.6);
    drop(c);
    c = run("route_topk", LOGS "@k=2 @pre_softmax=1 @norm=1");
    EXPECT_OUT(c, 0, 4.0 / 7, 3.0 / 7);
    drop(c);
    c = run("route_topk", LOGS "@k=1 @pre_softmax=1");
    EXPECT_OUT(c, 0, 0.4);
    drop(c);
}

Test(route, a_group_is_worth_the_sum_of_its_best)
{
    /* groups of two, each worth both: 1.00 1.76 1.45 1.46; so expert 0, the best, is left out */
    mri_case *c = run("route_topk",
                     "logits=F[1,8]{5,-5,2,2,3,0,1,1} @k=4 @groups=4 @group_topk=2");
    EXPECT_OUT(c, 1, 2, 3, 6, 7);
    EXPECT_OUT(c, 0, sigmoid(2), sigmoid(2), sigmoid(1), sigmoid(1));
    drop(c);
    /* worth their one best: groups 0 and 2 */
    c = run("route_topk", "logits=F[1,8]{5,-5,2,2,3,0,1,1} @k=2 @groups=4 @group_topk=2");
    EXPECT_OUT(c, 1, 0, 4);
    drop(c);
    /* equal groups: the lower ones; the bias takes part in the worth */
    c = run("route_topk", "logits=F[2,4]{1,1,1,1,1,1,1,1} bias=F[4]{0,0,0,0.5} "
                          "@k=1 @groups=2 @group_topk=1");
    EXPECT_OUT(c, 1, 3, 3);
    drop(c);
    c = run("route_topk", "logits=F[1,6]{1,1,1,1,1,1} @k=2 @groups=3 @group_topk=2");
    EXPECT_OUT(c, 1, 0, 1);
    drop(c);
}

Test(route, choice_stays_valid_without_numbers)
{
    mri_case *c = make_case("route_topk", "logits=F[1,4] @k=3", "f32");
    mr_err err = MR_ERR_INIT;
    for (int e = 0; e < 4; e++)
        mri_put(in_view(c, 0), e, NAN);
    cr_assert_eq(run_case(c, "route_topk", &err), 0);
    EXPECT_OUT(c, 1, 0, 1, 2);
    drop(c);
}

Test(route, refuses_what_cannot_be_chosen)
{
    refused("route_topk", "logits=F[2,4] @k=5", "k is 5");
    refused("route_topk", "logits=F[2,4] @k=0", "k is 0");
    refused("route_topk", "logits=F[2,4] @k=1 @score=softmax", "pre_softmax");
    refused("route_topk", "logits=F[2,4] bias=F[4] @k=2 @score=softmax", "bias");
    refused("route_topk", "logits=F[2,4] bias=F[5] @k=2", "bias");
    refused("route_topk", "logits=F[2,4] @k=2 @groups=3 @group_topk=1", "groups is 3");
    refused("route_topk", "logits=F[2,4] @k=2 @groups=2", "group_topk is 0");
    refused("route_topk", "logits=F[2,4] @k=3 @groups=2 @group_topk=1", "hold only 2");
    refused("route_topk", "logits=F[2,4] @k=2 @groups=4 @group_topk=3", "group_topk is 3");
}

Test(route, gradient_reaches_only_the_chosen_under_sigmoid)
{
    mri_case *c = run("route_topk.bwd", "dprobs=F[1,2]{2,-3} logits=F[1,4]{1,0,-1,2} "
                                       "probs=S[1,2] index=i32[1,2]{3,0} @k=2 @scale=0.5");
    double a = sigmoid(2), b = sigmoid(1);
    EXPECT_OUT(c, 0, -1.5 * b * (1 - b), 0, 0, 1 * a * (1 - a));
    drop(c);
}

Test(route, gradient_of_normalised_weights_has_no_part_along_them)
{
    /* equal gradients of weights that sum to a constant cancel */
    static const char *const ways[] = { "@norm=1", "@score=softmax",
                                        "@score=softmax @pre_softmax=1 @norm=1" };
    for (size_t i = 0; i < 3; i++) {
        char text[200];
        snprintf(text, sizeof text, "dprobs=F[1,2]{2,2} logits=F[1,4]{1,0,-1,2} probs=S[1,2] "
                                    "index=i32[1,2]{3,0} @k=2 %s", ways[i]);
        mri_case *c = run("route_topk.bwd", text);
        EXPECT_OUT(c, 0, 0, 0, 0, 0);
        drop(c);
    }
    /* softmax over the two chosen, logits 2 and 1: s (d - <s, d>) */
    mri_case *c = run("route_topk.bwd", "dprobs=F[1,2]{1,0} logits=F[1,4]{1,0,-1,2} probs=S[1,2] "
                                       "index=i32[1,2]{3,0} @k=2 @score=softmax");
    double s = sigmoid(1);
    EXPECT_OUT(c, 0, -s * (1 - s), 0, 0, s * (1 - s));
    drop(c);
    refused("route_topk.bwd", "dprobs=F[1,1] logits=F[1,4] probs=S[1,1] index=i32[1,1]{4} @k=1",
            "is 4 of 4");
}

/* ---- route_plan -------------------------------------------------------------------------- */
Test(route_plan, sorts_by_expert_and_keeps_the_order)
{
    mri_case *c = run("route_plan", "index=i32[3,2]{4,1,1,0,4,1} @experts=6");
    EXPECT_OUT(c, 0, 3, 1, 2, 5, 0, 4);       /* rows */
    EXPECT_OUT(c, 1, 4, 1, 2, 0, 5, 3);       /* slots: their inverse */
    EXPECT_OUT(c, 2, 0, 1, 4, 4, 4, 6, 6);    /* experts 2, 3, 5 get nothing */
    drop(c);
    refused("route_plan", "index=i32[2,1]{0,3} @experts=3", "expert 3");
    refused("route_plan", "index=i32[2,1]{0,-1} @experts=3", "expert -1");
}

/* ---- permute, unpermute -------------------------------------------------------------------- */
#define T 7
#define K 2
#define D 6
#define ROWS "rows=i32[14]perm slots=i32[14]inv:rows "

Test(permute, rows_are_copies_of_their_tokens)
{
    mri_case *c = run("permute", "x=F[7,6] " ROWS "probs=S[7,2]");
    for (int r = 0; r < T * K; r++) {
        int i = (int)in_at(c, 1, r);
        for (int d = 0; d < D; d++)
            cr_assert_eq(out_at(c, 0, r * D + d), in_at(c, 0, i / K * D + d) * in_at(c, 3, i));
    }
    drop(c);
}

Test(permute, unpermute_gives_the_tokens_back)
{
    mri_case *p = run("permute", "x=F[7,6] " ROWS);
    mri_case *u = make_case("unpermute", "y=F[14,6] " ROWS "probs=S[7,2] @k=2", "f64");
    mr_err err = MR_ERR_INIT;

    memcpy(u->in[0].data, p->out[0].data, mr_bytes(p->out_ptr[0]));
    for (uint32_t i = 1; i <= 2; i++)
        memcpy(u->in[i].data, p->in[i].data, mr_bytes(p->in_ptr[i]));
    cr_assert_eq(run_case(u, "unpermute", &err), 0);
    for (int t = 0; t < T; t++)
        for (int d = 0; d < D; d++) {
            double weight = in_at(u, 3, t * K) + in_at(u, 3, t * K + 1);
            cr_assert_float_eq(out_at(u, 0, t * D + d), weight * in_at(p, 0, t * D + d), 1e-14);
        }
    drop(p);
    drop(u);
}

Test(permute, dprobs_is_the_product_of_row_and_token)
{
    mri_case *c = run("permute.dprobs", "a=F[14,6] b=F[7,6] rows=i32[14]perm");
    for (int r = 0; r < T * K; r++) {
        int i = (int)in_at(c, 2, r);
        double sum = 0;
        for (int d = 0; d < D; d++)
            sum += in_at(c, 0, r * D + d) * in_at(c, 1, i / K * D + d);
        cr_assert_float_eq(out_at(c, 0, i), sum, 1e-14);
    }
    drop(c);
}

Test(permute, refuses_rows_out_of_range_and_uneven_rows)
{
    refused("permute", "x=F[2,3] rows=i32[2]{0,2} slots=i32[2]{0,1}", "rows[1] is 2");
    refused("unpermute", "y=F[2,3] rows=i32[2]{0,1} slots=i32[2]{0,-1} @k=1", "slots[1] is -1");
    refused("permute", "x=F[2,3] rows=i32[3]perm slots=i32[3]perm", "not a multiple");
    refused("unpermute", "y=F[3,3] rows=i32[3]perm slots=i32[3]perm @k=2", "not a multiple");
}

/* ---- grouped_linear ------------------------------------------------------------------------ */
static int expert_of(const mri_case *c, uint32_t offsets, int E, int r) /* -1: no expert's row */
{
    for (int e = 0; e < E; e++)
        if (r >= in_at(c, offsets, e) && r < in_at(c, offsets, e + 1))
            return e;
    return -1;
}

/* sorted, with empty experts, one that takes all, rows that nobody owns at either end */
static const char *const all_offsets[] = { "{0,4,6,9}", "{0,0,9,9}", "{0,0,0,0}",
                                           "{0,0,7,7}", "{2,3,3,8}" };
static const char *const layouts[] = { "w=F[3,4,5] ", "@layout=oi w=F[3,5,4] " };

Test(grouped_linear, equals_a_product_for_every_row)
{
    enum { R = 9, E = 3, I = 4, O = 5 };
    for (size_t k = 0; k < 5; k++)
        for (int oi = 0; oi < 2; oi++) {
            char text[200];
            mr_err err = MR_ERR_INIT;
            snprintf(text, sizeof text, "x=F[9,4] %soffsets=i32[4]%s", layouts[oi],
                     all_offsets[k]);
            mri_case *c = make_case("grouped_linear", text, "f64");
            for (int i = 0; i < R * O; i++)
                mri_put(out_view(c, 0), i, NAN); /* every row is written */
            cr_assert_eq(run_case(c, "grouped_linear", &err), 0, "%s", err.what);
            for (int r = 0; r < R; r++)
                for (int o = 0; o < O; o++) {
                    int e = expert_of(c, 2, E, r);
                    double sum = 0;
                    for (int i = 0; i < I && e >= 0; i++)
                        sum += in_at(c, 0, r * I + i) *
                               in_at(c, 1, oi ? (e * O + o) * I + i : (e * I + i) * O + o);
                    cr_assert_float_eq(out_at(c, 0, r * O + o), sum, 1e-13);
                }
            drop(c);
        }
}

Test(grouped_linear, gradients_leave_out_the_rows_of_no_expert)
{
    enum { R = 9, E = 3, I = 4, O = 5 };
    for (size_t k = 0; k < 5; k++)
        for (int oi = 0; oi < 2; oi++) {
            char text[200];
            mr_err err = MR_ERR_INIT;
            snprintf(text, sizeof text, "dy=F[9,5] %soffsets=i32[4]%s", layouts[oi],
                     all_offsets[k]);
            mri_case *d = make_case("grouped_linear.dgrad", text, "f64");
            snprintf(text, sizeof text, "x=F[9,4] dy=F[9,5] offsets=i32[4]%s %s", all_offsets[k],
                     oi ? "dw=S[3,5,4] @layout=oi" : "dw=S[3,4,5]");
            mri_case *w = make_case("grouped_linear.wgrad", text, "f64");
            double before[E * I * O];
            memcpy(before, w->in[3].data, sizeof before);

            for (int r = 0; r < R; r++) /* a NaN there must not spread */
                for (int o = 0; o < O && expert_of(d, 2, E, r) < 0; o++) {
                    mri_put(in_view(d, 0), r * O + o, NAN);
                    mri_put(in_view(w, 1), r * O + o, NAN);
                }
            cr_assert_eq(run_case(d, "grouped_linear.dgrad", &err), 0, "%s", err.what);
            cr_assert_eq(run_case(w, "grouped_linear.wgrad", &err), 0, "%s", err.what);
            for (int r = 0; r < R; r++)
                for (int i = 0; i < I; i++) {
                    int e = expert_of(d, 2, E, r);
                    double sum = 0;
                    for (int o = 0; o < O && e >= 0; o++)
                        sum += in_at(d, 0, r * O + o) *
                               in_at(d, 1, oi ? (e * O + o) * I + i : (e * I + i) * O + o);
                    cr_assert_float_eq(out_at(d, 0, r * I + i), sum, 1e-13);
                }
            for (int e = 0; e < E; e++)
                for (int i = 0; i < I; i++)
                    for (int o = 0; o < O; o++) {
                        int at = oi ? (e * O + o) * I + i : (e * I + i) * O + o;
                        double sum = before[at]; /* adds to what is there */
                        for (int r = 0; r < R; r++)
                            if (expert_of(w, 2, E, r) == e)
                                sum += in_at(w, 0, r * I + i) * in_at(w, 1, r * O + o);
                        cr_assert_float_eq(in_at(w, 3, at), sum, 1e-13);
                    }
            drop(d);
            drop(w);
        }
}

Test(grouped_linear, refuses_offsets_that_leave_the_rows)
{
    refused("grouped_linear", "x=F[9,4] w=F[3,4,5] offsets=i32[4]{0,5,3,9}", "offsets[2] is 3");
    refused("grouped_linear", "x=F[9,4] w=F[3,4,5] offsets=i32[4]{0,5,6,10}", "offsets[3] is 10");
    refused("grouped_linear", "x=F[9,4] w=F[3,4,5] offsets=i32[4]{-1,5,6,9}", "offsets[0] is -1");
    refused("grouped_linear", "x=F[9,4] w=F[3,5,4] offsets=i32[4]{0,5,6,9}", "w is");
    refused("grouped_linear", "x=F[9,4] w=F[3,4,5] offsets=i32[5]{0,5,6,9,9}", "offsets is");
}

/* ---- auxiliary losses ---------------------------------------------------------------------- */
/* the loss of tokens [from, to) straight from the equation */
static double direct_aux(const mri_case *c, int from, int to, int E_, int k, bool sig, double coeff)
{
    double P[8] = { 0 }, loss = 0;
    int f[8] = { 0 }, n = to - from;
    for (int t = from; t < to; t++) {
        double s[8], sum = 0;
        for (int e = 0; e < E_; e++) {
            double x = in_at(c, 0, t * E_ + e);
            sum += s[e] = sig ? sigmoid(x) : exp(x);
        }
        for (int e = 0; e < E_; e++) {
            int better = 0;
            for (int j = 0; j < E_; j++)
                better += s[j] > s[e];
            f[e] += better < k;
            P[e] += s[e] / sum;
        }
    }
    for (int e = 0; e < E_; e++)
        loss += P[e] * f[e];
    return coeff * n * E_ / ((double)k * n * n) * loss;
}

Test(moe_losses, aux_loss_is_its_formula)
{
    mri_case *c = run("moe_aux_loss", "logits=F[6,5] seq_start=i32[6]start:3 @k=2 @coeff=0.5");
    cr_assert_float_eq(out_at(c, 0, 0), direct_aux(c, 0, 6, 5, 2, true, 0.5), 1e-12);
    double total = 0;
    for (int i = 0; i < 30; i++) {
        total += out_at(c, 1, i);
        cr_assert(i < 5 || out_at(c, 1, i) == 0, "only row 0 counts");
    }
    cr_assert_eq(total, 12, "K choices a token");
    drop(c);
    c = run("moe_aux_loss", "logits=F[6,5] seq_start=i32[6]start:3 @k=1 @coeff=2 @score=softmax");
    cr_assert_float_eq(out_at(c, 0, 0), direct_aux(c, 0, 6, 5, 1, false, 2), 1e-12);
    drop(c);
}

Test(moe_losses, seq_aux_is_a_loss_of_each_sequence)
{
    for (int sig = 0; sig < 2; sig++) {
        char text[160];
        snprintf(text, sizeof text, "logits=F[7,5] seq_start=i32[7]start:3 @k=2 @coeff=0.5 "
                                    "@type=seq_aux @score=%s", sig ? "sigmoid" : "softmax");
        mri_case *c = run("moe_aux_loss", text); /* sequences of 3, 3 and 1 tokens */
        double want = 0;
        for (int s = 0; s < 7; s += 3) {
            int end = s + 3 < 7 ? s + 3 : 7;
            double total = 0;
            want += direct_aux(c, s, end, 5, 2, sig, 0.5);
            for (int e = 0; e < 5; e++)
                total += out_at(c, 1, s * 5 + e);
            cr_assert_eq(total, 2 * (end - s), "the first row of a sequence counts it");
        }
        for (int t = 0; t < 7; t++)
            for (int e = 0; e < 5; e++)
                cr_assert(t % 3 == 0 || out_at(c, 1, t * 5 + e) == 0);
        cr_assert_float_eq(out_at(c, 0, 0), want, 1e-12);
        drop(c);
    }
}

Test(moe_losses, even_load_costs_coeff_a_token)
{
    mri_case *c = run("moe_aux_loss", "logits=F[4,2]{1,0,0,1,1,0,0,1} seq_start=i32[4]zero "
                                     "@k=1 @coeff=0.25 @score=softmax");
    EXPECT_OUT(c, 0, 4 * 0.25);
    EXPECT_OUT(c, 1, 2, 2, 0, 0, 0, 0, 0, 0);
    drop(c);
}

Test(moe_losses, gradient_is_the_slope_at_constant_counts)
{
    static const char *const ways[] = { "@score=sigmoid", "@score=softmax",
                                        "@score=sigmoid @type=seq_aux",
                                        "@score=softmax @type=seq_aux" };
    for (int way = 0; way < 4; way++) {
        char text[200];
        mr_err err = MR_ERR_INIT;
        snprintf(text, sizeof text, "logits=F[7,5] seq_start=i32[7]start:3 @k=2 @coeff=0.5 %s",
                 ways[way]);
        mri_case *f = run("moe_aux_loss", text);
        snprintf(text, sizeof text, "dloss=S[1]{3} logits=F[7,5] seq_start=i32[7]start:3 "
                                    "counts=S[7,5] @k=2 @coeff=0.5 %s", ways[way]);
        mri_case *b = make_case("moe_aux_loss.bwd", text, "f64");
        memcpy(b->in[1].data, f->in[0].data, mr_bytes(f->in_ptr[0]));
        memcpy(b->in[3].data, f->out[1].data, mr_bytes(f->out_ptr[1]));
        cr_assert_eq(run_case(b, "moe_aux_loss.bwd", &err), 0);
        for (int i = 0; i < 35; i++) {
            double x = in_at(f, 0, i), h = 1e-5;
            mri_put(in_view(f, 0), i, x + h);
            run_case(f, "moe_aux_loss", &err);
            double up = out_at(f, 0, 0);
            mri_put(in_view(f, 0), i, x - h);
            run_case(f, "moe_aux_loss", &err);
            double slope = 3 * (up - out_at(f, 0, 0)) / (2 * h);
            mri_put(in_view(f, 0), i, x);
            cr_assert_float_eq(out_at(b, 0, i), slope, 1e-8, "%s: element %d", ways[way], i);
        }
        drop(f);
        drop(b);
    }
}

Test(moe_losses, z_loss_is_the_squared_log_sum)
{
    /* exp sums to 10 and to 2; large logits do not overflow */
    mri_case *c = run("router_z_loss", "logits=F[2,4]{0,0.69314718055994531,1.0986122886681098,"
                                      "1.3862943611198906,1000,1000,-1000,-1000} @coeff=0.5");
    double a = log(10), b = 1000 + log(2);
    EXPECT_OUT(c, 1, a, b);
    cr_assert_float_eq(out_at(c, 0, 0), 0.5 * (a * a + b * b), 1e-9);
    drop(c);
    c = run("router_z_loss.bwd", "dloss=S[1]{3} logits=F[1,2]{0,1.0986122886681098} "
                                 "lse=S[1]{1.3862943611198906} @coeff=0.5");
    double l = 2 * 0.5 * 3 * log(4);
    EXPECT_OUT(c, 0, l * 0.25, l * 0.75);
    drop(c);
    refused("moe_aux_loss", "logits=F[6,5] seq_start=i32[6]zero @k=6 @coeff=1", "k is 6");
}
