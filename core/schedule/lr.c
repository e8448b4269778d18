/* SPDX-License-Identifier: Apache-2.0
 *
 * lr.c - see lr.h. With n steps done, W of warm-up, D of decay:
 *   n <= W   rises from init_lr to lr in a straight line (W > 0)
 *   n <= D   min_lr + shape * (lr - min_lr), the shape falling from 1 to 0
 *   n >  D   min_lr, except under "constant"
 * The shapes are those of Megatron-LM's OptimizerParamScheduler; WSD (warm-up, stable, decay)
 * is Hu et al. 2024.
 */
#include "lr.h"
#include <math.h>

/* shapes over the part q in [0, 1] of the way down */
static double shape_linear(double q)
{
    return 1 - q;
}

static double shape_cosine(double q)
{
    return 0.5 * (1 + cos(M_PI * q));
}

static double shape_exponential(double q)
{
    return 2 * pow(0.5, q) - 1;
}

static double shape_minus_sqrt(double q)
{
    return 1 - sqrt(q);
}

static const struct {
    const char *name;
    double (*at)(double q);
} shapes[] = {
    { "linear", shape_linear },
    { "cosine", shape_cosine },
    { "exponential", shape_exponential },
    { "minus_sqrt", shape_minus_sqrt },
};

static double shape(const char *name, double q)
{
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        if (!strcmp(shapes[i].name, name))
            return shapes[i].at(q);
    MRI_ASSERT(!"a schedule that the option table does not list");
    return 0;
}

double mri_lr(const mri_cfg_optimizer *o, int64_t step, int64_t total)
{
    double n = (double)step, warm = (double)o->warmup;
    double end = (double)(o->decay_steps > 0 ? o->decay_steps : total);

    if (o->warmup > 0 && n <= warm)
        return o->init_lr + (o->lr - o->init_lr) * n / warm;
    if (!strcmp(o->schedule, "constant"))
        return o->lr;
    if (n > end)
        return o->min_lr;
    if (!strcmp(o->schedule, "inverse-square-root"))
        return fmax(o->min_lr, o->lr * sqrt(fmax(warm, 1)) / sqrt(fmax(n, 1)));

    double scale;
    if (!strcmp(o->schedule, "wsd")) {
        double start = end - (double)o->wsd_steps; /* of the anneal */
        scale = n <= start ? 1 : shape(o->wsd_decay, (n - start) / (double)o->wsd_steps);
    } else {
        scale = end > warm ? shape(o->schedule, (n - warm) / (end - warm)) : 1;
    }
    return o->min_lr + scale * (o->lr - o->min_lr);
}

double mri_weight_decay(const char *style, double start, double end, int64_t steps, int64_t step)
{
    if (!strcmp(style, "constant") || step >= steps)
        return end;
    double left = shape(style, (double)step / (double)steps); /* 1 at the start, 0 at the end */
    return end + left * (start - end);
}

int64_t mri_global_batch(const mri_cfg_train *t, int64_t samples_done)
{
    int64_t range = t->global_batch - t->rampup_start;

    if (t->rampup_start <= 0 || t->rampup_increment <= 0 || range <= 0 ||
        samples_done >= t->rampup_samples)
        return t->global_batch;
    /* floor(done / (samples / increments)) in whole numbers: no rounding at the borders */
    int64_t increments = range / t->rampup_increment;
    int64_t reached = (int64_t)((__int128)samples_done * increments / t->rampup_samples);
    return t->rampup_start + reached * t->rampup_increment;
}
