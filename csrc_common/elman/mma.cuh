#pragma once
// One warp's matrix product D += A B on bf16 operands with fp32 accumulators: A [16, 16], B [16, 8], D [16, 8].
// Lane l = 4 g + t (g = l / 4, t = l % 4) holds
//   a[0]: A[g][2t, 2t+1]   a[1]: A[g+8][2t, 2t+1]   a[2]: A[g][2t+8, 2t+9]   a[3]: A[g+8][2t+8, 2t+9]
//   b[0]: B[2t, 2t+1][g]   b[1]: B[2t+8, 2t+9][g]
//   d[0], d[1]: D[g][2t, 2t+1]     d[2], d[3]: D[g+8][2t, 2t+1]
// with the lower index in the low half of a word (PTX ISA, mma.m16n8k16).
// * The host sums the sixteen exact products in fp64 and rounds once; the tensor core's inner order is not specified, so
//   the two agree within rounding, not bit for bit.
#include <elman/launch.cuh>

namespace elman {
#ifdef ELMAN_DEVICE
ELMAN_FN void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#else
inline void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], ELMAN_SITE) {
  struct Operands {
    uint32_t a[4], b[2];
  } mine{{a[0], a[1], a[2], a[3]}, {b[0], b[1]}};
  const host::Slot* slots = host::exchange(&mine, sizeof mine, "mma_m16n8k16_bf16", file, line);
  auto operands = [&](unsigned l) {
    Operands o;
    __builtin_memcpy(&o, slots[l].bytes, sizeof o);
    return o;
  };
  const unsigned g = lane() >> 2, t = lane() & 3;
  for (unsigned r = 0; r < 2; ++r)
    for (unsigned c = 0; c < 2; ++c) {
      double sum = 0;
      for (unsigned q = 0; q < 4; ++q) {
        const Operands row = operands(4 * g + q), column = operands(4 * (2 * t + c) + q);
        for (unsigned half = 0; half < 2; ++half) {
          const Pair<float> x = unpack(row.a[r + 2 * half]), y = unpack(column.b[half]);
          sum += (double)x.x * y.x + (double)x.y * y.y;
        }
      }
      d[2 * r + c] = (float)(d[2 * r + c] + sum);
    }
}
#endif
}  // namespace elman
