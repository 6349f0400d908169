// Layer norm and RMS norm, forward and backward, perhaps with a residual sum.
// Twins: layer_norm_forward, layer_norm_backward, rms_norm_forward, rms_norm_backward and add_norm
// in scratch_vlm/layers/norm.py.
//
// What it saves. A norm does about ten operations on each number, and a GPU does a hundred in the
// time that it takes to fetch one from memory: all that counts is how often the (tokens, D) arrays
// are read and written. NumPy's lines go through them 11 times in the forward (mean, difference,
// square, scale, gamma, beta, each a read and mostly a write) and 18 times in the backward. Here a
// row is fetched once, stays in registers until all is done, and is written once: 2 passes and 3.
// With the sum x + h of a residual stream in the same kernel, 4 passes instead of 3 + 2.
//
// The forward saves x itself, which exists anyway, and two numbers per token instead of xhat: the
// backward makes xhat = (x - mean) * rstd again, which is cheaper than to write and read it.
//
// Who does what. A row of up to 1024 channels is the work of one warp: its sums need no barrier,
// so warps never wait for each other, and while one computes others fetch. A wider row has a block
// for itself. WIDTH, D, is known when the file is compiled, so that a loop over what a thread holds
// of a row can be written out, and the numbers are in registers. A thread holds pieces of VECTOR
// neighbours, LANES threads apart:
//
//   VECTOR = 4, LANES = 32:   channels 0-3 | 4-7 | ... | 124-127      first pieces of the threads
//                             channels 128-131 | ...                  second pieces
//
// Four float32 are 16 bytes, the most that one instruction fetches. Rows of odd width, or arrays
// that begin between such addresses, go one by one: VECTOR = 1.
//
// A product that reads fewer bits gets y as it reads it, `output`, from a stream of float32; what
// comes back of it, dy, may have either type.
#include "common.cuh"

#ifndef WIDTH
#define WIDTH 768
#endif
#ifndef VECTOR
#define VECTOR 4
#endif
#ifndef LANES
#define LANES 32  // threads that share a row
#endif
#define HELD ((WIDTH + LANES * VECTOR - 1) / (LANES * VECTOR) * VECTOR)  // channels of a thread

// The channel that a thread holds as its number k.
__device__ __forceinline__ int channel(int k) {
  return (k / VECTOR * LANES + threadIdx.x % LANES) * VECTOR + k % VECTOR;
}

// Read what this thread holds of a row; beyond the end of the row it is 0.
template <typename T>
__device__ __forceinline__ void load_row(float held[HELD], const T* row) {
#pragma unroll
  for (int k = 0; k < HELD; k += VECTOR) {
    Several<T, VECTOR> piece;
    bool inside = channel(k) < WIDTH;
    if (inside) piece = *(const Several<T, VECTOR>*)(row + channel(k));
#pragma unroll
    for (int j = 0; j < VECTOR; j++) held[k + j] = inside ? (float)piece.at[j] : 0.0f;
  }
}

template <typename T>
__device__ __forceinline__ void store_row(T* row, const float held[HELD]) {
#pragma unroll
  for (int k = 0; k < HELD; k += VECTOR) {
    Several<T, VECTOR> piece;
#pragma unroll
    for (int j = 0; j < VECTOR; j++) piece.at[j] = (T)held[k + j];
    if (channel(k) < WIDTH) *(Several<T, VECTOR>*)(row + channel(k)) = piece;
  }
}

// Sum over all threads that share a row. `of_warps` is shared memory for one number of each warp.
__device__ __forceinline__ float row_sum(float value, float* of_warps) {
  return LANES > WARP ? block_sum(value, of_warps) : warp_sum(value);
}

//   y = (x - mean) * rstd * gamma + beta      rstd = 1 / sqrt(variance + eps)
//
// `centred` is 1 for a layer norm; for an RMS norm 0: then mean is 0, and beta is null. Where
// `added` is not null, x becomes x + added, which is written to `sum`.
extern "C" __global__ void norm_forward(const number* x, const number* added, number* sum,
                                        const float* gamma, const float* beta, output* y,
                                        float* mean, float* rstd, int rows, float eps,
                                        int centred) {
  __shared__ float of_warps[WARP];
  int row = blockIdx.x * (blockDim.x / LANES) + threadIdx.x / LANES;
  if (row >= rows) return;  // the whole warp leaves together, or the block
  long long start = (long long)row * WIDTH;
  float held[HELD], other[HELD];
  load_row(held, x + start);
  if (added) {
    load_row(other, added + start);
    for (int k = 0; k < HELD; k++) held[k] = (number)(held[k] + other[k]);  // rounded, as written
    store_row(sum + start, held);
  }
  float centre = 0.0f, square = 0.0f;
  if (centred) {
    for (int k = 0; k < HELD; k++) centre += held[k];
    centre = row_sum(centre, of_warps) / WIDTH;
  }
  for (int k = 0; k < HELD; k++) {
    held[k] = channel(k) < WIDTH ? held[k] - centre : 0.0f;
    square += held[k] * held[k];
  }
  float scale = 1.0f / sqrtf(row_sum(square, of_warps) / WIDTH + eps);
  load_row(other, gamma);
  for (int k = 0; k < HELD; k++) held[k] *= scale * other[k];
  if (beta) {
    load_row(other, beta);
    for (int k = 0; k < HELD; k++) held[k] += other[k];
  }
  store_row(y + start, held);
  if (threadIdx.x % LANES == 0) {
    if (centred) mean[row] = centre;
    rstd[row] = scale;
  }
}

//   dx = rstd * (dxhat - mean(dxhat) - xhat * mean(dxhat * xhat))     dxhat = dy * gamma
//   dgamma = sum over tokens of dy * xhat                             dbeta = that of dy
//
// The sums over tokens run across rows, and rows are spread over warps: each walks over some rows,
// its threads keeping the sums of their channels in registers, and at the end the warps of a block
// add theirs one after another. A block leaves one row of `parts`; norm_gather adds those up. No
// atomics: the result is the same, bit for bit, in every run.
// Where `past` is not null, it is the gradient that runs past the norm, and is added to dx.
extern "C" __global__ void __launch_bounds__(LANES > 128 ? LANES : 128)
    norm_backward(const output* dy, const number* x, const float* gamma, const float* mean,
                  const float* rstd, const number* past, number* dx, float* parts, int rows,
                  int centred) {
  extern __shared__ __align__(16) float sums[];  // (2, WIDTH): of dgamma and dbeta, so far
  __shared__ float of_warps[WARP];
  int teams = blockDim.x / LANES, team = threadIdx.x / LANES;  // a team has a row
  float dgamma[HELD], dbeta[HELD], xhat[HELD], dxhat[HELD], other[HELD];
  for (int k = 0; k < HELD; k++) dgamma[k] = dbeta[k] = 0.0f;
  for (int row = blockIdx.x * teams + team; row < rows; row += gridDim.x * teams) {
    long long start = (long long)row * WIDTH;
    load_row(xhat, x + start);
    load_row(dxhat, dy + start);  // dy, until the next lines
    load_row(other, gamma);
    float centre = centred ? mean[row] : 0.0f, scale = rstd[row];
    float along_ones = 0.0f, along_xhat = 0.0f;
    for (int k = 0; k < HELD; k++) {
      xhat[k] = (xhat[k] - centre) * scale;
      dgamma[k] += dxhat[k] * xhat[k];
      dbeta[k] += dxhat[k];
      dxhat[k] *= other[k];
      along_ones += dxhat[k];
      along_xhat += dxhat[k] * xhat[k];
    }
    along_ones = centred ? row_sum(along_ones, of_warps) / WIDTH : 0.0f;
    along_xhat = row_sum(along_xhat, of_warps) / WIDTH;
    for (int k = 0; k < HELD; k++)
      dxhat[k] = scale * (dxhat[k] - along_ones - xhat[k] * along_xhat);  // dx from here on
    if (past) {
      load_row(other, past + start);
      for (int k = 0; k < HELD; k++) dxhat[k] += other[k];
    }
    store_row(dx + start, dxhat);
  }
  float* part = parts + (long long)blockIdx.x * 2 * WIDTH;
  for (int turn = 0; turn < teams; turn++) {
    if (turn == team) {
      float* to = turn + 1 < teams ? sums : part;
      if (turn) {
        load_row(xhat, sums);
        load_row(dxhat, sums + WIDTH);
        for (int k = 0; k < HELD; k++) dgamma[k] += xhat[k], dbeta[k] += dxhat[k];
      }
      store_row(to, dgamma);
      store_row(to + WIDTH, dbeta);
    }
    __syncthreads();
  }
}

// Add the parts of all blocks to the gradients. A block takes 32 of the numbers in a part: each of
// its 32 warps adds up every 32nd part, and then, the table turned, the sums of all warps for one
// number. Enough loads are on their way at once to hide how long each takes. dbeta may be null.
extern "C" __global__ void norm_gather(const float* parts, float* dgamma, float* dbeta,
                                       int blocks) {
  __shared__ float table[WARP][WARP + 1];  // one more, so that a column lies in different banks
  int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, first = blockIdx.x * WARP;
  int count = dbeta ? 2 * WIDTH : WIDTH;
  float sum = 0.0f;
  if (first + lane < count)
    for (int block = warp; block < blocks; block += WARP)
      sum += parts[(long long)block * 2 * WIDTH + first + lane];
  table[warp][lane] = sum;
  __syncthreads();
  sum = warp_sum(table[lane][warp]);
  int i = first + warp;
  if (lane || i >= count) return;
  if (i < WIDTH) dgamma[i] += sum;
  else dbeta[i - WIDTH] += sum;
}
