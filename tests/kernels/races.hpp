// Finds accesses of a kernel's threads that no barrier orders. A kernel that is compiled with `-fsanitize=thread` calls a function
// at each of its accesses; `races.cpp` has these functions, in the place of the sanitizer's own, which know nothing of blocks and
// warps. It is linked first: of functions of the standard library that both have, the linker takes those that were compiled without
// the flag. Without FIND_RACES nothing here does anything.
//
// What it does not see, and no kernel has: what library functions access (`memcpy` and the like); that a thread whose atomic access
// came last may have come earlier; and, of what threads of several earlier blocks have read, all but the last. Nor does it look for
// memory of the device that is read before it is written. What it takes for an error, and is none: writes to the two bytes of
// a number by two threads, and what a third block has made known to a second one.
#pragma once

#include <cstddef>
#include <string>

namespace races {

#if defined(FIND_RACES)

// Looks at accesses to this memory from now on. Where it is shared by a block, it has to be written before it is read.
void watch(const void *at, size_t bytes, const std::string &name, bool is_shared);
void unwatch(const void *at);
// Of the thread of the program that runs the kernel, whose static shared memory is looked at meanwhile. What came before is ordered
// before what comes.
void start_launch();
void end_launch();
void start_block(unsigned x, unsigned y, unsigned z);
// Who has the accesses that come: a thread, that was at so many barriers of its block, and so many of its warp.
void follow(unsigned thread, unsigned barriers, unsigned syncs);
void fence();
// An atomic access, called from a place. What came before a fence that came before another thread's atomic access is ordered before
// what comes after a fence, if this access is before that and finds what the other one has left.
void atomic(const void *at, size_t bytes, const void *place);

#else

inline void watch(const void *, size_t, const std::string &, bool) {}
inline void unwatch(const void *) {}
inline void start_launch() {}
inline void end_launch() {}
inline void start_block(unsigned, unsigned, unsigned) {}
inline void follow(unsigned, unsigned, unsigned) {}
inline void fence() {}
inline void atomic(const void *, size_t, const void *) {}

#endif

} // namespace races
