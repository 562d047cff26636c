// h[t] = tanh(wx[t] + W h[t-1]), y[t] = h[t] silu(z[t]): equations 2 and 3 of README.md; wx = W_x x + b is a torch product.
#include <elman/families/dense_recurrence.cuh>

#include "elman_args.h"

namespace e1 {
struct Step : elman::dense::Tanh, elman::dense::SiluGate {};
}  // namespace e1

ELMAN_FORWARD(a) { return elman::dense::forward<e1::Step, args::Constant>("e1_forward", a, a.z); }
ELMAN_BACKWARD(a) { return elman::dense::backward<e1::Step, args::Constant>("e1_backward", a, a.z, a.d_z); }
