// Run CUDA C++ on the host: every thread of a block is a fiber, all fibers share one OS thread.
//
// A fiber runs until it meets a barrier, a shuffle or a tensor-core instruction; then another one
// goes on. Which one is the schedule's choice, so that a kernel that lacks a barrier computes
// something else under one schedule than under another. Blocks run one after another.
// Memory that CUDA leaves undefined is NaN here, or filled with 0xFF.
#pragma once
#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <cfloat>
#include <climits>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
// All static shared arrays of a file lie side by side, so that they can be poisoned.
#define __shared__ static __attribute__((section("shared_memory")))

struct uint3 { unsigned x, y, z; };
struct dim3 { unsigned x = 1, y = 1, z = 1; };

extern "C" char __start_shared_memory[] __attribute__((weak));
extern "C" char __stop_shared_memory[] __attribute__((weak));

// Saving a place and going back to it. AddressSanitizer follows only the slower way, which asks the
// kernel about signals each time; and it never learns that a function was left without a return,
// so those are not to mark their frames.
#define NEVER_RETURNS __attribute__((noinline, no_sanitize("address"))) inline void
#ifdef __SANITIZE_ADDRESS__
extern "C" void __asan_unpoison_memory_region(const volatile void*, size_t);
#define NEW_STACK(stack, size) __asan_unpoison_memory_region(stack, size)
struct Place {
  ucontext_t context;
  volatile bool back;
};
#define SAVE(place) ((place).back = false, getcontext(&(place).context), (place).back)
#define RESUME(place) ((place).back = true, setcontext(&(place).context))
#else
#define NEW_STACK(stack, size)
struct Place { jmp_buf buffer; };
#define SAVE(place) _setjmp((place).buffer)
#define RESUME(place) _longjmp((place).buffer, 1)
#endif

namespace emulated {

enum State { READY, AT_BARRIER, AT_WARP, DONE };
enum Schedule { ROUND_ROBIN, LOWEST_FIRST, HIGHEST_FIRST, RANDOM_WARPS };

struct Fiber {
  Place place;  // where it goes on
  bool started;
  void* stack = nullptr;
  State state;
  unsigned mask;  // lanes it waits for
  int line;       // where it waits
  unsigned turn;  // of the two exchange buffers
};

struct Device {
  dim3 grid, block;
  uint3 block_index, thread_index;
  int schedule = ROUND_ROBIN, skipped_barrier = -1;
  uint64_t random = 1;
  int current = 0, threads = 0;
  std::vector<Fiber> fibers;
  std::vector<int> warps, ready;  // in the order of the schedule; threads of each that can go on
  int live, at_barrier;
  Place host;
  void (*body)() = nullptr;
  void** arguments = nullptr;
  void* dynamic = nullptr;  // shared memory of a size given at launch
  alignas(16) unsigned char exchange[32][2][32][64];  // warp, turn, lane, bytes
  std::vector<std::pair<const char*, int>> met;  // where barriers are, by number in the source
  std::string error;
};
inline Device device;
inline void (*before_block)() = nullptr;
constexpr size_t STACK = 256 * 1024;

inline uint64_t draw() {  // xorshift
  device.random ^= device.random << 13;
  device.random ^= device.random >> 7;
  return device.random ^= device.random << 17;
}

inline void fail(const std::string& what) {
  if (device.error.empty()) device.error = what;
}

inline void enter(int thread) {
  device.current = thread;
  unsigned x = device.block.x, y = device.block.y, t = thread;
  device.thread_index = {t % x, t / x % y, t / (x * y)};
}

void finish();

inline void set_state(int thread, State state) {
  Fiber& fiber = device.fibers[thread];
  device.ready[thread / 32] += (state == READY) - (fiber.state == READY);
  device.at_barrier += (state == AT_BARRIER) - (fiber.state == AT_BARRIER);
  device.live -= state == DONE;
  fiber.state = state;
}

inline int choose() {  // a thread that can go on, or -1
  if (device.schedule == ROUND_ROBIN) {
    for (int k = 1; k <= device.threads; k++) {
      int i = (device.current + k) % device.threads;
      if (device.fibers[i].state == READY) return i;
    }
    return -1;
  }
  for (int warp : device.warps) {
    if (!device.ready[warp]) continue;
    int first = warp * 32, last = std::min(first + 32, device.threads) - 1;
    bool down = device.schedule == HIGHEST_FIRST;
    for (int i = down ? last : first;; i += down ? -1 : 1)
      if (device.fibers[i].state == READY) return i;
  }
  return -1;
}

inline void run_fiber() {
  device.body();
  finish();
}

NEVER_RETURNS jump_to(int thread) {
  Fiber& fiber = device.fibers[thread];
  enter(thread);
  if (fiber.started) RESUME(fiber.place);
  fiber.started = true;
  NEW_STACK(fiber.stack, STACK);
  ucontext_t fresh;
  getcontext(&fresh);
  fresh.uc_stack.ss_sp = fiber.stack;
  fresh.uc_stack.ss_size = STACK;
  fresh.uc_link = nullptr;
  makecontext(&fresh, run_fiber, 0);
  setcontext(&fresh);
}

NEVER_RETURNS leave() {  // let another thread run
  int next = choose();
  if (next >= 0) jump_to(next);
  for (int i = 0; i < device.threads; i++)
    if (device.fibers[i].state != DONE)
      fail("thread " + std::to_string(i) + " waits at line " +
           std::to_string(device.fibers[i].line) + " for threads that never come");
  RESUME(device.host);
}

inline void go_on() {  // let another thread run; return when this one is chosen again
  int self = device.current;
  if (!SAVE(device.fibers[self].place)) leave();
}

inline void release_block() {  // if every thread that still runs has come to a barrier
  if (!device.live || device.at_barrier < device.live) return;
  int line = -1;
  for (int i = 0; i < device.threads; i++) {
    Fiber& fiber = device.fibers[i];
    if (fiber.state == DONE) continue;
    if (line >= 0 && fiber.line != line)
      fail("threads of a block meet at different barriers, lines " + std::to_string(line) +
           " and " + std::to_string(fiber.line));
    line = fiber.line;
    set_state(i, READY);
  }
}

inline void finish() {
  set_state(device.current, DONE);
  release_block();
  leave();
}

inline bool skipped(const char* file, int line, int number) {
  if ((int)device.met.size() <= number) device.met.resize(number + 1);
  device.met[number] = {file, line};
  return number == device.skipped_barrier;
}

inline void barrier(const char* file, int line, int number) {
  if (skipped(file, line, number)) return;
  Fiber& fiber = device.fibers[device.current];
  fiber.line = line;
  set_state(device.current, AT_BARRIER);
  release_block();
  go_on();
}

inline void meet_warp(unsigned mask, int line) {
  int self = device.current, first = self / 32 * 32;
  int last = std::min(first + 32, device.threads);
  if (last - first < 32) mask &= (1u << (last - first)) - 1;
  Fiber& fiber = device.fibers[self];
  set_state(self, AT_WARP);
  fiber.mask = mask;
  fiber.line = line;
  if (!(mask >> (self - first) & 1)) fail("a lane outside its mask, line " + std::to_string(line));
  bool all = true;
  for (int i = first; i < last; i++)
    if (mask >> (i - first) & 1)
      all = all && device.fibers[i].state == AT_WARP && device.fibers[i].mask == mask;
  if (all)
    for (int i = first; i < last; i++)
      if (mask >> (i - first) & 1) set_state(i, READY);
  go_on();
}

inline void warp_barrier(unsigned mask, const char* file, int line, int number) {
  if (!skipped(file, line, number)) meet_warp(mask, line);
}

// Every lane shows a value; whoever asks reads that of any lane.
template <class T> inline const unsigned char (*show(unsigned mask, const T& value, int line))[64] {
  static_assert(sizeof(T) <= 64);
  int self = device.current;
  auto& lanes = device.exchange[self / 32][device.fibers[self].turn++ & 1];
  memcpy(lanes[self % 32], &value, sizeof(T));
  meet_warp(mask, line);
  return lanes;
}

template <class T> inline T shuffle(unsigned mask, T value, int from, int line) {
  auto lanes = show(mask, value, line);
  T result;
  memcpy(&result, lanes[from & 31], sizeof(T));
  return result;
}

template <class T> inline void gather(const T& value, T* all, int line) {
  auto lanes = show(0xffffffffu, value, line);
  for (int i = 0; i < 32; i++) memcpy(&all[i], lanes[i], sizeof(T));
}

inline int lane() { return device.current & 31; }

inline unsigned ballot(bool vote, int line) {
  bool all[32];
  unsigned bits = 0;
  gather(vote, all, line);
  for (int i = 0; i < 32; i++) bits |= (unsigned)all[i] << i;
  return bits;
}

inline void* dynamic() { return device.dynamic; }

inline void run_block(size_t shared) {
  if (before_block) before_block();
  if (shared) memset(device.dynamic, 0xFF, shared);  // NaN
  if (__start_shared_memory)
    memset(__start_shared_memory, 0xFF, __stop_shared_memory - __start_shared_memory);
  for (int i = 0; i < device.threads; i++) {
    device.fibers[i].state = READY;
    device.fibers[i].started = false;
    device.fibers[i].turn = 0;
  }
  int warps = (device.threads + 31) / 32;
  device.ready.assign(warps, 32);
  device.ready.back() = device.threads - (warps - 1) * 32;
  device.warps.resize(warps);
  for (int i = 0; i < warps; i++)
    device.warps[i] = device.schedule == HIGHEST_FIRST ? warps - 1 - i : i;
  if (device.schedule == RANDOM_WARPS)
    for (int i = warps - 1; i > 0; i--) std::swap(device.warps[i], device.warps[draw() % (i + 1)]);
  device.live = device.threads;
  device.at_barrier = 0;
  device.current = device.threads - 1;
  if (!SAVE(device.host)) jump_to(choose());
}

template <class... A, size_t... I>
inline void call(void (*kernel)(A...), std::index_sequence<I...>) {
  kernel(*(A*)device.arguments[I]...);
}
template <class... A> inline void call(void (*kernel)(A...)) {
  call(kernel, std::index_sequence_for<A...>{});
}

inline void run_grid(void** arguments, size_t shared, void (*body)()) {
  device.arguments = arguments;
  device.body = body;
  device.threads = device.block.x * device.block.y * device.block.z;
  device.error.clear();
  if (device.threads > 1024) return fail("more than 1024 threads in a block");
  while ((int)device.fibers.size() < device.threads) {
    device.fibers.emplace_back();
    device.fibers.back().stack = mmap(nullptr, STACK, PROT_READ | PROT_WRITE,
                                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  }
  free(device.dynamic);
  device.dynamic = nullptr;
  if (shared && posix_memalign(&device.dynamic, 128, shared)) return fail("no memory");
  dim3 grid = device.grid;
  for (unsigned z = 0; z < grid.z; z++)
    for (unsigned y = 0; y < grid.y; y++)
      for (unsigned x = 0; x < grid.x; x++) {
        device.block_index = {x, y, z};
        run_block(shared);
        if (!device.error.empty()) return;
      }
}

}  // namespace emulated

extern "C" {
void emulated_set(const unsigned* sizes, int schedule, uint64_t seed, int skipped_barrier) {
  emulated::device.grid = {sizes[0], sizes[1], sizes[2]};
  emulated::device.block = {sizes[3], sizes[4], sizes[5]};
  emulated::device.schedule = schedule;
  emulated::device.random = seed * 2654435761u + 88172645463325252ull;
  emulated::device.skipped_barrier = skipped_barrier;
}
const char* emulated_error() { return emulated::device.error.c_str(); }
int emulated_barriers() { return emulated::device.met.size(); }
const char* emulated_met(int number) {
  static std::string where;
  auto [file, line] = emulated::device.met[number];
  return (where = file ? file + (":" + std::to_string(line)) : "").c_str();
}
}

#define threadIdx (emulated::device.thread_index)
#define blockIdx (emulated::device.block_index)
#define blockDim (emulated::device.block)
#define gridDim (emulated::device.grid)
#define __syncthreads() emulated::barrier(__FILE__, __LINE__, __COUNTER__)
#define __syncwarp() emulated::warp_barrier(0xffffffffu, __FILE__, __LINE__, __COUNTER__)
#define __shfl_sync(mask, value, from) emulated::shuffle(mask, value, from, __LINE__)
#define __shfl_xor_sync(mask, value, apart) \
  emulated::shuffle(mask, value, emulated::lane() ^ (apart), __LINE__)
#define __ballot_sync(mask, vote) emulated::ballot(vote, __LINE__)

using std::max;
using std::min;
static inline float __int_as_float(int bits) { float f; memcpy(&f, &bits, 4); return f; }
