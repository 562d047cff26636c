// Equations 1 to 4 of README.md: z, r = sigmoid(wx + W h'), n = tanh(wx + N (r h')), h = (1 - z) h' + z n; wx is a torch product.
// Two products a step (engine.cuh): forward W h', then N (r h'); backward, from d_h of a step, N^T a_n, then W^T [a_z; a_r] (early.cuh).
// kept holds h, z, r and n. Rounded to operands in a bf16 build: h and r h (`h_operand`), and every d_pre (`d_pre`), which is d_wx as stored.
#include <elman/families/gated_recurrence.cuh>

#include "early.cuh"
#include "elman_args.h"

namespace cudagru {
using namespace elman;
using namespace elman::dense;
using S = args::scalar;
using A = args::acc;
using C = args::Constant;
template <bool backward> using Gates = Product<C::CHUNKS, C::TILES, C::SHARED, backward ? 1 : 2, backward ? 2 : 1, C::WHOLE>;
using Candidate = Product<C::N_CHUNKS, C::N_TILES, C::N_SHARED, 1, 1, C::N_WHOLE>;

ELMAN_FN Pair<A> operator*(Pair<A> a, Pair<A> b) { return {a.x * b.x, a.y * b.y}; }
ELMAN_FN Pair<A> operator+(Pair<A> a, Pair<A> b) { return {a.x + b.x, a.y + b.y}; }
ELMAN_FN Pair<A> operator-(Pair<A> a, Pair<A> b) { return {a.x - b.x, a.y - b.y}; }
ELMAN_FN Pair<A> sigmoid(Pair<A> x) { return {sigmoid_of(x.x), sigmoid_of(x.y)}; }
ELMAN_FN Pair<A> slope_of_sigmoid(Pair<A> s) { return {sigmoid_slope(s.x), sigmoid_slope(s.y)}; }

struct Step {
  args::Forward p;
  int T, D;
  // What a thread carries of its channels: the state, and z from the first product to the second.
  struct Carry {
    Pair<A> h, z;
  };
};

// z and r; r h' is what the second product multiplies.
struct GatesPass : Step {
  using Carry = Step::Carry;
  static constexpr int outputs = 1;
  static constexpr bool partial = false;
  struct Input {
    Packed<S> z, r;
  };
  struct Work {
    Pair<A> z, r;
  };
  ELMAN_FN void fetch(const Place& at, Input& in) const {
    const S* const from = p.wx + among(at, 3, at.step, D);
    in.z = load_packed(from), in.r = load_packed(from + D);
  }
  ELMAN_FN Work prepare(const Place&, const Input& in, const Carry&) const { return {unpacked(in.z), unpacked(in.r)}; }
  ELMAN_FN void value(Work& w, const Pair<A> (&sum)[2], Carry& carry, Pair<A> (&out)[1]) const {
    w = {sigmoid(w.z + sum[0]), sigmoid(w.r + sum[1])};
    carry.z = w.z;
    out[0] = w.r * carry.h;
  }
  ELMAN_FN void finish(const Place& at, const Work& w, const Pair<A> (&out)[1]) const {
    A* const to = p.kept + among(at, 4, at.step, D);
    store2_streamed(to + D, w.z.x, w.z.y);
    store2_streamed(to + 2 * D, w.r.x, w.r.y);
    store2_streamed(p.reset + at.cell + (int64_t)at.step * D, out[0].x, out[0].y);
  }
};

// n and the new state.
struct CandidatePass : Step {
  using Carry = Step::Carry;
  static constexpr int outputs = 1;
  static constexpr bool partial = false;
  struct Input {
    Packed<S> n;
  };
  struct Work {
    Pair<A> n;
  };
  ELMAN_FN void first(const Place& at, Carry& carry, Pair<A> (&out)[1]) const { out[0] = carry.h = load2(p.h0 + at.corner); }
  ELMAN_FN void fetch(const Place& at, Input& in) const { in.n = load_packed(p.wx + among(at, 3, at.step, D) + 2 * D); }
  ELMAN_FN Work prepare(const Place&, const Input& in, const Carry&) const { return {unpacked(in.n)}; }
  ELMAN_FN void value(Work& w, const Pair<A> (&sum)[1], Carry& carry, Pair<A> (&out)[1]) const {
    w.n = {tanh_of(w.n.x + sum[0].x), tanh_of(w.n.y + sum[0].y)};
    const Pair<A> one = {1, 1};
    out[0] = carry.h = (one - carry.z) * carry.h + carry.z * w.n;
  }
  ELMAN_FN void finish(const Place& at, const Work& w, const Pair<A> (&out)[1]) const {
    A* const to = p.kept + among(at, 4, at.step, D);
    store2_streamed(to, out[0].x, out[0].y);
    store2_streamed(to + 3 * D, w.n.x, w.n.y);
    store2_streamed(p.y + at.cell + (int64_t)at.step * D, out[0].x, out[0].y);
    if (at.step == T - 1) store2(p.h_last + at.corner, out[0].x, out[0].y);
  }
};

// Backward, step s is time T - 1 - s; step T leaves the gradient of h0.
struct Back {
  args::Backward p;
  int T, D;
  // The gradient of h that arrives past the products that carry it, and a_z from the first product to the second.
  struct Carry {
    Pair<A> d, a_z;
  };
  ELMAN_FN int64_t time(const Place& at) const { return T - 1 - at.step; }
  ELMAN_FN int64_t offset(const Place& at) const { return at.cell + time(at) * D; }
  // Where a step's inputs are; step T has none.
  struct Source {
    const S* d_y;
    const A *kept, *former;
  };
  ELMAN_FN Source locate(const Place& at) const {
    const A* const kept = p.kept + among(at, 4, time(at), D);
    return {p.d_y + offset(at), kept, at.step < T - 1 ? kept - 4 * (int64_t)D : p.h0 + at.corner};
  }
};

// From W^T [a_z; a_r] of the time after: d_h of this one, and a_n of it.
struct StateBack : Back {
  using Carry = Back::Carry;
  static constexpr int outputs = 1;
  static constexpr bool partial = false;
  struct Input {
    Packed<S> d_y;
    Packed<A> z, n, former;
  };
  struct Work {
    Pair<A> d_y, of_n, of_z, past;  // slopes of a_n, a_z and of the state past the products
    Packed<S> former;
  };
  ELMAN_FN void load(const Source& from, Input& in) const {
    in.d_y = load_packed(from.d_y);
    in.z = load_packed(from.kept + D), in.n = load_packed(from.kept + 3 * D), in.former = load_packed(from.former);
  }
  ELMAN_FN void fetch(const Place& at, Input& in) const {
    if (at.step < T) load(locate(at), in);
  }
  ELMAN_FN Work prepare(const Place& at, const Input& in, const Carry&) const {
    const Pair<A> none = {0, 0}, one = {1, 1};
    if (at.step == T) return {none, one, none, none, {}};
    const Pair<A> z = unpacked(in.z), n = unpacked(in.n), former = unpacked(in.former);
    const Pair<A> slope = {tanh_slope(n.x), tanh_slope(n.y)};
    return {unpacked(in.d_y), z * slope, (n - former) * slope_of_sigmoid(z), one - z, packed<S>(former)};
  }
  ELMAN_FN void value(Work& w, const Pair<A> (&sum)[1], Carry& carry, Pair<A> (&out)[1]) const {
    const Pair<A> d = w.d_y + carry.d + sum[0];
    out[0] = d * w.of_n;
    carry = {d * w.past, d * w.of_z};
  }
  ELMAN_FN void finish(const Place& at, const Work& w, const Pair<A> (&out)[1]) const {
    if (at.step == T) return store2(p.d_h0 + at.corner, out[0].x, out[0].y);
    store_streamed(p.former + offset(at), w.former);
    store2_streamed(p.d_wx + among(at, 3, time(at), D) + 2 * D, out[0].x, out[0].y);
  }
};

// From N^T a_n, the gradient of r h': a_r and its share of the former state's gradient.
struct ResetBack : Back {
  using Carry = Back::Carry;
  static constexpr int outputs = 1;
  static constexpr bool partial = false;
  struct Input {
    Packed<A> r, former;
  };
  struct Work {
    Pair<A> r, of_r, a_z;
  };
  ELMAN_FN void first(const Place& at, Carry& carry, Pair<A> (&out)[1]) const {
    // The sum takes the load's wait out of the loop: there it would be one for all loads of its scoreboard, the next step's among them.
    carry.d = load2(p.d_h_last + at.corner) + Pair<A>{0, 0};
    out[0] = {0, 0};  // nothing follows the last step
  }
  ELMAN_FN void load(const Source& from, Input& in) const { in.r = load_packed(from.kept + 2 * D), in.former = load_packed(from.former); }
  ELMAN_FN void fetch(const Place& at, Input& in) const {
    if (at.step < T) load(locate(at), in);
  }
  ELMAN_FN Work prepare(const Place& at, const Input& in, const Carry&) const {
    if (at.step == T) return {};
    const Pair<A> r = unpacked(in.r);
    return {r, unpacked(in.former) * slope_of_sigmoid(r), {}};
  }
  ELMAN_FN void value(Work& w, const Pair<A> (&sum)[1], Carry& carry, Pair<A> (&out)[1]) const {
    w.a_z = carry.a_z;
    out[0] = sum[0] * w.of_r;
    carry.d = carry.d + sum[0] * w.r;
  }
  ELMAN_FN void finish(const Place& at, const Work& w, const Pair<A> (&out)[1]) const {
    if (at.step == T) return;
    S* const to = p.d_wx + among(at, 3, time(at), D);
    store2_streamed(to, w.a_z.x, w.a_z.y);
    store2_streamed(to + D, out[0].x, out[0].y);
  }
};

ELMAN_KERNEL(threads<C>) forward(args::Forward p, Division split) {
  const int T = (int)p.T, D = (int)p.D;
  run<S, C, Gates<false>, Candidate, false>(Matrix<S>{p.W, D, D}, Matrix<S>{p.N, D, D}, p.exchange, split, (int)p.B, T, T, GatesPass{{p, T, D}},
                                            CandidatePass{{p, T, D}});
}
ELMAN_KERNEL(threads<C>) backward(args::Backward p, Division split) {
  const int T = (int)p.T, D = (int)p.D;
  run_back<C, Gates<true>, Candidate>(p.W, p.N, D, p.exchange, split, (int)p.B, T, T + 1, StateBack{{p, T, D}}, ResetBack{{p, T, D}});
}

template <bool back, class Carry, class Args> Status start(void (*kernel)(Args, Division), const char* name, const Args& p) {
  const int64_t width = (back ? 3 : 2) * p.D;
  ELMAN_TRY(check<C>(name, p.B, p.T, width));
  ELMAN_TRY((check<C, Gates<back>>(name, Matrix<S>{p.W, (int)p.D, (int)p.D * (back ? 2 : 1)}, p.B)));
  ELMAN_TRY((check<C, Candidate>(name, Matrix<S>{p.N, (int)p.D, (int)p.D}, p.B)));
  const unsigned bytes = Layout<S, C, Carry, Gates<back>, Candidate>().carve.bytes;
  return launch_pass<C, S>(kernel, name, p.exchange, p.B, width, p.T + back, divide<C>(p.B, p.D, C::TILES), bytes, p.stream, p,
                           divide<C>(p.B, p.D, C::TILES));
}
}  // namespace cudagru

ELMAN_FORWARD(a) { return cudagru::start<false, cudagru::Step::Carry>(cudagru::forward, "cudagru_forward", a); }
ELMAN_BACKWARD(a) { return cudagru::start<true, cudagru::Back::Carry>(cudagru::backward, "cudagru_backward", a); }
