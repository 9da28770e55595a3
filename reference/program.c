/* Programs: a checked copy of the records with the address of every tensor, walked once per run. Activations of 16 bits are floats in the
 * scratch while their op runs. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "reference.h"

struct anx_program {
  anx_program_desc desc;
  anx_tensor *tensors;
  anx_op *ops;
  ref_call *calls;
  double *scratch;
  double *slots;
  uint64_t *ns, *runs;
  int profiling;
};

typedef anx_status (*op_function)(const ref_call *);

static const op_function functions[ANX_OP_KINDS] = {ref_input, ref_conv_fwd, ref_bn_fwd_coef, ref_join_fwd, ref_pool_fwd, ref_gap_fwd,
                                                    ref_xent,  ref_conv_bwd, ref_bn_bwd_coef, ref_join_bwd, ref_pool_bwd, ref_sgd,
                                                    ref_loss_scale};

/* The values of tensor `id` that an op sees as floats of its own: none of an absent, a plain or an F32 one. */
static uint64_t wide(const anx_tensor *tensors, int32_t id) {
  if (id < 0 || tensors[id].layout != ANX_ACTIVATION || tensors[id].dtype == ANX_F32) return 0;
  return (uint64_t)tensors[id].n * (uint64_t)tensors[id].h * (uint64_t)tensors[id].w * (uint64_t)tensors[id].c;
}

static uint64_t scratch_bytes(const anx_program_desc *d, const anx_tensor *tensors, const anx_op *ops) {
  uint64_t most = 0;
  for (int32_t i = 0; i < d->ops; i++) {
    uint64_t bytes = ref_scratch(&ops[i]) * sizeof(double);
    for (int k = 0; k < ANX_MAX_IN; k++) bytes += wide(tensors, ops[i].in[k]) * sizeof(float);
    for (int k = 0; k < ANX_MAX_OUT; k++) bytes += wide(tensors, ops[i].out[k]) * sizeof(float);
    if (bytes > most) most = bytes;
  }
  return most;
}

/* The call of model m of an op. */
static ref_call of_model(const ref_call *first, int32_t m) {
  ref_call call = *first;
  call.slots += m;
  for (int k = 0; k < ANX_MAX_IN; k++)
    if (call.in[k]) call.in[k] = call.stored_in[k] = (char *)call.stored_in[k] + (uint64_t)m * call.tensors[call.op->in[k]].stride;
  for (int k = 0; k < ANX_MAX_OUT; k++)
    if (call.out[k]) call.out[k] = call.stored_out[k] = (char *)call.stored_out[k] + (uint64_t)m * call.tensors[call.op->out[k]].stride;
  return call;
}

/* Runs one op of one model, between widening and narrowing. */
static anx_status run_op(ref_call *call) {
  const anx_op *o = call->op;
  float *next = (float *)(call->scratch + ref_scratch(o));
  for (int k = 0; k < ANX_MAX_IN; k++) {
    const uint64_t count = wide(call->tensors, o->in[k]);
    if (!count) continue;
    ref_widen(next, call->stored_in[k], o->dtype, count);
    call->in[k] = next;
    next += count;
  }
  for (int k = 0; k < ANX_MAX_OUT; k++) {
    const uint64_t count = wide(call->tensors, o->out[k]);
    if (count) call->out[k] = next;
    next += count;
  }
  const anx_status status = functions[o->kind](call);
  if (status != ANX_OK) return status;
  for (int k = 0; k < ANX_MAX_OUT; k++) {
    const uint64_t count = wide(call->tensors, o->out[k]);
    if (count) ref_narrow(call->stored_out[k], call->out[k], o->dtype, count);
  }
  return ANX_OK;
}

anx_status ref_program_workspace(anx_context *c, const anx_program_desc *d, uint64_t *bytes, const anx_tensor *tensors, const anx_op *ops) {
  anx_status status;
  if (!c) return ANX_INVALID_ARGUMENT;
  if (!bytes) return ref_fail(c, ANX_INVALID_ARGUMENT, "program_workspace: no place for the answer");
  status = ref_check_program(c, d, tensors, ops, NULL);
  if (status == ANX_OK) *bytes = scratch_bytes(d, tensors, ops);
  return status;
}

/* Room for count elements, at least one, so that NULL means failure alone. */
static void *room(size_t count, size_t size) { return calloc(count ? count : 1, size); }

anx_status ref_program_create(anx_context *c, const anx_program_desc *d, anx_program **out, const anx_tensor *tensors, const anx_op *ops,
                              anx_buffer *const *buffers) {
  anx_program *p;
  anx_status status;
  uint64_t scratch;
  if (!c) return ANX_INVALID_ARGUMENT;
  if (!out) return ref_fail(c, ANX_INVALID_ARGUMENT, "program_create: no place for the program");
  *out = NULL;
  if (d && d->buffers > 0 && !buffers) return ref_fail(c, ANX_INVALID_ARGUMENT, "program_create: no buffers");
  status = ref_check_program(c, d, tensors, ops, buffers);
  if (status != ANX_OK) return status;

  p = calloc(1, sizeof *p);
  if (!p) return ref_fail(c, ANX_OUT_OF_MEMORY, "program_create: no memory for the program");
  scratch = scratch_bytes(d, tensors, ops);
  p->desc = *d;
  p->tensors = room((size_t)d->tensors, sizeof *p->tensors);
  p->ops = room((size_t)d->ops, sizeof *p->ops);
  p->calls = room((size_t)d->ops, sizeof *p->calls);
  p->scratch = room(scratch, 1);
  p->slots = room((size_t)d->slots, sizeof *p->slots);
  p->ns = room((size_t)d->ops, sizeof *p->ns);
  p->runs = room((size_t)d->ops, sizeof *p->runs);
  if (!p->tensors || !p->ops || !p->calls || !p->scratch || !p->slots || !p->ns || !p->runs) {
    ref_program_destroy(c, p);
    return ref_fail(c, ANX_OUT_OF_MEMORY, "program_create: no memory for %d ops and a workspace of %llu bytes", d->ops,
                    (unsigned long long)scratch);
  }
  if (d->tensors) memcpy(p->tensors, tensors, (size_t)d->tensors * sizeof *tensors);
  if (d->ops) memcpy(p->ops, ops, (size_t)d->ops * sizeof *ops);
  for (int32_t i = 0; i < d->ops; i++) {
    const anx_op *o = &p->ops[i];
    ref_call *call = &p->calls[i];
    *call = (ref_call){.context = c, .number = i, .op = o, .tensors = p->tensors, .slots = p->slots, .scratch = p->scratch};
    for (int k = 0; k < ANX_MAX_IN; k++)
      if (o->in[k] >= 0) call->in[k] = call->stored_in[k] = buffers[p->tensors[o->in[k]].buffer]->data + p->tensors[o->in[k]].offset;
    for (int k = 0; k < ANX_MAX_OUT; k++)
      if (o->out[k] >= 0) call->out[k] = call->stored_out[k] = buffers[p->tensors[o->out[k]].buffer]->data + p->tensors[o->out[k]].offset;
  }
  *out = p;
  return ANX_OK;
}

void ref_program_destroy(anx_context *c, anx_program *p) {
  (void)c;
  if (!p) return;
  free(p->tensors);
  free(p->ops);
  free(p->calls);
  free(p->scratch);
  free(p->slots);
  free(p->ns);
  free(p->runs);
  free(p);
}

static uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

anx_status ref_program_run(anx_context *c, anx_program *p, const double *slots) {
  if (!c) return ANX_INVALID_ARGUMENT;
  if (!p) return ref_fail(c, ANX_INVALID_ARGUMENT, "program_run: no program");
  if (p->desc.slots && !slots) return ref_fail(c, ANX_INVALID_ARGUMENT, "program_run: no slots, but the program has %d", p->desc.slots);
  if (p->desc.slots) memcpy(p->slots, slots, (size_t)p->desc.slots * sizeof *slots);
  for (int32_t i = 0; i < p->desc.ops; i++) {
    uint64_t start = p->profiling ? now_ns() : 0;
    for (int32_t m = 0; m < p->ops[i].models; m++) {
      ref_call call = of_model(&p->calls[i], m);
      const anx_status status = run_op(&call);
      if (status != ANX_OK) return status;
    }
    if (p->profiling) {
      p->ns[i] += now_ns() - start;
      p->runs[i]++;
    }
  }
  return ANX_OK;
}

anx_status ref_program_profile(anx_context *c, anx_program *p, uint64_t *ns, uint64_t *runs) {
  if (!c) return ANX_INVALID_ARGUMENT;
  if (!p) return ref_fail(c, ANX_INVALID_ARGUMENT, "program_profile: no program");
  if (p->desc.ops && (!ns || !runs)) return ref_fail(c, ANX_INVALID_ARGUMENT, "program_profile: no place for the answer");
  for (int32_t i = 0; i < p->desc.ops; i++) {
    ns[i] = p->ns[i];
    runs[i] = p->runs[i];
    p->ns[i] = p->runs[i] = 0;
  }
  p->profiling = 1;
  return ANX_OK;
}
