// GELU, its tanh approximation, and QuickGELU, perhaps with the bias of the layer before them.
// Twins: gelu_forward, gelu_tanh_forward and quick_gelu_forward in scratch_vlm/ops/activations.py.
//
// What it saves. The hidden layer of an MLP is four times as wide as the tokens. Written as array
// operations an exact GELU and its slope take 26 passes over it, all to compute one function of one
// number. Here the number is fetched once, and y and the slope are written: 3 passes. The bias of
// the linear layer before, added here, saves the 2 passes of an addition of its own. The backward
// is one multiplication; NumPy's line for it is as good as a kernel, but between products of 16
// bits: x and dy may come in those, and y and dx be written in them, half a pass each.
#include "common.cuh"

#define ROOT_HALF 0.70710678f
#define ROOT_TWO_OVER_PI 0.79788456f
#define TANH_CUBIC 0.044715f

// x * Phi(x); the slope is Phi(x) + x * phi(x).
__device__ __forceinline__ float gelu(float x, float* slope) {
  float below = 0.5f * erfcf(-x * ROOT_HALF);  // exact far below 0, too
  *slope = below + x * (0.5f * ROOT_TWO_OVER_PI) * expf(-0.5f * x * x);
  return x * below;
}

// x * (1 + tanh u) / 2 with u = sqrt(2 / pi) * (x + 0.044715 x^3).
__device__ __forceinline__ float gelu_tanh(float x, float* slope) {
  float t = tanhf(ROOT_TWO_OVER_PI * x * (1.0f + TANH_CUBIC * x * x));
  float du = ROOT_TWO_OVER_PI * (1.0f + 3.0f * TANH_CUBIC * x * x);
  *slope = 0.5f * (1.0f + t + x * (1.0f - t * t) * du);
  return 0.5f * x * (1.0f + t);
}

// x * sigmoid(1.702 x), the sigmoid from a tanh, which cannot overflow.
__device__ __forceinline__ float quick_gelu(float x, float* slope) {
  float sigmoid = 0.5f * (1.0f + tanhf(0.5f * 1.702f * x));
  *slope = sigmoid * (1.0f + 1.702f * x * (1.0f - sigmoid));
  return x * sigmoid;
}

// AT_A_TIME numbers per thread and turn, in accesses of 16 bytes; neighbouring threads read
// neighbouring numbers, so that a warp fetches whole cache lines. `count` is that of numbers, a
// multiple of AT_A_TIME, and so is `width` where there is a `bias` (width), which may be null. `y`
// may be `x`. ACTIVATION is one of the functions above; both are chosen when the file is compiled.
#define GELU 0
#define GELU_TANH 1
#define QUICK_GELU 2
#ifndef ACTIVATION
#define ACTIVATION GELU
#endif
#ifndef AT_A_TIME
#define AT_A_TIME 4
#endif
typedef Several<number, AT_A_TIME> Numbers;
typedef Several<output, AT_A_TIME> Outputs;

extern "C" __global__ void activation_forward(const number* x, const float* bias, output* y,
                                              number* slope, long long count, int width) {
  long long step = AT_A_TIME * (long long)gridDim.x * blockDim.x;
  long long first = AT_A_TIME * ((long long)blockIdx.x * blockDim.x + threadIdx.x);
  int channel = first % width, further = step % width;  // once: a division takes 40 instructions
  for (long long i = first; i < count; i += step) {
    Numbers read = *(const Numbers*)(x + i), rises;
    Outputs result;
#pragma unroll
    for (int j = 0; j < AT_A_TIME; j++) {
      float value = (float)read.at[j] + (bias ? bias[channel + j] : 0.0f), up;
#if ACTIVATION == GELU
      value = gelu(value, &up);
#elif ACTIVATION == GELU_TANH
      value = gelu_tanh(value, &up);
#else
      value = quick_gelu(value, &up);
#endif
      result.at[j] = (output)value;
      rises.at[j] = (number)up;
    }
    *(Outputs*)(y + i) = result;
    *(Numbers*)(slope + i) = rises;
    channel += further;
    if (channel >= width) channel -= width;
  }
}

// dx = dy * slope, in another type.
extern "C" __global__ void activation_backward(const number* dy, const number* slope, output* dx,
                                               long long count) {
  long long step = AT_A_TIME * (long long)gridDim.x * blockDim.x;
  long long first = AT_A_TIME * ((long long)blockIdx.x * blockDim.x + threadIdx.x);
  for (long long i = first; i < count; i += step) {
    Numbers above = *(const Numbers*)(dy + i), steep = *(const Numbers*)(slope + i);
    Outputs below;
#pragma unroll
    for (int j = 0; j < AT_A_TIME; j++) below.at[j] = (output)((float)above.at[j] * (float)steep.at[j]);
    *(Outputs*)(dx + i) = below;
  }
}
