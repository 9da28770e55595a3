/* check.h - is a program what anx.h says? C on both sides, so that one compiler builds it for every form of the back end. */
#ifndef ANX_CUDA_CHECK_H
#define ANX_CUDA_CHECK_H

#include <stdint.h>
#include "anx.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Channels of an activation in memory: rounded up to 8, so that every pixel starts on 16 bytes; the rest are zeros. */
static inline uint64_t anx_cuda_padded(int32_t channels) { return ((uint64_t)channels + 7) / 8 * 8; }

/* Do they share memory? */
int anx_cuda_overlap(const anx_tensor *, const anx_tensor *, int32_t models);

/* error.cpp: both keep the text in the context and return status. */
anx_status anx_cuda_fail(anx_context *, anx_status, const char *format, ...) __attribute__((format(printf, 3, 4)));
anx_status anx_cuda_fail_op(anx_context *, anx_status, int32_t number, const anx_op *, const char *format, ...)
    __attribute__((format(printf, 5, 6)));
const char *anx_cuda_op_name(int32_t kind);

uint64_t anx_cuda_buffer_bytes(const anx_buffer *);
anx_status anx_cuda_check_tensor(anx_context *, const char *what, const anx_tensor *, uint64_t *bytes);
/* Buffers may be NULL: where tensors end is then not checked. */
anx_status anx_cuda_check_program(anx_context *, const anx_program_desc *, const anx_tensor *, const anx_op *, anx_buffer *const *buffers);

#ifdef __cplusplus
}
#endif
#endif
