#pragma once

#include <atomic>
#include <condition_variable>
#include <mutex>

#include "support/fault_store.h"

namespace isr::test {

/// A wrapper around a store that never answers a call for a name that contains `part`. As with a real store,
/// a call has a deadline.
class SilentStore : public FaultStore {
 public:
  SilentStore(BlobStorePtr inner, std::string part) : FaultStore(std::move(inner)), part_(std::move(part)) {}

  bool is_asked() const { return is_asked_; }
  bool has_timed_out() const { return has_timed_out_; }

  std::optional<Blob> get(std::string_view name, std::optional<ByteRange> range, std::stop_token stop) override {
    swallow(name, stop);
    return FaultStore::get(name, range, stop);
  }
  std::optional<std::uint64_t> stat(std::string_view name, std::stop_token stop) override {
    swallow(name, stop);
    return FaultStore::stat(name, stop);
  }
  PutResult put_new(std::string_view name, ByteView bytes, std::stop_token stop) override {
    swallow(name, stop);
    return FaultStore::put_new(name, bytes, stop);
  }
  std::optional<ListPage> list_page(std::string_view prefix, std::string_view after, std::stop_token stop) override {
    swallow(prefix, stop);
    return FaultStore::list_page(prefix, after, stop);
  }

 private:
  void swallow(std::string_view name, const std::stop_token& stop) {
    if (name.find(part_) == std::string_view::npos) return;
    is_asked_ = true;
    std::mutex mutex;
    std::condition_variable_any wake;
    std::unique_lock lock(mutex);
    wake.wait_for(lock, stop, std::chrono::seconds(30), [] { return false; });
    if (stop.stop_requested()) throw Error(ErrorKind::kCancelled, "cancelled");
    has_timed_out_ = true;
    throw Error(ErrorKind::kTransient, "no answer");
  }

  std::string part_;
  std::atomic<bool> is_asked_{false}, has_timed_out_{false};
};

}  // namespace isr::test
