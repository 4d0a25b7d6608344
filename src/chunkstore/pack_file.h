#pragma once

#include <functional>
#include <memory>
#include <optional>

#include "base/file.h"
#include "chunkstore/object.h"

namespace isr {

/// Where a record begins in which pack, and how long its object is.
struct PackPlace {
  std::int64_t pack = 0;
  std::uint64_t offset = 0;
  std::uint32_t length = 0;
  friend bool operator==(const PackPlace&, const PackPlace&) = default;
};

inline constexpr std::size_t kPackRecordHeaderSize = 40;

/// Bytes that the record at `place` takes in its pack.
inline std::uint64_t record_size(const PackPlace& place) noexcept { return kPackRecordHeaderSize + place.length; }

/// One pack: records one after the other, each a header (cid, length) and an
/// object. docs/formats/cache.md.
///
/// Owner:   whoever holds the file's flock may append, cut and delete it. Reading
///          and punching out indexed records needs no lock.
/// Errors:  Error{kIo} from the file system; damage is never an error here.
/// Threads: read() and punch() any; append() one at a time.
class PackFile {
 public:
  /// A new pack of a random id, locked. Other processes never see it unlocked.
  static std::shared_ptr<PackFile> create(const fs::path& directory);
  /// nullptr when there is none.
  static std::shared_ptr<PackFile> open(const fs::path& directory, std::int64_t id);
  /// The ids of all packs in the directory.
  static std::vector<std::int64_t> list(const fs::path& directory);

  std::int64_t id() const noexcept { return id_; }
  const fs::path& path() const noexcept { return path_; }
  std::uint64_t size() const;
  bool unlinked() const;  ///< somebody deleted the file
  bool try_lock();        ///< false when another PackFile, here or in another process, holds it
  void unlock();

  /// The object at place; nullopt when the record there is not that of cid.
  std::optional<Bytes> read(const Cid& cid, const PackPlace& place) const;
  /// Whether the record at place is that of cid, by its header.
  bool holds(const Cid& cid, const PackPlace& place) const;
  /// Writes a record at `offset`, the end. When it fails the file is cut back.
  PackPlace append(const Cid& cid, ByteView object, std::uint64_t offset);
  /// Copies the pack to a new file that takes its place, locked; durable on return. For what may be pages that an
  /// earlier sync failed to write: they count as clean since, and no later sync of this file mends them, written again
  /// or not.
  std::shared_ptr<PackFile> copy_durably() const;
  /// Frees the space of the records in [begin, end). Readers find them gone.
  void punch(std::uint64_t begin, std::uint64_t end);
  void sync();
  void truncate(std::uint64_t size);
  void unlink();

  enum class Check {
    kHeaders,  ///< believes what record headers say; ends at the first that is damaged
    kHashes,   ///< every object must hash to its cid; damaged stretches are searched for the next record
  };
  using Found = std::function<void(const Cid&, const PackPlace&)>;
  /// Tells `found` of each live record from `begin` on. Returns where the last good record ends.
  std::uint64_t scan(std::uint64_t begin, Check check, const Found& found) const;

 private:
  PackFile(UniqueFd fd, fs::path path, std::int64_t id) : fd_(std::move(fd)), path_(std::move(path)), id_(id) {}

  UniqueFd fd_;
  fs::path path_;
  std::int64_t id_;
};

}  // namespace isr
