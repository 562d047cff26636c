#pragma once
// From a call out of Python to kernels: exports, checked launches, and a thread's indices.
//
//   ELMAN_FORWARD(a) {                       // a: const args::Forward&
//     ELMAN_TRY(fill_async(a.counter, 0, 4, a.stream));
//     return launch(step<args::scalar>, "scan_step", blocks, threads, shared_bytes, a.stream, a.x, a.y, (int)a.D);
//   }
//
// * A body returns Status: 0, or not 0 after `refuse` has recorded why. The exported function copies that text to the caller.
// * launch names kernel, grid and cause when it fails. Arguments are converted to the kernel's parameter types, since a device
//   launch reads them through untyped pointers.
// * launch_cooperative: all blocks run at once and may wait for each other. Blocks of a plain launch may not.
// * Grids and blocks have one dimension; a block has a multiple of 32 threads.
#include <elman/types.cuh>

#include <stdarg.h>
#include <stdio.h>

namespace elman {
using Status = int;

// One text per calling thread: entries of one library may run on several.
inline char* error_text() {
  static thread_local char text[1024];
  return text;
}
inline constexpr size_t error_text_size = 1024;

// Record why a request cannot be served, printf style; always returns 1, so that `return refuse(...)` ends a body.
__attribute__((format(printf, 1, 2))) inline Status refuse(const char* format, ...) {
  va_list list;
  va_start(list, format);
  vsnprintf(error_text(), error_text_size, format, list);
  va_end(list);
  return 1;
}

template <class Args> int enter(Status (*body)(const Args&), const Args* args, char* error, size_t error_size) {
  error_text()[0] = 0;
  const Status status = body(*args);
  if (error_size) snprintf(error, error_size, "%s", status ? error_text() : "");
  return status;
}
}  // namespace elman

#define ELMAN_TRY(call)                        \
  do {                                         \
    if (const elman::Status status_ = (call)) return status_; \
  } while (0)

#define ELMAN_ENTRY(function, Args, a)                                                     \
  static elman::Status function##_body(const Args& a);                                     \
  ELMAN_EXPORT int function(const Args* args_, char* error, size_t error_size) {           \
    return elman::enter(function##_body, args_, error, error_size);                        \
  }                                                                                        \
  static elman::Status function##_body(const Args& a)
#define ELMAN_FORWARD(a) ELMAN_ENTRY(elman_forward, args::Forward, a)
#define ELMAN_BACKWARD(a) ELMAN_ENTRY(elman_backward, args::Backward, a)

#ifdef ELMAN_DEVICE
#include <elman/device/launch.cuh>
#else
#include <elman/host/launch.h>
#endif

namespace elman {
ELMAN_FN unsigned lane() { return thread_x() & 31u; }
ELMAN_FN unsigned warp() { return thread_x() >> 5; }
}  // namespace elman
