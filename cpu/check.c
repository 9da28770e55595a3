/* check.c - is a program what anx.h says? One table row per op names its tensors, in order, and the shape each must have. */
#include <math.h>
#include <stdio.h>
#include "cpu.h"

static const char *const op_names[ANX_OP_KINDS] = {"input", "conv_fwd", "bn_fwd_coef", "join_fwd", "pool_fwd", "gap_fwd",
                                                   "xent", "conv_bwd", "bn_bwd_coef", "join_bwd", "pool_bwd", "sgd", "loss_scale"};
static const char *const dtype_names[] = {"F32", "F64", "I32", "U8", "F16", "BF16"};
static const uint64_t dtype_bytes[] = {4, 8, 4, 1, 2, 2};

anx_status anx_fail(anx_failure *f, anx_status status, const char *format, ...) {
  va_list list;
  va_start(list, format);
  vsnprintf(f->text, sizeof f->text, format, list);
  va_end(list);
  return f->status = status;
}

anx_status anx_fail_op(anx_failure *f, anx_status status, int number, const anx_op *o, const char *format, ...) {
  const char *name = o->kind >= 0 && o->kind < ANX_OP_KINDS ? op_names[o->kind] : "unknown";
  int used = snprintf(f->text, sizeof f->text, "op %d %s [%dx%dx%dx%d -> %dx%dx%d, %dx%d/%d g=%d] on cpu: ", number, name, o->n, o->h, o->w,
                      o->c, o->p, o->q, o->k, o->r, o->r, o->stride, o->group);
  va_list list;
  va_start(list, format);
  if (used >= 0 && (size_t)used < sizeof f->text) vsnprintf(f->text + used, sizeof f->text - (size_t)used, format, list);
  va_end(list);
  return f->status = status;
}

/* Values of a tensor, padding of activations included; 0 if they cannot be counted. */
static uint64_t stored(const anx_tensor *t) {
  const int32_t d[4] = {t->n, t->h, t->w, t->c};
  uint64_t count = 1;
  for (int i = 0; i < 4; i++) {
    if (d[i] < 1 || count > ((uint64_t)1 << 48) / (uint64_t)d[i]) return 0;
    count *= (uint64_t)d[i];
  }
  return t->layout == ANX_ACTIVATION ? (uint64_t)anx_sheets(t->n) * anx_sheet_values(t->n, t->h, t->w, t->c) : count;
}

#define NO_BF16 "activations of BF16 need a processor with AVX512_BF16 and a context of its best instruction set"

anx_status anx_check_tensor(anx_failure *f, int bf16, const char *what, const anx_tensor *t, uint64_t *bytes) {
  if (t->layout != ANX_PLAIN && t->layout != ANX_ACTIVATION) return anx_fail(f, ANX_INVALID_ARGUMENT, "%s: unknown layout %d", what, t->layout);
  if (t->dtype < 0 || t->dtype > ANX_BF16) return anx_fail(f, ANX_INVALID_ARGUMENT, "%s: unknown dtype %d", what, t->dtype);
  if (t->flags & ~(uint32_t)ANX_TRANSIENT) return anx_fail(f, ANX_INVALID_ARGUMENT, "%s: unknown flags 0x%x", what, t->flags);
  if (t->offset % ANX_ALIGNMENT || t->offset > (uint64_t)1 << 56)
    return anx_fail(f, ANX_INVALID_ARGUMENT, "%s: offset %llu is not a multiple of %u in memory", what, (unsigned long long)t->offset, ANX_ALIGNMENT);
  if (t->n < 1 || t->h < 1 || t->w < 1 || t->c < 1)
    return anx_fail(f, ANX_INVALID_ARGUMENT, "%s: impossible shape %d x %d x %d x %d", what, t->n, t->h, t->w, t->c);
  if (t->layout == ANX_ACTIVATION) {
    if (t->dtype == ANX_F16) return anx_fail(f, ANX_UNSUPPORTED, "%s: activations are F32 or BF16 on this back end", what);
    if (t->dtype == ANX_BF16 && !bf16) return anx_fail(f, ANX_UNSUPPORTED, "%s: " NO_BF16, what);
    if (t->dtype != ANX_F32 && t->dtype != ANX_BF16) return anx_fail(f, ANX_INVALID_ARGUMENT, "%s: activations of %s", what, dtype_names[t->dtype]);
    if (t->n % ANX_IMAGES)
      return anx_fail(f, ANX_INVALID_ARGUMENT, "%s: a batch of %d, but %d images share the vector lanes: make it a multiple", what, t->n, ANX_IMAGES);
  }
  if (!stored(t)) return anx_fail(f, ANX_INVALID_ARGUMENT, "%s: shape %d x %d x %d x %d is too large", what, t->n, t->h, t->w, t->c);
  *bytes = stored(t) * dtype_bytes[t->dtype];
  return ANX_OK;
}

/* What a tensor of an op must be. The first five are activations. */
typedef enum shape { NHWC, NPQK, NPQC, N11C, NHWC_OR_BROADCAST, VECTOR_C, VECTOR_K, SUMS_C, SUMS_K, FILTER, ROWS_N, COUNTERS, FLAT, SCALES, IMAGES,
                     LABELS, SAMPLES, NORM } shape;

typedef struct role {
  const char *name; /* a bracket in front: optional */
  shape shape;
} role;

typedef struct rule {
  role in[ANX_MAX_IN], out[ANX_MAX_OUT];
  uint32_t flags;
} rule;

static const rule rules[ANX_OP_KINDS] = {
    [ANX_INPUT] = {{{"images", IMAGES}, {"labels", LABELS}, {"samples", SAMPLES}, {"norm", NORM}}, {{"X", NHWC}, {"y", ROWS_N}}, 0},
    [ANX_CONV_FWD] = {{{"X", NHWC}, {"[s", VECTOR_C}, {"[t", VECTOR_C}, {"W", FILTER}, {"[bias", VECTOR_K}}, {{"Y", NPQK}, {"[sums", SUMS_K}}, 0},
    [ANX_BN_FWD_COEF] = {{{"[sums", SUMS_C}, {"gamma", VECTOR_C}, {"beta", VECTOR_C}, {"running mean", VECTOR_C}, {"running variance", VECTOR_C}},
                         {{"mean", VECTOR_C}, {"invstd", VECTOR_C}, {"s", VECTOR_C}, {"t", VECTOR_C}, {"[running mean", VECTOR_C},
                          {"[running variance", VECTOR_C}}, ANX_TRAIN},
    [ANX_JOIN_FWD] = {{{"C", NHWC}, {"s", VECTOR_C}, {"t", VECTOR_C}, {"[X or P", NHWC}, {"[sp", VECTOR_C}, {"[tp", VECTOR_C}}, {{"Y", NHWC}}, 0},
    [ANX_POOL_FWD] = {{{"S", NHWC}, {"s", VECTOR_C}, {"t", VECTOR_C}}, {{"X0", NPQC}}, 0},
    [ANX_GAP_FWD] = {{{"Y", NHWC}}, {{"V", N11C}}, 0},
    [ANX_XENT] = {{{"logits", N11C}, {"y", ROWS_N}, {"[scale", SCALES}}, {{"counters", COUNTERS}, {"[dlogits", N11C}}, 0},
    [ANX_CONV_BWD] = {{{"G", NPQK}, {"[Y", NPQK}, {"[al", VECTOR_K}, {"[be", VECTOR_K}, {"[de", VECTOR_K}, {"X", NHWC}, {"[s", VECTOR_C},
                       {"[t", VECTOR_C}, {"[mean", VECTOR_C}, {"W", FILTER}, {"[add", NHWC}},
                      {{"[dX", NHWC}, {"dW", FILTER}, {"[dbias", VECTOR_K}, {"[sums", SUMS_C}}, 0},
    [ANX_BN_BWD_COEF] = {{{"sums", SUMS_C}, {"mean", VECTOR_C}, {"invstd", VECTOR_C}, {"gamma", VECTOR_C}},
                         {{"dgamma", VECTOR_C}, {"dbeta", VECTOR_C}, {"al", VECTOR_C}, {"be", VECTOR_C}, {"de", VECTOR_C}}, 0},
    [ANX_JOIN_BWD] = {{{"dX", NHWC_OR_BROADCAST}, {"Y", NHWC}, {"C", NHWC}, {"mean", VECTOR_C}, {"[P", NHWC}, {"[mean of P", VECTOR_C}},
                      {{"G", NHWC}, {"sums", SUMS_C}, {"[sums of P", SUMS_C}}, ANX_BROADCAST},
    [ANX_POOL_BWD] = {{{"dX0", NPQC}, {"S", NHWC}, {"s", VECTOR_C}, {"t", VECTOR_C}, {"mean", VECTOR_C}}, {{"G", NHWC}, {"sums", SUMS_C}}, 0},
    [ANX_SGD] = {{{"g", FLAT}, {"[scale", SCALES}}, {{"w", FLAT}, {"m", FLAT}, {"counters", COUNTERS}}, ANX_NESTEROV},
    [ANX_LOSS_SCALE] = {{{"g", FLAT}}, {{"scale", SCALES}, {"counters", COUNTERS}}, 0},
};

typedef struct check {
  anx_failure *failure;
  const anx_program_desc *desc;
  const anx_tensor *tensors;
  const anx_op *op;
  int number, bf16;
} check;

#define WRONG(k, ...) anx_fail_op((k)->failure, ANX_INVALID_ARGUMENT, (k)->number, (k)->op, __VA_ARGS__)
#define CANNOT(k, ...) anx_fail_op((k)->failure, ANX_UNSUPPORTED, (k)->number, (k)->op, __VA_ARGS__)

static anx_status check_tensor_of(check *k, const role *r, int id) {
  const anx_op *o = k->op;
  const char *name = r->name ? r->name + (r->name[0] == '[') : "";
  if (!r->name) return id == -1 ? ANX_OK : WRONG(k, "tensor %d stands where the op has none; absent is -1", id);
  if (id == -1) return r->name[0] == '[' ? ANX_OK : WRONG(k, "%s is absent", name);
  if (id < 0 || id >= k->desc->tensors) return WRONG(k, "%s is tensor %d of %d", name, id, k->desc->tensors);
  const anx_tensor *t = &k->tensors[id];
  const uint64_t count = (uint64_t)t->n * (uint64_t)t->h * (uint64_t)t->w * (uint64_t)t->c;
  if (r->shape <= NHWC_OR_BROADCAST) {
    const int broadcast = r->shape == N11C || (r->shape == NHWC_OR_BROADCAST && (o->flags & ANX_BROADCAST));
    const int out = r->shape == NPQK || r->shape == NPQC;
    const int32_t h = broadcast ? 1 : out ? o->p : o->h, w = broadcast ? 1 : out ? o->q : o->w, c = r->shape == NPQK ? o->k : o->c;
    if (t->layout != ANX_ACTIVATION || t->dtype != o->dtype)
      return WRONG(k, "%s (tensor %d) is not an activation of %s", name, id, dtype_names[o->dtype]);
    if (t->n != o->n || t->h != h || t->w != w || t->c != c)
      return WRONG(k, "%s (tensor %d) is %d x %d x %d x %d, not %d x %d x %d x %d", name, id, t->n, t->h, t->w, t->c, o->n, h, w, c);
    return ANX_OK;
  }
  int dtype = ANX_F32;
  uint64_t want = 0;
  switch (r->shape) {
    case VECTOR_C: want = (uint64_t)o->c; break;
    case VECTOR_K: want = (uint64_t)o->k; break;
    case SUMS_C: want = 2 * (uint64_t)o->c; dtype = ANX_F64; break;
    case SUMS_K: want = 2 * (uint64_t)o->k; dtype = ANX_F64; break;
    case FILTER: want = (uint64_t)o->k * (uint64_t)o->r * (uint64_t)o->r * (uint64_t)o->group; break;
    case ROWS_N: want = (uint64_t)o->n; dtype = ANX_I32; break;
    case COUNTERS: want = ANX_COUNTERS; dtype = ANX_F64; break;
    case FLAT: want = (uint64_t)o->c; break;
    case SCALES: want = ANX_SCALES; break;
    case IMAGES: want = count; dtype = ANX_U8; break;
    case LABELS: want = (uint64_t)k->tensors[o->in[0]].n; dtype = ANX_I32; break; /* in[0] was checked before */
    case SAMPLES: want = count; dtype = ANX_I32; break;
    default: want = 6; break; /* NORM */
  }
  if (t->layout != ANX_PLAIN || t->dtype != dtype) return WRONG(k, "%s (tensor %d) is not plain %s", name, id, dtype_names[dtype]);
  if (count != want) return WRONG(k, "%s (tensor %d) has %llu values, not %llu", name, id, (unsigned long long)count, (unsigned long long)want);
  if (r->shape == FILTER && (t->n != o->k || t->h != o->r || t->w != o->r || t->c != o->group))
    return WRONG(k, "%s (tensor %d) is not K R R g", name, id);
  if (r->shape == IMAGES && t->c != 1 && t->c != 3) return WRONG(k, "images have %d channels, not 1 or 3", t->c);
  if (r->shape == SAMPLES && count % ANX_SAMPLE_COLUMNS) return WRONG(k, "samples are not rows of %d", ANX_SAMPLE_COLUMNS);
  return ANX_OK;
}

static int size_too_large(int32_t a, int32_t b, int32_t c, int32_t d) {
  const anx_tensor t = {.layout = ANX_PLAIN, .n = a, .h = b, .w = c, .c = d};
  return stored(&t) == 0;
}

static anx_status check_sizes(check *k) {
  const anx_op *o = k->op;
  if (o->kind == ANX_SGD || o->kind == ANX_LOSS_SCALE) return o->c < 1 ? WRONG(k, "c is %d", o->c) : ANX_OK;
  if (o->n < 1 || o->c < 1) return WRONG(k, "n is %d, c is %d", o->n, o->c);
  if (o->kind == ANX_XENT) return ANX_OK;
  if (o->h < 1 || o->w < 1 || size_too_large(o->n, o->h, o->w, o->c)) return WRONG(k, "the input side is impossible");
  if (o->kind == ANX_INPUT && o->c != 3) return WRONG(k, "c is %d, but an input has 3 channels", o->c);
  int stride = 0;
  if (o->kind == ANX_CONV_FWD || o->kind == ANX_CONV_BWD) {
    if (o->k < 1 || o->r < 1 || o->stride < 1 || o->group < 1) return WRONG(k, "k, r, stride and group must be at least 1");
    if (o->r % 2 == 0) return WRONG(k, "the filter's height is even");
    if (o->c % o->group) return WRONG(k, "the group width %d does not divide %d input channels", o->group, o->c);
    if (o->k % (o->c / o->group)) return WRONG(k, "%d groups do not divide %d output channels", o->c / o->group, o->k);
    if (size_too_large(o->k, o->r, o->r, o->group)) return WRONG(k, "the filter is too large");
    stride = o->stride;
  } else if (o->kind == ANX_POOL_FWD || o->kind == ANX_POOL_BWD) {
    stride = 2;
  }
  if (!stride) return ANX_OK;
  if (o->p != (o->h - 1) / stride + 1 || o->q != (o->w - 1) / stride + 1)
    return WRONG(k, "the output map must be %d x %d", (o->h - 1) / stride + 1, (o->w - 1) / stride + 1);
  if ((o->kind == ANX_CONV_FWD || o->kind == ANX_CONV_BWD) && size_too_large(o->n, o->p, o->q, o->k)) return WRONG(k, "the output side is too large");
  if ((o->kind == ANX_CONV_FWD || o->kind == ANX_CONV_BWD) && o->r > ANX_MAX_FILTER)
    return CANNOT(k, "filters above %d x %d", ANX_MAX_FILTER, ANX_MAX_FILTER);
  return ANX_OK;
}

static anx_status slot(check *k, int i, const char *name) {
  const int s = k->op->slot[i];
  return s >= 0 && s < k->desc->slots ? ANX_OK : WRONG(k, "%s is slot %d of %d", name, s, k->desc->slots);
}

static anx_status together(check *k, int a, int b, const char *what) {
  return (a == -1) == (b == -1) ? ANX_OK : WRONG(k, "of %s only one is there", what);
}

/* What ties optional tensors, scalars and slots of one op together. */
static anx_status check_ties(check *k) {
  const anx_op *o = k->op;
  const int32_t *in = o->in, *out = o->out;
  anx_status s = ANX_OK;
#define TIE(expression) if ((s = (expression)) != ANX_OK) return s
  switch (o->kind) {
    case ANX_INPUT: return slot(k, 0, "first row");
    case ANX_CONV_FWD: return together(k, in[1], in[2], "s and t");
    case ANX_BN_FWD_COEF:
      if (!(o->f[0] >= 0 && isfinite(o->f[0]))) return WRONG(k, "epsilon is %g", (double)o->f[0]);
      TIE(together(k, out[4], out[5], "the running statistics"));
      if (o->flags & ANX_TRAIN ? in[0] == -1 : in[0] != -1 || out[4] != -1) return WRONG(k, "sums and moved statistics belong to training");
      if (out[4] == -1) return ANX_OK;
      if (out[4] != in[3] || out[5] != in[4]) return WRONG(k, "the running statistics of out are not those of in");
      if ((int64_t)o->n * o->h * o->w < 2) return WRONG(k, "one value has no unbiased variance");
      return slot(k, 0, "momentum");
    case ANX_JOIN_FWD:
      TIE(together(k, in[4], in[5], "sp and tp"));
      return in[3] == -1 && in[4] != -1 ? WRONG(k, "sp without P") : ANX_OK;
    case ANX_XENT:
      if (!(o->f[0] >= 0 && o->f[0] <= 1)) return WRONG(k, "label smoothing is %g", (double)o->f[0]);
      if (in[2] != -1 && out[1] == -1) return WRONG(k, "a scale without dlogits");
      return slot(k, 0, "valid");
    case ANX_CONV_BWD:
      for (int i = 1; i < 4; i++) TIE(together(k, in[i], in[i + 1], "Y, al, be and de"));
      TIE(together(k, in[6], in[7], "s and t"));
      if (out[3] != -1 && (in[6] == -1 || in[8] == -1 || out[0] == -1)) return WRONG(k, "sums need dX, s, t and the mean");
      if (in[8] != -1 && in[6] == -1) return WRONG(k, "a mean without s and t");
      return in[10] != -1 && out[0] == -1 ? WRONG(k, "add without dX") : ANX_OK;
    case ANX_JOIN_BWD:
      TIE(together(k, in[4], in[5], "P and its mean"));
      return together(k, in[4], out[2], "P and its sums");
    case ANX_SGD:
      if (!isfinite(o->f[0]) || !isfinite(o->f[1])) return WRONG(k, "momentum %g, weight decay %g", (double)o->f[0], (double)o->f[1]);
      return slot(k, 0, "rate");
    case ANX_LOSS_SCALE:
      if (!(o->f[0] >= 1 && o->f[1] >= 1) || !isfinite(o->f[0]) || !isfinite(o->f[1]))
        return WRONG(k, "%g steps and a largest scale of %g; both must be at least 1", (double)o->f[0], (double)o->f[1]);
      return ANX_OK;
    default: return ANX_OK;
  }
#undef TIE
}

int anx_overlap(const anx_tensor *a, const anx_tensor *b) {
  return a->buffer == b->buffer && a->offset < b->offset + stored(b) * dtype_bytes[b->dtype] && b->offset < a->offset + stored(a) * dtype_bytes[a->dtype];
}

static anx_status check_overlap(check *k) {
  const anx_op *o = k->op;
  for (int i = 0; i < ANX_MAX_OUT; i++) {
    if (o->out[i] == -1) continue;
    for (int j = 0; j < ANX_MAX_IN + i; j++) {
      const int id = j < ANX_MAX_IN ? o->in[j] : o->out[j - ANX_MAX_IN];
      if (id == -1 || (o->kind == ANX_BN_FWD_COEF && i >= 4 && j == i - 1)) continue;
      if (anx_overlap(&k->tensors[o->out[i]], &k->tensors[id]))
        return WRONG(k, "output tensor %d lies on tensor %d", o->out[i], id);
    }
  }
  return ANX_OK;
}

static anx_status check_op(check *k) {
  const anx_op *o = k->op;
  anx_status s;
  if (o->kind < 0 || o->kind >= ANX_OP_KINDS) return WRONG(k, "unknown kind %d", o->kind);
  const rule *r = &rules[o->kind];
  if (o->dtype < 0 || o->dtype > ANX_BF16) return WRONG(k, "unknown dtype %d", o->dtype);
  if (o->dtype == ANX_BF16 && !k->bf16) return CANNOT(k, NO_BF16);
  if (o->dtype != ANX_F32 && o->dtype != ANX_BF16) return CANNOT(k, "activations of %s", dtype_names[o->dtype]);
  if (o->models < 1) return WRONG(k, "%d models", o->models);
  if (o->models > 1) return CANNOT(k, "%d models in one launch", o->models);
  if (o->flags & ~r->flags) return WRONG(k, "unknown flags 0x%x", o->flags & ~r->flags);
  if ((s = check_sizes(k)) != ANX_OK) return s;
  for (int i = 0; i < ANX_MAX_IN; i++) {
    if ((s = check_tensor_of(k, &r->in[i], o->in[i])) != ANX_OK) return s;
  }
  for (int i = 0; i < ANX_MAX_OUT; i++) {
    if ((s = check_tensor_of(k, &r->out[i], o->out[i])) != ANX_OK) return s;
  }
  if ((s = check_ties(k)) != ANX_OK) return s;
  return check_overlap(k);
}

anx_status anx_check_program(anx_failure *f, int bf16, const anx_program_desc *d, const anx_tensor *tensors, const anx_op *ops, const uint64_t *buffer_bytes) {
  if (d->tensors < 0 || d->ops < 0 || d->buffers < 0 || d->slots < 0) return anx_fail(f, ANX_INVALID_ARGUMENT, "program: a negative count");
  if ((d->tensors && !tensors) || (d->ops && !ops)) return anx_fail(f, ANX_INVALID_ARGUMENT, "program: no tensors or no ops given");
  for (int i = 0; i < d->tensors; i++) {
    char what[32];
    uint64_t bytes = 0;
    snprintf(what, sizeof what, "tensor %d", i);
    const anx_status s = anx_check_tensor(f, bf16, what, &tensors[i], &bytes);
    if (s != ANX_OK) return s;
    if (tensors[i].buffer < 0 || tensors[i].buffer >= d->buffers)
      return anx_fail(f, ANX_INVALID_ARGUMENT, "%s lies in buffer %d of %d", what, tensors[i].buffer, d->buffers);
    if (buffer_bytes && tensors[i].offset + bytes > buffer_bytes[tensors[i].buffer])
      return anx_fail(f, ANX_INVALID_ARGUMENT, "%s ends at byte %llu of buffer %d, which has %llu", what,
                      (unsigned long long)(tensors[i].offset + bytes), tensors[i].buffer, (unsigned long long)buffer_bytes[tensors[i].buffer]);
  }
  for (int i = 0; i < d->ops; i++) {
    check k = {f, d, tensors, &ops[i], i, bf16};
    const anx_status s = check_op(&k);
    if (s != ANX_OK) return s;
  }
  return ANX_OK;
}
