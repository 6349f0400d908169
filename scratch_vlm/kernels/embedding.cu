// The gradient of an embedding: rows of dy added to the rows of a table that ids name.
// Twin: add_at in scratch_vlm/backend/primitives.py.
//
// What it saves. For a small table NumPy's lines write a one-hot matrix (tokens x vocabulary) and
// multiply with it; for 32,768 tokens and 50,257 words that matrix has 6.6 GB. Atomic additions, the
// usual way on a GPU, read dy once, but in an order that differs from run to run, and sums of
// floats depend on the order: two runs of one training drift apart. Here dy is read once, and the
// order is that of the tokens, always.
#include "common.cuh"

#define THREADS 128
#define AHEAD 16  // tokens that a thread fetches at a time

// Put tokens in the order of their ids; equal ids keep the order of the tokens. The place of a token
// is the number of tokens with a smaller id, or with the same and before it: each thread counts for
// one token, and the others come by in shared memory. That takes tokens^2 comparisons, a
// billion for 32,768, which is little beside the step of a language model; a sort that takes fewer
// takes several launches.
extern "C" __global__ void __launch_bounds__(THREADS) order_tokens(const int* ids, int* sorted,
                                                                   int* places, int count) {
  __shared__ int others[THREADS];
  int token = blockIdx.x * THREADS + threadIdx.x, id = token < count ? ids[token] : 0, place = 0;
  for (int start = 0; start < count; start += THREADS) {
    __syncthreads();  // all are done with the ids before
    if (start + threadIdx.x < count) others[threadIdx.x] = ids[start + threadIdx.x];
    __syncthreads();
    for (int i = 0; i < min(THREADS, count - start); i++)
      place += others[i] < id || (others[i] == id && start + i < token);
  }
  if (token >= count) return;
  sorted[place] = id;
  places[place] = token;
}

// A block starts at one place of `sorted`, and leaves at once unless an id begins there; then it
// walks to the end of that id. Thread i sums channel i. Blocks along y share the channels. An id that
// stands for most tokens makes one long walk, the price of the order; to wait for memory only once in
// AHEAD steps, that many sums are kept side by side. An id that is no row is left out, so that
// nothing beside the table is written.
extern "C" __global__ void __launch_bounds__(THREADS) add_rows(const number* dy, const int* sorted,
                                                               const int* places, float* table,
                                                               int count, int rows, int width) {
  int channel = blockIdx.y * THREADS + threadIdx.x, id = sorted[blockIdx.x];
  if (blockIdx.x > 0 && sorted[blockIdx.x - 1] == id) return;
  if (channel >= width || id < 0 || id >= rows) return;
  float sums[AHEAD] = {}, sum = 0.0f;
  for (int i = blockIdx.x; i < count && sorted[i] == id; i += AHEAD)
#pragma unroll
    for (int j = 0; j < AHEAD; j++) {
      int at = min(i + j, count - 1);  // behind the last one it is fetched again, and not added
      float value = load(dy, (long long)places[at] * width + channel);
      sums[j] += i + j < count && sorted[at] == id ? value : 0.0f;
    }
#pragma unroll
  for (int j = 0; j < AHEAD; j++) sum += sums[j];
  table[(long long)id * width + channel] += sum;
}
