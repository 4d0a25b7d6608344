#pragma once

#include <deque>
#include <map>

#include "support/fault_store.h"

namespace isr::test {

/// A wrapper around a store that returns false answers: get() of a name first returns the answers scripted
/// for it, then those of the store.
class LyingStore : public FaultStore {
 public:
  explicit LyingStore(const BlobStorePtr& inner) : FaultStore(inner) {}

  void lie(const std::string& name, std::deque<Bytes> answers) { (*answers_.lock())[name] = std::move(answers); }

  std::optional<Blob> get(std::string_view name, std::optional<ByteRange> range = {},
                          std::stop_token stop = {}) override {
    {
      auto answers = answers_.lock();
      const auto found = answers->find(std::string(name));
      if (found != answers->end() && !found->second.empty()) {
        Blob blob{.bytes = std::move(found->second.front()), .age = {}};
        found->second.pop_front();
        return blob;
      }
    }
    return FaultStore::get(name, range, stop);
  }

 private:
  Sync<std::map<std::string, std::deque<Bytes>>> answers_;
};

}  // namespace isr::test
