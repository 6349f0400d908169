// Matrices of attention in tiles: 64 tokens of one head in shared memory, 16 of them for each of
// the four warps of a block. Products of tiles run on tensor cores and are summed in float.
//
// In the comments A' is A transposed. A thread knows its place by two numbers: `warp` says which 16
// of the block's 64 tokens it works on, `lane` which numbers of a fragment it holds.
#ifndef SCRATCH_VLM_TILES
#define SCRATCH_VLM_TILES

#include "common.cuh"
#include "tensor_cores.cuh"

#ifndef WIDTH
#define WIDTH 64  // channels of a head, rounded up to 32, 64 or 128 when the file is compiled
#endif
#define TILE 64
#define FEW 16  // tokens of a tile that are computed where the others do not exist. Images are
                // squares and a class token: 197, 257 or 577 tokens leave 5 or 1 for the last tile
#define WARPS 4
#define THREADS (WARPS * WARP)
#define PITCH (WIDTH + 8)  // of a row in shared memory. 16 bytes more than the row is long: eight
                           // rows below each other then lie in different banks
#define LOG2_E 1.4426950408889634f

// The tokens of one head of one image: row i starts at start + i * step.
struct Tokens {
  const number* start;
  int step;
  int count;
};

// Start to copy 64 tokens, 8 channels a thread at a time. Zeros behind the last token and channel.
__device__ __forceinline__ void load_tile(number* tile, Tokens tokens, int first, int width) {
  const int lanes = WIDTH / 8, rows = THREADS / lanes;  // lanes of a row, rows at a time
  int row = threadIdx.x / lanes, channel = threadIdx.x % lanes * 8;
  const number* from = tokens.start + ((first + row) * tokens.step + channel);
#pragma unroll
  for (int i = 0; i < TILE; i += rows)
    copy_16_bytes(tile + (row + i) * PITCH + channel, from + i * tokens.step,
                  first + row + i < tokens.count && channel < width);
}

// Two tiles that come together, one behind the other. Two such pairs lie in shared memory: while
// one is computed, the next is copied.
#define PAIR (2 * TILE * PITCH)

__device__ __forceinline__ void load_pair(number* pair, Tokens one, Tokens two, int first,
                                          int width) {
  load_tile(pair, one, first, width);
  load_tile(pair + TILE * PITCH, two, first, width);
  copy_commit();
}

// The 16 tokens of a warp in registers: as a left factor, a fragment A for each 16 channels; and as
// what is summed up, a fragment C for each 8.
typedef unsigned Rows[WIDTH / 16][4];
typedef float Sums[WIDTH / 8][4];

// 16 rows of a tile as a left factor. What stays while other tiles come by is read from shared
// memory once, and lives in registers from then on.
__device__ __forceinline__ void hold_rows(Rows rows, const number* tile, int first) {
  int lane = threadIdx.x % WARP;
#pragma unroll
  for (int i = 0; i < WIDTH / 16; i++)  // eight rows, eight below; both eight channels on
    load_matrices(rows[i], tile + (first + lane % 16) * PITCH + i * 16 + lane / 16 * 8);
}

// c (16 x 64) += left (16 x WIDTH) right' (WIDTH x 64): the dot products of all pairs of tokens.
// The columns of right' are rows of the tile, and lie as a fragment B wants its columns. Products
// that follow each other add to different sums, so that none waits for the last. N is 8, and 2
// where only the first 16 tokens of the tile are computed; likewise below.
template <int N>
__device__ __forceinline__ void add_dot_products(float (&c)[N][4], const Rows left,
                                                 const number* right) {
  int lane = threadIdx.x % WARP;
#pragma unroll
  for (int i = 0; i < WIDTH / 16; i++)  // 16 channels
#pragma unroll
    for (int n = 0; n < N; n += 2) {
      unsigned b[4];  // two fragments, of eight tokens each
      load_matrices(b, right + (n * 8 + lane / 16 * 8 + lane % 8) * PITCH + i * 16 +
                           lane / 8 % 2 * 8);
      multiply_add(c[n], left[i], b);
      multiply_add(c[n + 1], left[i], b + 2);
    }
}

// sum (16 x WIDTH) += weights (16 x 64), rounded to 16 bits, times a tile (64 x WIDTH). The weights
// were dot products: they lie in the lanes just as a left factor has to lie. Columns of the tile
// are not its rows, so it is transposed on the way.
template <int N>
__device__ __forceinline__ void add_weighted(Sums sum, const float (&weights)[N][4],
                                             const number* tile) {
  int lane = threadIdx.x % WARP;
#pragma unroll
  for (int i = 0; i < N / 2; i++) {
    const float *left = weights[2 * i], *right = weights[2 * i + 1];  // 8 tokens each
    unsigned a[4] = {round_pair(left[0], left[1]), round_pair(left[2], left[3]),
                     round_pair(right[0], right[1]), round_pair(right[2], right[3])};
#pragma unroll
    for (int n = 0; n < WIDTH / 8; n += 2) {
      unsigned b[4];  // two fragments, of eight channels each
      load_transposed(b, tile + (i * 16 + lane % 16) * PITCH + n * 8 + lane / 16 * 8);
      multiply_add(sum[n], a, b);
      multiply_add(sum[n + 1], a, b + 2);
    }
  }
}

typedef Several<number, 8> Eight;  // channels, 16 bytes

// Write 16 rows: of four sums of a lane the first two to row lane / 4, times times_0, the others
// eight rows below, times times_1. They go through a tile that nobody reads any more, where each
// warp has 16 rows: from there a lane writes 16 bytes at once, and WIDTH / 8 lanes a whole row.
__device__ __forceinline__ void put_rows(number* tile, number* to, long long step, int first,
                                         int count, int width, const Sums sum, float times_0,
                                         float times_1) {
  const int lanes = WIDTH / 8, rows = WARP / lanes;  // lanes of a row, rows at a time
  int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
  tile += warp * 16 * PITCH;
#pragma unroll
  for (int n = 0; n < WIDTH / 8; n++) {
    number* place = tile + lane / 4 * PITCH + n * 8 + lane % 4 * 2;
    *(unsigned*)place = round_pair(sum[n][0] * times_0, sum[n][1] * times_0);
    place += 8 * PITCH;
    *(unsigned*)place = round_pair(sum[n][2] * times_1, sum[n][3] * times_1);
  }
  __syncwarp();
  first += warp * 16;
  int channel = lane % lanes * 8;
#pragma unroll
  for (int row = lane / lanes; row < 16; row += rows)
    if (first + row < count && channel < width)
      *(Eight*)(to + (first + row) * step + channel) = *(Eight*)(tile + row * PITCH + channel);
}

// What attention_kinds found out about the tiles of a boolean mask.
struct Mask {
  const unsigned char* kinds;  // null: everybody may read everybody
  const long long* bits;       // of each tile 64 words for its queries, then 64 for its keys
  int first;                   // tile of this head and image
  int key_tiles;
};

#define NOTHING 0
#define SOME 1
#define EVERYTHING 2

__device__ __forceinline__ int kind_of(Mask mask, int query_tile, int key_tile) {
  if (!mask.kinds) return EVERYTHING;
  return mask.kinds[mask.first + query_tile * mask.key_tiles + key_tile];
}

// The first tile of keys, from `key_tile` on, of which a tile of queries may read any.
__device__ __forceinline__ int next_tile(Mask mask, int query_tile, int key_tile) {
  while (key_tile < mask.key_tiles && kind_of(mask, query_tile, key_tile) == NOTHING) key_tile++;
  return key_tile;
}

// The bits of a tile whose mask has to be asked, else null.
__device__ __forceinline__ const long long* bits_of(Mask mask, int query_tile, int key_tile) {
  if (kind_of(mask, query_tile, key_tile) != SOME) return nullptr;
  long long tile = mask.first + query_tile * mask.key_tiles + key_tile;
  return mask.bits + tile * 2 * TILE;
}

__device__ __forceinline__ long long first_bits(int count) {
  return count < TILE ? (1LL << count) - 1 : -1LL;
}

// In a product of 16 tokens with 64, overwrite the pairs that may not be: those whose bit is 0 in
// the word of their row. A lane holds numbers of two rows.
template <int N>
__device__ __forceinline__ void hide(float (&c)[N][4], const long long* rows, float value) {
  int lane = threadIdx.x % WARP;
  long long may[2] = {rows[lane / 4] >> lane % 4 * 2, rows[lane / 4 + 8] >> lane % 4 * 2};
#pragma unroll
  for (int n = 0; n < N; n++)
#pragma unroll
    for (int j = 0; j < 4; j++)
      c[n][j] = may[j / 2] >> (n * 8 + j % 2) & 1 ? c[n][j] : value;
}

// The same for the columns from `count` on, tokens that do not exist.
template <int N>
__device__ __forceinline__ void hide_behind(float (&c)[N][4], int count, float value) {
  count -= threadIdx.x % 4 * 2;
#pragma unroll
  for (int n = 0; n < N; n++)
#pragma unroll
    for (int j = 0; j < 4; j++) c[n][j] = n * 8 + j % 2 < count ? c[n][j] : value;
}

#endif
