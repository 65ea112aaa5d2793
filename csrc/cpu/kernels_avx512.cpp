// The kernels compiled for avx512. Only templates over this instruction set's own Vec may be instantiated here: an
// inline function shared with other files could be the copy that the linker keeps, and then run where avx512 is
// missing.
#include "simd/avx512.h"
// The wrapper comes first: the templates find its functions by argument.
#include "decode_columns.h"
#include "decode_many.h"

namespace nanomd {

namespace {
bool supported() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
void exp_array(const float* x, float* y, std::size_t n) {
  for (std::size_t i = 0; i < n; i += kLanes) exp_vec(avx512::Vec::load(x + i)).store(y + i);
}
}  // namespace

const Kernels& avx512_kernels() {
  using Vec = avx512::Vec;
  using Wide = Many<Vec, float>;
  using Narrow = Many<Vec, Half>;
  static constexpr Kernels kernels{
      "avx512",
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
