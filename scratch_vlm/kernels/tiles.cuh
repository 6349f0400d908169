// Matrices of attention in tiles: 64 tokens of one head in shared memory, 16 of them for each of
// the four warps of a block. Products of tiles run on tensor cores and are summed in float.
#ifndef SCRATCH_VLM_TILES
#define SCRATCH_VLM_TILES

#include "common.cuh"
#include "tensor_cores.cuh"

#ifndef WIDTH
#define WIDTH 64  // channels of a head, rounded up to 32 or 64; chosen when the file is compiled
#endif
#define TILE 64
#define WARPS 4
#define THREADS (WARPS * WARP)
#define PITCH (WIDTH + 8)  // of a row in shared memory. 16 bytes more than the row is long: eight
                           // rows below each other then lie in different banks
#define LOG2_E 1.4426950408889634f

// The tokens of one head of one image: row i starts at start + i * step.
struct Tokens {
  const number* start;
  long long step;
  int count;
};

// Start to copy 64 tokens, 8 channels a thread at a time. Zeros behind the last token and channel.
__device__ __forceinline__ void load_tile(number* tile, Tokens tokens, int first, int width) {
  for (int i = threadIdx.x; i < TILE * (WIDTH / 8); i += THREADS) {
    int row = i / (WIDTH / 8), channel = i % (WIDTH / 8) * 8;
    bool real = first + row < tokens.count && channel < width;
    const number* from = tokens.start + (real ? (first + row) * tokens.step + channel : 0);
    copy_16_bytes(tile + row * PITCH + channel, from, real);
  }
}

// c (16 x 64) = 16 rows of a tile, from `row` on, times another tile (64 x WIDTH) transposed: the
// scalar products of all pairs of tokens.
__device__ __forceinline__ void pair_up(float c[TILE / 8][4], const number* left, int row,
                                        const number* right) {
  int lane = threadIdx.x % WARP;
#pragma unroll
  for (int n = 0; n < TILE / 8; n++) c[n][0] = c[n][1] = c[n][2] = c[n][3] = 0.0f;
#pragma unroll 1  // unrolled, it takes more registers than a thread has
  for (int i = 0; i < WIDTH; i += 32) {  // channels
    unsigned a[2][4];                    // 16 tokens, twice 16 channels
    load_matrices(a[0], left + (row + lane % 16) * PITCH + i + lane / 16 * 8);
    load_matrices(a[1], left + (row + lane % 16) * PITCH + i + 16 + lane / 16 * 8);
#pragma unroll
    for (int n = 0; n < TILE / 8; n++) {
      unsigned b[4];  // eight tokens, 32 channels
      load_matrices(b, right + (n * 8 + lane % 8) * PITCH + i + lane / 8 * 8);
      multiply_add(c[n], a[0], b);
      multiply_add(c[n], a[1], b + 2);
    }
  }
}

__device__ __forceinline__ unsigned round_pair(float first, float second) {
  __nv_bfloat162 pair = __floats2bfloat162_rn(first, second);
  unsigned bits;
  memcpy(&bits, &pair, 4);
  return bits;
}

// sum (16 x WIDTH) += w (16 x 64), rounded to bfloat16, times a tile (64 x WIDTH). The sums of
// pair_up lie in the lanes just as the left factor of the next product has to lie.
__device__ __forceinline__ void weigh(float sum[WIDTH / 8][4], const float w[TILE / 8][4],
                                      const number* tile) {
  int lane = threadIdx.x % WARP;
#pragma unroll
  for (int i = 0; i < TILE / 16; i++) {
    const float *left = w[2 * i], *right = w[2 * i + 1];
    unsigned a[4] = {round_pair(left[0], left[1]), round_pair(left[2], left[3]),
                     round_pair(right[0], right[1]), round_pair(right[2], right[3])};
#pragma unroll
    for (int n = 0; n < WIDTH / 8; n += 2) {
      unsigned b[4];  // 16 tokens, 16 channels
      load_transposed(b, tile + (i * 16 + lane % 16) * PITCH + n * 8 + lane / 16 * 8);
      multiply_add(sum[n], a, b);
      multiply_add(sum[n + 1], a, b + 2);
    }
  }
}

// Write 16 rows, the first two of a lane's four sums to row lane / 4, the others eight rows below,
// each times a number of its own.
__device__ __forceinline__ void put_rows(number* to, long long step, int first, int count,
                                         int width, const float sum[WIDTH / 8][4], float times_0,
                                         float times_1) {
  int lane = threadIdx.x % WARP;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    int row = first + lane / 4 + 8 * half;
    float times = half ? times_1 : times_0;
    if (row >= count) continue;
#pragma unroll
    for (int n = 0; n < WIDTH / 8; n++) {
      int channel = n * 8 + lane % 4 * 2;
      unsigned pair = round_pair(sum[n][2 * half] * times, sum[n][2 * half + 1] * times);
      if (channel < width) memcpy(to + row * step + channel, &pair, 4);
    }
  }
}

// Where pairs of tokens may be in a boolean mask of any broadcast shape: steps of 0 repeat it.
struct Mask {
  const bool* start;  // null: everybody may read everybody
  int query_step, key_step;
  const unsigned char* kinds;  // of each tile, see attention_kinds
  int key_tiles;
};

#define NOTHING 0
#define SOME 1
#define EVERYTHING 2

__device__ __forceinline__ int kind_of(Mask mask, int query_tile, int key_tile) {
  return mask.start ? mask.kinds[query_tile * mask.key_tiles + key_tile] : EVERYTHING;
}

__device__ __forceinline__ bool may_read(Mask mask, int kind, int query, int key, int queries,
                                         int keys) {
  if (query >= queries || key >= keys) return false;
  return kind == EVERYTHING || mask.start[query * mask.query_step + key * mask.key_step];
}

#endif
