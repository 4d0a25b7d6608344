#pragma once

#include <atomic>
#include <map>

#include "base/error.h"
#include "base/sync.h"
#include "image/overlay.h"

namespace isr::test {

/// An Overlay that keeps writes in memory, in blocks of its granularity, and
/// fails on request.
class MemoryOverlay : public Overlay {
 public:
  explicit MemoryOverlay(std::size_t granularity = 4096) : granularity_(granularity) {}

  std::size_t granularity() const override { return granularity_; }

  void write(std::uint64_t offset, ByteView data) override {
    fail_if(failing_writes, "write");
    require_grain(offset, data.size());
    auto blocks = blocks_.lock();
    for (std::size_t at = 0; at < data.size(); at += granularity_) {
      (*blocks)[offset + at] = to_bytes(data.subspan(at, granularity_));
    }
  }

  void zero(std::uint64_t offset, std::uint64_t length) override {
    fail_if(failing_writes, "zero");
    require_grain(offset, length);
    auto blocks = blocks_.lock();
    for (std::uint64_t at = 0; at < length; at += granularity_) (*blocks)[offset + at] = Bytes(granularity_);
  }

  std::vector<Extent> read(std::uint64_t offset, MutableBytes out) override {
    ++reads;
    if (failing_allocations > 0) {
      --failing_allocations;
      throw std::bad_alloc();
    }
    fail_if(failing_reads, "read");
    auto blocks = blocks_.lock();
    std::vector<Extent> gaps;
    while (!out.empty()) {
      const std::uint64_t within = offset % granularity_;
      const std::size_t length = std::min<std::size_t>(out.size(), granularity_ - within);
      const auto found = blocks->find(offset - within);
      if (found != blocks->end()) {
        std::copy_n(found->second.begin() + static_cast<std::ptrdiff_t>(within), length, out.begin());
      } else if (!gaps.empty() && gaps.back().end() == offset) {
        gaps.back().length += length;
      } else {
        gaps.push_back({offset, length});
      }
      offset += length;
      out = out.subspan(length);
    }
    return gaps;
  }

  std::optional<ChunkRef> replaced(std::uint64_t chunk) override {
    auto chunks = replaced_.lock();
    const auto found = chunks->find(chunk);
    return found == chunks->end() ? std::nullopt : std::optional(found->second);
  }
  void replace(std::uint64_t chunk, const ChunkRef& ref) { (*replaced_.lock())[chunk] = ref; }
  void drop_replaced(std::uint64_t chunk) { replaced_.lock()->erase(chunk); }
  void flush() override { ++flushes; }

  /// How many of the next reads and writes fail with kOffline.
  std::atomic<int> failing_reads{0};
  std::atomic<int> failing_writes{0};
  std::atomic<int> failing_allocations{0};  ///< this many reads throw std::bad_alloc
  std::atomic<int> reads{0};
  std::atomic<int> flushes{0};

 private:
  void require_grain(std::uint64_t offset, std::uint64_t length) const {
    if (offset % granularity_ != 0 || length % granularity_ != 0) throw Error(ErrorKind::kBug, "not whole blocks");
  }
  static void fail_if(std::atomic<int>& count, const char* what) {
    if (count > 0) {
      --count;
      throw Error(ErrorKind::kOffline, std::string("injected failure of ") + what);
    }
  }

  std::size_t granularity_;
  Sync<std::map<std::uint64_t, Bytes>> blocks_;
  Sync<std::map<std::uint64_t, ChunkRef>> replaced_;
};

}  // namespace isr::test
