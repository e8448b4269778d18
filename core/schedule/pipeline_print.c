/* SPDX-License-Identifier: Apache-2.0
 *
 * pipeline_print.c - a pipeline as text: a row a stage, time to the right. A forward shows its
 * micro-batch's last digit, a backward a letter in its place (a = 0), a weight gradient w, and
 * waiting a dot. What is narrower than a column shows where it covers the column's middle.
 */
#include "pipeline.h"
#include <stdlib.h>
#include <string.h>

static char letter(const mri_task *t)
{
    uint32_t digit = t->micro % 10;
    return t->kind == MRI_TASK_W ? 'w' : (char)((t->kind == MRI_TASK_F ? '0' : 'a') + (int)digit);
}

void mri_pipeline_print(const mri_pipeline *p, uint32_t columns, mri_str *out)
{
    char *row = mri_alloc(columns + 1u);
    double step = p->time / columns;
    for (uint32_t s = 0; s < p->o.stages; s++) {
        size_t i = 0;
        memset(row, '.', columns);
        for (uint32_t c = 0; c < columns; c++) {
            double at = (c + 0.5) * step;
            while (i < p->stage[s].n && p->stage[s].v[i].end <= at)
                i++;
            if (i < p->stage[s].n && p->stage[s].v[i].start <= at)
                row[c] = letter(&p->stage[s].v[i]);
        }
        mri_str_fmt(out, "  stage %3u %s\n", s, row);
    }
    free(row);
}
