// Sums over tokens, added to a vector: the gradient of a bias.
// Twin: add_sum in scratch_vlm/backend/primitives.py.
//
// What it saves. An array of tokens has to be read once, and the sums are few: with a thread for each
// column ViT-B would have 768 threads, and memory is kept busy by hundreds of thousands of loads on
// their way. So the tokens are dealt out, too. Blocks leave partial sums, and a second kernel adds
// those up, in their order: no atomics, and the same bits in every run.
#include "common.cuh"

#define SUMS 4           // of a thread, in columns a warp apart
#define COLUMNS (SUMS * WARP)  // of a block
#define WARPS 8

// Add up what the warps of a block have found for one column each lane, in the order of the warps.
__device__ __forceinline__ float over_warps(float sum, float (*of_warps)[WARP]) {
  int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
  __syncthreads();  // the sums before have been read
  of_warps[warp][lane] = sum;
  __syncthreads();
  float total = 0.0f;
  for (int other = 0; other < WARPS; other++) total += of_warps[other][lane];
  return total;
}

// Block (i, j) sums the j-th part of the rows in its columns; the warps take rows in turn.
extern "C" __global__ void column_parts(const number* x, float* parts, int rows, int width) {
  __shared__ float of_warps[WARPS][WARP];
  int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
  int first = blockIdx.x * COLUMNS + lane;
  int each = (rows + gridDim.y - 1) / gridDim.y, start = blockIdx.y * each;
  int end = min(start + each, rows);
  float sums[SUMS] = {};
  for (int row = start + warp; row < end; row += WARPS)
#pragma unroll
    for (int j = 0; j < SUMS; j++)
      if (first + j * WARP < width) sums[j] += load(x, (long long)row * width + first + j * WARP);
#pragma unroll
  for (int j = 0; j < SUMS; j++) {
    float sum = over_warps(sums[j], of_warps);
    int column = first + j * WARP;
    if (warp == 0 && column < width) parts[(long long)blockIdx.y * width + column] = sum;
  }
}

// target += the sum of its parts. A block has a column for each lane; its warps take parts in turn.
extern "C" __global__ void add_parts(const float* parts, float* target, int count, int width) {
  __shared__ float of_warps[WARPS][WARP];
  int warp = threadIdx.x / WARP, column = blockIdx.x * WARP + threadIdx.x % WARP;
  float sum = 0.0f;
  if (column < width)
    for (int i = warp; i < count; i += WARPS) sum += parts[(long long)i * width + column];
  sum = over_warps(sum, of_warps);
  if (warp == 0 && column < width) target[column] += sum;
}
