// Products of a matrix with a few rows, as decoding makes them. They are to take as long as it takes to read the matrix.
//
// Tiles of 64 outputs times slabs of 64 inputs are put one after another, tile by tile, and every block has an equal part of
// them (Stream-K, arXiv 2301.03598): all are busy to the end, whatever the shape of the matrix. A part may begin and end inside
// of a tile. The block that comes last to such a tile sums up what all of them made of it, in their order, so that the same
// product is the same to the last bit.

#include "common.cuh"

constexpr int OUTPUTS = 64, SLAB = 64, THREADS = 128;
// Of 8 numbers, which are loaded together.
constexpr int CHUNKS = SLAB / 8;

// Which block has a unit of work: block b has those from units * b / blocks on.
__device__ __forceinline__ int block_of(int unit, int units) { return (int)(((int64_t)(unit + 1) * gridDim.x - 1) / units); }
__device__ __forceinline__ int first_of(int block, int units) { return (int)((int64_t)units * block / gridDim.x); }

// y = x w^T, or y += x w^T where it adds, of x [rows, inputs] and w [outputs, inputs]; y has rows of a stride. There are up to
// 8 * TILES rows, the inputs are a multiple of 64, and no block is without work. `parts` has room for 2 * TILES * THREADS
// entries a block, `arrived` a zero for each 64 outputs, and has it again afterwards.
template <int TILES>
__device__ void multiply_few(const __nv_bfloat16 *x, const __nv_bfloat16 *w, int rows, int outputs, int inputs, float *y,
                             int stride, int adds, float4 *parts, uint32_t *arrived) {
    constexpr int STAGED = 8 * TILES * CHUNKS, OWN = (STAGED + THREADS - 1) / THREADS;
    __shared__ uint4 staged[2][STAGED];
    __shared__ int is_last;
    const int slabs = inputs / SLAB;
    const int units = slabs * ((outputs + OUTPUTS - 1) / OUTPUTS);
    const int begin = first_of(blockIdx.x, units), end = first_of(blockIdx.x + 1, units);
    const int warp = threadIdx.x / WARP, group = threadIdx.x % WARP / 4, quad = threadIdx.x % 4;

    // What the next unit needs, on its way: this thread's part of x, and of the matrix the two rows that it holds in a product,
    // four times 8 numbers. In which order inputs are summed does not matter as long as it is the same for both.
    uint4 coming[OWN], matrix[2][2];
    auto fetch = [&](int tile, int slab) {
        const int at = slab * SLAB;
#pragma unroll
        for (int i = 0; i < OWN; i++) {
            const int chunk = i * THREADS + threadIdx.x, row = chunk / CHUNKS;
            coming[i] = make_uint4(0, 0, 0, 0);
            if (chunk < STAGED && row < rows)
                coming[i] = *reinterpret_cast<const uint4 *>(x + (int64_t)row * inputs + at + chunk % CHUNKS * 8);
        }
#pragma unroll
        for (int half = 0; half < 2; half++) {
            // Beyond the last one it is read again, and not stored.
            const int row = min(tile * OUTPUTS + warp * 16 + half * 8 + group, outputs - 1);
            const uint4 *from = reinterpret_cast<const uint4 *>(w + (int64_t)row * inputs + at) + quad;
            matrix[0][half] = __ldcs(from);
            matrix[1][half] = __ldcs(from + 4);
        }
    };
    // So that the eight threads that load together find eight different places.
    auto place = [](int row, int chunk) { return row * CHUNKS + (chunk ^ row % 2 * 4); };

    float sums[TILES][4] = {};
    int tile = begin / slabs, slab = begin % slabs;
    if (begin < end) fetch(tile, slab);
    for (int unit = begin; unit < end; unit++) {
        uint4 *now = staged[(unit - begin) % 2];
#pragma unroll
        for (int i = 0; i < OWN; i++) {
            const int chunk = i * THREADS + threadIdx.x;
            if (chunk < STAGED) now[place(chunk / CHUNKS, chunk % CHUNKS)] = coming[i];
        }
        uint32_t held[2][2][4];
#pragma unroll
        for (int part = 0; part < 2; part++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const uint4 eight = matrix[part][half];
                held[part][half][0] = eight.x, held[part][half][1] = eight.y;
                held[part][half][2] = eight.z, held[part][half][3] = eight.w;
            }
        __syncthreads();
        const bool ends_tile = slab + 1 == slabs;
        const int next_tile = tile + ends_tile, next_slab = ends_tile ? 0 : slab + 1;
        if (unit + 1 < end) fetch(next_tile, next_slab);
#pragma unroll
        for (int part = 0; part < 2; part++)
#pragma unroll
            for (int i = 0; i < TILES; i++) {
                const uint4 eight = now[place(8 * i + group, 4 * part + quad)];
                const uint32_t of_x[4] = {eight.x, eight.y, eight.z, eight.w};
#pragma unroll
                for (int k = 0; k < 4; k += 2) {
                    const uint32_t of_w[4] = {held[part][0][k], held[part][1][k], held[part][0][k + 1], held[part][1][k + 1]};
                    multiply_add(sums[i], of_w, of_x + k);
                }
            }
        const int done = tile, first = done * slabs, last = first + slabs - 1;
        tile = next_tile, slab = next_slab;
        if (!ends_tile && unit + 1 < end) continue;

        // The tile is done, or this block's part of it.
        bool is_mine = true;
        if (begin > first || end <= last) {
            // A block has two such tiles at most: one that others began, and one that it begins and others go on with.
            auto part = [&](int block, int number) {
                const int slot = 2 * block + (first_of(block, units) <= first);
                return parts + ((int64_t)slot * TILES + number) * THREADS + threadIdx.x;
            };
#pragma unroll
            for (int i = 0; i < TILES; i++)
                *part(blockIdx.x, i) = make_float4(sums[i][0], sums[i][1], sums[i][2], sums[i][3]);
            __syncthreads();
            const int from = block_of(first, units), to = block_of(last, units);
            if (threadIdx.x == 0) {
                // What the block has written is there for whoever sees that it has arrived.
                __threadfence();
                is_last = atomicAdd(arrived + done, 1u) == (uint32_t)(to - from);
                if (is_last) {
                    arrived[done] = 0;
                    __threadfence();
                }
            }
            __syncthreads();
            is_mine = is_last;
            if (is_mine) {
#pragma unroll
                for (int i = 0; i < TILES; i++) sums[i][0] = sums[i][1] = sums[i][2] = sums[i][3] = 0.0f;
                for (int block = from; block <= to; block++)
#pragma unroll
                    for (int i = 0; i < TILES; i++) {
                        // Not from a cache that knows nothing of what other blocks have written.
                        const float4 more = __ldcg(part(block, i));
                        sums[i][0] += more.x, sums[i][1] += more.y, sums[i][2] += more.z, sums[i][3] += more.w;
                    }
            }
        }
#pragma unroll
        for (int i = 0; i < TILES; i++)
#pragma unroll
            for (int k = 0; k < 4; k++) {
                const int row = 8 * i + 2 * quad + k % 2;
                const int output = done * OUTPUTS + warp * 16 + group + k / 2 * 8;
                if (is_mine && row < rows && output < outputs) {
                    float *to = y + (int64_t)row * stride + output;
                    *to = sums[i][k] + (adds ? *to : 0.0f);
                }
                sums[i][k] = 0.0f;
            }
    }
}

#define FEW_ROWS(ROWS)                                                                                                           \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                                        \
        multiply_##ROWS(const __nv_bfloat16 *x, const __nv_bfloat16 *w, int rows, int outputs, int inputs, float *y, int stride, \
                        int adds, float4 *parts, uint32_t *arrived) {                                                            \
        multiply_few<ROWS / 8>(x, w, rows, outputs, inputs, y, stride, adds, parts, arrived);                                    \
    }

FEW_ROWS(8)
FEW_ROWS(16)
FEW_ROWS(32)
FEW_ROWS(64)
