// Which cache slots hold what, for the three rollout modes. Everything here is a function of the number of tokens
// alone, so that a resumed rollout rebuilds exactly the cache of an uninterrupted one.
//   ring: position p lies in slot p mod W.
//   hop:  window position w lies in slot w; when a token comes and W positions are full, the last `keep` tokens, with
//         this one, are prefilled at positions 0 .. keep-1.
//   crop: every step sees the last W tokens at positions 0 .. W-1; beyond W tokens each step prefills anew.
#pragma once

#include <algorithm>
#include <cstdint>

namespace nanomd {

enum class Mode { kRing, kHop, kCrop };

// The slots that attention reads: [0, end) without [hole_begin, hole_end).
struct SlotRange {
  int end = 0;
  int hole_begin = 0, hole_end = 0;
};

// Tokens in the hop window once `n_tokens` >= 1 have been seen in total.
inline std::int64_t hop_window(std::int64_t n_tokens, std::int64_t window, std::int64_t keep) {
  if (n_tokens <= window) return n_tokens;
  return keep + (n_tokens - window - 1) % (window - keep + 1);
}

inline std::int64_t crop_window(std::int64_t n_tokens, std::int64_t window) { return std::min(n_tokens, window); }

// Slots of a ring in which positions first .. last have been written (last >= first).
inline SlotRange ring_slots(std::uint64_t first, std::uint64_t last, int window) {
  const std::uint64_t W = static_cast<std::uint64_t>(window);
  if (last - first + 1 >= W) return {window, 0, 0};
  const int a = static_cast<int>(first % W), b = static_cast<int>(last % W);
  if (a <= b) return {b + 1, 0, a};
  return {window, b + 1, a};
}

}  // namespace nanomd
