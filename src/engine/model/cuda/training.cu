// The operations of training, each with its gradient. f32 throughout. No kernel uses atomics: every element is summed by
// one thread in an order that depends on the shapes alone, so that a pass comes out the same in every run.

#include "common.cuh"

extern "C" __global__ void cast_to_bf16(const float *x, __nv_bfloat16 *y, int64_t count) {
    const int64_t stride = (int64_t)blockDim.x * gridDim.x;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += stride) y[i] = __float2bfloat16(x[i]);
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
