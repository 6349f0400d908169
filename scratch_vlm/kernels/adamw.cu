// AdamW on one flat vector that holds every trained parameter.
// Twin: adamw_update in scratch_vlm/training/optimizer.py.
//
// What it saves. The update is 14 operations on each parameter. As array operations on a GPU they
// are 14 launches and 32 passes over vectors of the length of all parameters, 128 bytes for each;
// here p, g, m and v are read and written once: 32 bytes, whatever the arithmetic.
#include "common.cuh"

// `now` holds what changes from step to step, in device memory: a captured graph is replayed with
// the same arguments, and reads other numbers behind them.
//   now = rate, rate / (1 - beta1^t), 1 / sqrt(1 - beta2^t), what to shorten the gradient by
// gain = 1 - beta comes from the host: 1.0f - 0.999f is off by one part in 80,000.
// `factor` and `decay` have one number for each row of 64 parameters, see tree.arena.
extern "C" __global__ void adamw(float* p, float* g, float* m, float* v, const float* factor,
                                 const float* decay, const float* now, float beta1, float gain1,
                                 float beta2, float gain2, float eps, long long count, int align) {
  float rate = now[0], rate_over_bias1 = now[1], root_over_bias2 = now[2], shorten = now[3];
  long long step = (long long)gridDim.x * blockDim.x;
  for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += step) {
    long long row = i / align;
    float gradient = g[i] * shorten;
    float mean = beta1 * m[i] + gain1 * gradient;
    float square = beta2 * v[i] + gain2 * gradient * gradient;
    float move = mean * (rate_over_bias1 * factor[row]) / (sqrtf(square) * root_over_bias2 + eps);
    p[i] = p[i] * (1.0f - rate * factor[row] * decay[row]) - move;
    m[i] = mean;
    v[i] = square;
    g[i] = 0.0f;  // the next backward adds to it
  }
}
