// The functions of a training step that exist once per instruction set, and the choice among them at run time.
#pragma once

#include <cstddef>
#include <string>

#include "train/task.h"

namespace nanomd::train {

struct AdamW {
  float learning_rate, beta1, beta2, decay, epsilon;
  float scale;             // of the gradient, which clips it
  float correction1;       // 1 - beta1^t
  float root_correction2;  // sqrt(1 - beta2^t)
};

struct Kernels {
  const char* name;
  bool (*supported)();
  void (*window)(WindowTask&);
  void (*features)(WindowTask&);
  void (*sweep)(SweepTask&);
  // Units that dropout keeps: coins of `limit` and more; a bit each, keep [rows][width / 8].
  void (*dropout)(const DropoutDraw& draw, std::uint32_t limit, std::uint8_t* keep);
  // sum += x, n a multiple of 16
  void (*add)(const float* x, float* sum, std::size_t n);
  // Sum of squares, in double, of blocks of 16 partial sums in a fixed order.
  double (*square)(const float* x, std::size_t n);
  // Any alignment: the tensors are the caller's.
  void (*update)(const AdamW& rule, const float* gradient, float* value, float* first, float* second, std::size_t n);
};

const Kernels& sse2_kernels();
const Kernels& avx2_kernels();
const Kernels& avx512_kernels();

// The best that this processor runs, or the one named, as for rollouts (cpu/kernels.h).
const Kernels& choose_kernels(const std::string& name);

}  // namespace nanomd::train
