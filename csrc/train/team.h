// Threads that share the pieces of a training step, and sleep between two phases of it.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace nanomd::train {

// A step has four phases (pack, gradient, sum, update), the short ones of some ten microseconds: less than a thread
// takes to start, or to wake. So threads stay, the calling one takes pieces at once, and it never waits for a helper
// that has not begun.
class Team {
 public:
  using Work = std::function<void(int worker, std::size_t piece)>;

  Team() = default;
  ~Team();
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  // work(worker, piece) for all pieces, on up to n_threads threads, of which the caller is worker 0. Denormals count as
  // zero: they are slow, and no moment of that size moves a weight. The first exception is thrown here.
  void run(std::size_t n_pieces, int n_threads, const Work& work);

 private:
  void serve(int worker);
  void take_pieces(int worker, const Work& work, std::size_t n_pieces);

  std::vector<std::thread> helpers_;
  std::mutex mutex_;
  std::condition_variable wake_, done_;
  // Of the work under way: written under the mutex.
  const Work* work_ = nullptr;
  std::size_t n_pieces_ = 0;
  std::atomic<std::size_t> next_{0};
  int wanted_ = 0;  // helpers
  std::atomic<int> busy_{0};
  std::atomic<std::uint64_t> number_{0};  // of the work
  std::exception_ptr failure_;
  bool stop_ = false;
};

}  // namespace nanomd::train
