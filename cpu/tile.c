/* tile.c - all sizes of the register tiles of tile.h, and the choice among them. */
#define ANX_TILE_BODIES
#include "point.h"

#define FORWARD_NAME(KB, PB) [KB][PB] = forward_##KB##_##PB,
typedef void (*forward_fn)(const anx_forward_tile *, const anx_place *, int tiles, int rows);
static const forward_fn forward_table[FORWARD_CHANNELS + 1][FORWARD_PIXELS + 1] = {FORWARD_ALL(FORWARD_NAME)};

/* A row's tiles are as equal as possible: `wide` of them one pixel wider. The sums of a batch norm go from pixel to pixel and row to row. */
static void channels(const anx_forward_tile *t, anx_place row, int kb, int count) {
  const int most = anx_forward_width[kb], tiles = (count + most - 1) / most, narrow = count / tiles, wide = count % tiles;
  if (!wide) {
    forward_table[kb][narrow](t, &row, tiles, t->more_rows + 1);
    return;
  }
  const size_t pixels = (size_t)wide * (size_t)(narrow + 1), fetches = (size_t)t->channels * t->fetch.step;
  for (int i = 0; i <= t->more_rows; i++, row.x += t->x_row, row.at += t->y_row, row.fetched += (size_t)count * fetches) {
    const anx_place rest = {row.x + pixels * t->x_p, row.k, row.at + pixels * t->y_p, row.fetched + pixels * fetches};
    forward_table[kb][narrow + 1](t, &row, wide, 1);
    forward_table[kb][narrow](t, &rest, tiles - wide, 1);
  }
}

/* On a 1x1 map only the centre of a filter counts. */
static void centre(const anx_forward_tile *t, int k0, int k1, size_t at, int count) {
  anx_ahead nothing = {.line = (const char *)t->x, .end = (const char *)t->x + 4096, .idle = (const char *)t->x};
  const anx_point_tile centre = {.x = t->x, .x_c = t->x_c, .w = t->w, .w_k = t->w_k, .w_c = t->w_c, .channels = t->channels, .y = t->y + at, .y_k = t->y_k,
                                 .stream = t->stream, .bias = t->bias, .add = t->add ? t->add + at : NULL, .raw = t->raw ? t->raw + at : NULL, .s = t->s,
                                 .t = t->t, .mean = t->mean, .sums = t->sums, .ahead = &nothing};
  FN(anx_point)(&centre, k0, k1, count);
}

void FN(anx_forward)(const anx_forward_tile *t, int k0, int k1, size_t at, int count) {
  if (t->tap_rows * t->tap_columns == 1 && t->x_p == 16 && t->y_p == 16 && !t->more_rows) {
    centre(t, k0, k1, at, count);
    return;
  }
  anx_forward_tile other;
  if (!t->fetch.at) { /* nothing to fetch: the same line again and again */
    other = *t;
    other.fetch.at = (const char *)t->x;
    t = &other;
  }
  anx_place row = {.at = at, .fetched = 0};
  for (int k = k0; k < k1;) {
    const int kb = anx_part(k1 - k0, FORWARD_CHANNELS, k - k0);
    row.x = t->x;
    row.k = (size_t)k;
    row.at = at + (size_t)k * t->y_k;
    channels(t, row, kb, count);
    row.fetched += (size_t)(t->more_rows + 1) * (size_t)count * (size_t)t->channels * t->fetch.step;
    k += kb;
  }
}

#define WEIGHT_NAME(KB, JB) [KB][JB] = weight_##KB##_##JB,
typedef void (*weight_fn)(WEIGHT_ARGUMENTS);
static const weight_fn weight_table[WEIGHT_ROWS + 1][WEIGHT_COLUMNS + 1] = {WEIGHT_ALL(WEIGHT_NAME)};

void FN(anx_weight)(WEIGHT_ARGUMENTS, int kb, int jb) {
  weight_table[kb][jb](d, d_k, columns, n1, d1, a1, n2, d2, a2, n3, d3, a3, fetch, lanes);
}

#define THREE_NAME(KB, RB) [KB][RB] = three_##KB##_##RB,
static const weight_fn three_table[THREE_ROWS + 1][4] = {THREE_ALL(THREE_NAME)};

void FN(anx_weight_rows)(WEIGHT_ARGUMENTS, int kb, int rb) {
  three_table[kb][rb](d, d_k, columns, n1, d1, a1, n2, d2, a2, n3, d3, a3, fetch, lanes);
}
