// h[t] = tanh(wx[t] + W h[t-1]), y[t] = h[t] silu(z[t]): equations 1 and 2 of README.md; wx = W_u u + b is a torch product.
#include <elman/families/dense_recurrence.cuh>

#include "elman_args.h"

namespace e56 {
struct Step : elman::dense::Tanh, elman::dense::SiluGate {};
}  // namespace e56

ELMAN_FORWARD(a) { return elman::dense::forward<e56::Step, args::Constant>("e56_forward", a, a.z); }
ELMAN_BACKWARD(a) { return elman::dense::backward<e56::Step, args::Constant>("e56_backward", a, a.z, a.d_z); }
