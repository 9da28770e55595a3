/* reference.h - what the files of the reference back end share.
 *
 * An activation is plain [n][h][w][c], and float in the hands of an op (storage.c). Every sum runs in double, in the order of the loops that are written down. One thread.
 * An op function reads a call, whose tensors check.c has found to fit its record, and does nothing but its formula in anx.h. */
#ifndef ANX_REFERENCE_H
#define ANX_REFERENCE_H

#include <stddef.h>
#include <stdint.h>
#include "anx.h"

struct anx_context {
  char error[768];
};

struct anx_buffer {
  uint64_t bytes;
  unsigned char *data;
};

typedef struct ref_call {
  anx_context *context;
  int32_t number; /* of the op in its program */
  const anx_op *op;
  const anx_tensor *tensors;
  void *in[ANX_MAX_IN], *out[ANX_MAX_OUT]; /* NULL where absent; activations as floats */
  void *stored_in[ANX_MAX_IN], *stored_out[ANX_MAX_OUT]; /* the same as they lie in memory */
  const double *slots;
  double *scratch; /* ref_scratch(op) values */
} ref_call;

/* error.c: both keep the text in the context and return status; the second puts op, number and shapes in front. */
anx_status ref_fail(anx_context *, anx_status, const char *format, ...) __attribute__((format(printf, 3, 4)));
anx_status ref_fail_op(anx_context *, anx_status, int32_t number, const anx_op *, const char *format, ...)
    __attribute__((format(printf, 5, 6)));
const char *ref_op_name(int32_t kind);

/* check.c: ANX_OK if the op programs hold together. Buffers may be NULL: where tensors end is then not checked. */
anx_status ref_check_tensor(anx_context *, const char *what, const anx_tensor *, uint64_t *bytes);
anx_status ref_check_program(anx_context *, const anx_program_desc *, const anx_tensor *, const anx_op *, anx_buffer *const *buffers);
uint64_t ref_scratch(const anx_op *); /* doubles */

/* context.c */
anx_status ref_device_count(int32_t *count);
anx_status ref_device_info(anx_device_info *, int32_t device);
anx_status ref_context_create(anx_context **, const anx_context_desc *);
void ref_context_destroy(anx_context *);
const char *ref_context_error(const anx_context *);
anx_status ref_context_info(anx_context *, anx_device_info *);
anx_status ref_tensor_bytes(anx_context *, const anx_tensor *, uint64_t *bytes);
anx_status ref_buffer_create(anx_context *, anx_buffer **, uint64_t bytes);
void ref_buffer_destroy(anx_context *, anx_buffer *);
anx_status ref_buffer_write(anx_context *, anx_buffer *, const void *data, uint64_t offset, uint64_t bytes);
anx_status ref_buffer_read(anx_context *, const anx_buffer *, void *data, uint64_t offset, uint64_t bytes);
anx_status ref_pack(anx_context *, const anx_tensor *, anx_buffer *, const float *nhwc);
anx_status ref_unpack(anx_context *, const anx_tensor *, const anx_buffer *, float *nhwc);
anx_status ref_synchronize(anx_context *);

/* program.c */
anx_status ref_program_workspace(anx_context *, const anx_program_desc *, uint64_t *bytes, const anx_tensor *, const anx_op *);
anx_status ref_program_create(anx_context *, const anx_program_desc *, anx_program **, const anx_tensor *, const anx_op *,
                              anx_buffer *const *buffers);
void ref_program_destroy(anx_context *, anx_program *);
anx_status ref_program_run(anx_context *, anx_program *, const double *slots);
anx_status ref_program_profile(anx_context *, anx_program *, uint64_t *ns, uint64_t *runs);

/* storage.c */
float ref_rounded(int32_t dtype, double); /* to a value of F32, F16 or BF16 */
void ref_widen(float *values, const void *stored, int32_t dtype, uint64_t count); /* from F16 or BF16 */
void ref_narrow(void *stored, const float *values, int32_t dtype, uint64_t count); /* of values that are rounded already */

/* one file per family */
anx_status ref_input(const ref_call *);
anx_status ref_conv_fwd(const ref_call *);
anx_status ref_bn_fwd_coef(const ref_call *);
anx_status ref_join_fwd(const ref_call *);
anx_status ref_pool_fwd(const ref_call *);
anx_status ref_gap_fwd(const ref_call *);
anx_status ref_xent(const ref_call *);
anx_status ref_conv_bwd(const ref_call *);
anx_status ref_bn_bwd_coef(const ref_call *);
anx_status ref_join_bwd(const ref_call *);
anx_status ref_pool_bwd(const ref_call *);
anx_status ref_sgd(const ref_call *);
anx_status ref_loss_scale(const ref_call *);

/* What an op stores in an activation. */
static inline float ref_stored(const anx_op *o, double v) { return o->dtype == ANX_F32 ? (float)v : ref_rounded(o->dtype, v); }

static inline double ref_relu(double x) { return x < 0 ? 0 : x; } /* a NaN stays one */

#endif
