/* SPDX-License-Identifier: Apache-2.0
 *
 * backend/cpu agrees with the catalogue's definitions: every op and case, forward and
 * backward, f32 and bf16, for each instruction set that this machine has, with the library's
 * and with its own matrix products, on one thread and on several; equal bits when run twice.
 */
#include "backend_rig.h"

static void everywhere(rig_cpu config)
{
    rig r;
    rig_open(&r, "cpu", &config);
    rig_catalogue(&r, "f32");
    rig_catalogue(&r, "bf16");
    cr_expect_gt(r.compared, 10000);
    rig_close(&r);
}

Test(cpu, equals_the_reference)
{
    everywhere((rig_cpu){ .threads = 2 });
}

Test(cpu, equals_the_reference_on_one_thread_and_on_three)
{
    everywhere((rig_cpu){ .threads = 1, .matmul = "own" });
    everywhere((rig_cpu){ .threads = 2, .matmul = "onednn" });
}

Test(cpu, equals_the_reference_with_the_base_instruction_set)
{
    everywhere((rig_cpu){ .threads = 2, .isa = "x86-64-v2", .matmul = "own" });
}

Test(cpu, equals_the_reference_with_avx2)
{
    if (!__builtin_cpu_supports("x86-64-v3"))
        cr_skip_test("this CPU has no AVX2");
    everywhere((rig_cpu){ .threads = 2, .isa = "avx2", .matmul = "own" });
}

Test(cpu, equals_the_reference_with_avx512)
{
    if (!__builtin_cpu_supports("x86-64-v4"))
        cr_skip_test("this CPU has no AVX-512");
    everywhere((rig_cpu){ .threads = 2, .isa = "avx512", .matmul = "own" });
}
