/* ceilings.c - what this machine could do at best with one instruction set: the numbers that fractions of peak are fractions of.
 *
 * Each thread of the pool works in slices of some tenths of a millisecond and keeps their times. Its rate is that of the slice at the upper
 * quartile: a slice during which something else ran does not count, and neither does a lucky one. Rates of threads are added.
 */
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "cpu.h"
#include "isa.h"

#define SAMPLES 4096                /* the newest slices of a thread */
#define CHAINS (VL == 16 ? 16 : 12) /* independent sums: more than latency x units, fewer than registers */
#define FMA_ROUNDS 65536            /* of CHAINS vectors: one slice */
#define COPY_BYTES (2u << 20)       /* one slice */

typedef struct ceiling_job {
  void (*slice)(struct ceiling_job *, int index);
  double deadline;
  double *times;  /* [threads][SAMPLES] */
  double *best;   /* [threads]: seconds of the slice at the upper quartile */
  float *from, *to; /* [threads][floats] */
  size_t floats;    /* of a thread; a multiple of a slice */
  size_t *at;       /* [threads]: where in them the next slice starts */
  volatile float sink;
} ceiling_job;

static double seconds_now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void slice_fma(ceiling_job *job, int index) {
  vf a[CHAINS];
  volatile float start = 1e-3f, factor = 0.9999f, addend = 1e-4f;
  const vf x = vset(factor), y = vset(addend);
  UNROLL for (int i = 0; i < CHAINS; i++) a[i] = vset(start * (float)i);
  for (int round = 0; round < FMA_ROUNDS; round++) {
    UNROLL for (int i = 0; i < CHAINS; i++) a[i] = vfma(a[i], x, y);
  }
  vf sum = vzero();
  UNROLL for (int i = 0; i < CHAINS; i++) sum += a[i];
  float out[VL] __attribute__((aligned(64)));
  vstore(out, sum);
  job->sink = out[0] + (float)index;
}
static const double fma_flops = 2.0 * VL * CHAINS * FMA_ROUNDS;

/* bf16 pairs with fp32 accumulation; 0 where the instruction is not there */
#if defined(__AVX512F__)
__attribute__((target("avx512bf16"))) static void slice_dot(ceiling_job *job, int index) {
  __m512 a[CHAINS];
  volatile short half = 0x3f00, small = 0x3c00; /* 0.5, 0.0078 */
  const __m512bh x = (__m512bh)_mm512_set1_epi16(half), y = (__m512bh)_mm512_set1_epi16(small);
  UNROLL for (int i = 0; i < CHAINS; i++) a[i] = _mm512_set1_ps((float)i);
  for (int round = 0; round < FMA_ROUNDS; round++) {
    UNROLL for (int i = 0; i < CHAINS; i++) a[i] = _mm512_dpbf16_ps(a[i], x, y);
  }
  __m512 sum = _mm512_setzero_ps();
  UNROLL for (int i = 0; i < CHAINS; i++) sum += a[i];
  job->sink = _mm512_cvtss_f32(sum) + (float)index;
}
static const double dot_flops = 4.0 * 16 * CHAINS * FMA_ROUNDS;
#endif

static float *next_slice(const ceiling_job *job, float *base, int index) {
  return base + (size_t)index * job->floats + job->at[index];
}

static void advance(ceiling_job *job, int index) {
  job->at[index] += COPY_BYTES / sizeof(float);
  if (job->at[index] >= job->floats) job->at[index] = 0;
}

/* past the caches where the instruction set can say so: a store that reads its line first moves half as much again */
static void slice_copy(ceiling_job *job, int index) {
  const float *from = next_slice(job, job->from, index);
  float *to = next_slice(job, job->to, index);
  for (size_t i = 0; i < COPY_BYTES / sizeof(float); i += VL) {
#if defined(__AVX512F__)
    _mm512_stream_ps(to + i, vload(from + i));
#elif defined(__AVX2__)
    _mm256_stream_ps(to + i, vload(from + i));
#else
    vstore(to + i, vload(from + i));
#endif
  }
#if defined(__AVX2__)
  _mm_sfence();
#endif
  advance(job, index);
}

static void slice_read(ceiling_job *job, int index) {
  const float *from = next_slice(job, job->from, index);
  vf a[8];
  UNROLL for (int j = 0; j < 8; j++) a[j] = vzero();
  for (size_t i = 0; i < COPY_BYTES / sizeof(float); i += 8 * VL) {
    UNROLL for (int j = 0; j < 8; j++) a[j] += vload(from + i + (size_t)j * VL);
  }
  vf sum = vzero();
  UNROLL for (int j = 0; j < 8; j++) sum += a[j];
  float out[VL] __attribute__((aligned(64)));
  vstore(out, sum);
  job->sink = out[0];
  advance(job, index);
}

static int by_time(const void *a, const void *b) {
  const double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static void task(void *arg, int index, int thread) {
  ceiling_job *job = arg;
  double *times = job->times + (size_t)index * SAMPLES, start = seconds_now();
  size_t count = 0;
  (void)thread;
  while (count < 8 || start < job->deadline) {
    job->slice(job, index);
    const double end = seconds_now();
    times[count++ % SAMPLES] = end - start;
    start = end;
  }
  const size_t kept = count < SAMPLES ? count : SAMPLES;
  qsort(times, kept, sizeof *times, by_time);
  job->best[index] = times[kept / 4];
}

/* giga-units per second of all threads, where a slice is so many units */
static double measure(ceiling_job *job, anx_pool *pool, void (*slice)(ceiling_job *, int), double units, double seconds) {
  const int threads = anx_pool_threads(pool);
  double rate = 0;
  job->slice = slice;
  job->deadline = seconds_now() + seconds;
  anx_pool_run(pool, task, job, threads);
  for (int i = 0; i < threads; i++) rate += units / job->best[i] / 1e9;
  return rate;
}

/* Memory far beyond the last cache in all, at least 32 MB of a thread. */
static size_t floats_of_thread(int threads) {
  size_t cache = 0;
#if defined(_SC_LEVEL3_CACHE_SIZE)
  const long found = sysconf(_SC_LEVEL3_CACHE_SIZE);
  if (found > 0) cache = (size_t)found;
#endif
  size_t bytes = 4 * cache / (size_t)threads;
  if (bytes < (32u << 20)) bytes = 32u << 20;
  if (bytes > (256u << 20)) bytes = 256u << 20;
  return (bytes + COPY_BYTES - 1) / COPY_BYTES * COPY_BYTES / sizeof(float);
}

static void touch(void *arg, int index, int thread) {
  ceiling_job *job = arg;
  (void)thread;
  memset(job->from + (size_t)index * job->floats, 0, job->floats * sizeof(float));
  memset(job->to + (size_t)index * job->floats, 0, job->floats * sizeof(float));
}

anx_status FN(anx_measure_ceilings)(anx_failure *failure, anx_pool *pool, anx_ceilings *out, double seconds) {
  const int threads = anx_pool_threads(pool);
  ceiling_job job = {.floats = floats_of_thread(threads)};
  const size_t bytes = (size_t)threads * job.floats * sizeof(float);
  void *from = NULL, *to = NULL;
  anx_status status = ANX_OK;
  memset(out, 0, sizeof *out);
  job.times = calloc((size_t)threads * SAMPLES, sizeof *job.times);
  job.best = calloc((size_t)threads, sizeof *job.best);
  job.at = calloc((size_t)threads, sizeof *job.at);
  if (!job.times || !job.best || !job.at || posix_memalign(&from, 4096, bytes) || posix_memalign(&to, 4096, bytes)) {
    status = anx_fail(failure, ANX_OUT_OF_MEMORY, "ceilings: wanted twice %zu bytes", bytes);
  } else {
    job.from = from;
    job.to = to;
    anx_pool_run(pool, touch, &job, threads);
    out->fma_f32_gflops = measure(&job, pool, slice_fma, fma_flops, seconds / 4);
#if defined(__AVX512F__)
    if (__builtin_cpu_supports("avx512bf16")) out->dot_bf16_gflops = measure(&job, pool, slice_dot, dot_flops, seconds / 4);
#endif
    out->copy_gb_per_s = measure(&job, pool, slice_copy, 2.0 * COPY_BYTES, seconds / 4);
    memset(job.at, 0, (size_t)threads * sizeof *job.at);
    out->read_gb_per_s = measure(&job, pool, slice_read, COPY_BYTES, seconds / 4);
  }
  free(from);
  free(to);
  free(job.at);
  free(job.best);
  free(job.times);
  return status;
}
