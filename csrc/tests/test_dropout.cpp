// Units that dropout keeps, of every instruction set: the bits of scalar Philox, whatever the shape of the rows.
#include <vector>

#include "cpu/kernels.h"
#include "nanomd/philox.h"
#include "train/kernels.h"
#include "unit_test.h"

using namespace nanomd;

TEST(vectors_draw_the_bits_of_scalar_philox) {
  for (const std::string& isa : available_isas())
    for (const int width : {16, 32, 48, 64, 80, 128, 512})
      for (const int rows : {1, 3, 16, 64})
        for (const std::uint32_t limit : {1u, 13107u, 32768u, 65535u}) {
          const train::DropoutDraw draw{0x9e3779b97f4a7c15ull, 0xfffffffeu, 63, 48, rows, width};
          const std::size_t n = static_cast<std::size_t>(rows) * width / 8;
          std::vector<std::uint8_t> keep(n + 1, 0xa5);
          train::choose_kernels(isa).dropout(draw, limit, keep.data());
          std::size_t wrong = 0;
          for (int r = 0; r < rows; ++r)
            for (int b = 0; b < width / 8; ++b) {
              const PhiloxBlock random =
                  philox(draw.key, static_cast<std::uint64_t>(draw.site) << 32 | static_cast<std::uint32_t>(48 + r),
                         static_cast<std::uint64_t>(draw.window) << 32 | static_cast<std::uint32_t>(b));
              std::uint8_t bits = 0;
              for (int i = 0; i < 8; ++i) {
                const std::uint32_t coin = random.word[i / 2] >> (i % 2 * 16) & 0xffffu;
                if (coin >= limit) bits = static_cast<std::uint8_t>(bits | 1u << i);
              }
              wrong += keep[static_cast<std::size_t>(r) * (width / 8) + b] != bits;
            }
          EXPECT(wrong == 0);
          EXPECT(keep[n] == 0xa5);  // nothing is written beyond the last row
        }
}

TEST_MAIN()
