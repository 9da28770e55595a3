// races.h - who touched which memory, so that what nothing orders is a fault: with HOST_RACES (cmake -DANX_RACES=ON), else all of this is nothing.
//
// Every two bytes of shared and device memory have a cell: the last write and the last reads. Kernels are compiled with -fsanitize=thread,
// whose calls before each access end here instead of in a library of the compiler. Ordered are accesses of one thread, those on both sides of a __syncthreads
// of the block, those of a warp on both sides of a __syncwarp, and those of different launches. Nothing else is: shuffles, votes, products and
// ldmatrix order no memory, and a row that ldmatrix loads is read by the whole warp. What an asynchronous copy brings nobody may touch until it has been waited
// for. Blocks of a launch are ordered by nothing; atomics race with all but atomics.
#pragma once
#include <cstddef>

namespace host::races {

#if defined(HOST_RACES)
void watch(const void *memory, size_t bytes); // of the device
void forget(const void *memory);
void start_launch();
void start_block(const void *shared, size_t bytes);
void block_met();             // all threads of the block are at a barrier
void warp_met(unsigned warp); // all lanes of a warp are at a __syncwarp
void read(const void *at, size_t bytes);
void copy_starts(const void *to, size_t bytes);
void copy_ends(const void *to, size_t bytes);
void read_by_warp(const void *at, size_t bytes);
void touch_atomically(const void *at, size_t bytes);
#define HOST_UNSEEN __attribute__((noinline, no_sanitize("thread"))) // what is not the kernel's own doing
#else
inline void watch(const void *, size_t) {}
inline void forget(const void *) {}
inline void start_launch() {}
inline void start_block(const void *, size_t) {}
inline void block_met() {}
inline void warp_met(unsigned) {}
inline void read(const void *, size_t) {}
inline void copy_starts(const void *, size_t) {}
inline void copy_ends(const void *, size_t) {}
inline void read_by_warp(const void *, size_t) {}
inline void touch_atomically(const void *, size_t) {}
#define HOST_UNSEEN
#endif

} // namespace host::races
