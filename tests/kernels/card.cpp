// A driver of CUDA for a card that is not there: kernels run in the emulator, and memory is the host's. With it the whole server
// runs as on a card, from the choice of the device to the graphs that it replays.
//
// What it is strict about, so that it shows what a card would only do now and then: work is queued, and done no sooner than
// somebody waits for it; memory that was never written to is no number (below 64 MiB); with the address sanitizer, memory is used neither beyond
// its end nor after it was freed, or else no two threads of a kernel access it without an order (`races.hpp`); calls need a context that
// is the thread's own; no kernel has more threads than it was compiled for; and what may not be recorded breaks a recording off.
//
// What it does not know: events, and other streams that work at the same time.
//
// The folder that EMULATED_CARD names says what the card is like, in files that may change meanwhile: `mib` its memory, `taken` how
// much of it others have, `refuses` that one of so many allocations fails, `lost` that the card has failed for good, `slow` the
// microseconds that cuBLAS takes more for a product of matrices in bf16, `breaks` that no recording comes to its end.

#include <cuda.h>

#include <deque>
#include <fstream>
#include <map>
#include <mutex>
#include <set>
#include <thread>

#include "card.hpp"

namespace card {

// In which everything is done by one thread at a time. This and all else that is global is never destroyed: threads may still compute
// while the program ends.
std::recursive_mutex &mutex = *new std::recursive_mutex();
using Lock = std::lock_guard<std::recursive_mutex>;

using Work = std::function<void()>;

struct Graph {
    std::vector<Work> work;
};

struct Stream {
    std::deque<Work> work;
    bool is_recording = false, is_broken = false;
    std::thread::id recorder;
    Graph recorded;
};

struct Function {
    emulator::Signature signature;
    unsigned threads;
    size_t shared_bytes = 48 << 10;
};

struct Context {};

constexpr int MULTIPROCESSORS = 3;
constexpr size_t SHARED_BYTES = 227 << 10;
constexpr size_t ALIGNMENT = 256;

Context context;
thread_local Context *current;
std::set<Stream *> &streams = *new std::set<Stream *>();
Stream &default_stream = *new Stream();

std::map<std::string, Function> &functions() {
    static std::map<std::string, Function> &functions = *new std::map<std::string, Function>();
    return functions;
}

bool add(const std::string &name, emulator::Signature signature, unsigned threads) {
    if (!functions().emplace(name, Function{std::move(signature), threads}).second) {
        fprintf(stderr, "two kernels have the name %s\n", name.c_str());
        abort();
    }
    return true;
}

long setting(const char *name, long otherwise) {
    static const char *folder = getenv("EMULATED_CARD");
    if (!folder) return otherwise;
    std::ifstream file(std::string(folder) + "/" + name);
    long number;
    return file >> number ? number : otherwise;
}

// What every call is answered with once the card is lost.
CUresult state() {
    const Lock lock(mutex);
    static bool is_lost;
    is_lost |= setting("lost", 0) != 0;
    return is_lost ? CUDA_ERROR_ILLEGAL_ADDRESS : CUDA_SUCCESS;
}

// What calls need that belong to a context.
CUresult ready() { return current ? state() : CUDA_ERROR_INVALID_CONTEXT; }

Stream &stream_of(CUstream stream) { return stream ? *reinterpret_cast<Stream *>(stream) : default_stream; }

void finish(Stream &stream) {
    while (!stream.work.empty()) {
        Work work = std::move(stream.work.front());
        stream.work.pop_front();
        work();
    }
}

void finish_all() {
    finish(default_stream);
    for (Stream *stream : streams) finish(*stream);
}

// Refuses a call while one of some streams records, and breaks that recording off.
CUresult unless_recording(const std::function<bool(const Stream &)> &counts) {
    CUresult found = CUDA_SUCCESS;
    for (Stream *stream : streams) {
        if (!stream->is_recording || !counts(*stream)) continue;
        stream->is_broken = true;
        found = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    }
    return found;
}

// A call on a stream.
CUresult unless_recording(CUstream only) {
    return unless_recording([&](const Stream &stream) { return &stream == &stream_of(only); });
}

// A call that a thread may not make while it records.
CUresult unless_this_records() {
    return unless_recording([](const Stream &stream) { return stream.recorder == std::this_thread::get_id(); });
}

int queue(Stream *stream, Work work) {
    const Lock lock(mutex);
    if (!stream) stream = &default_stream;
    if (const CUresult found = ready()) return found;
    if (stream->is_recording && stream->is_broken) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    if (stream->is_recording) {
        stream->recorded.work.push_back(std::move(work));
    } else {
        stream->work.push_back(std::move(work));
    }
    return CUDA_SUCCESS;
}

CUresult queue(CUstream stream, Work work) { return (CUresult)queue(&stream_of(stream), std::move(work)); }

// ---- Memory.

struct Memory {
    size_t bytes;
    bool is_of_pool;
};

std::map<CUdeviceptr, Memory> &memories = *new std::map<CUdeviceptr, Memory>();
// Of the pool: what is in use, the most of it, what will be free when work is done that is queued, and what is kept. Beside it: what
// is in use.
size_t used, most_used, leaving, reserved, used_outside;

size_t total() { return (size_t)setting("mib", 8 << 10) << 20; }

size_t left() {
    const size_t taken = ((size_t)setting("taken", 0) << 20) + reserved + used_outside;
    return total() - min(total(), taken);
}

CUresult allocate(CUdeviceptr *to, size_t bytes, bool is_of_pool) {
    if (bytes == 0) return CUDA_ERROR_INVALID_VALUE;
    static std::minstd_rand random;
    const long refuses = setting("refuses", 0);
    if (refuses > 0 && random() % refuses == 0) return CUDA_ERROR_OUT_OF_MEMORY;
    const size_t kept = is_of_pool ? reserved - used : 0;
    if (bytes > kept && bytes - kept > left()) return CUDA_ERROR_OUT_OF_MEMORY;
    void *at = aligned_alloc(ALIGNMENT, (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT);
    // What is never used is never put into memory.
    if (bytes < 64 << 20) memset(at, 0xff, bytes);
    ASAN_POISON_MEMORY_REGION((char *)at + bytes, (ALIGNMENT - bytes % ALIGNMENT) % ALIGNMENT);
    *to = (CUdeviceptr)at;
    memories[*to] = {bytes, is_of_pool};
    races::watch(at, bytes, "a piece of memory", false);
    if (is_of_pool) {
        used += bytes;
        most_used = max(most_used, used);
        reserved = max(reserved, used);
    } else {
        used_outside += bytes;
    }
    return CUDA_SUCCESS;
}

CUresult forget(CUdeviceptr at) {
    const auto found = memories.find(at);
    if (found == memories.end()) return CUDA_ERROR_INVALID_VALUE;
    (found->second.is_of_pool ? used : used_outside) -= found->second.bytes;
    memories.erase(found);
    return CUDA_SUCCESS;
}

void give_back(CUdeviceptr at) {
    races::unwatch((void *)at);
    free((void *)at);
}

} // namespace card

using namespace card;

extern "C" {

CUresult cuInit(unsigned) { return CUDA_SUCCESS; }

CUresult cuGetErrorString(CUresult error, const char **text) {
    switch (error) {
    case CUDA_ERROR_OUT_OF_MEMORY: *text = "out of memory"; break;
    case CUDA_ERROR_ILLEGAL_ADDRESS: *text = "an illegal memory access was encountered"; break;
    case CUDA_ERROR_NOT_FOUND: *text = "named symbol not found"; break;
    case CUDA_ERROR_INVALID_CONTEXT: *text = "invalid device context"; break;
    default: *text = "an error of the emulated card"; break;
    }
    return CUDA_SUCCESS;
}

// ---- The device and its context.

CUresult cuDeviceGet(CUdevice *device, int ordinal) {
    *device = ordinal;
    return ordinal == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}

CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice) {
    switch (attribute) {
    case CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED: *value = 1; break;
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: *value = MULTIPROCESSORS; break;
    case CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE: *value = 1 << 16; break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: *value = 9; break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: *value = 0; break;
    default: fprintf(stderr, "the emulated card has no attribute %d\n", attribute); return CUDA_ERROR_INVALID_VALUE;
    }
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetDefaultMemPool(CUmemoryPool *pool, CUdevice) {
    *pool = reinterpret_cast<CUmemoryPool>(&used);
    return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxRetain(CUcontext *found, CUdevice) {
    *found = reinterpret_cast<CUcontext>(&context);
    return state();
}

CUresult cuDevicePrimaryCtxRelease_v2(CUdevice) { return CUDA_SUCCESS; }

CUresult cuCtxDestroy_v2(CUcontext) { return CUDA_ERROR_NOT_SUPPORTED; }

CUresult cuCtxGetCurrent(CUcontext *found) {
    *found = reinterpret_cast<CUcontext>(current);
    return CUDA_SUCCESS;
}

CUresult cuCtxSetCurrent(CUcontext wanted) {
    current = reinterpret_cast<Context *>(wanted);
    return CUDA_SUCCESS;
}

CUresult cuCtxSynchronize() {
    const Lock lock(mutex);
    if (const CUresult found = ready()) return found;
    if (const CUresult found = unless_recording([](const Stream &) { return true; })) return found;
    finish_all();
    return state();
}

// ---- Memory.

CUresult cuMemGetInfo_v2(size_t *free, size_t *all) {
    const Lock lock(mutex);
    *free = left();
    *all = total();
    return ready();
}

CUresult cuMemAlloc_v2(CUdeviceptr *at, size_t bytes) {
    const Lock lock(mutex);
    if (const CUresult found = ready()) return found;
    if (const CUresult found = unless_this_records()) return found;
    return allocate(at, bytes, false);
}

CUresult cuMemFree_v2(CUdeviceptr at) {
    const Lock lock(mutex);
    if (const CUresult found = ready()) return found;
    if (const CUresult found = unless_this_records()) return found;
    finish_all();
    if (const CUresult found = forget(at)) return found;
    give_back(at);
    return CUDA_SUCCESS;
}

CUresult cuMemAllocAsync(CUdeviceptr *at, size_t bytes, CUstream stream) {
    const Lock lock(mutex);
    // A context is asked for only where no stream says which.
    if (const CUresult found = stream ? state() : ready()) return found;
    if (const CUresult found = unless_recording(stream)) return found;
    return allocate(at, bytes, true);
}

CUresult cuMemFreeAsync(CUdeviceptr at, CUstream stream) {
    const Lock lock(mutex);
    if (const CUresult found = stream ? state() : ready()) return found;
    if (const CUresult found = unless_recording(stream)) return found;
    const auto known = memories.find(at);
    const size_t bytes = known == memories.end() ? 0 : known->second.bytes;
    if (const CUresult found = forget(at)) return found;
    leaving += bytes;
    stream_of(stream).work.push_back([at, bytes] {
        leaving -= bytes;
        give_back(at);
    });
    return CUDA_SUCCESS;
}

CUresult cuMemPoolGetAttribute(CUmemoryPool, CUmemPool_attribute attribute, void *value) {
    const Lock lock(mutex);
    size_t &number = *static_cast<size_t *>(value);
    switch (attribute) {
    case CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT: number = reserved; break;
    case CU_MEMPOOL_ATTR_USED_MEM_CURRENT: number = used; break;
    case CU_MEMPOOL_ATTR_USED_MEM_HIGH: number = most_used; break;
    default: return CUDA_ERROR_INVALID_VALUE;
    }
    return state();
}

CUresult cuMemPoolSetAttribute(CUmemoryPool, CUmemPool_attribute attribute, void *value) {
    const Lock lock(mutex);
    switch (attribute) {
    case CU_MEMPOOL_ATTR_USED_MEM_HIGH:
        // It can be set to where it is now, and to nothing else.
        if (*static_cast<size_t *>(value) != 0) return CUDA_ERROR_INVALID_VALUE;
        most_used = used;
        break;
    // Nothing is given back by itself.
    case CU_MEMPOOL_ATTR_RELEASE_THRESHOLD: break;
    default: return CUDA_ERROR_INVALID_VALUE;
    }
    return state();
}

CUresult cuMemPoolTrimTo(CUmemoryPool, size_t kept) {
    const Lock lock(mutex);
    reserved = max(used + leaving, min(reserved, kept));
    return state();
}

// A copy from memory that the driver does not know returns when it has all of it.
CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void *from, size_t bytes, CUstream stream) {
    const Lock lock(mutex);
    if (const CUresult found = unless_recording(stream)) return found;
    const auto *first = static_cast<const unsigned char *>(from);
    const auto kept = std::make_shared<std::vector<unsigned char>>(first, first + bytes);
    return queue(stream, [to, kept] { memcpy((void *)to, kept->data(), kept->size()); });
}

CUresult cuMemcpyDtoHAsync_v2(void *to, CUdeviceptr from, size_t bytes, CUstream stream) {
    const Lock lock(mutex);
    if (const CUresult found = ready()) return found;
    if (const CUresult found = unless_recording(stream)) return found;
    finish(stream_of(stream));
    memcpy(to, (const void *)from, bytes);
    return state();
}

CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
    return queue(stream, [=] { memcpy((void *)to, (const void *)from, bytes); });
}

CUresult cuMemcpyPeerAsync(CUdeviceptr, CUcontext, CUdeviceptr, CUcontext, size_t, CUstream) { return CUDA_ERROR_NOT_SUPPORTED; }

CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t bytes, CUstream stream) {
    return queue(stream, [=] { memset((void *)to, value, bytes); });
}

// ---- Streams, events, and recordings.

CUresult cuStreamCreate(CUstream *created, unsigned) {
    const Lock lock(mutex);
    if (const CUresult found = ready()) return found;
    *created = reinterpret_cast<CUstream>(*streams.insert(new Stream()).first);
    return CUDA_SUCCESS;
}

CUresult cuStreamDestroy_v2(CUstream destroyed) {
    const Lock lock(mutex);
    Stream *stream = &stream_of(destroyed);
    finish(*stream);
    streams.erase(stream);
    delete stream;
    return CUDA_SUCCESS;
}

CUresult cuStreamSynchronize(CUstream stream) {
    const Lock lock(mutex);
    if (const CUresult found = ready()) return found;
    if (const CUresult found = unless_recording(stream)) return found;
    finish(stream_of(stream));
    return state();
}

// Events are not told apart: whoever waits for one waits for everything.
CUresult cuEventCreate(CUevent *event, unsigned) {
    *event = reinterpret_cast<CUevent>(&context);
    return ready();
}

CUresult cuEventDestroy_v2(CUevent) { return CUDA_SUCCESS; }
CUresult cuEventRecord(CUevent, CUstream) { return ready(); }

CUresult cuStreamWaitEvent(CUstream stream, CUevent, unsigned) {
    const Lock lock(mutex);
    if (const CUresult found = ready()) return found;
    // No event is of a recording.
    if (unless_recording(stream)) return CUDA_ERROR_STREAM_CAPTURE_ISOLATION;
    finish_all();
    return state();
}

CUresult cuStreamBeginCapture_v2(CUstream began, CUstreamCaptureMode mode) {
    const Lock lock(mutex);
    if (const CUresult found = ready()) return found;
    Stream &stream = stream_of(began);
    if (!began || stream.is_recording) return CUDA_ERROR_ILLEGAL_STATE;
    if (mode != CU_STREAM_CAPTURE_MODE_THREAD_LOCAL) return CUDA_ERROR_NOT_SUPPORTED;
    stream.is_recording = true;
    stream.is_broken = false;
    stream.recorder = std::this_thread::get_id();
    stream.recorded.work.clear();
    return CUDA_SUCCESS;
}

CUresult cuStreamEndCapture(CUstream ended, CUgraph *graph) {
    const Lock lock(mutex);
    Stream &stream = stream_of(ended);
    *graph = nullptr;
    if (!stream.is_recording) return CUDA_ERROR_ILLEGAL_STATE;
    if (stream.recorder != std::this_thread::get_id()) return CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD;
    stream.is_recording = false;
    stream.is_broken |= setting("breaks", 0) != 0;
    if (stream.is_broken) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    *graph = reinterpret_cast<CUgraph>(new Graph(std::move(stream.recorded)));
    return state();
}

CUresult cuStreamIsCapturing(CUstream stream, CUstreamCaptureStatus *status) {
    const Lock lock(mutex);
    const Stream &asked = stream_of(stream);
    *status = !asked.is_recording ? CU_STREAM_CAPTURE_STATUS_NONE
              : asked.is_broken   ? CU_STREAM_CAPTURE_STATUS_INVALIDATED
                                  : CU_STREAM_CAPTURE_STATUS_ACTIVE;
    return CUDA_SUCCESS;
}

CUresult cuGraphInstantiateWithFlags(CUgraphExec *made, CUgraph graph, unsigned long long) {
    *made = reinterpret_cast<CUgraphExec>(new Graph(*reinterpret_cast<Graph *>(graph)));
    return ready();
}

CUresult cuGraphLaunch(CUgraphExec launched, CUstream stream) {
    const Lock lock(mutex);
    for (const Work &work : reinterpret_cast<Graph *>(launched)->work)
        if (const CUresult found = queue(stream, work)) return found;
    return ready();
}

CUresult cuGraphDestroy(CUgraph graph) {
    delete reinterpret_cast<Graph *>(graph);
    return ready();
}

CUresult cuGraphExecDestroy(CUgraphExec graph) {
    const Lock lock(mutex);
    delete reinterpret_cast<Graph *>(graph);
    return ready();
}

// ---- Kernels.

CUresult cuModuleLoadData(CUmodule *module, const void *) {
    const Lock lock(mutex);
    *module = reinterpret_cast<CUmodule>(&context);
    if (const CUresult found = ready()) return found;
    return unless_this_records();
}

CUresult cuModuleLoad(CUmodule *, const char *) { return CUDA_ERROR_NOT_SUPPORTED; }
CUresult cuModuleUnload(CUmodule) { return CUDA_SUCCESS; }

CUresult cuModuleGetFunction(CUfunction *function, CUmodule, const char *name) {
    const Lock lock(mutex);
    const auto found = functions().find(name);
    if (found == functions().end()) {
        fprintf(stderr, "the emulated card has no kernel of the name %s\n", name);
        return CUDA_ERROR_NOT_FOUND;
    }
    *function = reinterpret_cast<CUfunction>(&found->second);
    return ready();
}

CUresult cuFuncSetAttribute(CUfunction function, CUfunction_attribute attribute, int value) {
    const Lock lock(mutex);
    if (attribute != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES) return CUDA_ERROR_NOT_SUPPORTED;
    if (value < 0 || (size_t)value > SHARED_BYTES) return CUDA_ERROR_INVALID_VALUE;
    reinterpret_cast<Function *>(function)->shared_bytes = value;
    return ready();
}

CUresult cuLaunchKernel(CUfunction launched, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned threads_y, unsigned threads_z,
                        unsigned shared_bytes, CUstream stream, void **parameters, void **) {
    const Lock lock(mutex);
    const auto &function = *reinterpret_cast<Function *>(launched);
    const bool has_blocks = x > 0 && y > 0 && z > 0 && threads > 0;
    if (!has_blocks || x > 0x7fffffff || y > 0xffff || z > 0xffff || threads > 1024) return CUDA_ERROR_INVALID_VALUE;
    if (threads_y != 1 || threads_z != 1) return CUDA_ERROR_NOT_SUPPORTED;
    if (shared_bytes > function.shared_bytes) return CUDA_ERROR_INVALID_VALUE;
    if (threads > function.threads) return CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES;
    std::vector<std::vector<unsigned char>> kept;
    for (size_t i = 0; i < function.signature.sizes.size(); i++) {
        const auto *first = static_cast<const unsigned char *>(parameters[i]);
        kept.emplace_back(first, first + function.signature.sizes[i]);
    }
    return queue(stream, [=, &function] {
        std::vector<const void *> parameters;
        for (const auto &parameter : kept) parameters.push_back(parameter.data());
        emulator::run({x, y, z}, threads, shared_bytes, [&] { function.signature.call(parameters); });
    });
}

} // extern "C"
