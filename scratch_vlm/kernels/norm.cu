// Layer norm and RMS norm, forward and backward, perhaps with a residual sum.
// Twins: layer_norm_forward, layer_norm_backward, rms_norm_forward and rms_norm_backward in
// scratch_vlm/layers/norm.py.
//
// What it saves. A norm does about ten operations on each number, and a GPU does a hundred in the
// time that it takes to fetch one from memory: all that counts is how often the (tokens, D) arrays
// are read and written. NumPy's lines go through them 11 times in the forward (mean, difference,
// square, scale, gamma, beta, each a read and mostly a write) and 18 times in the backward. Here a
// row is fetched once, all is done while it is in the caches, and it is written once: 2 passes and
// 3. With the sum x + h of a residual stream in the same kernel, 4 passes instead of 3 + 2.
//
// The forward saves x itself, which exists anyway, and two numbers per token instead of xhat: the
// backward makes xhat = (x - mean) * rstd again, which is cheaper than to write and read it.
#include "common.cuh"

// One warp per token: 32 lanes stride over its D channels, and the sums need no barrier. A second
// and a third walk over the row find it in the cache.
//
//   y = (x - mean) * rstd * gamma + beta      rstd = 1 / sqrt(variance + eps)
//
// `centred` is 1 for a layer norm; for an RMS norm 0: then mean is 0, and beta is null. Where
// `added` is not null, x becomes x + added, which is written to `sum`.
extern "C" __global__ void norm_forward(const number* x, const number* added, number* sum,
                                        const float* gamma, const float* beta, number* y,
                                        float* mean, float* rstd, int rows, int width,
                                        float eps, int centred) {
  int row = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP, lane = threadIdx.x % WARP;
  if (row >= rows) return;  // the whole warp leaves together
  long long start = (long long)row * width;
  if (added) {
    for (int i = lane; i < width; i += WARP)
      store(sum, start + i, load(x, start + i) + load(added, start + i));
    x = sum;  // each lane reads again only what it has written itself
  }
  float centre = 0.0f, square = 0.0f;
  if (centred) {
    for (int i = lane; i < width; i += WARP) centre += load(x, start + i);
    centre = warp_sum(centre) / width;
  }
  for (int i = lane; i < width; i += WARP) {
    float difference = load(x, start + i) - centre;
    square += difference * difference;
  }
  float scale = 1.0f / sqrtf(warp_sum(square) / width + eps);
  for (int i = lane; i < width; i += WARP) {
    float xhat = (load(x, start + i) - centre) * scale;
    store(y, start + i, xhat * gamma[i] + (beta ? beta[i] : 0.0f));
  }
  if (lane == 0) {
    if (centred) mean[row] = centre;
    rstd[row] = scale;
  }
}

// One block takes every gridDim.x-th token, one after another.
//
//   dx = rstd * (dxhat - mean(dxhat) - xhat * mean(dxhat * xhat))     dxhat = dy * gamma
//   dgamma = sum over tokens of dy * xhat                             dbeta = that of dy
//
// The sums over tokens run across rows, and tokens are spread over blocks: each block sums its own
// tokens in shared memory, thread i always the same channels, and leaves one row of `parts`;
// norm_gather adds those up. No atomics: the result is the same, bit for bit, in every run.
// Where `passed` is not null, it is the gradient that runs past the norm, and is added to dx.
extern "C" __global__ void norm_backward(const number* dy, const number* x, const float* gamma,
                                         const float* mean, const float* rstd,
                                         const number* passed, number* dx, float* parts,
                                         int rows, int width, int centred) {
  extern __shared__ float sums[];  // (2, width): of dgamma and dbeta
  __shared__ float of_warps[WARP];
  for (int i = threadIdx.x; i < width; i += blockDim.x) sums[i] = sums[width + i] = 0.0f;
  for (int row = blockIdx.x; row < rows; row += gridDim.x) {
    long long start = (long long)row * width;
    float centre = centred ? mean[row] : 0.0f, scale = rstd[row];
    float along_ones = 0.0f, along_xhat = 0.0f;
    for (int i = threadIdx.x; i < width; i += blockDim.x) {
      float xhat = (load(x, start + i) - centre) * scale;
      float dxhat = load(dy, start + i) * gamma[i];
      along_ones += dxhat;
      along_xhat += dxhat * xhat;
    }
    along_ones = centred ? block_sum(along_ones, of_warps) / width : 0.0f;
    along_xhat = block_sum(along_xhat, of_warps) / width;
    for (int i = threadIdx.x; i < width; i += blockDim.x) {
      float xhat = (load(x, start + i) - centre) * scale, above = load(dy, start + i);
      float below = scale * (above * gamma[i] - along_ones - xhat * along_xhat);
      store(dx, start + i, passed ? below + load(passed, start + i) : below);
      sums[i] += above * xhat;  // no barrier: this thread alone has the channel i
      sums[width + i] += above;
    }
  }
  for (int i = threadIdx.x; i < width; i += blockDim.x) {
    parts[(long long)blockIdx.x * 2 * width + i] = sums[i];
    parts[(long long)blockIdx.x * 2 * width + width + i] = sums[width + i];
  }
}

// Add the parts of all blocks, in the order of the blocks, to the gradients. One thread per
// channel; dbeta may be null.
extern "C" __global__ void norm_gather(const float* parts, float* dgamma, float* dbeta, int blocks,
                                       int width) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= width) return;
  float of_gamma = 0.0f, of_beta = 0.0f;
  for (int block = 0; block < blocks; block++) {
    of_gamma += parts[(long long)block * 2 * width + i];
    of_beta += parts[(long long)block * 2 * width + width + i];
  }
  dgamma[i] += of_gamma;
  if (dbeta) dbeta[i] += of_beta;
}
