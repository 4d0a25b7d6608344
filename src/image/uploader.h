#pragma once

#include <chrono>
#include <condition_variable>

#include "base/thread_pool.h"
#include "chunkstore/object.h"
#include "repository/blob_store.h"

namespace isr {

/// objects: put or already there; bytes: of the new ones.
struct UploadCounters {
  std::atomic<std::uint64_t> objects{0}, bytes{0};
};

struct UploadOptions {
  unsigned threads = 12;
  std::uint64_t bytes_per_second = 0;  ///< for all threads together; 0: no limit
  std::stop_token stop{};              ///< Error{kCancelled}; objects under way are given up
};

/// How likely a store has an object already. If it is likely, asking first may save sending it.
enum class Presence { kUnknown, kLikely };

/// Puts objects into a repository, several at a time. Idempotent: an object that is already there is fine, because its
/// name is its hash. Error{kCorrupt} when it has another length.
class Uploader {
 public:
  Uploader(BlobStorePtr store, const UploadOptions& options, UploadCounters& counters);
  ~Uploader();  ///< drops objects that have not begun

  /// Waits while too many are under way. Throws the first failure of any earlier put.
  void put(const Cid& cid, Bytes object, Presence presence = Presence::kUnknown);
  /// As put(), but an upload thread calls `load` if the object must be sent; it must return `length` bytes.
  void put_later(const Cid& cid, std::size_t length, std::function<Bytes()> load,
                 Presence presence = Presence::kUnknown);
  /// Returns when everything is durable in the store, or throws the first failure.
  void finish();

 private:
  using Clock = std::chrono::steady_clock;
  struct State {
    std::size_t under_way = 0;
    std::exception_ptr failure;
    bool stopping = false;
    Clock::time_point next{};  // when the limit allows the next object
  };
  struct Job {
    Cid cid;
    std::size_t length = 0;
    std::function<Bytes()> load;
    Presence presence = Presence::kUnknown;
  };
  struct Interrupt {
    Uploader& uploader;
    void operator()() const noexcept { uploader.interrupt(); }
  };
  void interrupt() noexcept;
  void run(const Job& job);
  void send(const Job& job);
  void await_turn(std::size_t length);

  BlobStorePtr store_;
  UploadCounters& counters_;
  UploadOptions options_;
  std::size_t most_under_way_;
  Sync<State> state_;
  std::condition_variable changed_;
  ThreadPool pool_;  // its threads use the other members
  std::stop_callback<Interrupt> on_stop_;
};

}  // namespace isr
