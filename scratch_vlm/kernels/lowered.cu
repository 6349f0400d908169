// Numbers of fewer bits: float to bfloat16 or half, for products on tensor cores.
// Twin: lowered in scratch_vlm/backend/factors.py.
//
// What it saves. Each array is lowered once and read by two or three products, which then have half
// as many bytes to fetch. Nothing is computed here, so all that counts is how wide the steps are in
// which memory is walked through: a thread takes eight numbers at a time, in two reads and one write
// of 16 bytes, the widest that there are. That is 6 bytes for a number.
#include "common.cuh"

#define AT_A_TIME 8

// x and y start on a multiple of 16 bytes.
extern "C" __global__ void lowered(const number* x, output* y, long long count) {
  long long thread = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  long long threads = (long long)gridDim.x * blockDim.x, whole = count / AT_A_TIME;
  for (long long i = thread; i < whole; i += threads) {
    auto read = ((const Several<number, AT_A_TIME>*)x)[i];
    Several<output, AT_A_TIME> rounded;
#pragma unroll
    for (int j = 0; j < AT_A_TIME; j++) rounded.at[j] = (output)(float)read.at[j];
    ((Several<output, AT_A_TIME>*)y)[i] = rounded;
  }
  long long last = whole * AT_A_TIME + thread;  // up to seven numbers are left
  if (last < count) store(y, last, load(x, last));
}
