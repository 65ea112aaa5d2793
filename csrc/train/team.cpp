#include "train/team.h"

#include <unistd.h>
#include <xmmintrin.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace nanomd::train {

namespace {

class FlushDenormals {
 public:
  FlushDenormals() : before_(_mm_getcsr()) { _mm_setcsr(before_ | 0x8040u); }
  ~FlushDenormals() { _mm_setcsr(before_); }
  FlushDenormals(const FlushDenormals&) = delete;
  FlushDenormals& operator=(const FlushDenormals&) = delete;

 private:
  unsigned before_;
};

// Waits for some ten microseconds at most: the next phase often comes that soon, and a thread wakes no faster.
template <class Condition>
void spin_until(Condition condition) {
  for (int i = 0; i < 1000 && !condition(); ++i) _mm_pause();
}

}  // namespace

class Team::Crew {
 public:
  void run(std::size_t n_pieces, int n_threads, const Work& work);
  void end();
  bool is_ours() const { return owner_ == getpid(); }

 private:
  void serve(int worker);
  void take_pieces(int worker, const Work& work, std::size_t n_pieces);

  const pid_t owner_ = getpid();
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

Team::Team() : crew_(std::make_unique<Crew>()) {}

Team::~Team() {
  if (crew_->is_ours())
    crew_->end();
  else
    static_cast<void>(crew_.release());  // its threads and who waits for them are the parent's
}

void Team::run(std::size_t n_pieces, int n_threads, const Work& work) {
  if (crew_->is_ours()) return crew_->run(n_pieces, n_threads, work);
  const FlushDenormals flush;  // of a forked process: a thread that is no more may have left the mutex locked
  for (std::size_t piece = 0; piece < n_pieces; ++piece) work(0, piece);
}

void Team::Crew::end() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
    ++number_;
  }
  wake_.notify_all();
  for (std::thread& helper : helpers_) helper.join();
}

void Team::Crew::run(std::size_t n_pieces, int n_threads, const Work& work) {
  const std::size_t most = std::min(n_pieces, static_cast<std::size_t>(std::max(n_threads, 1)));
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    work_ = &work;
    n_pieces_ = n_pieces;
    next_ = 0;
    wanted_ = most > 1 ? static_cast<int>(most) - 1 : 0;
    failure_ = nullptr;
    ++number_;
    try {
      while (helpers_.size() < static_cast<std::size_t>(wanted_))
        helpers_.emplace_back(&Crew::serve, this, static_cast<int>(helpers_.size()) + 1);
    } catch (const std::system_error&) {  // no more threads: those that there are do it
    }
  }
  if (wanted_ > 0) wake_.notify_all();
  take_pieces(0, work, n_pieces);
  if (wanted_ > 0) spin_until([&] { return busy_ == 0; });
  std::unique_lock<std::mutex> lock(mutex_);
  work_ = nullptr;  // who wakes now has come too late
  done_.wait(lock, [&] { return busy_ == 0; });
  if (failure_) std::rethrow_exception(failure_);
}

void Team::Crew::serve(int worker) {
  std::uint64_t seen = 0;
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    wake_.wait(lock, [&] { return stop_ || (work_ != nullptr && number_ != seen && worker <= wanted_); });
    if (stop_) return;
    seen = number_;
    ++busy_;
    const Work& work = *work_;  // lives until this helper is no longer busy
    const std::size_t n_pieces = n_pieces_;
    lock.unlock();
    take_pieces(worker, work, n_pieces);
    lock.lock();
    if (--busy_ == 0) done_.notify_one();
    lock.unlock();
    spin_until([&] { return number_ != seen; });
    lock.lock();
  }
}

void Team::Crew::take_pieces(int worker, const Work& work, std::size_t n_pieces) {
  const FlushDenormals flush;
  try {
    for (std::size_t piece; (piece = next_++) < n_pieces;) work(worker, piece);
  } catch (...) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!failure_) failure_ = std::current_exception();
    next_ = n_pieces;
  }
}

}  // namespace nanomd::train
