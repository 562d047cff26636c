#pragma once
// Words that blocks of a cooperative launch hand to each other while they run, each word its own ready flag.
// * A word is `absent`, all bits set, until its value is stored; the reader looks at the word itself, so there is no flag, no
//   barrier and no second trip to memory. All bits set is a NaN that no arithmetic and no conversion here makes.
// * Only the word itself travels: neither a store nor a load orders any other memory. Words are used again after an erasure
//   that `fence_words` orders; the family that owns them says why that is enough.
// * load_words takes 16 bytes, of which each 4 (float64: 8) are one word. When some are absent call `await_words` and load again, all
//   lanes of a warp together. A device gives up (trap) after some seconds.
// * The host refuses to publish into a word that is not absent, and knows a deadlock when all threads wait and nothing was published.
#include <elman/launch.cuh>

namespace elman {
struct alignas(16) Words {
  uint32_t w[4];
};

#ifdef ELMAN_DEVICE
ELMAN_FN Words load_words(const void* p) {
  Words v;
  asm volatile("ld.relaxed.gpu.global.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.w[0]), "=r"(v.w[1]), "=r"(v.w[2]), "=r"(v.w[3])
               : "l"(p)
               : "memory");
  return v;
}
ELMAN_FN void publish_word(uint32_t* p, uint32_t v) { asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(p), "r"(v) : "memory"); }
ELMAN_FN void publish_word(uint64_t* p, uint64_t v) { asm volatile("st.relaxed.gpu.global.u64 [%0], %1;" ::"l"(p), "l"(v) : "memory"); }
template <class W> ELMAN_FN void erase_word(W* p) { publish_word(p, W(~W(0))); }
// Orders the thread's own erasures before what it publishes afterwards, and what it has read before its later loads.
ELMAN_FN void fence_words() { asm volatile("fence.acq_rel.gpu;" ::: "memory"); }
ELMAN_FN void await_words(unsigned& tries) {
  if (++tries > 1u << 24) __trap();
}
ELMAN_FN unsigned cycles() { return (unsigned)clock(); }
// Wait until `count` cycles have gone by since `start`.
ELMAN_FN void pause(unsigned start, unsigned count) {
  while (cycles() - start < count) {
  }
}
#else
inline Words load_words(const void* p, ELMAN_SITE) {
  Words v;
  host::check_aligned(p, 16, "load_words", file, line);
  host::load_words(&v, p, sizeof v);
  return v;
}
template <class W> inline void publish_word(W* p, W v, ELMAN_SITE) { host::publish_word(p, &v, sizeof v, file, line); }
template <class W> inline void erase_word(W* p) { host::erase_word(p, sizeof *p); }
inline void fence_words() {}
inline void await_words(unsigned&, ELMAN_SITE) { host::await_words(file, line); }
inline unsigned cycles() { return 0; }
inline void pause(unsigned, unsigned) {}
#endif

// The value to publish where arithmetic could have handed on a NaN with all bits set: another NaN.
template <class W> ELMAN_FN W present(W v) { return v == W(~W(0)) ? W(v >> 1) : v; }
}  // namespace elman
