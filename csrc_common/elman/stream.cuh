#pragma once
// Words that a pass reads or writes once: inputs, results and what is saved. They are the first that the L2 cache gives up, so that what
// blocks exchange step by step stays there: a publication into a line that has left it waits for device memory.
// * load_streamed, store_streamed: one word, as load_word and store_word. store2_streamed: two neighbours, as store2.
#include <elman/types.cuh>

namespace elman {
#ifdef ELMAN_DEVICE
ELMAN_FN uint32_t load_streamed(const bf16* p) { return __ldcs(reinterpret_cast<const uint32_t*>(p)); }
ELMAN_FN Word2f load_streamed(const float* p) {
  const float2 w = __ldcs(reinterpret_cast<const float2*>(p));
  return {w.x, w.y};
}
ELMAN_FN Word2d load_streamed(const double* p) {
  const double2 w = __ldcs(reinterpret_cast<const double2*>(p));
  return {w.x, w.y};
}
ELMAN_FN void store_streamed(bf16* p, uint32_t w) { __stcs(reinterpret_cast<uint32_t*>(p), w); }
ELMAN_FN void store_streamed(float* p, Word2f w) { __stcs(reinterpret_cast<float2*>(p), float2{w.x, w.y}); }
ELMAN_FN void store_streamed(double* p, Word2d w) { __stcs(reinterpret_cast<double2*>(p), double2{w.x, w.y}); }
#else
inline uint32_t load_streamed(const bf16* p, ELMAN_SITE) { return load_word<uint32_t>(p, file, line); }
inline Word2f load_streamed(const float* p, ELMAN_SITE) { return load_word<Word2f>(p, file, line); }
inline Word2d load_streamed(const double* p, ELMAN_SITE) { return load_word<Word2d>(p, file, line); }
template <class T, class Word> inline void store_streamed(T* p, Word w, ELMAN_SITE) { store_word(p, w, file, line); }
#endif
ELMAN_FN void store2_streamed(bf16* p, float x, float y) { store_streamed(p, pack(x, y)); }
ELMAN_FN void store2_streamed(float* p, float x, float y) { store_streamed(p, Word2f{x, y}); }
ELMAN_FN void store2_streamed(double* p, double x, double y) { store_streamed(p, Word2d{x, y}); }
}  // namespace elman
