/* SPDX-License-Identifier: Apache-2.0
 * Rows of pictures by hand: patches in the order of reading, class rows before and behind, squares
 * of patches as one row, turns by column and row, features in a text's rows, attention without a
 * causal mask; and calls that cannot be are refused. */
#include "op_run.h"
#include <math.h>

Test(patches, are_cut_in_the_order_of_reading_channel_by_channel)
{
    mri_case *c = run("patchify", "pixels=F[1,2,4,4]ramp @patch=2");
    EXPECT_OUT(c, 0, 0, 1, 4, 5, 16, 17, 20, 21, 2, 3, 6, 7, 18, 19, 22, 23, 8, 9, 12, 13, 24, 25,
               28, 29, 10, 11, 14, 15, 26, 27, 30, 31);
    drop(c);
}

Test(patches, get_a_class_row_and_positions)
{
    mri_case *c = run("patch_positions", "x=F[4,1]{1,2,3,4} pos=F[3,1]{10,20,30} cls=F[1]{5} "
                                         "@class=first");
    EXPECT_OUT(c, 0, 15, 21, 32, 15, 23, 34);
    drop(c);
    c = run("patch_positions", "x=F[4,1]{1,2,3,4} pos=F[3,1]{10,20,30} cls=F[1]{5} @class=last");
    EXPECT_OUT(c, 0, 11, 22, 35, 13, 24, 35);
    drop(c);
}

/* grid 4, ratio 2: the row offset in a square is slower than the column offset */
Test(patches, join_in_squares_and_come_apart_again)
{
    mri_case *c = run("shuffle_patches", "x=F[17,1]ramp @grid=4 @ratio=2 @class=last");
    EXPECT_OUT(c, 0, 0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15);
    drop(c);
    c = run("shuffle_patches", "x=F[1,4]{1,2,3,4} @grid=2 @ratio=2 @class=first @inverse=1");
    EXPECT_OUT(c, 0, 0, 1, 2, 3, 4);
    drop(c);
    c = run("shuffle_patches", "x=F[6,1]ramp @grid=1 @runs=2 @class=first");
    EXPECT_OUT(c, 0, 1, 2, 4, 5);
    drop(c);
}

/* the first pair of a head by column + 1, the second by row + 1; the class row stays */
Test(patches, turn_by_column_and_row)
{
    mri_case *c = run("rope_2d", "x=F[5,4]{1,0,1,0,1,0,1,0,1,0,1,0,1,0,1,0,1,0,1,0} @head_dim=4 "
                                 "@inv_freq=0.5 @grid=2 @class=last");
    double o = cos(0.5), p = sin(0.5), q = cos(1), r = sin(1);
    EXPECT_OUT(c, 0, o, p, o, p, q, r, o, p, o, p, q, r, q, r, q, r, 1, 0, 1, 0);
    drop(c);
}

Test(patches, take_the_place_of_rows)
{
    mri_case *c = run("merge_rows", "x=F[3,2]{1,2,3,4,5,6} features=F[2,2]{7,8,9,10} "
                                    "rows=i32[3]{1,-1,0}");
    EXPECT_OUT(c, 0, 9, 10, 3, 4, 7, 8);
    drop(c);
    c = run("merge_rows.bwd", "dy=F[4,1]{1,2,3,4} rows=i32[4]{1,-1,1,0} @features=3");
    EXPECT_OUT(c, 0, 0, 2, 0, 0);
    EXPECT_OUT(c, 1, 4, 4, 0);
    drop(c);
}

/* equal keys: each token gets the mean of its whole sequence's values */
Test(patches, attend_to_all_of_their_tile_and_to_no_other)
{
    mri_case *c = run("attention", "q=F[4,1]{1,2,3,4} k=F[4,1]{1,1,1,1} v=F[4,1]{1,3,10,20} "
                                   "seq_start=- @heads=1 @kv_heads=1 @head_dim=1 @seq=2 @packed=0 "
                                   "@causal=0");
    EXPECT_OUT(c, 0, 2, 2, 15, 15);
    drop(c);
}

Test(patches, refuse_what_cannot_be)
{
    static const char *const calls[][2] = {
        { "patchify", "pixels=F[1,3,6,6] @patch=4" },
        { "patch_positions", "x=F[5,2] pos=F[4,2]" },
        { "patch_positions", "x=F[4,2] pos=F[5,2] @class=last" },
        { "patch_positions", "x=F[4,2] pos=F[4,2] cls=F[2]" },
        { "shuffle_patches", "x=F[9,2] @grid=3 @ratio=2" },
        { "shuffle_patches", "x=F[10,2] @grid=3" },
        { "rope_2d", "x=F[4,6] @head_dim=6 @inv_freq=1,2 @grid=2" },
        { "rope_2d", "x=F[5,4] @head_dim=4 @inv_freq=1 @grid=2" },
        { "attention", "q=F[4,2] k=F[4,2] v=F[4,2] seq_start=- @heads=1 @kv_heads=1 @head_dim=2" },
        { "attention", "q=F[4,2] k=F[4,2] v=F[4,2] seq_start=i32[4]zero @heads=1 @kv_heads=1 "
                       "@head_dim=2 @seq=4 @packed=0 @causal=0" },
        { "attention", "q=F[4,2] k=F[4,2] v=F[4,2] seq_start=- @heads=1 @kv_heads=1 @head_dim=2 "
                       "@seq=4 @causal=0" },
    };
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
        mr_err err = MR_ERR_INIT;
        mri_case c;
        cr_expect_neq(mri_case_make(mri_op_find(calls[i][0]), calls[i][1], NULL, 1, &c, &err), 0,
                      "%s(%s)", calls[i][0], calls[i][1]);
    }
    mr_err err = MR_ERR_INIT;
    mri_case *c = make_case("merge_rows", "x=F[2,1] features=F[2,1] rows=i32[2]{0,2}", "f64");
    cr_expect_eq(run_case(c, "merge_rows", &err), MR_E_ARG);
    drop(c);
}
