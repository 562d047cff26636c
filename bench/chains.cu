// Chains of dependent operations, timed on one GPU for bench/chains.py, which says what they are the chains of.
// * A chain runs `steps` times in one warp (the barrier in twelve); a trip is half a round trip of a word between two multiprocessors.
// * Factors and summands come from memory and sums are rounded one by one, so that the compiler can neither merge nor reorder them.
#include <cuda_runtime.h>

#include <cstdint>
#include <cstdio>
#include <cstring>

namespace {
constexpr int unrolled = 16;  // steps between two branches; `steps` is a multiple of it
constexpr int summands = 8, lines_apart = 8448;  // bytes between the words of two places: other slices of the L2 cache
constexpr int state_bytes = 128 * 128 * 4, state_threads = 512;
constexpr int alone_bytes = 128 * 1024;  // shared memory of which a multiprocessor has enough for one block only

struct Factors {
  float a, b, add[summands];
  int mask;
};

__device__ float tanh_approx(float x) {
  float y;
  asm volatile("tanh.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ float exp2_approx(float x) {
  float y;
  asm volatile("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ float reciprocal_approx(float x) {
  float y;
  asm volatile("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// One operation a step.
struct Fma {
  static __device__ float step(float x, const Factors& f) { return __fmaf_rn(x, f.a, f.b); }
};
struct Tanh {
  static __device__ float step(float x, const Factors&) { return tanh_approx(x); }
};
struct Exp2 {
  static __device__ float step(float x, const Factors&) { return exp2_approx(x); }
};
struct Reciprocal {  // and an addition, since the compiler knows that 1 / (1 / x) is x
  static __device__ float step(float x, const Factors& f) { return __fadd_rn(reciprocal_approx(x), f.b); }
};
struct Shuffle {
  static __device__ float step(float x, const Factors& f) { return __shfl_xor_sync(~0u, x, f.mask); }
};
struct Barrier {
  static __device__ float step(float x, const Factors&) {
    __syncthreads();
    return x;
  }
};

// A product of an element by a known factor and the sum of N of them, two by two: 1 + log2 N operations, the fewest that join N values, since
// a multiply-add joins one more at a depth and an addition twice as many.
template <int N> __device__ float products(float x, const Factors& f) {
  x = __fmul_rn(x, f.a);
#pragma unroll
  for (int i = 0; 1 << i < N; ++i) x = __fadd_rn(x, f.add[i]);
  return x;
}
// The least of S' = tanh(lambda S + (v - S k) k^T) from an element to the next one's, x'_j = sum_i (lambda [i = j] - k_i k_j) tanh(x_i) + v k_j,
// with all coefficients made before, a row in one lane and the hardware's tanh.
template <int N> struct ForwardLeast {
  static __device__ float step(float x, const Factors& f) { return products<N>(tanh_approx(x), f); }
};
// The same of its gradient A = dL/dS' (1 - S'^2), all states known: linear in A, with such coefficients.
template <int N> struct BackwardLeast {
  static __device__ float step(float x, const Factors& f) { return products<N>(x, f); }
};

// The same as variants/e88 and csrc_common/elman/families/matrix_state compute them in bf16: C columns in a lane, KEYS lanes on a row.
template <int C, int KEYS> __device__ float row_product(float x, const Factors& f) {
  constexpr int chains = C > 4 ? 2 : 1;
  x = __fmul_rn(x, f.a);
#pragma unroll
  for (int i = 1; i < C / chains; ++i) x = __fmaf_rn(f.a, f.add[i], x);
  if (chains == 2) x = __fadd_rn(x, f.add[0]);
#pragma unroll
  for (int mask = KEYS / 2; mask > 0; mask /= 2) x = __fadd_rn(x, __shfl_xor_sync(~0u, x, mask));
  return x;
}
template <int C, int KEYS> struct ForwardWritten {
  static __device__ float step(float x, const Factors& f) {
    x = __fmaf_rn(-0.5f, exp2_approx(fminf(x, 60.0f)), -0.5f);
    x = __fmaf_rn(reciprocal_approx(__fmul_rn(x, f.add[0])), f.add[1], 1.0f);  // two elements share a reciprocal
    x = __fmaf_rn(-f.b, row_product<C, KEYS>(x, f), f.add[2]);  // delta
    return __fmaf_rn(x, f.a, f.add[3]);
  }
};
template <int C, int KEYS> struct BackwardWritten {
  static __device__ float step(float x, const Factors& f) {
    x = __fmul_rn(__fmaf_rn(f.add[0], f.add[1], x), f.b);  // + dy q, times the slope
    return __fmaf_rn(-row_product<C, KEYS>(x, f), f.a, f.add[2]);
  }
};

// E74's diagonal state, S' = tanh(a S + b) with a and b made before, from the exponential's argument to the next one: tanh is 1 - 2 / (1 + 2^x),
// whose last product and difference are in a and b. The hardware's tanh is shorter and has a thousand times the error that fp32 states allow.
struct Diagonal {
  static __device__ float step(float x, const Factors& f) { return __fmaf_rn(reciprocal_approx(__fadd_rn(exp2_approx(x), 1.0f)), f.a, f.b); }
};

template <class Op> __global__ void chain(const Factors* factors, float* out, int64_t steps, int64_t* cycles) {
  const Factors f = *factors;
  float x = f.b * (float)(threadIdx.x + 1);  // what all lanes share a shuffle need not move
  const int64_t start = clock64();
#pragma unroll 1
  for (int64_t i = 0; i < steps; i += unrolled) {
#pragma unroll
    for (int j = 0; j < unrolled; ++j) x = Op::step(x, f);
  }
  if (threadIdx.x == 0) *cycles = clock64() - start;
  out[threadIdx.x] = x;
}

// mma m16n8k16 in bf16, which adds to its own result.
__global__ void mma_chain(const Factors* factors, float* out, int64_t steps, int64_t* cycles) {
  const uint32_t a = __float_as_uint(factors->a), b = __float_as_uint(factors->b);
  float d[4] = {};
  const int64_t start = clock64();
#pragma unroll 1
  for (int64_t i = 0; i < steps; i += unrolled) {
#pragma unroll
    for (int j = 0; j < unrolled; ++j)
      asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %4, %4, %4}, {%5, %5}, {%0, %1, %2, %3};"
                   : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                   : "r"(a), "r"(b));
  }
  if (threadIdx.x == 0) *cycles = clock64() - start;
  out[threadIdx.x] = d[0] + d[1] + d[2] + d[3];
}

// What a step costs a 128 x 128 state in fp32 that lies in shared memory, for one state on a multiprocessor: each element is read, updated and
// written once, in whole 16 bytes a lane, and nothing else is done.
__global__ void state_in_shared(const Factors* factors, float* out, int64_t steps, int64_t* cycles) {
  constexpr int vectors = state_bytes / 16 / state_threads;
  extern __shared__ float4 state[];
  const float a = factors->a, b = factors->b;
  const uint32_t own = (uint32_t)__cvta_generic_to_shared(state + threadIdx.x);
  for (int i = 0; i < vectors; ++i) state[i * state_threads + threadIdx.x] = make_float4(a, b, a, b);
  __syncthreads();
  const int64_t start = clock64();
#pragma unroll 1
  for (int64_t step = 0; step < steps; ++step) {
    float4 v[vectors];
#pragma unroll
    for (int i = 0; i < vectors; ++i)
      asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];" : "=f"(v[i].x), "=f"(v[i].y), "=f"(v[i].z), "=f"(v[i].w) : "r"(own + i * state_threads * 16));
#pragma unroll
    for (int i = 0; i < vectors; ++i)
      asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(own + i * state_threads * 16), "f"(__fmaf_rn(v[i].x, a, b)),
                   "f"(__fmaf_rn(v[i].y, a, b)), "f"(__fmaf_rn(v[i].z, a, b)), "f"(__fmaf_rn(v[i].w, a, b)));
  }
  __syncthreads();
  if (threadIdx.x == 0) *cycles = clock64() - start;
  out[threadIdx.x] = state[threadIdx.x].x;
}

__device__ uint32_t look(const uint32_t* p) {
  uint32_t v;
  asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
  return v;
}
__device__ void put(uint32_t* p, uint32_t v) { asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(p), "r"(v) : "memory"); }
template <class Look> __device__ void await(uint32_t value, Look look) {
  for (unsigned tries = 0; look() != value;)
    if (++tries > 1u << 24) __trap();
}

// Round trips of a word that is its own ready flag between block 0 and block `peer`, through the L2 cache.
__global__ void memory_trips(uint32_t* words, int64_t trips, int64_t* cycles, int peer) {
  if (threadIdx.x || (blockIdx.x && (int)blockIdx.x != peer)) return;
  uint32_t *there = words, *back = words + 32;  // another line
  const int64_t start = clock64();
  for (uint32_t i = 1; i <= (uint32_t)trips; ++i) {
    if (blockIdx.x == 0) put(there, i);
    await(i, [&] { return look(blockIdx.x ? there : back); });
    if (blockIdx.x) put(back, i);
  }
  if (blockIdx.x == 0) *cycles = clock64() - start;
}

// The same between the two blocks of a cluster, each of which writes into the other's shared memory.
__global__ void __cluster_dims__(2) cluster_trips(int64_t trips, int64_t* cycles) {
  __shared__ uint32_t word;
  const auto meet = [] { asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory"); };
  if (threadIdx.x == 0) word = 0;
  meet();
  if (threadIdx.x == 0) {
    const uint32_t own = (uint32_t)__cvta_generic_to_shared(&word);
    uint32_t other;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(other) : "r"(own), "r"(1 - blockIdx.x));
    const auto send = [&](uint32_t v) { asm volatile("st.relaxed.cluster.shared::cluster.u32 [%0], %1;" ::"r"(other), "r"(v) : "memory"); };
    const auto arrived = [&] {
      uint32_t v;
      asm volatile("ld.relaxed.cluster.shared::cta.u32 %0, [%1];" : "=r"(v) : "r"(own) : "memory");
      return v;
    };
    const int64_t start = clock64();
    for (uint32_t i = 1; i <= (uint32_t)trips; ++i) {
      if (blockIdx.x == 0) send(i);
      await(i, arrived);
      if (blockIdx.x) send(i);
    }
    if (blockIdx.x == 0) *cycles = clock64() - start;
  }
  __syncthreads();
  meet();  // a block's shared memory lives as long as the other writes to it
}

using Chain = void (*)(const Factors*, float*, int64_t, int64_t*);
struct Named {
  const char* name;
  Chain kernel;
  int threads, shared_bytes = 0;
};
const Named chains[] = {
    {"fma", chain<Fma>, 32},
    {"tanh.approx", chain<Tanh>, 32},
    {"ex2.approx", chain<Exp2>, 32},
    {"rcp.approx, add", chain<Reciprocal>, 32},
    {"shuffle", chain<Shuffle>, 32},
    {"mma", mma_chain, 32},
    {"barrier", chain<Barrier>, 384},
    {"state of 128 x 128 in shared memory", state_in_shared, state_threads, state_bytes},
    {"diagonal", chain<Diagonal>, 32},
    {"forward 16", chain<ForwardLeast<16>>, 32},
    {"backward 16", chain<BackwardLeast<16>>, 32},
    {"forward 32", chain<ForwardLeast<32>>, 32},
    {"backward 32", chain<BackwardLeast<32>>, 32},
    {"forward 4 x 4", chain<ForwardWritten<4, 4>>, 32},
    {"backward 4 x 4", chain<BackwardWritten<4, 4>>, 32},
    {"forward 8 x 4", chain<ForwardWritten<8, 4>>, 32},
    {"backward 4 x 8", chain<BackwardWritten<4, 8>>, 32},
};

// Device memory of this program: what a chain takes and gives, and the words of the trips.
struct Memory {
  Factors factors;
  float out[1024];
  int64_t cycles;
  alignas(256) uint8_t words[64 * lines_apart];
};

cudaError_t launch(const char* name, Memory* at, int64_t steps, int peer, int place) {
  if (!strcmp(name, "memory")) {
    int device, count;
    cudaGetDevice(&device);
    cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device);
    if (peer < 1 || peer >= count || place < 0 || place >= 64) return cudaErrorInvalidValue;
    auto* words = reinterpret_cast<uint32_t*>(at->words + place * lines_apart);
    cudaMemsetAsync(words, 0, 256);
    cudaFuncSetAttribute(memory_trips, cudaFuncAttributeMaxDynamicSharedMemorySize, alone_bytes);
    memory_trips<<<count, 32, alone_bytes>>>(words, steps, &at->cycles, peer);
    return cudaGetLastError();
  }
  if (!strcmp(name, "cluster")) {
    cudaFuncSetAttribute(cluster_trips, cudaFuncAttributeMaxDynamicSharedMemorySize, alone_bytes);
    cluster_trips<<<2, 32, alone_bytes>>>(steps, &at->cycles);
    return cudaGetLastError();
  }
  for (const Named& one : chains)
    if (!strcmp(name, one.name)) {
      cudaFuncSetAttribute(one.kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, one.shared_bytes);
      one.kernel<<<1, one.threads, one.shared_bytes>>>(&at->factors, at->out, steps, &at->cycles);
      return cudaGetLastError();
    }
  return cudaErrorInvalidValue;
}
}  // namespace

// Run a chain of so many steps, or trips there and back, `repeats` times; write the least nanoseconds and cycles of one run. Returns an
// error text or null.
extern "C" __attribute__((visibility("default"))) const char* chains_run(const char* name, int64_t steps, int repeats, int peer, int place, double* nanoseconds, double* cycles) {
  static Memory* at = nullptr;
  static cudaEvent_t start, end;
  cudaError_t error = cudaSuccess;
  if (!at) {
    Factors factors{0.5f, 0.25f, {}, 1};
    for (int i = 0; i < summands; ++i) factors.add[i] = 0.125f * (float)(i + 1);
    if ((error = cudaMalloc(&at, sizeof *at)) != cudaSuccess) return cudaGetErrorString(error);
    cudaMemcpy(&at->factors, &factors, sizeof factors, cudaMemcpyHostToDevice);
    cudaEventCreate(&start);
    cudaEventCreate(&end);
  }
  *nanoseconds = *cycles = 1e300;
  for (int i = 0; i < repeats; ++i) {
    float milliseconds;
    int64_t counted;
    cudaEventRecord(start);
    if ((error = launch(name, at, steps, peer, place)) != cudaSuccess) return cudaGetErrorString(error);
    cudaEventRecord(end);
    if ((error = cudaEventSynchronize(end)) != cudaSuccess) return cudaGetErrorString(error);
    cudaEventElapsedTime(&milliseconds, start, end);
    cudaMemcpy(&counted, &at->cycles, sizeof counted, cudaMemcpyDeviceToHost);
    if (milliseconds * 1e6 < *nanoseconds) *nanoseconds = milliseconds * 1e6;
    if ((double)counted < *cycles) *cycles = (double)counted;
  }
  return nullptr;
}

// Return the i-th chain's name, or null after the last.
extern "C" __attribute__((visibility("default"))) const char* chains_name(int i) { return i >= 0 && i < (int)(sizeof chains / sizeof *chains) ? chains[i].name : nullptr; }
