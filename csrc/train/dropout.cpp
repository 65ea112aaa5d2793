#include "nanomd/philox.h"
#include "train/task.h"

namespace nanomd::train {

// Sixteen bits decide, eight features a block of random words; what is kept is divided by the probability that they
// give.
void drop(const WindowTask& task, float rate, int site, int first_row, int rows, float* x, int row) {
  const int width = task.dims->model.d_model;
  const std::uint32_t limit = static_cast<std::uint32_t>(static_cast<double>(rate) * 65536.0 + 0.5);
  const float scale = 65536.0f / static_cast<float>(65536 - limit);
  for (int r = 0; r < rows; ++r, x += row) {
    const std::uint64_t place = static_cast<std::uint64_t>(site) << 32 | static_cast<std::uint32_t>(first_row + r);
    for (int f = 0; f < width; f += 8) {
      const std::uint64_t block = static_cast<std::uint64_t>(task.window) << 32 | static_cast<std::uint32_t>(f / 8);
      const PhiloxBlock random = philox(task.dropout_key, place, block);
      for (int i = 0; i < 8; ++i) {
        const std::uint32_t coin = random.word[i / 2] >> (i % 2 * 16) & 0xffffu;
        x[f + i] = coin < limit ? 0.0f : x[f + i] * scale;
      }
    }
  }
}

}  // namespace nanomd::train
