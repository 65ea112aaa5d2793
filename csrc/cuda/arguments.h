// What a launch works on.
#pragma once

#include <cstdint>
#include <type_traits>

#include "layout.h"

namespace nanomd::cuda {

enum class Want : std::int32_t { kNothing, kSample, kLogProbs };

// One token through the model. Written by the host, which alone knows of modes: the kernels see slots.
struct StepEntry {
  std::uint64_t step;                      // counter of the random number
  std::uint32_t angle;                     // rotary position, low 32 bits
  std::int32_t slot;                       // of the cache, where this token's keys and values go
  std::int32_t end, hole_begin, hole_end;  // attention reads slots [0, end) without [hole_begin, hole_end)
  std::int32_t position;                   // learned position
  std::int32_t source;                     // column of the history that holds the token
  std::int32_t target;                     // column that takes the drawn state
  std::int32_t column;                     // of the output, or -1
  std::int32_t trail;                      // row of the trail, or -1
  std::int32_t run;                        // lookahead: this token and so many - 1 more may go through together
  Want want;
};

struct Arguments {
  Layout layout;
  const unsigned char* weights = nullptr;
  unsigned char* cache = nullptr;    // [n_trajs][layout.cache_elements()] half or float
  std::uint16_t* history = nullptr;  // [n_trajs][history_stride]
  std::uint64_t history_stride = 0;
  const std::uint64_t* trajectory = nullptr;  // [n_trajs] global indices
  const StepEntry* steps = nullptr;           // [n_steps]
  float* angles = nullptr;                    // [n_steps][d_head / 2][cos, sin]
  void* out = nullptr;                        // [n_trajs][out_stride], elements of item_size bytes
  float* log_probs = nullptr;                 // [n_trajs][out_stride][n_states]
  float* logits = nullptr;                    // [n_tiles][T][logit_stride], where they do not fit in shared memory
  std::uint16_t* trail = nullptr;             // [rows][n_trajs], every token drawn, for the observables
  unsigned char* drafts = nullptr;            // [n_trajs][ranks][layout.draft_bytes], tables of ahead.h
  std::uint32_t* status = nullptr;  // word 0, bit 0: probabilities that are not finite; word 1: passes that drew
  std::uint64_t out_stride = 0;
  std::uint64_t seed = 0;
  float inverse_temperature = 1.0f;
  std::int32_t n_trajs = 0;
  std::int32_t n_steps = 0;
  std::int32_t item_size = 1;
};

// Parameters of a kernel: at most 4 KiB, in constant memory.
static_assert(std::is_trivially_copyable_v<Arguments> && sizeof(Arguments) <= 4096);

inline constexpr std::uint32_t kNotFinite = 1;

}  // namespace nanomd::cuda
