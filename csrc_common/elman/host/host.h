#pragma once
// What compiled kernel code needs from the host runtime: declarations only, so that including it costs no compile time.
// * Every thread of a launch is a fiber on the calling OS thread; it gives way only inside these functions.
// * A failure abandons the launch and becomes its error text; the library stays usable.
#include <stddef.h>
#include <stdint.h>

#ifdef ELMAN_DEVICE
#error "this is the host backend"
#endif

namespace elman::host {
inline constexpr unsigned shared_gap = 16;  // bytes between two shared arrays, watched

struct Here {
  unsigned thread, block;
};
extern const Here* here;           // the running fiber
extern unsigned threads, blocks;  // of the running launch

struct alignas(8) Slot {
  unsigned char bytes[32];
};

// Run one launch. Returns 0, or 1 with the text in `error`. `body(argument)` is run once by every thread.
int run(const char* name, bool cooperative, int64_t blocks, int64_t threads, size_t shared_bytes, void (*body)(void*),
        void* argument, char* error, size_t error_size);

// Give each lane's value to the warp; returns the 32 slots, valid until the lane's next-but-one exchange.
const Slot* exchange(const void* value, size_t bytes, const char* operation, const char* file, int line);
void sync_block(const char* file, int line);
void sync_warp(const char* file, int line);
void add_release(unsigned* counter, unsigned value);
void wait_until_acquire(const unsigned* counter, unsigned target, const char* file, int line);
void* shared_array(unsigned offset, size_t bytes, size_t alignment, const char* file, int line);
void copy16_async(void* to, const void* from, const char* file, int line);
void copy_commit();
void copy_wait(int groups_in_flight);
void load_words(void* into, const void* from, size_t bytes);
void publish_word(void* to, const void* value, size_t bytes, const char* file, int line);
void erase_word(void* word, size_t bytes);
void await_words(const char* file, int line);
[[noreturn]] void misaligned(const void* p, size_t bytes, const char* operation, const char* file, int line);

inline void check_aligned(const void* p, size_t bytes, const char* operation, const char* file, int line) {
  if ((uintptr_t)p % bytes) misaligned(p, bytes, operation, file, line);
}
}  // namespace elman::host
