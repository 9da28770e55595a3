// harness.cpp - the scheduler of harness.h.
#include "harness.h"

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <numeric>
#include <string>
#include <string_view>
#include <sys/mman.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace host {

HOST_TLS __thread Fiber *current;
HOST_TLS __thread Block *block;

namespace {

constexpr size_t stack_bytes = 256 << 10; // address space; pages come when touched
constexpr size_t page = 4096;

thread_local char fault_text[512];

extern "C" void anx_host_switch(void **save, void *to);
#if defined(__x86_64__)
asm(R"(
.text
.p2align 4
.hidden anx_host_switch
.globl anx_host_switch
.type anx_host_switch,@function
anx_host_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size anx_host_switch,.-anx_host_switch
)");
#elif defined(__aarch64__)
asm(R"(
.text
.p2align 4
.hidden anx_host_switch
.globl anx_host_switch
.type anx_host_switch,%function
anx_host_switch:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
)");
#else
#error "the harness knows how to switch stacks on x86-64 and aarch64"
#endif

// Address sanitizer wants to know which stack is in use.
void to_fiber(Fiber &f) {
  current = &f;
#if defined(__SANITIZE_ADDRESS__)
  void *fake = nullptr;
  __sanitizer_start_switch_fiber(&fake, f.stack, stack_bytes);
  anx_host_switch(&block->scheduler, f.stack_pointer);
  __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#else
  anx_host_switch(&block->scheduler, f.stack_pointer);
#endif
}

#if defined(__SANITIZE_ADDRESS__)
thread_local const void *scheduler_stack;
thread_local size_t scheduler_stack_bytes;
#endif

void to_scheduler(bool for_good) {
  Fiber *f = current;
#if defined(__SANITIZE_ADDRESS__)
  void *fake = nullptr;
  __sanitizer_start_switch_fiber(for_good ? nullptr : &fake, scheduler_stack, scheduler_stack_bytes);
  anx_host_switch(&f->stack_pointer, block->scheduler);
  __sanitizer_finish_switch_fiber(fake, &scheduler_stack, &scheduler_stack_bytes);
#else
  (void)for_good;
  anx_host_switch(&f->stack_pointer, block->scheduler);
#endif
}

void fiber_main() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_stack_bytes);
#endif
  (*block->body)();
  if (!current->copies.empty()) fault("the kernel ends with %zu asynchronous copies nobody has waited for", current->copies.size());
  current->state = State::done;
  to_scheduler(true);
  abort();
}

void reset(Fiber &f) {
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(f.stack, stack_bytes); // frames of the block before were left, not returned from
#endif
  char *top = f.stack + stack_bytes;
#if defined(__x86_64__)
  void **s = reinterpret_cast<void **>(top);
  *--s = nullptr; // keeps the stack as a call leaves it
  *--s = reinterpret_cast<void *>(fiber_main);
  for (int i = 0; i < 6; i++) *--s = nullptr;
  f.stack_pointer = s;
#else
  char *s = top - 160;
  memset(s, 0, 160);
  *reinterpret_cast<void **>(s + 88) = reinterpret_cast<void *>(fiber_main);
  f.stack_pointer = s;
#endif
  f.state = State::ready;
  f.committed = 0;
  f.copies.clear();
}

// The stacks of an OS thread, kept from launch to launch.
struct Stacks {
  std::vector<Fiber> fibers;
  ~Stacks() {
    for (Fiber &f : fibers) munmap(f.stack - page, stack_bytes + page);
  }
  bool grow(unsigned count) {
    while (fibers.size() < count) {
      char *m = static_cast<char *>(mmap(nullptr, stack_bytes + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
      if (m == MAP_FAILED) return false;
      mprotect(m, page, PROT_NONE);
      Fiber f{};
      f.stack = m + page;
      fibers.push_back(f);
    }
    return true;
  }
};
thread_local Stacks stacks;

bool fault_in_block(Block &b, const char *text) {
  snprintf(fault_text, sizeof fault_text, "%s in block (%u,%u,%u)", text, b.index.x, b.index.y, b.index.z);
  return false;
}

// ANX_HOST_WITHOUT=file:line, of the process.
struct Without {
  std::string file;
  int line = 0;
  Without() {
    const char *text = getenv("ANX_HOST_WITHOUT"), *colon = text ? strrchr(text, ':') : nullptr;
    if (colon) file.assign(text, colon), line = atoi(colon + 1);
  }
  bool names(const Site *s) const { return line && s->line == line && std::string_view(s->file).ends_with(file); }
};
const Without without;

// Primes above the largest block: a stride by any of them visits every fiber.
constexpr unsigned strides[] = {1031, 1033, 1049, 1061, 1087, 1123, 1151, 1181, 1213, 1237, 1279, 1291, 1319, 1361, 1399, 1429};

// Gives each fiber of first .. first + count that is ready a turn, in random order. False: there was none.
bool turn(Block &b, unsigned first, unsigned count) {
  const unsigned stride = strides[b.random.below(16)];
  bool ran = false;
  for (unsigned k = 0, i = b.random.below(count); k < count && !b.failed; k++, i = (i + stride) % count) {
    if (b.fibers[first + i].state != State::ready) continue;
    to_fiber(b.fibers[first + i]);
    ran = true;
  }
  return ran;
}

// Runs all fibers until each waits at a barrier or has ended: now and then all warps in step, else one warp after the other, in random order,
// each as far ahead of the rest as the barriers allow.
void run_to_barrier(Block &b) {
  constexpr unsigned lanes = 32;
  const unsigned warps = (b.threads + lanes - 1) / lanes;
  if (warps == 1 || b.random.below(4) == 0) {
    while (turn(b, 0, b.threads)) {}
    return;
  }
  const unsigned stride = strides[b.random.below(16)];
  for (unsigned k = 0, w = b.random.below(warps); k < warps; k++, w = (w + stride) % warps)
    while (turn(b, w * lanes, std::min(lanes, b.threads - w * lanes))) {}
}

bool run_block(Block &b) {
  block = &b;
  for (unsigned i = 0; i < b.threads; i++) reset(b.fibers[i]);
  if (b.shared_bytes) memset(b.shared, 0xff, b.shared_bytes);
  races::start_block(b.shared, b.shared_bytes);
  for (;;) {
    run_to_barrier(b);
    if (b.failed) return false;
    unsigned done = 0, waiting = 0;
    const Site *site = nullptr;
    for (unsigned i = 0; i < b.threads; i++) {
      const Fiber &f = b.fibers[i];
      done += f.state == State::done;
      if (f.state != State::at_block_barrier) continue;
      waiting++;
      site = f.site;
    }
    if (done == b.threads) return true;
    if (done + waiting != b.threads) return fault_in_block(b, "deadlock: threads wait at a barrier or collective that others never reach");
    if (done) return fault_in_block(b, "some threads have ended where others wait at a barrier");
    for (unsigned i = 0; i < b.threads; i++) {
      Fiber &f = b.fibers[i];
      if (f.site != site) return fault_in_block(b, "threads wait at different barriers");
      f.state = State::ready;
    }
    races::block_met();
  }
}

} // namespace

const char *last_fault() { return fault_text; }

void fault(const char *format, ...) {
  char text[320];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  snprintf(fault_text, sizeof fault_text, "%s in block (%u,%u,%u), thread %u", text, block->index.x, block->index.y, block->index.z, current->number);
  block->failed = true;
  to_scheduler(true);
  abort();
}

void yield() { to_scheduler(false); }

void barrier(const Site *site) {
  if (without.names(site)) return;
  if (!current->copies.empty() && current->copies.size() > 4096) fault("thousands of asynchronous copies without a wait");
  current->site = site;
  current->state = State::at_block_barrier;
  yield();
}

int barrier_reduce(const Site *site, int predicate, int kind) {
  int value = predicate != 0;
  current->payload = &value;
  barrier(site);
  int sum = 0, live = 0;
  for (unsigned i = 0; i < block->threads; i++)
    if (block->fibers[i].state != State::done) {
      sum += *static_cast<int *>(block->fibers[i].payload);
      live++;
    }
  barrier(site); // nobody's value leaves its stack before all have read it
  return kind == 0 ? sum > 0 : kind == 1 ? sum == live : sum;
}

void meet(unsigned mask, const Site *site, void *payload, void (*operation)(void **, const void *), const void *argument) {
  Fiber *mine = current;
  const unsigned lane = mine->number % 32;
  if (!(mask >> lane & 1)) fault("lane %u calls a collective of mask %08x, which leaves it out", lane, mask);
  mine->payload = payload;
  mine->mask = mask;
  mine->site = site;
  mine->state = State::at_warp_collective;
  Fiber *warp = block->fibers + mine->number / 32 * 32;
  const unsigned lanes = block->threads - mine->number / 32 * 32;
  void *payloads[32] = {};
  bool complete = true;
  for (unsigned i = 0; i < 32; i++) {
    if (!(mask >> i & 1)) continue;
    if (i >= lanes || warp[i].state == State::done) fault("a collective of mask %08x waits for lane %u, which has ended", mask, i);
    if (warp[i].state != State::at_warp_collective) {
      complete = false;
      continue;
    }
    if (warp[i].site != site || warp[i].mask != mask) fault("lanes %u and %u of a warp meet at different collectives", lane, i);
    payloads[i] = warp[i].payload ? warp[i].payload : reinterpret_cast<void *>(1);
  }
  if (!complete) {
    yield();
    return;
  }
  operation(payloads, argument);
  for (unsigned i = 0; i < 32; i++)
    if (mask >> i & 1) warp[i].state = State::ready;
}

void sync_warp(unsigned mask, const Site *site) {
  if (without.names(site)) return;
  meet(mask, site, nullptr, [](void **, const void *mask) {
    if (*static_cast<const unsigned *>(mask) == 0xffffffffu) races::warp_met(current->number / 32);
  }, &mask);
}

void copy_async(void *to, const void *from, unsigned bytes, unsigned valid) {
  if ((bytes != 4 && bytes != 8 && bytes != 16) || valid > bytes) fault("an asynchronous copy of %u bytes, %u of them valid", bytes, valid);
  if (reinterpret_cast<uintptr_t>(to) % bytes || reinterpret_cast<uintptr_t>(from) % bytes) fault("an asynchronous copy of %u bytes is misaligned", bytes);
  memset(to, 0xff, bytes);
  races::copy_starts(to, bytes);
  if (valid) races::read(from, valid);
  if (valid < bytes) { // the rest becomes zeros: two pieces, both late
    current->copies.push_back({static_cast<char *>(to) + valid, nullptr, bytes - valid, current->committed});
    bytes = valid;
  }
  if (bytes) current->copies.push_back({to, from, bytes, current->committed});
}

void commit_copies() { current->committed++; }

void wait_copies(unsigned groups_left) {
  auto &copies = current->copies;
  const unsigned before = current->committed > groups_left ? current->committed - groups_left : 0;
  std::vector<AsyncCopy> due;
  size_t kept = 0;
  for (size_t i = 0; i < copies.size(); i++)
    if (copies[i].group < before) due.push_back(copies[i]);
    else copies[kept++] = copies[i];
  copies.resize(kept);
  while (!due.empty()) {
    const unsigned i = block->random.below(unsigned(due.size()));
    races::copy_ends(due[i].to, due[i].bytes);
    if (due[i].from) memcpy(due[i].to, due[i].from, due[i].bytes);
    else memset(due[i].to, 0, due[i].bytes);
    due[i] = due.back();
    due.pop_back();
  }
}

bool run_grid(dim3 grid, dim3 threads, size_t shared_bytes, uint64_t seed, const std::function<void()> &body) {
  fault_text[0] = 0;
  Block b{};
  b.size = threads;
  b.grid = grid;
  b.threads = threads.x * threads.y * threads.z;
  b.body = &body;
  b.shared_bytes = shared_bytes;
  b.random.state = seed * 0x9e3779b97f4a7c15ull + 1;
  if (!b.threads || b.threads > 1024 || !grid.x || !grid.y || !grid.z || grid.y > 65535 || grid.z > 65535 || shared_bytes > (227u << 10)) {
    snprintf(fault_text, sizeof fault_text, "a launch of %u x %u x %u blocks of %u threads with %zu bytes of shared memory", grid.x, grid.y, grid.z, b.threads, shared_bytes);
    return false;
  }
  if (!stacks.grow(b.threads)) {
    snprintf(fault_text, sizeof fault_text, "no memory for %u stacks", b.threads);
    return false;
  }
  b.fibers = stacks.fibers.data();
  for (unsigned i = 0; i < b.threads; i++) {
    b.fibers[i].number = i;
    b.fibers[i].thread = dim3(i % threads.x, i / threads.x % threads.y, i / threads.x / threads.y);
  }
  const size_t room = (shared_bytes + page - 1) / page * page;
  char *memory = nullptr;
  if (room) {
    memory = static_cast<char *>(mmap(nullptr, room + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (memory == MAP_FAILED) return fault_in_block(b, "no memory for shared memory");
    mprotect(memory + room, page, PROT_NONE);
    b.shared = memory + room - (shared_bytes + 15) / 16 * 16;
  }
  const uint64_t blocks = uint64_t(grid.x) * grid.y * grid.z;
  uint64_t step = 1; // random order of blocks: a stride coprime to their number
  do step = 1 + b.random.below(unsigned(blocks < 1u << 30 ? blocks : 1u << 30));
  while (std::gcd(step, blocks) != 1);
  uint64_t at = b.random.below(unsigned(blocks < 1u << 30 ? blocks : 1u << 30));
  bool right = true;
  races::start_launch();
  for (uint64_t i = 0; i < blocks && right; i++, at = (at + step) % blocks) {
    b.index = dim3(unsigned(at % grid.x), unsigned(at / grid.x % grid.y), unsigned(at / grid.x / grid.y));
    right = run_block(b);
  }
  if (memory) munmap(memory, room + page);
  block = nullptr;
  current = nullptr;
  return right;
}

} // namespace host
