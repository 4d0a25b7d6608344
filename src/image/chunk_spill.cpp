// Slots of one chunk each in a scratch file. A slot is written only while no chunk leads to it. A reader checks after
// reading that its chunk still has the same slot, so that no thread wrote to the slot meanwhile. Until that check a
// mutex for a stripe of slots keeps a block's bytes and tag together.

#include "image/chunk_spill.h"

#include <sys/statvfs.h>

#include <algorithm>
#include <array>
#include <mutex>

#include "base/error.h"
#include "base/log.h"
#include "base/sync.h"
#include "image/encrypted_scratch_file.h"
#include "image/lru.h"

namespace isr {
namespace {

constexpr std::uint64_t kMostSlots = (16ULL << 30U) / kChunkSize;  // a slot takes 1 KiB of memory once it was used
constexpr std::size_t kStripes = 64;

/// The place of a chunk. `tenancy` distinguishes it from earlier users of the slot.
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
        state_(State{.file = std::make_shared<EncryptedScratchFile>(options.directory, slots_, cipher_)}) {}

  bool read(const ChunkRef& ref, std::size_t within, MutableBytes out) override {
    auto state = state_.lock();
    const auto slot = state->chunks.find(ref);
    const auto file = state->file;
    state.unlock();
    if (!slot || !file) return false;
    try {
      const auto gaps =
          read_by_blocks(slot->index * kChunkSize + within, out, [&](std::uint64_t at, MutableBytes block) {
            const std::lock_guard lock(stripe(slot->index));
            return file->read_block(at, block);
          });
      if (!gaps.empty()) return false;
    } catch (const Error&) {
      forget(ref, *slot);  // damaged, or being written for another chunk
      return false;
    }
    return state_.lock()->chunks.find(ref) == slot;
  }

  bool contains(const ChunkRef& ref) override { return state_.lock()->chunks.contains(ref); }

  void put(const ChunkRef& ref, const ChunkData& data) override {
    Slot slot;
    std::shared_ptr<EncryptedScratchFile> file;
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
        return;  // no slot is free, or all are being written
      }
    }
    try {
      write(*file, slot.index, *data);
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
    state->file.reset();  // the space is freed when the last reader has finished
    return state->used * kChunkSize;
  }

 private:
  struct State {
    std::shared_ptr<EncryptedScratchFile> file;  // null once it was given up
    LruByRef<Slot> chunks{SIZE_MAX};
    std::uint64_t used = 0;  // number of slots ever used
    std::uint64_t tenancies = 0;
  };

  std::mutex& stripe(std::uint64_t index) { return stripes_[index % kStripes]; }

  void write(EncryptedScratchFile& file, std::uint64_t index, ByteView chunk) {
    const auto& sealed = cipher_->seal(chunk);
    const std::lock_guard lock(stripe(index));
    file.write(index * kChunkSize, sealed);
  }

  void forget(const ChunkRef& ref, const Slot& slot) {
    auto state = state_.lock();
    if (state->chunks.find(ref) == slot) state->chunks.erase(ref);  // the slot stays unused
  }

  bool may_grow() const {
    struct statvfs status {};
    return ::statvfs(options_.directory.c_str(), &status) == 0 &&
           std::uint64_t{status.f_bavail} * status.f_frsize >= options_.min_free_bytes;
  }

  SpillOptions options_;
  std::uint64_t slots_;
  std::shared_ptr<ScratchCipher> cipher_ = std::make_shared<ScratchCipher>();
  std::array<std::mutex, kStripes> stripes_;
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
