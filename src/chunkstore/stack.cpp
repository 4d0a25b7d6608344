// The order of the layers, outermost first:
//   coalescing   one fetch per object, also while it waits for the network
//   reaching     what happens while nothing can be reached: wait, or fail
//   tiered       settled, then cache over repository
//   verifying    around the repository only: what lies here is proved by its tag
#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "base/log.h"
#include "base/sleep.h"
#include "chunkstore/layers.h"

namespace isr {
namespace {

class CountingSource : public ObjectSource {
 public:
  CountingSource(SourcePtr inner, std::atomic<std::uint64_t>& hits) : inner_(std::move(inner)), hits_(hits) {}

  std::optional<Bytes> fetch(const Cid& cid, Priority priority, std::stop_token stop) override {
    auto object = inner_->fetch(cid, priority, std::move(stop));
    if (object) hits_++;
    return object;
  }
  std::string describe() const override { return inner_->describe(); }
  void drop(const Cid& cid) override { inner_->drop(cid); }

 private:
  SourcePtr inner_;
  std::atomic<std::uint64_t>& hits_;
};

/// Counts what came from the repository.
class CountingRepository : public ObjectSource {
 public:
  CountingRepository(SourcePtr inner, SourceStats& stats) : inner_(std::move(inner)), stats_(stats) {}

  std::optional<Bytes> fetch(const Cid& cid, Priority priority, std::stop_token stop) override {
    auto object = inner_->fetch(cid, priority, std::move(stop));
    if (object) {
      stats_.repository_fetches++;
      stats_.repository_bytes += object->size();
      if (priority <= Priority::kImpatient) stats_.guest_fetches++;
    }
    return object;
  }
  std::string describe() const override { return inner_->describe(); }
  void drop(const Cid& cid) override { inner_->drop(cid); }

 private:
  SourcePtr inner_;
  SourceStats& stats_;
};

/// Tells the meter of each fetch from the repository.
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

/// Stands where the repository would while there is none.
class OfflineSource : public ObjectSource {
 public:
  std::optional<Bytes> fetch(const Cid& cid, Priority /*priority*/, std::stop_token /*stop*/) override {
    throw Error(ErrorKind::kOffline, fmt::format("offline, and object {} is not here", short_hex(cid.view())));
  }
  std::string describe() const override { return "no repository"; }
};

class ReachingSource : public ObjectSource {
 public:
  ReachingSource(SourcePtr inner, const StackParts& parts, SourceStats& stats)
      : inner_(std::move(inner)),
        wait_(parts.unreachable == Unreachable::kWait && parts.repository != nullptr),
        first_delay_(parts.first_wait),
        max_delay_(parts.max_wait),
        stats_(stats) {}

  std::optional<Bytes> fetch(const Cid& cid, Priority priority, std::stop_token stop) override {
    Waiting waiting(stats_);
    for (auto delay = first_delay_;; delay = std::min(delay * 2, max_delay_)) {
      try {
        return inner_->fetch(cid, priority, stop);
      } catch (const Error& error) {
        const bool unreachable = error.kind() == ErrorKind::kTransient || error.kind() == ErrorKind::kOffline;
        if (!unreachable) throw;
        if (!wait_ || !is_awaited(priority)) throw Error(ErrorKind::kOffline, offline_text(error, cid), error.hints());
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
  /// Counts one waiting fetch while it waits.
  class Waiting {
   public:
    explicit Waiting(SourceStats& stats) : stats_(stats) {}
    ~Waiting() {
      if (begun_) stats_.waiting--;
    }
    Waiting(const Waiting&) = delete;
    Waiting& operator=(const Waiting&) = delete;
    bool begin() {  ///< true the first time
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
  bool wait_;
  std::chrono::milliseconds first_delay_;
  std::chrono::milliseconds max_delay_;
  SourceStats& stats_;
};

}  // namespace

SourcePtr open_stack(const StackParts& parts, SourceStats& stats) {
  SourcePtr origin = std::make_shared<OfflineSource>();
  if (parts.repository) {
    auto metered = std::make_shared<MeteredSource>(make_repository_source(parts.repository), stats.link);
    origin = std::make_shared<CountingRepository>(make_verifying(std::move(metered), stats), stats);
  }
  std::vector<SourcePtr> tiers;
  if (parts.settled) {
    tiers.push_back(std::make_shared<CountingSource>(parts.settled, stats.settled_hits));
  }
  tiers.push_back(parts.cache ? make_caching(parts.cache, std::move(origin), stats) : std::move(origin));
  return make_coalescing(std::make_shared<ReachingSource>(make_tiered(std::move(tiers)), parts, stats));
}

}  // namespace isr
