/* fetch.h - the memory that the next slice will read, brought near in pieces while this one is computed. */
#ifndef ANX_CPU_FETCH_H
#define ANX_CPU_FETCH_H

#include "cpu.h"
#include "tile.h"

/* `streams` tensors, each a range of `vectors` vectors in every one of `channels` channels; one piece for each call of the register tiles. */
typedef struct ahead {
  struct {
    const stored *at;
    size_t stride; /* of channels, values */
    int channels, vectors;
  } stream[3];
  int streams, channel, line; /* where the next piece begins: always in stream[streams-1] */
  int quota;                  /* vectors of a piece */
} ahead;

/* Adds `vectors` vectors at `first` of each of n channels of x. */
AI void ahead_add(ahead *a, const stored *x, size_t stride, int channel, int n, size_t first, int vectors) {
  const int i = a->streams++;
  a->stream[i].at = x + (size_t)channel * stride + first * 16;
  a->stream[i].stride = stride;
  a->stream[i].channels = n;
  a->stream[i].vectors = vectors;
  if ((size_t)vectors * 17 >= stride) { /* nearly all of each channel: one range */
    a->stream[i].vectors = (int)((size_t)n * stride / 16);
    a->stream[i].channels = 1;
  }
}

/* Spreads all of it over so many calls. */
AI void ahead_spread(ahead *a, int calls) {
  int vectors = 0;
  for (int i = 0; i < a->streams; i++) vectors += a->stream[i].vectors * a->stream[i].channels;
  a->quota = vectors / calls + vectors / calls / 4 + 1; /* more than their share, since a piece ends with its channel */
}

/* The next so many pieces, to be fetched in `turns` turns of a loop. */
AI anx_fetch ahead_take(ahead *a, int pieces, int turns) {
  if (!a->streams || !turns) return (anx_fetch){0};
  const int i = a->streams - 1, left = a->stream[i].vectors - a->line, vectors = left < a->quota * pieces ? left : a->quota * pieces;
  const anx_fetch f = {(const char *)(a->stream[i].at + (size_t)a->channel * a->stream[i].stride + (size_t)a->line * 16),
                       (uint32_t)((unsigned)vectors * 16 * sizeof(stored) * 256 / (unsigned)turns)};
  a->line += vectors;
  if (a->line == a->stream[i].vectors) {
    a->line = 0;
    if (++a->channel == a->stream[i].channels) {
      a->channel = 0;
      a->streams--;
    }
  }
  return f;
}

#endif
