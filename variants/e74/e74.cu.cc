// E74: the delta rule S' = tanh(S + (v - S k) k^T) and the forms that are compared with it, on a full, block or low-rank matrix
// state (matrix.cuh) or a diagonal one (walk.cuh). Tensors and constants: binding.py. Equations: README.md.
#include "matrix.cuh"
#include "walk.cuh"

namespace e74 {
template <class Args> elman::Status run_forward(const Args& a) {
  if constexpr (Form::diagonal) return elman::launch(diagonal::forward<Args>, "e74_forward", a.B * a.H, diagonal::threads, diagonal::Forward().carve.bytes, a.stream, a);
  else return elman::matrix_state::any_forward<Step>(a, "e74_forward");
}
template <class Args> elman::Status run_backward(const Args& a) {
  if constexpr (Form::diagonal) return elman::launch(diagonal::backward<Args>, "e74_backward", a.B * a.H, diagonal::threads, diagonal::Backward().carve.bytes, a.stream, a);
  else return elman::matrix_state::any_backward<Step>(a, "e74_backward");
}
}  // namespace e74

ELMAN_FORWARD(a) { return e74::run_forward(a); }
ELMAN_BACKWARD(a) { return e74::run_backward(a); }
