// What the engine asks of a device: memory, an ordered queue of launches and copies, and a few limits. CUDA is one
// (cuda_platform.cu), the emulation on the host the other, so that everything above this line runs in tests without a
// GPU.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "arguments.h"
#include "observe.h"

namespace nanomd::cuda {

inline constexpr int kSlots = 2;  // double buffering

// Launches and copies of one session, in order. Copies back overlap with later launches.
class Queue {
 public:
  virtual ~Queue() = default;
  virtual void upload(void* device, const void* pinned, std::size_t bytes) = 0;
  virtual void launch(const Arguments& arguments, int n_tiles) = 0;
  virtual void observe(const ObserveArguments& arguments) = 0;
  // After the launches so far; wait(slot) returns when all downloads of the slot have arrived.
  virtual void download(int slot, void* pinned, const void* device, std::size_t bytes) = 0;
  virtual void wait(int slot) = 0;
};

class Platform {
 public:
  virtual ~Platform() = default;
  virtual std::string name() const = 0;
  virtual std::size_t shared_limit() const = 0;  // bytes of shared memory a block may take
  virtual int multiprocessors() const = 0;
  virtual int largest_cluster() const = 0;  // thread blocks; 1 where there are no clusters
  // Tiles that one block takes where it holds the weights, by registers: as many as blocks that stream them would run.
  virtual int largest_teams(int tile, int group) const = 0;
  virtual std::size_t free_memory() const = 0;  // bytes
  virtual void* allocate(std::size_t bytes) = 0;
  virtual void free(void* memory) noexcept = 0;
  virtual void* allocate_pinned(std::size_t bytes) = 0;
  virtual void free_pinned(void* memory) noexcept = 0;
  virtual void copy_in(void* device, const void* host, std::size_t bytes) = 0;   // waits
  virtual void copy_out(void* host, const void* device, std::size_t bytes) = 0;  // waits
  virtual std::unique_ptr<Queue> make_queue() = 0;
};

// Memory of a platform, freed with its owner.
class Buffer {
 public:
  Buffer() = default;
  Buffer(std::shared_ptr<Platform> platform, std::size_t bytes, bool pinned = false)
      : platform_(std::move(platform)), pinned_(pinned), bytes_(bytes) {
    const std::size_t at_least = bytes == 0 ? 1 : bytes;
    memory_ = pinned ? platform_->allocate_pinned(at_least) : platform_->allocate(at_least);
  }
  Buffer(Buffer&& other) noexcept { swap(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    swap(other);
    return *this;
  }
  ~Buffer() {
    if (memory_ == nullptr) return;
    if (pinned_)
      platform_->free_pinned(memory_);
    else
      platform_->free(memory_);
  }
  template <class T = unsigned char>
  T* as() const {
    return static_cast<T*>(memory_);
  }
  std::size_t bytes() const { return bytes_; }

 private:
  void swap(Buffer& other) noexcept {
    std::swap(platform_, other.platform_);
    std::swap(memory_, other.memory_);
    std::swap(pinned_, other.pinned_);
    std::swap(bytes_, other.bytes_);
  }
  std::shared_ptr<Platform> platform_;
  void* memory_ = nullptr;
  bool pinned_ = false;
  std::size_t bytes_ = 0;
};

}  // namespace nanomd::cuda
