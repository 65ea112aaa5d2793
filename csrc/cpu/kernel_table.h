// The table of kernels of one instruction set. Included by the file that is compiled for it, and only templates over
// the set's own Vec may be instantiated there: an inline function shared with other files could be the copy that the
// linker keeps, and then run where the instructions are missing.
#pragma once

#include "decode_columns.h"
#include "decode_lanes.h"
#include "kernels.h"
#include "nearest.h"
#include "simd/math.h"

namespace nanomd {

// Vec: sixteen floats of the instruction set (simd/).
template <class Vec>
void exp_array(const float* x, float* y, std::size_t n) {
  for (std::size_t i = 0; i < n; i += kLanes) exp_vec(Vec::load(x + i)).store(y + i);
}

template <class Vec>
constexpr Kernels kernels_of(const char* name, int column_limit, bool (*supported)()) {
  using Wide = LanePass<Vec, float>;
  using Narrow = LanePass<Vec, Half>;
  Kernels kernels{};
  kernels.name = name;
  kernels.column_limit = column_limit;
  kernels.supported = supported;
  kernels.decode_lanes[static_cast<int>(Precision::kFp32)] = Wide::decode;
  kernels.decode_lanes[static_cast<int>(Precision::kFp16Cache)] = Narrow::decode;
  kernels.decode_lanes[static_cast<int>(Precision::kFp16)] = Narrow::decode;  // sixteen share a weight: read in fp32
  kernels.decode_columns[static_cast<int>(Precision::kFp32)] = ColumnPass<Vec, float, float>::decode;
  kernels.decode_columns[static_cast<int>(Precision::kFp16Cache)] = ColumnPass<Vec, float, Half>::decode;
  kernels.decode_columns[static_cast<int>(Precision::kFp16)] = ColumnPass<Vec, Half, Half>::decode;
  kernels.product[static_cast<int>(Precision::kFp32)] = ColumnPass<Vec, float, float>::to_rows;
  kernels.product[static_cast<int>(Precision::kFp16Cache)] = ColumnPass<Vec, float, float>::to_rows;
  kernels.product[static_cast<int>(Precision::kFp16)] = ColumnPass<Vec, Half, Half>::to_rows;
  kernels.sample_lanes = Wide::sample;
  kernels.sample_column = ColumnPass<Vec, float, float>::sample;
  kernels.exp = exp_array<Vec>;
  kernels.nearest = nearest_centers<Vec>;
  return kernels;
}

}  // namespace nanomd
