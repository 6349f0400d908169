// Tensor cores (Ampere and later), and copies that run while the threads go on.
//
// A tensor core multiplies two small matrices in one instruction that a whole warp gives together:
// C (16 x 8) += A (16 x 16) B (16 x 8), A and B in bfloat16 or float16, C in float. No thread
// holds a matrix; each of the 32 lanes holds a few numbers of it, its fragment. With g = lane / 4
// and t = lane % 4:
//
//   C: c[0], c[1]  row g,      columns 2t, 2t + 1        c[2], c[3]  the same in row g + 8
//   A: a[0] row g,  a[1] row g + 8,  columns 2t, 2t + 1 (two numbers in 32 bits)
//      a[2] row g,  a[3] row g + 8,  columns 2t + 8, 2t + 9
//   B: b[0] rows 2t, 2t + 1,  b[1] rows 2t + 8, 2t + 9,  of column g
//
// (PTX ISA, "Matrix Fragments for mma.m16n8k16".) C and A number their rows and columns alike, so
// what a product left in two neighbouring C is, rounded, the A of the next product: that is how
// attention multiplies its weights with the values without writing them anywhere.
//
// C++ has no words for these instructions; asm("...") passes on what stands between the quotes, in
// PTX, the assembly language of GPUs. %0, %1, ... are the registers named behind the colons: those
// that are written, then those that are read.
#ifndef SCRATCH_VLM_TENSOR_CORES
#define SCRATCH_VLM_TENSOR_CORES

// What PTX calls a type of 16 bits: NAME_OF(__half), of float16, is "f16".
#define NAME_OF(type) PASTE(NAME_OF_, type)
#define PASTE(a, b) a##b
#define NAME_OF___half "f16"
#define NAME_OF___nv_bfloat16 "bf16"

// c += a b
__device__ __forceinline__ void multiply_add(float c[4], const unsigned a[4], const unsigned b[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32." NAME_OF(NUMBER) "." NAME_OF(NUMBER) ".f32 "
      "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Two numbers of a C as two neighbours in an A, rounded. What is too large for float16, above
// 65,504, becomes infinite and not the largest number: whoever scales the loss has to see it.
__device__ __forceinline__ unsigned round_pair(float first, float second) {
  unsigned pair;  // the first in its lower 16 bits, which PTX names last
  asm("cvt.rn." NAME_OF(NUMBER) "x2.f32 %0, %1, %2;\n" : "=r"(pair) : "f"(second), "f"(first));
  return pair;
}

// Load four 8 x 8 matrices from shared memory. Lane i names the 16 bytes of row i % 8 of matrix
// i / 8; of matrix m it gets, in r[m], two neighbours of row lane / 4, columns 2 (lane % 4).
__device__ __forceinline__ void load_matrices(unsigned r[4], const void* row) {
  unsigned address = (unsigned)__cvta_generic_to_shared(row);
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address));
}

// The same with each matrix transposed.
__device__ __forceinline__ void load_transposed(unsigned r[4], const void* row) {
  unsigned address = (unsigned)__cvta_generic_to_shared(row);
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address));
}

// Start to copy 16 bytes from global to shared memory; zeros, and nothing is read, where `real` is
// false. Copies started before copy_commit() form a group; copy_wait<N>() waits until at most N
// groups are on their way. It waits for the copies of its own thread only: a barrier must follow.
__device__ __forceinline__ void copy_16_bytes(void* to, const void* from, bool real) {
  unsigned address = (unsigned)__cvta_generic_to_shared(to);
  int bytes = real ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(address), "l"(from),
               "r"(bytes));
}

__device__ __forceinline__ void copy_4_bytes(void* to, const void* from, bool real) {
  unsigned address = (unsigned)__cvta_generic_to_shared(to);
  int bytes = real ? 4 : 0;
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;\n" ::"r"(address), "l"(from),
               "r"(bytes));
}

__device__ __forceinline__ void copy_commit() { asm volatile("cp.async.commit_group;\n" ::); }

template <int N>
__device__ __forceinline__ void copy_wait() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(N));
}

#endif
