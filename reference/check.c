/* check.c - is a program what anx.h says? Each op states what its tensors must be, in the order of its in[] and out[]. */
#include <math.h>
#include <stdio.h>

#include "reference.h"

static const uint64_t element_bytes[] = {4, 8, 4, 1, 2, 2};
static const char *const dtype_names[] = {"F32", "F64", "I32", "U8", "F16", "BF16"};

static int is_storage(int32_t dtype) { return dtype == ANX_F32 || dtype == ANX_F16 || dtype == ANX_BF16; }

anx_status ref_check_tensor(anx_context *c, const char *what, const anx_tensor *t, uint64_t *bytes) {
  const int32_t shape[4] = {t->n, t->h, t->w, t->c};
  uint64_t total;
  if (t->layout != ANX_PLAIN && t->layout != ANX_ACTIVATION)
    return ref_fail(c, ANX_INVALID_ARGUMENT, "%s: tensor of layout %d, which is neither PLAIN nor ACTIVATION", what, t->layout);
  if (t->dtype < 0 || t->dtype > ANX_BF16) return ref_fail(c, ANX_INVALID_ARGUMENT, "%s: tensor of unknown dtype %d", what, t->dtype);
  if (t->layout == ANX_ACTIVATION && !is_storage(t->dtype))
    return ref_fail(c, ANX_INVALID_ARGUMENT, "%s: activations of %s", what, dtype_names[t->dtype]);
  if (t->flags & ~(uint32_t)ANX_TRANSIENT) return ref_fail(c, ANX_INVALID_ARGUMENT, "%s: unknown tensor flags 0x%x", what, t->flags);
  total = element_bytes[t->dtype];
  for (int i = 0; i < 4; i++) {
    if (shape[i] < 1 || total > (uint64_t)INT64_MAX / (uint64_t)shape[i])
      return ref_fail(c, ANX_INVALID_ARGUMENT, "%s: tensor of impossible shape %d x %d x %d x %d", what, t->n, t->h, t->w, t->c);
    total *= (uint64_t)shape[i];
  }
  if (t->offset % ANX_ALIGNMENT)
    return ref_fail(c, ANX_INVALID_ARGUMENT, "%s: tensor at byte %llu, not a multiple of %u", what, (unsigned long long)t->offset,
                    ANX_ALIGNMENT);
  if (t->offset > (uint64_t)INT64_MAX - total) return ref_fail(c, ANX_INVALID_ARGUMENT, "%s: tensor ends beyond all memory", what);
  *bytes = total;
  return ANX_OK;
}

/* The check of one op. The first failure stays in status, and everything after it does nothing. */
typedef struct check {
  anx_context *context;
  const anx_program_desc *desc;
  const anx_tensor *tensors;
  anx_buffer *const *buffers;
  const anx_op *op;
  int32_t number;
  anx_status status;
} check;

#define FAIL(k, code, ...) ((k)->status = ref_fail_op((k)->context, (code), (k)->number, (k)->op, __VA_ARGS__))
#define WRONG(k, ...) FAIL(k, ANX_INVALID_ARGUMENT, __VA_ARGS__)

typedef enum need { REQUIRED, OPTIONAL, ABSENT } need;

/* The tensor named by id, or NULL: it may be absent, or the check has failed. */
static const anx_tensor *named(check *k, const char *role, int32_t id, need n) {
  if (k->status != ANX_OK) return NULL;
  if (id == -1) {
    if (n == REQUIRED) WRONG(k, "%s is absent", role);
    return NULL;
  }
  if (n == ABSENT) {
    WRONG(k, "%s is tensor %d, but has no place here", role, id);
    return NULL;
  }
  if (id < 0 || id >= k->desc->tensors) {
    WRONG(k, "%s is tensor %d of a program of %d tensors", role, id, k->desc->tensors);
    return NULL;
  }
  return &k->tensors[id];
}

static void map(check *k, const char *role, int32_t id, need need, int32_t n, int32_t h, int32_t w, int32_t c) {
  const anx_tensor *t = named(k, role, id, need);
  if (!t) return;
  if (t->layout != ANX_ACTIVATION || t->dtype != k->op->dtype)
    WRONG(k, "%s (tensor %d) is %s %s, but must be an activation of %s", role, id, t->layout ? "ACTIVATION" : "PLAIN",
          dtype_names[t->dtype], dtype_names[k->op->dtype]);
  else if (t->n != n || t->h != h || t->w != w || t->c != c)
    WRONG(k, "%s (tensor %d) is %d x %d x %d x %d, but must be %d x %d x %d x %d", role, id, t->n, t->h, t->w, t->c, n, h, w, c);
}

static uint64_t elements(const anx_tensor *t) { return (uint64_t)t->n * (uint64_t)t->h * (uint64_t)t->w * (uint64_t)t->c; }

static void values(check *k, const char *role, int32_t id, need need, int32_t dtype, int64_t count) {
  const anx_tensor *t = named(k, role, id, need);
  if (!t) return;
  if (t->layout != ANX_PLAIN || t->dtype != dtype)
    WRONG(k, "%s (tensor %d) is %s %s, but must be PLAIN %s", role, id, t->layout ? "ACTIVATION" : "PLAIN", dtype_names[t->dtype],
          dtype_names[dtype]);
  else if (elements(t) != (uint64_t)count)
    WRONG(k, "%s (tensor %d) has %llu values, but must have %lld", role, id, (unsigned long long)elements(t), (long long)count);
}

static void filter(check *k, const char *role, int32_t id) {
  const anx_op *o = k->op;
  const anx_tensor *t = named(k, role, id, REQUIRED);
  if (!t) return; /* also where the sizes are impossible and must not be multiplied */
  values(k, role, id, REQUIRED, ANX_F32, (int64_t)o->k * o->r * o->r * o->group);
  if (k->status == ANX_OK && (t->n != o->k || t->h != o->r || t->w != o->r || t->c != o->group))
    WRONG(k, "%s (tensor %d) is %d x %d x %d x %d, but must be K R R g = %d x %d x %d x %d", role, id, t->n, t->h, t->w, t->c, o->k, o->r,
          o->r, o->group);
}

static void together(check *k, const char *what, int32_t a, int32_t b) {
  if (k->status == ANX_OK && (a == -1) != (b == -1)) WRONG(k, "of %s only one is there", what);
}

static void slot(check *k, const char *role, int i) {
  if (k->status == ANX_OK && (k->op->slot[i] < 0 || k->op->slot[i] > k->desc->slots - k->op->models))
    WRONG(k, "%s is slot %d, for %d models, of a program of %d slots", role, k->op->slot[i], k->op->models, k->desc->slots);
}

static void positive(check *k, const char *role, int32_t value) {
  if (k->status == ANX_OK && value < 1) WRONG(k, "%s is %d, but must be at least 1", role, value);
}

/* Products of sizes stay below 2^56, so that bytes and what follows can be multiplied out. */
static void limit(check *k, const char *what, const int32_t *sizes, int count) {
  int64_t product = 1;
  for (int i = 0; i < count && k->status == ANX_OK; i++) {
    if (product > ((int64_t)1 << 56) / sizes[i])
      WRONG(k, "%s is too large", what);
    else
      product *= sizes[i];
  }
}

static void input_side(check *k) {
  const anx_op *o = k->op;
  positive(k, "n", o->n);
  positive(k, "h", o->h);
  positive(k, "w", o->w);
  positive(k, "c", o->c);
  limit(k, "n h w c", (const int32_t[]){o->n, o->h, o->w, o->c}, 4);
}

static void output_side(check *k, int64_t p, int64_t q) {
  if (k->status == ANX_OK && (k->op->p != p || k->op->q != q))
    WRONG(k, "the output map is %d x %d, but must be %lld x %lld", k->op->p, k->op->q, (long long)p, (long long)q);
}

static void conv_shape(check *k) {
  const anx_op *o = k->op;
  input_side(k);
  positive(k, "k", o->k);
  positive(k, "r", o->r);
  positive(k, "stride", o->stride);
  positive(k, "group", o->group);
  if (k->status != ANX_OK) return;
  if (o->r % 2 == 0)
    WRONG(k, "the filter height %d is not odd", o->r);
  else if (o->c % o->group)
    WRONG(k, "the group width %d does not divide %d input channels", o->group, o->c);
  else if (o->k % (o->c / o->group))
    WRONG(k, "%d groups do not divide %d output channels", o->c / o->group, o->k);
  output_side(k, ((int64_t)o->h - 1) / o->stride + 1, ((int64_t)o->w - 1) / o->stride + 1); /* R odd: padding keeps the size */
  limit(k, "n p q k", (const int32_t[]){o->n, o->p, o->q, o->k}, 4);
  limit(k, "K R R g", (const int32_t[]){o->k, o->r, o->r, o->group}, 4);
}

static void check_input(check *k) {
  const anx_op *o = k->op;
  input_side(k);
  if (k->status == ANX_OK && o->c != 3) WRONG(k, "c is %d, but an input has 3 channels", o->c);
  const anx_tensor *images = named(k, "images", o->in[0], REQUIRED);
  if (!images) return;
  if (images->layout != ANX_PLAIN || images->dtype != ANX_U8 || (images->c != 1 && images->c != 3))
    WRONG(k, "images (tensor %d) must be PLAIN U8 with 1 or 3 channels", o->in[0]);
  values(k, "labels", o->in[1], REQUIRED, ANX_I32, images->n);
  const anx_tensor *samples = named(k, "samples", o->in[2], REQUIRED);
  if (!samples) return;
  if (elements(samples) % ANX_SAMPLE_COLUMNS)
    WRONG(k, "samples (tensor %d) has %llu values, not rows of %d", o->in[2], (unsigned long long)elements(samples), ANX_SAMPLE_COLUMNS);
  values(k, "samples", o->in[2], REQUIRED, ANX_I32, (int64_t)elements(samples));
  values(k, "norm", o->in[3], REQUIRED, ANX_F32, 6);
  map(k, "X", o->out[0], REQUIRED, o->n, o->h, o->w, o->c);
  values(k, "y", o->out[1], REQUIRED, ANX_I32, o->n);
  slot(k, "first row", 0);
}

static void check_conv_fwd(check *k) {
  const anx_op *o = k->op;
  conv_shape(k);
  map(k, "X", o->in[0], REQUIRED, o->n, o->h, o->w, o->c);
  values(k, "s", o->in[1], OPTIONAL, ANX_F32, o->c);
  values(k, "t", o->in[2], OPTIONAL, ANX_F32, o->c);
  together(k, "s and t", o->in[1], o->in[2]);
  filter(k, "W", o->in[3]);
  values(k, "bias", o->in[4], OPTIONAL, ANX_F32, o->k);
  map(k, "Y", o->out[0], REQUIRED, o->n, o->p, o->q, o->k);
  values(k, "sums", o->out[1], OPTIONAL, ANX_F64, 2 * (int64_t)o->k);
}

static void check_bn_fwd_coef(check *k) {
  const anx_op *o = k->op;
  const int train = (o->flags & ANX_TRAIN) != 0;
  static const char *const vectors[] = {"mean", "invstd", "s", "t"};
  input_side(k);
  values(k, "sums", o->in[0], train ? REQUIRED : ABSENT, ANX_F64, 2 * (int64_t)o->c);
  values(k, "gamma", o->in[1], REQUIRED, ANX_F32, o->c);
  values(k, "beta", o->in[2], REQUIRED, ANX_F32, o->c);
  values(k, "running mean", o->in[3], REQUIRED, ANX_F32, o->c);
  values(k, "running variance", o->in[4], REQUIRED, ANX_F32, o->c);
  for (int i = 0; i < 4; i++) values(k, vectors[i], o->out[i], REQUIRED, ANX_F32, o->c);
  values(k, "running mean (output)", o->out[4], train ? OPTIONAL : ABSENT, ANX_F32, o->c);
  values(k, "running variance (output)", o->out[5], train ? OPTIONAL : ABSENT, ANX_F32, o->c);
  together(k, "the running statistics of out", o->out[4], o->out[5]);
  if (k->status == ANX_OK && !(o->f[0] >= 0 && isfinite(o->f[0]))) WRONG(k, "epsilon is %g", o->f[0]);
  if (k->status != ANX_OK || o->out[4] == -1) return;
  if (o->out[4] != o->in[3] || o->out[5] != o->in[4])
    WRONG(k, "the running statistics of out are not the tensors of in");
  else if ((int64_t)o->n * o->h * o->w < 2)
    WRONG(k, "one value per channel has no unbiased variance");
  slot(k, "momentum", 0);
}

static void check_join_fwd(check *k) {
  const anx_op *o = k->op;
  input_side(k);
  map(k, "C", o->in[0], REQUIRED, o->n, o->h, o->w, o->c);
  values(k, "s", o->in[1], REQUIRED, ANX_F32, o->c);
  values(k, "t", o->in[2], REQUIRED, ANX_F32, o->c);
  map(k, "X or P", o->in[3], OPTIONAL, o->n, o->h, o->w, o->c);
  values(k, "sp", o->in[4], o->in[3] == -1 ? ABSENT : OPTIONAL, ANX_F32, o->c);
  values(k, "tp", o->in[5], o->in[3] == -1 ? ABSENT : OPTIONAL, ANX_F32, o->c);
  together(k, "sp and tp", o->in[4], o->in[5]);
  map(k, "Y", o->out[0], REQUIRED, o->n, o->h, o->w, o->c);
}

static void check_pool(check *k) {
  const anx_op *o = k->op;
  const int backward = o->kind == ANX_POOL_BWD;
  const int32_t *in = o->in + backward; /* S, s, t follow dX0 */
  input_side(k);
  output_side(k, ((int64_t)o->h - 1) / 2 + 1, ((int64_t)o->w - 1) / 2 + 1);
  if (backward) map(k, "dX0", o->in[0], REQUIRED, o->n, o->p, o->q, o->c);
  map(k, "S", in[0], REQUIRED, o->n, o->h, o->w, o->c);
  values(k, "s", in[1], REQUIRED, ANX_F32, o->c);
  values(k, "t", in[2], REQUIRED, ANX_F32, o->c);
  if (!backward) {
    map(k, "X0", o->out[0], REQUIRED, o->n, o->p, o->q, o->c);
    return;
  }
  values(k, "mean", o->in[4], REQUIRED, ANX_F32, o->c);
  map(k, "G", o->out[0], REQUIRED, o->n, o->h, o->w, o->c);
  values(k, "sums", o->out[1], REQUIRED, ANX_F64, 2 * (int64_t)o->c);
}

static void check_gap_fwd(check *k) {
  const anx_op *o = k->op;
  input_side(k);
  map(k, "Y", o->in[0], REQUIRED, o->n, o->h, o->w, o->c);
  map(k, "V", o->out[0], REQUIRED, o->n, 1, 1, o->c);
}

static void check_xent(check *k) {
  const anx_op *o = k->op;
  positive(k, "n", o->n);
  positive(k, "c", o->c);
  map(k, "logits", o->in[0], REQUIRED, o->n, 1, 1, o->c);
  values(k, "y", o->in[1], REQUIRED, ANX_I32, o->n);
  values(k, "scale", o->in[2], o->out[1] == -1 ? ABSENT : OPTIONAL, ANX_F32, ANX_SCALES);
  values(k, "counters", o->out[0], REQUIRED, ANX_F64, ANX_COUNTERS);
  map(k, "dlogits", o->out[1], OPTIONAL, o->n, 1, 1, o->c);
  slot(k, "valid", 0);
  if (k->status == ANX_OK && !(o->f[0] >= 0 && o->f[0] <= 1)) WRONG(k, "label smoothing is %g, but must be in 0..1", o->f[0]);
}

static void check_conv_bwd(check *k) {
  const anx_op *o = k->op;
  const int affine = o->in[6] != -1;
  conv_shape(k);
  map(k, "G", o->in[0], REQUIRED, o->n, o->p, o->q, o->k);
  map(k, "Y", o->in[1], OPTIONAL, o->n, o->p, o->q, o->k);
  values(k, "al", o->in[2], OPTIONAL, ANX_F32, o->k);
  values(k, "be", o->in[3], OPTIONAL, ANX_F32, o->k);
  values(k, "de", o->in[4], OPTIONAL, ANX_F32, o->k);
  together(k, "Y and al", o->in[1], o->in[2]);
  together(k, "al and be", o->in[2], o->in[3]);
  together(k, "al and de", o->in[2], o->in[4]);
  map(k, "X", o->in[5], REQUIRED, o->n, o->h, o->w, o->c);
  values(k, "s", o->in[6], OPTIONAL, ANX_F32, o->c);
  values(k, "t", o->in[7], OPTIONAL, ANX_F32, o->c);
  together(k, "s and t", o->in[6], o->in[7]);
  values(k, "mean", o->in[8], o->out[3] != -1 ? REQUIRED : affine ? OPTIONAL : ABSENT, ANX_F32, o->c);
  filter(k, "W", o->in[9]);
  map(k, "add", o->in[10], o->out[0] != -1 ? OPTIONAL : ABSENT, o->n, o->h, o->w, o->c);
  map(k, "dX", o->out[0], OPTIONAL, o->n, o->h, o->w, o->c);
  filter(k, "dW", o->out[1]);
  values(k, "dbias", o->out[2], OPTIONAL, ANX_F32, o->k);
  values(k, "sums", o->out[3], affine && o->out[0] != -1 ? OPTIONAL : ABSENT, ANX_F64, 2 * (int64_t)o->c);
}

static void check_bn_bwd_coef(check *k) {
  const anx_op *o = k->op;
  static const char *const outputs[] = {"dgamma", "dbeta", "al", "be", "de"};
  input_side(k);
  values(k, "sums", o->in[0], REQUIRED, ANX_F64, 2 * (int64_t)o->c);
  values(k, "mean", o->in[1], REQUIRED, ANX_F32, o->c);
  values(k, "invstd", o->in[2], REQUIRED, ANX_F32, o->c);
  values(k, "gamma", o->in[3], REQUIRED, ANX_F32, o->c);
  for (int i = 0; i < 5; i++) values(k, outputs[i], o->out[i], REQUIRED, ANX_F32, o->c);
}

static void check_join_bwd(check *k) {
  const anx_op *o = k->op;
  const int broadcast = (o->flags & ANX_BROADCAST) != 0;
  input_side(k);
  map(k, "dX", o->in[0], REQUIRED, o->n, broadcast ? 1 : o->h, broadcast ? 1 : o->w, o->c);
  map(k, "Y", o->in[1], REQUIRED, o->n, o->h, o->w, o->c);
  map(k, "C", o->in[2], REQUIRED, o->n, o->h, o->w, o->c);
  values(k, "mean", o->in[3], REQUIRED, ANX_F32, o->c);
  map(k, "P", o->in[4], OPTIONAL, o->n, o->h, o->w, o->c);
  values(k, "mean of P", o->in[5], OPTIONAL, ANX_F32, o->c);
  map(k, "G", o->out[0], REQUIRED, o->n, o->h, o->w, o->c);
  values(k, "sums", o->out[1], REQUIRED, ANX_F64, 2 * (int64_t)o->c);
  values(k, "sums of P", o->out[2], OPTIONAL, ANX_F64, 2 * (int64_t)o->c);
  together(k, "P and its mean", o->in[4], o->in[5]);
  together(k, "P and its sums", o->in[4], o->out[2]);
}

static void check_sgd(check *k) {
  const anx_op *o = k->op;
  positive(k, "c", o->c);
  values(k, "g", o->in[0], REQUIRED, ANX_F32, o->c);
  values(k, "scale", o->in[1], OPTIONAL, ANX_F32, ANX_SCALES);
  values(k, "w", o->out[0], REQUIRED, ANX_F32, o->c);
  values(k, "m", o->out[1], REQUIRED, ANX_F32, o->c);
  values(k, "counters", o->out[2], REQUIRED, ANX_F64, ANX_COUNTERS);
  slot(k, "rate", 0);
  if (k->status == ANX_OK && !(isfinite(o->f[0]) && isfinite(o->f[1]))) WRONG(k, "momentum %g and weight decay %g", o->f[0], o->f[1]);
}

static void check_loss_scale(check *k) {
  const anx_op *o = k->op;
  positive(k, "c", o->c);
  values(k, "g", o->in[0], REQUIRED, ANX_F32, o->c);
  values(k, "scale", o->out[0], REQUIRED, ANX_F32, ANX_SCALES);
  values(k, "counters", o->out[1], REQUIRED, ANX_F64, ANX_COUNTERS);
  if (k->status == ANX_OK && !(o->f[0] >= 1 && o->f[1] >= 1 && isfinite(o->f[0]) && isfinite(o->f[1])))
    WRONG(k, "%g steps and a largest scale of %g, but both must be at least 1", o->f[0], o->f[1]);
}

typedef struct rule {
  void (*check)(check *);
  int in, out; /* how many positions of in[] and out[] mean something */
  uint32_t flags;
} rule;

static const rule rules[ANX_OP_KINDS] = {
    [ANX_INPUT] = {check_input, 4, 2, 0},
    [ANX_CONV_FWD] = {check_conv_fwd, 5, 2, 0},
    [ANX_BN_FWD_COEF] = {check_bn_fwd_coef, 5, 6, ANX_TRAIN},
    [ANX_JOIN_FWD] = {check_join_fwd, 6, 1, 0},
    [ANX_POOL_FWD] = {check_pool, 3, 1, 0},
    [ANX_GAP_FWD] = {check_gap_fwd, 1, 1, 0},
    [ANX_XENT] = {check_xent, 3, 2, 0},
    [ANX_CONV_BWD] = {check_conv_bwd, 11, 4, 0},
    [ANX_BN_BWD_COEF] = {check_bn_bwd_coef, 4, 5, 0},
    [ANX_JOIN_BWD] = {check_join_bwd, 6, 3, ANX_BROADCAST},
    [ANX_POOL_BWD] = {check_pool, 5, 2, 0},
    [ANX_SGD] = {check_sgd, 2, 3, ANX_NESTEROV},
    [ANX_LOSS_SCALE] = {check_loss_scale, 1, 2, 0},
};

static uint64_t memory_of(const anx_tensor *t) { return elements(t) * element_bytes[t->dtype]; }

/* Of several models' tensors with one stride it is the places within the stride that must not meet; else all that the models take. */
static int overlap(const check *k, int32_t a, int32_t b) {
  const anx_tensor *x = &k->tensors[a], *y = &k->tensors[b];
  const int together = k->op->models > 1 && x->stride == y->stride && x->stride;
  const uint64_t within = together ? x->stride : UINT64_MAX, others = together ? 0 : (uint64_t)(k->op->models - 1);
  if (x->buffer != y->buffer) return 0;
  return x->offset % within < y->offset % within + others * y->stride + memory_of(y) &&
         y->offset % within < x->offset % within + others * x->stride + memory_of(x);
}

/* Where the tensors of an op of several models lie, model after model. */
static void check_models(check *k) {
  const anx_op *o = k->op;
  for (int i = 0; i < ANX_MAX_IN + ANX_MAX_OUT && k->status == ANX_OK && o->models > 1; i++) {
    const int32_t id = i < ANX_MAX_IN ? o->in[i] : o->out[i - ANX_MAX_IN];
    if (id == -1) continue;
    const anx_tensor *t = &k->tensors[id];
    const uint64_t bytes = memory_of(t);
    if (!t->stride && i < ANX_MAX_IN) continue;
    if (t->stride % ANX_ALIGNMENT || t->stride > (uint64_t)INT64_MAX / (2 * ANX_MAX_MODELS) || t->offset % (t->stride ? t->stride : 1) + bytes > t->stride)
      WRONG(k, "tensor %d of %llu bytes at byte %llu does not lie within its stride of %llu", id, (unsigned long long)bytes, (unsigned long long)t->offset,
            (unsigned long long)t->stride);
    for (int j = 0; j < ANX_MAX_OUT && k->status == ANX_OK; j++)
      if (o->out[j] != -1 && k->tensors[o->out[j]].buffer == t->buffer && k->tensors[o->out[j]].stride != t->stride)
        WRONG(k, "tensors %d and %d of one buffer have the strides %llu and %llu", id, o->out[j], (unsigned long long)t->stride,
              (unsigned long long)k->tensors[o->out[j]].stride);
    if (k->status == ANX_OK && k->buffers && t->offset + (uint64_t)(o->models - 1) * t->stride + bytes > k->buffers[t->buffer]->bytes)
      WRONG(k, "tensor %d of %d models ends behind its buffer", id, o->models);
  }
}

/* No output may lie on an input or another output, but for the running statistics, which check_bn_fwd_coef has seen. */
static void check_overlaps(check *k) {
  const anx_op *o = k->op;
  for (int i = 0; i < ANX_MAX_OUT && k->status == ANX_OK; i++) {
    if (o->out[i] == -1) continue;
    for (int j = 0; j < ANX_MAX_IN; j++) {
      if (o->in[j] == -1 || !overlap(k, o->out[i], o->in[j])) continue;
      if (o->kind == ANX_BN_FWD_COEF && i >= 4 && j == i - 1) continue;
      WRONG(k, "out[%d] (tensor %d) overlaps in[%d] (tensor %d)", i, o->out[i], j, o->in[j]);
      return;
    }
    for (int j = 0; j < i; j++)
      if (o->out[j] != -1 && overlap(k, o->out[i], o->out[j])) {
        WRONG(k, "out[%d] (tensor %d) overlaps out[%d] (tensor %d)", i, o->out[i], j, o->out[j]);
        return;
      }
  }
}

static anx_status check_op(check *k) {
  const anx_op *o = k->op;
  if (o->kind < 0 || o->kind >= ANX_OP_KINDS) return WRONG(k, "kind %d is not known", o->kind);
  const rule *r = &rules[o->kind];
  if (o->dtype < 0 || o->dtype > ANX_BF16) return WRONG(k, "dtype %d is not known", o->dtype);
  if (!is_storage(o->dtype)) return WRONG(k, "activations are %s", dtype_names[o->dtype]);
  if (o->models < 1 || o->models > ANX_MAX_MODELS) return WRONG(k, "%d models, must be 1 to %d", o->models, ANX_MAX_MODELS);
  if (o->flags & ~r->flags) return WRONG(k, "flags 0x%x, of which the op knows 0x%x", o->flags, r->flags);
  for (int i = r->in; i < ANX_MAX_IN; i++)
    if (o->in[i] != -1) return WRONG(k, "in[%d] is %d, but the op has %d inputs and the rest must be -1", i, o->in[i], r->in);
  for (int i = r->out; i < ANX_MAX_OUT; i++)
    if (o->out[i] != -1) return WRONG(k, "out[%d] is %d, but the op has %d outputs and the rest must be -1", i, o->out[i], r->out);
  r->check(k);
  check_models(k);
  check_overlaps(k);
  return k->status;
}

anx_status ref_check_program(anx_context *c, const anx_program_desc *d, const anx_tensor *tensors, const anx_op *ops,
                             anx_buffer *const *buffers) {
  if (!d) return ref_fail(c, ANX_INVALID_ARGUMENT, "program: no descriptor");
  if (d->tensors < 0 || d->ops < 0 || d->buffers < 0 || d->slots < 0)
    return ref_fail(c, ANX_INVALID_ARGUMENT, "program: %d tensors, %d ops, %d buffers, %d slots", d->tensors, d->ops, d->buffers, d->slots);
  if ((d->tensors && !tensors) || (d->ops && !ops)) return ref_fail(c, ANX_INVALID_ARGUMENT, "program: no tensors or no ops given");
  for (int32_t i = 0; buffers && i < d->buffers; i++)
    if (!buffers[i]) return ref_fail(c, ANX_INVALID_ARGUMENT, "program: buffer %d is missing", i);
  for (int32_t i = 0; i < d->tensors; i++) {
    const anx_tensor *t = &tensors[i];
    uint64_t bytes;
    char what[32];
    snprintf(what, sizeof what, "tensor %d", i);
    const anx_status status = ref_check_tensor(c, what, t, &bytes);
    if (status != ANX_OK) return status;
    if (t->buffer < 0 || t->buffer >= d->buffers)
      return ref_fail(c, ANX_INVALID_ARGUMENT, "%s lies in buffer %d of %d", what, t->buffer, d->buffers);
    if (buffers && t->offset + bytes > buffers[t->buffer]->bytes)
      return ref_fail(c, ANX_INVALID_ARGUMENT, "%s needs bytes %llu to %llu of buffer %d, which has %llu", what,
                      (unsigned long long)t->offset, (unsigned long long)(t->offset + bytes), t->buffer,
                      (unsigned long long)buffers[t->buffer]->bytes);
  }
  for (int32_t i = 0; i < d->ops; i++) {
    check k = {.context = c, .desc = d, .tensors = tensors, .buffers = buffers, .op = &ops[i], .number = i, .status = ANX_OK};
    const anx_status status = check_op(&k);
    if (status != ANX_OK) return status;
  }
  return ANX_OK;
}

uint64_t ref_scratch(const anx_op *o) {
  const uint64_t image = (uint64_t)o->h * (uint64_t)o->w * (uint64_t)o->c;
  switch (o->kind) {
    case ANX_CONV_FWD:
    case ANX_POOL_BWD:
      return image;
    case ANX_CONV_BWD:
      return 2 * image + (uint64_t)o->k * (uint64_t)o->r * (uint64_t)o->r * (uint64_t)o->group + (uint64_t)o->k;
    default:
      return 0;
  }
}
