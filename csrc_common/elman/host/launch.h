#pragma once
// Launches and indices on the host. Included by <elman/launch.cuh> only.
#define ELMAN_KERNEL(max_threads) void

namespace elman {
inline unsigned thread_x() { return host::here->thread; }
inline unsigned threads_x() { return host::threads; }
inline unsigned block_x() { return host::here->block; }
inline unsigned blocks_x() { return host::blocks; }

template <class... P, class... A>
Status launch_any(bool cooperative, void (*kernel)(P...), const char* name, int64_t blocks, int64_t threads,
                  size_t shared_bytes, A... a) {
  auto call = [=] { kernel(static_cast<P>(a)...); };
  auto run = [](void* p) { (*static_cast<decltype(call)*>(p))(); };
  return host::run(name, cooperative, blocks, threads, shared_bytes, run, &call, error_text(), error_text_size);
}

template <class... P, class... A>
Status launch(void (*kernel)(P...), const char* name, int64_t blocks, int64_t threads, size_t shared_bytes, Stream, A... a) {
  return launch_any(false, kernel, name, blocks, threads, shared_bytes, a...);
}

template <class... P, class... A>
Status launch_cooperative(void (*kernel)(P...), const char* name, int64_t blocks, int64_t threads, size_t shared_bytes, Stream,
                          A... a) {
  return launch_any(true, kernel, name, blocks, threads, shared_bytes, a...);
}

inline Status fill_async(void* pointer, unsigned char byte, size_t bytes, Stream) {
  __builtin_memset(pointer, byte, bytes);
  return 0;
}
}  // namespace elman
