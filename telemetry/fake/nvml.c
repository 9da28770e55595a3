/* A libnvidia-ml.so.1 for tests: as much of NVML as package telemetry calls. Its GPUs are described by the file that $ANX_FAKE_NVML names,
 * which is read at every call, so that a test rewrites it (by rename) while the program runs. Lines are "GPU KEY VALUE":
 *
 *   count       (GPU 0) number of GPUs, 8        used_mib   memory in use beside processes, 300   total_mib  memory, 32768
 *   util        percent, 0                       temp       degrees, 40                           power_w    watts, 100
 *   reasons     clocks event reasons, 0          ecc        uncorrected errors, 0                 pending    1: a page retirement waits
 *   proc:PID    a process with so many MiB       mig        number of MIG devices of 8 GiB, 0
 *   xid         1000 * n + XID: each new value is one event         lost  1: every call says so    hang  1: calls do not return until 0
 *
 * With OLD_DRIVER it lacks what drivers of the Kepler era lack. Types are declared here as the ABI has them; no header of NVIDIA's is used. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define PUBLIC __attribute__((visibility("default")))
enum { SUCCESS = 0, UNINITIALIZED = 1, INVALID = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7, TIMEOUT = 10, GPU_IS_LOST = 15 };
enum { MOST = 16, MIGS = 7 };

typedef struct { int gpu, mig; } device; /* mig: -1 for the whole GPU */
static device gpus[MOST], migs[MOST][MIGS];
static int started;
static long delivered[MOST], watched[MOST];
static volatile int registered; /* calls */

/* Calls visit(pid, MiB) for each process of the GPU if key is NULL; otherwise returns the key's last value. */
static long look(int gpu, const char *key, long missing, void (*visit)(void *, int, long), void *context) {
  const char *path = getenv("ANX_FAKE_NVML");
  FILE *f = path ? fopen(path, "r") : NULL;
  if (!f) return missing;
  int g, pid;
  char k[64];
  long v;
  while (fscanf(f, "%d %63s %ld", &g, k, &v) == 3) {
    if (g != gpu) continue;
    if (key && !strcmp(k, key)) missing = v;
    if (!key && sscanf(k, "proc:%d", &pid) == 1) visit(context, pid, v);
  }
  fclose(f);
  return missing;
}
static long value(int gpu, const char *key, long missing) { return look(gpu, key, missing, NULL, NULL); }
static int count(void) { return (int)value(0, "count", 8); }

/* What every call to a device begins with. */
static int fate(device *d) {
  if (!started) return UNINITIALIZED;
  while (value(d->gpu, "hang", 0)) usleep(10000);
  return value(d->gpu, "lost", 0) ? GPU_IS_LOST : SUCCESS;
}
#define BEGIN(d) do { int r = fate(d); if (r) return r; } while (0)
#define WHOLE(d) do { BEGIN(d); if ((d)->mig >= 0) return NOT_SUPPORTED; } while (0)

PUBLIC int nvmlInit_v2(void) {
  for (int g = 0; g < MOST; g++) {
    gpus[g] = (device){g, -1};
    for (int m = 0; m < MIGS; m++) migs[g][m] = (device){g, m};
  }
  started = 1;
  return SUCCESS;
}
PUBLIC int nvmlShutdown(void) { started = 0; return SUCCESS; }
PUBLIC const char *nvmlErrorString(int r) {
  return r == GPU_IS_LOST ? "GPU is lost" : r == TIMEOUT ? "Timeout" : r == NOT_SUPPORTED ? "Not Supported" : r ? "Error" : "Success";
}
PUBLIC int nvmlSystemGetDriverVersion(char *text, unsigned size) { snprintf(text, size, "580.00"); return SUCCESS; }
PUBLIC int nvmlDeviceGetCount_v2(unsigned *n) { *n = (unsigned)count(); return started ? SUCCESS : UNINITIALIZED; }
PUBLIC int nvmlDeviceGetHandleByIndex_v2(unsigned i, device **d) {
  if ((int)i >= count() || i >= MOST) return INVALID;
  *d = &gpus[i];
  return SUCCESS;
}
PUBLIC int nvmlDeviceGetUUID(device *d, char *text, unsigned size) {
  BEGIN(d);
  if (d->mig < 0) snprintf(text, size, "GPU-%08x-fake-0000-0000-000000000000", d->gpu);
  else snprintf(text, size, "MIG-%08x-fake-%04x-0000-000000000000", d->gpu, d->mig);
  return SUCCESS;
}
PUBLIC int nvmlDeviceGetName(device *d, char *text, unsigned size) { BEGIN(d); snprintf(text, size, "Fake V100"); return SUCCESS; }

typedef struct { unsigned long long total, free, used; } memory;
static void add(void *sum, int pid, long mib) { (void)pid; *(long *)sum += mib; }
PUBLIC int nvmlDeviceGetMemoryInfo(device *d, memory *m) {
  BEGIN(d);
  long used = value(d->gpu, "used_mib", 300), total = d->mig >= 0 ? 8192 : value(d->gpu, "total_mib", 32768);
  look(d->gpu, NULL, 0, add, &used);
  *m = (memory){(unsigned long long)total << 20, (unsigned long long)(total - used) << 20, (unsigned long long)used << 20};
  return SUCCESS;
}
typedef struct { unsigned gpu, memory; } utilisation;
PUBLIC int nvmlDeviceGetUtilizationRates(device *d, utilisation *u) {
  WHOLE(d);
  *u = (utilisation){(unsigned)value(d->gpu, "util", 0), 0};
  return SUCCESS;
}
PUBLIC int nvmlDeviceGetTemperature(device *d, int sensor, unsigned *t) { (void)sensor; WHOLE(d); *t = (unsigned)value(d->gpu, "temp", 40); return SUCCESS; }
PUBLIC int nvmlDeviceGetPowerUsage(device *d, unsigned *mw) { WHOLE(d); *mw = (unsigned)value(d->gpu, "power_w", 100) * 1000; return SUCCESS; }
PUBLIC int nvmlDeviceGetClockInfo(device *d, int clock, unsigned *mhz) { WHOLE(d); *mhz = clock == 1 ? 1380 : 877; return SUCCESS; }

typedef struct { unsigned pid; unsigned long long bytes; unsigned gi, ci; } process;
typedef struct { process *list; unsigned size, n; } processes;
static void list(void *context, int pid, long mib) {
  processes *p = context;
  if (p->n < p->size) p->list[p->n] = (process){(unsigned)pid, (unsigned long long)mib << 20, ~0u, ~0u};
  p->n++;
}
PUBLIC int nvmlDeviceGetComputeRunningProcesses_v3(device *d, unsigned *n, process *out) {
  BEGIN(d);
  processes p = {out, *n, 0};
  look(d->gpu, NULL, 0, list, &p);
  *n = p.n;
  return p.n > p.size ? INSUFFICIENT_SIZE : SUCCESS;
}
PUBLIC int nvmlDeviceGetTotalEccErrors(device *d, int kind, int counter, unsigned long long *n) {
  (void)kind, (void)counter;
  WHOLE(d);
  *n = (unsigned long long)value(d->gpu, "ecc", 0);
  return SUCCESS;
}
PUBLIC int nvmlDeviceGetSupportedEventTypes(device *d, unsigned long long *types) { WHOLE(d); *types = 8 | 2; return SUCCESS; }
PUBLIC int nvmlEventSetCreate(void **set) { *set = malloc(1); return SUCCESS; }
PUBLIC int nvmlEventSetFree(void *set) { free(set); return SUCCESS; }
PUBLIC int nvmlDeviceRegisterEvents(device *d, unsigned long long types, void *set) { (void)types, (void)set; BEGIN(d); watched[d->gpu] = 1; registered++; return SUCCESS; }

/* Whether the file is another one than at the last look; waiting for events must cost next to nothing, as it does with a driver. */
static int rewritten(void) {
  static struct stat last;
  struct stat now;
  const char *path = getenv("ANX_FAKE_NVML");
  if (!path || stat(path, &now)) return 0;
  int changed = now.st_ino != last.st_ino || now.st_mtim.tv_nsec != last.st_mtim.tv_nsec || now.st_mtim.tv_sec != last.st_mtim.tv_sec;
  last = now;
  return changed;
}

typedef struct { device *d; unsigned long long type, data; unsigned gi, ci; } event;
PUBLIC int nvmlEventSetWait_v2(void *set, event *e, unsigned ms) {
  (void)set;
  static int quiet, known; /* nothing was found at the last look, which knew of so many registrations */
  for (unsigned waited = 0;; waited += 50) {
    if (quiet && known == registered && !rewritten()) {
      if (waited >= ms) return TIMEOUT;
      usleep(50000);
      continue;
    }
    quiet = 0;
    known = registered;
    rewritten();
    for (int g = 0; g < count() && g < MOST; g++) {
      long x = value(g, "xid", 0);
      if (watched[g] && x != delivered[g] && x) {
        delivered[g] = x;
        *e = (event){&gpus[g], 8, (unsigned long long)x % 1000, ~0u, ~0u}; /* of the whole GPU */
        return SUCCESS;
      }
    }
    for (int g = 0; g < count() && g < MOST; g++)
      if (watched[g] && value(g, "lost", 0)) { watched[g] = 0; return GPU_IS_LOST; } /* as drivers do after XID 79 */
    quiet = 1;
  }
}

#ifndef OLD_DRIVER
PUBLIC int nvmlDeviceGetTotalEnergyConsumption(device *d, unsigned long long *mj) {
  WHOLE(d);
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  *mj = (unsigned long long)value(d->gpu, "power_w", 100) * ((unsigned long long)now.tv_sec * 1000 + (unsigned long long)now.tv_nsec / 1000000);
  return SUCCESS;
}
PUBLIC int nvmlDeviceGetCurrentClocksEventReasons(device *d, unsigned long long *bits) {
  WHOLE(d);
  *bits = (unsigned long long)value(d->gpu, "reasons", 0);
  return SUCCESS;
}
PUBLIC int nvmlDeviceGetRetiredPagesPendingStatus(device *d, int *pending) { WHOLE(d); *pending = (int)value(d->gpu, "pending", 0); return SUCCESS; }
PUBLIC int nvmlDeviceGetMigMode(device *d, unsigned *now, unsigned *later) {
  WHOLE(d);
  *now = *later = value(d->gpu, "mig", 0) > 0;
  return SUCCESS;
}
PUBLIC int nvmlDeviceGetMaxMigDeviceCount(device *d, unsigned *n) { WHOLE(d); *n = MIGS; return SUCCESS; }
PUBLIC int nvmlDeviceGetMigDeviceHandleByIndex(device *d, unsigned i, device **m) {
  WHOLE(d);
  if (i >= MIGS || (long)i >= value(d->gpu, "mig", 0)) return NOT_FOUND;
  *m = &migs[d->gpu][i];
  return SUCCESS;
}
PUBLIC int nvmlDeviceGetGpuInstanceId(device *d, unsigned *id) { BEGIN(d); *id = (unsigned)d->mig; return d->mig < 0 ? NOT_SUPPORTED : SUCCESS; }
#endif
