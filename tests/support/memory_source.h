#pragma once

#include <condition_variable>
#include <map>
#include <vector>

#include "base/error.h"
#include "base/sync.h"
#include "chunkstore/object_source.h"

namespace isr::test {

/// Objects in memory, under any names that the test gives them. Counts the
/// requests. All functions may be called from many threads.
class MemorySource : public ObjectSource {
 public:
  explicit MemorySource(std::string name) : name_(std::move(name)) {}

  void store(const Cid& cid, Bytes object) { state_.lock()->objects[cid] = std::move(object); }
  std::size_t fetches() const { return state_.lock()->fetches; }
  std::vector<Cid> dropped() const { return state_.lock()->dropped; }
  /// From now on fetch() waits until release(), or until its stop is requested.
  void hold();
  void release();
  /// Returns once `count` fetches have begun.
  void wait_for_fetches(std::size_t count);

  std::optional<Bytes> fetch(const Cid& cid, Priority priority, std::stop_token stop) override;
  std::string describe() const override { return name_; }
  void drop(const Cid& cid) override;

 private:
  struct State {
    std::map<Cid, Bytes> objects;
    std::size_t fetches = 0;
    std::vector<Cid> dropped;
    bool held = false;
  };
  std::string name_;
  Sync<State> state_;
  std::condition_variable_any changed_;
};

/// Throws `kind` for the first `times` fetches, then asks the inner source.
class FaultSource : public ObjectSource {
 public:
  FaultSource(SourcePtr inner, ErrorKind kind, std::size_t times)
      : inner_(std::move(inner)), kind_(kind), left_(times) {}
  std::optional<Bytes> fetch(const Cid& cid, Priority priority, std::stop_token stop) override;
  std::string describe() const override { return inner_->describe(); }
  void drop(const Cid& cid) override { inner_->drop(cid); }

 private:
  SourcePtr inner_;
  ErrorKind kind_;
  Sync<std::size_t> left_;
};

/// Two tiers: a source whose objects are verified, and behind it the authority.
SourcePtr verified_tiers(SourcePtr lookaside, SourcePtr repository);

}  // namespace isr::test
