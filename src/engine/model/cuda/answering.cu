// The pass of rows through the decoder when it answers. Matrices, keys, values and what goes into a product are of type T
// (bf16 or f32); everything else is f32. No gradient comes through.

#include "common.cuh"

// ---------------------------------------------------------------------------------------------------------------------
// Rows in and out.

// x[row] = scale * embedding[tokens[row]]; a block a row.
template <typename T>
__device__ void embed(const T *embedding, const uint32_t *tokens, float scale, int width, float *x) {
    const T *from = embedding + (int64_t)tokens[blockIdx.x] * width;
    float *to = x + (int64_t)blockIdx.x * width;
    for (int i = threadIdx.x; i < width; i += blockDim.x) to[i] = scale * to_float(from[i]);
}

// Four numbers of T in one store.
template <typename T> struct alignas(sizeof(T) * 4) Four {
    T values[4];
};

template <typename T> __device__ __forceinline__ void store(T *to, float4 from) {
    *reinterpret_cast<Four<T> *>(to) =
        Four<T>{{from_float<T>(from.x), from_float<T>(from.y), from_float<T>(from.z), from_float<T>(from.w)}};
}

// y[i] = x[rows[i]] / rms(x[rows[i]]) * weight, in T and, where a place is given, in f32; without `rows` all of them. The width
// is a multiple of four. What a thread has of a row it holds, as far as that is 32 numbers.
template <typename T>
__device__ void rms_norm(const float *x, const uint32_t *rows, const float *weight, float eps, int width, T *y, float *y32) {
    constexpr int HELD = 8;
    __shared__ float scratch[WARP];
    const int64_t row = rows ? rows[blockIdx.x] : blockIdx.x;
    const float4 *from = reinterpret_cast<const float4 *>(x + row * width);
    const float4 *scale = reinterpret_cast<const float4 *>(weight);
    const int fours = width / 4;
    float4 held[HELD];
    float squares = 0.0f;
#pragma unroll
    for (int k = 0; k < HELD; k++) {
        const int i = k * blockDim.x + threadIdx.x;
        if (i < fours) {
            held[k] = from[i];
            squares += held[k].x * held[k].x + held[k].y * held[k].y + held[k].z * held[k].z + held[k].w * held[k].w;
        }
    }
    for (int i = HELD * blockDim.x + threadIdx.x; i < fours; i += blockDim.x) {
        const float4 more = from[i];
        squares += more.x * more.x + more.y * more.y + more.z * more.z + more.w * more.w;
    }
    const float inverse = rsqrtf(block_sum(squares, scratch) / width + eps);
    const int64_t to = (int64_t)blockIdx.x * width;
    auto write = [&](int i, float4 value) {
        const float4 by = scale[i];
        value = make_float4(value.x * inverse * by.x, value.y * inverse * by.y, value.z * inverse * by.z,
                            value.w * inverse * by.w);
        store<T>(y + to + 4 * i, value);
        if (y32) store<float>(y32 + to + 4 * i, value);
    };
#pragma unroll
    for (int k = 0; k < HELD; k++) {
        const int i = k * blockDim.x + threadIdx.x;
        if (i < fours) write(i, held[k]);
    }
    for (int i = HELD * blockDim.x + threadIdx.x; i < fours; i += blockDim.x) write(i, from[i]);
}

// x[row] += y[row] + bias, normalised where there is a weight. A bias may be missing, too.
extern "C" __global__ void add_to_residual(float *x, const float *y, const float *bias, const float *weight, float eps, int width) {
    __shared__ float scratch[WARP];
    const int64_t row = (int64_t)blockIdx.x * width;
    float inverse = 1.0f;
    if (weight) {
        float squares = 0.0f;
        for (int i = threadIdx.x; i < width; i += blockDim.x) {
            const float value = y[row + i] + (bias ? bias[i] : 0.0f);
            squares += value * value;
        }
        inverse = rsqrtf(block_sum(squares, scratch) / width + eps);
    }
    for (int i = threadIdx.x; i < width; i += blockDim.x) {
        const float value = y[row + i] + (bias ? bias[i] : 0.0f);
        x[row + i] += weight ? value * inverse * weight[i] : value;
    }
}

// activation(gate) * up, of rows [gate | up] of a width that is a multiple of four; biases likewise, if there are any.
template <typename T>
__device__ void gate(const float *gate_up, const float *bias, int inner, int gelu, T *y, float *y32) {
    const float *row = gate_up + (int64_t)blockIdx.x * 2 * inner;
    const int64_t to = (int64_t)blockIdx.x * inner;
    const float4 none = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    auto four = [](const float *from) { return *reinterpret_cast<const float4 *>(from); };
    for (int i = 4 * (blockIdx.y * blockDim.x + threadIdx.x); i < inner; i += 4 * gridDim.y * blockDim.x) {
        const float4 gate = four(row + i), up = four(row + inner + i);
        const float4 to_gate = bias ? four(bias + i) : none, to_up = bias ? four(bias + inner + i) : none;
        const float4 value = make_float4(activate(gate.x + to_gate.x, gelu) * (up.x + to_up.x),
                                         activate(gate.y + to_gate.y, gelu) * (up.y + to_up.y),
                                         activate(gate.z + to_gate.z, gelu) * (up.z + to_up.z),
                                         activate(gate.w + to_gate.w, gelu) * (up.w + to_up.w));
        store<T>(y + to + i, value);
        if (y32) store<float>(y32 + to + i, value);
    }
}

// c * tanh(x / c)
extern "C" __global__ void softcap(float *x, float cap, int64_t count) {
    const int64_t stride = (int64_t)blockDim.x * gridDim.x;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += stride) x[i] = cap * tanhf(x[i] / cap);
}

// ---------------------------------------------------------------------------------------------------------------------
// Queries, keys and values.

constexpr int MAX_PAIRS_OF_LANE = 4; // head_dim <= 256

// Takes rows [queries | keys | values] of a product, adds the bias, normalises each head where there are weights, and turns
// queries and keys by the row's position. Queries stay where they are, keys and values go to the cache, whose rows are
// [keys | values]. A warp a head, and a block for some heads of a row.
template <typename T>
__device__ void place_qkv(float *qkv, const float *bias, const float *q_norm, const float *k_norm, float eps,
                          const float *frequencies, const uint32_t *positions, const uint32_t *nodes, int heads, int kv_heads,
                          int head_dim, T *cache) {
    const int lane = threadIdx.x % WARP;
    const int head = blockIdx.y * (blockDim.x / WARP) + threadIdx.x / WARP;
    if (head >= heads + 2 * kv_heads) return;
    const int half = head_dim / 2, kv_width = kv_heads * head_dim;
    float *from = qkv + ((int64_t)blockIdx.x * (heads + 2 * kv_heads) + head) * head_dim;
    const float *added = bias ? bias + head * head_dim : nullptr;
    const bool is_query = head < heads, is_value = head >= heads + kv_heads;
    T *to = cache + (int64_t)nodes[blockIdx.x] * 2 * kv_width + (head - heads) * head_dim;

    float low[MAX_PAIRS_OF_LANE], high[MAX_PAIRS_OF_LANE], squares = 0.0f;
#pragma unroll
    for (int pair = 0; pair < MAX_PAIRS_OF_LANE; pair++) {
        const int i = lane + pair * WARP;
        low[pair] = high[pair] = 0.0f;
        if (i < half) {
            low[pair] = from[i] + (added ? added[i] : 0.0f);
            high[pair] = from[half + i] + (added ? added[half + i] : 0.0f);
        }
        squares += low[pair] * low[pair] + high[pair] * high[pair];
    }
    const float *norm = is_query ? q_norm : is_value ? nullptr : k_norm;
    const float inverse = norm ? rsqrtf(warp_sum(squares) / head_dim + eps) : 1.0f;
    const float position = (float)positions[blockIdx.x];
#pragma unroll
    for (int pair = 0; pair < MAX_PAIRS_OF_LANE; pair++) {
        const int i = lane + pair * WARP;
        if (i >= half) continue;
        float a = low[pair] * inverse, b = high[pair] * inverse;
        if (norm) {
            a *= norm[i];
            b *= norm[half + i];
        }
        if (!is_value) {
            float sine, cosine;
            sincosf(position * frequencies[i], &sine, &cosine);
            const float turned = a * cosine - b * sine;
            b = b * cosine + a * sine;
            a = turned;
        }
        if (is_query) {
            from[i] = a;
            from[half + i] = b;
        } else {
            to[i] = from_float<T>(a);
            to[half + i] = from_float<T>(b);
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Attention over the rows of a path.

template <typename T, int N> struct alignas(sizeof(T) * N) Vector {
    T values[N];
};

// N numbers in as few loads as there can be: of 16 bytes at most.
template <typename T, int N> __device__ __forceinline__ void load(const T *from, float *to) {
    constexpr int PART = sizeof(T) * N > 16 ? 16 / sizeof(T) : N;
#pragma unroll
    for (int part = 0; part < N / PART; part++) {
        const Vector<T, PART> vector = *reinterpret_cast<const Vector<T, PART> *>(from + part * PART);
#pragma unroll
        for (int i = 0; i < PART; i++) to[part * PART + i] = to_float(vector.values[i]);
    }
}

constexpr int ATTEND_THREADS = 128;
constexpr float LOWEST = -1e30f;

// Query `queries[blockIdx.x]` over part `blockIdx.z` of `splits` of its path, for up to G heads that share keys. LANES threads
// take a key together, VEC numbers each. With one part the result goes to `out` (and `out32`); with more, each part's weighted sum,
// maximum and sum of weights go to `partial` [query, head, split, head_dim + 2].
template <typename T, int VEC, int LANES, int G>
__device__ void attend(const float *q, int q_stride, const T *cache, const uint32_t *queries, const uint32_t *path,
                       const uint2 *spans, int heads, int kv_heads, int head_dim, float scale, int window, float cap, int splits, float *partial, T *out,
                       float *out32) {
    constexpr int PARTIES = ATTEND_THREADS / LANES, KEYS = 2;
    __shared__ float sums[PARTIES][G][LANES * VEC];
    __shared__ float maxima[PARTIES][G], weights[PARTIES][G];

    const int shared_by = heads / kv_heads, chunks = (shared_by + G - 1) / G;
    const int kv_head = blockIdx.y / chunks, first = (blockIdx.y % chunks) * G;
    const int head = kv_head * shared_by + first, count = min(G, shared_by - first);
    const int kv_width = kv_heads * head_dim;
    const int64_t index = queries[blockIdx.x];
    int start = spans[index].x, length = spans[index].y;
    if (window > 0 && length > window) {
        start += length - window;
        length = window;
    }
    const int of_split = (length + splits - 1) / splits;
    const int from = min(length, (int)blockIdx.z * of_split), to = min(length, from + of_split);
    const int lane = threadIdx.x % LANES, party = threadIdx.x / LANES;
    const bool inside = lane * VEC < head_dim;

    float query[G][VEC], sum[G][VEC], maximum[G], weight[G];
#pragma unroll
    for (int g = 0; g < G; g++) {
        maximum[g] = LOWEST;
        weight[g] = 0.0f;
        const float *of_head = q + index * q_stride + (head + g) * head_dim + lane * VEC;
#pragma unroll
        for (int i = 0; i < VEC; i++) {
            sum[g][i] = 0.0f;
            query[g][i] = g < count && inside ? of_head[i] * scale : 0.0f;
        }
    }

    // All threads of a warp go round together: the products are summed by shuffles.
    for (int base = from; base < to; base += KEYS * PARTIES) {
        float k[KEYS][VEC], v[KEYS][VEC];
        bool seen[KEYS];
#pragma unroll
        for (int key = 0; key < KEYS; key++) {
            const int place = base + key * PARTIES + party;
            seen[key] = place < to;
            const int64_t row = path[start + (seen[key] ? place : from)];
            const T *at = cache + row * 2 * kv_width + kv_head * head_dim + lane * VEC;
            if (inside) {
                load<T, VEC>(at, k[key]);
                load<T, VEC>(at + kv_width, v[key]);
            } else {
#pragma unroll
                for (int i = 0; i < VEC; i++) k[key][i] = v[key][i] = 0.0f;
            }
        }
#pragma unroll
        for (int g = 0; g < G; g++) {
#pragma unroll
            for (int key = 0; key < KEYS; key++) {
                float score = 0.0f;
#pragma unroll
                for (int i = 0; i < VEC; i++) score += query[g][i] * k[key][i];
#pragma unroll
                for (int offset = LANES / 2; offset > 0; offset /= 2) score += __shfl_xor_sync(ALL, score, offset);
                if (cap > 0.0f) score = cap * tanhf(score / cap);
                if (!seen[key]) score = -INFINITY;
                const float highest = fmaxf(maximum[g], score);
                const float kept = __expf(maximum[g] - highest), new_weight = __expf(score - highest);
                maximum[g] = highest;
                weight[g] = weight[g] * kept + new_weight;
#pragma unroll
                for (int i = 0; i < VEC; i++) sum[g][i] = sum[g][i] * kept + new_weight * v[key][i];
            }
        }
    }

#pragma unroll
    for (int g = 0; g < G; g++) {
#pragma unroll
        for (int i = 0; i < VEC; i++) sums[party][g][lane * VEC + i] = sum[g][i];
        if (lane == 0) {
            maxima[party][g] = maximum[g];
            weights[party][g] = weight[g];
        }
    }
    __syncthreads();
    for (int number = threadIdx.x; number < count * head_dim; number += ATTEND_THREADS) {
        const int g = number / head_dim, i = number % head_dim;
        float highest = LOWEST, total = 0.0f, value = 0.0f;
        for (int other = 0; other < PARTIES; other++) highest = fmaxf(highest, maxima[other][g]);
        for (int other = 0; other < PARTIES; other++) {
            const float factor = __expf(maxima[other][g] - highest);
            total += weights[other][g] * factor;
            value += sums[other][g][i] * factor;
        }
        if (splits == 1) {
            const int64_t at = (index * heads + head + g) * head_dim + i;
            out[at] = from_float<T>(value / total);
            if (out32) out32[at] = value / total;
        } else {
            float *part = partial + (((int64_t)blockIdx.x * heads + head + g) * splits + blockIdx.z) * (head_dim + 2);
            part[i] = value;
            if (i == 0) {
                part[head_dim] = highest;
                part[head_dim + 1] = total;
            }
        }
    }
}

// Brings the parts of head `blockIdx.y` of query `queries[blockIdx.x]` together.
template <typename T>
__device__ void combine(const float *partial, const uint32_t *queries, int heads, int head_dim, int splits, T *out, float *out32) {
    const float *parts = partial + ((int64_t)blockIdx.x * heads + blockIdx.y) * splits * (head_dim + 2);
    const int64_t head = (int64_t)queries[blockIdx.x] * heads + blockIdx.y;
    float highest = LOWEST;
    for (int split = 0; split < splits; split++) highest = fmaxf(highest, parts[split * (head_dim + 2) + head_dim]);
    for (int i = threadIdx.x; i < head_dim; i += blockDim.x) {
        float total = 0.0f, value = 0.0f;
        for (int split = 0; split < splits; split++) {
            const float *part = parts + split * (head_dim + 2);
            const float factor = __expf(part[head_dim] - highest);
            total += part[head_dim + 1] * factor;
            value += part[i] * factor;
        }
        out[head * head_dim + i] = from_float<T>(value / total);
        if (out32) out32[head * head_dim + i] = value / total;
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Attention of neighbours: queries of one chain, each of which sees one row more than the one before. They read the rows
// together, and matrix units multiply (after FlashAttention-2, arXiv 2307.08691).

// Sixteen queries of a warp on their way along keys, with a softmax that goes along. Of the rows that matrix units hold, this
// thread has `quad` and `quad + 8` (its halves), and of each the numbers `pair` and `pair + 1` of every eight.
template <int HEAD_DIM> struct Queries {
    static constexpr int PARTS = HEAD_DIM / 16, VECTORS = HEAD_DIM / 8;
    // A row of shared memory is eight numbers longer than it must be, so that rows do not begin in the same bank.
    static constexpr int STRIDE = HEAD_DIM + 8;

    const int lane = threadIdx.x % WARP, quad = lane / 4, pair = lane % 4 * 2;
    uint32_t numbers[PARTS][4];
    float sum[VECTORS][4], maximum[2] = {LOWEST, LOWEST}, weight[2] = {0.0f, 0.0f};

    // `at(half)` is where a query begins; null if there is none.
    template <typename At> __device__ __forceinline__ Queries(At at) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const float *row = at(half);
#pragma unroll
            for (int part = 0; part < PARTS; part++) {
                const float *from = row + part * 16 + pair;
                numbers[part][half] = row ? pack(from[0], from[1]) : 0;
                numbers[part][half + 2] = row ? pack(from[8], from[9]) : 0;
            }
        }
#pragma unroll
        for (int part = 0; part < VECTORS; part++) {
#pragma unroll
            for (int i = 0; i < 4; i++) sum[part][i] = 0.0f;
        }
    }

    // Goes on over eight keys a column, and their values; `sees(half, key)` says which a query sees.
    template <int COLUMNS, typename Sees>
    __device__ __forceinline__ void go_on(const __nv_bfloat16 *keys, const __nv_bfloat16 *values, float scale, float cap, Sees sees) {
        float scores[COLUMNS][4];
#pragma unroll
        for (int column = 0; column < COLUMNS; column++) {
#pragma unroll
            for (int i = 0; i < 4; i++) scores[column][i] = 0.0f;
            const __nv_bfloat16 *key = keys + (column * 8 + quad) * STRIDE + pair;
#pragma unroll
            for (int part = 0; part < PARTS; part++) {
                const uint32_t b[2] = {*reinterpret_cast<const uint32_t *>(key + part * 16),
                                       *reinterpret_cast<const uint32_t *>(key + part * 16 + 8)};
                multiply_add(scores[column], numbers[part], b);
            }
        }

        float highest[2] = {maximum[0], maximum[1]};
#pragma unroll
        for (int column = 0; column < COLUMNS; column++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                float score = scores[column][i] * scale;
                if (cap > 0.0f) score = cap * tanhf(score / cap);
                if (!sees(i / 2, column * 8 + pair + i % 2)) score = -INFINITY;
                scores[column][i] = score;
                highest[i / 2] = fmaxf(highest[i / 2], score);
            }
        }
        // The four threads of a quad hold a row together.
#pragma unroll
        for (int half = 0; half < 2; half++) {
            highest[half] = fmaxf(highest[half], __shfl_xor_sync(ALL, highest[half], 1));
            highest[half] = fmaxf(highest[half], __shfl_xor_sync(ALL, highest[half], 2));
            const float kept = __expf(maximum[half] - highest[half]);
            maximum[half] = highest[half];
            weight[half] *= kept;
#pragma unroll
            for (int part = 0; part < VECTORS; part++) {
                sum[part][2 * half] *= kept;
                sum[part][2 * half + 1] *= kept;
            }
        }
#pragma unroll
        for (int column = 0; column < COLUMNS; column++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                scores[column][i] = __expf(scores[column][i] - maximum[i / 2]);
                weight[i / 2] += scores[column][i];
            }
        }
#pragma unroll
        for (int step = 0; step < COLUMNS / 2; step++) {
            const float *low = scores[2 * step], *high = scores[2 * step + 1];
            const uint32_t weights[4] = {pack(low[0], low[1]), pack(low[2], low[3]), pack(high[0], high[1]), pack(high[2], high[3])};
            const __nv_bfloat16 *row = values + (step * 16 + lane % 16) * STRIDE + lane / 16 * 8;
#pragma unroll
            for (int part = 0; part < VECTORS; part += 2) {
                uint32_t b[4];
                load_transposed(b, row + part * 8);
                multiply_add(sum[part], weights, b);
                multiply_add(sum[part + 1], weights, b + 2);
            }
        }
    }

    // The weight of all keys that a query went over.
    __device__ __forceinline__ float total(int half) const {
        const float of_pairs = weight[half] + __shfl_xor_sync(ALL, weight[half], 1);
        return of_pairs + __shfl_xor_sync(ALL, of_pairs, 2);
    }
};

// Brings KEYS keys and their values into shared memory, by THREADS threads of which this is number `thread`. `at(key)` is where a
// key begins in the cache, its value `kv_width` numbers later. From `count` on it is the last one again, which nobody may see: to
// load what is there takes no branches, between which loads would wait for each other.
template <int HEAD_DIM, int KEYS, int THREADS, typename At>
__device__ __forceinline__ void bring(__nv_bfloat16 *keys, __nv_bfloat16 *values, int thread, int count, int kv_width, At at) {
    constexpr int VECTORS = Queries<HEAD_DIM>::VECTORS, STRIDE = Queries<HEAD_DIM>::STRIDE;
#pragma unroll
    for (int step = 0; step < KEYS * VECTORS / THREADS; step++) {
        const int i = step * THREADS + thread, key = i / VECTORS, part = i % VECTORS * 8;
        const __nv_bfloat16 *row = at(min(key, count - 1)) + part;
        *reinterpret_cast<uint4 *>(keys + key * STRIDE + part) = *reinterpret_cast<const uint4 *>(row);
        *reinterpret_cast<uint4 *>(values + key * STRIDE + part) = *reinterpret_cast<const uint4 *>(row + kv_width);
    }
}

constexpr int TILE = 64; // queries of a block, and keys at a time
constexpr int TILE_THREADS = 128;

// Head `blockIdx.y` of the queries of tile `blockIdx.x`: from `tiles[..].x` on, `tiles[..].y` of them, TILE at most. A warp has
// 16 of them.
template <int HEAD_DIM>
__device__ void attend_tile(const float *q, int q_stride, const __nv_bfloat16 *cache, const uint2 *tiles, const uint32_t *path,
                            const uint2 *spans, int heads, int kv_heads, float scale, int window, float cap,
                            __nv_bfloat16 *out, float *out32) {
    constexpr int STRIDE = Queries<HEAD_DIM>::STRIDE, VECTORS = Queries<HEAD_DIM>::VECTORS;
    __shared__ __align__(16) __nv_bfloat16 keys[TILE * STRIDE], values[TILE * STRIDE];

    const int warp = threadIdx.x / WARP, quad = threadIdx.x % WARP / 4;
    const int head = blockIdx.y, kv_head = head / (heads / kv_heads), kv_width = kv_heads * HEAD_DIM;
    const int first = tiles[blockIdx.x].x, count = tiles[blockIdx.x].y;
    const int start = spans[first].x, shortest = spans[first].y, longest = shortest + count - 1;
    const uint32_t *rows = path + start;

    // Of this thread's two rows of the warp's sixteen: which query, and how much of the path it sees.
    int query[2], seen[2], unseen[2];
    for (int half = 0; half < 2; half++) {
        query[half] = warp * 16 + quad + half * 8;
        seen[half] = query[half] < count ? shortest + query[half] : 0;
        unseen[half] = window > 0 ? max(0, seen[half] - window) : 0;
    }
    Queries<HEAD_DIM> queries([&](int half) {
        return query[half] < count ? q + (int64_t)(first + query[half]) * q_stride + head * HEAD_DIM : nullptr;
    });
    const int begin = window > 0 ? max(0, shortest - window) / TILE * TILE : 0;
    for (int base = begin; base < longest; base += TILE) {
        __syncthreads();
        bring<HEAD_DIM, TILE, TILE_THREADS>(keys, values, threadIdx.x, longest - base, kv_width, [&](int key) {
            return cache + (int64_t)rows[base + key] * 2 * kv_width + kv_head * HEAD_DIM;
        });
        __syncthreads();
        queries.template go_on<TILE / 8>(keys, values, scale, cap, [&](int half, int key) {
            return base + key < seen[half] && base + key >= unseen[half];
        });
    }

#pragma unroll
    for (int half = 0; half < 2; half++) {
        const float total = queries.total(half);
        if (query[half] >= count) continue;
        const int64_t to = ((int64_t)(first + query[half]) * heads + head) * HEAD_DIM + queries.pair;
#pragma unroll
        for (int part = 0; part < VECTORS; part++) {
            const float x = queries.sum[part][2 * half] / total, y = queries.sum[part][2 * half + 1] / total;
            *reinterpret_cast<uint32_t *>(out + to + part * 8) = pack(x, y);
            if (out32) {
                out32[to + part * 8] = x;
                out32[to + part * 8 + 1] = y;
            }
        }
    }
}

#define ATTEND_TILE(HEAD_DIM)                                                                                                  \
    extern "C" __global__ void __launch_bounds__(TILE_THREADS) attend_tile_##HEAD_DIM(                                         \
        const float *q, int q_stride, const __nv_bfloat16 *cache, const uint2 *tiles, const uint32_t *path,                    \
        const uint2 *spans, int heads, int kv_heads, float scale, int window, float cap, __nv_bfloat16 *out, float *out32) {   \
        attend_tile<HEAD_DIM>(q, q_stride, cache, tiles, path, spans, heads, kv_heads, scale, window, cap, out, out32);        \
    }

ATTEND_TILE(64)
ATTEND_TILE(128)

// Query `queries[blockIdx.x]` over part `blockIdx.z` of `splits` of its path, for up to 16 heads that share keys: to the matrix
// units the heads are what queries are in a tile. Each warp takes 16 keys at a time, and what the warps have is brought
// together at the end. Results go where `attend` puts them.
constexpr int GROUP = 16, GROUP_KEYS = 16, GROUP_WARPS = 4;

template <int HEAD_DIM>
__device__ void attend_group(const float *q, int q_stride, const __nv_bfloat16 *cache, const uint32_t *queries,
                             const uint32_t *path, const uint2 *spans, int heads, int kv_heads, float scale, int window,
                             float cap, int splits, float *partial, __nv_bfloat16 *out, float *out32) {
    constexpr int STRIDE = Queries<HEAD_DIM>::STRIDE, OF_WARP = 2 * GROUP_KEYS * STRIDE;
    // Keys and values of each warp; at the end, what each warp has summed up.
    __shared__ __align__(16) __nv_bfloat16 rows[GROUP_WARPS * OF_WARP];
    __shared__ float maxima[GROUP_WARPS][GROUP], weights[GROUP_WARPS][GROUP];
    static_assert(sizeof(rows) >= sizeof(float) * GROUP_WARPS * GROUP * HEAD_DIM, "sums take the place of keys and values");

    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const int shared_by = heads / kv_heads, chunks = (shared_by + GROUP - 1) / GROUP;
    const int kv_head = blockIdx.y / chunks, first = (blockIdx.y % chunks) * GROUP;
    const int head = kv_head * shared_by + first, count = min(GROUP, shared_by - first);
    const int kv_width = kv_heads * HEAD_DIM;
    const int64_t query = queries[blockIdx.x];
    int start = spans[query].x, length = spans[query].y;
    if (window > 0 && length > window) {
        start += length - window;
        length = window;
    }
    const int of_split = (length + splits - 1) / splits;
    const int from = min(length, (int)blockIdx.z * of_split), to = min(length, from + of_split);
    __nv_bfloat16 *keys = rows + warp * OF_WARP, *values = keys + GROUP_KEYS * STRIDE;

    Queries<HEAD_DIM> of_heads([&](int half) {
        const int of = lane / 4 + half * 8;
        return of < count ? q + query * q_stride + (head + of) * HEAD_DIM : nullptr;
    });
    for (int base = from + warp * GROUP_KEYS; base < to; base += GROUP_WARPS * GROUP_KEYS) {
        __syncwarp();
        bring<HEAD_DIM, GROUP_KEYS, WARP>(keys, values, lane, to - base, kv_width, [&](int key) {
            return cache + (int64_t)path[start + base + key] * 2 * kv_width + kv_head * HEAD_DIM;
        });
        __syncwarp();
        of_heads.template go_on<GROUP_KEYS / 8>(keys, values, scale, cap, [&](int, int key) { return base + key < to; });
    }

    __syncthreads();
    float *sums = reinterpret_cast<float *>(rows);
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int of = of_heads.quad + half * 8;
        const float total = of_heads.total(half);
        if (of_heads.pair == 0) {
            maxima[warp][of] = of_heads.maximum[half];
            weights[warp][of] = total;
        }
        float *row = sums + (warp * GROUP + of) * HEAD_DIM + of_heads.pair;
#pragma unroll
        for (int part = 0; part < of_heads.VECTORS; part++) {
            row[part * 8] = of_heads.sum[part][2 * half];
            row[part * 8 + 1] = of_heads.sum[part][2 * half + 1];
        }
    }
    __syncthreads();
    for (int number = threadIdx.x; number < count * HEAD_DIM; number += GROUP_WARPS * WARP) {
        const int of = number / HEAD_DIM, i = number % HEAD_DIM;
        float highest = LOWEST, total = 0.0f, value = 0.0f;
        for (int other = 0; other < GROUP_WARPS; other++) highest = fmaxf(highest, maxima[other][of]);
        for (int other = 0; other < GROUP_WARPS; other++) {
            const float factor = __expf(maxima[other][of] - highest);
            total += weights[other][of] * factor;
            value += sums[(other * GROUP + of) * HEAD_DIM + i] * factor;
        }
        if (splits == 1) {
            const int64_t at = (query * heads + head + of) * HEAD_DIM + i;
            out[at] = from_float<__nv_bfloat16>(value / total);
            if (out32) out32[at] = value / total;
        } else {
            float *part = partial + (((int64_t)blockIdx.x * heads + head + of) * splits + blockIdx.z) * (HEAD_DIM + 2);
            part[i] = value;
            if (i == 0) {
                part[HEAD_DIM] = highest;
                part[HEAD_DIM + 1] = total;
            }
        }
    }
}

#define ATTEND_GROUP(HEAD_DIM)                                                                                                 \
    extern "C" __global__ void __launch_bounds__(GROUP_WARPS *WARP) attend_group_##HEAD_DIM(                                   \
        const float *q, int q_stride, const __nv_bfloat16 *cache, const uint32_t *queries, const uint32_t *path,               \
        const uint2 *spans, int heads, int kv_heads, int head_dim, float scale, int window, float cap, int splits,             \
        float *partial, __nv_bfloat16 *out, float *out32) {                                                                    \
        attend_group<HEAD_DIM>(q, q_stride, cache, queries, path, spans, heads, kv_heads, scale, window, cap, splits,          \
                               partial, out, out32);                                                                           \
    }

ATTEND_GROUP(64)
ATTEND_GROUP(128)

// ---------------------------------------------------------------------------------------------------------------------
// Drawing.

constexpr int DRAW_THREADS = 1024;

// Draws from softmax(logits / temperature) of row `blockIdx.x`, once for each of its uniform numbers: the first token, in the
// order of the vocabulary, at which the running sum of the probabilities exceeds the number. At temperature 0 it is the
// likeliest token, the first of several. `log_probs` are at the temperature, at 1 for temperature 0. A row's draws are
// `ends[row - 1]..ends[row]`; the first row's begin at 0 unless other rows come before it (`continues`).
extern "C" __global__ void __launch_bounds__(DRAW_THREADS)
    draw(const float *logits, int vocab, const float *temperatures, const double *uniforms, const uint32_t *ends,
         int continues, uint32_t *tokens, float *log_probs) {
    constexpr int WARPS = DRAW_THREADS / WARP;
    __shared__ float maxima[WARPS];
    __shared__ int places[WARPS];
    __shared__ double sums[WARPS];
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const float *row = logits + (int64_t)blockIdx.x * vocab;
    const uint32_t begin = blockIdx.x == 0 && !continues ? 0 : ends[(int)blockIdx.x - 1], end = ends[blockIdx.x];
    if (begin == end) return;
    const float temperature = temperatures[blockIdx.x];
    // Each warp has a part of the vocabulary to itself, so that sums can be searched part by part.
    const int part = (vocab + WARPS * WARP - 1) / (WARPS * WARP) * WARP;
    const int from = min(vocab, warp * part), to = min(vocab, from + part);

    float maximum = -INFINITY;
    int place = INT32_MAX;
    for (int i = from + lane; i < to; i += WARP) {
        if (row[i] > maximum) {
            maximum = row[i];
            place = i;
        }
    }
    for (int offset = WARP / 2; offset > 0; offset /= 2) {
        const float other = __shfl_xor_sync(ALL, maximum, offset);
        const int other_place = __shfl_xor_sync(ALL, place, offset);
        if (other > maximum || (other == maximum && other_place < place)) {
            maximum = other;
            place = other_place;
        }
    }
    if (lane == 0) {
        maxima[warp] = maximum;
        places[warp] = place;
    }
    __syncthreads();
    maximum = maxima[0];
    place = places[0];
    for (int other = 1; other < WARPS; other++) {
        if (maxima[other] > maximum) {
            maximum = maxima[other];
            place = places[other];
        }
    }

    // Where no logit is a number, the host finds log-probabilities that are none either.
    if (place == INT32_MAX) place = 0;

    const float inverse = temperature > 0.0f ? 1.0f / temperature : 1.0f;
    double sum = 0.0;
    for (int i = from + lane; i < to; i += WARP) sum += __expf((row[i] - maximum) * inverse);
    for (int offset = WARP / 2; offset > 0; offset /= 2) sum += __shfl_xor_sync(ALL, sum, offset);
    if (lane == 0) sums[warp] = sum;
    __syncthreads();
    double total = 0.0;
    for (int other = 0; other < WARPS; other++) total += sums[other];
    const float normaliser = (float)log(total);

    if (temperature <= 0.0f) {
        for (uint32_t at = begin + threadIdx.x; at < end; at += DRAW_THREADS) {
            tokens[at] = place;
            log_probs[at] = -normaliser;
        }
        return;
    }
    int last_owner = WARPS - 1;
    while (last_owner > 0 && sums[last_owner] == 0.0) last_owner--;
    for (uint32_t at = begin + warp; at < end; at += WARPS) {
        const double target = uniforms[at] * total;
        double before = 0.0;
        int owner = 0;
        while (owner < last_owner && before + sums[owner] <= target) before += sums[owner++];
        const int first = min(vocab, owner * part), last = min(vocab, first + part);
        // Rounding may keep the sum below the target: then it is the last token that has any probability.
        int found = -1, last_likely = place;
        for (int base = first; base < last && found < 0; base += WARP) {
            const int i = base + lane;
            const double mass = i < last ? (double)__expf((row[i] - maximum) * inverse) : 0.0;
            double upto = mass;
            for (int offset = 1; offset < WARP; offset *= 2) {
                const double other = __shfl_up_sync(ALL, upto, offset);
                if (lane >= offset) upto += other;
            }
            const unsigned reached = __ballot_sync(ALL, mass > 0.0 && before + upto > target);
            if (reached) found = base + __ffs(reached) - 1;
            const unsigned likely = __ballot_sync(ALL, mass > 0.0);
            if (likely) last_likely = base + WARP - 1 - __clz(likely);
            before += __shfl_sync(ALL, upto, WARP - 1);
        }
        if (lane == 0) {
            const int token = found >= 0 ? found : last_likely;
            tokens[at] = token;
            log_probs[at] = (row[token] - maximum) * inverse - normaliser;
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// The kernels by name, of each type of number.

#define ATTEND(T, NAME, VEC, LANES, G)                                                                                         \
    extern "C" __global__ void __launch_bounds__(ATTEND_THREADS) attend_##LANES##x##VEC##_##G##_##NAME(                        \
        const float *q, int q_stride, const T *cache, const uint32_t *queries, const uint32_t *path, const uint2 *spans,       \
        int heads, int kv_heads, int head_dim, float scale, int window, float cap, int splits, float *partial, T *out,         \
        float *out32) {                                                                                                        \
        attend<T, VEC, LANES, G>(q, q_stride, cache, queries, path, spans, heads, kv_heads, head_dim, scale, window, cap,      \
                                 splits, partial, out, out32);                                                                 \
    }

#define ATTEND_GROUPS(T, NAME, VEC, LANES)                                                                                     \
    ATTEND(T, NAME, VEC, LANES, 1)                                                                                             \
    ATTEND(T, NAME, VEC, LANES, 2)                                                                                             \
    ATTEND(T, NAME, VEC, LANES, 4)                                                                                             \
    ATTEND(T, NAME, VEC, LANES, 8)

#define KERNELS(T, NAME)                                                                                                       \
    extern "C" __global__ void embed_##NAME(const T *embedding, const uint32_t *tokens, float scale, int width, float *x) {    \
        embed<T>(embedding, tokens, scale, width, x);                                                                          \
    }                                                                                                                          \
    extern "C" __global__ void rms_norm_##NAME(const float *x, const uint32_t *rows, const float *weight, float eps,           \
                                               int width, T *y, float *y32) {                                                  \
        rms_norm<T>(x, rows, weight, eps, width, y, y32);                                                                      \
    }                                                                                                                          \
    extern "C" __global__ void gate_##NAME(const float *gate_up, const float *bias, int inner, int gelu, T *y, float *y32) {   \
        gate<T>(gate_up, bias, inner, gelu, y, y32);                                                                           \
    }                                                                                                                          \
    extern "C" __global__ void place_qkv_##NAME(float *qkv, const float *bias, const float *q_norm, const float *k_norm,       \
                                                float eps, const float *frequencies, const uint32_t *positions,                \
                                                const uint32_t *nodes, int heads, int kv_heads, int head_dim, T *cache) {      \
        place_qkv<T>(qkv, bias, q_norm, k_norm, eps, frequencies, positions, nodes, heads, kv_heads, head_dim, cache);         \
    }                                                                                                                          \
    extern "C" __global__ void combine_##NAME(const float *partial, const uint32_t *queries, int heads, int head_dim,          \
                                              int splits, T *out, float *out32) {                                              \
        combine<T>(partial, queries, heads, head_dim, splits, out, out32);                                                     \
    }                                                                                                                          \
    ATTEND_GROUPS(T, NAME, 4, 4)                                                                                               \
    ATTEND_GROUPS(T, NAME, 8, 4)                                                                                               \
    ATTEND_GROUPS(T, NAME, 8, 8)                                                                                               \
    ATTEND_GROUPS(T, NAME, 8, 16)                                                                                              \
    ATTEND_GROUPS(T, NAME, 8, 32)

KERNELS(float, f32)
KERNELS(__nv_bfloat16, bf16)
