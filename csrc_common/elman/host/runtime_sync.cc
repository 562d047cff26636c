// The host backend's barriers, warp collectives and asynchronous copies: what a fiber calls to wait for others.
// * A collective's lanes must call it at the same file and line, as must a barrier's threads; else it is divergence.
// * The race check hears of every release and acquire.
#include <elman/host/internal.h>

#include <string.h>

#include <algorithm>

namespace elman::host {
namespace {
// Two names that are the same are nearly always one literal, and every arrival asks.
bool same(const char* a, const char* b) { return a == b || !strcmp(a, b); }

void arrive_in_warp(const char* operation, const char* file, int line) {
  Fiber* f = rt.current;
  Warp& w = *f->warp;
  if (!w.arrived) {
    w.operation = operation;
    w.file = file;
    w.line = line;
  } else if (w.line != line || !same(w.operation, operation) || !same(w.file, file)) {
    fail("divergent warp collective: " + where(f) + " is in " + operation + " at " + place(file, line) +
         " while its warp is in " + w.operation + " at " + place(w.file, w.line));
  }
  w.arrived |= 1u << f->lane;
  if (w.arrived != ~0u) return wait_in(&w.waiting, operation, file, line);
  w.arrived = 0;
  ++w.phase;
  make_ready(w.waiting);
}
}  // namespace

void release_block(Block& b) {
  b.arrived = 0;
  ++b.barriers;
  if (elman_race_sync_block) elman_race_sync_block(&b);
  make_ready(b.waiting);
}

const Slot* exchange(const void* value, size_t bytes, const char* operation, const char* file, int line) {
  Warp& w = *rt.current->warp;
  Slot* slots = w.slots[w.phase & 1];
  unsigned char* slot = slots[rt.current->lane].bytes;
  if (bytes == 4)  // nearly always; a call of memcpy costs more than the copy
    memcpy(slot, value, 4);
  else
    memcpy(slot, value, bytes);
  arrive_in_warp(operation, file, line);
  return slots;
}

void sync_warp(const char* file, int line) {
  Warp& w = *rt.current->warp;
  const uint32_t before = w.phase;
  arrive_in_warp("sync_warp", file, line);
  w.fences = before + 1;  // every lane writes the same number; shuffles do not count, since they order no memory
}

void sync_block(const char* file, int line) {
  Block& b = *rt.current->home;
  if (b.arrived == 0) {
    b.file = file;
    b.line = line;
  } else if (b.line != line || !same(b.file, file)) {
    fail("divergent sync_block: " + where(rt.current) + " at " + place(file, line) + ", others at " +
         place(b.file, b.line));
  }
  if (++b.arrived == b.live)
    release_block(b);
  else
    wait_in(&b.waiting, "sync_block", file, line);
}

void add_release(unsigned* counter, unsigned value) {
  if (elman_race_release) elman_race_release(counter);
  *counter += value;
  List woken;
  auto reached = [&](const Runtime::Waiter& w) {
    if (w.counter != counter || (int)(*counter - w.target) < 0) return false;
    push(woken, w.fiber);
    return true;
  };
  rt.waiters.erase(std::remove_if(rt.waiters.begin(), rt.waiters.end(), reached), rt.waiters.end());
  make_ready(woken);
}

void wait_until_acquire(const unsigned* counter, unsigned target, const char* file, int line) {
  if (!rt.cooperative) fail("a wait for other blocks in a launch that is not cooperative, at " + place(file, line));
  if ((int)(*counter - target) < 0) {
    rt.waiters.push_back({counter, target, rt.current});
    wait_in(nullptr, "group barrier", file, line);
  }
  if (elman_race_acquire) elman_race_acquire(counter);
}

void copy16_async(void* to, const void* from, const char* file, int line) {
  check_aligned(to, 16, "copy16_async", file, line);
  check_aligned(from, 16, "copy16_async", file, line);
  rt.current->copies.push_back({to, from, rt.current->copy_groups});
}

void copy_commit() { ++rt.current->copy_groups; }

void copy_wait(int groups_in_flight) {
  Fiber& f = *rt.current;
  auto carry_out = [&](const Copy& c) {
    if (c.group >= f.copy_groups - groups_in_flight) return false;
    if (elman_race_touch) {
      elman_race_touch(c.from, 16, 0, nullptr);
      elman_race_touch(c.to, 16, 1, nullptr);
    }
    memcpy(c.to, c.from, 16);
    return true;
  };
  f.copies.erase(std::remove_if(f.copies.begin(), f.copies.end(), carry_out), f.copies.end());
}

// Words of an exchange. This file is not instrumented, so the race check does not see them: the word is the synchronisation,
// and orders nothing else. What it does see is every other access, as between blocks that never met.
void load_words(void* into, const void* from, size_t bytes) {
  rt.current->looked = rt.published;
  memcpy(into, from, bytes);
}

void publish_word(void* to, const void* value, size_t bytes, const char* file, int line) {
  static const uint64_t absent = ~0ull;
  if (memcmp(to, &absent, bytes)) fail("a word of an exchange is published before it was erased, at " + place(file, line));
  if (!memcmp(value, &absent, bytes)) fail("the mark of an absent word is published as a value, at " + place(file, line));
  memcpy(to, value, bytes);
  ++rt.published;
  rt.news = true;
  maybe_wake_readers();
}

void erase_word(void* word, size_t bytes) { memset(word, 0xFF, bytes); }

void await_words(const char* file, int line) {
  if (!rt.cooperative) fail("a wait for other blocks in a launch that is not cooperative, at " + place(file, line));
  Fiber* f = rt.current;
  rt.news |= f->looked != rt.published;  // others have published between its look and now
  f->looked = rt.published;
  wait_in(&rt.readers, "exchange", file, line);
}
}  // namespace elman::host
