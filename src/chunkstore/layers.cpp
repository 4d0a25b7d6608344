// Layers around sources. Each layer does one thing and does not depend on the others; stack.cpp puts them in order.
#include "chunkstore/layers.h"

#include <fmt/format.h>

#include <unordered_map>

#include "base/error.h"
#include "base/log.h"
#include "base/sync.h"

namespace isr {
namespace {

class RepositorySource : public ObjectSource {
 public:
  explicit RepositorySource(BlobStorePtr store) : store_(std::move(store)) {}

  std::optional<Bytes> fetch(const Cid& cid, Priority /*priority*/, std::stop_token stop) override {
    auto blob = get(object_name(cid), std::move(stop));
    if (!blob) return std::nullopt;
    if (blob->bytes.empty() || blob->bytes.size() > kMaxObjectSize) {
      throw Error(ErrorKind::kCorrupt,
                  fmt::format("object {} from {}: {} bytes", short_hex(cid.view()), describe(), blob->bytes.size()));
    }
    return std::move(blob->bytes);
  }
  std::string describe() const override { return store_->describe(); }

 private:
  /// An absent repository (perhaps its disk is gone) may come back, so that counts as out of reach, not as an answer.
  std::optional<Blob> get(const std::string& name, std::stop_token stop) {
    try {
      return store_->get(name, {}, std::move(stop));
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::kNotFound) throw;
      throw Error(ErrorKind::kOffline, error.what(), error.hints());
    }
  }

  BlobStorePtr store_;
};

/// Orders failures; the most severe is reported. First comes a tier that has the object but cannot read it, because the
/// other tiers may never get it, then failures that may pass by themselves, then those that the user can change.
int severity(ErrorKind kind) noexcept {
  switch (kind) {
    case ErrorKind::kIo:
      return 5;
    case ErrorKind::kTransient:
      return 4;
    case ErrorKind::kOffline:
      return 3;
    case ErrorKind::kDenied:
      return 2;
    default:
      return 1;
  }
}

bool ends_the_search(ErrorKind kind) noexcept { return kind == ErrorKind::kCancelled || kind == ErrorKind::kBug; }

class TieredSource : public ObjectSource {
 public:
  TieredSource(std::vector<Tier> tiers, SourceStats& stats) {
    for (Tier& tier : tiers) {
      TierStats& counters = stats.tier(tier.name);
      tiers_.push_back({std::move(tier), counters});
    }
  }

  std::optional<Bytes> fetch(const Cid& cid, Priority priority, std::stop_token stop) override {
    std::optional<Error> worst;
    for (std::size_t i = 0; i < tiers_.size(); ++i) {
      try {
        if (auto object = ask(tiers_[i], cid, priority, stop)) {
          keep(i, cid, *object);
          return object;
        }
      } catch (const Error& error) {
        if (ends_the_search(error.kind())) throw;
        if (error.kind() == ErrorKind::kCorrupt && tiers_[i].tier.trust != Trust::kAuthority) {
          log::warn("{}; asking the next source", error.what());
        } else if (!worst || severity(error.kind()) > severity(worst->kind())) {
          worst = error;
        }
      }
    }
    if (worst) throw *worst;
    return std::nullopt;
  }
  std::string describe() const override {
    std::string text;
    for (const Counted& counted : tiers_) text += (text.empty() ? "" : ", ") + counted.tier.source->describe();
    return text;
  }
  void drop(const Cid& cid) override {
    for (const Counted& counted : tiers_) counted.tier.source->drop(cid);
  }

 private:
  struct Counted {
    Tier tier;
    TierStats& stats;
  };

  static std::optional<Bytes> ask(const Counted& counted, const Cid& cid, Priority priority, std::stop_token stop) {
    auto object = counted.tier.source->fetch(cid, priority, std::move(stop));
    if (!object) return object;
    if (counted.tier.trust != Trust::kOwn && cid_of(*object) != cid) {
      ++counted.stats.corrupt_refused;
      throw Error(ErrorKind::kCorrupt,
                  fmt::format("object {} from {} is damaged", short_hex(cid.view()), counted.tier.source->describe()));
    }
    ++counted.stats.hits;
    counted.stats.bytes += object->size();
    if (priority <= Priority::kImpatient) ++counted.stats.guest_hits;
    return object;
  }

  void keep(std::size_t found_in, const Cid& cid, const Bytes& object) const {
    for (std::size_t i = 0; i < found_in; ++i) {
      if (tiers_[i].tier.keeps) tiers_[i].tier.keeps->put(cid, object);
    }
  }

  std::vector<Counted> tiers_;
};

/// One fetch that several callers wait for.
///   running                 a leader, one of the callers, is inside inner_->fetch()
///   !running, !done         the leader was cancelled; the next waiter to wake leads
///   done                    object or failure is set and never changes again
struct Flight {
  Priority priority = Priority::kGuest;  // of the leader
  bool running = true;
  bool done = false;
  int waiters = 0;  // besides the leader
  std::shared_ptr<const std::optional<Bytes>> object;
  std::optional<Error> failure;
};

class CoalescingSource : public ObjectSource {
 public:
  explicit CoalescingSource(SourcePtr inner) : inner_(std::move(inner)) {}

  std::optional<Bytes> fetch(const Cid& cid, Priority priority, std::stop_token stop) override {
    auto table = flights_.lock();
    auto& entry = table->try_emplace(cid).first->second;
    if (!entry) {
      entry = std::make_shared<Flight>();
      entry->priority = priority;
      const auto flight = entry;
      table.unlock();
      return lead(cid, priority, std::move(stop), flight);
    }
    const auto flight = entry;
    ++flight->waiters;
    const bool ready = changed_.wait(table.mutex_lock(), stop, [&] { return flight->done || !flight->running; });
    --flight->waiters;
    if (!ready) throw Error(ErrorKind::kCancelled, fmt::format("object {}: cancelled", short_hex(cid.view())));
    if (!flight->done) {
      flight->running = true;
      flight->priority = priority;
      table.unlock();
      return lead(cid, priority, std::move(stop), flight);
    }
    table.unlock();
    // The leader's fetch may have failed where a fetch of higher priority would have waited, so such a caller tries
    // itself.
    if (flight->failure && flight->priority > priority) return fetch(cid, priority, std::move(stop));
    // Each thread throws a copy of its own, because threads should not share an exception object.
    if (flight->failure) throw Error(flight->failure->kind(), flight->failure->what(), flight->failure->hints());
    return *flight->object;
  }
  std::string describe() const override { return inner_->describe(); }
  void drop(const Cid& cid) override { inner_->drop(cid); }

 private:
  using Table = std::unordered_map<Cid, std::shared_ptr<Flight>, FixedBytesHash>;

  std::optional<Bytes> lead(const Cid& cid, Priority priority, std::stop_token stop,
                            const std::shared_ptr<Flight>& flight) {
    try {
      return land(cid, flight, inner_->fetch(cid, priority, stop));
    } catch (const Error& error) {
      fail(cid, flight, error, stop.stop_requested());
      throw;
    } catch (const std::exception& error) {
      fail(cid, flight, Error(ErrorKind::kFailed, error.what()), false);
      throw;
    }
  }

  std::optional<Bytes> land(const Cid& cid, const std::shared_ptr<Flight>& flight, std::optional<Bytes> object) {
    auto table = flights_.lock();
    if (flight->waiters == 0) {  // no copy in the usual case
      table->erase(cid);
      return object;
    }
    flight->object = std::make_shared<const std::optional<Bytes>>(std::move(object));
    finish(*table, cid, *flight);
    table.unlock();
    return *flight->object;
  }

  void fail(const Cid& cid, const std::shared_ptr<Flight>& flight, const Error& error, bool own_cancellation) {
    auto table = flights_.lock();
    if (error.kind() == ErrorKind::kCancelled && own_cancellation && flight->waiters > 0) {
      flight->running = false;
      changed_.notify_all();
      return;
    }
    flight->failure = Error(error.kind(), error.what(), error.hints());
    finish(*table, cid, *flight);
  }

  void finish(Table& table, const Cid& cid, Flight& flight) {
    flight.running = false;
    flight.done = true;
    table.erase(cid);
    changed_.notify_all();
  }

  SourcePtr inner_;
  Sync<Table> flights_;  // guards the flights, too
  std::condition_variable_any changed_;
};

}  // namespace

SourcePtr make_repository_source(BlobStorePtr store) { return std::make_shared<RepositorySource>(std::move(store)); }
SourcePtr make_tiered(std::vector<Tier> tiers, SourceStats& stats) {
  return std::make_shared<TieredSource>(std::move(tiers), stats);
}
SourcePtr make_coalescing(SourcePtr inner) { return std::make_shared<CoalescingSource>(std::move(inner)); }

}  // namespace isr
