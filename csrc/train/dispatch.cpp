#include <cstdlib>

#include "nanomd/check.h"
#include "train/kernels.h"

namespace nanomd::train {

const Kernels& choose_kernels(const std::string& name) {
  std::string wanted = name;
  if (wanted.empty()) {
    const char* forced = std::getenv("NANOMD_ISA");
    if (forced != nullptr) wanted = forced;
  }
  for (const Kernels* kernels : {&avx512_kernels(), &avx2_kernels(), &sse2_kernels()}) {
    if (!wanted.empty() && wanted != kernels->name) continue;
    if (kernels->supported()) return *kernels;
    if (!wanted.empty()) throw UnsupportedError(join("this processor has no ", wanted));
  }
  throw InputError(join("the instruction set must be one of avx512, avx2, sse2, got ", wanted));
}

}  // namespace nanomd::train
