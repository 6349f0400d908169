// What kernels/tensor_cores.cuh does by PTX instructions, written from the tables of the PTX ISA.
#pragma once
#define SCRATCH_VLM_TENSOR_CORES  // the file of this guard is skipped

#include <deque>
#include <vector>

#include "cuda_bf16.h"
#include "cuda_fp16.h"

namespace emulated {

inline unsigned round_pair(float first, float second) {
  NUMBER rounded[2] = {first, second};
  unsigned pair;
  memcpy(&pair, rounded, 4);
  return pair;
}

inline float half_of(unsigned pair, int which) {
  NUMBER halves[2];
  memcpy(halves, &pair, 4);
  return halves[which];
}

struct Fragments { unsigned a[4], b[2]; };

inline void multiply_add(float c[4], const unsigned a[4], const unsigned b[2],
                         int line = __builtin_LINE()) {
  Fragments own, all[32];
  memcpy(own.a, a, sizeof own.a);
  memcpy(own.b, b, sizeof own.b);
  gather(own, all, line);
  for (int i = 0; i < 4; i++) {
    int row = lane() / 4 + 8 * (i / 2), column = lane() % 4 * 2 + i % 2;
    for (int k = 0; k < 16; k++) {
      unsigned of_a = all[row % 8 * 4 + k % 8 / 2].a[row / 8 + 2 * (k / 8)];
      unsigned of_b = all[column * 4 + k % 8 / 2].b[k / 8];
      c[i] += half_of(of_a, k % 2) * half_of(of_b, k % 2);
    }
  }
}

inline void load(unsigned r[4], const void* own_row, bool transposed, int line) {
  const void* rows[32];
  gather(own_row, rows, line);
  for (int m = 0; m < 4; m++) {
    unsigned pair[2];
    for (int j = 0; j < 2; j++) {
      int row = lane() / 4, column = lane() % 4 * 2 + j;
      if (transposed) std::swap(row, column);
      const void* from = rows[m * 8 + row];
      if ((uintptr_t)from % 16) return fail("ldmatrix: a row is not aligned to 16 bytes");
      pair[j] = ((const uint16_t*)from)[column];
    }
    r[m] = pair[0] | pair[1] << 16;
  }
}

inline void load_matrices(unsigned r[4], const void* row, int line = __builtin_LINE()) {
  load(r, row, false, line);
}
inline void load_transposed(unsigned r[4], const void* row, int line = __builtin_LINE()) {
  load(r, row, true, line);
}

// A copy lands somewhere between its start and the wait for it: by some schedules at once, by
// others at the last moment, at random by the last one.
struct Copy { void* to; const void* from; int bytes; bool real; };
inline std::vector<std::deque<std::vector<Copy>>> groups(1024);  // of each thread; last is open

inline std::deque<std::vector<Copy>>& own_groups() {
  auto& own = groups[device.current];
  if (own.empty()) own.emplace_back();
  return own;
}

inline void land(const Copy& copy) {
  if (copy.real) memcpy(copy.to, copy.from, copy.bytes);
  else memset(copy.to, 0, copy.bytes);
}

inline void start(const Copy& copy) {
  if (((uintptr_t)copy.to | (copy.real ? (uintptr_t)copy.from : 0)) % copy.bytes)
    return fail("cp.async: an address is not aligned to " + std::to_string(copy.bytes) + " bytes");
  bool now = device.schedule == LOWEST_FIRST || (device.schedule == RANDOM_WARPS && draw() % 2);
  if (now) land(copy);
  else own_groups().back().push_back(copy);
}

inline void copy_16_bytes(void* to, const void* from, bool real) { start({to, from, 16, real}); }
inline void copy_4_bytes(void* to, const void* from, bool real) { start({to, from, 4, real}); }

inline void copy_commit() { own_groups().emplace_back(); }

inline void copy_wait(int pending, const char* file, int line, int number) {
  if (skipped(file, line, number)) return;
  auto& own = own_groups();
  while ((int)own.size() - 1 > pending) {
    for (const Copy& copy : own.front()) land(copy);
    own.pop_front();
  }
}

inline const bool forgets = [] {
  before_block = [] {
    for (auto& own : groups) own.clear();
  };
  return true;
}();

}  // namespace emulated

using emulated::copy_16_bytes;
using emulated::copy_4_bytes;
using emulated::copy_commit;
using emulated::load_matrices;
using emulated::load_transposed;
using emulated::multiply_add;
using emulated::round_pair;
