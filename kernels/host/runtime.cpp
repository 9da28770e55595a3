// runtime.cpp - the CUDA runtime of the harness: memory between guard pages, streams as queues that overtake each other, graphs as lists.
#include "cuda_runtime.h"

#include <atomic>
#include <cstdio>
#include <chrono>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <sys/mman.h>
#include <unistd.h>

namespace host {

using Work = std::function<cudaError_t()>;

struct Graph { std::vector<Work> nodes; };
struct Event { std::chrono::steady_clock::time_point time; };
struct Stream {
  std::mutex turn; // of who adds or runs its work
  std::deque<Work> queue;
  bool capturing = false;
  Graph *graph = nullptr;
  cudaError_t error = cudaSuccess; // stays, as in CUDA
  std::string fault;               // its text
  uint64_t launches = 0;

  void add(Work w) {
    if (capturing) return graph->nodes.push_back(std::move(w));
    std::lock_guard<std::mutex> hold(turn);
    queue.push_back(std::move(w));
  }
  // What is next in the queue; the caller has the turn.
  void run_next() {
    const Work w = std::move(queue.front());
    queue.pop_front();
    if (error == cudaSuccess && (error = w()) != cudaSuccess) fault = last_fault();
  }
};

namespace {

constexpr size_t page = 4096, granule = 256; // CUDA aligns what it allocates to 256 bytes
struct Allocation { char *base; size_t mapped, bytes; };
// What has been allocated, so that cudaFree knows its size: of the process, like a device's memory.
std::mutex lock;
std::map<void *, Allocation> &allocations() { static std::map<void *, Allocation> all; return all; }
thread_local cudaError_t last = cudaSuccess;

uint64_t base_seed() {
  const char *text = getenv("ANX_HOST_SEED");
  return text ? strtoull(text, nullptr, 10) : 1;
}
// ANX_HOST_LOSE=n: the device is lost when the process has run n more kernels.
bool lost() {
  static std::atomic<uint64_t> kernels{0};
  const char *text = getenv("ANX_HOST_LOSE");
  if (!text) kernels = 0;
  return text && ++kernels > strtoull(text, nullptr, 10);
}
// ANX_HOST_REFUSE=n: launch n + 1 of the process from here on is refused, as one that asks for too much.
bool refused() {
  static std::atomic<uint64_t> launches{0};
  const char *text = getenv("ANX_HOST_REFUSE");
  if (!text) launches = 0;
  return text && launches++ == strtoull(text, nullptr, 10);
}
int capability() { // of the pretended device
  const char *text = getenv("ANX_HOST_SM");
  return text ? atoi(text) : 90;
}
size_t shared_most() { // of a block, in the CUDA programming guide's table of compute capabilities
  switch (capability()) {
    case 70: case 72: return 96 << 10;
    case 75: return 64 << 10;
    case 80: case 87: return 163 << 10;
    case 86: case 89: case 120: return 99 << 10;
    default: return 227 << 10;
  }
}
// What a launch of a kernel may ask for: 48 KB, until cudaFuncSetAttribute says otherwise. The last word counts, be it more or less.
std::map<const void *, size_t> &shared_allowed() { static std::map<const void *, size_t> all; return all; }
bool old_driver() { return getenv("ANX_HOST_OLD_DRIVER"); } // one that knows CUDA 10.1
size_t memory_limit() { // bytes of the pretended device
  const char *text = getenv("ANX_HOST_MEMORY");
  return text ? strtoull(text, nullptr, 10) : size_t(8) << 30;
}
size_t in_use() {
  size_t sum = 0;
  for (auto &a : allocations()) sum += a.second.bytes;
  return sum;
}
cudaError_t keep(cudaError_t e) { return e == cudaSuccess ? e : (last = e); }
thread_local std::string last_text; // of a kernel's fault

// The streams of the process. Work runs when somebody waits for it: that of the stream waited for as late as can be, and between it, by chance,
// what is next in others, whoever's they are. The stream of no name (cudaStream_t 0) waits for none and none for it, as ours are non-blocking.
struct Streams {
  std::mutex lock;
  std::vector<Stream *> all{new Stream};
  Random random{base_seed()};

  Stream *named(Stream *s) { return s ? s : all[0]; }
  void run_another(Stream *s) {
    std::unique_lock<std::mutex> hold(lock);
    Stream *other = all[random.below(unsigned(all.size()))];
    if (random.below(2) || other == s || !other->turn.try_lock()) return;
    std::lock_guard<std::mutex> turn(other->turn, std::adopt_lock);
    hold.unlock();
    if (!other->queue.empty()) other->run_next();
  }
  cudaError_t wait_for(Stream *s) {
    for (;;) {
      run_another(s);
      std::lock_guard<std::mutex> turn(s->turn);
      if (!s->queue.empty()) {
        s->run_next();
        continue;
      }
      return tell(s);
    }
  }
  cudaError_t tell(Stream *s) { // the caller has the turn
    if (s->error != cudaSuccess) last_text = s->fault;
    return keep(s->error);
  }
};
Streams &streams() {
  static Streams *const all = new Streams; // to the end of the process
  return *all;
}

} // namespace

cudaError_t later(Stream *s, std::function<cudaError_t()> work) {
  s = streams().named(s);
  if (!s->capturing) note("launch\n");
  s->add(std::move(work));
  return cudaSuccess;
}
cudaError_t allow_shared(const void *kernel, int bytes) {
  if (bytes < 0 || size_t(bytes) > shared_most()) return keep(cudaErrorInvalidValue);
  std::lock_guard<std::mutex> hold(lock);
  shared_allowed()[kernel] = size_t(bytes);
  return cudaSuccess;
}
cudaError_t enqueue(Stream *s, const void *kernel, dim3 grid, dim3 threads, size_t shared_bytes, std::function<void()> body) {
  if (refused()) return keep(cudaErrorLaunchOutOfResources);
  {
    std::lock_guard<std::mutex> hold(lock);
    const auto allowed = shared_allowed().find(kernel);
    if (shared_bytes > (allowed == shared_allowed().end() ? 48 << 10 : allowed->second)) return keep(cudaErrorInvalidValue);
  }
  s = streams().named(s);
  if (!s->capturing) note("launch\n");
  const uint64_t number = s->launches++;
  auto turn = std::make_shared<uint64_t>(0);
  s->add([=] {
    if (lost()) return cudaErrorECCUncorrectable;
    return run_grid(grid, threads, shared_bytes, base_seed() * 1000003 + number * 101 + (*turn)++, body) ? cudaSuccess : cudaErrorLaunchFailure;
  });
  return cudaSuccess;
}

int compiled_for() { // ANX_HOST_PTX=70: what PTX alone brings about, kernels for an older architecture than the device's
  const char *text = getenv("ANX_HOST_PTX");
  return text ? atoi(text) : capability();
}

} // namespace host

using namespace host;

cudaError_t cudaGetDeviceCount(int *count) {
  *count = old_driver() ? 0 : 1;
  return old_driver() ? keep(cudaErrorInsufficientDriver) : cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int *version) { *version = old_driver() ? 10010 : 13000; return cudaSuccess; }
cudaError_t cudaRuntimeGetVersion(int *version) { *version = 13000; return cudaSuccess; }
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int device) {
  if (device) return keep(cudaErrorInvalidDevice);
  memset(p, 0, sizeof *p);
  snprintf(p->name, sizeof p->name, "CUDA kernels on the CPU");
  p->totalGlobalMem = memory_limit();
  p->sharedMemPerBlockOptin = shared_most();
  const int sm = capability();
  p->major = sm / 10, p->minor = sm % 10;
  const char *units = getenv("ANX_HOST_UNITS");
  p->multiProcessorCount = units ? atoi(units) : 4; // few, so that blocks loop over tiles; ANX_HOST_UNITS=1: in every kernel
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) { return device ? keep(cudaErrorInvalidDevice) : cudaSuccess; }
cudaError_t cudaMalloc(void **out, size_t bytes) {
  std::lock_guard<std::mutex> hold(lock);
  if (in_use() + bytes > memory_limit()) return keep(cudaErrorMemoryAllocation);
  const size_t usable = (bytes + granule - 1) / granule * granule, room = (usable + page - 1) / page * page + page;
  char *base = static_cast<char *>(mmap(nullptr, room + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  if (base == MAP_FAILED) return keep(cudaErrorMemoryAllocation);
  mprotect(base, page, PROT_NONE);
  mprotect(base + room, page, PROT_NONE);
  char *data = base + room - usable;
  memset(data, 0xff, usable);
  allocations()[data] = {base, room + page, bytes};
  races::watch(data, usable);
  *out = data;
  return cudaSuccess;
}
cudaError_t cudaFree(void *data) {
  if (!data) return cudaSuccess;
  std::lock_guard<std::mutex> hold(lock);
  auto at = allocations().find(data);
  if (at == allocations().end()) return keep(cudaErrorInvalidValue);
  const Allocation a = at->second;
  for (size_t i = a.bytes; i < (a.bytes + granule - 1) / granule * granule; i++)
    if (static_cast<unsigned char *>(data)[i] != 0xff) {
      fprintf(stderr, "harness: a byte behind the end of a buffer of %zu bytes was written\n", a.bytes);
      abort();
    }
  races::forget(data);
  munmap(a.base, a.mapped);
  allocations().erase(at);
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t *free, size_t *total) {
  std::lock_guard<std::mutex> hold(lock);
  *total = memory_limit();
  *free = *total - in_use();
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind, cudaStream_t s) {
  s = streams().named(s);
  if (kind == cudaMemcpyHostToDevice && !s->capturing) { // from memory that may change when this returns
    const char *first = static_cast<const char *>(from);
    s->add([to, held = std::vector<char>(first, first + bytes)] { memcpy(to, held.data(), held.size()); return cudaSuccess; });
    return cudaSuccess;
  }
  s->add([=] { memcpy(to, from, bytes); return cudaSuccess; });
  return kind == cudaMemcpyDeviceToHost && !s->capturing ? streams().wait_for(s) : cudaSuccess;
}
cudaError_t cudaMemsetAsync(void *at, int value, size_t bytes, cudaStream_t s) {
  streams().named(s)->add([=] { memset(at, value, bytes); return cudaSuccess; });
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned) {
  std::lock_guard<std::mutex> hold(streams().lock);
  streams().all.push_back(*s = new Stream);
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t s) {
  {
    std::lock_guard<std::mutex> hold(streams().lock);
    std::erase(streams().all, s);
  }
  s->turn.lock(); // who has it may still run its work
  s->turn.unlock();
  delete s;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t s) { return streams().wait_for(streams().named(s)); }
cudaError_t cudaStreamBeginCapture(cudaStream_t s, cudaStreamCaptureMode) {
  if (s->capturing) return keep(cudaErrorInvalidValue);
  s->capturing = true;
  s->graph = new Graph;
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *g) {
  if (!s->capturing) return keep(cudaErrorInvalidValue);
  s->capturing = false;
  *g = s->graph;
  s->graph = nullptr;
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t *e, cudaGraph_t g, unsigned long long) { *e = new Graph(*g); return cudaSuccess; }
cudaError_t cudaGraphLaunch(cudaGraphExec_t e, cudaStream_t s) {
  note("graph\n");
  for (const Work &w : e->nodes) s->add(w);
  std::lock_guard<std::mutex> hold(s->turn);
  return streams().tell(s);
}
cudaError_t cudaGraphDestroy(cudaGraph_t g) { delete g; return cudaSuccess; }
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t e) { delete e; return cudaSuccess; }
cudaError_t cudaEventCreate(cudaEvent_t *e) { *e = new Event; return cudaSuccess; }
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s) {
  s->add([=] { e->time = std::chrono::steady_clock::now(); return cudaSuccess; });
  return cudaSuccess;
}
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t a, cudaEvent_t b) {
  *ms = std::chrono::duration<float, std::milli>(b->time - a->time).count();
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t e) { delete e; return cudaSuccess; }
cudaError_t cudaGetLastError() { cudaError_t e = last; last = cudaSuccess; return e; }
const char *cudaGetErrorString(cudaError_t e) {
  switch (e) {
    case cudaSuccess: return "no error";
    case cudaErrorInvalidValue: return "invalid argument";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorLaunchFailure: return last_text.c_str();
    case cudaErrorECCUncorrectable: return "uncorrectable ECC error encountered";
    case cudaErrorInvalidDevice: return "invalid device ordinal";
    default: return "error of the harness";
  }
}
