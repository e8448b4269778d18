/* SPDX-License-Identifier: Apache-2.0
 * canvas.c - Llama 4's choice of a canvas; see canvas.h. */
#include "canvas.h"
#include <math.h>

typedef struct shape {
    int64_t rows, cols;
} shape;

/* Every rows x cols with at most max tiles. Ties between canvases go to the earlier one, so the
 * order matters: from most tiles to fewest, and shapes of one aspect ratio together, where the
 * first of them stands. */
static int64_t shapes_of(int64_t max, shape out[MRI_CANVAS_SHAPES])
{
    shape all[MRI_CANVAS_SHAPES];
    int64_t n = 0, written = 0;
    for (int64_t tiles = max; tiles >= 1; tiles--)
        for (int64_t rows = 1; rows <= tiles; rows++)
            if (tiles % rows == 0)
                all[n++] = (shape){ rows, tiles / rows };
    for (int64_t i = 0; i < n; i++) {
        bool seen = false;
        for (int64_t k = 0; k < i; k++)
            seen |= all[k].rows * all[i].cols == all[i].rows * all[k].cols;
        for (int64_t k = i; k < n && !seen; k++)
            if (all[k].rows * all[i].cols == all[i].rows * all[k].cols)
                out[written++] = all[k];
    }
    return written;
}

/* In float, as the reference compares them. */
static float scale_of(shape s, int64_t side, int64_t width, int64_t height)
{
    float across = (float)(s.cols * side) / (float)width;
    float down = (float)(s.rows * side) / (float)height;
    return down > across ? across : down;
}

static shape best_shape(const mri_image_rule *rule, int64_t width, int64_t height)
{
    shape all[MRI_CANVAS_SHAPES], best = { 1, 1 };
    int64_t n = shapes_of(rule->max_tiles, all), area = INT64_MAX;
    float chosen = 0;
    bool enlarges = false;
    for (int64_t i = 0; i < n; i++) {
        float s = scale_of(all[i], rule->side, width, height);
        bool better = s >= 1 ? !enlarges || (rule->fill_canvas ? s > chosen : s < chosen)
                             : !enlarges && s > chosen;
        if (better)
            chosen = s;
        enlarges |= s >= 1;
    }
    for (int64_t i = 0; i < n; i++)
        if (scale_of(all[i], rule->side, width, height) == chosen &&
            all[i].rows * all[i].cols < area) {
            best = all[i];
            area = best.rows * best.cols;
        }
    return best;
}

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

mri_canvas mri_canvas_for(const mri_image_rule *rule, int64_t width, int64_t height)
{
    shape s = best_shape(rule, width, height);
    int64_t w = s.cols * rule->side, h = s.rows * rule->side;
    mri_canvas c = { .rows = s.rows, .cols = s.cols };
    if (!rule->fill_canvas) { /* nothing is enlarged beyond one tile */
        w = least(width > rule->side ? width : rule->side, w);
        h = least(height > rule->side ? height : rule->side, h);
    }
    double across = (double)w / (double)width, down = (double)h / (double)height;
    if (across < down) {
        c.width = w;
        c.height = least((int64_t)floor((double)height * across), h);
    } else {
        c.height = h;
        c.width = least((int64_t)floor((double)width * down), w);
    }
    c.width = c.width < 1 ? 1 : c.width;
    c.height = c.height < 1 ? 1 : c.height;
    return c;
}
