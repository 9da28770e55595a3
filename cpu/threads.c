/* threads.c - the pool of one context.
 *
 * Workers take indices of a job from one counter. They spin for some tens of microseconds after a job, since ops follow each other closely,
 * and then sleep. A pool of one thread has no workers and runs jobs in the caller.
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include "cpu.h"

#define SPINS 4000

struct anx_pool {
  int threads; /* the caller included */
  int started;
  pthread_t *ids;
  pthread_mutex_t mutex;
  pthread_cond_t wake;
  int sleeping;          /* under mutex */
  atomic_uint job;       /* number of the current job */
  atomic_int stop, next, busy;
  anx_task task;
  void *arg;
  int count;
};

typedef struct worker {
  anx_pool *pool;
  int thread;
} worker;

static inline void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

/* Stores past the caches are not ordered by the atomics below. */
static inline void fence(void) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_sfence();
#endif
}

static void drain(anx_pool *p, int thread) {
  for (;;) {
    const int i = atomic_fetch_add_explicit(&p->next, 1, memory_order_relaxed);
    if (i >= p->count) break;
    p->task(p->arg, i, thread);
  }
  fence();
}

static void *work(void *argument) {
  worker *me = argument;
  anx_pool *p = me->pool;
  const int thread = me->thread;
  free(me);
  unsigned seen = 0;
  for (;;) {
    int spins = 0;
    while (atomic_load_explicit(&p->job, memory_order_acquire) == seen) {
      if (++spins < SPINS) {
        relax();
        continue;
      }
      pthread_mutex_lock(&p->mutex);
      p->sleeping++;
      while (atomic_load_explicit(&p->job, memory_order_acquire) == seen) pthread_cond_wait(&p->wake, &p->mutex);
      p->sleeping--;
      pthread_mutex_unlock(&p->mutex);
    }
    seen++;
    if (atomic_load_explicit(&p->stop, memory_order_acquire)) return NULL;
    drain(p, thread);
    atomic_fetch_sub_explicit(&p->busy, 1, memory_order_release);
  }
}

static void announce(anx_pool *p) {
  pthread_mutex_lock(&p->mutex);
  atomic_fetch_add_explicit(&p->job, 1, memory_order_release);
  if (p->sleeping) pthread_cond_broadcast(&p->wake);
  pthread_mutex_unlock(&p->mutex);
}

void anx_pool_run(anx_pool *p, anx_task task, void *arg, int count) {
  if (p->threads == 1 || count <= 1) {
    for (int i = 0; i < count; i++) task(arg, i, 0);
    fence();
    return;
  }
  p->task = task;
  p->arg = arg;
  p->count = count;
  atomic_store_explicit(&p->next, 0, memory_order_relaxed);
  atomic_store_explicit(&p->busy, p->threads - 1, memory_order_relaxed);
  announce(p);
  drain(p, 0);
  for (int spins = 0; atomic_load_explicit(&p->busy, memory_order_acquire); spins++) {
    if (spins < SPINS) relax();
    else sched_yield(); /* more threads than cores: let the last worker run */
  }
}

int anx_pool_threads(const anx_pool *p) { return p->threads; }

void anx_pool_destroy(anx_pool *p) {
  if (!p) return;
  if (p->started) {
    atomic_store_explicit(&p->stop, 1, memory_order_release);
    announce(p);
    for (int i = 0; i < p->started; i++) pthread_join(p->ids[i], NULL);
  }
  pthread_cond_destroy(&p->wake);
  pthread_mutex_destroy(&p->mutex);
  free(p->ids);
  free(p);
}

int anx_pool_create(anx_pool **out, int threads) {
  anx_pool *p = calloc(1, sizeof *p);
  *out = NULL;
  if (!p) return ENOMEM;
  p->threads = threads;
  pthread_mutex_init(&p->mutex, NULL);
  pthread_cond_init(&p->wake, NULL);
  p->ids = calloc((size_t)threads, sizeof *p->ids);
  int error = p->ids ? 0 : ENOMEM;
  for (int i = 1; i < threads && !error; i++) {
    worker *w = malloc(sizeof *w);
    if (!w) {
      error = ENOMEM;
      break;
    }
    w->pool = p;
    w->thread = i;
    error = pthread_create(&p->ids[i - 1], NULL, work, w);
    if (error) free(w);
    else p->started++;
  }
  if (error) {
    anx_pool_destroy(p);
    return error;
  }
  *out = p;
  return 0;
}
