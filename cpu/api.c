/* api.c - the C ABI over the kernels: contexts, buffers, layout changes, programs and the walk over their ops. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "cpu.h"

#if defined(__x86_64__) || defined(__i386__)
#define ANX_X86 1
extern const anx_kernels anx_kernels_of_avx512, anx_kernels_of_avx512_bf16, anx_kernels_of_avx2;
#endif
extern const anx_kernels anx_kernels_of_portable;

struct anx_context {
  anx_failure failure;
  const anx_kernels *kernels, *bf16; /* of activations of F32; of BF16, null where the processor or the isa has none */
  anx_pool *pool;
  int threads;
};

struct anx_program {
  int ops, slots;
  anx_op *op;
  anx_tensor *tensors;
  anx_op *sheet_op; /* with the images of one sheet */
  anx_call *calls, *sheets; /* sheets: two for each call */
  unsigned char *workspace;
  size_t workspace_bytes;
  uint64_t *ns, *runs; /* null until the first profile */
};

static const anx_kernels *choose(const char *isa) {
  const int any = isa[0] == 0;
#if defined(ANX_X86)
  const int avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                     __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("fma");
  const int avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if ((any || !strcmp(isa, "avx512")) && avx512) return &anx_kernels_of_avx512;
  if ((any || !strcmp(isa, "avx2")) && avx2) return &anx_kernels_of_avx2;
#endif
  return any || !strcmp(isa, "portable") ? &anx_kernels_of_portable : NULL;
}

static const anx_kernels *choose_bf16(const anx_kernels *kernels) {
#if defined(ANX_X86)
  if (kernels == &anx_kernels_of_avx512 && __builtin_cpu_supports("avx512bf16")) return &anx_kernels_of_avx512_bf16;
#endif
  (void)kernels;
  return NULL;
}

static void cpu_name(char *name, size_t size) {
  FILE *f = fopen("/proc/cpuinfo", "r");
  char line[256];
  snprintf(name, size, "CPU");
  while (f && fgets(line, sizeof line, f)) {
    char *value = strchr(line, ':');
    if (!value || strncmp(line, "model name", 10)) continue;
    value += 1 + strspn(value + 1, " \t");
    value[strcspn(value, "\n")] = 0;
    snprintf(name, size, "%s", value);
    break;
  }
  if (f) fclose(f);
}

static void describe(anx_device_info *info, const anx_kernels *kernels) {
  memset(info, 0, sizeof *info);
  cpu_name(info->name, sizeof info->name);
#if defined(ANX_X86)
  snprintf(info->model, sizeof info->model, "%s", kernels == &anx_kernels_of_portable ? "x86-nofma" : "x86-fma");
#elif defined(__aarch64__)
  snprintf(info->model, sizeof info->model, "aarch64");
#else
  snprintf(info->model, sizeof info->model, "portable");
#endif
  snprintf(info->isa, sizeof info->isa, "%s", kernels->isa);
  const long cores = sysconf(_SC_NPROCESSORS_ONLN), pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
  info->units = cores > 0 ? (int32_t)cores : 1;
  info->vector_images = ANX_IMAGES;
  info->memory_bytes = pages > 0 && page > 0 ? (uint64_t)pages * (uint64_t)page : 0;
}

static anx_status device_count(int32_t *count) {
  if (!count) return ANX_INVALID_ARGUMENT;
  *count = 1;
  return ANX_OK;
}

static anx_status device_info(anx_device_info *info, int32_t device) {
  if (!info || device != 0) return ANX_INVALID_ARGUMENT;
  describe(info, choose(""));
  return ANX_OK;
}

static anx_status context_create(anx_context **out, const anx_context_desc *desc) {
  if (!out) return ANX_INVALID_ARGUMENT;
  anx_context *c = *out = calloc(1, sizeof *c);
  if (!c) return ANX_OUT_OF_MEMORY;
  if (!desc) return anx_fail(&c->failure, ANX_INVALID_ARGUMENT, "context: no descriptor");
  if (desc->device != 0) return anx_fail(&c->failure, ANX_INVALID_ARGUMENT, "context: device %d; this back end has device 0", desc->device);
  if (desc->threads < 1 || desc->threads > 1024) return anx_fail(&c->failure, ANX_INVALID_ARGUMENT, "context: %d threads", desc->threads);
  char isa[sizeof desc->isa + 1] = {0};
  memcpy(isa, desc->isa, sizeof desc->isa);
  c->kernels = choose(isa);
  if (!c->kernels) return anx_fail(&c->failure, ANX_UNSUPPORTED, "context: instruction set \"%s\" is not built or not on this machine", isa);
  c->bf16 = choose_bf16(c->kernels);
  c->threads = desc->threads;
  const int error = anx_pool_create(&c->pool, desc->threads);
  if (error) return anx_fail(&c->failure, ANX_OUT_OF_MEMORY, "context: %d threads: %s", desc->threads, strerror(error));
  return ANX_OK;
}

static void context_destroy(anx_context *c) {
  if (!c) return;
  anx_pool_destroy(c->pool);
  free(c);
}

static const char *context_error(const anx_context *c) { return c ? c->failure.text : "no context"; }

static anx_status context_info(anx_context *c, anx_device_info *info) {
  if (!c || !c->kernels) return ANX_INVALID_ARGUMENT;
  if (!info) return anx_fail(&c->failure, ANX_INVALID_ARGUMENT, "context_info: nowhere to write");
  describe(info, c->kernels);
  return ANX_OK;
}

static anx_status tensor_bytes(anx_context *c, const anx_tensor *t, uint64_t *bytes) {
  if (!c) return ANX_INVALID_ARGUMENT;
  if (!t || !bytes) return anx_fail(&c->failure, ANX_INVALID_ARGUMENT, "tensor_bytes: a null pointer");
  return anx_check_tensor(&c->failure, c->bf16 != NULL, "tensor", t, bytes);
}

static anx_status buffer_create(anx_context *c, anx_buffer **out, uint64_t bytes) {
  if (!c) return ANX_INVALID_ARGUMENT;
  if (!out) return anx_fail(&c->failure, ANX_INVALID_ARGUMENT, "buffer_create: a null pointer");
  anx_buffer *b = *out = calloc(1, sizeof *b);
  if (b) b->bytes = anx_allocate(bytes);
  if (!b || !b->bytes) {
    free(b);
    *out = NULL;
    return anx_fail(&c->failure, ANX_OUT_OF_MEMORY, "buffer of %llu bytes: out of memory", (unsigned long long)bytes);
  }
  b->size = bytes;
  return ANX_OK;
}

static void buffer_destroy(anx_context *c, anx_buffer *b) {
  (void)c;
  if (!b) return;
  anx_release(b->bytes, b->size);
  anx_release_sheets(b);
  free(b);
}

static anx_status check_range(anx_context *c, const char *what, const anx_buffer *b, uint64_t offset, uint64_t bytes) {
  if (!b) return anx_fail(&c->failure, ANX_INVALID_ARGUMENT, "%s: no buffer", what);
  if (offset > b->size || bytes > b->size - offset)
    return anx_fail(&c->failure, ANX_INVALID_ARGUMENT, "%s: %llu bytes from %llu on of a buffer of %llu", what, (unsigned long long)bytes,
                    (unsigned long long)offset, (unsigned long long)b->size);
  return ANX_OK;
}

static anx_status buffer_write(anx_context *c, anx_buffer *b, const void *data, uint64_t offset, uint64_t bytes) {
  if (!c) return ANX_INVALID_ARGUMENT;
  const anx_status s = check_range(c, "buffer_write", b, offset, bytes);
  if (s != ANX_OK || !bytes) return s;
  if (!data) return anx_fail(&c->failure, ANX_INVALID_ARGUMENT, "buffer_write: no data");
  memcpy(b->bytes + offset, data, bytes);
  return ANX_OK;
}

static anx_status buffer_read(anx_context *c, const anx_buffer *b, void *data, uint64_t offset, uint64_t bytes) {
  if (!c) return ANX_INVALID_ARGUMENT;
  const anx_status s = check_range(c, "buffer_read", b, offset, bytes);
  if (s != ANX_OK || !bytes) return s;
  if (!data) return anx_fail(&c->failure, ANX_INVALID_ARGUMENT, "buffer_read: no data");
  memcpy(data, b->bytes + offset, bytes);
  return ANX_OK;
}

/* Of the value in its sheet that holds image n of it, pixel p of h w, channel k. */
static size_t place(const anx_tensor *t, size_t n, size_t p, size_t k) {
  return k * anx_channel_values(t->n / anx_sheets(t->n), t->h, t->w) + ((n / ANX_IMAGES) * (size_t)t->h * (size_t)t->w + p) * ANX_IMAGES + n % ANX_IMAGES;
}

static anx_status check_layout(anx_context *c, const char *what, const anx_tensor *t, const anx_buffer *b, const void *values) {
  uint64_t bytes;
  if (!t || !values) return anx_fail(&c->failure, ANX_INVALID_ARGUMENT, "%s: a null pointer", what);
  const anx_status s = anx_check_tensor(&c->failure, c->bf16 != NULL, what, t, &bytes);
  if (s != ANX_OK) return s;
  if (t->layout != ANX_ACTIVATION && t->dtype != ANX_F32) return anx_fail(&c->failure, ANX_INVALID_ARGUMENT, "%s: a plain tensor must be F32", what);
  return check_range(c, what, b, t->offset, bytes);
}

static anx_status pack(anx_context *c, const anx_tensor *t, anx_buffer *b, const float *nhwc) {
  if (!c) return ANX_INVALID_ARGUMENT;
  anx_status s = check_layout(c, "pack", t, b, nhwc);
  if (s == ANX_OK) s = anx_make_sheets(&c->failure, b, t, c->threads);
  if (s != ANX_OK) return s;
  const size_t map = (size_t)t->h * (size_t)t->w, channels = (size_t)t->c;
  if (t->layout == ANX_PLAIN) {
    memcpy(b->bytes + t->offset, nhwc, (size_t)t->n * map * channels * sizeof(float));
    return ANX_OK;
  }
  const size_t images = (size_t)(t->n / anx_sheets(t->n));
  for (size_t n = 0; n < (size_t)t->n; n++) {
    void *to = anx_sheet_at(b, t, (int)(n / images));
    for (size_t p = 0; p < map; p++) {
      for (size_t k = 0; k < channels; k++) anx_put(to, place(t, n % images, p, k), t->dtype, nhwc[(n * map + p) * channels + k]);
    }
  }
  return ANX_OK;
}

static anx_status unpack(anx_context *c, const anx_tensor *t, const anx_buffer *b, float *nhwc) {
  if (!c) return ANX_INVALID_ARGUMENT;
  const anx_status s = check_layout(c, "unpack", t, b, nhwc);
  if (s != ANX_OK) return s;
  const size_t map = (size_t)t->h * (size_t)t->w, channels = (size_t)t->c;
  if (t->layout == ANX_PLAIN) {
    memcpy(nhwc, b->bytes + t->offset, (size_t)t->n * map * channels * sizeof(float));
    return ANX_OK;
  }
  const size_t images = (size_t)(t->n / anx_sheets(t->n));
  for (size_t n = 0; n < (size_t)t->n; n++) {
    const void *from = anx_sheet_at(b, t, (int)(n / images));
    for (size_t p = 0; p < map; p++) {
      for (size_t k = 0; k < channels; k++) nhwc[(n * map + p) * channels + k] = anx_get(from, place(t, n % images, p, k), t->dtype);
    }
  }
  return ANX_OK;
}

/* Workspace: scratch of each thread, then doubles, a filter and weight gradients of sections, shared by all. One op runs at a time, so ops share it. */
typedef struct sizes {
  size_t scratch_floats, doubles, filter_floats, section_floats, bytes;
} sizes;

static anx_op of_sheet(const anx_op *op) {
  anx_op one = *op;
  one.n /= anx_sheets(op->n);
  return one;
}

/* Shared doubles of one sheet. */
static size_t doubles_of(const anx_op *op, int ends_block) {
  const size_t c = (size_t)op->c;
  anx_conv_plan p;
  switch (op->kind) {
    case ANX_CONV_FWD:
    case ANX_CONV_BWD: anx_conv_plan_make(&p, op); return anx_conv_partials(&p, op, ends_block);
    case ANX_JOIN_BWD: return (size_t)anx_join_pieces(op) * 3 * c;
    case ANX_POOL_BWD: return (size_t)(op->n / ANX_IMAGES) * 2 * c;
    case ANX_XENT: return 2 * c;
    case ANX_SGD: return c / 16384 + 1; /* chunks of sgd.c */
    default: return 0;
  }
}

static sizes workspace_of(const anx_context *c, const anx_program_desc *d, const anx_tensor *tensors, const anx_op *ops) {
  sizes s = {0};
  for (int i = 0; i < d->ops; i++) {
    const anx_op one = of_sheet(&ops[i]), *op = &one;
    const size_t sheets = (size_t)anx_sheets(ops[i].n);
    size_t floats = 0;
    if (op->kind == ANX_CONV_FWD || op->kind == ANX_CONV_BWD) {
      anx_conv_plan p;
      anx_conv_plan_make(&p, op);
      floats = anx_conv_scratch_floats(&p);
      if (p.filter_floats > s.filter_floats) s.filter_floats = p.filter_floats;
      const size_t section_floats = (sheets * (size_t)p.sections - 1) * p.weight_floats;
      if (section_floats > s.section_floats) s.section_floats = section_floats;
    } else if (op->kind == ANX_POOL_BWD) {
      floats = 4 * (size_t)op->q * ANX_IMAGES; /* rows of pool.c */
    }
    if (floats > s.scratch_floats) s.scratch_floats = floats;
    const size_t doubles = sheets * doubles_of(op, anx_ends_block(d, tensors, ops, i));
    if (doubles > s.doubles) s.doubles = doubles;
  }
  s.scratch_floats = anx_round64((s.scratch_floats + 16) * sizeof(float)) / sizeof(float);
  s.bytes = (size_t)c->threads * s.scratch_floats * sizeof(float) + anx_round64(s.doubles * sizeof(double)) +
            anx_round64(s.filter_floats * sizeof(float)) + anx_round64(s.section_floats * sizeof(float));
  return s;
}

static anx_status program_workspace(anx_context *c, const anx_program_desc *d, uint64_t *bytes, const anx_tensor *tensors, const anx_op *ops) {
  if (!c || !c->kernels) return ANX_INVALID_ARGUMENT;
  if (!d || !bytes) return anx_fail(&c->failure, ANX_INVALID_ARGUMENT, "program_workspace: a null pointer");
  const anx_status s = anx_check_program(&c->failure, c->bf16 != NULL, d, tensors, ops, NULL);
  if (s == ANX_OK) *bytes = workspace_of(c, d, tensors, ops).bytes;
  return s;
}

static void program_destroy(anx_context *c, anx_program *p) {
  (void)c;
  if (!p) return;
  free(p->op);
  free(p->sheet_op);
  free(p->tensors);
  free(p->calls);
  free(p->sheets);
  anx_release(p->workspace, p->workspace_bytes);
  free(p->ns);
  free(p->runs);
  free(p);
}

static void bind_sheets(anx_program *p, int i, anx_buffer *const *buffers) {
  anx_call *call = &p->calls[i];
  p->sheet_op[i] = of_sheet(call->op);
  call->sheets = &p->sheets[2 * i];
  if (call->op->kind == ANX_CONV_FWD || call->op->kind == ANX_CONV_BWD) anx_conv_plan_make(&call->conv, &p->sheet_op[i]);
  for (int s = 0; s < anx_sheets(call->op->n); s++) {
    anx_call *sheet = &p->sheets[2 * i + s];
    *sheet = *call;
    sheet->op = &p->sheet_op[i];
    sheet->partial += (size_t)s * doubles_of(sheet->op, call->end != NULL);
    if (call->end) sheet->end = &p->sheets[2 * (i + 1) + s];
    if (call->start) sheet->start = &p->sheets[2 * (i - 1) + s];
    for (int j = 0; j < ANX_MAX_IN; j++) sheet->in[j] = call->tin[j] ? anx_sheet_at(buffers[call->tin[j]->buffer], call->tin[j], s) : NULL;
    for (int j = 0; j < ANX_MAX_OUT; j++) sheet->out[j] = call->tout[j] ? anx_sheet_at(buffers[call->tout[j]->buffer], call->tout[j], s) : NULL;
  }
}

static void bind(anx_context *c, anx_program *p, const anx_program_desc *d, anx_buffer *const *buffers, const sizes *s) {
  for (int i = 0; i < p->ops; i++) {
    anx_call *call = &p->calls[i];
    const anx_op *op = call->op = &p->op[i];
    call->number = i;
    call->images = op->n;
    call->failure = &c->failure;
    call->pool = c->pool;
    call->scratch = (float *)(void *)p->workspace;
    call->scratch_floats = s->scratch_floats;
    call->partial = (double *)(void *)(p->workspace + (size_t)c->threads * s->scratch_floats * sizeof(float));
    call->filter = (float *)(void *)((unsigned char *)call->partial + anx_round64(s->doubles * sizeof(double)));
    call->sections = (float *)(void *)((unsigned char *)call->filter + anx_round64(s->filter_floats * sizeof(float)));
    if (anx_ends_block(d, p->tensors, p->op, i)) call->end = &p->calls[i + 1];
    if (anx_starts_block(p->tensors, p->op, i)) call->start = &p->calls[i - 1];
    const int ended = i && p->calls[i - 1].end == call, starts = i + 1 < p->ops && anx_starts_block(p->tensors, p->op, i + 1);
    if (!ended && !starts) call->kernel = (op->dtype == ANX_BF16 ? c->bf16 : c->kernels)->op[op->kind];
    for (int j = 0; j < ANX_MAX_IN; j++) {
      if (op->in[j] == -1) continue;
      call->tin[j] = &p->tensors[op->in[j]];
      call->in[j] = anx_sheet_at(buffers[call->tin[j]->buffer], call->tin[j], 0);
    }
    for (int j = 0; j < ANX_MAX_OUT; j++) {
      if (op->out[j] == -1) continue;
      call->tout[j] = &p->tensors[op->out[j]];
      call->out[j] = anx_sheet_at(buffers[call->tout[j]->buffer], call->tout[j], 0);
    }
    bind_sheets(p, i, buffers);
  }
}

static anx_status program_create(anx_context *c, const anx_program_desc *d, anx_program **out, const anx_tensor *tensors, const anx_op *ops,
                                 anx_buffer *const *buffers) {
  if (out) *out = NULL;
  if (!c || !c->kernels) return ANX_INVALID_ARGUMENT;
  if (!d || !out || (d->buffers > 0 && !buffers)) return anx_fail(&c->failure, ANX_INVALID_ARGUMENT, "program_create: a null pointer");
  const size_t buffer_count = d->buffers > 0 ? (size_t)d->buffers : 0;
  uint64_t *bytes = calloc(buffer_count + 1, sizeof *bytes);
  if (!bytes) return anx_fail(&c->failure, ANX_OUT_OF_MEMORY, "program: out of memory");
  anx_status status = ANX_OK;
  for (size_t i = 0; i < buffer_count && status == ANX_OK; i++) {
    if (!buffers[i]) status = anx_fail(&c->failure, ANX_INVALID_ARGUMENT, "program: buffer %zu is null", i);
    else bytes[i] = buffers[i]->size;
  }
  if (status == ANX_OK) status = anx_check_program(&c->failure, c->bf16 != NULL, d, tensors, ops, bytes);
  free(bytes);
  for (int i = 0; i < d->tensors && status == ANX_OK; i++) status = anx_make_sheets(&c->failure, buffers[tensors[i].buffer], &tensors[i], c->threads);
  if (status != ANX_OK) return status;
  const sizes s = workspace_of(c, d, tensors, ops);
  anx_program *p = calloc(1, sizeof *p);
  if (p) {
    p->ops = d->ops;
    p->slots = d->slots;
    p->op = calloc((size_t)d->ops + 1, sizeof *p->op);
    p->tensors = calloc((size_t)d->tensors + 1, sizeof *p->tensors);
    p->sheet_op = calloc((size_t)d->ops + 1, sizeof *p->sheet_op);
    p->calls = calloc((size_t)d->ops + 1, sizeof *p->calls);
    p->sheets = calloc(2 * (size_t)d->ops + 1, sizeof *p->sheets);
    p->workspace = anx_allocate(s.bytes);
    p->workspace_bytes = s.bytes;
  }
  if (!p || !p->op || !p->tensors || !p->sheet_op || !p->calls || !p->sheets || !p->workspace) {
    program_destroy(c, p);
    return anx_fail(&c->failure, ANX_OUT_OF_MEMORY, "program: out of memory: wanted %zu bytes of workspace", s.bytes);
  }
#if defined(__SANITIZE_ADDRESS__) /* an op that counts on zeros which an op before it need not leave is found by make sanitize */
  memset(p->workspace, 0xff, s.bytes);
#endif
  if (d->ops) memcpy(p->op, ops, (size_t)d->ops * sizeof *ops);
  if (d->tensors) memcpy(p->tensors, tensors, (size_t)d->tensors * sizeof *tensors);
  bind(c, p, d, buffers, &s);
  *out = p;
  return ANX_OK;
}

static uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static anx_status program_run(anx_context *c, anx_program *p, const double *slots) {
  if (!c || !p) return ANX_INVALID_ARGUMENT;
  if (p->slots && !slots) return anx_fail(&c->failure, ANX_INVALID_ARGUMENT, "program_run: no slots given, the program has %d", p->slots);
  c->failure.status = ANX_OK;
  for (int i = 0; i < p->ops; i++) {
    anx_call *call = &p->calls[i];
    for (int j = 0; j < 2; j++) {
      const int s = call->op->slot[j];
      call->slot[j] = s >= 0 && s < p->slots ? slots[s] : 0;
    }
    const uint64_t start = p->ns ? now_ns() : 0;
    if (call->kernel) call->kernel(call);
    if (p->ns) {
      p->ns[i] += now_ns() - start;
      p->runs[i]++;
    }
    if (c->failure.status != ANX_OK) return c->failure.status;
  }
  return ANX_OK;
}

static anx_status synchronize(anx_context *c) { return c ? ANX_OK : ANX_INVALID_ARGUMENT; }

static anx_status program_profile(anx_context *c, anx_program *p, uint64_t *ns, uint64_t *runs) {
  if (!c || !p) return ANX_INVALID_ARGUMENT;
  if (!ns || !runs) return anx_fail(&c->failure, ANX_INVALID_ARGUMENT, "program_profile: a null pointer");
  const size_t bytes = (size_t)p->ops * sizeof *ns;
  if (!p->ns) {
    p->ns = calloc((size_t)p->ops + 1, sizeof *p->ns);
    p->runs = calloc((size_t)p->ops + 1, sizeof *p->runs);
    if (!p->ns || !p->runs) return anx_fail(&c->failure, ANX_OUT_OF_MEMORY, "program_profile: out of memory");
  }
  memcpy(ns, p->ns, bytes);
  memcpy(runs, p->runs, bytes);
  memset(p->ns, 0, bytes);
  memset(p->runs, 0, bytes);
  return ANX_OK;
}

#if defined(ANX_X86)
anx_status anx_measure_ceilings_avx512(anx_failure *, anx_pool *, anx_ceilings *, double);
anx_status anx_measure_ceilings_avx2(anx_failure *, anx_pool *, anx_ceilings *, double);
#endif
anx_status anx_measure_ceilings_portable(anx_failure *, anx_pool *, anx_ceilings *, double);

static anx_status ceilings(anx_context *c, anx_ceilings *out, double seconds) {
  if (!c || !c->kernels) return ANX_INVALID_ARGUMENT;
  if (!out || !(seconds > 0 && seconds <= 3600)) return anx_fail(&c->failure, ANX_INVALID_ARGUMENT, "ceilings: %g seconds", seconds);
#if defined(ANX_X86)
  if (c->kernels == &anx_kernels_of_avx512) return anx_measure_ceilings_avx512(&c->failure, c->pool, out, seconds);
  if (c->kernels == &anx_kernels_of_avx2) return anx_measure_ceilings_avx2(&c->failure, c->pool, out, seconds);
#endif
  return anx_measure_ceilings_portable(&c->failure, c->pool, out, seconds);
}

static const anx_api api = {
    .abi_version = ANX_ABI_VERSION, .struct_bytes = sizeof(anx_api), .name = "cpu",
    .device_count = device_count, .device_info = device_info,
    .context_create = context_create, .context_destroy = context_destroy, .context_error = context_error, .context_info = context_info,
    .tensor_bytes = tensor_bytes, .buffer_create = buffer_create, .buffer_destroy = buffer_destroy, .buffer_write = buffer_write,
    .buffer_read = buffer_read, .pack = pack, .unpack = unpack,
    .program_workspace = program_workspace, .program_create = program_create, .program_destroy = program_destroy, .program_run = program_run,
    .synchronize = synchronize, .program_profile = program_profile, .ceilings = ceilings};

ANX_EXPORT const anx_api *anx_get_api(uint32_t abi_version) { return abi_version == ANX_ABI_VERSION ? &api : NULL; }
