// What matrix units do, in the instructions for it. The threads of a warp call each of these together.
#pragma once

#include <cuda_bf16.h>
#include <stdint.h>

// c += a b of 16 x 16 and 16 x 8 numbers, as the threads of a warp hold them (PTX ISA, mma.m16n8k16).
__device__ __forceinline__ void multiply_add(float *c, const uint32_t *a, const uint32_t *b) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Four 8 x 8 matrices out of shared memory: lane l names row l % 8 of matrix l / 8.
__device__ __forceinline__ void load_matrices(uint32_t *b, const __nv_bfloat16 *row) {
    const uint32_t address = (uint32_t)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(b[0]), "=r"(b[1]), "=r"(b[2]), "=r"(b[3])
                 : "r"(address));
}

// The same, each of them transposed.
__device__ __forceinline__ void load_transposed(uint32_t *b, const __nv_bfloat16 *row) {
    const uint32_t address = (uint32_t)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(b[0]), "=r"(b[1]), "=r"(b[2]), "=r"(b[3])
                 : "r"(address));
}
