#include <cmath>
#include <limits>
#include <memory>
#include <numeric>
#include <random>

#include "cpu/kernels.h"
#include "nanomd/check.h"
#include "nanomd/engine.h"
#include "nanomd/rope.h"
#include "nanomd/sampling.h"
#include "unit_test.h"

namespace {

using namespace nanomd;

ModelShape small_shape() {
  ModelShape shape;
  shape.n_states = 13;
  shape.d_model = 24;
  shape.n_layer = 2;
  shape.n_head = 3;
  shape.n_kv_head = 1;
  shape.context_length = 6;
  shape.d_mlp = 40;
  return shape;
}

// Owns the tensors of a random model.
struct Weights {
  std::map<std::string, std::vector<float>> values;
  TensorMap views;
  std::mt19937 random{1};

  void add(const std::string& name, std::vector<std::size_t> shape, float scale = 0.5f) {
    std::size_t n = 1;
    for (const std::size_t k : shape) n *= k;
    std::normal_distribution<float> normal(0.0f, scale);
    std::vector<float>& data = values[name];
    for (std::size_t i = 0; i < n; ++i) data.push_back(normal(random));
    views[name] = {data.data(), shape};
  }
  explicit Weights(const ModelShape& s) {
    const std::size_t d = s.d_model, V = s.n_states;
    add("embedding.weight", {V, d}, 1);
    if (s.learned_position) add("position.weight", {static_cast<std::size_t>(s.context_length), d}, 1);
    for (int l = 0; l < s.n_layer; ++l) {
      const std::string block = "blocks." + std::to_string(l) + ".";
      const auto linear = [&](const std::string& name, std::size_t out, std::size_t in) {
        add(block + name + ".weight", {out, in}, 0.25f);
        add(block + name + ".bias", {out}, 0.1f);
      };
      linear("attention.qkv", s.d_qkv(), d);
      linear("attention.proj", d, d);
      linear("mlp.up", s.d_mlp, d);
      linear("mlp.down", d, s.d_mlp);
      for (const char* norm : {"norm1", "norm2"}) {
        add(block + norm + ".weight", {d});
        add(block + norm + ".bias", {d});
      }
    }
    add("norm.weight", {d});
    add("norm.bias", {d});
    add("head.weight", {V, d});
    add("head.bias", {V});
    if (s.markov_head) add("markov.weight", {V, V});
  }
};

std::vector<std::uint32_t> multipliers(const ModelShape& shape) {
  std::vector<std::uint32_t> m;
  for (int i = 0; i < shape.d_head() / 2; ++i) m.push_back(683565276u >> (2 * i));
  return m;
}

std::unique_ptr<RolloutEngine> make(const ModelShape& shape, const std::string& isa = "", int column_limit = -1) {
  const Weights weights(shape);
  return make_cpu_engine(std::make_shared<Model>(shape, weights.views, multipliers(shape)), isa, column_limit);
}

struct Generated {
  std::vector<std::uint8_t> tokens;
  std::vector<std::uint16_t> history;
};

Generated generate(const RolloutEngine& engine, SessionOptions options, std::uint64_t n_steps) {
  std::vector<std::uint64_t> index(static_cast<std::size_t>(options.n_trajs));
  std::iota(index.begin(), index.end(), 100u);
  options.trajectory = index.data();
  options.seed = 5;
  auto session = engine.open(options);
  Generated out;
  out.tokens.resize(n_steps * index.size());
  TokenSink sink;
  sink.tokens = out.tokens.data();
  sink.row_stride = n_steps;
  sink.first_index = options.first_step;
  EXPECT(session->advance(n_steps, sink, nullptr));
  out.history.resize(session->history_length() * index.size());
  session->copy_history(out.history.data());
  return out;
}

ModelShape shape_for(Mode mode) {
  ModelShape shape = small_shape();
  shape.learned_position = mode != Mode::kRing;
  shape.markov_head = mode == Mode::kHop;
  return shape;
}

}  // namespace

TEST(tokens_depend_on_neither_kernel_nor_threads) {
  const std::vector<std::uint16_t> prompts(19 * 2, 3);
  for (const Mode mode : {Mode::kRing, Mode::kHop, Mode::kCrop})
    for (const std::string& isa : available_isas()) {
      SessionOptions options;
      options.mode = mode;
      options.hop_keep = 2;
      options.n_trajs = 19;
      options.history = prompts.data();
      options.n_history = 2;
      const Generated lanes = generate(*make(shape_for(mode), isa, 0), options, 40);
      const Generated single = generate(*make(shape_for(mode), isa, 16), options, 40);
      options.n_threads = 3;
      const Generated threads = generate(*make(shape_for(mode), isa, 4), options, 40);
      EXPECT(lanes.tokens == single.tokens);
      EXPECT(lanes.tokens == threads.tokens);
      EXPECT(lanes.history == single.history);
    }
}

TEST(resume_is_bit_identical) {
  const std::vector<std::uint16_t> prompts = {1, 2, 3, 4, 5, 6};
  for (const Mode mode : {Mode::kRing, Mode::kHop, Mode::kCrop}) {
    const auto engine = make(shape_for(mode));
    SessionOptions options;
    options.mode = mode;
    options.hop_keep = 3;
    options.n_trajs = 2;
    options.history = prompts.data();
    options.n_history = 3;
    const Generated whole = generate(*engine, options, 50);
    for (std::uint64_t cut = 1; cut < 30; ++cut) {
      const Generated head = generate(*engine, options, cut);
      SessionOptions later = options;
      later.history = head.history.data();
      later.n_history = head.history.size() / 2;
      later.n_before = 3 + cut - later.n_history;
      later.first_step = cut;
      const Generated tail = generate(*engine, later, 50 - cut);
      for (std::size_t row = 0; row < 2; ++row)
        for (std::size_t s = cut; s < 50; ++s)
          EXPECT(whole.tokens[row * 50 + s] == tail.tokens[row * (50 - cut) + s - cut]);
    }
  }
}

TEST(log_probabilities_are_normalised_and_far_positions_agree) {
  const auto engine = make(small_shape());
  std::vector<std::uint16_t> tokens(50);
  for (std::size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<std::uint16_t>(i * i % 13);
  std::vector<float> near(50 * 13), far(50 * 13);
  LogProbOptions options;
  options.n_sequences = 1;
  options.tokens = tokens.data();
  options.n_tokens = tokens.size();
  EXPECT(engine->log_probs(options, near.data(), nullptr));
  options.first_position = 1000000007u;
  EXPECT(engine->log_probs(options, far.data(), nullptr));
  for (std::size_t t = 0; t < 50; ++t) {
    double sum = 0;
    for (std::size_t k = 0; k < 13; ++k) sum += std::exp(static_cast<double>(near[t * 13 + k]));
    EXPECT_NEAR(sum, 1.0, 1e-5);
  }
  for (std::size_t i = 0; i < near.size(); ++i) EXPECT_NEAR(near[i], far[i], 1e-4);
}

TEST(cancelling_stops_and_spends_the_session) {
  const auto engine = make(small_shape());
  const std::uint16_t prompt = 0;
  const std::uint64_t index = 0;
  SessionOptions options;
  options.n_trajs = 1;
  options.history = &prompt;
  options.n_history = 1;
  options.trajectory = &index;
  auto session = engine->open(options);
  EXPECT(!session->advance(std::uint64_t{1} << 40, {}, [](std::uint64_t) { return true; }));
  EXPECT_THROWS(session->advance(1, {}, nullptr), InputError);
  EXPECT_THROWS(
      engine->open(options)->advance(std::uint64_t{1} << 40, {},
                                     [](std::uint64_t) -> bool { throw UnsupportedError("from the callback"); }),
      UnsupportedError);
}

TEST(hop_windows_follow_their_rule) {
  for (int W = 2; W < 9; ++W)
    for (int keep = 1; keep < W; ++keep) {
      std::int64_t window = 0;
      for (std::int64_t n = 1; n < 60; ++n) {
        window = window == W ? keep : window + 1;
        EXPECT(hop_window(n, W, keep) == window);
      }
    }
}

TEST(ring_slots_hold_what_was_written) {
  const int W = 7;
  for (std::uint64_t first = 0; first < 20; ++first)
    for (std::uint64_t last = first; last < first + 20; ++last) {
      std::vector<bool> written(W, false), read(W, false);
      for (std::uint64_t p = first; p <= last; ++p) written[p % W] = true;
      const SlotRange slots = ring_slots(first, last, W);
      for (int s = 0; s < slots.end; ++s) read[s] = s < slots.hole_begin || s >= slots.hole_end;
      EXPECT(written == read);
    }
}

TEST(rotary_angles_depend_on_differences_alone) {
  const std::uint32_t m[2] = {683565276u, 21616232u};
  for (const std::uint64_t base : {std::uint64_t{0}, std::uint64_t{1000000000}, ~std::uint64_t{0} - 50}) {
    float c0[2], s0[2], c1[2], s1[2], c[2], s[2];
    rope_angles(m, 2, base, c0, s0);
    rope_angles(m, 2, base + 5, c1, s1);
    rope_angles(m, 2, 5, c, s);
    for (int i = 0; i < 2; ++i) {
      EXPECT_NEAR(c1[i] * c0[i] + s1[i] * s0[i], c[i], 3e-7);
      EXPECT_NEAR(s1[i] * c0[i] - c1[i] * s0[i], s[i], 3e-7);
    }
  }
}

TEST(sampling_at_the_edges) {
  const float weights[5] = {0.0f, 0.5f, 0.0f, 1.0f, 0.0f};
  EXPECT(sample_state(weights, 5, 0.0) == 1);
  EXPECT(sample_state(weights, 5, 0.333) == 1);
  EXPECT(sample_state(weights, 5, 0.334) == 3);
  EXPECT(sample_state(weights, 5, 1.0 - 0x1.0p-53) == 3);
  EXPECT(sample_state(weights, 5, 1.0) == 3);  // as if rounding had left none
  const float lost[3] = {0.5f, NAN, 0.5f}, nothing[2] = {0.0f, 0.0f};
  EXPECT(sample_state(lost, 3, 0.1) == -1 && sample_state(nothing, 2, 0.5) == -1);
  for (const std::string& isa : available_isas()) {
    const Kernels& kernels = choose_kernels(isa);
    AlignedBuffer logits(16 * 16);
    double u[16];
    std::int32_t many[16], one;
    for (int lane = 0; lane < 16; ++lane) {
      u[lane] = lane == 15 ? 1.0 : lane / 15.0;
      for (int k = 0; k < 5; ++k)
        logits.data()[k * 16 + lane] = weights[k] > 0 ? std::log(weights[k]) : -std::numeric_limits<float>::infinity();
    }
    kernels.sample_lanes(logits.data(), 5, 1.0f, u, many, nullptr);
    for (int lane = 0; lane < 16; ++lane) {
      AlignedBuffer row(16);
      for (int k = 0; k < 5; ++k)
        row.data()[k] = weights[k] > 0 ? std::log(weights[k]) : -std::numeric_limits<float>::infinity();
      kernels.sample_column(row.data(), 5, 1.0f, u[lane], &one, nullptr);
      EXPECT(one == many[lane]);
    }
    EXPECT(many[0] == 1 && many[15] == 3);
  }
}

TEST(bad_models_are_refused) {
  ModelShape shape = small_shape();
  Weights weights(shape);
  EXPECT_THROWS(Model(shape, weights.views, {}), InputError);
  shape.n_head = 5;
  EXPECT_THROWS(Model(shape, weights.views, {}), InputError);
  shape = small_shape();
  weights.values["head.bias"][3] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THROWS(Model(shape, weights.views, multipliers(shape)), InputError);
  weights.views.erase("head.bias");
  EXPECT_THROWS(Model(shape, weights.views, multipliers(shape)), InputError);
  EXPECT_THROWS(choose_kernels("mmx"), InputError);
}

TEST_MAIN()
