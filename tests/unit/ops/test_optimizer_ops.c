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

/* Runs with ok = 0 (operand n - 2) and poison in every operand that is only read; the written
 * ones, the first `written` and the weights behind ok, keep their bits. */
static void changes_nothing(const char *op, const char *text, uint32_t written)
{
    mri_case *c = make_case(op, text, NULL);
    mr_err err = MR_ERR_INIT;
    uint32_t n = c->call.n_in;
    char before[16][N * sizeof(float)];
    for (uint32_t i = written; i + 2 < n; i++)
        for (int64_t k = 0; k < mr_numel(c->in_ptr[i]); k++)
            data(c, i)[k] = NAN;
    for (uint32_t i = 0; i < n; i++)
        memcpy(before[i], c->in[i].data, mr_bytes(c->in_ptr[i]));
    cr_assert_eq(run_case(c, op, &err), 0);
    for (uint32_t i = 0; i < n; i++)
        cr_assert_arr_eq(c->in[i].data, before[i], mr_bytes(c->in_ptr[i]), "%s: operand %u", op, i);
    drop(c);
}

#define ADAMW_REST " exp_avg=f32[23] exp_avg_sq=f32[23]pos grad=f32[23] lr=f32[1] " \
                   "weight_decay=f32[1] step=f32[1] grad_scale=f32[1] ok=f32[1]{0} " \
                   "weights=bf16[23]"
#define SGD_REST " momentum=f32[23] grad=f32[23] lr=f32[1] weight_decay=f32[1] " \
                 "grad_scale=f32[1] ok=f32[1]{0} weights=bf16[23] @momentum=0.9"

Test(optimizer, bad_step_changes_no_bit)
{
    changes_nothing("adamw", "master=f32[23]" ADAMW_REST, 3);
    changes_nothing("adamw", "master=i16[23]<30000" ADAMW_REST, 3);
    changes_nothing("sgd", "master=f32[23]" SGD_REST, 2);
    changes_nothing("sgd", "master=i16[23]<30000" SGD_REST, 2);
}

/* ---- masters in two halves ----------------------------------------------------------------- */
static uint32_t bits_of(float x)
{
    uint32_t u;
    memcpy(&u, &x, 4);
    return u;
}

static float float_of(uint32_t u)
{
    float x;
    memcpy(&x, &u, 4);
    return x;
}

/* Every lower half of bits behind upper halves of all kinds: both signs, zero, denormals, the
 * largest, infinities. The weight is the nearest bf16; only a tie may differ from ties to even. */
Test(masters, every_number_comes_back_from_its_halves)
{
    static const uint32_t upper[] = { 0x0000, 0x0001, 0x007f, 0x0080, 0x3f7f, 0x3f80, 0x3f81,
                                      0x4049, 0x7f7e, 0x7f7f };
    for (size_t k = 0; k < 2 * sizeof upper / sizeof *upper; k++)
        for (uint32_t low = 0; low < 0x10000; low++) {
            uint32_t u = (upper[k / 2] | (k % 2 ? 0x8000 : 0)) << 16 | low;
            uint16_t weight, even = mri_f32_to_bf16(float_of(u));
            int16_t rest;
            mri_split(float_of(u), &weight, &rest);
            cr_assert_eq(bits_of(mri_join(weight, rest)), u, "%08x: %04x and %d", u, weight, rest);
            cr_assert(low == 0x8000 ? weight == (u >> 16) + 1 : weight == even,
                      "%08x: weight %04x, nearest is %04x", u, weight, even);
        }
}

Test(masters, what_is_no_number_stays_so)
{
    static const uint32_t kinds[] = { 0x7f800001, 0x7fc00000, 0x7fffffff, 0xffc00000, 0xffffffff };
    uint16_t weight;
    int16_t rest;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        mri_split(float_of(kinds[i]), &weight, &rest);
        cr_assert(isnan(mri_bf16_to_f32(weight)), "%08x became %04x", kinds[i], weight);
        cr_assert(isnan(mri_join(weight, rest)), "%08x", kinds[i]);
    }
    mri_split(-INFINITY, &weight, &rest);
    cr_assert(weight == 0xff80 && rest == 0);
}

/* The same update on whole and on split masters: masters agree to the bit, step after step, and
 * weights are those masters in bf16. */
static void splits_follow(const char *op, const char *rest, uint32_t grad, uint32_t weights)
{
    char text[320];
    snprintf(text, sizeof text, "master=f32[23] %s", rest);
    mri_case *whole = make_case(op, text, NULL);
    snprintf(text, sizeof text, "master=i16[23] %s", rest);
    mri_case *split = make_case(op, text, NULL);
    mr_err err = MR_ERR_INIT;
    uint16_t *w = split->in[weights].data, *w0 = whole->in[weights].data;
    int16_t *r = split->in[0].data;
    for (int i = 0; i < N; i++)
        mri_split(data(whole, 0)[i], &w[i], &r[i]);
    for (uint32_t i = 1; i < weights; i++)
        if (split->in_ptr[i])
            memcpy(split->in[i].data, whole->in[i].data, mr_bytes(split->in_ptr[i]));
    for (int step = 1; step <= 5; step++) {
        next_gradient(data(whole, grad), step);
        next_gradient(data(split, grad), step);
        cr_assert_eq(run_case(whole, op, &err), 0, "%s", err.what);
        cr_assert_eq(run_case(split, op, &err), 0, "%s", err.what);
        for (int i = 0; i < N; i++) {
            uint32_t want = bits_of(data(whole, 0)[i]);
            cr_assert_eq(bits_of(mri_join(w[i], r[i])), want, "%s: step %d, element %d", op, step,
                         i);
            cr_assert_eq(w0[i], mri_f32_to_bf16(float_of(want)));
            cr_assert(w[i] == w0[i] || (want & 0xffff) == 0x8000);
        }
    }
    drop(whole);
    drop(split);
}

Test(masters, split_ones_follow_whole_ones)
{
    splits_follow("adamw",
                  "exp_avg=f32[23]zero exp_avg_sq=f32[23]zero grad=f32[23] lr=f32[1]{0.01} "
                  "weight_decay=f32[1]{0.1} step=f32[1]{1} grad_scale=f32[1]{0.5} ok=f32[1]{1} "
                  "weights=bf16[23]", 3, 9);
    splits_follow("sgd",
                  "momentum=f32[23] grad=f32[23] lr=f32[1]{0.05} weight_decay=f32[1]{0.1} "
                  "grad_scale=f32[1]{0.5} ok=f32[1]{1} weights=bf16[23] @momentum=0.9", 2, 7);
}

Test(masters, split_ones_need_their_weights)
{
    refused("adamw", "master=i16[2] exp_avg=f32[2] exp_avg_sq=f32[2] grad=f32[2] lr=f32[1] "
                     "weight_decay=f32[1] step=f32[1] grad_scale=f32[1] ok=f32[1]",
            "there are no weights");
    refused("sgd", "master=f32[2] grad=f32[2] lr=f32[1] weight_decay=f32[1] grad_scale=f32[1] "
                   "ok=f32[1] weights=f32[2]", "weights");
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
