/* memory.c - the memory of buffers and programs, and where a tensor's sheets lie in it. */
#include <stdlib.h>
#include <sys/mman.h>
#include "cpu.h"

#define HUGE ((size_t)2 << 20)

static size_t whole_pages(uint64_t bytes) { return ((size_t)bytes + HUGE - 1) / HUGE * HUGE; }

/* Zeros, on huge pages where it is large: channels are then few pages apart. What is large takes no memory before it is written. */
void *anx_allocate(uint64_t bytes) {
  if (bytes > SIZE_MAX / 2) return NULL;
  const size_t size = anx_round64(bytes ? (size_t)bytes : 1);
  if (size < HUGE) {
    void *p = NULL;
    return posix_memalign(&p, 4096, size) ? NULL : memset(p, 0, size);
  }
  const size_t whole = whole_pages(size);
  unsigned char *p = mmap(NULL, whole + HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) return NULL;
  const size_t before = (HUGE - (uintptr_t)p % HUGE) % HUGE;
  if (before) munmap(p, before);
  munmap(p + before + whole, HUGE - before);
#if defined(MADV_HUGEPAGE)
  madvise(p + before, whole, MADV_HUGEPAGE);
#endif
  return p + before;
}

void anx_release(void *p, uint64_t bytes) {
  if (!p || anx_round64((size_t)bytes) < HUGE) free(p);
  else munmap(p, whole_pages(anx_round64((size_t)bytes)));
}

static uint64_t sheet_bytes(const anx_buffer *b) { return b->size / 2 + 64; }

/* A second sheet lies behind the first, unless there are threads to be kept apart: then tensors in sheets have memory of their own, for first sheets
 * and for second ones, each at half its tensor's offset. What one thread writes then stays far from the other's whatever shares the memory
 * afterwards. A buffer takes no more by it: tensors that are apart in the buffer are apart here, and what lies here is not written there. */
anx_status anx_make_sheets(anx_failure *f, anx_buffer *b, const anx_tensor *t, int threads) {
  if (threads == 1 || b->sheets[0] || t->layout != ANX_ACTIVATION || anx_sheets(t->n) == 1) return ANX_OK;
  for (int s = 0; s < 2; s++) {
    if (!b->sheets[s]) b->sheets[s] = anx_allocate(sheet_bytes(b));
  }
  if (b->sheets[0] && b->sheets[1]) return ANX_OK;
  anx_release_sheets(b);
  return anx_fail(f, ANX_OUT_OF_MEMORY, "sheets of a buffer of %llu bytes: out of memory", (unsigned long long)b->size);
}

void anx_release_sheets(anx_buffer *b) {
  for (int s = 0; s < 2; s++) {
    anx_release(b->sheets[s], sheet_bytes(b));
    b->sheets[s] = NULL;
  }
}

unsigned char *anx_sheet_at(const anx_buffer *b, const anx_tensor *t, int sheet) {
  unsigned char *const first = b->bytes + t->offset;
  if (t->layout != ANX_ACTIVATION || anx_sheets(t->n) == 1) return first;
  if (b->sheets[sheet]) return b->sheets[sheet] + t->offset / 2 / 64 * 64;
  return first + (size_t)sheet * anx_sheet_values(t->n, t->h, t->w, t->c) * (t->dtype == ANX_BF16 ? 2 : 4);
}
