#pragma once

#include <functional>
#include <memory>
#include <optional>

#include "base/file.h"
#include "chunkstore/object.h"

namespace isr {

/// The place of a record in a pack, and the length of its object.
struct PackPlace {
  std::int64_t pack = 0;
  std::uint64_t offset = 0;
  std::uint32_t length = 0;
  friend bool operator==(const PackPlace&, const PackPlace&) = default;
};

inline constexpr std::size_t kPackRecordHeaderSize = 40;

/// The number of bytes that the record at `place` takes in its pack.
inline std::uint64_t record_size(const PackPlace& place) noexcept { return kPackRecordHeaderSize + place.length; }

/// One pack: a sequence of records, each a header (cid, length) and an object. docs/formats/cache.md.
///
/// Owner:   the process that holds the file's flock may append, cut and delete it. Reading and punching out indexed
/// records need no lock.
/// Errors:  Error{kIo} from the file system; damage is never an error here.
/// Threads: read() and punch() any; append() one at a time.
class PackFile {
 public:
  /// Creates a pack with a random id, locked. Other processes never see it unlocked.
  static std::shared_ptr<PackFile> create(const fs::path& directory);
  /// nullptr when it does not exist.
  static std::shared_ptr<PackFile> open(const fs::path& directory, std::int64_t id);
  /// The ids of all packs in the directory.
  static std::vector<std::int64_t> list(const fs::path& directory);

  std::int64_t id() const noexcept { return id_; }
  const fs::path& path() const noexcept { return path_; }
  std::uint64_t size() const;
  bool unlinked() const;  ///< the file was deleted
  bool try_lock();        ///< false when another PackFile, here or in another process, holds it
  void unlock();

  /// The object at place; nullopt when the record there has another cid.
  std::optional<Bytes> read(const Cid& cid, const PackPlace& place) const;
  /// Whether the header of the record at place has this cid.
  bool holds(const Cid& cid, const PackPlace& place) const;
  /// Writes a record at `offset`, which must be the end. When that fails, the file is cut back.
  PackPlace append(const Cid& cid, ByteView object, std::uint64_t offset);
  /// Copies the pack to a new file that replaces it, locked; durable on return. Needed after an earlier sync failed to
  /// write some pages: the kernel has marked them clean since, and no later sync of the old file makes them durable,
  /// even if they are written again.
  std::shared_ptr<PackFile> copy_durably() const;
  /// Frees the space of the records in [begin, end). Readers then find them absent.
  void punch(std::uint64_t begin, std::uint64_t end);
  void sync();
  void truncate(std::uint64_t size);
  void unlink();

  enum class Check {
    kHeaders,  ///< trusts record headers; stops at the first damaged one
    kHashes,   ///< every object must hash to its cid; searches damaged parts for the next record
  };
  using Found = std::function<void(const Cid&, const PackPlace&)>;
  /// Calls `found` for each live record from `begin` on. Returns the end of the last good record.
  std::uint64_t scan(std::uint64_t begin, Check check, const Found& found) const;

 private:
  PackFile(UniqueFd fd, fs::path path, std::int64_t id) : fd_(std::move(fd)), path_(std::move(path)), id_(id) {}

  UniqueFd fd_;
  fs::path path_;
  std::int64_t id_;
};

}  // namespace isr
