/* threads.c - the pool of one context.
 *
 * Every thread begins with its share of a job: the same fraction of the indices in every job. Tasks follow the pixels where they can, so that an op
 * finds in a core's caches what the op before has left there; cores may lie so far apart that what another has written comes no faster than from
 * memory (measured: docs/cpu.md). Who is done takes tasks from the end of another's share. A job is over once its tasks are: nobody waits for
 * a worker that has none, so one whose core has other things to do holds up only the task that it is at.
 * Shares and replies lie apart, so that nobody's line is touched while he works alone.
 * Workers spin for some tens of microseconds after a job, since ops follow each other closely, and then sleep. A pool of one thread has no workers
 * and runs jobs in the caller.
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include "cpu.h"

#define SPINS 4000
#define APART 128 /* bytes: two lines, since processors fetch them in pairs */

typedef struct member {
  _Alignas(APART) atomic_uint_least64_t share; /* of the current job, not yet taken: first index, and in the upper half the one after the last */
  _Alignas(APART) atomic_uint done;            /* tasks of all jobs that the worker has run */
} member;

struct anx_pool {
  int threads; /* the caller included */
  int started;
  pthread_t *ids;
  member *members; /* one per thread */
  pthread_mutex_t mutex;
  pthread_cond_t wake;
  atomic_int sleeping, stop;
  unsigned done; /* tasks of all jobs that workers have run */
  _Alignas(APART) atomic_uint job; /* number of the current job; what follows belongs to it, and is read by who has taken a task of it */
  anx_task task;
  void *arg;
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

/* An index of a member's share, from the front or from the end; -1: nothing is left. */
static int take(member *m, int from_end) {
  uint_least64_t share = atomic_load_explicit(&m->share, memory_order_relaxed);
  for (;;) {
    const uint32_t first = (uint32_t)share, end = (uint32_t)(share >> 32);
    if (first >= end) return -1;
    if (atomic_compare_exchange_weak_explicit(&m->share, &share, from_end ? share - ((uint_least64_t)1 << 32) : share + 1, memory_order_acquire,
                                              memory_order_relaxed))
      return (int)(from_end ? end - 1 : first);
  }
}

/* Runs what is left of the job, and returns the number of tasks. */
static unsigned drain(anx_pool *p, int thread) {
  unsigned done = 0;
  for (int i; (i = take(&p->members[thread], 0)) >= 0; done++) p->task(p->arg, i, thread);
  for (int other = (thread + 1) % p->threads; other != thread; other = (other + 1) % p->threads) {
    for (int i; (i = take(&p->members[other], 1)) >= 0; done++) p->task(p->arg, i, thread);
  }
  fence();
  return done;
}

static void *work(void *argument) {
  worker *me = argument;
  anx_pool *p = me->pool;
  const int thread = me->thread;
  free(me);
  atomic_uint *done = &p->members[thread].done;
  unsigned seen = 0, job;
  for (;;) {
    int spins = 0;
    while ((job = atomic_load_explicit(&p->job, memory_order_acquire)) == seen) {
      if (++spins < SPINS) {
        relax();
        continue;
      }
      pthread_mutex_lock(&p->mutex);
      atomic_fetch_add(&p->sleeping, 1); /* before the look at job: announce looks at them in the other order */
      while (atomic_load(&p->job) == seen) pthread_cond_wait(&p->wake, &p->mutex);
      atomic_fetch_sub(&p->sleeping, 1);
      pthread_mutex_unlock(&p->mutex);
    }
    seen = job;
    if (atomic_load_explicit(&p->stop, memory_order_acquire)) return NULL;
    const unsigned tasks = drain(p, thread);
    if (tasks) atomic_fetch_add_explicit(done, tasks, memory_order_release);
  }
}

static void announce(anx_pool *p) {
  atomic_fetch_add(&p->job, 1);
  if (atomic_load(&p->sleeping)) {
    pthread_mutex_lock(&p->mutex);
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->mutex);
  }
}

static unsigned done_by_workers(anx_pool *p) {
  unsigned done = 0;
  for (int t = 1; t < p->threads; t++) done += atomic_load_explicit(&p->members[t].done, memory_order_acquire);
  return done;
}

void anx_pool_run(anx_pool *p, anx_task task, void *arg, int count) {
  if (p->threads == 1 || count <= 1) {
    for (int i = 0; i < count; i++) task(arg, i, 0);
    fence();
    return;
  }
  p->task = task;
  p->arg = arg;
  for (int t = p->threads - 1; t >= 0; t--) { /* the caller's last: workers that look for tasks find their own first */
    int first, end;
    anx_part_range(count, p->threads, t, &first, &end);
    atomic_store_explicit(&p->members[t].share, (uint_least64_t)end << 32 | (uint_least64_t)first, memory_order_release);
  }
  announce(p);
  p->done += (unsigned)count - drain(p, 0);
  for (int spins = 0; done_by_workers(p) != p->done; spins++) {
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
  free(p->members);
  free(p->ids);
  free(p);
}

/* Zeroed memory that begins where lines lie apart; null: there is none. */
static void *apart(size_t bytes) {
  void *memory;
  if (posix_memalign(&memory, APART, bytes)) return NULL;
  return memset(memory, 0, bytes);
}

int anx_pool_create(anx_pool **out, int threads) {
  anx_pool *p = apart(sizeof *p);
  *out = NULL;
  if (!p) return ENOMEM;
  p->threads = threads;
  pthread_mutex_init(&p->mutex, NULL);
  pthread_cond_init(&p->wake, NULL);
  p->ids = calloc((size_t)threads, sizeof *p->ids);
  p->members = apart((size_t)threads * sizeof *p->members);
  int error = p->ids && p->members ? 0 : ENOMEM;
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
