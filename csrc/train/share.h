// Work shared by threads that treat denormals as zero.
#pragma once

#include <xmmintrin.h>

#include "core/parallel.h"

namespace nanomd::train {

// Denormals are slow, and no moment of that size moves a weight: they count as zero, as in the training loop's threads.
class FlushDenormals {
 public:
  FlushDenormals() : before_(_mm_getcsr()) { _mm_setcsr(before_ | 0x8040u); }
  ~FlushDenormals() { _mm_setcsr(before_); }
  FlushDenormals(const FlushDenormals&) = delete;
  FlushDenormals& operator=(const FlushDenormals&) = delete;

 private:
  unsigned before_;
};

// work(worker, piece) on up to n_threads threads; on one, without any other.
template <class Work>
void share(std::size_t n_pieces, int n_threads, Work work) {
  if (n_threads <= 1 || n_pieces <= 1) {
    const FlushDenormals flush;
    for (std::size_t piece = 0; piece < n_pieces; ++piece) work(0, piece);
    return;
  }
  WorkState state;
  parallel_for(n_pieces, n_threads, state, {}, [&](int worker, std::size_t piece) {
    const FlushDenormals flush;
    work(worker, piece);
  });
}

}  // namespace nanomd::train
