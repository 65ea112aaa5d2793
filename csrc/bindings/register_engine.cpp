// The rollout engine: weights in, tokens out. The GIL is released while it works; Ctrl-C and progress are served from
// the calling thread about twenty times a second.
#include "bindings.h"
#include "cpu/kernels.h"
#include "nanomd/check.h"
#include "nanomd/engine.h"
#include "nanomd/philox.h"
#include "nanomd/sampling.h"

namespace nanomd::bindings {
namespace py = pybind11;

Mode parse_mode(const std::string& mode) {
  if (mode == "ring") return Mode::kRing;
  if (mode == "hop") return Mode::kHop;
  if (mode == "crop") return Mode::kCrop;
  throw InputError("mode must be one of ring, hop, crop, got " + mode);
}

ModelShape parse_shape(const py::dict& values) {
  const auto integer = [&](const char* name) { return values[name].cast<int>(); };
  const auto flag = [&](const char* name) { return values[name].cast<bool>(); };
  ModelShape shape;
  shape.n_states = integer("n_states");
  shape.d_model = integer("d_model");
  shape.n_layer = integer("n_layer");
  shape.n_head = integer("n_head");
  shape.n_kv_head = integer("n_kv_head");
  shape.context_length = integer("context_length");
  shape.d_mlp = integer("d_mlp");
  shape.pre_norm = flag("pre_norm");
  shape.gelu = flag("gelu");
  shape.learned_position = flag("learned_position");
  shape.markov_head = flag("markov_head");
  shape.group_sizes = values["group_sizes"].cast<std::vector<int>>();
  return shape;
}

TensorMap parse_tensors(const py::dict& tensors) {
  TensorMap views;
  for (const auto& item : tensors) {
    const auto array = item.second.cast<Array<float>>();
    TensorView view;
    view.data = array.data();
    for (py::ssize_t axis = 0; axis < array.ndim(); ++axis)
      view.shape.push_back(static_cast<std::size_t>(array.shape(axis)));
    views.emplace(item.first.cast<std::string>(), view);
  }
  return views;
}

namespace {

// Owns the session and keeps the engine's weights alive; one call at a time.
struct PySession {
  std::unique_ptr<Session> session;
  int n_trajs;
};

PySession open(const RolloutEngine& engine, const std::string& mode, int hop_keep, const Array<std::uint16_t>& history,
               std::uint64_t n_before, const Array<std::uint64_t>& trajectory, std::uint64_t first_step,
               std::uint64_t seed, double temperature, int n_threads, int lookahead, const PyObservables* observables) {
  check(history.ndim() == 2 && trajectory.ndim() == 1 && history.shape(0) == trajectory.shape(0),
        "history must be (n_trajs, n_history) and trajectory (n_trajs,)");
  SessionOptions options;
  options.mode = parse_mode(mode);
  options.hop_keep = hop_keep;
  options.n_trajs = static_cast<int>(history.shape(0));
  options.history = history.data();
  options.n_history = static_cast<std::size_t>(history.shape(1));
  options.n_before = n_before;
  options.trajectory = trajectory.data();
  options.first_step = first_step;
  options.seed = seed;
  options.temperature = temperature;
  options.n_threads = n_threads;
  options.lookahead = lookahead;
  options.observables = observables == nullptr ? nullptr : &observables->writer;
  const py::gil_scoped_release release;
  return {engine.open(options), options.n_trajs};
}

bool advance(PySession& self, std::uint64_t n_steps, std::uint64_t first_step, const py::object& out,
             std::uint64_t stride, const py::object& progress) {
  TokenSink sink;
  sink.stride = stride;
  check(stride >= 1, "stride must be at least 1, got ", stride);
  py::array array;
  if (!out.is_none()) {
    array = out.cast<py::array>();
    sink.item_size = static_cast<int>(array.itemsize());
    const std::uint64_t stored = (first_step + n_steps + stride - 1) / stride - (first_step + stride - 1) / stride;
    check(array.dtype().kind() == 'u' && (sink.item_size == 1 || sink.item_size == 2), "out must be uint8 or uint16");
    check(array.ndim() == 2 && array.shape(0) == self.n_trajs && array.shape(1) == static_cast<py::ssize_t>(stored),
          "out must have shape (", self.n_trajs, ", ", stored, ")");
    check(array.writeable(), "out must be writeable");
    check(stored <= 1 || array.strides(1) == sink.item_size, "the rows of out must be contiguous");
    check(array.strides(0) >= 0 && array.strides(0) % sink.item_size == 0, "the rows of out must be aligned");
    sink.tokens = array.mutable_data();
    sink.row_stride = static_cast<std::size_t>(array.strides(0) / sink.item_size);
    sink.first_index = (first_step + stride - 1) / stride;
  }
  return run_released(progress,
                      [&](const ProgressCallback& callback) { return self.session->advance(n_steps, sink, callback); });
}

Array<std::uint16_t> history(const PySession& self) {
  Array<std::uint16_t> out(
      {static_cast<py::ssize_t>(self.n_trajs), static_cast<py::ssize_t>(self.session->history_length())});
  self.session->copy_history(out.mutable_data());
  return out;
}

py::object log_probs(const RolloutEngine& engine, const Array<std::uint16_t>& tokens, int n_states,
                     const std::string& mode, int hop_keep, std::uint64_t first_position, int n_threads) {
  check(tokens.ndim() == 2, "tokens must be (n_sequences, n_tokens)");
  LogProbOptions options;
  options.mode = parse_mode(mode);
  options.hop_keep = hop_keep;
  options.n_sequences = static_cast<int>(tokens.shape(0));
  options.tokens = tokens.data();
  options.n_tokens = static_cast<std::size_t>(tokens.shape(1));
  options.first_position = first_position;
  options.n_threads = n_threads;
  Array<float> out({tokens.shape(0), tokens.shape(1), static_cast<py::ssize_t>(n_states)});
  float* data = out.mutable_data();
  (void)run_released(py::none(),
                     [&](const ProgressCallback& callback) { return engine.log_probs(options, data, callback); });
  return out;
}

// Draws from fixed logits with the uniforms of steps 0 .. n_draws-1: counts per state. For statistical tests of the
// sampler.
py::object sample_counts(const Array<float>& logits, std::uint64_t seed, std::uint64_t trajectory,
                         std::uint64_t n_draws, double temperature, const std::string& isa) {
  check(logits.ndim() == 1 && logits.size() >= 1, "logits must be a non-empty vector");
  const Kernels& kernels = choose_kernels(isa);
  const int n = static_cast<int>(logits.size());
  AlignedBuffer row(static_cast<std::size_t>(round_up(n)));
  std::copy(logits.data(), logits.data() + n, row.data());
  Array<std::int64_t> counts(n);
  std::int64_t* count = counts.mutable_data();
  std::fill(count, count + n, 0);
  const py::gil_scoped_release release;
  std::int32_t state = 0;
  kernels.sample_column(row.data(), n, static_cast<float>(1.0 / temperature), 0.0, &state, nullptr);  // to weights
  check(state >= 0, "logits must be finite");
  for (std::uint64_t step = 0; step < n_draws; ++step)
    ++count[sample_state(row.data(), n, rollout_uniform(seed, step, trajectory))];
  return py::object(std::move(counts));
}

}  // namespace

void register_engine(py::module_& module) {
  py::class_<RolloutEngine, std::unique_ptr<RolloutEngine>>(module, "Engine")
      .def(py::init([](const py::dict& shape, const py::dict& tensors, const std::vector<std::uint32_t>& multipliers,
                       const std::string& isa, int column_limit, const std::string& precision) {
             return make_cpu_engine(std::make_shared<Model>(parse_shape(shape), parse_tensors(tensors), multipliers,
                                                            precision_named(precision)),
                                    isa, column_limit);
           }),
           py::arg("shape"), py::arg("tensors"), py::arg("rope_multipliers"), py::arg("isa") = "",
           py::arg("column_limit") = -1, py::arg("precision") = "fp32")
      .def_property_readonly("name", &RolloutEngine::name)
      .def_property_readonly("bytes_per_trajectory", &RolloutEngine::bytes_per_trajectory)
      .def("replay_length", [](const RolloutEngine& engine, const std::string& mode, int hop_keep,
                               std::uint64_t n) { return engine.replay_length(parse_mode(mode), hop_keep, n); })
      .def("open", &open)
      .def("log_probs", &log_probs);
  py::class_<PySession>(module, "Session")
      .def("advance", &advance)
      .def("history", &history)
      .def_property_readonly("observes", [](const PySession& self) { return self.session->observes(); })
      .def("collect", [](const PySession& self, PyObservables& observables) {
        const py::gil_scoped_release release;
        self.session->collect(observables.writer);
      });
  module.def("available_isas", &available_isas);
  module.def("sample_counts", &sample_counts);
  module.def("exp_array", [](const Array<float>& x, const std::string& isa) {
    const std::size_t n = static_cast<std::size_t>(x.size());
    AlignedBuffer in(n + kLanes), out(n + kLanes);
    std::copy(x.data(), x.data() + n, in.data());
    choose_kernels(isa).exp(in.data(), out.data(), n);
    Array<float> result(static_cast<py::ssize_t>(n));
    std::copy(out.data(), out.data() + n, result.mutable_data());
    return result;
  });
}

}  // namespace nanomd::bindings
