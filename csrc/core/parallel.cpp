#include "parallel.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace nanomd {

void parallel_for(std::size_t n_pieces, int n_threads, WorkState& state,
                  const std::function<bool(std::uint64_t)>& progress,
                  const std::function<void(int worker, std::size_t piece)>& work) {
  std::atomic<std::size_t> next{0};
  std::mutex mutex;
  std::condition_variable finished;
  std::exception_ptr failure;
  const int n_workers =
      static_cast<int>(std::min<std::size_t>(n_pieces, static_cast<std::size_t>(std::max(n_threads, 1))));
  int running = 0;

  const auto run = [&](int worker) {
    try {
      for (std::size_t piece; !state.cancelled && (piece = next++) < n_pieces;) work(worker, piece);
    } catch (...) {
      const std::lock_guard<std::mutex> lock(mutex);
      if (!failure) failure = std::current_exception();
      state.cancelled = true;
    }
    const std::lock_guard<std::mutex> lock(mutex);
    --running;
    finished.notify_one();
  };

  std::vector<std::thread> threads;
  {
    const std::lock_guard<std::mutex> lock(mutex);
    try {
      for (int worker = 0; worker < n_workers; ++worker) {
        threads.emplace_back(run, worker);
        ++running;
      }
    } catch (...) {
      failure = std::current_exception();  // no more threads: those that started still have to be joined
      state.cancelled = true;
    }
  }
  std::uint64_t reported = 0;
  const auto report = [&] {
    const std::uint64_t done = state.done;
    if (progress && progress(done - reported)) state.cancelled = true;
    reported = done;
  };
  try {
    for (;;) {
      {
        std::unique_lock<std::mutex> lock(mutex);
        if (finished.wait_for(lock, std::chrono::milliseconds(50), [&] { return running == 0; })) break;
      }
      report();
    }
    for (std::thread& thread : threads) thread.join();
    report();
  } catch (...) {  // the callback threw
    state.cancelled = true;
    for (std::thread& thread : threads)
      if (thread.joinable()) thread.join();
    throw;
  }
  if (failure) std::rethrow_exception(failure);
}

}  // namespace nanomd
