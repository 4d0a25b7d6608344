// The order of the layers, outermost first:
//   coalescing   one fetch per object, also while it waits for the network
// reaching     waits or fails while no source can be reached
// tiered       the tiers in their order, each trusted as its Trust says
#include "chunkstore/stack.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "base/log.h"
#include "base/sleep.h"

namespace isr {
namespace {

/// Reports each fetch from the repository to the meter.
class MeteredSource : public ObjectSource {
 public:
  MeteredSource(SourcePtr inner, LinkMeter& meter) : inner_(std::move(inner)), meter_(meter) {}

  std::optional<Bytes> fetch(const Cid& cid, Priority priority, std::stop_token stop) override {
    struct Measured {
      explicit Measured(LinkMeter& of) : meter(of), started(of.begin(std::chrono::steady_clock::now())) {}
      ~Measured() { meter.end(started, bytes, std::chrono::steady_clock::now()); }
      Measured(const Measured&) = delete;
      Measured& operator=(const Measured&) = delete;
      LinkMeter& meter;
      LinkMeter::Started started;
      std::uint64_t bytes = 0;
    } measured(meter_);
    auto object = inner_->fetch(cid, priority, std::move(stop));
    if (object) measured.bytes = object->size();
    return object;
  }
  std::string describe() const override { return inner_->describe(); }
  void drop(const Cid& cid) override { inner_->drop(cid); }

 private:
  SourcePtr inner_;
  LinkMeter& meter_;
};

/// Takes the place of the repository while there is none.
class OfflineSource : public ObjectSource {
 public:
  std::optional<Bytes> fetch(const Cid& cid, Priority /*priority*/, std::stop_token /*stop*/) override {
    throw Error(ErrorKind::kOffline, fmt::format("offline, and object {} is not here", short_hex(cid.view())));
  }
  std::string describe() const override { return "no repository"; }
};

class ReachingSource : public ObjectSource {
 public:
  ReachingSource(SourcePtr inner, const StackOptions& options, SourceStats& stats)
      : inner_(std::move(inner)), options_(options), stats_(stats) {}

  std::optional<Bytes> fetch(const Cid& cid, Priority priority, std::stop_token stop) override {
    Waiting waiting(stats_);
    for (auto delay = options_.first_wait;; delay = std::min(delay * 2, options_.max_wait)) {
      try {
        return inner_->fetch(cid, priority, stop);
      } catch (const Error& error) {
        const bool unreachable = error.kind() == ErrorKind::kTransient || error.kind() == ErrorKind::kOffline;
        if (!unreachable) throw;
        if (options_.unreachable == Unreachable::kFail || !is_awaited(priority))
          throw Error(ErrorKind::kOffline, offline_text(error, cid), error.hints());
        if (waiting.begin()) {
          *stats_.waiting_for.lock() = error.what();
          log::warn("{}; waiting for it", error.what());
        }
      }
      pause(delay, cid, stop);
      stats_.retries++;
    }
  }
  std::string describe() const override { return inner_->describe(); }
  void drop(const Cid& cid) override { inner_->drop(cid); }

 private:
  /// Counts one fetch for as long as it waits.
  class Waiting {
   public:
    explicit Waiting(SourceStats& stats) : stats_(stats) {}
    ~Waiting() {
      if (begun_) stats_.waiting--;
    }
    Waiting(const Waiting&) = delete;
    Waiting& operator=(const Waiting&) = delete;
    bool begin() {  ///< returns true the first time
      if (begun_) return false;
      stats_.waiting++;
      return begun_ = true;
    }

   private:
    SourceStats& stats_;
    bool begun_ = false;
  };

  static std::string offline_text(const Error& error, const Cid& cid) {
    if (error.kind() == ErrorKind::kOffline) return error.what();
    return fmt::format("{}, and object {} is not here", error.what(), short_hex(cid.view()));
  }

  static void pause(std::chrono::milliseconds delay, const Cid& cid, const std::stop_token& stop) {
    sleep_unless_stopped(delay, stop);
    if (stop.stop_requested()) {
      throw Error(ErrorKind::kCancelled, fmt::format("object {}: cancelled", short_hex(cid.view())));
    }
  }

  SourcePtr inner_;
  StackOptions options_;
  SourceStats& stats_;
};

}  // namespace

Tier settled_tier(std::shared_ptr<PackStore> settled) { return {"settled", std::move(settled), Trust::kOwn}; }

Tier cache_tier(std::shared_ptr<PackStore> cache) { return {"cache", cache, Trust::kOwn, cache}; }

Tier repository_tier(BlobStorePtr store, LinkMeter& link) {
  auto source = make_repository_source(std::move(store));
  return {"repository", std::make_shared<MeteredSource>(std::move(source), link), Trust::kAuthority};
}

SourcePtr open_stack(std::vector<Tier> tiers, SourceStats& stats, const StackOptions& options) {
  StackOptions reaching = options;
  if (tiers.empty() || tiers.back().trust != Trust::kAuthority) {
    tiers.push_back({"repository", std::make_shared<OfflineSource>(), Trust::kAuthority});
    reaching.unreachable = Unreachable::kFail;  // waiting would not end
  }
  return make_coalescing(std::make_shared<ReachingSource>(make_tiered(std::move(tiers), stats), reaching, stats));
}

}  // namespace isr
