// What the kernels share. Rows are row-major; f32 unless a template says otherwise.
#pragma once

#include <cuda_bf16.h>
#include <stdint.h>

#include "matrix_units.cuh"

constexpr int WARP = 32;
constexpr unsigned ALL = 0xffffffffu;

// How a layer attends; mirrors `Attention` on the host.
struct AttentionShape {
    int heads;
    int kv_heads;
    int head_dim;
    float scale;
    // Rows that a query sees, itself included; 0: all.
    int window;
    // 0: none.
    float softcap;
};

__device__ __forceinline__ float warp_sum(float value) {
    for (int offset = WARP / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(ALL, value, offset);
    return value;
}

__device__ __forceinline__ float warp_max(float value) {
    for (int offset = WARP / 2; offset > 0; offset /= 2) value = fmaxf(value, __shfl_xor_sync(ALL, value, offset));
    return value;
}

// The sum over a block of whole warps, in every thread. `scratch` has a number for each warp; a barrier is on both sides.
__device__ __forceinline__ float block_sum(float value, float *scratch) {
    value = warp_sum(value);
    __syncthreads();
    if (threadIdx.x % WARP == 0) scratch[threadIdx.x / WARP] = value;
    __syncthreads();
    const int warps = blockDim.x / WARP;
    value = threadIdx.x % WARP < warps ? scratch[threadIdx.x % WARP] : 0.0f;
    return warp_sum(value);
}

__device__ __forceinline__ float block_max(float value, float *scratch) {
    value = warp_max(value);
    __syncthreads();
    if (threadIdx.x % WARP == 0) scratch[threadIdx.x / WARP] = value;
    __syncthreads();
    const int warps = blockDim.x / WARP;
    value = threadIdx.x % WARP < warps ? scratch[threadIdx.x % WARP] : -INFINITY;
    return warp_max(value);
}

__device__ __forceinline__ float to_float(float value) { return value; }
__device__ __forceinline__ float to_float(__nv_bfloat16 value) { return __bfloat162float(value); }

template <typename T> __device__ __forceinline__ T from_float(float value);
template <> __device__ __forceinline__ float from_float<float>(float value) { return value; }
template <> __device__ __forceinline__ __nv_bfloat16 from_float<__nv_bfloat16>(float value) {
    return __float2bfloat16(value);
}

// silu(x), or gelu(x) by its tanh approximation.
__device__ __forceinline__ float activate(float x, bool gelu) {
    if (!gelu) return x / (1.0f + __expf(-x));
    const float inner = 0.7978845608028654f * (x + 0.044715f * x * x * x);
    return 0.5f * x * (1.0f + tanhf(inner));
}

__device__ __forceinline__ uint32_t pack(float low, float high) {
    const __nv_bfloat162 both = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<const uint32_t *>(&both);
}
