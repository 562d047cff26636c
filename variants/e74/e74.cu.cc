// E74: the delta rule S' = tanh(S + (v - S k) k^T) and the forms that are compared with it, on a full, block or low-rank matrix
// state (matrix.cuh) or a diagonal one (diagonal.cuh). Tensors and constants: binding.py. Equations: README.md.
#include "matrix.cuh"

ELMAN_FORWARD(a) { return elman::matrix_state::any_forward<e74::Step>(a, "e74_forward"); }
ELMAN_BACKWARD(a) { return elman::matrix_state::any_backward<e74::Step>(a, "e74_backward"); }
