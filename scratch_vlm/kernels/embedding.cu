// The gradient of an embedding: rows of dy added to the rows of a table that ids name.
// Twin: add_at in scratch_vlm/backend/primitives.py.
//
// What it saves. For a small table NumPy's lines write a one-hot matrix (tokens x vocabulary) and
// multiply with it; for 32,768 tokens and 50,257 words that matrix has 6.6 GB. Atomic additions, the
// usual way on a GPU, read dy once, but in an order that differs from run to run, and sums of
// floats depend on the order: two runs of one training drift apart. Here dy is read once, and the
// order is that of the tokens, always.
#include "common.cuh"

// `sorted` holds all ids in order, `places` the token where each stood; equal ids keep the order of
// their tokens. A block starts at one place of `sorted`, and leaves at once unless an id begins
// there; then it walks to the end of that id. Thread i sums channel i. Blocks along y share the
// channels. An id that stands for most tokens makes one long walk; that is the price of the order.
extern "C" __global__ void add_rows(const number* dy, const int* sorted, const int* places,
                                    float* table, int count, int width) {
  int channel = blockIdx.y * blockDim.x + threadIdx.x, id = sorted[blockIdx.x];
  if (blockIdx.x > 0 && sorted[blockIdx.x - 1] == id) return;
  if (channel >= width) return;
  float sum = 0.0f;
  for (int i = blockIdx.x; i < count && sorted[i] == id; i++)
    sum += load(dy, (long long)places[i] * width + channel);
  table[(long long)id * width + channel] += sum;
}
