// E74: the delta rule S' = tanh(S + (v - S k) k^T) and the forms that are compared with it, on a full, block or low-rank matrix
// state (matrix.cuh) or a diagonal one (diagonal.cuh). Tensors and constants: binding.py. Equations: README.md.
#include "diagonal.cuh"
#include "matrix.cuh"

namespace e74 {
template <class Args> elman::Status run_forward(const Args& a) {
  if constexpr (Form::diagonal) return elman::launch(diagonal_forward<Args>, "e74_forward", a.B * a.H, 32, 0, a.stream, a);
  else return elman::matrix_state::any_forward<Step>(a, "e74_forward");
}
template <class Args> elman::Status run_backward(const Args& a) {
  if constexpr (Form::diagonal) return elman::launch(diagonal_backward<Args>, "e74_backward", a.B * a.H, 32, 0, a.stream, a);
  else return elman::matrix_state::any_backward<Step>(a, "e74_backward");
}
}  // namespace e74

ELMAN_FORWARD(a) { return e74::run_forward(a); }
ELMAN_BACKWARD(a) { return e74::run_backward(a); }
