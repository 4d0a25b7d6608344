// Slots of one chunk each in a scratch file. A slot is written only while no chunk
// leads to it, and a reader looks again after it has read: if its chunk still has
// the same slot, nobody wrote to the slot meanwhile.

#include "image/chunk_spill.h"

#include <sys/statvfs.h>

#include <algorithm>

#include "base/error.h"
#include "base/log.h"
#include "base/sync.h"
#include "image/lru.h"
#include "image/scratch_overlay.h"

namespace isr {
namespace {

constexpr std::uint64_t kMostSlots = (16ULL << 30U) / kChunkSize;  // each takes 1 KiB of memory once it was used

/// Where a chunk is; `tenancy` tells it from those that had the slot before.
struct Slot {
  std::uint64_t index = 0;
  std::uint64_t tenancy = 0;
  friend bool operator==(const Slot&, const Slot&) = default;
};

class ScratchSpill : public ChunkSpill {
 public:
  explicit ScratchSpill(const SpillOptions& options)
      : options_(options),
        slots_(std::min(options.size_bytes / kChunkSize, kMostSlots)),
        state_(State{.file = make_scratch_overlay(options.directory, slots_ * kChunkSize, nullptr)}) {}

  bool read(const ChunkRef& ref, std::size_t within, MutableBytes out) override {
    auto state = state_.lock();
    const auto slot = state->chunks.find(ref);
    const auto file = state->file;
    state.unlock();
    if (!slot || !file) return false;
    try {
      if (!file->read(slot->index * kChunkSize + within, out).empty()) return false;
    } catch (const Error&) {
      forget(ref, *slot);  // damaged, or being written for another chunk
      return false;
    }
    return state_.lock()->chunks.find(ref) == slot;
  }

  bool contains(const ChunkRef& ref) override { return state_.lock()->chunks.contains(ref); }

  void put(const ChunkRef& ref, const ChunkData& data) override {
    Slot slot;
    std::shared_ptr<ScratchOverlay> file;
    {
      auto state = state_.lock();
      file = state->file;
      if (!file || state->chunks.contains(ref)) return;
      slot.tenancy = ++state->tenancies;
      if (state->used < slots_ && may_grow()) {
        slot.index = state->used++;
      } else if (const auto last = state->chunks.remove_oldest()) {
        slot.index = last->index;
      } else {
        return;  // no slot, or every one is being written
      }
    }
    try {
      file->write(slot.index * kChunkSize, *data);
      auto state = state_.lock();
      if (state->file) state->chunks.insert(ref, slot);
    } catch (const std::exception& error) {
      log::info("decoded chunks are no longer kept on disk: {}", error.what());
      give_up();
    }
  }

  std::uint64_t give_up() override {
    auto state = state_.lock();
    if (!state->file) return 0;
    state->chunks = LruByRef<Slot>(SIZE_MAX);
    state->file.reset();  // its space comes back when the last reader has let go
    return state->used * kChunkSize;
  }

 private:
  struct State {
    std::shared_ptr<ScratchOverlay> file;  // null: given up
    LruByRef<Slot> chunks{SIZE_MAX};
    std::uint64_t used = 0;  // slots that were ever used
    std::uint64_t tenancies = 0;
  };

  void forget(const ChunkRef& ref, const Slot& slot) {
    auto state = state_.lock();
    if (state->chunks.find(ref) == slot) state->chunks.erase(ref);  // its slot stays unused
  }

  bool may_grow() const {
    struct statvfs status {};
    return ::statvfs(options_.directory.c_str(), &status) == 0 &&
           std::uint64_t{status.f_bavail} * status.f_frsize >= options_.min_free_bytes;
  }

  SpillOptions options_;
  std::uint64_t slots_;
  Sync<State> state_;
};

}  // namespace

std::unique_ptr<ChunkSpill> make_chunk_spill(const SpillOptions& options) {
  if (options.directory.empty() || options.size_bytes < kChunkSize) return nullptr;
  try {
    return std::make_unique<ScratchSpill>(options);
  } catch (const std::exception& error) {
    log::info("decoded chunks are not kept on disk: {}", error.what());
    return nullptr;
  }
}

}  // namespace isr
