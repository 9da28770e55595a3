/* bench.c - fractions of the machine's multiply-add peak that single convolutions reach, forward and backward, and where a network's step
 * goes. Built only with -DANX_BENCH=ON; `anynetx bench` is the tool for users.
 *   anx_cpu_bench conv [isa] [threads]            a table over maps and group widths
 *   anx_cpu_bench net  [isa] [threads] px batch classes d1,d2,d3,d4 w1,.. b1,.. g1,..   one training step with the 7x7 stem, by op kind
 * isa: best, bf16 (activations of it on the best), or a name. Fractions are of the fp32 peak, bf16's too: they can reach 2.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "anx.h"

enum { TENSORS = 4096, OPS = 2048 };

typedef struct program {
  anx_tensor t[TENSORS];
  anx_op op[OPS];
  int tensors, ops;
  uint64_t bytes;
  const anx_api *api;
  anx_context *context;
  anx_buffer *buffer;
  anx_program *handle;
} program;

static clockid_t bench_clock = CLOCK_MONOTONIC; /* of one thread: its processor time, which neighbours disturb less */

static double now(void) {
  struct timespec t;
  clock_gettime(bench_clock, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void must(const program *p, anx_status s) {
  if (s == ANX_OK) return;
  fprintf(stderr, "%s\n", p->api->context_error(p->context));
  exit(1);
}

static int tensor(program *p, int layout, int type, int n, int h, int w, int c) {
  anx_tensor *t = &p->t[p->tensors];
  *t = (anx_tensor){layout, type, n, h, w, c, 0, 0, p->bytes};
  uint64_t bytes;
  must(p, p->api->tensor_bytes(p->context, t, &bytes));
  p->bytes += (bytes + 63) / 64 * 64;
  return p->tensors++;
}
static int dtype = ANX_F32; /* of activations */

static int map(program *p, int n, int h, int w, int c) { return tensor(p, ANX_ACTIVATION, dtype, n, h, w, c); }
static int vector(program *p, int c) { return tensor(p, ANX_PLAIN, ANX_F32, 1, 1, 1, c); }
static int sums(program *p, int c) { return tensor(p, ANX_PLAIN, ANX_F64, 1, 1, 2, c); }
static int filter(program *p, int k, int r, int g) { return tensor(p, ANX_PLAIN, ANX_F32, k, r, r, g); }

static anx_op *add(program *p, int kind, int n, int h, int w, int c) {
  anx_op *o = &p->op[p->ops++];
  memset(o, 0, sizeof *o);
  for (int i = 0; i < ANX_MAX_IN; i++) o->in[i] = -1;
  for (int i = 0; i < ANX_MAX_OUT; i++) o->out[i] = -1;
  o->kind = kind, o->n = n, o->h = h, o->w = w, o->c = c, o->models = 1, o->dtype = dtype;
  return o;
}

static anx_op *conv(program *p, int kind, int n, int h, int c, int k, int r, int stride, int group) {
  anx_op *o = add(p, kind, n, h, h, c);
  o->k = k, o->r = r, o->stride = stride, o->group = group, o->p = o->q = (h - 1) / stride + 1;
  return o;
}

static void start(program *p) {
  must(p, p->api->buffer_create(p->context, &p->buffer, p->bytes));
  for (int i = 0; i < p->tensors; i++) {
    const anx_tensor *t = &p->t[i];
    if (t->dtype != ANX_F32 && t->layout == ANX_PLAIN) continue;
    const size_t count = (size_t)t->n * (size_t)t->h * (size_t)t->w * (size_t)t->c;
    float *v = malloc(count * sizeof *v);
    uint32_t x = 12345u + (uint32_t)i;
    for (size_t j = 0; j < count; j++) {
      x = x * 1664525u + 1013904223u;
      v[j] = ((float)(x >> 8) / 8388608.0f - 1.0f) * (t->layout == ANX_ACTIVATION ? 1.0f : 0.1f);
    }
    must(p, p->api->pack(p->context, t, p->buffer, v));
    free(v);
  }
  const anx_program_desc d = {p->tensors, p->ops, 1, 2};
  must(p, p->api->program_create(p->context, &d, &p->handle, p->t, p->op, &p->buffer));
}

static void finish(program *p) {
  p->api->program_destroy(p->context, p->handle);
  p->api->buffer_destroy(p->context, p->buffer);
  p->tensors = p->ops = 0;
  p->bytes = 0;
}

static const double slots[2] = {0.01, 1};

static double best_seconds(program *p, double budget) {
  double best = 1e9;
  const double end = now() + budget;
  for (int i = 0; i < 3 || now() < end; i++) {
    const double t = now();
    must(p, p->api->program_run(p->context, p->handle, slots));
    if (now() - t < best) best = now() - t;
  }
  return best;
}

#if defined(__x86_64__)
#include <immintrin.h>
__attribute__((target("avx512f"))) static void peak512(long n, float *out) {
  __m512 a[16];
  const __m512 x = _mm512_set1_ps(0.999f), y = _mm512_set1_ps(1e-4f);
  for (int i = 0; i < 16; i++) a[i] = _mm512_set1_ps((float)i);
  for (long k = 0; k < n; k++) {
    _Pragma("GCC unroll 16") for (int i = 0; i < 16; i++) a[i] = _mm512_fmadd_ps(a[i], x, y);
  }
  for (int i = 1; i < 16; i++) a[0] = _mm512_add_ps(a[0], a[i]);
  *out = _mm512_reduce_add_ps(a[0]);
}
__attribute__((target("avx2,fma"))) static void peak256(long n, float *out) {
  __m256 a[12];
  const __m256 x = _mm256_set1_ps(0.999f), y = _mm256_set1_ps(1e-4f);
  for (int i = 0; i < 12; i++) a[i] = _mm256_set1_ps((float)i);
  for (long k = 0; k < n; k++) {
    _Pragma("GCC unroll 16") for (int i = 0; i < 12; i++) a[i] = _mm256_fmadd_ps(a[i], x, y);
  }
  for (int i = 1; i < 12; i++) a[0] = _mm256_add_ps(a[0], a[i]);
  *out = a[0][0];
}
static double peak_gflops(void) {
  const int wide = __builtin_cpu_supports("avx512f");
  double best = 1e9;
  for (int i = 0; i < 7; i++) {
    float sink;
    const double t = now();
    if (wide) peak512(4000000, &sink);
    else peak256(4000000, &sink);
    if (now() - t < best) best = now() - t;
    if (sink == 12345.0f) printf(" ");
  }
  return 4e6 * (wide ? 16 * 16 : 12 * 8) * 2 / best / 1e9;
}
#else
static double peak_gflops(void) { return NAN; }
#endif

/* Percent of peak of one convolution: forward with affine and sums; both gradients; the weight gradient alone. */
static void one(program *p, double peak, const char *name, int n, int h, int c, int k, int r, int stride, int group) {
  const int q = (h - 1) / stride + 1;
  const double flop = 2.0 * n * q * q * (double)k * r * r * group, budget = 0.06;
  double percent[3];
  for (int mode = 0; mode < 3; mode++) {
    const int x = map(p, n, h, h, c), y = map(p, n, q, q, k), s = vector(p, c), t = vector(p, c), w = filter(p, k, r, group);
    if (mode == 0) {
      anx_op *o = conv(p, ANX_CONV_FWD, n, h, c, k, r, stride, group);
      o->in[0] = x, o->in[1] = s, o->in[2] = t, o->in[3] = w, o->out[0] = y, o->out[1] = sums(p, k);
    } else {
      anx_op *o = conv(p, ANX_CONV_BWD, n, h, c, k, r, stride, group);
      o->in[0] = map(p, n, q, q, k), o->in[1] = y, o->in[2] = vector(p, k), o->in[3] = vector(p, k), o->in[4] = vector(p, k);
      o->in[5] = x, o->in[6] = s, o->in[7] = t, o->in[8] = vector(p, c), o->in[9] = w, o->out[1] = filter(p, k, r, group);
      if (mode == 1) o->out[0] = map(p, n, h, h, c), o->out[3] = sums(p, c);
    }
    start(p);
    percent[mode] = 100 * flop * (mode == 1 ? 2 : 1) / best_seconds(p, budget) / 1e9 / peak;
    finish(p);
  }
  printf("%-8s %3d px  C %4d K %4d g %3d /%d  N %3d   forward %3.0f %%  backward %3.0f %%  weights alone %3.0f %%\n", name, h, c, k, group, stride, n,
         percent[0], percent[1], percent[2]);
}

static void table(program *p) {
  const double peak = peak_gflops();
  static const int maps[] = {56, 28, 14, 7, 8, 4, 2, 1}, widths[] = {1, 2, 3, 4, 5, 7, 8, 11, 12, 16, 24, 32};
  printf("peak %.1f GFLOP/s of one core\n", peak);
  for (int m = 0; m < 8; m++) {
    const int h = maps[m], n = m < 4 ? 16 : 128, base = h >= 56 ? 64 : h >= 28 ? 96 : h >= 14 ? 192 : h >= 4 ? 384 : 512;
    for (int i = 0; i < 12; i++) {
      const int g = widths[i], c = base / g * g;
      one(p, peak, "grouped", n, h, c, c, 3, 1, g);
      if (h > 1 && (g == 2 || g == 8 || g == 24)) one(p, peak, "grouped", n, h, c, c, 3, 2, g);
    }
    one(p, peak, "1x1", n, h, base, base, 1, 1, base);
    one(p, peak, "1x1", n, h, base, 4 * base > 1024 ? 1024 : 4 * base, 1, 1, base);
    one(p, peak, "1x1", n, h, base / 4, base, 1, 1, base / 4);
    if (h > 1) one(p, peak, "1x1/2", n, h, base, 2 * base, 1, 2, base);
  }
  one(p, peak, "stem", 16, 224, 3, 32, 7, 2, 3);
  one(p, peak, "stem", 128, 32, 3, 32, 7, 2, 3);
  one(p, peak, "stem", 128, 32, 3, 32, 3, 1, 3);
  one(p, peak, "dense", 16, 14, 128, 128, 3, 1, 128);
}

typedef struct norm { /* a batch norm's tensors */
  int out, c, h, mean, invstd, s, t, sums, gamma;
} norm;

static double step_flop;

static norm conv_norm(program *p, int x, const norm *before, int n, int h, int c, int k, int r, int stride, int group, int *w) {
  const int q = (h - 1) / stride + 1;
  norm b = {map(p, n, q, q, k), k, q, vector(p, k), vector(p, k), vector(p, k), vector(p, k), sums(p, k), vector(p, k)};
  *w = filter(p, k, r, group);
  anx_op *o = conv(p, ANX_CONV_FWD, n, h, c, k, r, stride, group);
  o->in[0] = x, o->in[3] = *w, o->out[0] = b.out, o->out[1] = b.sums;
  if (before) o->in[1] = before->s, o->in[2] = before->t;
  o = add(p, ANX_BN_FWD_COEF, n, q, q, k);
  o->flags = ANX_TRAIN, o->f[0] = 1e-5f;
  o->in[0] = b.sums, o->in[1] = b.gamma, o->in[2] = vector(p, k), o->in[3] = o->out[4] = vector(p, k), o->in[4] = o->out[5] = vector(p, k);
  o->out[0] = b.mean, o->out[1] = b.invstd, o->out[2] = b.s, o->out[3] = b.t;
  step_flop += 2.0 * n * q * q * (double)k * r * r * group;
  return b;
}

/* Backward of conv_norm: g is the masked gradient at its output, with sums. */
static int conv_norm_back(program *p, const norm *b, int g, int g_sums, int x, const norm *before, int n, int h, int c, int k, int r, int stride,
                          int group, int w, int extra, int need, int *dx_sums) {
  anx_op *o = add(p, ANX_BN_BWD_COEF, n, b->h, b->h, k);
  o->in[0] = g_sums, o->in[1] = b->mean, o->in[2] = b->invstd, o->in[3] = b->gamma;
  for (int i = 0; i < 5; i++) o->out[i] = vector(p, k);
  const int al = o->out[2], be = o->out[3], de = o->out[4];
  o = conv(p, ANX_CONV_BWD, n, h, c, k, r, stride, group);
  o->in[0] = g, o->in[1] = b->out, o->in[2] = al, o->in[3] = be, o->in[4] = de, o->in[5] = x, o->in[9] = w, o->in[10] = extra;
  if (before) o->in[6] = before->s, o->in[7] = before->t, o->in[8] = before->mean;
  o->out[1] = filter(p, k, r, group);
  if (need) o->out[0] = map(p, n, h, h, c);
  if (need && before) *dx_sums = o->out[3] = sums(p, c);
  step_flop += 2.0 * n * b->h * b->h * (double)k * r * r * group * (need ? 2 : 1);
  return o->out[0];
}

typedef struct block {
  int x, h, c, w, inner, group, stride, y, wa, wb, wc, wp, project;
  norm a, b, cc, p;
} block;

static void network(program *p, int px, int n, int classes, const int *depth, const int *width, const int *ratio, const int *group) {
  static block blocks[256];
  int count = 0, w0;
  const int input = map(p, n, px, px, 3), s_h = (px - 1) / 2 + 1;
  const norm stem = conv_norm(p, input, NULL, n, px, 3, 32, 7, 2, 3, &w0);
  anx_op *o = add(p, ANX_POOL_FWD, n, s_h, s_h, 32);
  o->p = o->q = (s_h - 1) / 2 + 1;
  int h = o->p, c = 32, x = o->out[0] = map(p, n, h, h, 32);
  o->in[0] = stem.out, o->in[1] = stem.s, o->in[2] = stem.t;
  for (int i = 0; i < 4; i++) {
    for (int j = 0; j < depth[i]; j++) {
      block *b = &blocks[count++];
      *b = (block){.x = x, .h = h, .c = c, .w = width[i], .inner = width[i] / ratio[i], .group = group[i], .stride = j || !i ? 1 : 2};
      const int q = (h - 1) / b->stride + 1;
      b->project = c != b->w || b->stride != 1;
      b->a = conv_norm(p, x, NULL, n, h, c, b->inner, 1, 1, c, &b->wa);
      b->b = conv_norm(p, b->a.out, &b->a, n, h, b->inner, b->inner, 3, b->stride, b->group, &b->wb);
      b->cc = conv_norm(p, b->b.out, &b->b, n, q, b->inner, b->w, 1, 1, b->inner, &b->wc);
      if (b->project) b->p = conv_norm(p, x, NULL, n, h, c, b->w, 1, b->stride, c, &b->wp);
      o = add(p, ANX_JOIN_FWD, n, q, q, b->w);
      o->in[0] = b->cc.out, o->in[1] = b->cc.s, o->in[2] = b->cc.t, o->in[3] = b->project ? b->p.out : x;
      if (b->project) o->in[4] = b->p.s, o->in[5] = b->p.t;
      x = b->y = o->out[0] = map(p, n, q, q, b->w);
      h = q, c = b->w;
    }
  }
  o = add(p, ANX_GAP_FWD, n, h, h, c);
  const int v = o->out[0] = map(p, n, 1, 1, c), fc = filter(p, classes, 1, c);
  o->in[0] = x;
  o = conv(p, ANX_CONV_FWD, n, 1, c, classes, 1, 1, c);
  const int z = o->out[0] = map(p, n, 1, 1, classes);
  o->in[0] = v, o->in[3] = fc, o->in[4] = vector(p, classes);
  o = add(p, ANX_XENT, n, 1, 1, classes);
  o->in[0] = z, o->in[1] = tensor(p, ANX_PLAIN, ANX_I32, n, 1, 1, 1), o->out[0] = tensor(p, ANX_PLAIN, ANX_F64, 8, 1, 1, 1);
  const int dz = o->out[1] = map(p, n, 1, 1, classes);
  o->slot[0] = 1; /* one valid row: its cost is not the point here */
  o = conv(p, ANX_CONV_BWD, n, 1, c, classes, 1, 1, c);
  o->in[0] = dz, o->in[5] = v, o->in[9] = fc, o->out[1] = filter(p, classes, 1, c), o->out[2] = vector(p, classes);
  int dx = o->out[0] = map(p, n, 1, 1, c), s = 0;
  for (int i = count - 1; i >= 0; i--) {
    const block *b = &blocks[i];
    const int q = b->cc.h;
    o = add(p, ANX_JOIN_BWD, n, q, q, b->w);
    if (i == count - 1) o->flags = ANX_BROADCAST;
    o->in[0] = dx, o->in[1] = b->y, o->in[2] = b->cc.out, o->in[3] = b->cc.mean;
    int g = o->out[0] = map(p, n, q, q, b->w), sp = 0;
    s = o->out[1] = sums(p, b->w);
    if (b->project) o->in[4] = b->p.out, o->in[5] = b->p.mean, sp = o->out[2] = sums(p, b->w);
    const int joined = g;
    g = conv_norm_back(p, &b->cc, g, s, b->b.out, &b->b, n, q, b->inner, b->w, 1, 1, b->inner, b->wc, -1, 1, &s);
    g = conv_norm_back(p, &b->b, g, s, b->a.out, &b->a, n, b->h, b->inner, b->inner, 3, b->stride, b->group, b->wb, -1, 1, &s);
    int unused, extra = joined;
    if (b->project) extra = conv_norm_back(p, &b->p, joined, sp, b->x, NULL, n, b->h, b->c, b->w, 1, b->stride, b->c, b->wp, -1, 1, &unused);
    dx = conv_norm_back(p, &b->a, g, s, b->x, NULL, n, b->h, b->c, b->inner, 1, 1, b->c, b->wa, extra, 1, &unused);
  }
  o = add(p, ANX_POOL_BWD, n, s_h, s_h, 32);
  o->p = o->q = (s_h - 1) / 2 + 1;
  o->in[0] = dx, o->in[1] = stem.out, o->in[2] = stem.s, o->in[3] = stem.t, o->in[4] = stem.mean;
  const int g = o->out[0] = map(p, n, s_h, s_h, 32);
  s = o->out[1] = sums(p, 32);
  conv_norm_back(p, &stem, g, s, input, NULL, n, px, 3, 32, 7, 2, 3, w0, -1, 0, &s);
}

static void step(program *p, int argc, char **argv) {
  static const char *const names[] = {"input", "conv_fwd", "bn_fwd_coef", "join_fwd", "pool_fwd", "gap_fwd", "xent", "conv_bwd", "bn_bwd_coef",
                                      "join_bwd", "pool_bwd", "sgd", "loss_scale"};
  int v[4][4];
  if (argc < 7) {
    fprintf(stderr, "net: wants px batch classes depths widths ratios groups\n");
    exit(2);
  }
  for (int i = 0; i < 4; i++) {
    if (sscanf(argv[3 + i], "%d,%d,%d,%d", &v[i][0], &v[i][1], &v[i][2], &v[i][3]) != 4) exit(2);
  }
  const int px = atoi(argv[0]), n = atoi(argv[1]);
  const double peak = peak_gflops();
  network(p, px, n, atoi(argv[2]), v[0], v[1], v[2], v[3]);
  start(p);
  static uint64_t ns[OPS], runs[OPS];
  must(p, p->api->program_run(p->context, p->handle, slots));
  must(p, p->api->program_profile(p->context, p->handle, ns, runs));
  const double best = best_seconds(p, 3.0);
  must(p, p->api->program_profile(p->context, p->handle, ns, runs));
  printf("%d px, batch %d: %.1f images/s, step %.1f ms, %.0f MB, peak %.1f GFLOP/s, fraction %.1f %%\n", px, n, n / best, best * 1e3,
         (double)p->bytes / 1e6, peak, 100 * step_flop / best / 1e9 / peak);
  double total = 0, kind[12][4] = {{0}};
  for (int i = 0; i < p->ops; i++) {
    const anx_op *o = &p->op[i];
    const int family = o->kind != ANX_CONV_FWD && o->kind != ANX_CONV_BWD ? 0 : o->r == 1 ? (o->stride == 1 ? 1 : 2) : 3;
    kind[o->kind][family] += (double)ns[i] / (double)runs[i] / 1e6;
    total += (double)ns[i] / (double)runs[i] / 1e6;
    if (getenv("ANX_BENCH_OPS") && (o->kind == ANX_CONV_FWD || o->kind == ANX_CONV_BWD)) {
      const double flop = 2.0 * o->n * o->p * o->q * (double)o->k * o->r * o->r * o->group * (o->kind == ANX_CONV_BWD && o->out[0] >= 0 ? 2 : 1);
      printf("  %3d %-9s %3d px C %4d K %4d %dx%d/%d g %4d  %8.3f ms  %3.0f %%\n", i, names[o->kind], o->h, o->c, o->k, o->r, o->r, o->stride,
             o->group, (double)ns[i] / (double)runs[i] / 1e6, 100 * flop / ((double)ns[i] / (double)runs[i]) / peak);
    }
  }
  static const char *const families[] = {"", "1x1", "1x1/2", "RxR"};
  for (int i = 0; i < 12; i++) {
    for (int j = 0; j < 4; j++) {
      if (kind[i][j] > 0) printf("  %-12s %-6s %8.2f ms  %4.1f %%\n", names[i], families[j], kind[i][j], 100 * kind[i][j] / total);
    }
  }
  finish(p);
}

int main(int argc, char **argv) {
  static program p;
  anx_context_desc d = {0, argc > 3 ? atoi(argv[3]) : 1, ""};
  if (d.threads == 1) bench_clock = CLOCK_THREAD_CPUTIME_ID;
  p.api = anx_get_api(ANX_ABI_VERSION);
  if (argc > 2 && !strcmp(argv[2], "bf16")) dtype = ANX_BF16;
  else if (argc > 2 && strcmp(argv[2], "best")) snprintf(d.isa, sizeof d.isa, "%s", argv[2]);
  must(&p, p.api->context_create(&p.context, &d));
  if (argc > 1 && !strcmp(argv[1], "net")) step(&p, argc - 4, argv + 4);
  else table(&p);
  p.api->context_destroy(p.context);
  return 0;
}
