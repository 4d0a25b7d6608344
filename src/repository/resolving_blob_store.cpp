// Every call goes through attempt(), which repeats it when it failed as kTransient. A put whose answer was lost is
// "ambiguous" from then on: whatever a later attempt answers, only the bytes in the store tell who wrote the blob.
#include <fmt/format.h>

#include <cmath>
#include <condition_variable>
#include <mutex>

#include "base/crypto.h"
#include "base/log.h"
#include "repository/blob_store.h"
#include "repository/store_waits.h"

namespace isr {
namespace {

constexpr std::chrono::milliseconds kLongestRetryAfter{60'000};

double random_fraction() {
  std::array<std::uint8_t, 4> bytes{};
  random_bytes(bytes);
  std::uint32_t value = 0;
  std::memcpy(&value, bytes.data(), sizeof value);
  return static_cast<double>(value) / 4294967296.0;
}

void pause(std::chrono::milliseconds delay, const std::stop_token& stop) {
  std::mutex mutex;
  std::condition_variable_any wake;
  std::unique_lock lock(mutex);
  wake.wait_for(lock, stop, delay, [] { return false; });
}

class ResolvingStore : public BlobStore {
  // Defined first, because its result type is deduced.
  template <class Call>
  auto attempt(std::string_view name, const std::stop_token& stop, Call call) {
    const StoreWaits::Call waits(waits_.get());
    for (int failed = 0;; ++failed) {
      std::optional<std::chrono::milliseconds> retry_after;
      try {
        return call(failed);
      } catch (const Error& error) {
        if (error.kind() != ErrorKind::kTransient || failed + 1 >= options_.attempts) throw;
        if (const auto* later = dynamic_cast<const RetryLater*>(&error)) {
          retry_after = std::min(later->pause(), kLongestRetryAfter);
        }
        log::debug("{}: {}: {}; trying again", describe(), name, error.what());
      }
      pause(retry_delay(failed + 1, retry_after, options_, random_fraction()), stop);
      if (stop.stop_requested()) throw Error(ErrorKind::kCancelled, fmt::format("{} was cancelled", name));
    }
  }

 public:
  ResolvingStore(BlobStorePtr inner, const RetryOptions& options, std::shared_ptr<StoreWaits> waits)
      : BlobStore(inner->describe(), inner->writable()),
        inner_(std::move(inner)),
        options_(options),
        waits_(std::move(waits)) {}

  std::optional<Blob> get(std::string_view name, std::optional<ByteRange> range, std::stop_token stop) override {
    return attempt(name, stop, [&](int) { return inner_->get(name, range, stop); });
  }
  std::optional<std::uint64_t> stat(std::string_view name, std::stop_token stop) override {
    return attempt(name, stop, [&](int) { return inner_->stat(name, stop); });
  }
  PutResult put_new(std::string_view name, ByteView bytes, std::stop_token stop) override {
    bool ambiguous = false;
    return attempt(name, stop, [&](int) {
      // Puts the blob again even if it has arrived: the store guarantees durability only with its answer, and the first
      // answer was lost.
      const bool asked_before = std::exchange(ambiguous, true);
      const PutResult result = inner_->put_new(name, bytes, stop);
      // The blob may exist because an earlier attempt of ours arrived late.
      if (asked_before && result == PutResult::kExists) return settle(name, bytes, stop).value_or(result);
      return result;
    });
  }
  void put_hint(std::string_view name, ByteView bytes, std::stop_token stop) override {
    attempt(name, stop, [&](int) { inner_->put_hint(name, bytes, stop); });
  }
  std::optional<ListPage> list_page(std::string_view prefix, std::string_view after, std::stop_token stop) override {
    return attempt(prefix, stop, [&](int) { return inner_->list_page(prefix, after, stop); });
  }
  bool remove(std::string_view name) override {
    // When a later attempt finds nothing, an earlier one removed it.
    return attempt(name, {}, [&](int number) { return inner_->remove(name) || number > 0; });
  }

 private:
  std::optional<PutResult> settle(std::string_view name, ByteView bytes, const std::stop_token& stop) {
    const auto there = inner_->get(name, {}, stop);
    if (!there) return std::nullopt;
    return std::ranges::equal(there->bytes, bytes) ? PutResult::kCreated : PutResult::kExists;
  }

  BlobStorePtr inner_;
  RetryOptions options_;
  std::shared_ptr<StoreWaits> waits_;
};

}  // namespace

std::chrono::milliseconds retry_delay(int attempt, std::optional<std::chrono::milliseconds> retry_after,
                                      const RetryOptions& options, double random) {
  const double grown = std::ldexp(static_cast<double>(options.first_delay.count()), std::clamp(attempt, 1, 64) - 1);
  const double capped = std::min(grown, static_cast<double>(options.max_delay.count()));
  const std::chrono::milliseconds jittered(static_cast<std::int64_t>(capped * random));
  return std::max(jittered, retry_after.value_or(std::chrono::milliseconds(0)));
}

BlobStorePtr make_resolving(BlobStorePtr inner, const RetryOptions& options, std::shared_ptr<StoreWaits> waits) {
  return std::make_shared<ResolvingStore>(std::move(inner), options, std::move(waits));
}

}  // namespace isr
