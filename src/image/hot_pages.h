#pragma once

#include <stop_token>
#include <unordered_map>

#include "base/sync.h"
#include "image/boot_pack.h"
#include "image/tree.h"

namespace isr {

/// A boot pack in use: pages of several images that can be read before their chunks are here.
/// It comes in chunk by chunk; a page that has not come yet is fetched with the pack's chunk
/// that holds it, and with it those that were read about the same time.
/// Threads: any.
class HotPages {
 public:
  /// Reads the pack's head. The reader must outlive it. Error as ChunkReader, never waiting for the
  /// repository to come back; {kCorrupt} when it is no boot pack.
  HotPages(ChunkReader& reader, const TreeRoot& pack, const std::stop_token& stop);

  const BootHead& head() const noexcept { return head_; }
  /// Chunks of the pack, and their length as objects.
  std::size_t chunks() const noexcept { return refs_.size(); }
  std::uint32_t length(std::size_t chunk) const { return refs_[chunk].length; }
  /// Fetches one as ChunkReader::bring() does, and keeps it.
  void bring(std::size_t chunk, const std::stop_token& stop);

  /// Fills `out`, which lies within one page, from what stands at `offset` of the head's image
  /// number `image`. False: the pack has it not, is damaged there, or cannot be reached.
  bool read(std::uint8_t image, std::uint64_t offset, MutableBytes out);

 private:
  Bytes read_beginning(std::size_t size, const std::stop_token& stop);
  ChunkData chunk(std::size_t index);

  ChunkReader& reader_;
  std::vector<ChunkRef> refs_;
  BootHead head_;
  std::unordered_map<std::uint64_t, std::uint64_t> places_;  // page << 8 | image → offset in the pack
  struct State {
    std::vector<ChunkData> here;
    std::vector<bool> damaged;
    std::chrono::steady_clock::time_point asked_again{};  // not before: it could not be reached
  };
  Sync<State> state_;
};

/// What an image uses of one.
struct HotImage {
  std::shared_ptr<HotPages> pages;  ///< null: nothing
  std::uint8_t number = 0;          ///< in the head
};

}  // namespace isr
