#pragma once
// Scalar types, and the only places where a value changes format.
// * Storage is float, double or bf16; arithmetic is Acc<T>: fp32 for float and bf16, fp64 for double.
// * load, store: one element. load2, store2: two neighbours in one access, the address aligned to both.
// * load_bits, pack: two bf16 as the 32-bit word that an mma operand takes, the first element in the low half.
// * rounded<T>: what a value becomes by being stored as T and read back (a declared rounding point).
// * bf16 rounds to nearest even, keeps subnormals, and makes every NaN 0x7fff.
#include <elman/backend.cuh>

namespace elman {
struct float32 {};
struct bfloat16 {};
struct float64 {};

struct alignas(2) bf16 {
  uint16_t bits;
};

template <class Name> struct dtype;  // storage type by the name that the build passes
template <> struct dtype<float32> { using type = float; };
template <> struct dtype<bfloat16> { using type = bf16; };
template <> struct dtype<float64> { using type = double; };

template <class T> struct AccOf { using type = float; };
template <> struct AccOf<double> { using type = double; };
template <class T> using Acc = typename AccOf<T>::type;

template <class T> inline constexpr bool is_bf16 = false;
template <> inline constexpr bool is_bf16<bf16> = true;

template <class A> struct Pair {
  A x, y;
};

#ifdef ELMAN_DEVICE
ELMAN_FN float bf16_to_float(bf16 v) { return __uint_as_float((uint32_t)v.bits << 16); }
ELMAN_FN bf16 float_to_bf16(float v) {
  bf16 r;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(r.bits) : "f"(v));
  return r;
}
template <class Word, class T> ELMAN_FN Word load_word(const T* p) { return *reinterpret_cast<const Word*>(p); }
template <class Word, class T> ELMAN_FN void store_word(T* p, Word w) { *reinterpret_cast<Word*>(p) = w; }
using Word2f = float2;
using Word2d = double2;
#else
inline float bf16_to_float(bf16 v) { return __builtin_bit_cast(float, (uint32_t)v.bits << 16); }
inline bf16 float_to_bf16(float v) {
  const uint32_t u = __builtin_bit_cast(uint32_t, v);
  if ((u & 0x7fffffffu) > 0x7f800000u) return {0x7fff};
  return {(uint16_t)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16)};
}
// A device faults on a misaligned wide access, so the host refuses it.
template <class Word, class T> inline Word load_word(const T* p, ELMAN_SITE) {
  host::check_aligned(p, sizeof(Word), "load2", file, line);
  Word w;
  __builtin_memcpy(&w, p, sizeof w);
  return w;
}
template <class Word, class T> inline void store_word(T* p, Word w, ELMAN_SITE) {
  host::check_aligned(p, sizeof(Word), "store2", file, line);
  __builtin_memcpy(p, &w, sizeof w);
}
struct Word2f {
  float x, y;
};
struct Word2d {
  double x, y;
};
#endif

ELMAN_FN float load(const float* p) { return *p; }
ELMAN_FN double load(const double* p) { return *p; }
ELMAN_FN float load(const bf16* p) { return bf16_to_float(*p); }
ELMAN_FN void store(float* p, float v) { *p = v; }
ELMAN_FN void store(double* p, double v) { *p = v; }
ELMAN_FN void store(bf16* p, float v) { *p = float_to_bf16(v); }

template <class T> ELMAN_FN Acc<T> rounded(Acc<T> v) {
  if constexpr (is_bf16<T>) return bf16_to_float(float_to_bf16(v));
  return v;
}

ELMAN_FN uint32_t pack(bf16 low, bf16 high) { return (uint32_t)low.bits | (uint32_t)high.bits << 16; }
ELMAN_FN uint32_t pack(float low, float high) { return pack(float_to_bf16(low), float_to_bf16(high)); }
ELMAN_FN Pair<float> unpack(uint32_t w) {
  return {bf16_to_float({(uint16_t)(w & 0xffffu)}), bf16_to_float({(uint16_t)(w >> 16)})};
}
ELMAN_FN uint32_t load_bits(const bf16* p) { return load_word<uint32_t>(p); }

ELMAN_FN Pair<float> load2(const bf16* p) { return unpack(load_word<uint32_t>(p)); }
ELMAN_FN Pair<float> load2(const float* p) {
  const Word2f w = load_word<Word2f>(p);
  return {w.x, w.y};
}
ELMAN_FN Pair<double> load2(const double* p) {
  const Word2d w = load_word<Word2d>(p);
  return {w.x, w.y};
}
ELMAN_FN void store2(bf16* p, float x, float y) { store_word(p, pack(x, y)); }
ELMAN_FN void store2(float* p, float x, float y) { store_word(p, Word2f{x, y}); }
ELMAN_FN void store2(double* p, double x, double y) { store_word(p, Word2d{x, y}); }
}  // namespace elman
