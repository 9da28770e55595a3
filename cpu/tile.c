/* tile.c - all sizes of the register tiles of tile.h, and the choice among them. */
#define ANX_TILE_BODIES
#include "tile.h"

#define FORWARD_NAME(KB, PB) [KB][PB] = forward_##KB##_##PB,
typedef void (*forward_fn)(const anx_forward_tile *, anx_place, int tiles, int rows);
static const forward_fn forward_table[FORWARD_CHANNELS + 1][FORWARD_PIXELS + 1] = {FORWARD_ALL(FORWARD_NAME)};

/* A row's tiles are as equal as possible: `wide` of them one pixel wider. The sums of a batch norm go from pixel to pixel and row to row. */
static void channels(const anx_forward_tile *t, int kb, int count) {
  const int most = anx_forward_width[kb], tiles = (count + most - 1) / most, narrow = count / tiles, wide = count % tiles;
  anx_place row = {t->x, 0, 0};
  if (!wide) {
    forward_table[kb][narrow](t, row, tiles, t->more_rows + 1);
    return;
  }
  const size_t pixels = (size_t)wide * (size_t)(narrow + 1), fetches = (size_t)t->channels * FETCHES * t->fetch.step;
  for (int i = 0; i <= t->more_rows; i++, row.x += t->x_row, row.at += t->y_row, row.fetched += (size_t)count * fetches) {
    const anx_place rest = {row.x + pixels * t->x_p, row.at + pixels * t->y_p, row.fetched + pixels * fetches};
    forward_table[kb][narrow + 1](t, row, wide, 1);
    forward_table[kb][narrow](t, rest, tiles - wide, 1);
  }
}

void FN(anx_forward)(const anx_forward_tile *base, int k0, int k1, size_t at, int count) {
  anx_fetch fetch = base->fetch;
  if (!fetch.at) fetch = (anx_fetch){(const char *)base->x, 0};
  const size_t turns = (size_t)anx_fetch_turns(base, 1, count);
  anx_ahead nothing = {.line = fetch.at, .end = fetch.at, .idle = fetch.at}, *ahead = base->ahead ? base->ahead : &nothing;
  for (int k = k0; k < k1;) {
    const int kb = anx_part(k1 - k0, FORWARD_CHANNELS, k - k0);
    anx_forward_tile t = *base;
    t.fetch = fetch;
    t.ahead = ahead;
    const size_t o = (size_t)k * t.y_k + at;
    t.w += (size_t)k * t.w_k;
    if (PAIR == 2 && t.wide) t.wide += o;
    else t.y += o;
    if (t.bias) t.bias += k;
    if (t.add) t.add += o;
    if (t.raw) {
      t.raw += o;
      t.s += k;
      t.t += k;
      t.mean += k;
    }
    if (t.sums) t.sums += 32 * k;
    channels(&t, kb, count);
    fetch.at += turns * fetch.step >> 8;
    k += kb;
  }
}

#define WEIGHT_NAME(KB, JB) [KB][JB] = weight_##KB##_##JB,
typedef void (*weight_fn)(WEIGHT_ARGUMENTS);
static const weight_fn weight_table[WEIGHT_ROWS + 1][WEIGHT_COLUMNS + 1] = {WEIGHT_ALL(WEIGHT_NAME)};

void FN(anx_weight)(WEIGHT_ARGUMENTS, int kb, int jb) {
  weight_table[kb][jb](d, d_k, columns, n1, d1, a1, n2, d2, a2, n3, d3, a3, fetch, lanes);
}
