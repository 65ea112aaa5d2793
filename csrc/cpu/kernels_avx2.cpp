// The kernels compiled for avx2. Only templates over this instruction set's own Vec may be instantiated here: an inline
// function shared with other files could be the copy that the linker keeps, and then run where avx2 is missing.
#include "simd/avx2.h"
// The wrapper comes first: the templates find its functions by argument.
#include "decode_columns.h"
#include "decode_many.h"

namespace nanomd {

namespace {
bool supported() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}
void exp_array(const float* x, float* y, std::size_t n) {
  for (std::size_t i = 0; i < n; i += kLanes) exp_vec(avx2::Vec::load(x + i)).store(y + i);
}
}  // namespace

const Kernels& avx2_kernels() {
  using Vec = avx2::Vec;
  using Wide = Many<Vec, float>;
  using Narrow = Many<Vec, Half>;
  static constexpr Kernels kernels{
      "avx2",
      12,
      supported,
      {Wide::decode, Narrow::decode, Narrow::decode},
      {Columns<Vec, float, float>::decode, Columns<Vec, float, Half>::decode, Columns<Vec, Half, Half>::decode},
      Wide::sample,
      Columns<Vec, float, float>::sample,
      exp_array};
  return kernels;
}

}  // namespace nanomd
