#include <algorithm>
#include <cmath>

#include "nanomd/check.h"
#include "nanomd/philox.h"
#include "nanomd/training_step.h"
#include "train/gradient.h"
#include "train/team.h"
#include "train/thread_memory.h"

namespace nanomd {

using namespace train;  // what this file puts together

namespace {

constexpr int kGroups = 16;       // of windows, at most, whose gradients are added up one after the other
constexpr int kGroupWindows = 2;  // at least: each group costs a gradient to clear and one to add

Objective objective_named(const std::string& name) {
  if (name == "one_pass") return Objective::kOnePass;
  if (name == "two_pass_token") return Objective::kTwoPassToken;
  check(name == "two_pass_hidden", "objective must be one of one_pass, two_pass_token, two_pass_hidden, got ", name);
  return Objective::kTwoPassHidden;
}

void check_shape(const ModelShape& shape, const TrainingOptions& options) {
  check(shape.n_states >= 2 && shape.d_model >= 8 && shape.n_layer >= 1 && shape.n_head >= 1 && shape.d_mlp >= 1,
        "the model has no size");
  check(shape.d_model % shape.n_head == 0 && shape.d_head() % 8 == 0, "d_model / n_head must be a multiple of 8");
  check(shape.n_kv_head >= 1 && shape.n_head % shape.n_kv_head == 0, "n_kv_head must divide n_head");
  check(shape.context_length >= 1, "context_length must be at least 1, got ", shape.context_length);
  check(options.length >= 1, "length must be at least 1, got ", options.length);
  check(!shape.learned_position || options.length <= shape.context_length,
        "with learned positions length must be at most context_length = ", shape.context_length, ", got ",
        options.length);
  check(shape.learned_position == (options.cosine == nullptr), "rotary positions need tables, learned ones none");
  for (const int lag : options.lookahead_lags)
    check(lag >= 2 && lag <= options.length, "lookahead_lags must be in [2, ", options.length, "], got ", lag);
  if (shape.n_layer > kMaxLayers)
    throw UnsupportedError(join("n_layer must be at most ", kMaxLayers, ", got ", shape.n_layer));
}

}  // namespace

struct TrainingStep::State {
  State(const ModelShape& shape, const TrainingOptions& options)
      : dims(shape, {options.dropout, options.final_dropout}, options.length, options.lookahead_lags),
        parameters(parameters_of(dims)),
        packing(dims, parameters),
        kernels(choose_kernels(options.isa)),
        objective(objective_named(options.objective)),
        length(options.length),
        lookahead_weight(options.lookahead_weight),
        gradient(parameters, kernels, packing.places().size, shape.n_states) {
    if (!shape.learned_position) make_tables(options);
  }

  // [cos | cos] and [-sin | sin], a padded head wide: a rotation is then two products and a sum of whole vectors.
  void make_tables(const TrainingOptions& options) {
    const int half = dims.model.d_head() / 2;
    cosine = AlignedBuffer(static_cast<std::size_t>(dims.length) * dims.head);
    sine = AlignedBuffer(static_cast<std::size_t>(dims.length) * dims.head);
    for (int t = 0; t < length; ++t)
      for (int i = 0; i < half; ++i) {
        const std::size_t from = static_cast<std::size_t>(t) * half + i,
                          to = static_cast<std::size_t>(t) * dims.head + i;
        cosine.data()[to] = cosine.data()[to + half] = options.cosine[from];
        sine.data()[to] = -options.sine[from];
        sine.data()[to + half] = options.sine[from];
      }
  }

  void pack(const std::vector<ParameterMemory>& memory, int n_threads) {
    check(memory.size() == parameters.size(), "there must be memory for ", parameters.size(), " parameters");
    std::vector<const float*> values;
    for (const ParameterMemory& parameter : memory) values.push_back(parameter.value);
    packing.pack(values, team, n_threads);
  }

  // A window on its way into a thread.
  struct WindowInput {
    explicit WindowInput(std::size_t length) : tokens(length), targets(length), weight(length), draw(length) {
      replaced.resize(length);
    }
    std::vector<std::int32_t> tokens, targets;
    std::vector<float> weight;
    std::vector<double> draw;
    std::vector<std::uint8_t> replaced;
  };

  void make_threads(int n_threads) {
    while (threads.size() < static_cast<std::size_t>(n_threads)) {
      threads.push_back(std::make_unique<ThreadBuffers>(dims, objective == Objective::kOnePass ? 1 : 2));
      inputs.push_back(std::make_unique<WindowInput>(static_cast<std::size_t>(dims.length)));
    }
  }

  void check_token(std::int64_t token) const {
    check(token >= 0 && token < dims.model.n_states, "tokens must be in [0, ", dims.model.n_states - 1, "], got ",
          token);
  }

  WindowTask task_of(int worker, Range scored) const {
    WindowInput& input = *inputs[static_cast<std::size_t>(worker)];
    WindowTask task{};
    task.dims = &dims;
    task.weights = &packing.weights();
    task.places = &packing.places();
    task.memory = &threads[static_cast<std::size_t>(worker)]->memory;
    task.objective = objective;
    task.cosine = cosine.data();
    task.sine = sine.data();
    task.tokens = input.tokens.data();
    task.targets = input.targets.data();
    task.weight = input.weight.data();
    task.replaced = input.replaced.data();
    task.draw = input.draw.data();
    task.ahead = ahead.data();
    task.scored = scored;
    return task;
  }

  // A target further ahead has the weight of the nearest one where it counts itself, over the sum of these weights.
  void weigh_lookahead(const TrainingBatch& batch, double weight_of_step) {
    ahead.clear();
    for (const int lag : dims.lags) {
      double total = 0.0;
      for (int window = 0; window < batch.n_windows; ++window) {
        const float* weights = batch.weights + static_cast<std::size_t>(window) * length;
        for (int t = 0; t + lag <= length; ++t)
          if (weights[t + lag - 1] > 0.0f) total += static_cast<double>(weights[t]);
      }
      const double share = lookahead_weight / static_cast<double>(dims.lags.size());
      ahead.push_back(static_cast<float>(share * weight_of_step / std::max(total, 1e-6)));
    }
  }

  struct Losses {
    double own = 0.0, ahead = 0.0;
  };
  Losses window_loss(const TrainingBatch& batch, int window, double weight_of_step, int worker,
                     GroupGradient& group) const {
    WindowInput& input = *inputs[static_cast<std::size_t>(worker)];
    const std::size_t first = static_cast<std::size_t>(window) * length;
    Range scored{length, 0};
    for (int t = 0; t < dims.length; ++t) {
      const bool inside = t < length;
      input.tokens[t] = inside ? static_cast<std::int32_t>(batch.tokens[first + t]) : 0;
      input.targets[t] = inside ? static_cast<std::int32_t>(batch.targets[first + t]) : 0;
      const float weight = inside ? batch.weights[first + t] : 0.0f;
      input.weight[t] = static_cast<float>(static_cast<double>(weight) / weight_of_step);
      if (weight != 0.0f) scored = {std::min(scored.begin, t), t + 1};
      input.replaced[t] = 0;
      if (!batch.two_passes || !inside) continue;
      if (objective == Objective::kTwoPassHidden) {
        input.replaced[t] = batch.replaced[first + t];
      } else if (t > 0) {
        const std::uint64_t place = static_cast<std::uint64_t>(window) << 32 | static_cast<std::uint32_t>(t);
        const PhiloxBlock random = philox(batch.mix_key, batch.step, place);
        input.draw[t] = uniform53(random.word[0], random.word[1]);
        input.replaced[t] = uniform53(random.word[2], random.word[3]) < batch.mix_rate;
      }
    }
    if (scored.end == 0) return {};
    WindowTask task = task_of(worker, scored);
    task.two_passes = batch.two_passes;
    task.dropout_key = batch.dropout_key;
    task.window = static_cast<std::uint32_t>(window);
    task.gradient = group.values.data();
    task.touched = group.touched.data();
    kernels.window(task);
    return {task.loss, task.ahead_loss};
  }

  Dims dims;
  std::vector<Parameter> parameters;
  Packing packing;
  const Kernels& kernels;
  Objective objective;
  int length;
  double lookahead_weight;
  std::vector<float> ahead;  // of a step: WindowTask::ahead
  double lookahead_loss = 0.0;
  AlignedBuffer cosine, sine;
  Gradient gradient;
  Team team;
  std::vector<std::unique_ptr<ThreadBuffers>> threads;
  std::vector<std::unique_ptr<WindowInput>> inputs;
};

TrainingStep::TrainingStep(const ModelShape& shape, const TrainingOptions& options) {
  check_shape(shape, options);
  state_ = std::make_unique<State>(shape, options);
}
TrainingStep::~TrainingStep() = default;

const char* TrainingStep::isa() const { return state_->kernels.name; }

std::vector<std::string> TrainingStep::names() const {
  std::vector<std::string> names;
  for (const Parameter& parameter : state_->parameters) names.push_back(parameter.name);
  return names;
}

std::vector<std::size_t> TrainingStep::sizes() const {
  std::vector<std::size_t> sizes;
  for (const Parameter& parameter : state_->parameters)
    sizes.push_back(static_cast<std::size_t>(parameter.rows) * parameter.columns);
  return sizes;
}

double TrainingStep::gradient(const std::vector<ParameterMemory>& memory, const TrainingBatch& batch, int n_threads) {
  State& state = *state_;
  check(batch.n_windows >= 1, "a batch has at least one window, got ", batch.n_windows);
  const std::size_t frames = static_cast<std::size_t>(batch.n_windows) * state.length;
  double weight = 0.0;
  for (std::size_t i = 0; i < frames; ++i) {
    state.check_token(batch.tokens[i]);
    state.check_token(batch.targets[i]);
    weight += static_cast<double>(batch.weights[i]);
  }
  check(weight > 0.0, "a batch must have a target that counts");
  state.pack(memory, n_threads);

  const int n_groups = std::clamp(batch.n_windows / kGroupWindows, 1, kGroups);
  state.gradient.make_groups(n_groups);
  state.make_threads(std::clamp(n_threads, 1, n_groups));
  state.weigh_lookahead(batch, weight);
  std::vector<State::Losses> losses(static_cast<std::size_t>(batch.n_windows));
  state.team.run(static_cast<std::size_t>(n_groups), n_threads, [&](int worker, std::size_t g) {
    GroupGradient& group = state.gradient.group(g);
    state.gradient.clear(group);
    const int windows = batch.n_windows, index = static_cast<int>(g);
    for (int window = index * windows / n_groups; window < (index + 1) * windows / n_groups; ++window)
      losses[window] = state.window_loss(batch, window, weight, worker, group);
  });
  state.gradient.add_up(n_groups, state.team, n_threads);
  double loss = 0.0;
  state.lookahead_loss = 0.0;
  for (const State::Losses& window : losses) {
    loss += window.own;
    state.lookahead_loss += window.ahead;
  }
  return loss;
}

double TrainingStep::lookahead_loss() const { return state_->lookahead_loss; }

void TrainingStep::copy_gradient(std::size_t i, float* out) const { state_->gradient.copy(i, out); }

double TrainingStep::update(const std::vector<ParameterMemory>& memory, const UpdateRule& rule, int n_threads) {
  const Gradient& gradient = state_->gradient;
  check(memory.size() == state_->parameters.size(), "there must be memory for ", state_->parameters.size(),
        " parameters");
  check(rule.t >= 1, "updates are counted from 1, got ", rule.t);
  const double t = static_cast<double>(rule.t);
  AdamW constants{};
  constants.learning_rate = static_cast<float>(rule.learning_rate);
  constants.beta1 = static_cast<float>(rule.beta1);
  constants.beta2 = static_cast<float>(rule.beta2);
  constants.epsilon = static_cast<float>(rule.epsilon);
  constants.scale = static_cast<float>(std::min(1.0, rule.clip / (gradient.norm() + 1e-6)));
  constants.correction1 = static_cast<float>(1.0 - std::pow(rule.beta1, t));
  constants.root_correction2 = static_cast<float>(std::sqrt(1.0 - std::pow(rule.beta2, t)));
  gradient.update(memory, constants, static_cast<float>(rule.weight_decay), state_->team, n_threads);
  return gradient.norm();
}

void TrainingStep::features(const std::vector<ParameterMemory>& memory, const std::int64_t* tokens, int n_windows,
                            int first, float* out, int n_threads) {
  State& state = *state_;
  const std::size_t frames = static_cast<std::size_t>(std::max(n_windows, 0)) * state.length;
  check(first >= 0 && first < state.length, "first must be in [0, ", state.length - 1, "], got ", first);
  for (std::size_t i = 0; i < frames; ++i) state.check_token(tokens[i]);
  state.pack(memory, n_threads);
  state.make_threads(std::clamp(n_threads, 1, std::max(n_windows, 1)));
  state.team.run(static_cast<std::size_t>(std::max(n_windows, 0)), n_threads, [&](int worker, std::size_t window) {
    State::WindowInput& input = *state.inputs[static_cast<std::size_t>(worker)];
    const std::int64_t* from = tokens + window * state.length;
    for (int t = 0; t < state.dims.length; ++t)
      input.tokens[t] = t < state.length ? static_cast<std::int32_t>(from[t]) : 0;
    WindowTask task = state.task_of(worker, {first, state.length});
    task.out = out + window * state.length * state.dims.model.d_model;
    state.kernels.features(task);
  });
}

}  // namespace nanomd
