// The sweep over an output layer; sums are added to the caller's arrays.
#include "bindings.h"
#include "nanomd/check.h"
#include "nanomd/output_sweep.h"

namespace nanomd::bindings {
namespace py = pybind11;

namespace {

double sweep(const Array<float>& head, const Array<float>& table, const Array<float>& weights,
             const Array<float>& features, const Array<std::int64_t>& current, const Array<std::int64_t>& following,
             Array<double> transitions, const py::object& moments, int n_threads, const std::string& isa) {
  check(head.ndim() == 2 && features.ndim() == 2 && features.shape(1) == head.shape(1),
        "head must be (V, width) and features (n, width)");
  const py::ssize_t V = head.shape(0), n = features.shape(0);
  for (const py::array* square : {static_cast<const py::array*>(&table), static_cast<const py::array*>(&weights),
                                  static_cast<const py::array*>(&transitions)})
    check(square->ndim() == 2 && square->shape(0) == V && square->shape(1) == V,
          "table, weights and transitions must be (V, V) = (", V, ", ", V, ")");
  check(current.ndim() == 1 && following.ndim() == 1 && current.shape(0) == n && following.shape(0) == n,
        "current and following must be (n,) = (", n, ",)");
  SweepInput input;
  input.n_states = static_cast<int>(V);
  input.width = static_cast<int>(head.shape(1));
  input.head = head.data();
  input.table = table.data();
  input.weights = weights.data();
  input.n = n;
  input.features = features.data();
  input.current = current.data();
  input.following = following.data();
  double* sums = nullptr;
  Array<double> array;
  if (!moments.is_none()) {
    array = moments.cast<Array<double>>();
    check(array.ndim() == 2 && array.shape(0) == V && array.shape(1) == head.shape(1), "moments must be (V, width)");
    sums = array.mutable_data();
  }
  double* rows = transitions.mutable_data();
  const py::gil_scoped_release release;
  return sweep_output(input, rows, sums, n_threads, isa);
}

}  // namespace

void register_sweep(py::module_& module) { module.def("sweep_output", &sweep); }

}  // namespace nanomd::bindings
