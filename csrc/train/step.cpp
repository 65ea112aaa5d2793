#include <xmmintrin.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>

#include "core/parallel.h"
#include "nanomd/check.h"
#include "nanomd/philox.h"
#include "nanomd/training_step.h"
#include "train/kernels.h"
#include "train/thread_memory.h"

namespace nanomd {

using namespace train;  // what this file puts together

namespace {

constexpr int kGroups = 16;         // of windows, at most, whose gradients are added up one after the other
constexpr int kGroupWindows = 2;    // at least: each group costs a gradient to clear and one to add
constexpr int kPieceFloats = 8192;  // of an update, at least

// Denormals are slow, and no moment of that size moves a weight: they count as zero, as in the training loop's threads.
class FlushDenormals {
 public:
  FlushDenormals() : before_(_mm_getcsr()) { _mm_setcsr(before_ | 0x8040u); }
  ~FlushDenormals() { _mm_setcsr(before_); }
  FlushDenormals(const FlushDenormals&) = delete;
  FlushDenormals& operator=(const FlushDenormals&) = delete;

 private:
  unsigned before_;
};

// work(worker, piece) on up to n_threads threads; on one, without any other.
template <class Work>
void share(std::size_t n_pieces, int n_threads, Work work) {
  if (n_threads <= 1 || n_pieces <= 1) {
    const FlushDenormals flush;
    for (std::size_t piece = 0; piece < n_pieces; ++piece) work(0, piece);
    return;
  }
  WorkState state;
  parallel_for(n_pieces, n_threads, state, {}, [&](int worker, std::size_t piece) {
    const FlushDenormals flush;
    work(worker, piece);
  });
}

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
  if (shape.n_layer > kMaxLayers)
    throw UnsupportedError(join("n_layer must be at most ", kMaxLayers, ", got ", shape.n_layer));
}

}  // namespace

const train::Kernels& train::choose_kernels(const std::string& name) {
  std::string wanted = name;
  if (wanted.empty()) {
    const char* forced = std::getenv("NANOMD_ISA");
    if (forced != nullptr) wanted = forced;
  }
  for (const Kernels* kernels : {&avx512_kernels(), &avx2_kernels(), &sse2_kernels()}) {
    if (!wanted.empty() && wanted != kernels->name) continue;
    if (kernels->supported()) return *kernels;
    if (!wanted.empty()) throw UnsupportedError(join("this processor has no ", wanted));
  }
  throw InputError(join("the instruction set must be one of avx512, avx2, sse2, got ", wanted));
}

struct TrainingStep::State {
  State(const ModelShape& shape, const TrainingOptions& options)
      : dims(shape, {options.dropout, options.final_dropout}, options.length),
        parameters(parameters_of(dims)),
        packing(dims, parameters),
        kernels(choose_kernels(options.isa)),
        objective(objective_named(options.objective)),
        length(options.length),
        total(packing.places().size) {
    was_touched.assign(static_cast<std::size_t>(shape.n_states), 0);
    any_touched = was_touched;
    if (!shape.learned_position) make_tables(options);
    make_pieces();
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

  // Rows of a parameter that one thread adds up and updates.
  struct Piece {
    std::size_t parameter;
    int first, rows;
  };
  void make_pieces() {
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      const int height = std::max(1, kPieceFloats / parameters[i].stride());
      for (int row = 0; row < parameters[i].padded_rows(); row += height)
        pieces.push_back({i, row, std::min(height, parameters[i].padded_rows() - row)});
    }
    squares.resize(pieces.size());
  }

  struct Group {
    Group(std::size_t size, int n_states) : gradient(size), touched(static_cast<std::size_t>(n_states), 0) {}
    AlignedBuffer gradient;
    std::vector<std::uint8_t> touched;
  };

  // What a thread needs besides its activations to begin a window.
  struct WindowInput {
    explicit WindowInput(std::size_t length) : tokens(length), targets(length), weight(length), draw(length) {
      replaced.resize(length);
    }
    std::vector<std::int32_t> tokens, targets;
    std::vector<float> weight;
    std::vector<double> draw;
    std::vector<std::uint8_t> replaced;
  };

  void make_room(int n_groups, int n_threads) {
    while (groups.size() < static_cast<std::size_t>(n_groups))
      groups.push_back(std::make_unique<Group>(packing.places().size, dims.model.n_states));
    while (threads.size() < static_cast<std::size_t>(n_threads)) {
      threads.push_back(std::make_unique<ThreadBuffers>(dims, objective == Objective::kOnePass ? 1 : 2));
      inputs.push_back(std::make_unique<WindowInput>(static_cast<std::size_t>(dims.length)));
    }
  }

  void clear(Group& group) const {
    float* gradient = group.gradient.data();
    for (const Parameter& parameter : parameters) {
      float* own = gradient + parameter.offset;
      if (!parameter.by_token) {
        std::fill_n(own, parameter.padded_size(), 0.0f);
        continue;
      }
      for (std::size_t token = 0; token < group.touched.size(); ++token)
        if (group.touched[token]) std::fill_n(own + token * parameter.stride(), parameter.stride(), 0.0f);
    }
    std::fill(group.touched.begin(), group.touched.end(), std::uint8_t{0});
  }

  double window_loss(const TrainingBatch& batch, int window, double weight_of_step, int worker, Group& group) const {
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
    if (scored.end == 0) return 0.0;
    WindowTask task{};
    task.dims = &dims;
    task.weights = &packing.weights();
    task.places = &packing.places();
    task.memory = &threads[static_cast<std::size_t>(worker)]->memory;
    task.objective = objective;
    task.two_passes = batch.two_passes;
    task.cosine = cosine.data();
    task.sine = sine.data();
    task.tokens = input.tokens.data();
    task.targets = input.targets.data();
    task.weight = input.weight.data();
    task.replaced = input.replaced.data();
    task.draw = input.draw.data();
    task.scored = scored;
    task.dropout_key = batch.dropout_key;
    task.window = static_cast<std::uint32_t>(window);
    task.gradient = group.gradient.data();
    task.touched = group.touched.data();
    kernels.window(task);
    return task.loss;
  }

  // Adds up the groups' rows of a piece; the sum of their squares.
  double add_groups(const Piece& piece, int n_groups) {
    const Parameter& parameter = parameters[piece.parameter];
    const std::size_t stride = static_cast<std::size_t>(parameter.stride());
    double square = 0.0;
    const auto rows = [&](int first, int n) {
      const std::size_t offset = parameter.offset + static_cast<std::size_t>(first) * stride;
      const std::size_t size = static_cast<std::size_t>(n) * stride;
      std::fill_n(total.data() + offset, size, 0.0f);
      for (int g = 0; g < n_groups; ++g)
        if (!parameter.by_token || groups[g]->touched[first])
          kernels.add(groups[g]->gradient.data() + offset, total.data() + offset, size);
      square += kernels.square(total.data() + offset, size);
    };
    if (!parameter.by_token) {
      rows(piece.first, piece.rows);
      return square;
    }
    const int last = std::min(piece.first + piece.rows, parameter.rows);
    for (int row = piece.first; row < last; ++row)
      if (any_touched[row] || was_touched[row]) rows(row, 1);
    return square;
  }

  void update_piece(const Piece& piece, const ParameterMemory& memory, AdamW rule, double decay) const {
    const Parameter& parameter = parameters[piece.parameter];
    rule.decay = parameter.decayed ? static_cast<float>(decay) : 0.0f;
    for (int row = 0; row < parameter.rows; ++row) {
      const int padded = parameter.padded_row(row);
      if (padded < piece.first || padded >= piece.first + piece.rows) continue;
      const float* gradient = total.data() + parameter.offset + static_cast<std::size_t>(padded) * parameter.stride();
      for (int c = 0; c < parameter.columns; c += parameter.column_chunk) {
        const std::size_t at = static_cast<std::size_t>(row) * parameter.columns + c;
        kernels.update(rule, gradient + Parameter::place(c, parameter.column_chunk, parameter.column_padded),
                       memory.value + at, memory.first + at, memory.second + at,
                       static_cast<std::size_t>(std::min(parameter.column_chunk, parameter.columns - c)));
      }
    }
  }

  Dims dims;
  std::vector<Parameter> parameters;
  Packing packing;
  const Kernels& kernels;
  Objective objective;
  int length;
  AlignedBuffer cosine, sine;
  AlignedBuffer total;  // the gradient
  double norm = 0.0;
  std::vector<Piece> pieces;
  std::vector<double> squares;
  std::vector<std::unique_ptr<Group>> groups;
  std::vector<std::unique_ptr<ThreadBuffers>> threads;
  std::vector<std::unique_ptr<WindowInput>> inputs;
  std::vector<std::uint8_t> was_touched, any_touched;
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
  check(memory.size() == state.parameters.size(), "there must be memory for ", state.parameters.size(), " parameters");
  check(batch.n_windows >= 1, "a batch has at least one window, got ", batch.n_windows);
  const std::size_t frames = static_cast<std::size_t>(batch.n_windows) * state.length;
  double weight = 0.0;
  for (std::size_t i = 0; i < frames; ++i) {
    for (const std::int64_t token : {batch.tokens[i], batch.targets[i]})
      check(token >= 0 && token < state.dims.model.n_states, "tokens must be in [0, ", state.dims.model.n_states - 1,
            "], got ", token);
    weight += static_cast<double>(batch.weights[i]);
  }
  check(weight > 0.0, "a batch must have a target that counts");
  std::vector<const float*> values;
  for (const ParameterMemory& parameter : memory) values.push_back(parameter.value);
  state.packing.pack(values);

  const int n_groups = std::clamp(batch.n_windows / kGroupWindows, 1, kGroups);
  state.make_room(n_groups, std::min(std::max(n_threads, 1), n_groups));
  std::vector<double> losses(static_cast<std::size_t>(batch.n_windows));
  share(static_cast<std::size_t>(n_groups), n_threads, [&](int worker, std::size_t g) {
    State::Group& group = *state.groups[g];
    state.clear(group);
    const int windows = batch.n_windows, index = static_cast<int>(g);
    for (int window = index * windows / n_groups; window < (index + 1) * windows / n_groups; ++window)
      losses[window] = state.window_loss(batch, window, weight, worker, group);
  });

  state.was_touched = state.any_touched;
  for (std::size_t token = 0; token < state.any_touched.size(); ++token) {
    state.any_touched[token] = 0;
    for (int g = 0; g < n_groups; ++g) state.any_touched[token] |= state.groups[g]->touched[token];
  }
  share(state.pieces.size(), n_threads,
        [&](int, std::size_t i) { state.squares[i] = state.add_groups(state.pieces[i], n_groups); });
  double square = 0.0, loss = 0.0;
  for (const double piece : state.squares) square += piece;
  for (const double window : losses) loss += window;
  state.norm = std::sqrt(square);
  return loss;
}

void TrainingStep::copy_gradient(std::size_t i, float* out) const {
  check(i < state_->parameters.size(), "there are ", state_->parameters.size(), " parameters, got ", i);
  const Parameter& parameter = state_->parameters[i];
  for (int row = 0; row < parameter.rows; ++row) {
    const float* from = state_->total.data() + parameter.offset +
                        static_cast<std::size_t>(parameter.padded_row(row)) * parameter.stride();
    for (int c = 0; c < parameter.columns; ++c)
      *out++ = from[Parameter::place(c, parameter.column_chunk, parameter.column_padded)];
  }
}

double TrainingStep::update(const std::vector<ParameterMemory>& memory, const UpdateRule& rule, int n_threads) {
  State& state = *state_;
  check(memory.size() == state.parameters.size(), "there must be memory for ", state.parameters.size(), " parameters");
  check(rule.t >= 1, "updates are counted from 1, got ", rule.t);
  const double t = static_cast<double>(rule.t);
  AdamW constants{};
  constants.learning_rate = static_cast<float>(rule.learning_rate);
  constants.beta1 = static_cast<float>(rule.beta1);
  constants.beta2 = static_cast<float>(rule.beta2);
  constants.epsilon = static_cast<float>(rule.epsilon);
  constants.scale = static_cast<float>(std::min(1.0, rule.clip / (state.norm + 1e-6)));
  constants.correction1 = static_cast<float>(1.0 - std::pow(rule.beta1, t));
  constants.root_correction2 = static_cast<float>(std::sqrt(1.0 - std::pow(rule.beta2, t)));
  share(state.pieces.size(), n_threads, [&](int, std::size_t i) {
    state.update_piece(state.pieces[i], memory[state.pieces[i].parameter], constants, rule.weight_decay);
  });
  return state.norm;
}

}  // namespace nanomd
