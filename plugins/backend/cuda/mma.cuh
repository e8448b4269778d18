// SPDX-License-Identifier: Apache-2.0
//
// mma.cuh - the tensor cores' bf16 product m16n8k16, the loads that make its fragments from
// shared memory, and copies into shared memory that run beside arithmetic. In a result
// fragment lane l holds rows l / 4 and l / 4 + 8, columns l % 4 * 2 and the next one.

#ifndef MRUN_CUDA_MMA_CUH
#define MRUN_CUDA_MMA_CUH
#include "dev.cuh"

DEV void mma(float c[4], const uint32_t a[4], const uint32_t *b)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

DEV uint32_t shared_at(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

DEV void load_matrices(uint32_t r[4], const uint16_t *p)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_at(p)) : "memory");
}

DEV void load_matrices_turned(uint32_t r[4], const uint16_t *p)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_at(p)) : "memory");
}

// a: 16 rows x 16 of k, from a tile [row][k] of rows `pitch` long
DEV void fragment_a(uint32_t r[4], const uint16_t *tile, int pitch, int row, int k)
{
    int l = threadIdx.x % 32;
    load_matrices(r, tile + (row + l / 8 % 2 * 8 + l % 8) * pitch + k + l / 16 * 8);
}

// b, twice: 16 of k x columns n .. n + 7 (r[0], r[1]) and n + 8 .. n + 15, from a tile [n][k]
DEV void fragment_b(uint32_t r[4], const uint16_t *tile, int pitch, int n, int k)
{
    int l = threadIdx.x % 32;
    load_matrices(r, tile + (n + l / 16 * 8 + l % 8) * pitch + k + l / 8 % 2 * 8);
}

// the same from a tile [k][n]
DEV void fragment_b_turned(uint32_t r[4], const uint16_t *tile, int pitch, int k, int n)
{
    int l = threadIdx.x % 32;
    load_matrices_turned(r, tile + (k + l / 8 % 2 * 8 + l % 8) * pitch + n + l / 16 * 8);
}

// a from a tile [k][row]
DEV void fragment_a_turned(uint32_t r[4], const uint16_t *tile, int pitch, int k, int row)
{
    int l = threadIdx.x % 32;
    load_matrices_turned(r, tile + (k + l / 16 * 8 + l % 8) * pitch + row + l / 8 % 2 * 8);
}

DEV uint32_t pack(float low, float high)
{
    uint32_t r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
    return r;
}

// two result fragments, side by side, as one fragment a
DEV void pack_a(uint32_t a[4], const float left[4], const float right[4])
{
    a[0] = pack(left[0], left[1]);
    a[1] = pack(left[2], left[3]);
    a[2] = pack(right[0], right[1]);
    a[3] = pack(right[2], right[3]);
}

// 16 bytes into shared memory, zeros if not `there`
DEV void copy16(uint16_t *dst, const uint16_t *src, bool there)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :: "r"(shared_at(dst)), "l"(src), "r"(there ? 16 : 0) : "memory");
}

DEV void copies_end(void) // of a group
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

template <int LEFT> DEV void copies_wait(void) // until at most LEFT groups are under way
{
    asm volatile("cp.async.wait_group %0;" :: "n"(LEFT) : "memory");
}

#endif
