// Runs CUDA kernels on a CPU: slowly, but exactly as written, with every thread of a block and with the exchanges inside of
// a warp. The kernels are compiled as they are, behind this file (`kernels.rs` puts both together).
//
// The threads of a block are fibers of one thread. One runs until it has to wait for others: for its warp, where numbers are
// exchanged or matrices multiplied, or for its block, at a barrier. Built with the address sanitizer, it stops at any access
// beyond the memory that a kernel was given or has shared. What it does not show: races, and how fast anything is.

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(at, size)
#define ASAN_UNPOISON_MEMORY_REGION(at, size)
#endif

using std::max;
using std::min;

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))
// There is one block at a time.
#define __shared__ static

struct uint2 { uint32_t x, y; };
struct float2 { float x, y; };
struct alignas(16) uint4 { uint32_t x, y, z, w; };
struct alignas(16) float4 { float x, y, z, w; };
inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

struct __nv_bfloat16 { uint16_t bits; };
struct __nv_bfloat162 { __nv_bfloat16 x, y; };

inline float __bfloat162float(__nv_bfloat16 value) {
    const uint32_t bits = (uint32_t)value.bits << 16;
    float number;
    memcpy(&number, &bits, sizeof number);
    return number;
}

// To the nearest, to the even one of two.
inline __nv_bfloat16 __float2bfloat16(float number) {
    uint32_t bits;
    memcpy(&bits, &number, sizeof bits);
    if (number != number) return {0x7fff};
    return {(uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) { return {__float2bfloat16(x), __float2bfloat16(y)}; }
inline float __expf(float x) { return expf(x); }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline int __ffs(unsigned x) { return __builtin_ffs(x); }
inline int __clz(unsigned x) { return x ? __builtin_clz(x) : 32; }

// ---- Threads.

struct Dimensions { unsigned x, y, z; };

Dimensions threadIdx, blockIdx, blockDim, gridDim;

namespace emulator {

constexpr int WARP = 32;
constexpr size_t STACK = 128 << 10;
// What a kernel asks for when it is started; more than any card has.
constexpr size_t SHARED = 256 << 10;

[[noreturn]] inline void fail(const std::string &why) {
    fprintf(stderr, "block (%u, %u, %u), thread %u: %s\n", blockIdx.x, blockIdx.y, blockIdx.z, threadIdx.x, why.c_str());
    exit(3);
}

struct Fiber {
    ucontext_t context;
    std::unique_ptr<char[]> stack;
    bool has_ended;
    // How often it has met its warp, and its block.
    uint64_t meetings, barriers;
};

// What the threads of a warp have brought to a meeting. A thread comes to the next one only after it has taken what it needs
// of this one, so two are enough.
struct alignas(16) Brought {
    unsigned char bytes[2][WARP][32];
};

inline std::vector<Fiber> fibers;
inline std::vector<Brought> brought;
// Of each barrier of a block, whether any thread has said yes.
inline std::vector<int> any;
inline ucontext_t scheduler;
inline size_t current;
inline std::function<void()> body;

inline void pause() { swapcontext(&fibers[current].context, &scheduler); }

inline void enter() {
    body();
    fibers[current].has_ended = true;
    pause();
}

// Waits for the warp; `value` is what this thread brings. Returns what all have brought.
template <typename T> auto meet(const T &value) {
    static_assert(sizeof(T) <= 32);
    const size_t warp = current / WARP, first = warp * WARP;
    const uint64_t meeting = ++fibers[current].meetings;
    memcpy(brought[warp].bytes[meeting % 2][current % WARP], &value, sizeof value);
    for (size_t other = first; other < first + WARP;) {
        if (fibers[other].meetings >= meeting) {
            other++;
        } else if (fibers[other].has_ended) {
            fail("a thread of the warp has ended before an exchange that all take part in");
        } else {
            pause();
        }
    }
    return [warp, meeting](int lane) {
        T value;
        memcpy(&value, brought[warp].bytes[meeting % 2][lane], sizeof value);
        return value;
    };
}

inline int barrier(int says) {
    const uint64_t number = fibers[current].barriers++;
    if (any.size() <= number) any.resize(number + 1, 0);
    any[number] |= says != 0;
    for (size_t other = 0; other < fibers.size();) {
        if (fibers[other].has_ended || fibers[other].barriers > number) {
            other++;
        } else {
            pause();
        }
    }
    return any[number];
}

} // namespace emulator

// The shared memory that a kernel is given when it is started.
float4 room[emulator::SHARED / sizeof(float4)];

inline void __syncthreads() { emulator::barrier(0); }
inline int __syncthreads_or(int says) { return emulator::barrier(says); }
inline void __syncwarp() { emulator::meet(0); }

template <typename T> T __shfl_sync(unsigned, T value, int lane) { return emulator::meet(value)(lane); }

template <typename T> T __shfl_xor_sync(unsigned, T value, int mask) {
    return emulator::meet(value)((int)(emulator::current % emulator::WARP) ^ mask);
}

template <typename T> T __shfl_up_sync(unsigned, T value, unsigned by) {
    const int lane = emulator::current % emulator::WARP;
    return emulator::meet(value)(lane >= (int)by ? lane - (int)by : lane);
}

inline unsigned __ballot_sync(unsigned, int says) {
    const auto said = emulator::meet(says);
    unsigned votes = 0;
    for (int lane = 0; lane < emulator::WARP; lane++) votes |= (unsigned)(said(lane) != 0) << lane;
    return votes;
}

inline int __any_sync(unsigned mask, int says) { return __ballot_sync(mask, says) != 0; }

// ---- Memory. There is one kind of it, and blocks run one after another.

template <typename T> T __ldcg(const T *from) { return *from; }
template <typename T> T __ldcs(const T *from) { return *from; }
inline void __threadfence() {}

inline unsigned atomicAdd(unsigned *to, unsigned more) {
    const unsigned before = *to;
    *to += more;
    return before;
}

// ---- Matrix units, as the PTX ISA describes where threads have their numbers.

// Not put into its callers: the sanitizer looks at arrays that are in memory, and not at what the compiler makes of them in
// registers.
#define ON_ITS_OWN [[gnu::noinline]] inline

namespace emulator {

inline float half_of(uint32_t both, int second) { return __bfloat162float({(uint16_t)(both >> (second ? 16 : 0))}); }

} // namespace emulator

// mma.m16n8k16: c += a b.
ON_ITS_OWN void multiply_add(float *c, const uint32_t *a, const uint32_t *b) {
    struct { uint32_t a[4], b[2]; } own;
    memcpy(own.a, a, sizeof own.a);
    memcpy(own.b, b, sizeof own.b);
    const auto all = emulator::meet(own);
    const int lane = emulator::current % emulator::WARP;
    for (int i = 0; i < 4; i++) {
        const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
        float sum = 0.0f;
        for (int k = 0; k < 16; k++) {
            const uint32_t first = all(row % 8 * 4 + k % 8 / 2).a[row / 8 + k / 8 * 2];
            const uint32_t second = all(column * 4 + k % 8 / 2).b[k / 8];
            sum += emulator::half_of(first, k % 2) * emulator::half_of(second, k % 2);
        }
        c[i] += sum;
    }
}

namespace emulator {

// The row of a matrix that a thread has named.
inline const uint16_t *row_of(uint64_t at) {
    if (at % 16 != 0) fail("a row of a matrix does not begin at a multiple of 16 bytes");
    return reinterpret_cast<const uint16_t *>(at);
}

} // namespace emulator

// ldmatrix.x4
ON_ITS_OWN void load_matrices(uint32_t *b, const __nv_bfloat16 *row) {
    const auto rows = emulator::meet((uint64_t)row);
    const int lane = emulator::current % emulator::WARP;
    for (int i = 0; i < 4; i++) {
        const uint16_t *from = emulator::row_of(rows(i * 8 + lane / 4)) + lane % 4 * 2;
        b[i] = from[0] | (uint32_t)from[1] << 16;
    }
    // The memory may be written to only after all have read it.
    emulator::meet(0);
}

// ldmatrix.x4.trans
ON_ITS_OWN void load_transposed(uint32_t *b, const __nv_bfloat16 *row) {
    const auto rows = emulator::meet((uint64_t)row);
    const int lane = emulator::current % emulator::WARP;
    for (int i = 0; i < 4; i++) {
        const uint16_t *low = emulator::row_of(rows(i * 8 + lane % 4 * 2));
        const uint16_t *high = emulator::row_of(rows(i * 8 + lane % 4 * 2 + 1));
        b[i] = low[lane / 4] | (uint32_t)high[lane / 4] << 16;
    }
    emulator::meet(0);
}

// ---- Launches.

namespace emulator {

// Runs the blocks of a grid one after another.
inline void run(Dimensions grid, unsigned threads, size_t shared_bytes, std::function<void()> thread) {
    gridDim = grid;
    blockDim = {threads, 1, 1};
    body = std::move(thread);
    if (threads % WARP != 0 || threads > 1024 || shared_bytes > SHARED) {
        fprintf(stderr, "blocks of %u threads with %zu bytes cannot be started\n", threads, shared_bytes);
        exit(3);
    }
    fibers = std::vector<Fiber>(threads);
    for (auto &fiber : fibers) fiber.stack.reset(new char[STACK]);
    for (unsigned z = 0; z < grid.z; z++)
        for (unsigned y = 0; y < grid.y; y++)
            for (unsigned x = 0; x < grid.x; x++) {
                blockIdx = {x, y, z};
                brought.assign((threads + WARP - 1) / WARP, Brought());
                any.clear();
                // What was there before is no number.
                ASAN_UNPOISON_MEMORY_REGION(room, SHARED);
                memset(room, 0xff, SHARED);
                ASAN_POISON_MEMORY_REGION((char *)room + shared_bytes, SHARED - shared_bytes);
                for (auto &fiber : fibers) {
                    fiber.has_ended = false;
                    fiber.meetings = fiber.barriers = 0;
                    getcontext(&fiber.context);
                    fiber.context.uc_stack.ss_sp = fiber.stack.get();
                    fiber.context.uc_stack.ss_size = STACK;
                    fiber.context.uc_link = &scheduler;
                    makecontext(&fiber.context, enter, 0);
                    // The sanitizer forgets what it knows of a stack that it sees switched to, so it is not told of these.
                    fiber.context.uc_stack = {};
                    ASAN_UNPOISON_MEMORY_REGION(fiber.stack.get(), STACK);
                }
                for (bool is_running = true; is_running;) {
                    is_running = false;
                    uint64_t before = 0, after = 0;
                    for (current = 0; current < fibers.size(); current++) {
                        Fiber &fiber = fibers[current];
                        if (fiber.has_ended) continue;
                        is_running = true;
                        threadIdx = {(unsigned)current, 0, 0};
                        before += fiber.meetings + fiber.barriers;
                        swapcontext(&scheduler, &fiber.context);
                        after += fiber.meetings + fiber.barriers + fiber.has_ended;
                    }
                    if (is_running && before == after) fail("the threads of a block wait for each other in different places");
                }
            }
}

// An argument as it was read: the bytes of memory, none where a kernel is to be given none, or those of a number.
struct Argument {
    std::vector<unsigned char> bytes;
    bool is_buffer = false;
};

template <typename T> T take(const Argument &argument) {
    T value;
    if constexpr (std::is_pointer_v<T>) {
        if (!argument.is_buffer) fail("a kernel takes memory where there is a number");
        const void *at = argument.bytes.empty() ? nullptr : argument.bytes.data();
        memcpy(&value, &at, sizeof value);
    } else {
        if (argument.is_buffer || argument.bytes.size() != sizeof(T)) fail("a kernel takes a number of another size");
        memcpy(&value, argument.bytes.data(), sizeof value);
    }
    return value;
}

template <typename... T, size_t... I>
void call(void (*kernel)(T...), const std::vector<Argument> &arguments, std::index_sequence<I...>) {
    if (arguments.size() != sizeof...(T)) fail("a kernel takes another number of arguments");
    kernel(take<T>(arguments[I])...);
}

template <typename... T> auto with(void (*kernel)(T...)) {
    return [kernel](const std::vector<Argument> &arguments) { call(kernel, arguments, std::index_sequence_for<T...>()); };
}

inline uint64_t read_number() {
    uint64_t number;
    if (fread(&number, sizeof number, 1, stdin) != 1) {
        fprintf(stderr, "the launch is cut off\n");
        exit(3);
    }
    return number;
}

inline void read_bytes(void *to, size_t length) {
    if (length > 0 && fread(to, 1, length, stdin) != length) {
        fprintf(stderr, "the launch is cut off\n");
        exit(3);
    }
}

// Reads a launch from standard input, runs it, and writes what is in its buffers then.
template <typename Kernel> int serve(Kernel kernel) {
    Dimensions grid;
    grid.x = read_number();
    grid.y = read_number();
    grid.z = read_number();
    const unsigned threads = read_number();
    const size_t shared_bytes = read_number();
    std::vector<Argument> arguments(read_number());
    for (auto &argument : arguments) {
        argument.is_buffer = read_number() == 1;
        argument.bytes = std::vector<unsigned char>(read_number());
        read_bytes(argument.bytes.data(), argument.bytes.size());
    }
    run(grid, threads, shared_bytes, [&] { kernel(arguments); });
    for (const auto &argument : arguments)
        if (argument.is_buffer) fwrite(argument.bytes.data(), 1, argument.bytes.size(), stdout);
    return fflush(stdout) == 0 ? 0 : 3;
}

} // namespace emulator
