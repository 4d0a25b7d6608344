#pragma once

#include <stop_token>
#include <unordered_map>

#include "base/sync.h"
#include "image/boot_pack.h"
#include "image/tree.h"

namespace isr {

/// A boot pack in use: pages of several images that can be read before their chunks are here. The pack is fetched chunk
/// by chunk. A page that is not here yet is fetched with its chunk of the pack, together with the pages that were read
/// about the same time.
/// Threads: any.
class HotPages {
 public:
  /// Reads the pack's head. The reader must outlive it. Errors as ChunkReader, but never waits for the repository to
  /// come back; {kCorrupt} when it is not a boot pack.
  HotPages(ChunkReader& reader, const TreeRoot& pack, const std::stop_token& stop);

  const BootHead& head() const noexcept { return head_; }
  /// The number of chunks of the pack, and their length as objects.
  std::size_t chunks() const noexcept { return refs_.size(); }
  std::uint32_t length(std::size_t chunk) const { return refs_[chunk].length; }
  const ChunkRef& reference(std::size_t chunk) const { return refs_[chunk]; }
  /// Fetches a chunk as ChunkReader::bring() does, and keeps it.
  void bring(std::size_t chunk, const std::stop_token& stop);

  /// Fills `out`, which must lie within one page, with the bytes at `offset` of the image with number `image` in the
  /// head. Returns false when the pack does not have them, is damaged there, or cannot be reached.
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
    std::chrono::steady_clock::time_point asked_again{};  // do not ask again before, because it could not be reached
  };
  Sync<State> state_;
};

/// An image's part of a boot pack.
struct HotImage {
  std::shared_ptr<HotPages> pages;  ///< null: no boot pack
  std::uint8_t number = 0;          ///< the image's number in the head
};

}  // namespace isr
