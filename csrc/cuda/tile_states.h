// The end of a pass of RolloutTile: states drawn, and with lookahead what goes through next and what stands.
#pragma once

#include "tile.h"

namespace nanomd::cuda {

// Every rank draws for itself, from the same numbers; the first one writes.
template <class Exec, int kTiles, int kGroup, bool kPrecise>
NANOMD_TILE void RolloutTile<Exec, kTiles, kGroup, kPrecise>::draw() {
  bool finite = true;
  // Logits in device memory are one copy for all ranks, so only the first may turn them into weights.
  const bool alone = exec_.rank() == 0;
  if (alone || m_.logits_in_shared) {
    NANOMD_NO_UNROLL
    for (int j = 0; j < kPerWarp; ++j) {
      const int t = own(j);
      if (t >= n_) break;
      const StepEntry& at = entry(t);
      const float* markov = s_.markov_head ? reinterpret_cast<const float*>(arg_.weights + w_.markov) +
                                                 static_cast<std::size_t>(token_of(t)) * s_.n_states
                                           : nullptr;
      float* z = logits(t);
      bool good;
      if (at.want == Want::kSample) {
        good = make_weights(exec_, z, s_.n_states, markov, arg_.inverse_temperature);
        const int state = draw_state(exec_, z, s_.n_states, uniform(t));
        if (exec_.lane() == 0) {
          if (ahead())
            drafts().drawn[t] = good ? state : -1;
          else
            keep(t, good ? state : 0);  // no state where nothing is finite, and the next step reads the row of one
        }
        good = good || ahead();  // whether it stands shows when all have drawn
      } else {
        const std::size_t row = static_cast<std::size_t>(trajectory(t)) * arg_.out_stride + at.column;
        good = write_log_probs(exec_, z, s_.n_states, markov, alone ? arg_.log_probs + row * s_.n_states : nullptr);
      }
      finite = good && finite;
    }
    if (!finite && exec_.lane() == 0) exec_.raise(arg_.status, kNotFinite);
  }
  if (!m_.logits_in_shared) exec_.sync_all();  // the other ranks take the state from the history
}

template <class Exec, int kTiles, int kGroup, bool kPrecise>
NANOMD_TILE double RolloutTile<Exec, kTiles, kGroup, kPrecise>::uniform(int t) const {
  return rollout_uniform(arg_.seed, entry(t).step, exec_.constant(arg_.trajectory + trajectory(t)));
}

// By one lane of every rank: the state that followed column t.
template <class Exec, int kTiles, int kGroup, bool kPrecise>
NANOMD_TILE void RolloutTile<Exec, kTiles, kGroup, kPrecise>::keep(int t, int state) {
  const StepEntry& at = entry(t);
  history(t)[at.target] = static_cast<std::uint16_t>(state);
  if (exec_.rank() > 0) return;
  if (at.trail >= 0)
    arg_.trail[static_cast<std::size_t>(at.trail) * arg_.n_trajs + trajectory(t)] = static_cast<std::uint16_t>(state);
  if (at.column < 0) return;
  const std::size_t place = static_cast<std::size_t>(trajectory(t)) * arg_.out_stride + at.column;
  if (arg_.item_size == 1)
    static_cast<std::uint8_t*>(arg_.out)[place] = static_cast<std::uint8_t>(state);
  else
    static_cast<std::uint16_t*>(arg_.out)[place] = static_cast<std::uint16_t>(state);
}

// Before a pass: which tokens go through, known ones or guesses.
template <class Exec, int kTiles, int kGroup, bool kPrecise>
NANOMD_TILE void RolloutTile<Exec, kTiles, kGroup, kPrecise>::draft() {
  exec_.sync();  // what the last pass kept and learnt
  n_ = entry(0).run;
  const bool known = entry(0).want != Want::kSample;
  if (exec_.warp() == 0) {
    int state = history(0)[entry(0).source], before = before_ < 0 ? state : before_;
    for (int t = 0; t < n_; ++t) {
      if (t > 0) {
        const int next = known ? history(0)[entry(t).source] : guess(exec_, table(), before, state, uniform(t - 1));
        before = state;
        state = next;
      }
      if (exec_.lane() == 0) drafts().token[t] = state;
    }
  }
  exec_.sync();
}

// After a pass: what stands of it is kept, learnt from, and copied to its slots.
template <class Exec, int kTiles, int kGroup, bool kPrecise>
NANOMD_TILE void RolloutTile<Exec, kTiles, kGroup, kPrecise>::settle() {
  stood_ = n_;
  if (entry(0).want == Want::kSample) {
    exec_.sync();  // all columns have drawn
    ++passes_;
    for (stood_ = 1; stood_ < n_ && drafts().drawn[stood_ - 1] == drafts().token[stood_];) ++stood_;
    const int t = own(0);
    if (t < stood_) {
      const int state = drafts().drawn[t], token = drafts().token[t];
      const int earlier = t > 0 ? drafts().token[t - 1] : before_;
      if (state < 0 && exec_.lane() == 0) exec_.raise(arg_.status, kNotFinite);
      if (exec_.lane() == 0) keep(t, state < 0 ? 0 : state);
      // Rows are shared: the latest column of a row learns, so that all ranks learn the same.
      bool latest = earlier >= 0 && state >= 0;
      for (int later = t + 1; later < stood_ && latest; ++later)
        latest = table().row(table().pair(drafts().token[later - 1], drafts().token[later])) !=
                 table().row(table().pair(earlier, token));
      if (latest) learn(exec_, table(), earlier, token, logits(t));
    }
  }
  before_ = drafts().token[stood_ - 1];
  // Keys and values, 16 bytes a thread, all threads of all ranks. The next pass writes the other bank, and reads after
  // a barrier.
  const int pieces = arg_.layout.d_head * kCacheElement / 16, rows = s_.n_layer * s_.n_kv_head * 2;
  unsigned char* base = cache(0, 0, 0, false);
  for (int i = exec_.rank() * kThreads + exec_.thread(); i < (stood_ - 1) * rows * pieces;
       i += exec_.ranks() * kThreads) {
    const int piece = i % pieces, row = i / pieces % rows, t = 1 + i / pieces / rows;
    unsigned char* head = base + row * arg_.layout.head_cache * kCacheElement + piece * 16;
    const Words4 words = exec_.load_cache(head + (spare(bank_) + t - 1) * arg_.layout.d_head * kCacheElement);
    store_wide(head + entry(t).slot * arg_.layout.d_head * kCacheElement, words);
  }
  bank_ = 1 - bank_;
}

}  // namespace nanomd::cuda
