// An import works in runs of one tree page (256 chunks, 32 MiB): it reads and seals on all cores, hands objects to the
// uploader, then adds the references to the tree. A chunk that one of the user's versions already has is hashed but not
// sealed: its reference is reused when the repository still has the object.

#include "transfer/import.h"

#include <fmt/format.h>

#include "account/version_reader.h"
#include "base/log.h"
#include "base/thread_pool.h"
#include "image/known_chunks.h"
#include "image/tree_builder.h"
#include "image/uploader.h"

namespace isr {
namespace {

constexpr std::size_t kExportStep = 8 * kChunkSize;
const unsigned kCores = std::max(1U, std::thread::hardware_concurrency());
constexpr unsigned kAskingThreads = 24;  // they mostly wait for the network

struct Plaintext {
  Plaintext() : bytes(kChunkSize) {}
  ~Plaintext() { wipe(bytes); }
  Plaintext(const Plaintext&) = delete;
  Plaintext& operator=(const Plaintext&) = delete;
  Bytes bytes;
};

void check_stop(const std::stop_token& stop) {
  if (stop.stop_requested()) throw Error(ErrorKind::kCancelled, "interrupted; run the command again to continue");
}

class Importer {
 public:
  Importer(Account& account, const VersionImage& disk, DiskSource& source, const std::stop_token& stop,
           ImportResult& result)
      : account_(account),
        source_(source),
        stop_(stop),
        result_(result),
        cache_(open_cache(account.host.paths, account.host.config)),
        uploader_(account.remote.store, {.bytes_per_second = account.host.upload_limit(), .stop = stop}, counters_),
        builder_(disk.content.size(), account.identity.domain_secret, [this](const SealedObject& page) { put(page); }),
        known_(pages_) {
    learn_known_chunks();
  }

  TreeRoot run(const ProgressFn& progress) {
    try {
      return seal_all(progress);
    } catch (const Error&) {
      check_stop(stop_);  // a stop may be the cause of the failure
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
    // An object that a version refers to was in the repository, but only the repository knows whether it still is.
    const std::vector<std::size_t>& taken_over = *known.lock();
    parallel_for(taken_over.size(), kAskingThreads, [&](std::size_t k) {
      ChunkRef& ref = refs[taken_over[k]];
      if (account_.remote.store->stat(object_name(ref.cid), stop_) == ref.length) {
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

  /// Reads a chunk, on any thread. Valid until the thread's next call; nullopt when all zero.
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
    SealedObject object = seal_chunk(chunk, digest, account_.identity.domain_secret);
    const ChunkRef ref = object.ref;
    put(std::move(object));  // at once, so that uploading and sealing overlap
    return ref;
  }

  /// Learns chunks from pages of the newest version of each parcel, as far as the pages are in the cache.
  void learn_known_chunks() {
    for (const ParcelEntry& parcel : read_profile(account_).parcels) {
      try {
        for (const VersionImage& image : load_version(account_, parcel).version.images) known_.add(image.content.tree);
      } catch (const Error& error) {
        log::debug("import: chunks of {} cannot be reused: {}", parcel.name, error.what());
      }
    }
  }

  /// On any thread.
  void put(SealedObject object) {
    // An object in the cache came from the repository, or was sent there.
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

}  // namespace

VersionImage import_disk(Account& account, const std::string& name, DiskSource& source, std::stop_token stop,
                         const ProgressFn& progress, ImportResult& result) {
  VersionImage disk = make_disk(name, source.size());
  Importer importer(account, disk, source, stop, result);
  disk.content.tree = importer.run(progress);
  return disk;
}

}  // namespace isr
