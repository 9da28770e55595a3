/* Texts of failures. */
#include <stdarg.h>
#include <stdio.h>

#include "reference.h"

const char *ref_op_name(int32_t kind) {
  static const char *const names[ANX_OP_KINDS] = {"input",    "conv_fwd", "bn_fwd_coef", "join_fwd", "pool_fwd", "gap_fwd",
                                                  "xent",     "conv_bwd", "bn_bwd_coef", "join_bwd", "pool_bwd", "sgd",
                                                  "loss_scale"};
  return kind >= 0 && kind < ANX_OP_KINDS ? names[kind] : "unknown op";
}

static const char *dtype_name(int32_t dtype) {
  static const char *const names[] = {"f32", "f64", "i32", "u8", "f16", "bf16"};
  return dtype >= 0 && dtype <= ANX_BF16 ? names[dtype] : "unknown dtype";
}

anx_status ref_fail(anx_context *c, anx_status status, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(c->error, sizeof c->error, format, arguments);
  va_end(arguments);
  return status;
}

anx_status ref_fail_op(anx_context *c, anx_status status, int32_t number, const anx_op *o, const char *format, ...) {
  va_list arguments;
  int used;
  if (o->kind == ANX_CONV_FWD || o->kind == ANX_CONV_BWD)
    used = snprintf(c->error, sizeof c->error, "%s %d [%dx%dx%dx%d -> %dx%dx%d %dx%d/%d g=%d %s] on reference: ", ref_op_name(o->kind),
                    number, o->n, o->h, o->w, o->c, o->p, o->q, o->k, o->r, o->r, o->stride, o->group, dtype_name(o->dtype));
  else
    used = snprintf(c->error, sizeof c->error, "%s %d [%dx%dx%dx%d %s] on reference: ", ref_op_name(o->kind), number, o->n, o->h, o->w,
                    o->c, dtype_name(o->dtype));
  va_start(arguments, format);
  vsnprintf(c->error + used, sizeof c->error - (size_t)used, format, arguments);
  va_end(arguments);
  return status;
}
