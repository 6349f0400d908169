// Attention without its T x S matrix, backward.
// Twin: attend_backward in scratch_vlm/ops/attend.py.
//
// What it saves. NumPy's lines keep the T x S weights from the forward and go through matrices of
// that size 10 more times. The forward kernel kept one number per query, L = log sum exp(z), and
// from it any tile of the weights is computed again when it is needed: P = exp(z - L). More
// arithmetic (7 products of tiles instead of 4), and hundreds of times fewer bytes.
//
//   dv = P' dy      dP = dy v'      dz = P (dP - delta)      dq = dz k scale      dk = dz' q scale
//
// with delta = sum(dy * y) per query; A' is A transposed, and P multiplies number by number. dk and
// dv are sums over queries, dq is one over keys. So there are two kernels, one with a block per
// tile of keys and one with a block per tile of queries, and each sums in an order of its own that
// never changes: no atomics, the same bits in every run. A single kernel would need 5 products, and
// atomic sums for dq.
//
// In float16 dz may be too large, since dy comes from a scaled loss and dP sums over channels. It
// is a float until it becomes a factor of dq and dk. Infinite there, it makes infinities or nan of
// all that it goes into, and the training takes a smaller scale.
#include "tiles.cuh"

// delta (images, heads, queries) = sum over channels of dy * y. A lane takes eight channels: a
// warp then asks for several rows at once, and memory is kept busy by few instructions.
extern "C" __global__ void __launch_bounds__(THREADS) attention_delta(
    const number* dy, const number* y, float* delta, int heads, int queries, int width, int rows,
    long long dy_image, long long dy_head, long long dy_step, long long y_image, long long y_head,
    long long y_step) {
  const int lanes = WIDTH / 8;  // of a row
  int row = blockIdx.x * (THREADS / lanes) + threadIdx.x / lanes, channel = threadIdx.x % lanes * 8;
  float sum = 0.0f;
  if (row < rows && channel < width) {
    int query = row % queries, head = row / queries % heads, image = row / queries / heads;
    dy += image * dy_image + head * dy_head + query * dy_step + channel;
    y += image * y_image + head * y_head + query * y_step + channel;
    Eight left = *(const Eight*)dy, right = *(const Eight*)y;
#pragma unroll
    for (int i = 0; i < 8; i++) sum += load(left.at, i) * load(right.at, i);
  }
#pragma unroll
  for (int apart = lanes / 2; apart > 0; apart /= 2)
    sum += __shfl_xor_sync(ALL_LANES, sum, apart);
  if (row < rows && channel == 0) delta[row] = sum;
}

// What a tile of queries, or the first N * 8 of it, adds to dk and dv of 16 keys. Everything is
// transposed here: rows are keys, columns are queries. A query that does not exist adds nothing,
// since its q, dy and delta are zeros.
template <int N>
__device__ __forceinline__ void add_queries(Sums sum_k, Sums sum_v, const Rows k_rows,
                                            const number* v_tile, const number* q_tile,
                                            const number* dy_tile, const float* logs,
                                            const float* deltas, const long long* bits,
                                            float to_log2) {
  int lane = threadIdx.x % WARP, row = threadIdx.x / WARP * 16, column = lane % 4 * 2;
  float weights[N][4] = {}, dz[N][4];
  add_dot_products(weights, k_rows, q_tile);  // scores, until the loop below
#pragma unroll
  for (int n = 0; n < N; n++)
#pragma unroll
    for (int j = 0; j < 4; j++)
      weights[n][j] = exp2f(weights[n][j] * to_log2 - logs[n * 8 + column + j % 2] * LOG2_E);
  if (bits) hide(weights, bits + TILE + row, 0.0f);
  add_weighted(sum_v, weights, dy_tile);
  Rows v_rows;  // kept like k_rows, they would cost the third block of a multiprocessor
  hold_rows(v_rows, v_tile, row);
#pragma unroll
  for (int n = 0; n < N; n++)
#pragma unroll
    for (int j = 0; j < 4; j++) dz[n][j] = -deltas[n * 8 + column + j % 2];
  add_dot_products(dz, v_rows, dy_tile);  // dP - delta, until the loop below
#pragma unroll
  for (int n = 0; n < N; n++)
#pragma unroll
    for (int j = 0; j < 4; j++) dz[n][j] *= weights[n][j];
  add_weighted(sum_k, dz, q_tile);
}

// dk and dv of 64 keys: blockIdx = (tile of keys, head of keys, image). Queries and their dy come
// by, of all heads that share these keys.
//
// dk and dv have their heads side by side in tokens, `step` numbers from one token to the next.
extern "C" __global__ void __launch_bounds__(THREADS, WIDTH > 64 ? 2 : 3) attention_dkdv(
    const number* q, const number* k, const number* v, const number* dy, const float* log_sum,
    const float* delta, number* dk, number* dv, const unsigned char* kinds, const long long* bits,
    int heads, int sharers, int queries, int keys, int width, long long q_image, long long q_head,
    int q_step, long long k_image, long long k_head, int k_step, long long v_image,
    long long v_head, int v_step, long long dy_image, long long dy_head, int dy_step, int step,
    int mask_image, int mask_head, float scale) {
  extern __shared__ __align__(16) number shared[];
  __shared__ float logs[2][TILE], deltas[2][TILE];  // of the queries of both pairs of tiles
  int warp = threadIdx.x / WARP, key_tile = blockIdx.x, group = blockIdx.y;
  long long image = blockIdx.z;
  int first = key_tile * TILE, key_tiles = (keys + TILE - 1) / TILE;
  int query_tiles = (queries + TILE - 1) / TILE;
  float to_log2 = scale * LOG2_E;
  Tokens K = {k + image * k_image + group * k_head, k_step, keys};
  Tokens V = {v + image * v_image + group * v_head, v_step, keys};

  int head = group * sharers, end = head + sharers, tile = -1;
  auto mask = [&](int head) {
    return Mask{kinds, bits, int(image) * mask_image + head * mask_head, key_tiles};
  };
  auto advance = [&](int& head, int& tile) {  // to queries that may read these keys
    do
      if (++tile == query_tiles) tile = 0, head++;
    while (head < end && kind_of(mask(head), tile, key_tile) == NOTHING);
  };
  auto load_queries = [&](int head, int tile, int turn) {
    int query = tile * TILE + threadIdx.x;
    long long at = (image * heads + head) * queries + query;
    if (threadIdx.x < TILE) {
      copy_4_bytes(&logs[turn][threadIdx.x], log_sum + at, query < queries);
      copy_4_bytes(&deltas[turn][threadIdx.x], delta + at, query < queries);
    }
    Tokens Q = {q + image * q_image + head * q_head, q_step, queries};
    Tokens DY = {dy + image * dy_image + head * dy_head, dy_step, queries};
    load_pair(shared + turn * PAIR, Q, DY, tile * TILE, width);
  };

  Sums sum_k = {}, sum_v = {};
  number* v_tile = shared + 2 * PAIR;
  load_tile(shared + PAIR, K, first, width);  // where the second pair will lie
  load_tile(v_tile, V, first, width);
  copy_commit();
  advance(head, tile);
  if (head < end) load_queries(head, tile, 0);
  copy_wait<0>();
  __syncthreads();
  Rows k_rows;
  hold_rows(k_rows, shared + PAIR, warp * 16);

  int turn = 0, next_head, next;
  for (; head < end; head = next_head, tile = next, turn ^= 1) {
    const number *q_tile = shared + turn * PAIR, *dy_tile = q_tile + TILE * PITCH;
    copy_wait<0>();   // this pair has come
    __syncthreads();  // for all warps, and all are done with what lay where the next will come
    next_head = head, next = tile;
    advance(next_head, next);
    if (next_head < end) load_queries(next_head, next, turn ^ 1);
    if (first + warp * 16 >= keys) continue;  // this warp has none
    const long long* bits = bits_of(mask(head), tile, key_tile);
    if (queries - tile * TILE > FEW)
      add_queries<TILE / 8>(sum_k, sum_v, k_rows, v_tile, q_tile, dy_tile, logs[turn],
                            deltas[turn], bits, to_log2);
    else
      add_queries<FEW / 8>(sum_k, sum_v, k_rows, v_tile, q_tile, dy_tile, logs[turn], deltas[turn],
                           bits, to_log2);
  }
  long long start = image * keys * step + group * width;
  number* free = shared + turn * PAIR;
  put_rows(free, dk + start, step, first, keys, width, sum_k, scale, scale);
  put_rows(free + TILE * PITCH, dv + start, step, first, keys, width, sum_v, 1.0f, 1.0f);
}

// What a tile of keys, or the first N * 8 of it, adds to dq of 16 queries.
template <int N>
__device__ __forceinline__ void add_keys(Sums sum, const Rows q_rows, const Rows dy_rows,
                                         const float log_2[2], const float deltas[2],
                                         const number* k_tile, const number* v_tile, int count,
                                         const long long* bits, float to_log2) {
  float weights[N][4] = {}, dz[N][4];
#pragma unroll
  for (int n = 0; n < N; n++)
#pragma unroll
    for (int j = 0; j < 4; j++) dz[n][j] = -deltas[j / 2];
  add_dot_products(weights, q_rows, k_tile);  // scores, until the loop below
  add_dot_products(dz, dy_rows, v_tile);      // dP - delta, until the loop below
#pragma unroll
  for (int n = 0; n < N; n++)
#pragma unroll
    for (int j = 0; j < 4; j++) dz[n][j] *= exp2f(weights[n][j] * to_log2 - log_2[j / 2]);
  if (bits) hide(dz, bits + threadIdx.x / WARP * 16, 0.0f);
  else if (count < N * 8) hide_behind(dz, count, 0.0f);
  add_weighted(sum, dz, k_tile);
}

// dq of 64 queries: blockIdx = (tile of queries, head, image). Keys and values come by.
// dq has its heads side by side in tokens, `step` numbers from one token to the next.
extern "C" __global__ void __launch_bounds__(THREADS, WIDTH > 64 ? 2 : 3) attention_dq(
    const number* q, const number* k, const number* v, const number* dy, const float* log_sum,
    const float* delta, number* dq, const unsigned char* kinds, const long long* bits, int heads,
    int sharers, int queries, int keys, int width, long long q_image, long long q_head,
    int q_step, long long k_image, long long k_head, int k_step, long long v_image,
    long long v_head, int v_step, long long dy_image, long long dy_head, int dy_step, int step,
    int mask_image, int mask_head, float scale) {
  extern __shared__ __align__(16) number shared[];
  int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
  int query_tile = blockIdx.x, head = blockIdx.y, group = head / sharers;
  long long image = blockIdx.z;
  int first = query_tile * TILE, key_tiles = (keys + TILE - 1) / TILE;
  Tokens Q = {q + image * q_image + head * q_head, q_step, queries};
  Tokens DY = {dy + image * dy_image + head * dy_head, dy_step, queries};
  Tokens K = {k + image * k_image + group * k_head, k_step, keys};
  Tokens V = {v + image * v_image + group * v_head, v_step, keys};
  Mask may = {kinds, bits, int(image) * mask_image + head * mask_head, key_tiles};

  Sums sum = {};
  float log_2[2], deltas[2], to_log2 = scale * LOG2_E;
  int tile = next_tile(may, query_tile, 0);
  load_pair(shared + PAIR, Q, DY, first, width);  // where the second pair will lie
  if (tile < key_tiles) load_pair(shared, K, V, tile * TILE, width);
#pragma unroll
  for (int half = 0; half < 2; half++) {
    int query = first + warp * 16 + lane / 4 + 8 * half;
    long long at = (image * heads + head) * queries + query;
    log_2[half] = query < queries ? log_sum[at] * LOG2_E : INFINITE;
    deltas[half] = query < queries ? delta[at] : 0.0f;
  }
  copy_wait<0>();
  __syncthreads();
  Rows q_rows, dy_rows;
  hold_rows(q_rows, shared + PAIR, warp * 16);
  hold_rows(dy_rows, shared + PAIR + TILE * PITCH, warp * 16);

  int turn = 0, following;
  for (; tile < key_tiles; tile = following, turn ^= 1) {
    const number *k_tile = shared + turn * PAIR, *v_tile = k_tile + TILE * PITCH;
    copy_wait<0>();
    __syncthreads();
    following = next_tile(may, query_tile, tile + 1);
    if (following < key_tiles)
      load_pair(shared + (turn ^ 1) * PAIR, K, V, following * TILE, width);
    if (first + warp * 16 >= queries) continue;
    const long long* bits = bits_of(may, query_tile, tile);
    int count = keys - tile * TILE;
    if (count > FEW)
      add_keys<TILE / 8>(sum, q_rows, dy_rows, log_2, deltas, k_tile, v_tile, count, bits, to_log2);
    else
      add_keys<FEW / 8>(sum, q_rows, dy_rows, log_2, deltas, k_tile, v_tile, count, bits, to_log2);
  }
  long long start = image * queries * step + head * width;
  put_rows(shared + turn * PAIR, dq + start, step, first, queries, width, sum, scale, scale);
}
