// Softmax cross-entropy that overwrites its logits by their gradient.
// Twins: cross_entropy_forward and cross_entropy_backward in scratch_vlm/ops/losses.py.
//
// What it saves. The logits of a language model are its largest array: 32,768 tokens times 50,257
// words are 3.3 GB in bfloat16, 6.6 GB in float32. NumPy's lines hold three such arrays at once
// (logits, exponentials, gradient) and go through them 12 times. But a number of the gradient
// needs only the logit in its place and two numbers of its row, the largest logit and the sum of
// exponentials. The forward reads the logits and leaves those two; the backward reads them once
// more and writes the gradient where they were: one array, two reads and one write.
#include "common.cuh"

// One block per row.
//
//   loss = log(sum exp z) - (1 - smoothing) * z[label] - smoothing * mean(z)     times weight
//
// The largest logit and the sum of exponentials come from one walk ("online"): whenever a thread
// meets a larger logit, what it has summed so far shrinks by exp(old - new). A logit of -infinity,
// a word that is ruled out, adds nothing: it must not meet a largest of -infinity, since
// infinity - infinity is no number. The weight of a row is 1 / (rows that count), or 0 for a row
// without a label. A label that is no class makes the loss NaN; nobody has looked at it before,
// since looking at an array waits for the GPU.
extern "C" __global__ void cross_entropy_rows(const number* logits, const int* labels,
                                              const float* weights, float* tops, float* sums,
                                              float* losses, int classes, float smoothing) {
  __shared__ float of_warps[WARP];
  const number* z = logits + (long long)blockIdx.x * classes;

  float largest = -INFINITE, sum = 0.0f, total = 0.0f;
  for (int i = threadIdx.x; i < classes; i += blockDim.x) {
    float score = load(z, i);
    total += score;
    if (score > largest) {
      sum *= expf(largest - score);  // exp(-infinity) = 0 at the first
      largest = score;
    }
    if (score != -INFINITE) sum += expf(score - largest);
  }
  float top = block_max(largest, of_warps);
  // A thread without any class has largest = -infinity, and exp(-infinity - top) = 0.
  sum = block_sum(sum * expf(largest - top), of_warps);
  if (smoothing > 0.0f) total = block_sum(total, of_warps);

  if (threadIdx.x != 0) return;
  int label = labels[blockIdx.x];
  float right = label >= 0 && label < classes ? load(z, label) : NOT_A_NUMBER;
  float spread = smoothing > 0.0f ? smoothing * (total / classes - top) : 0.0f;
  float loss = logf(sum) - (1.0f - smoothing) * (right - top) - spread;
  float weight = weights[blockIdx.x];
  losses[blockIdx.x] = weight == 0.0f ? 0.0f : weight * loss;
  tops[blockIdx.x] = top;
  sums[blockIdx.x] = sum;
}

// One block per row; dlogits may be logits, since a thread reads only what it writes.
//
//   dz = dloss * weight * (softmax(z) - smoothing / V - (1 - smoothing) * [i = label])
//
// dloss is read from memory: a factor that the host does not know (1 / micro-batches, a loss scale)
// costs no pass of its own. The gradient of a row without a label is exactly zero.
extern "C" __global__ void cross_entropy_gradient(const number* logits, number* dlogits,
                                                  const int* labels, const float* weights,
                                                  const float* tops, const float* sums,
                                                  const float* dloss, int classes,
                                                  float smoothing) {
  long long start = (long long)blockIdx.x * classes;
  int label = labels[blockIdx.x];
  float weight = weights[blockIdx.x], top = tops[blockIdx.x], sum = sums[blockIdx.x];
  float above = weight * dloss[0], spread = smoothing / classes;
  for (int i = threadIdx.x; i < classes; i += blockDim.x) {
    float target = spread + (i == label ? 1.0f - smoothing : 0.0f);
    float gradient = above * (expf(load(logits, start + i) - top) / sum - target);
    store(dlogits, start + i, weight == 0.0f ? 0.0f : gradient);
  }
}
