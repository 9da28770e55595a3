/* gap.c - global average pool: V(n,c) = mean of Y(n,h,w,c) over the map. Y [N][H][W][C], V [N][1][1][C], float. Its backward is the
 * ANX_BROADCAST of join_bwd. */
#include "reference.h"

anx_status ref_gap_fwd(const ref_call *call) {
  const anx_op *o = call->op;
  const float *y = call->in[0];
  float *v = call->out[0];
  const int64_t map = (int64_t)o->h * o->w;
  for (int64_t n = 0; n < o->n; n++)
    for (int64_t c = 0; c < o->c; c++) {
      double sum = 0;
      for (int64_t i = 0; i < map; i++) sum += y[(n * map + i) * o->c + c];
      v[n * o->c + c] = ref_stored(o, sum / (double)map);
    }
  return ANX_OK;
}
