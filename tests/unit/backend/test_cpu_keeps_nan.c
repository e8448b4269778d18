/* SPDX-License-Identifier: Apache-2.0
 *
 * No op of backend/cpu hides a NaN: where the reference gives NaN, it gives NaN. A run that
 * went wrong is found by that.
 */
#include "backend_nan.h"

Test(cpu_nan, is_never_lost)
{
    rig r;
    rig_cpu config = { .threads = 2, .matmul = "own" };
    rig_open(&r, "cpu", &config);
    nan_every_op(&r, "f32");
    nan_every_op(&r, "bf16");
    rig_close(&r);
}

Test(cpu_nan, is_never_lost_with_the_base_instruction_set)
{
    rig r;
    rig_cpu config = { .threads = 1, .isa = "x86-64-v2" };
    rig_open(&r, "cpu", &config);
    nan_every_op(&r, "f32");
    rig_close(&r);
}
