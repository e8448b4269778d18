/* SPDX-License-Identifier: Apache-2.0
 *
 * route.h - scores and choice of experts, as the router and its auxiliary losses share them.
 */
#ifndef MRI_ROUTE_H
#define MRI_ROUTE_H
#include <stdint.h>

double mri_sigmoid(double x);
void mri_softmax(const double *x, int64_t n, double *y); /* y may be x */

/* index[0..k) = the k largest of score[0..n) in falling order, ties to the lower index. Those
 * already `taken` are passed over, the chosen join them; at least k must be free. NaN scores
 * give some valid and distinct indices. */
void mri_topk(const double *score, int64_t n, int64_t k, uint8_t *taken, int64_t *index);

#endif
