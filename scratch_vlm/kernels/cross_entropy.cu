// Softmax cross-entropy that overwrites its logits by their gradient.
// Twins: cross_entropy_forward and cross_entropy_backward in scratch_vlm/ops/losses.py.
//
// What it saves. The logits of a language model are its largest array: 32,768 tokens times 50,257
// words are 3.3 GB in bfloat16, 6.6 GB in float32. NumPy's lines hold three such arrays at once
// (logits, exponentials, gradient) and go through them 12 times. But the gradient is
// softmax(z) - target, and the loss is known before it is needed: once the loss of a row is
// computed, nobody reads its logits again. So the gradient is written where the logits were:
// one array, two reads and one write.
#include "common.cuh"

// One block per row.
//
//   loss = log(sum exp z) - (1 - smoothing) * z[label] - smoothing * mean(z)     times weight
//   dz   = weight * (softmax(z) - smoothing / V - (1 - smoothing) * [i = label])
//
// The largest logit and the sum of exponentials come from one walk ("online"): whenever a thread
// meets a larger logit, what it has summed so far shrinks by exp(old - new). The weight of a row
// is 1 / (rows that count), or 0 for a row without a label, whose gradient is exactly zero.
extern "C" __global__ void cross_entropy(number* logits, const int* labels, const float* weights,
                                         float* losses, int classes, float smoothing) {
  __shared__ float of_warps[WARP];
  number* z = logits + (long long)blockIdx.x * classes;
  int label = labels[blockIdx.x];
  float weight = weights[blockIdx.x];

  float largest = -INFINITE, sum = 0.0f, total = 0.0f;
  for (int i = threadIdx.x; i < classes; i += blockDim.x) {
    float score = load(z, i);
    total += score;
    if (score > largest) {
      sum *= expf(largest - score);  // exp(-inf) = 0 at the first
      largest = score;
    }
    sum += expf(score - largest);
  }
  float top = block_max(largest, of_warps);
  // A thread without any class has largest = -inf, and exp(-inf - top) = 0.
  sum = block_sum(sum * expf(largest - top), of_warps);
  if (smoothing > 0.0f) total = block_sum(total, of_warps);

  if (threadIdx.x == 0) {  // the only thread to read z[label], before it is overwritten
    float right = (1.0f - smoothing) * (load(z, label) - top);
    float spread = smoothing > 0.0f ? smoothing * (total / classes - top) : 0.0f;
    losses[blockIdx.x] = weight == 0.0f ? 0.0f : weight * (logf(sum) - right - spread);
  }
  __syncthreads();

  for (int i = threadIdx.x; i < classes; i += blockDim.x) {
    float target = smoothing / classes + (i == label ? 1.0f - smoothing : 0.0f);
    float gradient = expf(load(z, i) - top) / sum - target;
    store(z, i, weight == 0.0f ? 0.0f : weight * gradient);
  }
}
