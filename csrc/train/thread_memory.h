// The activations and scratch memory of one thread: one window at a time.
#pragma once

#include <vector>

#include "train/task.h"

namespace nanomd::train {

class ThreadBuffers {
 public:
  // `passes`: 2 where a first pass keeps its activations for a gradient of its own, or for states to be drawn from.
  ThreadBuffers(const Dims& dims, int passes);
  ThreadMemory memory{};

 private:
  float* floats(std::size_t n);
  Moments* moments(std::size_t n);
  void make_pass(const Dims& dims, PassMemory& pass);

  std::vector<AlignedBuffer> buffers_;
  std::vector<std::int32_t> pending_;
  std::vector<std::uint8_t> keep_;
};

}  // namespace nanomd::train
