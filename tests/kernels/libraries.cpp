// What the server uses of cuBLAS and cuRAND, for the emulated card.

#include <chrono>
#include <random>
#include <thread>

#include "card.hpp"

namespace {

// The numbers that the enumerations of the libraries have for what is used of them.
constexpr int SUCCESS = 0, INVALID_VALUE = 7, EXECUTION_FAILED = 13, NOT_SUPPORTED = 15;
constexpr int TRANSPOSED = 1, F32 = 0, BF16 = 14, COMPUTE_32F = 68;

struct Handle {
    card::Stream *stream = nullptr;
    // Which products may write to.
    char *workspace = nullptr;
    size_t bytes = 0;
};

// A matrix in columns, as cuBLAS has them: `stride` numbers lie between the beginnings of two.
struct Matrix {
    const void *at;
    int type, stride;
    bool is_transposed;

    float get(int row, int column) const {
        const int64_t place = is_transposed ? (int64_t)row * stride + column : (int64_t)column * stride + row;
        if (type == F32) return static_cast<const float *>(at)[place];
        return __bfloat162float(static_cast<const __nv_bfloat16 *>(at)[place]);
    }
};

void multiply(int m, int n, int k, float alpha, Matrix a, Matrix b, float beta, float *c, int stride) {
    std::vector<float> rows((size_t)m * k), columns((size_t)n * k);
    for (int row = 0; row < m; row++)
        for (int i = 0; i < k; i++) rows[(size_t)row * k + i] = a.get(row, i);
    for (int column = 0; column < n; column++)
        for (int i = 0; i < k; i++) columns[(size_t)column * k + i] = b.get(i, column);
    for (int column = 0; column < n; column++)
        for (int row = 0; row < m; row++) {
            const float *first = &rows[(size_t)row * k], *second = &columns[(size_t)column * k];
            double sum = 0.0;
            for (int i = 0; i < k; i++) sum += (double)first[i] * second[i];
            float &to = c[(int64_t)column * stride + row];
            // What is there does not count then, even if it is no number.
            to = beta == 0.0f ? alpha * sum : alpha * sum + beta * to;
        }
}

int queue(void *handle, std::function<void()> work) {
    return card::queue(static_cast<Handle *>(handle)->stream, std::move(work)) == 0 ? SUCCESS : EXECUTION_FAILED;
}

const void *moved(const void *from, int64_t numbers, int type) {
    return static_cast<const char *>(from) + numbers * (type == F32 ? 4 : 2);
}

} // namespace

extern "C" {

int cublasCreate_v2(void **handle) {
    *handle = new Handle();
    return SUCCESS;
}

int cublasDestroy_v2(void *handle) {
    delete static_cast<Handle *>(handle);
    return SUCCESS;
}

int cublasSetStream_v2(void *handle, card::Stream *stream) {
    static_cast<Handle *>(handle)->stream = stream;
    return SUCCESS;
}

int cublasSetWorkspace_v2(void *handle, void *at, size_t bytes) {
    if ((uintptr_t)at % 256 != 0) return INVALID_VALUE;
    static_cast<Handle *>(handle)->workspace = static_cast<char *>(at);
    static_cast<Handle *>(handle)->bytes = bytes;
    return SUCCESS;
}

int cublasGemmStridedBatchedEx(void *handle, int transposed_a, int transposed_b, int m, int n, int k, const void *alpha, const void *a,
                               int type_a, int stride_a, long long batch_a, const void *b, int type_b, int stride_b,
                               long long batch_b, const void *beta, void *c, int type_c, int stride_c, long long batch_c, int count,
                               int computes, int) {
    // Summed up in f32, from numbers that are not rounded.
    if (computes != COMPUTE_32F) return NOT_SUPPORTED;
    if (m < 0 || n < 0 || k < 0 || stride_c < m) return INVALID_VALUE;
    if (stride_a < (transposed_a == TRANSPOSED ? k : m) || stride_b < (transposed_b == TRANSPOSED ? n : k)) return INVALID_VALUE;
    for (int type : {type_a, type_b, type_c})
        if (type != F32 && type != BF16) return NOT_SUPPORTED;
    if (type_a != type_b || type_c != F32) return NOT_SUPPORTED;
    const float by = *static_cast<const float *>(alpha), keeps = *static_cast<const float *>(beta);
    const Handle of = *static_cast<Handle *>(handle);
    return queue(handle, [=] {
        if (of.bytes > 0) of.workspace[0] = of.workspace[of.bytes - 1] = -1;
        if (type_a == BF16) std::this_thread::sleep_for(std::chrono::microseconds(card::setting("slow", 0)));
        for (int i = 0; i < count; i++) {
            const Matrix first = {moved(a, i * batch_a, type_a), type_a, stride_a, transposed_a == TRANSPOSED};
            const Matrix second = {moved(b, i * batch_b, type_b), type_b, stride_b, transposed_b == TRANSPOSED};
            multiply(m, n, k, by, first, second, keeps, static_cast<float *>(c) + i * batch_c, stride_c);
        }
    });
}

int cublasGemmEx(void *handle, int transposed_a, int transposed_b, int m, int n, int k, const void *alpha, const void *a, int type_a,
                 int stride_a, const void *b, int type_b, int stride_b, const void *beta, void *c, int type_c, int stride_c, int computes,
                 int algorithm) {
    return cublasGemmStridedBatchedEx(handle, transposed_a, transposed_b, m, n, k, alpha, a, type_a, stride_a, 0, b, type_b, stride_b, 0,
                                      beta, c, type_c, stride_c, 0, 1, computes, algorithm);
}

int cublasDgemmStridedBatched(void *, int, int, int, int, int, const double *, const double *, int, long long, const double *, int,
                              long long, const double *, double *, int, long long, int) {
    return NOT_SUPPORTED;
}

// candle makes a generator when it opens a device, and nothing here draws from it.
int curandCreateGenerator(void **generator, int) {
    *generator = new Handle();
    return SUCCESS;
}

int curandDestroyGenerator(void *generator) {
    delete static_cast<Handle *>(generator);
    return SUCCESS;
}

int curandSetPseudoRandomGeneratorSeed(void *, unsigned long long) { return SUCCESS; }
int curandSetStream(void *, void *) { return SUCCESS; }
int curandGenerateNormal(void *, float *, size_t, float, float) { return EXECUTION_FAILED; }
int curandGenerateNormalDouble(void *, double *, size_t, double, double) { return EXECUTION_FAILED; }

} // extern "C"
