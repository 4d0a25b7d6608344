#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/error.h"
#include "repository/list_page.h"

namespace isr {

/// The largest size of any blob, in bytes.
inline constexpr std::size_t kMaxBlobSize = 1U << 20U;

class StoreWaits;

struct ByteRange {
  std::uint64_t offset = 0;
  std::uint64_t length = 0;  ///< the range is cut at the end of the blob
};

struct Blob {
  Bytes bytes;
  /// Time since the blob was stored, by the store's own clock (HTTP: Date minus Last-Modified). Absent when the store
  /// does not say.
  std::optional<std::chrono::seconds> age;
};

enum class PutResult {
  kCreated,  ///< durable in the store before this returns
  kExists,   ///< a blob of this name exists; its bytes may differ
};

/// A kTransient failure for which the store named a pause (Retry-After). make_resolving() waits at least that long, but
/// at most a minute.
class RetryLater : public Error {
 public:
  RetryLater(const std::string& what, std::chrono::milliseconds pause)
      : Error(ErrorKind::kTransient, what), pause_(pause) {}
  std::chrono::milliseconds pause() const noexcept { return pause_; }

 private:
  std::chrono::milliseconds pause_;
};

/// A place that keeps immutable named blobs: a directory, isr serve, a static web server. Nothing is ever overwritten.
///
/// Names:   'isr-repository', or two or more components of 1..200 of [A-Za-z0-9._-] joined by '/', none beginning with
///          '.', 512 bytes at most; Error{kUsage} otherwise.
/// Absence: std::nullopt, not an error.
/// Errors:  kTransient when a retry may succeed, kDenied, kIo, kCorrupt (a blob larger than kMaxBlobSize), kUnsupported
///          for a write to a store that is not writable(), kCancelled when stop was requested.
/// Threads: every call may run on many threads at once and may block, each with a deadline of its own.
class BlobStore {
 public:
  virtual ~BlobStore() = default;

  virtual std::optional<Blob> get(std::string_view name, std::optional<ByteRange> range = {},
                                  std::stop_token stop = {}) = 0;
  /// The size in bytes, or nullopt when absent. An object found by this call is durable before any later put of a blob
  /// that is not an object.
  virtual std::optional<std::uint64_t> stat(std::string_view name, std::stop_token stop = {}) = 0;
  /// Stores bytes under a new name. Of many racers exactly one is told kCreated. make_resolving() finds out the result
  /// when the answer was lost. After kCancelled the blob may be there or not.
  virtual PutResult put_new(std::string_view name, ByteView bytes, std::stop_token stop = {}) = 0;
  /// Replaces a hint (a name that ends in "/latest"). Readers never trust hints.
  virtual void put_hint(std::string_view name, ByteView bytes, std::stop_token stop = {}) = 0;
  /// The names that begin with prefix (a name and '/') and come after `after`, in ascending byte order, as many as fit
  /// on a page. nullopt when the store cannot list (a static web server).
  virtual std::optional<ListPage> list_page(std::string_view prefix, std::string_view after = {},
                                            std::stop_token stop = {}) = 0;
  /// For administrators only. False when there was no such blob.
  virtual bool remove(std::string_view name) = 0;

  /// Calls `take` with each page of a list. False when the store cannot list. Error{kUnsupported}, after `take` was
  /// called for the pages before, when the list is longer than the limits in list_page.h allow.
  bool list_pages(std::string_view prefix, const std::function<void(ListPage)>& take, std::stop_token stop = {});
  /// All names of list_pages(); nullopt when the store cannot list.
  std::optional<std::vector<std::string>> list(std::string_view prefix, std::stop_token stop = {});

  bool writable() const noexcept { return writable_; }
  /// For messages and logs: a path or URL without credentials.
  const std::string& describe() const noexcept { return description_; }

 protected:
  BlobStore(std::string description, bool writable) : description_(std::move(description)), writable_(writable) {}

 private:
  std::string description_;
  bool writable_;
};
using BlobStorePtr = std::shared_ptr<BlobStore>;

/// Throws Error{kUsage} unless name has the form that BlobStore documents.
void check_blob_name(std::string_view name);
/// "objects/ab/abcdef…" for a cid; the inverse gives nullopt for other names.
std::string object_name(const Cid& cid);
std::optional<Cid> cid_from_object_name(std::string_view name);

struct StoreOptions {
  std::chrono::milliseconds connect_timeout{10'000};
  /// Time without a single byte, or until the end of an answer that is not an object, after which the call fails as
  /// kTransient.
  std::chrono::milliseconds stall_timeout{30'000};
  /// How long a first contact that fails as kTransient is repeated, because the server may be restarting.
  std::chrono::milliseconds open_patience{3'000};
  int attempts = 5;  ///< of a call that fails as kTransient
  /// This host already knows the repository at this address. A redirect, a refusal (401, 403, 407) or a web page then
  /// comes from a network that wants a login first, not from the repository: kTransient.
  bool is_known = false;
  std::shared_ptr<StoreWaits> waits{};  ///< counts calls without an answer; null: calls are not counted
};

/// A directory, which must exist: every call on an absent directory is Error{kNotFound}, so that an unmounted disk is
/// not taken for an empty store. Users who may read the directory may read the files made inside it.
BlobStorePtr make_directory_store(const std::string& path);
/// http:// or https://. Asks the server once, here, whether it is isr serve ("Isr-Repository: writable" in its
/// answers); the store is writable only then. Error{kTransient} when the server cannot be reached, {kCancelled} on
/// stop.
BlobStorePtr open_http_store(const std::string& url, const StoreOptions& options = {}, std::stop_token stop = {});
/// Retries every call that fails as kTransient, with jittered back-off. After a put_new() whose answer was lost it gets
/// the name: same bytes = kCreated, other bytes = kExists, absent = put again.
struct RetryOptions {
  int attempts = 5;
  std::chrono::milliseconds first_delay{100};
  std::chrono::milliseconds max_delay{5'000};
};
BlobStorePtr make_resolving(BlobStorePtr inner, const RetryOptions& options = {},
                            std::shared_ptr<StoreWaits> waits = nullptr);
/// After stop is requested, every call except remove() ends with Error{kCancelled}.
BlobStorePtr make_stoppable(BlobStorePtr inner, std::stop_token stop);
/// The pause before attempt `attempt` (1 = first retry): exponential, capped, with "full jitter" from `random` in
/// [0,1), and never below retry_after.
std::chrono::milliseconds retry_delay(int attempt, std::optional<std::chrono::milliseconds> retry_after,
                                      const RetryOptions& options, double random);

/// Opens by URL or path: "/dir", "dir", "file:///dir", "http://…", "https://…". all_stores.h lists the kinds. Wraps the
/// store in make_resolving() with the given options. Error{kUsage} for anything else, for user information in a URL
/// (never repeating it) and for a bad port, {kCancelled} on stop.
BlobStorePtr open_store(const std::string& url, const StoreOptions& options = {}, std::stop_token stop = {});
/// A store that cannot be reached now but perhaps later. `open` runs at the first call, with that call's stop, and
/// again after a failure. Until it succeeds every call throws the error of `open`.
BlobStorePtr make_lazy_store(const std::string& url, std::function<BlobStorePtr(const std::stop_token& stop)> open);
/// The canonical form that the configuration keeps: an absolute path, or a URL without trailing slashes. Same errors as
/// open_store(). Uses no disk or network.
std::string canonical_store_url(const std::string& url);

}  // namespace isr
