#pragma once

#include <vector>

#include "chunkstore/pack_file.h"

namespace isr {

/// The packs that this process appends to, one after the other. Each is locked until release(). A pack whose creation
/// fails at any step is deleted.
///
///   current     appended to
///   full        no longer appended to; their objects may not be in the index yet
///   unsynced    durable only: the parts of both that are lost when the next sync fails
///
/// Errors:  Error{kIo}; then no part of that append() is in a pack.
/// Threads: one at a time.
class PackWriter {
 public:
  enum class Names {
    kCache,
    kDurable,  ///< synced through one descriptor, which the constructor opens and uses to sync existing names
  };
  PackWriter(fs::path directory, std::uint64_t pack_size, Names names);

  PackPlace append(const Cid& cid, ByteView object);
  /// True when the next append begins a new pack.
  bool is_between_packs() const noexcept { return !current_ || end_ >= pack_size_; }
  bool is_deleted() const { return current_ && current_->unlinked(); }

  struct Tail {
    std::shared_ptr<PackFile> pack;
    std::uint64_t from = 0;  ///< the part before it is durable
  };
  const std::vector<Tail>& unsynced() const noexcept { return unsynced_; }
  /// Calls fdatasync for the unsynced parts. After Error{kIo} they stay unsynced, and the caller must give them up: the
  /// kernel may count the lost pages as clean, and the next fdatasync would report success.
  void sync();
  /// Cuts the unsynced parts off and appends to those packs no more.
  void give_up_unsynced() noexcept;

  std::vector<std::shared_ptr<PackFile>> full() const { return full_; }
  /// Call when the packs' objects are in the index. Other processes may then delete packs that the index shows as
  /// empty.
  void release(const std::vector<std::shared_ptr<PackFile>>& packs);
  /// Call when the packs were deleted with their directory.
  void forget_all() noexcept;

 private:
  void begin_pack();

  fs::path directory_;
  std::uint64_t pack_size_;
  std::optional<Directory> names_;  // durable only
  std::shared_ptr<PackFile> current_;
  std::uint64_t end_ = 0;
  std::vector<std::shared_ptr<PackFile>> full_;
  std::vector<Tail> unsynced_;
};

}  // namespace isr
