// The iterations of k-means.
#include "bindings.h"
#include "nanomd/check.h"
#include "nanomd/clustering.h"

namespace nanomd::bindings {
namespace py = pybind11;

namespace {

// Returns means (k, d), counts (k,) and shifts (k,); labels (n,) are written in place.
py::tuple one_iteration(const Array<float>& points, const Array<float>& centers, const Array<float>& norms,
                        Array<std::int32_t> labels, const std::string& isa) {
  check(points.ndim() == 2 && centers.ndim() == 2 && points.shape(1) == centers.shape(1) && points.shape(1) >= 1,
        "points and centers must be (n, d) and (k, d)");
  const py::ssize_t n = points.shape(0), k = centers.shape(0), d = points.shape(1);
  check(k >= 1 && k <= (1 << 24), "there must be 1 to 2^24 centers, got ", k);
  check(norms.ndim() == 1 && norms.shape(0) == k, "norms must be (k,) = (", k, ",)");
  check(labels.ndim() == 1 && labels.shape(0) == n, "labels must be (n,) = (", n, ",)");
  Array<float> means({k, d}), counts(k), shifts(k);
  LloydInput input;
  input.n = n;
  input.width = static_cast<int>(d);
  input.n_centers = static_cast<int>(k);
  input.points = points.data();
  input.centers = centers.data();
  input.norms = norms.data();
  std::int32_t* label = labels.mutable_data();
  float *mean = means.mutable_data(), *count = counts.mutable_data(), *shift = shifts.mutable_data();
  {
    const py::gil_scoped_release release;
    lloyd(input, label, mean, count, shift, isa);
  }
  return py::make_tuple(means, counts, shifts);
}

}  // namespace

void register_clustering(py::module_& module) { module.def("lloyd", &one_iteration); }

}  // namespace nanomd::bindings
