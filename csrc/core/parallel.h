// Independent pieces of work over a few threads, with progress and cancellation on the calling thread.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>

namespace nanomd {

// Shared by the workers of one call.
struct WorkState {
  std::atomic<std::uint64_t> done{0};
  std::atomic<bool> cancelled{false};
};

// Runs work(worker, piece) for piece = 0 .. n_pieces-1 on up to n_threads threads. `progress` is called on the calling
// thread about twenty times a second with the growth of state.done, and sets state.cancelled when it returns true.
// The first exception of a worker is thrown here once all have stopped.
void parallel_for(std::size_t n_pieces, int n_threads, WorkState& state,
                  const std::function<bool(std::uint64_t)>& progress,
                  const std::function<void(int worker, std::size_t piece)>& work);

}  // namespace nanomd
