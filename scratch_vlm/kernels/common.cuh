// What every kernel starts from: the type of the numbers in memory, and sums over threads.
//
// Words. A kernel is a function that thousands of threads run at once, each with its own index.
// 32 threads with neighbouring indices form a warp, which executes one instruction together and
// can hand numbers around without memory ("shuffle"). Warps form a block; the threads of a block
// share a small fast memory (__shared__) and can wait for each other (__syncthreads). Blocks form
// a grid, in no order: blocks never wait for each other.
#ifndef SCRATCH_VLM_COMMON
#define SCRATCH_VLM_COMMON

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#ifndef NUMBER
#define NUMBER float
#endif
#ifndef OUTPUT
#define OUTPUT NUMBER
#endif
typedef NUMBER number;  // of arrays in memory: float, __nv_bfloat16 or __half; sums are float
typedef OUTPUT output;  // of what a kernel writes for a product that reads fewer bits

#define WARP 32
#define ALL_LANES 0xffffffffu
#define INFINITE __int_as_float(0x7f800000)
#define NOT_A_NUMBER __int_as_float(0x7fc00000)

template <typename T>
__device__ __forceinline__ float load(const T* x, long long i) {
  return (float)x[i];
}
template <typename T>
__device__ __forceinline__ void store(T* x, long long i, float value) {
  x[i] = (T)value;
}

// N numbers side by side. A thread that takes several at a time, 16 bytes at best, asks memory less
// often; they have to start on a multiple of their size, or of 16 bytes.
template <typename T, int N>
struct alignas(N * sizeof(T) < 16 ? N * sizeof(T) : 16) Several {
  T at[N];
};

// Sum over the 32 lanes of a warp; every lane gets it. In five steps each lane adds the number of
// the lane whose index differs in one bit: first 16 apart, then 8, 4, 2, 1.
__device__ __forceinline__ float warp_sum(float value) {
  for (int apart = WARP / 2; apart > 0; apart /= 2)
    value += __shfl_xor_sync(ALL_LANES, value, apart);
  return value;
}

__device__ __forceinline__ float warp_max(float value) {
  for (int apart = WARP / 2; apart > 0; apart /= 2)
    value = fmaxf(value, __shfl_xor_sync(ALL_LANES, value, apart));
  return value;
}

// Sum over all threads of a block; every thread gets it. `of_warps` is shared memory for one
// number of each warp. Two barriers: nobody writes before the last call was read to its end, and
// nobody reads before all have written.
__device__ __forceinline__ float block_sum(float value, float* of_warps) {
  int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
  value = warp_sum(value);
  __syncthreads();
  if (lane == 0) of_warps[warp] = value;
  __syncthreads();
  return warp_sum(lane < warps ? of_warps[lane] : 0.0f);
}

__device__ __forceinline__ float block_max(float value, float* of_warps) {
  int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
  value = warp_max(value);
  __syncthreads();
  if (lane == 0) of_warps[warp] = value;
  __syncthreads();
  return warp_max(lane < warps ? of_warps[lane] : -INFINITE);
}

#endif
