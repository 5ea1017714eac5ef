// The kernels of candle that the server starts, by their names and parameters: candle's own are tested where candle is.
//
// Each has a thread for a number of the result. `info` is the shape, and then the strides of each input in numbers; none if all of them
// are contiguous.

#include "card.hpp"

namespace {

// Where a number of the result is found in input `input`.
size_t place(size_t i, size_t dims, const size_t *info, int input = 0) {
    if (!info) return i;
    size_t found = 0;
    for (size_t d = dims; d-- > 0; i /= info[d]) found += i % info[d] * info[dims * (1 + input) + d];
    return found;
}

// Calls `each` with what is this thread's.
template <typename Each> void go_over(size_t count, Each each) {
    for (size_t i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += (size_t)blockDim.x * gridDim.x) each(i);
}

template <typename T> void copy2d(const T *from, T *to, uint32_t rows, uint32_t columns, uint32_t from_stride, uint32_t to_stride) {
    go_over((size_t)rows * columns, [=](size_t i) { to[i / columns * to_stride + i % columns] = from[i / columns * from_stride + i % columns]; });
}

template <typename S, typename T, T (*F)(S)> void unary(size_t count, size_t dims, const size_t *info, const S *from, T *to) {
    go_over(count, [=](size_t i) { to[i] = F(from[place(i, dims, info)]); });
}

template <typename T, T (*F)(T, T)> void binary(size_t count, size_t dims, const size_t *info, const T *a, const T *b, T *to) {
    go_over(count, [=](size_t i) { to[i] = F(a[place(i, dims, info)], b[place(i, dims, info, 1)]); });
}

template <typename T> void affine(size_t count, size_t dims, const size_t *info, const T *from, T *to, T by, T more) {
    go_over(count, [=](size_t i) { to[i] = from[place(i, dims, info)] * by + more; });
}

template <typename T> void const_set(size_t count, size_t dims, const size_t *info, T value, T *to) {
    go_over(count, [=](size_t i) { to[place(i, dims, info)] = value; });
}

// Of contiguous rows; `info` is of the ids.
template <typename T>
void index_select(size_t count, size_t, const size_t *, const uint32_t *ids, const T *from, T *to, size_t, size_t rows, size_t selected,
                  size_t width) {
    go_over(count, [=](size_t i) {
        const uint32_t id = ids[i / width % selected];
        if (id >= rows) emulator::fail("a row is selected that is not there");
        to[i] = from[(i / width / selected * rows + id) * width + i % width];
    });
}

template <typename T>
void index_add(const uint32_t *ids, size_t selected, const T *from, T *to, size_t outer, size_t, size_t rows, size_t width) {
    go_over(outer * width, [=](size_t i) {
        for (size_t j = 0; j < selected; j++) {
            if (ids[j] >= rows) emulator::fail("a row is added to that is not there");
            to[(i / width * rows + ids[j]) * width + i % width] += from[(i / width * selected + j) * width + i % width];
        }
    });
}

// A block for each sum.
template <typename T> void sum(size_t, size_t summed, size_t dims, const size_t *info, const T *from, T *to) {
    if (threadIdx.x > 0) return;
    T sum = 0;
    for (size_t i = 0; i < summed; i++) sum += from[place(blockIdx.x * summed + i, dims, info)];
    to[blockIdx.x] = sum;
}

// A thread for each.
template <typename T> void sum_few(size_t count, size_t summed, size_t dims, const size_t *info, const T *from, T *to) {
    go_over(count, [=](size_t sum) {
        to[sum] = 0;
        for (size_t i = 0; i < summed; i++) to[sum] += from[place(sum * summed + i, dims, info)];
    });
}

template <typename T> T same(T x) { return x; }

using card::add;

const bool known[] = {
    add("copy2d_f32", emulator::signature(copy2d<float>)),
    add("copy2d_bf16", emulator::signature(copy2d<__nv_bfloat16>)),
    add("ucopy_f32", emulator::signature(unary<float, float, same<float>>)),
    add("ucopy_bf16", emulator::signature(unary<__nv_bfloat16, __nv_bfloat16, same<__nv_bfloat16>>)),
    add("cast_f32_bf16", emulator::signature(unary<float, __nv_bfloat16, __float2bfloat16>)),
    add("cast_bf16_f32", emulator::signature(unary<__nv_bfloat16, float, __bfloat162float>)),
    add("usqr_f32", emulator::signature(unary<float, float, [](float x) { return x * x; }>)),
    add("utanh_f32", emulator::signature(unary<float, float, tanhf>)),
    add("usqrt_f32", emulator::signature(unary<float, float, sqrtf>)),
    add("affine_f32", emulator::signature(affine<float>)),
    add("badd_f32", emulator::signature(binary<float, [](float a, float b) { return a + b; }>)),
    add("bsub_f32", emulator::signature(binary<float, [](float a, float b) { return a - b; }>)),
    add("bmul_f32", emulator::signature(binary<float, [](float a, float b) { return a * b; }>)),
    add("bdiv_f32", emulator::signature(binary<float, [](float a, float b) { return a / b; }>)),
    add("const_set_f32", emulator::signature(const_set<float>)),
    add("is_u32_f32", emulator::signature(index_select<float>)),
    add("is_u32_bf16", emulator::signature(index_select<__nv_bfloat16>)),
    add("ia_u32_f32", emulator::signature(index_add<float>)),
    add("fast_sum_f32", emulator::signature(sum<float>)),
    add("fast_sum_small_f32", emulator::signature(sum_few<float>)),
};

} // namespace
