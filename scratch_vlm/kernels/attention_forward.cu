// Attention without its T x S matrix (FlashAttention), forward.
// Twin: attend_forward in scratch_vlm/ops/attend.py. Before it read tensor_cores.cuh and tiles.cuh.
//
// What it saves. NumPy's lines write the scores of every pair of tokens, and go through them 9
// times: 32 texts of 1,024 tokens with 12 heads have 403 million pairs, 805 MB in bfloat16, for
// outputs of 50 MB. All these bytes exist only between two products. Here 64 queries stay in a
// block while the keys and values come by, 64 at a time: their 64 x 64 scores live in registers
// and are gone before the next tile. What is read and written is q, k, v, y (k and v once for each
// block of queries, mostly from the cache), and one number per query for the backward.
//
// Where things lie. In shared memory two pairs of tiles: the keys and values at work, and the next
// ones, which are on their way. In registers, of each of the four warps: 16 of the 64 queries,
// their scores with the tile at work, and their softmax so far.
//
// How a softmax is computed before all scores are known. Keep the largest score so far, m, the
// total of all exp(score - m), and the sum of the values, each times its exp(score - m). When a
// tile brings a larger score M, all that was added up is too large by exp(M - m): total and sum
// shrink by exp(m - M), and the tile is added. At the end y = sum / total, exactly the softmax.
// (T. Dao et al., 2022, arXiv:2205.14135, algorithm 1; T. Dao, 2023, arXiv:2307.08691, section
// 3.1.)
#include "tiles.cuh"

// What a tile of the mask holds: nothing, everything, or some of both. One block per tile: along y
// the queries, along x the keys of the first head of the first image, then those of the next. Tiles
// with nothing are never loaded, which halves the work under a causal mask without anybody having
// said that it is causal; in tiles with everything no pair is asked for. Where it is some, a thread
// gets a row of 64 pairs by one read: they are kept as bits, a word for each query and, for the
// backward, one for each key.
extern "C" __global__ void __launch_bounds__(THREADS) attention_kinds(
    const bool* mask, unsigned char* kinds, long long* bits, int heads, int queries, int keys,
    long long image_step, long long head_step, int query_step, int key_step) {
  __shared__ unsigned words[TILE][2];
  __shared__ float of_warps[WARP];
  int key_tiles = (keys + TILE - 1) / TILE, copy = blockIdx.x / key_tiles;
  int key_tile = blockIdx.x % key_tiles;
  int first_key = key_tile * TILE, first_query = blockIdx.y * TILE;
  mask += copy / heads * image_step + copy % heads * head_step;
  for (int i = threadIdx.x / WARP; i < 2 * TILE; i += WARPS) {  // a warp reads half a row
    int query = first_query + i / 2, key = first_key + i % 2 * WARP + threadIdx.x % WARP;
    bool may = query < queries && key < keys && mask[query * query_step + key * key_step];
    unsigned word = __ballot_sync(ALL_LANES, may);  // a bit of each lane
    if (threadIdx.x % WARP == 0) words[i / 2][i % 2] = word;
  }
  __syncthreads();
  long long word = 0;  // of a query, or of a key
  int i = threadIdx.x % TILE;
  if (threadIdx.x < TILE)
    word = (unsigned long long)words[i][1] << 32 | words[i][0];
  else
    for (int query = 0; query < TILE; query++)
      word |= (unsigned long long)(words[query][i / 32] >> i % 32 & 1) << query;
  long long tile = ((long long)copy * gridDim.y + blockIdx.y) * key_tiles + key_tile;
  bits[tile * 2 * TILE + threadIdx.x] = word;
  bool lacks = i < queries - first_query && word != first_bits(keys - first_key);
  float any = block_max(threadIdx.x >= TILE && word ? 1.0f : 0.0f, of_warps);
  float lack = block_max(threadIdx.x < TILE && lacks ? 1.0f : 0.0f, of_warps);
  if (threadIdx.x == 0) kinds[tile] = any == 0.0f ? NOTHING : lack == 0.0f ? EVERYTHING : SOME;
}

struct Softmax {  // of 16 queries. As of a fragment C, a lane has numbers of two rows
  Sums sum;
  float largest[2], total[2];
};

// What the four lanes that have numbers of one row of a fragment C have together.
__device__ __forceinline__ float row_max(float value) {
  value = fmaxf(value, __shfl_xor_sync(ALL_LANES, value, 1));
  return fmaxf(value, __shfl_xor_sync(ALL_LANES, value, 2));
}
__device__ __forceinline__ float row_sum(float value) {
  value += __shfl_xor_sync(ALL_LANES, value, 1);
  return value + __shfl_xor_sync(ALL_LANES, value, 2);
}

// Take a tile of keys in, or the first N * 8 of it: `count` are real, and `bits` says which may be
// read, all if it is null.
template <int N>
__device__ __forceinline__ void add_keys(Softmax& so_far, const Rows q_rows, const number* k_tile,
                                         const number* v_tile, int count, const long long* bits,
                                         float to_log2) {
  float scores[N][4] = {};
  add_dot_products(scores, q_rows, k_tile);
  if (bits) hide(scores, bits + threadIdx.x / WARP * 16, -INFINITE);
  else if (count < N * 8) hide_behind(scores, count, -INFINITE);
  float *largest = so_far.largest, before[2] = {largest[0], largest[1]}, base[2], shrink[2];
#pragma unroll
  for (int n = 0; n < N; n++)
#pragma unroll
    for (int j = 0; j < 4; j++) largest[j / 2] = fmaxf(largest[j / 2], scores[n][j]);
#pragma unroll
  for (int half = 0; half < 2; half++) {
    largest[half] = row_max(largest[half]);
    // Nothing to read yet: any finite base will do, since exp2(-infinity - base) is 0.
    base[half] = largest[half] == -INFINITE ? 0.0f : largest[half] * to_log2;
    shrink[half] = exp2f(before[half] * to_log2 - base[half]);
    so_far.total[half] *= shrink[half];
  }
#pragma unroll
  for (int n = 0; n < N; n++)
#pragma unroll
    for (int j = 0; j < 4; j++) {
      scores[n][j] = exp2f(scores[n][j] * to_log2 - base[j / 2]);  // weights, from here on
      so_far.total[j / 2] += scores[n][j];
    }
#pragma unroll
  for (int n = 0; n < WIDTH / 8; n++)
#pragma unroll
    for (int j = 0; j < 4; j++) so_far.sum[n][j] *= shrink[j / 2];
  add_weighted(so_far.sum, scores, v_tile);
}

// One block for 64 queries of one head of one image: blockIdx = (tile of queries, head, image).
// `sharers` query heads read each head of keys and values. Steps count numbers, not bytes.
// log_sum (images, heads, queries) gets log sum exp(scores), or +infinity for a query that may
// read nothing: its weights exp(score - infinity) are then exactly 0 in the backward. The second
// of __launch_bounds__ is for how many blocks a multiprocessor is to have registers.
extern "C" __global__ void __launch_bounds__(THREADS, WIDTH > 64 ? 2 : 4) attention_forward(
    const number* q, const number* k, const number* v, number* y, float* log_sum,
    const unsigned char* kinds, const long long* bits, int heads, int sharers, int queries,
    int keys, int width, long long q_image, long long q_head, int q_step, long long k_image,
    long long k_head, int k_step, long long v_image, long long v_head, int v_step,
    long long y_image, long long y_head, long long y_step, int mask_image,
    int mask_head, float scale) {
  extern __shared__ __align__(16) number shared[];
  int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
  int query_tile = blockIdx.x, head = blockIdx.y, group = head / sharers;
  long long image = blockIdx.z;
  int key_tiles = (keys + TILE - 1) / TILE, first = query_tile * TILE;
  Tokens Q = {q + image * q_image + head * q_head, q_step, queries};
  Tokens K = {k + image * k_image + group * k_head, k_step, keys};
  Tokens V = {v + image * v_image + group * v_head, v_step, keys};
  Mask may = {kinds, bits, int(image) * mask_image + head * mask_head, key_tiles};

  Softmax so_far = {{}, {-INFINITE, -INFINITE}, {0.0f, 0.0f}};
  float to_log2 = scale * LOG2_E;  // exp(scale * x) = 2^(to_log2 * x); exp2f is one instruction

  int tile = next_tile(may, query_tile, 0);
  load_tile(shared + PAIR, Q, first, width);  // where the second pair will lie
  copy_commit();
  if (tile < key_tiles) load_pair(shared, K, V, tile * TILE, width);
  copy_wait<0>();
  __syncthreads();
  Rows q_rows;
  hold_rows(q_rows, shared + PAIR, warp * 16);

  int turn = 0, following;
  for (; tile < key_tiles; tile = following, turn ^= 1) {
    const number *k_tile = shared + turn * PAIR, *v_tile = k_tile + TILE * PITCH;
    copy_wait<0>();   // this pair has come
    __syncthreads();  // for all warps, and all are done with what lay where the next will come
    following = next_tile(may, query_tile, tile + 1);
    if (following < key_tiles)
      load_pair(shared + (turn ^ 1) * PAIR, K, V, following * TILE, width);
    if (first + warp * 16 >= queries) continue;  // this warp has none
    const long long* bits = bits_of(may, query_tile, tile);
    int count = keys - tile * TILE;
    if (count > FEW) add_keys<TILE / 8>(so_far, q_rows, k_tile, v_tile, count, bits, to_log2);
    else add_keys<FEW / 8>(so_far, q_rows, k_tile, v_tile, count, bits, to_log2);
  }

  float times[2];
#pragma unroll
  for (int half = 0; half < 2; half++) {
    float total = row_sum(so_far.total[half]);
    times[half] = total > 0.0f ? 1.0f / total : 0.0f;  // nothing to read: zeros
    int query = first + warp * 16 + lane / 4 + 8 * half;
    if (query < queries && lane % 4 == 0)
      log_sum[(image * heads + head) * queries + query] =
          total > 0.0f ? so_far.largest[half] * scale + logf(total) : INFINITE;
  }
  put_rows(shared + turn * PAIR, y + image * y_image + head * y_head, y_step, first, queries, width,
           so_far.sum, times[0], times[1]);
}
