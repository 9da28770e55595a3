// races.cpp - the cells of races.h, and what -fsanitize=thread calls.
#include "races.h"

#include <atomic>
#include <dlfcn.h>
#include <map>
#include <memory>
#include <mutex>
#include <sys/mman.h>
#include "harness.h"

namespace host::races {

namespace {

// An access. Epochs count the stretches between barriers of all blocks of all launches of the process, so one number says launch, block and
// stretch.
struct Stamp {
  uint32_t epoch, code; // code: of the program, where
  uint16_t thread;      // of the block
  uint16_t syncs : 11;  // of its warp in this stretch, before
  uint16_t lanes : 1;   // other lanes of the warp did the same in this stretch of the warp,
  uint16_t warps : 1;   // other warps of the block in this stretch of the block,
  uint16_t blocks : 1;  // other blocks of the launch
  uint16_t atomic : 1;
  uint16_t copying : 1; // asynchronously: not there yet
};
struct Cell { Stamp written, read; };
constexpr unsigned granule = 2, page = 4096; // bytes of a cell; kernels write no byte alone

Cell *cells_of(size_t bytes) { // zeros, in pages that come when touched
  void *m = mmap(nullptr, bytes / granule * sizeof(Cell), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return m == MAP_FAILED ? nullptr : static_cast<Cell *>(m);
}

struct Watched { size_t bytes; Cell *cells; };
std::mutex lock;
std::map<uintptr_t, Watched> watched; // by the first page
std::atomic<uint64_t> changes{1};     // of what is watched
std::atomic<uint32_t> epochs{0};

struct Page { uintptr_t number; uint64_t seen; Cell *cells; };
struct Run {
  uint32_t launch, block, now; // epochs: the first of launch and block, and the one in turn
  uint16_t syncs[32];
  uintptr_t shared;
  size_t shared_bytes, room;
  Cell *shared_cells;
  Page pages[4096]; // what was found last
  ~Run() { if (shared_cells) munmap(shared_cells, room / granule * sizeof(Cell)); }
};
thread_local std::unique_ptr<Run> run_of_thread;
HOST_TLS __thread Run *run; // the same, without a call

// The cells of a page of device memory; NULL: it is none.
Cell *cells_at(uintptr_t at) {
  const uintptr_t number = at / page;
  Page &p = run->pages[number % 4096];
  if (const uint64_t now = changes.load(std::memory_order_acquire); p.number != number || p.seen != now) {
    std::lock_guard<std::mutex> hold(lock);
    p = {number, now, nullptr};
    auto next = watched.upper_bound(number * page);
    if (next != watched.begin() && number * page < (--next)->first + next->second.bytes) p.cells = next->second.cells + (number * page - next->first) / granule;
  }
  return p.cells;
}

const char *kind_of(const Stamp &s, bool reading) { return s.atomic ? "touched atomically" : s.copying ? "being copied to" : reading ? "read" : "written"; }

[[noreturn]] void tell(uintptr_t at, const Stamp &before, bool was_read, const Stamp &mine, bool reading) {
  const bool in_shared = at - run->shared < run->shared_bytes, other_block = before.epoch < run->block || before.blocks;
  char where[32] = "device memory";
  if (in_shared) snprintf(where, sizeof where, "shared memory at %zu", size_t(at - run->shared));
  Dl_info info = {};
  dladdr(reinterpret_cast<void *>(&tell), &info);
  if (other_block)
    fault("a race: %s, %s by another block of the launch, is %s: addr2line -Cie %s 0x%x 0x%x", where, kind_of(before, was_read), kind_of(mine, reading), info.dli_fname, before.code, mine.code);
  fault("a race: %s, %s by thread %u, is %s with no barrier between them: addr2line -Cie %s 0x%x 0x%x", where, kind_of(before, was_read), before.thread, kind_of(mine, reading), info.dli_fname,
        before.code, mine.code);
}

// Is an access of before ordered before `mine`? What is older than `first` is: another launch's or, in shared memory, another block's.
bool ordered(const Stamp &before, const Stamp &mine, uint32_t first) {
  if (before.epoch < first || (before.atomic && mine.atomic)) return true;
  if (before.copying) return false;
  if (before.blocks || before.epoch < run->block) return false;
  if (before.epoch != run->now) return true;
  if (before.warps || before.thread / 32 != mine.thread / 32) return false;
  return before.syncs < mine.syncs || (before.thread == mine.thread && !before.lanes && !mine.lanes);
}

void read_cell(Cell &c, uintptr_t at, Stamp mine, uint32_t first) {
  Stamp &last = c.read;
  if (!ordered(c.written, mine, first)) tell(at, c.written, false, mine, true);
  mine.blocks = last.epoch >= first && (last.epoch < run->block || last.blocks);
  if (last.epoch == run->now) {
    mine.warps = last.warps || last.thread / 32 != mine.thread / 32;
    mine.lanes |= last.syncs == mine.syncs && (last.lanes || last.thread != mine.thread);
  }
  last = mine;
}
void write_cell(Cell &c, uintptr_t at, const Stamp &mine, uint32_t first) {
  if (!ordered(c.written, mine, first)) tell(at, c.written, false, mine, false);
  if (!ordered(c.read, mine, first)) tell(at, c.read, true, mine, false);
  c.written = mine;
}

uint32_t code_at(void *returns_to) {
  static const uintptr_t base = [] {
    Dl_info info = {};
    return dladdr(reinterpret_cast<void *>(&tell), &info) ? reinterpret_cast<uintptr_t>(info.dli_fbase) : 0;
  }();
  return uint32_t(reinterpret_cast<uintptr_t>(returns_to) - base - 1);
}

enum class Kind { read, write, warp, atomic, copy, copied };
template <Kind kind> inline void access(const void *memory, size_t bytes, void *returns_to) {
  if (!block) return;
  uintptr_t at = reinterpret_cast<uintptr_t>(memory);
  Stamp mine = {};
  for (const uintptr_t end = at + bytes; at < end; at = (at / granule + 1) * granule) {
    const bool in_shared = at - run->shared < run->shared_bytes;
    Cell *const cells = in_shared ? run->shared_cells : cells_at(at);
    if (!cells) return;
    Cell &c = cells[(in_shared ? at - run->shared : at % page) / granule];
    const uint32_t first = in_shared ? run->block : run->launch;
    if (!mine.epoch) {
      mine = {run->now, code_at(returns_to), uint16_t(current->number), 0, kind == Kind::warp, 0, 0, kind == Kind::atomic, kind == Kind::copy};
      mine.syncs = run->syncs[mine.thread / 32];
    }
    if (kind == Kind::copied) c.written.copying = 0;
    if (kind == Kind::read || kind == Kind::warp) read_cell(c, at, mine, first);
    else write_cell(c, at, mine, first);
  }
}

} // namespace

void watch(const void *memory, size_t bytes) {
  const uintptr_t first = reinterpret_cast<uintptr_t>(memory) / page * page;
  bytes = (reinterpret_cast<uintptr_t>(memory) + bytes - first + page - 1) / page * page;
  std::lock_guard<std::mutex> hold(lock);
  if (Cell *cells = cells_of(bytes)) watched[first] = {bytes, cells};
  changes++;
}
void forget(const void *memory) {
  std::lock_guard<std::mutex> hold(lock);
  const auto at = watched.find(reinterpret_cast<uintptr_t>(memory) / page * page);
  if (at == watched.end()) return;
  changes++;
  munmap(at->second.cells, at->second.bytes / granule * sizeof(Cell));
  watched.erase(at);
}
void start_launch() {
  if (!run_of_thread) run_of_thread = std::make_unique<Run>();
  run = run_of_thread.get();
  run->launch = ++epochs;
}
void start_block(const void *shared, size_t bytes) {
  run->block = ++epochs;
  run->shared = reinterpret_cast<uintptr_t>(shared);
  run->shared_bytes = bytes;
  if (bytes > run->room) {
    if (run->shared_cells) munmap(run->shared_cells, run->room / granule * sizeof(Cell));
    run->room = (bytes + page - 1) / page * page;
    if (!(run->shared_cells = cells_of(run->room))) abort();
  }
  run->now = run->block;
  memset(run->syncs, 0, sizeof run->syncs);
}
void block_met() {
  run->now = ++epochs;
  memset(run->syncs, 0, sizeof run->syncs);
}
void warp_met(unsigned warp) {
  if (++run->syncs[warp] >> 11) fault("more __syncwarp between two barriers than are counted");
}
void read(const void *at, size_t bytes) { access<Kind::read>(at, bytes, __builtin_return_address(0)); }
void copy_starts(const void *to, size_t bytes) { access<Kind::copy>(to, bytes, __builtin_return_address(0)); }
void copy_ends(const void *to, size_t bytes) { access<Kind::copied>(to, bytes, __builtin_return_address(0)); }
void read_by_warp(const void *at, size_t bytes) { access<Kind::warp>(at, bytes, __builtin_return_address(0)); }
void touch_atomically(const void *at, size_t bytes) { access<Kind::atomic>(at, bytes, __builtin_return_address(0)); }

} // namespace host::races

using namespace host::races;

extern "C" {
#define HOST_ACCESS(bytes)                                                                                          \
  void __tsan_read##bytes(void *at) { access<Kind::read>(at, bytes, __builtin_return_address(0)); }                \
  void __tsan_write##bytes(void *at) { access<Kind::write>(at, bytes, __builtin_return_address(0)); }
HOST_ACCESS(1)
HOST_ACCESS(2)
HOST_ACCESS(4)
HOST_ACCESS(8)
HOST_ACCESS(16)
void __tsan_read_range(void *at, size_t bytes) { access<Kind::read>(at, bytes, __builtin_return_address(0)); }
void __tsan_write_range(void *at, size_t bytes) { access<Kind::write>(at, bytes, __builtin_return_address(0)); }
// Not the kernels': what else is in their files.
void __tsan_init() {}
void __tsan_func_entry(void *) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void **, void *) {}
int __tsan_atomic32_fetch_add(volatile int *at, int value, int) { return __atomic_fetch_add(at, value, __ATOMIC_SEQ_CST); }
}
