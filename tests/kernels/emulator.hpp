// Runs CUDA kernels on a CPU: slowly, but exactly as written, with every thread of a block and with the exchanges inside of
// a warp. The kernels are compiled as they are, behind this file: as a program for each module (`program.hpp`), or as a card
// that the whole server uses (`card.cpp`).
//
// The threads of a block are fibers of one thread. One runs until it has to wait for others: for its warp, where numbers are
// exchanged or matrices multiplied, or for its block, at a barrier. Blocks run one after another, in any order. Built with the
// address sanitizer, it stops at any access beyond the memory that a kernel was given or has shared; built for `races.cpp`, at
// accesses of two threads that nothing orders, and where shared memory is read that was not written. What it does not show is how
// fast anything is.
#pragma once

#include <ucontext.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "races.hpp"

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
// Left as it is where a build looks for it.
#if !defined(__launch_bounds__)
#define __launch_bounds__(...)
#endif
#define __align__(bytes) __attribute__((aligned(bytes)))
// There is one block at a time. `races.cpp` finds by its place what is shared.
#if defined(FIND_RACES)
#define __shared__ thread_local
#else
#define __shared__ static
#endif

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

inline Dimensions threadIdx, blockIdx, blockDim, gridDim;

namespace emulator {

constexpr int WARP = 32;
constexpr size_t STACK = 128 << 10;
// What a kernel asks for when it is started; more than any card has.
constexpr size_t SHARED = 256 << 10;

[[noreturn]] inline void fail(const std::string &why) {
    fprintf(stderr, "block (%u, %u, %u), thread %u: %s\n", blockIdx.x, blockIdx.y, blockIdx.z, threadIdx.x, why.c_str());
    _exit(3);
}

// Puts a thread aside and goes on with another one.
#if defined(__x86_64__)
// A call keeps six registers, and the stack has all the rest. To switch by the C library takes two system calls.
using Context = void *;

[[gnu::naked, gnu::noipa, gnu::no_sanitize("thread")]] inline void switch_to(Context *, Context *) {
    asm("push %rbp; push %rbx; push %r12; push %r13; push %r14; push %r15;"
        "mov %rsp, (%rdi); mov (%rsi), %rsp;"
        "pop %r15; pop %r14; pop %r13; pop %r12; pop %rbx; pop %rbp; ret");
}

inline void prepare(Context &context, char *stack, size_t bytes, void (*enter)()) {
    // It is entered as if it had been called: eight bytes above a multiple of sixteen.
    void **top = (void **)((uintptr_t)(stack + bytes) / 16 * 16) - 2;
    *top = (void *)enter;
    context = top - 6;
}
#else
using Context = ucontext_t;

inline void switch_to(Context *from, Context *to) { swapcontext(from, to); }

inline void prepare(Context &context, char *stack, size_t bytes, void (*enter)()) {
    getcontext(&context);
    context.uc_stack.ss_sp = stack;
    context.uc_stack.ss_size = bytes;
    makecontext(&context, enter, 0);
    // The sanitizer forgets what it knows of a stack that it sees switched to, so it is not told of these.
    context.uc_stack = {};
}
#endif

// What waits together: a warp, or the threads of a block that have not ended. None is ahead of the others by more than one meeting,
// so all are at the n-th when they have come n times each.
struct Group {
    uint64_t came, threads;
    // Where in the kernel: of this meeting, and of the one before.
    int lines[2];

    bool is_at(uint64_t meeting) const { return came >= meeting * threads; }
};

struct Fiber {
    Context context;
    std::unique_ptr<char[]> stack;
    bool has_ended;
    // How often it has met its warp, and its block; and how often its warp to see what others have written.
    uint64_t meetings, barriers, syncs;
    // What it waits for: a group, and which of its meetings.
    const Group *group;
    uint64_t meeting;
};

// What the threads of a warp have brought to a meeting. A thread comes to the next one only after it has taken what it needs
// of this one, so two are enough.
struct alignas(16) Warp {
    unsigned char brought[2][WARP][32];
    Group group;
};

// The first so many are the threads of the block; the rest wait for a larger one.
inline auto &fibers = *new std::vector<std::unique_ptr<Fiber>>();
inline size_t threads;
inline auto &warps = *new std::vector<Warp>();
inline Group block;
// Of each barrier of a block, whether any thread has said yes.
inline auto &any = *new std::vector<int>();
inline Context scheduler;
inline size_t current;
inline auto &body = *new std::function<void()>();

// What is accessed from now on is accessed by this thread.
inline void follow(const Fiber &fiber) { races::follow(current, fiber.barriers, fiber.syncs); }

inline void pause() { switch_to(&fibers[current]->context, &scheduler); }

// A thread of one block after another.
inline void enter() {
    for (;;) {
        body();
        Fiber &fiber = *fibers[current];
        fiber.has_ended = true;
        block.threads--;
        block.came -= fiber.barriers;
        pause();
    }
}

inline void wait(Group &group, uint64_t meeting, int line) {
    int &of_all = group.lines[meeting % 2];
    if (group.came == (meeting - 1) * group.threads) of_all = line;
    if (of_all != line) fail("threads meet in lines " + std::to_string(of_all) + " and " + std::to_string(line));
    group.came++;
    if (group.is_at(meeting)) return;
    fibers[current]->group = &group;
    fibers[current]->meeting = meeting;
    pause();
}

// Waits for the warp; `value` is what this thread brings. Returns what all have brought.
template <typename T> auto meet(const T &value, int line) {
    static_assert(sizeof(T) <= 32);
    const size_t warp = current / WARP;
    const uint64_t meeting = ++fibers[current]->meetings;
    memcpy(warps[warp].brought[meeting % 2][current % WARP], &value, sizeof value);
    wait(warps[warp].group, meeting, line);
    return [warp, meeting](int lane) {
        T value;
        memcpy(&value, warps[warp].brought[meeting % 2][lane], sizeof value);
        return value;
    };
}

inline int barrier(int says, int line) {
    const uint64_t number = fibers[current]->barriers++;
    if (any.size() <= number) any.resize(number + 1, 0);
    any[number] |= says != 0;
    wait(block, number + 1, line);
    follow(*fibers[current]);
    return any[number];
}

inline void sync_warp(int line) {
    meet(0, line);
    fibers[current]->syncs++;
    follow(*fibers[current]);
}

} // namespace emulator

// The shared memory that a kernel is given when it is started.
inline float4 room[emulator::SHARED / sizeof(float4)];

#define HERE int line = __builtin_LINE()

inline void __syncthreads(HERE) { emulator::barrier(0, line); }
inline int __syncthreads_or(int says, HERE) { return emulator::barrier(says, line); }
inline void __syncwarp(HERE) { emulator::sync_warp(line); }

template <typename T> T __shfl_sync(unsigned, T value, int lane, HERE) { return emulator::meet(value, line)(lane); }

template <typename T> T __shfl_xor_sync(unsigned, T value, int mask, HERE) {
    return emulator::meet(value, line)((int)(emulator::current % emulator::WARP) ^ mask);
}

template <typename T> T __shfl_up_sync(unsigned, T value, unsigned by, HERE) {
    const int lane = emulator::current % emulator::WARP;
    return emulator::meet(value, line)(lane >= (int)by ? lane - (int)by : lane);
}

inline unsigned __ballot_sync(unsigned, int says, HERE) {
    const auto said = emulator::meet(says, line);
    unsigned votes = 0;
    for (int lane = 0; lane < emulator::WARP; lane++) votes |= (unsigned)(said(lane) != 0) << lane;
    return votes;
}

inline int __any_sync(unsigned mask, int says, HERE) { return __ballot_sync(mask, says, line) != 0; }

// ---- Memory. There is one kind of it, and blocks run one after another.

template <typename T> T __ldcg(const T *from) { return *from; }
template <typename T> T __ldcs(const T *from) { return *from; }
inline void __threadfence() { races::fence(); }

[[gnu::noinline, gnu::no_sanitize("thread")]] inline unsigned atomicAdd(unsigned *to, unsigned more) {
    races::atomic(to, sizeof *to, __builtin_return_address(0));
    const unsigned before = *to;
    *to += more;
    return before;
}

// ---- Matrix units, as the PTX ISA describes where threads have their numbers.

// Not put into its callers: the address sanitizer looks at arrays that are in memory, and not at what the compiler makes of them in
// registers. A race is to be known by the line of the kernel.
#if defined(FIND_RACES)
#define ON_ITS_OWN [[gnu::always_inline]] inline
#else
#define ON_ITS_OWN [[gnu::noinline]] inline
#endif

namespace emulator {

inline float half_of(uint32_t both, int second) { return __bfloat162float({(uint16_t)(both >> (second ? 16 : 0))}); }

} // namespace emulator

// mma.m16n8k16: c += a b.
ON_ITS_OWN void multiply_add(float *c, const uint32_t *a, const uint32_t *b, HERE) {
    struct { uint32_t a[4], b[2]; } own;
    memcpy(own.a, a, sizeof own.a);
    memcpy(own.b, b, sizeof own.b);
    const auto all = emulator::meet(own, line);
    const int lane = emulator::current % emulator::WARP;
    // Two rows of a and two columns of b, each of which four threads have.
    float rows[2][16], columns[2][16];
    for (int from = 0; from < 4; from++) {
        const auto of_rows = all(lane / 4 * 4 + from);
        for (int i = 0; i < 2; i++) {
            const auto of_column = all((lane % 4 * 2 + i) * 4 + from);
            for (int k = 0; k < 4; k++) {
                const int place = k / 2 * 8 + from * 2 + k % 2;
                rows[i][place] = emulator::half_of(of_rows.a[i + k / 2 * 2], k % 2);
                columns[i][place] = emulator::half_of(of_column.b[k / 2], k % 2);
            }
        }
    }
    for (int i = 0; i < 4; i++) {
        float sum = 0.0f;
        for (int k = 0; k < 16; k++) sum += rows[i / 2][k] * columns[i % 2][k];
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
ON_ITS_OWN void load_matrices(uint32_t *b, const __nv_bfloat16 *row, HERE) {
    const auto rows = emulator::meet((uint64_t)row, line);
    const int lane = emulator::current % emulator::WARP;
    for (int i = 0; i < 4; i++) {
        const uint16_t *from = emulator::row_of(rows(i * 8 + lane / 4)) + lane % 4 * 2;
        b[i] = from[0] | (uint32_t)from[1] << 16;
    }
    // The memory may be written to only after all have read it.
    emulator::meet(0, line);
}

// ldmatrix.x4.trans
ON_ITS_OWN void load_transposed(uint32_t *b, const __nv_bfloat16 *row, HERE) {
    const auto rows = emulator::meet((uint64_t)row, line);
    const int lane = emulator::current % emulator::WARP;
    for (int i = 0; i < 4; i++) {
        const uint16_t *low = emulator::row_of(rows(i * 8 + lane % 4 * 2));
        const uint16_t *high = emulator::row_of(rows(i * 8 + lane % 4 * 2 + 1));
        b[i] = low[lane / 4] | (uint32_t)high[lane / 4] << 16;
    }
    emulator::meet(0, line);
}

// ---- Launches.

namespace emulator {

inline std::minstd_rand random;

inline void run_block() {
    races::start_block(blockIdx.x, blockIdx.y, blockIdx.z);
    warps.assign((threads + WARP - 1) / WARP, Warp{{}, {0, WARP, {}}});
    block = {0, threads, {}};
    any.clear();
    for (size_t thread = 0; thread < threads; thread++) {
        Fiber &fiber = *fibers[thread];
        fiber.has_ended = false;
        fiber.meetings = fiber.barriers = fiber.syncs = 0;
        fiber.group = nullptr;
    }
    while (block.threads > 0) {
        // From either end, as what a thread has left for others may be there by chance only.
        const bool is_upward = random() % 2 == 0;
        bool has_run = false;
        for (size_t i = 0; i < threads; i++) {
            current = is_upward ? i : threads - 1 - i;
            Fiber &fiber = *fibers[current];
            if (fiber.has_ended || (fiber.group && !fiber.group->is_at(fiber.meeting))) continue;
            fiber.group = nullptr;
            has_run = true;
            threadIdx = {(unsigned)current, 0, 0};
            follow(fiber);
            switch_to(&scheduler, &fiber.context);
        }
        if (!has_run) fail("the threads of a block or of a warp wait for each other in different places, or for one that has ended");
    }
}

// Runs the blocks of a grid one after another, in another order each time.
inline void run(Dimensions grid, unsigned of_block, size_t shared_bytes, std::function<void()> thread) {
    gridDim = grid;
    blockDim = {of_block, 1, 1};
    threads = of_block;
    body = std::move(thread);
    if (threads > 1024 || shared_bytes > SHARED) fail("a block has too many threads, or too much memory");
    while (fibers.size() < threads) {
        auto fiber = std::make_unique<Fiber>();
        fiber->stack.reset(new char[STACK]);
        prepare(fiber->context, fiber->stack.get(), STACK, enter);
        fibers.push_back(std::move(fiber));
    }
    std::vector<size_t> order((size_t)grid.x * grid.y * grid.z);
    for (size_t i = 0; i < order.size(); i++) order[i] = i;
    std::shuffle(order.begin(), order.end(), random);
    races::watch(room, shared_bytes, "shared memory", true);
    races::start_launch();
    // What was there before is no number.
    ASAN_UNPOISON_MEMORY_REGION(room, SHARED);
    for (size_t i : order) {
        blockIdx = {(unsigned)(i % grid.x), (unsigned)(i / grid.x % grid.y), (unsigned)(i / grid.x / grid.y)};
        memset(room, 0xff, shared_bytes);
        ASAN_POISON_MEMORY_REGION((char *)room + shared_bytes, SHARED - shared_bytes);
        run_block();
        ASAN_UNPOISON_MEMORY_REGION(room, SHARED);
    }
    races::end_launch();
    races::unwatch(room);
}

// How large the parameters of a kernel are, and how it is called with their addresses.
struct Signature {
    std::vector<size_t> sizes;
    std::vector<bool> are_pointers;
    std::function<void(const std::vector<const void *> &)> call;
};

template <typename... T, size_t... I>
void call(void (*kernel)(T...), const std::vector<const void *> &arguments, std::index_sequence<I...>) {
    kernel(*reinterpret_cast<const T *>(arguments[I])...);
}

template <typename... T> Signature signature(void (*kernel)(T...)) {
    auto with = [kernel](const std::vector<const void *> &arguments) {
        call(kernel, arguments, std::index_sequence_for<T...>());
    };
    return {{sizeof(T)...}, {std::is_pointer_v<T>...}, with};
}

} // namespace emulator
