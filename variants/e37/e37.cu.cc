// h[t] = tanh(W (x[t] + h[t-1]) + b), y[t] = h[t] silu(h[t]), x = silu(u): equations 2 and 3 of README.md.
#include <elman/families/tied_recurrence.cuh>

#include "elman_args.h"

namespace e37 {
struct Step : elman::dense::Tanh, elman::dense::SelfGate {};
}  // namespace e37

ELMAN_FORWARD(a) { return elman::tied::forward<e37::Step, args::Constant>("e37_forward", a); }
ELMAN_BACKWARD(a) { return elman::tied::backward<e37::Step, args::Constant>("e37_backward", a); }
