/* race.c - every op that is cut into tasks, with two threads and three, which cut it differently, and with so many that some come late to a job,
 * for ThreadSanitizer: `make sanitize` builds this and the library with -fsanitize=thread and runs it. Ops follow each other in one program as in
 * a training step, so that an op that does not wait for the one before it is seen too; results are not looked at (bindings/conformance does that).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "anx.h"

#define TENSORS 512
#define OPS 128
#define RUNS 3

typedef struct program {
  const anx_api *api;
  anx_context *context;
  anx_tensor tensors[TENSORS];
  anx_op ops[OPS];
  anx_program_desc desc;
  uint64_t bytes;
} program;

static void fail(const program *p, const char *what) {
  fprintf(stderr, "race: %s: %s\n", what, p->api->context_error(p->context));
  exit(1);
}

static int tensor(program *p, int layout, int dtype, int n, int h, int w, int c) {
  if (p->desc.tensors == TENSORS) fail(p, "more tensors than TENSORS");
  anx_tensor *t = &p->tensors[p->desc.tensors];
  *t = (anx_tensor){.layout = layout, .dtype = dtype, .n = n, .h = h, .w = w, .c = c, .offset = p->bytes};
  uint64_t bytes;
  if (p->api->tensor_bytes(p->context, t, &bytes) != ANX_OK) fail(p, "tensor");
  p->bytes += (bytes + ANX_ALIGNMENT - 1) / ANX_ALIGNMENT * ANX_ALIGNMENT;
  return p->desc.tensors++;
}

static int map(program *p, int n, int size, int c) { return tensor(p, ANX_ACTIVATION, ANX_F32, n, size, size, c); }
static int vector(program *p, int c) { return tensor(p, ANX_PLAIN, ANX_F32, 1, 1, 1, c); }
static int sums(program *p, int c) { return tensor(p, ANX_PLAIN, ANX_F64, 2, 1, 1, c); }

static anx_op *op(program *p, int kind, int n, int size, int c, int out, int k) {
  if (p->desc.ops == OPS) fail(p, "more ops than OPS");
  anx_op *o = &p->ops[p->desc.ops++];
  *o = (anx_op){.kind = kind, .n = n, .h = size, .w = size, .c = c, .p = out, .q = out, .k = k, .r = 1, .stride = 1, .group = c, .models = 1};
  memset(o->in, -1, sizeof o->in);
  memset(o->out, -1, sizeof o->out);
  memset(o->slot, -1, sizeof o->slot);
  return o;
}

/* Forward, then both gradients from what the forward pass has written. */
static void convolution(program *p, int n, int size, int c, int k, int r, int stride, int group) {
  const int out = (size - 1) / stride + 1;
  const int x = map(p, n, size, c), y = map(p, n, out, k), s = vector(p, c), t = vector(p, c), w = tensor(p, ANX_PLAIN, ANX_F32, k, r, r, group);
  anx_op *o = op(p, ANX_CONV_FWD, n, size, c, out, k);
  o->r = r, o->stride = stride, o->group = group;
  o->in[0] = x, o->in[1] = s, o->in[2] = t, o->in[3] = w;
  o->out[0] = y, o->out[1] = sums(p, k);
  o = op(p, ANX_CONV_BWD, n, size, c, out, k);
  o->r = r, o->stride = stride, o->group = group;
  o->in[0] = y, o->in[1] = y, o->in[2] = vector(p, k), o->in[3] = vector(p, k), o->in[4] = vector(p, k);
  o->in[5] = x, o->in[6] = s, o->in[7] = t, o->in[9] = w;
  o->out[1] = tensor(p, ANX_PLAIN, ANX_F32, k, r, r, group);
  if (c > 3) o->in[8] = vector(p, c), o->out[0] = map(p, n, size, c), o->out[3] = sums(p, c); /* a stem has no input gradient */
  o = op(p, ANX_SGD, 1, 1, k * r * r * group, 1, 1);
  o->slot[0] = 0, o->slot[1] = 1;
  o->in[0] = p->ops[p->desc.ops - 2].out[1], o->out[0] = w, o->out[1] = vector(p, o->c), o->out[2] = tensor(p, ANX_PLAIN, ANX_F64, 1, 1, 1, ANX_COUNTERS);
}

/* A join, its backward, the stem's pool and its backward, the mean: each reads what the one before has written. */
static void maps(program *p, int n, int size, int c) {
  const int half = (size - 1) / 2 + 1, x = map(p, n, size, c), y = map(p, n, size, c), g = map(p, n, size, c), small = map(p, n, half, c);
  const int s = vector(p, c), t = vector(p, c);
  anx_op *o = op(p, ANX_JOIN_FWD, n, size, c, size, c);
  o->in[0] = x, o->in[1] = s, o->in[2] = t, o->in[3] = x, o->out[0] = y;
  o = op(p, ANX_JOIN_BWD, n, size, c, size, c);
  o->in[0] = y, o->in[1] = y, o->in[2] = x, o->in[3] = s, o->out[0] = g, o->out[1] = sums(p, c);
  o = op(p, ANX_POOL_FWD, n, size, c, half, c);
  o->r = 3, o->stride = 2, o->in[0] = g, o->in[1] = s, o->in[2] = t, o->out[0] = small;
  o = op(p, ANX_POOL_BWD, n, size, c, half, c);
  o->r = 3, o->stride = 2, o->in[0] = small, o->in[1] = g, o->in[2] = s, o->in[3] = t, o->in[4] = t, o->out[0] = map(p, n, size, c), o->out[1] = sums(p, c);
  const int filled = o->out[0];
  o = op(p, ANX_GAP_FWD, n, size, c, 1, c);
  o->in[0] = filled, o->out[0] = map(p, n, 1, c);
}

/* The input gradient of a block's first convolution and the end of the block before, which run as one. */
static void end(program *p, int n, int size, int c, int k) {
  const int x = map(p, n, size, c), y = map(p, n, size, k), dx = map(p, n, size, c), parts = vector(p, k);
  p->tensors[dx].flags = ANX_TRANSIENT;
  anx_op *o = op(p, ANX_CONV_BWD, n, size, c, size, k);
  o->in[0] = y, o->in[1] = y, o->in[2] = parts, o->in[3] = parts, o->in[4] = parts, o->in[5] = x, o->in[9] = tensor(p, ANX_PLAIN, ANX_F32, k, 1, 1, c), o->in[10] = x;
  o->out[0] = dx, o->out[1] = tensor(p, ANX_PLAIN, ANX_F32, k, 1, 1, c);
  o = op(p, ANX_JOIN_BWD, n, size, c, size, c);
  o->in[0] = dx, o->in[1] = x, o->in[2] = x, o->in[3] = vector(p, c), o->in[4] = x, o->in[5] = o->in[3];
  o->out[0] = map(p, n, size, c), o->out[1] = sums(p, c), o->out[2] = sums(p, c);
}

static void run(const anx_api *api, const char *isa, int threads) {
  static program p;
  memset(&p, 0, sizeof p);
  p.api = api;
  p.desc.buffers = 1;
  p.desc.slots = 2;
  static const double slots[2] = {0.1, 1}; /* rate and scale of sgd */
  anx_context_desc desc = {.threads = threads};
  snprintf(desc.isa, sizeof desc.isa, "%s", isa);
  if (api->context_create(&p.context, &desc) == ANX_UNSUPPORTED) {
    printf("race: %s is not on this machine\n", isa);
    api->context_destroy(p.context);
    return;
  }
  static const int shapes[][7] = {/* n size c k r stride group */
                                  {16, 9, 24, 40, 1, 1, 24}, {16, 9, 24, 40, 1, 2, 24}, {64, 1, 40, 70, 1, 1, 40}, {16, 7, 12, 12, 3, 1, 3},
                                  {16, 9, 32, 32, 3, 2, 16}, {64, 2, 24, 24, 3, 1, 8},  {16, 6, 20, 9, 3, 1, 20},  {16, 11, 3, 8, 7, 2, 3},
                                  {64, 9, 12, 12, 3, 1, 3}, {64, 6, 24, 300, 1, 1, 24}, /* four sections each; the second's are added by several tasks */
                                  {128, 2, 12, 12, 3, 1, 3}, {128, 3, 24, 20, 1, 1, 24}, /* in sheets */
                                  {64, 7, 20, 20, 3, 1, 1}, {16, 12, 1024, 9, 1, 1, 1024}}; /* depthwise; a filter read from a copy */
  for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
    const int *s = shapes[i];
    convolution(&p, s[0], s[1], s[2], s[3], s[4], s[5], s[6]);
  }
  maps(&p, 16, 9, 20);
  maps(&p, 128, 5, 17);
  maps(&p, 16, 72, 17); /* written past the caches */
  end(&p, 16, 9, 60, 80);
  end(&p, 128, 3, 20, 84);
  anx_buffer *buffer;
  anx_program *bound;
  if (api->buffer_create(p.context, &buffer, p.bytes) != ANX_OK) fail(&p, "buffer");
  if (api->program_create(p.context, &p.desc, &bound, p.tensors, p.ops, &buffer) != ANX_OK) fail(&p, "program");
  for (int i = 0; i < RUNS; i++) {
    if (api->program_run(p.context, bound, slots) != ANX_OK) fail(&p, "run");
  }
  printf("race: %d ops, %d threads, %d runs on %s\n", p.desc.ops, threads, RUNS, isa);
  api->program_destroy(p.context, bound);
  api->buffer_destroy(p.context, buffer);
  api->context_destroy(p.context);
}

int main(void) {
  const anx_api *api = anx_get_api(ANX_ABI_VERSION);
  static const int threads[] = {2, 3, 8};
  for (size_t i = 0; i < sizeof threads / sizeof *threads; i++) {
    run(api, "avx512", threads[i]);
    run(api, "avx2", threads[i]);
    run(api, "portable", threads[i]);
  }
  return 0;
}
