// See `races.hpp`. This file is compiled without the sanitizer's flag, as its functions are called at each access.
//
// Of every two bytes of memory it is kept who wrote them last and who has read them since: the block, the thread, and at how many
// barriers of the block and of the warp, and after how many fences, it was. Of two threads of a block the earlier access is ordered
// before the later one if a barrier of the block is between them, or one of the warp that both belong to; exchanges between the
// threads of a warp order nothing (CUDA C++ Programming Guide, "Warp Shuffle Functions"). Of two blocks it is if the one has a fence,
// and then something atomic that the other finds before a fence of its own (PTX ISA, "Memory Consistency Model").

#include "races.hpp"

#include <dlfcn.h>
#include <link.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

namespace {

constexpr uintptr_t PAGE = 4096, GRANULE = 2;
constexpr unsigned WARP = 32;

struct Access {
    // Blocks are counted through all launches, from 1 on; 0: no access. The place is in this program, from its beginning on.
    uint32_t block, barriers, syncs, fences, place;
    uint16_t thread;

    // Whether what orders the one orders the other, too.
    bool is_like(const Access &other) const {
        return block == other.block && thread == other.thread && barriers == other.barriers && syncs == other.syncs &&
               fences == other.fences;
    }
};

struct Cell {
    enum : uint8_t { UNWATCHED, OF_DEVICE, SHARED } kind;
    Access written;
    // Since then; of several the last one, whose thread has found what all others have left.
    Access written_atomically;
    // Those of the latest block that has read it since it was written, after the most barriers; of its threads two, which are of two
    // warps if any are.
    Access read[2];
    // One of an earlier block; of several, the last.
    Access read_before;
};

using Page = std::array<Cell, PAGE / GRANULE>;

struct Region {
    uintptr_t end;
    std::string name;
    bool is_shared;
};

// What a thread has fenced: its own accesses before, those of its warp before so many barriers of that, and those of its block.
struct Fenced {
    uint32_t block, barriers, syncs, fences;
    uint16_t thread;

    bool covers(const Access &access) const {
        if (access.block != block) return false;
        return access.barriers < barriers || (access.thread == thread && access.fences < fences) ||
               (access.thread / WARP == thread / WARP && access.syncs < syncs);
    }
};

// What a thread of this block knows of others, and with it all that a barrier orders after it.
struct Known {
    Fenced of;
    uint32_t barriers, syncs;
    uint16_t thread;
};

// Never destroyed: the program may still access memory when it ends.
auto &pages = *new std::unordered_map<uintptr_t, std::unique_ptr<Page>>();
// By where they begin.
auto &regions = *new std::map<uintptr_t, Region>();
// By the place of what is atomic: what is known to those who find it.
auto &released = *new std::unordered_map<uintptr_t, std::vector<Fenced>>();
// Of the threads of this block: what each has found and not fenced yet, and its last fence.
auto &found = *new std::unordered_map<uint32_t, std::vector<Fenced>>();
auto &fences = *new std::unordered_map<uint32_t, Fenced>();
auto &known = *new std::vector<Known>();
// Of a page that was looked up, where it is; null if nothing of it is watched.
struct Lookup {
    uintptr_t page;
    Page *at;
};
std::array<Lookup, 1024> lookups;
Access now;
unsigned block_now[3];
uint32_t first_block = 1;
// Where this program is in memory.
uintptr_t start;
// Not before there is something to look at, nor before what is above is there.
bool is_watching;
// How many accesses there were to memory of the device, and to shared memory, one for every two bytes.
size_t looked_at[2];

// The program or the library that this is a part of.
const link_map *this_program() {
    Dl_info info;
    link_map *found;
    dladdr1((void *)&is_watching, &info, (void **)&found, RTLD_DL_LINKMAP);
    return found;
}

// The region with the byte at an address, or the one after it.
auto region_from(uintptr_t at) {
    auto region = regions.upper_bound(at);
    if (region == regions.begin()) return region;
    const auto before = std::prev(region);
    return before->second.end > at ? before : region;
}

// A page's cells are made when it is accessed first: of most memory that a card has, nothing ever is.
std::unique_ptr<Page> made(uintptr_t page) {
    std::unique_ptr<Page> made;
    const uintptr_t begin = page * PAGE, end = begin + PAGE;
    for (auto region = region_from(begin); region != regions.end() && region->first < end; region++) {
        if (!made) made.reset(new Page());
        const uintptr_t from = std::max(begin, region->first), to = std::min(end, region->second.end);
        for (uintptr_t at = from; at < to; at += GRANULE)
            (*made)[at % PAGE / GRANULE].kind = region->second.is_shared ? Cell::SHARED : Cell::OF_DEVICE;
    }
    return made;
}

Page *page_of(uintptr_t at) {
    const uintptr_t page = at / PAGE;
    Lookup &lookup = lookups[page % lookups.size()];
    if (lookup.page != page) {
        auto found = pages.find(page);
        if (found == pages.end()) found = pages.emplace(page, made(page)).first;
        lookup = {page, found->second.get()};
    }
    return lookup.at;
}

// What was known of some memory is so no more.
void forget_pages(uintptr_t begin, uintptr_t end) {
    for (uintptr_t page = begin / PAGE; page <= (end - 1) / PAGE; page++) pages.erase(page);
    lookups = {};
}

bool precedes(const Access &access) {
    if (access.block < first_block) return true;
    if (access.block == now.block)
        return access.thread == now.thread || access.barriers < now.barriers ||
               (access.thread / WARP == now.thread / WARP && access.syncs < now.syncs);
    for (const Known &one : known) {
        const bool is_own = one.thread == now.thread || one.barriers < now.barriers ||
                            (one.thread / WARP == now.thread / WARP && one.syncs < now.syncs);
        if (is_own && one.of.covers(access)) return true;
    }
    return false;
}

// Ends the program: this access is an error, beside another one or by itself.
[[noreturn]] void fail(uintptr_t at, const char *does, const Access *other, const char *did) {
    is_watching = false;
    const auto region = region_from(at);
    fprintf(stderr, "block (%u, %u, %u), byte %zu of %s: thread %u %s", block_now[0], block_now[1], block_now[2],
            (size_t)(at - region->first), region->second.name.c_str(), now.thread, does);
    if (other) {
        const char *of_block = other->block == now.block ? "" : " of another block";
        fprintf(stderr, " what thread %u%s %s, and nothing orders them", other->thread, of_block, did);
    }
    fprintf(stderr, "\n");
    // The lines of both, with those that called them.
    const link_map *program = this_program();
    std::string command = "addr2line -spiC -e ";
    command += program->l_name[0] ? program->l_name : "/proc/" + std::to_string(getpid()) + "/exe";
    for (const Access *access : {(const Access *)&now, other}) {
        char place[20];
        if (access && snprintf(place, sizeof place, " %x", access->place - 1) > 0) command += place;
    }
    if (system((command + " >&2").c_str()) != 0) fprintf(stderr, "addr2line would say which lines these are\n");
    _exit(3);
}

void note_read(Cell &cell) {
    Access(&read)[2] = cell.read;
    if (read[0].block != now.block) {
        if (read[0].block >= first_block) cell.read_before = read[0];
        read[0] = now;
        read[1] = {};
    } else if (read[0].barriers < now.barriers) {
        read[0] = now;
        read[1] = {};
    } else if (read[0].thread == now.thread) {
        read[0] = now;
    } else if (read[1].block == 0 || read[1].thread == now.thread) {
        read[1] = now;
    } else if (read[0].thread / WARP == read[1].thread / WARP) {
        read[read[0].syncs < read[1].syncs ? 0 : 1] = now;
    }
}

enum class Does { READ, WRITE, BOTH_ATOMICALLY };

void note(uintptr_t at, size_t bytes, Does does, const void *place) {
    if (!is_watching) return;
    now.place = (uint32_t)((uintptr_t)place - start);
    const char *in_words = does == Does::READ ? "reads" : does == Does::WRITE ? "writes" : "reads and writes";
    for (uintptr_t granule = at / GRANULE; granule <= (at + bytes - 1) / GRANULE; granule++) {
        Page *page = page_of(granule * GRANULE);
        if (!page) continue;
        Cell &cell = (*page)[granule % (PAGE / GRANULE)];
        if (cell.kind == Cell::UNWATCHED) continue;
        looked_at[cell.kind == Cell::SHARED]++;
        // An access may begin before what is looked at.
        const uintptr_t of = std::max(at, granule * GRANULE);
        if (does == Does::READ && cell.read[0].is_like(now)) continue;
        if (cell.kind == Cell::SHARED && cell.written.block != now.block) {
            if (does != Does::WRITE) fail(of, "reads what its block has not written", nullptr, nullptr);
            // What other blocks had there is theirs.
            cell = {Cell::SHARED, {}, {}, {}, {}};
        }
        if (!precedes(cell.written)) fail(of, in_words, &cell.written, "has written");
        if (does != Does::BOTH_ATOMICALLY && !precedes(cell.written_atomically))
            fail(of, in_words, &cell.written_atomically, "has written atomically");
        if (does == Does::READ) {
            note_read(cell);
            continue;
        }
        for (const Access *read : {&cell.read[0], &cell.read[1], &cell.read_before})
            if (!precedes(*read)) fail(of, in_words, read, "has read");
        if (does == Does::WRITE) {
            cell = {cell.kind, now, {}, {}, {}};
        } else {
            cell.written_atomically = now;
        }
    }
}

struct Place {
    void *at;
    size_t bytes;
};

// Where the thread of the program that is running has what is its own; static shared memory is there.
Place own_memory() {
    // It has a place only after it was used.
    static thread_local char used;
    asm volatile("" : : "r"(&used));
    Place found = {};
    dl_iterate_phdr(
        [](dl_phdr_info *one, size_t, void *found) {
            if (one->dlpi_addr != start) return 0;
            for (int i = 0; i < one->dlpi_phnum; i++)
                if (one->dlpi_phdr[i].p_type == PT_TLS) *(Place *)found = {one->dlpi_tls_data, one->dlpi_phdr[i].p_memsz};
            return 1;
        },
        &found);
    return found;
}

// So that a test sees that something was looked at.
[[gnu::destructor]] void tell() {
    fprintf(stderr, "%zu accesses to memory and %zu to shared memory were looked at\n", looked_at[0], looked_at[1]);
}

} // namespace

namespace races {

void watch(const void *at, size_t bytes, const std::string &name, bool is_shared) {
    if (bytes == 0) return;
    const uintptr_t begin = (uintptr_t)at, end = begin + bytes;
    for (auto region = region_from(begin); region != regions.end() && region->first < end;) region = regions.erase(region);
    regions[begin] = {end, name, is_shared};
    forget_pages(begin, end);
    is_watching = true;
}

void unwatch(const void *at) {
    const auto region = regions.find((uintptr_t)at);
    if (region == regions.end()) return;
    forget_pages(region->first, region->second.end);
    regions.erase(region);
}

void start_launch() {
    start = this_program()->l_addr;
    const Place own = own_memory();
    watch(own.at, own.bytes, "static shared memory", true);
    first_block = now.block + 1;
    released.clear();
}

// The thread may end before the next launch, and its memory become another's.
void end_launch() { unwatch(own_memory().at); }

void start_block(unsigned x, unsigned y, unsigned z) {
    now.block++;
    block_now[0] = x, block_now[1] = y, block_now[2] = z;
    found.clear();
    fences.clear();
    known.clear();
}

void follow(unsigned thread, unsigned barriers, unsigned syncs) {
    now.thread = thread;
    now.barriers = barriers;
    now.syncs = syncs;
    const auto fence = fences.find(thread);
    now.fences = fence == fences.end() ? 0 : fence->second.fences;
}

void fence() {
    now.fences++;
    fences[now.thread] = {now.block, now.barriers, now.syncs, now.fences, now.thread};
    for (const Fenced &one : found[now.thread]) known.push_back({one, now.barriers, now.syncs, now.thread});
    found[now.thread].clear();
}

void atomic(const void *at, size_t bytes, const void *place) {
    note((uintptr_t)at, bytes, Does::BOTH_ATOMICALLY, place);
    auto &others = released[(uintptr_t)at];
    auto &own = found[now.thread];
    own.insert(own.end(), others.begin(), others.end());
    const auto fence = fences.find(now.thread);
    if (fence == fences.end()) return;
    // A later fence covers more.
    const auto is_own = [](const Fenced &one) { return one.block == now.block && one.thread == now.thread; };
    others.erase(std::remove_if(others.begin(), others.end(), is_own), others.end());
    others.push_back(fence->second);
}

} // namespace races

// ---- What the compiler calls.

extern "C" {

void __tsan_init() {}
void __tsan_func_entry(void *) {}
void __tsan_func_exit() {}

#define ACCESSES(BYTES)                                                                                                          \
    void __tsan_read##BYTES(void *at) { note((uintptr_t)at, BYTES, Does::READ, __builtin_return_address(0)); }                   \
    void __tsan_write##BYTES(void *at) { note((uintptr_t)at, BYTES, Does::WRITE, __builtin_return_address(0)); }                 \
    void __tsan_unaligned_read##BYTES(void *at) { note((uintptr_t)at, BYTES, Does::READ, __builtin_return_address(0)); }         \
    void __tsan_unaligned_write##BYTES(void *at) { note((uintptr_t)at, BYTES, Does::WRITE, __builtin_return_address(0)); }

ACCESSES(1)
ACCESSES(2)
ACCESSES(4)
ACCESSES(8)
ACCESSES(16)

void __tsan_read_range(void *at, unsigned long bytes) { note((uintptr_t)at, bytes, Does::READ, __builtin_return_address(0)); }
void __tsan_write_range(void *at, unsigned long bytes) { note((uintptr_t)at, bytes, Does::WRITE, __builtin_return_address(0)); }
void __tsan_vptr_update(void *, void *) {}
void __tsan_vptr_read(void *) {}

} // extern "C"
