#pragma once

#include <atomic>
#include <chrono>
#include <optional>
#include <unordered_set>

#include "base/sync.h"
#include "image/boot_pack.h"

namespace isr {

struct TouchLimits {
  std::size_t pages = kMaxBootPages;
  std::size_t chunks = kMaxBootChunks;
  std::chrono::milliseconds pages_for{10'000};    ///< after the first read
  std::chrono::milliseconds chunks_for{120'000};  ///< likewise
};

/// Records which pages and chunks of some images were read first, in order. Its memory grows with the reads, up to its
/// limits, not with the images. Beyond the limits note() costs nothing.
/// Threads: any.
class FirstTouches {
 public:
  using Time = std::chrono::steady_clock::time_point;
  explicit FirstTouches(const TouchLimits& limits = {}) : limits_(limits) {}

  /// Notes a read of `length` bytes at `offset` of the image in position `image`.
  void note(std::uint8_t image, std::uint64_t offset, std::uint64_t length, Time now);
  BootOrder order() const;

 private:
  struct Kind {
    std::unordered_set<std::uint64_t> seen;
    std::vector<BootPlace> order;
    void note(BootPlace place, std::size_t most);
  };
  struct State {
    std::optional<Time> began;
    Kind pages;
    Kind chunks;
  };

  TouchLimits limits_;
  std::atomic<bool> ended_{false};
  Sync<State> state_;
};

}  // namespace isr
