#pragma once
// E74's forms that need a number of the whole state in each step, as its norm, on <elman/families/matrix_state.cuh>: the plan of a
// block, and the sum over a state's warps. Such a Step says `coupled = true`, and calls `whole_sum` in its forward step and in its
// derivative; what the forward pass summed it notes (`note`), so that the backward pass sums once a step and its replay not at all.
// * A block holds one state. While its warps wait for each other inside a step, the producers wait with them: they meet at every
//   barrier of a step until the consumers say that the stage has ended, and do their work on the way to the first of these.
#include <elman/families/matrix_state.cuh>

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
  static constexpr bool split = Tile::lanes <= 256, lockstep = split && Tile::warps > 1, apart = BACKWARD && lockstep;
  static constexpr int consumers = Tile::lanes, chunk = BACKWARD || M > 64 ? Step::K : 16 / Step::K * Step::K, items = chunk;
  static constexpr int together = 32 / Step::Team::width;
  static_assert(Step::K % together == 0, "the teams of a warp must all have a step, since they shuffle together");
  static constexpr int producers = split ? min_of(items / together, BACKWARD ? 2 : 4) * 32 : consumers;
  static constexpr int threads = split ? consumers + (apart ? 2 : 1) * producers : consumers;
  static constexpr int teams = producers / Step::Team::width, passes = ceil_div(items, teams);
  static constexpr bool even = passes * teams == items;
  static_assert(items <= producers);
  static constexpr bool joint = split && Tile::R * Tile::C <= 10, ahead = split && Tile::R * Tile::C <= 16;
  static constexpr int unrolled = joint ? 4 : ahead ? 2 : 1, share = 2;
  static constexpr bool turned = BACKWARD && joint && N * M <= 1024 && Tile::KG < 32 && Tile::C % 2 == 0;
  static constexpr bool staged = BACKWARD && joint && N * M <= 1024 && Tile::C * sizeof(Acc<typename Step::Scalar>) == 16;

  ELMAN_FN static void meet() {
    if constexpr (split) sync_roles<threads>();
    else sync_block();
  }
  ELMAN_FN static void end_stage() {
    if constexpr (lockstep) {
      unsigned* ended = shared<unsigned>(WholeShared<Step, BACKWARD>().ended, 1);
      const bool steps = thread_x() < consumers;
      bool last;
      do {
        if (thread_x() == 0) *ended = 1;
        meet();
        last = *ended;
        meet();
      } while (!steps && !last);
    } else {
      meet();
    }
  }
};

// How many partial sums of a warp, a power of two, its state's warps exchange: all of them a few wide reads, where adding them up
// in the warp takes a shuffle for each halving. SAME neighbouring lanes have the same summand.
ELMAN_DIVISION int parts_of_warp(int warps, int same) {
  int parts = 1;
  while (warps > 1 && 2 * parts * warps <= 16 && 2 * parts * same <= 32) parts *= 2;
  return parts;
}

// A pass's shared memory, and after it the parts of up to two sums, the mark of a stage's end, and in the forward pass what the
// steps of the last two chunks summed.
template <class Step, bool BACKWARD> struct WholeShared {
  using A = Acc<typename Step::Scalar>;
  using Plan = matrix_state::Plan<Step, BACKWARD>;
  static constexpr unsigned part_count = 16 > Plan::Tile::warps ? 16 : Plan::Tile::warps;
  static constexpr unsigned steps = 2 * Plan::chunk, notes = BACKWARD ? 0 : steps * Step::sums;
  static ELMAN_BOTH Carve pass() {
    if constexpr (BACKWARD) return BackwardShared<Step>().carve;
    else return ForwardShared<Step>().carve;
  }
  Carve carve = pass();
  unsigned part = carve.take<A>(part_count), ended = carve.take<unsigned>(1), noted = carve.take<A>(notes);
};

template <class Lane> inline constexpr bool walks_back = false;
template <class Step, class Plan> inline constexpr bool walks_back<Lane<Step, Plan>> = Plan::backward;

// The sum of x over all lanes of a state, or over every SAMEth where as many have the same; the same bits in each of them. All its
// threads call it together.
template <int SAME = 1, class Step, class Plan, class A> ELMAN_FN A whole_sum(const Lane<Step, Plan>&, A x) {
  using Shared = WholeShared<Step, Plan::backward>;
  constexpr int warps = Plan::Tile::warps, parts = parts_of_warp(warps, SAME), total = warps * parts;
#pragma unroll
  for (int mask = 16; mask >= SAME * parts; mask /= 2) x += shfl_xor(x, mask);
  if constexpr (warps > 1) {
    const Shared at;
    A *to = shared<A>(at.part, Shared::part_count), all[total], some[4] = {};
    if ((int)lane() < SAME * parts && lane() % SAME == 0) to[warp() * parts + lane() / SAME] = x;
    if (Plan::lockstep && thread_x() == 0) *shared<unsigned>(at.ended, 1) = 0;
    Plan::meet();
    read(all, to);
    Plan::meet();  // before the next call writes there
#pragma unroll
    for (int i = 0; i < total; ++i) some[i % 4] = i < 4 ? all[i] : some[i % 4] + all[i];
    x = (some[0] + some[1]) + (some[2] + some[3]);
  }
  return x;
}

// Forward: keep x, sum i of a step, for the producers, who take the step's sums from `noted` in the next stage.
template <class Step> ELMAN_FN Acc<typename Step::Scalar>* noted(int step) {
  using Shared = WholeShared<Step, false>;
  return shared<Acc<typename Step::Scalar>>(Shared().noted, Shared::notes) + step % Shared::steps * Step::sums;
}
template <class Step, class Plan, class A> ELMAN_FN void note(const Lane<Step, Plan>&, int step, int i, A x) {
  if (thread_x() == 0) noted<Step>(step)[i] = x;
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
