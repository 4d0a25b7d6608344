#pragma once

#include "account/account.h"
#include "chunkstore/pack_cache.h"
#include "chunkstore/stack.h"
#include "image/settled_sweep.h"
#include "image/snapshot.h"

namespace isr {

/// The sealed objects of a session: the reader that finds them on this host or elsewhere, and the settled store that
/// keeps new ones until they are published.
///
/// Threads: any; for sweep() as SettledSweep says.
class SessionObjects {
 public:
  /// `directory` is the session's. The account must outlive this.
  SessionObjects(const Account& account, const fs::path& directory);
  SessionObjects(const SessionObjects&) = delete;
  SessionObjects& operator=(const SessionObjects&) = delete;

  /// The reader that asks all sources of objects, on this host and elsewhere.
  ChunkReader& reader() const { return *reader_; }
  /// Makes a reader that finds only objects on this host and uses no network.
  std::shared_ptr<ChunkReader> local_reader() const;
  /// The same as reader(), to be shared.
  const std::shared_ptr<ChunkReader>& shared_reader() const { return reader_; }
  /// True when reads wait for a repository that cannot be reached; false when they fail.
  bool waits() const { return waits_; }
  /// Makes an image over these objects. When the disk is full, its writes try to make room before they fail.
  std::shared_ptr<Image> make_image(const std::string& name, std::shared_ptr<const BaseContent> base,
                                    std::shared_ptr<Overlay> overlay) const;

  /// Objects that were sealed here and are in no version yet; durable.
  PackStore& settled() { return *settled_; }
  PackCache& cache() { return *cache_; }
  bool is_here(const Cid& cid) const { return settled_->contains(cid) || cache_->contains(cid); }
  /// The bytes of an object that is to be sent. Error{kCorrupt} when it is damaged or missing.
  Bytes load(const Cid& cid) const;
  /// The sweep that removes unneeded objects from settled().
  SettledSweep& sweep() { return sweep_; }
  SealContext seal_context();

  /// Ends reads that wait for the network, because the VM is being killed.
  void interrupt() { reader_->interrupt(); }
  /// As above, and later reads that would wait fail at once.
  void cancel() { reader_->cancel(); }
  FetchStats stats() const { return fetch_stats(source_stats_); }

 private:
  std::uint64_t make_room(std::uint64_t bytes);

  const Account& account_;
  bool waits_;
  SourceStats source_stats_;
  mutable SourceStats local_stats_;  ///< of the readers that local_reader() makes
  std::shared_ptr<PackCache> cache_;
  MakeRoom make_room_;
  std::shared_ptr<PackStore> settled_;
  std::shared_ptr<ChunkReader> reader_;
  SettledSweep sweep_;
};

}  // namespace isr
