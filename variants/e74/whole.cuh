#pragma once
// E74's forms that need a number of the whole state in each step, as its norm, on <elman/families/matrix_state.cuh>: the plan of
// a block, and the sum over a state's warps. Such a Step says `coupled = true`, and calls `whole_sum` in its forward step and in
// its derivative; what the forward pass made of its sums it notes (`note`), so that the backward pass sums once a step for each
// of them and its replay not at all.
// * A block holds one state, whose warps, the consumers, wait for each other inside a step, but not for the producers.
// * In the forward pass a lane holds its part of a state over a factor, lane.factor, that the next step's product with the memory
//   need not wait for.
#include <elman/families/matrix_state.cuh>
#include <elman/roles.cuh>

namespace elman::matrix_state {
template <class Step>
concept Coupled = requires { requires Step::coupled; };

template <class Step, bool BACKWARD> struct WholeShared;

// As the family's Plan for one state a block; see there.
template <class Step, bool BACKWARD>
  requires Coupled<Step>
struct Plan<Step, BACKWARD> {
  static constexpr bool backward = BACKWARD;
  static constexpr int N = Step::N, M = Step::M, heads = 1;
  static constexpr Shape shape = choose(N, M, BACKWARD, false);
  using Tile = matrix_state::Tile<N, M, shape.R, shape.C>;
  static constexpr bool split = Tile::lanes <= 256, apart = false;
  static constexpr int consumers = Tile::lanes, chunk = BACKWARD || M > 64 ? Step::K : 16 / Step::K * Step::K, items = chunk;
  static constexpr int together = 32 / Step::Team::width;
  static_assert(Step::K % together == 0, "the teams of a warp must all have a step, since they shuffle together");
  static constexpr int producers = split ? min_of(items / together, BACKWARD ? 2 : 4) * 32 : consumers;
  static constexpr int threads = split ? consumers + producers : consumers;
  static constexpr int teams = producers / Step::Team::width, passes = ceil_div(items, teams);
  static constexpr bool even = passes * teams == items;
  static_assert(items <= producers);
  static constexpr bool joint = split && Tile::R * Tile::C <= 10, ahead = split && Tile::R * Tile::C <= 16;
  static constexpr int unrolled = joint ? 4 : ahead ? 2 : 1, share = 2;
  static constexpr bool turned = BACKWARD && joint && N * M <= 1024 && Tile::KG < 32 && Tile::C % 2 == 0;
  static constexpr bool staged = BACKWARD && joint && N * M <= 1024 && Tile::C * sizeof(Acc<typename Step::Scalar>) == 16;

  // The barrier of a sum, and the one between two stages.
  ELMAN_FN static void meet() {
    if constexpr (split) Roles<consumers, threads>::meet(WholeShared<Step, BACKWARD>::mark());
    else sync_block();
  }
  ELMAN_FN static void end_stage() {
    if constexpr (split) Roles<consumers, threads>::meet_all(WholeShared<Step, BACKWARD>::mark());
    else sync_block();
  }
};

// How many partial sums of a warp, a power of two, its state's warps exchange: all of them a few wide reads, where adding them up
// in the warp takes a shuffle for each halving. SAME neighbouring lanes have the same summand.
ELMAN_DIVISION int parts_of_warp(int warps, int same) {
  const int most = same > 1 && warps > 4 ? 8 : 16;  // of a state of many rows: fewer registers
  int parts = 1;
  while (warps > 1 && 2 * parts * warps <= most && 2 * parts * same <= 32) parts *= 2;
  return parts;
}

// A pass's shared memory, and after it the parts of two sums, one after the other; the mark of the roles' barriers; and in the
// forward pass what the steps of the last two chunks noted.
template <class Step, bool BACKWARD> struct WholeShared {
  using A = Acc<typename Step::Scalar>;
  using Plan = matrix_state::Plan<Step, BACKWARD>;
  static constexpr unsigned part_count = 16 > Plan::Tile::warps ? 16 : Plan::Tile::warps;
  static constexpr unsigned steps = 2 * Plan::chunk, notes = BACKWARD ? 0 : steps * Step::noted_numbers;
  static ELMAN_BOTH Carve pass() {
    if constexpr (BACKWARD) return BackwardShared<Step>().carve;
    else return ForwardShared<Step>().carve;
  }
  Carve carve = pass();
  unsigned part = carve.take<A>(2 * part_count), word = carve.take<unsigned>(1), noted = carve.take<A>(notes);
  ELMAN_FN static A* parts(int turn) { return shared<A>(WholeShared().part, 2 * part_count) + turn * part_count; }
  ELMAN_FN static unsigned* mark() { return shared<unsigned>(WholeShared().word, 1); }
};

// A lane of such a state: it counts steps, and knows where the parts of the next sum lie and those of the one after it, in turn: a
// place is written again when all have been at the sum between.
template <class Step> struct Uncoupled : Step {
  static constexpr bool coupled = false;
};
template <class Step, class Plan>
  requires Coupled<Step>
struct Lane<Step, Plan> : Lane<Uncoupled<Step>, Plan> {
  using Base = Lane<Uncoupled<Step>, Plan>;
  using typename Base::A;
  using Base::C, Base::R;
  using Shared = WholeShared<Step, Plan::backward>;
  mutable A factor = 1, *parts = Shared::parts(0), *next_parts = Shared::parts(1);
  mutable unsigned steps = 0;
  ELMAN_FN explicit Lane(int thread) : Base(thread) {}
  ELMAN_FN void part(A (&sum)[R], const A (&s)[R][C], const A (&x)[C]) const {
    Base::part(sum, s, x);
#pragma unroll
    for (int r = 0; r < R; ++r) sum[r] *= factor;
  }
  ELMAN_FN void store_state(A* state, const A (&s)[R][C]) const {
    A scaled[R][C];
#pragma unroll
    for (int r = 0; r < R; ++r)
#pragma unroll
      for (int c = 0; c < C; ++c) scaled[r][c] = factor * s[r][c];
    Base::store_state(state, scaled);
  }
};

template <class Lane> inline constexpr bool walks_back = false;
template <class Step, class Plan>
  requires Coupled<Step>
inline constexpr bool walks_back<Lane<Step, Plan>> = Plan::backward;

// The sum of x over all lanes of a state, or over every SAMEth where as many have the same; the same bits in each of them. All
// its threads call it together.
template <int SAME = 1, class Step, class Plan, class A> ELMAN_FN A whole_sum(const Lane<Step, Plan>& at, A x) {
  using Shared = WholeShared<Step, Plan::backward>;
  constexpr int warps = Plan::Tile::warps, parts = parts_of_warp(warps, SAME), total = warps * parts;
  static_assert((parts & (parts - 1)) == 0 && SAME * parts <= 32 && total <= (int)Shared::part_count, "halved down to these");
#pragma unroll
  for (int mask = 16; mask >= SAME * parts; mask /= 2) x += shfl_xor(x, mask);
  if constexpr (warps > 1) {
    A *to = at.parts, all[total], some[4] = {};
    at.parts = at.next_parts;
    at.next_parts = to;
    if ((int)lane() < SAME * parts && lane() % SAME == 0) to[warp() * parts + lane() / SAME] = x;
    Plan::meet();
    read(all, to);
#pragma unroll
    for (int i = 0; i < total; ++i) some[i % 4] = i < 4 ? all[i] : some[i % 4] + all[i];
    x = (some[0] + some[1]) + (some[2] + some[3]);
  }
  return x;
}

// Forward: keep x, number i of this step, for the producers, who take a step's numbers from `noted` in the next stage.
template <class Step> ELMAN_FN Acc<typename Step::Scalar>* noted(unsigned step) {
  using Shared = WholeShared<Step, false>;
  return shared<Acc<typename Step::Scalar>>(Shared().noted, Shared::notes) + step % Shared::steps * Step::noted_numbers;
}
template <class Step, class Plan, class A> ELMAN_FN void note(const Lane<Step, Plan>& at, int i, A x) {
  if (thread_x() == 0) noted<Step>(at.steps)[i] = x;
}

// As forward and backward of the family, for any Step.
template <class Step, class Args> Status any_forward(const Args& a, const char* name) {
  if constexpr (Coupled<Step>)
    return launch_pass<Plan<Step, false>>(forward_kernel<Step, Args>, name, a, WholeShared<Step, false>().carve.bytes);
  else return forward<Step>(a, name);
}
template <class Step, class Args> Status any_backward(const Args& a, const char* name) {
  if constexpr (Coupled<Step>)
    return launch_pass<Plan<Step, true>>(backward_kernel<Step, Args>, name, a, WholeShared<Step, true>().carve.bytes);
  else return backward<Step>(a, name);
}
}  // namespace elman::matrix_state
