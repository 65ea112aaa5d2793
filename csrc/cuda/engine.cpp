// The tiled engine over any platform: checks, choice of tile and ranks, memory planned before it is taken.
#include <algorithm>
#include <optional>

#include "engine_common.h"
#include "kernels.h"
#include "nanomd/check.h"
#include "nanomd/cuda_engine.h"
#include "nanomd/engine_checks.h"
#include "pack.h"
#include "session.h"

namespace nanomd::cuda {

namespace {

// Most blocks that one multiprocessor runs at once, by registers.
constexpr int kBlocksPerMultiprocessor = 2;
constexpr int kAuto = -1;  // lookahead
constexpr std::size_t kNoLimit = ~std::size_t{0};

class TiledEngine final : public CudaEngine {
 public:
  TiledEngine(std::shared_ptr<Platform> platform, const ModelShape& shape, const TensorMap& tensors,
              const std::vector<std::uint32_t>& multipliers, const CudaOptions& options, std::size_t guard)
      : platform_(std::move(platform)), shape_(shape), options_(options), guard_(guard) {
    if (options.precision == Precision::kFp16Cache)
      throw UnsupportedError("the cuda engine takes precision fp32 or fp16, got fp16-cache; use backend=\"cpu\"");
    check(options.regime == "auto" || options.regime == "throughput" || options.regime == "latency",
          "regime must be one of auto, throughput, latency, got ", options.regime);
    check(options.weights == "auto" || options.weights == "streamed" || options.weights == "resident",
          "weights must be one of auto, streamed, resident, got ", options.weights);
    check(options.weights != "resident" || options.precision == Precision::kFp16,
          "weights must be auto or streamed in precision fp32, got resident");
    check(options.tile == 0 || options.tile == 8 || options.tile == 16, "tile must be 8 or 16, got ", options.tile);
    check(options.ranks >= 0 && options.ranks <= kLargestRanks, "ranks must be in [0, ", kLargestRanks, "], got ",
          options.ranks);
    if ((options.regime == "latency" || options.ranks > 1) && platform_->largest_cluster() == 1)
      throw UnsupportedError("regime latency needs clusters of thread blocks (compute capability 9.0 or later), " +
                             platform_->name() + " has none; use regime=\"throughput\"");
    Model check_only(shape, tensors, multipliers);  // names, shapes and values as for every engine
    if (shape.grouped())
      throw UnsupportedError(join("the cuda engine takes no model with groups of states, this one has ",
                                  shape.n_choices(), "; use backend=\"cpu\""));
    if (shape.context_length > kMaxEntries)
      throw UnsupportedError(join("the cuda engine takes windows of up to ", kMaxEntries, " states, this model has ",
                                  shape.context_length, "; use backend=\"cpu\""));
    const Layout layout = choose(1, 0);
    const std::vector<unsigned char> image = pack_weights(layout, tensors, multipliers);
    const std::size_t free = platform_->free_memory();
    check(image.size() < free, "the weights take ", image.size() >> 20, " MiB, the device has ", free >> 20,
          " MiB free");
    weights_ = std::make_shared<Buffer>(platform_, image.size());
    platform_->copy_in(weights_->as(), image.data(), image.size());
  }

  std::string name() const override { return platform_->name(); }
  std::size_t bytes_per_trajectory() const override { return choose(1, 0).cache_bytes(); }

  std::uint64_t replay_length(Mode mode, int hop_keep, std::uint64_t n_tokens) const override {
    return mode_replay(shape_, mode, hop_keep, n_tokens);
  }

  std::unique_ptr<Session> open(const SessionOptions& options) const override {
    const std::uint64_t replay = check_session(shape_, options);
    check(options.lookahead >= -1, "lookahead must be auto or at least 0, got ", options.lookahead);
    const ObservablesSpec* observed = options.observables == nullptr ? nullptr : &options.observables->spec();
    check(observed == nullptr || (observed->n_states == shape_.n_states &&
                                  options.observables->n_trajs() == static_cast<std::size_t>(options.n_trajs)),
          "the observables must be of the model's ", shape_.n_states, " states and of ", options.n_trajs,
          " trajectories");
    check_memory(plan(options.mode, options.n_trajs, observed, options.lookahead), options.n_trajs);
    return std::make_unique<TiledSession>(uploaded(options.n_trajs, options.lookahead), replay, options);
  }

  bool log_probs(const LogProbOptions& options, float* out, const ProgressCallback& progress) const override {
    check_sequences(shape_, options);
    if (options.n_sequences <= 0 || options.n_tokens == 0) return true;
    const Layout layout = choose(options.n_sequences, kAuto);
    check_memory(plan(layout, options.n_sequences, [&](int n) { return log_probs_bytes(layout, options.n_tokens, n); }),
                 options.n_sequences);
    return tiled_log_probs(*uploaded(options.n_sequences, kAuto), options, out, progress);
  }

  CudaMemoryPlan memory_plan(Mode mode, int n_trajs, const ObservablesSpec* observed) const override {
    check(n_trajs >= 1, "n_trajs must be at least 1, got ", n_trajs);
    return plan(mode, n_trajs, observed, kAuto);
  }

  std::string describe(int n_trajs) const override {
    const Layout layout = choose(n_trajs, kAuto);
    const std::string weights = layout.resident() ? ", weights resident" : "";
    if (!layout.latency)
      return join("throughput, ", layout.tile, layout.teams > 1 ? " + " + std::to_string(layout.tile) : "",
                  " trajectories a block", weights, ", ", precision_name(options_.precision));
    return join("latency, ", layout.ranks, " blocks a cluster", weights,
                layout.ahead > 0 ? join(", ", layout.ahead - 1, " states ahead") : "", ", ",
                precision_name(options_.precision));
  }

 private:
  static void check_memory(const CudaMemoryPlan& plan, int n_trajs) {
    check(static_cast<std::size_t>(n_trajs) <= plan.largest_n_trajs, n_trajs, " trajectories need ", plan.total >> 20,
          " MiB of device memory (", plan.per_trajectory, " bytes each), ", plan.free >> 20, " MiB are free; at most ",
          plan.largest_n_trajs, " fit at a time");
  }

  CudaMemoryPlan plan(Mode mode, int n_trajs, const ObservablesSpec* observed, int lookahead) const {
    const Layout layout = choose(n_trajs, lookahead);
    return plan(layout, n_trajs, [&](int n) { return session_bytes(layout, mode, n, observed); });
  }

  // bytes_of(n): of n trajectories.
  template <class BytesOf>
  CudaMemoryPlan plan(const Layout& layout, int n_trajs, BytesOf bytes_of) const {
    const SessionBytes bytes = bytes_of(n_trajs);
    CudaMemoryPlan result;
    result.weights = weights_->bytes();
    result.per_trajectory = bytes.per_trajectory;
    result.fixed = bytes.fixed;
    result.total = bytes.fixed + bytes.per_trajectory * static_cast<std::size_t>(n_trajs);
    result.free = platform_->free_memory();
    const std::size_t usable = result.free / 20 * 19;  // allocations are rounded up
    // Fewer trajectories take longer output rows: what fits is found by halving.
    std::size_t low = 0, high = usable / layout.cache_bytes() + 1;
    while (low + 1 < high) {
      const std::size_t n = (low + high) / 2;
      const SessionBytes of_n = bytes_of(static_cast<int>(std::min<std::size_t>(n, 1 << 30)));
      (of_n.fixed + of_n.per_trajectory * n <= usable ? low : high) = n;
    }
    result.largest_n_trajs = low;
    return result;
  }

  // By speed alone: the tokens do not depend on it.
  Layout choose(int n_trajs, int lookahead) const {
    const Layout layout = choose_regime(n_trajs);
    // With a cluster for each trajectory, columns that would idle look ahead.
    const int columns = lookahead < 0 ? kTileColumns : lookahead + 1;
    const bool idle =
        layout.latency && static_cast<std::int64_t>(n_trajs) * layout.ranks <= platform_->multiprocessors();
    return idle && columns > 1 ? with_lookahead(layout, columns) : layout;
  }

  Layout choose_regime(int n_trajs) const {
    const bool precise = options_.precision == Precision::kFp32;
    const std::size_t limit = platform_->shared_limit();
    const std::int64_t eights = (std::int64_t{n_trajs} + 7) / 8;
    bool latency = options_.regime == "latency" || (options_.regime == "auto" && options_.ranks > 1);
    if (options_.regime == "auto" && options_.tile == 0 && platform_->largest_cluster() > 1 &&
        eights * kLargestRanks <= platform_->multiprocessors())
      latency = true;
    if (latency) {
      check(options_.tile != 16, "regime latency takes tiles of 8 trajectories, got ", options_.tile);
      const auto latency_layout = [&](int ranks) {
        Layout layout = make_layout(shape_, precise, 8, ranks, limit, options_.weights != "streamed", guard_);
        layout.latency = true;
        return layout;
      };
      const int most = std::min(kLargestRanks, platform_->largest_cluster());
      if (options_.ranks > 0) return as_wanted(latency_layout(std::min(options_.ranks, most)));
      // The smallest cluster that holds the weights: fewer blocks exchange faster. Else the largest.
      for (int ranks = 1; ranks <= most; ranks *= 2) {
        const Layout layout = latency_layout(ranks);
        if (layout.resident() || ranks * 2 > most) return as_wanted(layout);
      }
    }
    int tile = options_.tile;
    if (tile == 0) tile = !precise && eights > kBlocksPerMultiprocessor * platform_->multiprocessors() ? 16 : 8;
    const int smallest = options_.tile == 0 ? 8 : tile;
    if (options_.weights != "streamed" && !precise)
      if (const std::optional<Layout> layout = resident_layout(tile, smallest, n_trajs)) return *layout;
    try {
      return as_wanted(make_layout(shape_, precise, tile, 1, limit, false, guard_));
    } catch (const UnsupportedError&) {
      if (tile == smallest) throw;
      return as_wanted(make_layout(shape_, precise, smallest, 1, limit, false, guard_));
    }
  }

  // Weights in shared memory, where that leaves a multiprocessor as many threads as streamed ones would: their loads
  // in flight hide the latency of the caches, which cost more than the weights (docs/cuda.md). Forced, with fewer.
  std::optional<Layout> resident_layout(int tile, int smallest, int n_trajs) const {
    const std::int64_t tiles = (std::int64_t{n_trajs} + tile - 1) / tile;
    const int most = tiles > platform_->multiprocessors() ? platform_->largest_teams(tile, group_constant(shape_)) : 1;
    for (int teams = most; teams >= (options_.weights == "auto" ? most : 1); --teams)
      for (int size = tile; size >= smallest; size /= 2) {
        Layout layout = make_layout(shape_, false, size, 1, kNoLimit, true, guard_, teams);
        if (layout.shared.total_bytes <= platform_->shared_limit()) return layout;
      }
    return {};
  }

  Layout as_wanted(const Layout& layout) const {
    if (options_.weights != "resident" || layout.resident()) return layout;
    const std::size_t bytes =
        make_layout(shape_, false, layout.tile, layout.ranks, kNoLimit, true, guard_).shared.total_bytes;
    throw UnsupportedError(join("weights=\"resident\" needs ", bytes,
                                " bytes of shared memory a block for this model, ", "the device has ",
                                platform_->shared_limit(), "; use weights=\"streamed\""));
  }

  std::shared_ptr<const Uploaded> uploaded(int n_trajs, int lookahead) const {
    auto result = std::make_shared<Uploaded>();
    result->platform = platform_;
    result->layout = choose(n_trajs, lookahead);
    result->weights = weights_;
    return result;
  }

  std::shared_ptr<Platform> platform_;
  ModelShape shape_;
  CudaOptions options_;
  std::size_t guard_;
  std::shared_ptr<Buffer> weights_;
};

}  // namespace

std::unique_ptr<CudaEngine> make_tiled_engine(std::shared_ptr<Platform> platform, const ModelShape& shape,
                                              const TensorMap& tensors, const std::vector<std::uint32_t>& multipliers,
                                              const CudaOptions& options, std::size_t guard) {
  return std::make_unique<TiledEngine>(std::move(platform), shape, tensors, multipliers, options, guard);
}

}  // namespace nanomd::cuda
