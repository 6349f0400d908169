// CLIP's contrastive loss without its B x B matrix, forward and backward.
// Twins: contrastive_forward and contrastive_backward in scratch_vlm/ops/losses.py.
//
// What it saves. Every image is compared with every text: a batch of 32,768 pairs has a matrix of
// 4.3 GB in float32, and NumPy's lines hold five of that size (scores, exponentials by row and by
// column, gradients) for inputs of 67 MB. As in attention the matrix is used up as soon as it is
// made: here a block keeps 16 images, lets the texts come by, 32 at a time, and keeps of their
// scores only the sum. What is saved is memory, not time: the scores are computed four times, twice
// in the forward (once by rows, once by columns) and twice in the backward, and without tensor
// cores. For batches of a few thousand the matrix fits, and NumPy's lines are the better way.
//
// Rows and columns are the same problem with images and texts exchanged, and so are dimages and
// dtexts: each kernel is called twice. Products are summed in float32, since the scale multiplies
// the rounding of a cosine by up to 100.
#include "common.cuh"

#define ROWS 16      // of a, kept by a block
#define COLUMNS 32   // of b, at a time
#define SLICE 32     // channels of both in shared memory at a time
#define THREADS 256
#define WARPS (THREADS / WARP)
#ifndef SLICES
#define SLICES 2  // of 256 channels that an embedding has at most; chosen when the file is compiled
#endif

// Scores of 16 rows of a with 32 rows of b, times `scale`. Warp w gets rows w and w + 8, lane i of
// it column i: two scores a thread.
__device__ __forceinline__ void compare(float scores[2], const number* a, const number* b,
                                        int first_row, int first_column, int count, int width,
                                        float scale, float (*a_slice)[SLICE + 1],
                                        float (*b_slice)[SLICE + 1]) {
  int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
  scores[0] = scores[1] = 0.0f;
  for (int start = 0; start < width; start += SLICE) {
    __syncthreads();  // all are done with the slice before
    for (int i = threadIdx.x; i < (ROWS + COLUMNS) * SLICE; i += THREADS) {
      int row = i / SLICE, channel = start + i % SLICE;
      bool of_a = row < ROWS;
      int token = of_a ? first_row + row : first_column + row - ROWS;
      bool real = token < count && channel < width;
      float value = real ? load(of_a ? a : b, (long long)token * width + channel) : 0.0f;
      (of_a ? a_slice[row] : b_slice[row - ROWS])[i % SLICE] = value;
    }
    __syncthreads();
    for (int i = 0; i < SLICE; i++) {
      scores[0] += a_slice[warp][i] * b_slice[lane][i];
      scores[1] += a_slice[warp + WARPS][i] * b_slice[lane][i];
    }
  }
  scores[0] *= scale;
  scores[1] *= scale;
}

// log_sums[i] = log sum over j of exp(z_ij), rights[i] = z_ii, with z = exp(log_scale) a b'. One
// block per 16 rows. Each thread keeps the largest score and the sum of its own columns; the warp
// puts those of a row together at the end.
extern "C" __global__ void __launch_bounds__(THREADS) contrastive_rows(
    const number* a, const number* b, const float* log_scale, float* log_sums, float* rights,
    int count, int width) {
  __shared__ float a_slice[ROWS][SLICE + 1], b_slice[COLUMNS][SLICE + 1];
  int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, first = blockIdx.x * ROWS;
  float scale = expf(log_scale[0]), largest[2] = {-INFINITE, -INFINITE}, sums[2] = {0.0f, 0.0f};
  for (int column = 0; column < count; column += COLUMNS) {
    float scores[2];
    compare(scores, a, b, first, column, count, width, scale, a_slice, b_slice);
    if (column + lane >= count) continue;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      int row = first + warp + half * WARPS;
      float score = scores[half];
      if (score > largest[half]) {
        sums[half] *= expf(largest[half] - score);
        largest[half] = score;
      }
      sums[half] += expf(score - largest[half]);
      if (row == column + lane) rights[row] = score;
    }
  }
#pragma unroll
  for (int half = 0; half < 2; half++) {
    float top = warp_max(largest[half]);
    float sum = warp_sum(sums[half] * expf(largest[half] - top));
    int row = first + warp + half * WARPS;
    if (lane == 0 && row < count) log_sums[row] = top + logf(sum);
  }
}

// da_i = exp(log_scale) * sum over j of dz_ij b_j, and with_z[i] = sum over j of dz_ij z_ij, where
//
//   dz_ij = (exp(z_ij - a_logs[i]) + exp(z_ij - b_logs[j]) - 2 [i = j]) / (2 B) * dloss
//
// The 16 x 32 gradients of a turn lie in shared memory; thread i sums channels i, i + 256, ... of
// all 16 rows in registers.
extern "C" __global__ void __launch_bounds__(THREADS) contrastive_gradient(
    const number* a, const number* b, const float* log_scale, const float* dloss,
    const float* a_logs, const float* b_logs, number* da, float* with_z, int count, int width) {
  __shared__ float a_slice[ROWS][SLICE + 1], b_slice[COLUMNS][SLICE + 1];
  __shared__ float gradients[ROWS][COLUMNS];
  int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, first = blockIdx.x * ROWS;
  float scale = expf(log_scale[0]), above = dloss[0] / (2.0f * count);
  float sum[ROWS][SLICES] = {}, products[2] = {0.0f, 0.0f};
  for (int start = 0; start < count; start += COLUMNS) {
    float scores[2];
    compare(scores, a, b, first, start, count, width, scale, a_slice, b_slice);
    int column = start + lane;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      int row = first + warp + half * WARPS;
      float dz = 0.0f;
      if (row < count && column < count) {
        dz = expf(scores[half] - a_logs[row]) + expf(scores[half] - b_logs[column]);
        dz = above * (dz - (row == column ? 2.0f : 0.0f));
      }
      products[half] += dz * scores[half];
      gradients[warp + half * WARPS][lane] = dz * scale;
    }
    __syncthreads();  // the next turn writes gradients behind the barriers of compare
    for (int j = 0; j < min(COLUMNS, count - start); j++)
#pragma unroll
      for (int slice = 0; slice < SLICES; slice++) {
        int channel = slice * THREADS + threadIdx.x;
        float value = channel < width ? load(b, (long long)(start + j) * width + channel) : 0.0f;
#pragma unroll
        for (int row = 0; row < ROWS; row++) sum[row][slice] += gradients[row][j] * value;
      }
  }
#pragma unroll
  for (int half = 0; half < 2; half++) {
    int row = first + warp + half * WARPS;
    float product = warp_sum(products[half]);
    if (lane == 0 && row < count) with_z[row] = product;
  }
#pragma unroll
  for (int row = 0; row < ROWS; row++)
#pragma unroll
    for (int slice = 0; slice < SLICES; slice++) {
      int channel = slice * THREADS + threadIdx.x;
      if (first + row < count && channel < width)
        store(da, (long long)(first + row) * width + channel, sum[row][slice]);
    }
}
