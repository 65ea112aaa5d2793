// A device made of host memory and emulated threads. For tests.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <new>

#include "cuda/engine_common.h"
#include "cuda/kernels.h"
#include "cuda/tile.h"
#include "emulated_engine.h"
#include "emulator.h"

#if defined(__SANITIZE_ADDRESS__)
#  include <sanitizer/asan_interface.h>
#endif

namespace nanomd::cuda {

namespace {

// Nothing runs before somebody waits: then all launches so far, later ones too, and the downloads up to the slot that
// is waited for. Pinned memory that is written or read too early shows, and device memory that a later launch takes
// before it was copied back.
class EmulatedQueue final : public Queue {
 public:
  using Queues = std::vector<EmulatedQueue*>;

  EmulatedQueue(std::uint64_t order_seed, std::shared_ptr<Queues> all) : order_seed_(order_seed), all_(std::move(all)) {
    all_->push_back(this);
  }
  ~EmulatedQueue() override {
    all_->erase(std::find(all_->begin(), all_->end(), this));
    try {
      finish();
    } catch (const std::exception&) {  // as in CUDA: nobody is left to be told
    }
  }

  void upload(void* device, const void* pinned, std::size_t bytes) override {
    work_.push_back([=] { std::memcpy(device, pinned, bytes); });
  }
  void launch(const Arguments& arguments, int n_tiles) override {
    work_.push_back([=, this] { run(arguments, n_tiles); });
  }
  void observe(const ObserveArguments& arguments) override {
    work_.push_back([=] { run(arguments); });
  }
  void download(int slot, void* pinned, const void* device, std::size_t bytes) override {
    downloads_.push_back({slot, [=] { std::memcpy(pinned, device, bytes); }});
  }
  void wait(int slot) override {
    while (!work_.empty()) take(work_)();
    const auto of_slot = [=](const Download& download) { return download.slot == slot; };
    while (std::any_of(downloads_.begin(), downloads_.end(), of_slot)) take(downloads_).copy();
  }
  void finish() {
    while (!work_.empty()) take(work_)();
    while (!downloads_.empty()) take(downloads_).copy();
  }

 private:
  struct Download {
    int slot;
    std::function<void()> copy;
  };

  template <class Item>
  static Item take(std::deque<Item>& items) {
    Item item = std::move(items.front());
    items.pop_front();
    return item;
  }

  void run(const Arguments& arguments, int n_tiles) const {
    for (int i = 0; i < arguments.n_steps; ++i) fill_angles(arguments, i);
    const Layout& layout = arguments.layout;
    for (int tile = 0; tile < n_tiles; tile += layout.teams) {
      Emulator emulator(layout.ranks, layout.shared.total_bytes, order_seed_, layout.teams, layout.shared.team_bytes);
      emulator.run([&](Emulator::Thread& thread) {
        with_tile_constants(layout, [&](auto tiles, auto group, auto precise) {
          RolloutTile<Emulator::Thread, tiles(), group(), precise()>(thread, arguments, tile + thread.team()).run();
        });
      });
      const SharedLayout& m = layout.shared;
      for (int team = 0; team < layout.teams; ++team)
        for (const std::uint32_t region : {m.act, m.hid, std::max(m.logits, m.hid), m.drafts, m.team_bytes})
          emulator.check_unwritten(static_cast<std::size_t>(team) * m.team_bytes + region, m.guard);
      emulator.check_unwritten(m.total_bytes, m.guard);
    }
  }

  static void run(const ObserveArguments& arguments) {
    const auto add = [&](std::size_t cell, std::int64_t amount) { arguments.table[cell] += amount; };
    for (int i = 0; i < arguments.n_trajs; ++i) {
      for (int lag = 0; lag <= arguments.n_lags; ++lag)
        for (int begin = 0; begin < arguments.n_steps; begin += kStepsPerThread)
          observe_pairs(arguments, lag, i, begin, std::min(begin + kStepsPerThread, arguments.n_steps), add);
      observe_sets(arguments, i, add);
    }
  }

  std::uint64_t order_seed_;
  std::shared_ptr<Queues> all_;
  std::deque<std::function<void()>> work_;
  std::deque<Download> downloads_;
};

class EmulatedPlatform final : public Platform {
 public:
  explicit EmulatedPlatform(const EmulationOptions& options) : options_(options) {}
  std::string name() const override { return "cuda/emulated"; }
  std::size_t shared_limit() const override { return options_.shared_limit; }
  int multiprocessors() const override { return options_.multiprocessors; }
  int largest_cluster() const override { return options_.largest_cluster; }
  int largest_teams(int, int) const override { return options_.largest_teams; }
  std::size_t free_memory() const override { return options_.free_memory; }
  void* allocate(std::size_t bytes) override {
    void* memory = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
    if (memory == nullptr) throw std::bad_alloc();
    std::memset(memory, 0xFF, bytes);  // NaN: what nothing wrote must not be read
#if defined(__SANITIZE_ADDRESS__)
    ASAN_POISON_MEMORY_REGION(static_cast<char*>(memory) + bytes, (bytes + 255) / 256 * 256 - bytes);
#endif
    return memory;
  }
  void free(void* memory) noexcept override { std::free(memory); }
  void* allocate_pinned(std::size_t bytes) override { return allocate(bytes); }
  void free_pinned(void* memory) noexcept override { std::free(memory); }
  // Nothing may come from a null pointer on a device, but not in memcpy.
  void copy_in(void* device, const void* host, std::size_t bytes) override {
    if (bytes > 0) std::memcpy(device, host, bytes);
  }
  void copy_out(void* host, const void* device, std::size_t bytes) override {
    for (EmulatedQueue* queue : *queues_) queue->finish();
    if (bytes > 0) std::memcpy(host, device, bytes);
  }
  std::unique_ptr<Queue> make_queue() override { return std::make_unique<EmulatedQueue>(options_.order_seed, queues_); }

 private:
  EmulationOptions options_;
  std::shared_ptr<EmulatedQueue::Queues> queues_ = std::make_shared<EmulatedQueue::Queues>();
};

}  // namespace

}  // namespace nanomd::cuda

namespace nanomd {

std::unique_ptr<CudaEngine> make_emulated_cuda_engine(const ModelShape& shape, const TensorMap& tensors,
                                                      const std::vector<std::uint32_t>& rope_multipliers,
                                                      const CudaOptions& options, const EmulationOptions& emulation) {
  return cuda::make_tiled_engine(std::make_shared<cuda::EmulatedPlatform>(emulation), shape, tensors, rope_multipliers,
                                 options, 64);
}

}  // namespace nanomd
