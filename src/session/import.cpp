// Import works in runs of one tree page (256 chunks, 32 MiB): read, seal and hand to
// the uploader on all cores, then push the references into the tree. What a version of
// the user's has already is hashed and not sealed: its reference is taken over, when the
// repository still has the object.

#include "session/import.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include "base/log.h"
#include "base/thread_pool.h"
#include "image/known_chunks.h"
#include "image/tree_builder.h"
#include "repository/sequence.h"
#include "session/held_lock.h"

namespace isr {
namespace {

constexpr std::size_t kExportStep = 8 * kChunkSize;
const unsigned kCores = std::max(1U, std::thread::hardware_concurrency());
constexpr unsigned kAskingThreads = 24;  // they wait for the link

struct Plaintext {
  Plaintext() : bytes(kChunkSize) {}
  ~Plaintext() { wipe(bytes); }
  Plaintext(const Plaintext&) = delete;
  Plaintext& operator=(const Plaintext&) = delete;
  Bytes bytes;
};

void check_stop(const std::stop_token& stop) {
  if (stop.stop_requested()) throw Error(ErrorKind::kCancelled, "interrupted; run the command again to go on");
}

class Importer {
 public:
  Importer(Account& account, const VersionImage& disk, DiskSource& source, const std::stop_token& stop,
           ImportResult& result)
      : account_(account),
        source_(source),
        stop_(stop),
        result_(result),
        cache_(open_cache(account.paths, account.config)),
        uploader_(account.store, {.bytes_per_second = account.upload_limit(), .stop = stop}, counters_),
        builder_(disk.tree.size, account.keys.domain_secret, [this](const SealedObject& page) { put(page); }),
        known_(pages_) {
    learn_known_chunks();
  }

  TreeRoot run(const ProgressFn& progress) {
    try {
      return seal_all(progress);
    } catch (const Error&) {
      check_stop(stop_);  // whatever it was that came to its end so
      throw;
    }
  }

 private:
  TreeRoot seal_all(const ProgressFn& progress) {
    const std::uint64_t chunks = chunk_count(source_.size());
    for (std::uint64_t chunk = 0; chunk < chunks;) {
      check_stop(stop_);
      const std::uint64_t data = source_.next_data(chunk * kChunkSize) / kChunkSize;
      if (data > chunk) {
        builder_.add_zeros(std::min(data, chunks) - chunk);
        chunk = std::min(data, chunks);
        continue;
      }
      const std::uint64_t count =
          std::min<std::uint64_t>(kReferencesPerPage - chunk % kReferencesPerPage, chunks - chunk);
      seal_run(chunk, count);
      chunk += count;
      if (progress) progress("import", chunk * kChunkSize, source_.size());
    }
    source_.check_unchanged();
    const TreeRoot root = builder_.finish();
    uploader_.finish();
    cache_->sync();
    result_.objects = counters_.objects + known_chunks_;
    result_.known_bytes = known_chunks_ * kChunkSize;
    result_.uploaded_bytes = counters_.bytes;
    result_.missing_bytes = source_.missing_bytes();
    result_.unreadable_bytes = source_.unreadable_bytes();
    return root;
  }

  void seal_run(std::uint64_t first, std::uint64_t count) {
    std::vector<ChunkRef> refs(count);
    Sync<std::vector<std::size_t>> known;
    parallel_for(count, kCores, [&](std::size_t i) {
      const auto chunk = read_chunk(first + i);
      if (!chunk) return;
      const Sha256 digest = sha256(*chunk);
      if (const auto ref = known_.find(digest)) {
        refs[i] = *ref;
        known.lock()->push_back(i);
      } else {
        refs[i] = seal(*chunk, digest);
      }
    });
    // What a version refers to was in the repository; whether it still is, only the repository knows.
    const std::vector<std::size_t>& taken_over = *known.lock();
    parallel_for(taken_over.size(), kAskingThreads, [&](std::size_t k) {
      ChunkRef& ref = refs[taken_over[k]];
      if (account_.store->stat(object_name(ref.cid), stop_) == ref.length) {
        ++known_chunks_;
      } else if (const auto chunk = read_chunk(first + taken_over[k])) {
        ref = seal(*chunk, sha256(*chunk));
      }
    });
    for (const ChunkRef& ref : refs) {
      builder_.add(ref);
      if (!ref.is_zero()) result_.data_bytes += kChunkSize;
    }
  }

  /// Valid until the thread's next call; nullopt: all zero. On any thread.
  std::optional<ByteView> read_chunk(std::uint64_t chunk) {
    const std::uint64_t offset = chunk * kChunkSize;
    if (source_.next_data(offset) >= offset + kChunkSize) return std::nullopt;
    thread_local Plaintext plaintext;
    source_.read(offset, plaintext.bytes);
    if (is_zero(plaintext.bytes)) return std::nullopt;
    return plaintext.bytes;
  }

  /// On any thread.
  ChunkRef seal(ByteView chunk, const Sha256& digest) {
    SealedObject object = seal_chunk(chunk, digest, account_.keys.domain_secret);
    const ChunkRef ref = object.ref;
    put(std::move(object));  // at once: the link works while we seal on
    return ref;
  }

  /// Of the newest version of each parcel: what of its pages is in the cache.
  void learn_known_chunks() {
    for (const ParcelEntry& parcel : read_profile(account_).parcels) {
      try {
        for (const VersionImage& image : load_version(account_, parcel).version.images) known_.add(image.tree);
      } catch (const Error& error) {
        log::debug("import: {} is not compared with: {}", parcel.name, error.what());
      }
    }
  }

  /// On any thread.
  void put(SealedObject object) {
    // What is in the cache came from the repository, or went there before.
    const auto presence = cache_->contains(object.ref.cid) ? Presence::kLikely : Presence::kUnknown;
    cache_->put(object.ref.cid, object.bytes);
    uploader_.put(object.ref.cid, std::move(object.bytes), presence);
  }

  Account& account_;
  DiskSource& source_;
  std::stop_token stop_;
  ImportResult& result_;
  std::shared_ptr<PackStore> cache_;
  UploadCounters counters_;
  std::atomic<std::uint64_t> known_chunks_ = 0;
  Uploader uploader_;
  TreeBuilder builder_;
  ChunkReader pages_{cache_, {.decoded_bytes = 0, .decoded_pages = 256, .prefetch_threads = 1}};
  KnownChunks known_;
};

/// The file of an export: what fails or is interrupted takes it away again. Not so a kill or a power cut.
class NewFile {
 public:
  explicit NewFile(fs::path path)
      : path_(std::move(path)), fd_(::open(path_.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600)) {
    if (!fd_ && errno == EEXIST) throw Error(ErrorKind::kUsage, fmt::format("{} exists", path_.string()));
    if (!fd_) throw_errno(fmt::format("cannot create {}", path_.string()), errno);
  }
  ~NewFile() {
    if (!complete_) ::unlink(path_.c_str());
  }
  NewFile(const NewFile&) = delete;
  NewFile& operator=(const NewFile&) = delete;
  int fd() const { return fd_.get(); }
  const fs::path& path() const { return path_; }
  void complete() {
    sync_file(fd_.get(), path_);
    complete_ = true;
  }

 private:
  fs::path path_;
  UniqueFd fd_;
  bool complete_ = false;
};

}  // namespace

VersionImage import_disk(Account& account, const std::string& name, DiskSource& source, std::stop_token stop,
                         const ProgressFn& progress, ImportResult& result) {
  VersionImage disk = make_disk(name, source.size());
  Importer importer(account, disk, source, stop, result);
  disk.tree = importer.run(progress);
  return disk;
}

namespace {

ParcelEntry new_entry(const std::string& name) {
  check_parcel_name(name);
  ParcelEntry parcel;
  const SecretKey random = random_key();
  parcel.id = to_hex(random.view().first(16));
  parcel.name = name;
  parcel.epoch_keys[1] = random_key();
  return parcel;
}

void add_to_profile(Account& account, const ParcelEntry& parcel) {
  change_profile(account, [&](Profile& profile) {
    for (const ParcelEntry& other : profile.parcels) {
      if (other.name == parcel.name) {
        throw Error(ErrorKind::kUsage, fmt::format("a parcel called {} exists", parcel.name));
      }
    }
    profile.parcels.push_back(parcel);
  });
}

/// The head before the profile: a name without a version could be neither opened nor given to another parcel, a head
/// without a name is never looked for. Only a refusal says that no profile names it; after any other failure it stays.
void publish_first(Account& account, const ParcelEntry& parcel, const ParcelVersion& version) {
  const Bytes blob = make_head(account, parcel, {}, version);
  if (!account.chain(parcel.chain()).publish(1, blob)) {
    throw Error(ErrorKind::kBug, "a new parcel's id is taken");
  }
  try {
    add_to_profile(account, parcel);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kUsage) throw;
    try {
      account.store->remove(sequence_name(parcel.chain() + "/heads", 1));
    } catch (const Error& left) {
      log::warn("the head of a parcel that was not made stays in the repository: {}", left.what());
    }
    throw;
  }
}

/// Runs body under the parcel's lock, which is given back however it ends.
void with_lock(const Account& account, const ParcelEntry& parcel, const LockBase& base,
               const std::optional<std::string>& steal_reason, const std::function<void()>& body) {
  const std::string hold = take_lock(account, parcel, LockMode::kAttended, base, steal_reason).hold;
  try {
    body();
  } catch (...) {
    give_back_lock(account, parcel.id, hold);
    throw;
  }
  give_back_lock(account, parcel.id, hold);
}

}  // namespace

ParcelEntry create_parcel(Account& account, const std::string& name, const ParcelVersion& version) {
  ParcelEntry parcel = new_entry(name);
  publish_first(account, parcel, version);
  return parcel;
}

ParcelEntry branch_parcel(Account& account, const ParcelEntry& parcel, const LoadedVersion& from,
                          const std::string& name) {
  ParcelEntry made = new_entry(name);
  ParcelVersion version = from.version;
  version.copy_of = fmt::format("{}@{}", parcel.name, from.label());
  version.message = "branch of " + version.copy_of;
  version.added_bytes = 0;
  const TakenParcel taken(account, made);
  with_lock(account, made, base_of(parcel, from.head), {}, [&] { publish_first(account, made, version); });
  return made;
}

std::uint64_t roll_back(Account& account, const ParcelEntry& parcel, const VersionChoice& choice,
                        const std::optional<std::string>& steal_reason) {
  const TakenParcel taken(account, parcel);
  if (fs::exists(account.parcel_directory(parcel) / "session")) {
    throw Error(ErrorKind::kVm, fmt::format("{} is checked out here", parcel.name));
  }
  LoadedVersion old = load_version(account, parcel, choice);
  const StoredHead before = load_version(account, parcel).head;
  old.version.copy_of = fmt::format("{} {}", old.fork.empty() ? "version" : "fork", old.label());
  old.version.message = "rollback to " + old.label();
  old.version.added_bytes = 0;
  const HeadPlace next = account.chain(parcel.chain()).next(before);
  bool published = false;
  with_lock(account, parcel, base_of(parcel, before), steal_reason, [&] {
    const Bytes blob = make_head(account, parcel, next, old.version);
    published = account.chain(parcel.chain()).publish(next.n, blob).has_value();
  });
  if (!published) {
    throw Error(
        ErrorKind::kHistory,
        fmt::format("another host published version {} of {} first; nothing was rolled back", next.n, parcel.name),
        {fmt::format("isr log {}    shows it; the same command again puts the copy on top of it", parcel.name)});
  }
  return next.n;
}

std::uint64_t export_size(Image& image, const VersionImage& described) {
  if (described.original_size == 0) return image.size();
  Bytes padding(image.size() - described.original_size);
  image.read(described.original_size, padding);
  return is_zero(padding) ? described.original_size : image.size();
}

void export_raw(Image& image, std::uint64_t size, const fs::path& file, std::stop_token stop,
                const ProgressFn& progress) {
  NewFile out(file);
  if (::ftruncate(out.fd(), static_cast<off_t>(size)) != 0) {
    throw_errno(fmt::format("cannot write {}", file.string()), errno);
  }
  Bytes buffer(kExportStep);
  for (std::uint64_t offset = 0; offset < size; offset += buffer.size()) {
    check_stop(stop);
    const std::size_t n = std::min<std::uint64_t>(image.read(offset, buffer), size - offset);
    for (std::size_t at = 0; at < n; at += kChunkSize) {
      const ByteView part = ByteView(buffer).subspan(at, std::min(kChunkSize, n - at));
      if (!is_zero(part)) write_all_at(out.fd(), part, offset + at, file);
    }
    if (progress) progress("export", offset + n, size);
  }
  wipe(buffer);
  out.complete();
}

}  // namespace isr
