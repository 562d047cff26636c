#pragma once
// Elementary functions in fp32 and fp64, accurate to a few ulp and free of overflow for every finite argument, and their
// derivatives.
// * A derivative takes what the backward pass has at hand: `tanh_slope` and `sigmoid_slope` the function's value,
//   `silu_slope` and `softplus_slope` its argument.
// * `..._for<T>`, `tanh_each<T>`: for kernels that store T. Where T is bf16 they are built from the base-2 exponential and
//   the reciprocal of the hardware, with absolute errors below 6e-7 (tanh, sigmoid): far below a bf16 spacing, near an fp32
//   one. Otherwise as above.
#include <elman/types.cuh>

// The host uses the compiler's built-ins, since <cmath> costs more to compile than all these headers.
#ifdef ELMAN_DEVICE
#define ELMAN_LIBM(name) ::name
#else
#define ELMAN_LIBM(name) __builtin_##name
#endif

namespace elman {
ELMAN_FN double tanh_of(double x) { return ELMAN_LIBM(tanh)(x); }
ELMAN_FN float exp_of(float x) { return ELMAN_LIBM(expf)(x); }
ELMAN_FN double exp_of(double x) { return ELMAN_LIBM(exp)(x); }
ELMAN_FN float log_of(float x) { return ELMAN_LIBM(logf)(x); }
ELMAN_FN double log_of(double x) { return ELMAN_LIBM(log)(x); }
ELMAN_FN float log1p_of(float x) { return ELMAN_LIBM(log1pf)(x); }
ELMAN_FN double log1p_of(double x) { return ELMAN_LIBM(log1p)(x); }
ELMAN_FN float sqrt_of(float x) { return ELMAN_LIBM(sqrtf)(x); }
ELMAN_FN double sqrt_of(double x) { return ELMAN_LIBM(sqrt)(x); }
#ifdef ELMAN_DEVICE
ELMAN_FN float rsqrt_of(float x) { return ::rsqrtf(x); }
ELMAN_FN double rsqrt_of(double x) { return ::rsqrt(x); }
#else
template <class A> inline A rsqrt_of(A x) { return 1 / sqrt_of(x); }
#endif
// 2^x, 1/x and x^(-1/2) within 2 ulp, tiny values as zero; a b + c, rounded once on the device.
#ifdef ELMAN_DEVICE
ELMAN_FN float exp2_near(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
ELMAN_FN float reciprocal_near(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
ELMAN_FN float rsqrt_near(float x) {
  float y;
  asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
ELMAN_FN float fused(float a, float b, float c) { return __fmaf_rn(a, b, c); }
#else
inline float exp2_near(float x) { return __builtin_exp2f(x); }
inline float reciprocal_near(float x) { return 1 / x; }
inline float rsqrt_near(float x) { return 1 / __builtin_sqrtf(x); }
inline float fused(float a, float b, float c) { return a * b + c; }
#endif
ELMAN_FN float abs_of(float x) { return ELMAN_LIBM(fabsf)(x); }
ELMAN_FN double abs_of(double x) { return ELMAN_LIBM(fabs)(x); }
template <class A> ELMAN_BOTH A max_of(A a, A b) { return a < b ? b : a; }
template <class A> ELMAN_BOTH A min_of(A a, A b) { return b < a ? b : a; }
template <class I> ELMAN_BOTH I ceil_div(I a, I b) { return (a + b - 1) / b; }

// 1 / x within 1 ulp for a normal x whose reciprocal is normal: without the branches that the division of any two numbers takes.
#ifdef ELMAN_DEVICE
ELMAN_FN float reciprocal_of(float x) {
  float r;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
  return __fmaf_rn(r, __fmaf_rn(-x, r, 1.0f), r);  // one Newton step
}
#else
inline float reciprocal_of(float x) { return 1 / x; }
#endif
ELMAN_FN double reciprocal_of(double x) { return 1 / x; }

// x where a < b, else y: both are computed, where a compiler might branch.
#ifdef ELMAN_DEVICE
ELMAN_FN float select_less(float a, float b, float x, float y) {
  float r;
  asm("{ .reg .pred p; setp.lt.f32 p, %1, %2; selp.f32 %0, %3, %4, p; }" : "=f"(r) : "f"(a), "f"(b), "f"(x), "f"(y));
  return r;
}
#else
inline float select_less(float a, float b, float x, float y) { return a < b ? x : y; }
#endif

// Within 3 ulp, and without branches, since a recurrence waits for it: an odd polynomial, fitted with a relative error of 1.5e-8, where the
// difference in the second form would cancel.
ELMAN_FN float tanh_of(float x) {
  const float a = abs_of(x), e = exp_of(-2 * a), z = a * a;
  const float p = (((-0.0066505414f * z + 0.021334155f) * z - 0.05391409f) * z + 0.13333142f) * z - 0.3333333f;
  return ELMAN_LIBM(copysignf)(select_less(a, 0.55f, a + a * (p * z), (1 - e) * reciprocal_of(1 + e)), x);
}

// d tanh / dx = 1 - y^2, written so that nothing cancels near |y| = 1.
#ifdef ELMAN_DEVICE
ELMAN_FN float tanh_slope(float y) { return fused(-y, y, 1.0f); }  // exact before its one rounding
#endif
template <class A> ELMAN_FN A tanh_slope(A y) { return (1 - y) * (1 + y); }

// The exponential's argument is never positive, so it cannot overflow.
template <class A> ELMAN_FN A sigmoid_of(A x) {
  const A e = exp_of(-abs_of(x)), r = reciprocal_of(1 + e);
  return x < 0 ? e * r : r;
}
// d sigmoid / dx = s (1 - s).
template <class A> ELMAN_FN A sigmoid_slope(A s) { return s * (1 - s); }

template <class A> ELMAN_FN A silu_of(A x) { return x * sigmoid_of(x); }
// d silu / dx = s (1 + x (1 - s)), with 1 - s as sigmoid(-x), which keeps its digits.
template <class A> ELMAN_FN A silu_slope(A x) { return sigmoid_of(x) * (1 + x * sigmoid_of(-x)); }

// log(1 + e^x) = max(x, 0) + log1p(e^-|x|).
template <class A> ELMAN_FN A softplus_of(A x) { return max_of(x, A(0)) + log1p_of(exp_of(-abs_of(x))); }
template <class A> ELMAN_FN A softplus_slope(A x) { return sigmoid_of(x); }

template <class T> ELMAN_FN Acc<T> sigmoid_for(Acc<T> x) {
  if constexpr (is_bf16<T>) return reciprocal_near(1 + exp2_near(-1.44269504f * x));
  else return sigmoid_of(x);
}
template <class T> ELMAN_FN Acc<T> rsqrt_for(Acc<T> x) {
  if constexpr (is_bf16<T>) return rsqrt_near(x);
  else return rsqrt_of(x);
}
template <class T> ELMAN_FN Acc<T> silu_for(Acc<T> x) { return x * sigmoid_for<T>(x); }
template <class T> ELMAN_FN Acc<T> silu_slope_for(Acc<T> x) {
  if constexpr (is_bf16<T>) {
    const float s = sigmoid_for<T>(x);
    return s * (1 + x * (1 - s));
  } else {
    return silu_slope(x);
  }
}

// x[i] -> 1 + 1 / x[i], where SHARE = 1 or 2 share one reciprocal, which is dearer than the products around it; with 2 for
// |x[i]| between 2^-60 and 2^60.
template <int SHARE, int COUNT> ELMAN_FN void one_plus_reciprocal(float* x) {
  if constexpr (COUNT >= 2 && SHARE == 2) {
    const float r = reciprocal_near(x[0] * x[1]), x0 = x[0];
    x[0] = fused(r, x[1], 1.0f);
    x[1] = fused(r, x0, 1.0f);
    one_plus_reciprocal<SHARE, COUNT - 2>(x + 2);
  } else if constexpr (COUNT >= 1) {
    x[0] = 1.0f + reciprocal_near(x[0]);
    one_plus_reciprocal<SHARE, COUNT - 1>(x + 1);
  }
}

// tanh of many at once, each given as tanh_scale<T> x: a caller folds that factor into one of x's own. Where T is bf16 it makes
// tanh x = 1 + 1 / y, y = -(1 + 2^(scale x)) / 2.
template <class T> inline constexpr Acc<T> tanh_scale = is_bf16<T> ? 2.88539008 : 1;
template <class T, int SHARE, int COUNT> ELMAN_FN void tanh_each(Acc<T> (&x)[COUNT]) {
  if constexpr (is_bf16<T>) {
#pragma unroll
    for (int i = 0; i < COUNT; ++i) x[i] = fused(-0.5f, exp2_near(SHARE > 1 ? min_of(x[i], 60.0f) : x[i]), -0.5f);
    one_plus_reciprocal<SHARE, COUNT>(x);
  } else {
#pragma unroll
    for (int i = 0; i < COUNT; ++i) x[i] = tanh_of(x[i]);
  }
}
}  // namespace elman
