/* SPDX-License-Identifier: Apache-2.0
 *
 * rope.c - the rotary frequencies, with Llama 3's scaling for long contexts: wavelengths
 * longer than original / low are stretched by `factor`, those shorter than original / high
 * stay, and between the two the frequency is interpolated.
 */
#include "llama4.h"
#include <math.h>

void l4_inv_freq(const l4_model *m, double *inv_freq)
{
    const double two_pi = 6.283185307179586476925286766559;
    double original = (double)m->rope_original;
    for (int64_t i = 0; i < m->head_dim / 2; i++) {
        double f = pow(m->rope_theta, -2.0 * (double)i / (double)m->head_dim);
        double wavelength = two_pi / f;
        if (m->rope_factor == 1 || wavelength < original / m->rope_high) {
            inv_freq[i] = f;
        } else if (wavelength > original / m->rope_low) {
            inv_freq[i] = f / m->rope_factor;
        } else if (m->rope_high == m->rope_low) { /* Scout: the band is one point */
            inv_freq[i] = f;
        } else {
            double smooth = (original / wavelength - m->rope_low) / (m->rope_high - m->rope_low);
            inv_freq[i] = (1 - smooth) * f / m->rope_factor + smooth * f;
        }
    }
}
