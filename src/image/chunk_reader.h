#pragma once

#include <array>
#include <filesystem>
#include <functional>
#include <memory>
#include <stop_token>

#include "chunkstore/link_meter.h"
#include "chunkstore/object_source.h"

namespace isr {

/// A decoded chunk, shared with its readers.
using ChunkData = std::shared_ptr<const std::array<std::uint8_t, kChunkSize>>;
/// The 256 references of a decoded page.
using PageData = std::shared_ptr<const std::vector<ChunkRef>>;

/// Where decoded chunks go that are read piece by piece.
struct SpillOptions {
  std::filesystem::path directory;   ///< empty: chunks are not spilled
  std::uint64_t size_bytes = 0;      ///< limit of their size
  std::uint64_t min_free_bytes = 0;  ///< left free on the file system
};

struct ReaderOptions {
  std::size_t decoded_bytes = 64U << 20U;  ///< decoded chunks kept
  std::size_t decoded_pages = 2048;        ///< decoded pages kept, 31 KiB each
  unsigned prefetch_threads = 16;          ///< limit; they mostly wait for the network
  const LinkMeter* link = nullptr;         ///< tells how many fetches fill the link; null: not known
  SpillOptions spill{};
};

/// Turns references into plaintext: fetches, opens and checks objects, and keeps decoded ones. When an object from the
/// cache does not open, it is dropped there and fetched again, once. Decoded data is only given to a reference that
/// equals the one that opened it, including the key. Each chunk is decoded once, however many callers ask. A caller
/// that waits for a fetch of a lower priority tries itself when that fetch fails. Settling does not join a fetch that
/// may wait for the repository to come back: kTransient. When a caller's `stop` is requested, that caller returns at
/// once with {kCancelled}; others that wait for the same fetch are not affected.
///
/// Errors:  kCorrupt naming the object; kOffline; kCancelled. A referenced object that no source has is kCorrupt
///          ("missing"). Missing data never becomes zeros.
/// Threads: any.
class ChunkReader {
 public:
  ChunkReader(SourcePtr source, const ReaderOptions& options);
  ~ChunkReader();

  /// ref must not be zero.
  ChunkData read_chunk(const ChunkRef& ref, Priority priority = Priority::kGuest, const std::stop_token& stop = {});
  /// Reads bytes of a chunk that is read piece by piece, in any order; else as read_chunk().
  void read_piece(const ChunkRef& ref, std::size_t within, MutableBytes out);
  PageData read_page(const ChunkRef& ref, Priority priority = Priority::kGuest, const std::stop_token& stop = {});
  /// Fetches an object into the cache without opening it. Waits until the link has room beside the fetches that guests
  /// wait for. Used for work that no guest waits for, so it never waits for the repository to come back. Errors as
  /// read_chunk(), {kCancelled}.
  void bring(const ChunkRef& ref, std::stop_token stop);
  /// True when read_chunk() would not wait for a fetch.
  bool is_decoded(const ChunkRef& ref);
  /// Runs `task` on a prefetch thread. The task is dropped when too many wait, and when the reader ends. It must not
  /// throw and must not own the reader. The link decides how many run at once.
  void prefetch(std::function<void()> task);
  /// How many chunks to fetch ahead of a sequential reader: enough to keep the link busy, but few enough that useless
  /// fetches cost little.
  unsigned ahead_limit() const;
  /// Gives up the disk space of decoded chunks for good. Returns the number of bytes.
  std::uint64_t give_up_spill();
  /// Returns when no chunk is being written to the spill.
  void wait_for_spills();
  /// Ends the running fetches with kCancelled. Used when their callers are gone or being ended.
  void interrupt();
  /// As interrupt(), and later fetches fail at once, too. Used when shutting down.
  void cancel();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace isr
