/* kernels.c - the table of ops of one instruction set. */
#include "conv_kernels.h"

#define ANX_STRING_(x) #x
#define ANX_STRING(x) ANX_STRING_(x)

void FN(anx_input)(const anx_call *);
void FN(anx_conv_fwd)(const anx_call *);
void FN(anx_conv_bwd)(const anx_call *);
void FN(anx_join_fwd)(const anx_call *);
void FN(anx_join_bwd)(const anx_call *);
void FN(anx_pool_fwd)(const anx_call *);
void FN(anx_pool_bwd)(const anx_call *);
void FN(anx_gap_fwd)(const anx_call *);
void FN(anx_sgd)(const anx_call *);

const anx_kernels FN(anx_kernels_of) = {
    .isa = ANX_STRING(ANX_ISA),
    .op = {[ANX_INPUT] = FN(anx_input), [ANX_CONV_FWD] = FN(anx_conv_fwd), [ANX_BN_FWD_COEF] = anx_bn_fwd_coef, [ANX_JOIN_FWD] = FN(anx_join_fwd),
           [ANX_POOL_FWD] = FN(anx_pool_fwd), [ANX_GAP_FWD] = FN(anx_gap_fwd), [ANX_XENT] = anx_xent, [ANX_CONV_BWD] = FN(anx_conv_bwd),
           [ANX_BN_BWD_COEF] = anx_bn_bwd_coef, [ANX_JOIN_BWD] = FN(anx_join_bwd), [ANX_POOL_BWD] = FN(anx_pool_bwd), [ANX_SGD] = FN(anx_sgd),
           [ANX_LOSS_SCALE] = anx_loss_scale}};
