#pragma once
// What the options of E74 come to, for both kernels; the order of each list is that of binding.py.
#include <elman/elman.cuh>

#include "elman_args.h"

namespace e74 {
using args::acc;
using args::scalar;

enum { DELTA, SIMPLE, EMA, RESIDUAL, NTM, RETRIEVED_GATE, ENERGY_GATE, FIXED_DECAY };
enum { TANH, LINEAR, RMS, FROBENIUS };
enum { OUTPUT, INPUT, RETAIN, STATE };

struct Form {
  using Constant = args::Constant;
  static constexpr bool ema = Constant::UPDATE == EMA, residual = Constant::UPDATE == RESIDUAL, ntm = Constant::UPDATE == NTM;
  static constexpr bool retrieved = Constant::UPDATE == RETRIEVED_GATE, energy = Constant::UPDATE == ENERGY_GATE;
  // A factor of the former state in each row; the delta rule, which reads the memory; a weight of its error, and that one from
  // the state itself.
  static constexpr bool keeps = Constant::UPDATE == SIMPLE || ema || Constant::UPDATE == FIXED_DECAY;
  static constexpr bool reads = Constant::READS;
  static constexpr bool retain = Constant::GATE == RETAIN, memory_gate = retain || Constant::GATE == STATE;
  static constexpr bool weighs = retrieved || energy || memory_gate;
  static constexpr bool modulated = Constant::MODULATED, low_rank = Constant::LOW_RANK, input_gate = Constant::GATE == INPUT;
  static constexpr bool diagonal = Constant::DIAGONAL;
  static constexpr bool tanh = Constant::PHI == TANH, normed = Constant::PHI == RMS || Constant::PHI == FROBENIUS;

  // Raw vectors of a step in `projected`; QUERY and KEY only where these are not in `keys`.
  static constexpr int VECTORS = Constant::VECTORS, PARAMETERS = Constant::PARAMETERS;
  static constexpr int QUERY = 0, KEY = low_rank || Constant::TIED ? 0 : 1, VALUE = low_rank || Constant::TIED == 2 ? 0 : KEY + 1;
  static constexpr int Z = VALUE + 1, LOGIT = Z + modulated, WRITE_LOGIT = LOGIT + 1, GATE = VECTORS - 1;
  // Vectors of `parameters`: z's bias, the update's or the memory gate's one or two, the input gate's bias.
  static constexpr int Z_BIAS = 0, FIRST = modulated, SECOND = FIRST + 1, GATE_BIAS = PARAMETERS - 1;

  // The weight of the error by a memory gate, from its logit, and the derivative of the weight.
  ELMAN_FN static acc share(acc logit) { return elman::sigmoid_for<scalar>(retain ? -logit : logit); }
  ELMAN_FN static acc share_slope(acc share) { return retain ? -elman::sigmoid_slope(share) : elman::sigmoid_slope(share); }

  // Norms: S' = P / (nu + 1e-6) with nu = |P| / root(count). The factor of P, and 1 / (nu count) for the derivative
  // dP = factor G - S' <S', G> / (nu count); nothing flows through a norm of zero. In a bf16 build as exact as its tanh: squares
  // too small for a root of the hardware's are zero beside 1e-6.
  struct Norm {
    acc factor, pull;
  };
  ELMAN_FN static Norm norm(acc squares, int elements) {
    const acc count = Constant::PHI == RMS ? acc(elements) : acc(1), mean = squares * (1 / count);
    if constexpr (elman::is_bf16<scalar>) {
      const acc root = elman::rsqrt_near(elman::max_of(mean, acc(1e-36))), nu = mean * root;
      return {elman::reciprocal_near(nu + acc(1e-6)), mean > 0 ? root * (1 / count) : acc(0)};
    } else {
      const acc nu = elman::sqrt_of(mean);
      return {1 / (nu + acc(1e-6)), nu > 0 ? 1 / (nu * count) : acc(0)};
    }
  }
};
}  // namespace e74
