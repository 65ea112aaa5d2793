// The training step: NumPy arrays of weights and moments are updated in place.
#include <cstring>

#include "bindings.h"
#include "nanomd/check.h"
#include "nanomd/training_step.h"

namespace nanomd::bindings {
namespace py = pybind11;

namespace {

using Arrays = std::vector<Array<float>>;

class PyTrainingStep {
 public:
  PyTrainingStep(const py::dict& shape, const py::dict& options, const py::object& cosine, const py::object& sine) {
    TrainingOptions values;
    values.length = options["length"].cast<int>();
    values.dropout = options["dropout"].cast<float>();
    values.final_dropout = options["final_dropout"].cast<float>();
    values.objective = options["objective"].cast<std::string>();
    values.isa = options["isa"].cast<std::string>();
    values.lookahead_lags = options["lookahead_lags"].cast<std::vector<int>>();
    values.lookahead_weight = options["lookahead_weight"].cast<double>();
    Array<float> tables[2];
    const ModelShape model = parse_shape(shape);
    if (!cosine.is_none()) {
      tables[0] = cosine.cast<Array<float>>();
      tables[1] = sine.cast<Array<float>>();
      for (const Array<float>& table : tables)
        check(table.ndim() == 2 && table.shape(0) == values.length && table.shape(1) == model.d_head() / 2,
              "the rotary tables must have the shape (length, d_head / 2)");
      values.cosine = tables[0].data();
      values.sine = tables[1].data();
    }
    length_ = values.length;
    d_model_ = model.d_model;
    step_ = std::make_unique<TrainingStep>(model, values);
  }

  // Values, first and second moments, in the order of names(); without moments there are no updates.
  void bind(Arrays values, Arrays first, Arrays second) {
    const std::vector<std::size_t> sizes = step_->sizes();
    updates_ = !first.empty() || !second.empty();
    check(
        values.size() == sizes.size() && (!updates_ || (first.size() == sizes.size() && second.size() == sizes.size())),
        "there must be ", sizes.size(), " arrays of each kind");
    const auto data = [&](Array<float>& array, std::size_t i) {
      check(static_cast<std::size_t>(array.size()) == sizes[i] && array.writeable(), "array ", i, " must have ",
            sizes[i], " numbers and be writeable");
      return array.mutable_data();
    };
    std::vector<ParameterMemory> memory;
    for (std::size_t i = 0; i < sizes.size(); ++i)
      memory.push_back(
          {data(values[i], i), updates_ ? data(first[i], i) : nullptr, updates_ ? data(second[i], i) : nullptr});
    memory_ = memory;
    held_ = {std::move(values), std::move(first), std::move(second)};
  }

  double gradient(const Array<std::int64_t>& tokens, const Array<std::int64_t>& targets, const Array<float>& weights,
                  const py::object& replaced, const py::dict& options, int n_threads) {
    TrainingBatch batch;
    check(tokens.ndim() == 2 && tokens.shape(1) == length_, "tokens must have the shape (n_windows, ", length_, ")");
    for (const py::array* array : {static_cast<const py::array*>(&targets), static_cast<const py::array*>(&weights)})
      check(array->ndim() == 2 && array->shape(0) == tokens.shape(0) && array->shape(1) == length_,
            "targets and weights must have the shape of tokens");
    batch.n_windows = static_cast<int>(tokens.shape(0));
    batch.tokens = tokens.data();
    batch.targets = targets.data();
    batch.weights = weights.data();
    batch.two_passes = options["two_passes"].cast<bool>();
    batch.mix_rate = options["mix_rate"].cast<double>();
    batch.mix_key = options["mix_key"].cast<std::uint64_t>();
    batch.step = options["step"].cast<std::uint64_t>();
    batch.dropout_key = options["dropout_key"].cast<std::uint64_t>();
    Array<std::uint8_t> places;
    if (!replaced.is_none()) {
      places = replaced.cast<Array<std::uint8_t>>();
      check(places.ndim() == 2 && places.shape(0) == tokens.shape(0) && places.shape(1) == length_,
            "replaced must have the shape of tokens");
      batch.replaced = places.data();
    }
    const py::gil_scoped_release release;
    return step_->gradient(memory_, batch, n_threads);
  }

  double update(const py::dict& options, int n_threads) {
    check(updates_, "an update needs moments: bind them");
    UpdateRule rule;
    rule.learning_rate = options["learning_rate"].cast<double>();
    rule.beta1 = options["beta1"].cast<double>();
    rule.beta2 = options["beta2"].cast<double>();
    rule.weight_decay = options["weight_decay"].cast<double>();
    rule.clip = options["clip"].cast<double>();
    rule.t = options["t"].cast<std::int64_t>();
    const py::gil_scoped_release release;
    return step_->update(memory_, rule, n_threads);
  }

  Array<float> copy_gradient(std::size_t i) const {
    const std::vector<std::size_t> sizes = step_->sizes();
    check(i < sizes.size(), "there are ", sizes.size(), " parameters, got ", i);
    Array<float> out(static_cast<py::ssize_t>(sizes[i]));
    step_->copy_gradient(i, out.mutable_data());
    return out;
  }

  // Frames before `first` are zero.
  Array<float> features(const Array<std::int64_t>& tokens, int first, int n_threads) {
    check(tokens.ndim() == 2 && tokens.shape(1) == length_, "tokens must have the shape (n_windows, ", length_, ")");
    Array<float> out({tokens.shape(0), tokens.shape(1), static_cast<py::ssize_t>(d_model_)});
    float* data = out.mutable_data();
    std::memset(data, 0, sizeof(float) * static_cast<std::size_t>(out.size()));
    const int n_windows = static_cast<int>(tokens.shape(0));
    const py::gil_scoped_release release;
    step_->features(memory_, tokens.data(), n_windows, first, data, n_threads);
    return out;
  }

  double lookahead_loss() const { return step_->lookahead_loss(); }
  std::vector<std::string> names() const { return step_->names(); }
  std::string isa() const { return step_->isa(); }

 private:
  std::unique_ptr<TrainingStep> step_;
  std::vector<ParameterMemory> memory_;
  std::vector<Arrays> held_;  // keeps the arrays alive
  int length_ = 0, d_model_ = 0;
  bool updates_ = false;
};

}  // namespace

void register_training(py::module_& module) {
  py::class_<PyTrainingStep>(module, "TrainingStep")
      .def(py::init<const py::dict&, const py::dict&, const py::object&, const py::object&>())
      .def("bind", &PyTrainingStep::bind)
      .def("gradient", &PyTrainingStep::gradient)
      .def("update", &PyTrainingStep::update)
      .def("features", &PyTrainingStep::features)
      .def("copy_gradient", &PyTrainingStep::copy_gradient)
      .def_property_readonly("lookahead_loss", &PyTrainingStep::lookahead_loss)
      .def_property_readonly("names", &PyTrainingStep::names)
      .def_property_readonly("isa", &PyTrainingStep::isa);
}

}  // namespace nanomd::bindings
