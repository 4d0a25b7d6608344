#pragma once

#include <atomic>
#include <set>

#include "base/sync.h"
#include "chunkstore/object_source.h"

namespace isr::test {

/// A source that remembers the names of the objects it returned, as a cache would keep the objects.
class KeepingSource : public ObjectSource {
 public:
  explicit KeepingSource(SourcePtr inner) : inner_(std::move(inner)) {}
  std::optional<Bytes> fetch(const Cid& cid, Priority priority, std::stop_token stop) override {
    auto object = inner_->fetch(cid, priority, std::move(stop));
    if (object && has_room) kept.lock()->insert(cid);
    return object;
  }
  std::string describe() const override { return "keeping"; }
  bool has(const Cid& cid) const { return kept.lock()->contains(cid); }

  std::atomic<bool> has_room{true};
  Sync<std::set<Cid>> kept;

 private:
  SourcePtr inner_;
};

}  // namespace isr::test
