// The operations of training, each with its gradient. f32, but for attention and joined products of matrices in bf16. There
// are no atomics: what is a sum over rows is added up by one thread, in an order that depends on the shapes alone, so that a
// pass comes out the same in every run.

#include "common.cuh"

extern "C" __global__ void cast_to_bf16(const float *x, __nv_bfloat16 *y, int64_t count) {
    const int64_t stride = (int64_t)blockDim.x * gridDim.x;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += stride) y[i] = __float2bfloat16(x[i]);
}

// ---- Factors of one product in bf16 that has a low-rank product added to it: both matrices go on with the low-rank
// factors. Those keep what f32 has of them by being sums of two numbers each, of whose four products the smallest is left
// out: (h + l) (H + L) is h H + l H + h L. So the first matrix goes on with h, l, h and the second with H, H, L.

// Part `part` of three of a number.
__device__ __forceinline__ __nv_bfloat16 part_of(float value, int part, bool of_second) {
    const __nv_bfloat16 high = __float2bfloat16(value);
    return part == (of_second ? 2 : 1) ? __float2bfloat16(value - __bfloat162float(high)) : high;
}

// Rows of `width` numbers that go on with `rank` others in their three parts. A block a row.
template <typename T>
__device__ __forceinline__ void join_columns(
    const T *matrix, const float *low, __nv_bfloat16 *to, int width, int rank, int of_second) {
    const int64_t row = blockIdx.x;
    matrix += row * width;
    low += row * rank;
    to += row * (width + 3 * rank);
    for (int i = threadIdx.x; i < width; i += blockDim.x) to[i] = from_float<__nv_bfloat16>(to_float(matrix[i]));
    for (int i = threadIdx.x; i < 3 * rank; i += blockDim.x) to[width + i] = part_of(low[i % rank], i / rank, of_second);
}

extern "C" __global__ void join_columns_f32(
    const float *matrix, const float *low, __nv_bfloat16 *to, int width, int rank, int of_second) {
    join_columns<float>(matrix, low, to, width, rank, of_second);
}

extern "C" __global__ void join_columns_bf16(
    const __nv_bfloat16 *matrix, const float *low, __nv_bfloat16 *to, int width, int rank, int of_second) {
    join_columns<__nv_bfloat16>(matrix, low, to, width, rank, of_second);
}

// A second matrix of `count` numbers that goes on with the rows of another of `low_count` numbers in their three parts.
extern "C" __global__ void join_rows(
    const __nv_bfloat16 *matrix, const float *low, __nv_bfloat16 *to, int64_t count, int64_t low_count) {
    const int64_t stride = (int64_t)blockDim.x * gridDim.x, end = count + 3 * low_count;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < end; i += stride) {
        const int64_t rest = i - count;
        to[i] = rest < 0 ? matrix[i] : part_of(low[rest % low_count], (int)(rest / low_count), true);
    }
}

// ---- Gradients of low-rank adapters: sums over all rows of the products of `rank` numbers with `width` others.

constexpr int OUTER_THREADS = 128;
// Numbers of the first kind that a thread multiplies its one of the second with.
constexpr int OUTER_RANK = 16;
// Rows whose numbers of the first kind are in shared memory, and those whose numbers of the second are read together.
constexpr int OUTER_ROWS = 32;
constexpr int OUTER_TOGETHER = 8;

// The sums over each `rows_of_part` rows: parts [part, rank, width]. A block has OUTER_RANK by OUTER_THREADS of them (x) of
// one part (y).
extern "C" __global__ __launch_bounds__(OUTER_THREADS) void outer_parts(
    const float *low, const float *x, float *parts, int rows, int rank, int width, int rows_of_part) {
    __shared__ __align__(16) float staged[OUTER_ROWS][OUTER_RANK];
    const int blocks = (width + OUTER_THREADS - 1) / OUTER_THREADS;
    const int column = blockIdx.x % blocks * OUTER_THREADS + threadIdx.x;
    const int first_rank = blockIdx.x / blocks * OUTER_RANK;
    const int begin = blockIdx.y * rows_of_part, end = min(rows, begin + rows_of_part);
    float sums[OUTER_RANK];
#pragma unroll
    for (int r = 0; r < OUTER_RANK; r++) sums[r] = 0.0f;
    for (int first = begin; first < end; first += OUTER_ROWS) {
        __syncthreads();
        for (int i = threadIdx.x; i < OUTER_ROWS * OUTER_RANK; i += OUTER_THREADS) {
            const int row = first + i / OUTER_RANK, r = first_rank + i % OUTER_RANK;
            staged[i / OUTER_RANK][i % OUTER_RANK] = row < end && r < rank ? low[(int64_t)row * rank + r] : 0.0f;
        }
        __syncthreads();
        if (column >= width) continue;
#pragma unroll
        for (int some = 0; some < OUTER_ROWS; some += OUTER_TOGETHER) {
            float values[OUTER_TOGETHER];
#pragma unroll
            for (int i = 0; i < OUTER_TOGETHER; i++) {
                const int row = first + some + i;
                values[i] = row < end ? x[(int64_t)row * width + column] : 0.0f;
            }
#pragma unroll
            for (int i = 0; i < OUTER_TOGETHER; i++) {
#pragma unroll
                for (int r = 0; r < OUTER_RANK; r++) sums[r] = fmaf(staged[some + i][r], values[i], sums[r]);
            }
        }
    }
    if (column >= width) return;
#pragma unroll
    for (int r = 0; r < OUTER_RANK; r++) {
        if (first_rank + r >= rank) break;
        parts[((int64_t)blockIdx.y * rank + first_rank + r) * width + column] = sums[r];
    }
}

// Adds the parts: [rank, width], or [width, rank] where `transposed`. A thread for each number.
extern "C" __global__ void add_outer_parts(
    const float *parts, float *to, int part_count, int rank, int width, int transposed) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x, size = rank * width;
    if (i >= size) return;
    float sum = 0.0f;
    for (int part = 0; part < part_count; part++) sum += parts[(int64_t)part * size + i];
    to[transposed ? i % width * rank + i / width : i] = sum;
}

// ---- Norms, gates, rotations. `y` and `x` may not be the same memory.

// A block for each part of `width` numbers: y = x * weight / sqrt(mean(x^2) + eps).
extern "C" __global__ void rms_norm(const float *x, const float *weight, float *y, int width, float eps) {
    __shared__ float scratch[WARP];
    x += (int64_t)blockIdx.x * width;
    y += (int64_t)blockIdx.x * width;
    float squares = 0.0f;
    for (int i = threadIdx.x; i < width; i += blockDim.x) squares += x[i] * x[i];
    const float inverse = 1.0f / sqrtf(block_sum(squares, scratch) / width + eps);
    for (int i = threadIdx.x; i < width; i += blockDim.x) y[i] = x[i] * inverse * weight[i];
}

// Its gradient for x: with u = grad * weight and r = 1 / rms, r * (u - x * r^2 * mean(u x)).
extern "C" __global__ void rms_norm_backward(
    const float *x, const float *weight, const float *grad, float *d_x, int width, float eps) {
    __shared__ float scratch[WARP];
    x += (int64_t)blockIdx.x * width;
    grad += (int64_t)blockIdx.x * width;
    d_x += (int64_t)blockIdx.x * width;
    float squares = 0.0f, along = 0.0f;
    for (int i = threadIdx.x; i < width; i += blockDim.x) {
        squares += x[i] * x[i];
        along += grad[i] * weight[i] * x[i];
    }
    const float inverse = 1.0f / sqrtf(block_sum(squares, scratch) / width + eps);
    const float projection = block_sum(along, scratch) * inverse * inverse / width;
    for (int i = threadIdx.x; i < width; i += blockDim.x) {
        d_x[i] = inverse * (grad[i] * weight[i] - x[i] * projection);
    }
}

// What a gate g goes through is g * sigmoid(z(g)), see `Activation` on the host. Gives sigmoid(z) and dz/dg.
__device__ __forceinline__ float gate_sigmoid(float g, int gelu, float &slope) {
    float z = g;
    slope = 1.0f;
    if (gelu) {
        // 2 * sqrt(2 / pi).
        const float factor = 1.5957691216057308f, square = 0.044715f * g * g;
        z = factor * (g + square * g);
        slope = factor * (1.0f + 3.0f * square);
    }
    return 1.0f / (1.0f + expf(-z));
}

extern "C" __global__ void gated(const float *gate, const float *up, float *y, int64_t count, int gelu) {
    const int64_t stride = (int64_t)blockDim.x * gridDim.x;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += stride) {
        float slope;
        y[i] = gate[i] * gate_sigmoid(gate[i], gelu, slope) * up[i];
    }
}

extern "C" __global__ void gated_backward(
    const float *gate, const float *up, const float *grad, float *d_gate, float *d_up, int64_t count, int gelu) {
    const int64_t stride = (int64_t)blockDim.x * gridDim.x;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += stride) {
        float slope;
        const float g = gate[i], sigmoid = gate_sigmoid(g, gelu, slope);
        d_gate[i] = grad[i] * up[i] * sigmoid * (1.0f + g * slope * (1.0f - sigmoid));
        d_up[i] = grad[i] * g * sigmoid;
    }
}

// Turns each head's pairs (x[i], x[i + half]) of rows of `width` by the row's angles; `direction` -1 turns back. A thread
// for each of the `count` pairs of all rows.
extern "C" __global__ void rope(
    const float *x, const float *cosines, const float *sines, float *y, int64_t count, int width, int half,
    float direction) {
    const int64_t stride = (int64_t)blockDim.x * gridDim.x;
    for (int64_t pair = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; pair < count; pair += stride) {
        const int64_t row = pair / (width / 2);
        const int in_row = pair % (width / 2), head = in_row / half, i = in_row % half;
        const int64_t low = row * width + (int64_t)head * 2 * half + i, high = low + half;
        const float c = cosines[row * half + i], s = sines[row * half + i] * direction;
        y[low] = x[low] * c - x[high] * s;
        y[high] = x[high] * c + x[low] * s;
    }
}

// ---- Attention of rows over the rows of their paths.
//
// A block of 16 x 16 threads keeps 64 rows (`kept`) in shared memory and visits others N at a time (`visited`). Thread
// (ty, tx) has the kept rows 4 ty to 4 ty + 3. Of products of kept and visited rows it has the visited rows tx, tx + 16
// and so on; of sums of weighted visited rows it has the numbers 4 tx to 4 tx + 3 of every 64. So what is known of a kept
// row is with the 16 lanes of half a warp.
//
// Rows in shared memory are filled up to D numbers with zeros. They are D + 4 apart, so that the rows which a warp reads
// at once lie in other banks.

constexpr int KEPT = 64;
constexpr int SIDE = 16;
constexpr int OWN = KEPT / SIDE;
constexpr int THREADS = SIDE * SIDE;

template <int D> constexpr int STRIDE = D + 4;
template <int N> constexpr int WEIGHTS_STRIDE = N + 4;

// Brings `COUNT` rows of `dim` numbers into shared memory. `row(i)` says where row i is; null for none.
template <int D, int COUNT, typename Row> __device__ __forceinline__ void bring(float *to, int dim, Row row) {
    constexpr int PARTS = D / 4;
    for (int i = threadIdx.x; i < COUNT * PARTS; i += THREADS) {
        const int index = i / PARTS, column = i % PARTS * 4;
        const float *from = row(index);
        float4 part = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        if (from != nullptr && column < dim) part = *reinterpret_cast<const float4 *>(from + column);
        *reinterpret_cast<float4 *>(to + index * STRIDE<D> + column) = part;
    }
}

// The products of this thread's kept and visited rows.
template <int D, int N>
__device__ __forceinline__ void multiply(const float *kept, const float *visited, float (&products)[OWN][N / SIDE]) {
    const int tx = threadIdx.x % SIDE, ty = threadIdx.x / SIDE;
#pragma unroll
    for (int i = 0; i < OWN; i++)
#pragma unroll
        for (int j = 0; j < N / SIDE; j++) products[i][j] = 0.0f;
#pragma unroll 4
    for (int d = 0; d < D; d += 4) {
        float4 a[OWN], b[N / SIDE];
#pragma unroll
        for (int i = 0; i < OWN; i++) a[i] = *reinterpret_cast<const float4 *>(kept + (ty * OWN + i) * STRIDE<D> + d);
#pragma unroll
        for (int j = 0; j < N / SIDE; j++)
            b[j] = *reinterpret_cast<const float4 *>(visited + (tx + j * SIDE) * STRIDE<D> + d);
#pragma unroll
        for (int i = 0; i < OWN; i++)
#pragma unroll
            for (int j = 0; j < N / SIDE; j++) {
                products[i][j] = fmaf(a[i].x, b[j].x, products[i][j]);
                products[i][j] = fmaf(a[i].y, b[j].y, products[i][j]);
                products[i][j] = fmaf(a[i].z, b[j].z, products[i][j]);
                products[i][j] = fmaf(a[i].w, b[j].w, products[i][j]);
            }
    }
}

// Leaves a weight of each of this thread's kept and visited rows where its half of the warp finds it.
template <int N> __device__ __forceinline__ void leave(float *weights, const float (&own)[OWN][N / SIDE]) {
    const int tx = threadIdx.x % SIDE, ty = threadIdx.x / SIDE;
#pragma unroll
    for (int i = 0; i < OWN; i++)
#pragma unroll
        for (int j = 0; j < N / SIDE; j++) weights[(ty * OWN + i) * WEIGHTS_STRIDE<N> + tx + j * SIDE] = own[i][j];
}

// Adds the visited rows by their weights to the sums of this thread's kept rows.
template <int D, int N>
__device__ __forceinline__ void add_weighted(
    const float *weights, const float *visited, float4 (&sums)[OWN][D / 64]) {
    const int tx = threadIdx.x % SIDE, ty = threadIdx.x / SIDE;
#pragma unroll 2
    for (int n = 0; n < N; n += 4) {
        float by[OWN][4];
#pragma unroll
        for (int i = 0; i < OWN; i++) {
            const float4 four = *reinterpret_cast<const float4 *>(weights + (ty * OWN + i) * WEIGHTS_STRIDE<N> + n);
            by[i][0] = four.x, by[i][1] = four.y, by[i][2] = four.z, by[i][3] = four.w;
        }
#pragma unroll
        for (int k = 0; k < 4; k++)
#pragma unroll
            for (int part = 0; part < D / 64; part++) {
                const float4 row =
                    *reinterpret_cast<const float4 *>(visited + (n + k) * STRIDE<D> + part * 64 + tx * 4);
#pragma unroll
                for (int i = 0; i < OWN; i++) {
                    sums[i][part].x = fmaf(by[i][k], row.x, sums[i][part].x);
                    sums[i][part].y = fmaf(by[i][k], row.y, sums[i][part].y);
                    sums[i][part].z = fmaf(by[i][k], row.z, sums[i][part].z);
                    sums[i][part].w = fmaf(by[i][k], row.w, sums[i][part].w);
                }
            }
    }
}

template <int D> __device__ __forceinline__ void clear(float4 (&sums)[OWN][D / 64]) {
#pragma unroll
    for (int i = 0; i < OWN; i++)
#pragma unroll
        for (int part = 0; part < D / 64; part++) sums[i][part] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
}

// Writes the sums of one kept row, times `by`.
template <int D> __device__ __forceinline__ void write_row(float *to, int dim, const float4 (&sums)[D / 64], float by) {
    const int tx = threadIdx.x % SIDE;
#pragma unroll
    for (int part = 0; part < D / 64; part++) {
        const int column = part * 64 + tx * 4;
        if (column < dim) {
            const float4 sum = sums[part];
            *reinterpret_cast<float4 *>(to + column) = make_float4(sum.x * by, sum.y * by, sum.z * by, sum.w * by);
        }
    }
}

// Over the half of a warp that has the same kept rows.
__device__ __forceinline__ float side_sum(float value) {
#pragma unroll
    for (int offset = SIDE / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(ALL, value, offset);
    return value;
}

__device__ __forceinline__ float side_max(float value) {
#pragma unroll
    for (int offset = SIDE / 2; offset > 0; offset /= 2) value = fmaxf(value, __shfl_xor_sync(ALL, value, offset));
    return value;
}

__device__ __forceinline__ float score_of(float product, const AttentionShape &shape) {
    const float score = product * shape.scale;
    return shape.softcap > 0.0f ? shape.softcap * tanhf(score / shape.softcap) : score;
}

// The derivative of a score for the product of query and key.
__device__ __forceinline__ float slope_of(float score, const AttentionShape &shape) {
    if (shape.softcap <= 0.0f) return shape.scale;
    const float share = score / shape.softcap;
    return shape.scale * (1.0f - share * share);
}

// Whether a query whose path has `length` rows sees the row at this place of it.
__device__ __forceinline__ bool sees(int length, int place, const AttentionShape &shape) {
    return place < length && (shape.window == 0 || place >= length - shape.window);
}

// The heads of consecutive queries that share a key head, as the rows of a block: row i is head `i % group` of query
// `first + i / group`.
struct QueryHeads {
    int first;
    int count;
    int group;
    int kv_head;
    int heads;

    __device__ __forceinline__ int query(int row) const { return first + row / group; }
    // The number of the head among those of all queries.
    __device__ __forceinline__ int64_t head(int row) const {
        return (int64_t)query(row) * heads + kv_head * group + row % group;
    }
};

// What the kernels of attention are given: `paths` has the rows of all paths, `spans` where the path of each query begins
// in it and how long it is, `tiles` the first and the number of consecutive queries whose paths begin at the same place,
// each as long as the one before or longer. There is a block for each tile (x) and key head (y).
template <int D, int N>
__device__ __forceinline__ void attention_forward(
    const float *q, const float *k, const float *v, const uint32_t *paths, const uint2 *spans, const uint2 *tiles,
    float *out, float *log_sums, const AttentionShape &shape) {
    extern __shared__ float4 room[];
    float *queries = reinterpret_cast<float *>(room);
    float *rows = queries + KEPT * STRIDE<D>;
    float *weights = rows + N * STRIDE<D>;
    const int tx = threadIdx.x % SIDE, ty = threadIdx.x / SIDE, dim = shape.head_dim;
    const uint2 tile = tiles[blockIdx.x];
    const int group = shape.heads / shape.kv_heads, kv_head = blockIdx.y;
    const QueryHeads of = {(int)tile.x, (int)tile.y * group, group, kv_head, shape.heads};
    const uint2 shortest = spans[tile.x], longest = spans[tile.x + tile.y - 1];
    const uint32_t *path = paths + shortest.x;
    const int end = longest.y;
    const int start = shape.window == 0 ? 0 : max(0, (int)shortest.y - shape.window);

    bring<D, KEPT>(queries, dim, [&](int row) { return row < of.count ? q + of.head(row) * dim : nullptr; });
    float tops[OWN], totals[OWN];
    int lengths[OWN];
    float4 sums[OWN][D / 64];
    clear<D>(sums);
#pragma unroll
    for (int i = 0; i < OWN; i++) {
        const int row = ty * OWN + i;
        tops[i] = -INFINITY;
        totals[i] = 0.0f;
        lengths[i] = row < of.count ? (int)spans[of.query(row)].y : 0;
    }
    for (int first = start; first < end; first += N) {
        const auto at = [&](const float *values) {
            return [=](int index) -> const float * {
                const int place = first + index;
                return place < end ? values + ((int64_t)path[place] * shape.kv_heads + kv_head) * dim : nullptr;
            };
        };
        __syncthreads();
        bring<D, N>(rows, dim, at(k));
        __syncthreads();
        float scores[OWN][N / SIDE];
        multiply<D, N>(queries, rows, scores);
#pragma unroll
        for (int i = 0; i < OWN; i++) {
            float top = tops[i];
#pragma unroll
            for (int j = 0; j < N / SIDE; j++) {
                const bool seen = sees(lengths[i], first + tx + j * SIDE, shape);
                scores[i][j] = seen ? score_of(scores[i][j], shape) : -INFINITY;
                top = fmaxf(top, scores[i][j]);
            }
            top = side_max(top);
            // While a query has seen nothing, all its weights are exp(-inf).
            const float shift = top == -INFINITY ? 0.0f : top;
            const float factor = expf(tops[i] - shift);
            float total = 0.0f;
#pragma unroll
            for (int j = 0; j < N / SIDE; j++) {
                scores[i][j] = expf(scores[i][j] - shift);
                total += scores[i][j];
            }
            totals[i] = totals[i] * factor + side_sum(total);
            tops[i] = top;
#pragma unroll
            for (int part = 0; part < D / 64; part++) {
                sums[i][part].x *= factor;
                sums[i][part].y *= factor;
                sums[i][part].z *= factor;
                sums[i][part].w *= factor;
            }
        }
        leave<N>(weights, scores);
        __syncthreads();
        bring<D, N>(rows, dim, at(v));
        __syncthreads();
        add_weighted<D, N>(weights, rows, sums);
    }
#pragma unroll
    for (int i = 0; i < OWN; i++) {
        const int row = ty * OWN + i;
        if (row >= of.count) continue;
        write_row<D>(out + of.head(row) * dim, dim, sums[i], totals[i] > 0.0f ? 1.0f / totals[i] : 0.0f);
        if (tx == 0) log_sums[of.head(row)] = tops[i] + logf(totals[i]);
    }
}

// Of each head of each query, the product of the gradient and the result. A warp each, of `count`.
extern "C" __global__ void attention_means(const float *grad, const float *out, float *means, int64_t count, int dim) {
    const int64_t head = (int64_t)blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
    if (head >= count) return;
    float sum = 0.0f;
    for (int i = threadIdx.x % WARP; i < dim; i += WARP) sum += grad[head * dim + i] * out[head * dim + i];
    sum = warp_sum(sum);
    if (threadIdx.x % WARP == 0) means[head] = sum;
}

// With weights p = softmax(s) and dp = grad v, ds = p (dp - mean), where the mean is that of `attention_means`. Scores and
// weights are computed again. Turns scores into weights, and products of gradient and value into derivatives of the
// products of query and key.
__device__ __forceinline__ void derive(
    float &score, float &derivative, bool seen, float log_sum, float mean, const AttentionShape &shape) {
    const float s = score_of(score, shape);
    score = seen ? expf(s - log_sum) : 0.0f;
    derivative = seen ? score * (derivative - mean) * slope_of(s, shape) : 0.0f;
}

// d_q, by blocks as in `attention_forward`.
template <int D, int N>
__device__ __forceinline__ void attention_backward_q(
    const float *q, const float *k, const float *v, const float *grad, const uint32_t *paths, const uint2 *spans,
    const uint2 *tiles, const float *log_sums, const float *means, float *d_q, const AttentionShape &shape) {
    extern __shared__ float4 room[];
    float *queries = reinterpret_cast<float *>(room);
    float *grads = queries + KEPT * STRIDE<D>;
    float *keys = grads + KEPT * STRIDE<D>;
    float *values = keys + N * STRIDE<D>;
    float *weights = values + N * STRIDE<D>;
    const int tx = threadIdx.x % SIDE, ty = threadIdx.x / SIDE, dim = shape.head_dim;
    const uint2 tile = tiles[blockIdx.x];
    const int group = shape.heads / shape.kv_heads, kv_head = blockIdx.y;
    const QueryHeads of = {(int)tile.x, (int)tile.y * group, group, kv_head, shape.heads};
    const uint2 shortest = spans[tile.x], longest = spans[tile.x + tile.y - 1];
    const uint32_t *path = paths + shortest.x;
    const int end = longest.y;
    const int start = shape.window == 0 ? 0 : max(0, (int)shortest.y - shape.window);

    bring<D, KEPT>(queries, dim, [&](int row) { return row < of.count ? q + of.head(row) * dim : nullptr; });
    bring<D, KEPT>(grads, dim, [&](int row) { return row < of.count ? grad + of.head(row) * dim : nullptr; });
    float log_sum[OWN], mean[OWN];
    int lengths[OWN];
    float4 sums[OWN][D / 64];
    clear<D>(sums);
#pragma unroll
    for (int i = 0; i < OWN; i++) {
        const int row = ty * OWN + i;
        lengths[i] = row < of.count ? (int)spans[of.query(row)].y : 0;
        log_sum[i] = row < of.count ? log_sums[of.head(row)] : 0.0f;
        mean[i] = row < of.count ? means[of.head(row)] : 0.0f;
    }
    for (int first = start; first < end; first += N) {
        const auto at = [&](const float *of_rows) {
            return [=](int index) -> const float * {
                const int place = first + index;
                return place < end ? of_rows + ((int64_t)path[place] * shape.kv_heads + kv_head) * dim : nullptr;
            };
        };
        __syncthreads();
        bring<D, N>(keys, dim, at(k));
        bring<D, N>(values, dim, at(v));
        __syncthreads();
        float scores[OWN][N / SIDE], derivatives[OWN][N / SIDE];
        multiply<D, N>(queries, keys, scores);
        multiply<D, N>(grads, values, derivatives);
#pragma unroll
        for (int i = 0; i < OWN; i++)
#pragma unroll
            for (int j = 0; j < N / SIDE; j++) {
                const bool seen = sees(lengths[i], first + tx + j * SIDE, shape);
                derive(scores[i][j], derivatives[i][j], seen, log_sum[i], mean[i], shape);
            }
        leave<N>(weights, derivatives);
        __syncwarp();
        add_weighted<D, N>(weights, keys, sums);
    }
#pragma unroll
    for (int i = 0; i < OWN; i++) {
        const int row = ty * OWN + i;
        if (row < of.count) write_row<D>(d_q + of.head(row) * dim, dim, sums[i], 1.0f);
    }
}

// By which queries a row is seen, if no window is in the way: from `first` to before `end`, in all of whose paths it is at
// `place`.
struct Seen {
    uint32_t first;
    uint32_t end;
    uint32_t place;
};

// d_k and d_v: a block for KEPT consecutive rows (x) and a key head (y). `tiles` has the first and the last query but one
// that any row of each block is seen by.
template <int D, int N>
__device__ __forceinline__ void attention_backward_kv(
    const float *q, const float *k, const float *v, const float *grad, const Seen *seen, const uint2 *spans,
    const uint2 *tiles, const float *log_sums, const float *means, float *d_k, float *d_v, int count,
    const AttentionShape &shape) {
    extern __shared__ float4 room[];
    float *keys = reinterpret_cast<float *>(room);
    float *values = keys + KEPT * STRIDE<D>;
    float *queries = values + KEPT * STRIDE<D>;
    float *grads = queries + N * STRIDE<D>;
    float *by_grad = grads + N * STRIDE<D>;
    float *by_query = by_grad + KEPT * WEIGHTS_STRIDE<N>;
    const int tx = threadIdx.x % SIDE, ty = threadIdx.x / SIDE, dim = shape.head_dim;
    const int first_row = blockIdx.x * KEPT, kv_head = blockIdx.y, group = shape.heads / shape.kv_heads;
    const uint2 tile = tiles[blockIdx.x];
    const QueryHeads of = {(int)tile.x, (int)(tile.y - tile.x) * group, group, kv_head, shape.heads};

    const auto at = [&](const float *of_rows) {
        return [=](int index) -> const float * {
            const int row = first_row + index;
            return row < count ? of_rows + ((int64_t)row * shape.kv_heads + kv_head) * dim : nullptr;
        };
    };
    bring<D, KEPT>(keys, dim, at(k));
    bring<D, KEPT>(values, dim, at(v));
    Seen by[OWN];
    float4 k_sums[OWN][D / 64], v_sums[OWN][D / 64];
    clear<D>(k_sums);
    clear<D>(v_sums);
#pragma unroll
    for (int i = 0; i < OWN; i++) {
        const int row = first_row + ty * OWN + i;
        by[i] = row < count ? seen[row] : Seen{0, 0, 0};
    }
    for (int first = 0; first < of.count; first += N) {
        bool visible[OWN][N / SIDE];
        int any = 0;
#pragma unroll
        for (int j = 0; j < N / SIDE; j++) {
            const int head = first + tx + j * SIDE;
            const uint32_t query = head < of.count ? of.query(head) : 0xffffffffu;
            const int length = head < of.count ? (int)spans[query].y : 0;
#pragma unroll
            for (int i = 0; i < OWN; i++) {
                visible[i][j] = query >= by[i].first && query < by[i].end && sees(length, by[i].place, shape);
                any |= visible[i][j];
            }
        }
        // The barrier also keeps what is visited until all are done with it.
        if (!__syncthreads_or(any)) continue;
        const auto head_at = [&](const float *of_heads) {
            return [=](int index) -> const float * {
                const int head = first + index;
                return head < of.count ? of_heads + of.head(head) * dim : nullptr;
            };
        };
        bring<D, N>(queries, dim, head_at(q));
        bring<D, N>(grads, dim, head_at(grad));
        __syncthreads();
        float weights[OWN][N / SIDE], derivatives[OWN][N / SIDE];
        multiply<D, N>(keys, queries, weights);
        multiply<D, N>(values, grads, derivatives);
#pragma unroll
        for (int j = 0; j < N / SIDE; j++) {
            const int head = first + tx + j * SIDE;
            const float log_sum = head < of.count ? log_sums[of.head(head)] : 0.0f;
            const float mean = head < of.count ? means[of.head(head)] : 0.0f;
#pragma unroll
            for (int i = 0; i < OWN; i++) {
                derive(weights[i][j], derivatives[i][j], visible[i][j], log_sum, mean, shape);
            }
        }
        leave<N>(by_grad, weights);
        leave<N>(by_query, derivatives);
        __syncwarp();
        add_weighted<D, N>(by_grad, grads, v_sums);
        add_weighted<D, N>(by_query, queries, k_sums);
    }
#pragma unroll
    for (int i = 0; i < OWN; i++) {
        const int row = first_row + ty * OWN + i;
        if (row >= count) continue;
        write_row<D>(d_k + ((int64_t)row * shape.kv_heads + kv_head) * dim, dim, k_sums[i], 1.0f);
        write_row<D>(d_v + ((int64_t)row * shape.kv_heads + kv_head) * dim, dim, v_sums[i], 1.0f);
    }
}

// ---- The same attention on matrix units: what is multiplied is bf16, its sums are f32 (after FlashAttention-2, arXiv
// 2307.08691).
//
// A block of four warps keeps TILE rows, 16 a warp, in registers as first factors of products, and visits others TILE at a
// time in shared memory. Of products of kept and visited rows a thread has, of every eight visited ones, two (`pair` and
// the next) with each of its two kept ones (`quad` and `quad + 8` of the warp's): numbers 0 and 1 are those of the first,
// 2 and 3 those of the second. Sums of weighted visited rows lie the same way, with numbers of a head in place of visited
// rows.

constexpr int TILE = 64;
constexpr int TILE_THREADS = 128;
constexpr float LOWEST = -1e30f;

// Rows in shared memory are so far apart that eight of them lie in other banks.
template <int D> constexpr int TILE_STRIDE = D + 8;
// Visited rows that the backward pass multiplies at a time, so that everything stays in registers.
template <int D> constexpr int STEP = D == 64 ? 32 : 16;

struct Lane {
    int warp;
    int lane;
    int quad;
    int pair;

    __device__ __forceinline__ Lane()
        : warp(threadIdx.x / WARP), lane(threadIdx.x % WARP), quad(lane / 4), pair(lane % 4 * 2) {}
    // The kept row of the block that this thread has as its first or second.
    __device__ __forceinline__ int kept(int half) const { return warp * 16 + quad + half * 8; }
};

// Brings TILE rows into shared memory. `row(i)` says where row i is; null for none.
template <int D, typename Row> __device__ __forceinline__ void bring_tile(__nv_bfloat16 *to, Row row) {
    constexpr int PARTS = D / 8;
#pragma unroll
    for (int i = threadIdx.x; i < TILE * PARTS; i += TILE_THREADS) {
        const int index = i / PARTS, column = i % PARTS * 8;
        const __nv_bfloat16 *from = row(index);
        uint4 part = make_uint4(0, 0, 0, 0);
        if (from != nullptr) part = *reinterpret_cast<const uint4 *>(from + column);
        *reinterpret_cast<uint4 *>(to + index * TILE_STRIDE<D> + column) = part;
    }
}

// This warp's kept rows as a first factor.
template <int D, typename Row> __device__ __forceinline__ void keep_rows(uint32_t (&kept)[D / 16][4], const Lane &lane, Row row) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const __nv_bfloat16 *from = row(lane.kept(half));
#pragma unroll
        for (int part = 0; part < D / 16; part++) {
            const __nv_bfloat16 *at = from + part * 16 + lane.pair;
            kept[part][half] = from != nullptr ? *reinterpret_cast<const uint32_t *>(at) : 0;
            kept[part][half + 2] = from != nullptr ? *reinterpret_cast<const uint32_t *>(at + 8) : 0;
        }
    }
}

// The products of this warp's kept rows with N visited ones.
template <int D, int N>
__device__ __forceinline__ void multiply_tile(
    float (&products)[N / 8][4], const uint32_t (&kept)[D / 16][4], const __nv_bfloat16 *visited, const Lane &lane) {
    const __nv_bfloat16 *row = visited + lane.lane % 8 * TILE_STRIDE<D> + lane.lane / 8 * 8;
#pragma unroll
    for (int column = 0; column < N / 8; column++) {
#pragma unroll
        for (int i = 0; i < 4; i++) products[column][i] = 0.0f;
    }
#pragma unroll
    for (int part = 0; part < D / 16; part += 2) {
#pragma unroll
        for (int column = 0; column < N / 8; column++) {
            uint32_t b[4];
            load_matrices(b, row + column * 8 * TILE_STRIDE<D> + part * 16);
            multiply_add(products[column], kept[part], b);
            multiply_add(products[column], kept[part + 1], b + 2);
        }
    }
}

// Adds N visited rows by their weights to the sums of this warp's kept rows.
template <int D, int N>
__device__ __forceinline__ void add_tile(
    float (&sums)[D / 8][4], const float (&weights)[N / 8][4], const __nv_bfloat16 *visited, const Lane &lane) {
    const __nv_bfloat16 *row = visited + lane.lane % 16 * TILE_STRIDE<D> + lane.lane / 16 * 8;
#pragma unroll
    for (int step = 0; step < N / 16; step++) {
        const float *low = weights[2 * step], *high = weights[2 * step + 1];
        const uint32_t a[4] = {pack(low[0], low[1]), pack(low[2], low[3]), pack(high[0], high[1]), pack(high[2], high[3])};
#pragma unroll
        for (int part = 0; part < D / 8; part += 2) {
            uint32_t b[4];
            load_transposed(b, row + step * 16 * TILE_STRIDE<D> + part * 8);
            multiply_add(sums[part], a, b);
            multiply_add(sums[part + 1], a, b + 2);
        }
    }
}

template <int D> __device__ __forceinline__ void clear_tile(float (&sums)[D / 8][4]) {
#pragma unroll
    for (int part = 0; part < D / 8; part++) {
#pragma unroll
        for (int i = 0; i < 4; i++) sums[part][i] = 0.0f;
    }
}

// Writes the sums of this thread's first or second kept row, times `by`.
template <int D>
__device__ __forceinline__ void write_kept(float *to, const float (&sums)[D / 8][4], int half, float by, const Lane &lane) {
#pragma unroll
    for (int part = 0; part < D / 8; part++) {
        const float2 both = make_float2(sums[part][2 * half] * by, sums[part][2 * half + 1] * by);
        *reinterpret_cast<float2 *>(to + part * 8 + lane.pair) = both;
    }
}

// The path that the queries of a block share, and the part of it that any of them sees.
struct TilePath {
    QueryHeads of;
    const uint32_t *rows;
    int shortest;
    int start;
    int end;

    __device__ __forceinline__ TilePath(
        const uint32_t *paths, const uint2 *spans, const uint2 *tiles, const AttentionShape &shape) {
        const uint2 tile = tiles[blockIdx.x];
        const int group = shape.heads / shape.kv_heads;
        of = {(int)tile.x, (int)tile.y * group, group, (int)blockIdx.y, shape.heads};
        const uint2 first = spans[tile.x], last = spans[tile.x + tile.y - 1];
        rows = paths + first.x;
        shortest = first.y;
        end = last.y;
        start = shape.window == 0 ? 0 : max(0, shortest - shape.window);
    }
    // Whether all queries see the TILE rows from this place on.
    __device__ __forceinline__ bool all_see(int first, const AttentionShape &shape) const {
        return first + TILE <= shortest && (shape.window == 0 || first >= end - shape.window);
    }
    // Where the keys or values of the TILE rows from this place on are.
    template <int D> __device__ __forceinline__ auto at(const __nv_bfloat16 *values, int first, const AttentionShape &shape) const {
        return [=, this_rows = rows, this_end = end, width = shape.kv_heads * D, offset = of.kv_head * D](
                   int index) -> const __nv_bfloat16 * {
            const int place = first + index;
            return place < this_end ? values + (int64_t)this_rows[place] * width + offset : nullptr;
        };
    }
};

template <int D>
__device__ __forceinline__ void attention_forward_bf16(
    const __nv_bfloat16 *q, const __nv_bfloat16 *k, const __nv_bfloat16 *v, const uint32_t *paths, const uint2 *spans,
    const uint2 *tiles, float *out, float *log_sums, const AttentionShape &shape) {
    __shared__ __align__(16) __nv_bfloat16 keys[TILE * TILE_STRIDE<D>], values[TILE * TILE_STRIDE<D>];
    const Lane lane;
    const TilePath path(paths, spans, tiles, shape);
    const QueryHeads &of = path.of;

    uint32_t queries[D / 16][4];
    keep_rows<D>(queries, lane, [&](int row) { return row < of.count ? q + of.head(row) * D : nullptr; });
    int lengths[2];
    float tops[2] = {LOWEST, LOWEST}, totals[2] = {0.0f, 0.0f}, sums[D / 8][4];
    clear_tile<D>(sums);
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int row = lane.kept(half);
        lengths[half] = row < of.count ? (int)spans[of.query(row)].y : 0;
    }
    for (int first = path.start; first < path.end; first += TILE) {
        __syncthreads();
        bring_tile<D>(keys, path.at<D>(k, first, shape));
        bring_tile<D>(values, path.at<D>(v, first, shape));
        __syncthreads();
        if (lane.warp * 16 >= of.count) continue;
        float scores[TILE / 8][4];
        multiply_tile<D, TILE>(scores, queries, keys, lane);
        const bool all = path.all_see(first, shape);
        float top[2] = {tops[0], tops[1]};
#pragma unroll
        for (int column = 0; column < TILE / 8; column++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const bool seen = all || sees(lengths[i / 2], first + column * 8 + lane.pair + i % 2, shape);
                scores[column][i] = seen ? score_of(scores[column][i], shape) : -INFINITY;
                top[i / 2] = fmaxf(top[i / 2], scores[column][i]);
            }
        }
        // Four threads have a row together.
#pragma unroll
        for (int half = 0; half < 2; half++) {
            top[half] = fmaxf(top[half], __shfl_xor_sync(ALL, top[half], 1));
            top[half] = fmaxf(top[half], __shfl_xor_sync(ALL, top[half], 2));
            const float factor = __expf(tops[half] - top[half]);
            tops[half] = top[half];
            totals[half] *= factor;
#pragma unroll
            for (int part = 0; part < D / 8; part++) {
                sums[part][2 * half] *= factor;
                sums[part][2 * half + 1] *= factor;
            }
        }
#pragma unroll
        for (int column = 0; column < TILE / 8; column++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                scores[column][i] = __expf(scores[column][i] - tops[i / 2]);
                totals[i / 2] += scores[column][i];
            }
        }
        add_tile<D, TILE>(sums, scores, values, lane);
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
        totals[half] += __shfl_xor_sync(ALL, totals[half], 1);
        totals[half] += __shfl_xor_sync(ALL, totals[half], 2);
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int row = lane.kept(half);
        if (row >= of.count) continue;
        write_kept<D>(out + of.head(row) * D, sums, half, totals[half] > 0.0f ? 1.0f / totals[half] : 0.0f, lane);
        if (lane.pair == 0) log_sums[of.head(row)] = tops[half] + logf(totals[half]);
    }
}

// d_q, by blocks as in `attention_forward_bf16`.
template <int D>
__device__ __forceinline__ void attention_backward_q_bf16(
    const __nv_bfloat16 *q, const __nv_bfloat16 *k, const __nv_bfloat16 *v, const __nv_bfloat16 *grad,
    const uint32_t *paths, const uint2 *spans, const uint2 *tiles, const float *log_sums, const float *means, float *d_q,
    const AttentionShape &shape) {
    __shared__ __align__(16) __nv_bfloat16 keys[TILE * TILE_STRIDE<D>], values[TILE * TILE_STRIDE<D>];
    const Lane lane;
    const TilePath path(paths, spans, tiles, shape);
    const QueryHeads &of = path.of;

    uint32_t queries[D / 16][4], grads[D / 16][4];
    keep_rows<D>(queries, lane, [&](int row) { return row < of.count ? q + of.head(row) * D : nullptr; });
    keep_rows<D>(grads, lane, [&](int row) { return row < of.count ? grad + of.head(row) * D : nullptr; });
    int lengths[2];
    float log_sum[2], mean[2], sums[D / 8][4];
    clear_tile<D>(sums);
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int row = lane.kept(half);
        const bool is_there = row < of.count;
        lengths[half] = is_there ? (int)spans[of.query(row)].y : 0;
        log_sum[half] = is_there ? log_sums[of.head(row)] : 0.0f;
        mean[half] = is_there ? means[of.head(row)] : 0.0f;
    }
    for (int first = path.start; first < path.end; first += TILE) {
        __syncthreads();
        bring_tile<D>(keys, path.at<D>(k, first, shape));
        bring_tile<D>(values, path.at<D>(v, first, shape));
        __syncthreads();
        if (lane.warp * 16 >= of.count) continue;
        const bool all = path.all_see(first, shape);
#pragma unroll 1
        for (int part = 0; part < TILE; part += STEP<D>) {
            float scores[STEP<D> / 8][4], derivatives[STEP<D> / 8][4];
            multiply_tile<D, STEP<D>>(scores, queries, keys + part * TILE_STRIDE<D>, lane);
            multiply_tile<D, STEP<D>>(derivatives, grads, values + part * TILE_STRIDE<D>, lane);
#pragma unroll
            for (int column = 0; column < STEP<D> / 8; column++) {
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const int place = first + part + column * 8 + lane.pair + i % 2;
                    const bool seen = all || sees(lengths[i / 2], place, shape);
                    derive(scores[column][i], derivatives[column][i], seen, log_sum[i / 2], mean[i / 2], shape);
                }
            }
            add_tile<D, STEP<D>>(sums, derivatives, keys + part * TILE_STRIDE<D>, lane);
        }
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int row = lane.kept(half);
        if (row < of.count) write_kept<D>(d_q + of.head(row) * D, sums, half, 1.0f, lane);
    }
}

// Consecutive rows, TILE at most, and some of the queries that any of them is seen by. A row that many queries see would
// keep one block busy for long: then there are several pieces, and each has its sums to itself until they are added.
struct Piece {
    uint32_t row;
    uint32_t first;
    uint32_t end;
    // The place of its sums among the parts plus one; 0 where they are whole.
    uint32_t part;
};

// d_k and d_v: a block for each piece (x) and key head (y). Parts have TILE rows each.
template <int D>
__device__ __forceinline__ void attention_backward_kv_bf16(
    const __nv_bfloat16 *q, const __nv_bfloat16 *k, const __nv_bfloat16 *v, const __nv_bfloat16 *grad, const Seen *seen,
    const uint2 *spans, const Piece *pieces, const float *log_sums, const float *means, float *d_k, float *d_v,
    float *k_parts, float *v_parts, int count, const AttentionShape &shape) {
    __shared__ __align__(16) __nv_bfloat16 queries[TILE * TILE_STRIDE<D>], grads[TILE * TILE_STRIDE<D>];
    // Of each visited head: its query, the length of the query's path, and its numbers.
    __shared__ uint32_t numbers[TILE];
    __shared__ int lengths[TILE];
    __shared__ float of_log_sums[TILE], of_means[TILE];
    const Lane lane;
    const Piece piece = pieces[blockIdx.x];
    const int first_row = piece.row, kv_head = blockIdx.y, group = shape.heads / shape.kv_heads;
    const QueryHeads of = {(int)piece.first, (int)(piece.end - piece.first) * group, group, kv_head, shape.heads};

    const auto at = [&](const __nv_bfloat16 *of_rows) {
        return [=](int index) -> const __nv_bfloat16 * {
            const int row = first_row + index;
            return row < count ? of_rows + ((int64_t)row * shape.kv_heads + kv_head) * D : nullptr;
        };
    };
    uint32_t keys[D / 16][4], values[D / 16][4];
    keep_rows<D>(keys, lane, at(k));
    keep_rows<D>(values, lane, at(v));
    Seen by[2];
    float k_sums[D / 8][4], v_sums[D / 8][4];
    clear_tile<D>(k_sums);
    clear_tile<D>(v_sums);
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int row = first_row + lane.kept(half);
        by[half] = row < count ? seen[row] : Seen{0, 0, 0};
    }
    // A bit for each of this thread's products, whether the query sees the row.
    const auto look = [&]() {
        uint32_t visible = 0;
#pragma unroll
        for (int bit = 0; bit < 32; bit++) {
            const int head = bit / 4 * 8 + lane.pair + bit % 2;
            const Seen &row = by[bit % 4 / 2];
            const bool is_seen = numbers[head] >= row.first && numbers[head] < row.end && sees(lengths[head], row.place, shape);
            visible |= (uint32_t)is_seen << bit;
        }
        return visible;
    };
    for (int first = 0; first < of.count; first += TILE) {
        __syncthreads();
        if (threadIdx.x < TILE) {
            const int head = first + threadIdx.x;
            const bool is_there = head < of.count;
            const uint32_t query = is_there ? of.query(head) : 0xffffffffu;
            numbers[threadIdx.x] = query;
            lengths[threadIdx.x] = is_there ? (int)spans[query].y : 0;
            of_log_sums[threadIdx.x] = is_there ? log_sums[of.head(head)] : 0.0f;
            of_means[threadIdx.x] = is_there ? means[of.head(head)] : 0.0f;
        }
        if (shape.window != 0) {
            __syncthreads();
            if (!__syncthreads_or(look() != 0)) continue;
        }
        const auto head_at = [&](const __nv_bfloat16 *of_heads) {
            return [=](int index) -> const __nv_bfloat16 * {
                const int head = first + index;
                return head < of.count ? of_heads + of.head(head) * D : nullptr;
            };
        };
        bring_tile<D>(queries, head_at(q));
        bring_tile<D>(grads, head_at(grad));
        __syncthreads();
        const uint32_t visible = look();
        if (!__any_sync(ALL, visible != 0)) continue;
#pragma unroll 1
        for (int part = 0; part < TILE; part += STEP<D>) {
            float weights[STEP<D> / 8][4], derivatives[STEP<D> / 8][4];
            multiply_tile<D, STEP<D>>(weights, keys, queries + part * TILE_STRIDE<D>, lane);
            multiply_tile<D, STEP<D>>(derivatives, values, grads + part * TILE_STRIDE<D>, lane);
#pragma unroll
            for (int column = 0; column < STEP<D> / 8; column++) {
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const int head = part + column * 8 + lane.pair + i % 2;
                    const bool is_seen = visible >> ((part / 8 + column) * 4 + i) & 1;
                    derive(weights[column][i], derivatives[column][i], is_seen, of_log_sums[head], of_means[head], shape);
                }
            }
            add_tile<D, STEP<D>>(v_sums, weights, grads + part * TILE_STRIDE<D>, lane);
            add_tile<D, STEP<D>>(k_sums, derivatives, queries + part * TILE_STRIDE<D>, lane);
        }
    }
    float *to_k = piece.part == 0 ? d_k : k_parts, *to_v = piece.part == 0 ? d_v : v_parts;
    const int64_t start = piece.part == 0 ? (int64_t)first_row : (int64_t)(piece.part - 1) * TILE;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int index = lane.kept(half);
        if (first_row + index >= count) continue;
        const int64_t to = ((start + index) * shape.kv_heads + kv_head) * D;
        write_kept<D>(to_k + to, k_sums, half, 1.0f, lane);
        write_kept<D>(to_v + to, v_sums, half, 1.0f, lane);
    }
}

// Consecutive rows whose sums are in `count` parts, the first of them at `first`.
struct Parts {
    uint32_t row;
    uint32_t first;
    uint32_t count;
};

// Adds the parts of d_k (even y) and d_v (odd y): some blocks for each of `parts`, whose rows have `width` numbers.
extern "C" __global__ void attention_add_parts(
    const Parts *parts, const float *k_parts, const float *v_parts, float *d_k, float *d_v, int count, int width) {
    const Parts of = parts[blockIdx.x];
    const bool is_k = blockIdx.y % 2 == 0;
    const int size = min(TILE, count - (int)of.row) * width, stride = blockDim.x * (gridDim.y / 2);
    const int64_t of_part = (int64_t)TILE * width;
    const float *from = (is_k ? k_parts : v_parts) + of.first * of_part;
    float *to = (is_k ? d_k : d_v) + (int64_t)of.row * width;
    for (int i = blockIdx.y / 2 * blockDim.x + threadIdx.x; i < size; i += stride) {
        float sum = 0.0f;
        for (uint32_t part = 0; part < of.count; part++) sum += from[part * of_part + i];
        to[i] = sum;
    }
}

#define SHAPE int heads, int kv_heads, int head_dim, float scale, int window, float softcap
#define AS_SHAPE AttentionShape{heads, kv_heads, head_dim, scale, window, softcap}

// The kernels for heads of up to D numbers, which visit N rows at a time forward and M backward. The host computes the same
// sizes of shared memory.
#define ATTENTION(D, N, M, BLOCKS)                                                                                     \
    extern "C" __global__ __launch_bounds__(THREADS, BLOCKS) void attention_forward_##D(                               \
        const float *q, const float *k, const float *v, const uint32_t *paths, const uint2 *spans, const uint2 *tiles,  \
        float *out, float *log_sums, SHAPE) {                                                                          \
        attention_forward<D, N>(q, k, v, paths, spans, tiles, out, log_sums, AS_SHAPE);                                \
    }                                                                                                                  \
    extern "C" __global__ __launch_bounds__(THREADS) void attention_backward_q_##D(                                    \
        const float *q, const float *k, const float *v, const float *grad, const uint32_t *paths, const uint2 *spans,   \
        const uint2 *tiles, const float *log_sums, const float *means, float *d_q, SHAPE) {                            \
        attention_backward_q<D, M>(q, k, v, grad, paths, spans, tiles, log_sums, means, d_q, AS_SHAPE);                \
    }                                                                                                                  \
    extern "C" __global__ __launch_bounds__(THREADS) void attention_backward_kv_##D(                                   \
        const float *q, const float *k, const float *v, const float *grad, const Seen *seen, const uint2 *spans,        \
        const uint2 *tiles, const float *log_sums, const float *means, float *d_k, float *d_v, int count, SHAPE) {     \
        attention_backward_kv<D, M>(                                                                                   \
            q, k, v, grad, seen, spans, tiles, log_sums, means, d_k, d_v, count, AS_SHAPE);                            \
    }

ATTENTION(64, 64, 32, 2)
ATTENTION(128, 64, 32, 2)
ATTENTION(256, 32, 32, 1)

// The kernels on matrix units, for heads of D numbers.
#define ATTENTION_BF16(D)                                                                                              \
    extern "C" __global__ __launch_bounds__(TILE_THREADS) void attention_forward_bf16_##D(                             \
        const __nv_bfloat16 *q, const __nv_bfloat16 *k, const __nv_bfloat16 *v, const uint32_t *paths,                 \
        const uint2 *spans, const uint2 *tiles, float *out, float *log_sums, SHAPE) {                                  \
        attention_forward_bf16<D>(q, k, v, paths, spans, tiles, out, log_sums, AS_SHAPE);                              \
    }                                                                                                                  \
    extern "C" __global__ __launch_bounds__(TILE_THREADS) void attention_backward_q_bf16_##D(                          \
        const __nv_bfloat16 *q, const __nv_bfloat16 *k, const __nv_bfloat16 *v, const __nv_bfloat16 *grad,             \
        const uint32_t *paths, const uint2 *spans, const uint2 *tiles, const float *log_sums, const float *means,      \
        float *d_q, SHAPE) {                                                                                           \
        attention_backward_q_bf16<D>(q, k, v, grad, paths, spans, tiles, log_sums, means, d_q, AS_SHAPE);              \
    }                                                                                                                  \
    extern "C" __global__ __launch_bounds__(TILE_THREADS) void attention_backward_kv_bf16_##D(                         \
        const __nv_bfloat16 *q, const __nv_bfloat16 *k, const __nv_bfloat16 *v, const __nv_bfloat16 *grad,             \
        const Seen *seen, const uint2 *spans, const Piece *pieces, const float *log_sums, const float *means,          \
        float *d_k, float *d_v, float *k_parts, float *v_parts, int count, SHAPE) {                                    \
        attention_backward_kv_bf16<D>(                                                                                 \
            q, k, v, grad, seen, spans, pieces, log_sums, means, d_k, d_v, k_parts, v_parts, count, AS_SHAPE);         \
    }

ATTENTION_BF16(64)
ATTENTION_BF16(128)

// ---- Log-probabilities of tokens. Rows of logits have `vocab` numbers; `starts` says where the targets of each row begin
// among all of them, and after the last where they end. A block for each row.

// Of softmax(logits / temperature): the log-sum-exp, the entropy, and the log-probability of each target.
extern "C" __global__ void score_rows(
    const float *logits, const uint32_t *starts, const uint32_t *tokens, float *normalisers, float *entropies,
    float *log_probs, int vocab, float temperature) {
    __shared__ float scratch[WARP];
    const int row = blockIdx.x;
    logits += (int64_t)row * vocab;
    // Sums of e^(x - top) and of e^(x - top) (x - top), relative to the largest so far. What is not a number stays so.
    float top = -3.402823466e38f, sum = 0.0f, weighted = 0.0f;
    for (int i = threadIdx.x; i < vocab; i += blockDim.x) {
        const float x = logits[i] / temperature;
        if (x > top) {
            const float by = x - top, factor = expf(-by);
            weighted = sum == 0.0f ? 0.0f : factor * (weighted - sum * by);
            sum *= factor;
            top = x;
        }
        const float shifted = x - top, power = expf(shifted);
        sum += power;
        weighted += power == 0.0f ? 0.0f : power * shifted;
    }
    const float of_row = block_max(top, scratch);
    const float by = of_row - top, factor = expf(-by);
    const float part = sum == 0.0f || factor == 0.0f ? 0.0f : factor * (weighted - sum * by);
    sum = block_sum(sum * factor, scratch);
    weighted = block_sum(part, scratch);
    const float normaliser = of_row + logf(sum);
    if (threadIdx.x == 0) {
        normalisers[row] = normaliser;
        entropies[row] = logf(sum) - weighted / sum;
    }
    for (uint32_t target = starts[row] + threadIdx.x; target < starts[row + 1]; target += blockDim.x) {
        log_probs[target] = logits[tokens[target]] / temperature - normaliser;
    }
}

// d loss / d logits: `(1[j = token] - p_j)` times the derivative for each target's log-probability, and `-p_j (ln p_j +
// entropy)` times that for the row's entropy, both of which are divided by the temperature already.
extern "C" __global__ void logit_gradients(
    const float *logits, const uint32_t *starts, const uint32_t *tokens, const float *normalisers,
    const float *entropies, const float *of_targets, const float *of_entropies, float *gradient, int vocab,
    float temperature) {
    const int row = blockIdx.x;
    logits += (int64_t)row * vocab;
    gradient += (int64_t)row * vocab;
    const float normaliser = normalisers[row], entropy = entropies[row], of_entropy = of_entropies[row];
    float total = 0.0f;
    for (uint32_t target = starts[row]; target < starts[row + 1]; target++) total += of_targets[target];
    for (int i = threadIdx.x; i < vocab; i += blockDim.x) {
        const float log_p = logits[i] / temperature - normaliser, p = expf(log_p);
        // What has no probability left has no gradient, and no logarithm.
        gradient[i] = p == 0.0f ? 0.0f : -p * (total + of_entropy * (log_p + entropy));
    }
    __syncthreads();
    // One after another: a token may be there twice.
    if (threadIdx.x == 0) {
        for (uint32_t target = starts[row]; target < starts[row + 1]; target++) {
            gradient[tokens[target]] += of_targets[target];
        }
    }
}
