// The columns kernel's surroundings: half precision, and a step loop that allocates nothing.
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <map>
#include <new>
#include <random>
#include <vector>

#include "cpu/kernels.h"
#include "nanomd/engine.h"
#include "nanomd/half.h"
#include "unit_test.h"

namespace {
std::atomic<long> allocations{0};
}

void* operator new(std::size_t size) {
  ++allocations;
  if (void* memory = std::malloc(size)) return memory;
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

namespace {

using namespace nanomd;

// Owns the tensors of a random model.
struct Weights {
  ModelShape shape;
  std::map<std::string, std::vector<float>> values;
  TensorMap views;
  std::mt19937 random{1};

  void add(const std::string& name, std::vector<std::size_t> dims) {
    std::size_t n = 1;
    for (const std::size_t k : dims) n *= k;
    std::normal_distribution<float> normal(0.0f, 0.3f);
    std::vector<float>& data = values[name];
    for (std::size_t i = 0; i < n; ++i) data.push_back(normal(random));
    views[name] = {data.data(), dims};
  }
  explicit Weights(bool learned, std::vector<int> group_sizes = {}) {
    shape.n_states = 9;
    shape.group_sizes = std::move(group_sizes);
    shape.d_model = 16;
    shape.n_layer = 2;
    shape.n_head = shape.n_kv_head = 2;
    shape.context_length = 20;
    shape.d_mlp = 32;
    shape.learned_position = learned;
    const std::size_t d = 16, V = 9;
    add("embedding.weight", {V, d});
    add("position.weight", {20, d});
    for (int l = 0; l < shape.n_layer; ++l) {
      const std::string block = "blocks." + std::to_string(l) + ".";
      const auto linear = [&](const std::string& name, std::size_t out, std::size_t in) {
        add(block + name + ".weight", {out, in});
        add(block + name + ".bias", {out});
      };
      linear("attention.qkv", 3 * d, d);
      linear("attention.proj", d, d);
      linear("mlp.up", 32, d);
      linear("mlp.down", d, 32);
      for (const char* norm : {"norm1", "norm2"}) {
        add(block + norm + ".weight", {d});
        add(block + norm + ".bias", {d});
      }
    }
    add("norm.weight", {d});
    add("norm.bias", {d});
    add("head.weight", {V, d});
    add("head.bias", {V});
    add("group.weight", {shape.group_sizes.size(), d});
    add("group.bias", {shape.group_sizes.size()});
  }
  std::unique_ptr<RolloutEngine> engine(const std::string& isa, Precision precision) const {
    const std::vector<std::uint32_t> multipliers(shape.learned_position ? 0 : 4, 683565276u);
    return make_cpu_engine(std::make_shared<Model>(shape, views, multipliers, precision), isa);
  }
};

}  // namespace

TEST(every_half_survives_and_every_float_rounds_to_the_nearest) {
  for (std::uint32_t bits = 0; bits < 0x10000u; ++bits) {
    const Half half{static_cast<std::uint16_t>(bits)};
    const float wide = widen(half);
    if ((bits & 0x7fffu) > 0x7c00u) {
      EXPECT(std::isnan(wide) && std::isnan(widen(narrow(wide))));
      continue;
    }
    EXPECT(narrow(wide).bits == half.bits);
    if ((bits & 0x7fffu) >= 0x7bffu) continue;
    // Between neighbours: the nearer one, and of equals the even one.
    const float next = widen({static_cast<std::uint16_t>(bits + 1)}), middle = wide + (next - wide) / 2;
    EXPECT(narrow(middle).bits == (bits % 2 == 0 ? bits : bits + 1));
    EXPECT(narrow(std::nextafter(middle, wide)).bits == bits);
    EXPECT(narrow(std::nextafter(middle, next)).bits == bits + 1);
  }
  EXPECT(narrow(65519.9f).bits == 0x7bffu && narrow(65520.0f).bits == 0x7c00u);
  EXPECT(narrow(-std::numeric_limits<float>::infinity()).bits == 0xfc00u);
  EXPECT(narrow(1e-9f).bits == 0 && narrow(-1e-9f).bits == 0x8000u);
}

TEST(the_step_loop_allocates_nothing) {
  const std::uint16_t prompt[16] = {};
  const std::uint64_t index[16] = {};
  std::vector<std::uint8_t> tokens(16 * 3000);
  for (const Precision precision : {Precision::kFp32, Precision::kFp16Cache, Precision::kFp16})
    for (const Mode mode : {Mode::kRing, Mode::kHop, Mode::kCrop})
      for (const int n_trajs : {1, 3, 16, -16}) {  // negative: of a model with groups of states
        const Weights weights(mode != Mode::kRing, n_trajs < 0 ? std::vector<int>{5, 1, 3} : std::vector<int>{});
        const auto engine = weights.engine("", precision);
        SessionOptions options;
        options.mode = mode;
        options.hop_keep = 10;
        options.n_trajs = std::abs(n_trajs);
        options.history = prompt;
        options.n_history = 1;
        options.trajectory = index;
        const auto session = engine->open(options);
        const auto count = [&](std::uint64_t n_steps) {
          TokenSink sink;
          sink.tokens = tokens.data();
          sink.row_stride = 3000;
          sink.first_index = 0;
          const long before = allocations;
          EXPECT(session->advance(n_steps, sink, nullptr));
          return allocations - before;
        };
        const long few = count(10);  // threads and their bookkeeping
        EXPECT(count(1000) == few);
      }
}

TEST(sixteen_bits_run_on_every_instruction_set) {
  std::vector<std::uint16_t> tokens(60);
  for (std::size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<std::uint16_t>(i * i % 9);
  LogProbOptions options;
  options.n_sequences = 1;
  options.tokens = tokens.data();
  options.n_tokens = tokens.size();
  const Weights weights(false);
  std::vector<float> exact(60 * 9), rounded(60 * 9);
  for (const std::string& isa : available_isas()) {
    EXPECT(weights.engine(isa, Precision::kFp32)->log_probs(options, exact.data(), nullptr));
    EXPECT(weights.engine(isa, Precision::kFp16)->log_probs(options, rounded.data(), nullptr));
    double largest = 0;
    for (std::size_t i = 0; i < exact.size(); ++i)
      largest = std::max(largest, std::abs(static_cast<double>(exact[i] - rounded[i])));
    EXPECT(largest > 1e-6 && largest < 2e-2);
  }
}

TEST_MAIN()
