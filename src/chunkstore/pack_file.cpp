// A record's header stands before its object, so that packs can be read without the index: a scan replaces an index
// that is lost or older than the packs. A punched hole begins with a header of its own that gives its length. That
// header is written before the hole is made, so a crash between the two only leaves space unfreed.
#include "chunkstore/pack_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <limits>

#include "base/crypto.h"
#include "base/error.h"
#include "base/whole_file.h"

namespace isr {
namespace {

constexpr std::string_view kLiveMagic = "IPR1";
constexpr std::string_view kHoleMagic = "IPH1";
constexpr std::size_t kHoleHeaderSize = 8;
constexpr std::string_view kSuffix = ".pack";
constexpr std::size_t kSearchWindow = 256U << 10U;
constexpr std::size_t kCopiedAtOnce = 64U << 10U;

Bytes encode_header(const Cid& cid, std::uint32_t length) {
  return ByteWriter().put(as_bytes(kLiveMagic)).u32(length).put(cid.view()).take();
}

struct RecordHeader {
  bool live = false;  // false: a hole of `length` bytes, including its header
  std::uint32_t length = 0;
  Cid cid;
};

/// nullopt when the bytes are not a header.
std::optional<RecordHeader> decode_header(ByteView bytes) {
  ByteReader in(bytes, "pack record");
  const auto magic = as_text(in.take(4));
  RecordHeader header;
  header.live = magic == kLiveMagic;
  if (!header.live && magic != kHoleMagic) return std::nullopt;
  header.length = in.u32();
  header.cid = in.fixed<Cid>();
  const bool possible =
      header.live ? header.length >= 1 && header.length <= kMaxObjectSize : header.length >= kHoleHeaderSize;
  return possible ? std::optional(header) : std::nullopt;
}

bool is_record_of(ByteView head, const Cid& cid, const PackPlace& place) {
  const auto header = decode_header(head);
  return header && header->live && header->length == place.length && header->cid == cid;
}

fs::path path_of(const fs::path& directory, std::int64_t id) {
  return directory / fmt::format("{:016x}{}", static_cast<std::uint64_t>(id), kSuffix);
}

std::optional<std::int64_t> id_from(const std::string& name) {
  if (name.size() != 16 + kSuffix.size() || !name.ends_with(kSuffix)) return std::nullopt;
  std::uint64_t id = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + 16, id, 16);
  if (error != std::errc() || end != name.data() + 16 || id > std::numeric_limits<std::int64_t>::max()) {
    return std::nullopt;
  }
  return static_cast<std::int64_t>(id);
}

std::int64_t random_id() {
  std::array<std::uint8_t, 8> bytes{};
  random_bytes(bytes);
  std::int64_t id = 0;
  std::memcpy(&id, bytes.data(), sizeof id);
  return id & std::numeric_limits<std::int64_t>::max();
}

}  // namespace

std::shared_ptr<PackFile> PackFile::create(const fs::path& directory) {
  const std::int64_t id = random_id();
  const fs::path path = path_of(directory, id);
  const fs::path temporary = directory / fmt::format("{}{:016x}", kTempFilePrefix, static_cast<std::uint64_t>(id));
  auto fd = open_file(temporary, O_RDWR | O_CREAT | O_EXCL);
  std::shared_ptr<PackFile> pack(new PackFile(std::move(fd), path, id));
  try {
    // The lock belongs to the open file, not to its name, so it holds from the moment when others can see the pack.
    if (!pack->try_lock()) throw Error(ErrorKind::kBug, fmt::format("new pack {} is locked", path.string()));
    if (::rename(temporary.c_str(), path.c_str()) != 0) {
      throw_errno(fmt::format("cannot create {}", path.string()), errno);
    }
  } catch (const Error&) {
    ::unlink(temporary.c_str());
    throw;
  }
  return pack;
}

std::shared_ptr<PackFile> PackFile::open(const fs::path& directory, std::int64_t id) {
  const fs::path path = path_of(directory, id);
  auto fd = open_if_exists(path, O_RDWR | O_NONBLOCK);
  if (!fd) return nullptr;
  return std::shared_ptr<PackFile>(new PackFile(std::move(*fd), path, id));
}

std::vector<std::int64_t> PackFile::list(const fs::path& directory) {
  std::vector<std::int64_t> ids;
  std::error_code error;
  for (fs::directory_iterator it(directory, error), end; !error && it != end; it.increment(error)) {
    if (const auto id = id_from(it->path().filename().string())) ids.push_back(*id);
  }
  if (error) throw_errno(fmt::format("cannot list {}", directory.string()), error.value());
  return ids;
}

std::uint64_t PackFile::size() const { return file_size(fd_.get(), path_); }

bool PackFile::unlinked() const {
  struct stat status {};
  return ::fstat(fd_.get(), &status) != 0 || status.st_nlink == 0;
}

bool PackFile::try_lock() {
  while (::flock(fd_.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno == EWOULDBLOCK) return false;
    if (errno != EINTR) throw_errno(fmt::format("cannot lock {}", path_.string()), errno);
  }
  return true;
}

void PackFile::unlock() { ::flock(fd_.get(), LOCK_UN); }

std::optional<Bytes> PackFile::read(const Cid& cid, const PackPlace& place) const {
  if (place.length == 0 || place.length > kMaxObjectSize) return std::nullopt;  // the index may be damaged
  std::array<std::uint8_t, kPackRecordHeaderSize> head{};
  Bytes object(place.length);
  const std::array<iovec, 2> parts{iovec{head.data(), head.size()}, iovec{object.data(), object.size()}};
  const auto count = ::preadv(fd_.get(), parts.data(), parts.size(), static_cast<off_t>(place.offset));
  if (count < 0 && errno != EINVAL && errno != EINTR) throw_errno(fmt::format("cannot read {}", path_.string()), errno);
  if (count != static_cast<ssize_t>(record_size(place))) {  // at the end, or interrupted: read again in pieces
    if (place.offset > static_cast<std::uint64_t>(std::numeric_limits<off_t>::max()) - record_size(place) ||
        read_at(fd_.get(), head, place.offset, path_) != head.size() ||
        read_at(fd_.get(), object, place.offset + head.size(), path_) != object.size()) {
      return std::nullopt;
    }
  }
  if (!is_record_of(head, cid, place)) return std::nullopt;
  return object;
}

bool PackFile::holds(const Cid& cid, const PackPlace& place) const {
  std::array<std::uint8_t, kPackRecordHeaderSize> head{};
  return place.offset <= size() && read_at(fd_.get(), head, place.offset, path_) == head.size() &&
         is_record_of(head, cid, place);
}

PackPlace PackFile::append(const Cid& cid, ByteView object, std::uint64_t offset) {
  const PackPlace place{id_, offset, static_cast<std::uint32_t>(object.size())};
  try {
    Bytes header = encode_header(cid, place.length);
    const std::array<iovec, 2> parts{iovec{header.data(), header.size()},
                                     iovec{const_cast<std::uint8_t*>(object.data()), object.size()}};
    const auto written = ::pwritev(fd_.get(), parts.data(), parts.size(), static_cast<off_t>(offset));
    if (written != static_cast<ssize_t>(record_size(place))) {  // interrupted, or an error that the next call reports
      write_all_at(fd_.get(), header, offset, path_);
      write_all_at(fd_.get(), object, offset + kPackRecordHeaderSize, path_);
    }
  } catch (...) {
    // Half a record would hide later records from a scan. If the cut fails, too, the next record overwrites the half
    // one.
    if (::ftruncate(fd_.get(), static_cast<off_t>(offset)) != 0) errno = 0;
    throw;
  }
  return place;
}

std::shared_ptr<PackFile> PackFile::copy_durably() const {
  fs::path temporary = path_;
  temporary.replace_filename(fmt::format("{}{}", kTempFilePrefix, path_.filename().string()));
  remove_if_exists(temporary);  // left by a copy that a crash interrupted
  std::shared_ptr<PackFile> copy(new PackFile(open_file(temporary, O_RDWR | O_CREAT | O_EXCL), path_, id_));
  try {
    if (!copy->try_lock()) throw Error(ErrorKind::kBug, fmt::format("new pack {} is locked", path_.string()));
    const std::uint64_t end = size();
    Bytes part(kCopiedAtOnce);
    for (std::uint64_t at = 0; at < end; at += kCopiedAtOnce) {
      part.resize(std::min<std::uint64_t>(kCopiedAtOnce, end - at));
      read_exact_at(fd_.get(), part, at, path_);
      if (!is_zero(part)) write_all_at(copy->fd_.get(), part, at, temporary);  // holes stay holes
    }
    copy->truncate(end);
    copy->sync();
    if (::rename(temporary.c_str(), path_.c_str()) != 0) {
      throw_errno(fmt::format("cannot replace {}", path_.string()), errno);
    }
  } catch (const Error&) {
    ::unlink(temporary.c_str());
    throw;
  }
  sync_directory(path_.parent_path());
  return copy;
}

void PackFile::punch(std::uint64_t begin, std::uint64_t end) {
  if (end < begin + kHoleHeaderSize || end - begin > std::numeric_limits<std::uint32_t>::max()) {
    throw Error(ErrorKind::kBug, fmt::format("hole of {} bytes in {}", end - begin, path_.string()));
  }
  const auto length = static_cast<std::uint32_t>(end - begin);
  write_all_at(fd_.get(), ByteWriter().put(as_bytes(kHoleMagic)).u32(length).bytes(), begin, path_);
  const auto from = static_cast<off_t>(begin + kHoleHeaderSize);
  // Not every file system can punch holes. The space is then freed when the whole pack is deleted.
  if (::fallocate(fd_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, from,
                  static_cast<off_t>(length - kHoleHeaderSize)) != 0 &&
      errno != EOPNOTSUPP && errno != ENOSYS && errno != EINTR) {
    throw_errno(fmt::format("cannot free space in {}", path_.string()), errno);
  }
}

void PackFile::sync() { sync_file(fd_.get(), path_); }

void PackFile::truncate(std::uint64_t size) {
  if (::ftruncate(fd_.get(), static_cast<off_t>(size)) != 0) {
    throw_errno(fmt::format("cannot truncate {}", path_.string()), errno);
  }
}

void PackFile::unlink() { remove_if_exists(path_); }

namespace {

/// The next place at or after `offset` where a live record may begin.
std::optional<std::uint64_t> find_magic(const std::function<std::size_t(MutableBytes, std::uint64_t)>& read,
                                        std::uint64_t offset) {
  Bytes window(kSearchWindow);
  for (;;) {
    const std::size_t count = read(window, offset);
    if (count < kLiveMagic.size()) return std::nullopt;
    const auto text = as_text(ByteView(window).first(count));
    const auto at = text.find(kLiveMagic);
    if (at != std::string_view::npos) return offset + at;
    offset += count - (kLiveMagic.size() - 1);
  }
}

}  // namespace

std::uint64_t PackFile::scan(std::uint64_t begin, Check check, const Found& found) const {
  const std::uint64_t file_end = size();
  const auto read = [this](MutableBytes out, std::uint64_t at) { return read_at(fd_.get(), out, at, path_); };
  std::uint64_t offset = begin;
  std::uint64_t good_end = begin;
  std::array<std::uint8_t, kPackRecordHeaderSize> head{};
  while (offset < file_end) {
    std::fill(head.begin(), head.end(), std::uint8_t{0});
    const std::size_t count = read(head, offset);
    const auto header = decode_header(head);
    const std::uint64_t next =
        header ? offset + header->length + (header->live ? kPackRecordHeaderSize : 0) : file_end + 1;
    bool good = header && next <= file_end && (count == head.size() || !header->live);
    if (good && header->live) {
      const PackPlace place{id_, offset, header->length};
      if (check == Check::kHashes) {
        const auto object = this->read(header->cid, place);
        good = object && cid_of(*object) == header->cid;
      }
      if (good) found(header->cid, place);
    }
    if (good) {
      offset = good_end = next;
    } else if (check == Check::kHeaders) {
      break;
    } else {
      const auto resumed = find_magic(read, offset + 1);
      if (!resumed) break;
      offset = *resumed;
    }
  }
  return good_end;
}

}  // namespace isr
