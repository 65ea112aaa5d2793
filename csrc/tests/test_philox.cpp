#include "nanomd/philox.h"
#include "unit_test.h"

// Known answers of Random123 for philox4x32-10: (key, counter) all zero, all one, and digits of pi.
TEST(known_answers) {
  const nanomd::PhiloxBlock zero = nanomd::philox(0, 0, 0);
  EXPECT(zero.word[0] == 0x6627e8d5u && zero.word[1] == 0xe169c58du);
  EXPECT(zero.word[2] == 0xbc57ac4cu && zero.word[3] == 0x9b00dbd8u);
  const std::uint64_t ones = ~0ull;
  const nanomd::PhiloxBlock one = nanomd::philox(ones, ones, ones);
  EXPECT(one.word[0] == 0x408f276du && one.word[1] == 0x41c83b0eu);
  EXPECT(one.word[2] == 0xa20bc7c6u && one.word[3] == 0x6d5451fdu);
  const nanomd::PhiloxBlock pi = nanomd::philox(0x299f31d0a4093822ull, 0x85a308d3243f6a88ull, 0x0370734413198a2eull);
  EXPECT(pi.word[0] == 0xd16cfe09u && pi.word[1] == 0x94fdccebu);
  EXPECT(pi.word[2] == 0x5001e420u && pi.word[3] == 0x24126ea1u);
}

TEST(uniforms_cover_the_unit_interval) {
  EXPECT(nanomd::uniform53(0, 0) == 0.0);
  EXPECT(nanomd::uniform53(~0u, ~0u) == 1.0 - 0x1.0p-53);
  double sum = 0;
  const int n = 200000;
  for (int i = 0; i < n; ++i) sum += nanomd::rollout_uniform(7, static_cast<std::uint64_t>(i), 3);
  EXPECT_NEAR(sum / n, 0.5, 5 * 0.2887 / std::sqrt(n));
}

TEST_MAIN()
