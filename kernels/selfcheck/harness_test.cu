// harness_test.cu - does the harness do what CUDA does, and find what it says it finds? Each wrong kernel must end with the fault named.
#include <cstdio>
#include "instructions.cuh"

namespace {

struct Arguments { float *out; const float *in; int wrong; };
struct Words { uint4 v[64]; };

void collectives(Arguments a) {
  const int lane = threadIdx.x % 32;
  float v = float(lane);
  for (int d = 16; d; d >>= 1) v += __shfl_xor_sync(0xffffffffu, v, d);
  const unsigned odd = __ballot_sync(0xffffffffu, lane & 1);
  const int down = __shfl_down_sync(0xffffffffu, lane, 3);
  a.out[threadIdx.x] = v + (odd == 0xaaaaaaaau ? 1000.f : 0.f) + (down == (lane < 29 ? lane + 3 : lane) ? 2000.f : 0.f) +
                       (__syncthreads_count(lane == 0) == int(blockDim.x / 32) ? 4000.f : 0.f);
}
void exchange(Arguments a) { // needs its barrier
  ANX_SHARED(Words, s);
  s.v[threadIdx.x].x = threadIdx.x;
  if (!a.wrong) __syncthreads();
  a.out[threadIdx.x] = float(s.v[(threadIdx.x + 33) % blockDim.x].x);
}
void overwrite(Arguments a) { // needs its last barrier, unless all warps go in step
  ANX_SHARED(Words, s);
  s.v[threadIdx.x].x = threadIdx.x;
  __syncthreads();
  float sum = 0;
  for (int i = 0; i < 4; i++) sum += __shfl_xor_sync(0xffffffffu, float(s.v[(threadIdx.x + 32) % blockDim.x].x), 1 << i);
  if (!a.wrong) __syncthreads();
  s.v[threadIdx.x].x = 0;
  a.out[threadIdx.x] = sum;
}
void late_copies(Arguments a) { // needs its wait
  ANX_SHARED(Words, s);
  anx::copy_async(&s.v[threadIdx.x], a.in + 4 * threadIdx.x, 8);
  anx::commit_copies();
  if (a.wrong) anx::wait_copies<1>();
  else anx::wait_copies<0>();
  a.out[threadIdx.x] = reinterpret_cast<float *>(&s.v[threadIdx.x])[1] + reinterpret_cast<float *>(&s.v[threadIdx.x])[2];
  anx::wait_copies<0>();
}
void never_waits(Arguments a) {
  ANX_SHARED(Words, s);
  anx::copy_async(&s.v[threadIdx.x], a.in);
  anx::commit_copies();
}
void divergent_barrier(Arguments) {
  if (threadIdx.x < 32) __syncthreads();
  else __syncthreads();
}
void lonely_barrier(Arguments) {
  if (threadIdx.x < 40) __syncthreads();
}
void lonely_collective(Arguments a) {
  if (threadIdx.x % 32 < 16) a.out[threadIdx.x] = __shfl_xor_sync(0xffffffffu, 1.f, 1);
}
void misaligned(Arguments a) {
  ANX_SHARED(Words, s);
  uint32_t r[4];
  ldmatrix(4, r, reinterpret_cast<char *>(&s) + threadIdx.x * 16 + a.wrong * 8);
}

#if defined(HOST_RACES)
alignas(4096) float device[4096];

void rows(Arguments a) { // needs its __syncwarp
  ANX_SHARED(Words, s);
  uint32_t r[4];
  s.v[threadIdx.x] = {threadIdx.x, 0, 0, 0};
  if (!a.wrong) __syncwarp();
  ldmatrix(4, r, &s.v[threadIdx.x]); // a lane's own row, which others get parts of
}
void lanes(Arguments a) { // needs its __syncwarp
  ANX_SHARED(Words, s);
  s.v[threadIdx.x].x = threadIdx.x;
  if (a.wrong) __shfl_xor_sync(0xffffffffu, 1.f, 1);
  else __syncwarp();
  a.out[blockIdx.x * 64 + threadIdx.x] = float(s.v[threadIdx.x ^ 1].x);
}
void warps(Arguments a) { // needs its __syncthreads
  float *out = a.out + blockIdx.x * 64;
  out[threadIdx.x] = 1;
  if (a.wrong) __syncwarp();
  else __syncthreads();
  out[threadIdx.x ^ 32] += 1;
}
void copies(Arguments a) { // needs the wait before its barrier
  ANX_SHARED(Words, s);
  anx::copy_async(&s.v[threadIdx.x], a.in + 4 * threadIdx.x);
  anx::commit_copies();
  if (!a.wrong) anx::wait_copies<0>();
  __syncthreads();
  a.out[blockIdx.x * 64 + threadIdx.x] = float(s.v[threadIdx.x ^ 1].x);
  __syncwarp();
  anx::wait_copies<0>();
}
void blocks_write(Arguments a) { a.out[(a.wrong ? 0 : blockIdx.x * 64) + threadIdx.x] = 1; }
void blocks_read(Arguments a) {
  const float seen = a.out[2048 + threadIdx.x];
  a.out[(a.wrong && blockIdx.x == 1 ? 2048 : blockIdx.x * 64) + threadIdx.x] = seen;
}
void count(Arguments a) {
  atomicAdd(a.out, 1.f);
  if (a.wrong && threadIdx.x == 0) a.out[64 + blockIdx.x] = a.out[0];
}
#endif

int failures = 0;
void expect(const char *what, bool right) {
  if (!right) failures++;
  printf("%s %s%s%s\n", right ? "right" : "WRONG", what, right ? "" : ": ", right ? "" : host::last_fault());
}
bool run(void (*kernel)(Arguments), Arguments a, unsigned seed) {
  return host::run_grid(dim3(3), dim3(64), sizeof(Words), seed, [=] { kernel(a); });
}
bool faults(void (*kernel)(Arguments), Arguments a, const char *text) {
  for (unsigned seed = 0; seed < 4; seed++)
    if (run(kernel, a, seed) || !strstr(host::last_fault(), text)) return false;
  return true;
}

} // namespace

int main() {
  float out[64], in[256];
  for (int i = 0; i < 256; i++) in[i] = float(i);
  Arguments a{out, in, 0}, wrong{out, in, 1};
  bool right = true;
  for (unsigned seed = 0; seed < 20; seed++) {
    right &= run(collectives, a, seed);
    for (float v : out) right &= v == 7496.f;
  }
  expect("collectives and votes", right);
  right = true;
  int upset = 0;
  for (unsigned seed = 0; seed < 20; seed++) {
    right &= run(exchange, a, seed);
    for (int i = 0; i < 64; i++) right &= out[i] == float((i + 33) % 64);
    run(exchange, wrong, seed);
    bool same = true;
    for (int i = 0; i < 64; i++) same &= out[i] == float((i + 33) % 64);
    upset += !same;
  }
  expect("a barrier orders shared memory", right);
  expect("a missing barrier shows with every seed", upset == 20);
  right = true, upset = 0;
  for (unsigned seed = 0; seed < 20; seed++) {
    right &= run(overwrite, a, seed);
    const float whole = out[0];
    upset += !run(overwrite, wrong, seed) || out[0] != whole || out[32] == 0; // a fault where races are one
  }
  expect("a warp that runs ahead shows with most seeds", right && upset >= 10);
  right = run(late_copies, a, 3);
  for (int i = 0; i < 64; i++) right &= out[i] == in[4 * i + 1];
  expect("an asynchronous copy, its rest zeros", right);
  expect("without its wait it is not there", !run(late_copies, wrong, 3) || (out[0] != out[0] && out[63] != out[63]));
  expect("copies nobody waits for", faults(never_waits, a, "nobody has waited for"));
  expect("threads at different barriers", faults(divergent_barrier, a, "different barriers"));
  expect("threads that end where others wait", faults(lonely_barrier, a, "ended where others wait"));
  expect("lanes that miss a collective", faults(lonely_collective, a, "has ended") || faults(lonely_collective, a, "deadlock") || !run(lonely_collective, a, 1));
  expect("a misaligned row of ldmatrix", faults(misaligned, wrong, "not aligned"));
#if defined(HOST_RACES)
  host::races::watch(device, sizeof device);
  Arguments on_device{device, in, 0}, wrong_on_device{device, in, 1};
  right = run(rows, on_device, 1);
  expect("a __syncwarp orders what a warp stores before ldmatrix", right);
  expect("without it ldmatrix races", faults(rows, wrong_on_device, "is read with no barrier"));
  expect("lanes that exchange need a __syncwarp, a shuffle is none", run(lanes, on_device, 1) && faults(lanes, wrong_on_device, "with no barrier"));
  expect("warps need a __syncthreads, a __syncwarp is none", faults(warps, wrong_on_device, "with no barrier") && run(warps, on_device, 1));
  expect("what is overwritten has been read", faults(overwrite, wrong, "with no barrier"));
  expect("a copy that arrives while others read", run(copies, on_device, 1) && faults(copies, wrong_on_device, "being copied to by thread"));
  expect("blocks that write one place", faults(blocks_write, wrong_on_device, "by another block") && run(blocks_write, on_device, 1));
  expect("a block that reads what another writes", faults(blocks_read, wrong_on_device, "by another block") && run(blocks_read, on_device, 1));
  expect("atomics of blocks", run(count, on_device, 1) && faults(count, wrong_on_device, "touched atomically"));
#endif
  return failures != 0;
}
