#pragma once

#include <vector>

#include "chunkstore/pack_file.h"

namespace isr {

/// The packs that this process appends to, one after the other, each locked until release().
/// A pack is one of them only when every step of making it has succeeded; one that did not come
/// so far is deleted.
///
///   current     appended to
///   full        no longer appended to; their objects may not be in the index yet
///   unsynced    durable only: what may be lost when the next sync fails, of both of them
///
/// Errors:  Error{kIo}; then nothing of that append() is in a pack.
/// Threads: one at a time.
class PackWriter {
 public:
  enum class Names {
    kCache,
    kDurable,  ///< synced through one descriptor, opened by the constructor, which syncs those that are there
  };
  PackWriter(fs::path directory, std::uint64_t pack_size, Names names);

  PackPlace append(const Cid& cid, ByteView object);
  /// The next append begins a new pack.
  bool is_between_packs() const noexcept { return !current_ || end_ >= pack_size_; }
  bool is_deleted() const { return current_ && current_->unlinked(); }

  struct Tail {
    std::shared_ptr<PackFile> pack;
    std::uint64_t from = 0;  ///< what is before it is durable
  };
  const std::vector<Tail>& unsynced() const noexcept { return unsynced_; }
  /// fdatasync of what is unsynced. After Error{kIo} that stays as it was, and must be given up: the
  /// kernel may count the lost pages as clean, and the next fdatasync would say that all is well.
  void sync();
  /// Cuts what is unsynced off and appends to those packs no more.
  void give_up_unsynced() noexcept;

  std::vector<std::shared_ptr<PackFile>> full() const { return full_; }
  /// Their objects are in the index: others may delete them once it says that they are empty.
  void release(const std::vector<std::shared_ptr<PackFile>>& packs);
  /// The packs were deleted with their directory.
  void forget_all() noexcept;

 private:
  void begin_pack();

  fs::path directory_;
  std::uint64_t pack_size_;
  std::optional<Directory> names_;  // durable
  std::shared_ptr<PackFile> current_;
  std::uint64_t end_ = 0;
  std::vector<std::shared_ptr<PackFile>> full_;
  std::vector<Tail> unsynced_;
};

}  // namespace isr
