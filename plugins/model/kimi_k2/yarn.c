/* SPDX-License-Identifier: Apache-2.0
 *
 * yarn.c - rotary frequencies and the scale of attention, with YaRN for long contexts (Peng et
 * al. 2023) as DeepSeek-V3 has it. Pair i turns original theta^(-2i/d) / 2 pi times in the
 * original context: pairs with more than beta_fast turns keep their frequency, those with fewer
 * than beta_slow are slowed by `factor`, and a ramp over i joins the two. With
 *     mscale(x) = 0.1 x ln(factor) + 1
 * cosines and sines are multiplied by mscale(mscale) / mscale(mscale_all_dim), by mscale(1) where
 * either is 0, and scores by mscale(mscale_all_dim)^2.
 */
#include "kimi_k2.h"
#include <math.h>

static const double two_pi = 6.283185307179586476925286766559;

/* the pair, as a real number, that turns `turns` times in the original context */
static double pair_of(const k2_model *m, double turns)
{
    return (double)m->rope * log((double)m->rope_original / (turns * two_pi)) /
           (2 * log(m->rope_theta));
}

static double mscale(const k2_model *m, double x)
{
    return m->rope_factor > 1 ? 0.1 * x * log(m->rope_factor) + 1 : 1;
}

void k2_positions(k2_model *m)
{
    bool yarn = m->rope_factor != 1;
    double low = yarn ? pair_of(m, m->beta_fast) : 0, high = yarn ? pair_of(m, m->beta_slow) : 0;
    if (m->truncate) {
        low = floor(low);
        high = ceil(high);
    }
    low = fmax(low, 0);
    high = fmin(high, (double)m->rope - 1);
    if (low == high)
        high += 0.001; /* a step */
    for (int64_t i = 0; i < m->rope / 2; i++) {
        double f = pow(m->rope_theta, -2.0 * (double)i / (double)m->rope);
        double ramp = fmin(fmax(((double)i - low) / (high - low), 0), 1);
        m->inv_freq[i] = yarn ? f / m->rope_factor * ramp + f * (1 - ramp) : f;
    }
    m->turn_factor = m->attention_factor;
    if (m->turn_factor == 0)
        m->turn_factor = m->mscale != 0 && m->mscale_all_dim != 0
                             ? mscale(m, m->mscale) / mscale(m, m->mscale_all_dim)
                             : mscale(m, 1);
    m->scale = pow(mscale(m, m->mscale_all_dim), 2) / sqrt((double)(m->nope + m->rope));
}
