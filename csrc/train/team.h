// Threads that share the pieces of a training step, and sleep between two phases of it.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>

namespace nanomd::train {

// A step has four phases (pack, gradient, sum, update), the short ones of some ten microseconds: less than a thread
// takes to start, or to wake. So threads stay, the calling one takes pieces at once, and it never waits for a helper
// that has not begun. A forked process has no helpers: there the caller does all, and nobody is waited for at the end.
class Team {
 public:
  using Work = std::function<void(int worker, std::size_t piece)>;

  Team();
  ~Team();
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  // work(worker, piece) for all pieces, on up to n_threads threads, of which the caller is worker 0. Denormals count as
  // zero: they are slow, and no moment of that size moves a weight. The first exception is thrown here.
  void run(std::size_t n_pieces, int n_threads, const Work& work);

 private:
  class Crew;
  std::unique_ptr<Crew> crew_;
};

}  // namespace nanomd::train
