// The operations of training, each with its gradient. f32 throughout.

#include "common.cuh"

extern "C" __global__ void cast_to_bf16(const float *x, __nv_bfloat16 *y, int64_t count) {
    const int64_t stride = (int64_t)blockDim.x * gridDim.x;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += stride) y[i] = __float2bfloat16(x[i]);
}
