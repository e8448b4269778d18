/* SPDX-License-Identifier: Apache-2.0
 * Updates follow their published formulas, and a bad step changes no bit. */
#include "op_run.h"

enum { N = 23 };

static float *data(mri_case *c, uint32_t i)
{
    return c->in[i].data;
}

static void next_gradient(float *g, int step)
{
    for (int i = 0; i < N; i++)
        g[i] = sinf((float)(1 + i * 7 + step * 31)) * (float)(i % 3 ? 1 : 1e-3);
}

Test(adamw, follows_the_formula_over_five_steps)
{
    mri_case *c = make_case("adamw",
                           "master=f32[23] exp_avg=f32[23]zero exp_avg_sq=f32[23]zero grad=f32[23] "
                           "lr=f32[1]{0.01} weight_decay=f32[1]{0.1} step=f32[1]{1} "
                           "grad_scale=f32[1]{0.5} ok=f32[1]{1} @beta1=0.9 @beta2=0.95 @eps=1e-8",
                           NULL);
    double w[N], m[N] = { 0 }, v[N] = { 0 };
    for (int i = 0; i < N; i++)
        w[i] = data(c, 0)[i];
    for (int step = 1; step <= 5; step++) {
        mr_err err = MR_ERR_INIT;
        next_gradient(data(c, 3), step);
        data(c, 6)[0] = (float)step;
        cr_assert_eq(run_case(c, "adamw", &err), 0);
        for (int i = 0; i < N; i++) { /* Loshchilov and Hutter's algorithm 2, in double */
            double g = data(c, 3)[i] * 0.5, decayed = w[i] * (1 - 0.01 * 0.1);
            m[i] = 0.9 * m[i] + 0.1 * g;
            v[i] = 0.95 * v[i] + 0.05 * g * g;
            double mh = m[i] / (1 - pow(0.9, step)), vh = v[i] / (1 - pow(0.95, step));
            w[i] = decayed - 0.01 * mh / (sqrt(vh) + 1e-8);
            cr_assert_float_eq(data(c, 0)[i], w[i], 2e-6, "step %d, element %d", step, i);
            cr_assert_float_eq(data(c, 1)[i], m[i], 1e-6);
            cr_assert_float_eq(data(c, 2)[i], v[i], 1e-6);
        }
    }
    drop(c);
}

Test(adamw, first_step_moves_by_the_rate_whatever_the_gradient)
{
    mri_case *c = make_case("adamw",
                           "master=f32[2]{1,1} exp_avg=f32[2]zero exp_avg_sq=f32[2]zero "
                           "grad=f32[2]{1000,-0.001} lr=f32[1]{0.25} weight_decay=f32[1]{0} "
                           "step=f32[1]{1} grad_scale=f32[1]{1} ok=f32[1]{1}",
                           NULL);
    mr_err err = MR_ERR_INIT;
    cr_assert_eq(run_case(c, "adamw", &err), 0);
    cr_assert_float_eq(data(c, 0)[0], 0.75, 1e-5);
    cr_assert_float_eq(data(c, 0)[1], 1.25, 1e-5);
    drop(c);
}

Test(adamw, gap_without_gradient_stays_zero)
{
    mri_case *c = make_case("adamw",
                           "master=f32[2]zero exp_avg=f32[2]zero exp_avg_sq=f32[2]zero "
                           "grad=f32[2]zero lr=f32[1]{0.25} weight_decay=f32[1]{0.1} "
                           "step=f32[1]{1} grad_scale=f32[1]{1} ok=f32[1]{1}",
                           NULL);
    mr_err err = MR_ERR_INIT;
    cr_assert_eq(run_case(c, "adamw", &err), 0);
    for (uint32_t i = 0; i < 3; i++)
        cr_assert(data(c, i)[0] == 0 && data(c, i)[1] == 0);
    drop(c);
}

/* Runs with ok = 0 and poison in every read operand; the written ones keep their bits. */
static void changes_nothing(const char *op, const char *text, uint32_t first_read)
{
    mri_case *c = make_case(op, text, NULL);
    mr_err err = MR_ERR_INIT;
    float before[3][N];
    for (uint32_t i = 0; i < first_read; i++)
        memcpy(before[i], c->in[i].data, sizeof before[i]);
    for (uint32_t i = first_read; i + 1 < c->call.n_in; i++)
        for (int64_t k = 0; k < mr_numel(c->in_ptr[i]); k++)
            data(c, i)[k] = NAN;
    cr_assert_eq(run_case(c, op, &err), 0);
    for (uint32_t i = 0; i < first_read; i++)
        cr_assert_arr_eq(c->in[i].data, before[i], sizeof before[i], "%s: operand %u", op, i);
    drop(c);
}

Test(optimizer, bad_step_changes_no_bit)
{
    changes_nothing("adamw",
                    "master=f32[23] exp_avg=f32[23] exp_avg_sq=f32[23]pos grad=f32[23] lr=f32[1] "
                    "weight_decay=f32[1] step=f32[1] grad_scale=f32[1] ok=f32[1]{0}", 3);
    changes_nothing("sgd",
                    "master=f32[23] momentum=f32[23] grad=f32[23] lr=f32[1] weight_decay=f32[1] "
                    "grad_scale=f32[1] ok=f32[1]{0} @momentum=0.9", 2);
}

/* torch.optim.SGD's documented algorithm, whose buffer starts as the first gradient */
Test(sgd, follows_the_formula_over_five_steps)
{
    static const struct {
        const char *attrs;
        double mu;
        bool nesterov;
    } ways[] = { { "momentum=-", 0, false },
                 { "momentum=f32[23]zero @momentum=0.9", 0.9, false },
                 { "momentum=f32[23]zero @momentum=0.9 @nesterov=1", 0.9, true } };
    for (int k = 0; k < 3; k++) {
        char text[256];
        snprintf(text, sizeof text, "master=f32[23] grad=f32[23] lr=f32[1]{0.05} weight_decay="
                                    "f32[1]{0.1} grad_scale=f32[1]{0.5} ok=f32[1]{1} %s",
                 ways[k].attrs);
        mri_case *c = make_case("sgd", text, NULL);
        double w[N], b[N];
        for (int i = 0; i < N; i++)
            w[i] = data(c, 0)[i];
        for (int step = 1; step <= 5; step++) {
            mr_err err = MR_ERR_INIT;
            next_gradient(data(c, 2), step);
            cr_assert_eq(run_case(c, "sgd", &err), 0);
            for (int i = 0; i < N; i++) {
                double g = data(c, 2)[i] * 0.5 + 0.1 * w[i];
                b[i] = step == 1 ? g : ways[k].mu * b[i] + g;
                g = ways[k].nesterov ? g + ways[k].mu * b[i] : ways[k].mu ? b[i] : g;
                w[i] -= 0.05 * g;
                cr_assert_float_eq(data(c, 0)[i], w[i], 2e-6, "%s: step %d, element %d",
                                   ways[k].attrs, step, i);
            }
        }
        drop(c);
    }
}

Test(sgd, momentum_and_its_state_go_together)
{
#define REST " grad=f32[2] lr=f32[1] weight_decay=f32[1] grad_scale=f32[1] ok=f32[1] "
    refused("sgd", "master=f32[2] momentum=f32[2]" REST "@momentum=0", "both or none");
    refused("sgd", "master=f32[2]" REST "@momentum=0.9", "both or none");
    refused("sgd", "master=f32[2]" REST "@nesterov=1", "nesterov");
}

/* ---- norm and clipping --------------------------------------------------------------------- */
Test(clip, sumsq_adds_up_in_double)
{
    /* 1e8 and then 4096 ones: a float sum would lose every one of them */
    mri_case *c = make_case("sumsq", "x=f32[4097] acc=f32[1]{0}", NULL);
    mr_err err = MR_ERR_INIT;
    for (int i = 0; i <= 4096; i++)
        data(c, 0)[i] = i ? 1 : 10000;
    cr_assert_eq(run_case(c, "sumsq", &err), 0);
    cr_assert_eq(data(c, 1)[0], 100004096.0f);
    cr_assert_eq(run_case(c, "sumsq", &err), 0);
    cr_assert_eq(data(c, 1)[0], 200008192.0f, "adds to what is there");
    drop(c);
}

static void clip_from(float before, float sumsq, const char *attrs, double scale, double norm,
                      double ok)
{
    char text[160];
    snprintf(text, sizeof text, "sumsq=f32[1] grad_scale=f32[1] norm=f32[1] ok=f32[1] %s", attrs);
    mri_case *c = make_case("clip_scale", text, NULL);
    mr_err err = MR_ERR_INIT;
    data(c, 0)[0] = sumsq;
    data(c, 3)[0] = before;
    cr_assert_eq(run_case(c, "clip_scale", &err), 0);
    cr_assert_float_eq(data(c, 1)[0], scale, 1e-7, "scale %g", data(c, 1)[0]);
    cr_assert(isnan(norm) ? isnan(data(c, 2)[0]) : data(c, 2)[0] == (float)norm);
    cr_assert_eq(data(c, 3)[0], (float)ok);
    drop(c);
}

static void clip_gives(float sumsq, const char *attrs, double scale, double norm, double ok)
{
    clip_from(1, sumsq, attrs, scale, norm, ok);
}

Test(clip, a_bad_step_spoils_those_behind_it)
{
    clip_from(0, 16, "@max_norm=1", 0, 4, 0);
    clip_from(0, 16, "", 0, 4, 0);
}

Test(clip, scales_only_what_is_too_long)
{
    clip_gives(16, "@max_norm=1", 1 / (4 + 1e-6), 4, 1);
    clip_gives(0.25, "@max_norm=1", 1, 0.5, 1);
    clip_gives(0, "@max_norm=1", 1, 0, 1);
    clip_gives(16, "", 1, 4, 1);
}

Test(clip, refuses_a_norm_that_is_no_number)
{
    clip_gives(INFINITY, "@max_norm=1", 0, INFINITY, 0);
    clip_gives(NAN, "@max_norm=1", 0, NAN, 0);
    clip_gives(NAN, "", 0, NAN, 0);
    refused("clip_scale", "sumsq=f32[1] grad_scale=f32[1] norm=f32[1] ok=f32[1] @max_norm=-1",
            "max_norm is -1");
}
