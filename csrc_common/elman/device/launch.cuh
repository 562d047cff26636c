#pragma once
// Launches and indices on the device. Included by <elman/launch.cuh> only.
// At least one block an SM: without the second number ptxas may spill to fit more blocks, although registers are free.
#define ELMAN_KERNEL(max_threads) __global__ void __launch_bounds__(max_threads, 1)

namespace elman {
ELMAN_FN unsigned thread_x() { return threadIdx.x; }
ELMAN_FN unsigned threads_x() { return blockDim.x; }
ELMAN_FN unsigned block_x() { return blockIdx.x; }
ELMAN_FN unsigned blocks_x() { return gridDim.x; }

inline Status launch_pointers(const void* kernel, const char* name, bool cooperative, int64_t blocks, int64_t threads,
                              size_t shared_bytes, Stream stream, void** arguments) {
  cudaError_t error = cudaErrorInvalidConfiguration;
  if (blocks > 0 && blocks <= INT32_MAX && threads > 0 && threads <= 1024 && threads % 32 == 0) {
    const dim3 grid((unsigned)blocks), block((unsigned)threads);
    // Above 48 KiB a kernel has to ask.
    error = shared_bytes <= 48 * 1024
                ? cudaSuccess
                : cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared_bytes);
    if (error == cudaSuccess)
      error = cooperative ? cudaLaunchCooperativeKernel(kernel, grid, block, arguments, shared_bytes, stream)
                          : cudaLaunchKernel(kernel, grid, block, arguments, shared_bytes, stream);
  }
  if (error == cudaSuccess) return 0;
  cudaGetLastError();  // the error is reported here; a later call must not meet it again
  return refuse("%s: %slaunch of %lld blocks of %lld threads with %zu bytes of shared memory failed: %s (%s)", name,
                cooperative ? "cooperative " : "", (long long)blocks, (long long)threads, shared_bytes,
                cudaGetErrorString(error), cudaGetErrorName(error));
}

template <class... P>
Status launch_converted(void (*kernel)(P...), const char* name, bool cooperative, int64_t blocks, int64_t threads,
                        size_t shared_bytes, Stream stream, P... arguments) {
  void* pointers[] = {(void*)&arguments..., nullptr};
  return launch_pointers((const void*)kernel, name, cooperative, blocks, threads, shared_bytes, stream, pointers);
}

template <class... P, class... A>
Status launch(void (*kernel)(P...), const char* name, int64_t blocks, int64_t threads, size_t shared_bytes, Stream stream,
              A... a) {
  return launch_converted<P...>(kernel, name, false, blocks, threads, shared_bytes, stream, static_cast<P>(a)...);
}

template <class... P, class... A>
Status launch_cooperative(void (*kernel)(P...), const char* name, int64_t blocks, int64_t threads, size_t shared_bytes,
                          Stream stream, A... a) {
  return launch_converted<P...>(kernel, name, true, blocks, threads, shared_bytes, stream, static_cast<P>(a)...);
}

// Set every byte of global memory to `byte`, in the stream's order; may be captured into a CUDA graph.
inline Status fill_async(void* pointer, unsigned char byte, size_t bytes, Stream stream) {
  const cudaError_t error = cudaMemsetAsync(pointer, byte, bytes, stream);
  if (error == cudaSuccess) return 0;
  cudaGetLastError();
  return refuse("fill_async of %zu bytes failed: %s", bytes, cudaGetErrorString(error));
}
}  // namespace elman
