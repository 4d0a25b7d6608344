#pragma once

#include <array>
#include <filesystem>
#include <functional>
#include <memory>
#include <stop_token>

#include "chunkstore/link_meter.h"
#include "chunkstore/object_source.h"

namespace isr {

/// A decoded chunk, shared with whoever still reads it.
using ChunkData = std::shared_ptr<const std::array<std::uint8_t, kChunkSize>>;
/// The 256 references of a decoded page.
using PageData = std::shared_ptr<const std::vector<ChunkRef>>;

/// Where decoded chunks go that somebody reads piece by piece.
struct SpillOptions {
  std::filesystem::path directory;   ///< empty: nowhere
  std::uint64_t size_bytes = 0;      ///< of them, at most
  std::uint64_t min_free_bytes = 0;  ///< are left free on the file system
};

struct ReaderOptions {
  std::size_t decoded_bytes = 64U << 20U;  ///< decoded chunks kept
  std::size_t decoded_pages = 2048;        ///< decoded pages kept, 31 KiB each
  unsigned prefetch_threads = 16;          ///< at most; they wait for the network, mostly
  const LinkMeter* link = nullptr;         ///< says how many fetches fill it; null: not known
  SpillOptions spill{};
};

/// From references to plaintext: fetches, opens, checks, keeps what is decoded.
/// An object that the cache gave and that does not open is dropped there and
/// fetched again, once. What is decoded is given only to a reference that is equal to the one
/// that opened it, key and all. Each chunk is decoded once however many ask; who waits for
/// another's fetch of a lower priority tries itself when that fails. Settling does
/// not join a fetch that may wait for the repository to come back: kTransient.
/// Who asked with a `stop` leaves at once when that is requested, {kCancelled}; others who
/// wait for the same fetch do not notice.
///
/// Errors:  kCorrupt naming the object; kOffline; kCancelled. A referenced object
///          that no source has is kCorrupt ("missing"). Never zeros for missing data.
/// Threads: any.
class ChunkReader {
 public:
  ChunkReader(SourcePtr source, const ReaderOptions& options);
  ~ChunkReader();

  /// ref must not be zero.
  ChunkData read_chunk(const ChunkRef& ref, Priority priority = Priority::kGuest, const std::stop_token& stop = {});
  /// Bytes of a chunk that somebody reads piece by piece, in no order; else as read_chunk().
  void read_piece(const ChunkRef& ref, std::size_t within, MutableBytes out);
  PageData read_page(const ChunkRef& ref, Priority priority = Priority::kGuest, const std::stop_token& stop = {});
  /// Fetches an object so that it is in the cache, without opening it, when the link has room for it
  /// beside what guests wait for; until then it waits. For what nobody waits for: never waits for
  /// the repository to come back. Error as read_chunk(), {kCancelled}.
  void bring(const ChunkRef& ref, std::stop_token stop);
  /// True when read_chunk() would not wait for a fetch.
  bool is_decoded(const ChunkRef& ref);
  /// Runs `task` on a prefetch thread; dropped when too many wait, and with the reader.
  /// It must not throw nor own the reader. As many run at once as the link takes.
  void prefetch(std::function<void()> task);
  /// How many chunks to have under way ahead of a sequential reader: enough to keep
  /// the link busy, few enough that what turns out useless costs little.
  unsigned ahead_limit() const;
  /// Gives the disk space of decoded chunks back, for good. Returns the bytes.
  std::uint64_t give_up_spill();
  /// Returns when no chunk is on its way to the spill.
  void wait_for_spills();
  /// Ends the fetches that are under way with kCancelled: whoever waited for them is gone, or to go.
  void interrupt();
  /// The same for all time, for shutting down.
  void cancel();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace isr
