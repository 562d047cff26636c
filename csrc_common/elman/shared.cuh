#pragma once
// A block's shared memory, laid out by one description that the kernel (offsets) and the launch (total) both evaluate.
//
//   struct Layout { Carve c; unsigned w, part; ELMAN_BOTH explicit Layout(int D) : w(c.take<float>(16 * D)), part(c.take<float>(64)) {} };
//   launch(..., Layout(D).c.bytes, ...);                             float* w = shared<float>(at.w, 16 * D);
//
// * Arrays start at multiples of 16 bytes. The content is undefined; on the host it starts as NaN.
// * The host keeps a gap after each array and reports a write into it; `shared` refuses what does not fit the launch.
#include <elman/launch.cuh>

namespace elman {
#ifdef ELMAN_DEVICE
inline constexpr unsigned shared_gap = 0;
template <class T> ELMAN_FN T* shared(unsigned offset, unsigned /*count*/) {
  extern __shared__ __align__(16) unsigned char elman_shared_memory[];
  return reinterpret_cast<T*>(elman_shared_memory + offset);
}
#else
inline constexpr unsigned shared_gap = host::shared_gap;
template <class T> inline T* shared(unsigned offset, unsigned count, ELMAN_SITE) {
  return static_cast<T*>(host::shared_array(offset, sizeof(T) * (size_t)count, alignof(T), file, line));
}
#endif

struct Carve {
  unsigned bytes = 0;

  template <class T> ELMAN_BOTH unsigned take(unsigned count) {
    const unsigned offset = (bytes + 15u) & ~15u;
    bytes = offset + (unsigned)sizeof(T) * count + shared_gap;
    return offset;
  }
};
}  // namespace elman
