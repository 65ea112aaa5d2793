#include "walkers.h"

#include <algorithm>
#include <atomic>
#include <utility>
#include <vector>

#include "core/parallel.h"
#include "group.h"
#include "nanomd/check.h"
#include "nanomd/engine_checks.h"
#include "nanomd/philox.h"

namespace nanomd {

namespace {

// What is done in a few milliseconds is done by the calling thread: to start another would take as long, and much
// longer where the processor is busy.
constexpr std::uint64_t kTokensAtOnce = 2048;
constexpr std::size_t kBytesAtOnce = std::size_t{4} << 20;

constexpr int kTogether = 12;  // walkers of a thread that share the weights as columns; two tiles of six

struct Walker {
  Group group;
  std::vector<std::uint16_t> recent;  // token of position p at p mod size
  std::uint64_t seen = 0;             // tokens in total; the last of them is drawn, but not fed yet
  std::uint64_t known = 0;            // of which so many are among the recent ones
  bool placed = false;

  std::int32_t last() const { return recent[(seen - 1) % recent.size()]; }
  void add(std::uint16_t token) {
    recent[seen++ % recent.size()] = token;
    known = std::min<std::uint64_t>(known + 1, recent.size());
  }
};

class CpuWalkers final : public Walkers {
 public:
  CpuWalkers(std::shared_ptr<const Model> model, const Kernels& kernels, const WalkerOptions& options)
      : model_(std::move(model)),
        kernels_(kernels),
        draw_(*model_, kernels, true),
        options_(options),
        inverse_temperature_(static_cast<float>(1.0 / options.temperature)),
        history_(mode_history(model_->shape, options.mode)) {
    check_mode(model_->shape, options.mode, options.hop_keep);
    check(options.n_threads >= 1, "n_threads must be at least 1, got ", options.n_threads);
    check_temperature(model_->shape, options.temperature);
    for (int worker = 0; worker < options.n_threads; ++worker) scratch_.emplace_back(nullptr);
  }

  std::size_t size() const override { return walkers_.size(); }

  void resize(std::size_t n) override {
    while (walkers_.size() > n) retire(walkers_.size() - 1), walkers_.pop_back();
    while (walkers_.size() < n) walkers_.push_back(fresh());
  }

  std::uint64_t place(const Placement& placement) override {
    std::vector<std::size_t> offset(placement.n + 1, 0);
    std::vector<bool> named(size(), false);
    for (std::size_t i = 0; i < placement.n; ++i) {
      const std::uint64_t walker = placement.walker[i], length = placement.length[i];
      check(walker < size() && !named[walker], "walkers to place must be different ones of the ", size(), ", got ",
            walker);
      check(length >= 1, "a walker starts from at least one state");
      const std::uint64_t replay =
          mode_replay(model_->shape, options_.mode, options_.hop_keep, placement.n_before[i] + length);
      check(replay <= length, "the history must hold the last ", replay, " tokens, got ", length);
      named[walker] = true;
      offset[i + 1] = offset[i] + length;
    }
    check_tokens(placement.tokens, offset.back(), model_->shape.n_states);
    WorkState state;
    for_each(placement.n, offset.back() <= kTokensAtOnce, state, nullptr, [&](int worker, std::size_t i) {
      Walker& walker = *walkers_[placement.walker[i]];
      const std::uint16_t* tokens = placement.tokens + offset[i];
      const std::uint64_t length = placement.length[i], n_before = placement.n_before[i];
      const std::uint64_t skipped =
          length - mode_replay(model_->shape, options_.mode, options_.hop_keep, n_before + length);
      walker.group.start(n_before + skipped);
      const std::vector<std::int32_t> fed(tokens + skipped, tokens + length - 1);
      walker.group.fill(fed.data(), fed.size(), scratch(worker));
      walker.seen = n_before;
      walker.known = 0;
      for (std::uint64_t t = 0; t < length; ++t) walker.add(tokens[t]);
      walker.placed = true;
      state.done += fed.size();
    });
    return state.done;
  }

  void select(const std::uint64_t* parent, std::size_t n) override {
    for (std::size_t i = 0; i < n; ++i)
      check(parent[i] < size(), "parents must be below ", size(), ", got ", parent[i]);
    std::vector<std::unique_ptr<Walker>> next(n);
    std::vector<std::pair<std::size_t, std::size_t>> copies;  // from, to; both of the next ones
    std::vector<std::size_t> heir(size(), n);                 // who goes on with the caches themselves
    for (std::size_t i = 0; i < n; ++i) {
      if (heir[parent[i]] == n) {
        heir[parent[i]] = i;
        next[i] = std::move(walkers_[parent[i]]);
      } else {
        copies.emplace_back(heir[parent[i]], i);
      }
    }
    for (std::size_t i = 0; i < size(); ++i)
      if (walkers_[i]) retire(i);
    for (const auto& [from, to] : copies) next[to] = fresh();
    walkers_ = std::move(next);
    WorkState state;
    const std::size_t bytes = copies.empty() ? 0 : copies.size() * walkers_[0]->group.bytes();
    for_each(copies.size(), bytes <= kBytesAtOnce, state, nullptr, [&](int, std::size_t i) {
      const Walker& from = *walkers_[copies[i].first];
      Walker& to = *walkers_[copies[i].second];
      to.group.copy(from.group);
      to.recent = from.recent;
      to.seen = from.seen;
      to.known = from.known;
      to.placed = from.placed;
    });
  }

  bool advance(const WalkerSteps& steps, const ProgressCallback& progress) override {
    std::size_t moving = 0;
    std::uint64_t most = 0;
    for (std::size_t i = 0; i < size(); ++i) {
      steps.taken[i] = 0;
      if (steps.n_steps[i] == 0) continue;
      ++moving;
      most += std::min(steps.n_steps[i], kTokensAtOnce + 1);
      check(walkers_[i]->placed, "walker ", i, " has no history; place it first");
      check(steps.tokens == nullptr || steps.n_steps[i] <= steps.row_stride, "rows of ", steps.row_stride,
            " tokens cannot take ", steps.n_steps[i], " steps");
    }
    const std::size_t n_threads = static_cast<std::size_t>(options_.n_threads);
    const std::size_t together = std::clamp<std::size_t>((moving + n_threads - 1) / n_threads, 1, kTogether);
    std::atomic<std::size_t> next{0};
    WorkState state;
    for_each(std::min(moving, n_threads), most <= kTokensAtOnce, state, progress,
             [&](int worker, std::size_t) { run(steps, static_cast<int>(together), next, state, scratch(worker)); });
    if (state.cancelled)
      for (const std::unique_ptr<Walker>& walker : walkers_) walker->placed = false;
    return !state.cancelled;
  }

  std::size_t history_length(std::size_t walker) const override {
    check(walker < size() && walkers_[walker]->placed, "walker ", walker, " has no history; place it first");
    return static_cast<std::size_t>(walkers_[walker]->known);
  }

  std::uint64_t copy_history(std::size_t index, std::uint16_t* tokens) const override {
    const Walker& walker = *walkers_[index];
    for (std::uint64_t t = 0; t < walker.known; ++t)
      tokens[t] = walker.recent[(walker.seen - walker.known + t) % walker.recent.size()];
    return walker.seen - walker.known;
  }

 private:
  void for_each(std::size_t n, bool quick, WorkState& state, const ProgressCallback& progress,
                const std::function<void(int worker, std::size_t piece)>& work) const {
    if (!quick) return parallel_for(n, options_.n_threads, state, progress, work);
    for (std::size_t i = 0; i < n; ++i) work(0, i);
    if (progress && progress(state.done)) state.cancelled = true;
  }

  // A thread's part: walkers enter as others arrive, so that the columns stay filled.
  void run(const WalkerSteps& steps, int together, std::atomic<std::size_t>& next, WorkState& state, Scratch& memory) {
    std::size_t active[kTogether];
    int n = 0;
    ColumnStep step;
    step.model = model_.get();
    step.scratch = &memory;
    while (!state.cancelled) {
      for (std::size_t i; n < together && (i = next++) < size();)
        if (steps.n_steps[i] > 0) active[n++] = i;
      if (n == 0) return;
      step.n_columns = n;
      for (int c = 0; c < n; ++c) {
        Walker& walker = *walkers_[active[c]];
        walker.group.stage(walker.last(), step.column[c], memory);
      }
      kernels_.decode_columns[static_cast<int>(model_->precision)](step);
      double u[kTogether];
      std::int32_t drawn[kTogether];
      for (int c = 0; c < n; ++c)
        u[c] = rollout_uniform(options_.seed, steps.step[active[c]] + steps.taken[active[c]], steps.stream[active[c]]);
      draw_.states(memory, n, inverse_temperature_, u, drawn);
      int left = 0;
      for (int c = 0; c < n; ++c) {
        const std::size_t i = active[c];
        Walker& walker = *walkers_[i];
        const std::uint64_t taken = steps.taken[i];
        const std::int32_t token = drawn[c];
        check(token >= 0, "the model gave probabilities that are not finite for walker ", i,
              ": its weights are too large or damaged");
        walker.add(static_cast<std::uint16_t>(token));
        if (steps.tokens != nullptr) steps.tokens[i * steps.row_stride + taken] = static_cast<std::uint16_t>(token);
        steps.taken[i] = taken + 1;
        const bool stops = steps.stops != nullptr && steps.stops[token] != 0;
        if (!stops && taken + 1 < steps.n_steps[i]) active[left++] = i;
      }
      state.done += static_cast<std::uint64_t>(n);
      n = left;
    }
  }

  std::unique_ptr<Walker> fresh() {
    if (!idle_.empty()) {
      std::unique_ptr<Walker> walker = std::move(idle_.back());
      idle_.pop_back();
      walker->placed = false;
      return walker;
    }
    return std::make_unique<Walker>(Walker{Group(*model_, kernels_, options_.mode, options_.hop_keep, 1, true, false),
                                           std::vector<std::uint16_t>(history_), 0, 0, false});
  }

  void retire(std::size_t index) { idle_.push_back(std::move(walkers_[index])); }

  Scratch& scratch(int worker) {  // each worker its own, made when it is first needed
    std::unique_ptr<Scratch>& memory = scratch_[static_cast<std::size_t>(worker)];
    if (!memory) memory = std::make_unique<Scratch>(model_->shape);
    return *memory;
  }

  std::shared_ptr<const Model> model_;
  const Kernels& kernels_;
  Draw draw_;
  WalkerOptions options_;
  float inverse_temperature_;
  std::uint64_t history_;  // tokens remembered of a walker
  std::vector<std::unique_ptr<Walker>> walkers_, idle_;
  std::vector<std::unique_ptr<Scratch>> scratch_;
};

}  // namespace

std::unique_ptr<Walkers> make_cpu_walkers(std::shared_ptr<const Model> model, const Kernels& kernels,
                                          const WalkerOptions& options) {
  return std::make_unique<CpuWalkers>(std::move(model), kernels, options);
}

}  // namespace nanomd
