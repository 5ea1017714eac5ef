// Kernels with a fault each, which the emulator has to find, and some without one that look much like them. Most make what they should
// as long as threads come in the order that one expects.

constexpr int WARP = 32;

extern "C" __global__ void right(float *x) {
    __shared__ float sums[64];
    sums[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    x[threadIdx.x] = sums[threadIdx.x ^ 63];
}

extern "C" __global__ void beyond_memory(float *x) { x[threadIdx.x + 1] = 0.0f; }

extern "C" __global__ void beyond_shared_memory(float *x) {
    __shared__ float sums[64];
    sums[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    x[threadIdx.x] = sums[threadIdx.x + 1];
}

extern "C" __global__ void no_barrier_before_reading(float *x) {
    __shared__ float sums[64];
    sums[threadIdx.x] = x[threadIdx.x];
    x[threadIdx.x] = sums[threadIdx.x / 32 * 32];
}

// The first round's numbers may be written over while others still read them.
extern "C" __global__ void no_barrier_before_writing_again(float *x) {
    __shared__ float sums[64];
    for (int round = 0; round < 2; round++) {
        sums[threadIdx.x] = x[threadIdx.x];
        __syncthreads();
        x[threadIdx.x] = sums[63 - threadIdx.x];
    }
}

// A barrier of a warp is none for two warps.
extern "C" __global__ void barrier_of_a_warp_only(float *x) {
    __shared__ float sums[64];
    sums[threadIdx.x] = x[threadIdx.x];
    __syncwarp();
    x[threadIdx.x] = sums[63 - threadIdx.x];
}

extern "C" __global__ void barrier_of_a_warp(float *x) {
    __shared__ float sums[64];
    sums[threadIdx.x] = x[threadIdx.x];
    __syncwarp();
    x[threadIdx.x] = sums[threadIdx.x ^ 1];
}

// That threads exchange numbers makes nothing else seen.
extern "C" __global__ void shuffle_for_a_barrier(float *x) {
    __shared__ float sums[64];
    sums[threadIdx.x] = x[threadIdx.x];
    const float other = __shfl_xor_sync(0xffffffffu, x[threadIdx.x], 1);
    x[threadIdx.x] = sums[threadIdx.x ^ 1] + other;
}

extern "C" __global__ void matrices_without_a_barrier(float *x) {
    __shared__ __align__(16) __nv_bfloat16 rows[64][8];
    for (int i = 0; i < 8; i++) rows[threadIdx.x][i] = __float2bfloat16(x[threadIdx.x]);
    uint32_t numbers[4];
    load_matrices(numbers, rows[threadIdx.x]);
    x[threadIdx.x] = numbers[0];
}

extern "C" __global__ void no_barrier_in_room_that_is_asked_for(float *x) {
    extern __shared__ float4 room[];
    float *sums = reinterpret_cast<float *>(room);
    sums[threadIdx.x] = x[threadIdx.x];
    x[threadIdx.x] = __shfl_xor_sync(0xffffffffu, x[threadIdx.x], 1) + sums[threadIdx.x ^ 1];
}

extern "C" __global__ void written_while_two_warps_read(float *x) {
    __shared__ float sum;
    if (threadIdx.x == 0) sum = x[0];
    __syncthreads();
    x[threadIdx.x] = sum;
    if (threadIdx.x == WARP) sum = 1.0f;
}

extern "C" __global__ void shared_memory_not_written(float *x) {
    __shared__ float sums[65];
    sums[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    x[threadIdx.x] = sums[threadIdx.x + 1];
}

extern "C" __global__ void two_threads_write(float *x) { x[threadIdx.x / 2] = 1.0f; }

extern "C" __global__ void two_blocks_write(float *x) {
    if (threadIdx.x == 0) x[0] = 1.0f;
}

extern "C" __global__ void one_block_reads_what_another_writes(float *x) {
    if (threadIdx.x == 0) x[2 + blockIdx.x] = x[2 + (blockIdx.x + 1) % gridDim.x] + 1.0f;
}

// The block that comes last sums up what all have written. It may not see that if anything is missing.
__device__ void sum_up(float *x, unsigned *arrived, bool has_barrier, bool has_fence_before, bool has_fence_after) {
    __shared__ int is_last;
    x[blockIdx.x * blockDim.x + threadIdx.x] += 1.0f;
    if (has_barrier) __syncthreads();
    if (threadIdx.x == 0) {
        if (has_fence_before) __threadfence();
        is_last = atomicAdd(arrived, 1u) == gridDim.x - 1;
        if (is_last && has_fence_after) __threadfence();
    }
    __syncthreads();
    if (is_last && threadIdx.x == 0)
        for (unsigned i = 1; i < gridDim.x * blockDim.x; i++) x[0] += x[i];
}

extern "C" __global__ void fences(float *x, unsigned *arrived) { sum_up(x, arrived, true, true, true); }
extern "C" __global__ void fences_but_no_barrier(float *x, unsigned *arrived) { sum_up(x, arrived, false, true, true); }
extern "C" __global__ void no_fence_before(float *x, unsigned *arrived) { sum_up(x, arrived, true, false, true); }
extern "C" __global__ void no_fence_after(float *x, unsigned *arrived) { sum_up(x, arrived, true, true, false); }

// What a thread has written itself needs no barrier.
__device__ void sum_up_alone(float *x, unsigned *arrived, bool writes_after_the_fence) {
    if (threadIdx.x > 0) return;
    float &own = x[blockIdx.x * blockDim.x];
    own = 1.0f;
    __threadfence();
    if (writes_after_the_fence) own = 2.0f;
    if (atomicAdd(arrived, 1u) != gridDim.x - 1) return;
    __threadfence();
    for (unsigned block = 0; block < gridDim.x; block++) x[1] += x[block * blockDim.x];
}

extern "C" __global__ void fences_of_a_thread(float *x, unsigned *arrived) { sum_up_alone(x, arrived, false); }
extern "C" __global__ void writes_after_the_fence(float *x, unsigned *arrived) { sum_up_alone(x, arrived, true); }

extern "C" __global__ void count_after_zero(float *, unsigned *arrived) {
    if (threadIdx.x == 0) *arrived = 0;
    atomicAdd(arrived, 1u);
}

extern "C" __global__ void one_atomic_one_not(float *, unsigned *arrived) {
    if (threadIdx.x == 0) {
        atomicAdd(arrived, 1u);
    } else if (threadIdx.x == 1) {
        *arrived += 1;
    }
    __syncthreads();
    if (threadIdx.x == 0) *arrived = 0;
}

extern "C" __global__ void two_barriers(float *x) {
    if (threadIdx.x < WARP) {
        __syncthreads();
    } else {
        __syncthreads();
    }
    x[threadIdx.x] = 0.0f;
}

extern "C" __global__ void half_a_warp(float *x) {
    if (threadIdx.x % 2 == 0) x[threadIdx.x] = __shfl_xor_sync(0xffffffffu, x[threadIdx.x], 2);
}
