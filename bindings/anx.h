/* anx.h - the whole boundary between Go and a back end (reference, cpu, cuda).
 *
 * Go owns the network. It lowers a training step to a list of pointer-free op records over numbered tensors, plans where each
 * tensor lives, and hands the list to a back end, which runs it once per step. A back end knows ops, not models.
 *
 * Glossary: N batch; H W input map; C input channels; P Q output map; K output channels; R filter height and width;
 * g group width (input channels per group; dense: g = C); M = number of values a batch norm averages per channel.
 *
 * Rules
 *  1. Every function returns one of six statuses; the text of the last failure belongs to the context.
 *  2. Argument order: handle, descriptor, outputs, inputs, scalars. Whoever creates destroys.
 *  3. Nothing exits, prints or calls back; no pointer passed in is kept after the call.
 *  4. What a back end cannot do is ANX_UNSUPPORTED, never a silent fallback.
 *  5. Same bits: the order of every reduction is a function of the op record and the library, never of threads or timing.
 *  6. No allocation inside anx_api.program_run.
 */
#ifndef ANX_H
#define ANX_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define ANX_ABI_VERSION 2u
#define ANX_ALIGNMENT 64u /* bytes; every tensor offset is a multiple of it */
#define ANX_MAX_IN 11
#define ANX_MAX_OUT 6
#define ANX_MAX_MODELS 4096

typedef enum anx_status {
  ANX_OK = 0,
  ANX_INVALID_ARGUMENT = 1, /* the caller's mistake: shapes that do not fit, a tensor id out of range */
  ANX_UNSUPPORTED = 2,      /* legal, but this back end cannot do it */
  ANX_OUT_OF_MEMORY = 3,
  ANX_DEVICE_LOST = 4,
  ANX_INTERNAL = 5
} anx_status;

typedef enum anx_dtype { ANX_F32 = 0, ANX_F64 = 1, ANX_I32 = 2, ANX_U8 = 3, ANX_F16 = 4, ANX_BF16 = 5 } anx_dtype;

/* A tensor's layout. PLAIN is row-major [n][h][w][c] of its dtype, the same in every back end: parameters (filters KRSC, that is
 * n=K h=R w=R c=g), vectors (c only), statistics, data sets, counters; F32 where an op does not say otherwise. Of those but filters
 * and images only the number of elements is checked. ACTIVATION is private to the back end: Go asks for its size with tensor_bytes
 * and reads or writes it with pack and unpack only. */
typedef enum anx_layout { ANX_PLAIN = 0, ANX_ACTIVATION = 1 } anx_layout;

enum { ANX_TRANSIENT = 1 }; /* tensor flag: nobody but the program's own ops reads it, a back end that fuses them need not write it */

typedef struct anx_tensor {
  int32_t layout;      /* anx_layout */
  int32_t dtype;       /* anx_dtype */
  int32_t n, h, w, c;  /* all >= 1 */
  int32_t buffer;      /* index into the buffers given to program_create */
  uint32_t flags;      /* ANX_TRANSIENT */
  uint64_t offset;     /* bytes from the start of that buffer, a multiple of ANX_ALIGNMENT */
  uint64_t stride;     /* bytes from a model's values to the next model's, where ops have several; a multiple of ANX_ALIGNMENT, or 0 */
} anx_tensor;

/* Models that share a launch. An op with models = M > 1 stands for M equal ops: that of model m finds its tensors stride m bytes further and
 * its scalars in slot + m. What they write must not meet: an output's stride holds the whole tensor and is that of all tensors of the op in
 * its buffer, but for inputs of stride 0, which all models read. A model's bits do not depend on M (rule 5). Optional: see rule 4. */

/* The ops. in[] and out[] name tensors by number, -1 where an optional one (in brackets) is absent; slot[] names scalars of program_run.
 * No output overlaps an input or another output, but where an op says so. ReLU(x) = x < 0 ? 0 : x, so that a NaN stays one.
 * s,t: per-channel affine of a batch norm, so that act(T) = ReLU(s T + t). al,be,de: per-channel coefficients that turn the masked
 * gradient G at the batch norm's output and the raw convolution output T into the gradient at its input: al G + be T + de. */
typedef enum anx_op_kind {
  /* X = normalised crops of a uint8 set, y = their labels. samples: I32 [rows][8], see anx_sample. X's channels are 3; a set of one
   * channel is repeated. norm: F32 [2][3], mean and 1/std of pixels in 0..1. Row i of the batch is samples[slot first + i].
   * in: images U8 [count][h][w][1|3], labels I32 [count], samples, norm; out: X, y I32 [N]; slot[0]: first row. n h w c: X. */
  ANX_INPUT = 0,

  /* Y = conv(X or act(X), W) [+ bias], padding R/2. sums (F64 [2][K]): sum and sum of squares of Y over N P Q, per channel.
   * in: X, [s], [t], W F32 [K][R][R][g], [bias]; out: Y, [sums]. */
  ANX_CONV_FWD = 1,

  /* Coefficients of a batch norm over M = n h w values. With ANX_TRAIN: mean and biased variance from sums; running statistics move
   * by slot momentum m: r += m (value - r), the variance unbiased (M/(M-1)) as PyTorch does. Without: from the running statistics.
   * in: [sums], gamma, beta, running mean, running variance; out: mean, invstd, s, t, [running mean], [running variance] (the very
   * tensors of in; only with ANX_TRAIN). f[0]: epsilon; slot[0]: momentum. */
  ANX_BN_FWD_COEF = 2,

  /* Y = ReLU(s C + t + Z), Z = nothing, X, or sp P + tp.  in: C, s, t, [X or P], [sp], [tp]; out: Y. n h w c: Y. */
  ANX_JOIN_FWD = 3,

  /* X0 = 3x3 stride 2 padding 1 max-pool of act(S).  in: S, s, t; out: X0. h w: S, p q: X0. */
  ANX_POOL_FWD = 4,

  /* V = mean of Y over the map.  in: Y; out: V [N][1][1][C]. h w: Y. */
  ANX_GAP_FWD = 5,

  /* Softmax cross-entropy of the first slot-valid rows, targets (1-e) onehot + e/C. counters F64 [ANX_COUNTERS] are added to.
   * Top-k: a row is right if fewer than k logits are greater than the label's, or equal with a lower index; a row with a NaN is wrong.
   * dlogits = scale[ANX_SCALE] / valid * (softmax - target), 1 / valid without a scale; rows beyond valid 0.
   * in: logits [N][1][1][C], y I32 [N], [scale F32 [ANX_SCALES]]; out: counters, [dlogits]; f[0]: e; slot[0]: valid. */
  ANX_XENT = 6,

  /* D = al G + be Y + de, or G where al is absent. dX = conv^T(D, W) + add. With s,t: dX is masked by act(X) > 0, and sums = sum of
   * dX, sum of dX (X - mean), per input channel. dW = correlation of X or act(X) with D; dbias = sum of D per output channel.
   * in: G, [Y], [al], [be], [de], X, [s], [t], [mean], W, [add]; out: [dX], dW F32, [dbias] F32, [sums F64 [2][C]]. */
  ANX_CONV_BWD = 7,

  /* From sums = (sum G, sum G (T - mean)): dbeta, dgamma, al = gamma invstd, be = -al invstd dgamma / M, de = -al dbeta / M - be mean.
   * in: sums, mean, invstd, gamma; out: dgamma, dbeta, al, be, de. M = n h w. */
  ANX_BN_BWD_COEF = 8,

  /* G = dX masked by Y > 0; sums over G and C (and P) as above. With ANX_BROADCAST dX is [N][1][1][C] and counts as dX / (h w).
   * in: dX, Y, C, mean, [P], [mean of P]; out: G, sums, [sums of P]. */
  ANX_JOIN_BWD = 9,

  /* Backward of ANX_POOL_FWD, masked by act(S) > 0; ties go to the first in raster order.
   * in: dX0, S, s, t, mean; out: G, sums. h w: S, p q: X0. */
  ANX_POOL_BWD = 10,

  /* c values of a flat F32 buffer: d = g scale[ANX_UNSCALE] + f[1] w; m = f[0] m + d; w -= slot-rate (ANX_NESTEROV ? d + f[0] m : m).
   * Values of g that are not finite are added to counters[ANX_NONFINITE]. Without a scale it counts as 1; where it is 0 nothing moves.
   * in: g, [scale F32 [ANX_SCALES]]; out: w, m, counters; f[0]: momentum, f[1]: weight decay; slot[0]: rate. */
  ANX_SGD = 11,

  /* Dynamic loss scaling, behind the backward pass and before ANX_SGD. Where all c values of g are finite, scale[ANX_UNSCALE] = 1 /
   * scale[ANX_SCALE], and after f[0] such steps in a row (counted in ANX_SCALE_STEPS) the scale doubles, up to f[1]. Else the step is
   * skipped: scale[ANX_UNSCALE] = 0, ANX_SCALE_SKIPPED grows by 1, ANX_SCALE_STEPS is 0, and the scale halves, down to 1; where it was 1
   * the values that are not finite are added to counters[ANX_NONFINITE] instead. Scales are powers of 2, so that they round nothing.
   * in: g F32; out: scale F32 [ANX_SCALES], counters (both are updated); f[0]: steps, f[1]: the largest scale, both >= 1. */
  ANX_LOSS_SCALE = 12,
  ANX_OP_KINDS = 13
} anx_op_kind;

enum { ANX_TRAIN = 1, ANX_BROADCAST = 2, ANX_NESTEROV = 4 }; /* op flags */

/* counters of an epoch, F64 */
enum { ANX_LOSS_SUM = 0, ANX_TOP1_RIGHT = 1, ANX_TOP5_RIGHT = 2, ANX_SEEN = 3, ANX_NONFINITE = 4, ANX_COUNTERS = 8 };

/* places in a loss scale: of the next loss; of the gradients at hand; steps since the scale changed; steps skipped in all */
enum { ANX_SCALE = 0, ANX_UNSCALE = 1, ANX_SCALE_STEPS = 2, ANX_SCALE_SKIPPED = 3, ANX_SCALES = 4 };

/* One row of the sample table, I32 [8]: image number; source rectangle y, x, height, width in pixels, which may reach outside the
 * image (outside is 0 after normalisation); flip; 2 reserved. A rectangle of X's own size is copied; another is resized bilinearly
 * (half-pixel centres, the rectangle's edge pixels repeated: crop, then resize, then flip). Row, image and rectangle are checked when
 * the program runs, and so are XENT's labels of valid rows: one that does not fit is ANX_INVALID_ARGUMENT. */
enum { ANX_SAMPLE_IMAGE = 0, ANX_SAMPLE_Y, ANX_SAMPLE_X, ANX_SAMPLE_H, ANX_SAMPLE_W, ANX_SAMPLE_FLIP, ANX_SAMPLE_COLUMNS = 8 };

typedef struct anx_op {
  int32_t kind;   /* anx_op_kind */
  uint32_t flags;
  int32_t n, h, w, c;        /* input side */
  int32_t p, q, k;           /* output side */
  int32_t r, stride, group;  /* filter, stride, group width */
  int32_t dtype;             /* of activations: F32, F16, BF16. A convolution's factors may be rounded to it, sums are F32 or better */
  int32_t models;            /* models that share this launch: 1, or up to ANX_MAX_MODELS */
  int32_t in[ANX_MAX_IN];
  int32_t out[ANX_MAX_OUT];
  int32_t slot[2];
  float f[2];
} anx_op;

typedef struct anx_program_desc {
  int32_t tensors, ops, buffers, slots; /* counts; sizes of the arrays given beside it */
} anx_program_desc;

typedef struct anx_device_info {
  char name[128];      /* "AMD EPYC 9R14", "NVIDIA H100" */
  char model[64];      /* the key of "same bits": instruction set or compute capability, e.g. "x86-fma", "sm_90" */
  char isa[32];        /* what runs: "avx512", "avx2", "portable" */
  int32_t units;       /* cores or multiprocessors */
  int32_t vector_images; /* batches of activations must be a multiple of it */
  uint64_t memory_bytes;
} anx_device_info;

/* What a context's device could do at best with its isa and threads, measured: the numbers that fractions of peak are fractions of. */
typedef struct anx_ceilings {
  double fma_f32_gflops;  /* 2 per fused multiply-add */
  double dot_bf16_gflops; /* bf16 products summed in fp32; 0 where the device has no such instruction */
  double copy_gb_per_s;   /* bytes read and written, memory beyond every cache */
  double read_gb_per_s;
} anx_ceilings;

/* Every run and its phases as ranges, kernel by kernel; a profiler that waits to be told records. */
enum { ANX_TRACE_RANGES = 1, ANX_TRACE_RECORD = 2 };

typedef struct anx_context_desc {
  int32_t device;
  int32_t threads;  /* CPU: threads of one model, >= 1 */
  char isa[32];     /* "" for the best; else one of the back end's names, or ANX_UNSUPPORTED */
} anx_context_desc;

typedef struct anx_context anx_context; /* one device, one user at a time */
typedef struct anx_buffer anx_buffer;   /* bytes on the device, zero when created */
typedef struct anx_program anx_program; /* ops bound to buffers; must be destroyed before them */

typedef struct anx_api {
  uint32_t abi_version, struct_bytes;
  const char *name; /* "reference", "cpu", "cuda" */

  anx_status (*device_count)(int32_t *count);
  anx_status (*device_info)(anx_device_info *info, int32_t device);

  anx_status (*context_create)(anx_context **out, const anx_context_desc *desc); /* *out may carry the error: destroy it either way */
  void (*context_destroy)(anx_context *);
  const char *(*context_error)(const anx_context *); /* text of the last failure; valid until the next call */
  anx_status (*context_info)(anx_context *, anx_device_info *info); /* of the device and isa chosen */

  anx_status (*tensor_bytes)(anx_context *, const anx_tensor *, uint64_t *bytes);
  anx_status (*buffer_create)(anx_context *, anx_buffer **out, uint64_t bytes);
  void (*buffer_destroy)(anx_context *, anx_buffer *);
  anx_status (*buffer_write)(anx_context *, anx_buffer *, const void *data, uint64_t offset, uint64_t bytes);
  anx_status (*buffer_read)(anx_context *, const anx_buffer *, void *data, uint64_t offset, uint64_t bytes);
  anx_status (*pack)(anx_context *, const anx_tensor *, anx_buffer *, const float *nhwc);
  anx_status (*unpack)(anx_context *, const anx_tensor *, const anx_buffer *, float *nhwc);

  /* Checks every record; workspace is memory the program needs beside its buffers. */
  anx_status (*program_workspace)(anx_context *, const anx_program_desc *, uint64_t *bytes, const anx_tensor *, const anx_op *);
  anx_status (*program_create)(anx_context *, const anx_program_desc *, anx_program **out, const anx_tensor *, const anx_op *,
                               anx_buffer *const *buffers);
  void (*program_destroy)(anx_context *, anx_program *);
  anx_status (*program_run)(anx_context *, anx_program *, const double *slots);
  anx_status (*synchronize)(anx_context *);
  /* Nanoseconds and runs of each op since the last call; the first call starts the clocks. ns, runs: [ops].  */
  anx_status (*program_profile)(anx_context *, anx_program *, uint64_t *ns, uint64_t *runs);
  /* The kernels of each op, joined by " + "; the text belongs to the program. names: [ops]. May be NULL: ANX_UNSUPPORTED. */
  anx_status (*program_kernels)(anx_context *, anx_program *, const char **names);
  /* Takes about so many seconds, in all. May be NULL: ANX_UNSUPPORTED. */
  anx_status (*ceilings)(anx_context *, anx_ceilings *out, double seconds);
  /* What a profiler outside the process sees from now on: ANX_TRACE_RANGES, ANX_TRACE_RECORD. Waits for the device before it changes. May be
   * NULL: ANX_UNSUPPORTED. */
  anx_status (*trace)(anx_context *, uint32_t flags);
} anx_api;

/* The one symbol a back end exports. NULL if it does not know the version asked for. */
#if defined(_WIN32)
#define ANX_EXPORT __declspec(dllexport)
#else
#define ANX_EXPORT __attribute__((visibility("default")))
#endif
ANX_EXPORT const anx_api *anx_get_api(uint32_t abi_version);

#ifdef __cplusplus
}
#endif
#endif
