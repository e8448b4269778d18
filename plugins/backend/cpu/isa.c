/* SPDX-License-Identifier: Apache-2.0
 *
 * isa.c - the table of all kernels of one instruction set.
 */
#include "cpu.h"

#define ISA_FAMILIES(X) \
    X(linear) X(norm) X(rope) X(pointwise) X(activation) X(attention) X(embedding) X(loss) \
    X(update) X(route) X(permute) X(grouped) X(router_loss) X(paged) X(weighted) X(mla) \
    X(mla_paged) X(draw) X(patches) X(argmax) X(rows) X(ahead) X(attention_ranks)

#define DECLARE(family) extern const struct op_row ISA_NAME(family##_rows)[];
#define ROW(family) ISA_NAME(family##_rows),

ISA_FAMILIES(DECLARE)

extern const struct isa ISA_NAME(cpu_isa);
const struct isa ISA_NAME(cpu_isa) = { .name = CPU_ISA_TEXT, .rows = { ISA_FAMILIES(ROW) NULL } };
