// The training step without Python: its gradient by differences, the same bits for any number of threads, and memory
// that the sanitizers watch. Gradients against float64 autograd are tests/test_training_native.py.
#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "cpu/kernels.h"
#include "nanomd/check.h"
#include "nanomd/training_step.h"
#include "unit_test.h"

using namespace nanomd;

namespace {

struct Training {
  ModelShape shape;
  TrainingOptions options;
  std::vector<float> cosine, sine;
  std::vector<std::vector<float>> values, first, second;
  std::vector<std::int64_t> tokens, targets;
  std::vector<float> weights;
  std::vector<std::uint8_t> replaced;
  TrainingBatch batch;
  std::unique_ptr<TrainingStep> step;

  // Frames are no multiple of sixteen, heads neither: the padding is under watch too.
  Training(bool pre, bool learned, const std::string& objective, const std::string& isa = "", int length = 37) {
    shape.n_states = 21;
    shape.d_model = 24;
    shape.n_layer = 2;
    shape.n_head = 3;
    shape.n_kv_head = learned ? 1 : 3;
    shape.context_length = learned ? 50 : 7;
    shape.d_mlp = 48;
    shape.pre_norm = pre;
    shape.gelu = pre;
    shape.learned_position = learned;
    shape.markov_head = true;
    options.length = length;
    options.objective = objective;
    options.isa = isa;
    options.dropout = pre ? 0.1f : 0.0f;
    if (pre && !learned) {
      options.lookahead_lags = {2, 5};
      options.lookahead_weight = 0.5;
    }
    if (!learned) {
      const int half = shape.d_head() / 2;
      for (int t = 0; t < length; ++t)
        for (int i = 0; i < half; ++i) {
          cosine.push_back(static_cast<float>(std::cos(t / (1.0 + 3 * i))));
          sine.push_back(static_cast<float>(std::sin(t / (1.0 + 3 * i))));
        }
      options.cosine = cosine.data();
      options.sine = sine.data();
    }
    step = std::make_unique<TrainingStep>(shape, options);
    std::mt19937 random(7);
    std::normal_distribution<float> normal(0.0f, 0.2f);
    for (const std::size_t size : step->sizes()) {
      std::vector<float>& value = values.emplace_back(size);
      for (float& x : value) x = normal(random);
      first.emplace_back(size, 0.0f);
      second.emplace_back(size, 0.0f);
    }
    batch.n_windows = 7;
    const std::size_t frames = static_cast<std::size_t>(batch.n_windows) * length;
    for (std::size_t i = 0; i < frames; ++i) {
      tokens.push_back(static_cast<std::int64_t>(random() % 21));
      targets.push_back(static_cast<std::int64_t>(random() % 21));
      weights.push_back(i % 11 < 3 ? 0.0f : 1.0f);
      replaced.push_back(random() % 3 == 0);
    }
    batch.tokens = tokens.data();
    batch.targets = targets.data();
    batch.weights = weights.data();
    batch.two_passes = objective != "one_pass";
    batch.mix_rate = 0.4;
    batch.mix_key = 5;
    batch.replaced = replaced.data();
    batch.dropout_key = 9;
  }

  std::vector<ParameterMemory> memory() {
    std::vector<ParameterMemory> all;
    for (std::size_t i = 0; i < values.size(); ++i)
      all.push_back({values[i].data(), first[i].data(), second[i].data()});
    return all;
  }
  double loss(int n_threads = 1) {
    const double own = step->gradient(memory(), batch, n_threads);
    return own + step->lookahead_loss();
  }
  std::vector<float> gradient() const {
    std::vector<float> all;
    for (std::size_t i = 0; i < values.size(); ++i) {
      std::vector<float> own(values[i].size());
      step->copy_gradient(i, own.data());
      all.insert(all.end(), own.begin(), own.end());
    }
    return all;
  }
};

const char* const kObjectives[] = {"one_pass", "two_pass_token", "two_pass_hidden"};

}  // namespace

TEST(the_gradient_is_the_slope_of_the_loss) {
  for (const std::string& isa : available_isas())
    for (const bool pre : {true, false})
      for (const bool learned : {true, false})
        for (const char* objective : {"one_pass", "two_pass_hidden"}) {  // the states drawn by the third would change
          Training training(pre, learned, objective, isa);
          training.loss();
          const std::vector<float> gradient = training.gradient();
          const std::vector<std::vector<float>> before = training.values;
          double square = 0.0;
          for (const float g : gradient) square += static_cast<double>(g) * g;
          double ends[2];
          const double h = 2e-3 / std::sqrt(square);
          for (int side = 0; side < 2; ++side) {
            std::size_t at = 0;
            for (std::size_t i = 0; i < before.size(); ++i)
              for (std::size_t k = 0; k < before[i].size(); ++k)
                training.values[i][k] = before[i][k] + static_cast<float>((side == 0 ? -h : h) * gradient[at++]);
            ends[side] = training.loss();
          }
          EXPECT_NEAR((ends[1] - ends[0]) / (2.0 * h * square), 1.0, 0.01);
        }
}

TEST(threads_change_no_bit) {
  for (const char* objective : kObjectives) {
    Training alone(true, false, objective), together(true, false, objective);
    for (int t = 1; t <= 3; ++t) {
      EXPECT(alone.loss() == together.loss(3));
      EXPECT(alone.gradient() == together.gradient());
      UpdateRule rule;
      rule.learning_rate = 0.01;
      rule.weight_decay = 0.1;
      rule.t = t;
      EXPECT(alone.step->update(alone.memory(), rule, 1) == together.step->update(together.memory(), rule, 3));
      EXPECT(alone.values == together.values && alone.second == together.second);
    }
  }
}

TEST(steps_lower_the_loss) {
  Training training(true, false, "two_pass_token");
  training.batch.dropout_key = 1;
  const double before = training.loss();
  UpdateRule rule;
  rule.learning_rate = 0.01;
  for (rule.t = 1; rule.t <= 60; ++rule.t) {
    training.loss();
    training.step->update(training.memory(), rule, 1);
  }
  EXPECT(training.loss() < 0.7 * before);
}

TEST(windows_of_any_length) {
  for (const int length : {1, 2, 15, 16, 17, 49}) {
    Training training(false, true, "one_pass", "", length);
    EXPECT(std::isfinite(training.loss(2)));
  }
}

TEST(what_does_not_fit_is_refused) {
  Training training(true, false, "one_pass");
  training.tokens[3] = 21;
  EXPECT_THROWS(training.loss(), InputError);
  training.tokens[3] = 0;
  training.weights.assign(training.weights.size(), 0.0f);
  training.batch.weights = training.weights.data();
  EXPECT_THROWS(training.loss(), InputError);
  EXPECT_THROWS(Training(true, true, "one_pass", "", 51), InputError);
  EXPECT_THROWS(Training(true, false, "three_pass"), InputError);
  EXPECT_THROWS(Training(true, false, "one_pass", "mmx"), InputError);
}

TEST_MAIN()
