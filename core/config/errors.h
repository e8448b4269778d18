/* SPDX-License-Identifier: Apache-2.0
 *
 * errors.h - a page for every numbered error of MR_ERR_MAP: what `mrun explain E0203` prints
 * and docs/errors/E0203.md holds. A number without a page does not compile.
 */
#ifndef MRI_ERRORS_H
#define MRI_ERRORS_H
#include "core/base/base.h"

typedef struct mri_error_info {
    int number;
    const char *name;  /* "PLUGIN_VERSION" */
    const char *title; /* one line */
    const char *text;  /* the page: what it means, usual causes, what to do */
} mri_error_info;

const mri_error_info *mri_errors(size_t *n);          /* in MR_ERR_MAP's order */
const mri_error_info *mri_error_find(int number);     /* NULL: no such number  */
const char *mri_error_page(int number);               /* its text, or NULL     */
void mri_error_markdown(const mri_error_info *e, mri_str *out); /* docs/errors/ENNNN.md */

#endif
